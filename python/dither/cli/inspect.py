"""`dither inspect CKPT`: what formats would do to each tensor, which tensors hurt, what mix fits a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from dither.checkpoints import inspect
from dither.checkpoints.inspection import FORMATS, Finding, Inspection, to_json
from dither.checkpoints.summary import Row
from dither.cli.bars import make_bar
from dither.cli.formats import plain_table
from dither.cli.quantize import Globs, print_kept, size
from dither.cli.terminal import Count, File, console, parse
from dither.files import check_place, disk_errors, write_json, write_text
from dither.report import inspection as report


@dataclass(frozen=True)
class Arguments:
    """Measure what number formats would do to every tensor of a checkpoint. Nothing is quantized.

    Example: dither inspect model/ --formats mxfp8_e4m3,nvfp4,mxfp4 --budget 5bits --html model.html --json
    model.json
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """a .safetensors or .gguf file, or a folder that holds model.safetensors or its shards"""
    formats: str = ",".join(FORMATS)
    """quantizers, separated by commas (by semicolons where one has a comma in it)"""
    budget: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """a size for the whole checkpoint (300MB, 0.3GB, 1.5GiB) or bits per quantized weight (4.5bits): print
    the mix of the formats that has the least error under it"""
    objective: str = "relative"
    """what the mix minimises: relative (each tensor's squared error over its squared size, summed) or
    absolute"""
    exempt: Globs = ()
    """leave the tensors whose name matches GLOB out; may be given several times"""
    only: Globs = ()
    """measure the tensors whose name matches GLOB, and no others; may be given several times"""
    html: File = None
    """write a page with the heat map there"""
    json: File = None
    """write all figures there; `dither quantize CKPT --to FILE.json` takes the mix from it"""
    seed: Count = None
    """for stochastic rounding"""


def split_formats(text: str) -> list[str]:
    """`mxfp4,nvfp4` or, where quantizers have commas of their own, `mxfp4;format=e2m1,block=16`."""
    parts = text.split(";") if ";" in text or "=" in text else text.split(",")
    return [part.strip() for part in parts if part.strip()]


def shade(value: float) -> str:
    """A terminal colour for a ratio of signal to noise."""
    return "red" if value < 15 else "yellow" if value < 20 else "green" if value < 30 else "cyan"


def print_tensors(out: Console, found: Inspection) -> None:
    table = plain_table("SQNR dB", *found.formats, "crest", left=("SQNR dB",))
    picks = found.mix.formats if found.mix else {}
    for f in found.measured:
        cells = []
        for name in found.formats:
            mark = "*" if picks.get(f.name) == name else " "
            cells.append(Text(f"{f.effects[name].sqnr_db:.1f}{mark}", shade(f.effects[name].sqnr_db)))
        table.add_row(Text(f.name), *cells, f"{f.crest:.1f}")
    table.add_section()
    table.add_row("all together", *(f"{found.overall_db(name):.1f} " for name in found.formats), "")
    table.add_row("size", *(f"{size(found.bytes_in(name))} " for name in found.formats), "")
    out.print(table)


def why(f: Finding, name: str) -> str:
    """What the statistics say about a tensor that a format hurts."""
    effect, parts = f.effects[name], [f"crest {f.crest:.0f}", f"kurtosis {f.kurtosis:.1f}"]
    if effect.underflowed >= 0.001:
        parts.append(f"{effect.underflowed:.1%} of the values become 0")
    if effect.clipped >= 0.001:
        parts.append(f"{effect.clipped:.1%} are clipped")
    return ", ".join(parts)


def print_worst(out: Console, found: Inspection) -> None:
    out.print("the tensors that hurt most:")
    for name in found.formats:
        for f in found.worst(name, 2):
            ratio = f.effects[name].sqnr_db
            out.print(f"  {name}: {f.name} {ratio:.1f} dB ({why(f, name)})", markup=False)


def print_mix(out: Console, found: Inspection) -> None:
    m = found.mix
    if m is None:
        return
    counts = {name: list(m.formats.values()).count(name) for name in found.formats}
    parts = [f"{n} x {name}" for name, n in counts.items() if n]
    parts += [f"{len(m.kept)} left as they are"] * bool(m.kept)
    sure = "the optimum" if m.result.exact else f"not proved: no mix is below {m.result.bound:.4g}"
    out.print(
        f"best mix under {size(m.budget)}: {', '.join(parts)}; {size(m.nbytes)}, {m.objective} error "
        f"{m.result.error:.4g} ({sure}); marked * above"
    )


def main(arguments: Sequence[str]) -> int:
    """Run `dither inspect`. Raises UserError for everything the user can cause."""
    a = parse("inspect", Arguments, arguments)
    for target in (a.json, a.html):
        if target is not None:
            check_place(Path(target))
    found = inspect(
        a.checkpoint, split_formats(a.formats), exempt=a.exempt, only=a.only, budget=a.budget,
        objective=a.objective, seed=a.seed, observer=make_bar("inspect"),
    )  # fmt: skip
    out = console()
    print_tensors(out, found)
    left = [f for f in found.findings if not f.effects]
    print_kept([Row(f.name, f.shape, f.dtype, None, f.reason, f.nbytes, f.nbytes) for f in left], out.print)
    print_worst(out, found)
    print_mix(out, found)
    for target, write in ((a.json, _write_json), (a.html, _write_html)):
        if target is not None:
            with disk_errors(Path(target), "Free some space, then try again."):
                write(Path(target), found)
            print(f"wrote {target}")
    return 0


def _write_json(path: Path, found: Inspection) -> None:
    write_json(path, to_json(found))


def _write_html(path: Path, found: Inspection) -> None:
    write_text(path, report.page(found))
