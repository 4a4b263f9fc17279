"""Scores of every kind in one table: by run or by a run of their own, read back, reduced, selected."""

import numpy as np
import pytest

from dither import scores
from dither.errors import UserError
from dither.scores import SCORES, ScoreTable, Tracker, overview, selection
from dither.scores.dialects import RESCALED

torch = pytest.importorskip("torch")

N, CLASSES = 40, 3
RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, CLASSES, N)
X = torch.from_numpy(RNG.standard_normal((N, 6)).astype(np.float32))
Y = torch.from_numpy(LABELS)


def model(seed: int):
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, CLASSES))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net


def run_of(seed: int) -> ScoreTable:
    """Three visits, and the scores that one run gives."""
    tracker, checkpoints = Tracker(N), [model(10 * seed + k) for k in range(3)]
    for step, net in enumerate(checkpoints):
        logits = net(X).detach()
        tracker.update(np.arange(N), logits, LABELS, step=step)
    loss = scores.logit_scores(logits, LABELS, ["loss"])["loss"]
    hidden = checkpoints[-1][:2](X).detach().numpy()
    gradients = np.stack([scores.class_gradients(net, X, Y).numpy() for net in checkpoints], axis=1)
    one = {
        "vog": scores.vog(gradients, LABELS),
        "grand": scores.grand(checkpoints[-1], X, Y),
        "tracin": scores.tracin_self(checkpoints, [0.1] * 3, X, Y),
        "learnability": scores.learnability(loss, np.ones(N)),
        "pvi": scores.pvi(loss, np.full(N, np.log(CLASSES))),
        "prototype": scores.prototypes(hidden, LABELS),
        "knn_shapley": scores.knn_shapley(hidden[::2], LABELS[::2], hidden[1::2], LABELS[1::2]),
        "duplicate": scores.duplicates(hidden, LABELS),
    }
    one["knn_shapley"] = np.where(np.arange(N) % 2 == 0, np.repeat(one["knn_shapley"], 2), np.nan)
    return tracker.table(f"seed-{seed}").with_scores(f"seed-{seed}", one, provenance={"layer": 1})


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    runs = run_of(0).merge(run_of(1), run_of(2))
    p = np.stack([model(s)(X).softmax(1).detach().numpy() for s in range(5)])
    member = RNG.random((30, N)) < 0.7
    ensemble = {
        "disagreement": scores.disagreement(p),
        "vote_entropy": scores.vote_entropy(p.argmax(axis=2)),
        "memorization": scores.memorization(member, RNG.random((30, N)) < 0.8),
    }
    return runs.with_scores("models", ensemble)


def test_every_score_of_the_table_is_in_the_catalogue_and_comes_back(table, tmp_path):
    assert set(table.scores_of_any) <= set(SCORES) and len(table.scores_of_any) == 18
    assert table.scores == ()  # none is of all runs
    again = ScoreTable.load(table.save(tmp_path / "t.parquet"))
    assert again.fingerprint() == table.fingerprint() and again.scores_of_any == table.scores_of_any
    assert again.runs["seed-1"].provenance == {"step": 2, "classes": 3, "layer": 1}
    for frame in (table.to_pandas(), table.to_polars()):
        plain = ScoreTable.from_frame(frame)
        for name in table.scores_of_any:
            values = table.having(name).values(name)
            np.testing.assert_array_equal(plain.having(name).values(name), values)


def test_the_overview_and_the_selection_take_the_runs_that_have_the_score(table):
    rows = {row.score: row for row in overview(table)}
    assert set(rows) == set(table.scores_of_any)
    assert rows["vog"].runs == 3 and rows["vog"].reliability is not None
    assert rows["memorization"].runs == 1 and rows["memorization"].why == "one run"
    assert rows["knn_shapley"].left_out == N // 2 and "?" not in {row.direction for row in rows.values()}
    hardest = selection.top(table.having("vog").mean_rank("vog"), 5)
    assert len(hardest) == 5


def test_scores_that_do_not_belong_are_refused(table):
    with pytest.raises(UserError, match="has vog already"):
        table.with_scores("seed-0", {"vog": np.zeros(N)})
    with pytest.raises(UserError, match="has aum already"):
        table.with_scores("seed-0", {"aum": np.zeros(N)})
    with pytest.raises(UserError, match="not of the same ids"):
        table.with_scores("seed-0", {"mine": np.zeros(N)}, ids=np.arange(N) + 1)
    with pytest.raises(UserError, match="ids are 39"):
        table.with_scores("seed-0", {"mine": np.zeros(N - 1)})
    with pytest.raises(UserError, match="did you mean 'vog'"):
        table.having("vogg")
    same = table.with_scores("seed-0", {"vog": table.select(["seed-0"]).values("vog")[0]})
    assert same.fingerprint() == table.fingerprint()
    ids = RNG.permutation(N)
    mixed = table.with_scores("seed-0", {"mine": ids}, ids=ids).having("mine")
    np.testing.assert_array_equal(mixed.values("mine")[0], np.arange(N))


def test_dialects_that_turn_a_score_round_are_said_to():
    x = np.linspace(0.1, 0.9, 9)
    for name, dialects in RESCALED.items():
        for dialect, make in dialects.items():
            falls = bool((np.diff(make(x)) < 0).all())
            assert falls == (dialect in SCORES[name].turned) and (falls or (np.diff(make(x)) > 0).all())
            turned = {"hard": "easy", "easy": "hard"}[SCORES[name].direction]
            assert SCORES[name].direction_in(dialect) == (turned if falls else SCORES[name].direction)


def test_every_score_names_what_computes_it():
    for name, score in SCORES.items():
        assert all(hasattr(scores, maker) for maker in score.made_by or (name,)), name
        assert set(score.turned) <= set(score.dialects)


@pytest.mark.filterwarnings("error")
def test_infinite_scores_have_a_median():
    inf = np.inf
    values = np.array([[inf, inf, inf, 1.0], [inf, inf, 2.0, -inf]])
    runs = [ScoreTable.of_run(name, {"loss": row}) for name, row in zip("ab", values, strict=True)]
    (row,) = overview(runs[0].merge(runs[1]))
    assert (row.low, row.median, row.high) == (-inf, inf, inf)
    (row,) = overview(ScoreTable.of_run("a", {"loss": [3.0, 1.0, 2.0, 7.0]}))
    assert (row.low, row.median, row.high) == (1, 2.5, 7)
