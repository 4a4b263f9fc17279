"""torchao's MX and NVFP4 tensors on the CPU (its target is CUDA), MX with the floor rule."""

import numpy as np
import torch
import torchao
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

library = f"torchao {torchao.__version__}"
ELEMENTS = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4": torch.float4_e2m1fn_x2,
}


def blocks(x: np.ndarray, preset: str) -> np.ndarray:
    tensor = torch.from_numpy(x)
    if preset == "nvfp4":
        scale = per_tensor_amax_to_scale(tensor.abs().max())
        packed = NVFP4Tensor.to_nvfp4(tensor, 16, per_tensor_scale=scale)
        return packed.dequantize(torch.float32).numpy()
    element = ELEMENTS[preset]
    scale, data = to_mx(tensor, element, x.shape[-1])
    return to_dtype(data, scale, element, x.shape[-1], torch.float32).numpy()
