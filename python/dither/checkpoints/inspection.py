"""What a list of formats would do to each tensor of a checkpoint, which tensors hurt, and the best mix of
formats under a budget.

One tensor is in memory at a time. Nothing is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dither import statistics
from dither.checkpoints import mix
from dither.checkpoints.layouts.packed import stored_bytes
from dither.checkpoints.quantizing import check_plain, check_seed, stream_of
from dither.checkpoints.select import select
from dither.checkpoints.source import open_checkpoint
from dither.checkpoints.summary import Observer, Row
from dither.checkpoints.tensors import TensorInfo, read_values
from dither.errors import UserError
from dither.quantizer import Quantizer

FORMATS = ("mxfp8_e4m3", "int8_g128", "mxfp6_e2m3", "nvfp4", "mxfp4", "int4_g32", "int4_g128")
OBJECTIVES = ("relative", "absolute")
KEEP = "keep"
"""The option of a mix that leaves a tensor as it is."""


@dataclass(frozen=True)
class Effect:
    """One tensor in one format. `noise` is the sum of squared errors; shares are of the tensor's elements."""

    nbytes: int
    sqnr_db: float
    noise: float
    clipped: float
    underflowed: float


@dataclass(frozen=True)
class Finding:
    """One tensor. `crest` is the largest magnitude over the root mean square, `kurtosis` that of the values
    (3 for a normal distribution). `effects` is empty for a tensor that is left as it is, `reason` says
    why."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    reason: str | None = None
    signal: float = 0.0
    crest: float = float("nan")
    kurtosis: float = float("nan")
    effects: dict[str, Effect] = field(default_factory=dict)

    def error(self, name: str, objective: str) -> float:
        """What a mix sums up: the noise, over the signal for `relative`."""
        if name == KEEP:
            return 0.0
        noise = self.effects[name].noise
        return noise if objective == "absolute" else noise / self.signal if self.signal else 0.0


@dataclass(frozen=True)
class Budgeted:
    """The mix under a budget: tensor name to format name, only of those that are quantized."""

    budget: int
    objective: str
    formats: dict[str, str]
    kept: list[str]
    result: mix.Mix
    nbytes: int


@dataclass(frozen=True)
class Inspection:
    source: str
    formats: list[str]
    findings: list[Finding]
    mix: Budgeted | None = None

    @property
    def measured(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.effects]

    @property
    def nbytes(self) -> int:
        return sum(finding.nbytes for finding in self.findings)

    def bytes_in(self, name: str) -> int:
        """Bytes of the whole checkpoint with all measured tensors in that format."""
        return sum(f.effects[name].nbytes if f.effects else f.nbytes for f in self.findings)

    def worst(self, name: str, n: int = 5) -> list[Finding]:
        """The tensors with the lowest ratio of signal to noise in that format."""
        return sorted(self.measured, key=lambda f: f.effects[name].sqnr_db)[:n]

    def overall_db(self, name: str) -> float:
        """Ratio of signal to noise over all measured tensors together."""
        signal = sum(f.signal for f in self.measured)
        noise = sum(f.effects[name].noise for f in self.measured)
        return 10 * float(np.log10(signal / noise)) if noise and signal else float("inf")


def inspect(
    path: str | os.PathLike[str],
    formats: Sequence[str | Quantizer] = FORMATS,
    *,
    exempt: Sequence[str] = (),
    only: Sequence[str] = (),
    budget: str | int | None = None,
    objective: str = "relative",
    seed: int | None = None,
    observer: Observer | None = None,
) -> Inspection:
    """Measure every chosen tensor of a checkpoint in every format.

    `budget` is a number of bytes for all tensors together, a text such as "0.3GB", or "4.5bits": bits per
    quantized weight. Its objective is `relative`, the sum over tensors of squared error over squared size
    (the error of each layer's output relative to the output, for inputs that are white noise), or `absolute`,
    the sum of squared errors. Raises UserError for what a user can cause.
    """
    quantizers = _quantizers(formats)
    if objective not in OBJECTIVES:
        raise UserError(f"the objective is {' or '.join(OBJECTIVES)}, not {objective!r}")
    check_seed(quantizers.values(), seed)
    source = open_checkpoint(path)
    check_plain(source)
    reasons = select(source.tensors.values(), exempt, only)
    chosen = [info for name, info in source.tensors.items() if reasons[name] is None]
    if budget is not None:
        parse_budget(budget, 1, 0)  # a wrong text is said before the work begins
    watch = observer or Observer()
    watch.start(len(chosen), sum(info.nbytes for info in chosen))
    findings = []
    try:
        for name, info in source.tensors.items():
            if (reason := reasons[name]) is None:
                findings.append(measure(info, quantizers, seed))
                watch.tensor(Row(name, info.shape, info.dtype, None, None, info.nbytes, info.nbytes))
            else:
                findings.append(Finding(name, info.shape, info.dtype, info.nbytes, reason))
    finally:
        watch.finish()
    found = Inspection(str(source.path), list(quantizers), findings)
    return found if budget is None else best_mix(found, budget, objective)


def _quantizers(formats: Sequence[str | Quantizer]) -> dict[str, Quantizer]:
    found = {str(q): q if isinstance(q, Quantizer) else Quantizer(q) for q in formats}
    if not found:
        raise UserError("name at least one format, for example --formats mxfp4,int4_g128")
    return found


def measure(info: TensorInfo, quantizers: dict[str, Quantizer], seed: int | None = None) -> Finding:
    """What each quantizer does to one tensor. A tensor with NaN or infinity is not measured."""
    x = read_values(info)
    if bad := x.size - int(np.count_nonzero(np.isfinite(x))):
        reason = f"{bad} NaN or infinite values"
        return Finding(info.name, info.shape, info.dtype, info.nbytes, reason)
    effects, stats = {}, {}
    for name, q in quantizers.items():
        stats = statistics.error_stats(x, q, seed=seed, stream=stream_of(info.name))
        count = stats["count"]
        effects[name] = Effect(
            stored_bytes(info.shape, q),
            stats["sqnr_db"],
            stats["mse"] * count,
            stats["clipped"] / count,
            stats["underflowed"] / count,
        )
    top, crest = stats["absmax"], stats["crest"]  # of x itself: the same under every quantizer
    signal = x.size * (top / crest) ** 2 if crest > 0 else 0.0
    return Finding(
        info.name, info.shape, info.dtype, info.nbytes, None, signal, crest, stats["kurtosis"], effects
    )


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def parse_budget(budget: str | int, weights: int, fixed: int) -> int:
    """A budget in bytes. Bits are per weight of the `weights` that are quantized; `fixed` bytes are not."""
    if isinstance(budget, int) and not isinstance(budget, bool):
        return budget
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", str(budget))
    unit = match[2].lower() if match else None
    if match is None or (unit not in _UNITS and unit not in ("bit", "bits")):
        raise UserError(
            f"a budget is a size such as 300MB, 0.3GB, 1.5GiB or 4.5bits (per weight), not {budget!r}"
        )
    if unit in ("bit", "bits"):
        return fixed + int(float(match[1]) * weights / 8)
    return int(float(match[1]) * _UNITS[str(unit)])


def best_mix(found: Inspection, budget: str | int, objective: str = "relative") -> Inspection:
    """The inspection with the mix of its formats (and of leaving tensors alone) that has the least error
    under the budget. Raises UserError where the smallest formats do not fit."""
    measured = found.measured
    fixed = found.nbytes - sum(f.nbytes for f in measured)
    weights = sum(int(np.prod(f.shape, dtype=np.int64)) for f in measured)
    limit = parse_budget(budget, weights, fixed)
    options = [*found.formats, KEEP]
    sizes = [[*(f.effects[name].nbytes for name in found.formats), f.nbytes] for f in measured]
    errors = [[f.error(name, objective) for name in options] for f in measured]
    result = mix.solve(sizes, errors, limit - fixed)
    if result is None:
        least = fixed + sum(min(row) for row in sizes)
        raise UserError(
            f"no mix of {', '.join(found.formats)} fits into {limit:,} bytes: the smallest takes {least:,}"
            f"{f', {fixed:,} of them in tensors that are left as they are' if fixed else ''}. Raise the "
            "budget, add a smaller format with --formats, or choose more tensors with --only"
        )
    picks = {f.name: options[j] for f, j in zip(measured, result.picks, strict=True)}
    chosen = {name: q for name, q in picks.items() if q != KEEP}
    kept = [name for name, q in picks.items() if q == KEEP]
    budgeted = Budgeted(limit, objective, chosen, kept, result, fixed + result.nbytes)
    return Inspection(found.source, found.formats, found.findings, budgeted)


def to_json(found: Inspection) -> dict[str, Any]:
    """Plain values for a JSON file; `mix` is what `dither quantize --to FILE.json` reads. An infinite or
    missing ratio becomes null."""

    def number(value: float) -> float | None:
        return value if np.isfinite(value) else None

    tensors = [
        {
            "name": f.name, "shape": list(f.shape), "dtype": f.dtype, "bytes": f.nbytes,
            "left_because": f.reason, "crest": number(f.crest), "kurtosis": number(f.kurtosis),
            "formats": {
                name: {"bytes": e.nbytes, "sqnr_db": number(e.sqnr_db), "noise": e.noise,
                       "clipped": e.clipped, "underflowed": e.underflowed}
                for name, e in f.effects.items()
            },
        }
        for f in found.findings
    ]  # fmt: skip
    formats = {
        name: {"bytes": found.bytes_in(name), "sqnr_db": number(found.overall_db(name)),
               "worst": [f.name for f in found.worst(name)]}
        for name in found.formats
    }  # fmt: skip
    document: dict[str, Any] = {
        "source": found.source, "bytes": found.nbytes, "formats": formats, "tensors": tensors,
    }  # fmt: skip
    if (m := found.mix) is not None:
        document |= {
            "mix": m.formats,
            "mix_of": {
                "budget": m.budget, "bytes": m.nbytes, "objective": m.objective, "error": m.result.error,
                "lower_bound": m.result.bound, "exact": m.result.exact, "kept": m.kept,
            },
        }  # fmt: skip
    return document
