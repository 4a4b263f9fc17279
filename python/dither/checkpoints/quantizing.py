"""Quantize a checkpoint tensor by tensor, into any layout.

One tensor is in memory at a time: its bytes, its values in fp32, its codes and its values read back. The
signal to quantization noise ratio of every tensor is measured on the values that a reader of the output gets.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dither import packing
from dither.checkpoints import layouts
from dither.checkpoints.job import SUMMARY, Job, check_free
from dither.checkpoints.layouts.base import Layout, Part
from dither.checkpoints.select import select
from dither.checkpoints.source import Checkpoint, open_checkpoint
from dither.checkpoints.summary import Observer, Row, Summary, describe
from dither.checkpoints.tensors import TensorInfo, chunks, narrow, overflows, read_values
from dither.errors import UserError, suggest
from dither.quantizer import Quantizer

_PIECE = 1 << 16
"""Elements that are summed up at a time, in fp64."""


def quantize(
    path: str | os.PathLike[str],
    to: str | Quantizer | Mapping[str, str | Quantizer],
    out: str | os.PathLike[str] | None = None,
    *,
    layout: str = "dither",
    exempt: Sequence[str] = (),
    only: Sequence[str] = (),
    seed: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> Summary:
    """Quantize the checkpoint at `path`; the output appears at `out` when it is whole.

    `to` is a quantizer for all chosen tensors, or a map from tensor names to quantizers (tensors that are not
    in it stay). `seed` is for stochastic rounding: tensor NAME reads the stream hash(NAME). An interrupted
    call goes on when it is repeated. Raises UserError for everything a user can cause, before the first byte
    is written where it can be known then.
    """
    source = open_checkpoint(path)
    check_plain(source)
    how = layouts.get(layout)
    if source.is_gguf and layout != "gguf":
        raise UserError(f"{source.path} is a GGUF file; its weights are written as GGUF: add --layout gguf")
    choice, reasons = choose(source, to, how, exempt, only)
    check_seed(choice.values(), seed)
    target, folder = output(source, out, _label(to), how.suffix)
    plan = how.plan(source, choice, target.name)
    rows = [
        _row(source.tensors[name], choice[name], reasons[name], part)
        for f in plan
        for name, part in f.parts.items()
    ]
    if dry_run:
        check_free(target, folder, force)
        return Summary(rows, target, layout)
    settings = settings_of(source, {n: str(q) for n, q in choice.items() if q}, layout, seed)
    with Job(target, folder, plan, settings, force) as job:
        resumed = len(job.rows)

        planned = {row.name: row for row in rows}

        def convert(name: str, part: Part) -> tuple[list[Iterable[Any]], Row]:
            parts, sqnr = _converted(source.tensors[name], choice[name], how, part[0][0].dtype, seed)
            return parts, replace(planned[name], sqnr_db=sqnr)

        job.run(planned, convert, observer or Observer())
        found = [Row(**(job.rows[row.name] | {"shape": row.shape})) for row in rows]
        summary = Summary(found, target, layout, resumed)
        documents = how.documents(source, choice, plan) | (
            {Path(SUMMARY): describe(summary)} if folder else {}
        )
        job.finish(documents, _copies(source, folder))
    return summary


def check_plain(source: Checkpoint) -> None:
    """Raise UserError for a checkpoint that was quantized before: what describes its packed weights would be
    lost. (In GGUF every tensor describes itself.)"""
    for how in layouts.LAYOUTS.values():
        if not source.is_gguf and how.find(source):
            raise UserError(
                f"{source.path} is quantized already (layout {how.name}): take the original, or turn it back "
                f"first with dither quantize {source.path} --dequantize bf16"
            )


def check_seed(quantizers: Iterable[Quantizer | None], seed: int | None) -> None:
    """Raise UserError where a quantizer rounds stochastically and there is no seed."""
    if seed is None and (q := next((q for q in quantizers if q and q.is_stochastic), None)):
        raise UserError(f"{q} rounds stochastically, with addressed bits: add --seed 0")


def choose(
    source: Checkpoint,
    to: str | Quantizer | Mapping[str, str | Quantizer],
    how: Layout,
    exempt: Sequence[str],
    only: Sequence[str],
) -> tuple[dict[str, Quantizer | None], dict[str, str | None]]:
    """The quantizer of every tensor, or None and the reason why it stays."""
    infos = source.tensors
    if isinstance(to, Mapping):
        if unknown := next((name for name in to if name not in infos), None):
            raise UserError(
                f"the mix names {unknown!r}, which is not in {source.path}{suggest(unknown, infos)}"
            )
        mix = {name: _as_quantizer(q) for name, q in to.items()}
        only = only or [re.sub(r"([*?[])", r"[\1]", name) for name in mix]
    else:
        mix = dict.fromkeys(infos, _as_quantizer(to))
    for q in set(mix.values()):
        how.check(q)
    reasons = select(infos.values(), exempt, only)
    wanted = [name for name, reason in reasons.items() if reason is None]
    choice: dict[str, Quantizer | None] = {}
    for name, info in infos.items():
        q = mix.get(name)
        if q is None:
            reasons[name] = reasons[name] or "not in the mix"
        elif reasons[name] is None:
            reasons[name] = how.obstacle(info, q)
        choice[name] = q if reasons[name] is None else None
    if not any(choice.values()):
        shown = "; ".join(f"{name}: {reasons[name]}" for name in wanted[:3])
        raise UserError(f"layout {how.name} can hold none of the tensors: {shown}")
    return choice, reasons


def _as_quantizer(q: str | Quantizer) -> Quantizer:
    return q if isinstance(q, Quantizer) else Quantizer(q)


def _label(to: Any) -> str:
    return "mix" if isinstance(to, Mapping) else re.sub(r"[^A-Za-z0-9_]+", "-", str(to)).strip("-")


def output(
    source: Checkpoint, out: str | os.PathLike[str] | None, label: str, suffix: str
) -> tuple[Path, bool]:
    """Where the output goes and whether it is a folder. Default: NAME-LABEL in the working directory."""
    folder = source.folder is not None and suffix == ".safetensors"
    if out is None:
        stem = source.path.resolve()
        out = f"{stem.name if source.folder else stem.stem}-{label}{'' if folder else suffix}"
    target = Path(out)
    if not target.name or target.resolve() == source.path.resolve():
        raise UserError(f"--out {out} is the source itself or no name; name a new file or folder")
    if source.folder is not None and source.folder.resolve() in target.resolve().parents:
        raise UserError(f"--out {out} lies in the source's folder; name a place outside it")
    if target.resolve() in source.path.resolve().parents:
        raise UserError(f"--out {out} holds the source; name another place")
    return target, folder


def _row(info: TensorInfo, q: Quantizer | None, reason: str | None, part: Part) -> Row:
    after = sum(entry.nbytes for entry, _ in part)
    return Row(info.name, info.shape, info.dtype, None if q is None else str(q), reason, info.nbytes, after)


def settings_of(
    source: Checkpoint, choice: Mapping[str, str], layout: str, seed: int | None
) -> dict[str, Any]:
    """What has to be the same for an interrupted job to go on."""
    return {
        "quantizer": ", ".join(dict.fromkeys(choice.values())),
        "layout": layout,
        "source": str(source.path.resolve()),
        "files": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in source.files],
        "choice": dict(choice),
        "seed": seed,
    }


def _converted(
    info: TensorInfo, q: Quantizer | None, how: Layout, dtype: str, seed: int | None
) -> tuple[list[Iterable[Any]], float | None]:
    """The parts to write for a tensor, each as pieces of bytes, and its ratio of signal to noise."""
    if q is None:
        return _kept(info, dtype), None
    arrays, sqnr = _quantized(info, q, how, seed)
    return [[array] for array in arrays], sqnr


def _kept(info: TensorInfo, dtype: str) -> list[Iterable[Any]]:
    """A tensor that is not quantized, in the dtype that the layout keeps it in."""
    if dtype == info.dtype:
        return [chunks(info)]
    x = read_values(info)
    raw = narrow(x, dtype)
    if overflows(x, raw, dtype):
        raise UserError(
            f"{info.name!r} has values up to {np.abs(x).max():.4g}; this layout keeps it in F16 (up to 65504)"
        )
    return [[raw]]


def _quantized(
    info: TensorInfo, q: Quantizer, how: Layout, seed: int | None
) -> tuple[list[np.ndarray], float | None]:
    x = read_values(info)
    if bad := x.size - int(np.count_nonzero(np.isfinite(x))):
        raise UserError(
            f"{info.name!r} of {info.path} holds {bad} NaN or infinite values; repair it, or leave it as it "
            f"is with --exempt {info.name!r}"
        )
    t = packing.quantize(x, q, seed=seed, stream=stream_of(info.name))
    arrays = how.encode(t, info)
    del t
    y = how.decode(arrays, info, q)
    ratio = sqnr_db(x, y)
    return arrays, ratio if np.isfinite(ratio) else None


def stream_of(name: str) -> int:
    """The stream of random bits of a tensor: 64 bits of its name's hash, so that it depends on nothing
    else."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def sqnr_db(x: np.ndarray, y: np.ndarray) -> float:
    """10 log10 of signal over noise power, in fp64, without a copy of the whole; infinite without noise."""
    a, b, signal, noise = x.reshape(-1), y.reshape(-1), 0.0, 0.0
    for at in range(0, a.size, _PIECE):
        u = a[at : at + _PIECE].astype(np.float64)
        signal += float(np.dot(u, u))
        u -= b[at : at + _PIECE]
        noise += float(np.dot(u, u))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(np.float64(signal) / np.float64(noise)))


def _copies(source: Checkpoint, folder: bool) -> list[tuple[Path, Path]]:
    if not folder or source.folder is None:
        return []
    return [(source.folder / path, path) for path in source.other_files() if path.name != SUMMARY]
