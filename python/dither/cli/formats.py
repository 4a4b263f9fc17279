"""`dither formats [NAME]`: what the number formats and presets are, in the words of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from dither import formats
from dither.cli.terminal import console, parse
from dither.errors import UserError, require, suggest
from dither.formats import Format
from dither.functions import decode
from dither.quantizer import Quantizer

CARRIERS = ("bf16", "fp16", "tf32")


@dataclass(frozen=True)
class Arguments:
    """Show every number format and preset, or one of them with its values."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """a format (e4m3, int4) or a quantizer (mxfp4, int4_g32:scale_rule=rceil); without it: all"""
    recipes: bool = False
    """list the recipes instead: which quantizer each operand of a layer's products gets (needs torch)"""


def number(value: float, digits: int = 4) -> str:
    """A value in its short exact form where it has one (448, 0.015625), else to `digits` digits."""
    text = f"{value:.{digits + 5}g}"
    return text if len(text) <= digits + 5 else f"{value:.{digits}g}"


def plain_table(*headings: str, left: tuple[str, ...] = ()) -> Table:
    """A table without lines that fits a terminal of 80 columns; `left` names the columns that hold words."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    return table


def specials(fmt: Format) -> str:
    """What the format has besides finite non-zero numbers: `inf NaN -0`, or a dash."""
    have = {"inf": fmt.has_inf, "NaN": fmt.has_nan, "-0": fmt.has_neg_zero, "no 0": not fmt.has_zero}
    return " ".join(word for word, present in have.items() if present) or "-"


def carriers(values: Format | Quantizer) -> str:
    """The wider formats that hold every value of a format, or every dequantized value of a quantizer."""
    return " ".join(name for name in CARRIERS if values.exact_in(name)) or "-"


def formats_table() -> Table:
    words = ("name", "specials", "exact in")
    headings = ("name", "bits", "e", "m", "bias", "max", "min pos.", "specials", "exact in")
    table = plain_table(*headings, left=words)
    for fmt in map(formats.get, formats.names()):
        parts = (fmt.ebits, fmt.mbits, fmt.bias) if fmt.kind == "float" else ("-", "-", "-")
        sizes = (number(fmt.max), number(fmt.min_positive))
        table.add_row(fmt.name, str(fmt.bits), *map(str, parts), *sizes, specials(fmt), carriers(fmt))
    return table


def block_words(q: Quantizer) -> str:
    if q.block is None:
        return "cast"
    if isinstance(q.block, tuple):
        return "{}x{} values".format(*q.block)
    return f"{q.block} values" if isinstance(q.block, int) else f"one {q.block}"


def presets_table() -> Table:
    headings = ("name", "element", "scale for", "scale", "rule", "overflow", "exact in")
    table = plain_table(*headings, left=headings)
    for name in Quantizer.presets():
        q = Quantizer(name)
        scale = f"{q.scale_format}+fp32" if q.tensor_scale else q.scale_format or "-"
        table.add_row(
            name, q.format.name, block_words(q), scale, q.scale_rule or "-", q.overflow, carriers(q)
        )
    return table


def value_table(fmt: Format, columns: int) -> Table:
    """Every code of a format of at most 8 bits, `columns` codes a row."""
    values = decode(np.arange(2**fmt.bits, dtype=np.uint8), fmt.name).reshape(-1, min(columns, 2**fmt.bits))
    table = plain_table("code", *(f"+{column}" for column in range(values.shape[1])))
    for row, line in enumerate(values):
        table.add_row(f"0x{row * values.shape[1]:02x}", *(number(float(value), 7) for value in line))
    return table


def show_format(out: Console, fmt: Format) -> None:
    parts = {
        "float": f"{fmt.ebits} exponent and {fmt.mbits} mantissa bits, bias {fmt.bias}",
        "int": "integer",
        "codebook": "a table of values",
    }[fmt.kind]
    out.print(f"[bold]{fmt.name}[/bold]: {fmt.bits} bits, {'signed' if fmt.signed else 'unsigned'}, {parts}")
    lowest = "" if fmt.min == -fmt.max else f"lowest {number(fmt.min)}, "
    if fmt.exceeds_fp64:
        out.print(f"largest below 2^{fmt.emax + 1}, {lowest}smallest positive 2^{fmt.emin - fmt.mbits}")
    else:
        out.print(f"largest {number(fmt.max)}, {lowest}smallest positive {number(fmt.min_positive)}")
    out.print(f"specials: {specials(fmt)}")
    if fmt.kind == "float":
        spacing = 2.0 ** (max(0, fmt.emin) - fmt.mbits)
        normal = f"2^{fmt.emin}" if fmt.exceeds_fp64 else number(2.0**fmt.emin)
        out.print(f"smallest normal {normal}, spacing from 1 to 2 {number(spacing)}")
    out.print(f"every value is exact in: {carriers(fmt)}")
    if fmt.bits <= 8:
        out.print(f"the value of each of the {2**fmt.bits} codes (row + column):")
        out.print(value_table(fmt, columns=8 if out.width >= 132 else 4))


def show_quantizer(out: Console, name: str, q: Quantizer) -> None:
    scale = "no scale (a plain cast)" if q.block is None else f"{q.scale_format} scale, {block_words(q)}"
    out.print(f"[bold]{name}[/bold]: {q.format.name} elements, {scale}")
    if q.block is not None:
        clips = "may clip the largest values of a block" if q.clips else "never clips"
        out.print(f"scale rule {q.scale_rule} ({clips})")
        if q.tensor_scale:
            out.print("and a second scale, in fp32, for the whole tensor")
    out.print(f"rounding {q.rounding}, overflow {q.overflow}")
    out.print(f"dequantized values are exact in: {carriers(q)}\n")
    show_format(out, q.format)


def show_recipes(out: Console) -> None:
    require("torch", "torch")
    presets = import_module("dither.nn.presets").PRESETS
    out.print("[bold]Recipes[/bold]: what a layer's three products quantize (dither.nn.prepare_, \\[recipe])")
    for name, preset in presets.items():
        out.print(f"[bold]{name}[/bold]: {preset.source}", highlight=False)


def find(name: str) -> Format | Quantizer:
    """The format or the quantizer of that name. Raises UserError when it is neither."""
    try:
        return formats.get(name)
    except UserError:
        pass
    try:
        return Quantizer(name)
    except UserError as error:
        if set(name) & set(":,="):  # meant as a quantizer's printed form: its own error says more
            raise
        hint = suggest(name, [*formats.names(), *Quantizer.presets()])
        raise UserError(
            f"no format or preset is called {name!r}{hint}; `dither formats` lists them"
        ) from error


def main(arguments: Sequence[str]) -> int:
    """Run `dither formats`. Raises UserError for a name that is neither a format nor a quantizer."""
    given = parse("formats", Arguments, arguments)
    name, out = given.name, console()
    if given.recipes:
        if name is not None:
            raise UserError(f"--recipes lists all recipes: give it alone, or the name {name!r} alone")
        show_recipes(out)
        return 0
    if name is None:
        out.print("[bold]Formats[/bold]: how one element is stored, with e exponent and m mantissa bits")
        out.print(formats_table())
        out.print(
            "\n[bold]Presets[/bold]: quantizers with a name; a field is overridden so: mxfp4:scale_rule=ceil"
        )
        out.print(presets_table())
        out.print("\nAny other eXmY (1 <= X <= 8, 0 <= Y <= 10) is a format too, as are P3109's")
        out.print(r"binaryKpP\[su]\[ef] (3 <= K <= 16) and codebook_V0_V1_..., a table of values.")
        out.print("Exact in: every value within that format's normal range.")
        out.print("`dither formats NAME` shows more; `--recipes` lists the recipes of layers.")
        return 0
    found = find(name)
    if isinstance(found, Format):
        show_format(out, found)
    else:
        show_quantizer(out, name, found)
    return 0
