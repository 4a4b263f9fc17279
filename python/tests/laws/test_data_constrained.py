"""Muennighoff et al.'s runs (2305.16264): the tied law, and what repetition is worth (not settled)."""

import numpy as np
import pytest
from law_tables import needs

from dither import laws
from dither.studies.papers import data_constrained as study

pytest.importorskip("scipy")

FIXED = study.HELD


def runs(subset: str = "fit_outliers_removed") -> dict[str, np.ndarray]:
    needs(study.TABLE)
    return study.runs(subset)


def test_local_and_global_minima_are_found_and_reported():
    data = runs()
    assert len(data["loss"]) == 182
    fit = laws.fit("data_constrained", data, fixed=FIXED)
    assert (fit.params["R_D"], fit.params["R_N"]) == pytest.approx((95.365, 1.7059), rel=1e-4)
    assert fit.value == pytest.approx(0.0158046625, rel=1e-8)
    found = [(p["R_D"], p["R_N"], value) for value, p in fit.minima]
    for expected in ((46.99, 2.33, 0.0158073786), (15.3718, 5.3151, 0.0158259321)):
        assert any(one == pytest.approx(expected, rel=1e-3) for one in found), expected
    said = next(caution for caution in fit.cautions if "different minima" in caution)
    assert "R_D is 15.37 to" in said
    profile = fit.profile("R_D", level=0.5, points=4)
    for at, height in zip(profile.x, profile.value, strict=True):
        # from the best minimum alone it is followed along the wrong valley
        held = laws.fit("data_constrained", data, fixed=FIXED | {"R_D": at})
        assert height <= held.value * (1 + 1e-6), at


def test_the_published_values_lie_beside_a_local_minimum():
    data = runs()
    law = laws.get("data_constrained")
    published = FIXED | study.PUBLISHED
    started = laws.fit("data_constrained", data, fixed=FIXED, starts=[list(published.values())])
    assert started.value == pytest.approx(0.0158259321, rel=1e-8)
    log = np.log(data["loss"])
    variables = {key: data[key] for key in ("N", "D", "U")}
    r = np.log(law.predict(published, **variables)) - log
    huber = np.where(abs(r) <= 1e-3, r**2 / 2, 1e-3 * (abs(r) - 5e-4)).sum()
    assert huber == pytest.approx(0.0158259353, rel=1e-8)
    for values, expected in (
        (published, 0.7722046),
        (laws.fit("data_constrained", data, fixed=FIXED).params, 0.7910),
    ):
        predicted = law.predict(values, **variables)
        r2 = 1 - np.sum((data["loss"] - predicted) ** 2) / np.sum((data["loss"] - data["loss"].mean()) ** 2)
        assert r2 == pytest.approx(expected, abs=2e-4)


def test_the_tied_law_of_the_runs_with_little_repetition():
    data = runs("all")
    kept = data["D"] <= 2.5 * data["U"]
    assert kept.sum() == 62
    fit = laws.fit("chinchilla_tied", {key: values[kept] for key, values in data.items()})
    assert fit.value == pytest.approx(0.00121894, rel=1e-5)
    logs = [np.log(fit.params[name]) for name in ("A", "B", "E")]
    assert logs == pytest.approx((6.45395, 8.024248, 0.640036), abs=2e-5)
    assert fit.params["alpha"] == pytest.approx(0.359609, abs=1e-6)
