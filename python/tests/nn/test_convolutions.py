"""Convolutions: the product is torch's convolution, its operands are those of the unfolded product."""

# .grad is optional to the type checker, and attributes of a swapped module are unknown to it.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOptionalMemberAccess=false

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dither.nn as dnn
from dither.nn import ops, twin
from dither.nn.convolved import weight_rows
from dither.nn.ready import FPROP_W, Operands
from dither.nn.streams import OPERANDS
from dither.quantizer import Quantizer

SIX: dict[str, Any] = dict(
    fprop_x="mxfp8_e4m3",
    fprop_w="int4_g32",
    dgrad_g="mxfp8_e5m2",
    dgrad_w="nvfp4",
    wgrad_g="mxfp6_e3m2",
    wgrad_x="mxfp4",
)
LAYERS = [
    (nn.Conv1d, dict(kernel_size=3, stride=2, padding=1, dilation=2, groups=2)),
    (nn.Conv2d, dict(kernel_size=(3, 2), stride=(2, 1), padding="valid", bias=False)),
    (nn.Conv2d, dict(kernel_size=3, padding="same", dilation=2, padding_mode="circular")),
    (nn.Conv2d, dict(kernel_size=3, padding=1, groups=8, padding_mode="reflect")),
    (nn.Conv2d, dict(kernel_size=2, stride=3, padding=(1, 0))),  # columns that no patch sees
    (nn.Conv1d, dict(kernel_size=4, padding="same", groups=2)),  # one side padded more
    (nn.Conv3d, dict(kernel_size=2, stride=2, padding=1, groups=4, padding_mode="replicate")),
    (nn.ConvTranspose1d, dict(kernel_size=3, stride=2, padding=1, output_padding=1, dilation=2, groups=2)),
    (nn.ConvTranspose2d, dict(kernel_size=(3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 0))),
    (nn.ConvTranspose3d, dict(kernel_size=2, stride=2, groups=4, bias=False)),
]


def results(layer, x, g=None):
    """Output and all gradients; `g` is drawn once where it is not given."""
    y = layer(x)
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2)) if g is None else g
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], g)]


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=lambda v: getattr(v, "__name__", None))
def test_an_exact_quantizer_gives_torchs_convolution(kind, options):
    torch.manual_seed(0)
    layer = kind(8, 16, **options, dtype=torch.float64)
    x = torch.randn(3, 8, *[7] * (layer.weight.dim() - 2), dtype=torch.float64, requires_grad=True)
    with torch.no_grad():  # integers below 64, exact in the quantizer, and so are their products in fp64
        for t in (x, *layer.parameters()):
            t.copy_((t * 8).round().clamp(-63, 63))
    g = torch.randn(layer(x).shape, dtype=torch.float64).mul(8).round()
    plain, state = results(layer, x, g), layer.state_dict()
    exact = "format=e8m10,overflow=ieee"
    dnn.prepare_(layer, dnn.Recipe(**dict.fromkeys(OPERANDS, exact)))
    assert all(torch.equal(a, b) for a, b in zip(plain, results(layer, x, g), strict=True))
    assert layer(x).is_contiguous() and torch.equal(layer(x[0]), plain[0][0])
    assert list(layer.state_dict()) == list(state)
    dnn.restore_(layer)
    assert type(layer) is kind and torch.equal(layer(x), plain[0])


