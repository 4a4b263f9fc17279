"""What a repetition of data is worth: 2305.16264 on its own runs.

L = E + A N'^-alpha + B D'^-beta, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), N' likewise with R_N. The two are
fitted with everything else held. The objective has several minima along a flat ridge, so resamples are
minimised over a whole grid of the two: no start decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither import laws
from dither.laws import plots
from dither.laws.plots.canvas import COLOURS, canvas, legend
from dither.laws.profiles import rise
from dither.studies import tables
from dither.studies.measure import exact, huber, over_seeds, resampled
from dither.studies.study import Claim, Context, Outcome, Study, Table, without_tables

TABLE = "data-constrained/runs.csv"
HELD = dict(A=float(np.exp(6.255414)), B=float(np.exp(7.3049974)), E=float(np.exp(0.6254804)),
            alpha=0.3526596, beta=0.3526596)  # fmt: skip
PUBLISHED = dict(R_D=15.387756, R_N=5.309743)
TIED = dict(a=6.4526, b=8.0230, e=0.639875, alpha=0.359536)
"""Published law of the runs of at most 2.5 epochs: logarithms of A, B, E, and the exponent."""
R_D, R_N = np.geomspace(2, 2000, 130), np.geomspace(0.4, 60, 80)
NEVER = 1e9
"""R of repetitions that lose nothing."""

Runs = dict[str, Any]


def runs(subset: str) -> Runs:
    frame = tables.where(tables.read(TABLE), subset=subset)
    return {key: tables.numbers(frame, key) for key in ("N", "D", "U", "loss")}


def worth(epochs: Any, r_d: Any) -> Any:
    """Tokens that `epochs` passes are worth, in unique tokens."""
    return 1 + r_d * -np.expm1(-(epochs - 1) / r_d)


def predictions(data: Runs) -> Any:
    """Losses (grid of R_D and R_N, runs)."""
    law = laws.get("data_constrained")
    assert isinstance(law, laws.FunctionLaw)
    at = {key: data[key] for key in ("N", "D", "U")}
    values = [law.function(**HELD, R_D=r, R_N=R_N[:, None], **at) for r in R_D]
    return np.concatenate(values)


def explained(predicted: Any, loss: Any, weights: Any) -> Any:
    """R2 under weights of the runs."""
    mean = np.sum(weights * loss, axis=-1, keepdims=True) / np.sum(weights, axis=-1, keepdims=True)
    rest = np.sum(weights * (loss - predicted) ** 2, axis=-1)
    return 1 - rest / np.sum(weights * (loss - mean) ** 2, axis=-1)


def repeated(data: Runs) -> tuple[Any, Any, Any]:
    """Runs on repeated tokens that have a twin on new ones, of equal size and tokens: epochs, share by which
    their loss lies above the twin's, size."""
    epochs, rows = data["D"] / data["U"], []
    for new in np.flatnonzero(epochs <= 1.02):
        same = np.isclose(data["N"], data["N"][new], rtol=1e-3) & np.isclose(
            data["D"], data["D"][new], rtol=1e-3
        )
        for run in np.flatnonzero(same & (epochs > 1.5)):
            rows.append((epochs[run], data["loss"][run] / data["loss"][new] - 1, data["N"][run]))
    return tuple(np.array(rows).T)


def simulated(seed: int) -> float:
    """|ln(R_D found / R_D true)| on 84 simulated runs of 1 to 64 epochs, 1 % noise, from published values."""
    n, u, e = (v.ravel() for v in np.meshgrid([1e8, 4e8, 1e9, 3e9], [2e9, 6e9, 2e10], 2.0 ** np.arange(7)))
    law = laws.get("data_constrained")
    made = law.simulate(HELD | PUBLISHED, N=n, D=u * e, U=u, noise=0.01, seed=seed)
    return abs(float(np.log(laws.fit(law, made, fixed=HELD).params["R_D"] / PUBLISHED["R_D"])))


