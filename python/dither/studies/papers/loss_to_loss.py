"""From one loss to another: 2411.12925 on its own table of 529 runs on six corpora, and six of 1e21 FLOPs.

Each loss has a floor by a law of its own; runs of two corpora are paired by their tokens, as the released
code does; the map is a straight line between the logarithms of what lies above the floors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither import laws
from dither.laws import holdout, plots
from dither.laws.engine import Floats
from dither.laws.loss_to_loss import LossMap
from dither.report.study import intervals
from dither.studies import tables
from dither.studies.measure import Measurement, exact, jackknife, over_seeds, proportion
from dither.studies.study import Claim, Context, Outcome, Study, Table, without_tables

SWEEP, BIG = "loss-to-loss/sweep.csv", "loss-to-loss/extrapolation.csv"
CORPORA = {
    "FineWeb": "fineweb-100b", "Edu": "fineweb-edu-100b", "PP2": "proof-pile-2",
    "Slim": "slimpajama-chunk1", "Smol": "smollm-corpus", "Star": "starcoder",
}  # fmt: skip
TASKS = ("hellaswag", "arc_easy", "mmlu_humanities", "mmlu_stem")
FORMS = ("kaplan_e", "chinchilla", "gamma")
PUBLISHED = {  # R2 over all runs of the target: translated from few runs, fit to all, fit to the few
    "FineWeb": (0.990, 0.992, 0.961), "Edu": (0.990, 0.992, 0.953), "PP2": (0.988, 0.988, 0.928),
    "Slim": (0.991, 0.992, 0.975), "Smol": (0.991, 0.992, 0.947), "Star": (0.986, 0.987, 0.450),
}  # fmt: skip
TRUTH = dict(A=7e7, B=1e9, E=1.9, alpha=0.41, beta=0.45)
KAPPA = 0.95
"""Of simulated runs: near the published laws and maps."""

Runs = dict[str, Any]
"""Columns of runs as arrays."""


def corpus(name: str, loss: str = "val_loss", file: str = SWEEP) -> Runs:
    """N, D, loss of a corpus' runs; `few` marks the five or six that a law is translated with."""
    frame = tables.where(tables.read(file), data=CORPORA[name])
    n, d, y, layers = (tables.numbers(frame, key) for key in ("params", "tokens", loss, "n_layers"))
    return {"N": n, "D": d, "loss": y, "few": (d / n > 16) & (d / n < 23) & (layers != 20)}


def task(name: str) -> str:
    """The column of a test loss: cross-entropy of the right answers."""
    return f"eval/downstream_ce_loss/{name}_test_ce_loss"


def r2(y: Floats, predicted: Floats) -> float:
    return 1 - float(np.sum((y - predicted) ** 2) / np.sum((y - y.mean()) ** 2))


