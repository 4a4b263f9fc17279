"""Memory is bounded by the largest tensor, not by the checkpoint; torch is not needed."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

ROWS, COLUMNS, TENSORS = 512, 1024, 24
LARGEST = ROWS * COLUMNS * 4  # bytes in fp32

MEASURE = """
import resource, sys, tracemalloc
sys.modules["torch"] = None
from dither import checkpoints
def go(path, out):
    if sys.argv[1] == "inspect":
        checkpoints.inspect(path, ["mxfp4", "int4_g128"], budget="4.5bits")
    else:
        checkpoints.quantize(path, "nvfp4", out, layout=sys.argv[1])
go("small.safetensors", "s" + sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
go("large.safetensors", "l" + sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, tracemalloc.get_traced_memory()[1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("memory")
    w = torch.from_numpy(np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32))
    save_file({"w": w[:64].contiguous()}, found / "small.safetensors")
    save_file({f"w{i}": w.clone() for i in range(TENSORS)}, found / "large.safetensors")
    return found


@pytest.mark.parametrize("what", ["dither", "gguf", "inspect"])
def test_memory_is_a_few_times_the_largest_tensor(what, folder):
    suffix = ".gguf" if what == "gguf" else ".safetensors"
    command = [sys.executable, "-c", MEASURE, what, suffix]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    resident, traced = map(int, done.stdout.split())
    assert resident * 1024 < 5 * LARGEST < LARGEST * TENSORS / 4
    assert traced < 4 * LARGEST  # its bytes, its codes, its values read back, a step on the way
