"""`dither plan`: every decision says what it stands on, and its interval or why it has none."""

import json

import numpy as np
import pytest
from law_runs import COLUMNS, TRUTH, make_folder, make_run, make_table, write

from dither import laws
from dither.cli.main import main
from dither.laws.planning import critical_tokens


@pytest.fixture
def table(tmp_path):
    return make_table(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "runs")


GAP = dict(CT=5.0, gD=0.5, gN=0.45, rate=0.9)
GIVEN = ("--gap", ",".join(f"{name}={value}" for name, value in GAP.items()))


def gaps(folder, noise: float = 0.02) -> str:
    """48 measured gaps of quantization after training."""
    grid = np.meshgrid(np.geomspace(1e8, 4e9, 4), np.geomspace(2e9, 8e10, 4), [3.0, 4.0, 6.0])
    n, d, p = (v.ravel() for v in grid)
    data = laws.get("post_training").simulate(GAP, N=n, D=d, P=p, noise=noise, seed=3)
    return write(folder / "gaps.csv", {"N": n, "D": d, "P": p, "gap": data["loss"]})


def bits_runs(folder) -> str:
    """54 runs of the precision law."""
    grid = np.meshgrid(np.geomspace(3e7, 3e9, 3), np.geomspace(1e9, 1e11, 3), [3.0, 6.0, 12.0], [3.0, 8.0])
    n, d, p, kv = (v.ravel() for v in grid)
    law = laws.get("precision")
    truth = next(iter(law.published.values()))
    data = law.simulate(truth, N=n, D=d, Pw=p, Pa=p[::-1], Pkv=kv, noise=0.002, seed=4)
    return write(folder / "bits.csv", data)


def rates(folder) -> str:
    law = laws.get("compute_power")
    truth = law.published["2401.02954, learning rate"]
    data = law.simulate(truth, C=np.geomspace(1e17, 1e20, 12), noise=0.05, seed=5)
    return write(folder / "rates.csv", {"flops": data["C"], "lr": data["loss"]})


def decided(capsys, tmp_path, *arguments: str) -> tuple[str, dict]:
    """What is printed, and the decision."""
    out = tmp_path / "decision.json"
    assert main(["plan", *arguments, "--bootstrap", "40", "--out", str(out)]) == 0
    return capsys.readouterr().out, json.loads(out.read_text())


SIZED = ("--size", "1e9", "--tokens", "1e11", "--bits", "4")
PUBLISHED = {
    "budget": (("--flops", "1e22"), "2404.10102", True),
    "target": (("--loss_target", "2.1", "--served", "1e12"), "2404.10102", True),
    "qat": (SIZED, "2509.22935", True),
    "critical": (("--size", "1e9", "--bits", "4", *GIVEN), "2404.10102", True),
    "memory": (("--memory", "1e9", "--tokens", "2e10", *GIVEN), "2404.10102", True),
    "bits": (("--flops", "1e21"), "not checked in the paper", "2501.02423"),
    "split": (("--bits", "8"), "2501.02423", "e5m2 (OCP OFP8)"),
    "hyper": (("--flops", "1e20"), "2401.02954", "2503.04715"),
}


@pytest.mark.parametrize("what", PUBLISHED)
def test_published_constants_are_named_and_have_an_interval_or_a_spread(what, tmp_path, capsys):
    """Of 95 % where an uncertainty is published, else from the least to the most of named publications."""
    arguments, source, known = PUBLISHED[what]
    said, found = decided(capsys, tmp_path, what, *arguments)
    assert f"constants: {found['basis']}" in said and f"intervals: {found['spread']}" in said
    assert found["basis"].startswith("published") and source in found["basis"]
    unsaid = {"exponent bits, in fractions", "next best costs"}
    assert set(found["intervals"]) == set(found["values"]) - unsaid
    for name, (low, high) in found["intervals"].items():
        assert low <= found["values"][name] <= high and low < high
    if known is True:
        assert "published mean absolute error" in said or "covariance of 4,000 resamples" in said
        assert said.count("(95 % ") == len(found["values"]) and not found["others"]
    else:
        assert known in found["others"] and f"  by {known}: " in said and "95 %" not in said
        assert found["spread"].startswith("no confidence intervals, but from the least to the most of ")
    if GIVEN[1] in arguments:
        assert "without that of post_training (--gap came without any)" in found["spread"]


