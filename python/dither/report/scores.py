"""The report on a table of scores: how far each ranking can be trusted, and the examples behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.files import write_text
from dither.report import curves, html, score_pictures
from dither.report.examples import Images, read_texts
from dither.scores import ScoreTable, architecture_bias, noise_curve, overview, rank, score_correlations
from dither.scores.overview import Row, direction, scored
from dither.scores.sources import labels_of
from dither.scores.table import mean_of_ranks

SHOWN_IMAGES, SHOWN_TEXTS = 24, 12
MEANINGS = {
    "r1": "mean rank correlation (Spearman) of two runs: how far one run is a ranking",
    "half": "rank correlation between the mean ranks of two halves of the runs, measured",
    "needed": "how many runs must be averaged for a consistency of 0.95, from r1 by Spearman and Brown",
    "SNR": "variance of ranks between examples over the variance of one example's rank between runs",
    "hardest, easiest": "by the mean of the ranks within runs; the number shown is the mean value",
    "unstable": "the standard deviation of an example's rank over the runs, as a share of all examples",
}


@dataclass(frozen=True)
class Material:
    """What is known of the examples beside their scores; every file is found by id.

    groups: two names and the runs' globs of two architectures (or data, or formats) to compare."""

    images: str | None = None
    texts: str | None = None
    labels: str | None = None
    planted: str | None = None
    names: Sequence[str] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


def write(
    table: ScoreTable, out: str | Path, *, score: str | None = None, about: Material = Material()
) -> Path:
    """Write one self-contained page. score: the one that examples are shown by; by default the most reliable.

    UserError for material that cannot be read or lacks examples."""
    out = Path(out)
    write_text(out, page(table, score, about))
    return out


def page(table: ScoreTable, score: str | None, about: Material) -> str:
    rows = overview(table)
    by = score or _most_reliable(rows)
    table.having(by)  # an unknown score is refused before anything is drawn
    runs = f"{len(table.runs)} run" + ("s" if len(table.runs) != 1 else "")
    parts = [
        html.heading("Scores of examples", 1),
        html.paragraph(
            f"{len(table.ids_of_any):,} examples, {runs}" + (f", {table.data}" if table.data else ""), "lead"
        ),
    ]
    if len(table.runs) < 2:
        parts.append(
            html.warning("One run is not a ranking yet: nothing here says how far another would agree.")
        )
    parts += [html.heading("Reliability"), _reliability(rows), *_agreement(table, rows)]
    parts += _examples(table, by, about)
    parts += _noise(table, rows, about)
    parts += _bias(table, by, about)
    parts += _map(table)
    sources = [(n, _provenance(run.provenance)) for n, run in table.runs.items()]
    parts += [
        html.details("runs", html.table(("run", "where it comes from"), sources, text_columns=(0, 1))),
        html.heading("What the words mean"),
        html.terms(MEANINGS.items()),
    ]
    return html.page("Scores of examples", parts)


def _provenance(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in about.items() if value is not None)


def _most_reliable(rows: Sequence[Row]) -> str:
    """Of those whose direction is known, the one with the greatest r1; the first if nothing was measured."""
    known = [row for row in rows if row.direction in ("hard", "easy")] or list(rows)
    if not known:
        raise UserError("the table has no scores")
    return max(known, key=lambda row: row.reliability.r1 if row.reliability else -2.0).score


def _reliability(rows: Sequence[Row]) -> str:
    cells, notes = [], {}
    for row in rows:
        r = row.reliability
        measured = ("-", "-", "-", "-") if r is None else (
            f"{r.r1:.3f}", f"{r.half:.3f} ({r.half_runs} + {r.half_runs})",
            str(r.needed) if r.needed > 0 else "never", f"{r.snr:.1f}",
        )  # fmt: skip
        span = " .. ".join(f"{v:.3g}" for v in (row.low, row.median, row.high))
        cells.append((row.score, row.direction, str(row.runs), f"{row.examples:,}", span, *measured))
        ties = "many ties, so that more runs are needed than this"
        if note := row.why or (ties if r is not None and r.tied > 0.5 else ""):
            notes.setdefault(note, []).append(row.score)
    headings = (
        "score",
        "high is",
        "runs",
        "examples",
        "least .. median .. most",
        "r1",
        "half",
        "needed",
        "SNR",
    )
    said = [html.paragraph(f"{', '.join(names)}: {note}") for note, names in notes.items()]
    return html.table(headings, cells, text_columns=(0, 1)) + "".join(said)


