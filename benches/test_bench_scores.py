"""Scores against the best numpy or torch way and against reading the same memory: one thread, CPU time, one
run.

Where a peer takes minutes, it works on a part of the job and its time is scaled up; the row says so.

    make bench-scores
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch

import dither
from dither.scores import (
    Importance,
    Tracker,
    VoG,
    duplicates,
    kendall,
    knn_shapley,
    logit_scores,
    project,
    spearman,
    vog,
)
from dither.scores.catalogue import DYNAMICS
from dither.scores.engine import run_duplicates, run_shapley
from goals import Goal
from measure import interleaved, memcpy, ratio
from table import Times

pytestmark = pytest.mark.usefixtures("one_thread")
FIVE = ("loss", "confidence", "entropy", "margin", "el2n")
RNG = np.random.default_rng(0)


def judge(
    job: str, ours: Times, base: Times, of: str, goal: float, fail: float | None = None, note: str = ""
) -> None:
    """Where no other figure is set, a row fails below its goal."""
    ratio("scores", f"{of} / job", job, ours, base, Goal(goal, goal if fail is None else fail), note)


def once(call: Callable[[], object], parts: float = 1.0) -> Times:
    """One run of a long job, or of one of so many parts."""
    start = time.process_time()
    call()
    seconds = parts * (time.process_time() - start)
    return Times(seconds, seconds)


def careful_torch(z: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """The same five scores with as few passes and temporaries as torch allows."""
    rows = torch.arange(len(y))
    own, top = z[rows, y], z.topk(2, dim=1).values
    e = (z - top[:, :1]).exp_()
    total, e_own = e.sum(dim=1), (own - top[:, 0]).exp()
    squares = torch.einsum("ij,ij->i", e, e)
    weighted = torch.einsum("ij,ij->i", e, z)
    lse = total.log() + top[:, 0]
    others = total - e_own
    el2n = ((squares - e_own**2).clamp_min_(0) + others**2).sqrt() / total
    rival = torch.where(own == top[:, 0], top[:, 1], top[:, 0])
    return [lse - own, e_own / total, lse - weighted / total, own - rival, el2n]


def chunked_numpy(z: np.ndarray, y: np.ndarray) -> None:
    step = max(1, (1 << 18) // z.shape[1])
    for start in range(0, len(z), step):
        block, own = z[start : start + step], y[start : start + step]
        rows = np.arange(len(own))
        m = block.max(axis=1, keepdims=True)
        e = np.exp(block - m)
        total, e_own = e.sum(axis=1), e[rows, own]
        _ = np.log(total) + m[:, 0] - block[rows, own], e_own / total
        _ = np.log(total) + m[:, 0] - np.einsum("ij,ij->i", e, block) / total
        _ = np.sqrt(np.einsum("ij,ij->i", e, e) - e_own**2 + (total - e_own) ** 2) / total
        hidden = block[rows, own].copy()
        block[rows, own] = -np.inf
        _ = hidden - block.max(axis=1)
        block[rows, own] = hidden


@pytest.mark.parametrize("n,classes", [(1_000_000, 10), (200_000, 1000), (8192, 50257)])
def test_logit_scores(n, classes):
    z = RNG.standard_normal((n, classes), dtype=np.float32)
    y = RNG.integers(0, classes, n)
    out = {name: np.empty(n) for name in FIVE}
    tz, ty = torch.from_numpy(z), torch.from_numpy(y)
    calls = {
        "ours": lambda: logit_scores(z, y, FIVE, out=out),
        "sum": lambda: z.sum(),
        "torch": lambda: careful_torch(tz, ty),
        "numpy": lambda: chunked_numpy(z, y),
    }
    times = interleaved(calls, rounds=5)
    best = min(times["torch"], times["numpy"], key=lambda t: t.least)
    job = f"five scores {n} x {classes}"
    judge(job, times["ours"], times["sum"], "sum of the array", 1 / 5, 1 / 9)
    judge(job, times["ours"], best, "best numpy / torch", 4.0, 2.8, "the better one")


def test_training_dynamics():
    n, epochs, batch = 1_000_000, 50, 256
    p, margin = RNG.random(n), RNG.standard_normal(n)
    correct = (margin > 0).astype(np.float64)
    order = [RNG.permutation(n) for _ in range(2)]
    tracker = Tracker(
        n, ["forgetting", "iteration_learned", "aum", "confidence_mean", "variability", "correctness"]
    )
    batches = [
        [
            (o[i : i + batch], p[o[i : i + batch]], correct[o[i : i + batch]], margin[o[i : i + batch]])
            for i in range(0, n, batch)
        ]
        for o in order
    ]

    def ours() -> None:
        for epoch in range(epochs):
            for index, p_y, right, m in batches[epoch % 2]:
                tracker.visit(index, confidence=p_y, correct=right, margin=m)

    def vectorised() -> None:
        visits, forgets, previous = np.zeros(n), np.zeros(n), np.zeros(n)
        last_wrong, sums, squares, margins, hits = (np.zeros(n) for _ in range(5))
        for epoch in range(epochs // 10):
            for index, p_y, right, m in batches[epoch % 2]:
                visits[index] += 1
                forgets[index] += previous[index] > right
                previous[index] = right
                wrong = index[right == 0]
                last_wrong[wrong] = visits[wrong]
                sums[index] += p_y
                squares[index] += p_y * p_y
                margins[index] += m
                hits[index] += right

    job = "dynamics, 50 epochs x 1M, batches of 256"
    seconds, peer = once(ours), once(vectorised, 10)
    judge(job, seconds, Times(1.5, 1.5), "1.5 s", 1.0)
    judge(job, seconds, peer, "vectorised numpy", 5.0, note="a tenth of the epochs, scaled")


def test_dynamics_against_aum(tmp_path):
    """From values at hand, as the goal has it, and from the logits of 10 classes that the package takes."""
    calculator = pytest.importorskip("aum").AUMCalculator(str(tmp_path))
    n, batch = 50_000, 256
    z, y = torch.randn(n, 10), torch.randint(0, 10, (n,))
    batches = [(order, order.tolist(), z[order], y[order]) for order in torch.randperm(n).split(batch)]
    tracker, margins = Tracker(n, ["aum"]), Tracker(n, ["aum"])
    hidden = z.scatter(1, y[:, None], -torch.inf)
    margin = (z.gather(1, y[:, None])[:, 0] - hidden.max(dim=1).values).double().numpy()
    given = [(order.numpy(), margin[order], (margin[order] > 0).astype(float)) for order, *_ in batches]

    def of_logits() -> None:
        for order, _, logits, labels in batches:
            tracker.update(order, logits, labels)

    def of_values() -> None:
        for index, values, right in given:
            margins.visit(index, confidence=right, correct=right, margin=values)

    def theirs() -> None:
        for _, ids, logits, labels in batches:
            calculator.update(logits, labels, ids)

    times = interleaved({"logits": of_logits, "values": of_values, "aum": theirs}, rounds=2)
    judge("AUM of 50k, batches of 256, values given", times["values"], times["aum"], "aum package", 200.0)
    job = "AUM of 50k x 10 logits, batches of 256"
    ratio("scores", "aum package / job", job, times["logits"], times["aum"])


def test_dynamics_memory():
    """Bytes held at most, beside what the caller gives, by the interpreter's own count."""
    n, batch = 1_000_000, 256
    p = RNG.random(n)
    order = RNG.permutation(n)
    tracemalloc.start()
    tracker = Tracker(n, [score.name for score in DYNAMICS if score.name != "settled"])
    for start in range(0, n, batch):
        index = order[start : start + batch]
        values = p[index]
        tracker.visit(index, confidence=values, correct=values, margin=values, loss=values, el2n=values,
                      entropy=values)  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1] / n
    tracemalloc.stop()
    judge("dynamics of 1M, bytes an example (as ms)", Times(peak / 1e3, peak / 1e3), Times(0.0482, 0.0482),
          "48.2 bytes", 1.0)  # fmt: skip


