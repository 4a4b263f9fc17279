"""Muon: momentum whose matrices are made orthogonal before they are applied; AdamW for everything else.

    M = momentum M + (1 - momentum) G
    U = (1 - momentum) G + momentum M                Nesterov; M itself without
    O = newton_schulz(U)                             close to the nearest orthogonal matrix, U V^T of an SVD
    W = W - lr (scale O + weight_decay W)

Sources: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024,
kellerjordan.github.io/posts/muon), its repository for Nesterov's form, and arXiv:2502.16982 (Moonlight) for
weight decay and the scale that lets AdamW's learning rate serve both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError, suggest
from dither.nn.sites import covers
from dither.optim import state as stored
from dither.optim.adamw import AdamW
from dither.optim.kernel import FIRST, Bits, apply_
from dither.optim.state import Kind

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x -> a x + b x^3 + c x^5, published with Muon: the steepest start (a) for which five steps leave
singular values within about 0.7 to 1.2; they do not converge to 1, and need not."""

SCALES = {
    "original": lambda rows, columns: max(1.0, rows / columns) ** 0.5,
    "match_rms": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
}
"""What an orthogonal update is multiplied with: "original" (the repository's; learning rates around 0.02) or
"match_rms" (arXiv:2502.16982, equation 4: entries have the root mean square of AdamW's, about 0.2)."""


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """An fp32 matrix of the shape and singular vectors of `matrix` whose singular values lie around 1.

    In fp32 on every device (the published code uses bf16, which only GPUs gain from). A zero matrix stays
    zero. Singular values below about 0.001 of the Frobenius norm do not reach 0.5 in five steps.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).float()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.T


HEADS = ("*head*",)


def muon_groups(
    model: nn.Module, exempt: Sequence[str] = HEADS, weight_decay: float = 1e-2
) -> list[dict[str, Any]]:
    """Parameter groups for Muon: weights of hidden linears; other matrices; vectors, which do not decay.

    Not hidden are embeddings, whatever is tied to one, and linears whose name matches one of the globs
    `exempt`. UserError where no linear is left, or a glob that was given matches none.
    """
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for glob in exempt if exempt is not HEADS else ():
        if not any(covers(glob, name) for name in linears):
            listing = "\n  ".join(linears) or "none"
            raise UserError(f"exempt pattern {glob!r} matches no linear. Linears:\n  {listing}")
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden = {
        id(module.weight): module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) not in tables
        and not any(covers(glob, name) for glob in exempt)
    }  # fmt: skip
    if not hidden:
        raise UserError(f"no linear of the model is left for Muon: exempt = {tuple(exempt)}")
    rest = [p for p in model.parameters() if id(p) not in hidden]
    groups = [
        {"params": list(hidden.values()), "muon": True, "weight_decay": weight_decay},
        {"params": [p for p in rest if p.dim() >= 2], "muon": False, "weight_decay": weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "muon": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Muon(AdamW):
    """Muon for groups with muon=True (the default), AdamW for those with muon=False, in one optimizer.

    Args:
        params: of fp32 or bf16; `muon_groups(model)` sorts a model's. Muon's own are
            matrices.
        lr: of all groups that set none. With scale="match_rms" one rate serves both kinds; with "original"
            give Muon's groups one of their own.
        momentum, nesterov, scale, ns_steps: see the head of dither.optim.muon, SCALES and newton_schulz.
        betas, eps, rounding, state, seed, maximize: as in AdamW. `rounding` is that of bf16 weights in either
            kind of group; of `state`, the momentum of Muon takes the kind of the first moment.

    A group may set every option but `seed`. What cannot be used is refused as in AdamW; UserError also for
    parameters of Muon that are no matrices, or sharded (the update needs the whole matrix).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        scale: str = "match_rms",
        ns_steps: int = 5,
        rounding: str = "stochastic",
        state: str | Sequence[Kind] = "fp32",
        seed: int = 0,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rounding": rounding,
            "state": state, "maximize": maximize, "muon": True, "momentum": momentum, "nesterov": nesterov,
            "scale": scale, "ns_steps": ns_steps,
        }  # fmt: skip
        self._begin(params, seed, defaults)

    def _check_group(self, group: Mapping[str, Any]) -> None:
        super()._check_group(group)
        if not 0 <= group["momentum"] < 1:
            raise UserError(f"momentum is a number in [0, 1), not {group['momentum']}")
        if group["scale"] not in SCALES:
            near = suggest(str(group["scale"]), SCALES)
            raise UserError(f"unknown scale {group['scale']!r}{near}; known: {', '.join(SCALES)}")
        if group["ns_steps"] < 1:
            raise UserError(f"ns_steps is a number of at least 1, not {group['ns_steps']}")
        for parameter in group["params"] if group["muon"] else ():
            if parameter.dim() != 2:
                raise UserError(
                    f"Muon works on matrices, not on a parameter of shape {tuple(parameter.shape)}; give it "
                    "to AdamW in a group with muon=False (dither.optim.muon_groups(model) sorts a model's)"
                )
            if hasattr(parameter, "placements"):
                raise UserError(
                    "Muon needs whole matrices, and a parameter is sharded; give it to AdamW in a group with "
                    "muon=False, or train it replicated"
                )

    def _update(self, jobs: Sequence[tuple[int, Tensor, dict[str, Any]]]) -> None:
        super()._update([job for job in jobs if not job[2]["muon"]])
        for number, parameter, group in jobs:
            if group["muon"]:
                self._orthogonal_update(number, parameter, group)

    def _orthogonal_update(self, number: int, parameter: Tensor, group: Mapping[str, Any]) -> None:
        state, (kind, _) = self._state(parameter, group), stored.kinds(group["state"])
        state["step"] += 1
        bits = Bits(self.seed, number, int(state["step"]), 0)
        gradient = parameter.grad.float()  # type: ignore[union-attr]
        gradient = -gradient if group["maximize"] else gradient
        momentum = stored.read(state, "momentum", parameter.shape, kind)
        momentum = torch.lerp(momentum, gradient, 1 - group["momentum"])
        stored.write_(state, "momentum", momentum, kind, bits.address(FIRST))
        update = torch.lerp(gradient, momentum, group["momentum"]) if group["nesterov"] else momentum
        direction = newton_schulz(update, group["ns_steps"])
        lr, scale = float(group["lr"]), SCALES[group["scale"]](*parameter.shape)
        weight = parameter.detach()
        change = weight.float() * (-lr * group["weight_decay"]) + direction * (-lr * scale)
        apply_(weight, change, state, group["rounding"], bits)

    def _moments(self, group: Mapping[str, Any]) -> dict[str, Kind]:
        moments = super()._moments(group)
        return {"momentum": moments["exp_avg"]} if group["muon"] else moments

    def second_moment(self, parameter: Tensor) -> Tensor | None:
        """As in AdamW; UserError for a parameter of Muon, which keeps none."""
        state = self.state.get(parameter)
        if state and not any(name.startswith("exp_avg_sq") for name in state):
            raise UserError("Muon keeps no second moment of its matrices; use another curvature")
        return super().second_moment(parameter)
