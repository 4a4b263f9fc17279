"""Laws of our own small runs on code, reference and prose, in bits per byte.

Is a floor identified at all, and do laws (2203.15556) and maps between corpora (2411.12925) predict larger
runs? The runs stand in `dither.studies.tiny_runs`, what is computed from them in `corpora_laws`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither import laws
from dither.laws import plots
from dither.laws.sensitivity import sensitivities, shown
from dither.studies import corpora_laws
from dither.studies.corpora_laws import RIVALS, Corpus, Errors
from dither.studies.measure import Measurement, over_seeds
from dither.studies.study import Claim, Context, Outcome, Study, Table
from dither.studies.texts import CORPORA
from dither.studies.tiny_runs import best_rates, runs, same_cell, table

SIMULATED = {"A": 22.0, "B": 540.0, "E": 1.2, "alpha": 0.4, "beta": 0.5}
"""A law whose losses are of the size of ours."""


def measure(context: Context) -> Outcome:
    trained_runs, tried = runs(context)
    corpora = [
        corpora_laws.corpus(name, table(kinds["fit"]), table(kinds["held"]))
        for name, kinds in trained_runs.items()
    ]
    again = {
        name: table([row for row in kinds["fit"] + kinds["again"] if same_cell(row, kinds["again"][0])])[
            "loss"
        ]
        for name, kinds in trained_runs.items()
    }
    total = sum(len(rows) for kinds in trained_runs.values() for rows in kinds.values())
    return analyse(corpora, again, tried, total, *context.choose((1000, 40), (200, 4)))


def analyse(
    corpora: list[Corpus],
    again: Mapping[str, np.ndarray],
    tried: Mapping[int, Mapping[float, float]],
    total: int,
    replicates: int,
    sweeps: int,
) -> Outcome:
    """Everything that follows from the runs. again: losses of one cell under other seeds, by corpus."""
    exponent, exponents = corpora_laws.mean_exponent(corpora, replicates)
    direct = {one.name: corpora_laws.direct(one) for one in corpora}
    naive = {one.name: corpora_laws.naive(one) for one in corpora}
    pairs = [(x, y) for x in corpora for y in corpora if x is not y]
    by_map = {(x.name, y.name): corpora_laws.mapped(x, y) for x, y in pairs}
    by_translation = {(x.name, y.name): corpora_laws.translated(x, y) for x, y in pairs}
    by_few = {one.name: corpora_laws.direct_few(one) for one in corpora}
    best = {name: np.min([e.relative for e in ways.values()], axis=0) for name, ways in naive.items()}

    def onto(errors: Mapping[tuple[str, str], Errors]) -> list[float]:
        """Of every corpus, the mean over its held-out runs and the corpora they are predicted from."""
        return [
            float(np.mean([e.relative for (_, to), e in errors.items() if to == y.name])) for y in corpora
        ]

    # The held-out runs of a corpus share a law, and its error: corpora are what an interval counts.
    own = [float(np.mean(e.relative)) for e in direct.values()]
    found: dict[str, Measurement | str] = {f"E-{one.name}": corpora_laws.floor(one) for one in corpora}
    found |= {
        "predicts": over_seeds(own),
        "reducible": over_seeds([float(np.mean(e.reducible)) for e in direct.values()]),
        "naive": over_seeds(own, [float(np.mean(values)) for values in best.values()]),
        "exponent": exponent,
        "map": over_seeds(onto(by_map)),
        "map-better": over_seeds(onto(by_map), own),
        "few": over_seeds(onto(by_translation), [float(np.mean(e.relative)) for e in by_few.values()]),
    }
    kappas = corpora_laws.maps(corpora)
    pages = [
        Table(
            "Is E identified? 95 % profile interval of the law of the smaller runs (bits per byte)",
            ("corpus", "E", "from", "to", "E = 0", "least loss seen", "identified", "why not calibrated"),
            [corpora_laws.floor_row(one) for one in corpora],
        ),
        power_table(corpora[0].fit, sweeps),
        fit_table(corpora, exponents),
        held_table(corpora, direct, naive),
        rival_table(corpora),
        sensitivity_table(corpora),
        map_table(kappas, by_map, by_translation, direct, by_few),
        seed_table(corpora, again),
        Table(
            "The pilot on code: final loss (nats a token) by width and learning rate; the rule gives "
            + ", ".join(f"{rate:g} at {width}" for width, rate in best_rates(tried).items()),
            ("width", *(f"{rate:g}" for rate in next(iter(tried.values())))),
            [(str(width), *(f"{loss:.4f}" for loss in curve.values())) for width, curve in tried.items()],
        ),
    ]
    return Outcome(
        found, f"{total} runs on {', '.join(one.name for one in corpora)}, and a pilot of "
               f"{sum(map(len, tried.values()))}", pages, pictures(corpora, kappas),
    )  # fmt: skip


def power_table(cells: corpora_laws.Runs, sweeps: int) -> Table:
    rows = []
    for noise in (0.03, 0.01, 0.003, 0.001):
        found = corpora_laws.power(cells, SIMULATED, noise, sweeps)
        rows.append((f"{noise:.1%}", f"{found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}]"))
    return Table(
        f"What would identify it: share of {sweeps} simulated sweeps of these cells that identify a floor of "
        f"{SIMULATED['E']}, by the noise of L",
        ("noise", "identified"),
        rows,
    )


def fit_table(corpora: list[Corpus], exponents: Mapping[str, Measurement]) -> Table:
    rows = []
    for one in corpora:
        c, p = one.law.certificate, one.law.params
        rows.append(
            (one.name, str(len(one.fit["loss"])),
             *(f"{p[name]:.4g}" for name in ("A", "B", "E", "alpha", "beta")),
             str(exponents[one.name]), f"{np.std(one.law.residuals):.2%}",
             f"{'minimum' if c.is_minimum else c.ending}, {c.hit_rate:.0%} of {c.starts} starts, condition "
             f"{c.condition:.1e}", "; ".join(one.law.cautions) or "-")
        )  # fmt: skip
    return Table(
        "L = E + A N^-alpha + B D^-beta (bits per byte), least squares of ln L; a = beta / (alpha + beta) "
        "with resampled cells",
        ("corpus", "runs", "A", "B", "E", "alpha", "beta", "a", "sd of residuals", "certificate", "cautions"),
        rows,
    )


def held_table(
    corpora: list[Corpus], direct: Mapping[str, Errors], naive: Mapping[str, Mapping[str, Errors]]
) -> Table:
    rows = []
    for one in corpora:
        most = float((one.fit["N"] * one.fit["D"]).max())
        errors = direct[one.name]
        for i, truth in enumerate(one.held["loss"]):
            n, d = one.held["N"][i], one.held["D"][i]
            rows.append(
                (one.name, f"{n:,.0f}", f"{d:,.0f}", f"{n * d / most:.1f}x", f"{truth:.4f}",
                 f"{errors.off[i]:+.4f}", f"{errors.relative[i]:.2%}", f"{errors.reducible[i]:.1%}",
                 *(f"{by.off[i]:+.4f}" for by in naive[one.name].values()))
            )  # fmt: skip
    return Table(
        "Held-out larger runs: predicted minus measured bits per byte",
        ("corpus", "N", "D", "compute", "measured", "law", "of L", "of L - E", "last loss", "power law of C"),
        rows,
    )


def rival_table(corpora: list[Corpus]) -> Table:
    ways = {name: (name, None) for name in RIVALS}
    ways |= {f"{name}, E = 0": (name, {"E": 0.0}) for name in ("chinchilla", "kaplan_e")}
    rows = []
    for label, (law, fixed) in ways.items():
        errors = [corpora_laws.direct(one, law, fixed) for one in corpora]
        rows.append((label, *(f"{e.relative.mean():.2%}, {e.off.mean():+.4f}" for e in errors)))
    return Table(
        "Competing laws: mean relative error and mean of predicted minus measured on the held-out runs",
        ("law", *(one.name for one in corpora)),
        rows,
    )


def sensitivity_table(corpora: list[Corpus]) -> Table:
    found = [sensitivities(one.law) for one in corpora]
    rows = [
        (
            choice,
            *(", ".join(shown(by[choice], name) for name in ("E", "alpha", "beta")) for by in found),
        )
        for choice in found[0]
    ]
    return Table("Other choices: E, alpha, beta", ("choice", *(one.name for one in corpora)), rows)


def map_table(
    kappas: Mapping[tuple[str, str], tuple[laws.LossMap, Measurement | str]],
    by_map: Mapping[tuple[str, str], Errors],
    by_translation: Mapping[tuple[str, str], Errors],
    direct: Mapping[str, Errors],
    by_few: Mapping[str, Errors],
) -> Table:
    rows = []
    for (x, y), (found, kappa) in kappas.items():
        rows.append(
            (f"{x} to {y}", str(kappa), f"{found.K:.3f}", f"{found.E_x:.3f}, {found.E_y:.3f}",
             f"{found.r2:.4f}",
             f"{by_map[x, y].relative.mean():.2%}", f"{direct[y].relative.mean():.2%}",
             f"{by_translation[x, y].relative.mean():.2%}", f"{by_few[y].relative.mean():.2%}")
        )  # fmt: skip
    return Table(
        "Loss to loss: L_y = K (L_x - E_x)^kappa + E_y, kappa with the interval of leaving cells out; mean "
        f"relative errors on the held-out runs, where {corpora_laws.FEW} are the runs of y that a "
        "translation or a fit of its own gets",
        ("map", "kappa", "K", "E_x, E_y", "R2", "by the map", "law of y", f"translated, {corpora_laws.FEW}",
         f"law of y, {corpora_laws.FEW}"),
        rows,
    )  # fmt: skip


def seed_table(corpora: list[Corpus], again: Mapping[str, np.ndarray]) -> Table:
    rows = []
    for one in corpora:
        losses = again[one.name]
        sd = float(losses.std(ddof=1))
        noise = float(np.std(one.law.residuals) * np.sqrt(len(one.fit["loss"]) / (len(one.fit["loss"]) - 5)))
        rows.append(
            (one.name, str(len(losses)), f"{losses.mean():.4f}", f"{sd:.4f}", f"{sd / losses.mean():.2%}",
             f"{noise / (sd / losses.mean()):.1f}")
        )  # fmt: skip
    return Table(
        "One cell under other seeds (weights and order): bits per byte",
        ("corpus", "runs", "mean", "sd", "of L", "sd of the law's residuals over it"),
        rows,
    )


def pictures(corpora: list[Corpus], kappas: Mapping[tuple[str, str], tuple[laws.LossMap, Any]]) -> dict:
    panels = plots.loss_to_loss(
        {(y, x): found for (x, y), (found, _) in kappas.items()},
        stars={
            (y.name, x.name): (float(x.held["loss"][0]), float(y.held["loss"][0]))
            for x in corpora for y in corpora if x is not y
        },
    )  # fmt: skip
    for axes in panels.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_label_text(axis.get_label_text().replace("nats/token", "bits per byte"))
    profiles = {
        f"{one.name}: the objective's optimum over E, with the limit of the 95 % interval": plots.profiles(
            one.law, ["E"]
        )
        for one in corpora
    }
    contours = {
        f"{one.name}: the fitted loss, the runs, and those held out": plots.contours(one.law, held=one.held)
        for one in corpora
    }
    for figure in contours.values():
        for axes in figure.axes:
            axes.set_ylabel(axes.get_ylabel().replace("nats/token", "bits per byte"))
    return {
        **profiles,
        **contours,
        "Losses of the same cells on two corpora; stars are the first held-out run": panels,
    }


OWN, MAPS = ("our own", "own question"), ("2411.12925", "abstract")
STUDY = Study(
    name="tiny-laws",
    title="Laws of our own small runs on code, reference and prose",
    question="Is a floor identified, do laws predict larger runs, and does one corpus tell about another?",
    protocol=(
        "Code: the running Python's standard library; reference: WordNet's words and glosses; prose: the "
        "World English Bible. Bytes as tokens, bits per byte of held-out documents (a tenth; whole top-level "
        "packages for code).",
        "42 runs that laws see, 14 a corpus: sizes of 8,288 to 123,328 parameters (embedding, which is the "
        "head, included), 60,000 to 2,000,000 tokens, 0.5 to 241 tokens a parameter; 9 held out at up to 3 "
        "times the largest compute seen; 4 more seeds of one cell a corpus. Quick: 9, 1 and 4 a corpus.",
        "AdamW (.9, .99), 512 tokens a step, cosine to a tenth over each run's own length, warm-up a tenth. "
        "Learning rate by width from a pilot on code: four rates for the least and the largest width, the "
        "vertex of a parabola for each, a line of ln rate over ln width.",
        "Laws: least squares of ln L, projected starts, certified. E: profile likelihood; identified where "
        "both ends are bounded and E = 0 is rejected. Intervals of errors: over the three "
        "corpora, since the held-out runs of one share its law; of kappa: "
        "jackknife over cells; of a: cells resampled.",
        f"Maps: floors by kaplan_e laws of the smaller runs. Translations get {corpora_laws.FEW} runs of the "
        "target, spread over compute.",
    ),
    claims=(
        *(
            Claim(f"E-{name}", f"The floor of {name} is above 0, as these runs show", *OWN,
                  "E in bits per byte, profile interval")
            for name in CORPORA
        ),
        Claim("predicts", "The law predicts runs of up to 3 times the compute", *OWN,
              "mean relative error of the loss, held-out runs", "below", 0.02),
        Claim("reducible", "Also as a share of what can be reduced", *OWN, "mean error over L - "
              "E", "below", 0.1),
        Claim("naive", "It predicts better than the best of two naive ways", *OWN,
              "relative error minus the smaller one of last loss and power law of C", "below"),
        Claim("exponent", "The optimal size grows more slowly than C^.73, the exponent of 2001.08361",
              "2203.15556", "unverified", "a = beta / (alpha + beta), mean over the corpora", "below", 0.73),
        Claim("map", "Shifted power laws map train losses between corpora, and extrapolate", *MAPS,
              "mean relative error on held-out runs, by the map", "below", 0.02),
        Claim("map-better", "Maps can predict better than extrapolated laws of one corpus", *MAPS,
              "relative error by the map minus by the corpus's own law", "below"),
        Claim("few", "A law translated with a few runs of the target beats one fitted to these", "2411.12925",
              "unverified", "relative error, translated minus fitted", "below"),
    ),
    seeds=(5, 5),
    measure=measure,
)  # fmt: skip
