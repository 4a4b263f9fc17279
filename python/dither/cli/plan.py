"""`dither plan WHAT`: what a scaling law says to do with a budget, from own runs or published constants."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dither import laws
from dither.cli.fit import Pairs, levels, load, mapping, numbers
from dither.cli.terminal import parse
from dither.errors import UserError, suggest
from dither.files import write_text
from dither.laws import planning
from dither.laws.fitting import FARTHEST


@dataclass(frozen=True)
class Arguments:
    """Decide from a law: own runs (--data) give intervals, without them published constants are used.

    budget: size and tokens for --flops. target: the cheapest way to --loss_target, with --served tokens of
    inference after it. qat: the share of tokens for quantized training at --size, --tokens, --bits. critical:
    tokens beyond which more training harms a model quantized to --bits (the gap law's constants by --gap).
    memory: bits after training for --memory bytes and --tokens (with --gap). bits: bits of training for
    --flops (own runs of the precision law, or --constants), with --size held where it is given. split:
    exponent and mantissa bits of a float of --bits. mixture: shares of the domains --domains that make the
    --loss of --data least. worth: is a cheaper method (--cheap, its cost divided by --speedup) better than
    --data at equal compute up to --flops. hyper: learning rate and batch for --flops.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    """budget, target, qat, critical, memory, bits, split, mixture, worth or hyper"""
    law: str = "chinchilla"
    """the law of budget and target"""
    data: tuple[str, ...] = ()
    """own runs: one table, or run directories"""
    column: Pairs = ()
    """the table's column of a variable, as N=params"""
    loss: str = "loss"
    """the table's column of the loss"""
    constants: Pairs = ()
    """parameters of the law, in place of published ones, as A=400,B=2000,E=1.7,alpha=.35,beta=.37"""
    gap: Pairs = ()
    """critical, memory: parameters of post_training, as CT=.06,gD=.5,gN=.5,rate=.5"""
    flops: float | None = None
    """training FLOPs, 6 N D"""
    loss_target: float | None = None
    """loss to be reached (nats/token)"""
    served: float = 0.0
    """tokens of inference"""
    size: float | None = None
    """parameters"""
    tokens: float | None = None
    """training tokens"""
    bits: float | None = None
    """bits of a weight"""
    memory: float | None = None
    """bytes of the weights"""
    domains: tuple[str, ...] = ()
    """mixture: the table's columns of shares"""
    cheap: tuple[str, ...] = ()
    """worth: runs of the cheaper method"""
    speedup: float = 1.0
    """worth: how many times the FLOPs the cheaper method does at the same cost"""
    by: Annotated[str | None, tyro.conf.arg(metavar="GROUP")] = None
    """resample groups of own runs, as dither fit --by takes them: a column, scale, scale/row"""
    far: bool = False
    """decide further than 100 times beyond own runs"""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """write the decision here"""


def need(a: Arguments, *names: str) -> list[float]:
    missing = [name for name in names if getattr(a, name) is None]
    if missing:
        raise UserError(f"dither plan {a.what} needs " + ", ".join(f"--{name}" for name in missing))
    values = [float(getattr(a, name)) for name in names]
    for name, value in zip(names, values, strict=True):
        if not 0 < value < math.inf:
            raise UserError(f"--{name} must be positive and finite, not {value:g}")
    return values


def own(a: Arguments, law: laws.SumLaw | laws.FunctionLaw, data: Sequence[str]) -> tuple[laws.Fit, Any]:
    """The law fitted to the user's runs, and what --by resamples; prints which of them were left out."""
    frame, left = load(data, "full", None)
    for reason in left:
        print(f"left out: {reason}")
    fit = laws.fit(law, frame, loss=a.loss, **mapping(law, a.column))
    return fit, None if a.by is None else levels(frame, a.by)


def decide(a: Arguments, name: str, what: Callable[..., dict[str, float]]) -> planning.Decision:
    law = laws.get(name)
    if a.data:
        fit, by = own(a, law, a.data)
        return planning.decide(law, what, fit, by=by, far=a.far)
    if a.constants:
        given = numbers(a.constants, "--constants")
        law.vector(given)
        return planning.Decision(what(**given), {}, "given on the command line")
    return planning.decide(law, what)


def _budget(a: Arguments) -> planning.Decision:
    (flops,) = need(a, "flops")
    return decide(a, a.law, planning.budget(laws.get(a.law), flops))


def _target(a: Arguments) -> planning.Decision:
    (target,) = need(a, "loss_target")
    found = decide(a, a.law, planning.for_loss(laws.get(a.law), target, a.served))
    if found.values["N"] != found.values["N"]:
        raise UserError(f"a loss of {target:g} is out of reach of {a.law}: it lies below its floor")
    return found


def _qat(a: Arguments) -> planning.Decision:
    size, tokens, bits = need(a, "size", "tokens", "bits")
    law = laws.get("qat_share")

    def what(**params: float) -> dict[str, float]:
        share = float(law.predict(params, N=size, D=tokens, bits=bits))
        return {"share": share, "tokens quantized": share * tokens, "tokens before": (1 - share) * tokens}

    return decide(a, "qat_share", what)


def _critical(a: Arguments) -> planning.Decision:
    size, bits = need(a, "size", "bits")
    gap = numbers(a.gap, "--gap")
    laws.get("post_training").vector(gap)

    def what(**p: float) -> dict[str, float]:
        return {"critical tokens": planning.critical_tokens(p["beta"], p["B"], gap, size, bits)}

    return decide(a, "chinchilla", what)


def _memory(a: Arguments) -> planning.Decision:
    memory, tokens = need(a, "memory", "tokens")
    gap = numbers(a.gap, "--gap")
    laws.get("post_training").vector(gap)
    return decide(a, a.law, planning.bits_for_memory(laws.get(a.law), gap, memory, tokens))


def _bits(a: Arguments) -> planning.Decision:
    (flops,) = need(a, "flops")
    size = None if a.size is None else need(a, "size")[0]
    return decide(a, "precision", planning.bits_for_compute(flops, size))


def _split(a: Arguments) -> planning.Decision:
    (bits,) = need(a, "bits")
    return decide(a, "fp_training", planning.split_of_bits(bits))


def _mixture(a: Arguments) -> planning.Decision:
    if not a.data:
        raise UserError("dither plan mixture needs --data: runs at several mixtures, a column a domain")
    law = laws.mixing(a.domains)
    fit, by = own(a, law, a.data)

    def what(**params: float) -> dict[str, float]:
        vector = law.vector(params)

        def loss(shares: Any) -> float:
            return float(law.curve(vector, dict(zip(law.variables, shares, strict=True))))

        shares, value = laws.best_mixture(loss, len(law.variables))
        return {**dict(zip(law.variables, map(float, shares), strict=True)), "loss": value}

    return planning.decide(law, what, fit, n=100, by=by)


def _worth(a: Arguments) -> planning.Decision:
    (flops,) = need(a, "flops")
    if not (a.data and a.cheap):
        raise UserError("dither plan worth needs --data and --cheap: runs of the plain and the cheap method")
    law = laws.get(a.law)
    planning.check_compute(law)
    (plain, by), (cheap, cheap_by) = own(a, law, a.data), own(a, law, a.cheap)
    for one in (plain, cheap):
        most = float((6 * one.arrays["N"] * one.arrays["D"]).max())
        if flops > FARTHEST * most and not a.far:
            raise UserError(
                f"--flops {flops:g} is {flops / most:.3g} times the largest run; add larger ones, or give "
                "--far if that is meant"
            )
    least = min(float((6 * one.arrays["N"] * one.arrays["D"]).min()) for one in (plain, cheap))
    if flops <= least:
        raise UserError(f"--flops {flops:g} lies below the smallest run ({least:.3g} FLOPs)")
    found = laws.crossover(cheap, plain, a.speedup, np.geomspace(least, flops, 9), by=(cheap_by, by))
    values = {"advantage at the smallest run": float(found.advantage[0])}
    values["advantage at --flops"] = float(found.advantage[-1])
    spans = zip(values, ((found.low[i], found.high[i]) for i in (0, -1)), strict=True)
    intervals = {name: (float(low), float(high)) for name, (low, high) in spans}
    if found.crossing is not None:
        values["changes at FLOPs"] = found.crossing
    cautions = (
        found.verdict,
        *(f"plain: {c}" for c in plain.cautions),
        *(f"cheap: {c}" for c in cheap.cautions),
    )
    return planning.Decision(values, intervals, f"{len(plain.loss)} and {len(cheap.loss)} own runs", cautions)


def _hyper(a: Arguments) -> planning.Decision:
    (flops,) = need(a, "flops")
    law = laws.get("compute_power")
    values = {}
    for source, params in law.published.items():
        if source.startswith("2401.02954, ") and source.split(", ")[1] in (
            "learning rate",
            "batch in tokens",
        ):
            values[source.split(", ")[1]] = float(law.predict(params, C=flops))
    return planning.Decision(
        values, {}, "published, 2401.02954 (DeepSeek); tuned for its models and schedule"
    )


WHAT = {
    "budget": _budget,
    "target": _target,
    "qat": _qat,
    "critical": _critical,
    "memory": _memory,
    "bits": _bits,
    "split": _split,
    "mixture": _mixture,
    "worth": _worth,
    "hyper": _hyper,
}


def main(arguments: Sequence[str]) -> int:
    """Run `dither plan`. Raises UserError for everything the user can cause."""
    a = parse("plan", Arguments, arguments)
    if a.what not in WHAT:
        raise UserError(f"unknown plan {a.what!r}{suggest(a.what, WHAT)}; plans are {', '.join(WHAT)}")
    found = WHAT[a.what](a)
    print(found)
    if a.out is not None:
        write_text(Path(a.out), json.dumps(asdict(found), indent=1) + "\n")
        print(f"wrote {a.out}")
    return 0
