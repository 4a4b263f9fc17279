"""What the processes and threads of test_processes.py do. No torch: a spawned process starts quickly."""

import numpy as np

import dither

X = np.random.default_rng(3).standard_normal((64, 2048)).astype(np.float32)
"""Large enough for several threads: arrays below 2**15 elements stay with the caller."""

CALLS = [
    "mxfp8_e4m3",
    "mxfp4:rounding=stochastic",
    "nvfp4",
    "int4_g128",
    "fp8_e5m2",
    "format=bf16,rounding=stochastic",
    "format=e3m1",
]


def work(threads: int | None = None) -> list[bytes]:
    """Every operation once; the bytes of all results."""
    if threads is not None:
        dither.set_num_threads(threads)
    results = [dither.fake_quant(X, q, seed=5, stream=2) for q in CALLS]
    codes = dither.encode(X, "e4m3")
    results += [codes, dither.decode(codes, "e4m3"), *dither.neighbours(X, "mxfp4")]
    results.append(np.array(list(dither.error_stats(X, "mxfp4").values())))
    return [r.tobytes() for r in results]


def report(threads: int, sender) -> None:
    """Send the results through a pipe: the target of a process."""
    sender.send(work(threads))
    sender.close()
