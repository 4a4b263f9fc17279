"""`dither fit`: tables, run directories, cards, exit codes; wrong arguments of `dither plan` too."""

import json

import numpy as np
import pytest
from law_runs import COLUMNS, TRUTH, make_folder, make_run, make_table

from dither import laws
from dither.cli.main import main
from dither.laws import checkpoints


@pytest.fixture
def table(tmp_path):
    return make_table(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "runs")


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


def test_the_page_of_runs_has_their_curves_counts_and_checkpoints(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "pictures"
    assert main(["fit", "chinchilla", str(folder), "--bootstrap", "20", "--plot", str(out)]) == 0
    assert "over 20 rows" in capsys.readouterr().out  # the last checkpoints are fitted still
    assert (out / "envelope.png").read_bytes()[:4] == b"\x89PNG"
    frame, _ = laws.read_runs([folder], every=True)
    curves = checkpoints.curves(frame)
    assert len(curves) == 20 and "N 1e+05" in curves and "N 1e+05 (4)" in curves
    c, loss = curves["N 1e+05"]
    assert len(c) == 3 and (np.diff(c) > 0).all() and (np.diff(loss) < 0).all()
    assert c[2] == pytest.approx(6 * 1e5 * 1e10) or c[2] == pytest.approx(6 * 1e5 * 1e7)
    assert checkpoints.curves({name: cells[:3] for name, cells in frame.items()}) == {}  # one run alone


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
    cast, _ = laws.read_runs([folder], view="cast", cast="mxfp4", rounding="stochastic")
    assert np.subtract(cast["loss"], frame["loss"]) == pytest.approx(0.2)


def test_checkpoints_and_counts_of_parameters_of_runs(folder, capsys):
    every, _ = laws.read_runs([folder], every=True)
    assert len(every["N"]) == 60 and every["D"][:3] == pytest.approx(
        [every["D"][2] * k / 3 for k in (1, 2, 3)]
    )
    assert every["N_body"] == [n - 2 * 16 * 100 for n in every["N"]]
    assert checkpoints.since(every, 1.0) == laws.read_runs([folder])[0]
    half = checkpoints.since(every, 0.5)
    assert len(half["run"]) == 40
    assert checkpoints.since(every, 0.0) == every
    assert main(["fit", "chinchilla", str(folder), "--bootstrap", "0", "--validate"]) == 0
    said = capsys.readouterr().out
    assert "over 20 rows" in said and "N: body" in said
    assert "checkpoints: from half of a run on" in said and "checkpoints: all" in said
    assert "checkpoints: the last" not in said
    main(["fit", "chinchilla", str(folder), "--bootstrap", "20", "--validate", "--since", "0.5"])
    said = capsys.readouterr().out
    assert "over 40 rows" in said and "of 20 groups" in said and "runs are resampled" in said
    assert "checkpoints: the last alone" in said and "from half" not in said


def test_checkpoints_of_a_table(tmp_path, capsys):
    path = tmp_path / "all.csv"
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 5), np.geomspace(5e8, 1e11, 4)))
    rows = ["name,N,tokens,without,val"]
    for i, (one, two) in enumerate(zip(n, d, strict=True)):
        for share in (0.2, 0.6, 1.0):
            loss = (2 - share) * float(laws.get("chinchilla").predict(TRUTH, N=one, D=share * two))
            rows.append(f"run {i},{one},{share * two},{0.9 * one - 1e6},{loss}")
    path.write_text("\n".join(rows) + "\n")
    how = ["fit", "chinchilla", str(path), "--column", "D=tokens", "--loss", "val", "--bootstrap", "0"]
    assert main([*how, "--run", "name", "--validate", "--other_N", "body=without"]) == 0
    said = capsys.readouterr().out
    assert "over 20 rows" in said and "checkpoints: all" in said and "N: body" in said
    main([*how, "--run", "name", "--since", "0"])
    assert "over 60 rows" in capsys.readouterr().out
    for more, message in (
        (["--since", "0.5"], "--since needs --run"),
        (["--run", "nam"], "no column 'nam' (did you mean 'name'?)"),
        (["--run", "name", "--since", "2"], "a share of 0 to 1"),
        (["--validate", "--other_N", "body=body"], "no column 'body'"),
    ):
        assert main([*how, *more]) == 2
        assert message in capsys.readouterr().err
    assert (
        main(["fit", "saturation", str(path), "--column", "C=tokens", "--loss", "val", "--since", "0"]) == 2
    )
    assert "which saturation has not" in capsys.readouterr().err


def test_runs_that_no_one_law_holds_for(folder, capsys):
    make_run(folder / "prose", 1e6, 1e8, 5.0, corpus="f" * 64)
    make_run(folder / "nan", 1e6, 1e9, None)
    assert main(["fit", "chinchilla", str(folder), "--bootstrap", "0"]) == 0
    said = capsys.readouterr().out
    assert "these are runs of 2 corpora: abc (20), ffffffffffff (1)" in said and "over 21 rows" in said
    assert "nan: it diverged" in said
    assert main(["fit", "chinchilla", str(folder), "--bootstrap", "0", "--only", "corpus=abc"]) == 0
    said = capsys.readouterr().out
    assert "corpora" not in said and "over 20 rows" in said
    assert main(["plan", "budget", "--flops", "1e17", "--data", str(folder), "--only", "corpus=abc"]) == 0
    assert "20 own runs" in capsys.readouterr().out
    assert main(["fit", "chinchilla", str(folder), "--only", "corpus=ab"]) == 2
    assert "no row has it; corpus is abc, ffffffffffff" in capsys.readouterr().err
    assert main(["fit", "chinchilla", str(folder), "--only", "corpse=abc"]) == 2
    assert "did you mean 'corpus'" in capsys.readouterr().err


