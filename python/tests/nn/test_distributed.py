"""Two processes under gloo: DDP and FSDP2 train the prepared model with the random bits of one process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")


def started(way: str, ranks: int, folder: Path) -> list[Any]:
    """What every rank found."""
    command = [sys.executable, str(SCRIPT), way]
    processes = [
        subprocess.Popen([*command, str(rank), str(ranks), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)
    return [torch.load(folder / f"{way}-{ranks}-{rank}.pt") for rank in range(ranks)]


def run(way: str, ranks: int, folder: Path) -> dict[str, list[torch.Tensor]]:
    """Outputs of the whole batch, and the weights of every rank."""
    found = started(way, ranks, folder)
    outputs = torch.cat([one["outputs"] for one in found], dim=1)
    return {"outputs": [outputs], "weights": [w for one in found for w in one["weights"]]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run("alone", 1, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    "way",
    ["ddp", "fsdp2", *(pytest.param(way, marks=pytest.mark.slow) for way in ("recomputed", "compiled"))],
)
def test_two_ranks_use_the_random_bits_of_one(way, alone, tmp_path):
    """Three steps of two microbatches: every output and every weight, bit for bit."""
    both = run(way, 2, tmp_path)
    assert torch.equal(both["outputs"][0], alone["outputs"][0])
    assert len(both["weights"]) == 2 * len(alone["weights"])
    for mine, one in zip(both["weights"], alone["weights"] * 2, strict=True):
        assert torch.equal(mine, one)
    assert not torch.equal(alone["outputs"][0][0], alone["outputs"][0][1])


def test_every_recipe_that_draws_has_the_bits_of_one_process(tmp_path):
    """Output and gradients of two ranks are those of one to the rounding of sums. Other bits would show: they
    make the halves of the one process differ by more than a hundred times that."""
    (alone,), both = started("recipes", 1, tmp_path), started("recipes", 2, tmp_path)
    for recipe, (y, dx, dw) in alone.items():
        parts = [one[recipe] for one in both]
        close = {"rtol": 0, "atol": 2e-6 * float(dw.abs().max())}
        torch.testing.assert_close(torch.cat([part[0] for part in parts]), y, **close)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]), dx, **close)
        for part in parts:
            torch.testing.assert_close(part[2], dw, **close)
        half = len(dx) // 2
        assert (dx[:half] - dx[half:]).abs().max() > 100 * close["atol"], recipe
