"""The quick version of the studies, through the command, as a user runs them."""

import json

from dither.cli.main import main
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
