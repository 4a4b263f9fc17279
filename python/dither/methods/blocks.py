"""Rows cut into the blocks of a quantizer, and put together again, in torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dither.errors import UserError
from dither.quantizer import Quantizer


def split(rows: Tensor, quantizer: Quantizer) -> Tensor:
    """`rows` [..., inputs] as [..., blocks, block]; zeros fill a ragged last block, neutral to maxima and
    sums. One scale for the tensor is one block of it, [1, numel].
    """
    if quantizer.block == "tensor":
        return rows.reshape(1, -1)
    if quantizer.block == "row":
        return rows.unsqueeze(-2)
    check_along_inputs(quantizer)
    assert isinstance(quantizer.block, int)
    return F.pad(rows, (0, -rows.shape[-1] % quantizer.block)).unflatten(-1, (-1, quantizer.block))


def check_along_inputs(quantizer: Quantizer) -> None:
    """UserError for tiles and columns, whose scales serve several outputs."""
    if not (isinstance(quantizer.block, int) or quantizer.block in ("row", "tensor")):
        raise UserError(
            f"{quantizer}: blocks that run along the inputs are needed, not block={quantizer.block!r}; "
            "use for example 'int4_g32' or 'int4_row'"
        )


def join(blocks: Tensor, like: Tensor) -> Tensor:
    """The inverse of `split`: back to the shape of `like`, without the filling."""
    if blocks.dim() <= like.dim():
        return blocks.view_as(like)
    return blocks.flatten(-2)[..., : like.shape[-1]]