def test_the_published_gap_is_used_where_none_is_given(tmp_path, capsys):
    """2411.04330's at 4 bits: .0091 of 1B parameters and 20B tokens, and .0664 of 1T."""
    post = laws.get("post_training")
    (params,) = post.published.values()
    found = post.predict(params, N=1e9, D=np.array([2e10, 1e12]), P=4)
    assert found.tolist() == pytest.approx([0.0091, 0.0664], abs=5e-5)
    for what in ("critical --size 1e9 --bits 4", "memory --memory 1e9 --tokens 2e10"):
        said, decision = decided(capsys, tmp_path, *what.split())
        assert "2404.10102" in decision["basis"] and "2411.04330" in decision["basis"]
        assert "without that of post_training (the uncertainty of these constants" in said


def test_own_runs_give_every_decision_its_interval(table, tmp_path, capsys):
    own = ("--data", table, *COLUMNS)
    gap = ("--gap_data", gaps(tmp_path))
    shares = write(
        tmp_path / "shares.csv",
        {"N": [1e8, 1e8, 1e9, 1e9], "D": [2e9, 2e10, 2e10, 2e11], "bits": [4, 4, 4, 2],
         "loss": [0.22, 0.35, 0.2, 0.4]},
    )  # fmt: skip
    plans = {
        "budget": ("--flops", "1e21", *own),
        "target": ("--loss_target", "2.3", "--served", "1e12", *own),
        "qat": (*SIZED, "--data", shares),
        "critical": ("--size", "1e9", "--bits", "4", *own, *gap),
        "memory": ("--memory", "1e9", "--tokens", "2e10", *own, *gap),
        "bits": ("--flops", "1e21", "--data", bits_runs(tmp_path)),
        "hyper": ("--flops", "1e21", "--data", rates(tmp_path), "--column", "C=flops", "--loss", "lr"),
        "worth": ("--flops", "1e21", *own, "--cheap", make_table(tmp_path, 2, E=1.85), "--speedup", "2"),
    }
    found = {}
    for what, arguments in plans.items():
        said, found[what] = decided(capsys, tmp_path, what, *arguments)
        one = found[what]
        assert "own runs" in one["basis"] and "resamples" in one["spread"], what
        assert f"constants: {one['basis']}" in said and f"intervals: {one['spread']}" in said
        assert set(one["intervals"]) == set(one["values"]) - {"changes at FLOPs"}, what
        assert all(low < high for low, high in one["intervals"].values()), what
    assert found["critical"]["basis"] == "36 own runs; 48 own runs"
    assert found["hyper"]["values"]["lr"] == pytest.approx(0.3118 * 1e21**-0.125, rel=0.2)
    low, high = found["bits"]["intervals"]["bits"]
    assert low < 3.47 < high and high - low < 1.5


def test_the_gap_widens_what_follows_from_it(table, tmp_path, capsys):
    """The interval of a decision from two laws holds the uncertainty of both, and the truth."""
    data = ("critical", "--size", "1e9", "--bits", "4", "--data", table, *COLUMNS)
    _, alone = decided(capsys, tmp_path, *data, *GIVEN)
    _, both = decided(capsys, tmp_path, *data, "--gap_data", gaps(tmp_path, 0.1))
    (low, high), (least, most) = (one["intervals"]["critical tokens"] for one in (alone, both))
    truth = critical_tokens(TRUTH["beta"], TRUTH["B"], GAP, 1e9, 4.0)
    assert least < truth < most and low < truth < high
    assert np.log(most / least) > 1.5 * np.log(high / low)


