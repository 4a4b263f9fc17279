"""Options for the keys of a configuration: only what was given is an override."""

import pytest
import tyro

from dither.cli.overrides import Overrides, given, split_method_options
from dither.errors import UserError
from dither.train.config import load


def parse(*arguments: str) -> dict:
    return given(tyro.cli(Overrides, args=list(arguments), use_underscores=True))


def test_nothing_given_is_no_override():
    assert parse() == {}


def test_keys_keep_their_section_and_type():
    options = [
        "--train.steps",
        "5",
        "--train.lr",
        "1e-3",
        "--model.tied",
        "False",
        "--recipe.fprop_x",
        "mxfp4",
    ]
    assert parse(*options) == {
        "train.steps": 5,
        "train.lr": 1e-3,
        "model.tied": False,
        "recipe.fprop_x": "mxfp4",
    }


def test_lists_take_several_words():
    casts = parse("--eval.casts", "int4_g32", "mxfp4:scale_rule=ceil,rounding=up")["eval.casts"]
    assert casts == ["int4_g32", "mxfp4:scale_rule=ceil,rounding=up"]


def test_the_configuration_accepts_what_was_parsed():
    options = parse("--train.steps", "7", "--eval.casts", "int4_g32", "--train.betas", "0.9", "0.99")
    config = load({}, options)
    assert (
        config.train.steps == 7 and config.eval.casts == ("int4_g32",) and config.train.betas == (0.9, 0.99)
    )


def test_a_wrong_key_exits_with_2_and_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--train.stpes", "5")
    assert end.value.code == 2
    assert "train.steps" in capsys.readouterr().err


def test_method_options_are_taken_out():
    rest, options = split_method_options(
        ["a.toml", "--method.options.lam", "2.0", "--method.options.mode=grad", "--resume"]
    )
    assert rest == ["a.toml", "--resume"]
    assert options == {"method.options.lam": "2.0", "method.options.mode": "grad"}


def test_a_method_option_needs_a_value():
    for arguments in (["--method.options.lam"], ["--method.options.lam", "--resume"]):
        with pytest.raises(UserError, match="needs a value"):
            split_method_options(arguments)
