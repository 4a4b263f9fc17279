"""Two processes under gloo: DDP and FSDP2 train the prepared model with the random bits of one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")


def run(way: str, ranks: int, folder: Path) -> dict[str, list[torch.Tensor]]:
    """Outputs of the whole batch, and the weights of every rank."""
    command = [sys.executable, str(SCRIPT), way]
    processes = [
        subprocess.Popen([*command, str(rank), str(ranks), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)
    found = [torch.load(folder / f"{way}-{ranks}-{rank}.pt") for rank in range(ranks)]
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
