"""Write the report of a directory: a comparison, or one run."""

from __future__ import annotations

from json import JSONDecodeError
from pathlib import Path
from tomllib import TOMLDecodeError

from dither.errors import UserError, require
from dither.files import disk_errors, write_text

PAGE = "report.html"


def write(directory: str | Path) -> Path:
    """Write report.html and its pictures into a run or comparison directory and return the page's path.

    Raises UserError when the directory is neither, or when the comparison is not finished.
    """
    require("matplotlib", "plot")
    from dither.report import comparison, run  # they need torch, other pages do not
    from dither.report.load import is_run, load_run

    directory = Path(directory) if Path(directory).name else Path.cwd()  # "." has no name
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; name one that dither train or dither compare wrote")
    out = directory / PAGE
    with disk_errors(out, "Free some space, then run `dither report` again."):
        try:
            if (directory / comparison.PLAN).is_file():
                text = comparison.page(directory)
            elif is_run(directory):
                text = run.page(load_run(directory))
            else:
                raise UserError(f"{directory} holds neither a run nor a comparison")
        except (JSONDecodeError, TOMLDecodeError) as error:
            raise UserError(
                f"a file of {directory} is damaged ({error}); restore it from a copy, or train again"
            ) from None
        write_text(out, text)
    return out
