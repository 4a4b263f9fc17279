"""The frame of the studies: intervals, verdicts, parts that are kept, pages, the command."""

import json

import numpy as np
import pytest

from dither import studies
from dither.cli.main import main
from dither.errors import UserError
from dither.studies import Claim, Context, Measurement, Outcome, Study, jackknife, judge, over_seeds
from dither.studies.measure import exact, proportion, resampled

calls: list[int] = []


def draw(seed: int, shift: float) -> dict[str, np.ndarray]:
    calls.append(seed)
    return {"value": np.random.default_rng(seed).normal(shift, 0.1, 1)}


def of_rows(rows: list[int], few: list[int]) -> dict[str, np.ndarray]:
    return {"value": np.array(len(rows) + len(few))}


def measure(context: Context) -> Outcome:
    values = [
        float(context.part(draw, seed=s, shift=context.choose(1.0, 0.5))["value"][0]) for s in context.seeds
    ]
    return Outcome({"up": over_seeds(values), "down": over_seeds(values)}, "generated")


CLAIMS = (
    Claim("up", "up", "ours", "own question", "mean", "above", 0.0),
    Claim("down", "down", "ours", "own question", "mean", "below", 0.0),
    Claim("far", "far", "ours", "own question", "mean", untestable="too far"),
)
TOY = Study("toy", "Toy", "?", ("draw",), CLAIMS, (8, 4), measure)


@pytest.mark.parametrize(
    ("side", "low", "high", "verdict"),
    [
        ("above", 1.1, 2, "reproduced here"),
        ("above", 0.2, 0.9, "opposite sign here"),
        ("above", 0.5, 2, "underpowered"),
        ("below", 0.2, 0.9, "reproduced here"),
        ("below", 1.1, 2, "opposite sign here"),
        ("below", 0.9, 1.1, "underpowered"),
        ("above", 1, 2, "underpowered"),
    ],
)
def test_the_interval_and_the_side_decide(side, low, high, verdict):
    claim = Claim("c", "t", "s", "r", "q", side, 1.0)
    assert judge(claim, Measurement((low + high) / 2, low, high, 5, 0.3))[0] == verdict


def test_progress_says_how_long_a_list_is(tmp_path):
    said: list[str] = []
    Context(TOY, tmp_path, True, said.append).part(of_rows, rows=[*range(400)], few=[1, 2])
    assert said == ["part 1: of_rows rows (400), few [1, 2]"]


def test_what_cannot_be_measured_is_not_testable_and_says_why():
    assert judge(CLAIMS[0], "no data") == ("not testable here", "no data")


def test_the_interval_of_seeds_covers_and_its_power_is_what_it_says():
    noise = np.random.default_rng(0)
    detectable = over_seeds(noise.standard_normal(8).tolist()).detectable
    found = [over_seeds(row.tolist()) for row in noise.standard_normal((2000, 8))]
    assert 0.935 < np.mean([f.low <= 0 <= f.high for f in found]) < 0.965
    effect = float(np.mean([f.detectable for f in found]))
    shown = np.mean([f.low + effect > 0 for f in found])
    assert detectable > 0 and 0.74 < shown < 0.9


def test_the_jackknife_of_a_mean_is_the_interval_of_the_mean():
    values = np.random.default_rng(1).standard_normal(9)
    one, two = over_seeds(values.tolist()), jackknife(lambda kept: float(values[kept].mean()), 9)
    assert np.allclose([one.estimate, one.low, one.high], [two.estimate, two.low, two.high])


def test_an_interval_of_a_share_stays_open_at_its_ends():
    assert proportion(1.0, 10).low == pytest.approx(0.722, abs=1e-3)
    assert proportion(0.0, 10).high == pytest.approx(0.278, abs=1e-3)


def test_a_bootstrap_s_interval_holds_the_middle_95_percent_and_a_determined_number_is_a_point():
    drawn = np.random.default_rng(3).normal(2, 0.5, 4000)
    found = resampled(2.1, drawn, 80)
    assert (found.estimate, found.n) == (2.1, 80)
    assert (found.low, found.high) == pytest.approx((2 - 0.98, 2 + 0.98), abs=0.05)
    assert found.detectable == pytest.approx(2.8 * 0.5, rel=0.05)
    point = exact(3, 7)
    assert (point.low, point.estimate, point.high, point.n) == (3.0, 3.0, 3.0, 7)
    claim = Claim("c", "t", "s", "r", "q", "below", 3.5)
    assert judge(claim, point)[0] == "reproduced here"
    with pytest.raises(ValueError):
        resampled(2.0, [1.0, float("inf")], 3)


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")]])
def test_one_seed_or_a_nan_has_no_interval(values):
    with pytest.raises(ValueError):
        over_seeds(values)


def test_a_study_goes_on_from_finished_parts_and_a_damaged_one_is_computed_anew(tmp_path, monkeypatch):
    monkeypatch.setitem(studies.run.__globals__, "get", lambda name: TOY)
    calls.clear()
    first = studies.run("toy", tmp_path)
    assert calls == list(range(8))
    again = studies.run("toy", tmp_path)
    assert len(calls) == 8 and again == first
    next((tmp_path / "toy" / "parts").glob("*.npz")).write_bytes(b"no")
    assert studies.run("toy", tmp_path) == first and len(calls) == 9
    quick = studies.run("toy", tmp_path, quick=True)
    assert len(calls) == 13 and quick["seeds"] == 4
    assert [c["verdict"] for c in first["claims"]] == [
        "reproduced here",
        "opposite sign here",
        "not testable here",
    ]
    assert json.loads((tmp_path / "toy" / "study.json").read_text()) == first
    for page in ("study.md", "study.html"):
        assert "too far" in (tmp_path / "toy" / page).read_text()


def test_every_study_states_its_claims_seeds_and_protocol():
    for name in studies.names():
        study = studies.get(name)
        keys = [claim.key for claim in study.claims]
        assert keys and len(set(keys)) == len(keys) and study.protocol
        assert min(study.seeds) >= 5
        assert all(c.read in ("full text", "abstract", "unverified", "own question") for c in study.claims)


def test_the_command_lists_studies_and_refuses_names_that_are_none(tmp_path, capsys):
    assert main(["study", "--list"]) == 0
    assert "difficulty" in capsys.readouterr().out
    assert main(["study", "dificulty", "--out", str(tmp_path)]) == 2
    assert "did you mean 'difficulty'" in capsys.readouterr().err
    assert main(["study"]) == 2 and main(["study", "difficulty", "--all"]) == 2
    (tmp_path / "difficulty").write_text("")
    assert main(["study", "difficulty", "--out", str(tmp_path)]) == 2
    with pytest.raises(UserError):
        studies.get("nothing")
