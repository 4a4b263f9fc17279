"""What test_distributed.py starts on every rank: a few steps whose arithmetic is exact, so that two ranks
must give the bits of one.

    python two_ranks.py WAY RANK RANKS FOLDER

Operands are rounded stochastically to integers under one static scale: their products and sums are exact in
fp32 in any order, and only the random bits decide the result. The loss is a sum, and the rate a power of two
times the number of ranks, for which DDP and FSDP2 divide.

WAY "recipes" takes one linear under every preset that draws bits instead. The two halves of its batch are
alike, so that scales of a whole tensor are those of each half, and only the bits tell the halves apart.
"""

import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import dither.nn as dnn
from dither.nn.streams import OPERANDS

torch.set_num_threads(1)
STEPS, BATCH, WIDTH = 3, 8, 16
ROWS = 128  # no block of a preset is longer, along tokens or features
DRAWING = [
    name
    for name in dnn.Recipe.presets()
    if any(not isinstance(o, str | None) and o.is_stochastic for o in dnn.Recipe.get(name).operands)
]
INTEGERS = "format=int8,block=tensor,scale_format=fp32,scale_rule=static,scale=1,rounding=stochastic"
RECIPE = dnn.Recipe(**dict.fromkeys(OPERANDS, INTEGERS), name="integers")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.first_again = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first_again:
            x = checkpoint(self.first, x, use_reentrant=False)
        else:
            x = self.first(x)
        return self.second(x.relu())


def prepared(way: str) -> Any:
    torch.manual_seed(0)
    model = Net()
    for weight in model.parameters():
        weight.data.mul_(4)
    model.first_again = way == "recomputed"
    dnn.prepare_(model, RECIPE, seed=5)
    if way == "fsdp2":
        for layer in (model.first, model.second):
            fully_shard(layer)
        return fully_shard(model)
    return DistributedDataParallel(model) if way != "alone" else model


def under_every_recipe(rank: int, ranks: int) -> dict[str, list[torch.Tensor]]:
    """Output, gradient of the input and of the weight, for this rank's share."""
    found = {}
    for recipe in DRAWING:
        torch.manual_seed(2)
        layer = nn.Linear(ROWS, ROWS, bias=False)
        model = nn.Sequential(layer)
        x, g = torch.randn(ROWS, ROWS).repeat(2, 1), torch.randn(ROWS, ROWS).repeat(2, 1)
        mine = slice(rank * len(x) // ranks, (rank + 1) * len(x) // ranks)
        dnn.prepare_(model, recipe, seed=6, steps=10)
        dnn.set_clock_(model, 3, 1)
        x = x[mine].clone().requires_grad_()
        parallel = model if ranks == 1 else DistributedDataParallel(model)
        y = parallel(x)
        (y * g[mine]).sum().backward()
        assert x.grad is not None and layer.weight.grad is not None
        found[recipe] = [y.detach(), x.grad, ranks * layer.weight.grad]
    return found


def main() -> None:
    way, rank, ranks, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if ranks > 1:
        store = f"file://{folder}/store-{way}-{ranks}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    found = under_every_recipe(rank, ranks) if way == "recipes" else trained(way, rank, ranks)
    torch.save(found, f"{folder}/{way}-{ranks}-{rank}.pt")
    if ranks > 1:
        dist.destroy_process_group()


def trained(way: str, rank: int, ranks: int) -> dict[str, Any]:
    model = prepared(way)
    if way == "compiled":
        model.compile(backend="aot_eager")
    generator = torch.Generator().manual_seed(1)
    share = BATCH // ranks
    outputs = []
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0**-6 * ranks)
    for step in range(STEPS):
        for microbatch in range(2):
            x = 4 * torch.randn(BATCH, 3, WIDTH, generator=generator)
            wanted = torch.randn(BATCH, 3, WIDTH, generator=generator)
            mine = slice(rank * share, (rank + 1) * share)
            dnn.set_clock_(model, step, microbatch)
            y = model(x[mine])
            outputs.append(y.detach().clone())
            (y * wanted[mine]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = [w.full_tensor() if way == "fsdp2" else w for w in model.parameters()]
    return {"outputs": torch.stack(outputs), "weights": copy.deepcopy([w.detach() for w in weights])}


if __name__ == "__main__":
    main()
