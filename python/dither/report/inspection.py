"""The page of `dither inspect --html`: the heat map of tensors and formats, the formats, the mix, what
hurts."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from dither.checkpoints.inspection import Finding, Inspection
from dither.report.html import details, heading, paragraph, table, terms
from dither.report.html import page as whole_page

# ratio of signal to noise in dB and its colour: red hurts, blue is harmless, also for the colour-blind
STOPS = ((8, (165, 0, 38)), (14, (221, 94, 67)), (20, (253, 219, 160)), (28, (214, 230, 236)),
         (36, (116, 173, 209)), (48, (49, 84, 149)))  # fmt: skip

STYLE = """
table.heat { border-collapse: separate; border-spacing: 2px; }
table.heat th, table.heat td { border: 0; padding: .18rem .5rem; font-size: .82rem; }
table.heat td.cell { text-align: right; min-width: 3.2rem; border-radius: 2px; }
table.heat td.pick { outline: 3px solid var(--text); outline-offset: -2px; font-weight: 700; }
table.heat thead th { position: sticky; top: 0; background: var(--page); }
.key { display: flex; gap: 2px; margin: .6rem 0; } .key span { padding: .15rem .6rem; font-size: .82rem; }
table.grid td.cell { min-width: 1.5rem; padding: .1rem .25rem; font-size: .72rem; text-align: center; }
.grids { margin-bottom: .6rem; display: flex; flex-wrap: wrap; gap: 1.2rem; }
body { max-width: 72rem; }
"""


def colour(value: float) -> tuple[int, int, int]:
    """Between the stops linearly in dB."""
    if value <= STOPS[0][0]:
        return STOPS[0][1]
    for (a, low), (b, high) in pairwise(STOPS):
        if value <= b:
            t = (value - a) / (b - a)
            r, g, blue = (round(x + t * (y - x)) for x, y in zip(low, high, strict=True))
            return r, g, blue
    return STOPS[-1][1]


def _style(value: float) -> str:
    r, g, b = colour(value)
    ink = "#111" if 0.299 * r + 0.587 * g + 0.114 * b > 130 else "#fff"
    return f"background:rgb({r},{g},{b});color:{ink}"


def _cell(value: float, pick: bool, tip: str, digits: int = 1) -> str:
    kind = "cell pick" if pick else "cell"
    text = f"{value:.{digits}f}" if value != float("inf") else "exact"
    return f'<td class="{kind}" style="{_style(value)}" title="{html.escape(tip)}">{text}</td>'


def _tip(f: Finding, name: str) -> str:
    e = f.effects[name]
    shares = f"{e.underflowed:.2%} become 0, {e.clipped:.2%} clipped"
    return f"{f.name} in {name}: {e.sqnr_db:.2f} dB, {e.nbytes:,} bytes, {shares}"


def heat_map(found: Inspection) -> str:
    """One row a tensor, one column a format; what the mix picks has a frame."""
    picks = found.mix.formats if found.mix else {}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["tensor", "shape", *found.formats, "crest"])
    rows = []
    for f in found.measured:
        cells = "".join(
            _cell(f.effects[name].sqnr_db, picks.get(f.name) == name, _tip(f, name)) for name in found.formats
        )
        first = f'<td class="text">{html.escape(f.name)}</td><td>{"×".join(map(str, f.shape))}</td>'
        rows.append(f"<tr>{first}{cells}<td>{f.crest:.1f}</td></tr>")
    return (
        f'<div class="scroll"><table class="heat"><thead><tr>{head}</tr></thead>\n<tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def key() -> str:
    spans = "".join(
        f'<span style="{_style(db)}">{db}{" dB" if i == 0 else ""}</span>' for i, (db, _) in enumerate(STOPS)
    )
    return (
        f'<div class="key" role="img" aria-label="colours of the signal to noise ratio in dB">{spans}</div>'
    )


def layer_grids(found: Inspection) -> str:
    """A small map for each format: layers down, kinds of weight across. Empty where names have no layer
    numbers."""
    places: dict[tuple[int, str], Finding] = {}
    for f in found.measured:
        if match := re.fullmatch(r"(.*?)\.(\d+)\.(.*)", f.name):
            places[int(match[2]), f"{match[1]}.#.{match[3]}"] = f
    layers = sorted({layer for layer, _ in places})
    kinds = list(dict.fromkeys(kind for _, kind in places))
    if len(layers) < 2 or len(places) != sum(
        1 for layer in layers for kind in kinds if (layer, kind) in places
    ):
        return ""
    letters = [chr(ord("A") + i) if i < 26 else str(i) for i in range(len(kinds))]
    grids = []
    for name in found.formats:
        head = "".join(f"<th>{letter}</th>" for letter in letters)
        rows = []
        for layer in layers:
            cells = "".join(
                _cell(f.effects[name].sqnr_db, False, _tip(f, name), 0)
                if (f := places.get((layer, kind))) is not None
                else "<td></td>"
                for kind in kinds
            )
            rows.append(f"<tr><th>{layer}</th>{cells}</tr>")
        body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        grids.append(f'<div><b>{html.escape(name)}</b><table class="heat grid">{body}</table></div>')
    names = ", ".join(
        f"{letter}: {kind.split('.#.')[1]}" for letter, kind in zip(letters, kinds, strict=True)
    )
    return f'<div class="grids">{"".join(grids)}</div>' + paragraph(f"Rows are layers. {names}.")


def page(found: Inspection) -> str:
    """The whole document. It loads nothing and runs no script."""
    measured = found.measured
    weights = sum(_count(f.shape) for f in measured)
    lead = (
        f"{len(measured)} of {len(found.findings)} tensors measured, {weights:,} weights; "
        f"{found.nbytes:,} bytes in all, in {found.source}."
    )
    parts = [
        f"<style>{STYLE}</style>",
        heading(f"What formats do to {Path(found.source).name}", 1),
        paragraph(lead, "lead"),
        heading("Formats"),
        _formats(found, weights),
        *_mix(found),
        heading("Heat map: signal to quantization noise of every tensor"),
        key(),
    ]
    if grids := layer_grids(found):
        parts += [grids]
    parts += [heat_map(found), heading("The tensors that hurt"), _worst(found), *_left(found), _words()]
    return whole_page(f"dither inspect {found.source}", parts)


def _count(shape: Sequence[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _formats(found: Inspection, weights: int) -> str:
    rows = []
    for name in found.formats:
        nbytes = sum(f.effects[name].nbytes for f in found.measured)
        worst = found.worst(name, 1)
        low = f"{worst[0].name} ({worst[0].effects[name].sqnr_db:.1f} dB)" if worst else "-"
        bits = f"{nbytes * 8 / weights:.2f}" if weights else "-"
        rows.append((name, bits, f"{found.bytes_in(name):,}", f"{found.overall_db(name):.1f}", low))
    headings = ("format", "bits a weight", "bytes of the checkpoint", "SQNR dB, all", "lowest")
    return table(headings, rows, text_columns=(0, 4))


def _mix(found: Inspection) -> list[str]:
    m = found.mix
    if m is None:
        return []
    counts = [(name, list(m.formats.values()).count(name)) for name in found.formats]
    used = ", ".join(f"{n} tensors in {name}" for name, n in counts if n)
    left = f", {len(m.kept)} left as they are" if m.kept else ""
    sure = (
        "This is the optimum."
        if m.result.exact
        else f"Not proved to be the best: none is below {m.result.bound:.4g}."
    )
    objective = (
        "the sum over tensors of squared error over squared size (the relative error of each layer's output, "
        "for "
        "inputs that are white noise)"
        if m.objective == "relative"
        else "the sum of squared errors"
    )
    return [
        heading(f"The best mix under {m.budget:,} bytes"),
        paragraph(
            f"{used}{left}: {m.nbytes:,} bytes. It minimises {objective}: {m.result.error:.4g}. {sure}"
        ),
        paragraph("Its picks have a frame in the heat map."),
    ]


def _worst(found: Inspection) -> str:
    rows = []
    for name in found.formats:
        for f in found.worst(name, 3):
            e = f.effects[name]
            row = (name, f.name, f"{e.sqnr_db:.1f}", f"{f.crest:.1f}", f"{f.kurtosis:.1f}")
            rows.append((*row, f"{e.underflowed:.2%}", f"{e.clipped:.2%}"))
    headings = ("format", "tensor", "SQNR dB", "crest", "kurtosis", "become 0", "clipped")
    return table(headings, rows, text_columns=(0, 1))


def _left(found: Inspection) -> list[str]:
    rows = [
        (f.name, "×".join(map(str, f.shape)), f.dtype, f.reason or "")
        for f in found.findings
        if not f.effects
    ]
    if not rows:
        return []
    return [
        details(
            f"{len(rows)} tensors left as they are", table(("tensor", "shape", "dtype", "why"), rows, (0, 3))
        )
    ]


def _words() -> str:
    pairs = (
        (
            "SQNR",
            "ratio of signal to quantization noise, 10 log10 (sum x² / sum (x - y)²); each bit more gives "
            "about 6 dB",
        ),
        (
            "crest",
            "largest magnitude over the root mean square; a normal distribution of this size has 4 to 5",
        ),
        ("kurtosis", "3 for a normal distribution; more means outliers, which cost blocks their resolution"),
    )
    return heading("Words") + terms(pairs)
