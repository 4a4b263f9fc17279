"""Quantizers whose scaling is not a plain one: how they are written, what they refuse, which elements share
a scale."""

import numpy as np
import pytest
from data import adversarial, bits

import dither
from dither import Quantizer, UserError

SPECS = {
    "fp8_128x128": dict(preset="fp8_128x128"),
    "mxfp4:scale_rule=mse": dict(preset="mxfp4", scale_rule="mse"),
    "mxfp4:prescale=3/4": dict(preset="mxfp4", prescale=0.75),
    "nvfp4:guard=17/16": dict(preset="nvfp4", guard=17 / 16),
    "nvfp4:four_over_six=mse": dict(preset="nvfp4", four_over_six=True),
    "nvfp4:four_over_six=mae": dict(preset="nvfp4", four_over_six="mae"),
    "nvfp4:dialect=torchao": dict(preset="nvfp4", dialect="torchao"),
    "nvfp4:dialect=cudnn": dict(preset="nvfp4", dialect="cudnn"),
    "nvfp4:scale_rule=static,scale=0.25": dict(preset="nvfp4", scale_rule="static", scale=0.25),
    "int4_g32:scale_rule=static,scale=0.5": dict(preset="int4_g32", scale_rule="static", scale=0.5),
    "mxfp8_e4m3:dialect=te": dict(preset="mxfp8_e4m3", dialect="te"),
    "mxfp8_e4m3:dialect=torchao": dict(preset="mxfp8_e4m3", dialect="torchao"),
    "mxfp8_e4m3:scale_rule=rceil,dialect=torchao": dict(
        preset="mxfp8_e4m3", dialect="torchao", scale_rule="rceil"
    ),
    "mxint8:dialect=microxcaling": dict(preset="mxint8", dialect="microxcaling"),
    "mxint8:rounding=nearest_even,dialect=microxcaling": dict(
        preset="mxint8", dialect="microxcaling", rounding="nearest_even"
    ),
    "mxfp4:dialect=p3109": dict(preset="mxfp4", dialect="p3109"),
    "mxfp4:nan=saturate,zero_scale=one": dict(preset="mxfp4", nan="saturate", zero_scale="one"),
    "format=e2m1,block=16x16,scale_format=e4m3,tensor_scale=true": dict(preset="nvfp4", block=(16, 16)),
    "format=uint4,block=32,scale_format=fp32,zero_point=true": dict(
        format="uint4", block=32, zero_point=True
    ),
    "format=e4m3,block=32,scale_format=binary8p1uf,dialect=p3109": dict(
        format="e4m3", block=32, dialect="p3109"
    ),
    "format=e4m3,block=32,scale_format=ue5m3_61440": dict(
        format="e4m3", block=32, scale_format="ue5m3_61440"
    ),
    "format=int8,block=column,scale_format=fp32": dict(preset="int8", block="column"),
}


@pytest.mark.parametrize("spec", SPECS)
def test_the_print_is_a_full_description(spec):
    q = Quantizer(**SPECS[spec])
    assert str(q) == spec
    assert Quantizer(spec) == q and hash(Quantizer(spec)) == hash(q)
    assert Quantizer(q, rounding="toward_zero") != q
    assert q.replace(rounding=q.rounding) == q


def test_defaults_are_not_printed_and_change_nothing():
    for preset in Quantizer.presets():
        q = Quantizer(preset)
        assert str(q) == Quantizer(str(q), nan="block", zero_scale="rule", prescale=1, guard=1).preset
        assert (q.scale, q.zero_point, q.four_over_six) == (None, False, None)
        assert q.dialect == ("te" if q.tensor_scale else "ocp")
    assert Quantizer("nvfp4", dialect="te") == Quantizer("nvfp4")


