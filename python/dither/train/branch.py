"""A run that begins where another one ended: weights that were trained once, under a method after training
(GPTQ, learned rounding, ...) or under other casts.

The new directory is what its own training would have left behind, because such a method does nothing before
its training ends; `train(..., resume=True)` then finds all steps done and goes on with the final evaluation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dither.errors import UserError
from dither.files import disk_errors, write_json, write_text
from dither.quantizer import Quantizer
from dither.train import checkpoint
from dither.train.config import RunConfig
from dither.train.method import acts_after_training
from dither.train.records import JSONL
from dither.train.rundir import CONFIG
from dither.train.toml import dump_toml, to_dict


def branch(base: Path, config: RunConfig, folder: Path, say: Callable[[str], None]) -> None:
    """Make `folder` a run of `config` at the newest valid checkpoint of the finished run in `base`; `config`
    is resolved and trains as that run did. Does nothing where `folder` exists; it appears whole or not at
    all. UserError where no checkpoint of `base` can be used."""
    if folder.exists():
        return
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a process that was killed in here
        shutil.rmtree(leftover)
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    with disk_errors(folder, "Free some space, then start again."):
        rows = (base / JSONL).read_bytes()
        saved = checkpoint.load_newest(base, len(rows), say)
        if saved is None:
            raise UserError(
                f"{base} has no checkpoint for {folder.name!r} to begin from; restore its "
                f"{checkpoint.FOLDER}, or remove {base}, which is then trained again"
            )
        header = dict(saved.header)
        if acts_after_training(config.method.name):  # its state while it has seen no data; the rest stays
            q, state = Quantizer(config.method.quantizer), header["method"]
            rest = {key: state[key] for key in state.keys() - checkpoint.of_method(state).keys()}
            header["method"] = {"method": config.method.name, "quantizer": str(q), **rest}
        (aside / checkpoint.FOLDER).mkdir(parents=True)
        tensors = aside / checkpoint.FOLDER / saved.path.name
        shutil.copyfile(saved.path, tensors)
        write_json(tensors.with_suffix(".json"), header)
        (aside / JSONL).write_bytes(rows[: header["metrics_bytes"]])
        write_text(aside / CONFIG, dump_toml(to_dict(config)))
        os.replace(aside, folder)
