"""`dither train CONFIG`: train one model and write its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dither import report
from dither.cli.overrides import Overrides, given, split_method_options
from dither.cli.place import choose
from dither.cli.terminal import parse
from dither.errors import UserError
from dither.train import train


@dataclass(frozen=True)
class Arguments:
    """Train one model from a TOML configuration; a key is overridden by its dotted name (--train.steps 100).

    Options of a method are set by --method.options.NAME VALUE. The run directory gets config.toml, metrics,
    checkpoints, the weights and report.html.
    """

    config: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = None
    """the TOML file; may be left out with --resume --out DIR"""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """the run directory; by default runs/ and the name of the file, numbered where it is taken"""
    resume: bool = False
    """go on with the run in DIR from its last checkpoint; the metrics become those of a run never stopped"""
    keys: Annotated[Overrides, tyro.conf.arg(name="")] = field(default_factory=Overrides)  # type: ignore[valid-type]


def main(arguments: Sequence[str]) -> int:
    """Run `dither train`. Raises UserError for everything the user can cause."""
    rest, options = split_method_options(arguments)
    parsed = parse("train", Arguments, rest)
    if parsed.config is None and not (parsed.resume and parsed.out):
        raise UserError(
            "name a TOML configuration (or --resume --out DIR to go on with a run); examples/ has some"
        )
    overrides = given(parsed.keys) | options
    out = choose(parsed.config, parsed.out, parsed.resume)
    train(parsed.config, out, resume=parsed.resume, overrides=overrides)
    print(f"report: {report.write(out)}")
    return 0
