"""numpy casts to the dtypes of ml_dtypes."""

import ml_dtypes
import numpy as np

library = f"ml_dtypes {ml_dtypes.__version__}"
inputs = ("fp32", "fp16", "bf16")
DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e4m3_ieee": ml_dtypes.float8_e4m3,
    "e3m4_ieee": ml_dtypes.float8_e3m4,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}


def cast(x: np.ndarray, format: str) -> np.ndarray:
    return x.astype(DTYPES[format]).astype(np.float32)
