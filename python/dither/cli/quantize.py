"""`dither quantize CKPT --to FORMAT`: quantize a checkpoint, or turn a quantized one back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dither.checkpoints import dequantize, quantize
from dither.checkpoints.summary import Row, Summary
from dither.cli.bars import make_bar
from dither.cli.formats import plain_table
from dither.cli.terminal import Count, console, parse
from dither.errors import UserError

Globs = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="GLOB")]


@dataclass(frozen=True)
class Arguments:
    """Quantize the weights of a checkpoint: a .safetensors or .gguf file, or a Hugging Face folder.

    Quantized are all floating-point tensors of two dimensions but embeddings and heads. The work can be
    interrupted at any moment; the same command goes on. Example: dither quantize model/ --to mxfp4 --out
    model-mxfp4
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """a .safetensors or .gguf file, or a folder that holds model.safetensors or its shards"""
    to: Annotated[str | None, tyro.conf.arg(metavar="QUANTIZER|FILE.json")] = None
    """a quantizer (mxfp4, nvfp4, int4_g32:scale_rule=mse; `dither formats` lists them), or the JSON file of
    `dither inspect --budget SIZE --json FILE`, whose mix is written"""
    out: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """the file or folder to write (default: NAME-FORMAT in the working directory)"""
    layout: str = "dither"
    """dither (this package's packed safetensors), compressed-tensors (vLLM, transformers) or gguf
    (llama.cpp)"""
    exempt: Globs = ()
    """leave the tensors whose name matches GLOB as they are; may be given several times"""
    only: Globs = ()
    """quantize the tensors whose name matches GLOB, and no others; may be given several times"""
    dequantize: Annotated[str | None, tyro.conf.arg(metavar="DTYPE")] = None
    """bf16, fp16 or fp32: write a quantized checkpoint back as plain safetensors of that dtype"""
    seed: Count = None
    """for stochastic rounding"""
    dry_run: bool = False
    """show what would be written and how large it is; write nothing"""
    force: bool = False
    """replace the output where it exists, and what an interrupted job of other settings left"""


def read_target(to: str) -> str | Mapping[str, str]:
    """`--to`: a quantizer's name, or the mix in a JSON file."""
    if not to.endswith(".json"):
        return to
    try:
        found = json.loads(Path(to).read_bytes())
        mix = found["mix"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{to} holds no mix; make one with `dither inspect CKPT --budget SIZE --json FILE`"
        ) from None
    if not isinstance(mix, dict) or not mix or not all(isinstance(q, str) for q in mix.values()):
        raise UserError(f"the mix in {to} does not map tensors to quantizers, or quantizes none")
    return mix


def size(nbytes: int) -> str:
    """Bytes in a short form: 1,234 B, 45.68 MB."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if nbytes >= 10**power:
            return f"{nbytes / 10**power:.2f} {unit}"
    return f"{nbytes} B"


def print_summary(summary: Summary) -> None:
    out = console()
    table = plain_table(
        "tensor", "shape", "dtype", "format", "SQNR dB", "before", "after", left=("tensor", "dtype", "format")
    )
    done = [row for row in summary.rows if row.quantizer is not None]
    for row in done:
        ratio = "-" if row.sqnr_db is None else f"{row.sqnr_db:.2f}"
        shape = "x".join(map(str, row.shape))
        table.add_row(row.name, shape, row.dtype, row.quantizer, ratio, size(row.before), size(row.after))
    out.print(table)
    print_kept([row for row in summary.rows if row.quantizer is None], out.print)
    out.print(
        f"{len(done)} tensors: {size(sum(r.before for r in done))} -> {size(sum(r.after for r in done))}; "
        f"all {len(summary.rows)}: {size(summary.before)} -> {size(summary.after)} "
        f"({summary.after / max(summary.before, 1):.1%})"
    )


def print_kept(rows: Sequence[Row], say) -> None:
    """Those that stay, one line a reason; few names are listed."""
    for reason, n in Counter(row.reason for row in rows).items():
        names = [row.name for row in rows if row.reason == reason]
        shown = ", ".join(names[:3]) + (f", and {n - 3} more" if n > 3 else "")
        say(f"left as they are ({reason}): {shown}", markup=False)


def main(arguments: Sequence[str]) -> int:
    """Run `dither quantize`. Raises UserError for everything the user can cause."""
    a = parse("quantize", Arguments, arguments)
    if (a.to is None) == (a.dequantize is None):
        raise UserError("give either --to FORMAT (such as --to mxfp4) or --dequantize bf16, fp16 or fp32")
    bar = make_bar("dequantize" if a.to is None else "quantize")
    if a.to is None:
        if a.exempt or a.only or a.seed is not None or a.layout != "dither":
            raise UserError(
                "--dequantize takes --out, --force and --dry-run alone: all tensors are written back"
            )
        summary = dequantize(
            a.checkpoint, str(a.dequantize), a.out, force=a.force, dry_run=a.dry_run, observer=bar
        )
    else:
        summary = quantize(
            a.checkpoint, read_target(a.to), a.out, layout=a.layout, exempt=a.exempt, only=a.only,
            seed=a.seed, force=a.force, dry_run=a.dry_run, observer=bar,
        )  # fmt: skip
    print_summary(summary)
    if a.dry_run:
        print(f"nothing was written; without --dry-run it would go to {summary.out}")
        return 0
    if summary.resumed:
        print(f"{summary.resumed} tensors were there from an earlier start")
    print(f"wrote {summary.out}")
    return 0
