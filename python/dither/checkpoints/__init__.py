"""Checkpoints on disk: read safetensors, Hugging Face folders and GGUF without torch, tensor by tensor;
quantize them into packed files, turn them back, and find out beforehand what a format does to which tensor.
"""

from dither.checkpoints.dequantizing import dequantize
from dither.checkpoints.inspection import Inspection, inspect, to_json
from dither.checkpoints.quantizing import quantize
from dither.checkpoints.source import Checkpoint, open_checkpoint
from dither.checkpoints.summary import Observer, Row, Summary

__all__ = [
    "Checkpoint",
    "Inspection",
    "Observer",
    "Row",
    "Summary",
    "dequantize",
    "inspect",
    "open_checkpoint",
    "quantize",
    "to_json",
]
