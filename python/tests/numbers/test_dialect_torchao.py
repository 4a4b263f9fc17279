"""The dialect `torchao` against torchao itself, eager on the CPU: MX in every scale mode, NVFP4 with and
without the second level, and asymmetric integers. Bit for bit, edges and quirks included."""

import warnings
from typing import Any

import numpy as np
import pytest
from data import adversarial, bits

import dither
from dither import Quantizer

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.prototype.mx_formats import mx_tensor as mx
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
    from torchao.quantization import quant_primitives as affine

ELEMENTS = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e3m2": "fp6_e3m2",
    "e2m3": "fp6_e2m3",
    "e2m1": torch.float4_e2m1fn_x2,
}


def edge_blocks() -> np.ndarray:
    """Blocks of 32 on which MX libraries disagree, and blocks whose absmax is near every power of two."""
    rng = np.random.default_rng(7)
    rows = [rng.standard_normal((20, 32)) * 2.0**e for e in (-149, -140, -127, -126, -120, -118, 0, 100, 125)]
    x = np.concatenate(rows).astype(np.float32)
    special = rng.standard_normal((8, 32)).astype(np.float32)
    special[0, 3], special[1, 5], special[2, 7] = np.nan, np.inf, -np.inf
    special[3, 1:3] = np.nan, np.inf
    special[4], special[5, ::2], special[5, 1::2] = 0.0, 0.0, -0.0
    special[6], special[7, 0] = np.finfo(np.float32).max, np.float32(2.0**127)
    tiny = rng.integers(0, 1 << 12, (20, 32)).astype(np.uint32).view(np.float32)
    ties = (rng.integers(-256, 257, (40, 32)) / 16).astype(np.float32)
    return np.concatenate([x, special, tiny, ties])


def near_powers(top: float) -> np.ndarray:
    """Blocks whose absmax is a few units below or above `top` times each power of two: where the logarithm of
    fp32 goes wrong."""
    peaks = (top * 2.0 ** np.arange(-140.0, 127.0 - np.log2(top))).astype(np.float32)
    peaks = peaks.view(np.int32)[:, None] + np.concatenate([np.arange(-30, 31), [-200, -100, 100, 200]])
    peaks = peaks.astype(np.int32).view(np.float32).reshape(-1, 1)
    return np.concatenate([peaks, np.repeat(peaks / 3, 3, axis=1)], axis=1)


def families() -> dict[str, np.ndarray]:
    return {"edges": edge_blocks()} | {k: v.reshape(-1, 32) for k, v in adversarial(1 << 13).items()}


def torchao_mx(x: np.ndarray, fmt: str, mode: str, dtype=torch.float32) -> np.ndarray:
    tensor, size = torch.from_numpy(x.copy()).to(dtype), x.shape[-1]
    scale, data = mx.to_mx(tensor, ELEMENTS[fmt], size, ScaleCalculationMode(mode))
    return mx.to_dtype(data, scale, ELEMENTS[fmt], size, dtype).float().numpy()


@pytest.mark.parametrize("mode", ["floor", "rceil", "ceil", "even"])
@pytest.mark.parametrize("fmt", list(ELEMENTS))
def test_mx(fmt, mode):
    q = Quantizer(format=fmt, block=32, scale_format="e8m0", scale_rule=mode, dialect="torchao")
    top = dither.formats.get(fmt).max if mode == "rceil" else 1.0
    for family, x in (families() | {"near powers": near_powers(top)}).items():
        got = dither.fake_quant(x, q.replace(block=x.shape[-1]))
        theirs = torchao_mx(x, fmt, mode)
        wrong = bits(got) != bits(theirs)
        assert not wrong.any(), (family, x[wrong.any(1)][:1], got[wrong][:5], theirs[wrong][:5])


def test_mx_in_bf16():
    """torchao multiplies by the scale in bf16, which is exact: one rounding, as here."""
    q = Quantizer("mxfp8_e4m3", dialect="torchao")
    for x in families().values():
        half = torch.from_numpy(x.copy()).bfloat16()
        got = dither.fake_quant(half, q).float().numpy()
        assert np.array_equal(bits(got), bits(torchao_mx(x, "e4m3", "floor", torch.bfloat16)))


def torchao_nvfp4(x: np.ndarray, two_levels: bool, given: float | None = None) -> np.ndarray:
    tensor = torch.from_numpy(x.copy())
    scale = None
    if two_levels:
        scale = per_tensor_amax_to_scale(tensor.abs().max()) if given is None else torch.tensor(given)
    return NVFP4Tensor.to_nvfp4(tensor, 16, scale).dequantize().numpy()


def test_nvfp4():
    single = Quantizer(format="e2m1", block=16, scale_format="e4m3", dialect="torchao")
    for family, x in families().items():
        for part in [x] if family != "edges" else np.split(x[: len(x) // 8 * 8], len(x) // 8):
            for q, two_levels in ((single, False), (Quantizer("nvfp4", dialect="torchao"), True)):
                got, theirs = dither.fake_quant(part, q), torchao_nvfp4(part, two_levels)
                wrong = bits(got) != bits(theirs)
                if two_levels and 0 < np.abs(part).max() < 2.0**-115:
                    # 1 / (a subnormal tensor scale) is infinite there; a zero times that is NaN, of which
                    # their cast to FP4, which knows no NaN, makes -1.5 (the sign is the processor's).
                    wrong &= part != 0
                assert not wrong.any(), (family, str(q), part[wrong][:5], got[wrong][:5], theirs[wrong][:5])


def test_nvfp4_with_a_given_tensor_scale():
    x = adversarial(1 << 13)["wide"].reshape(-1, 32)
    for scale in (1e-4, 0.37, 3.0, 1e4):
        q = Quantizer("nvfp4", dialect="torchao", scale_rule="static", scale=scale)
        assert np.array_equal(bits(dither.fake_quant(x, q)), bits(torchao_nvfp4(x, True, scale)))


def test_an_all_zero_tensor_becomes_nan_in_torchaos_two_levels():
    """0 / 0 in its block scales; here only in its dialect."""
    zeros = np.zeros((2, 16), np.float32)
    assert np.isnan(torchao_nvfp4(zeros, True)).all()
    assert np.isnan(dither.fake_quant(zeros, "nvfp4:dialect=torchao")).all()
    assert not dither.fake_quant(zeros, "nvfp4").any()


def torchao_affine(x: np.ndarray, bits_: int, block: int) -> np.ndarray:
    tensor, top = torch.from_numpy(x.copy()), 2**bits_ - 1
    size: Any = (1, block)
    scale, zero = affine.choose_qparams_affine(
        tensor, affine.MappingType.ASYMMETRIC, size, torch.uint8, 0, top, None, torch.float32, torch.int32
    )
    codes = affine.quantize_affine(tensor, size, scale, zero, torch.uint8, 0, top)
    return affine.dequantize_affine(codes, size, scale, zero, torch.uint8, 0, top).numpy()


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_zero_points(width):
    q = Quantizer(format=f"uint{width}", block=32, scale_format="fp32", zero_point=True, dialect="torchao")
    for family in ("normal", "wide", "ties", "zeros"):
        for shift in (0.0, 1.5, -7.0):
            x = (adversarial(1 << 13)[family] + np.float32(shift)).reshape(-1, 32)
            got, theirs = dither.fake_quant(x, q), torchao_affine(x, width, 32)
            wrong = got != theirs
            assert not wrong.any(), (family, x[wrong][:4], got[wrong][:4], theirs[wrong][:4])
