"""One training run, start to finish: the whole loop can be read here in one sitting.

Everything a step does is a function of the weights, the optimizer's state and the step's number: the data
(`Batches`), the learning rate (`learning_rate`), the random bits of stochastic rounding (addressed by the
clock). So a checkpoint holds weights, optimizer and method state and nothing else, and a run that was killed
and resumed writes the same metrics, bit for bit, as one that was not.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import dither.nn as dnn
from dither.errors import UserError, require
from dither.files import disk_errors, finite, write_json
from dither.models.losses import cross_entropy
from dither.optim import orthograd_
from dither.scores.subset_record import FILE as SCORES
from dither.scores.subset_record import TESTS
from dither.train import checkpoint
from dither.train import config as configuration
from dither.train.averaging import RunAverage
from dither.train.batches import Batches
from dither.train.config import RunConfig
from dither.train.evaluate import evaluate
from dither.train.method import calibrated, load_state_, state_of
from dither.train.progress import Progress, make_progress
from dither.train.records import JSONL, Records, peak_memory_mib, reset_peak_memory, write_parquet
from dither.train.rundir import SUMMARY, RunDirectory, check_info, read_summary
from dither.train.schedule import learning_rate
from dither.train.scoring import WindowScores, provenance, tracked
from dither.train.sinks import Sink, check_sinks, make_sinks
from dither.train.tokens import Tokens, open_tokens
from dither.train.wiring import attach, check_names, make_model, make_optimizer, plain_twin, state_hash


class DivergedError(UserError):
    """The loss or the gradient became NaN or infinite. `step` is the step (from 1) at which it happened."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def train(
    config: RunConfig | str | os.PathLike[str] | Mapping[str, Any] | None,
    run_dir: str | os.PathLike[str],
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tokens: Tokens | None = None,
) -> dict[str, Any]:
    """Train one model into `run_dir` and return its summary (also written there as summary.json).

    `config`: a RunConfig, the path of a TOML file, or the nested dict it would give; with `resume` it may be
    None and is then read from the directory. `overrides`: {"train.steps": 100}. `tokens`: an opened corpus,
    to read it once for several runs. A finished run is returned as it is when resumed. Raises UserError for
    everything the user can cause: bad configuration, unusable data, a used directory, a full disk, a diverged
    loss (DivergedError).
    """
    progress = progress or make_progress()
    if config is not None and not isinstance(config, RunConfig):
        config = configuration.load(config, overrides)
    elif overrides:
        raise UserError("overrides need a configuration file or dict to be applied to")
    if config is None and not resume:
        raise UserError("a new run needs a configuration; without one, only resume=True makes sense")
    require("pyarrow", "train")
    with RunDirectory(run_dir) as directory:
        if config is not None:
            check_names(config)
        if resume:
            config = directory.continue_(config)
        else:
            assert config is not None
            directory.check_unused()
            config = configuration.resolve(config, torch.get_num_threads())
        if (summary := read_summary(run_dir)) is not None:
            progress.say(f"{run_dir} is finished")
            return summary
        threads = torch.get_num_threads()
        torch.set_num_threads(config.train.threads)
        try:
            # everything that can be wrong with the input is found before the directory is claimed
            run = Run(config, directory.path, tokens or open_tokens(config.data, progress.say), progress)
            with disk_errors(directory.path, "Free some space, then resume the run."):
                directory.claim(config)
                return run.go()
        finally:
            progress.finish()
            torch.set_num_threads(threads)


