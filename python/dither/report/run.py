"""The report of one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dither.files import replacing
from dither.report import curves, html
from dither.report.load import Run, label
from dither.train.rundir import CONFIG

MEANINGS = {
    "full precision": "the trained weights as they are, nothing quantized",
    "own recipe": "the forward pass of training, with the quantizers of the run's recipe",
    "nearest": "the linear weights cast with that quantizer, rounded to nearest; nothing else is quantized",
    "randomized": "the same cast with stochastic rounding: the mean over several draws of random bits",
    "nats per token": "mean cross-entropy of the validation tokens; lower is better",
    "bits per byte": "the same loss per byte of validation text, independent of the tokenizer",
    "spread of draws": "standard deviation of the loss between the draws of a randomized cast",
}


def figure(value: float | None, digits: int = 4) -> str:
    """A number of a table; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def write_picture(directory: Path, name: str, drawn: Any, caption: str) -> str:
    """Save a figure as PNG beside the report and return it as a fragment of the page."""
    data = curves.png(drawn)
    with replacing(directory / name) as aside:
        aside.write_bytes(data)
    return html.picture(data, caption)


def facts(info: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What a run stood on, as rows of a table."""
    yield "corpus (SHA-256)", str(info["corpus"])
    yield "documents", f"{info['corpus_documents']:,}"
    yield "training tokens in the corpus", f"{info['train_tokens']:,}"
    yield "validation tokens in the corpus", f"{info['validation_tokens']:,}"
    yield "parameters", f"{info['params']:,}"
    yield "initial weights (SHA-256)", str(info["initial_state"])
    yield "threads", str(info["threads"])
    yield "versions", f"torch {info['torch']}, python {info['python']}, {info['machine']}"


def describe(config: Mapping[str, Any]) -> str:
    """Recipe and method in a few words."""
    recipe, method = config["recipe"]["name"], config["method"]
    how = f", method {method['name']} with {method['quantizer']}" if method["name"] != "none" else ""
    return f"recipe {recipe}{how}"


def page(run: Run) -> str:
    """The page of one run; writes its pictures beside it."""
    name, settings = run.path.name, run.config["train"]
    steps = settings["steps"]
    parts = [
        html.heading(name, 1),
        html.paragraph(
            f"{describe(run.config)}: {run.last_step:,} steps of {settings['batch']} x "
            f"{run.config['model']['context']} tokens, {run.info['params']:,} parameters, "
            f"{run.tokens_per_second():,.0f} tokens per second, peak memory {run.peak_mib():,.0f} MiB",
            "lead",
        ),
    ]
    if run.summary is None:
        parts.append(
            html.warning(f"This run is not finished: {run.last_step:,} of {steps:,} steps are recorded.")
        )
    if run.final:
        rows = [
            (
                label(row),
                figure(row.get("loss")),
                figure(row.get("bits_per_byte")),
                figure(row.get("loss_sd"), 5),
            )
            for row in run.final
        ]
        headings = ("evaluation", "nats per token", "bits per byte", "spread of draws")
        parts += [html.heading("Validation loss"), html.table(headings, rows)]
    series = run.train_loss()
    span = curves.span(len(series[0]))
    curve = curves.Curve(name, *series, look=0)
    drawn = curves.loss_over_steps([curve], "Training loss", "nats per token", smoothing=span)
    caption = f"Training loss, mean over {span} neighbouring steps" if span > 1 else "Training loss"
    parts += [html.heading("Curves"), write_picture(run.path, "train_loss.png", drawn, caption)]
    validation = [
        curves.Curve(key, *value, look=i) for i, (key, value) in enumerate(run.validation_loss().items())
    ]
    if any(len(curve.steps) > 1 for curve in validation):
        drawn = curves.loss_over_steps(validation, "Validation loss", "nats per token")
        parts.append(
            write_picture(run.path, "validation_loss.png", drawn, "Validation loss by way of evaluation")
        )
    parts += [
        html.heading("How to reproduce it"),
        html.code(f"dither train {run.path / CONFIG} --out NEW_DIRECTORY"),
        html.heading("What it stood on"),
        html.table(("fact", "value"), facts(run.info), text_columns=(0, 1)),
        html.details("configuration", html.code((run.path / CONFIG).read_text(encoding="utf-8"))),
        html.heading("What the words mean"),
        html.terms(MEANINGS.items()),
    ]
    return html.page(f"dither: {name}", parts)
