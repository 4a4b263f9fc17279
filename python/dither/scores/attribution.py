"""Which training examples a model's behaviour on other examples comes from: TracIn, LESS and TRAK from
projected gradients, and the score that tells whether an attribution is right.

All of them are products of gradients of few thousand coordinates: `gradient_features` makes them (random
projections keep inner products), the rest is a matrix product a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError, require
from dither.scores.borrowed import Floats, booleans, floats, matrix, reals, to_numpy
from dither.scores.gradients import per_example_gradients
from dither.scores.projection import project
from dither.scores.ranks import spearman
from dither.scores.reliability import at_least_one

Features = NDArray[np.float32]


def log_odds(logits: Any, labels: Any) -> Any:
    """log(p_y / (1 - p_y)), what TRAK linearises; as stable as a logsumexp over the other classes."""
    torch = require("torch", "torch")
    logits, labels = torch.as_tensor(logits), torch.as_tensor(labels)
    mine = torch.arange(logits.shape[1], device=logits.device) == labels.unsqueeze(1)
    own = torch.where(mine, logits, 0).sum(dim=1)
    others = torch.where(mine, float("-inf"), logits).logsumexp(dim=1)
    return (own - others).sum()


def gradient_features(
    model: Any,
    inputs: Any,
    labels: Any,
    k: int,
    *,
    of: Any = None,
    optimizer: Any = None,
    seed: int = 0,
    chunk: int = 64,
) -> Features:
    """Gradients of every example, projected to k coordinates: (n, k) fp32; k = 0 keeps all, unprojected.
    (Each entry goes to 4 of them, or to 2 or 1 where 4 does not divide k.)

    of: what is differentiated, a function of (logits, labels) of one example; default the cross-entropy, for
    TRAK `log_odds`. optimizer: the torch Adam or AdamW of the checkpoint; training examples of LESS move the
    weights by m' / sqrt(v' + eps), m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2 (2402.04333, without bias
    correction, as its code), instead of by g. The projection is addressed by `seed`: use one for all that is
    multiplied. The model must not mix examples: put it into eval().

    Raises UserError where the optimizer has no moments of a parameter, and for a negative k.
    """
    at_least_one(chunk=chunk)
    if k < 0:
        raise UserError(f"k= is the number of coordinates, 0 for all of the gradient, not {k}")
    entries = math.gcd(4, k)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    moments = None if optimizer is None else _moments(model, optimizer)
    parts = []
    for start in range(0, len(inputs), chunk):
        found = per_example_gradients(model, inputs[start : start + chunk], labels[start : start + chunk], of)
        rows, first = [], 0
        for name in names:
            g = found[name].detach().flatten(1).float()
            g = g if moments is None else _adam(g, *moments[name])
            rows.append(g.cpu().numpy() if k == 0 else project(g, k, entries=entries, seed=seed, first=first))
            first += g.shape[1]
        parts.append(np.concatenate(rows, axis=1) if k == 0 else np.sum(rows, axis=0))
    return np.concatenate(parts) if parts else np.zeros((0, k), np.float32)


def _moments(model: Any, optimizer: Any) -> dict[str, tuple[Any, Any, tuple[float, float], float]]:
    """m, v, betas and eps of every parameter by name."""
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    found = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        state, group = optimizer.state.get(p, {}), groups.get(p, {})
        if "exp_avg" not in state or "exp_avg_sq" not in state:
            raise UserError(f"the optimizer has no Adam moments of {name}; give that of the checkpoint")
        found[name] = state["exp_avg"].flatten(), state["exp_avg_sq"].flatten(), group["betas"], group["eps"]
    return found


def _adam(g: Any, m: Any, v: Any, betas: tuple[float, float], eps: float) -> Any:
    first = betas[0] * m + (1 - betas[0]) * g
    second = betas[1] * v + (1 - betas[1]) * g.square()
    return first / (second + eps).sqrt()


def _pairs(train: Sequence[Any], test: Sequence[Any], rates: Sequence[float] | None) -> list[tuple[Any, ...]]:
    """Features of every checkpoint in fp32, and its rate."""
    given = [1.0] * len(train) if rates is None else list(rates)
    if not len(train) or len(train) != len(test) or len(train) != len(given):
        raise UserError(
            f"features and rates are of the same checkpoints, at least one, not of {len(train)}, {len(test)} "
            f"and {len(given)}"
        )
    if not np.isfinite(np.asarray(given, np.float64)).all():
        raise UserError(f"rates are finite numbers, not {given}")
    pairs = []
    for model, (a, b, rate) in enumerate(zip(train, test, given, strict=True)):
        x, y = matrix(a, f"train features of model {model}"), matrix(b, f"test features of model {model}")
        if x.shape[1] != y.shape[1]:
            raise UserError(f"features are (n, k) and (tests, k), not of the shapes {x.shape} and {y.shape}")
        pairs.append((x, y, rate))
    if len({(x.shape[0], y.shape[0]) for x, y, _ in pairs}) > 1:
        raise UserError("every checkpoint has the features of the same examples")
    return pairs


def _products(test: np.ndarray, train: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        products = test @ train.T
    if not np.isfinite(products).all():
        raise UserError("products of these features overflow fp32: scale them down")
    return products


def tracin(train: Sequence[Any], test: Sequence[Any], rates: Sequence[float]) -> Floats:
    """TracInCP (2002.08484): sum_k eta_k g_k(test) . g_k(train), of every pair: (tests, n).

    train, test: features of every checkpoint, rates: its learning rate. High: lowers the test's loss."""
    pairs = _pairs(train, test, rates)
    total = np.zeros((len(pairs[0][1]), len(pairs[0][0])))
    for x, y, rate in pairs:
        total += rate * _products(y, x)
    return total


