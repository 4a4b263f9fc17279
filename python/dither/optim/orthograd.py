"""OrthoGrad: gradients without their part along the weights (arXiv:2501.04697, section 5).

That part only scales the logits where a network is homogeneous: the loss falls and nothing is learned.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def orthograd_(parameters: Iterable[Tensor]) -> None:
    """Make every parameter's gradient orthogonal to it, in place, at its old norm; before optimizer.step().

    Sums in fp64. A gradient that is parallel to its parameter to rounding (a scalar's always is) is left at
    what remains of it, as good as zero, and not blown up to its old norm.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        w, g = parameter.detach().double(), gradient.double()
        rest = g - (w * g).sum() / ((w * w).sum() + 1e-30) * w
        norm, left = g.norm(), rest.norm()
        gradient.copy_(rest * torch.where(left > 1e-6 * norm, norm / left, 1.0))
