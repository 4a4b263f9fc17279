"""Studies that train their own small runs: what they compute from them, and (slow) their quick versions."""

import json

import numpy as np
import pytest
from scipy.optimize import least_squares

from dither.cli.main import main
from dither.laws.isoflop import vertex
from dither.studies import data, texts
from dither.studies.papers import qat_planner
from dither.studies.study import VERDICTS


def test_the_share_of_the_study_is_that_of_the_planner(capsys):
    assert main(["plan", "qat", "--size", "1e9", "--tokens", "2e10", "--bits", "4"]) == 0
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("share"))
    assert float(printed.split()[1]) == pytest.approx(float(qat_planner.rule(40)), rel=1e-4)
    for s, share in qat_planner.PUBLISHED.items():
        assert float(qat_planner.rule(s)) == pytest.approx(share, abs=6e-4)


def test_the_gap_of_the_loss_law_is_least_at_its_optimum_and_a_share_off_costs():
    for s in (10.0, 400.0):
        best = qat_planner.optimum(s, qat_planner.CONSTRUCTED)
        gaps = qat_planner.gap(s, [best * 0.5, best, min(0.99, best * 2)], qat_planner.CONSTRUCTED)
        assert gaps.argmin() == 1 and (gaps > 0).all()
        assert qat_planner.cost(s, best) == pytest.approx(0, abs=1e-12)
        assert qat_planner.cost(s, best * 0.5) > 0.001


def test_a_vertex_is_found_between_shares_and_kept_within_them():
    x = np.log([0.02, 0.05, 0.1, 0.2, 0.5])
    assert np.exp(vertex(x, (x - np.log(0.13)) ** 2)) == pytest.approx(0.13)
    assert np.exp(vertex(x, -x)) == pytest.approx(0.5)
    assert np.exp(vertex(x, x)) == pytest.approx(0.02)


def quick(name: str, folder) -> dict[str, dict]:
    assert main(["study", name, "--quick", "--out", str(folder)]) == 0
    record = json.loads((folder / f"{name}-quick" / "study.json").read_text())
    claims = {claim["claim"]: claim for claim in record["claims"]}
    assert all(claim["verdict"] in VERDICTS for claim in claims.values())
    return claims


@pytest.mark.slow
def test_the_quick_study_of_the_share_of_qat(tmp_path):
    claims = quick("qat-planner", tmp_path)
    for key in ("formula", "folklore", "form", "flat", "recovered"):
        assert claims[key]["verdict"] == "reproduced here"
    own = [claims[f"{key}-{bits}"]["measured"] for key in ("short", "first") for bits in (4, 2)]
    assert all(found["n"] == 5 for found in own)
    assert claims["grows"]["verdict"] == "not testable here"


@pytest.mark.slow
def test_the_quick_study_of_our_own_laws_says_first_whether_a_floor_is_identified(tmp_path):
    if not (texts.SWORD / "ot.bzz").is_file() or not (data.WORDNET / "data.noun").is_file():
        pytest.skip("Debian's sword-text-web and wordnet-base are not both installed")
    claims = quick("tiny-laws", tmp_path)
    assert list(claims)[:3] == ["E-code", "E-reference", "E-prose"]
    for claim in claims.values():
        found = claim["measured"]
        assert found["low"] <= found["estimate"] <= found["high"]
    page = (tmp_path / "tiny-laws-quick" / "study.md").read_text()
    assert "Is E identified?" in page and "42 runs on code, reference, prose" in page
    # the same command again trains nothing
    before = sorted((tmp_path / "tiny-laws-quick" / "runs").rglob("*"))
    quick("tiny-laws", tmp_path)
    assert sorted((tmp_path / "tiny-laws-quick" / "runs").rglob("*")) == before


@pytest.mark.slow
def test_the_constructed_constants_are_the_least_squares_match_to_the_rule():
    """scipy from them gains less than 5 % of the squares; from a tenth off it comes back to as few."""
    s = np.geomspace(10, 4000, 25)
    names, rule = ("om", "lam", "xi", "rho"), qat_planner.rule(s)

    def off(v: np.ndarray) -> np.ndarray:
        params = {**qat_planner.CONSTRUCTED, **dict(zip(names, np.exp(v), strict=True))}
        return np.array([qat_planner.optimum(float(x), params) for x in s]) - rule

    own = np.log([qat_planner.CONSTRUCTED[name] for name in names])
    squares = float(np.sum(off(own) ** 2))
    for start in (own, own + 0.1):
        found = least_squares(off, start, diff_step=1e-2, max_nfev=60)
        assert squares < 1.05 * 2 * found.cost
    assert 2 * found.cost < 1.05 * squares