def test_a_dialect_brings_its_own_defaults():
    assert Quantizer("mxfp8_e4m3", dialect="te").scale_rule == "rceil"
    assert Quantizer("mxfp4", dialect="microxcaling").rounding == "nearest_away"
    assert Quantizer("mxfp4", dialect="p3109").nan == "element"
    assert Quantizer("nvfp4", dialect="cudnn").scale_rule == "rceil"
    te = Quantizer(Quantizer("mxfp8_e4m3"), dialect="te")
    assert te == Quantizer("mxfp8_e4m3", dialect="te") and te.replace(dialect="ocp") == Quantizer(
        "mxfp8_e4m3"
    )


MEANINGLESS = [
    (dict(preset="bf16", nan="element"), "block"),
    (dict(preset="bf16", guard=17 / 16), "block"),
    (dict(preset="mxfp4", scale=0.5), "static"),
    (dict(preset="mxfp4", scale_rule="static"), "scale="),
    (dict(preset="mxfp4", scale_rule="static", scale=0.3), "power of two"),
    (dict(preset="int4", scale_rule="static", scale=-1.0), "positive"),
    (dict(preset="int4", scale_rule="static", scale=1e-60), "fp32"),
    (dict(format="e2m1", block=16, scale_format="e4m3", scale_rule="static", scale=0.3), "e4m3"),
    (dict(preset="int4", dialect="te"), "te"),
    (dict(preset="nvfp4", dialect="ocp"), "second-level"),
    (dict(preset="mxint8", dialect="torchao"), "torchao"),
    (dict(preset="mxfp4", dialect="torchao", nan="element"), "nan"),
    (dict(preset="mxfp4", dialect="torchao", scale_rule="mse"), "mse"),
    (dict(preset="mxfp4", dialect="microxcaling", scale_rule="ceil"), "floor"),
    (dict(preset="mxfp4", dialect="microxcaling", rounding="stochastic"), "rounds"),
    (dict(preset="mxfp4", dialect="cudnn"), "two-level"),
    (dict(preset="mxfp4", dialect="Te"), "unknown dialect"),
    (dict(preset="mxfp4", four_over_six="mse"), "four_over_six"),
    (dict(preset="nvfp4", four_over_six="mean"), "four_over_six"),
    (dict(preset="mxfp4", guard=17 / 16), "guard"),
    (dict(preset="nvfp4", guard=1.1), "17/16"),
    (dict(preset="nvfp4", prescale=0.75), "prescale"),
    (dict(preset="mxfp4", prescale=0.5), "3/4"),
    (dict(preset="mxfp4", prescale=0.75, scale_rule="ceil"), "floor"),
    (dict(format="e4m0", block=32, scale_format="e8m0", prescale=0.75), "e4m0"),
    (dict(preset="int4", zero_point=True), "unsigned"),
    (dict(preset="mxfp4", zero_point=1), "True or False"),
    (dict(preset="mxfp4", block=(16, 0)), "tile"),
    (dict(preset="mxfp4", block=(16, 16, 16)), "tile"),
    (dict(preset="mxfp4", block="16x"), "block= is a positive number"),
]


@pytest.mark.parametrize(
    ("fields", "says"), MEANINGLESS, ids=lambda v: str(v) if isinstance(v, dict) else None
)
def test_combinations_that_mean_nothing_are_refused(fields, says):
    with pytest.raises(UserError, match=says):
        Quantizer(**fields)


def test_tiles_need_the_last_two_axes():
    x = np.ones((3, 4, 5), np.float32)
    assert dither.fake_quant(x, "fp8_128x128", axis=-2).shape == x.shape
    with pytest.raises(UserError, match="last two"):
        dither.fake_quant(x, "fp8_128x128", axis=0)
    row = np.linspace(1, 2, 300, dtype=np.float32)  # one axis: one row
    assert np.array_equal(dither.fake_quant(row, "fp8_128x128"), dither.fake_quant(row, "fp8_1x128"))
    assert dither.error_stats(row, "fp8_128x128", per_block=True)["blocks"]["mse"].shape == (3,)


