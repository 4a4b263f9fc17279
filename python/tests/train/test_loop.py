"""One run: it learns, it is repeatable, what it writes, and every way in which it refuses or stops."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from training_helpers import Silent, metrics

from dither.errors import UserError
from dither.models import GPT, GPTConfig
from dither.train import DivergedError, load, read, train
from dither.train.checkpoint import FOLDER
from dither.train.records import COLUMNS
from dither.train.tokens import open_tokens

SITES = ("linear", "head", "embedding", "norm", "attention")


def test_a_run_learns_and_its_directory_explains_it(tiny, tmp_path: Path) -> None:
    tree = tiny(
        train={"steps": 40, "keep": 1}, eval={"every": 20, "casts": ["int4_g32"], "final_tokens": 256}
    )
    summary = train(tree, tmp_path / "run", progress=Silent())
    rows = read(tmp_path / "run")
    training = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in training] == list(range(1, 41))
    assert training[0]["loss"] == pytest.approx(5.55, abs=0.15) and training[-1]["loss"] < 4.0
    assert training[-1]["tokens"] == 40 * 4 * 32 and training[0]["threads"] == 1
    assert all(row["tokens_per_s"] > 0 and row["rss_mib"] > 0 for row in training)

    evaluations = [
        (r["step"], r["view"], r.get("rounding"), r.get("draws")) for r in rows if r["kind"] == "eval"
    ]
    assert evaluations == [
        (step, *view)
        for step, draws in ((20, 1), (40, 2))
        for view in (("full", None, None), ("cast", "nearest_even", None), ("cast", "stochastic", draws))
    ]
    final = {(row["view"], row.get("rounding")): row for row in summary["final"]}
    full, nearest, random = final["full", None], final["cast", "nearest_even"], final["cast", "stochastic"]
    assert full["bits_per_byte"] == pytest.approx(full["loss"] / 0.6931472, rel=0.01)  # bytes are the tokens
    assert full["loss"] != nearest["loss"] != random["loss"] and random["loss_sd"] > 0

    config = load(tmp_path / "run" / "config.toml")
    assert config.train.steps == 40 and config.data.sources == (tree["data"]["sources"][0],)
    table = pyarrow.parquet.read_table(tmp_path / "run" / "metrics.parquet")
    assert table.column_names == list(COLUMNS) and table.num_rows == len(rows)
    assert table.column("loss").to_pylist() == [row["loss"] for row in rows]
    assert [p.name for p in sorted((tmp_path / "run" / FOLDER).iterdir())] == [
        "step-00000040.json",
        "step-00000040.safetensors",
    ]

    model = GPT(config.model, vocab=257)
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"), strict=False)
    from dither.train.evaluate import mean_loss

    loss, _ = mean_loss(model, open_tokens(config.data), config.model.context, 256)
    assert loss == full["loss"]


def test_a_run_is_repeatable_and_accumulation_changes_rounding_only(tiny, tmp_path: Path) -> None:
    for name, settings in (("a", {}), ("b", {}), ("parts", {"accumulate": 4}), ("seed", {"seed": 1})):
        train(tiny(train=settings), tmp_path / name, progress=Silent())
    a, b, parts, seed = (metrics(tmp_path / name) for name in ("a", "b", "parts", "seed"))
    assert a == b
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in a], rel=1e-4)
    assert a[0]["loss"] != seed[0]["loss"]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "wsd_sqrt", "constant"])
def test_the_learning_rate_follows_the_schedule_and_clipping_bounds_the_norm(
    tiny, tmp_path, schedule
) -> None:
    train(tiny(train={"schedule": schedule, "clip": 0.01}), tmp_path / schedule, progress=Silent())
    rates = [row["lr"] for row in read(tmp_path / schedule) if row["kind"] == "train"]
    assert rates[0] == pytest.approx(0.005) and max(rates) == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.01 if schedule == "constant" else 0.001)


def test_options_of_model_and_loss_reach_the_run(tiny, tmp_path) -> None:
    """Every option changes what is trained, and the run ends with finite losses."""
    arms = {
        "plain": {},
        "ssnorm": {"model": {"norm": "ssnorm"}},
        "bare": {"model": {"norm": "layernorm", "norm_affine": False}},
        "depth": {"model": {"layers": 2, "norm_by_depth": True}},
        "projected": {"model": {"embed_projection": True}},
        "stablemax": {"model": {"softmax": "stablemax"}},
        "z": {"train": {"z_loss": 0.01}},
        "orthograd": {"train": {"orthograd": True}},
    }
    losses = {
        name: train(tiny(**tree), tmp_path / name, progress=Silent())["final"][0]["loss"]
        for name, tree in arms.items()
    }
    assert all(math.isfinite(loss) for loss in losses.values()) and len(set(losses.values())) == len(arms)


def test_a_nan_stops_the_run_names_the_step_and_keeps_the_checkpoint(
    tiny, tmp_path: Path, monkeypatch
) -> None:
    entropy = torch.nn.functional.cross_entropy
    calls = [0]

    def broken(logits, targets, reduction="mean"):
        calls[0] += reduction == "mean"
        return entropy(logits * float("nan") if calls[0] == 7 else logits, targets, reduction=reduction)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", broken)
    with pytest.raises(
        DivergedError, match=r"the loss is nan at step 7; the checkpoint of step 4 is kept"
    ) as caught:
        train(tiny(), tmp_path / "run", progress=Silent())
    assert caught.value.step == 7
    assert [row["step"] for row in read(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    monkeypatch.undo()
    train(None, tmp_path / "run", resume=True, progress=Silent())
    assert len(read(tmp_path / "run")) == 13


def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path: Path, monkeypatch) -> None:
    step = torch.optim.AdamW.step

    def broken(self, closure=None):
        step(self)
        if float(next(iter(self.state.values()))["step"]) == 8:  # the loss of step 8 was finite
            self.param_groups[0]["params"][0].data[0, 0] = float("nan")

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(DivergedError, match=r"weights is nan at step 8; the checkpoint of step 4 is kept"):
        train(tiny(), tmp_path / "run", progress=Silent())
    assert not (tmp_path / "run" / FOLDER / "step-00000008.json").exists()


def test_a_diverging_learning_rate_is_reported(tiny, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"Lower train.lr"):
        train(tiny(train={"lr": 1e30, "clip": 0, "warmup": 0}), tmp_path / "run", progress=Silent())


def test_a_warm_up_that_outlasts_the_run_is_said(tiny, tmp_path: Path) -> None:
    said = Silent()
    train(tiny(train={"steps": 2}), tmp_path / "run", progress=said)
    assert any("the learning rate stays below train.lr" in line for line in said.lines)


def test_a_used_directory_is_never_written_to(tiny, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run", progress=Silent())
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"already holds a run; resume it .* or name another directory"):
        train(tiny(), tmp_path / "run", progress=Silent())
    assert (
        train(tiny(), tmp_path / "run", resume=True, progress=Silent())["steps"] == 12
    )  # finished: as it is
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tmp-1").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(UserError, match=r"is not empty|holds no run"):
            train(tiny(), tmp_path / "other", resume=resume, progress=Silent())
    assert (tmp_path / "other" / "thesis.tmp-1").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"is a file"):
        train(tiny(), tmp_path / "file", progress=Silent())
    for name in ("file/below", "x" * 300, "\udcff"):
        with pytest.raises(UserError, match="name another directory"):
            train(tiny(), tmp_path / name, progress=Silent())


def test_a_directory_in_use_is_refused(tiny, tmp_path: Path) -> None:
    from dither.train.rundir import RunDirectory

    with RunDirectory(tmp_path / "run"):
        with pytest.raises(UserError, match=r"in use by another process"):
            train(tiny(), tmp_path / "run", progress=Silent())
    train(tiny(train={"steps": 1}), tmp_path / "run", progress=Silent())


class FillDisk(Silent):
    """At step 6, forbid files beyond a size: every later write that exceeds it fails like one on a full
    disk."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def step(self, row) -> None:
        if row["step"] == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))


