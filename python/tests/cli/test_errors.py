"""dither.errors: what the messages hold."""

import pytest

from dither.errors import MissingExtraError, UserError, require, suggest


def test_the_nearest_name_is_suggested_and_a_far_one_is_not():
    assert suggest("mxpf8", ["mxfp8", "nvfp4"]) == " (did you mean 'mxfp8'?)"
    assert suggest("banana", ["mxfp8", "nvfp4"]) == ""


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


def test_a_missing_module_names_the_extra_that_brings_it():
    with pytest.raises(MissingExtraError, match=r"pip install 'dither\[laws\]'"):
        require("no_such_module_anywhere", "laws")


def test_a_module_that_is_broken_itself_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        require("broken_inside", "cli")
    assert not isinstance(caught.value, MissingExtraError)


def test_a_submodule_of_a_missing_package_is_missing_too():
    with pytest.raises(MissingExtraError):
        require("no_such_package.sub", "train")
