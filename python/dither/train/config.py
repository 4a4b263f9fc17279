"""The configuration of a run: frozen dataclasses read from TOML, checked by hand, written back canonically.

    [model] shape      [data] corpus        [train] optimizer, schedule, length
    [eval]  what is measured   [recipe] quantizers of the GEMM operands   [method] how the objective treats
    them

`load` reads a file, applies overrides such as {"train.steps": 100} and raises UserError for anything it does
not know, with the nearest name. `resolve` fills in what depends on the machine or on other keys (threads,
steps from tokens), so that the `config.toml` of a run directory repeats the run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dither import methods
from dither.errors import UserError, suggest
from dither.models.gpt import GPTConfig
from dither.optim.averaging import KINDS
from dither.optim.schedules import SCHEDULES
from dither.train.toml import build, read_toml, set_keys

STDLIB = "stdlib"  # the source that is the running Python's own standard library
OPERANDS = ("fprop_x", "fprop_w", "dgrad_g", "dgrad_w", "wgrad_g", "wgrad_x")
AVERAGES = ("none", *KINDS)
METHODS = ("none", *methods.names())


@dataclass(frozen=True)
class DataConfig:
    """`sources`: files, folders or "stdlib" (the running Python's standard library source). `validation`:
    share of the documents held out, unless `validation_sources` names them. `tokenizer`: "bytes", the path of
    a HF tokenizer.json, or "none" for sources that are token ids already (then `vocab` is needed). `include`
    and `exclude`: globs for the files of a folder. `reference`: content hash (or its beginning) of the corpus
    that published figures were measured on; a run on another corpus says that it cannot be compared with
    them."""

    sources: tuple[str, ...] = ("stdlib",)
    validation_sources: tuple[str, ...] = ()
    validation: float = 0.1
    split_seed: int = 0
    tokenizer: str = "bytes"
    vocab: int = 0
    end_of_document: str = ""
    text_key: str = "text"
    token_dtype: str = "uint16"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    reference: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """One step consumes `batch` sequences in `accumulate` equal microbatches. Exactly one of `steps` and
    `tokens` is given. `schedule`: see dither.optim.schedules; `warmup` counts steps; `final_lr` is a fraction
    of `lr`; `decay` is the fraction of all steps in which `wsd` and `wsd_sqrt` decay. `clip` 0 switches
    clipping off; `z_loss` is the weight of the squared log normaliser (dither.models.losses); `orthograd`
    takes from gradients what is parallel to the weights (dither.optim.orthograd). `average` ("none", "ema"
    with `average_decay`, "tail"): of the weights after the part `average_from` of the steps, which is then
    measured and written (dither.train.averaging). `subset`: the share of the training windows that is
    trained on, drawn by `seed`; runs of other seeds have other subsets (dither.scores.SubsetRuns; with one,
    windows are not cut anew in every epoch). `checkpoint_every` 0 leaves
    one checkpoint at the end. `tensorboard` and `wandb` (a project) say who else gets the metrics
    (dither.train.sinks)."""

    steps: int = 0
    tokens: int = 0
    batch: int = 16
    accumulate: int = 1
    lr: float = 3e-3
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    schedule: str = "cosine"
    warmup: int = 20
    final_lr: float = 0.1
    decay: float = 0.2
    clip: float = 1.0
    z_loss: float = 0.0
    orthograd: bool = False
    seed: int = 0
    threads: int = 0
    average: str = "none"
    average_from: float = 0.8
    average_decay: float = 0.999
    subset: float = 1.0
    checkpoint_every: int = 100
    keep: int = 2
    tensorboard: bool = False
    wandb: str = ""


@dataclass(frozen=True)
class EvalConfig:
    """`every` steps (0: only at the end) on `tokens` tokens of the validation split, at the end on
    `final_tokens` (0: as `tokens`). `casts` are quantizers the linear weights are cast with: rounded to
    nearest, and randomized with `draws` draws at the end and one on the way. `scores` names scores of
    dither.scores.SCORES that windows of the training data get at every measurement, on `score_tokens` tokens
    (0: as `tokens`); they go into scores.parquet (dither.train.scoring)."""

    every: int = 0
    tokens: int = 65536
    final_tokens: int = 0
    casts: tuple[str, ...] = ()
    draws: int = 4
    scores: tuple[str, ...] = ()
    score_tokens: int = 0


@dataclass(frozen=True)
class RecipeConfig:
    """A preset of dither.nn.Recipe; an operand that is set here overrides it (a quantizer, or "none")."""

    name: str = "fp32"
    fprop_x: str = ""
    fprop_w: str = ""
    dgrad_g: str = ""
    dgrad_w: str = ""
    wgrad_g: str = ""
    wgrad_x: str = ""
    sites: tuple[str, ...] = ("linear",)
    exempt: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodConfig:
    """A method of dither.methods with its quantizer; `options` are handed to it (see dither.train.wiring)."""

    name: str = "none"
    quantizer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    model: GPTConfig = field(default_factory=GPTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    method: MethodConfig = field(default_factory=MethodConfig)


def load(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Read, override and check a configuration (a TOML path, or the dict it would give)."""
    where = "the configuration" if isinstance(source, Mapping) else os.fspath(source)
    tree = dict(source) if isinstance(source, Mapping) else read_toml(source)
    if "arm" in tree:
        raise UserError(f"{where} lists the arms of a comparison; run it with `dither compare`")
    if "grid" in tree or "run" in tree:
        raise UserError(f"{where} lists the runs of a grid; train them with `dither sweep`")
    return from_dict(apply_overrides(tree, overrides or {}), where)


def apply_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `tree` with "section.key" set to each value. Of steps and tokens, which exclude each other,
    the one given here wins over the one in the file."""
    result = set_keys(tree, overrides)
    for given, other in (("steps", "tokens"), ("tokens", "steps")):
        if f"train.{given}" in overrides and f"train.{other}" not in overrides:
            result["train"].pop(other, None)
    return result


def from_dict(tree: Mapping[str, Any], where: str) -> RunConfig:
    """Build and check the dataclasses from nested dicts; `where` stands in the error messages."""
    config = build(RunConfig, tree, where)
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return config


def check(config: RunConfig) -> None:
    """Raise UserError for values that cannot be meant. Quantizers and recipes are checked by their own
    names."""
    train, data, evaluation = config.train, config.data, config.eval
    if bool(train.steps) == bool(train.tokens):
        raise UserError("set exactly one of train.steps and train.tokens")
    for name, value, low in (
        ("train.steps", train.steps, 0), ("train.tokens", train.tokens, 0), ("train.batch", train.batch, 1),
        ("train.accumulate", train.accumulate, 1), ("train.warmup", train.warmup, 0),
        ("train.keep", train.keep, 1),
        ("train.threads", train.threads, 0), ("train.checkpoint_every", train.checkpoint_every, 0),
        ("train.seed", train.seed, 0), ("data.split_seed", data.split_seed, 0), ("train.clip", train.clip, 0),
        ("train.weight_decay", train.weight_decay, 0), ("train.z_loss", train.z_loss, 0),
        ("eval.every", evaluation.every, 0),
        ("eval.tokens", evaluation.tokens, 1), ("eval.final_tokens", evaluation.final_tokens, 0),
        ("eval.draws", evaluation.draws, 0), ("eval.score_tokens", evaluation.score_tokens, 0),
        ("data.vocab", data.vocab, 0),
    ):  # fmt: skip
        if not (value >= low and math.isfinite(value)):
            raise UserError(f"{name} must be at least {low}, not {value}")
    if max(train.seed, data.split_seed) >= 1 << 63:
        raise UserError("train.seed and data.split_seed must be below 2^63")
    if train.batch % train.accumulate:
        raise UserError(f"train.accumulate = {train.accumulate} must divide train.batch = {train.batch}")
    if (size := train.batch // train.accumulate * config.model.context) >= 1 << 31:
        raise UserError(
            f"a microbatch of train.batch / train.accumulate sequences would hold {size:,} tokens, more than "
            "any memory takes; lower train.batch or raise train.accumulate"
        )
    if not (train.lr > 0 and math.isfinite(train.lr) and train.eps > 0):
        raise UserError(f"train.lr = {train.lr} and train.eps = {train.eps} must be positive")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise UserError(f"train.betas must be two numbers in [0, 1), not {list(train.betas)}")
    if train.schedule not in SCHEDULES:
        near = suggest(train.schedule, SCHEDULES)
        raise UserError(f"train.schedule {train.schedule!r} is unknown{near}; known: {', '.join(SCHEDULES)}")
    if train.average not in AVERAGES:
        near = suggest(train.average, AVERAGES)
        raise UserError(f"train.average {train.average!r} is unknown{near}; known: {', '.join(AVERAGES)}")
    if not (0 <= train.average_from < 1 and 0 <= train.average_decay < 1):
        raise UserError("train.average_from and train.average_decay lie in [0, 1)")
    if not 0 < train.subset <= 1:
        raise UserError(
            f"train.subset = {train.subset} is a share of the training data, above 0 and at most 1"
        )
    if not (0 <= train.final_lr <= 1 and 0 <= train.decay <= 1):
        raise UserError("train.final_lr and train.decay are fractions between 0 and 1")
    if config.model.softmax != "softmax" and (train.z_loss or evaluation.scores or train.subset < 1):
        raise UserError(
            "train.z_loss, train.subset and eval.scores take the softmax of logits, and model.softmax is "
            f"{config.model.softmax!r}; leave them out, or use 'softmax'"
        )
    if not data.sources:
        raise UserError('data.sources is empty; name files or folders, or "stdlib"')
    if not 0 < data.validation < 1:
        raise UserError(f"data.validation must lie between 0 and 1, not {data.validation}")
    if data.token_dtype not in ("uint16", "uint32"):
        raise UserError(f"data.token_dtype must be 'uint16' or 'uint32', not {data.token_dtype!r}")
    if data.tokenizer == "none" and not data.vocab:
        raise UserError("data.tokenizer = 'none' needs data.vocab, the number of token ids")
    if data.tokenizer != "none" and data.vocab:
        raise UserError(f"data.tokenizer = {data.tokenizer!r} has its own vocabulary; leave data.vocab out")
    if data.tokenizer == "bytes" and data.end_of_document:
        raise UserError("data.tokenizer = 'bytes' ends documents with its id 256; leave end_of_document out")
    if config.method.name not in METHODS and ":" not in config.method.name:  # of your own: methods.get says
        near = suggest(config.method.name, METHODS)
        raise UserError(f"method.name {config.method.name!r} is unknown{near}; known: {', '.join(METHODS)}")
    if config.method.name != "none" and not config.method.quantizer:
        raise UserError(
            f'method.name = "{config.method.name}" needs method.quantizer, for example "int4_g32"'
        )


def resolve(config: RunConfig, threads: int) -> RunConfig:
    """Fill in what the run must not depend on later: the steps that `tokens` asks for (rounded up), the
    number of threads, and absolute paths (given ones are relative to the current directory)."""
    train, data = config.train, config.data
    steps = train.steps or math.ceil(train.tokens / (train.batch * config.model.context))

    def absolute(name: str) -> str:
        if name in (STDLIB, "bytes", "none"):
            return name
        path = str(Path(os.path.expanduser(name)).absolute())
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{path!r} is no Unicode name and cannot be recorded in config.toml; rename it"
            ) from None
        return path

    data = replace(
        data, tokenizer=absolute(data.tokenizer), sources=tuple(map(absolute, data.sources)),
        validation_sources=tuple(map(absolute, data.validation_sources)),
    )  # fmt: skip
    train = replace(train, steps=steps, tokens=0, threads=train.threads or threads)
    return replace(config, data=data, train=train)
