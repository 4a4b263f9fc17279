"""What a judge writes down: findings in rows, rows in a report, and the report as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from dither.conformance.case import Verdict


@dataclass
class Finding:
    """One named difference within a row: how often, and the first example."""

    name: str
    verdict: Verdict
    clause: str
    count: int = 0
    example: str = ""


@dataclass
class Row:
    """Everything asked about one format or preset under one rounding."""

    what: str
    rounding: str
    compared: int = 0
    equal: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)

    def note(self, name: str, verdict: Verdict, clause: str, count: int, example: str) -> None:
        found = self.findings.setdefault(name, Finding(name, verdict, clause, 0, example))
        found.count += count

    def of(self, verdict: Verdict) -> list[Finding]:
        return [f for f in self.findings.values() if f.verdict == verdict]


@dataclass
class Report:
    """What an adapter was asked and how it answered."""

    adapter: str
    library: str
    rows: list[Row]
    not_offered: list[str]

    @property
    def conforming(self) -> bool:
        """Whether there are no violations."""
        return not any(row.of("violation") for row in self.rows)


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""

    def findings(row: Row, verdict: Verdict) -> list[dict[str, Any]]:
        return [
            {"name": f.name, "clause": f.clause, "count": f.count, "example": f.example}
            for f in row.of(verdict)
        ]

    return {
        "adapter": report.adapter,
        "library": report.library,
        "conforming": report.conforming,
        "results": [
            {
                "what": row.what,
                "rounding": row.rounding,
                "compared": row.compared,
                "equal": row.equal,
                "choices": findings(row, "choice"),
                "violations": findings(row, "violation"),
            }
            for row in report.rows
        ],
        "not_offered": report.not_offered,
    }


def summary(report: Report, verdict: Verdict) -> dict[tuple[str, str], tuple[list[str], Finding]]:
    """The findings of a verdict by format and name, over all roundings: (roundings, the sum)."""
    found: dict[tuple[str, str], tuple[list[str], Finding]] = {}
    for row in report.rows:
        for f in row.of(verdict):
            roundings, total = found.setdefault((row.what, f.name), ([], replace(f, count=0)))
            roundings.append(row.rounding)
            total.count += f.count
    return found