def test_runs_that_cannot_be_read(folder, tmp_path, capsys):
    assert main(["fit", "chinchilla", str(folder), "--view", "cast"]) == 2
    assert "several casts were evaluated (int4_g32, mxfp4)" in capsys.readouterr().err
    for more, message in (
        (["--cast", "mxfp4"], "a cast (mxfp4) belongs to the view 'cast', not to 'full'"),
        (["--view", "cast", "--cast", "mxfp8"], "was not evaluated as mxfp8, nearest_even"),
        (
            ["--view", "cast", "--cast", "mxfp4", "--rounding", "up"],
            "must be one of nearest_even, stochastic",
        ),
        (["--view", "casts"], "must be one of full, recipe, cast"),
    ):
        assert main(["fit", "chinchilla", str(folder), *more]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["fit", "chinchilla", str(tmp_path / "empty")]) == 2
    assert "no run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "params,tokens,loss\n", "x.csv has a header (params, tokens, loss) and no rows"),
        ("x.csv", "", "x.csv is empty"),
        ("x.jsonl", "\n", "x.jsonl is empty"),
    ],
)
def test_tables_without_rows_are_said_to_be_that(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    assert main(["fit", "chinchilla", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "chinchila", "T"), "did you mean 'chinchilla'"),
        (("fit", "chinchilla"), "name a table"),
        (("fit", "chinchilla", "nowhere.csv"), "no such file"),
        (("fit", "chinchilla", "T"), "no column 'N'"),
        (("fit", "chinchilla", "T", "--column", "M=params"), "has the variables N, D"),
        (("fit", "chinchilla", "T", "--column", "N"), "give NAME=VALUE"),
        (("fit", "chinchilla", "T", *COLUMNS, "--view", "cast"), "of a table name --loss"),
        (("fit", "chinchilla", "T", *COLUMNS, "--fix", "E=x"), "could not convert"),
        (("fit", "chinchilla", "T", *COLUMNS, "--by", "seed"), "no column 'seed'"),
        (("fit", "chinchilla", "T", *COLUMNS, "--predict", "N=1e15,D=1e13"), "far=True"),
        (("plan", "budgets", "--flops", "1e20"), "did you mean 'budget'"),
        (("plan", "budget"), "needs --flops"),
        (("plan", "budget", "--flops", "1e20", "--law", "gamma"), "no constants of gamma are known"),
        (("plan", "memory", "--memory", "1e9", "--tokens", "1e10", "--gap", "CT=1"), "needs a value of gD"),
        (("plan", "critical", "--size", "1e9", "--bits", "4", "--gap_data", "T"), "no column 'N'"),
        (("plan", "target", "--loss_target", "1.2"), "out of reach"),
        (("plan", "split"), "needs --bits"),
        (("plan", "split", "--bits", "8", "--bootstrap", "0"), "must be at least 1"),
        (("plan", "split", "--bits", "2.5"), "3 to 64 bits"),
        (("plan", "split", "--bits", "inf"), "--bits must lie between 0.1 and 64, not inf"),
        (("plan", "budget", "--flops", "nan"), "--flops must lie between 1000 and 1e+40, not nan"),
        (
            ("plan", "worth", "--law", "saturation", "--flops", "1e20", "--data", "T", "--cheap", "T"),
            "has no N and D",
        ),
        (("plan", "mixture", "--domains", "web", "code"), "needs --data"),
        (("plan", "worth", "--flops", "1e20"), "needs --data and --cheap"),
        (("plan", "budget", "--flops", "1e20", "--bits", "4"), "plan budget does not read --bits; it reads"),
        (("plan", "critical", "--law", "gamma"), "does not read --law"),
        (
            ("plan", "budget", "--flops", "1e20", "--data", "T", "--constants", "A=1"),
            "give --data or --constants, not both",
        ),
        (("plan", "memory", "--gap", "CT=1", "--gap_data", "T"), "give --gap_data or --gap, not both"),
        (("plan", "qat", "--size", "-1", "--tokens", "1e10", "--bits", "4"), "--size must lie between 1 and"),
        (("plan", "target", "--loss_target", "2", "--served", "-5"), "--served must be tokens, not -5"),
        (("plan", "hyper", "--flops", "1e20", "--data", "T"), "needs --loss: the column of the best"),
        (
            (
                "plan",
                "mixture",
                "--data",
                "T",
                "--domains",
                "params",
                "tokens",
                "--loss",
                "val_loss",
                "tokens",
            ),
            "must sum to 1 in every row; rows 1, 2, 3, 4, 5, ... sum to",
        ),
        (
            ("plan", "budget", "--flops", "1e20", "--constants", "A=400,B=2000,E=1.7,alpha=-.35,beta=.3"),
            "--constants: alpha (exponent of the size) cannot be -0.35",
        ),
        (
            ("plan", "budget", "--flops", "1e20", "--constants", "A=nan,B=2000,E=1.7,alpha=.35,beta=.3"),
            "A (coefficient of the size term) cannot be nan",
        ),
        (("fit", "chinchilla", "T", *COLUMNS, "--bootstrap", "-5"), "--bootstrap must be 0 (no intervals)"),
    ],
)
def test_bad_arguments_exit_with_2(arguments, message, table, capsys):
    assert main([table if word == "T" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_fit_lists_its_laws(capsys):
    assert main(["fit", "list"]) == 0
    assert "data_constrained" in capsys.readouterr().out
