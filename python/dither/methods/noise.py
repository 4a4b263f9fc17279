"""LOTION's penalty and its gradient: what randomized rounding would cost, to second order.

Randomized rounding sends a weight w between its neighbours lo <= w <= hi to either of them, without bias; the
variance is

    sigma^2 = (w - lo)(hi - w)                                   (arXiv 2510.08757, section 3; codebook form)

and the penalty is R(w) = 1/2 sum_i g_i sigma_i^2 with the curvature g held fixed (Eq. 3). Its gradient has
two parts:

    lattice      dR/dw_i    = 1/2 g_i (lo_i + hi_i - 2 w_i)
    scale        dR/ds      = 1/2 sum_{i in block} g_i (c_hi (w_i - lo_i) - c_lo (hi_i - w_i)),   c = point/s

and the scale moves with the block's largest weight alone, ds/dw_max = sign(w_max) s/amax (= sign(w_max)/max,
since s = amax/max). The s cancels, so the block maximum receives

    sign(w_max)/amax * 1/2 sum_{i in block} g_i (hi_i (w_i - lo_i) - lo_i (hi_i - w_i)),

which needs the neighbours only, whatever the format. With a quantized scale (E8M0, E4M3) s is a step function
of amax; the same expression is then the *proportional* surrogate: the derivative of the scale before it was
rounded.

Three conventions where R has a kink or the maximum is not unique:
* on the lattice lo = hi = w, so both parts are 0 there (R has a minimum with one-sided slopes -+ 1/2 g s);
* with an fp32 scale the block maximum is a lattice point by construction, and is treated as one even where
  fl(amax/max)*max misses it by a rounding error: it feels the scale part only;
* several maxima in a block share the scale part equally, as `torch.amax` does.

On the CPU an fp32 weight takes one pass of a Rust kernel (rust/quant/src/lotion.rs), which equals the torch
expression here: each weight's lattice part to the last bit, sums over a block within the rounding of fp32
sums (relative 1e-6, in R and in what the block maximum receives).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither.methods import kernels
from dither.methods.blocks import join, split
from dither.nn import ops
from dither.quantizer import Quantizer

_CHUNK = 1 << 17  # elements worked on at a time, so that the intermediate results stay in the cache


def penalty_and_gradient(
    weight: Tensor, curvature: Tensor, quantizer: Quantizer, *, scale_grad: bool
) -> tuple[Tensor, Tensor]:
    """Return R (a scalar) and dR/dw (shape of `weight`), both in fp32, or fp64 for an fp64 weight.

    `weight`: any shape, blocks along the last axis. `curvature`: g >= 0, the same shape. With `scale_grad`
    the gradient includes the part that goes through the block's scale. Nothing is recorded by autograd.
    """
    with torch.no_grad():
        compute = torch.float64 if weight.dtype == torch.float64 else torch.float32
        w, curvature = weight.detach().to(compute), curvature.detach().to(compute)
        if kernels.takes(quantizer, w, curvature):
            return kernels.lotion(w, curvature, quantizer, scale_grad)
        return _by_torch(w.contiguous(), curvature, quantizer, scale_grad)


def add_gradient_(
    out: Tensor, weight: Tensor, curvature: Tensor, quantizer: Quantizer, *, scale_grad: bool, factor: float
) -> Tensor:
    """Add factor dR/dw to `out`, of the shape of `weight`, in place; returns R."""
    with torch.no_grad():
        if kernels.takes(quantizer, out, weight, curvature) and kernels.adds_to(out):
            return kernels.lotion_add_(out, weight.detach(), curvature, quantizer, scale_grad, factor)
        penalty, gradient = penalty_and_gradient(weight, curvature, quantizer, scale_grad=scale_grad)
        out.add_(gradient.to(out.dtype), alpha=factor)
        return penalty


def _by_torch(w: Tensor, g: Tensor, quantizer: Quantizer, scale_grad: bool) -> tuple[Tensor, Tensor]:
    """`penalty_and_gradient` by torch alone, for w and g of one dtype."""
    with torch.no_grad():
        lo, hi = ops.neighbours(w, quantizer, axis=-1)
        gradient = torch.empty_like(w)
        width = w.numel() if quantizer.block == "tensor" else w.shape[-1]
        rows = max(1, _CHUNK // width)
        parts = [t.reshape(-1, width).split(rows) for t in (w, g, lo, hi, gradient)]
        penalty = torch.zeros((), dtype=w.dtype, device=w.device)
        for w_part, g_part, lo_part, hi_part, out in zip(*parts, strict=True):
            penalty += _part(w_part, g_part, lo_part, hi_part, out, quantizer, scale_grad)
        return penalty.mul_(0.5), gradient.mul_(0.5)


def _part(
    w: Tensor, g: Tensor, lo: Tensor, hi: Tensor, out: Tensor, quantizer: Quantizer, scale_grad: bool
) -> Tensor:
    """2R of some rows, and its gradient into `out`; overwrites lo and hi. Whole blocks lie in a row."""
    below, above = w - lo, hi - w
    magnitude = split(w.abs(), quantizer)
    amax = magnitude.amax(-1, keepdim=True)
    is_max = magnitude == amax
    if quantizer.scale_format == "fp32":
        on_grid = join(is_max, w)
        below.masked_fill_(on_grid, 0.0)
        above.masked_fill_(on_grid, 0.0)
    below.mul_(g)
    penalty = (below * above).sum()
    above.mul_(g)
    torch.sub(above, below, out=out)
    if scale_grad:
        through_scale = split(hi.mul_(below).sub_(lo.mul_(above)), quantizer).sum(-1, keepdim=True)
        share = through_scale / (amax * is_max.sum(-1, keepdim=True))
        share.masked_fill_(amax == 0, 0.0)
        out += join(share * is_max, w).mul_(w.sign())
    return penalty


class Penalty(torch.autograd.Function):
    """R(w) for autograd; the gradient is computed beside the value, in the same pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, weight: Tensor, curvature: Tensor, quantizer: Quantizer, scale_grad: bool
    ) -> Tensor:
        penalty, gradient = penalty_and_gradient(weight, curvature, quantizer, scale_grad=scale_grad)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(gradient.to(weight.dtype))
        return penalty

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor):  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output.to(gradient.dtype), None, None, None
