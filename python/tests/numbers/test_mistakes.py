"""What a newcomer gets wrong: each call says what was given, what is wanted and what to do."""

import os

import numpy as np
import pytest
import torch

import dither

X = np.ones((4, 64), np.float32)
META = torch.ones(4, 64, device="meta")
SR = "mxfp4:rounding=stochastic"


@pytest.mark.parametrize("face", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("text", ["mxfp8_e4m3", "mxfp4:rounding=up", "nvfp4"])
def test_a_quantizer_where_a_format_belongs(face, text):
    x, codes = face(X), face(np.zeros(4, np.uint8))
    for call in (
        lambda: dither.cast(x, text),
        lambda: dither.encode(x, text),
        lambda: dither.decode(codes, text),
    ):
        with pytest.raises(dither.UserError, match=f"'{text}' is a quantizer.*fake_quant.*its format 'e"):
            call()
    for call in (lambda q: dither.cast(x, q), lambda q: dither.decode(codes, q)):
        with pytest.raises(TypeError, match=r"is a quantizer.*fake_quant"):
            call(dither.Quantizer(text))


@pytest.mark.parametrize("face", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", ["e4m3", "binary8p4se", "nf4", "e2m1:rounding=up"])
def test_a_format_where_a_quantizer_belongs(face, name):
    x = face(X)
    for call in (dither.fake_quant, dither.quantize, dither.error_stats, dither.neighbours):
        with pytest.raises(dither.UserError, match=r"is a format, not a quantizer: dither.cast") as caught:
            call(x, name)
        advice = str(caught.value).split("the quantizer '")[1].split("'")[0]
        assert dither.Quantizer(advice).block is None
    with pytest.raises(TypeError, match=r"is a format, not a preset.*dither.cast"):
        dither.fake_quant(x, dither.formats.get("e4m3"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mxfp4:rouding=up", "no field 'rouding'.*did you mean 'rounding'"),
        ("mxfp4:rounding", "'rounding' in the quantizer.*is not field=value"),
        ("mxfp4:rounding=", "'rounding=' in the quantizer.*is not field=value"),
        ("mxfp4:rounding=up,rounding=down", "gives rounding= twice"),
        ("mxfp4:block=2.5", r"positive number of elements, a tile \(rows, columns\).*not '2.5'"),
        ("mxfp4:block=-3", "positive number of elements"),
        ("mxfp4:block=rows", "did you mean 'row'"),
    ],
)
def test_texts_that_are_no_quantizers(text, says):
    with pytest.raises(dither.UserError, match=says):
        dither.Quantizer(text)


def test_the_advice_names_presets_of_the_format():
    with pytest.raises(dither.UserError, match="mxfp8_e4m3") as caught:
        dither.fake_quant(X, "e4m3")
    for name in str(caught.value).split("scale: ")[1].split(", "):
        assert dither.Quantizer(name).format.name == "e4m3"
    with pytest.raises(dither.UserError, match="none, write") as caught:
        dither.fake_quant(X, "binary8p4se")
    assert dither.Quantizer(str(caught.value).split("write '")[1].rstrip("'")).format.name == "binary8p4se"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: dither.fake_quant(X, "MXFP4"), dither.UserError, "did you mean 'mxfp4'"),
        (lambda: dither.fake_quant([[1.0, 2.0], [3.0]], "mxfp4"), dither.UserError, "is no array"),
        (lambda: dither.fake_quant(None, "mxfp4"), TypeError, "not object$"),
        (lambda: dither.fake_quant(X, "mxfp4", out_dtype="float8"), TypeError, "out_dtype is one of"),
        (lambda: dither.fake_quant(X, "mxfp4", out_dtype=torch.float32), TypeError, "out_dtype is one of"),
        (lambda: dither.fake_quant(X, SR, seed=np.arange(2)), dither.UserError, "seed="),  # type: ignore[arg-type]
        (lambda: dither.fake_quant(X, SR, seed=1.5), dither.UserError, "seed="),  # type: ignore[arg-type]
        (lambda: dither.matmul(torch.ones(3, 64), X.T), TypeError, "torch.as_tensor"),
        (lambda: dither.error_stats(META, "mxfp4"), dither.UserError, "meta device holds no values"),
        (lambda: dither.formats.codebook("abc"), dither.UserError, "made of numbers"),  # type: ignore[arg-type]
        (lambda: dither.formats.codebook([[1, 2]]), dither.UserError, "made of numbers"),  # type: ignore[list-item]
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_meta_tensors_have_codes_and_bits_in_shape():
    codes = dither.encode(META, "e4m3")
    assert (codes.shape, codes.dtype, codes.device.type) == (META.shape, torch.uint8, "meta")
    assert dither.decode(codes, "e4m3").dtype == torch.float32
    bits = torch.zeros(4, 64, dtype=torch.int32, device="meta")
    assert dither.fake_quant(META, SR, random=bits).shape == META.shape


def test_places_where_no_file_can_be_saved(tmp_path):
    """A device or a pipe would have been replaced by a file."""
    t, pipe = dither.quantize(X, "mxfp4"), tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "plain").write_text("text")
    for path, says in [
        (tmp_path, "is a folder"),
        (pipe, "no regular file"),
        (tmp_path / "none" / "t", "cannot be written: No such"),
        (tmp_path / "plain" / "t", "cannot be written: Not a dir"),
        (tmp_path / ("n" * 250), "cannot be written: File name too long"),
    ]:
        with pytest.raises(dither.UserError, match=says):
            t.save(path)
    assert pipe.is_fifo() and sorted(p.name for p in tmp_path.iterdir()) == ["pipe", "plain"]


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"a": "text"}, dither.UserError),
        ({"a": np.array([object()])}, dither.UserError),
        ({1: X}, TypeError),
        ({"a": dither.quantize(torch.ones(32), "mxfp4")}, TypeError),
    ],
)
def test_what_is_no_array_is_not_saved(tmp_path, tensors, error):
    with pytest.raises(error, match=r"hold these tensors|by name"):
        dither.save_tensors(tensors, tmp_path / "t")
    assert not list(tmp_path.iterdir())
