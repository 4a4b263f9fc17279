"""What each `dither plan` decides: from which constants, by which function, with what known of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dither import laws
from dither.cli.law_tables import evaluation, levels, load, mapping, numbers
from dither.errors import UserError
from dither.laws import decisions, planning, rivals
from dither.laws.runs import check_same_text

if TYPE_CHECKING:
    from dither.cli.plan import Arguments


RANGES = {
    "flops": (1e3, 1e40),
    "size": (1.0, 1e20),
    "tokens": (1.0, 1e20),
    "bits": (0.1, 64.0),
    "memory": (1.0, 1e20),
    "loss_target": (1e-3, 1e3),
    "speedup": (1e-3, 1e6),
}
"""What an option may be: anything beyond is a mistake of units."""


def need(a: Arguments, *names: str) -> list[float]:
    missing = [name for name in names if getattr(a, name) is None]
    if missing:
        raise UserError(f"dither plan {a.what} needs " + ", ".join(f"--{name}" for name in missing))
    values = [float(getattr(a, name)) for name in names]
    for name, value in zip(names, values, strict=True):
        low, high = RANGES[name]
        if not low <= value <= high:
            raise UserError(f"--{name} must lie between {low:g} and {high:g}, not {value:g}")
    return values


def groups(a: Arguments, frame: dict[str, list[Any]]) -> Any:
    """What --by resamples."""
    return None if a.by is None else levels(frame, a.by)


def own(
    a: Arguments, law: laws.SumLaw | laws.FunctionLaw, frame: dict[str, list[Any]]
) -> tuple[laws.Fit, Any]:
    """The law fitted to the user's runs, and what --by resamples."""
    return laws.fit(law, frame, loss=a.loss[0], **mapping(law, a.column)), groups(a, frame)


def rows(a: Arguments, data: Sequence[str], only: Sequence[str]) -> dict[str, list[Any]]:
    """The table of own runs; prints which of them were left out."""
    frame, notes = load(data, only, **evaluation(a))
    for note in notes:
        print(f"! {note}")
    return frame


def constants(a: Arguments, name: str) -> decisions.Constants:
    """Of own runs, of the command line, or published."""
    law = laws.get(name)
    if a.data:
        fit, by = own(a, law, rows(a, a.data, a.only))
        return decisions.own(fit, n=a.bootstrap, by=by)
    if a.constants:
        return decisions.given(law, numbers(a.constants, "--constants"), "--constants")
    return decisions.of_publication(law, n=a.bootstrap)


def gap(a: Arguments) -> decisions.Constants:
    """What quantizing after training costs: of own measurements, of the command line, or published."""
    law = laws.get("post_training")
    if a.gap:
        return decisions.given(law, numbers(a.gap, "--gap"), "--gap")
    if a.gap_data is None:
        return decisions.of_publication(law, option="--gap_data")
    frame, _ = load((a.gap_data,), ())
    return decisions.own(laws.fit(law, frame, loss="gap"), n=a.bootstrap, seed=1)


def decide(a: Arguments, name: str, what: Callable[..., dict[str, float]], **at: float) -> laws.Decision:
    """at: variables of the decision that are given, beside those that it finds."""
    return decisions.judge(
        lambda params: what(**params), constants(a, name), far=a.far, where=lambda values: values | at
    )


def _budget(a: Arguments) -> laws.Decision:
    (flops,) = need(a, "flops")
    return decide(a, a.law, planning.budget(laws.get(a.law), flops))


def _target(a: Arguments) -> laws.Decision:
    (target,) = need(a, "loss_target")
    if not 0 <= a.served < math.inf:
        raise UserError(f"--served must be tokens, not {a.served:g}")
    found = decide(a, a.law, planning.for_loss(laws.get(a.law), target, a.served))
    if math.isinf(found.values["N"]):
        raise UserError(f"a loss of {target:g} is out of reach of {a.law}: it lies below its floor")
    return found


def _qat(a: Arguments) -> laws.Decision:
    size, tokens, bits = need(a, "size", "tokens", "bits")
    found = decide(a, "qat_share", planning.share_of_qat(size, tokens, bits), N=size, D=tokens, bits=bits)
    return found if a.data or a.constants else rivals.within_error_of_share(found, tokens)


def _critical(a: Arguments) -> laws.Decision:
    size, bits = need(a, "size", "bits")

    def what(p: dict[str, float], post: dict[str, float]) -> dict[str, float]:
        return {"critical tokens": planning.critical_tokens(p["beta"], p["B"], post, size, bits)}

    def where(values: dict[str, float]) -> dict[str, float]:
        return {"N": size, "D": values["critical tokens"], "P": bits}

    return decisions.judge(what, constants(a, "chinchilla"), gap(a), far=a.far, where=where)


def _memory(a: Arguments) -> laws.Decision:
    memory, tokens = need(a, "memory", "tokens")
    law = laws.get(a.law)

    def what(p: dict[str, float], post: dict[str, float]) -> dict[str, float]:
        return planning.bits_for_memory(law, post, memory, tokens)(**p)

    def where(values: dict[str, float]) -> dict[str, float]:
        return {"N": values["N"], "D": tokens, "P": values["bits"]}

    return searched(decisions.judge(what, constants(a, a.law), gap(a), far=a.far, where=where))


