"""What other publications say: their closed forms and own statements, and the spread of a decision."""

import numpy as np
import pytest

from dither import laws
from dither.laws import decisions, planning, rivals

FLOATS, _ = decisions.published(laws.get("fp_training"))
PRECISION, _ = decisions.published(laws.get("precision"))


def loss_of_floats(n, d, e, m):
    """fp_training at exponent and mantissa bits that may be fractions."""
    return laws.get("fp_training").predict(FLOATS, N=n, D=d, e=e, m=m, block=rivals.BLOCK)


def test_bits_of_floats_are_least():
    """No other bits, size, or split costs less at the same compute; the law itself is the judge."""
    flops = 1e22
    found = rivals.bits_of_floats(flops)(**FLOATS)
    share = FLOATS["delta"] / (FLOATS["delta"] + FLOATS["nu"])

    def loss(bits, n, part=share):
        d = flops * 16 / (6 * n * bits)
        return float(loss_of_floats(n, d, bits * part - 0.5, bits * (1 - part) - 0.5))

    best = loss(found["bits"], found["N"])
    assert best == pytest.approx(found["loss"], rel=1e-12)
    assert 6 * found["N"] * found["D"] * found["bits"] / 16 == pytest.approx(flops)
    for change in (0.97, 1.03):
        assert loss(change * found["bits"], found["N"]) > best
        assert loss(found["bits"], change * found["N"]) > best
        assert loss(found["bits"], found["N"], change * share) > best
    held = rivals.bits_of_floats(flops, 1e9)(**FLOATS)
    assert held["N"] == 1e9 and held["bits"] > found["bits"]
    for change in (0.97, 1.03):
        assert loss(change * held["bits"], 1e9) > held["loss"]


def test_the_paper_s_own_range_of_bits_comes_out():
    """2501.02423: 4 to 8 bits are optimal for 1e21 to 1e31 FLOPs; its critical tokens fix the block."""
    bits = [rivals.bits_of_floats(flops)(**FLOATS)["bits"] for flops in np.geomspace(1e21, 1e31, 11)]
    assert 4 < bits[0] and bits[-1] < 8 and np.all(np.diff(bits) > 0)
    for (e, m), tokens in {(8, 7): 1729.5e12, (4, 3): 27.33e12, (2, 1): 0.393e12}.items():
        ends = tokens * np.array([0.98, 1.0, 1.02])
        assert np.argmin(loss_of_floats(1e9, ends, e, m)) == 1


def test_rules_of_learning_rate_and_batch():
    found = rivals.of_hyper(1e20, 1e9)
    n, d = 1e9, 1e20 / 6e9
    assert found == {
        "2401.02954": {
            "learning rate": pytest.approx(0.3118 * 1e20**-0.125),
            "batch in tokens": pytest.approx(0.292 * 1e20**0.3271),
        },
        "2503.04715": {
            "learning rate": pytest.approx(1.79 * n**-0.713 * d**0.307),
            "batch in tokens": pytest.approx(0.58 * d**0.571),
        },
    }
    best = laws.budget(laws.get("chinchilla"), 1e20)(**decisions.published(laws.get("chinchilla"))[0])
    assert rivals.of_hyper(1e20) == rivals.of_hyper(1e20, best["N"])


def test_the_room_of_a_split_is_where_another_takes_over():
    for bits in (4, 5, 6, 8, 16):
        text = planning.room_of_split(bits, FLOATS["delta"], FLOATS["nu"])
        low, high = (float(word) for word in text.split("between ")[1].split("; ")[0].split(" and "))
        here = planning.split_of_bits(bits)(delta=FLOATS["delta"] / FLOATS["nu"], nu=1.0)["exponent bits"]

        def at(ratio: float, bits: float = bits) -> float:
            return planning.split_of_bits(bits)(delta=ratio, nu=1.0)["exponent bits"]

        assert low < FLOATS["delta"] / FLOATS["nu"] < high
        assert at(1.01 * low) == at(min(0.99 * high, 20.0)) == here
        if low > 0:
            assert at(0.98 * low) == here - 1
        if np.isfinite(high):
            assert at(1.02 * high) == here + 1
    assert "lies between 0 and inf" in planning.room_of_split(3, 1.0, 1.0)


def test_the_spread_reaches_from_the_least_to_the_most():
    one = laws.Decision({"a": 2.0, "b": 1.0, "c": 5.0}, {}, "this", "none")
    found = rivals.spread_over(one, {"x": {"a": 3.0, "b": 0.5}, "y": {"a": 1.5}}, "three laws")
    assert found.intervals == {"a": (1.5, 3.0), "b": (0.5, 1.0)} and found.values == one.values
    said = str(found)
    assert "no confidence intervals" in said and "three laws" in said and "95 %" not in said
    assert "by x: a 3, b 0.5" in said and "(1.5 .. 3)" in said


def test_the_printed_digits_move_no_decision_by_a_percent():
    """Every constant off by half a unit of its last digit, in the worst directions together."""
    half = {"A": 0.5, "B": 5.0, "E": 5e-5, "alpha": 5e-5, "gw": 5e-5, "ga": 5e-5, "gkv": 5e-5}
    floats = {"n": 5e-5, "d": 5e-5, "eps": 5e-5, "alpha": 5e-5, "beta": 5e-5, "delta": 5e-5, "nu": 5e-5}

    def moved(what, params, units):
        """Sum over the constants of what half a unit changes, as a share of every value."""
        base = what(**params)
        total = dict.fromkeys(base, 0.0)
        for name, unit in units.items():
            shift = {name: params[name] + unit}
            if name == "alpha" and params is PRECISION:
                shift["beta"] = shift["alpha"]  # they are tied in the paper
            new = what(**{**params, **shift})
            total = {key: total[key] + abs(new[key] / base[key] - 1) for key in base}
        return max(total.values())

    assert 0 < moved(planning.bits_for_compute(1e22), PRECISION, half) < 0.01
    assert 0 < moved(rivals.bits_of_floats(1e22), FLOATS, floats) < 0.01
    assert 0 < moved(planning.split_of_bits(8), FLOATS, {"delta": 5e-5, "nu": 5e-5}) < 0.01
    power = {"c": 5e-5, "a": 5e-5}
    for name in ("learning rate", "batch in tokens"):
        law = laws.get("compute_power")
        params = law.published[f"2401.02954, {name}"]
        assert moved(lambda law=law, **p: {"y": float(law.predict(p, C=1e26))}, params, power) < 0.01
