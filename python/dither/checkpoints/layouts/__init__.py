"""How quantized weights are laid out in files: this package's own way, vLLM's, llama.cpp's. One file each."""

from __future__ import annotations

from dither.checkpoints.layouts.base import Layout
from dither.checkpoints.layouts.compressed import CompressedTensors
from dither.checkpoints.layouts.ggml import Ggml
from dither.checkpoints.layouts.packed import Packed
from dither.errors import UserError, suggest

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (Packed(), CompressedTensors(), Ggml())}


def get(name: str) -> Layout:
    """Raises UserError for an unknown name."""
    if name not in LAYOUTS:
        raise UserError(f"unknown layout {name!r}{suggest(name, LAYOUTS)}. Layouts: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


__all__ = ["LAYOUTS", "Layout", "get"]
