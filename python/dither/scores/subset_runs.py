"""Train on random subsets of the data, for memorization and influence: runs that can be stopped at any time.

Every run is a seed: its subset follows from the seed alone, so any number of processes or machines may share
the seeds of one folder. A run that ended is a folder that is never trained again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.files import check_place, disk_errors, make_folder
from dither.scores.borrowed import Ints, to_numpy
from dither.scores.runs import MEMBER
from dither.scores.subset_record import FILE, TESTS, SubsetRuns
from dither.scores.table import ScoreTable

Train = Callable[[Ints, int], Any]
STREAM = 1 << 63
"""The upper half of the key of random bits, which no epoch of a run has (dither.train.batches)."""


def subset(n: int, fraction: float, seed: int) -> Ints:
    """round(fraction n) different positions below n, ascending: a function of the three numbers alone.

    UserError for a fraction that leaves nothing in, or nothing out.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 1 << 63:
        raise UserError(f"the seed of a subset is a whole number from 0 to 2^63 - 1, not {seed!r}")
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise UserError(f"a subset is of a positive number of examples, not {n!r}")
    if not isinstance(fraction, Real) or not 0 < fraction < 1 or not 0 < round(fraction * int(n)) < n:
        raise UserError(
            f"a subset of {n} examples leaves some in and some out; the fraction {fraction!r} does not"
        )
    bits = np.random.Philox(counter=0, key=(STREAM << 64) | int(seed)).random_raw(int(n))
    return np.sort(np.argsort(bits, kind="stable")[: round(fraction * int(n))])


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def subset_runs(
    train: Train,
    n: int,
    *,
    folder: str | Path,
    runs: int | Iterable[int],
    fraction: float = 0.7,
    ids: Any = None,
    test_ids: Any = None,
    data: str | None = None,
    say: Callable[[str], object] | None = _on_stderr,
) -> SubsetRuns:
    """Train on a random subset for every seed, and return what is right on which example.

    train: (positions, seed) -> correct, or (correct, correct on tests). It trains on the examples at these
        positions, ascending, with this seed, and says of all n examples, held in or held out, whether the
        model is right ((n,) booleans) or how right (shares from 0 to 1); of (m,) tests too for `influence`.
    folder: gets a folder a run. The same call goes on where it was stopped: what ended is not trained again.
    runs: how many, or which seeds; processes share the work by different seeds of one folder.
    fraction: of the n examples that a run trains on (.7 in 2008.03703).
    ids, test_ids: names of the examples, (n,) and (m,) integers or strings, default positions. data: a name.
    say: gets a line for every run that ends; None for silence.

    Memory: two bytes for every run and example (9 where shares are given). Raises UserError for a result of
    another shape, and for a folder that holds runs of other subsets.
    """
    seeds = tuple(range(runs) if isinstance(runs, int) else runs)
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"runs= is a positive number or different seeds, not {runs!r}")
    kept = {seed: subset(n, fraction, seed) for seed in seeds}
    # The ids are looked at before any training.
    ScoreTable.of_run("ids", {MEMBER: _member(kept[seeds[0]], n)}, ids=ids)
    named = None if test_ids is None else _named(test_ids)
    folder = Path(folder)
    make_folder(folder)
    check_place(folder / FILE)
    places = {seed: folder / f"subset-{seed:05d}" for seed in seeds}
    ended = [seed for seed, place in places.items() if (place / FILE).is_file()]
    for seed in ended:
        _check_same(places[seed], kept[seed], n, ids)
        _check_tests(places[seed], named)
    tests, begun = _tests(places[ended[0]]) if ended else None, time.monotonic()
    waiting = [seed for seed in seeds if seed not in ended]
    for count, seed in enumerate(waiting, start=1):
        found = train(kept[seed].copy(), int(seed))
        correct, right = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        correct = _right(correct, n, f"train() with seed {seed}")
        right = None if right is None else _right(right, None, f"train() with seed {seed}, of tests,")
        before, tests = tests, None if right is None else len(right)
        if (ended or count > 1) and tests != before:
            raise UserError(
                f"train() with seed {seed} gave {tests or 'no'} tests, and {before or 'none'} before"
            )
        if named is not None and tests != len(named):
            raise UserError(
                f"train() with seed {seed} gave {tests or 'no'} tests, and test_ids= names {len(named)}; the "
                "run is not kept"
            )
        name, member = places[seed].name, _member(kept[seed], n)
        about = {"fraction": float(fraction), "examples": int(n), "seed": int(seed)}
        with disk_errors(places[seed], "Free some space and call again: what ended is kept."):
            make_folder(places[seed])
            if right is not None:
                table = ScoreTable.of_run(name, {"correct": right}, ids=test_ids, provenance=about, data=data)
                table.save(places[seed] / TESTS)
            columns = {MEMBER: member, "correct": correct}
            # Last: its presence says that the run has ended.
            ScoreTable.of_run(name, columns, ids=ids, provenance=about, data=data).save(places[seed] / FILE)
        if say is not None:
            left = len(waiting) - count
            minutes = (time.monotonic() - begun) / count * left / 60
            say(
                f"{len(seeds) - left}/{len(seeds)} {name}: right on {correct[member].mean():.1%} of its "
                f"{len(kept[seed]):,} examples and {correct[~member].mean():.1%} of the rest"
                + (f", about {minutes:.1f} min left" if left else "")
            )
    return SubsetRuns.load(places.values())


