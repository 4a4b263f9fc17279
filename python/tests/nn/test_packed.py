"""PackedTensor and convert_: a model with packed weights computes what one with fake-quantized weights does,
holds what it says, and survives what torch does to models."""

# Attributes of a converted module are unknown to the type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bad_files import join, split
from torch import nn

import dither
import dither.nn as dnn
from dither.errors import UserError
from dither.models.gpt import GPT, GPTConfig
from dither.nn.packed import PackedTensor

QUANTIZERS = [
    "nvfp4",
    "mxfp4",
    "mxfp8_e4m3",
    "int4_g32",
    "int3_row",
    "fp8_e5m2",
    "format=e3m2",
    "fp8_128x128",
]
AFFINE = "format=uint4,block=16,zero_point=true"


def small(tied: bool = False) -> GPT:
    config = GPTConfig(layers=2, width=64, heads=2, context=16, tied=tied)
    return GPT(config, vocab=40, generator=torch.Generator().manual_seed(0))


def tokens() -> torch.Tensor:
    return torch.randint(0, 40, (2, 16), generator=torch.Generator().manual_seed(1))


def weights(shape: tuple[int, ...] = (48, 96), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("q", [*QUANTIZERS, AFFINE])
@pytest.mark.filterwarnings("ignore:values of")
def test_values_and_products(q, dtype):
    w = weights(dtype=dtype)
    p, want = dither.quantize(w, q), dither.fake_quant(w, q)
    assert isinstance(p, PackedTensor) and (p.dtype, p.shape) == (w.dtype, w.shape)
    assert torch.equal(p.dequantize(), want) and torch.equal(
        p.dequantize("fp64"), dither.fake_quant(w, q, out_dtype="fp64")
    )
    x = weights((5, 96), dtype)
    assert torch.equal(F.linear(x, p), F.linear(x, want))
    assert torch.equal(x @ p.T, x @ want.T) and torch.equal(torch.mm(p, x.t()), torch.mm(want, x.t()))
    assert torch.equal(p + 1, want + 1) and torch.equal(p[3:, ::2], want[3:, ::2])
    assert torch.equal(dither.fake_quant(p, "mxfp4"), dither.fake_quant(want, "mxfp4"))


def test_numpy_and_torch_hold_the_same():
    w = weights()
    p, t = dither.quantize(w, "nvfp4"), dither.quantize(w.numpy(), "nvfp4")
    assert p.quantized == t and PackedTensor.from_quantized(t).quantized == t
    assert p.nbytes_held == t.nbytes == sum(part.nbytes for part in p.parts.values()) and str(
        t.nbytes
    ) in repr(p)
    assert np.array_equal(p.codes.numpy(), t.codes)
    q = "mxfp4:rounding=stochastic"
    assert dither.quantize(w, q, seed=3, stream=1).quantized == dither.quantize(
        w.numpy(), q, seed=3, stream=1
    )


def test_matmul_takes_the_packed_operand():
    p, x = dither.quantize(weights(), "nvfp4"), weights((5, 96))
    want = dither.matmul(x, p.dequantize().T)
    assert torch.equal(dither.matmul(x, p.quantized.T), want) and torch.equal(dither.matmul(x, p.T), want)
    assert torch.equal(dither.matmul(p, x.T), want.T)


def test_what_reads_values_reads_those_of_a_packed_tensor():
    p = dither.quantize(weights((4, 128)), "nvfp4")
    plain = p.dequantize()
    assert dither.error_stats(p, "mxfp4") == dither.error_stats(plain, "mxfp4")
    assert (dither.histogram(p).counts == dither.histogram(plain).counts).all()
    assert torch.equal(dither.ms_eden(p, seed=1), dither.ms_eden(plain, seed=1))
    assert torch.equal(dither.fake_quant(p, "mxfp4"), dither.fake_quant(plain, "mxfp4"))


def test_moving_and_copying_keep_the_parts():
    p = dither.quantize(weights(), "nvfp4")
    for same in (
        p.clone(),
        p.detach(),
        copy.deepcopy(p),
        p.to("cpu"),
        pickle.loads(pickle.dumps(p)),
        p.contiguous(),
    ):
        assert isinstance(same, PackedTensor) and same.quantized == p.quantized
    assert copy.deepcopy(p).codes.data_ptr() != p.codes.data_ptr() == p.detach().codes.data_ptr()
    half = p.to(torch.bfloat16)
    assert isinstance(half, PackedTensor) and torch.equal(half.dequantize(), p.dequantize().bfloat16())
    assert torch.equal(half.float().dequantize(), p.dequantize())  # nothing was lost on the way
    assert torch.equal(p.int(), p.dequantize().int())


def test_gradients_pass_through_the_input_alone():
    p = dither.quantize(weights(), "mxfp4")
    x = weights((5, 96)).requires_grad_()
    F.linear(x, p).sum().backward()
    assert torch.equal(x.grad, p.dequantize().sum(0).expand(5, 96))


@pytest.mark.parametrize(
    "change", [lambda p: p.add_(1), lambda p: p.zero_(), lambda p: torch.mul(p, 2, out=p)]
)
def test_it_cannot_be_changed_in_place(change):
    p = dither.quantize(weights(), "mxfp4")
    with pytest.raises(UserError, match="in place"):
        change(p)
    with pytest.raises(UserError, match="plain tensor cannot be copied"):
        p.copy_(weights())
    with pytest.raises(TypeError, match="no memory of its own"):
        dither.fake_quant(weights(), "mxfp4", out=p)


def test_torch_save_loads_with_weights_only():
    layer = dnn.convert_(nn.Sequential(nn.Linear(96, 48)), "nvfp4")
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert isinstance(state["0.weight"], PackedTensor)
    other = dnn.convert_(nn.Sequential(nn.Linear(96, 48)), "nvfp4")
    other.load_state_dict(state)
    assert torch.equal(other(weights((2, 96))), layer(weights((2, 96))))
    with pytest.raises(RuntimeError, match="packed in the same layout"):
        dnn.convert_(nn.Sequential(nn.Linear(96, 48)), "mxfp4").load_state_dict(state)


@pytest.mark.parametrize("q", [*QUANTIZERS, AFFINE])
def test_a_converted_model_computes_the_fake_quantized_one(q):
    model, want = small(), small()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.endswith("head")]
    assert dnn.convert_(model, q) is model
    for name in names:
        layer = want.get_submodule(name)
        layer.weight.data = dither.fake_quant(layer.weight.data, q)
        assert isinstance(model.get_submodule(name).weight, PackedTensor)
    with torch.no_grad():
        assert torch.equal(model(tokens()), want(tokens()))
        assert torch.equal(copy.deepcopy(model)(tokens()), want(tokens()))
        assert torch.equal(pickle.loads(pickle.dumps(model))(tokens()), want(tokens()))
        assert torch.equal(copy.deepcopy(model).bfloat16()(tokens()), want.bfloat16()(tokens()))
    assert list(model.state_dict()) == list(want.state_dict())


