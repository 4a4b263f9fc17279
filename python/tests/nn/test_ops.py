"""The torch face: custom ops that pass opcheck and compile, autograd, out=, errors."""

# .grad is optional to the type checker, and attributes of a swapped module are unknown to it.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

import numpy as np
import pytest
import torch
from patterns import any_bits, assert_same_bits, edge_blocks, gaussian
from torch import nn

import dither
import dither.nn as dnn
from dither.errors import UserError
from dither.nn import kernels, ops, twin
from dither.nn.factors import quantized
from dither.nn.streams import OPERANDS

RNG = torch.tensor([1, 2])


@pytest.mark.parametrize(
    "args",
    [
        ("mxfp8_e4m3",),
        ("int4_g32", 0),
        ("mxfp4:rounding=stochastic", -1, RNG, 7),
        ("nvfp4", -1, None, 0, None, torch.bfloat16),
        ("bf16",),
    ],
    ids=str,
)
def test_opcheck_fake_quant(args):
    x = gaussian((6, 40), torch.float32, 0).requires_grad_()
    torch.library.opcheck(torch.ops.dither.fake_quant.default, (x, *args))


def test_opcheck_of_the_others():
    x = gaussian((6, 40), torch.float32, 0)
    torch.library.opcheck(torch.ops.dither.neighbours.default, (x, "int4_g32", -1))
    torch.library.opcheck(torch.ops.dither.encode.default, (x, "format=e4m3"))
    torch.library.opcheck(torch.ops.dither.decode.default, (ops.encode(x, "e4m3"), "e4m3"))


def test_numpy_and_torch_agree():
    x = gaussian((9, 50), torch.float32, 0)
    for spec in ("mxfp8_e4m3", "nvfp4", "int4_g32", "mxfp4:rounding=stochastic", "bf16"):
        for axis in (0, 1):
            y = dither.fake_quant(x, spec, axis, seed=2**64 - 1, stream=2**63, offset=5)
            assert isinstance(y, torch.Tensor)
            same = dither.fake_quant(x.numpy(), spec, axis, seed=2**64 - 1, stream=2**63, offset=5)
            assert_same_bits(y, torch.from_numpy(same))
    codes = dither.encode(x, "e4m3")
    assert np.array_equal(codes.numpy(), dither.encode(x.numpy(), "e4m3"))
    assert_same_bits(dither.decode(codes, "e4m3"), dither.cast(x, "e4m3"))
    assert dither.error_stats(x, "mxfp4") == dither.error_stats(x.numpy(), "mxfp4")
    lo, hi = dither.neighbours(x, "int4_g32")
    assert np.array_equal(lo.numpy(), dither.neighbours(x.numpy(), "int4_g32")[0]) and bool((lo <= hi).all())


