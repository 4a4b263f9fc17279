"""The pictures and figures of docs/choosing.md.

    python examples/choosing.py            # writes docs/images/choosing_*.png and prints the table

Needs matplotlib (`pip install 'dither[plot]'`) for the pictures; the table needs numpy alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import dither

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = Path(__file__).parents[1] / "docs" / "images"

QUANTIZERS = [
    "fp8_e4m3",
    "fp8_e5m2",
    "mxint8",
    "mxfp8_e4m3",
    "mxfp8_e5m2",
    "int8_g128",
    "mxfp6_e2m3",
    "mxfp6_e3m2",
    "nvfp4",
    "mxfp4",
    "mxfp4:scale_rule=rceil",
    "int4_g32",
    "int4_g128",
    "int4_tensor",
]


def data(rows: int = 256, columns: int = 1024) -> dict[str, np.ndarray]:
    """fp32 arrays with the shapes of what is met in training; the same every time.

    weights: normal, each row with its own scale within a factor of 2. activations: normal, and one column in
    128 thirty times as large (the outlier channels of transformers). gradients: normal times a log-normal
    factor (sigma 2) for each element, and small: a few are a thousand times the typical one.
    """
    rng = np.random.default_rng(0)
    normal = [rng.standard_normal((rows, columns)) for _ in range(3)]
    channels = np.where(np.arange(columns) % 128 == 5, 30.0, 1.0)
    made = {
        "weights": 0.02 * normal[0] * 2.0 ** rng.uniform(-0.5, 0.5, (rows, 1)),
        "activations": normal[1] * channels,
        "gradients": 1e-4 * normal[2] * np.exp(2 * rng.standard_normal((rows, columns))),
    }
    return {name: x.astype(np.float32) for name, x in made.items()}


def table() -> list[str]:
    """Markdown: stored bits a value, SQNR in dB on each kind of data, and the gradients that become 0."""
    arrays = data()
    lines = [
        "| quantizer | bits a value | "
        + " | ".join(f"{name}, dB" for name in arrays)
        + " | gradients lost |",
        "| --- |" + " ---: |" * (len(arrays) + 2),
    ]
    for q in QUANTIZERS:
        stats = {name: dither.error_stats(x, q) for name, x in arrays.items()}
        x = arrays["weights"]
        bits = 8 * dither.quantize(x, q).nbytes / x.size
        figures = " | ".join(f"{s['sqnr_db']:.1f}" for s in stats.values())
        lost = stats["gradients"]["underflowed"] / x.size
        lines.append(f"| `{q}` | {bits:.2f} | {figures} | {100 * lost:.1f} % |")
    return lines


def _values(name: str) -> np.ndarray:
    """The values of a format of at most 8 bits from the smallest to the largest positive."""
    values = dither.decode(np.arange(2 ** dither.formats.get(name).bits, dtype=np.uint8), name)
    values = np.unique(values[np.isfinite(values)])
    return values[np.abs(values) <= dither.formats.get(name).max]


def grids(ax_line: Axes, ax_log: Axes) -> None:
    """Where the values of a format lie: between 0 and the largest, and over the powers of two."""
    small = ["int4", "e2m1", "nf4", "e2m3", "e3m2"]
    for i, name in enumerate(small):
        values = _values(name)
        ax_line.vlines(values / np.abs(values).max(), i - 0.35, i + 0.35, lw=1.2, color=f"C{i}")
    ax_line.set_yticks(range(len(small)), small)
    ax_line.set_xticks([-1, -0.5, 0, 0.5, 1])
    ax_line.set_xlabel("value / largest value")
    wide = ["int4", "int8", "e2m1", "e2m3", "e3m2", "e4m3", "e5m2"]
    for i, name in enumerate(wide):
        values = _values(name)
        ax_log.vlines(values[values > 0], i - 0.35, i + 0.35, lw=0.8, color=f"C{i}")
    ax_log.set_yticks(range(len(wide)), wide)
    ax_log.set_xscale("log", base=2)
    ax_log.set_xlabel("positive values (logarithmic)")


def relative_error(ax: Axes) -> None:
    """Largest relative error of a cast within half a power of two to either side."""
    edges = 2.0 ** np.arange(-22, 20, 0.125)
    inside = (edges[:, None] * 2.0 ** np.linspace(-0.5, 0.5, 2049)).astype(np.float32)
    for name in ("bf16", "fp16", "e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "int8"):
        y = dither.cast(inside, name, overflow="saturate")
        worst = (np.abs(y.astype(np.float64) - inside) / inside).max(axis=1)
        ax.plot(edges, worst, label=name, lw=1.4)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_ylim(2.0**-12.5, 1.3)
    ax.set_xlabel("magnitude of x")
    ax.set_ylabel("largest relative error")
    ax.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)


def block_sizes(ax: Axes, x: np.ndarray, title: str) -> None:
    """SQNR against the number of elements that share a scale."""
    blocks: list[int | str] = ["tensor", 1024, 512, 256, 128, 64, 32, 16]
    for name in ("e4m3", "e5m2", "int8", "e2m1", "int4"):
        db = [
            dither.error_stats(x, dither.Quantizer(format=name, block=block, scale_format="fp32"))["sqnr_db"]
            for block in blocks
        ]
        ax.plot(range(len(blocks)), db, marker="o", ms=4, label=name)
    ax.set_xticks(range(len(blocks)), [str(b) for b in blocks], rotation=30)
    ax.set_xlabel("elements that share a scale")
    ax.set_title(title, fontsize=10)


def accumulation(ax: Axes) -> None:
    """A bf16 number to which 0.001 is added 4000 times, starting at 1."""
    steps, update = 4000, np.float32(0.001)
    modes = {
        "nearest_even": "nearest even: stays at 1",
        "up": "up: a whole step each time",
        "stochastic": "stochastic, 10 seeds",
    }
    for i, (rounding, label) in enumerate(modes.items()):
        value = np.ones(10 if rounding == "stochastic" else 1, np.float32)
        path = [value]
        for step in range(steps):
            value = dither.cast(value + update, "bf16", rounding=rounding, seed=1, stream=step)
            path.append(value)
        lines = ax.plot(np.array(path), color=f"C{i}", lw=1, alpha=0.5 if rounding == "stochastic" else 1)
        lines[0].set_label(label)
    ax.plot(1 + 0.001 * np.arange(steps + 1), "k--", lw=1.2, label="exact")
    ax.set_ylim(0.8, 7)
    ax.set_xlabel("number of additions of 0.001")
    ax.set_ylabel("bf16 sum")
    ax.legend(fontsize=8, frameon=False, loc="upper center")


def averages(ax: Axes, x: np.ndarray) -> None:
    """The error of the mean of many quantized copies: what is left is the bias."""
    counts = 2 ** np.arange(11)
    for rounding in ("nearest_even", "toward_zero", "stochastic"):
        for i, rule in enumerate(("floor", "ceil")):
            q = dither.Quantizer("mxfp4", rounding=rounding, scale_rule=rule)
            total, errors = np.zeros(x.shape), []
            for n in range(1, counts[-1] + 1):
                total += dither.fake_quant(x, q, seed=2, stream=n)
                if n in counts:
                    errors.append(np.sqrt(((total / n - x) ** 2).mean() / (x.astype(np.float64) ** 2).mean()))
            color = {"nearest_even": "C0", "toward_zero": "C3", "stochastic": "C2"}[rounding]
            ax.plot(counts, errors, color=color, ls=("-", "--")[i], label=f"{rounding}, scale rule {rule}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("quantized copies averaged")
    ax.set_ylabel("relative error of the average")
    ax.legend(fontsize=8, frameon=False, loc="lower left")


def pictures(folder: Path) -> list[Path]:
    """Write the four pictures; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arrays = data()
    written = []

    def save(figure, name: str) -> None:
        written.append(folder / f"choosing_{name}.png")
        figure.savefig(written[-1], dpi=100, metadata={"Software": None})
        plt.close(figure)

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    grids(*axes)
    save(figure, "grids")

    figure, ax = plt.subplots(figsize=(9, 4.2), layout="constrained")
    relative_error(ax)
    save(figure, "error")

    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained", sharey=True)
    for ax, (name, x) in zip(axes, arrays.items(), strict=True):
        block_sizes(ax, x, name)
    axes[0].set_ylabel("SQNR, dB")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=5, loc="outside lower center", frameon=False)
    save(figure, "blocks")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    accumulation(axes[0])
    averages(axes[1], arrays["gradients"][:8])
    save(figure, "rounding")
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--table", action="store_true", help="print the table only")
    given = parser.parse_args()
    print("\n".join(table()))
    if not given.table:
        print("\n".join(f"{path}: {path.stat().st_size} bytes" for path in pictures(given.out)))
