"""One real comparison, two seeds, for all tests of the report."""

import shutil
from pathlib import Path

import pytest

from dither import report
from dither.train import Progress, compare

CONFIGURATIONS = Path(__file__).parent.parent / "cli"


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished comparison with its report; do not change it."""
    root = tmp_path_factory.mktemp("report")
    (root / "corpus").mkdir()
    for i in range(12):
        text = "".join(f"line {n} of file {i}: {n * i % 7} apples\n" for n in range(60))
        (root / "corpus" / f"{i}.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DITHER_CACHE", str(root / "cache"))
        options = {
            "data.sources": [str(root / "corpus")],
            "data.reference": "0000",
            "train.steps": 6,
            "seeds": [3, 4],
        }
        compare(CONFIGURATIONS / "arms.toml", root / "arms", options, Progress())
    report.write(root / "arms")
    return root / "arms"


@pytest.fixture
def copy(compared: Path, tmp_path: Path) -> Path:
    """A copy of the comparison that a test may spoil."""
    return Path(shutil.copytree(compared, tmp_path / "copy"))
