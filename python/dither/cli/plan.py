"""`dither plan WHAT`: what a scaling law says to do with a budget, from own runs or published constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from dither.cli.law_tables import Pairs
from dither.cli.plans import OWN, WHAT
from dither.cli.terminal import File, Name, Number, parse
from dither.errors import UserError, suggest
from dither.files import finite, write_json


@dataclass(frozen=True)
class Arguments:
    """Decide from a law: of own runs (--data), with intervals; without them published constants are used.
    Every decision says which, and what its interval stands on or why it has none.

    budget: size and tokens for --flops. target: the cheapest way to --loss_target, with --served tokens of
    inference after it. qat: the share of tokens for quantized training at --size, --tokens, --bits. critical:
    tokens beyond which more training harms a model quantized to --bits (the gap by --gap_data, --gap or
    published). memory: bits after training for --memory bytes and --tokens (the same). bits: bits of training
    for --flops, with --size held where it is given. split: exponent and mantissa bits of a float of --bits.
    mixture: shares of the domains --domains that make the mean of several --loss of --data least. worth: is a
    cheaper method (--cheap, its cost divided by --speedup) better than --data at equal compute up to --flops.
    hyper: learning rate and batch for --flops (and --size). bits, split and hyper without own runs say what
    other publications say, and how far apart they are.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    """budget, target, qat, critical, memory, bits, split, mixture, worth or hyper"""
    law: str = "chinchilla"
    """the law of budget and target"""
    data: tuple[str, ...] = ()
    """own runs: one table, or run directories"""
    column: Pairs = ()
    """the table's column of a variable, as N=params"""
    loss: tuple[str, ...] = ("loss",)
    """the table's column of the loss; mixture: those of several validation domains"""
    only: Pairs = ()
    """own runs: the rows alone whose column has that value, as corpus=9e8191e3f4e9"""
    constants: Pairs = ()
    """parameters of the law, in place of published ones, as A=400,B=2000,E=1.7,alpha=.35,beta=.37"""
    view: str = "full"
    """own runs: the evaluation that counts: full, recipe or cast"""
    cast: Name = None
    """own runs: the quantizer of the cast"""
    rounding: str = "nearest_even"
    """own runs: how the weights of the cast were rounded: nearest_even, or stochastic"""
    gap: Pairs = ()
    """critical, memory: parameters of post_training, as CT=.06,gD=.5,gN=.5,rate=.5"""
    gap_data: File = None
    """critical, memory: a table of own gaps, not --gap: N, D, P (bits), gap (the rise of the loss)"""
    flops: Number = None
    """training FLOPs, 6 N D"""
    loss_target: Number = None
    """loss to be reached (nats/token)"""
    served: float = 0.0
    """tokens of inference"""
    size: Number = None
    """parameters"""
    tokens: Number = None
    """training tokens"""
    bits: Number = None
    """bits of a weight"""
    memory: Number = None
    """bytes of the weights"""
    domains: tuple[str, ...] = ()
    """mixture: the table's columns of shares"""
    weights: tuple[float, ...] = ()
    """mixture: of the losses in their mean; alike where none are given"""
    cheap: tuple[str, ...] = ()
    """worth: runs of the cheaper method"""
    cheap_only: Pairs = ()
    """worth: of --cheap, the rows alone whose column has that value, in place of --only"""
    speedup: float = 1.0
    """worth: how many times the FLOPs the cheaper method does at the same cost"""
    by: Annotated[str | None, tyro.conf.arg(metavar="GROUP")] = None
    """resample groups of own runs, as dither fit --by takes them: a column, scale, scale/row"""
    bootstrap: int = 500
    """resamples of own runs, or draws of published constants, for the intervals"""
    far: bool = False
    """decide further than 100 times beyond own runs"""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """write the decision here"""


def check(a: Arguments) -> None:
    """UserError for what the plan does not know, does not read, or could only read in part."""
    if a.what not in WHAT:
        raise UserError(f"unknown plan {a.what!r}{suggest(a.what, WHAT)}; plans are {', '.join(WHAT)}")
    read = f"what {WHAT[a.what][1]} {OWN}".split()
    for one in fields(Arguments):
        if one.name not in read and getattr(a, one.name) != one.default:
            raise UserError(
                f"dither plan {a.what} does not read --{one.name}; it reads --{', --'.join(read[1:])}"
            )
    if len(a.loss) != 1 and a.what != "mixture":
        raise UserError(f"dither plan {a.what} takes one --loss, not {len(a.loss)}")
    for one, other in (("data", "constants"), ("gap_data", "gap")):
        if getattr(a, one) and getattr(a, other):
            raise UserError(
                f"give --{one} or --{other}, not both: they are two sources of the same constants"
            )
    if a.bootstrap < 1:
        raise UserError(f"--bootstrap must be at least 1, not {a.bootstrap}: a decision has an interval")


def main(arguments: Sequence[str]) -> int:
    """Run `dither plan`. Raises UserError for everything the user can cause."""
    a = parse("plan", Arguments, arguments)
    check(a)
    found = WHAT[a.what][0](a)
    print(found)
    if a.out is not None:
        write_json(Path(a.out), finite(asdict(found)))
        print(f"wrote {a.out}")
    return 0
