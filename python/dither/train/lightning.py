"""Recipes and methods in the `Trainer` of Lightning, by one callback.

    dither.nn.prepare_(module, "mxfp8")                 # a recipe, a method, or both
    callback = DitherCallback(lambda module, optimizer: Lotion(module, "int4_g32", curvature=..., lam=...))
    lightning.pytorch.Trainer(callbacks=[callback]).fit(module, loader)
    callback.method.convert_()                          # really packed weights

For automatic optimization with one optimizer. The clock is the Trainer's own step, and the method's state
lies in Lightning's checkpoints, so a run that goes on from one equals a run that was not stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dither.nn as dnn
from dither.errors import UserError, require
from dither.methods import Method
from dither.train.driving import Make, add_gradient_, begun

require("lightning", "lightning")
from lightning.pytorch import Callback  # noqa: E402


class DitherCallback(Callback):
    """Ticks the clock of a prepared module and drives a method.

    `make(module, optimizer)` returns the method and is called when training begins; None for a recipe alone.
    `method` is None until then. UserError for a method that a callback cannot drive (one that learns
    parameters, or whose curvature needs passes of its own), and for several optimizers.
    """

    def __init__(self, make: Make | None = None) -> None:
        self._make = make
        self._saved: dict[str, Any] = {}
        self._step, self._microbatch, self._lr = -1, 0, 0.0
        self.method: Method | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step = -1
        if self._make is None:
            return
        if len(trainer.optimizers) != 1:
            raise UserError(
                f"the callback drives one optimizer, and this module has {len(trainer.optimizers)}"
            )
        if self.method is not None:  # trained before
            self.method.detach()
        self.method = begun(self._make, pl_module, trainer.optimizers[0])
        if self._saved:
            self.method.load_state_dict(self._saved)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._microbatch = self._microbatch + 1 if trainer.global_step == self._step else 0
        self._step = trainer.global_step
        dnn.set_clock_(pl_module, self._step, self._microbatch)
        if self.method is not None:
            self.method.set_step(self._step, self._microbatch)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._lr = optimizer.param_groups[0]["lr"]
        if self.method is not None:  # before Lightning clips
            add_gradient_(self.method, self._step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.method is None or trainer.global_step == self._step:  # the optimizer has not moved
            return
        self.method.after_step_(self._step, self._lr)  # the rate of the step: the scheduler has moved since
        pl_module.log("dither_penalty", float(self.method.last_penalty))

    def state_dict(self) -> dict[str, Any]:
        return dict(self.method.state_dict()) if self.method is not None else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._saved = dict(state_dict)
