"""Pictures and the self-contained HTML report of a run or a comparison.

`write(directory)` writes report.html and the pictures (PNG) into it and returns the path of the page.
"""

from dither.report.write import write

__all__ = ["write"]
