"""Which part of a parameter a rank holds: the index of its first element in the whole."""

from __future__ import annotations

import math
import sys
from typing import Any

from dither.errors import UserError


def offset(parameter: Any) -> int:
    """The C-order index, in the whole parameter, of the first element that this rank holds (0 for an ordinary
    tensor). Rows may be sharded over one axis of the mesh, as FSDP2 does; UserError for other layouts."""
    module = sys.modules.get("torch.distributed.tensor")  # without it nothing can be distributed
    if module is None or not isinstance(parameter, module.DTensor):
        return 0
    sharded = [(i, p) for i, p in enumerate(parameter.placements) if not p.is_replicate()]
    if not sharded:
        return 0
    axis, placement = sharded[0]
    if len(sharded) > 1 or type(placement) is not module.Shard or placement.dim != 0:
        raise UserError(
            f"the placements {parameter.placements} are not supported: shard the first dimension over one "
            "axis of the mesh (FSDP2's fully_shard does)"
        )
    rows, ranks = parameter.shape[0], parameter.device_mesh.size(axis)
    first = min(rows, -(-rows // ranks) * parameter.device_mesh.get_local_rank(axis))
    return first * math.prod(parameter.shape[1:])