@pytest.mark.parametrize(("fmt", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_codes_are_torchs(fmt, dtype):
    x = gaussian((1000,), torch.float32, 0, 30.0)
    assert torch.equal(ops.encode(x, fmt), x.to(dtype).view(torch.uint8))
    every = torch.arange(256, dtype=torch.int64).to(torch.uint8)
    assert_same_bits(ops.decode(every, fmt), every.view(dtype).float())


def test_gradient_passes_straight_through():
    x = gaussian((4, 64), torch.bfloat16, 0).requires_grad_()
    g = gaussian((4, 64), torch.float32, 1)
    y = ops.fake_quant(x, "mxfp4", out_dtype=torch.float32)
    y.backward(g)
    assert x.grad.dtype == torch.bfloat16 and torch.equal(x.grad, g.bfloat16())


@pytest.mark.parametrize("spec", ["mxfp8_e4m3", "mxfp4:rounding=stochastic"])
def test_the_way_of_other_devices(spec, monkeypatch):
    """What tensors elsewhere go through, run on the CPU: same values, same gradient, whole under compile."""
    x = gaussian((4, 64), torch.float32, 0).requires_grad_()
    g = gaussian((4, 64), torch.float32, 1)

    wanted = ops.fake_quant(x, spec, rng=RNG, offset=3).detach()
    monkeypatch.setattr(ops, "_has_kernel", lambda x: False)

    def elsewhere(x):
        return ops.apply(x, spec, -1, RNG, None, 3)

    torch._dynamo.reset()
    for call in (elsewhere, torch.compile(elsewhere, fullgraph=True, backend="aot_eager")):
        y = call(x)
        assert_same_bits(y.detach(), wanted)
        assert torch.equal(torch.autograd.grad(y, x, g)[0], g)


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on another device, whose .cpu() is the tensor itself."""

    @property
    def is_cpu(self):
        return False

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("spec", ["format=nf4,block=64", "format=codebook_-1_0_0.25_3,rounding=stochastic"])
def test_codebooks_of_other_devices_go_over_the_cpu(spec):
    x = gaussian((4, 64), torch.float32, 0)
    there, rng = x.as_subclass(Elsewhere), torch.tensor([3, 4])
    assert not twin.covers(dither.Quantizer(spec))
    y = ops.apply(there.requires_grad_(), spec, -1, rng, None, 5)
    assert_same_bits(y.detach().cpu(), ops.apply(x, spec, -1, rng, None, 5))
    y.sum().backward()
    assert torch.equal(there.grad.cpu(), torch.ones_like(x))
    for got, expected in zip(ops.neighbours(there, spec), ops.neighbours(x, spec), strict=True):
        assert torch.equal(got.cpu(), expected)


def test_shapes_without_memory():
    model = dnn.prepare_(nn.Linear(64, 32, device="meta"), STOCHASTIC)
    x = torch.empty(5, 64, device="meta", requires_grad=True)
    y = model(x)
    y.sum().backward()
    assert y.shape == (5, 32) and x.grad.shape == (5, 64) and model.weight.grad.shape == (32, 64)


def test_out_and_strides():
    x = gaussian((40, 64), torch.float32, 0)
    expected = ops.fake_quant(x, "mxfp8_e4m3")
    out = torch.empty(40, 64, dtype=torch.float64)
    assert ops.fake_quant(x, "mxfp8_e4m3", out=out) is out and torch.equal(out, expected.double())
    same = x.clone()
    assert torch.equal(ops.fake_quant(same, "mxfp8_e4m3", out=same), expected)
    turned = x.t()
    assert torch.equal(ops.fake_quant(turned, "mxfp8_e4m3", 0), expected.t())
    assert torch.equal(ops.fake_quant(x[::2, 1::3], "mxfp4"), ops.fake_quant(x[::2, 1::3].clone(), "mxfp4"))


def test_memory_outlives_the_input():
    """The kernel reads the tensor's own memory; the temporary of a strided input must live that long."""
    for _ in range(20):
        y = ops.fake_quant(gaussian((64, 64), torch.float32, 0).t(), "mxfp8_e4m3")
    assert torch.equal(y, ops.fake_quant(gaussian((64, 64), torch.float32, 0).t().contiguous(), "mxfp8_e4m3"))


def test_errors_say_what_to_do():
    x = torch.zeros(4, 8)
    with pytest.raises(UserError, match=r"unknown preset 'mxpf4'.*mxfp4"):
        ops.fake_quant(x, "mxpf4")
    with pytest.raises(ValueError, match="seed="):
        ops.fake_quant(x, "mxfp4:rounding=stochastic")
    for call in (
        lambda x: ops.fake_quant(x.int(), "mxfp4"),
        lambda x: ops.fake_quant(x.to(torch.complex64), "mxfp4"),
        lambda x: ops.fake_quant(x, "mxfp4", out=torch.zeros(4, 8, dtype=torch.int32)),
        lambda x: ops.fake_quant(x, "mxfp4", out_dtype=torch.int8),
        lambda x: ops.fake_quant(x.tolist(), "mxfp4"),
        lambda x: ops.decode(x, "e4m3"),
    ):
        with pytest.raises(TypeError):
            call(x)
    for call in (
        lambda x: ops.fake_quant(x, "mxfp4", 2),
        lambda x: ops.fake_quant(x, "mxfp4", -3),
        lambda x: ops.fake_quant(x, "mxfp4", out=torch.zeros(8, 4)),
        lambda x: ops.fake_quant(x, "mxfp4", out=torch.zeros(8, 4).t()),
        lambda x: ops.fake_quant(x, "mxfp4", out=torch.zeros(4, 8), out_dtype=torch.float64),
        lambda x: ops.fake_quant(x.flatten()[:16], "mxfp4", out=x.flatten()[8:24]),
        lambda x: ops.fake_quant(x.requires_grad_(), "mxfp4", out=torch.zeros(4, 8)),
        lambda x: ops.fake_quant(x, "mxfp4:rounding=stochastic", rng=torch.zeros(3, dtype=torch.int64)),
        lambda x: ops.fake_quant(x, "mxfp4:rounding=stochastic", seed=-1),
        lambda x: ops.fake_quant(x, "mxfp4:rounding=stochastic", random=torch.full((4, 8), 256)),
        lambda x: ops.fake_quant(x, "mxfp4:rounding=stochastic", random=torch.zeros(3, dtype=torch.int32)),
    ):
        with pytest.raises(ValueError):
            call(x)


STOCHASTIC = dnn.Recipe.get("mxfp4", dgrad_g="mxfp4:rounding=stochastic", wgrad_g="mxfp4:rounding=stochastic")


def _gradients(call, model, x):
    model.zero_grad()
    call(x).square().mean().backward()
    return [p.grad.clone() for p in model.parameters()]


def test_compiles_whole_and_a_new_step_compiles_nothing():
    model = dnn.prepare_(nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)), STOCHASTIC, seed=9)
    x = gaussian((10, 32), torch.float32, 0)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    _gradients(compiled, model, x)
    seen = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(3):
            dnn.set_clock_(model, step)
            seen.append(_gradients(compiled, model, x))
            for got, expected in zip(seen[-1], _gradients(model, model, x), strict=True):
                assert torch.equal(got, expected)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_inductor_compiles_op_and_twin():
    q = dither.Quantizer("mxfp4")
    x = gaussian((8, 64), torch.float32, 0)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: ops.fake_quant(x, q) - twin.fake_quant(ops.fake_quant(x, "mxfp4"), q), fullgraph=True
    )
    assert torch.equal(compiled(x), torch.zeros_like(x))


