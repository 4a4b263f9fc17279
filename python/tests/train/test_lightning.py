"""One callback in the real Trainer of Lightning: recipes, methods, accumulation, going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither import methods
from dither.errors import UserError

pl = pytest.importorskip("lightning.pytorch", reason="needs lightning")

from dither.train.lightning import DitherCallback  # noqa: E402


class Tiny(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 6)

    def training_step(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return (self.second(torch.tanh(self.first(x))) - x.flip(1)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def lotion(module: nn.Module, optimizer: Any) -> methods.Method:
    curvature = methods.AdamSecondMoment(optimizer, n_eff=256.0)
    return methods.Lotion(module, "int4_g32", curvature=curvature, lam=10.0)


def run(folder: Path, make: Any, resume: str | None = None, steps: int = 6) -> tuple[Tiny, DitherCallback]:
    module, callback = Tiny(), DitherCallback(make)
    recipe = dnn.Recipe.get("mxfp4", fprop_w=None, dgrad_w=None, fprop_x="mxfp4:rounding=stochastic")
    dnn.prepare_(module, recipe, seed=3)
    # every batch is the same: in the middle of an epoch Lightning begins a plain loader again
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).repeat(16, 1)
    saved = pl.callbacks.ModelCheckpoint(str(folder), every_n_train_steps=3, save_top_k=-1)
    trainer = pl.Trainer(
        max_steps=steps, accumulate_grad_batches=2, accelerator="cpu", logger=False,
        callbacks=[callback, saved], enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=str(folder),
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(x, batch_size=4), ckpt_path=resume)  # type: ignore[arg-type]
    return module, callback


@pytest.mark.parametrize("make", [None, lotion], ids=["recipe", "lotion"])
def test_a_run_that_goes_on_equals_one_that_was_not_stopped(tmp_path: Path, make: Any) -> None:
    whole, callback = run(tmp_path, make)
    (checkpoint,) = tmp_path.glob("*step=3.ckpt")
    again, _ = run(tmp_path / "again", make, resume=str(checkpoint))
    for (name, a), b in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    if callback.method is not None:
        assert callback.method.last_penalty > 0
        plain, _ = run(tmp_path / "plain", None)
        assert not torch.equal(plain.first.weight, whole.first.weight)


def test_what_a_callback_cannot_drive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="learns parameters"):
        run(tmp_path, lambda module, optimizer: methods.Lsq(module, "int4_g32"), steps=1)
