"""A training step of a 10M-parameter GPT under LOTION against the same step under QAT, alternating in one
process, and LOTION's kernel against its torch expression and a copy of the memory it reads and writes.

LOTION with Adam's second moment may cost at most 1.10x the step of QAT.

    pytest benches/test_bench_methods.py --benchmark-only
"""

import time

import pytest
import torch
from torch.nn import functional as F

from dither import methods
from dither.methods import noise
from dither.models.gpt import GPT, GPTConfig
from dither.quantizer import Quantizer

LIMIT = 1.10
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


def fastest(steps, rounds: int) -> dict[str, float]:
    """CPU seconds of each one's fastest step, taken in turns so that a disturbance meets all of them."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - start)
    return best


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["loss", "grad", "decoupled"])
def test_step(benchmark, mode):
    steps = {"qat": Step("qat"), "lotion": Step("lotion", mode)}
    fastest(steps, rounds=1)
    best = fastest(steps, rounds=4)
    benchmark.group = "LOTION's step against QAT's, 10M parameters"
    benchmark.extra_info.update({f"{name}_ms": round(1e3 * seconds, 1) for name, seconds in best.items()})
    benchmark.extra_info["parameters"] = steps["qat"].model.num_params
    benchmark.extra_info["ratio"] = ratio = round(best["lotion"] / best["qat"], 3)
    benchmark.pedantic(steps["lotion"], rounds=1)
    assert ratio <= LIMIT, f"a step of LOTION costs {ratio}x that of QAT; the limit is {LIMIT}x"


@pytest.mark.parametrize("spec", ["int4_g32", "fp4_g32", "mxfp4:scale_rule=rceil"])
def test_kernel(benchmark, spec):
    """extra_info: the torch expression and a copy, as multiples of the kernel's time."""
    w, g, out = torch.randn(4096, 1024), torch.rand(4096, 1024), torch.empty(4096, 1024)
    q = Quantizer(spec)
    runs = {
        "kernel": lambda: noise.penalty_and_gradient(w, g, q, scale_grad=True),
        "torch": lambda: noise._by_torch(w, g, q, True),
        "copy": lambda: out.copy_(w),
    }
    fastest(runs, rounds=1)
    best = fastest(runs, rounds=5)
    benchmark.group = "LOTION's penalty and gradient, 4M weights"
    benchmark.extra_info["ns_per_weight"] = round(best["kernel"] * 1e9 / w.numel(), 2)
    for name in ("torch", "copy"):
        benchmark.extra_info[f"{name}/kernel"] = round(best[name] / best["kernel"], 3)
    benchmark.pedantic(runs["kernel"], rounds=3)