def recovered(seed: int) -> float:
    """The distance of kappa from the truth between 60 simulated runs on each of two corpora, .5 % noise."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 2e9, 6), np.geomspace(4e8, 3e10, 10)))
    x = laws.get("kaplan_e").simulate(TRUTH, N=n, D=d)
    y = {**x, "loss": 1.1 * (x["loss"] - TRUTH["E"]) ** KAPPA + 1.3}
    noise = np.exp(0.005 * np.random.default_rng(seed).standard_normal((2, len(n))))
    pair = [{**runs, "loss": runs["loss"] * by} for runs, by in zip((x, y), noise, strict=True)]
    return abs(laws.loss_to_loss(*pair, errors="both").kappa - KAPPA)


def measure(context: Context) -> Outcome:
    simulated = over_seeds([recovered(seed) for seed in context.seeds])
    if why := tables.missing(SWEEP, BIG):
        return without_tables(STUDY, why, {"recovered": simulated}, "simulated runs only")
    runs, big = ({name: corpus(name, file=file) for name in CORPORA} for file in (SWEEP, BIG))
    fits = {form: {name: laws.fit(form, runs[name]) for name in CORPORA} for form in FORMS}
    own = {
        form: [
            float(fit.predict(N=big[k]["N"], D=big[k]["D"])[0] / big[k]["loss"][0]) - 1
            for k, fit in by.items()
        ]
        for form, by in fits.items()
    }
    maps = {
        (y, x): laws.loss_to_loss(runs[x], runs[y], on=("D",), E_x=floor(fits, x), E_y=floor(fits, y))
        for y in CORPORA for x in CORPORA if x != y
    }  # fmt: skip
    far = {
        (y, x): float(one.predict(big[x]["loss"][0]) / big[y]["loss"][0]) - 1 for (y, x), one in maps.items()
    }
    square = np.array([[abs(far.get((y, x), np.nan)) for x in CORPORA] for y in CORPORA])
    alone = np.abs(own["kaplan_e"])

    def among(kept: np.ndarray) -> float:
        return float(np.nanmean(square[np.ix_(kept, kept)]))

    moved = translations(runs, fits["kaplan_e"])
    tests = test_maps(fits["kaplan_e"])
    held = [100 * holdout.rolling_origin(fit)[-1].bias for fit in fits["chinchilla"].values()]
    worse = [np.log(fits["kaplan_e"][k].value / fits["chinchilla"][k].value) for k in CORPORA]
    found = {
        "shape": exact(min(one.r2 for one in maps.values()), len(maps)),
        "far": jackknife(among, len(CORPORA)),
        "better": jackknife(lambda kept: float(alone[kept].mean()) - among(kept), len(CORPORA)),
        "tests": over_seeds([abs(row["predicted"] / row["actual"] - 1) for row in tests]),
        "translate": proportion(float(np.mean([one > few for one, _, few in moved.values()])), 6),
        "skyline": over_seeds([moved[k][1] for k in CORPORA], [moved[k][0] for k in CORPORA]),
        "bias": over_seeds(own["kaplan_e"]),
        "superset": over_seeds(own["gamma"]),
        "foreseen": over_seeds(held),
        "form": over_seeds(worse),
        "recovered": simulated,
    }
    pages = [errors(own, far), kappas(maps), translated(moved), tested(tests), shapes(fits, held)]
    about = f"{sum(len(r['N']) for r in runs.values())} runs on six corpora, six of 1e21 FLOPs"
    return Outcome(found, about, pages,
                   pictures(runs, big, fits, maps, far, own))  # fmt: skip


def floor(fits: dict[str, dict[str, laws.Fit]], name: str) -> float:
    return fits["kaplan_e"][name].params["E"]


def translations(runs: dict[str, Runs], fits: dict[str, laws.Fit]) -> dict[str, tuple[float, float, float]]:
    """R2 over all runs of each target: the law translated with few runs (mean of five sources), the law of
    all runs, the law of the few."""
    found = {}
    for target, data in runs.items():
        few = {key: values[data["few"]] for key, values in data.items()}
        at = {key: data[key] for key in "ND"}
        moved = []
        for source, fit in fits.items():
            if source != target:
                one = laws.loss_to_loss(runs[source], few, on=("D",), E_x=fit.params["E"], E_y="free")
                moved.append(r2(data["loss"], fit.law.predict(one.translate(fit.params), **at)))
        alone = laws.fit("kaplan_e", few).predict(far=True, **at)
        found[target] = (
            float(np.mean(moved)),
            r2(data["loss"], fits[target].predict(**at)),
            r2(data["loss"], alone),
        )
    return found


def test_maps(fits: dict[str, laws.Fit]) -> list[dict]:
    """Maps to test losses and what they say of 1e21 FLOPs: HellaSwag from Edu's models to the others', and
    from Edu's training loss to four test losses."""
    hella, source = corpus("Edu", task(TASKS[0])), corpus("Edu", task(TASKS[0]), BIG)["loss"][0]
    e_x = laws.fit("kaplan_e", hella).params["E"]
    rows = []
    for name in CORPORA:
        if name != "Edu":
            one = laws.loss_to_loss(hella, corpus(name, task(TASKS[0])), on=("D",), E_x=e_x)
            actual = corpus(name, task(TASKS[0]), BIG)["loss"][0]
            rows.append({"from": "HellaSwag, Edu", "to": f"HellaSwag, {name}", "map": one,
                         "predicted": float(one.predict(source)), "actual": float(actual)})  # fmt: skip
    trained, loss = corpus("Edu"), corpus("Edu", file=BIG)["loss"][0]
    for name in TASKS:
        one = laws.loss_to_loss(trained, corpus("Edu", task(name)), on=("D",), E_x=fits["Edu"].params["E"])
        actual = corpus("Edu", task(name), BIG)["loss"][0]
        rows.append({"from": "Edu, training", "to": f"{name}, Edu", "map": one,
                     "predicted": float(one.predict(loss)), "actual": float(actual)})  # fmt: skip
    return rows