def _bits(a: Arguments) -> laws.Decision:
    (flops,) = need(a, "flops")
    size = None if a.size is None else need(a, "size")[0]
    what = planning.bits_for_compute(flops, size)

    def where(values: dict[str, float]) -> dict[str, float]:
        return values | dict.fromkeys(("Pw", "Pa", "Pkv"), values["bits"])

    one = constants(a, "precision")
    found = searched(decisions.judge(lambda params: what(**params), one, far=a.far, where=where))
    if a.data or a.constants:
        return found
    return rivals.spread_over(found, rivals.of_bits(flops, size), "two published laws of other runs")


def searched(found: laws.Decision) -> laws.Decision:
    """With a caution where the best bits are the fewest or the most that are looked at."""
    ends = [end for end in planning.BITS if abs(found.values["bits"] / end - 1) < 1e-3]
    said = tuple(f"{end:g} bits is the end of the search: the law has no optimum inside" for end in ends)
    return replace(found, cautions=(*said, *found.cautions))


def _split(a: Arguments) -> laws.Decision:
    (bits,) = need(a, "bits")
    one = constants(a, "fp_training")
    what = planning.split_of_bits(bits)

    def where(values: dict[str, float]) -> dict[str, float]:
        return {"e": values["exponent bits"], "m": values["mantissa bits"]}

    found = decisions.judge(lambda params: what(**params), one, far=a.far, where=where)
    room = planning.room_of_split(bits, one.params["delta"], one.params["nu"])
    found = replace(found, cautions=(room, *found.cautions))
    if a.data or a.constants:
        return found
    if not (standards := rivals.of_split(bits)):
        why = "nothing is published of the uncertainty of these constants, and no standard has such a float"
        return replace(found, spread=f"none: {why}; how far they may be off stands below")
    them = f"the law and the floats of {bits:g} bits in standards, whose makers weighed other things too"
    return rivals.spread_over(found, standards, them)


def _mixture(a: Arguments) -> laws.Decision:
    if not a.data:
        raise UserError("dither plan mixture needs --data: runs at several mixtures, a column a domain")
    law, frame = laws.mixing(a.domains), rows(a, a.data, a.only)
    names = list(dict.fromkeys(a.loss))
    if len(names) < max(2, len(a.loss)):
        raise UserError(
            "dither plan mixture needs --loss COLUMN COLUMN ...: the losses of several validation domains, "
            "each once. By the law of mixtures a single one is always least with one domain alone"
        )
    fits = {name: laws.fit(law, frame, loss=name, **mapping(law, a.column)) for name in names}
    # each resample is searched
    return laws.mixture(fits, a.weights or None, n=min(a.bootstrap, 100), by=groups(a, frame))


def _worth(a: Arguments) -> laws.Decision:
    flops, _ = need(a, "flops", "speedup")
    if not (a.data and a.cheap):
        raise UserError("dither plan worth needs --data and --cheap: runs of the plain and the cheap method")
    law = laws.get(a.law)
    planning.check_compute(law)
    frames = rows(a, a.data, a.only), rows(a, a.cheap, a.cheap_only or a.only)
    check_same_text(*frames)
    (plain, by), (cheap, cheap_by) = (own(a, law, frame) for frame in frames)
    n = min(a.bootstrap, 300)  # each at nine budgets
    return laws.worth(cheap, plain, a.speedup, flops, n=n, by=(cheap_by, by), far=a.far)


def _hyper(a: Arguments) -> laws.Decision:
    (flops,) = need(a, "flops")
    law = laws.get("compute_power")
    if a.data and a.loss == ("loss",):
        raise UserError("plan hyper --data needs --loss: the column of the best learning rates or batches")
    if a.data:
        return decide(a, law.name, lambda **params: {a.loss[0]: float(law.predict(params, C=flops))}, C=flops)
    size = None if a.size is None else need(a, "size")[0]
    first, *others = rivals.of_hyper(flops, size).items()
    found = laws.Decision(
        first[1], {}, f"published, {first[0]} (DeepSeek); tuned for its models and schedule", ""
    )
    where = "at the optimal N and D of 2404.10102" if size is None else f"alone at {size:.3g} parameters"
    return rivals.spread_over(found, dict(others), f"two published rules of other runs, the second {where}")


OWN = "data column loss only view cast rounding by bootstrap far out"
"""Options of every plan."""

WHAT: dict[str, tuple[Callable[[Arguments], laws.Decision], str]] = {
    "budget": (_budget, "law constants flops"),
    "target": (_target, "law constants loss_target served"),
    "qat": (_qat, "constants size tokens bits"),
    "critical": (_critical, "constants gap gap_data size bits"),
    "memory": (_memory, "law constants gap gap_data memory tokens"),
    "bits": (_bits, "constants flops size"),
    "split": (_split, "constants bits"),
    "mixture": (_mixture, "domains weights"),
    "worth": (_worth, "law cheap cheap_only speedup flops"),
    "hyper": (_hyper, "flops size"),
}
"""Every plan, and the options that it reads beside OWN."""
