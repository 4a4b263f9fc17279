"""What the methods of examples/methods_table.py cost, on its model at INT4: processor time and memory.

    OMP_NUM_THREADS=1 python examples/methods_costs.py

A training step is that of `dither train`: every method makes one in turn, for ROUNDS rounds; smallest and
median time, and the median over that of plain training. Memory is the largest sum of torch's tensors that are
alive at once from building the model to the end of the third step. `after` is the processor time from the
trained weights to those on the grid, on the batches that a run gives: calibration, searched scales.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from methods_table import AFTER, FORMATS, SHARED, STEPS, TRIES, Try
from torch.profiler import ProfilerActivity, profile

from dither.models import GPT
from dither.models.losses import cross_entropy
from dither.nn import set_clock_
from dither.report.results import markdown
from dither.train.batches import Batches
from dither.train.config import RunConfig, from_dict, resolve
from dither.train.method import CALIBRATION
from dither.train.schedule import learning_rate
from dither.train.tokens import open_tokens
from dither.train.wiring import attach, make_model, make_optimizer

ROUNDS = 60
FORM = "INT4"


class Trainer:
    """The objects of a run and the step of `dither train`, of one microbatch and without records."""

    def __init__(self, config: RunConfig, batches: Batches, vocab: int) -> None:
        self.config, self.batches, self.step = config, batches, 0
        self.model: GPT = make_model(config, vocab)
        self.optimizer = make_optimizer(self.model, config.train)
        self.method = attach(config, self.model, self.optimizer)

    def __call__(self) -> None:
        train = self.config.train
        lr = learning_rate(train, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        set_clock_(self.model, self.step)
        x_BT, y_BT = self.batches.at(self.step, 0)
        if self.method is not None:
            self.method.set_step(self.step)
            self.method.observe(self.step, lambda: self.model(x_BT), y_BT)
        logits, y = self.model(x_BT).flatten(0, 1), y_BT.flatten()
        cross_entropy(logits, y, self.config.model.softmax, train.z_loss).backward()
        if self.method is not None:
            if (term := self.method.penalty(self.step)).requires_grad:
                term.backward()
            self.method.adjust_grad_(self.step)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip or math.inf)
        self.optimizer.step()
        if self.method is not None:
            self.method.after_step_(self.step, lr)
        self.optimizer.zero_grad()
        self.step += 1


def config(name: str) -> RunConfig:
    """The run of a method, with all of its parts at work from the first step; "plain" has none."""
    method, setting = ("none", Try(12e-3)) if name == "plain" else (TRIES[name][0], TRIES[name][1][0])
    options = {k: v for k, v in setting.options.items() if k not in ("silent", "start")}
    if name in ("gptq", "adaround"):
        options = {"clip": "mse"}
    tree = {**SHARED, "train": {**SHARED["train"], "lr": setting.lr}}
    if method != "none":
        tree["method"] = {"name": method, "quantizer": FORMATS[FORM], "options": options}
    return resolve(from_dict(tree, name), 1)


def peak(make: Callable[[], Trainer]) -> float:
    """MiB of tensors that are alive at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        trainer = make()
        for _ in range(3):
            trainer()
    events: Any = found.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    total = largest = 0
    for _, change in changes:
        total += change
        largest = max(largest, total)
    return largest / 2**20


def seconds_after(trainer: Trainer, batches: Batches) -> float:
    """From trained weights to those on the grid."""
    method: Any = trainer.method
    begun = time.process_time()
    if method.needs_data:
        method.calibrate_([batches.at(step, 0)[0] for step in range(CALIBRATION)])
    with method.deployed():
        return time.process_time() - begun


def main() -> None:
    torch.set_num_threads(1)
    tokens = open_tokens(config("plain").data, print)
    train = config("plain").train
    batches = Batches(tokens.train, config("plain").model.context, train.batch, 1, seed=0)
    # what acts after training alone trains as plain; the fused cooldown is plain training, then qat
    Trainer(config("plain"), batches, tokens.vocab)()  # what torch allocates once
    names = ["plain", *(n for n, (m, _) in TRIES.items() if m not in AFTER and n != "fused cooldown")]
    memory = {name: peak(lambda name=name: Trainer(config(name), batches, tokens.vocab)) for name in names}
    trainers = {name: Trainer(config(name), batches, tokens.vocab) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS + 3):
        for name, trainer in trainers.items():
            begun = time.process_time()
            trainer()
            if number >= 3:
                times[name].append(time.process_time() - begun)
    rows = []
    for name in ["plain", *(n for n in TRIES if n != "fused cooldown")]:
        trained = name if name in times else "plain"
        own, base = times[trained], times["plain"]
        row = [name, f"{min(own) * 1e3:.1f}", f"{median(own) * 1e3:.1f}", f"{median(own) / median(base):.2f}"]
        row.append(f"{memory[trained]:.2f}")
        if name == "plain":
            row.append("-")
        else:
            trainer = trainers[name] if name in trainers else Trainer(config(name), batches, tokens.vocab)
            row.append(f"{seconds_after(trainer, batches):.2f} s")
        rows.append(row)
    print(f"{FORMATS[FORM]}, {trainers['plain'].model.num_params:,} parameters, one thread, {ROUNDS} rounds")
    print(markdown(["method", "ms a step, min", "median", "x plain", "MiB", "after"], rows, words=1))
    print(f"a run of {STEPS} steps is that many times the step, and its evaluation")


if __name__ == "__main__":
    main()
