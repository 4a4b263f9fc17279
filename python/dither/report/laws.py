"""The page of a fit of a scaling law: its card, its cautions, its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dither.errors import UserError
from dither.files import disk_errors, replacing, write_text
from dither.laws import Fit, plots
from dither.report import curves, html
from dither.report.write import PAGE


def write(fit: Fit, folder: str | Path, *, notes: tuple[str, ...] = (), **of_runs: Any) -> Path:
    """Write report.html and the pictures of a fit into `folder` (made if need be); returns the page's path.

    notes: warnings beside the fit's own. of_runs: as `dither.laws.plots.of_fit` takes them. UserError where
    nothing can be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the pictures")
    with disk_errors(folder / PAGE, "Free some space, or name another folder."):
        folder.mkdir(parents=True, exist_ok=True)
        pictures = []
        for name, caption, figure in plots.of_fit(fit, **of_runs):
            if figure is None:
                pictures.append(html.paragraph(f"No picture of {name}: {caption}"))
                continue
            data = curves.png(figure)
            with replacing(folder / f"{name}.png") as aside:
                aside.write_bytes(data)
            pictures.append(html.picture(data, caption))
        write_text(folder / PAGE, html.page(f"Fit of {fit.law.name}", [*_text(fit, notes), *pictures]))
    return folder / PAGE


def _text(fit: Fit, notes: tuple[str, ...]) -> list[str]:
    rows = [(p.name, f"{fit.params[p.name]:.6g}", p.meaning) for p in fit.law.parameters]
    return [
        html.heading(f"Fit of {fit.law.name}", 1),
        html.paragraph(f"{fit.law.formula} ({fit.law.source})", "lead"),
        *(html.warning(text) for text in (*fit.cautions, *notes)),
        html.table(("parameter", "value", "meaning"), rows, (0, 2)),
        html.code(str(fit)),
        html.heading("Pictures"),
    ]
