"""The table `make bench-numbers` ends with: a row for every figure, with its goal and whether it passes."""

from __future__ import annotations

from dataclasses import dataclass

from goals import Goal


@dataclass(frozen=True)
class Times:
    """Seconds over the rounds of a measurement."""

    least: float
    median: float

    def __str__(self) -> str:
        return f"{1e3 * self.least:>9.3f}{1e3 * self.median:>9.3f}"


@dataclass(frozen=True)
class Row:
    """`figure` (of the minima) decides, `median` stands beside it; `of` says of what to what they are."""

    group: str
    of: str
    job: str
    times: Times
    base: Times
    figure: float
    median: float
    goal: Goal | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        return "" if self.goal is None else self.goal.verdict(self.figure)

    def __str__(self) -> str:
        goal = f"{'':>12}" if self.goal is None else f"{self.goal.goal:>6.2f}{self.goal.fail:>6.2f}"
        figures = f"{self.figure:>8.2f}{self.median:>7.2f}"
        note = f"  ({self.note})" if self.note else ""
        return f"{self.job:<44}{self.times}{self.base}{figures}{goal}  {self.verdict}{note}"


ROWS: list[Row] = []


def record(row: Row) -> Row:
    """Put a row into the table and show it; fails the test that measured it where the row fails."""
    ROWS.append(row)
    print(f"\n{row.group}: {row}", end="", flush=True)
    assert row.verdict != "FAIL", row
    return row


def text(rows: list[Row]) -> str:
    """The table, and how many rows pass."""
    head = f"{'times in ms':<44}{'min':>9}{'median':>9}{'base min':>9}{'median':>9}"
    lines = [f"{head}{'figure':>8}{'median':>7}{'goal':>6}{'fails':>6}  verdict"]
    for group, of in dict.fromkeys((row.group, row.of) for row in rows):
        lines.append(f"-- {group}: {of}")
        lines += [str(row) for row in rows if (row.group, row.of) == (group, of)]
    verdicts = [row.verdict for row in rows if row.goal is not None]
    counts = (verdicts.count(v) for v in ("pass", "pass, below the goal", "FAIL"))
    lines.append("{} rows reach their goal, {} pass below it, {} fail".format(*counts))
    return "\n".join(lines)
