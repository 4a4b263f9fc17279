"""The run directory: claimed once, never overwritten, explaining itself.

config.toml          the resolved configuration; training from it repeats the run
run.json             what the run found: corpus hash, hash of the initial weights, parameters, versions
metrics.jsonl        rows while running      metrics.parquet  all rows when done
checkpoints/         see dither.train.checkpoint
model.safetensors    the trained weights     summary.json     written last: its presence says that the run
is done
scores.parquet       with eval.scores or train.subset: see dither.train.scoring
tests.parquet        with train.subset: the same of windows of the validation split
tensorboard/ wandb/  with train.tensorboard, train.wandb: see dither.train.sinks
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from dither.errors import UserError
from dither.files import disk_errors, locked, write_json, write_text
from dither.train import config as configuration
from dither.train.config import RunConfig
from dither.train.toml import dump_toml, to_dict

CONFIG, RUN, SUMMARY, LOCK = "config.toml", "run.json", "summary.json", ".lock"
WRITTEN_ASIDE = (CONFIG, RUN, SUMMARY, "metrics.parquet", "model.safetensors", "report.html",
                 "scores.parquet", "tests.parquet", "wandb.id")  # fmt: skip
# keys that change neither weights nor metrics, and may differ when a run is resumed
FREE = {("train", key) for key in ("checkpoint_every", "keep", "tensorboard", "wandb")}


class RunDirectory:
    """A directory held by this process while the `with` block lasts; a second process is refused."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self._made = False

    def __enter__(self) -> RunDirectory:
        try:
            os.fspath(self.path).encode()
        except UnicodeEncodeError:
            raise UserError(f"{os.fspath(self.path)!r} is no Unicode name; name another directory") from None
        try:
            self._made = not self.path.exists()
            with disk_errors(self.path, "Free some space or choose a directory on another disk."):
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileExistsError:
            raise UserError(f"{self.path} is a file; name a directory for the run") from None
        except PermissionError:
            raise UserError(
                f"{self.path} cannot be written (permission denied); name another directory"
            ) from None
        except OSError as error:  # a path below a file, a name too long, a read-only disk
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}); name another directory"
            ) from None
        if not locked(self._lock):
            os.close(self._lock)
            raise UserError(
                f"{self.path} is in use by another process; wait for it or name another directory"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        begun = any(p.name != LOCK for p in self.path.iterdir())
        if self._made and not begun:  # leave no trace
            (self.path / LOCK).unlink()
            self.path.rmdir()
        os.close(self._lock)

    def check_unused(self) -> None:
        """Raise UserError where anything lies in the directory."""
        self._remove_leftovers()
        if (self.path / CONFIG).exists():
            raise UserError(
                f"{self.path} already holds a run; resume it (resume=True, --resume) or name another "
                "directory"
            )
        if others := sorted(p.name for p in self.path.iterdir() if p.name != LOCK):
            raise UserError(f"{self.path} is not empty (it holds {others[0]}); name a new or empty directory")

    def claim(self, config: RunConfig) -> None:
        """Take the directory by writing config.toml, unless that was done before."""
        if (self.path / CONFIG).exists():
            return
        with disk_errors(self.path, "Free some space or choose a directory on another disk."):
            write_text(self.path / CONFIG, dump_toml(to_dict(config)))

    def continue_(self, config: RunConfig | None) -> RunConfig:
        """The recorded configuration. Raises UserError where `config` differs in a key that matters."""
        self._remove_leftovers()
        if not (self.path / CONFIG).exists():
            if config is None or self._made or any(p.name != LOCK for p in self.path.iterdir()):
                raise UserError(f"{self.path} holds no run to resume (no {CONFIG}); start it without resume")
            # killed before its first file was written
            return configuration.resolve(config, torch.get_num_threads())
        recorded = configuration.load(self.path / CONFIG)
        if config is None:
            return recorded
        config = configuration.resolve(config, recorded.train.threads)
        changes = list(_differences(to_dict(recorded), to_dict(config), ()))
        if changes:
            raise UserError(
                f"{self.path} was started with another configuration: {'; '.join(changes)}. Resume it "
                "with its own "
                "configuration, or start the new one in another directory"
            )
        return config

    def _remove_leftovers(self) -> None:
        """What a killed writer of this package left (dither.files.replacing), and nothing else."""
        for name in WRITTEN_ASIDE:
            for leftover in self.path.glob(f"{name}.tmp-*"):
                leftover.unlink()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], parents: tuple[str, ...]):
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, (*parents, key))
        elif a != b and (*parents, key) not in FREE:
            yield f"{'.'.join((*parents, key))} was {a!r} and is now {b!r}"


def check_info(run_dir: Path, info: Mapping[str, Any]) -> None:
    """Record what the run stands on; UserError where it was started on something else."""
    path = run_dir / RUN
    if not path.exists():
        write_json(path, info)
        return
    recorded = json.loads(path.read_text())
    for key, what in (
        ("corpus", "the corpus has changed"),
        ("tokens", "the order of the documents or the tokenizer has changed"),
        ("initial_state", "the initial weights differ"),
    ):
        if recorded.get(key, info[key]) != info[key]:
            raise UserError(
                f"{run_dir} cannot be resumed: {what} since it was started ({recorded[key][:16]} then, "
                f"{info[key][:16]} now); restore the files and versions of then, or train in "
                "another directory"
            )


def read_summary(run_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The summary of a finished run, None for one that is not finished."""
    try:
        return json.loads((Path(run_dir) / SUMMARY).read_text())
    except FileNotFoundError:
        return None
