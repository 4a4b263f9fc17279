"""The pieces of a self-contained HTML page: no script, no link to another file, light or dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --soft: #f4f4f2; --text: #1a1a1a; --quiet: #5c5c5c;
        --page: #ffffff; --warn: #fff4d6; --warn-line: #d9a400; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #262626; --text: #e8e8e8;
        --quiet: #a8a8a8; --page: #181818; --warn: #3a3010; } }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--text);
       background: var(--page); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead { color: var(--quiet); margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .75rem; text-align: right; border-bottom: 1px solid var(--line);
         white-space: nowrap; } th { white-space: pre-line; }
th { border-bottom: 2px solid var(--line); vertical-align: bottom; font-weight: 600; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.long { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; vertical-align: top; }
tr.total td { font-weight: 600; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin-left: 1.2rem; color: var(--quiet); }
figure { margin: 1rem 0; } figure img { width: 100%; max-width: 52rem; background: #fff; border-radius: 4px; }
figcaption { color: var(--quiet); font-size: .9rem; }
pre { background: var(--soft); padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; }
code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
p.warning { background: var(--warn); border-left: 4px solid var(--warn-line); padding: .6rem .9rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media print { body { max-width: none; } details { display: block; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document; `parts` are HTML fragments made by the functions below."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"


def warning(text: str) -> str:
    return paragraph(text, "warning")


def code(text: str) -> str:
    return f"<pre><code>{html.escape(text)}</code></pre>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int] = (0,)) -> str:
    """Numbers are right-aligned; the columns in `text_columns` are left-aligned. ValueError for a row of
    another length than the headings."""

    def cell(tag: str, column: int, content: str) -> str:
        kind = ' class="text"' if column in text_columns else ""
        return f"<{tag}{kind}>{html.escape(content)}</{tag}>"

    head = "".join(cell("th", i, text) for i, text in enumerate(headings))
    body = "\n".join(
        "<tr>"
        + "".join(cell("td", i, text) for i, (_, text) in enumerate(zip(headings, row, strict=True)))
        + "</tr>"
        for row in rows
    )
    rows_of = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table>\n{rows_of}</table></div>'


def texts(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose last column is text of any length, its line breaks kept."""
    head = "".join(f'<th class="text">{html.escape(text)}</th>' for text in headings)
    body = "\n".join(
        "<tr>"
        + "".join(f'<td class="text">{html.escape(cell)}</td>' for cell in row[:-1])
        + f'<td class="long">{html.escape(row[-1])}</td></tr>'
        for row in rows
    )
    rows_of = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table>\n{rows_of}</table></div>'


def terms(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of terms and what they mean."""
    return "<dl>" + "".join(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in pairs) + "</dl>"


def picture(png: bytes, caption: str) -> str:
    """A PNG inside the page; the caption is its alternative text too."""
    data, text = base64.b64encode(png).decode(), html.escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def details(summary: str, inner: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>\n{inner}\n</details>"
