"""The page of a study, from its record (study.json) and pictures, as Markdown and HTML."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dither.report import html
from dither.report.curves import COLOURS, MARKERS, colour_and_style, drawing

HEADINGS = ("claim", "source (read)", "quantity", "expected", "measured, 95 % interval", "verdict", "why")


def png(figure: Figure) -> bytes:
    """The picture as bytes of a PNG."""
    kept = io.BytesIO()
    figure.savefig(kept, format="png")
    return kept.getvalue()


def claim_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The claims as rows of text under HEADINGS."""
    return [
        [
            claim["text"], f"{claim['source']} ({claim['read']})", claim["quantity"], claim["expected"],
            measured(claim["measured"]), claim["verdict"], claim["why"],
        ]
        for claim in record["claims"]
    ]  # fmt: skip


def measured(found: Mapping[str, Any] | None) -> str:
    """An estimate with its interval in four digits, or a dash."""
    if found is None:
        return "-"
    return f"{found['estimate']:.4g} [{found['low']:.4g}, {found['high']:.4g}], n = {found['n']}"


def _lead(record: Mapping[str, Any]) -> str:
    size = "quick version" if record["quick"] else "full version"
    return f"{record['question']} ({size}, {record['seeds']} seeds; data: {record['data']})"


def markdown(record: Mapping[str, Any], captions: Sequence[str]) -> str:
    """The page as Markdown; the pictures are picture-1.png, picture-2.png, ... beside it."""
    parts = [f"# {record['title']}", _lead(record), f"    {record['command']}", "## Claims", record["rule"]]
    parts += [_table(HEADINGS, claim_rows(record)), "## Protocol"]
    parts += ["\n".join(f"- {line}" for line in record["protocol"])]
    for table in record["tables"]:
        parts += [f"## {table['title']}", _table(table["headings"], table["rows"])]
    parts += [f"![{caption}](picture-{i}.png)\n\n{caption}" for i, caption in enumerate(captions, 1)]
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def page(record: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """The page as one HTML file with its pictures inside."""
    parts = [html.heading(record["title"], 1), html.paragraph(_lead(record), "lead")]
    parts += [html.code(record["command"]), html.heading("Claims"), html.paragraph(record["rule"])]
    for row in claim_rows(record):
        parts.append(html.terms([(f"{row[5]}: {row[0]}", f"{row[1]}. {row[2]}: {row[4]}; {row[6]}.")]))
    parts += [html.heading("Pictures"), *(html.picture(image, text) for text, image in figures.items())]
    for table in record["tables"]:
        parts += [html.heading(table["title"]), html.table(table["headings"], table["rows"])]
    parts += [html.heading("Protocol"), *(html.paragraph(line) for line in record["protocol"])]
    return html.page(f"dither: {record['study']}", parts)


def intervals(rows: Mapping[str, Any], label: str, threshold: float | None = None) -> Figure:
    """A row for each measurement (.estimate, .low, .high): a point with its interval."""
    figure, axes = drawing(8, 1.2 + 0.34 * len(rows))
    for y, found in enumerate(rows.values()):
        axes.plot([found.low, found.high], [y, y], color=COLOURS[1], linewidth=2)
        axes.plot([found.estimate], [y], "o", color=COLOURS[0], markersize=5)
    if threshold is not None:
        axes.axvline(threshold, color="#777777", linewidth=0.9, linestyle="--")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    return figure


def bands(curves: Mapping[str, Mapping[float, Any]], x: str, y: str) -> Figure:
    """Lines of measurements over a setting, each with its interval; zero is marked."""
    figure, axes = drawing(8, 4)
    for look, (name, points) in enumerate(curves.items()):
        colour, style = colour_and_style(look)
        places = list(points)
        found = list(points.values())
        axes.plot(
            places, [f.estimate for f in found], color=colour, linestyle=style,
            marker=MARKERS[look % len(MARKERS)], markersize=4, label=name,
        )  # fmt: skip
        axes.fill_between(
            places, [f.low for f in found], [f.high for f in found], color=colour, alpha=0.1, linewidth=0
        )
    axes.axhline(0, color="#777777", linewidth=0.9)
    axes.set(xlabel=x, ylabel=y)
    figure.legend(frameon=False, loc="outside right upper")
    return figure