def measure(context: Context) -> Outcome:
    design = over_seeds([simulated(seed) for seed in context.seeds])
    if why := tables.missing(TABLE):
        return without_tables(STUDY, why, {"design": design}, "simulated runs only")
    data = runs("fit_outliers_removed")
    size = len(data["loss"])
    fit = laws.fit("data_constrained", data, fixed=HELD)
    none = fit.law.predict(HELD | dict(R_D=NEVER, R_N=NEVER), N=data["N"], D=data["D"], U=data["U"])
    grid = predictions(data)
    cost = huber(grid, data["loss"])
    weights = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), context.choose(2000, 500))
    best = np.argmin(cost @ weights.T, axis=0)
    r_d, r_n = R_D[best // len(R_N)], R_N[best % len(R_N)]
    gain = explained(grid[best], data["loss"], weights) - explained(none, data["loss"], weights)
    one = np.ones(size)
    here = fit.law.predict(fit.params, N=data["N"], D=data["D"], U=data["U"])
    published = laws.fit("data_constrained", data, fixed=HELD | PUBLISHED)
    p = fit.params
    twins = repeated(data)
    about_four = (twins[0] > 3.5) & (twins[0] < 4.6)
    found = {
        "loss": over_seeds(twins[1][about_four].tolist()),
        "epochs": resampled(p["R_D"], r_d, size),
        "four": resampled(worth(4, p["R_D"]) / 4, worth(4, r_d) / 4, size),
        "forty": resampled(np.exp(-39 / p["R_D"]), np.exp(-39 / r_d), size),
        "faster": resampled(np.log(p["R_D"] / p["R_N"]), np.log(r_d / r_n), size),
        "decay": resampled(
            explained(here, data["loss"], one) - explained(none, data["loss"], one), gain, size
        ),
        "minimum": exact(published.value / fit.value - 1, size),
        "settled": exact(len(fit.minima), size),
        "design": design,
    }
    surface = cost.sum(axis=1).reshape(len(R_D), len(R_N))
    inside = R_D[surface.min(axis=1) <= fit.value + rise(fit, 0.95)]
    pages = [minima(fit, published, data), variants(data), tied(), profiled(inside), twin_losses(*twins)]
    passes = (data["D"] / data["U"]).max()
    about = f"{size} runs, {len(np.unique(data['U']))} sets of unique tokens, up to {passes:g} epochs"
    return Outcome(found, about, pages, pictures(fit, surface, r_d, twins))


def minima(fit: laws.Fit, published: laws.Fit, data: Runs) -> Table:
    def line(name: str, params: dict[str, float], value: float) -> tuple[str, ...]:
        predicted = fit.law.predict(params, N=data["N"], D=data["D"], U=data["U"])
        r2 = explained(predicted, data["loss"], np.ones(len(predicted)))
        return (name, f"{params['R_D']:.4f}", f"{params['R_N']:.4f}", f"{value:.10f}", f"{r2:.4f}")

    rows = [line("published", published.params, published.value)]
    rows += [line(f"minimum {i}", params, value) for i, (value, params) in enumerate(fit.minima, 1)]
    return Table(
        f"Published values and all minima within 1 % of the best ({fit.certificate.hit_rate:.0%} of "
        f"{fit.certificate.starts} starts reach it)",
        ("", "R_D", "R_N", "Huber 1e-3", "R2"),
        rows,
    )


def variants(data: Runs) -> Table:
    """R2 of laws where repetitions, or parameters in excess, lose nothing."""
    rows = []
    for name, held, there in (
        ("nothing decays", dict(R_D=NEVER, R_N=NEVER), 0.4452),
        ("data alone decays", dict(R_N=NEVER), 0.7354),
        ("parameters alone decay", dict(R_D=NEVER), 0.4488),
        ("both", {}, 0.7722),
    ):
        fit = laws.fit("data_constrained", data, fixed=HELD | held)
        predicted = fit.law.predict(fit.params, N=data["N"], D=data["D"], U=data["U"])
        r2 = explained(predicted, data["loss"], np.ones(len(predicted)))
        rows.append((name, f"{r2:.4f}", f"{there:.4f}", f"{fit.value:.8f}"))
    return Table("R2 at our optimum and as published", ("law", "here", "published", "Huber 1e-3, here"), rows)


def tied() -> Table:
    data = runs("all")
    few = data["D"] / data["U"] <= 2.5
    fit = laws.fit("chinchilla_tied", {key: values[few] for key, values in data.items()})
    here = dict(zip("abe", np.log([fit.params[k] for k in "ABE"]), strict=True), alpha=fit.params["alpha"])
    return Table(
        f"The tied law of the {int(few.sum())} runs of at most 2.5 epochs; Huber 1e-3 here {fit.value:.8f}",
        ("", "here", "published"),
        [(name, f"{here[name]:.6f}", f"{value:.6f}") for name, value in TIED.items()],
    )


def profiled(inside: Any) -> Table:
    low, high = (f"{value:.3g}" for value in (inside.min(), inside.max()))
    end = " (the end of the grid)"
    return Table(
        "R_D inside the 95 % limit of the objective's profile over R_N",
        ("from", "to"),
        [(low + end * bool(inside.min() == R_D[0]), high + end * bool(inside.max() == R_D[-1]))],
    )


def twin_losses(epochs: Any, above: Any, _: Any) -> Table:
    rows = []
    for low, high in ((1.5, 2.5), (2.5, 3.5), (3.5, 4.6), (4.6, 8), (8, 16), (16, 50), (50, 500)):
        inside = above[(epochs > low) & (epochs <= high)]
        if len(inside) > 1:
            found = over_seeds(inside.tolist())
            cells = [f"{100 * value:+.2f}" for value in (found.estimate, found.low, found.high)]
            rows.append((f"{low:g} to {high:g}", str(found.n), cells[0], f"{cells[1]} to {cells[2]}"))
    return Table(
        "Loss above that of a run of equal size and tokens, all of them new, in percent",
        ("epochs", "runs", "mean", "95 %"),
        rows,
    )


def pictures(fit: laws.Fit, surface: Any, r_d: Any, twins: tuple[Any, Any, Any]) -> dict[str, Any]:
    return {
        "Loss above that of a twin run on new tokens, by passes over the data": losses(*twins),
        "The objective over R_D and R_N, and its profile: a ridge with several minima": ridge(fit, surface),
        "What passes over the same tokens are worth, at every minimum; band: 95 % of resamples": value(
            fit, r_d
        ),
        f"Residuals at the best minimum, and of the published values (other): the held parameters leave a "
        f"median of "
        f"{100 * np.median(fit.residuals):+.1f} %": plots.residuals(fit, other=HELD | PUBLISHED),
    }


def ridge(fit: laws.Fit, surface: Any) -> Any:
    figure, ((left, right),) = canvas(1, 2, width=5)
    excess = 100 * (surface / fit.value - 1)
    levels = [0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
    filled = left.contourf(R_D, R_N, excess.T, levels=levels, cmap="viridis_r", extend="max")
    figure.colorbar(filled, ax=left, label="objective above its optimum (%)")
    for _, params in fit.minima:
        left.plot(params["R_D"], params["R_N"], "o", color=COLOURS[1], markersize=5)
    left.plot(PUBLISHED["R_D"], PUBLISHED["R_N"], "x", color="black", markersize=9)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="R_D (repetitions)",
        ylabel="R_N",
        title="dots: minima, cross: published",
    )
    left.title.set_fontsize(9)
    right.plot(R_D, excess.min(axis=1), color=COLOURS[0], label="best over R_N")
    right.axhline(100 * rise(fit, 0.95) / fit.value, color=COLOURS[1], linestyle="--", label="95 %")
    right.axvline(PUBLISHED["R_D"], color="black", linestyle=":", label="published")
    right.set(xscale="log", ylim=(0, 4), xlabel="R_D (repetitions)", ylabel="objective above its optimum (%)")
    legend(right)
    return figure


def losses(epochs: Any, above: Any, size: Any) -> Any:
    figure, ((axes,),) = canvas(width=6)
    dots = axes.scatter(epochs, 100 * above, c=np.log10(size), s=18, cmap="viridis")
    figure.colorbar(dots, ax=axes, label="log10 of the size (parameters)")
    axes.axhline(0, color="#777777", linewidth=1)
    axes.axhline(1, color=COLOURS[1], linestyle="--", label="1 %")
    axes.axvline(4, color="black", linestyle=":", label="4 epochs")
    axes.set(xscale="log", xlabel="passes over the data (epochs)", ylabel="loss above the twin's (%)")
    axes.set_yscale("symlog", linthresh=1)
    legend(axes, loc="upper left")
    return figure


def value(fit: laws.Fit, r_d: Any) -> Any:
    figure, ((axes,),) = canvas(width=6)
    epochs = np.geomspace(1, 200, 80)
    band = np.percentile(worth(epochs[:, None], r_d), (2.5, 97.5), axis=1)
    axes.fill_between(epochs, *band, color=COLOURS[0], alpha=0.18, lw=0, label="95 % of resamples")
    axes.plot(epochs, epochs, color="#777777", linewidth=1, label="new tokens")
    for (_, params), colour in zip(fit.minima, COLOURS, strict=False):
        axes.plot(epochs, worth(epochs, params["R_D"]), color=colour, label=f"R_D = {params['R_D']:.3g}")
    axes.set(
        xscale="log", yscale="log", xlabel="passes over the data (epochs)", ylabel="worth (unique tokens)"
    )
    legend(axes)
    return figure


PAPER, ABSTRACT, UNVERIFIED, OWN = "2305.16264", "abstract", "unverified", "own question"
STUDY = Study(
    name="data-constrained",
    title="What a repetition of data is worth",
    question="Is the published half-life of data, about 15 repetitions, what these runs say?",
    protocol=(
        "182 runs (outliers removed as published); A, B, E and exponents held at their published values; "
        "R_D and R_N by Huber 1e-3 of log residuals, summed, from 16 starts; every minimum within 1 % is "
        "listed.",
        "Intervals: resamples of runs, each minimised over a grid of 130 x 80 values of R_D (2 to 2,000) "
        "and R_N (.4 to 60). The grid's end bounds the interval of R_D.",
        "Twins: runs of equal size and tokens, one of them on new tokens alone; Student's interval over "
        "pairs. This measure of the claim was added after the law's (`four`) had come out unsettled.",
        "The tied law on the 62 runs of at most 2.5 epochs, as published.",
        "Simulated, one seed a table: 84 runs of 1 to 64 epochs, 1 % noise, from the published values.",
    ),
    claims=(
        Claim("epochs", "Repetitions fade with a half-life of about 15 (1 - 1/e of their worth)", PAPER,
              UNVERIFIED, "R_D; 30 would be twice the published value", "below", 30.0),
        Claim("loss", "Up to 4 epochs repeated data change the loss negligibly", PAPER, ABSTRACT,
              "share by which the loss at 3.5 to 4.6 epochs lies above a twin run's on new tokens", "below",
              0.01),
        Claim("four", "And the law says so: four passes are worth nearly four times the tokens", PAPER,
              ABSTRACT, "worth of four passes as a share of four times the tokens", "above", 0.9),
        Claim("forty", "With more repetition the value of adding compute decays to zero", PAPER, ABSTRACT,
              "worth of the 41st pass as a share of new tokens", "below", 0.25),
        Claim("faster", "Excess parameters fade faster than repeated data", PAPER, UNVERIFIED,
              "ln(R_D / R_N)"),
        Claim("decay", "A law that lets repetitions fade explains more than one that does not", PAPER,
              ABSTRACT, "R2 minus that of the law where nothing fades"),
        Claim("minimum", "The published values minimise the stated objective", PAPER, UNVERIFIED,
              "share by which the objective at them exceeds the best known one", "below", 1e-4),
        Claim("settled", "The objective has one minimum", "our own", OWN,
              "distinct minima within 1 % of the best", "below", 1.5),
        Claim("design", "A clean sweep of 1 to 64 epochs would settle it", "our own", OWN,
              "mean |ln(R_D found / true)|, simulated", "below", 0.4),
    ),
    seeds=(20, 5),
    measure=measure,
)  # fmt: skip