@pytest.mark.parametrize("recipe", ["mxfp8", "int4"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=lambda v: getattr(v, "__name__", None))
def test_autocast_gives_the_dtype_of_torchs(kind, options, recipe):
    torch.manual_seed(0)
    layer = kind(8, 16, **options)
    x = torch.randn(3, 8, *[7] * (layer.weight.dim() - 2), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer(x)
        got = dnn.prepare_(layer, recipe)(x)
    assert got.dtype == plain.dtype == torch.bfloat16
    assert F.cosine_similarity(got.flatten().float(), plain.flatten().float(), 0) > 0.97
    got.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (x, *layer.parameters()))


@pytest.mark.parametrize("recipe", ["mxfp8", "mxfp4_rht_sr", "int4"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=lambda v: getattr(v, "__name__", None))
def test_no_images_at_all(kind, options, recipe):
    layer = kind(8, 16, **options)
    x = torch.randn(0, 8, *[7] * (layer.weight.dim() - 2), requires_grad=True)
    shape = layer(x).shape
    y = dnn.prepare_(layer, recipe)(x)
    y.sum().backward()
    assert y.shape == shape and x.grad is not None and not layer.weight.grad.any()


def fq(t, name, axis):
    return twin.fake_quant(t, Quantizer(SIX[name]), axis)


def test_the_operands_are_those_of_the_unfolded_product():
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 12, 3, stride=2, padding=1)
    x = torch.randn(4, 5, 9, 8, requires_grad=True)
    dnn.prepare_(layer, dnn.Recipe(**SIX))
    y, dx, dw, db = results(layer, x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    rows = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)  # (4, 20, 45)
    w, x_MK, g_BLO = (
        layer.weight.detach().flatten(1),
        rows.detach().reshape(80, 45),
        g.flatten(2).transpose(1, 2),
    )
    g_MO = g_BLO.reshape(80, 12)
    expected = F.linear(fq(rows.detach(), "fprop_x", -1), fq(w, "fprop_w", -1), layer.bias)
    assert torch.equal(y, expected.transpose(1, 2).reshape(y.shape))
    assert torch.equal(dw.flatten(1), fq(g_MO, "wgrad_g", 0).t() @ fq(x_MK, "wgrad_x", 0))
    dcols = (fq(g_BLO.contiguous(), "dgrad_g", -1) @ fq(w, "dgrad_w", 0)).transpose(1, 2)
    torch.testing.assert_close(dx, F.fold(dcols, (9, 8), 3, padding=1, stride=2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(db, g.sum((0, 2, 3)))


def test_a_group_has_blocks_of_its_own():
    torch.manual_seed(0)
    whole = nn.Conv1d(12, 8, 3, groups=2, bias=False)
    halves = [nn.Conv1d(6, 4, 3, bias=False) for _ in range(2)]
    for half, weight in zip(halves, whole.weight.detach().chunk(2), strict=True):
        half.weight.data.copy_(weight)
    x = torch.randn(3, 12, 20)
    for layer in (whole, *halves):
        dnn.prepare_(layer, dnn.Recipe(**SIX))
    parts = [half(part) for half, part in zip(halves, x.chunk(2, 1), strict=True)]
    assert torch.equal(whole(x), torch.cat(parts, 1))


@pytest.mark.parametrize(
    "spec", ["int4_g32", "nvfp4:block=16x16", "mxfp4:rounding=stochastic,scale_rule=rceil"]
)
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=lambda v: getattr(v, "__name__", None))
def test_where_the_weight_alone_is_quantized_torch_convolves(kind, options, spec, monkeypatch):
    """Torch's own convolution and gradients, of the weight that the product of patches would multiply by."""
    torch.manual_seed(0)
    layer = kind(8, 16, **options)
    x = torch.randn(3, 8, *[7] * (layer.weight.dim() - 2), requires_grad=True)
    plain, recipe = copy.deepcopy(layer), dnn.Recipe(fprop_w=spec, dgrad_w="fprop")
    dnn.prepare_(layer, recipe, seed=3)
    alone = results(layer, x)
    with monkeypatch.context() as patch:
        patch.setattr(Operands, "weight_alone", property(lambda self: False))
        for a, b in zip(alone, results(layer, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    operands, rng, _ = layer.part()
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    rows = weight_rows(layer.weight.detach(), layer.groups, transposed)
    wq = ops.fake_quant(rows, spec, rng=None if rng is None else rng[FPROP_W])
    wq = (wq.transpose(-1, -2) if transposed else wq).reshape(layer.weight.shape)
    assert not torch.equal(wq, layer.weight) and operands.weight_alone
    with torch.no_grad():
        plain.weight.copy_(wq)
    for a, b in zip(alone, results(plain, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_output_size_of_a_transposed_convolution():
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
    x = torch.randn(2, 4, 5, 5)
    plain = layer(x, output_size=[10, 9])
    prepared = dnn.prepare_(copy.deepcopy(layer), dnn.Recipe(fprop_x="fp16"))
    torch.testing.assert_close(prepared(x, output_size=[10, 9]), plain, rtol=1e-2, atol=1e-2)
