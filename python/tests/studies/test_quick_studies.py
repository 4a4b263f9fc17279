"""The quick version of the studies, through the command, as a user runs them."""

import json

import pytest

from dither.cli.main import main
from dither.studies.data import WORDNET
from dither.studies.study import VERDICTS


def test_the_quick_study_of_difficulty_judges_every_claim_on_real_images(tmp_path):
    assert main(["study", "difficulty", "--quick", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "difficulty-quick"
    record = json.loads((folder / "study.json").read_text())
    assert len(record["claims"]) == 6 and all(c["verdict"] in VERDICTS for c in record["claims"])
    found = {c["claim"]: c["measured"] for c in record["claims"]}
    assert found["resnets"] is None
    assert 0.5 < found["noisy"]["estimate"] < 1 and found["one-factor"]["low"] > 0.3
    assert (folder / "picture-3.png").stat().st_size > 10_000


def test_the_quick_studies_of_pruning_labels_and_low_precision_judge_what_they_can(tmp_path):
    if not (WORDNET / "data.noun").is_file():
        pytest.skip("Debian's wordnet-base is not installed")
    studies = {
        "pruning": 2,
        "weak-labels": 1,
        "low-precision-scores": 0,
    }  # how many claims cannot be tested here
    assert main(["study", *studies, "--quick", "--out", str(tmp_path)]) == 0
    for name, untestable in studies.items():
        claims = json.loads((tmp_path / f"{name}-quick" / "study.json").read_text())["claims"]
        assert all(c["verdict"] in VERDICTS for c in claims)
        measured = [c["measured"] for c in claims if c["measured"] is not None]
        assert len(claims) - len(measured) == untestable
        assert all(m["n"] == 5 and m["low"] <= m["estimate"] <= m["high"] for m in measured)