def errors(own: dict[str, list[float]], far: dict[tuple[str, str], float]) -> Table:
    rows = []
    for i, name in enumerate(CORPORA):
        into = [value for (y, _), value in far.items() if y == name]
        rows.append((name, *(f"{100 * own[form][i]:+.2f}" for form in FORMS),
            f"{100 * np.mean(np.abs(into)):.2f}",
                     f"{100 * max(map(abs, into)):.2f}"))  # fmt: skip
    values = np.abs(list(far.values()))
    rows.append(("mean", *(f"{100 * np.mean(own[form]):+.2f}" for form in FORMS),
        f"{100 * values.mean():.2f}",
                 f"{100 * values.max():.2f}"))  # fmt: skip
    return Table(
        "Error of the predicted loss at 1e21 FLOPs, 20.7 times the sweep, in percent (published: 4.05 "
        "Kaplan + E)",
        ("corpus", *(f"own law, {form}" for form in FORMS), "maps into it, mean size", "largest"),
        rows,
    )


def kappas(maps: dict[tuple[str, str], LossMap]) -> Table:
    rows = [
        (x, *("-" if x == y else f"{maps[y, x].kappa:.6f}, {maps[y, x].K:.6f}" for y in CORPORA))
        for x in CORPORA
    ]
    return Table("kappa, K of the maps from a row's corpus to a column's", ("from", *CORPORA), rows)


def translated(moved: dict[str, tuple[float, float, float]]) -> Table:
    rows = [
        (
            name,
            *(f"{here:.3f} ({there:.3f})" for here, there in zip(moved[name], PUBLISHED[name], strict=True)),
        )
        for name in CORPORA
    ]
    return Table(
        "R2 over all runs of the target, here (published). The few are five or six runs for five "
        "parameters: their own law has many optima, and ours need not be the published one",
        ("target", "translated with the few", "law of all runs", "law of the few"),
        rows,
    )


def tested(rows: list[dict]) -> Table:
    return Table(
        "Maps to test losses, and 1e21 FLOPs",
        ("from", "to", "kappa", "K", "E_y", "predicted", "measured"),
        [
            (row["from"], row["to"], f"{row['map'].kappa:.2f}", f"{row['map'].K:.2f}",
                f"{row['map'].E_y:.2f}",
             f"{row['predicted']:.4f}", f"{row['actual']:.4f}")
            for row in rows
        ],
    )  # fmt: skip


def shapes(fits: dict, held: list[float]) -> Table:
    rows = []
    for i, name in enumerate(CORPORA):
        values = [fits[form][name].value / len(fits[form][name].loss) for form in FORMS]
        rows.append((name, *(f"{value:.6g}" for value in values),
            f"{fits['gamma'][name].params['gamma']:.2f}",
                     f"{held[i]:+.2f}"))  # fmt: skip
    return Table(
        "Mean Huber 1e-3 of the laws of each corpus, and the error of the largest budget from the others "
        "(Chinchilla, %)",
        ("corpus", *FORMS, "gamma", "last budget held out"),
        rows,
    )


