"""Variables that are 0 where a formula is defined: no sparsity, no mantissa bits, one element a scale."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError

SPARSE = dict(aS=16, bS=0.7, cS=12, bN=0.25, aD=1e9, bD=0.35, c=1.4)
EXPERTS = dict(a=400, b=1000, c=0.03, d=100, e=1.5, alpha=0.35, beta=0.35, l=0.5, m=0.3, g=0.3)


@pytest.mark.parametrize("name, params", [("sparse", SPARSE), ("moe_sparsity", EXPERTS)])
def test_dense_models_have_no_sparsity(name, params):
    law = laws.get(name)
    found = law.predict(params, N=1e9, D=1e11, S=np.array([0.0, 1e-12, 0.5]))
    assert found[0] == pytest.approx(found[1], rel=1e-9) and found[0] != pytest.approx(found[2], rel=1e-3)
    if name == "sparse":
        assert found[0] == pytest.approx((16 + 12) * 1e9**-0.25 + (1e9 / 1e11) ** 0.35 + 1.4)
    for bad in (1.0, -0.1, 1.5, np.nan):
        with pytest.raises(UserError, match=r"S .* at least 0, and such that the formula is defined"):
            law.predict(params, N=1e9, D=1e11, S=bad)


def test_runs_of_dense_models_are_fitted_and_their_distance_is_that_of_the_density():
    pytest.importorskip("scipy")
    law, rng = laws.get("sparse"), np.random.default_rng(0)
    n, d = np.exp(rng.uniform(17, 22, 60)), np.exp(rng.uniform(21, 26, 60))
    s = rng.choice([0.0, 0.5, 0.9], 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = laws.fit(law, law.simulate(SPARSE, N=n, D=d, S=s, noise=0.002, seed=0))
        assert fit.value < 60 * 0.002 * 1e-3  # Huber's of such residuals
        assert fit.extrapolation({"S": 0.99}) == pytest.approx(10)
        assert fit.extrapolation({"S": 0.0}) == 1
    with pytest.raises(UserError, match="times beyond the runs"):
        fit.predict(N=1e9, D=1e11, S=0.9999)


def test_floats_without_mantissa_and_scales_of_one_element():
    law = laws.get("fp_training")
    params = law.published["2501.02423"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = law.predict(params, N=1e9, D=1e11, e=4, m=[0, 1e-12], block=32)
        assert found[0] == pytest.approx(found[1], rel=1e-9)
        alone = law.predict(params, N=1e9, D=1e11, e=4, m=3, block=1)  # log2(1) = 0: its term is none
        expected = (
            params["eps"] + params["n"] * 1e9 ** -params["alpha"] + params["d"] * 1e11 ** -params["beta"]
        )
        assert alone == pytest.approx(expected, rel=1e-12)
        grid = np.meshgrid([1e8, 1e9, 4e9], [1e10, 1e11], [1, 2, 4], [0, 1, 3], [1, 16, 128])
        n, d, e, m, block = (v.ravel() for v in grid)
        fit = laws.fit(law, law.simulate(params, N=n, D=d, e=e, m=m, block=block, noise=1e-4, seed=0))
    assert fit.params["delta"] == pytest.approx(params["delta"], rel=0.02)
    assert fit.params["nu"] == pytest.approx(params["nu"], rel=0.02)


def test_a_card_has_no_word_that_json_has_not():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 4), np.geomspace(2e9, 2e11, 4)))
    law = laws.get("chinchilla")
    data = law.simulate(dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36), N=n, D=d, noise=0.003)
    fit = laws.fit(law, data)
    broken = replace(fit, params={**fit.params, "A": np.inf, "B": float("nan")})
    card = json.loads(broken.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert card["params"]["A"] is None and card["params"]["B"] is None
    assert card["params"]["E"] == fit.params["E"]