@pytest.mark.parametrize("q", ["nvfp4", "format=uint4,block=32,zero_point=true"])
def test_a_converted_model_compiles_and_exports_whole(q):
    """One graph without breaks, in which the packed parts stay packed."""
    t = dither.quantize(torch.randn(3, 64), q)
    fields = (str(t.quantizer), t.packing.shape, t.packing.axis, "fp32", torch.bfloat16)
    held = [t.parts.get(name) for name in ("codes", "scales", "tensor_scale", "zero_points")]
    torch.library.opcheck(torch.ops.dither.dequantize.default, (*held, *fields))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Linear(48, 32))
    dither.nn.convert_(model, q)
    x = torch.randn(5, 64)
    expected = model(x)
    assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected)
    exported = torch.export.export(model, (x,))
    assert "dequantize" in str(exported.run_decompositions({}).graph)
    assert torch.equal(exported.module()(x), expected)


def test_on_the_meta_device_parts_have_shapes_alone():
    there = dither.quantize(torch.empty(4, 64, device="meta"), "nvfp4")
    here = dither.quantize(torch.ones(4, 64), "nvfp4").to("meta")
    assert isinstance(there, PackedTensor) and there.packing == here.packing and there.is_meta
    assert {k: (v.shape, v.dtype) for k, v in there.parts.items()} == {
        k: (v.shape, v.dtype) for k, v in here.parts.items()
    }
    values = there.dequantize("bf16")
    assert values.is_meta and values.shape == (4, 64) and values.dtype == torch.bfloat16


def test_memory_shrinks():
    """Bytes of all tensors that the model holds, counted one by one."""
    model = nn.Sequential(nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False))

    def held() -> int:
        tensors = [
            part
            for p in model.parameters()
            for part in (p.parts.values() if isinstance(p, PackedTensor) else [p])
        ]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    assert held() == 2 * 512 * 512 * 4
    dnn.convert_(model, "mxfp4")
    assert held() == 2 * 512 * 512 * 17 // 32 == sum(p.nbytes_held for p in model.parameters())


