"""Every method from a configuration: it trains, resumes bit for bit, and its own grid is evaluated."""

from __future__ import annotations

import shutil

import pytest
from training_helpers import Silent, metrics

from dither import methods
from dither.errors import UserError
from dither.train import train

OPTIONS = {
    "ptq": {"clip": "weighted"},
    "qat": {"activations": "int8_row", "start": 3},
    "lotion": {"curvature": "hutchinson", "every": 3, "lam": 0.1, "silent": 0.2, "mode": "grad"},
    "cage": {"lam": 5.0, "silent": 0.5},
    "adaround": {"iterations": 20},
}


def config(tiny, name):
    return tiny(
        method={"name": name, "quantizer": "int4_g32", "options": OPTIONS.get(name, {})},
        eval={"every": 5, "casts": ["int4_g32", "int8_row"]},
    )


@pytest.mark.parametrize("name", methods.names())
def test_a_run_under_every_method_resumes_bit_for_bit(tiny, tmp_path, name):
    tree, run, again = config(tiny, name), tmp_path / "run", tmp_path / "again"
    summary = train(tree, run, progress=Silent())
    nearest = [r for r in summary["final"] if r["view"] == "cast" and r["rounding"] == "nearest_even"]
    assert [row["cast"] for row in nearest] == ["int4_g32", "int8_row"]
    assert all(0 < row["loss"] < 6 for row in nearest)
    shutil.copytree(run, again)  # as if it had been killed after the checkpoint of step 8
    for path in (*(again / "checkpoints").glob("step-00000012.*"), again / "summary.json"):
        path.unlink()
    assert train(None, again, resume=True, progress=Silent())["final"] == summary["final"]
    assert metrics(again) == metrics(run)


def test_the_cast_of_a_methods_quantizer_is_the_methods_own(tiny, tmp_path):
    """PTQ with searched scales, trained alike: the row of its quantizer differs from rounding to nearest, the
    others do not."""
    plain = train(config(tiny, "ptq") | {"method": {}}, tmp_path / "plain", progress=Silent())
    searched = train(config(tiny, "ptq"), tmp_path / "searched", progress=Silent())
    rows = list(zip(plain["final"], searched["final"], strict=True))
    assert all(a["loss"] == b["loss"] for a, b in rows if a.get("cast") != "int4_g32")
    assert all(a["loss"] != b["loss"] for a, b in rows if a.get("cast") == "int4_g32")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gptq", {"act_ordr": True}, "did you mean 'act_order'"),
        ("adaround", {"silent": 0.5}, "unknown option 'silent'"),
        ("lotion", {"curvature": "empiricl"}, "did you mean 'empirical'"),
        ("lotion", {"every": 3}, "every belongs to"),
        ("lsq", {"activations": "int8_row"}, "int8_tensor"),
    ],
)
def test_options_are_checked(tiny, tmp_path, name, options, message):
    tree = tiny(method={"name": name, "quantizer": "int4_g32", "options": options})
    with pytest.raises(UserError, match=message):
        train(tree, tmp_path / "run", progress=Silent())


OWN = """
from dither.methods.forward import Forward
from dither.nn import ops

class Halfway(Forward):
    name = "halfway"
    own_grid = True

    def __init__(self, model, quantizer, *, part: float = 0.5, **options):
        self.part = part
        super().__init__(model, quantizer, **options)

    def weight(self, target, w):
        rows = target.rows(w)
        return target.like(rows + self.part * (ops.fake_quant(rows, self.quantizer) - rows))
"""


def test_a_method_of_ones_own_is_one_file(tiny, tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def trained(part, folder):
        options = {} if part is None else {"part": part}
        tree = tiny(method={"name": "halfway:Halfway", "quantizer": "int4_g32", "options": options})
        train(tree, tmp_path / folder, progress=Silent())
        return [row["loss"] for row in metrics(tmp_path / folder) if row["kind"] == "train"]

    def all_of(name):
        train(tiny(method={"name": name, "quantizer": "int4_g32"}), tmp_path / name, progress=Silent())
        return [row["loss"] for row in metrics(tmp_path / name) if row["kind"] == "train"]

    assert trained(None, "half") == trained("0.5", "again") != trained(0, "none") == all_of("ptq")
    (tmp_path / "half" / "summary.json").unlink()
    train(None, tmp_path / "half", resume=True, progress=Silent())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("halfwai:Halfway", "no method halfwai:Halfway: No module named 'halfwai'.*PYTHONPATH"),
        ("json:Halfway", "no method json:Halfway"),
        ("json:JSONDecoder", "no subclass of dither.methods.Method"),
        (":", "no method"),
    ],
)
def test_what_is_no_method(tiny, tmp_path, name, message):
    tree = tiny(method={"name": name, "quantizer": "int4_g32"})
    with pytest.raises(UserError, match=message):
        train(tree, tmp_path / "run", progress=Silent())
