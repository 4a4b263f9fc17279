"""What is said of a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """One score of an example. In formulas z: logits, p = softmax(z), y: label, t = 1..T: visits.

    direction: what a high value tells, "hard", "easy", or "neither" where it is no statement about difficulty
    (variability is high for examples in between). needs: the inputs; cost: beside the training itself.
    dialects: names that `dialect=` takes, and what the published code behind each does otherwise; turned:
    those of them that turn the direction round. made_by: what in `dither.scores` computes it, where that has
    another name than the score.
    """

    name: str
    formula: str
    direction: str
    unit: str
    needs: str
    cost: str
    source: str
    note: str = ""
    dialects: Mapping[str, str] = field(default_factory=dict)
    turned: tuple[str, ...] = ()
    made_by: tuple[str, ...] = ()

    def direction_in(self, dialect: str | None) -> str:
        """What a high value tells where the score is read in a dialect."""
        turned = {"hard": "easy", "easy": "hard"} if dialect in self.turned else {}
        return turned.get(self.direction, self.direction)

    def __str__(self) -> str:
        return f"{self.name}: {self.formula} ({self.unit}; high is {self.direction})"
