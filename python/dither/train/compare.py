"""Train the arms of one comparison from the same data and the same initial weights, and put the results side
by side.

    OUT/config.toml   the file as it was given     OUT/plan.json   arms and seeds, resolved
    OUT/<arm>/        a run directory              OUT/seed-<s>/<arm>/ where seeds are listed; one that is
                      evaluated on the weights of another arm (same_as) has the training rows of that one
    OUT/comparison.json

Started again with the same file, or with one that lists further arms or fewer, a comparison goes on where it
was: finished arms are kept, an unfinished one resumes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dither.errors import UserError
from dither.files import disk_errors, write_json, write_text
from dither.paired import Interval, paired_interval
from dither.train import config as configuration
from dither.train import records
from dither.train.branch import branch
from dither.train.config import RunConfig
from dither.train.loop import DivergedError, Run, train
from dither.train.plan import Plan, evaluated_alike, load_plan
from dither.train.progress import Progress, make_progress
from dither.train.tokens import open_tokens
from dither.train.wiring import is_plain

FULL_DISK = "Free some space, then start the comparison again: finished arms are kept."


@dataclass(frozen=True)
class Measure:
    """Validation loss in nats per token, bits per byte (None where unknown), deviation between random
    draws."""

    loss: float | None
    bits_per_byte: float | None
    sd: float | None = None
    draws: int | None = None


@dataclass(frozen=True)
class ArmResult:
    """One arm at one seed. `full`: full precision. `own_recipe`: under the arm's own recipe (None for fp32).
    `nearest`, `randomized`: for each quantizer of the casts. `status`: "done" or "diverged at step N" (then
    without figures). `tokens_per_s` is the rate that one step in ten exceeds: what the arm reaches while the
    machine does little else, so that a load that comes and goes does not decide the comparison. `slow_down`
    is its ratio against the first plain fp32 arm."""

    name: str
    seed: int
    run_dir: str
    status: str
    recipe: str
    method: str
    same_as: str | None = None
    full: Measure | None = None
    own_recipe: Measure | None = None
    nearest: dict[str, Measure] = field(default_factory=dict)
    randomized: dict[str, Measure] = field(default_factory=dict)
    tokens_per_s: float | None = None
    slow_down: float | None = None
    peak_rss_mib: float | None = None


@dataclass(frozen=True)
class Difference:
    """Mean of loss(first) - loss(second) over the seeds, paired. `view`: full, nearest or randomized; `cast`:
    which."""

    first: str
    second: str
    view: str
    cast: str | None
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """What comparison.json holds. `initial_states` maps each seed to the hash of the weights all its arms
    began from."""

    path: str
    arms: list[ArmResult]
    differences: list[Difference]
    corpus: str
    comparable: bool | None
    initial_states: dict[str, str]
    params: int
    steps: int
    tokens: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    config_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run the comparison of a TOML file (dither.train.plan) in `out_dir` and return its record.

    An arm whose loss diverges is recorded as such and the others go on. Raises UserError for a wrong file or
    option, unusable data, a directory that holds something else, a full disk."""
    progress = progress or make_progress()
    out = Path(out_dir)
    plan, content = _resolve(load_plan(config_path, overrides), out)
    shared = plan.arms[0].config
    tokens = open_tokens(shared.data, progress.say)
    for arm in plan.arms:  # what is wrong with the last arm is said before the first one is trained
        try:
            Run(arm.config, out / arm.name, tokens, progress)
        except UserError as error:
            raise UserError(f"arm {arm.name!r}: {error}") from None
    _claim(content, Path(config_path), out)
    arms: list[ArmResult] = []
    states: dict[str, str] = {}
    for seed in plan.seeds or (shared.train.seed,):
        folder = out / f"seed-{seed}" if plan.seeds else out
        results: dict[str, ArmResult] = {}
        for arm in plan.arms:
            config = replace(arm.config, train=replace(arm.config.train, seed=seed))
            if arm.same_as is not None:
                base, method = results[arm.same_as], _method(arm.config)
                if base.full is None or evaluated_alike(arm, plan.arm(arm.same_as)):
                    results[arm.name] = replace(base, name=arm.name, same_as=arm.same_as, method=method)
                    continue
                branch(folder / arm.same_as, config, folder / arm.name, progress.say)
            result = _run(arm.name, config, folder / arm.name, tokens, progress)
            results[arm.name] = replace(result, same_as=arm.same_as)
            info = json.loads((folder / arm.name / "run.json").read_text())
            known = states.setdefault(str(seed), info["initial_state"])
            if info["initial_state"] != known or info["corpus"] != tokens.hash:
                raise UserError(
                    f"{folder / arm.name} began from other weights or data than the arms before it; it "
                    "was not made by this "
                    "comparison: start again in another directory"
                )
        arms += _slow_downs(plan, results)
    comparison = Comparison(
        path=str(out), arms=arms, differences=list(_differences(plan, arms)), corpus=tokens.hash,
        comparable=tokens.hash.startswith(shared.data.reference) if shared.data.reference else None,
        initial_states=states, params=info["params"], steps=shared.train.steps,
        tokens=shared.train.steps * shared.train.batch * shared.model.context, threads=shared.train.threads,
    )  # fmt: skip
    with disk_errors(out / "comparison.json", FULL_DISK):
        write_json(out / "comparison.json", comparison.to_dict())
    return comparison