def less(train: Sequence[Any], test: Sequence[Any], rates: Sequence[float], tasks: Any = None) -> Floats:
    """LESS (2402.04333): sum_k eta_k cos(g_k(test), Gamma_k(train)), mean over the tests of a task, the
    greatest over the tasks: (n,); high: keep.

    train: features with `optimizer=`, test: without, of every checkpoint; rates: its mean learning rate.
    tasks: (tests,) integers, default one task.
    """
    pairs = _pairs(train, test, rates)
    total = np.zeros((len(pairs[0][1]), len(pairs[0][0])))
    for x, y, rate in pairs:
        total += rate * (_unit(y) @ _unit(x).T)
    task = np.zeros(len(total), np.int64) if tasks is None else np.asarray(to_numpy(tasks))
    if task.shape != (len(total),) or not len(total):
        raise UserError(f"tasks name one task for each of the {len(total)} tests, at least one")
    return np.max([total[task == t].mean(axis=0) for t in np.unique(task)], axis=0)


def _unit(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def trak(
    train: Sequence[Any],
    test: Sequence[Any],
    confidence: Sequence[Any],
    damping: float = 0.0,
    dialect: str | None = None,
) -> Floats:
    """TRAK (2303.14186): what every training example adds to the log odds of every test, (tests, n).

        tau = mean_m [phi_m(test) (Phi_m' Phi_m + damping I)^-1 Phi_m'] * mean_m [1 - p_y]

    train, test: features of `log_odds` of every model m (checkpoints, or models of other seeds or subsets),
    projected with one k < n or damped. confidence: (n,) p_y of the training examples under every model.
    dialect: "traker" divides each inverse by the mean of its absolute entries, as that package does (it
    weighs models otherwise, and has no unit). Raises UserError where Phi' Phi cannot be inverted.
    """
    if dialect not in (None, "traker"):
        raise UserError(f"trak knows the dialect traker, not {dialect!r}")
    pairs = _pairs(train, test, None)
    n = len(pairs[0][0])
    if len(confidence) != len(pairs):
        raise UserError(f"confidence is of {len(confidence)} models where features are of {len(pairs)}")
    if not 0 <= damping < np.inf:
        raise UserError(f"damping={damping} is a number, not negative")
    doubt = np.mean([1 - _probabilities(c, m, n) for m, c in enumerate(confidence)], axis=0)
    total = np.zeros((len(pairs[0][1]), n))
    for x, y, _ in pairs:
        phi = x.astype(np.float64)
        kernel = phi.T @ phi + damping * np.eye(phi.shape[1])
        if np.linalg.matrix_rank(kernel, hermitian=True) < len(kernel):
            raise UserError(
                f"{n} examples do not determine {len(kernel)} coordinates: project to fewer (k below the "
                f"number of examples) or give damping="
            )
        scale = 1.0 if dialect is None else np.abs(np.linalg.inv(kernel)).mean()
        total += y @ np.linalg.solve(kernel, phi.T) / scale
    return total / len(pairs) * doubt


def _probabilities(confidence: Any, model: int, n: int) -> Floats:
    p = floats(confidence, "confidence", n)
    fits = (p >= 0) & (p <= 1.001)  # fp16 softmax may sum to a little more
    if not fits.all():
        k = int(fits.argmin())
        raise UserError(f"confidence of model {model} is a probability, not {p[k]:g} of example {k}")
    return p


def linear_datamodeling_score(attribution: Any, member: Any, outputs: Any) -> Floats:
    """Is an attribution right? (2303.14186) For every test, the Spearman correlation over subsets of the
    training data of what it predicts, the sum over the subset, and what models trained on it give: (tests,).

    attribution: (tests, n); member: (subsets, n) booleans; outputs: (subsets, tests), log odds of the models,
    best as a mean over seeds. 0 is no better than nothing; noise of training keeps it below 1. NaN where
    predictions or outputs are all equal.
    """
    tau, found = reals(attribution, "attributions"), reals(outputs, "outputs")
    inside = booleans(member, "member").astype(np.float64)
    if tau.ndim != 2 or inside.shape[1:] != tau.shape[1:] or found.shape != (len(inside), len(tau)):
        raise UserError(
            f"attribution is (tests, n), member (subsets, n), outputs (subsets, tests), not of the shapes "
            f"{tau.shape}, {inside.shape} and {found.shape}"
        )
    if len(inside) < 3:
        raise UserError(f"a correlation over {len(inside)} subsets says nothing; train on dozens")
    predicted = tau @ inside.T
    return np.array([spearman(np.stack(pair))[0, 1] for pair in zip(predicted, found.T, strict=True)])
