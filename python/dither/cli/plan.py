"""`dither plan WHAT`: what a scaling law says to do with a budget, from own runs or published constants."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dither import laws
from dither.cli.fit import Pairs, levels, load, mapping, numbers
from dither.cli.terminal import parse
from dither.errors import UserError, suggest
from dither.files import write_text
from dither.laws import decisions, planning
from dither.laws.fitting import FARTHEST
from dither.laws.precision import QAT_SHARE_ERROR


@dataclass(frozen=True)
class Arguments:
    """Decide from a law: of own runs (--data), with intervals; without them published constants are used.
    Every decision says which, and what its interval stands on or why it has none.

    budget: size and tokens for --flops. target: the cheapest way to --loss_target, with --served tokens of
    inference after it. qat: the share of tokens for quantized training at --size, --tokens, --bits. critical:
    tokens beyond which more training harms a model quantized to --bits (the gap by --gap_data, --gap or
    published). memory: bits after training for --memory bytes and --tokens (the same). bits: bits of training
    for --flops, with --size held where it is given. split: exponent and mantissa bits of a float of --bits.
    mixture: shares of the domains --domains that make the --loss of --data least. worth: is a cheaper method
    (--cheap, its cost divided by --speedup) better than --data at equal compute up to --flops. hyper:
    learning rate and batch for --flops.
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
    only: Pairs = ()
    """own runs: the rows alone whose column has that value, as corpus=9e8191e3f4e9"""
    constants: Pairs = ()
    """parameters of the law, in place of published ones, as A=400,B=2000,E=1.7,alpha=.35,beta=.37"""
    gap: Pairs = ()
    """critical, memory: parameters of post_training, as CT=.06,gD=.5,gN=.5,rate=.5"""
    gap_data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """critical, memory: a table of own gaps, not --gap: N, D, P (bits), gap (the rise of the loss)"""
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
    bootstrap: int = 500
    """resamples of own runs, or draws of published constants, for the intervals"""
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
    frame, notes = load(data, a.only)
    for note in notes:
        print(f"! {note}")
    fit = laws.fit(law, frame, loss=a.loss, **mapping(law, a.column))
    return fit, None if a.by is None else levels(frame, a.by)


def constants(a: Arguments, name: str) -> decisions.Constants:
    """Of own runs, of the command line, or published."""
    law = laws.get(name)
    if a.data:
        fit, by = own(a, law, a.data)
        return decisions.own(fit, n=a.bootstrap, by=by)
    if a.constants:
        return decisions.given(law, numbers(a.constants, "--constants"), "--constants")
    return decisions.of_publication(law, n=a.bootstrap)


def gap(a: Arguments) -> decisions.Constants:
    """What quantizing after training costs: of own measurements, of the command line, or published."""
    law = laws.get("post_training")
    if a.gap_data is None and a.gap:
        return decisions.given(law, numbers(a.gap, "--gap"), "--gap")
    if a.gap_data is None:
        return decisions.of_publication(law)
    frame, _ = load((a.gap_data,), ())
    return decisions.own(laws.fit(law, frame, loss="gap"), n=a.bootstrap, seed=1)


def decide(a: Arguments, name: str, what: Callable[..., dict[str, float]]) -> laws.Decision:
    return decisions.judge(lambda params: what(**params), constants(a, name), far=a.far)


def _budget(a: Arguments) -> laws.Decision:
    (flops,) = need(a, "flops")
    return decide(a, a.law, planning.budget(laws.get(a.law), flops))


def _target(a: Arguments) -> laws.Decision:
    (target,) = need(a, "loss_target")
    found = decide(a, a.law, planning.for_loss(laws.get(a.law), target, a.served))
    if found.values["N"] != found.values["N"]:
        raise UserError(f"a loss of {target:g} is out of reach of {a.law}: it lies below its floor")
    return found