def test_a_decision_about_gaps_says_how_far_it_lies(table, tmp_path, capsys):
    far = ["plan", "critical", "--size", "1e12", "--bits", "8", "--data", table, *COLUMNS, *GIVEN]
    assert main(far) == 2
    assert "times beyond the runs" in capsys.readouterr().err
    assert main([*far, "--far"]) == 0
    assert "times beyond the runs" in capsys.readouterr().out


def test_bits_at_the_end_of_the_search_are_no_optimum(tmp_path, capsys):
    small = ("--gap", "CT=.05,gD=.5,gN=.45,rate=.9")
    said, found = decided(capsys, tmp_path, "memory", "--memory", "1e9", "--tokens", "2e10", *small)
    assert found["values"]["bits"] == pytest.approx(1) and "1 bits is the end of the search" in said
    said, _ = decided(capsys, tmp_path, "bits", "--flops", "1e21")
    assert "end of the search" not in said


def test_the_split_of_a_float(capsys):
    assert main(["plan", "split", "--bits", "8"]) == 0
    said = capsys.readouterr().out
    assert "2501.02423" in said and "exponent bits          4" in said and "mantissa bits          3" in said


def test_own_constants_have_no_rivals(capsys):
    params = ",".join(f"{k}={v}" for k, v in laws.get("fp_training").published["2501.02423"].items())
    assert main(["plan", "split", "--bits", "8", "--constants", params]) == 0
    said = capsys.readouterr().out
    assert "fp_training as given" in said and "OFP8" not in said and "delta / nu lies between" in said
    assert main(["plan", "split", "--bits", "7"]) == 0
    assert "no standard has such a float" in capsys.readouterr().out
    assert main(["plan", "hyper", "--flops", "1e20", "--size", "1e9"]) == 0
    assert "the second alone at 1e+09 parameters" in capsys.readouterr().out


def test_the_cheap_method_at_equal_compute(table, tmp_path, capsys):
    """Runs of one law, one as if twice as cheap: better at every budget, by what twice the compute buys."""
    out, cheap = tmp_path / "worth.json", make_table(tmp_path, 2)
    arguments = ["--flops", "1e21", "--speedup", "2", *COLUMNS, "--bootstrap", "80", "--out", str(out)]
    assert main(["plan", "worth", "--data", table, "--cheap", cheap, *arguments]) == 0
    assert "better at every budget" in capsys.readouterr().out
    values = json.loads(out.read_text())["values"]
    law = laws.get("chinchilla")
    ends = [laws.budget(law, flops)(**TRUTH)["loss"] for flops in (1e21, 2e21)]
    assert values["advantage at the budget"] == pytest.approx(ends[0] - ends[1], rel=0.1)
    for other, flops, why in (
        (cheap, "1e10", "lie below the smallest run"),
        (table, "1e21", "36 runs are among those of the plain and of the cheap method alike"),
    ):
        assert main(["plan", "worth", "--data", table, "--cheap", other, "--flops", flops, *COLUMNS]) == 2
        assert why in capsys.readouterr().err


def test_runs_that_are_left_out_of_a_decision_are_named(folder, capsys):
    runs = str(folder)
    assert main(["plan", "budget", "--flops", "1e19", "--data", runs, "--bootstrap", "20"]) == 0
    assert capsys.readouterr().out.count("unfinished: not finished") == 1
    other = str(make_folder(folder.parent / "others", above=1.01))
    worth = ["plan", "worth", "--flops", "1e20", "--data", runs, "--cheap", other, "--bootstrap", "20"]
    assert main(worth) == 2
    refused = capsys.readouterr()
    assert "167 times beyond the runs" in refused.err and "(--far)" in refused.err
    assert main([*worth, "--far"]) == 0
    assert capsys.readouterr().out.count("unfinished: not finished") == 2  # of either method


