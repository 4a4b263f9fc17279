"""`dither fit` and `dither plan`: tables, run directories, cards, exit codes."""

import csv
import json

import numpy as np
import pytest

from dither import laws
from dither.cli.main import main

TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)


@pytest.fixture
def table(tmp_path):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 6), np.geomspace(5e8, 1e11, 6)))
    data = laws.get("chinchilla").simulate(TRUTH, N=n, D=d, noise=0.003, seed=1)
    path = tmp_path / "sweep.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["params", "tokens", "val_loss"])
        writer.writerows(zip(data["N"], data["D"], data["loss"], strict=True))
    return str(path)


COLUMNS = ("--column", "N=params", "--column", "D=tokens", "--loss", "val_loss")


def test_a_table_gives_a_fit_and_a_card(table, tmp_path, capsys):
    out = tmp_path / "card.json"
    more = (
        "--predict",
        "N=1e10,D=2e11",
        "--bootstrap",
        "50",
        "--by",
        "params",
        "--validate",
        "--out",
        str(out),
    )
    assert main(["fit", "chinchilla", table, *COLUMNS, *more]) == 0
    said = capsys.readouterr().out
    assert "alpha" in said and "of 6 groups" in said and "largest scale held out" in said
    card = json.loads(out.read_text())
    assert card["params"]["alpha"] == pytest.approx(0.34, abs=0.05)
    low, high = card["intervals_95"]["E"]
    assert low < card["params"]["E"] < high
    truth = float(laws.get("chinchilla").predict(TRUTH, N=1e10, D=2e11))
    assert card["predictions"][0]["value"] == pytest.approx(truth, rel=0.02)
    assert card["predictions"][0]["rivals"] and card["validation"]["largest"]["held"]


def test_a_fit_is_drawn_into_a_folder(table, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pictures"
    assert main(["fit", "chinchilla", table, *COLUMNS, "--bootstrap", "20", "--plot", str(folder)]) == 0
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    assert (folder / "residuals.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["fit", "chinchilla", table, *COLUMNS, "--bootstrap", "0", "--plot", table]) == 2


def make_run(folder, n: float, d: float, loss: float, done: bool = True) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"params": n, "train_tokens": 1e9, "corpus": "abc"}))
    (folder / "config.toml").write_text("[train]\nseed = 3\n")
    if done:
        ends = [{"view": "full", "tokens": d, "loss": loss}]
        ends += [{"view": "cast", "cast": q, "rounding": "nearest_even", "tokens": d, "loss": loss + 0.1}
                 for q in ("int4_g32", "mxfp4")]  # fmt: skip
        (folder / "summary.json").write_text(json.dumps({"final": ends}))


@pytest.fixture
def folder(tmp_path):
    law = laws.get("chinchilla")
    for n in np.geomspace(1e5, 1e7, 5):
        for d in np.geomspace(1e7, 1e10, 4):
            make_run(tmp_path / "runs" / f"{n:.0f}-{d:.0f}", n, d, float(law.predict(TRUTH, N=n, D=d)))
    make_run(tmp_path / "runs" / "unfinished", 1e6, 1e8, 4.0, done=False)
    return tmp_path / "runs"


def test_a_folder_of_runs(folder, capsys):
    assert main(["fit", "chinchilla", str(folder), "--bootstrap", "0"]) == 0
    said = capsys.readouterr().out
    assert "over 20 rows" in said and "unfinished: not finished" in said
    frame, left = laws.read_runs([folder])
    assert len(frame["N"]) == 20 and len(left) == 1 and set(frame["seed"]) == {3}
    assert frame["U"] == [min(1e9, d) for d in frame["D"]]
    fit = laws.fit("chinchilla", frame)
    assert fit.params == pytest.approx(TRUTH, rel=1e-4)
    cast, _ = laws.read_runs([folder], view="cast", cast="mxfp4")
    assert np.subtract(cast["loss"], frame["loss"]) == pytest.approx(0.1)


