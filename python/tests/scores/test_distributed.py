"""Trackers of runs of several processes, as docs/scores.md says."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dither.scores import ScoreTable, Tracker

torch = pytest.importorskip("torch")
PAGE = Path(__file__).parents[3] / "docs" / "scores.md"
N, CLASSES, EPOCHS, WORLD = 43, 4, 3, 2
SCORES = ("forgetting", "aum", "settled", "el2n")


def batches(rank: int):
    """(epoch, places, logits, labels) of a process; logits depend on example and epoch alone."""
    from torch.utils.data.distributed import DistributedSampler

    sampler = DistributedSampler(
        torch.utils.data.TensorDataset(torch.arange(N)), WORLD, rank, shuffle=True, seed=5
    )
    for epoch in range(EPOCHS):
        z = torch.from_numpy(np.random.default_rng(epoch).standard_normal((N, CLASSES)).astype(np.float32))
        sampler.set_epoch(epoch)
        for places in torch.tensor(list(sampler)).split(8):
            yield epoch, places, z[places], places % CLASSES


def process(rank: int, folder: str) -> None:
    import torch.distributed as dist

    (block,) = [
        b
        for b in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
        if "def gathered" in b
    ]
    names: dict[str, Any] = {"np": np}
    exec(block, names)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    tracker = Tracker(N, SCORES)
    for epoch, *mine in batches(rank):
        batch = names["gathered"](*mine)
        if rank == 0:
            tracker.update(*batch, step=epoch)
    if rank == 0:
        tracker.table("a").save(f"{folder}/a.parquet")
    dist.destroy_process_group()


@pytest.mark.slow
def test_what_all_processes_gather_is_the_history_of_one(tmp_path):
    """43 examples on two processes: the sampler repeats one, here in a batch of its own visit or not."""
    children = [subprocess.Popen([sys.executable, __file__, str(k), str(tmp_path)]) for k in range(WORLD)]
    assert [child.wait(600) for child in children] == [0] * WORLD
    alone = Tracker(N, SCORES)
    for steps in zip(*(list(batches(rank)) for rank in range(WORLD)), strict=True):
        epoch = steps[0][0]
        index, z, y = (np.concatenate([s[k] for s in steps]) for k in (1, 2, 3))
        first = np.unique(index, return_index=True)[1]
        alone.update(index[first], z[first], y[first], step=epoch)
    found = ScoreTable.load(tmp_path / "a.parquet")
    assert found.fingerprint() == alone.table("a").fingerprint()
    visits = found.runs["a"].columns["visits"]
    assert visits.min() == EPOCHS and EPOCHS * N <= visits.sum() <= EPOCHS * (N + 1)


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2])