def _resolve(plan: Plan, out: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan with all that the machine decides (threads are those of the first start), and what plan.json
    holds. UserError where `out` holds something else."""
    recorded = None
    if out.is_file():
        raise UserError(f"{out} is a file; name a directory for the comparison")
    if (out / "plan.json").exists():
        recorded = json.loads((out / "plan.json").read_text())
    elif out.exists() and any(not p.name.startswith("plan.json.tmp-") for p in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no comparison; name a new or empty directory")
    threads = recorded["threads"] if recorded else torch.get_num_threads()
    resolved = tuple(replace(arm, config=configuration.resolve(arm.config, threads)) for arm in plan.arms)
    plan = replace(plan, arms=resolved)
    content = json.loads(json.dumps({"threads": threads, **plan.to_dict()}))
    if recorded is not None and not _continues(recorded, content):
        raise UserError(
            f"{out} holds a comparison with another plan; to go on with it, give the configuration and "
            "options it was "
            "started with (OUT/config.toml, OUT/plan.json), or name another directory".replace(
                "OUT", str(out)
            )
        )
    return plan, content


def _continues(recorded: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether the plan is the recorded one but for arms that only one of them lists, and for differences."""
    fixed = recorded.keys() - {"arms", "differences"}
    before = {arm["name"]: arm for arm in recorded["arms"]}
    return all(recorded[key] == content[key] for key in fixed) and all(
        before.get(arm["name"], arm) == arm for arm in content["arms"]
    )


def _claim(content: dict[str, Any], config_path: Path, out: Path) -> None:
    """Take the directory by writing config.toml and plan.json, unless they say the same already."""
    with disk_errors(out, FULL_DISK):
        out.mkdir(parents=True, exist_ok=True)
        plan = out / "plan.json"
        if not plan.exists() or json.loads(plan.read_text()) != content:
            write_text(out / "config.toml", config_path.read_text(encoding="utf-8"))
            write_json(plan, content)


def _run(name: str, config: RunConfig, folder: Path, tokens: Any, progress: Progress) -> ArmResult:
    started = folder.exists()
    common = {"name": name, "seed": config.train.seed, "run_dir": str(folder), "recipe": config.recipe.name,
              "method": _method(config)}  # fmt: skip
    try:
        summary = train(config, folder, resume=started, progress=progress, tokens=tokens)
    except DivergedError as error:
        progress.say(str(error))
        return ArmResult(**common, status=f"diverged at step {error.step}")
    measures: dict[tuple[str, str | None, str | None], Measure] = {}
    for row in summary["final"]:
        measure = Measure(row["loss"], row["bits_per_byte"], row.get("loss_sd"), row.get("draws"))
        measures[row["view"], row.get("cast"), row.get("rounding")] = measure
    rates = [row["tokens_per_s"] for row in records.read(folder) if row["kind"] == "train"]
    rate = float(np.quantile(rates, 0.9))
    return ArmResult(
        **common, status="done",
        full=measures["full", None, None], own_recipe=measures.get(("recipe", None, None)),
        nearest={c: m for (_, c, how), m in measures.items() if c and how == "nearest_even"},
        randomized={c: m for (_, c, how), m in measures.items() if c and how == "stochastic"},
        tokens_per_s=rate, peak_rss_mib=summary["peak_rss_mib"],
    )  # fmt: skip


def _method(config: RunConfig) -> str:
    return (
        config.method.name
        if config.method.name == "none"
        else f"{config.method.name} {config.method.quantizer}"
    )


def _slow_downs(plan: Plan, results: dict[str, ArmResult]) -> list[ArmResult]:
    """Divide the rate of the first arm without recipe and method by each arm's."""
    for arm in plan.arms:
        rate = results[arm.name].tokens_per_s
        if is_plain(arm.config.recipe) and arm.config.method.name == "none" and rate:
            return [
                replace(r, slow_down=rate / r.tokens_per_s if r.tokens_per_s else None)
                for r in results.values()
            ]
    return list(results.values())


def _differences(plan: Plan, arms: list[ArmResult]):
    """Every measure that both arms have at every seed."""
    for first, second in plan.differences:
        pair = [[arm for arm in arms if arm.name == name] for name in (first, second)]
        for view, cast in _views(pair[0][0]):
            a, b = ([_loss(arm, view, cast) for arm in side] for side in pair)
            if all(loss is not None for loss in a + b):
                yield Difference(first, second, view, cast, paired_interval(a, b))  # type: ignore[arg-type]


def _views(arm: ArmResult) -> list[tuple[str, str | None]]:
    return [
        ("full", None),
        *(("nearest", c) for c in arm.nearest),
        *(("randomized", c) for c in arm.randomized),
    ]


def _loss(arm: ArmResult, view: str, cast: str | None) -> float | None:
    measure = arm.full if view == "full" else getattr(arm, view).get(cast)
    return None if measure is None else measure.loss