def test_runs_that_cannot_be_read(folder, tmp_path, capsys):
    assert main(["fit", "chinchilla", str(folder), "--view", "cast"]) == 2
    assert "several casts were evaluated" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["fit", "chinchilla", str(tmp_path / "empty")]) == 2
    assert "no run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "chinchila", "T"), "did you mean 'chinchilla'"),
        (("fit", "chinchilla"), "name a table"),
        (("fit", "chinchilla", "nowhere.csv"), "no such file"),
        (("fit", "chinchilla", "T"), "no column 'N'"),
        (("fit", "chinchilla", "T", "--column", "M=params"), "has the variables N, D"),
        (("fit", "chinchilla", "T", "--column", "N"), "give NAME=VALUE"),
        (("fit", "chinchilla", "T", *COLUMNS, "--fix", "E=x"), "could not convert"),
        (("fit", "chinchilla", "T", *COLUMNS, "--by", "seed"), "no column 'seed'"),
        (("fit", "chinchilla", "T", *COLUMNS, "--predict", "N=1e15,D=1e13"), "far=True"),
        (("plan", "budgets", "--flops", "1e20"), "did you mean 'budget'"),
        (("plan", "budget"), "needs --flops"),
        (("plan", "bits", "--flops", "1e20"), "no constants of precision"),
        (("plan", "target", "--loss_target", "1.2"), "out of reach"),
        (("plan", "split"), "needs --bits"),
        (("plan", "split", "--bits", "2.5"), "3 to 64 bits"),
        (("plan", "split", "--bits", "inf"), "--bits must be positive and finite, not inf"),
        (("plan", "budget", "--flops", "nan"), "--flops must be positive and finite, not nan"),
        (
            ("plan", "worth", "--law", "saturation", "--flops", "1e20", "--data", "T", "--cheap", "T"),
            "has no N and D",
        ),
        (("plan", "mixture", "--domains", "web", "code"), "needs --data"),
        (("plan", "worth", "--flops", "1e20"), "needs --data and --cheap"),
        (("plan", "qat", "--size", "-1", "--tokens", "1e10", "--bits", "4"), "must be positive"),
    ],
)
def test_bad_arguments_exit_with_2(arguments, message, table, capsys):
    assert main([table if word == "T" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_plans(table, tmp_path, capsys):
    out = tmp_path / "plan.json"
    data = ("--data", table, *COLUMNS, "--out", str(out))
    assert main(["plan", "budget", "--flops", "1e21", *data]) == 0
    said = json.loads(out.read_text())
    low, high = said["intervals"]["N"]
    assert low < said["values"]["N"] < high and said["basis"] == "36 own runs"
    capsys.readouterr()
    assert main(["plan", "budget", "--flops", "5.76e23"]) == 0
    assert "published, 2203.15556" in capsys.readouterr().out
    assert main(["plan", "qat", "--size", "1e9", "--tokens", "1e11", "--bits", "4"]) == 0
    assert "tokens quantized" in capsys.readouterr().out
    gap = ("--gap", "CT=.05,gD=.5,gN=.45,rate=.9", "--bits", "4")
    assert main(["plan", "critical", "--size", "1e9", *gap]) == 0
    assert main(["plan", "memory", "--memory", "1e9", "--tokens", "2e10", *gap[:2]]) == 0
    assert main(["plan", "hyper", "--flops", "1e20"]) == 0
    assert "learning rate" in capsys.readouterr().out
    assert main(["fit", "list"]) == 0
    assert "data_constrained" in capsys.readouterr().out


def test_the_split_of_a_float(capsys):
    assert main(["plan", "split", "--bits", "8"]) == 0
    said = capsys.readouterr().out
    assert "2501.02423" in said and "exponent bits          4" in said and "mantissa bits          3" in said


def test_the_cheap_method_at_equal_compute(table, tmp_path, capsys):
    """The same runs, one as if twice as cheap: better at every budget, by what twice the compute buys."""
    out = tmp_path / "worth.json"
    arguments = ["--flops", "1e21", "--speedup", "2", *COLUMNS, "--out", str(out)]
    assert main(["plan", "worth", "--data", table, "--cheap", table, *arguments]) == 0
    assert "better at every budget" in capsys.readouterr().out
    values = json.loads(out.read_text())["values"]
    law = laws.get("chinchilla")
    ends = [laws.budget(law, flops)(**TRUTH)["loss"] for flops in (1e21, 2e21)]
    assert values["advantage at --flops"] == pytest.approx(ends[0] - ends[1], rel=0.1)
    assert main(["plan", "worth", "--data", table, "--cheap", table, "--flops", "1e10", *COLUMNS]) == 2


def test_runs_that_are_left_out_of_a_decision_are_named(folder, capsys):
    runs = str(folder)
    assert main(["plan", "budget", "--flops", "1e19", "--data", runs]) == 0
    assert capsys.readouterr().out.count("unfinished: not finished") == 1
    worth = ["plan", "worth", "--flops", "1e20", "--data", runs, "--cheap", runs]
    assert main(worth) == 2  # 167 times the largest run
    refused = capsys.readouterr()
    assert "give --far" in refused.err
    assert main([*worth, "--far"]) == 0
    assert capsys.readouterr().out.count("unfinished: not finished") == 2  # of either method


def test_the_best_mixture_of_own_runs(tmp_path, capsys):
    """L = c + exp(sum t_j r_j) is least at the vertex of the least t; its runs say so."""
    shares = np.random.default_rng(0).dirichlet([2.0, 2.0, 2.0], 24)
    loss = 1.5 + np.exp(shares @ [0.6, -0.4, 0.3])
    path = tmp_path / "mixtures.csv"
    rows = [",".join(f"{v:.9f}" for v in (*r, y)) for r, y in zip(shares, loss, strict=True)]
    path.write_text("\n".join(["web,code,books,loss", *rows]))
    out = tmp_path / "mixture.json"
    arguments = ["--data", str(path), "--domains", "web", "code", "books", "--out", str(out)]
    assert main(["plan", "mixture", *arguments]) == 0
    found = json.loads(out.read_text())["values"]
    assert found["code"] > 0.99 and found["loss"] == pytest.approx(1.5 + np.exp(-0.4), rel=1e-2)
