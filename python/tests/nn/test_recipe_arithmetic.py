"""Every preset against the formulas of its paper (papers.py): the output and both gradients of a linear."""

# .grad is optional to the type checker
# pyright: reportOptionalMemberAccess=false

import numpy as np
import papers
import pytest
import torch
from papers import absmax, as_address, draw, mx, mx_stochastic, nvfp4, rotate, tiles, to_grid
from torch import nn

import dither
import dither.nn as dnn
from dither.nn.streams import ROTATION, stream

K, N, TOKENS, SEED, STEP, MICROBATCH = 256, 200, 150, 2**63 + 11, 5, 2  # the last blocks are shorter


def address(row):
    return as_address(SEED, stream(0, row, MICROBATCH, STEP))


def signs(product):
    return as_address(SEED ^ ROTATION, stream(0, 2 * product, MICROBATCH, STEP))


def bits(row, shape):
    return draw(shape, address(row))


def everywhere(f):
    """Six operands by one rule that looks along the axis: fprop (x, w), dgrad (g, w), wgrad (g, x)."""

    def operands(x, w, g):
        return f(x), f(w), f(g), f(w.T), f(g.T), f(x.T)

    return operands


def straight(fw, fx=lambda v: v):
    def operands(x, w, g):
        return fx(x), fw(w), g, fw(w).T, g.T, fx(x).T

    return operands


def bf16(x):
    return to_grid(x, "bf16").astype(np.float32)


def fp8(name):
    return lambda x: absmax(x, papers.ELEMENTS[name][2], None, lambda z: to_grid(z, name))


def integer(n, size):
    top = 2 ** (n - 1) - 1
    return lambda x: absmax(x, top, size or x.shape[-1], lambda z: np.clip(np.rint(z), -top, top))


def hybrid(f, fg):
    return lambda x, w, g: (f(x), f(w), fg(g), f(w).T, fg(g).T, f(x).T)


def deepseek(x, w, g):
    def row(v):
        return absmax(v, 448, 128, lambda z: to_grid(z, "e4m3"), 1e-4)

    wq = tiles(w, 448, 128, lambda z: to_grid(z, "e4m3"), 1e-4)
    return row(x), wq, row(g), wq.T, row(g.T), row(x.T)


def same(v):
    return v


def turned(v):
    return v.T


def drawn(row, v, logical):
    """The bits of an operand that lies in memory as `logical(v)`."""
    return logical(bits(row, logical(v).shape))