class Run:
    """The objects of a run and the loop over its steps. Use `train`."""

    def __init__(self, config: RunConfig, path: Path, tokens: Tokens, progress: Progress) -> None:
        self.config, self.path, self.tokens, self.progress = config, path, tokens, progress
        settings = config.train
        reset_peak_memory()
        check_sinks(config)
        self.model = make_model(config, tokens.vocab)
        self.initial = state_hash(self.model)
        self.twin = plain_twin(self.model)
        self.optimizer = make_optimizer(self.model, settings)
        self.method = attach(config, self.model, self.optimizer)
        self.batches = Batches(
            tokens.train,
            config.model.context,
            settings.batch,
            settings.accumulate,
            settings.seed,
            settings.subset,
        )
        named = tracked(config)
        self.scores = WindowScores(config, tokens, named) if named else None
        whole = settings.subset == 1
        self.tests = None if whole else WindowScores(config, tokens, ("correct",), of="validation")
        self.average = RunAverage(self.model, settings)
        self.info = {
            "corpus": tokens.hash, "tokens": tokens.meta["key"], "corpus_documents": tokens.meta["documents"],
            "train_tokens": len(tokens.train), "validation_tokens": len(tokens.validation),
            "vocab": tokens.vocab, "initial_state": self.initial, "params": self.model.num_params,
            "threads": settings.threads,
            "method": self.method.describe() if self.method else None,
            "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
        }  # fmt: skip

    def go(self) -> dict[str, Any]:
        settings = self.config.train
        check_info(self.path, self.info)
        self.step = 0
        metrics = self.path / JSONL
        size = metrics.stat().st_size if metrics.exists() else 0
        loaded = checkpoint.load_newest(self.path, size, self.progress.say)
        if loaded is not None:
            state = checkpoint.restore(loaded, self.model, self.optimizer)
            if self.method is not None:
                load_state_(self.method, self.optimizer, checkpoint.of_method(state))
            if self.scores is not None:
                self.scores.load_(state)
            self.average.load_(state)
            self.step = loaded.step
            self.progress.say(f"resuming at step {self.step}")
        self.saved = self.step if loaded else None
        self.begun = time.perf_counter()
        if 0 < settings.steps <= settings.warmup:
            self.progress.say(
                f"train.warmup = {settings.warmup} outlasts the {settings.steps} steps: "
                f"the learning rate stays below train.lr = {settings.lr:g}"
            )
        self.progress.start(self.path.name, settings.steps, self.step)
        with ExitStack() as open_sinks:
            self.sinks = []
            for sink in self._make_sinks(loaded.header["metrics_bytes"] if loaded else 0):
                self.sinks.insert(0, sink)
                open_sinks.callback(sink.close)
            while self.step < settings.steps:
                self._train_step()
                if self.step == settings.steps:
                    break
                if self.config.eval.every and self.step % self.config.eval.every == 0:
                    self._evaluate(final=False)
                if settings.checkpoint_every and self.step % settings.checkpoint_every == 0:
                    self._save()
            if self.saved != settings.steps:
                self._save()
            return self._finish()

    def _make_sinks(self, keep_bytes: int) -> Iterator[Sink]:
        """Those of services, which may refuse, then the run's own file, cut back to `keep_bytes`; it is the
        first to get a row."""
        yield from make_sinks(self.config, self.path, self.step)
        self.records = Records(self.path, keep_bytes)
        yield self.records

    def _train_step(self) -> None:
        settings, step, begun = self.config.train, self.step, time.perf_counter()
        lr = learning_rate(settings, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total = 0.0
        for microbatch in range(settings.accumulate):
            dnn.set_clock_(self.model, step, microbatch)
            x_BT, y_BT = self.batches.at(step, microbatch)
            if self.method is not None:
                self.method.set_step(step, microbatch)
                if microbatch == 0:
                    self.method.observe(step, lambda x_BT=x_BT: self.model(x_BT), y_BT)
            loss = (
                cross_entropy(
                    self.model(x_BT).flatten(0, 1), y_BT.flatten(), self.config.model.softmax, settings.z_loss
                )
                / settings.accumulate
            )
            loss.backward()
            total += float(loss.detach())
        if self.method is not None:
            term = self.method.penalty(step)
            if term.requires_grad:
                term.backward()
            self.method.adjust_grad_(step)
        if settings.orthograd:
            orthograd_(self.model.parameters())
        bound = settings.clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), bound))
        self._check_finite("the loss", total, step + 1)
        self._check_finite("the gradient norm", norm, step + 1)
        self.optimizer.step()
        if self.method is not None:
            self.method.after_step_(step, lr)
        self.average.update(step)
        self.optimizer.zero_grad()
        self.step += 1
        elapsed = time.perf_counter() - begun
        rate = settings.batch * self.config.model.context / elapsed
        penalty = self.method.last_penalty if self.method is not None else None
        self._record({"kind": "train", "loss": total, "penalty": penalty, "lr": lr, "grad_norm": norm,
                      "step_seconds": elapsed, "tokens_per_s": rate})  # fmt: skip

    def _evaluate(self, final: bool) -> list[dict[str, Any]]:
        dnn.set_clock_(self.model, self.step, 0)
        if self.method is not None:
            self.method.set_step(self.step)
        if self.scores is not None:
            self.scores.visit(self.model, self.step)
        with self.average.applied():
            deployed = self.method
            if deployed is not None and deployed.needs_data:
                deployed = calibrated(deployed, self.config, self.twin, self.batches) if final else None
            rows = evaluate(self.model, self.twin, self.config, self.tokens, final, deployed)
        self._check_finite("the validation loss", rows[0]["loss"], self.step)
        for row in rows:
            self._record({"kind": "eval", **row})
        return rows

    def _record(self, row: dict[str, Any]) -> None:
        settings = self.config.train
        row = {
            "step": self.step, "tokens": self.step * settings.batch * self.config.model.context, **row,
            "threads": settings.threads, "seconds": time.perf_counter() - self.begun,
            "rss_mib": peak_memory_mib(),
        }  # fmt: skip
        for sink in self.sinks:
            sink.write(row)
        (self.progress.step if row["kind"] == "train" else self.progress.evaluated)(row)

    def _save(self) -> None:
        # a checkpoint that cannot be continued from is none
        total = sum(float(parameter.detach().double().sum()) for parameter in self.model.parameters())
        self._check_finite("the sum of the weights", total, self.step)
        state = state_of(self.method, self.optimizer) if self.method is not None else {}
        state |= self.average.state()
        if self.scores is not None:
            state |= self.scores.state()
        length = self.records.sync()
        checkpoint.save(
            self.path, self.step, length, self.model, self.optimizer, state, self.config.train.keep
        )
        self.saved = self.step

    def _finish(self) -> dict[str, Any]:
        """Final evaluation and files. A kill in here repeats it from the last checkpoint, with the same
        result."""
        rows = self._evaluate(final=True)
        self.records.sync()
        with self.average.applied():
            checkpoint.write_model(self.path, self.model)
        write_parquet(self.path)
        if self.scores is not None:
            self._write_scores(self.scores)
        tokens = self.step * self.config.train.batch * self.config.model.context
        final = [{"tokens": tokens} | {key: finite(value) for key, value in row.items()} for row in rows]
        summary = {**self.info, "steps": self.step, "final": final, "peak_rss_mib": peak_memory_mib()}
        write_json(self.path / SUMMARY, summary)
        return summary

    def _write_scores(self, scores: WindowScores) -> None:
        name, about = self.path.resolve().name, provenance(self.config)
        if self.tests is not None:
            self.tests.visit(self.model, self.step)
            self.tests.table(name, about).save(self.path / TESTS)
        scores.table(name, about).save(self.path / SCORES)

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "no checkpoint exists"
        raise DivergedError(
            f"{self.path}: {what} is {value} at step {step}; {kept}. Lower train.lr, raise train.warmup, "
            f"clip harder (train.clip is {self.config.train.clip:g}), or use a wider format",
            step,
        )
