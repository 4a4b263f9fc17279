"""`dither plan worth` on the runs of a sweep, end to end."""

import json

import pytest

from dither import laws
from dither.cli.main import main


@pytest.fixture
def sweep(folder):
    """Where a sweep of two methods, three sizes and three lengths was trained: 18 runs."""
    pytest.importorskip("torch")
    text = (folder / "run.toml").read_text().replace("checkpoint_every = 2", "checkpoint_every = 72")
    grid = '[grid]\n"model.width" = [8, 16, 32]\n"train.steps" = [8, 24, 72]\n'
    methods = '[[run]]\n"train.seed" = 0\n[[run]]\nmethod = { name = "qat", quantizer = "int2_row" }\n'
    (folder / "grid.toml").write_text(text.replace("every = 2\n", "every = 72\n") + grid + methods)
    assert main(["sweep", "grid.toml", "--workers", "2", "--out", "swept"]) == 0
    return folder / "swept"


@pytest.mark.slow
def test_a_cheap_method_of_an_own_sweep(sweep, capsys):
    """Two methods of one `dither sweep` at equal compute: in words where nine tiny runs show little."""
    capsys.readouterr()
    apart = ("--only", "method=none", "--cheap_only", "method=qat", "--bootstrap", "40")
    worth = ["plan", "worth", "--data", str(sweep), "--cheap", str(sweep), *apart]
    out = sweep.parent / "worth.json"
    assert main([*worth, "--flops", "1e9", "--speedup", "4", "--out", str(out)]) == 0
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    assert "constants: 9 and 9 own runs" in said and "plain: intervals are not calibrated: 9 runs" in said
    for name in ("advantage at the smallest run", "advantage at the budget"):
        low, high = found["intervals"][name]
        assert low < found["values"][name] < high
    plain, _ = laws.read_runs([sweep])
    assert len(set(plain["method"])) == 2 and len(set(plain["N"])) == 3
    assert main([*worth, "--flops", "1e9", "--view", "cast", "--cast", "int4_g32"]) == 0
    assert "own runs" in capsys.readouterr().out

    one = [str(path) for path in sweep.iterdir() if (path / "run.json").is_file()]
    of_one_size = [p for p in one if "width = 16\n" in (sweep / p / "config.toml").read_text()]
    for arguments, why in (
        (["--data", str(sweep), "--cheap", str(sweep)], "18 runs are among those of the plain and of the"),
        (["--data", str(sweep), "--cheap", str(sweep), "--only", "method=qat"], "9 runs are among those"),
        (["--data", *of_one_size, "--cheap", str(sweep), *apart], "but there are 3 rows"),
    ):
        assert main(["plan", "worth", *arguments, "--flops", "1e9"]) == 2
        assert why in capsys.readouterr().err
