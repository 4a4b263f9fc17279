"""`dither.checkpoints.inspect`: the figures are those of error_stats, the mix is the best one, the files are
whole."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from checkpoint_files import as_array, tensors, write_file
from safetensors.torch import save_file

import dither
from dither.checkpoints import inspect, open_checkpoint, quantize, to_json
from dither.checkpoints.inspection import parse_budget
from dither.errors import UserError
from dither.report import inspection as report

FORMATS = ["mxfp8_e4m3", "nvfp4", "mxfp4", "int4_g128"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("inspection") / "m.safetensors", layers=3)


def test_the_figures_are_those_of_error_stats(source):
    found, was = inspect(source, FORMATS), tensors(3)
    assert {f.name for f in found.measured} == {name for name in was if "proj" in name}
    for f in found.measured:
        x = as_array(was[f.name])
        assert f.signal == pytest.approx(float((x.astype(float) ** 2).sum()), rel=1e-9)
        for name in FORMATS:
            stats, effect = dither.error_stats(x, name), f.effects[name]
            assert effect.sqnr_db == stats["sqnr_db"] and effect.underflowed == stats["underflowed"] / x.size
            noise = ((dither.fake_quant(x, name).astype(float) - x) ** 2).sum()
            assert effect.noise == pytest.approx(noise, rel=1e-9)
            assert effect.nbytes == dither.quantize(x, name).nbytes


def test_sizes_are_those_that_quantize_writes(source, tmp_path):
    found = inspect(source, FORMATS)
    for name in FORMATS:
        assert quantize(source, name, tmp_path / f"{name}.safetensors").after == found.bytes_in(name)
    assert found.nbytes == open_checkpoint(source).nbytes


def test_the_mix_is_the_best_and_quantize_writes_it_in_its_size(source, tmp_path):
    found = inspect(source, FORMATS, budget="5bits")
    assert found.mix is not None and found.mix.result.exact and found.mix.nbytes <= found.mix.budget
    summary = quantize(source, found.mix.formats, tmp_path / "q.safetensors")
    assert summary.after == found.mix.nbytes
    by_name = {f.name: f for f in found.measured}
    error = sum(by_name[name].error(q, "relative") for name, q in found.mix.formats.items())
    assert found.mix.result.error == pytest.approx(error)
    fitting = [name for name in FORMATS if found.bytes_in(name) <= found.mix.budget]
    assert fitting and all(
        found.mix.result.error <= sum(f.error(name, "relative") for f in found.measured) for name in fitting
    )


def test_the_objective_changes_what_counts(tmp_path):
    """A tensor a thousand times larger takes all precision under `absolute`, its share under `relative`."""
    random = np.random.default_rng(0)
    w = random.standard_normal((64, 128)).astype(np.float32)
    hard = np.where(random.random(w.shape) > 0.98, 30 * w, w)  # outliers: needs precision
    save_file(
        {"large.w": torch.from_numpy(1000 * w), "hard.w": torch.from_numpy(hard)}, tmp_path / "m.safetensors"
    )
    budget = 2 * w.size // 2 * 3 // 2  # one tensor in 8 bits, one in 4
    mixes = {}
    for objective in ("relative", "absolute"):
        mix = inspect(
            tmp_path / "m.safetensors", ["int8_g128", "int4_g128"], budget=budget + 1024, objective=objective
        ).mix
        assert mix is not None
        mixes[objective] = mix.formats
    assert mixes["absolute"] == {"large.w": "int8_g128", "hard.w": "int4_g128"}
    assert mixes["relative"] == {"large.w": "int4_g128", "hard.w": "int8_g128"}


@pytest.mark.parametrize(
    ("text", "want"),
    [("300MB", 300_000_000), ("0.3GB", 300_000_000), ("1.5GiB", 1.5 * 2**30), ("512", 512), (".5 kib", 512),
     ("4bits", 50 + 100), ("4.5 bits", 56 + 100), (77, 77)],
)  # fmt: skip
def test_budgets(text, want):
    assert parse_budget(text, weights=100 if "bit" in str(text) else 1, fixed=100) == want


@pytest.mark.parametrize("text", ["lots", "-3MB", "3 potatoes", "4.5.6bits", "", "MB"])
def test_what_is_no_budget_is_said_before_the_work(text, source):
    with pytest.raises(UserError, match=r"a budget is a size such as 300MB"):
        inspect(source, FORMATS, budget=text)


def test_a_budget_that_cannot_be_met_says_what_the_least_is(source):
    with pytest.raises(
        UserError, match=r"no mix of .* fits into 1,000 bytes: the smallest takes [0-9,]+, [0-9,]+ of"
    ):
        inspect(source, FORMATS, budget="1kB")


def test_wrong_names_are_said(source):
    with pytest.raises(UserError, match="did you mean 'mxfp4'"):
        inspect(source, ["mxpf4"])
    with pytest.raises(UserError, match="the objective is relative or absolute"):
        inspect(source, FORMATS, objective="best")
    with pytest.raises(UserError, match="name at least one format"):
        inspect(source, [])


def test_a_tensor_with_nan_is_left_out_and_said(tmp_path):
    weights = tensors(1)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "m.safetensors")
    found = inspect(tmp_path / "m.safetensors", FORMATS, budget="6bits")
    f = next(f for f in found.findings if f.name == "model.layers.0.mlp.up_proj.weight")
    assert f.reason == "1 NaN or infinite values" and not f.effects
    assert found.mix is not None and f.name not in found.mix.formats


def test_zeros_cost_nothing_anywhere(tmp_path):
    save_file({"zero.w": torch.zeros(64, 128), "w": torch.randn(64, 128)}, tmp_path / "m.safetensors")
    found = inspect(tmp_path / "m.safetensors", FORMATS, budget="5bits")
    zero = next(f for f in found.findings if f.name == "zero.w")
    assert all(zero.error(name, "relative") == 0 for name in FORMATS)
    json.dumps(to_json(found), allow_nan=False)
    assert "exact" in report.page(found)


def test_the_json_holds_everything_and_no_nan(source):
    found = inspect(source, FORMATS, budget="5bits")
    document = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert [t["name"] for t in document["tensors"]] == [f.name for f in found.findings]
    assert found.mix is not None and document["mix"] == found.mix.formats
    assert document["mix_of"]["bytes"] <= document["mix_of"]["budget"]
    worst = min(found.measured, key=lambda f: f.effects["mxfp4"].sqnr_db)
    assert document["formats"]["mxfp4"]["worst"][0] == worst.name


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_self_contained_and_complete(source):
    found = inspect(source, FORMATS, budget="5bits")
    page, tags = report.page(found), Tags()
    tags.feed(page)
    assert not tags.open
    assert not any("src" in attrs or "href" in attrs or tag == "script" for tag, attrs in tags.seen)
    picks = [attrs for tag, attrs in tags.seen if "pick" in (attrs.get("class") or "").split()]
    assert found.mix is not None and len(picks) == len(found.mix.formats)
    for f in found.measured:
        row = re.search(rf"<tr><td class=\"text\">{re.escape(f.name)}</td>.*?</tr>", page)
        assert row and all(f"{f.effects[name].sqnr_db:.1f}</td>" in row[0] for name in FORMATS)
    assert page.count('class="heat grid"') == len(FORMATS)  # layers x kinds, one for each format


def test_names_are_escaped_in_the_page(tmp_path):
    save_file({"<script>alert(1)</script>.w": torch.ones(32, 32)}, tmp_path / "m.safetensors")
    assert "<script>" not in report.page(inspect(tmp_path / "m.safetensors", ["mxfp4"]))


def test_colours_run_from_red_to_blue():
    reds, blues = zip(*[(c[0], c[2]) for c in map(report.colour, (5, 14, 28, 36, 60))], strict=True)
    assert reds[0] > reds[-1] and blues[0] < blues[-1]
    assert report.colour(float("inf")) == report.colour(100) and report.colour(-10) == report.colour(0)
