"""`dither formats [NAME]`: what the number formats and presets are, in the words of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from dither import formats
from dither.cli.terminal import console, parse
from dither.errors import UserError, suggest
from dither.formats import Format
from dither.functions import decode
from dither.quantizer import Quantizer

CARRIERS = ("bf16", "fp16", "tf32")


@dataclass(frozen=True)
class Arguments:
    """Show every number format and preset, or one of them with its values."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """a format (e4m3, int4, any eXmY) or a preset (mxfp8_e4m3, int4_g32); without it: all of them"""


def number(value: float) -> str:
    """A value of a format in its shortest exact-looking form: 448, 0.001953125, 1.18e-38."""
    text = f"{value:.10g}"
    return text if len(text) <= 12 else f"{value:.5g}"


def specials(fmt: Format) -> str:
    """What the format has besides finite non-zero numbers: `inf NaN -0`, or a dash."""
    have = {"inf": fmt.has_inf, "NaN": fmt.has_nan, "-0": fmt.has_neg_zero, "no 0": not fmt.has_zero}
    return " ".join(word for word, present in have.items() if present) or "-"


def exact_in(fmt: Format, carrier: Format) -> bool:
    """Whether every finite value of `fmt` is a value of `carrier`.

    A value of `fmt` is a multiple of 2^(emin - mbits) with at most mbits + 1 significant bits and at most
    `max`.
    """
    return (
        fmt.mbits <= carrier.mbits
        and fmt.emin - fmt.mbits >= carrier.emin - carrier.mbits
        and fmt.max <= carrier.max
    )


def carriers(fmt: Format) -> str:
    return " ".join(name for name in CARRIERS if exact_in(fmt, formats.get(name))) or "-"


def formats_table() -> Table:
    table = Table(title="formats", title_justify="left")
    for heading in ("name", "bits", "exponent", "mantissa", "bias", "max", "min normal", "min positive"):
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    table.add_column("specials", no_wrap=True)
    table.add_column("exact in", no_wrap=True)
    for name in formats.names():
        fmt = formats.get(name)
        float_only = fmt.kind == "float"
        table.add_row(
            fmt.name,
            str(fmt.bits),
            str(fmt.ebits) if float_only else "-",
            str(fmt.mbits) if float_only else "-",
            str(fmt.bias) if float_only else "-",
            number(fmt.max),
            number(2.0**fmt.emin) if float_only else "-",
            number(fmt.min_positive),
            specials(fmt),
            carriers(fmt),
        )
    return table


def block_words(q: Quantizer) -> str:
    if q.block is None:
        return "cast"
    return f"{q.block} values" if isinstance(q.block, int) else f"one {q.block}"


def presets_table() -> Table:
    table = Table(title="presets (Quantizer names)", title_justify="left")
    for heading in (
        "name",
        "element",
        "scale shared by",
        "scale format",
        "scale rule",
        "rounding",
        "overflow",
    ):
        table.add_column(heading, no_wrap=True)
    for name in Quantizer.presets():
        q = Quantizer(name)
        scale = q.scale_format or "-"
        table.add_row(
            name,
            q.format.name,
            block_words(q),
            f"{scale} + fp32 per tensor" if q.tensor_scale else scale,
            q.scale_rule or "-",
            q.rounding,
            q.overflow,
        )
    return table


def value_table(fmt: Format) -> Table:
    """All codes of a format of at most 8 bits: rows are the high bits, columns the low four (or fewer)."""
    low = min(4, fmt.bits - fmt.bits // 2)
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    values = decode(codes, fmt.name).reshape(-1, 2**low)
    table = Table(title=f"values by code (row + column, {fmt.bits} bits)", title_justify="left")
    table.add_column("code", no_wrap=True)
    for column in range(2**low):
        table.add_column(f"+{column:x}", justify="right", no_wrap=True)
    for row, line in enumerate(values):
        table.add_row(f"{row << low:02x}", *(f"{value:.4g}" for value in line))
    return table


def show_format(out: Console, fmt: Format) -> None:
    parts = (
        f"{fmt.ebits} exponent and {fmt.mbits} mantissa bits, bias {fmt.bias}"
        if fmt.kind == "float"
        else "integer"
    )
    out.print(f"[bold]{fmt.name}[/bold]: {fmt.bits} bits, {'signed' if fmt.signed else 'unsigned'}, {parts}")
    out.print(
        f"largest {number(fmt.max)}, smallest positive {number(fmt.min_positive)}, specials: {specials(fmt)}"
    )
    if fmt.kind == "float":
        spacing = 2.0 ** (max(0, fmt.emin) - fmt.mbits)
        out.print(f"smallest normal {number(2.0**fmt.emin)}, spacing from 1 to 2 {number(spacing)}")
    out.print(f"every value is exact in: {carriers(fmt)}")
    if fmt.bits <= 8:
        out.print(value_table(fmt))


def show_preset(out: Console, name: str) -> None:
    q = Quantizer(name)
    scale = (
        "no scale (a plain cast)" if q.block is None else f"{q.scale_format} scale shared by {block_words(q)}"
    )
    out.print(f"[bold]{name}[/bold]: {q.format.name} elements, {scale}")
    if q.block is not None:
        second = ", and an fp32 scale for the whole tensor" if q.tensor_scale else ""
        clips = "may clip the largest values of a block" if q.clips else "never clips"
        out.print(f"scale rule {q.scale_rule} ({clips}){second}")
    out.print(f"rounding {q.rounding}, overflow {q.overflow}; as a spec: {q.replace()}")
    out.print()
    show_format(out, q.format)


def main(arguments: Sequence[str]) -> int:
    """Run `dither formats`. Raises UserError for a name that is neither a format nor a preset."""
    name = parse("formats", Arguments, arguments).name
    out = console()
    if name is None:
        out.print(formats_table())
        out.print(presets_table())
        out.print(
            "any other eXmY (1 <= X <= 8, 0 <= Y <= 10) is a format too; `dither formats NAME` shows one"
        )
    elif name in Quantizer.presets() and name not in formats.names():
        show_preset(out, name)
    else:
        try:
            fmt = formats.get(name)
        except ValueError as error:
            known = [*formats.names(), *Quantizer.presets()]
            raise UserError(
                f"no format or preset is called {name!r}{suggest(name, known)} (`dither formats` lists them)"
            ) from error
        show_format(out, fmt)
    return 0
