"""One callback in the real Trainer of transformers: recipes, methods, accumulation, going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither import methods
from dither.errors import UserError

transformers = pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("accelerate", reason="the Trainer needs accelerate")

from dither.train.hf import DitherCallback  # noqa: E402


class Tiny(nn.Module):
    """Two linears; as the Trainer wants it, the forward returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 6)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.second(torch.tanh(self.first(x)))
        return {"loss": (y - labels).square().mean(), "logits": y}


def rows() -> list[dict[str, torch.Tensor]]:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    return [{"x": a, "labels": a.flip(0)} for a in x]


def lotion(model: nn.Module, optimizer: Any) -> methods.Method:
    return methods.Lotion(
        model, "int4_g32", curvature=methods.AdamSecondMoment(optimizer, n_eff=256.0), lam=10.0
    )


def run(folder: Path, make: Any, resume: str | None = None, steps: int = 6) -> tuple[Tiny, DitherCallback]:
    model = Tiny()
    dnn.prepare_(
        model,
        dnn.Recipe.get("mxfp4", fprop_w=None, dgrad_w=None, fprop_x="mxfp4:rounding=stochastic"),
        seed=3,
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        learning_rate=1e-2, lr_scheduler_type="constant", save_steps=3, logging_steps=1, report_to=[],
        use_cpu=True, disable_tqdm=True, seed=0, max_grad_norm=0.0,
    )  # fmt: skip
    callback = DitherCallback(make)
    trainer = transformers.Trainer(model, arguments, train_dataset=rows(), callbacks=[callback])  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=resume)
    return model, callback


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("make", [None, lotion], ids=["recipe", "lotion"])
def test_a_run_that_goes_on_equals_one_that_was_not_stopped(tmp_path: Path, make: Any) -> None:
    whole, callback = run(tmp_path / "a", make)
    again, _ = run(tmp_path / "a", make, resume=str(tmp_path / "a" / "checkpoint-3"))
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    assert (callback.method is None) == (make is None)
    if callback.method is not None:
        assert callback.method.last_penalty > 0


def test_the_penalty_and_the_bits_enter_the_training(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "a", None, steps=3)
    with_penalty, _ = run(tmp_path / "b", lotion, steps=3)
    assert not torch.equal(plain.first.weight, with_penalty.first.weight)


def test_what_a_callback_cannot_drive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="learns parameters"):
        run(tmp_path / "a", lambda model, optimizer: methods.Lsq(model, "int4_g32"), steps=1)
    fisher = methods.SampledFisher(seed=0)
    with pytest.raises(UserError, match="needs passes of its own"):
        run(tmp_path / "b", lambda m, o: methods.Lotion(m, "int4_g32", curvature=fisher, lam=1.0), steps=1)
