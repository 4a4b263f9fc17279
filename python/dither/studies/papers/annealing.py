"""Whole loss curves under learning-rate schedules: the multi-power law (2503.12811) and the annealing law
(2408.11029) on 27 published curves, three sizes under nine schedules.

Both laws are fitted to three curves of a size and judged on the other six. Residuals of a curve follow each
other closely: the units are curves, never steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither import laws
from dither.laws import plots
from dither.laws.plots.canvas import COLOURS, canvas
from dither.studies import tables
from dither.studies.curves import SIZES, TABLE, TEST, TRAIN, WARMUP, annealing, curves, multi_power, rates
from dither.studies.measure import exact, huber, over_seeds
from dither.studies.study import Arrays, Claim, Context, Outcome, Study, Table, without_tables

NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
PUBLISHED = {
    "25": (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    "100": (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
    "400": (2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457),
}
"""Of the released code, in the order of NAMES."""
METRICS = ("R2", "mean error", "root mean square", "relative", "worst relative")
PUBLISHED_METRICS = {
    "25": (0.9988, 0.00376, 0.00465, 0.00110, 0.00409),
    "100": (0.9983, 0.00435, 0.00592, 0.00142, 0.00583),
    "400": (0.9978, 0.00484, 0.00730, 0.00168, 0.00995),
}
"""Of the released code: means over the six curves of TEST."""


def metrics(law: laws.FunctionLaw, params: dict[str, float], size: str, *, warm: bool) -> Any:
    """METRICS of every curve of TEST: (six, five)."""
    found = []
    for name in TEST:
        data = curves(size, (name,), warm=warm)
        y = data.pop("loss")
        off = law.predict(params, **data) - y
        r2 = 1 - np.sum(off**2) / np.sum((y - y.mean()) ** 2)
        share = np.abs(off / y)
        found.append((r2, np.abs(off).mean(), np.sqrt(np.mean(off**2)), share.mean(), share.max()))
    return np.array(found)


def refit(size: str, stride: int, cold: bool, table: str) -> Arrays:
    """The multi-power law at its converged optimum, from the published values (and a cold start): parameters
    in the order of NAMES, and objectives here and at the published values. table: its digest."""
    law, data = multi_power(), curves(size, TRAIN, warm=True, stride=stride)
    starts = [
        PUBLISHED[size],
        *([(PUBLISHED[size][0] + 0.1, 0.5, 0.5, 300.0, 2.0, 0.5, 0.5)] if cold else []),
    ]
    fit = laws.fit(law, data, starts=starts)
    params = law.named(PUBLISHED[size])
    at = {key: data[key] for key in ("curve", "step")}
    there = huber(law.predict(params, **at), data["loss"]).sum()
    return {"params": fit.law.vector(fit.params), "value": np.array([fit.value, there])}


def simulated(seed: int) -> float:
    """Root mean square error on six unseen schedules of the annealing law from three simulated curves (.1 %
    noise), every 128th step."""
    law, truth = annealing(), dict(L0=2.8, A=0.6, alpha=0.45, C=0.5)
    order = (*TRAIN, *TEST)

    def rows(schedules: tuple[str, ...]) -> dict[str, Any]:
        steps = [np.arange(1, len(rates(name)) - WARMUP, 128) for name in schedules]
        which = [np.full(len(s), order.index(n) + 1.0) for s, n in zip(steps, schedules, strict=True)]
        return {"curve": np.concatenate(which), "step": np.concatenate(steps).astype(float)}

    fit = laws.fit(law, law.simulate(truth, noise=0.001, seed=seed, **rows(TRAIN)))
    unseen = rows(TEST)
    return float(np.sqrt(np.mean((law.predict(fit.params, **unseen) - law.predict(truth, **unseen)) ** 2)))


def measure(context: Context) -> Outcome:
    design = over_seeds([simulated(seed) for seed in context.seeds])
    if why := tables.missing(TABLE):
        return without_tables(STUDY, why, {"design": design}, "simulated curves only")
    power, cold, anneal = multi_power(), multi_power(warm=False), annealing()
    how = {
        "stride": context.choose(1, 16),
        "cold": context.choose(True, False),
        "table": tables.digest(TABLE),
    }
    parts = {size: context.part(refit, size=size, **how) for size in SIZES}
    fits = {size: laws.fit(anneal, curves(size, TRAIN, warm=False)) for size in SIZES}
    bare = {size: laws.fit(anneal, curves(size, TRAIN, warm=False), fixed={"C": 1e-12}) for size in SIZES}
    published = {size: power.named(PUBLISHED[size]) for size in SIZES}
    scores = {
        "multi-power, published": [metrics(power, published[size], size, warm=True) for size in SIZES],
        "multi-power, converged": [
            metrics(power, power.named(parts[size]["params"]), size, warm=True) for size in SIZES
        ],
        "annealing": [metrics(anneal, fits[size].params, size, warm=False) for size in SIZES],
        "no drop": [metrics(anneal, bare[size].params, size, warm=False) for size in SIZES],
        "multi-power, published, sum after warm-up": [
            metrics(cold, published[size], size, warm=False) for size in SIZES
        ],
    }
    flat = {name: np.concatenate(values) for name, values in scores.items()}
    rms = {name: values[:, 2].tolist() for name, values in flat.items()}
    gaps = [
        abs(scores["multi-power, published"][i].mean(axis=0) - PUBLISHED_METRICS[s])
        for i, s in enumerate(SIZES)
    ]
    excess = [float(part["value"][1] / part["value"][0]) - 1 for part in parts.values()]
    found = {
        "unseen": over_seeds(flat["multi-power, published"][:, 0].tolist()),
        "annealing": over_seeds(flat["annealing"][:, 0].tolist()),
        "drop": over_seeds(rms["no drop"], rms["annealing"]),
        "better": over_seeds(rms["annealing"], rms["multi-power, published"]),
        "digits": exact(float(np.max(gaps)), 15),
        "converged": exact(min(excess), 3),
        "early": over_seeds(rms["multi-power, converged"], rms["multi-power, published"]),
        "printed": exact(float(flat["multi-power, published, sum after warm-up"][:, 1].mean()), 18),
        "neighbours": over_seeds([r for size in SIZES for r in autocorrelations(fits[size], size)]),
        "design": design,
    }
    pages = [
        compared(scores),
        optima(parts, how["stride"]),
        parameters(fits, *context.choose((SIZES, 100), (SIZES[:1], 20))),
    ]
    return Outcome(
        found, "27 loss curves: three sizes, nine schedules", pages, pictures(power, anneal, fits, rms)
    )


def autocorrelations(fit: laws.Fit, size: str) -> list[float]:
    """Correlation of neighbouring residuals of each of the nine curves."""
    found = []
    for name in (*TRAIN, *TEST):
        data = curves(size, (name,), warm=False)
        r = data.pop("loss") - fit.law.predict(fit.params, **data)
        found.append(float(np.corrcoef(r[1:], r[:-1])[0, 1]))
    return found


def compared(scores: dict[str, list[Any]]) -> Table:
    rows = []
    for name, values in scores.items():
        for size, one in zip(SIZES, values, strict=True):
            cells = [f"{value:.5f}" for value in one.mean(axis=0)]
            if name == "multi-power, published":
                cells = [f"{x} ({y})" for x, y in zip(cells, PUBLISHED_METRICS[size], strict=True)]
            rows.append((name, f"{size}M", *cells))
    return Table(
        "Six unseen schedules, means over curves; in brackets the published metrics",
        ("law", "size", *METRICS),
        rows,
    )


def optima(parts: dict[str, Arrays], stride: int) -> Table:
    rows = []
    for size, part in parts.items():
        here, there = part["value"]
        rows.append(
            (f"{size}M", f"{here:.4g}", f"{there:.4g}", *(f"{value:.4g}" for value in part["params"]))
        )
    every = "all logged steps" if stride == 1 else f"every {stride}th logged step"
    return Table(
        f"Multi-power law: Huber 1e-3 of the three training curves ({every}), and where it converges",
        ("size", "converged", "published", *NAMES),
        rows,
    )


def parameters(fits: dict[str, laws.Fit], sizes: tuple[str, ...], n: int) -> Table:
    """The annealing law from three curves, and from all nine with intervals by curve and (too narrow) by
    step."""
    rows = []
    for size in sizes:
        fit = fits[size]
        every = laws.fit(fit.law, curves(size, (*TRAIN, *TEST), warm=False))
        by_curve = every.bootstrap(n, by=every.arrays["curve"]).interval()
        by_step = every.bootstrap(n).interval()
        for name, value in fit.params.items():
            width = [ends[name][1] - ends[name][0] for ends in (by_curve, by_step)]
            rows.append((f"{size}M", name, f"{value:.4f}", f"{every.params[name]:.4f}",
                         "{:.4f} to {:.4f}".format(*by_curve[name]),
                         f"{width[0] / width[1]:.1f}"))  # fmt: skip
    return Table(
        f"Annealing law, forgetting .999 a step; Huber 1e-3 of the training curves "
        f"{', '.join(f'{fit.value:.2g}' for fit in fits.values())}",
        (
            "size",
            "",
            "three curves",
            "nine curves",
            "95 %, curves resampled",
            "width over that of resampled steps",
        ),
        rows,
    )


def pictures(
    power: Any, anneal: Any, fits: dict[str, laws.Fit], rms: dict[str, list[float]]
) -> dict[str, Any]:
    shown = {}
    for name in ("wsd_20000_24000", "cosine_72000"):
        data = curves("400", (name,), warm=True)
        at = {key: data[key] for key in ("curve", "step")}
        shown[f"400M, {name}, unseen: the multi-power law at published parameters"] = plots.schedule(
            rates(name), data["step"], data["loss"], power.predict(power.named(PUBLISHED["400"]), **at)
        )
    data = curves("400", ("wsd_20000_24000",), warm=False)
    at = {key: data[key] for key in ("curve", "step")}
    shown["400M, wsd_20000_24000, unseen: the annealing law"] = plots.schedule(
        rates("wsd_20000_24000")[WARMUP:],
        data["step"],
        data["loss"],
        anneal.predict(fits["400"].params, **at),
    )
    shown["Root mean square error on every unseen curve"] = by_curve(rms)
    return shown


def by_curve(rms: dict[str, list[float]]) -> Any:
    figure, grid = canvas(1, len(SIZES), width=3.6, sharey=True)
    names = ("multi-power, published", "multi-power, converged", "annealing")
    for i, (axes, size) in enumerate(zip(grid.flat, SIZES, strict=True)):
        for name, colour, marker in zip(names, COLOURS, ("o", "s", "^"), strict=False):
            axes.plot(rms[name][6 * i : 6 * i + 6], range(6), marker, color=colour, markersize=5, label=name)
        axes.set(title=f"{size}M", xlabel="root mean square error (nats/token)", xlim=(0, None))
        axes.locator_params(axis="x", nbins=4)
    grid.flat[0].set_yticks(range(6), TEST)
    grid.flat[0].invert_yaxis()
    shown = grid.flat[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


POWER, ANNEAL, ABSTRACT, UNVERIFIED, OWN = (
    "2503.12811", "2408.11029", "abstract", "unverified", "own question"
)  # fmt: skip
STUDY = Study(
    name="annealing",
    title="Loss curves under learning-rate schedules",
    question="Do laws of three curves predict other schedules, and at which parameters?",
    protocol=(
        "Models of 25M, 100M, 400M under nine schedules; fitted to cosine_24000, constant_24000, wsdcon_9 "
        "of a size by Huber 1e-3 of log residuals over all logged steps; judged on the other six. Quick: "
        "every 16th step.",
        "The multi-power law at published parameters, and converged from there and from a cold start; the "
        "annealing law with forgetting .999; the same without its drop term.",
        "Intervals over the 18 unseen curves (six a size), paired where laws are compared. Three curves can "
        "hold no interval of parameters; those of all nine are resampled by curve.",
        "Simulated, one seed a set: the three curves from the annealing law with .1 % noise.",
    ),
    claims=(
        Claim("unseen", "After fitting a few schedules the multi-power law predicts unseen ones", POWER,
              ABSTRACT, "R2 of a curve at published parameters", "above", 0.99),
        Claim("annealing", "So does the annealing law, with four parameters", ANNEAL, UNVERIFIED,
              "R2 of a curve", "above", 0.99),
        Claim("drop", "The term of the falling rate is needed", ANNEAL, UNVERIFIED,
              "root mean square error without it minus with it"),
        Claim("better", "The multi-power law predicts better than the annealing law", POWER, UNVERIFIED,
              "root mean square error of the annealing law minus that of the multi-power law"),
        Claim("digits", "The published metrics follow from the published parameters", POWER, UNVERIFIED,
              "largest difference of 15 metrics from them", "below", 5.5e-5),
        Claim("converged", "The published parameters minimise their objective", POWER, UNVERIFIED,
              "least share, of three sizes, by which the objective at them exceeds the optimum", "below",
              0.01),
        Claim("early", "Stopping early helped on unseen schedules", "our own", OWN,
              "root mean square error at the optimum minus at the published parameters"),
        Claim("printed", "The published parameters go with a sum over drops that begins after the warm-up",
              POWER, UNVERIFIED, "mean error of unseen curves (nats/token) with such a sum", "below", 0.01),
        Claim("neighbours", "Neighbouring residuals are not independent, so steps must not be resampled",
              "our own", OWN, "their correlation, annealing law, over 27 curves", "above", 0.5),
        Claim("design", "Three curves give unseen ones back where the law is right", "our own", OWN,
              "root mean square error (nats/token) against the truth, simulated", "below", 0.002),
    ),
    seeds=(20, 5),
    measure=measure,
)  # fmt: skip