def test_back_to_plain_weights():
    model = small()
    plain = copy.deepcopy(model)
    dnn.convert_(dnn.convert_(model, "nvfp4"), None)
    assert not any(isinstance(p, PackedTensor) for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    layer = "blocks.0.mlp.up" if "blocks.0.mlp.up.weight" in plain.state_dict() else None
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("head"):
            layer = name
            assert torch.equal(
                model.get_submodule(name).weight, dither.fake_quant(module.weight.data, "nvfp4")
            )
    assert layer


def test_shared_weights_stay_shared():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[2].weight = model[0].weight
    before = copy.deepcopy(model)
    with pytest.raises(UserError, match="are one weight"):
        dnn.convert_(model, "mxfp4", exempt="2")
    dnn.convert_(model, "mxfp4")
    assert model[0].weight is model[2].weight
    dnn.convert_(model, None)
    assert model[0].weight is model[2].weight
    assert torch.equal(model[0].weight, dither.fake_quant(before[0].weight.data, "mxfp4"))
    tied = small(tied=True)
    dnn.convert_(tied, "mxfp4")  # the head shares the embedding's weight and stays plain
    assert sum(isinstance(p, PackedTensor) for p in tied.parameters()) > 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: dnn.convert_(m, "mxfp4", exempt="nothing"), "matches no module"),
        (lambda m: dnn.convert_(m, "mxfp4", filter_fn=lambda *_: False), "no linear is left"),
        (lambda m: dnn.convert_(dnn.prepare_(m, "mxfp4"), "mxfp4"), "restore_"),
        (lambda m: dnn.convert_(dnn.convert_(m, "mxfp4"), "mxfp4"), "packed already"),
        (lambda m: dnn.convert_(m, "mxfp5"), "did you mean"),
        (lambda m: dnn.convert_(m, "mxfp4:rounding=stochastic"), "seed="),
    ],
)
def test_errors_say_what_to_do(call, says):
    model = small()
    with pytest.raises(UserError, match=says):
        call(model)


class TestFiles:
    def test_a_model_comes_back(self, tmp_path):
        path = tmp_path / "m.safetensors"
        for tied in (False, True):
            model = dnn.convert_(small(tied), "nvfp4")
            dnn.save_model(model, path)
            fresh = small(tied)
            for p in fresh.parameters():
                nn.init.normal_(p)
            assert dnn.load_model_(fresh, path) is fresh
            with torch.no_grad():
                assert torch.equal(fresh(tokens()), model(tokens()))
            assert len(list(fresh.parameters())) == len(list(model.parameters()))  # ties included
            packed = [p for p in fresh.parameters() if isinstance(p, PackedTensor)]
            assert packed and not any(p.requires_grad for p in packed)
            dnn.load_model_(dnn.convert_(small(tied), "mxfp4"), path)  # whatever was there before

    def test_numpy_reads_it_without_torch(self, tmp_path):
        model = dnn.convert_(nn.Sequential(nn.Linear(96, 48)), "int4_g32")
        dnn.save_model(model, tmp_path / "m.safetensors")
        found = dither.load_tensors(tmp_path / "m.safetensors")
        assert found["0.weight"] == model[0].weight.quantized
        assert np.array_equal(found["0.bias"], model[0].bias.detach().numpy())

    def test_dtype_and_plain_models(self, tmp_path):
        path = tmp_path / "m.safetensors"
        model = small()
        dnn.save_model(model, path)
        assert torch.equal(dnn.load_model_(small(), path)(tokens()), model(tokens()))
        dnn.save_model(dnn.convert_(model, "mxfp4"), path)
        half = dnn.load_model_(small().bfloat16(), path)
        assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
        assert torch.equal(half(tokens()), copy.deepcopy(model).bfloat16()(tokens()))

    def test_wrong_models_and_files(self, tmp_path):
        path = tmp_path / "m.safetensors"
        dnn.save_model(dnn.convert_(nn.Sequential(nn.Linear(96, 48)), "mxfp4"), path)
        for model, says in (
            (nn.Sequential(nn.Linear(64, 48)), "has shape"),
            (nn.Sequential(nn.Linear(96, 48, bias=False)), "the model has not"),
            (nn.Sequential(nn.Linear(96, 48), nn.Linear(4, 4)), "lacks"),
        ):
            before = {k: v.clone() for k, v in model.state_dict().items()}
            with pytest.raises(UserError, match=says):
                dnn.load_model_(model, path)
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        header, _, content = split(path.read_bytes())
        header["__metadata__"]["dither_tied"] = '{"1.weight": "2.weight"}'
        path.write_bytes(join(header, content))
        with pytest.raises(UserError, match="ties names"):
            dnn.load_model_(nn.Sequential(nn.Linear(96, 48)), path)


class Rows(torch.utils.data.Dataset):
    """Items computed by a converted layer, in a worker that was forked."""

    def __init__(self) -> None:
        self.layer = dnn.convert_(nn.Sequential(nn.Linear(96, 48)), "nvfp4")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.no_grad():
            return self.layer(weights((index + 1, 96))).sum(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_computes_with_it():
    rows = Rows()
    rows[0]  # the parent has computed before it forks
    loader = torch.utils.data.DataLoader(
        rows, batch_size=1, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    for got, index in zip(loader, range(4), strict=True):
        assert torch.allclose(got[0], rows[index])
