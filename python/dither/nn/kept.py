"""Which blocks at the start and the end of a model a recipe leaves alone, from the names of its sites."""

from __future__ import annotations

import math


def kept(names: list[str], first: float, last: float) -> set[str]:
    """The names among `names` (of sites) that lie in the first and last blocks.

    A block is a numbered child that contains sites, such as `h.11` of `h.11.mlp.up`: of several lists of
    blocks, outermost numbers alone, the one with the most sites counts. `first` and `last` are numbers of
    blocks, or parts of them below 1, rounded up. At least one block is left; a model without blocks keeps
    none.
    """
    lists: dict[str, dict[int, list[str]]] = {}
    for name in names:
        words = name.split(".")
        at = next((i for i, word in enumerate(words[:-1]) if word.isdecimal()), None)
        if at is not None:
            lists.setdefault(".".join(words[:at]), {}).setdefault(int(words[at]), []).append(name)
    if not lists:
        return set()
    blocks = max(lists.values(), key=lambda numbered: sum(map(len, numbered.values())))
    order = sorted(blocks)
    first, last = (math.ceil(len(order) * part) if part < 1 else int(part) for part in (first, last))
    last = min(last, len(order) - 1)
    first = min(first, len(order) - 1 - last)
    return {name for number in order[:first] + order[len(order) - last :] for name in blocks[number]}
