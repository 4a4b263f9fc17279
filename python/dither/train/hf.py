"""Recipes and methods in the `Trainer` of transformers, by one callback.

    dither.nn.prepare_(model, "mxfp8")                  # a recipe, a method, or both
    callback = DitherCallback(lambda model, optimizer: Lotion(model, "int4_g32", curvature=..., lam=...))
    Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    callback.method.convert_()                          # really packed weights

The clock of stochastic recipes is the Trainer's own step, so a run that goes on from a checkpoint draws the
bits of one that was not stopped. The method's gradient is added where the Trainer offers it, after its
clipping (`dither train` clips the sum). The method's state lies in each checkpoint folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import dither.nn as dnn
from dither.errors import UserError, require
from dither.files import replacing, write_json
from dither.methods import Method
from dither.train.driving import add_gradient_, begun

require("transformers", "hf")
from transformers import TrainerCallback  # noqa: E402

TENSORS, VALUES = "dither_method.safetensors", "dither_method.json"


class DitherCallback(TrainerCallback):
    """Ticks the clock of a prepared model and drives a method.

    `make(model, optimizer)` returns the method and is called when training begins; None for a recipe alone.
    `method` is None until then. UserError for a method that a callback cannot drive: one that learns
    parameters, or whose curvature needs passes of its own; and where a checkpoint lacks the method's state.
    """

    def __init__(self, make: Callable[[Any, Any], Method] | None = None) -> None:
        self._make = make
        self._microbatch = 0
        self.method: Method | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self._make is None:
            return
        if self.method is not None:  # trained before
            self.method.detach()
        optimizer = getattr(
            given["optimizer"], "optimizer", given["optimizer"]
        )  # without accelerate's wrapper
        self.method = begun(self._make, given["model"], optimizer)
        if state.global_step:
            self._load(_checkpoint(args, state))

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._tick(given["model"], state.global_step, 0)

    def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._tick(given["model"], state.global_step, self._microbatch + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.method is not None:
            add_gradient_(self.method, state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.method is not None:  # the scheduler has not moved yet: this is the rate of the step
            self.method.after_step_(state.global_step, given["optimizer"].param_groups[0]["lr"])

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        logs = given.get("logs")
        if self.method is not None and logs is not None and "loss" in logs:
            logs["dither_penalty"] = float(self.method.last_penalty)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.method is None or not state.is_world_process_zero:
            return
        folder, everything = _checkpoint(args, state), self.method.state_dict()
        tensors = {key: value for key, value in everything.items() if isinstance(value, torch.Tensor)}
        with replacing(folder / TENSORS) as aside:
            save_file({key: value.contiguous() for key, value in tensors.items()}, aside)
        write_json(folder / VALUES, {k: v for k, v in everything.items() if k not in tensors})

    def _load(self, folder: Path) -> None:
        assert self.method is not None
        if not (folder / VALUES).exists():
            raise UserError(
                f"{folder} holds no state of a method ({VALUES}); go on from a checkpoint of this callback "
                "in the Trainer's output_dir"
            )
        values = json.loads((folder / VALUES).read_text())
        self.method.load_state_dict({**values, **load_file(folder / TENSORS)})

    def _tick(self, model: Any, step: int, microbatch: int) -> None:
        self._microbatch = microbatch
        dnn.set_clock_(model, step, microbatch)
        if self.method is not None:
            self.method.set_step(step, microbatch)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
