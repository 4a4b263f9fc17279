"""Generated runs of a known law for the tests of `dither fit` and `dither plan`: a table, and directories."""

import csv
import json
from pathlib import Path

import numpy as np

from dither import laws

TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
COLUMNS = ("--column", "N=params", "--column", "D=tokens", "--loss", "val_loss")


def write(path: Path, columns: dict) -> str:
    """A CSV table."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def make_table(folder: Path, seed: int = 1, **truth: float) -> str:
    """36 runs with .3 % noise, under the names of COLUMNS."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 6), np.geomspace(5e8, 1e11, 6)))
    data = laws.get("chinchilla").simulate({**TRUTH, **truth}, N=n, D=d, noise=0.003, seed=seed)
    rows = {"params": data["N"], "tokens": data["D"], "val_loss": data["loss"]}
    return write(folder / f"sweep-{seed}.csv", rows)


def make_run(
    folder: Path, n: float, d: float, loss: float | None, done: bool = True, corpus: str = "abc"
) -> None:
    """With evaluations at a third and two thirds of its tokens, 20 and 10 % above the law."""
    folder.mkdir(parents=True)
    info = {"params": n, "train_tokens": 1e9, "corpus": corpus, "vocab": 100}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "config.toml").write_text("[train]\nseed = 3\n[model]\nwidth = 16\ntied = false\n")
    rows = [{"kind": "train", "tokens": d / 9, "loss": 9.0}]
    for share, above in ((1 / 3, 1.2), (2 / 3, 1.1), (1, 1.0)):
        value = above * float(laws.get("chinchilla").predict(TRUTH, N=n, D=share * d))
        rows.append({"kind": "eval", "view": "full", "tokens": share * d, "loss": value})
        rows.append({"kind": "eval", "view": "cast", "cast": "mxfp4", "tokens": share * d, "loss": 9.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        ends = [{"view": "full", "tokens": d, "loss": loss}]
        for rounding, more in (("nearest_even", 0.1), ("stochastic", 0.2)):
            cast = {"view": "cast", "rounding": rounding, "tokens": d, "loss": loss and loss + more}
            ends += [{**cast, "cast": name} for name in ("int4_g32", "mxfp4")]
        (folder / "summary.json").write_text(json.dumps({"final": ends}))


def make_folder(folder: Path, above: float = 1.0) -> Path:
    """20 noiseless runs, so many times above the law, and one that is not finished."""
    law = laws.get("chinchilla")
    for n in np.geomspace(1e5, 1e7, 5):
        for d in np.geomspace(1e7, 1e10, 4):
            make_run(folder / f"{n:.0f}-{d:.0f}", n, d, above * float(law.predict(TRUTH, N=n, D=d)))
    make_run(folder / "unfinished", 1e6, 1e8, 4.0, done=False)
    return folder