def rht_sr(x, w, g):
    def backward(v, row, logical):
        r = rotate(v, 64, signs(row // 2))
        return mx_stochastic(r, drawn(row, r, logical), before=0.75)

    return (
        bf16(x), bf16(w), backward(g, 2, same), backward(w.T, 3, turned), backward(g.T, 4, turned),
        backward(x.T, 5, turned),
    )  # fmt: skip


def nvidia(x, w, g):
    fixed = as_address(SEED ^ ROTATION, 0)
    wq = nvfp4(w, tile=16)
    gr, xr = rotate(g.T, 16, fixed), rotate(x.T, 16, fixed)
    return (
        nvfp4(x), wq, nvfp4(g, bits=drawn(2, g, same)), wq.T,
        nvfp4(gr, bits=drawn(4, gr, turned)), nvfp4(xr),
    )  # fmt: skip


def tetrajet(x, w, g):
    xq, wq = mx(x, "e2m1", "ceil"), mx(w, "e2m1", "ceil")

    def sr(v, row, logical):
        return mx_stochastic(v, drawn(row, v, logical), "ceil")

    return xq, wq, sr(g, 2, same), sr(wq.T, 3, turned), sr(g.T, 4, turned), sr(xq.T, 5, turned)


def graphcore(x, w, g):
    def near(v):
        return nvfp4(v, scale="ue5m3", size=32)

    return (
        near(x), near(w), nvfp4(g, bits=drawn(2, g, same), scale="ue5m3", size=32), near(w.T),
        nvfp4(g.T, bits=drawn(4, g.T, turned), scale="ue5m3", size=32), near(x.T),
    )  # fmt: skip


def casts(x, w, g):
    f, fg = (lambda v: to_grid(v, "e4m3")), (lambda v: to_grid(v, "e5m2"))
    return f(x), f(w), fg(g), f(w.T), fg(g.T), f(x.T)


def with_variants(name, element):
    def f(v):
        return mx(v, element)

    return {
        name: everywhere(f),
        f"{name}_weights": straight(f),
        f"{name}_forward": lambda x, w, g: (f(x), f(w), g, w.T, g.T, x.T),
        f"{name}_bf16_activations": lambda x, w, g: (bf16(x), f(w), bf16(g), f(w.T), bf16(g).T, bf16(x).T),
        f"{name}_bump": everywhere(lambda v: mx(v, element, "ceil")),
    }


OPERANDS_OF = {
    "bf16": everywhere(bf16),
    "fp8_current": hybrid(fp8("e4m3"), fp8("e5m2")),
    "fp8_current_e4m3": hybrid(fp8("e4m3"), fp8("e4m3")),
    "fp8_blockwise": deepseek,
    **with_variants("mxfp8", "e4m3"),
    **with_variants("mxfp6", "e2m3"),
    **with_variants("mxfp4", "e2m1"),
    "mxfp4_rht_sr": rht_sr,
    "nvfp4": everywhere(nvfp4),
    "nvfp4_pretraining": nvidia,
    "int8": straight(integer(8, 128)),
    "int4": straight(integer(4, 128)),
    "int8_w8a8": straight(integer(8, None), integer(8, None)),
    "int4_w4a8": straight(integer(4, 32), integer(8, None)),
    "int4_w4a4": straight(integer(4, 32), integer(4, 32)),
    "tetrajet": tetrajet,
    "fp4_ue5m3": graphcore,
    "fp8_unit_scaled": casts,
}
"""x (T, K), w (N, K), g (T, N) -> the operands of fprop, dgrad and wgrad, contracted along the last axis."""

ELSEWHERE = {"fp32", "fp8_delayed", "fp8_delayed_e4m3", "fp8_blockwise_promoted", "quartet", "quartet2"}
"""Those whose arithmetic is not six independent operands; tests of their own."""


def problem():
    rng = np.random.default_rng(0)

    def values(shape, size=1.0):
        x = rng.standard_normal(shape) * np.exp2(rng.integers(-3, 4, shape)) * size
        x[0, :40] = 0  # a block of zeros
        return x.astype(np.float32)

    x, w, g = values((TOKENS, K)), values((N, K), 0.05), values((TOKENS, N), 1e-3)
    g[20:] *= 1e-5  # below the floor of block-wise FP8
    return x, w, g


def run(recipe, x, w, g):
    layer = nn.Linear(K, N, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(w))
    dnn.prepare_(layer, recipe, seed=SEED, steps=1000)
    dnn.set_clock_(layer, STEP, MICROBATCH)
    given = torch.from_numpy(x).view(3, -1, K).requires_grad_()
    y = layer(given)
    y.backward(torch.from_numpy(g).view(3, -1, N))
    return [
        y.detach().view(-1, N).numpy(),
        given.grad.view(-1, K).numpy(),
        layer.weight.grad.numpy(),
    ]


def assert_close(got, expected, what):
    for name, a, b in zip(("y", "dx", "dw"), got, expected, strict=True):
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error < 1e-5, (what, name, error)


def test_every_preset_is_tested():
    assert set(OPERANDS_OF) | ELSEWHERE == set(dnn.Recipe.presets())


@pytest.mark.parametrize("name", OPERANDS_OF)
def test_a_preset_is_its_formula(name):
    x, w, g = problem()
    xf, wf, gd, wd, gw, xw = (v.astype(np.float64) for v in OPERANDS_OF[name](x, w, g))
    assert_close(run(name, x, w, g), (xf @ wf.T, gd @ wd.T, gw @ xw.T), name)


def test_quartet_is_its_algorithm():
    """Algorithm 1 of arXiv 2505.14669, whose gradients are masked in the rotated basis."""
    x, w, g = problem()
    x_turned, w_turned = rotate(x, 32), rotate(w, 32)
    (xq, x_mask), (wq, w_mask) = papers.quest(x_turned), papers.quest(w_turned)
    assert 0 < (~x_mask).mean() < 0.2 and 0 < (~w_mask).mean() < 0.2

    def backward(v, row, logical):
        r = rotate(v, 32, signs(row // 2))
        return mx_stochastic(r, drawn(row, r, logical), before=0.75).astype(np.float64)

    dx = backward(g, 2, same) @ backward(wq.T, 3, turned).T
    dw = backward(g.T, 4, turned) @ backward(xq.T, 5, turned).T
    expected = (
        xq.astype(np.float64) @ wq.T.astype(np.float64),
        papers.rotate_back(dx * x_mask, 32, K),
        papers.rotate_back(dw * w_mask, 32, K),
    )
    assert_close(run("quartet", x, w, g), expected, "quartet")


def four_over_six(x):
    """arXiv 2512.02010: of the scales that map the absmax to 6 and to 4, the one that errs less."""
    f = np.float32
    encode = f(f(256 * 6) / np.abs(x).max())
    b = papers.blocks(x, 16)
    amax = np.abs(b).max(-1, keepdims=True)
    found = []
    for top in (6.0, 4.0):
        stored = to_grid(amax / f(6) * f(6 / top) * encode, "e4m3").astype(f)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(stored > 0, b * (encode / stored), 0)
        y = to_grid(z, "e2m1").astype(f) * (stored * (f(1) / encode))
        found.append((y, ((y - b).astype(np.float64) ** 2).sum(-1, keepdims=True)))
    (six, error_six), (four, error_four) = found
    return papers.join(np.where(error_four < error_six, four, six), x)


def ms_eden(r, address, logical):
    """arXiv 2601.22813, of a rotated matrix: elements to nearest, a correction a rotation in the scales."""
    f = np.float32
    decode = f(np.abs(r).max() / f(6 * 255.99))
    b = papers.blocks(r, 16)
    scale = to_grid(np.abs(b).max(-1, keepdims=True) * f(17 / 16 * 0.93 / 6) / decode, "e4m3").astype(f)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(scale > 0, to_grid(b / (scale * decode), "e2m1"), 0)
    wide, kept = papers.blocks(r, 128).astype(np.float64), (codes * scale * decode).astype(np.float64)
    dots = (wide * kept.reshape(wide.shape)).sum(-1)
    factor = np.divide((wide**2).sum(-1), dots, out=np.ones_like(dots), where=dots > 0)
    wanted = scale * np.repeat(factor, 8, axis=-1)[..., None].astype(f)
    stochastic = dither.cast(
        logical(wanted[..., 0]).astype(f).copy(),
        "e4m3",
        rounding="stochastic",
        bits=16,
        seed=SEED,
        stream=stream(*address),
    )
    return papers.join(codes * (logical(stochastic)[..., None] * decode), r).astype(np.float64)


def test_quartet2_is_its_algorithm():
    x, w, g = problem()
    xq, wq = four_over_six(x), four_over_six(w)

    def backward(v, row, logical):
        return ms_eden(rotate(v, 128, signs(row // 2)), (0, row, MICROBATCH, STEP), logical)

    expected = (
        xq.astype(np.float64) @ wq.T.astype(np.float64),
        backward(g, 2, same) @ backward(wq.T, 3, turned).T,
        backward(g.T, 4, turned) @ backward(xq.T, 5, turned).T,
    )
    assert_close(run("quartet2", x, w, g), expected, "quartet2")


def hopper(a, b):
    """a (M, K) times b (N, K) transposed: groups of 32 cut off at 13 bits below the largest, promoted every
    128 to fp32 (arXiv 2412.19437, 3.3.2; arXiv 2511.10909)."""

    def cut(v, exponent):
        return np.trunc(v / 2.0 ** (exponent - 13)) * 2.0 ** (exponent - 13)

    def exponent_of(v):
        return np.frexp(v)[1] - 1

    total = np.zeros((len(a), len(b)), np.float32)
    for start in range(0, a.shape[1], 128):
        part = np.zeros((len(a), len(b)))
        for group in range(start, min(start + 128, a.shape[1]), 32):
            u, v = a[:, None, group : group + 32], b[None, :, group : group + 32]
            products = u.astype(np.float64) * v
            exponents = np.where(products != 0, exponent_of(u) + exponent_of(v), -400).max(-1)
            exponents = np.maximum(exponents, np.where(part != 0, exponent_of(part), -400))
            part = cut(products, exponents[..., None]).sum(-1) + cut(part, exponents)
            part = np.where(part != 0, cut(part, exponent_of(part)), 0)
        total = (total + part.astype(np.float32)).astype(np.float32)
    return total


def test_promoted_accumulation_is_hoppers():
    x, w, g = problem()
    xf, wf, gd, wd, gw, xw = deepseek(x, w, g)
    got = run("fp8_blockwise_promoted", x, w, g)
    for name, a, b in zip(("y", "dx", "dw"), got, ((xf, wf), (gd, wd), (gw, xw)), strict=True):
        expected = hopper(*b)
        assert np.array_equal(a, expected), name
    assert np.abs(got[0] - xf.astype(np.float64) @ wf.T).max() > 1e-4 * np.abs(got[0]).max()