def _member(kept: Ints, n: int) -> np.ndarray:
    member = np.zeros(n, bool)
    member[kept] = True
    return member


def _right(values: Any, n: int | None, what: str) -> np.ndarray:
    """`values` as they are to be; any number of them where n is None."""
    array = to_numpy(values)
    if array.ndim != 1 or len(array) != (len(array) if n is None else n) or array.dtype.kind not in "biuf":
        raise UserError(
            f"{what} gives one value an example{'' if n is None else f', {n} in all'}: whether it is right, "
            f"or a share from 0 to 1; not {array.dtype} of the shape {array.shape}"
        )
    if not ((array >= 0) & (array <= 1)).all():
        raise UserError(f"{what} gives 0, 1 or a share between for every example, not less, more or NaN")
    return array


def _check_same(place: Path, kept: Ints, n: int, ids: Any) -> None:
    """UserError where a run that ended is of another subset or of other examples."""
    columns = {MEMBER: _member(kept, n)}
    ((name, run),) = ScoreTable.of_run(place.name, columns, ids=ids).runs.items()
    found = ScoreTable.load(place / FILE).runs.get(name)
    if (
        found is None
        or not np.array_equal(found.ids, run.ids)
        or MEMBER not in found.columns
        or not np.array_equal(found.columns[MEMBER], run.columns[MEMBER])
    ):
        raise UserError(f"{place} holds a run of another subset or of other examples; name another folder")


def _named(test_ids: Any) -> np.ndarray:
    """Ids of tests, ascending."""
    return ScoreTable.of_run("ids", {"correct": np.zeros(to_numpy(test_ids).size)}, ids=test_ids).ids


def _check_tests(place: Path, named: np.ndarray | None) -> None:
    """UserError where a run that ended has other tests than these; None are those at 0, 1, ..., or none."""
    file = place / TESTS
    if not file.is_file():
        if named is not None:
            raise UserError(f"{place} holds a run without tests, and test_ids= names {len(named)}")
        return
    found = ScoreTable.load(file).ids
    if not np.array_equal(found, np.arange(len(found)) if named is None else named):
        raise UserError(f"{file} holds tests of other ids than test_ids=; give those, or name another folder")


def _tests(place: Path) -> int | None:
    """How many tests a run has."""
    file = place / TESTS
    return len(ScoreTable.load(file).ids) if file.is_file() else None
