"""Softmax attention with quantized products: scores = q k^T ("qk") and y = p v ("pv").

Each is a site of its own with six operands; the second factor (k, v) takes the weight's. The cast of the
softmax output is the operand fprop_x of pv.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dither.errors import UserError
from dither.nn.layers import Part, Quantized
from dither.nn.products import linear, product

PARTS = (("qk", "attention"), ("pv", "attention"))


class AttentionProducts(nn.Module):
    """Softmax attention between heads, a module so that a recipe can quantize its two products.

    q, k, v: (B, H, T, D); returns (B, H, T, D). Plain, it is F.scaled_dot_product_attention.
    """

    def forward(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, is_causal: bool = False) -> Tensor:
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=is_causal)


def probabilities(
    q: Tensor,
    k: Tensor,
    qk: Part,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """softmax(scale q k^T + mask), formed in at least fp32, in `dtype` (default: that of the scores).

    `mask` as F.scaled_dot_product_attention takes it: True where attention is allowed, or numbers to add. A
    row of which nothing is allowed is zero there, and here.
    """
    scores = product(q, k, True, *qk) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    p = torch.softmax(scores, dim=-1, dtype=wide)
    if mask is not None:
        p = p.masked_fill(torch.isneginf(scores).all(-1, keepdim=True), 0.0)
    return p.to(dtype or scores.dtype)


def attend(
    qk: Part,
    pv: Part,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """F.scaled_dot_product_attention with quantized products."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (t.expand(*lead, *t.shape[-2:]) for t in (query, key, value))
    p = probabilities(query, key, qk, attn_mask, is_causal, scale, value.dtype)
    return product(F.dropout(p, dropout_p) if dropout_p else p, value, False, *pv)


class QuantAttentionProducts(Quantized, AttentionProducts):
    parts = PARTS

    def forward(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, is_causal: bool = False) -> Tensor:
        return attend(self.part(0), self.part(1), q_BHTD, k_BHTD, v_BHTD, is_causal=is_causal)


class _Products(TorchFunctionMode):
    """While it is entered, F.scaled_dot_product_attention multiplies with quantized operands; each call adds
    to `calls`, a list of the caller's because a compiled graph does not keep what a mode holds."""

    def __init__(self, qk: Part, pv: Part, calls: list[str]) -> None:
        super().__init__()
        self.qk, self.pv, self.calls = qk, pv, calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls.append(func.__name__)
            return attend(self.qk, self.pv, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class QuantAttentionOf(Quantized):
    """Mixed into a module of any class that calls F.scaled_dot_product_attention in its forward."""

    parts = PARTS

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        calls: list[str] = []
        with _Products(self.part(0), self.part(1), calls):
            result = super().forward(*args, **kwargs)
        if not calls:
            raise UserError(
                f"{self.dither_site.owner!r} was taken as attention, but its forward calls no "
                "scaled_dot_product_attention, so nothing was quantized; let it do so (transformers: "
                'attn_implementation="sdpa"), or leave it out of also='
            )
        return result


class QuantMultiheadAttention(Quantized, nn.MultiheadAttention):
    """nn.MultiheadAttention step by step: the in-projection is a linear site, the two products are attention
    sites, and out_proj is a linear of its own. Results differ from torch's fused ones by rounding."""

    parts = (*PARTS, ("in_proj", "linear"))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = query.dim() == 3
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = self._heads(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        if mask is None and is_causal:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")  # as torch says
        p = probabilities(q, k, self.part(0), mask)
        p = F.dropout(p, self.dropout, self.training)
        y_BHTD = product(p.to(v.dtype), v, False, *self.part(1))
        y = self.out_proj(y_BHTD.transpose(1, 2).flatten(2))
        weights = (p.mean(1) if average_attn_weights else p) if need_weights else None
        if not batched:
            return y.squeeze(0), weights if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """The projections, (B, T, E) -> (B, H, T, E / H), with the learned and zero keys appended."""
        if self._qkv_same_embed_dim and query is key and key is value:
            q, k, v = linear(query, self.in_proj_weight, self.in_proj_bias, *self.part(2)).chunk(3, -1)
        else:
            whole = self.in_proj_weight
            apart = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            weights = whole.chunk(3) if self._qkv_same_embed_dim else apart
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            q, k, v = (
                linear(x, w, b, *self.part(2))
                for x, w, b in zip((query, key, value), weights, biases, strict=True)
            )
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat((t, b.expand(len(t), 1, -1)), 1) for t, b in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        return tuple(t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """Both masks as one of numbers to add, over the keys as they came plus those appended."""
        appended = int(self.bias_k is not None) + int(self.add_zero_attn)
        masks = []
        if mask is not None:
            masks.append(mask if mask.dim() == 2 else mask.unflatten(0, (-1, self.num_heads)))
        if padding is not None:
            masks.append(padding[:, None, None, :])
        if not masks:
            return None
        added = [
            torch.zeros_like(m, dtype=q.dtype).masked_fill(m, -math.inf) if m.dtype == torch.bool else m
            for m in masks
        ]
        return F.pad(sum(added[1:], added[0]), (0, appended))