def _qat(a: Arguments) -> laws.Decision:
    size, tokens, bits = need(a, "size", "tokens", "bits")
    law = laws.get("qat_share")

    def split(share: float) -> dict[str, float]:
        return {"share": share, "tokens quantized": share * tokens, "tokens before": (1 - share) * tokens}

    def what(**params: float) -> dict[str, float]:
        return split(float(law.predict(params, N=size, D=tokens, bits=bits)))

    found = decide(a, "qat_share", what)
    if a.data or a.constants:
        return found
    # Nothing is published of the constant's uncertainty, but the rule's mean absolute error is.
    half = 1.96 * np.sqrt(np.pi / 2) * QAT_SHARE_ERROR
    low, high = (split(float(np.clip(found.values["share"] + side * half, 0, 1))) for side in (-1, 1))
    ends = {name: (min(low[name], high[name]), max(low[name], high[name])) for name in low}
    spread = f"normal errors of the rule's published mean absolute error of the share, {QAT_SHARE_ERROR:g}"
    return replace(found, intervals=ends, spread=spread)


def _critical(a: Arguments) -> laws.Decision:
    size, bits = need(a, "size", "bits")

    def what(p: dict[str, float], post: dict[str, float]) -> dict[str, float]:
        return {"critical tokens": planning.critical_tokens(p["beta"], p["B"], post, size, bits)}

    def where(values: dict[str, float]) -> dict[str, float]:
        return {"N": size, "D": values["critical tokens"]}

    return decisions.judge(what, constants(a, "chinchilla"), gap(a), far=a.far, where=where)


def _memory(a: Arguments) -> laws.Decision:
    memory, tokens = need(a, "memory", "tokens")
    law = laws.get(a.law)

    def what(p: dict[str, float], post: dict[str, float]) -> dict[str, float]:
        return planning.bits_for_memory(law, post, memory, tokens)(**p)

    def where(values: dict[str, float]) -> dict[str, float]:
        return {"N": values["N"], "D": tokens}

    return searched(decisions.judge(what, constants(a, a.law), gap(a), far=a.far, where=where))


def _bits(a: Arguments) -> laws.Decision:
    (flops,) = need(a, "flops")
    size = None if a.size is None else need(a, "size")[0]
    return searched(decide(a, "precision", planning.bits_for_compute(flops, size)))


def searched(found: laws.Decision) -> laws.Decision:
    """With a caution where the best bits are the fewest or the most that are looked at."""
    ends = [end for end in planning.BITS if abs(found.values["bits"] / end - 1) < 1e-3]
    said = tuple(f"{end:g} bits is the end of the search: the law has no optimum inside" for end in ends)
    return replace(found, cautions=(*said, *found.cautions))


def _split(a: Arguments) -> laws.Decision:
    (bits,) = need(a, "bits")
    return decide(a, "fp_training", planning.split_of_bits(bits))


def _mixture(a: Arguments) -> laws.Decision:
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

    return laws.decide(law, what, fit, n=min(a.bootstrap, 100), by=by)  # each of them is searched


def _worth(a: Arguments) -> laws.Decision:
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
    n = min(a.bootstrap, 300)  # each at nine budgets
    found = laws.crossover(cheap, plain, a.speedup, np.geomspace(least, flops, 9), n=n, by=(cheap_by, by))
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
    basis = f"{len(plain.loss)} and {len(cheap.loss)} own runs"
    return laws.Decision(values, intervals, basis, f"{n} resamples of the runs of either method", cautions)


def _hyper(a: Arguments) -> laws.Decision:
    (flops,) = need(a, "flops")
    law = laws.get("compute_power")
    if a.data:
        return decide(a, law.name, lambda **params: {a.loss: float(law.predict(params, C=flops))})
    values = {}
    for source, params in law.published.items():
        paper, _, name = source.partition(", ")
        if paper == "2401.02954" and name in ("learning rate", "batch in tokens"):
            values[name] = float(law.predict(params, C=flops))
    return laws.Decision(
        values, {}, "published, 2401.02954 (DeepSeek); tuned for its models and schedule",
        "none: the uncertainty of these constants is not published; a table of own best values has one "
        "(--data, --loss its column of learning rates or batches, --column C=its FLOPs)",
    )  # fmt: skip


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
    if a.bootstrap < 1:
        raise UserError(f"--bootstrap must be at least 1, not {a.bootstrap}: a decision has an interval")
    if a.what not in WHAT:
        raise UserError(f"unknown plan {a.what!r}{suggest(a.what, WHAT)}; plans are {', '.join(WHAT)}")
    found = WHAT[a.what](a)
    print(found)
    if a.out is not None:
        write_text(Path(a.out), json.dumps(asdict(found), indent=1) + "\n")
        print(f"wrote {a.out}")
    return 0
