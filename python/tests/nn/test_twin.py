"""The pure-torch twin equals the Rust kernels bit for bit: every preset, rounding, axis, dtype and edge
value."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import any_bits, assert_same_bits, edge_blocks, gaussian, ties

from dither.nn import ops, twin
from dither.quantizer import ROUNDINGS, Quantizer

# Values that are rounded once more into a 16-bit dtype are compared too; the warning about it is meant for
# users.
pytestmark = pytest.mark.filterwarnings("ignore:values of")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
RNG = torch.tensor([-3, 2**62 + 12345])


def compare(x, q, axis=-1, **options):
    assert_same_bits(
        twin.fake_quant(x, q, axis, **options),
        ops.fake_quant(x, q, axis, **options),
        (str(q), axis, x.dtype, tuple(x.shape)),
    )


def compare_neighbours(x, q, axis=-1):
    rust = ops.neighbours(x, q, axis)
    for mine, theirs in zip(twin.neighbours(x, q, axis, out_dtype=rust[0].dtype), rust, strict=True):
        # + 0.0: the sign of a zero neighbour is not part of the contract.
        assert_same_bits(mine + 0.0, theirs + 0.0, ("neighbours", str(q), axis, x.dtype, tuple(x.shape)))


def variants(preset: str) -> list[Quantizer]:
    """A preset under every rounding, scale rule and overflow mode that it takes."""
    base = Quantizer(preset)
    found = [base.replace(rounding=rounding) for rounding in ROUNDINGS]
    if base.scale_format is not None:
        rules = ("ceil", "rceil", "even") if base.scale_format == "e8m0" else ("rceil",)
        found += [base.replace(scale_rule=rule) for rule in rules]
    elif base.format.has_inf:
        found += [
            base.replace(overflow=o, rounding=r) for o in ("saturate", "propagate", "ieee") for r in ROUNDINGS
        ]
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", Quantizer.presets())
def test_every_preset_and_rounding(preset, dtype):
    wide = torch.cat(
        [gaussian((3, 67), dtype, 0), gaussian((3, 67), dtype, 1, 1e-3), gaussian((2, 67), dtype, 2, 200.0)]
    )
    for q in variants(preset):
        compare(wide, q, rng=RNG)
        compare(edge_blocks(dtype), q, rng=RNG)
        compare(ties(dtype), q, rng=RNG)
        if q.tensor_scale or q.block == "tensor":  # where one row decides about the others, each alone too
            for row in edge_blocks(dtype):
                compare(row, q, rng=RNG)
        compare(any_bits((4, 96), dtype, 3), q, rng=RNG)
        if q.rounding == "nearest_even":
            for x in (wide, edge_blocks(dtype), ties(dtype), any_bits((4, 96), dtype, 4)):
                compare_neighbours(x, q)


@pytest.mark.parametrize(
    "spec", ["mxfp4:rounding=stochastic", "nvfp4", "int4_g32", "int8_row", "fp8_e4m3", "bf16"]
)
@pytest.mark.parametrize("shape", [(70,), (33, 5), (5, 33), (3, 40, 7), (2, 3, 4, 5), (1, 1), (0, 4), (4, 0)])
def test_every_axis_and_ragged_tails(spec, shape):
    q = Quantizer(spec)
    for dtype in (torch.float32, torch.bfloat16):
        x = gaussian(shape, dtype, 7)
        for axis in range(-len(shape), len(shape)):
            compare(x, q, axis, rng=RNG, offset=1003)
            compare_neighbours(x, q, axis)


@pytest.mark.parametrize("spec", ["mxfp4:block=4x8", "nvfp4:block=16x16", "int4:block=column"])
@pytest.mark.parametrize("shape", [(70,), (33, 5), (3, 16, 24), (2, 3, 4, 50), (1, 1), (0, 4), (4, 0)])
def test_tiles_and_columns(spec, shape):
    q = Quantizer(spec)
    for dtype in DTYPES:
        x = gaussian(shape, dtype, 7)
        axes = range(len(shape)) if q.block == "column" else range(max(len(shape) - 2, 0), len(shape))
        for axis in axes:
            compare(x, q, axis)
            compare_neighbours(x, q, axis)


POLICIES = """mxfp4:nan=element format=binary8p4se,block=16,scale_format=e8m0,nan=element
format=binary8p4sf,block=16,scale_format=fp32,nan=element mxfp8_e5m2:nan=element mxfp8_e4m3:nan=saturate
mxfp4:nan=saturate nvfp4:nan=element nvfp4:nan=saturate int4_g32:nan=saturate fp8_1x128:nan=element
mxint8:nan=saturate int8_tensor:nan=element
mxfp4:zero_scale=one nvfp4:guard=17/16 nvfp4:rounding=stochastic,guard=17/16 mxfp4:prescale=3/4
mxfp4:rounding=stochastic,prescale=3/4 mxfp8_e4m3:rounding=up,prescale=3/4 nvfp4:four_over_six=mse
nvfp4:four_over_six=mae,rounding=stochastic nvfp4:four_over_six=mse,rounding=toward_zero,guard=17/16
mxfp4:scale_rule=static,scale=1/4 int4_g32:scale_rule=static,scale=0.3 nvfp4:scale_rule=static,scale=0.01
nvfp4:scale_rule=static,scale=0.01,nan=element format=e2m1,block=16,scale_format=e4m3,four_over_six=mae
format=e2m1,block=16,scale_format=e4m3,guard=17/16 format=e4m3,block=16,scale_format=ue5m3_61440
format=e4m3,block=16,scale_format=e4m3,nan=saturate nvfp4:dialect=cudnn nvfp4:dialect=torchao
nvfp4:scale_rule=static,scale=0.01,dialect=torchao format=e2m1,block=16,scale_format=e4m3,dialect=torchao
mxfp8_e4m3:dialect=torchao mxfp4:scale_rule=ceil,dialect=torchao mxfp6_e2m3:scale_rule=even,dialect=torchao
mxfp8_e4m3:scale_rule=rceil,dialect=torchao mxfp4:scale_rule=rceil,dialect=torchao mxfp8_e4m3:dialect=te
mxfp8_e5m2:dialect=te mxfp4:dialect=te mxfp8_e4m3:dialect=microxcaling mxint8:dialect=microxcaling""".split()


def near_powers() -> torch.Tensor:
    """Absmaxes a few units around every power of two, and around 448 and 6 times it."""
    exponents = torch.tensor([-126, -120, -100, -33, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 17, 64, 100, 109])
    peaks = torch.cat([top * 2.0**exponents for top in (1.0, 448.0, 6.0)])
    peaks = (peaks.view(torch.int32)[:, None] + torch.arange(-25, 26, dtype=torch.int32)).view(torch.float32)
    return torch.stack([peaks.reshape(-1), peaks.reshape(-1) / 3, -peaks.reshape(-1) / 7], dim=1)


@pytest.mark.parametrize("spec", POLICIES)
def test_policies_and_dialects(spec):
    q = Quantizer(spec)
    assert twin.covers(q)
    for dtype in DTYPES[1:]:
        if dtype == torch.float64 and q.dialect in ("torchao", "te") and not q.tensor_scale:
            continue  # the libraries know fp32 alone; beyond its range the CPU decides
        compare(torch.cat([edge_blocks(dtype), any_bits((9, 32), dtype, 2)]), q, rng=RNG)
    inputs = [
        gaussian((5, 67), torch.float32, 1),
        any_bits((40, 32), torch.float32, 2),
        edge_blocks(torch.float32),
    ]
    inputs += [near_powers()] if q.dialect != "ocp" else []
    inputs += list(edge_blocks(torch.float32)[::4]) if q.tensor_scale else []
    for x in inputs:
        compare(x, q, rng=RNG, offset=7)
        compare_neighbours(x, q)


@pytest.mark.parametrize(
    "spec", ["int4:scale_rule=mse", "mxfp4:dialect=p3109", "nvfp4:block=128,four_over_six=mse"]
)
def test_what_the_twin_leaves_to_the_cpu(spec):
    assert not twin.covers(Quantizer(spec))


FORMATS = "e5m2 e4m3 e3m2 e2m3 e2m1 e8m0 ue5m3 mxint8 int8 int2 e1m0 e1m3 e8m3 e5m0 tf32 fp16".split()
FORMATS += "ue5m3_61440 mxint8_full uint4 e4m3fnuz binary8p4se binary8p1sf binary6p1ue binary5p5uf".split()
FORMATS += "binary16p5se binary16p8ue binary16p4se binary16p1uf".split()


@pytest.mark.parametrize("fmt", FORMATS)
def test_plain_casts_of_every_kind_of_format(fmt):
    base = Quantizer(format=fmt)
    modes = ["saturate"] + (["ieee", "propagate"] if base.format.has_inf or base.format.has_nan else [])
    for overflow in modes:
        for rounding in ROUNDINGS:
            q = base.replace(overflow=overflow, rounding=rounding)
            for dtype in DTYPES:
                compare(torch.cat([ties(dtype), any_bits((500,), dtype, 9)]), q, rng=RNG)


@pytest.mark.parametrize("fmt", ["e4m3", "e2m1", "e5m2", "mxint8", "int4", "e3m4", "e5m10", "e8m7"])
@pytest.mark.parametrize("scale", ["e8m0", "e4m3", "ue5m3", "fp32"])
def test_formats_under_every_scale_format(fmt, scale):
    rules = {"e8m0": ("floor", "ceil", "rceil", "even")}.get(scale, ("absmax", "rceil"))
    levels = (False, True) if scale in ("e4m3", "ue5m3") else (False,)
    for rule in rules:
        for second in levels:
            q = Quantizer(format=fmt, block=8, scale_format=scale, scale_rule=rule, tensor_scale=second)
            for dtype in (torch.float32, torch.float64):
                for x in (edge_blocks(dtype), gaussian((3, 50), dtype, 1), any_bits((6, 40), dtype, 2)):
                    compare(x, q)
                    compare_neighbours(x, q)
                for row in edge_blocks(dtype) if second else ():
                    compare(row, q)
                    compare_neighbours(row, q)


@pytest.mark.parametrize("bits", [1, 3, 5, 8, 11, 12, 16, 17, 24, 31, 32])
def test_every_number_of_random_bits(bits):
    for spec in ("mxfp4", "bf16"):
        q = Quantizer(spec, rounding="stochastic", bits=bits)
        for dtype in (torch.float32, torch.float64):
            compare(gaussian((300, 7), dtype, 3), q, rng=RNG, offset=2**33 + 5)
            compare(any_bits((30, 32), dtype, 3), q, rng=RNG)


@pytest.mark.parametrize("bits", [1, 2, 8, 13, 31, 32])
@pytest.mark.parametrize("rounding", ["stochastic_a", "stochastic_c"])
def test_other_stochastic_modes(rounding, bits):
    for spec in ("mxfp4", "bf16", "format=binary8p1se"):
        q = Quantizer(spec, rounding=rounding, bits=bits)
        for dtype in (torch.float32, torch.float64):
            compare(gaussian((50, 7), dtype, 3), q, rng=RNG, offset=2**33 + 5)
            compare(any_bits((30, 32), dtype, 3), q, rng=RNG)
            compare(ties(dtype), q, rng=RNG)


def test_given_bits():
    q = Quantizer("mxfp4", rounding="stochastic")
    x = gaussian((40, 5), torch.float32, 3)
    random = torch.randint(0, 256, x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    for axis in (0, 1):
        compare(x, q, axis, random=random)
    assert not torch.equal(ops.fake_quant(x, q, random=random), ops.fake_quant(x, q, random=255 - random))


def test_output_dtypes():
    for dtype in DTYPES:
        for out_dtype in DTYPES:
            for spec in ("int8_row", "mxfp8_e5m2", "nvfp4"):
                compare(gaussian((9, 40), dtype, 1, 1e4), Quantizer(spec), out_dtype=out_dtype)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_quantizer_on_any_values(data):
    draw = data.draw
    fmt = draw(st.sampled_from(["e5m2", "e4m3", "e2m1", "e3m2", "int4", "int8", "mxint8", "e1m2", "e6m1"]))
    scale = draw(st.sampled_from(["e8m0", "fp32", "e4m3", "ue5m3"]))
    rule = draw(
        st.sampled_from(["floor", "ceil", "rceil", "even"] if scale == "e8m0" else ["absmax", "rceil"])
    )
    second = scale in ("e4m3", "ue5m3") and draw(st.booleans())
    q = Quantizer(
        format=fmt,
        block=draw(st.one_of(st.integers(1, 40), st.sampled_from(["row", "tensor"]))),
        scale_format=scale,
        scale_rule=rule,
        tensor_scale=second,
        rounding=draw(st.sampled_from(ROUNDINGS)),
        bits=draw(st.integers(1, 32)),
    )
    shape = draw(st.sampled_from([(17,), (4, 33), (3, 5, 9)]))
    width = draw(st.sampled_from([32, 64]))
    value = st.floats(
        width=width, allow_nan=draw(st.integers(0, 9)) == 0, allow_infinity=draw(st.integers(0, 9)) == 0
    )
    if draw(st.booleans()):  # neighbouring magnitudes, so that elements do not vanish beside the largest
        value = st.floats(-8, 8, width=width)
    count = torch.Size(shape).numel()
    dtype = torch.float32 if width == 32 else torch.float64
    x = torch.tensor(draw(st.lists(value, min_size=count, max_size=count)), dtype=dtype).view(shape)
    axis = draw(st.integers(0, len(shape) - 1))
    rng = torch.tensor([draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(-(2**63), 2**63 - 1))])
    compare(x, q, axis, rng=rng, offset=draw(st.integers(0, 2**40)))
    compare_neighbours(x, q, axis)