@pytest.mark.parametrize("preset", ["fp8_1x128", "mxfp4", "nvfp4", "int4_g32"])
@pytest.mark.parametrize("shape", [(33, 40), (2, 16, 35), (2, 3, 20, 7)])
def test_a_tile_is_a_block_of_its_elements(preset, shape):
    """Each tile, taken out and quantized as one block, gives the same bits (under the same tensor scale)."""
    x = adversarial(int(np.prod(shape)))["wide"].reshape(shape)
    q = Quantizer(preset, block=(16, 8))
    got = dither.fake_quant(x, q)
    expected = np.empty_like(x)
    peak = np.abs(x).max()
    for lead in np.ndindex(shape[:-2]):
        for i in range(0, shape[-2], 16):
            for j in range(0, shape[-1], 8):
                at = (*lead, slice(i, i + 16), slice(j, j + 8))
                flat = x[at].reshape(-1)
                alone = q.replace(block=len(flat))
                # Behind a whole block of its own, the absmax of the tensor gives the same tensor scale.
                padded = np.concatenate([flat, np.full(len(flat), peak)]) if q.tensor_scale else flat
                expected[at] = dither.fake_quant(padded, alone)[: len(flat)].reshape(x[at].shape)
    assert np.array_equal(bits(got), bits(expected))


@pytest.mark.parametrize("preset", ["fp8_1x128", "mxfp4", "int4_g32"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_column_is_a_row_of_the_other_axes(preset, axis):
    x = adversarial(7 * 9 * 11)["wide"].reshape(7, 9, 11)
    moved = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    rows = dither.fake_quant(np.ascontiguousarray(moved), Quantizer(preset, block="row"))
    other = [n for d, n in enumerate(x.shape) if d != axis]
    expected = np.moveaxis(rows.reshape(x.shape[axis], *other), 0, axis)
    assert np.array_equal(dither.fake_quant(x, Quantizer(preset, block="column"), axis), expected)


@pytest.mark.parametrize(
    "spec", ["mxfp4:scale_rule=mse", "fp8_128x128", "nvfp4:four_over_six=mse", "int8:block=column"]
)
def test_threads_dtypes_and_in_place_agree(spec):
    x = adversarial(1 << 16)["wide"].reshape(256, 256)
    q = Quantizer(spec)
    dither.set_num_threads(1)
    try:
        one = dither.fake_quant(x, q)
        dither.set_num_threads(3)
        assert np.array_equal(bits(dither.fake_quant(x, q)), bits(one))
    finally:
        dither.set_num_threads(None)
    same = x.copy()
    dither.fake_quant(same, q, out=same)
    assert np.array_equal(bits(same), bits(one))
    half = adversarial(1 << 16)["normal"].reshape(256, 256).astype(np.float16)
    wide = dither.fake_quant(half.astype(np.float32), q)
    assert np.array_equal(dither.fake_quant(half, q, out_dtype="fp32"), wide)


@pytest.mark.parametrize(
    "spec", ["mxfp4:block=4x8", "int4:block=column", "nvfp4:four_over_six=mse", "int4_g32:scale_rule=mse"]
)
def test_neighbours_and_statistics_follow_the_scales(spec):
    x = adversarial(24 * 40)["normal"].reshape(24, 40)
    q = Quantizer(spec)
    y = dither.fake_quant(x, q)
    lo, hi = dither.neighbours(x, q)
    assert ((y == lo) | (y == hi)).all() and (lo <= hi).all()
    inside = (lo <= x) & (x <= hi)
    stats = dither.error_stats(x, q, per_block=True)
    assert stats["clipped"] == (~inside).sum()
    assert stats["mse"] == pytest.approx(np.mean((y.astype(float) - x) ** 2))
    blocks = stats["blocks"]["mse"]
    assert blocks.size > 1 and stats["blocks"]["count"].sum() == x.size
    shape = {"mxfp4:block=4x8": (6, 5), "int4:block=column": (1, 40)}.get(spec)
    assert shape is None or blocks.shape == shape
