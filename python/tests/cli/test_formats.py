"""`dither formats`: the figures it prints are those of the standards."""

import pytest
from rich.console import Console

from dither import formats
from dither.cli.formats import number
from dither.cli.main import main
from dither.nn.presets import PRESETS
from dither.quantizer import Quantizer


def shown(capsys, *arguments: str) -> str:
    assert main(["formats", *arguments]) == 0
    return capsys.readouterr().out


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(f"{name} "))


def test_every_format_and_every_preset_has_a_row(capsys):
    text = shown(capsys)
    for name in [*formats.names(), *Quantizer.presets()]:
        assert row(text, name)


def test_the_rows_hold_what_the_standards_say(capsys):
    text = shown(capsys)
    assert row(text, "e4m3")[1:8] == ["8", "4", "3", "7", "448", "0.001953", "NaN"]
    assert row(text, "e5m2")[5:] == [
        "57344",
        "1.526e-05",
        "inf",
        "NaN",
        "-0",
        "bf16",
        "fp16",
        "tf32",
    ]
    assert row(text, "int4")[1:6] == ["4", "-", "-", "-", "7"]


def test_a_preset_row_names_its_scaling(capsys):
    text = shown(capsys)
    assert row(text, "nvfp4")[1:6] == ["e2m1", "16", "values", "e4m3+fp32", "absmax"]
    assert row(text, "mxfp4")[1:7] == ["e2m1", "32", "values", "e8m0", "floor", "saturate"]


def test_one_format_shows_all_its_values(capsys):
    lines = shown(capsys, "e2m1").splitlines()
    values = [word for line in lines if line.startswith("0x") for word in line.split()[1:]]
    positive = ["0", "0.5", "1", "1.5", "2", "3", "4", "6"]
    assert values == positive + ["-" + value for value in positive]


def test_a_format_that_is_no_preset_is_shown_too(capsys):
    assert "5 bits, signed, 3 exponent and 1 mantissa bits" in shown(capsys, "e3m1")


def test_a_codebook_shows_its_table(capsys):
    lines = shown(capsys, "codebook_-1_0_0.25_3").splitlines()
    assert lines[0] == "codebook_-1_0_0.25_3: 2 bits, signed, a table of values"
    assert lines[1] == "largest 3, lowest -1, smallest positive 0.25"
    assert [word for line in lines if line.startswith("0x") for word in line.split()[1:]] == [
        "-1",
        "0",
        "0.25",
        "3",
    ]


def test_a_quantizer_is_described_with_its_overrides(capsys):
    assert "scale rule ceil (never clips)" in shown(capsys, "mxfp4:scale_rule=ceil")
    assert "scale rule floor (may clip" in shown(capsys, "mxfp4")


def test_wide_formats_have_no_table_of_values(capsys):
    assert "0x" not in shown(capsys, "bf16")


def test_recipes_are_listed_with_their_sources(capsys):
    text = " ".join(shown(capsys, "--recipes").split())
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.source}" in text
    assert main(["formats", "mxfp4", "--recipes"]) == 2
    assert "give it alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"), [("e4m33", "did you mean 'e4m3'"), ("mxfp4:scale_rule=seil", "'ceil'")]
)
def test_a_wrong_name_suggests_the_nearest(name, says, capsys):
    assert main(["formats", name]) == 2
    assert says in capsys.readouterr().err


def test_nothing_is_folded_or_cut_at_80_columns(capsys, monkeypatch):
    for arguments in ([], ["e4m3"], ["nvfp4"], ["int8"], ["e8m0"], ["ue5m3"], ["nf4"], ["binary8p1uf"]):
        monkeypatch.setattr("dither.cli.formats.console", lambda: Console(width=80))
        narrow = shown(capsys, *arguments)
        monkeypatch.setattr("dither.cli.formats.console", lambda: Console(width=131))
        assert "…" not in narrow
        assert narrow.count("\n") == shown(capsys, *arguments).count("\n")


@pytest.mark.parametrize(
    ("value", "text"), [(448, "448"), (0.015625, "0.015625"), (3.4028234e38, "3.403e+38"), (-0.0, "-0")]
)
def test_numbers_are_short(value, text):
    assert number(value) == text
