"""A training step of a 10M-parameter GPT under LOTION against the same step under QAT, alternating in one
process, and LOTION's kernel against its torch expression and a copy of the weights.

    make bench-steps
"""

import pytest
import torch
from torch.nn import functional as F

from dither import methods
from dither.methods import noise
from dither.models.gpt import GPT, GPTConfig
from dither.quantizer import Quantizer
from goals import LOTION
from measure import cost, interleaved, ratio

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = GPTConfig(layers=6, width=384, heads=6, context=256)
BATCH, VOCABULARY = 4, 256
SPEC = "int4_g32"


class Step:
    """A model, its optimizer, its method and one batch; calling it makes one optimizer step."""

    def __init__(self, name: str, mode: str = "grad") -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = GPT(CONFIG, VOCABULARY, generator)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        options = {}
        if name == "lotion":
            curvature = methods.AdamSecondMoment(self.optimizer, n_eff=BATCH * CONFIG.context)
            options = {"curvature": curvature, "mode": mode}
        self.method = methods.get(name)(self.model, SPEC, **options)
        self.tokens = torch.randint(0, VOCABULARY, (BATCH, CONFIG.context), generator=generator)
        self.count = 0

    def __call__(self) -> None:
        step, self.count = self.count, self.count + 1
        self.method.set_step(step)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.tokens).flatten(0, 1), self.tokens.flatten()).backward()
        term = self.method.penalty(step)
        if term.requires_grad:
            term.backward()
        self.method.adjust_grad_(step)
        self.optimizer.step()
        self.method.after_step_(step, 1e-4)


@pytest.mark.parametrize("mode", ["loss", "grad", "decoupled"])
def test_step(mode):
    times = interleaved({"qat": Step("qat"), "lotion": Step("lotion", mode)}, rounds=6)
    of = "step of LOTION with Adam's second moment / step of QAT"
    cost("GPT of 10M parameters", of, f"mode {mode}", times["lotion"], times["qat"], LOTION)


@pytest.mark.parametrize("spec", ["int4_g32", "fp4_g32", "mxfp4:scale_rule=rceil"])
def test_kernel(spec):
    w, g, out = torch.randn(4096, 1024), torch.rand(4096, 1024), torch.empty(4096, 1024)
    q = Quantizer(spec)
    runs = {
        "kernel": lambda: noise.penalty_and_gradient(w, g, q, scale_grad=True),
        "torch": lambda: noise._by_torch(w, g, q, True),
        "copy": lambda: out.copy_(w),
    }
    times = interleaved(runs, rounds=8)
    for name in ("torch", "copy"):
        ratio(
            "LOTION's penalty and gradient, 4M weights",
            f"{name} / kernel",
            spec,
            times["kernel"],
            times[name],
        )
