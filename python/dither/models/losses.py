"""The loss of next tokens, and what can be changed about it.

z-loss     + z_loss log(Z)^2 keeps the softmax's normaliser Z near 1 (arXiv:2204.02311, section 5: 1e-4)
StableMax  s(x) = x + 1 for x >= 0, 1 / (1 - x) below, in place of exp(x): no overflow, and small
           numbers are not absorbed (arXiv:2501.04697, section 4; in fp64 as its authors do)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTMAXES = ("softmax", "stablemax")


def cross_entropy(
    logits_NV: Tensor,
    targets_N: Tensor,
    softmax: str = "softmax",
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy in nats, in fp32 (StableMax: fp64); `reduction` "mean" or "sum". The z-loss is that of
    softmax alone."""
    if softmax == "stablemax":
        return F.nll_loss(log_stablemax(logits_NV), targets_N, reduction=reduction)
    logits_NV = logits_NV.float()
    loss = F.cross_entropy(logits_NV, targets_N, reduction=reduction)
    if not z_loss:
        return loss
    squares_N = logits_NV.logsumexp(dim=-1).square()
    return loss + z_loss * (squares_N.mean() if reduction == "mean" else squares_N.sum())


def log_stablemax(logits_NV: Tensor) -> Tensor:
    """Logarithms of StableMax's probabilities, fp64."""
    x = logits_NV.double()
    s = torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0)))
    return s.log() - s.sum(dim=-1, keepdim=True).log()