@pytest.mark.parametrize(("limit", "name"), [(20_000, "step-00000008.safetensors"), (600, "metrics.jsonl")])
def test_a_full_disk_is_named_and_the_run_goes_on_after_it(tiny, tmp_path: Path, limit, name) -> None:
    train(tiny(), tmp_path / "reference", progress=Silent())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match=rf"{name} could not be written: .* resume the run"):
            train(tiny(), tmp_path / "run", progress=FillDisk(limit))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "run" / FOLDER / "step-00000004.json").exists()
    assert not list((tmp_path / "run").rglob("*.tmp-*"))
    train(None, tmp_path / "run", resume=True, progress=Silent())
    assert metrics(tmp_path / "run") == metrics(tmp_path / "reference")


def test_errors_of_configuration_and_data_come_before_anything_is_trained(tiny, tmp_path: Path) -> None:
    for sections, message in (
        ({"eval": {"casts": ["int4_g33"]}}, r"eval.casts = 'int4_g33'"),
        ({"recipe": {"name": "mxfp9"}}, r"\[recipe\].*mxfp9.*did you mean 'mxfp"),
        ({"recipe": {"fprop_w": "intt4"}}, r"recipe.fprop_w = 'intt4'"),
        ({"recipe": {"name": "mxfp8", "exempt": ["*.nothing"]}}, r"\[recipe\].*nothing"),
        (
            {"method": {"name": "qat", "quantizer": "int4", "options": {"lamm": 1}}},
            r"unknown option 'lamm' of qat",
        ),
        (
            {"method": {"name": "lotion", "quantizer": "int4", "options": {"lamm": 1}}},
            r"'lamm' of lotion \(did you mean 'lam'",
        ),
        ({"method": {"name": "lotion", "quantizer": "mxfp4"}}, r"\[method\].*clips"),
        *(
            (
                {"method": {"name": "lotion", "quantizer": "int4", "options": {key: value}}},
                rf"options\] {key} must be",
            )
            for key, value in {
                "scale_grad": "maybe",
                "n_eff": "many",
                "lam": "x",
                "every": 2.5,
                "sites": [3],
            }.items()
        ),
        (
            {"method": {"name": "qat", "quantizer": "int4"}, "recipe": {"name": "mxfp8"}},
            r"both quantize the weights",
        ),
        ({"data": {"sources": [str(tmp_path / "nowhere")]}}, r"nowhere: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny(**sections), tmp_path / "run", progress=Silent())
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"only resume=True makes sense"):
        train(None, tmp_path / "run", progress=Silent())


def test_the_random_state_of_torch_is_left_alone(tiny, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tiny(train={"steps": 2}), tmp_path / "run", progress=Silent())
    assert torch.equal(torch.get_rng_state(), before)


def test_plain_progress_prints_lines(tiny, tmp_path: Path, capsys) -> None:
    train(tiny(), tmp_path / "run")
    out = capsys.readouterr().out
    assert "run: step 12/12 loss" in out and "tokens/s" in out and "s left" in out
    assert "validation" in out and "bits/byte (full precision)" in out and "corpus " in out


def test_live_progress_shows_loss_rate_and_time(tiny, tmp_path: Path, monkeypatch) -> None:
    import io

    from rich.console import Console

    from dither.train.progress import LiveProgress

    live = LiveProgress()
    live.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    train(tiny(), tmp_path / "run", progress=live)
    text = live.console.file.getvalue()  # type: ignore[attr-defined]
    assert "12/12" in text and "tokens/s" in text and "full precision" in text


def test_the_method_and_recipe_act_on_the_training_model_and_the_evaluation_is_plain(
    tiny, tmp_path: Path
) -> None:
    plain = {}
    for name, sections in (
        ("fp32", {}),
        ("ptq", {"method": {"name": "ptq", "quantizer": "int4_g32"}}),
        ("mxfp4", {"recipe": {"name": "mxfp4"}}),
        ("sites", {"recipe": {"name": "mxfp4", "sites": list(SITES)}}),
        ("qat", {"method": {"name": "qat", "quantizer": "int2_g32"}}),
        ("rat", {"method": {"name": "rat", "quantizer": "int4_g32"}}),
        ("lotion", {"method": {"name": "lotion", "quantizer": "int4_g32", "options": {"lam": 1.0}}}),
    ):
        summary = train(tiny(**sections, eval={"casts": ["int2_g32"]}), tmp_path / name, progress=Silent())
        plain[name] = {(r["view"], r.get("rounding")): r["loss"] for r in summary["final"]}
    assert plain["ptq"] == plain["fp32"]
    fulls = [plain[name]["full", None] for name in ("fp32", "mxfp4", "sites", "qat", "rat", "lotion")]
    assert len(set(fulls)) == 6  # each trained differently
    assert plain["mxfp4"]["recipe", None] != plain["mxfp4"]["full", None]
    assert ("recipe", None) not in plain["fp32"]
    first = {name: read(tmp_path / name)[0]["loss"] for name in plain}
    assert (
        first["fp32"] == first["lotion"] != first["qat"]
    )  # the penalty is not part of the loss; qat's forward is
    penalties = [row["penalty"] for row in read(tmp_path / "lotion") if row["kind"] == "train"]
    assert penalties[0] == 0 and penalties[-1] > 0
    states = {json.loads((tmp_path / name / "run.json").read_text())["initial_state"] for name in plain}
    assert len(states) == 1
    assert GPTConfig().layers  # the default configuration is a valid one
