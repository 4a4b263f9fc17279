"""The compiled extension. dither.formats calls it, and one bridge a pillar: dither.arrays, dither.laws.engine
and dither.scores.engine."""

from typing import Any

__version__: str

_Shape = tuple[int, int, int]
_Dims = tuple[_Shape, int, bool]
_Array = tuple[int, str]
_Random = tuple[int, int, int] | int | None

class Quantizer:
    def __new__(
        cls,
        format: str,
        block: int | str | tuple[int, int] | None,
        scale_format: str | None,
        scale_rule: str | None,
        tensor_scale: bool,
        rounding: str,
        bits: int,
        overflow: str,
        scale: float | None,
        more: tuple[str, str, str, bool, str | None, float, float] | None,
    ) -> Quantizer: ...

def format_info(name: str) -> dict[str, Any] | None: ...
def format_value(name: str, code: int) -> tuple[float, int] | None: ...
def format_names() -> list[str]: ...
def fake_quant(q: Quantizer, shape: _Shape, x: _Array, y: _Array, random: _Random, threads: int) -> None: ...
def neighbours(q: Quantizer, shape: _Shape, x: _Array, lo: _Array, hi: _Array, threads: int) -> None: ...
def encode(q: Quantizer, len: int, x: _Array, out: _Array, random: _Random, threads: int) -> int | None: ...
def decode(format: str, len: int, code: _Array, y: _Array, threads: int) -> int | None: ...
def unstorable(q: Quantizer) -> str | None: ...
def quantize(
    q: Quantizer,
    dims: _Dims,
    x: _Array,
    codes: tuple[int, int | None],
    scales: _Array | None,
    random: _Random,
    threads: int,
) -> tuple[int | None, float | None]: ...
def dequantize(
    q: Quantizer,
    dims: _Dims,
    codes: tuple[int, int | None],
    scales: _Array | None,
    tensor: float | None,
    wide: bool,
    y: _Array,
    threads: int,
) -> None: ...
def stats(
    q: Quantizer, shape: _Shape, x: _Array, random: _Random, table: int | None, threads: int
) -> dict[str, Any]: ...
def stats_table(q: Quantizer, shape: _Shape) -> tuple[list[str], int]: ...
def hadamard(
    shape: _Shape,
    block: int,
    signs: tuple[int, int, bool] | None,
    inverse: bool,
    x: _Array,
    y: _Array,
    threads: int,
) -> None: ...
def quest(shape: _Shape, x: int, y: int, mask: int, threads: int) -> None: ...
def ms_eden(shape: _Shape, address: tuple[int, int, int], x: int, y: int, threads: int) -> None: ...
def matmul(
    a: Any, b: Any, accumulate: str | tuple[int, int, int | None], out: _Array, threads: int
) -> None: ...
def histogram_values(
    x: _Array, len: int, edges: list[float], threads: int
) -> tuple[list[int], tuple[int, int, int, int]]: ...
def histogram_exponents(
    x: _Array, len: int, threads: int
) -> tuple[int, tuple[list[int], tuple[int, int, int, int]]]: ...
def histogram_codes(codes: int, rows: int, n: int, width: int, threads: int) -> list[int]: ...
def optimizer_block(block: int) -> bool: ...
def adamw(parameters: list[dict[str, Any]], threads: int) -> int | None: ...
def lotion_takes(q: Quantizer) -> bool: ...
def lotion(
    q: Quantizer,
    shape: tuple[int, int],
    arrays: tuple[int, int, int],
    gradient: tuple[float, bool, bool],
    threads: int,
) -> float: ...
def random_bits(seed: int, stream: int, index: int, bits: int) -> int: ...
def prefer_huge_pages(address: int, bytes: int) -> None: ...
def simd_level(at_most: str | None = None) -> str: ...
def stream_threshold(bytes: int | None = None) -> int: ...

_Law = tuple[int, int, list[list[tuple[int, int | None, float]]], int | None, int | None]

def fit_minimise(
    description: _Law,
    x: Any,
    y: Any,
    weights: Any,
    objectives: list[tuple[str, float]],
    low: Any,
    high: Any,
    starts: Any,
    count: int,
    evaluations: int,
    tolerance: float,
    threads: int,
) -> bytes: ...
def fit_project(
    description: _Law,
    x: Any,
    y: Any,
    weights: Any,
    params: list[int],
    values: list[list[float]],
    base: list[float],
    keep: int,
) -> bytes: ...
def fit_evaluate(
    description: _Law, x: Any, y: Any, weights: Any, named: tuple[str, float], theta: list[float]
) -> tuple[float, list[float], list[float]]: ...
def fit_predict(description: _Law, x: Any, theta: list[float]) -> bytes: ...
def fit_multipower(eta: Any, warmup: float, law: list[float], at: list[int], threads: int) -> bytes: ...

# Example scores (dither.scores.engine): arrays are addresses, (address, dtype word) or (address, elements)
_Span = tuple[int, int]

def score_logits(
    logits: tuple[int, str], shape: tuple[int, int, int], labels: int | None, out: list[int], threads: int
) -> None: ...
def score_visit(
    histories: tuple[int, int, int], wanted: int, index: Any, *columns: Any
) -> tuple[int, str] | None: ...
def score_ranks(
    x: tuple[int, str], rows: int, n: int, out: int, centred: bool, threads: int
) -> int | None: ...
def score_kendall(x: int, rows: int, n: int, threads: int) -> tuple[list[float], int | None]: ...
def score_duplicates(similar: _Span, columns: int, before: int, out: _Span, threads: int) -> None: ...
def score_shapley(distances: int, labels: _Span, tests: _Span, k: int, out: int, threads: int) -> None: ...
def score_project(
    x: tuple[int, str],
    shape: tuple[int, int, int],
    first: int,
    matrix: tuple[int, int, int, int],
    out: int,
    threads: int,
) -> None: ...
def score_vog_update(
    x: tuple[int, str], mean: int, squares: int, len: int, count: int, threads: int
) -> None: ...
def score_vog_reduce(
    squares: _Span, size: int, count: int, statistic: tuple[bool, int], out: _Span
) -> None: ...
def score_vog_examples(
    x: tuple[int, str], shape: tuple[int, int, int], statistic: tuple[bool, int], out: int, threads: int
) -> None: ...
def score_ngram_count(bytes: _Span, offsets: _Span, counts: _Span, threads: int) -> None: ...
def score_ngram_weigh(
    bytes: _Span, offsets: _Span, weights: _Span, out: int, tokens: int, threads: int
) -> None: ...
def score_subsets(
    members: _Span, correct: _Span, models: int, own: bool, out: _Span, threads: int
) -> None: ...
