"""The bridge between arrays and the extension: borrowed memory in, nothing copied, the GIL released.

Everything here takes `Buffer`s: C-contiguous memory with a dtype word (fp32 bf16 fp16 fp64, u8 u16 u32 for
codes). The extension gets addresses, because numpy's buffer protocol knows neither bf16 nor torch tensors; a
Buffer keeps the owner of its memory alive for the length of the call.
"""

from dither.arrays.elements import (
    code_dtype,
    random_bits,
    run_decode,
    run_encode,
    run_error_stats,
    run_fake_quant,
    run_histogram_exponents,
    run_histogram_values,
    run_neighbours,
)
from dither.arrays.memory import Buffer, Random, prefer_huge_pages
from dither.arrays.packed import (
    CodedRows,
    Rows,
    run_dequantize,
    run_histogram_codes,
    run_matmul,
    run_quantize,
    unstorable,
)
from dither.arrays.training import (
    lotion_takes,
    optimizer_block,
    optimizer_codes,
    run_adamw,
    run_hadamard,
    run_lotion,
    run_ms_eden,
    run_quest,
)

__all__ = [
    "Buffer",
    "CodedRows",
    "Random",
    "Rows",
    "code_dtype",
    "lotion_takes",
    "optimizer_block",
    "optimizer_codes",
    "prefer_huge_pages",
    "random_bits",
    "run_adamw",
    "run_decode",
    "run_dequantize",
    "run_encode",
    "run_error_stats",
    "run_fake_quant",
    "run_hadamard",
    "run_histogram_codes",
    "run_histogram_exponents",
    "run_histogram_values",
    "run_lotion",
    "run_matmul",
    "run_ms_eden",
    "run_neighbours",
    "run_quantize",
    "run_quest",
    "unstorable",
]