def test_the_best_mixture_of_own_runs(tmp_path, capsys):
    """Each validation domain wants its own text: the best mixture lies between, nearer to the heavier."""
    shares = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], 24)
    shares[:3] = np.eye(3)  # runs of one domain alone
    t = -np.array([[2.0, 0.3, 0.1], [0.2, 2.0, 0.3], [0.1, 0.1, 1.5]])
    losses = np.array([1.0, 1.2, 0.9]) + np.exp(shares @ t.T)
    domains, columns = ("web", "code", "books"), ("web_loss", "code_loss", "book_loss")
    table = write(
        tmp_path / "mixtures.csv",
        dict(zip((*domains, *columns), (*shares.T, *losses.T), strict=True)),
    )
    arguments = ("mixture", "--data", table, "--domains", *domains, "--loss", *columns)
    said, alike = decided(capsys, tmp_path, *arguments)
    _, books = decided(capsys, tmp_path, *arguments, "--weights", "1", "1", "4")
    best, least = laws.best_mixture(lambda r: float(np.mean([1.0, 1.2, 0.9] + np.exp(t @ r))), 3)
    assert [alike["values"][name] for name in domains] == pytest.approx(best.tolist(), abs=1e-3)
    assert alike["values"]["mean loss"] == pytest.approx(least, rel=1e-4)
    for name, value in zip(columns, [1.0, 1.2, 0.9] + np.exp(t @ best), strict=True):
        assert alike["values"][f"loss {name}"] == pytest.approx(value, rel=1e-3)
    assert set(alike["intervals"]) == set(alike["values"])
    assert "24 own runs, losses of each: web_loss (weight 0.333)" in said and "resamples of own runs" in said
    assert books["values"]["books"] > alike["values"]["books"] + 0.1
    assert books["values"]["loss book_loss"] < alike["values"]["loss book_loss"]


def test_one_loss_has_no_best_mixture(tmp_path, capsys):
    """By its law it is least with one domain alone, whatever the runs: no answer worth an interval."""
    mixed = ["plan", "mixture", "--data", str(tmp_path / "none.csv"), "--domains", "web", "code"]
    write(tmp_path / "none.csv", {"web": [0.2, 0.8], "code": [0.8, 0.2], "loss": [2.0, 2.1]})
    for losses in ((), ("--loss", "loss"), ("--loss", "loss", "loss")):
        assert main([*mixed, *losses]) == 2
        assert "a single one is always least with one domain alone" in capsys.readouterr().err
    assert main(["plan", "budget", "--flops", "1e21", "--loss", "one", "other"]) == 2
    assert "takes one --loss, not 2" in capsys.readouterr().err


def test_methods_of_different_text_or_one_size_are_no_comparison(folder, tmp_path, capsys):
    worth = ["plan", "worth", "--flops", "1e18", "--bootstrap", "20", "--data", str(folder), "--cheap"]
    law = laws.get("chinchilla")
    for name, corpus, sizes in (("prose", "fff", (1e5, 1e6, 1e7)), ("one", "abc", (1e6,))):
        for n in sizes:
            for d in np.geomspace(1e7, 1e10, 5):
                loss = 1.02 * float(law.predict(TRUTH, N=n, D=d))
                make_run(tmp_path / name / f"{n:.0f}-{d:.0f}", n, d, loss, corpus=corpus)
    assert main([*worth, str(tmp_path / "prose")]) == 2
    assert "the runs are of different corpora, abc and fff" in capsys.readouterr().err
    assert main([*worth, str(tmp_path / "one")]) == 0
    said = capsys.readouterr().out
    assert (
        "cheap: N has one value only" in said and "cheap: intervals are not calibrated: N has 1 value" in said
    )
    assert main([*worth, str(folder / "unfinished")]) == 2
    assert "no finished run among these" in capsys.readouterr().err
