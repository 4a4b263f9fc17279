"""What numbers and training must reach on one thread, and where their benches fail: one line each.

Ratios are to libc's memcpy of the same 64 MiB of fp32 in the same process, with `out=` preallocated, in CPU
time; where a comment names another measure, to that.
"""

from __future__ import annotations

from dataclasses import dataclass

from dither import _core


@dataclass(frozen=True)
class Goal:
    """The figure aimed at, and the one below which the bench fails (`most`: above which)."""

    goal: float
    fail: float
    avx2: float = 1.0
    """The part of both that is asked without AVX-512."""
    most: bool = False

    def here(self) -> Goal:
        """What the SIMD level in use has to reach."""
        part = self.avx2 if _core.simd_level() == "avx2" else 1.0
        return Goal(part * self.goal, part * self.fail, most=self.most)

    def verdict(self, figure: float) -> str:
        sign = -1 if self.most else 1
        if sign * figure < sign * self.fail:
            return "FAIL"
        return "pass" if sign * figure >= sign * self.goal else "pass, below the goal"


FAKE_QUANT = Goal(1.4, 1.1)
NVFP4_DYNAMIC = Goal(0.63, 0.5, avx2=0.7)
NVFP4_STATIC = Goal(0.83, 0.65, avx2=0.7)

ENCODE = Goal(1.6, 1.2)
DECODE = Goal(2.0, 1.4)
PACK_MXFP8 = Goal(1.2, 0.9)
PACK_MXFP4 = Goal(1.2, 0.9, avx2=0.7)
UNPACK = Goal(2.0, 1.2)

STOCHASTIC_BF16_16 = Goal(1.3, 0.9, avx2=0.7)
STOCHASTIC_FP8_8 = Goal(1.25, 0.9, avx2=0.7)
STOCHASTIC_MXFP4_8 = Goal(1.0, 0.75, avx2=0.7)
STOCHASTIC_32 = Goal(0.57, 0.4, avx2=0.7)

ANY_FORMAT = Goal(0.7, 0.7)  # of the rate of a format known when the kernels were written
HALF_PRECISION = Goal(1.0, 1.0)  # of fp32's elements a second
FIRST_AXIS = Goal(0.5, 0.5)  # of the last axis' rate
FRESH = Goal(12.0, 12.0, most=True)  # ms more than with `out=`
TWO_THREADS = Goal(1.6, 1.3)  # wall time of one over that of two; 0.9 of memcpy's own will do
STREAMING = Goal(1.0, 1 / 1.3)  # time of the stores not chosen over the chosen ones'

GEMV_MXFP4 = Goal(2.0, 2.0)  # of torch's fp32 product of a vector, N = K = 8192
GEMM = Goal(0.5, 0.5)  # of torch's fp32 product, M = N = K = 1024

# Training: times of a step over those of the step without it, or overheads of others over ours.
STEPS = {
    "mxfp8": Goal(1.15, 1.15, most=True),
    "mxfp4_rht_sr": Goal(1.35, 1.35, most=True),
    "int4": Goal(1.05, 1.05, most=True),
}  # a GPT of 10M parameters, over fp32
TINY = {
    "mxfp8": Goal(2.5, 3.0, most=True),
    "int4": Goal(2.0, 2.5, most=True),
}  # three linears 32 wide: calls alone
COMPILED = Goal(4.0, 4.0)  # overhead of the recipe in compiled pure torch over ours
EAGER = Goal(8.0, 8.0)
LOTION = Goal(1.10, 1.10, most=True)  # its step over that of QAT
