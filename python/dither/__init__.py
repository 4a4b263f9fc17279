"""dither: what low precision does to a training run, and how to train so that it does little harm.

The face of the numbers pillar; it needs numpy alone. `dither.nn`, `dither.methods`, `dither.models` and
`dither.train` need torch and are imported by name.
"""

from dither import _core, formats
from dither.eden import ms_eden
from dither.errors import MissingExtraError, UserError
from dither.functions import cast, decode, encode, fake_quant, neighbours
from dither.histograms import Histogram, histogram
from dither.linalg import Accumulator, matmul
from dither.packing import quantize
from dither.quantizer import Quantizer
from dither.statistics import error_stats
from dither.tensor import QuantizedTensor, load_tensors, save_tensors
from dither.threads import get_num_threads, set_num_threads
from dither.transforms import hadamard

__version__: str = _core.__version__

__all__ = [
    "Accumulator",
    "Histogram",
    "MissingExtraError",
    "QuantizedTensor",
    "Quantizer",
    "UserError",
    "__version__",
    "cast",
    "decode",
    "encode",
    "error_stats",
    "fake_quant",
    "formats",
    "get_num_threads",
    "hadamard",
    "histogram",
    "load_tensors",
    "matmul",
    "ms_eden",
    "neighbours",
    "quantize",
    "save_tensors",
    "set_num_threads",
]
