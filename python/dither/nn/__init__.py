"""Low-precision training of torch models: recipes, quantized layers and the ops beneath them.

    dither.nn.prepare_(model, "mxfp8", exempt=["*.head"])     # in place; dither.nn.restore_(model) undoes it
    print(dither.nn.describe(model))                          # which site gets what
    dither.nn.convert_(model, "nvfp4")                        # really packed weights, for inference
    dither.nn.set_clock_(model, step, microbatch)             # in the loop, where bits or scales depend on it

A module that is called twice within one microbatch draws the same random bits both times.
"""

from dither.errors import require

require("torch", "torch")

from dither.nn import ops, streams, twin  # noqa: E402
from dither.nn.attention import AttentionProducts  # noqa: E402
from dither.nn.clock import load_state_dict_, set_clock_, state_dict  # noqa: E402
from dither.nn.convert import convert_, load_model_, save_model  # noqa: E402
from dither.nn.describe import check_recipe, describe, recipe_of  # noqa: E402
from dither.nn.experts import GroupedLinear, MatrixProduct  # noqa: E402
from dither.nn.operand import Delayed, Hadamard, Operand  # noqa: E402
from dither.nn.packed import PackedTensor  # noqa: E402
from dither.nn.prepare import prepare_, restore_, sites  # noqa: E402
from dither.nn.pretrained import from_folder, to_folder  # noqa: E402
from dither.nn.recipe import Recipe  # noqa: E402
from dither.nn.sites import Site, candidates  # noqa: E402

__all__ = [
    "AttentionProducts",
    "Delayed",
    "GroupedLinear",
    "Hadamard",
    "MatrixProduct",
    "Operand",
    "PackedTensor",
    "Recipe",
    "Site",
    "candidates",
    "check_recipe",
    "convert_",
    "describe",
    "from_folder",
    "load_model_",
    "load_state_dict_",
    "ops",
    "prepare_",
    "recipe_of",
    "restore_",
    "save_model",
    "set_clock_",
    "sites",
    "state_dict",
    "streams",
    "to_folder",
    "twin",
]
