"""The callbacks for transformers' and Lightning's Trainers against the loop of dither.methods.base, written
by hand: the same weights after steps of two microbatches under a falling learning rate, for methods that act
at each of the hooks, with random bits of recipe and method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither import methods

STEPS, PEAK = 5, 1e-2


def lotion(mode: str) -> Any:
    def make(model: nn.Module, optimizer: Any) -> methods.Method:
        curvature = methods.AdamSecondMoment(optimizer, n_eff=256.0)
        lam = methods.Ramp(10.0, STEPS, silent=0.2)
        return methods.Lotion(model, "int4_g32", curvature=curvature, lam=lam, mode=mode)

    return make


MAKES: dict[str, Any] = {
    "recipe": None,
    "lotion in the loss": lotion("loss"),
    "lotion in the gradient": lotion("grad"),
    "lotion after the step": lotion("decoupled"),
    "cage": lambda model, optimizer: methods.Cage(
        model, "int4_g32", lam=methods.Ramp(30.0, STEPS, silent=0.2)
    ),
    "rat": lambda model, optimizer: methods.Rat(model, "int4_g32", seed=5),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 6)
        recipe = dnn.Recipe.get("mxfp4", fprop_w=None, dgrad_w=None, fprop_x="mxfp4:rounding=stochastic")
        dnn.prepare_(self, recipe, seed=3)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return (self.second(torch.tanh(self.first(x))) - x.flip(-1)).square().mean()


def data() -> torch.Tensor:
    """Rows of the microbatches, four each, two a step."""
    return torch.randn(8 * STEPS, 32, generator=torch.Generator().manual_seed(1))


def factor(step: int) -> float:
    return 1.0 - step / STEPS


def by_hand(make: Any) -> Net:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.0)
    method = make(model, optimizer) if make is not None else None
    batches = data().split(4)
    for step in range(STEPS):
        lr = PEAK * factor(step)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        for microbatch in range(2):
            dnn.set_clock_(model, step, microbatch)
            if method is not None:
                method.set_step(step, microbatch)
            (model.loss(batches[2 * step + microbatch]) / 2).backward()
        if method is not None:
            if (term := method.penalty(step)).requires_grad:
                term.backward()
            method.adjust_grad_(step)
        optimizer.step()
        if method is not None:
            method.after_step_(step, lr)
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    found = dict(b.named_parameters())
    return all(torch.allclose(p, found[name], rtol=0, atol=1e-6) for name, p in a.named_parameters())


def test_the_loops_written_by_hand_differ() -> None:
    """What the tests below compare is not the same for every method."""
    found = [by_hand(make) for make in MAKES.values()]
    same = {(i, j) for i in range(len(found)) for j in range(i) if equal(found[i], found[j])}
    assert same == {(2, 1)}  # a gradient added in the loss or behind its back


@pytest.mark.parametrize("name", MAKES)
def test_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    from dither.train.hf import DitherCallback

    class Model(Net):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.loss(x)}

    class Trainer(transformers.Trainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    model = Model()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, learning_rate=PEAK, lr_scheduler_type="linear", save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, max_grad_norm=0.0, weight_decay=0.0,
    )  # fmt: skip
    rows = [{"x": row} for row in data()]
    Trainer(model, arguments, train_dataset=rows, callbacks=[DitherCallback(MAKES[name])]).train()  # type: ignore[arg-type]
    assert equal(by_hand(MAKES[name]), model)


@pytest.mark.parametrize("name", MAKES)
def test_lightning(name: str, tmp_path: Path) -> None:
    pl = pytest.importorskip("lightning.pytorch", reason="needs lightning")
    from dither.train.lightning import DitherCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, x: torch.Tensor, index: int) -> torch.Tensor:
            return self.net.loss(x)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=PEAK, weight_decay=0.0)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    module = Module()
    trainer = pl.Trainer(
        max_steps=STEPS, accumulate_grad_batches=2, accelerator="cpu", logger=False,
        callbacks=[DitherCallback(MAKES[name])], enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data(), batch_size=4))  # type: ignore[arg-type]
    assert equal(by_hand(MAKES[name]), module.net)
