"""torchao's MX tensors on the CPU (its target is CUDA), with the floor rule."""

import numpy as np
import torch
import torchao
from torchao.prototype.mx_formats.mx_tensor import MXTensor

library = f"torchao {torchao.__version__}"
ELEMENTS = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp4": torch.float4_e2m1fn_x2,
}


def blocks(x: np.ndarray, preset: str) -> np.ndarray:
    return MXTensor.to_mx(torch.from_numpy(x), ELEMENTS[preset], 32).dequantize(torch.float32).numpy()
