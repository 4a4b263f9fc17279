"""Scores of the training data of a language model: while it trains (`eval.scores`), or of a finished run.

An example is a window of `context` training tokens that does not move, named by the place of its first token
(those of the training steps are cut anew in every epoch). At every evaluation of the run each window is
visited: every token is one observation, and the score of a window is the mean of the scores of its tokens,
as EL2N is for language models in Marion et al. (2309.04564). Forgetting, for example, is the mean number of
times that a token of the window was forgotten, from one evaluation to the next.

A run on a subset of the windows (train.subset) also says which ones it trained on, `member`, and on which
share of the tokens of each it is right, trained on or not, and of windows of the validation split: what
memorization and influence are made of (dither.scores.SubsetRuns).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from dither.errors import UserError
from dither.scores import ScoreTable, Tracker, subset
from dither.scores.runs import MEMBER
from dither.scores.subset_record import FILE
from dither.scores.tracker import LAST
from dither.train.config import RunConfig, load
from dither.train.evaluate import LOGITS
from dither.train.rundir import CONFIG, read_summary
from dither.train.tokens import Tokens, make_tokenizer, open_tokens
from dither.train.wiring import make_model

PREFIX = "scores."
POINTWISE = ("loss", "confidence", "entropy", "margin", "el2n")


class WindowScores:
    """The tracker of a run's windows: visit, keep in a checkpoint, reduce to a table."""

    def __init__(
        self, config: RunConfig, tokens: Tokens, scores: Sequence[str], limit: int = 0, of: str = "training"
    ) -> None:
        """limit: tokens that are scored, spread evenly over the data; 0 takes eval.score_tokens, or
        eval.tokens. of: "training" or "validation". UserError for scores that do not exist."""
        self.context, self.vocab = config.model.context, tokens.vocab
        self.stream = tokens.train if of == "training" else tokens.validation
        self.data = f"{of} tokens of the corpus {tokens.hash[:16]} in windows of {self.context}"
        available = (len(self.stream) - 1) // self.context
        limit = limit or config.eval.score_tokens or config.eval.tokens
        count = min(available, max(1, limit // self.context))
        if count < 1:
            raise UserError(f"the {of} data has no window of model.context = {self.context} tokens")
        windows = np.arange(count) * available // count
        self.starts, self.member = windows * self.context, None
        if of == "training" and config.train.subset < 1:
            self.member = np.isin(windows, subset(available, config.train.subset, config.train.seed))
        self.tracker = Tracker(count * self.context, scores)

    def _batches(self) -> Iterator[tuple[int, torch.Tensor]]:
        rows = max(1, LOGITS // (self.context * self.vocab))
        for first in range(0, len(self.starts), rows):
            spans = [self.stream[s : s + self.context + 1] for s in self.starts[first : first + rows]]
            yield first, torch.from_numpy(np.stack(spans).astype(np.int64))

    @torch.no_grad()
    def visit(self, model: nn.Module, step: int) -> None:
        """One observation of every token, by the forward pass of `model` as it is."""
        was_training = model.training
        model.eval()
        for first, window_BT in self._batches():
            logits_NV = model(window_BT[:, :-1].contiguous()).flatten(0, 1)
            places = first * self.context + np.arange(len(logits_NV))
            self.tracker.update(places, logits_NV, window_BT[:, 1:].flatten(), step=step)
        model.train(was_training)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors, and what JSON holds."""
        found = self.tracker.state_dict()
        return {
            PREFIX + name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in found.items()
        }

    def load_(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. UserError where the checkpoint has none, or of other windows."""
        own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        if "about" not in own:
            raise UserError("the checkpoint holds no scores; eval.scores cannot be added to a run that began")
        self.tracker.load_state_dict({k: v.numpy() if torch.is_tensor(v) else v for k, v in own.items()})

    def table(self, run: str, provenance: Mapping[str, Any]) -> ScoreTable:
        """The means over the tokens of each window; ids are the places of the first tokens."""
        tokens = self.tracker.table(run)
        columns = {
            name: tokens.values(name)[0].reshape(len(self.starts), self.context).mean(axis=1)
            for name in self.tracker.scores
        }
        if self.member is not None:
            columns[MEMBER] = self.member
        about = {"step": self.tracker.step, "unit": "mean over the tokens of a window", **provenance}
        return ScoreTable.of_run(run, columns, ids=self.starts, provenance=about, data=self.data)


def tracked(config: RunConfig) -> tuple[str, ...]:
    """The scores that a run keeps of its windows: eval.scores, and `correct` of a run on a subset."""
    own = ("correct",) if config.train.subset < 1 else ()
    return tuple(dict.fromkeys((*config.eval.scores, *own)))


def provenance(config: RunConfig) -> dict[str, Any]:
    """What a table says of its run."""
    about = {"seed": config.train.seed, "recipe": config.recipe.name, "method": config.method.name}
    return about | ({"fraction": config.train.subset} if config.train.subset < 1 else {})


def score_run(path: str | Path, scores: Sequence[str] = (), limit: int = 0) -> ScoreTable:
    """The table of a run directory: what it tracked while it trained, unless other scores are asked for; else
    one visit of its trained weights in full precision (loss, confidence, entropy, margin, el2n by default).

    Raises UserError for a run that is not finished, and for scores that need a history.
    """
    path = Path(path)
    if read_summary(path) is None:
        raise UserError(f"{path} is not finished; end it with: dither train --resume --out {path}")
    if (path / FILE).is_file() and not limit:
        table = ScoreTable.load(path / FILE)
        if set(scores) <= set(table.scores):
            return table
    if histories := [name for name in scores if name not in LAST]:
        raise UserError(
            f"{path} did not track {', '.join(histories)}, which the trained weights alone do not tell; "
            f'train with eval.scores = ["{histories[0]}"]'
        )
    config = load(path / CONFIG)
    tokens = open_tokens(config.data)
    windows = WindowScores(config, tokens, scores or POINTWISE, limit)
    windows.visit(_trained(path, config, tokens.vocab), config.train.steps)
    return windows.table(path.resolve().name, {**provenance(config), "weights": "full precision"})


def _trained(path: Path, config: RunConfig, vocab: int) -> nn.Module:
    """The plain model with the weights that the run ended with."""
    model, weights = make_model(config, vocab), load_file(path / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def window_texts(path: str | Path, starts: Sequence[int]) -> dict[int, str]:
    """The texts of windows of a run's training tokens, by the places of their first tokens."""
    config = load(Path(path) / CONFIG)
    stream, decode = open_tokens(config.data).train, make_tokenizer(config.data).decode
    last = len(stream) - config.model.context
    for start in starts:
        if isinstance(start, str) or not 0 <= start <= last:
            raise UserError(f"{path} has {len(stream)} training tokens and no window at {start!r}")
    return {start: decode(np.asarray(stream[start : start + config.model.context])) for start in starts}
