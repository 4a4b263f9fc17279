"""AdamW whose weights or moments are stored in few bits, one fused pass over memory on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dither import arrays
from dither.checks import check_address
from dither.errors import UserError, suggest
from dither.nn.kernels import is_aligned
from dither.optim import state as stored
from dither.optim.kernel import Bits, Constants, describe, torch_step
from dither.optim.shards import offset
from dither.optim.state import Kind, local

ROUNDINGS = ("stochastic", "kahan", "nearest_even")


class AdamW(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) for weights and state of few bits; arithmetic in fp32.

    Args:
        params: parameters or groups, of fp32 or bf16. A group may set every option but `seed`.
        rounding: of bf16 weights. "stochastic" (unbiased; arXiv:2010.06192, section 3.1), "kahan" (to
            nearest, and what is rounded off is kept in a second bf16 tensor; section 3.2) or "nearest_even"
            (updates below half a unit in the last place are lost). Other weights are rounded to nearest.
        state: how the two moments are stored: "fp32", "bf16", "fp8", "int8", "fp4", or a pair of "fp32",
            "bf16" and quantizers (dither.optim.state). Parameters of fewer than 4096 elements keep fp32
            instead of codes.
        seed: of the random bits, which are addressed by parameter, step and element: they do not depend on
            threads, on the order of parameters' gradients, or on how FSDP2 shards the rows.
        maximize: ascend instead.

    NaN and infinities in a gradient go into weights and moments, as in torch.optim.AdamW; where moments are
    packed, UserError is raised instead and nothing is changed. UserError also for sparse gradients, TypeError
    for parameters of another dtype.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        rounding: str = "stochastic",
        state: str | Sequence[Kind] = "fp32",
        seed: int = 0,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rounding": rounding,
            "state": state, "maximize": maximize,
        }  # fmt: skip
        self._begin(params, seed, defaults)

    def _begin(self, params: Iterable[Any], seed: int, defaults: dict[str, Any]) -> None:
        self.seed = check_address(seed, 0, 0)[0]
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; UserError for options and TypeError for parameters that cannot be used."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def _check_group(self, group: Mapping[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise UserError(f"betas are two numbers in [0, 1), not {group['betas']}")
        for name in ("lr", "eps", "weight_decay"):
            if not float(group[name]) >= 0:
                raise UserError(f"{name} is a number of at least 0, not {group[name]}")
        if group["rounding"] not in ROUNDINGS:
            near = suggest(str(group["rounding"]), ROUNDINGS)
            raise UserError(f"unknown rounding {group['rounding']!r}{near}; known: {', '.join(ROUNDINGS)}")
        stored.kinds(group["state"])
        for parameter in group["params"]:
            if parameter.dtype not in (torch.float32, torch.bfloat16):
                raise TypeError(
                    f"{type(self).__name__} works on fp32 and bf16 parameters, not on {parameter.dtype}"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step for every parameter that has a gradient. Returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        number, jobs = 0, []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    jobs.append((number, parameter, group))
                number += 1
        self._refuse_unusable(jobs)
        self._update(jobs)
        return loss

    def _refuse_unusable(self, jobs: Sequence[tuple[int, Tensor, dict[str, Any]]]) -> None:
        """Before anything is changed."""
        for number, parameter, group in jobs:
            gradient = parameter.grad
            assert gradient is not None
            if gradient.is_sparse:
                raise UserError(
                    f"{self._name(number, parameter)} has a sparse gradient, which {type(self).__name__} "
                    "does not take; use torch.optim.SparseAdam for it, or nn.Embedding(sparse=False)"
                )
            kinds = self._moments(group).values()
            if any(not isinstance(stored.kept(parameter, kind), str) for kind in kinds):
                gradient = local(gradient)
                if not gradient.sum().isfinite() and not gradient.isfinite().all():
                    raise UserError(
                        f"the gradient of {self._name(number, parameter)} holds NaN or infinity, and packed "
                        "moments cannot; nothing was changed by this step. Skip it, lower the learning rate, "
                        "clip, or keep the state in fp32"
                    )

    def _name(self, number: int, parameter: Tensor) -> str:
        return f"parameter {number} of shape {tuple(parameter.shape)}"

    def _update(self, jobs: Sequence[tuple[int, Tensor, dict[str, Any]]]) -> None:
        described, held, written = [], [], []
        for number, parameter, group in jobs:
            state, kinds = self._state(parameter, group), stored.kinds(group["state"])
            state["step"] += 1
            step = int(state["step"])
            bits, constants = (
                Bits(self.seed, number, step, offset(parameter)),
                Constants.of(group, step),
            )
            weight, gradient = local(parameter.detach()), local(parameter.grad)  # type: ignore[arg-type]
            in_place = weight.is_contiguous() and is_aligned(weight)
            work = weight if in_place else weight.clone(memory_format=torch.contiguous_format)
            gradient = gradient.to(weight.dtype).contiguous()
            if weight.device.type != "cpu":
                torch_step(work, gradient, state, group["rounding"], bits, constants)
            else:
                gradient = gradient if is_aligned(gradient) else gradient.clone()
                described.append(describe(work, gradient, state, kinds, group["rounding"], bits, constants))
                held.append((work, gradient))
            if not in_place:
                written.append((weight, work))
        if described:
            arrays.run_adamw(described)
        for weight, work in written:
            weight.copy_(work)

    def _state(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name, kind in self._moments(group).items():
                state |= stored.allocate(name, parameter, kind)
            if group["rounding"] == "kahan" and parameter.dtype == torch.bfloat16:
                state["carry"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        return state

    def _moments(self, group: Mapping[str, Any]) -> dict[str, Kind]:
        """The moments that parameters of this group have, and how they are to be stored."""
        return dict(zip(("exp_avg", "exp_avg_sq"), stored.kinds(group["state"]), strict=True))

    def stored_as(self, parameter: Tensor, group: Mapping[str, Any]) -> str:
        """How a parameter of this group and its moments are stored, in words (for `dither.nn.describe`)."""
        asked, moments = group["state"], self._moments(group).values()
        if any(stored.kept(parameter, kind) != kind for kind in moments):
            words = f"fp32 (fewer than {stored.SMALLEST_PACKED} elements)"
        else:
            words = asked if isinstance(asked, str) else " and ".join(map(str, moments))
        if parameter.dtype == torch.bfloat16:
            words += f"; bfloat16 weights, {group['rounding']}"
        return words

    def second_moment(self, parameter: Tensor) -> Tensor | None:
        """Adam's v of a parameter as a new fp32 tensor, whatever stores it; None before its first step."""
        state = self.state.get(parameter)
        if not state:
            return None
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        _, kind = stored.kinds(group["state"])
        return stored.read(state, "exp_avg_sq", parameter.shape, kind).clone()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but every tensor keeps its dtype (torch casts state to the parameter's, which would
        lose bits of moments and scales)."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    device = "cpu" if name == "step" else parameter.device
                    self.state[parameter][name] = value.detach().clone().to(device)
