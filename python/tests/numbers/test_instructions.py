"""Instructions an element of the main kernels, counted by callgrind, against committed bounds.

Counts do not depend on the machine's load, so that a kernel that stops being vectorized is found where times
tell nothing. callgrind knows no AVX-512: what is counted is the AVX2 kernels. Bounds are a tenth above what
was counted when they were set; they are lowered when a kernel improves, and raised only with a reason.
That of the MX kernels rose from 3.4: they take the absmax of later blocks while they round one and join whole
lines for their stores, .5 instructions more, for .75 to .8 of the time (memory is what bounds them).
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ELEMENTS = 1 << 17

BOUNDS = {
    "mxfp8": 4.0,
    "mxfp4": 4.0,
    "nvfp4": 4.6,
    "int4_g128": 2.9,
    "sr_bf16": 7.7,
    "sr_e4m3": 7.7,
    "sr_mxfp4": 8.7,
    "sr_mxfp4_32": 17.0,
    "encode_e4m3": 3.9,
    "decode_e4m3": 2.3,
    "pack_mxfp4": 5.3,
    "unpack_mxfp4": 2.3,
}


@pytest.fixture(scope="module")
def kernels() -> Path:
    """The example that runs one kernel, built as the extension is."""
    if shutil.which("valgrind") is None:
        pytest.skip("instructions are counted by valgrind, which is not installed")
    if shutil.which("cargo") is None:
        pytest.skip("the kernels are built by cargo, which is not installed")
    command = ["cargo", "build", "--release", "--quiet", "-p", "dither-quant", "--example", "kernels"]
    subprocess.run(command, cwd=ROOT, check=True)
    return ROOT / "target/release/examples/kernels"


def count(kernels: Path, name: str) -> int:
    """Instructions of a run."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", kernels, name, str(ELEMENTS)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    assert collected, run.stderr
    return int(collected[1])


@pytest.fixture(scope="module")
def nothing(kernels: Path) -> int:
    """Instructions that every run takes: start, and the arrays."""
    return count(kernels, "nothing")


@pytest.mark.parametrize("name", BOUNDS)
def test_instructions_an_element(name, kernels, nothing):
    each = (count(kernels, name) - nothing) / ELEMENTS
    print(f"{name}: {each:.2f}")
    assert 0 < each <= BOUNDS[name], f"{each:.2f} instructions an element, at most {BOUNDS[name]}"
