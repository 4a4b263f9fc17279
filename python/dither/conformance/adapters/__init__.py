"""Adapters to other libraries: tested examples of the protocol in docs/conformance.md."""

ADAPTERS = ("gfloat_casts", "ml_dtypes_casts", "torch_float8", "torchao_mx")
"""Modules here; `dither conformance NAME` finds them by their short name."""
