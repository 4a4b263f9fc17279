"""Gradient scores of torch models: GraNd, TracIn, VoG's gradients. torch is imported when they are called.

GraNd at initialisation does not rank examples: the 2021 result was not reproduced (2303.14753).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from dither.errors import UserError, require, suggest
from dither.scores.borrowed import Floats, reals, to_numpy
from dither.scores.pointwise import logit_scores
from dither.scores.reliability import at_least_one


def grand_last_layer(logits: Any, labels: Any, features: Any, *, bias: bool = True) -> Floats:
    """Norm of the loss gradient of a last linear layer, exactly: ||p - e_y|| sqrt(1 + ||h||^2).

    logits (n, classes), labels (n,), features h (n, d): the layer's input, which `Features` catches in
    passing. bias=False: the layer has none, and the 1 falls away. No backward pass. NaN where a feature is.
    """
    el2n = logit_scores(logits, labels, ["el2n"])["el2n"]
    h = reals(features, "features")
    if h.ndim != 2 or len(h) != len(el2n):
        raise UserError(f"features are (n, d) for the {len(el2n)} rows of logits, not of the shape {h.shape}")
    return el2n * np.sqrt(float(bias) + np.einsum("ij,ij->i", h, h))


def _tensors(inputs: Any, labels: Any, classes: bool = True) -> tuple[Any, Any]:
    """As tensors. UserError where there are not as many labels as inputs, or where they are no `classes`."""
    torch = require("torch", "torch")
    x, y = (v if torch.is_tensor(v) else torch.as_tensor(to_numpy(v)) for v in (inputs, labels))
    if y.ndim == 0 or len(y) != len(x):
        raise UserError(f"there are labels of the shape {tuple(y.shape)} for {len(x)} inputs")
    if classes and (y.is_floating_point() or (y.numel() and int(y.min()) < 0)):
        raise UserError(f"labels are classes, whole numbers from 0; these are {y.dtype} from {y.min():g} on")
    return x, y.long() if classes else y


def _check_classes(labels: Any, classes: int) -> None:
    if labels.numel() and int(labels.max()) >= classes:
        raise UserError(f"a label is {int(labels.max())}, and the model gives {classes} classes")


def _losses(model: Any, loss: Callable[[Any, Any], Any] | None) -> tuple[Any, Any]:
    torch = require("torch", "torch")
    measure: Any = loss or torch.nn.functional.cross_entropy
    check_apart(torch, model)
    params = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise UserError("the model has no parameter that requires a gradient")
    buffers = {n: b.detach() for n, b in model.named_buffers()}

    def one(values: Any, x: Any, y: Any) -> Any:
        out = torch.func.functional_call(model, {**values, **buffers}, (x.unsqueeze(0),))
        return measure(out, y.unsqueeze(0))

    gradient = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0), randomness="error")

    def checked(values: Any, x: Any, y: Any) -> Any:
        x, y = _tensors(x, y, classes=loss is None)
        try:
            return gradient(values, x, y)
        except (RuntimeError, IndexError):
            if loss is None:  # a label outside the classes, most of the time
                with torch.no_grad():
                    _check_classes(y, model(x[:1]).shape[1])
            raise

    return params, checked


def check_apart(torch: Any, model: Any) -> None:
    """UserError where what a model makes of an example depends on the others, or on chance."""
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"a torch model is needed, not {type(model).__name__}")
    batch, dropout = torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd
    for name, module in model.named_modules():
        # Attention and recurrent layers draw by themselves, with a probability that they call dropout.
        share = module.p if isinstance(module, dropout) else getattr(module, "dropout", 0)
        by_chance = isinstance(share, (int, float)) and share > 0
        if module.training and (isinstance(module, batch) or by_chance):
            raise UserError(
                f"{name or 'the model'} ({type(module).__name__}) makes an example's outputs and gradients "
                "depend on the batch or on chance: call model.eval() first"
            )


def per_example_gradients(model: Any, inputs: Any, labels: Any, loss: Any = None) -> dict[str, Any]:
    """The loss gradient of every example by `torch.func`: parameter name -> (n, *shape).

    UserError for layers that mix examples or draw random numbers (batch normalisation and dropout in training
    mode): put the model into eval() first.
    """
    params, gradient = _losses(model, loss)
    return gradient(params, inputs, labels)


def grand(model: Any, inputs: Any, labels: Any, loss: Any = None, chunk: int = 64) -> Floats:
    """GraNd (Paul et al., 2107.07075): norm of the full loss gradient of every example, `chunk` at a time."""
    return np.sqrt(_squared_norms(model, inputs, labels, loss, chunk))


def _squared_norms(model: Any, inputs: Any, labels: Any, loss: Any, chunk: int) -> Floats:
    at_least_one(chunk=chunk)
    params, gradient = _losses(model, loss)
    squares = []
    for start in range(0, len(inputs), chunk):
        found = gradient(params, inputs[start : start + chunk], labels[start : start + chunk])
        norms = sum(g.double().flatten(1).square().sum(dim=1) for g in found.values())
        squares.append(np.asarray(to_numpy(norms)))
    return np.concatenate(squares) if squares else np.empty(0)


def tracin_self(
    models: Iterable[Any], rates: Sequence[float], inputs: Any, labels: Any, loss: Any = None, chunk: int = 64
) -> Floats:
    """Self-influence over checkpoints (Pruthi et al., 2002.08484): sum_k eta_k ||g_k||^2, high is hard.

    models: one per checkpoint (an iterable may load them one after the other), rates: their learning rates.
    """
    total, used = np.zeros(len(inputs)), 0
    for used, model in enumerate(models, start=1):
        if used > len(rates):
            raise UserError(f"there are more models than the {len(rates)} rates")
        total += rates[used - 1] * _squared_norms(model, inputs, labels, loss, chunk)
    if used == 0 or used != len(rates):
        raise UserError(
            f"TracIn needs at least one checkpoint, and a rate of each, not {used} and {len(rates)}"
        )
    return total


def class_gradients(
    model: Any, inputs: Any, labels: Any, output: str = "logit", layer: str | None = None
) -> Any:
    """d z_y / d x (or d p_y / d x) of every example, shaped as x: what VoG reduces over checkpoints.

    output: "logit" or "prob". x: the inputs, or the output of the module of the name `layer`: the embedding
    of a model of token ids, (n, tokens, dimensions). The model must not mix examples. Raises UserError for
    inputs that are integers, and for a layer that is not called once.
    """
    torch = require("torch", "torch")
    if output not in ("logit", "prob"):
        raise UserError(f"output= is 'logit' or 'prob', not {output!r}")
    check_apart(torch, model)
    inputs, labels = _tensors(inputs, labels)
    if labels.ndim != 1:
        raise UserError(f"labels are one class an example, not of the shape {tuple(labels.shape)}")
    if layer is None and not inputs.is_floating_point():
        raise UserError(f"inputs of {inputs.dtype} have no gradient: name the embedding, layer=")
    with torch.enable_grad():
        if layer is None:
            x = inputs.detach().clone().requires_grad_(True)
            z = model(x)
        else:
            z, x = _from_layer(model, inputs, layer)
        _check_classes(labels, z.shape[1])
        z = z if output == "logit" else z.softmax(dim=-1)
        picked = z.gather(1, labels.view(-1, 1)).sum()
        (gradient,) = torch.autograd.grad(picked, x)
    return gradient.detach()


def _from_layer(model: Any, inputs: Any, layer: str) -> tuple[Any, Any]:
    """What the model makes of the inputs, and the output of `layer` as the leaf that it is made from."""
    modules = dict(model.named_modules())
    if layer not in modules:
        raise UserError(f"the model has no layer {layer!r}{suggest(layer, modules)}")
    leaves = []

    def cut(module: Any, arguments: Any, found: Any) -> Any:
        leaves.append(found.detach().clone().requires_grad_(True))
        return leaves[-1]

    hook = modules[layer].register_forward_hook(cut)
    try:
        z = model(inputs)
    finally:
        hook.remove()
    if len(leaves) != 1:
        raise UserError(f"the layer {layer!r} was called {len(leaves)} times in a forward pass, not once")
    return z, leaves[0]
