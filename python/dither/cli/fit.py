"""`dither fit LAW DATA...`: fit a scaling law to a table or to runs, and say how far it can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dither import laws
from dither.cli.law_tables import Pairs, evaluation, levels, load, mapping, numbers, other_sizes
from dither.cli.terminal import Name, parse
from dither.errors import UserError, require
from dither.files import finite, write_text
from dither.laws import cautions, checkpoints, derived, table, validation


@dataclass(frozen=True)
class Arguments:
    """Fit a scaling law and certify the optimum; exit code 1 where it is no certified minimum.

    Examples: dither fit chinchilla runs/* --validate; dither fit chinchilla sweep.csv --column N=params
    --column D=tokens --loss val_loss --predict N=7e9,D=1.4e11 --out card.json
    """

    law: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LAW")]
    """a law's name (dither fit list shows them)"""
    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA ...")] = ()
    """one .csv, .jsonl or .parquet table, or run directories (or folders of them)"""
    column: Pairs = ()
    """the table's column of a variable, as N=params; may be given several times"""
    loss: str = "loss"
    """the column of the response"""
    only: Pairs = ()
    """fit the rows alone whose column has that value, as corpus=9e8191e3f4e9; may be given several times"""
    objective: str = "huber"
    """huber, lad, log_square, raw_square or raw_huber; summed over the runs"""
    delta: float = 1e-3
    """of the Huber objectives"""
    fix: Pairs = ()
    """hold a parameter at a value, as E=1.7; may be given several times"""
    by: Annotated[str | None, tyro.conf.arg(metavar="GROUP")] = None
    """resample groups, not single rows: those of one value in a column (a size, a run), or "scale" (of
    compute); scale/row or scale/COLUMN draws scales, then the runs or groups inside them"""
    bootstrap: int = 1000
    """resamples for the intervals; 0 for none"""
    profile: tuple[str, ...] = ()
    """intervals from profiles of the objective: parameters, a (of N*(C) ~ C^a), or at the optimum of a budget
    N@1e22, D@1e22, loss@1e22, reducible@1e22 (the loss less E), a@1e22 (the slope there); a law's other
    variables as N@1e22,U=1e10"""
    predict: Pairs = ()
    """predict a run, as N=7e9,D=1.4e11; may be given several times"""
    far: bool = False
    """predict, and take optima, further than 100 times beyond the data"""
    validate: bool = False
    """hold-outs, residual trend, nested laws, and sensitivity to objective, rows, count of N, checkpoints"""
    other_N: Pairs = ()
    """with --validate: another count of the parameters, as body=params_without_embedding; of runs there is
    body already"""
    run: Name = None
    """the table's column that names the run, where runs have rows of several checkpoints"""
    since: float = 1.0
    """share of a run's tokens from which its checkpoints are fitted: 1 for the last alone, 0 for all"""
    view: str = "full"
    """of runs: the evaluation that counts: full, recipe or cast"""
    cast: Name = None
    """of runs: the quantizer of the cast"""
    rounding: str = "nearest_even"
    """of runs: how the weights of the cast were rounded: nearest_even, or stochastic"""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """write the fit card here"""
    plot: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """draw the fit: pictures (PNG) and report.html in this folder"""


@dataclass(frozen=True)
class Rows:
    """What of a table is fitted. notes: in words. policies: tables of other policies of checkpoints, by the
    law's own names; run: the column that names the run of a row, where one has several; curves: of the runs,
    as `checkpoints.curves` gives them."""

    frame: dict[str, list[Any]]
    notes: list[str]
    policies: dict[str, Any]
    run: str | None
    curves: dict[str, Any]


def chosen(a: Arguments, law: laws.Law, columns: Mapping[str, Any]) -> Rows:
    """The rows that are fitted, and those of runs that are not."""
    several = a.validate or a.since < 1 or a.plot is not None
    run = a.run or ("run" if several and any(Path(path).is_dir() for path in a.data) else None)
    if "D" not in law.variables:
        if a.run or a.since < 1:
            raise UserError(f"checkpoints are told apart by their tokens D, which {law.name} has not")
        run = None
    frame, notes = load(a.data, a.only, run is not None and several, **evaluation(a))
    if run is None:
        if a.since < 1:
            raise UserError("--since needs --run: the table's column that names the run of a row")
        return Rows(frame, notes, {}, None, {})
    names = {name: columns.get(name, name) for name in law.variables} | {"loss": a.loss}
    tokens = names["D"]
    others = checkpoints.policies(frame, a.since, run=run, tokens=tokens) if several else {}
    return Rows(
        checkpoints.since(frame, a.since, run=run, tokens=tokens),
        notes,
        {policy: table.select(rows, names) for policy, rows in others.items()},
        run if a.since < 1 else None,
        checkpoints.curves(frame, run=run, N=names["N"], tokens=tokens, loss=a.loss) if "N" in names else {},
    )


def catalogue() -> str:
    width = max(map(len, laws.LAWS))
    return "\n".join(f"{name:<{width}}  {law.formula}" for name, law in laws.LAWS.items())


def main(arguments: Sequence[str]) -> int:
    """Run `dither fit`. Raises UserError for everything the user can cause."""
    a = parse("fit", Arguments, arguments)
    if a.law == "list":
        print(catalogue())
        return 0
    law = laws.get(a.law)
    if a.bootstrap < 0:
        raise UserError(f"--bootstrap must be 0 (no intervals) or more, not {a.bootstrap}")
    points = [numbers([point], "--predict") for point in a.predict]
    fixed = numbers(a.fix, "--fix")
    columns = mapping(law, a.column)
    rows = chosen(a, law, columns)
    frame, notes = rows.frame, rows.notes
    fit = laws.fit(law, frame, loss=a.loss, objective=a.objective, delta=a.delta, fixed=fixed, **columns)
    card = fit.card()
    print(fit)
    for note in notes:
        print(f"  ! {note}")
    by = None if a.by is None else levels(frame, a.by)
    sizes = other_sizes(frame, a.other_N)
    if a.since < 1 and len(set(frame[a.run or "run"])) < len(fit.loss):
        print(
            f"  ! checkpoints from {a.since:g} of a run on were fitted: before a run's end its learning rate "
            "was not yet decayed, so their losses lie above those of runs that end there"
        )
        if by is None:
            by = levels(frame, rows.run or "run")
            print("  ! the checkpoints of a run are no independent evidence: runs are resampled")
    if a.bootstrap:
        card["intervals_95"] = print_intervals(fit, a.bootstrap, by)
    if a.profile:
        card["profiles_95"] = print_profiles(fit, a.profile, a.far)
    card["not_calibrated"] = validation.uncalibrated(fit, by)
    if card["not_calibrated"]:
        print(f"  ! intervals are not calibrated: {card['not_calibrated']}")
    card["predictions"] = []
    for point in points:
        found = laws.predict_interval(fit, point, far=a.far, by=by, n=a.bootstrap or 500)
        print(f"at {', '.join(f'{k} = {v:.4g}' for k, v in point.items())}: {found}")
        card["predictions"].append({"at": point, **vars(found)})
    if a.validate:
        run = None if rows.run is None else levels(frame, rows.run)[0]
        checks = validation.validate(fit, by=by, run=run, other_N=sizes, checkpoints=rows.policies)
        print(checks)
        card["validation"] = checks.card()
    card["notes"] = notes
    if a.out is not None:
        write_text(Path(a.out), json.dumps(finite(card), indent=1, default=float, allow_nan=False) + "\n")
        print(f"wrote {a.out}")
    if a.plot is not None:
        require("matplotlib", "plot")
        from dither.report import laws as pictures

        if card["not_calibrated"]:
            notes = [f"intervals are not calibrated: {card['not_calibrated']}", *notes]
        page = pictures.write(
            fit, a.plot, notes=tuple(notes), n=min(a.bootstrap, 200) or 200, by=by, curves=rows.curves,
            other_N=sizes, checkpoints=rows.policies,
        )  # fmt: skip
        print(f"report: {page}")
    return 0 if fit.certificate.is_minimum else 1


def print_intervals(fit: laws.Fit, n: int, by: Any) -> dict[str, tuple[float, float]]:
    replicates = fit.bootstrap(n, by=by)
    found = replicates.interval()
    print(f"95 % intervals of {n} resamples of {replicates.groups} groups, {replicates.failed} failed:")
    none = cautions.NO_FLOOR * float(fit.loss.min())
    for name, (low, high) in found.items():
        start = "0" if name == "E" and low < none else f"{low:.6g}"
        print(f"  {name:<8} {start} .. {high:.6g}")
    for caution in replicates.cautions:
        print(f"  ! {caution}")
    return found


def print_profiles(
    fit: laws.Fit, names: Sequence[str], far: bool
) -> dict[str, tuple[float | None, float | None]]:
    """Intervals by profile; None for a side that the runs do not bound."""
    print("95 % intervals by profile of the objective:")
    found = {}
    for name in names:
        what = derived.named(fit.law, name)
        value = fit.params[what] if isinstance(what, str) else what(**fit.params)
        if not isinstance(what, str) and name.startswith("a") and derived.is_constant(fit.law):
            print(f"  {name:<16} {value:.6g}   by the form of {fit.law.name}, whatever the runs")
            found[name] = (value, value)
            continue
        one, factor = fit.profile(what, points=0, far=far), fit.reach_of(what, far)
        ends = ["not bounded" if end is None else f"{end:.6g}" for end in (one.low, one.high)]
        beyond = f"; {factor:.3g}x beyond the data" if factor > 1 else ""
        print(f"  {name:<16} {value:.6g}   {ends[0]} .. {ends[1]}{beyond}")
        found[name] = (one.low, one.high)
    return found