COMPILED = "mxfp8_e4m3 mxfp4:rounding=stochastic nvfp4 int4_g32:scale_rule=rceil fp8_e4m3 bf16".split()
COMPILED += [
    "mxfp4:rounding=stochastic_c",
    "format=binary8p4ue,overflow=ieee,rounding=to_odd",
    "format=binary6p1sf",
]


@pytest.mark.slow
@pytest.mark.parametrize("spec", COMPILED)
def test_compiled_twin_is_bit_equal_on_edges(spec):
    q = dither.Quantizer(spec)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.cat([edge_blocks(dtype), gaussian((5, 32), dtype, 1), any_bits((5, 32), dtype, 2)])
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: twin.fake_quant(x, q, rng=RNG), fullgraph=True)
        assert_same_bits(compiled(x), ops.fake_quant(x, q, rng=RNG), (spec, dtype))


class Wrapped(torch.Tensor):
    """A tensor subclass that lives outside torch, as quantization libraries have them."""


def test_subclasses_and_misaligned_memory():
    x = gaussian((3, 40), torch.float32, 0)
    y = dither.fake_quant(x, "mxfp4")
    assert isinstance(dither.fake_quant(x.as_subclass(Wrapped), "mxfp4"), torch.Tensor)
    shifted = torch.frombuffer(bytearray(481), dtype=torch.float32, offset=1).view(3, 40)
    shifted.copy_(x)
    assert shifted.data_ptr() % 4 and kernels.source(shifted).ptr % 4 == 0
    assert_same_bits(dither.fake_quant(shifted, "mxfp4"), y)
    with pytest.raises(UserError, match="aligned"):
        dither.fake_quant(x, "mxfp4", out=shifted)


def test_the_largest_offset():
    x = gaussian((300,), torch.float32, 0)
    for bits in (3, 8, 32):
        q, offset = dither.Quantizer("mxfp4", rounding="stochastic", bits=bits), 2**63 - 1
        y = dither.fake_quant(x, q, seed=1, stream=2, offset=offset)
        assert_same_bits(
            torch.from_numpy(dither.fake_quant(x.numpy(), q, seed=1, stream=2, offset=offset)), y
        )
        assert_same_bits(twin.fake_quant(x, q, rng=RNG, offset=offset), y)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush subnormals")