def _agreement(table: ScoreTable, rows: Sequence[Row]) -> Iterator[str]:
    """Scores against scores, on examples that all of them have."""
    names = [row.score for row in rows if row.reliability is not None and row.runs == len(table.runs)]
    if len(names) < 2:
        return
    kept = np.flatnonzero(~np.any([np.isnan(table.values(n)).any(axis=0) for n in names], axis=0))
    if len(kept) < 2:
        return
    # Every second run: the names of runs often sort by architecture, and the halves are to be alike.
    runs = np.r_[0 : len(table.runs) : 2, 1 : len(table.runs) : 2]
    if len(runs) % 2:
        runs = np.delete(runs, len(runs) // 2)
    found, matrix = score_correlations({n: table.values(n)[runs][:, kept] for n in names})
    half = len(table.runs) // 2
    caption = (
        f"Rank correlation of every two scores, the mean of {half} runs against the mean of {half} others; "
        "the diagonal is how far a score agrees with itself"
    )
    yield html.picture(curves.png(score_pictures.agreement(found, matrix)), caption)


def _labels(about: Material, ids: np.ndarray) -> np.ndarray | None:
    return None if about.labels is None else labels_of(about.labels, ids)


def _examples(table: ScoreTable, by: str, about: Material) -> Iterator[str]:
    """Easiest, hardest, most unstable."""
    _, ids, values = scored(table, by)
    if not len(ids):
        return
    means, labels = values.mean(axis=0), _labels(about, ids)
    order = np.argsort(mean_of_ranks(values), kind="stable")
    ends = {"hard": ("Hardest", "Easiest"), "easy": ("Easiest", "Hardest")}
    high, low = ends.get(direction(by), (f"Highest {by}", f"Lowest {by}"))
    sets = {low: order, high: order[::-1]}
    spread = None
    if len(values) > 1:
        spread = np.atleast_2d(rank(values)).std(axis=0, ddof=1) / values.shape[1]
        sets["Most unstable"] = np.argsort(-spread, kind="stable")
    images = None if about.images is None else Images.read(about.images)
    shown = SHOWN_IMAGES if images is not None else SHOWN_TEXTS
    sets = {title: places[:shown] for title, places in sets.items()}
    texts = {}
    if about.texts is not None:
        every = dict.fromkeys(i for places in sets.values() for i in ids[places].tolist())
        texts = read_texts(about.texts, every)
    names = [_name(about.names, y) for y in labels.tolist()] if labels is not None else None
    for title, places in sets.items():
        yield html.heading(f"{title}, by {by}" if not title.endswith(by) else title)
        told = [f"{spread[i]:.2f}" if title.startswith("Most") and spread is not None else f"{means[i]:.3g}"
                for i in places]  # fmt: skip
        what = "deviation of the rank" if title.startswith("Most") else f"mean {by}"
        if images is not None:
            captions = [
                f"#{ids[i]}" + (f": {names[i]}" if names else "") + f"\n{value}"
                for i, value in zip(places, told, strict=True)
            ]
            drawn = score_pictures.gallery([images.of(ids[i].item()) for i in places], captions)
            over = "id, label" if names else "id"
            yield html.picture(curves.png(drawn), f"{title}: {over}, and the {what}")
        if images is None or texts:
            rows = [
                (str(ids[i]), *((names[i],) if names else ()), value, texts.get(ids[i].item(), ""))
                for i, value in zip(places, told, strict=True)
            ]
            headings = ("id", *(("label",) if names else ()), what, "text" if texts else "")
            yield html.texts(headings, rows)


def _name(names: Sequence[str], label: Any) -> str:
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else str(label)


def _noise(table: ScoreTable, rows: Sequence[Row], about: Material) -> Iterator[str]:
    """How many planted label errors each score finds."""
    if about.planted is None:
        return
    found, share = {}, 0.0
    for row in rows:
        sign = {"hard": 1.0, "easy": -1.0}.get(row.direction)
        _, ids, values = scored(table, row.score)
        planted = labels_of(about.planted, ids).astype(bool)
        if sign is not None and planted.any() and not planted.all():
            found[row.score] = noise_curve(values, planted, lambda s, sign=sign: sign * s)
            share = float(planted.mean())
    yield html.heading("Planted label errors")
    if not found:
        yield html.warning("No score of known direction, or all examples (or none) have a planted error.")
        return
    drawn = score_pictures.noise(found)
    told = f"AUC for finding them with more and more runs; {share:.1%} of the labels were changed"
    yield html.picture(curves.png(drawn), told)
    cells = [(name, f"{auc[0]:.3f}", f"{auc[-1]:.3f}", str(len(auc))) for name, auc in found.items()]
    yield html.table(("score", "AUC of one run", "of all runs", "runs"), cells)


def _bias(table: ScoreTable, by: str, about: Material) -> Iterator[str]:
    """Which examples are harder for one group of runs than for another."""
    if not about.groups:
        return
    if len(about.groups) != 2:
        raise UserError(f"two groups of runs are compared, not {len(about.groups)}")
    (a, glob_a), (b, glob_b) = about.groups.items()
    runs, ids, values = scored(table, by)
    first, second = ([r for r in runs if fnmatch(r, g)] for g in (glob_a, glob_b))
    if len(first) < 2 or len(second) < 2 or set(first) & set(second):
        raise UserError(
            f"the groups {a}={glob_a} and {b}={glob_b} need two runs each and none in common; they have "
            f"{len(first)} and {len(second)} of {', '.join(runs)}"
        )
    bias = architecture_bias(*(values[[runs.index(r) for r in group]] for group in (first, second)))
    least = _least_p(len(first), len(second), bias.permutations)
    drawn = score_pictures.manhattan(bias.p, bias.significant, least, _labels(about, ids))
    significant = int(bias.significant.sum())
    yield html.heading(f"Harder for {a} or for {b}")
    yield html.picture(
        curves.png(drawn),
        f"Permutation test of every example's rank by {by}, {len(first)} runs of {a} against "
        f"{len(second)} of {b}; {significant:,} of {len(ids):,} examples stand at a false discovery "
        f"rate of {bias.rate:g}",
    )
    apart, sign = bias.difference, -1.0 if direction(by) == "easy" else 1.0
    top = np.lexsort((-np.abs(apart), bias.p))[:SHOWN_TEXTS]  # few runs allow few values of p
    cells = [
        (str(ids[i]), a if sign * apart[i] > 0 else b, f"{abs(apart[i]):,.0f}", f"{bias.p[i]:.2g}")
        for i in top
    ]
    yield html.table(("id", "harder for", "ranks apart", "p"), cells, text_columns=(0, 1))


def _least_p(a: int, b: int, permutations: int) -> float:
    """The smallest p that the test can give: all splits counted (and their mirror images), or drawn ones."""
    if comb(a + b, a) == permutations:
        return (2 if a == b else 1) / permutations
    return 1 / (permutations + 1)


def _map(table: ScoreTable) -> Iterator[str]:
    if not {"confidence_mean", "variability"} <= set(table.scores):
        return
    mean = {n: np.nanmean(table.values(n), axis=0) for n in ("confidence_mean", "variability")}
    right = np.nanmean(table.values("correctness"), axis=0) if "correctness" in table.scores else None
    drawn = score_pictures.data_map(mean["variability"], mean["confidence_mean"], right)
    yield html.heading("Data map")
    yield html.picture(curves.png(drawn), "Every example by the mean and the deviation of p_y over training")
