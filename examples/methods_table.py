"""The table of docs/methods.md: the first-tier methods on one small language model, at INT4, INT3 and FP4.

    python examples/methods_table.py [--out runs/methods]

1. Tuning: every method has the same number of tries (TRIES) at TUNED, on a seed that is used for nothing
   else; the validation loss with weights rounded to nearest decides. Its setting serves all formats: at INT4
   and FP4 casting costs less than one seed can tell.
2. Five seeds that the tuning did not see. Methods after training share the weights of the fp32 runs.
3. Tables as Markdown and a picture, with paired 95 % intervals against PTQ and against QAT.

Both comparisons are ordinary ones (OUT/tuning, OUT/final, each with its TOML file beside it) and go on where
they were when the program is started again.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dither.paired import Interval, paired_interval
from dither.report.results import markdown
from dither.train import Comparison, compare
from dither.train.compare import ArmResult
from dither.train.toml import dump_toml

SEEDS, TUNING_SEED = (0, 1, 2, 3, 4), 100
FORMATS = {"INT3": "int3_row", "INT4": "int4_row", "FP4": "fp4_g32:block=row"}
TUNED = "INT3"
STEPS = 500
COOLDOWN = 0.4
SHARED: dict[str, Any] = {
    "model": {"layers": 2, "width": 48, "heads": 2, "context": 64, "mlp": "gelu"},
    "data": {"sources": ["stdlib"]},
    "train": {"steps": STEPS, "batch": 16, "warmup": 25, "schedule": "wsd", "decay": COOLDOWN,
              "final_lr": 0.0, "threads": 1, "checkpoint_every": 0},
    "eval": {"tokens": 16384},
}  # fmt: skip


@dataclass(frozen=True)
class Try:
    """One setting of a method: peak learning rate and [method.options]."""

    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {k: v for k, v in self.options.items() if k not in ("mode", "silent", "start")}
        return ", ".join([f"lr {self.lr:g}", *(f"{key} {value}" for key, value in shown.items())])


LRS = (6e-3, 12e-3, 24e-3, 48e-3)
RATES = tuple(Try(lr) for lr in LRS)
CLIPPED = (Try(24e-3, {"clip": "none"}), *(Try(lr, {"clip": "mse"}) for lr in LRS[1:]))
PULLS = ((12e-3, 3.0), (24e-3, 3.0), (24e-3, 10.0), (48e-3, 3.0))  # learning rate, lambda
LOTION = {"mode": "decoupled", "silent": 0.5}
FUSED = {"start": STEPS - round(COOLDOWN * STEPS)}  # QAT from where the learning rate begins to fall
# name -> (method of dither.methods, tries)
TRIES: dict[str, tuple[str, tuple[Try, ...]]] = {
    "ptq": ("ptq", RATES),
    "ptq, searched scales": ("ptq", tuple(Try(t.lr, {"clip": "mse"}) for t in RATES)),
    "gptq": ("gptq", CLIPPED),
    "adaround": ("adaround", CLIPPED),
    "qat": ("qat", RATES),
    "lsq": ("lsq", RATES),
    "rat": ("rat", RATES),
    "lotion": ("lotion", tuple(Try(lr, {"lam": lam, **LOTION}) for lr, lam in PULLS)),
    "cage": ("cage", tuple(Try(lr, {"lam": lam, "silent": 0.8}) for lr, lam in PULLS)),
    "quest": ("quest", RATES),
    "fused cooldown": ("qat", tuple(Try(lr, FUSED) for lr in LRS)),
}
AFTER = ("ptq", "gptq", "adaround")
Chosen = dict[str, Try]
Results = dict[tuple[str, str], list[ArmResult]]  # (method, format) -> one a seed


def defined(name: str, form: str) -> bool:
    """The grid of QuEST is one of integers."""
    return not (name == "quest" and form == "FP4")


def key(name: str, form: str, number: int | None = None) -> str:
    """The name of an arm."""
    words = f"{name}-{form}".replace(",", "").replace(" ", "_")
    return words if number is None else f"{words}-{number}"


def base(lr: float) -> str:
    return f"fp32-{lr:g}"


def arms(wanted: Sequence[tuple[str, str, str, Try]]) -> Iterator[dict[str, Any]]:
    """The [[arm]] tables for (arm, name, format, setting), after those of the fp32 runs that they share."""
    for lr in sorted({setting.lr for _, name, _, setting in wanted if TRIES[name][0] in AFTER}):
        yield {"name": base(lr), "train": {"lr": lr}, "eval": {"casts": list(FORMATS.values())}}
    for arm, name, form, setting in wanted:
        method, q = TRIES[name][0], FORMATS[form]
        table = {"name": arm, "train": {"lr": setting.lr},
                 "eval": {"casts": list(FORMATS.values()) if name == "ptq" else [q]},
                 "method": {"name": method, "quantizer": q, "options": dict(setting.options)}}  # fmt: skip
        yield {**table, "same_as": base(setting.lr)} if method in AFTER else table


def run(
    out: Path, name: str, seeds: Sequence[int], draws: int, tables: Iterator[dict[str, Any]]
) -> Comparison:
    sections = {**SHARED, "eval": {**SHARED["eval"], "draws": draws}}
    text = f"seeds = {list(seeds)}\n\n{dump_toml(sections)}\n"
    for table in tables:
        flat = {k: v for k, v in table.items() if not isinstance(v, Mapping)}  # before the sub-tables
        text += "\n[" + dump_toml({**flat, **table}, "arm").replace("[arm]", "[arm]]", 1)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.toml"
    path.write_text(text)
    return compare(path, out / name)


def loss(arm: ArmResult, form: str, how: str = "nearest") -> float:
    """Nats a byte; infinite where the run diverged, NaN where the method has no such rounding."""
    measure = getattr(arm, how).get(FORMATS[form])
    missing = math.nan if arm.status == "done" else math.inf
    return missing if measure is None or measure.loss is None else measure.loss


def tune(out: Path) -> tuple[Chosen, str]:
    """The best setting of every method, and the table of all tries."""
    wanted = [
        (key(name, TUNED, number), name, TUNED, setting)
        for name, (_, tries) in TRIES.items()
        for number, setting in enumerate(tries)
    ]
    found = {arm.name: arm for arm in run(out, "tuning", [TUNING_SEED], 0, arms(wanted)).arms}
    chosen: Chosen = {}
    rows = []
    for name, (_, tries) in TRIES.items():
        losses = [loss(found[key(name, TUNED, number)], TUNED) for number in range(len(tries))]
        best = losses.index(min(losses))
        chosen[name] = tries[best]
        for number, (setting, value) in enumerate(zip(tries, losses, strict=True)):
            rows.append([name, str(setting), f"**{value:.4f}**" if number == best else f"{value:.4f}"])
    return chosen, markdown(["method", "try", f"{TUNED} nearest"], rows)


def final(out: Path, chosen: Chosen, forms: Sequence[str]) -> Results:
    """The runs of these formats; those of a shorter list before are kept."""
    wanted = [
        (key(name, form), name, form, setting)
        for form in forms
        for name, setting in chosen.items()
        if defined(name, form)
    ]
    comparison = run(out, "final", SEEDS, 4, arms(wanted))
    return {
        (name, form): [result for result in comparison.arms if result.name == arm]
        for arm, name, form, _ in wanted
    }


def difference(results: Results, name: str, other: str, form: str, how: str) -> Interval | None:
    """`name` minus `other`, paired; None where one of them has no such figure."""
    a, b = ([loss(arm, form, how) for arm in results[n, form]] for n in (name, other))
    return paired_interval(a, b) if all(map(math.isfinite, a + b)) else None


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None  # there is more than one seed
    return interval.low, interval.high


def table(results: Results, chosen: Chosen, form: str) -> str:
    rows = []
    for name in TRIES:
        if not defined(name, form):
            continue
        row = [name, str(chosen[name])]
        for how in ("nearest", "randomized"):
            losses = [loss(arm, form, how) for arm in results[name, form]]
            finite = all(map(math.isfinite, losses))
            row.append(f"{mean(losses):.4f} ± {stdev(losses):.4f}" if finite else "-")
            for other in ("ptq", "qat"):
                found = None if name == other else difference(results, name, other, form, how)
                row.append(
                    "-" if found is None else "{:+.4f} ({:+.4f}, {:+.4f})".format(found.mean, *bounds(found))
                )
        rows.append(row)
    columns = [f"{how}{rest}" for how in ("nearest", "randomized") for rest in ("", " - ptq", " - qat")]
    return markdown(["method", "setting", *columns], rows)


def picture(results: Results, forms: Sequence[str], path: Path) -> None:
    """Differences from PTQ with their intervals, a panel a format."""
    from matplotlib.figure import Figure

    names = [name for name in TRIES if name != "ptq"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(forms), sharey=True, squeeze=False)[0]
    for ax, form in zip(axes, forms, strict=True):
        for how, marker, shift, colour in (("nearest", "o", 0.12, "C0"), ("randomized", "D", -0.12, "C1")):
            found = {n: difference(results, n, "ptq", form, how) for n in names if defined(n, form)}
            points = [(len(names) - names.index(n) + shift, d) for n, d in found.items() if d is not None]
            ax.errorbar(
                [d.mean for _, d in points], [y for y, _ in points],
                xerr=[[abs(bounds(d)[side] - d.mean) for _, d in points] for side in (0, 1)],
                fmt=marker, color=colour, markersize=4, capsize=2, label=f"rounded: {how}",
            )  # fmt: skip
        ax.axvline(0.0, color="0.6", linewidth=0.8)
        ax.set_title(f"{form} ({FORMATS[form]})", fontsize=10)
        ax.set_xlabel("loss - loss of PTQ (nats a byte)")
        ax.locator_params(axis="x", nbins=5)
    axes[0].set_yticks([len(names) - i for i in range(len(names))], names)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    out = parser.parse_args().out
    chosen, tries = tune(out)
    text = f"Tuning, seed {TUNING_SEED}: loss rounded to nearest; the best is bold.\n\n{tries}"
    forms = list(FORMATS)
    for count, form in enumerate(forms, start=1):
        results = final(out, chosen, forms[:count])
        text += f"\n{form} (`{FORMATS[form]}`), {len(SEEDS)} seeds\n\n{table(results, chosen, form)}"
        (out / "tables.md").write_text(text)
        picture(results, forms[:count], out / "methods.png")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