def test_vog():
    n, k, size = 50_000, 10, 3072
    g = RNG.standard_normal((n, size), dtype=np.float32)
    stream = VoG(n, size, "kwok")

    def memory() -> None:
        """As many bytes as Welford's update moves, which reads gradients and state and writes state."""
        for copy in copies:
            copy()

    half = np.ones((n, size), np.float32)
    copies = [memcpy(half), memcpy(half), memcpy(half[: n // 2])]
    times = interleaved({"ours": lambda: stream.update(g), "memory": memory}, rounds=4)
    job = "VoG streaming, a checkpoint of 50k x 3072"
    judge(job, times["ours"], times["memory"], "memcpy of as many bytes", 1 / 1.5)
    block = np.repeat(g[:5000, None, :], k, axis=1)
    times = interleaved({"ours": lambda: vog(block, how="kwok"), "read": memcpy(block[:2500])}, rounds=4)
    job = "VoG example-major, 5k x 10 x 3072"
    judge(job, times["ours"], times["read"], "memcpy of as many bytes", 1 / 2.5)


def test_rank_correlations():
    x = RNG.standard_normal((200, 50_000))
    times = interleaved({"ours": lambda: spearman(x)}, rounds=3)
    peer = once(lambda: scipy.stats.spearmanr(x, axis=1))
    judge("Spearman 200 x 50k", times["ours"], peer, "scipy", 10.0)
    pairs = 200 * 199 // 2
    seconds = once(lambda: kendall(x))
    some = [(i, i + 1) for i in range(10)]
    peer = once(lambda: [scipy.stats.kendalltau(x[i], x[j]) for i, j in some], pairs / len(some))
    judge("Kendall 200 x 50k", seconds, peer, "scipy (10 of 19,900 pairs)", 5.0, 3.0)


def test_knn_shapley():
    n, tests, d, k = 50_000, 1000, 384, 10
    x, t = RNG.standard_normal((n, d), dtype=np.float32), RNG.standard_normal((tests, d), dtype=np.float32)
    y, ty = RNG.integers(0, 10, n), RNG.integers(0, 10, tests)
    part = (x[:, :] @ t[:100].T).T.copy()

    def numpy_recursion(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
        values, j = np.zeros(n), np.arange(1, n)
        for row, label in zip(distances, labels, strict=True):
            order = np.argsort(row)
            right = (y[order] == label).astype(np.float64)
            steps = (right[:-1] - right[1:]) / k * np.minimum(k, j) / j
            s = np.empty(n)
            s[-1] = right[-1] / n
            s[:-1] = s[-1] + np.cumsum(steps[::-1])[::-1]
            values[order] += s
        return values

    out = np.zeros(n)
    times = interleaved(
        {
            "ours": lambda: run_shapley(part, y, ty[:100], k, out),
            "numpy": lambda: numpy_recursion(part, ty[:100]),
        },
        rounds=5,
    )
    judge("kNN-Shapley recursion, 50k x 100", times["ours"], times["numpy"], "vectorised numpy", 6.0, 4.2)

    def numpy_whole() -> None:
        distances = (x * x).sum(axis=1)[None, :] - 2 * (t[:300] @ x.T)
        numpy_recursion(distances, ty[:300])

    # In turn: whoever asks for that much memory first waits for the system to clear it.
    whole = {"ours": lambda: knn_shapley(x, y, t[:300], ty[:300], k), "numpy": numpy_whole}
    times = interleaved(whole, rounds=3)
    judge("kNN-Shapley end to end, 50k x 300", times["ours"], times["numpy"], "numpy", 2.5)


def test_duplicates():
    """The maximum over those before, and the whole score, whose products are BLAS's either way."""
    n, d = 8192, 384
    x = RNG.standard_normal((n, d), dtype=np.float32)
    similar = (x[:2048] @ x.T)[:, :4096].copy()
    places = np.triu_indices(2048)

    def numpy_max(similar: np.ndarray) -> np.ndarray:
        similar[:, -2048:][places] = -np.inf
        return similar.max(axis=1)

    out, given = np.full(2048, -1, np.float32), similar.copy()
    calls = {"ours": lambda: run_duplicates(similar, 2048, out), "numpy": lambda: numpy_max(given)}
    times = interleaved(calls, rounds=5)
    job = "SemDeDup's maximum, a block of 2048 x 4096"
    judge(job, times["ours"], times["numpy"], "numpy", 1.0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    calls = {
        "ours": lambda: duplicates(x, np.zeros(n, int)),
        "numpy": lambda: [numpy_max(unit[i : i + 2048] @ unit[: i + 2048].T) for i in range(0, n, 2048)],
    }
    times = interleaved(calls, rounds=2)
    ratio("scores", "numpy / job", "SemDeDup, one cluster of 8192 x 384", times["ours"], times["numpy"])


def test_projection():
    x = RNG.standard_normal((256, 1_000_000), dtype=np.float32)
    times = interleaved({"ours": lambda: project(x, 4096)}, rounds=2)
    job = "projection 256 x 1e6 -> 4096 (a quarter of 1024)"
    judge(job, times["ours"], Times(3 / 4, 3 / 4), "a quarter of 3 s", 1.0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    below = np.tril_indices(256, -1)
    wrong = (project(unit, 4096) @ project(unit, 4096).T - unit @ unit.T)[below]
    rms = float(np.sqrt((wrong**2).mean()))  # as a time, like the other rows
    judge(
        "its rms error of a cosine (as s)", Times(rms, rms), Times(1 / 64, 1 / 64), "1 / sqrt(4096)", 1 / 1.05
    )


def test_ngrams():
    words = ["".join(chr(97 + c) for c in RNG.integers(0, 26, RNG.integers(2, 10))) for _ in range(5000)]
    texts = [" ".join(words[i] for i in RNG.integers(0, 5000, 400)) + "." for _ in range(8000)]
    size = sum(map(len, texts))
    model = Importance(np.zeros(10_000))
    times = interleaved({"ours": lambda: model.score(texts)}, rounds=3)
    goal = Times(size / 200e6, size / 200e6)
    judge(f"n-gram hashing, {size / 1e6:.0f} MB", times["ours"], goal, "200 MB/s", 1.0)


def test_two_threads():
    """Wall time, interleaved best."""
    z = RNG.standard_normal((200_000, 1000), dtype=np.float32)
    y = RNG.integers(0, 1000, len(z))

    def with_threads(n: int) -> None:
        dither.set_num_threads(n)
        logit_scores(z, y, FIVE)

    times = interleaved(
        {"one": lambda: with_threads(1), "two": lambda: with_threads(2)}, 5, time.perf_counter
    )
    dither.set_num_threads(1)
    judge("five scores 200k x 1000, two threads", times["two"], times["one"], "one thread, wall", 1.6, 1.3)