def test_flushing_subnormals_changes_no_bit():
    """torch.set_flush_denormal acts on one thread; results must not depend on which one computes them."""
    x = gaussian((64, 64), torch.float32, 0) * 1e-40
    q = dither.Quantizer("mxfp8_e4m3", rounding="stochastic")

    def results():
        stats = dither.error_stats(x, "int4_g32")
        return (
            dither.fake_quant(x, q, seed=1),
            *dither.neighbours(x, "int4_g32"),
            dither.encode(x, "bf16"),
            stats,
        )

    expected = results()
    torch.set_flush_denormal(True)
    try:
        got = results()
    finally:
        torch.set_flush_denormal(False)
    assert got[4] == expected[4]
    for a, b in zip(got[:4], expected[:4], strict=True):
        assert np.array_equal(a.view(torch.uint8).numpy(), b.view(torch.uint8).numpy())


def test_stochastic_gradients_are_unbiased():
    """Mean over steps of dW under stochastic rounding of g against the exact dW.

    1000 draws: the standard error of the mean of each entry is its spread / sqrt(1000). With 16 x 8 = 128
    entries the largest standardised deviation stays below 4.8 with probability 0.9998 if unbiased; an average
    bias of a tenth of the spread would move the chi-square statistic (128 degrees, sd 16) by 128 * 1000 *
    0.01 = 1280, 80 standard deviations.
    """
    recipe = dnn.Recipe(wgrad_g="mxfp4:rounding=stochastic,scale_rule=rceil,bits=16")
    layer = dnn.prepare_(nn.Linear(8, 16, bias=False), recipe)
    x, g = gaussian((24, 8), torch.float32, 0), gaussian((24, 16), torch.float32, 1)
    draws = []
    for step in range(1000):
        dnn.set_clock_(layer, step)
        layer.zero_grad()
        layer(x).backward(g)
        draws.append(layer.weight.grad.double())
    draws = torch.stack(draws)
    z = (draws.mean(0) - (g.t() @ x).double()) / (draws.std(0) / 1000**0.5)
    assert z.abs().max() < 4.8
    assert abs(float((z**2).sum()) - 128) < 5 * 16


def test_every_operand_rounds_with_its_own_bits():
    layer = nn.Linear(32, 32, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(32))
    x = gaussian((32, 32), torch.float32, 0)
    results = []
    for name in OPERANDS:
        recipe = dnn.Recipe(**{name: "mxfp4:rounding=stochastic"})
        dnn.prepare_(layer, recipe)
        row = OPERANDS.index(name)
        results.append(quantized(x, layer.dither_operands[0].six[row], -1, layer.dither_rng, row))
        dnn.restore_(layer)
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_a_meta_tensor_gives_what_the_result_would_be():
    """Shapes and dtypes where there is a tensor to return; elsewhere an error that says so."""
    x = torch.empty(4, 32, device="meta", dtype=torch.bfloat16)
    codes, values = (
        dither.encode(x, "e5m3"),
        dither.decode(torch.empty(3, dtype=torch.uint8, device="meta"), "e4m3"),
    )
    assert (codes.dtype, codes.shape, values.dtype, values.shape) == (
        torch.uint16,
        (4, 32),
        torch.float32,
        (3,),
    )
    assert codes.is_meta and values.is_meta
    nf4 = dither.Quantizer(format="nf4", block=32)
    for y in (
        dither.fake_quant(x, nf4),
        dither.cast(x, "nf4"),
        dither.hadamard(x),
        *dither.neighbours(x, nf4),
    ):
        assert y.is_meta and y.shape == x.shape and y.dtype in (torch.bfloat16, torch.float32)
    for call in (
        lambda: dither.error_stats(x, "mxfp4"),
        lambda: dither.histogram(x),
        lambda: dither.matmul(x, x.T),
        lambda: dither.ms_eden(torch.empty(2, 128, device="meta"), seed=0),
    ):
        with pytest.raises(dither.UserError, match="meta device holds no values"):
            call()


def test_sparse_tensors_are_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"x\.to_dense\(\)"):
        dither.fake_quant(torch.eye(32).to_sparse(), "mxfp4")