def pictures(runs, big, fits, maps, far, own) -> dict:
    stars = {(y, x): (big[x]["loss"][0], big[y]["loss"][0]) for y, x in maps}
    target = runs["PP2"]
    few = {key: values[target["few"]] for key, values in target.items()}
    at, source = {key: target[key] for key in "ND"}, fits["kaplan_e"]["Edu"]
    one = laws.loss_to_loss(runs["Edu"], few, on=("D",), E_x=source.params["E"], E_y="free")
    predicted = {
        "translated": source.law.predict(one.translate(source.params), **at),
        "all runs": fits["kaplan_e"]["PP2"].predict(**at),
        "the few": laws.fit("kaplan_e", few).predict(far=True, **at),
    }
    ranges = {}
    for i, name in enumerate(CORPORA):
        ranges[f"{name}, own law"] = exact(100 * own["kaplan_e"][i], 1)
        into = [100 * value for (y, _), value in far.items() if y == name]
        ranges[f"{name}, maps"] = Measurement(float(np.mean(into)), min(into), max(into), len(into), 0)
    return {
        "Train to train: rows are targets, columns sources; star: 1e21 FLOPs": plots.loss_to_loss(
            maps, stars=stars
        ),
        "Proof Pile 2 by a law translated from Edu, its own, and that of the few": plots.translated(
            target["loss"], predicted
        ),
        "Error at 1e21 FLOPs: own law, and maps into the corpus (mean and range of five sources)": intervals(
            ranges, "predicted / measured - 1 (%)", 0
        ),
        "FineWeb, Chinchilla's form: the bias is seen before the large run": plots.extrapolation(
            fits["chinchilla"]["FineWeb"]
        ),
    }


PAPER, ABSTRACT, UNVERIFIED, OWN = "2411.12925", "abstract", "unverified", "own question"
STUDY = Study(
    name="loss-to-loss",
    title="From one loss to another",
    question="Do maps between losses predict better than laws of one corpus, and with how many runs?",
    protocol=(
        "529 runs on six corpora, 2e17 to 4.84e19 FLOPs; floors by a Kaplan + E law of each loss; Huber "
        "1e-3 of log residuals, summed; pairs by equal tokens; least squares of ln(L_y - E_y) on ln(L_x - "
        "E_x).",
        "Held out: a run of 3.3B parameters and 1e21 FLOPs on each corpus. A map predicts the target's loss "
        "from the source's measured one.",
        "A law is translated with the five or six runs of 16 to 23 tokens a parameter, the target's floor "
        "free. Targets are counted, for a law of five parameters on as many runs may be off without bound. "
        "The paper names no size of a good prediction: 3 % of the loss is our choice.",
        "Intervals: Student's over corpora, or the jackknife over corpora where maps between them share "
        "runs.",
        "Simulated: 60 runs a corpus, .5 % noise, kappa .95, errors in both losses.",
    ),
    claims=(
        Claim("shape", "Losses of two corpora follow a shifted power law of each other", PAPER, ABSTRACT,
              "smallest R2 of 30 train-to-train maps", "above", 0.99),
        Claim("far", "Predictions extrapolate well at 20 times the compute", PAPER, ABSTRACT,
              "mean size of the relative error of 30 maps at 1e21 FLOPs", "below", 0.03),
        Claim("better", "Maps predict better than extrapolated laws of one corpus", PAPER, ABSTRACT,
              "own law's relative error minus the maps', at 1e21 FLOPs"),
        Claim("tests", "The same holds from training to test losses and between test losses", PAPER, ABSTRACT,
              "mean size of the relative error of nine such maps from Edu, at 1e21 FLOPs", "below", 0.03),
        Claim("translate", "A law translated with five or six runs beats a law of these runs alone", PAPER,
              UNVERIFIED, "share of targets where its R2 over all runs is larger", "above", 0.5),
        Claim("skyline", "It comes close to a law of all runs", PAPER, UNVERIFIED,
              "R2 of the law of all runs minus that of the translated one", "below", 0.01),
        Claim("bias", "Laws of one corpus predict too high", "our own", OWN,
              "signed relative error at 1e21 FLOPs, Kaplan + E"),
        Claim("superset", "Also where the form is freed (gamma)", "our own", OWN,
              "signed relative error at 1e21 FLOPs, the superset of both forms"),
        Claim("foreseen", "The sweep shows it before: its largest budget is predicted too high", "our own",
              OWN, "signed error in percent of the largest budget from the smaller ones, Chinchilla's form"),
        Claim("form", "The form with the algebra, Kaplan + E, fits worse than Chinchilla's", "our own", OWN,
              "ln of the ratio of their objectives"),
        Claim("recovered", "A map between simulated corpora has its exponent back", "our own", OWN,
              "mean distance of kappa from the truth", "below", 0.05),
    ),
    seeds=(20, 5),
    measure=measure,
)  # fmt: skip
