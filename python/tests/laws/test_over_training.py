"""Gadre et al.'s over-training law and error law (2403.08540), and Porian et al.'s exponents (2406.19146)."""

from itertools import pairwise

import pytest
from law_tables import needs

from dither import laws
from dither.studies import tables
from dither.studies.papers import over_training as study
from dither.studies.papers import porian


def held(dataset: str, model: str, times: float) -> tuple[laws.Fit, study.Runs]:
    """The law of five runs, and a run of `times` times 20 tokens a parameter."""
    needs(study.TABLE)
    data = study.runs(dataset)
    return study.loss_law(study.take(data, study.FIVE)), study.take(data, [(model, times)])


@pytest.mark.parametrize("dataset", study.SETS)
def test_the_law_of_five_points(dataset: str):
    fit, _ = held(dataset, "open_lm_1b", 1)
    eta = fit.params["eta"]
    # The released code has L = a N^s + b 6^(s/2) (M N)^s + E with s = -2 eta.
    found = fit.params["a"] * 6**-eta, fit.params["b"], -2 * eta, fit.params["E"]
    assert found == pytest.approx(study.PUBLISHED[dataset], rel=3e-4)
    assert fit.certificate.is_minimum
    assert any("5 rows for 4 parameters" in caution for caution in fit.cautions)


@pytest.mark.parametrize(
    ("dataset", "model", "multiplier", "percent"),
    [
        ("rpj", "open_lm_1b", 32, 0.7103),
        ("rpj", "open_lm_7b", 1, 0.7320),
        ("c4_original", "open_lm_7b", 1, 4.295),
        ("rw_original", "open_lm_7b", 1, 1.619),
        ("rw_original", "open_lm_1b", 16, 0.0052),
    ],
)
def test_held_out_losses(dataset: str, model: str, multiplier: float, percent: float):
    assert abs(study.off(*held(dataset, model, multiplier))) == pytest.approx([percent], abs=5e-4)


def test_held_out_errors():
    pytest.importorskip("scipy")
    for model, multiplier, percent in (("open_lm_1b", 32, 3.6365), ("open_lm_7b", 1, 0.0464)):
        losses, run = held("rpj", model, multiplier)
        fit = study.error_law(study.take(study.runs("rpj"), study.SIX))
        assert fit.params == pytest.approx(dict(eps=0.8570, k=2.2065, gamma=0.7146), abs=1e-4)
        assert abs(study.error_off(fit, losses, run)) == pytest.approx([percent], abs=1e-4)


WEIGHTED = {
    "rw": (0.835300, 0.706470, 0.602038, 0.571495, 0.496895),
    "owt2": (0.863511, 0.698501, 0.603196, 0.574295, 0.518454),
}


@pytest.mark.parametrize("dataset", porian.SETS)
def test_porian_s_corrections(dataset: str):
    """The exponent of the optimal size falls with every correction of the protocol (2406.19146)."""
    needs(porian.OPTIMA)
    frame = tables.read(porian.OPTIMA)
    for step, plain, weighted in zip(porian.STEPS, porian.PUBLISHED[dataset], WEIGHTED[dataset], strict=True):
        one = porian.optima(frame, (dataset, *porian.STEPS[step]))
        data = {"C": one["C"], "loss": one["N"]}
        for weights, published in ((None, plain), (one["sd"] ** -2, weighted)):
            fit = laws.fit("compute_power", data, objective="log_square", weights=weights)
            assert fit.params["a"] == pytest.approx(published, abs=1e-6)
    assert all(first > second for first, second in pairwise(porian.PUBLISHED[dataset]))
