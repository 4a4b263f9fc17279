"""A run that begins where another one ended: weights that were trained once, under a method after training
(GPTQ, learned rounding, ...) or under other casts.

The new directory is what its own training would have left behind, because such a method does nothing before
its training ends; `train(..., resume=True)` then finds all steps done and goes on with the final evaluation.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from dither.files import disk_errors, write_json, write_text
from dither.quantizer import Quantizer
from dither.train import checkpoint
from dither.train.config import RunConfig
from dither.train.method import acts_after_training
from dither.train.records import JSONL
from dither.train.rundir import CONFIG
from dither.train.toml import dump_toml, to_dict


def branch(base: Path, config: RunConfig, folder: Path) -> None:
    """Make `folder` a run of `config` at the end of the finished run in `base`; `config` is resolved and
    trains as that run did. Does nothing where `folder` exists; it appears whole or not at all."""
    if folder.exists():
        return
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a process that was killed in here
        shutil.rmtree(leftover)
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    with disk_errors(folder, "Free some space, then start again."):
        saved = max((base / checkpoint.FOLDER).glob("step-*.json"))
        header = json.loads(saved.read_text())
        if acts_after_training(config.method.name):  # its state while it has seen no data
            q = Quantizer(config.method.quantizer)
            header["method"] = {"method": config.method.name, "quantizer": str(q)}
        (aside / checkpoint.FOLDER).mkdir(parents=True)
        tensors = saved.with_suffix(".safetensors")
        shutil.copyfile(tensors, aside / checkpoint.FOLDER / tensors.name)
        write_json(aside / checkpoint.FOLDER / saved.name, header)
        (aside / JSONL).write_bytes((base / JSONL).read_bytes()[: header["metrics_bytes"]])
        write_text(aside / CONFIG, dump_toml(to_dict(config)))
        os.replace(aside, folder)
