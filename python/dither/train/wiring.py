"""From a configuration to the objects of a run: model, optimizer, recipe, method, and the plain twin for
evaluation."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

import dither.nn as dnn
from dither import methods
from dither.errors import UserError
from dither.models.gpt import GPT
from dither.quantizer import Quantizer
from dither.train.config import OPERANDS, RecipeConfig, RunConfig, TrainConfig
from dither.train.method import check_options, make_method


def make_model(config: RunConfig, vocab: int) -> GPT:
    """The model with its initial weights: they depend on [model], the vocabulary and train.seed alone."""
    return GPT(config.model, vocab, torch.Generator().manual_seed(config.train.seed))


def plain_twin(model: GPT) -> GPT:
    """A plain model over the very same parameters: evaluation in full precision and under a cast, whatever
    recipe or method the training model carries."""
    twin = GPT(model.config, model.vocab, torch.Generator())  # not torch's global random state
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, _ in list(twin.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(owner), leaf, parameters[name])
    return twin


def state_hash(model: nn.Module) -> str:
    """SHA-256 over the names and bytes of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + b"\0")
        digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101); weight decay on matrices only. One group each, fused into one kernel."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (train.betas[0], train.betas[1])
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=train.lr, betas=betas, eps=train.eps, fused=True
    )


def quantizer(spec: str, where: str) -> Quantizer:
    """Parse a quantizer of the configuration; an error names the key it stands under."""
    try:
        return Quantizer(spec)
    except ValueError as error:
        raise UserError(f"{where} = {spec!r}: {error}") from None


def make_recipe(config: RecipeConfig) -> dnn.Recipe:
    overrides: dict[str, Any] = {"sites": config.sites}
    for operand in OPERANDS:
        spec = getattr(config, operand)
        if spec == "fprop":
            overrides[operand] = spec
        elif spec:
            overrides[operand] = None if spec == "none" else quantizer(spec, f"recipe.{operand}")
    try:
        return dnn.Recipe.get(config.name, **overrides)
    except ValueError as error:
        raise UserError(f"[recipe] {error}") from None


def is_plain(config: RecipeConfig) -> bool:
    """True for the fp32 recipe without overrides: nothing is quantized, nothing is prepared."""
    return config.name == "fp32" and all(getattr(config, operand) in ("", "none") for operand in OPERANDS)


def check_names(config: RunConfig) -> None:
    """Raise UserError for an unknown quantizer, recipe or method option before any data is read."""
    for spec in config.eval.casts:
        quantizer(spec, "eval.casts")
    make_recipe(config.recipe)
    method = config.method
    if method.quantizer:
        quantizer(method.quantizer, "method.quantizer")
    if method.name != "none":
        kind = methods.get(method.name)
        if issubclass(kind, methods.Forward) and make_recipe(config.recipe).fprop_w is not None:
            raise UserError(
                f'method "{method.name}" and recipe "{config.recipe.name}" would both quantize the weights; '
                'set recipe.fprop_w = "none" (and dgrad_w, if the backward should use the method\'s weight)'
            )
        check_options(method.name, method.options)


def attach(config: RunConfig, model: GPT, optimizer: torch.optim.Optimizer) -> methods.Method | None:
    """Prepare the model for its recipe and attach its method (`dither.train.method`). None for no method."""
    if not is_plain(config.recipe):
        try:
            dnn.prepare_(
                model,
                make_recipe(config.recipe),
                exempt=config.recipe.exempt,
                seed=config.train.seed,
                steps=config.train.steps,
            )
        except ValueError as error:
            raise UserError(f"[recipe] {error}") from None
    return make_method(config, model, optimizer)
