"""A study: claims and the rule that judges them, stated before anything runs.

The rule (for all studies): a claim says that a quantity lies above (or below) a threshold. With its 95 %
interval wholly on that side it is `reproduced here`, wholly on the other `opposite sign here`; an interval
that holds the threshold is `underpowered`, with the least effect that would have been seen. What these data,
sizes or machines cannot answer is `not testable here`, with the reason.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from dither.errors import UserError
from dither.files import replacing
from dither.studies.measure import Measurement

Verdict = Literal["reproduced here", "opposite sign here", "underpowered", "not testable here"]
VERDICTS: tuple[Verdict, ...] = ("reproduced here", "opposite sign here", "underpowered", "not testable here")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Claim:
    """One claim. source: paper and section; read: what was read of it ("full text", "abstract", "unverified",
    "own question"). quantity: what is measured, in words. untestable: why it cannot be measured here."""

    key: str
    text: str
    source: str
    read: str
    quantity: str
    side: Literal["above", "below"] = "above"
    threshold: float = 0.0
    untestable: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page: text and numbers as they are shown."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Outcome:
    """What a study found. measured: claim -> Measurement, or why it could not be measured on these data.
    figures: caption -> a matplotlib figure. data: which data, with their number."""

    measured: Mapping[str, Measurement | str]
    data: str
    tables: Sequence[Table] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


def without_tables(study: Study, why: str, simulated: Mapping[str, Measurement], data: str) -> Outcome:
    """What a study finds where its published tables are not there: the claims about simulated runs alone."""
    return Outcome({claim.key: why for claim in study.claims} | dict(simulated), data)


@dataclass(frozen=True)
class Study:
    """name: as the file, with hyphens. protocol: what is done, a line a step. seeds: (full, quick)."""

    name: str
    title: str
    question: str
    protocol: Sequence[str]
    claims: Sequence[Claim]
    seeds: tuple[int, int]
    measure: Callable[[Context], Outcome]


def judge(claim: Claim, found: Measurement | str) -> tuple[Verdict, str]:
    """The verdict by the rule above, and a sentence of reason."""
    if isinstance(found, str):
        return "not testable here", found
    side = 1 if claim.side == "above" else -1
    low, high = sorted((side * (found.low - claim.threshold), side * (found.high - claim.threshold)))
    if low > 0:
        return "reproduced here", f"the interval lies {claim.side} {claim.threshold:g}"
    if high < 0:
        return "opposite sign here", f"the interval lies on the other side of {claim.threshold:g}"
    return "underpowered", f"{found.detectable:.2g} from {claim.threshold:g} would be seen"


@dataclass
class Context:
    """What a study works with: quick or full, its folder, and parts that are computed once.

    say(text) reports progress. `done` counts parts that were computed or found.
    """

    study: Study
    folder: Path
    quick: bool
    say: Callable[[str], None] = lambda text: None
    done: int = 0

    @property
    def seeds(self) -> range:
        return range(self.study.seeds[self.quick])

    def choose(self, full: Any, quick: Any) -> Any:
        """A setting of the full or the quick version."""
        return quick if self.quick else full

    def part(self, compute: Callable[..., Arrays], **settings: Any) -> Arrays:
        """compute(**settings), kept in the folder: a study that was stopped goes on from its finished parts.

        compute: a function of a module that returns arrays by name. settings: plain values that decide the
        result. A file is found by the hash of both and of the sources of the studies, so that changed code
        computes anew; one that is damaged too.
        """
        told = json.dumps(settings, sort_keys=True)
        key = hashlib.sha256(
            "\0".join([compute.__module__, compute.__qualname__, told, _sources(compute)]).encode()
        ).hexdigest()
        path = self.folder / "parts" / f"{compute.__name__}-{key[:24]}.npz"
        self.done += 1
        words = ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    found = {name: kept[name] for name in kept.files}
                self.say(f"part {self.done}: {compute.__name__} {words} (kept)")
                return found
            except (BadZipFile, ValueError, EOFError, KeyError):
                pass  # damaged: computed again
        self.say(f"part {self.done}: {compute.__name__} {words}")
        found = {name: np.asarray(value) for name, value in compute(**settings).items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"{path.parent} is a file where a folder is needed; name another --out") from None
        with replacing(path) as aside, aside.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
        return found


def _short(value: object) -> str:
    """A setting for the progress line: of a long list its length."""
    return f"({len(value)})" if isinstance(value, list) and len(value) > 8 else str(value)


def _sources(compute: Callable[..., Arrays]) -> str:
    """The text of what a part is computed by: the studies' own helpers and the function's file."""
    own = [
        Path(__file__).with_name(name)
        for name in ("curves.py", "data.py", "tables.py", "training.py", "scored.py")
    ]
    file = inspect.getsourcefile(compute)
    assert file is not None
    return "\0".join(path.read_text(encoding="utf-8") for path in [*own, Path(file)])
