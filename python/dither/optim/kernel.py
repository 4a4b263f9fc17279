"""One AdamW step of one parameter: what the Rust kernel is given, and the same arithmetic in torch.

rust/quant/src/optim.rs states the arithmetic. `torch_step` does it with torch's own operations on any device,
bit for bit as the kernel does it on the CPU; packed state is the kernel's alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dither import arrays
from dither.nn import philox, streams
from dither.nn.kernels import buffer
from dither.optim.state import Kind, local
from dither.quantizer import Quantizer

WEIGHT, FIRST, SECOND = 15, 14, 7
"""Numbers in the place of an operand in the random streams (dither.nn.streams), which no layer uses."""


@dataclass(frozen=True)
class Constants:
    """The numbers of a step, as the kernel takes them; formed in fp64 and rounded to fp32 by their user."""

    sign: float
    first: float
    beta2: float
    second: float
    root: float
    eps: float
    step: float
    decay: float

    @staticmethod
    def of(group: Mapping[str, Any], step: int) -> Constants:
        """For optimizer step `step` (from 1) of a parameter group."""
        beta1, beta2 = group["betas"]
        lr = float(group["lr"])
        return Constants(
            sign=-1.0 if group["maximize"] else 1.0,
            first=1.0 - beta1,
            beta2=beta2,
            second=1.0 - beta2,
            root=1.0 / math.sqrt(1.0 - beta2**step),
            eps=group["eps"],
            step=lr / (1.0 - beta1**step),
            decay=lr * group["weight_decay"],
        )

    def values(self) -> tuple[float, ...]:
        return (
            self.sign, self.first, self.beta2, self.second, self.root, self.eps, self.step, self.decay,
        )  # fmt: skip


@dataclass(frozen=True)
class Bits:
    """Where a parameter's random bits come from: element i has those of index `offset + i`, in streams of the
    parameter's `number` and the optimizer's `step`."""

    seed: int
    number: int
    step: int
    offset: int

    def address(self, what: int) -> tuple[int, int, int]:
        return self.seed, streams.stream(self.number, what, 0, self.step), self.offset


def describe(
    weight: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    kinds: tuple[Kind, Kind],
    rounding: str,
    bits: Bits,
    constants: Constants,
) -> dict[str, Any]:
    """A parameter as `arrays.run_adamw` takes it. Tensors are contiguous, aligned and on the CPU; the caller
    keeps them alive."""
    stochastic = rounding == "stochastic" and weight.dtype == torch.bfloat16
    w = buffer(weight)
    return {
        "len": weight.numel(),
        "weights": (w.ptr, w.dtype),
        "gradient": buffer(gradient).ptr,
        "stochastic": bits.address(WEIGHT) if stochastic else None,
        "carry": buffer(local(state["carry"])).ptr if "carry" in state else None,
        "first": _moment(state, "exp_avg", kinds[0], bits.address(FIRST)),
        "second": _moment(state, "exp_avg_sq", kinds[1], bits.address(SECOND)),
        "bits": bits.address(SECOND),
        "constants": constants.values(),
    }


def _moment(state: Mapping[str, Tensor], name: str, kind: Kind, address: tuple[int, int, int]) -> Any:
    if name in state:
        moment = buffer(local(state[name]))
        return moment.ptr, moment.dtype
    assert isinstance(kind, Quantizer)
    codes, scales = (buffer(state[f"{name}_{part}"]) for part in ("codes", "scales"))
    return arrays.optimizer_codes(kind, codes, scales, address)


def torch_step(
    weight: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    rounding: str,
    bits: Bits,
    constants: Constants,
) -> None:
    """One step with torch's operations, in place, for fp32 and bf16 state on any device."""
    c, w = constants, weight.float()
    m, v = (local(state[name]) for name in ("exp_avg", "exp_avg_sq"))
    g = gradient.float() * c.sign
    m32, v32 = m.float(), v.float()
    m32 = m32 + (g - m32) * c.first
    v32 = v32 * c.beta2 + (g * g) * c.second
    u = -((m32 / (v32.sqrt() * c.root + c.eps)) * c.step + w * c.decay)
    m.copy_(m32)
    v.copy_(stochastic_bf16(v32, bits.address(SECOND)) if v.dtype == torch.bfloat16 else v32)
    apply_(weight, u, state, rounding, bits)


def apply_(weight: Tensor, change: Tensor, state: Mapping[str, Tensor], rounding: str, bits: Bits) -> None:
    """weight += change (fp32), rounded once: by Kahan summation where the state has a carry, stochastically,
    or to nearest."""
    w = weight.float()
    if "carry" in state:
        carry = local(state["carry"])
        y = change - carry.float()
        t = (w + y).bfloat16()
        carry.copy_((t.float() - w) - y)
        weight.copy_(t)
    elif rounding == "stochastic" and weight.dtype == torch.bfloat16:
        weight.copy_(stochastic_bf16(w + change, bits.address(WEIGHT)))
    else:
        weight.copy_(w + change)


def stochastic_bf16(x: Tensor, address: tuple[int, int, int]) -> Tensor:
    """fp32 to bf16 with 16 addressed random bits an element: they are added to the bits that are cut off."""
    seed, stream, offset = address
    rng = torch.tensor([streams.signed(seed), streams.signed(stream)], dtype=torch.int64, device=x.device)
    drawn = philox.random_bits(x.numel(), 16, rng, offset).to(torch.int32).view(x.shape)
    kept = ((x.view(torch.int32) + drawn) & -0x10000).view(torch.float32)
    return torch.where(x.isfinite(), kept, x).bfloat16()
