"""Layers whose features do not fill whole blocks.

Everywhere in this package the last block of an axis may be shorter, and a tile at an edge smaller: it has a
scale of its own elements. Hardware would pad it with zeros, which gives the same scale and the same values,
as zeros change neither the largest magnitude nor any product.
"""

from __future__ import annotations

from dither.errors import UserError
from dither.nn.sites import Site
from dither.quantizer import Quantizer


def check_whole_blocks(site: Site) -> None:
    """UserError where an operand of the site's weight, or one multiplied with it, ends in a shorter block.

    The shape of a weight decides fprop and dgrad; how many rows wgrad has is known in the run alone, where
    factors.factor refuses them.
    """
    if not site.shape:
        return
    features, inputs = _lengths(site)
    for name, q in site.operands.items():
        if not isinstance(q, Quantizer) or name.startswith("wgrad"):
            continue
        along = inputs if name.startswith("fprop") else features
        if isinstance(q.block, int) and along % q.block:
            _refuse(site, name, q, f"{along} elements do not fill blocks of {q.block}")
        if isinstance(q.block, tuple) and name.endswith("w"):
            if features % q.block[0] or inputs % q.block[1]:
                _refuse(site, name, q, f"{features} x {inputs} do not fill tiles of {q.block}")


def _lengths(site: Site) -> tuple[int, int]:
    """Outputs and inputs of the product: the lengths of the blocked axes."""
    shape = site.shape
    if len(shape) == 1:
        return 1, shape[0]
    if site.kind == "grouped":
        return shape[1], shape[2]
    inputs = 1
    for size in shape[1:]:
        inputs *= size
    return shape[0], inputs


def _refuse(site: Site, name: str, q: Quantizer, reason: str) -> None:
    raise UserError(
        f"{site.name!r} ({site.kind}) does not take {name}={q} in whole blocks: {reason}; exempt it, or let "
        'the last block be shorter with ragged="shorter"'
    )
