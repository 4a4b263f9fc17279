"""`train.wandb = "project"`: rows to Weights & Biases.

Entity, server and mode are those of wandb's own environment variables; `WANDB_MODE=offline` needs no account
and no network, and writes into the run directory what `wandb sync` uploads later.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import wandb

from dither.errors import UserError
from dither.files import write_text
from dither.train.config import RunConfig
from dither.train.sinks import scalars
from dither.train.toml import to_dict

ID = "wandb.id"
"""The file of a run directory with wandb's name of the run, under which a resumed run goes on."""


class Wandb:
    """A run of wandb that has the run directory's name and configuration. Rows of steps that it has already,
    from before a run was resumed, are passed over by wandb: they are the same. UserError where wandb refuses
    to begin."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        path = run_dir / ID
        if not path.exists():
            write_text(path, secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project=config.train.wandb, id=path.read_text(), resume="allow", dir=run_dir,
                name=run_dir.resolve().name, config=to_dict(config),
                settings=wandb.Settings(console="off"),  # standard output stays the caller's
            )  # fmt: skip
        except (
            wandb.Error,
            ValueError,
        ) as error:  # no account, a wrong project; a wrong environment variable
            raise UserError(
                f"train.wandb: {error}; run `wandb login` or set WANDB_MODE=offline, then "
                "resume the run, or start another one without train.wandb"
            ) from error

    def write(self, row: dict[str, Any]) -> None:
        self.run.log(dict(scalars(row)), step=row["step"])

    def close(self) -> None:
        self.run.finish()
