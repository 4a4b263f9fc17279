"""Delayed scaling: scales from the maxima of earlier steps, against Transformer Engine's formula; what counts
as a step, what is kept for a checkpoint, and what ranks share."""

# .grad is optional to the type checker, and attributes of a swapped module are unknown to it.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from papers import to_grid
from torch import nn
from torch.utils.checkpoint import checkpoint

import dither.nn as dnn
from dither.errors import UserError

K, N = 48, 40


def delayed(history=3, margin=1, pick="max"):
    how = dnn.Delayed(history, margin, pick)
    forward, gradient = (dnn.Operand(q, delayed=how) for q in ("fp8_e4m3", "fp8_e5m2"))
    return dnn.Recipe(fprop_x=forward, fprop_w=forward, dgrad_g=gradient, dgrad_w="fprop",
                      wgrad_g=gradient, wgrad_x=forward)  # fmt: skip


def layer(recipe):
    torch.manual_seed(0)
    return dnn.prepare_(nn.Linear(K, N, bias=False), recipe)


def batch(step, microbatch=0):
    generator = torch.Generator().manual_seed(100 * step + microbatch)
    size = 2.0 ** (step % 4)
    return (torch.randn(24, K, generator=generator) * size).requires_grad_(), torch.randn(
        24, N, generator=generator
    ) / size


def cast(x, scale, name):
    scale = np.float32(scale)
    y = to_grid((x.detach().numpy() * scale).astype(np.float32), name)
    return y.astype(np.float32) * (np.float32(1) / scale)


class Reference:
    """scale = (largest / amax) / 2^margin from the maxima of the steps before; 1 before the first."""

    def __init__(self, largest, history, margin, pick):
        self.largest, self.margin, self.pick, self.past = np.float32(largest), margin, pick, [0.0] * history

    def scale(self):
        amax = np.float32(max(self.past) if self.pick == "max" else self.past[0])
        return np.float32(1) if amax == 0 else self.largest / amax / np.float32(2**self.margin)

    def record(self, *values):
        self.past = [max(float(v.detach().abs().max()) for v in values), *self.past[:-1]]


@pytest.mark.parametrize("pick", ["max", "most_recent"])
@pytest.mark.parametrize("margin", [0, 2])
def test_scales_come_from_the_steps_before(pick, margin):
    module = layer(delayed(3, margin, pick))
    x_past, w_past, g_past = (Reference(top, 3, margin, pick) for top in (448, 448, 57344))
    for step in range(8):
        dnn.set_clock_(module, step)
        x, g = batch(step)
        module.weight.grad = None
        y = module(x)
        y.backward(g)
        xq, wq = cast(x, x_past.scale(), "e4m3"), cast(module.weight, w_past.scale(), "e4m3")
        gq = cast(g, g_past.scale(), "e5m2")
        for got, expected in ((y.detach(), xq @ wq.T), (x.grad, gq @ wq), (module.weight.grad, gq.T @ xq)):
            assert np.abs(got.numpy() - expected).max() < 1e-5 * np.abs(expected).max(), step
        for past, value in ((x_past, x), (w_past, module.weight), (g_past, g)):
            past.record(value)
        with torch.no_grad():
            module.weight.mul_(1.5)


def test_a_step_counts_once_however_often_it_runs():
    """Microbatches share the scale of their step and leave its maximum; recomputation changes nothing."""
    direct, recomputed = (layer(delayed()) for _ in range(2))
    for step in range(3):
        for microbatch in range(2):
            grads = []
            for module, recompute in ((direct, False), (recomputed, True)):
                dnn.set_clock_(module, step, microbatch)
                x, g = batch(step, microbatch)
                y = checkpoint(module, x, use_reentrant=False) if recompute else module(x)
                y.backward(g)
                grads.append(x.grad)
            assert torch.equal(*grads)
            assert torch.equal(direct.dither_history, recomputed.dither_history)
        now = direct.dither_history[0, 1]
        assert now == max(batch(step, m)[0].abs().max() for m in range(2))
    before = direct.dither_history.clone()
    with torch.no_grad():
        direct(batch(9)[0] * 100)
    assert torch.equal(direct.dither_history, before), "an evaluation counted"


def test_a_history_of_nothing_usable_keeps_the_scale():
    module = layer(delayed(history=1, margin=0))
    for step, size in enumerate((2.0, 0.0, torch.inf, 1.0)):
        dnn.set_clock_(module, step)
        module(torch.full((4, K), size))
    dnn.set_clock_(module, 4)
    assert module.dither_history[0, 0] == 448.0
    module(torch.full((4, K), 0.0))
    dnn.set_clock_(module, 5)
    assert module.dither_history[0, 0] == 448.0
    module(torch.full((4, K), torch.inf))
    dnn.set_clock_(module, 6)
    assert module.dither_history[0, 0] == 448.0


def run(module, steps):
    for step in steps:
        dnn.set_clock_(module, step)
        x, g = batch(step)
        module(x).backward(g)
        with torch.no_grad():
            module.weight.sub_(0.01 * module.weight.grad)
            module.weight.grad = None
    return module.weight.detach().clone()


def test_a_checkpoint_continues_exactly():
    whole = run(layer(delayed()), range(8))
    first = layer(delayed())
    assert list(first.state_dict()) == ["weight"], "the model's own state dict changed"
    run(first, range(5))
    saved, kept = first.state_dict(), dnn.state_dict(first)
    assert list(kept) == ["dither_history"]
    second = layer(delayed())
    second.load_state_dict(saved)
    dnn.load_state_dict_(second, kept)
    assert torch.equal(run(second, range(5, 8)), whole)
    assert torch.equal(run(copy.deepcopy(first), range(5, 8)), whole)


def test_a_history_of_another_recipe_is_refused():
    kept = dnn.state_dict(layer(delayed(history=3)))
    other = layer(delayed(history=4))
    before = other.dither_history.clone()
    with pytest.raises(UserError, match=r"shape \(6, 5\).*\(6, 6\)"):
        dnn.load_state_dict_(other, kept)
    with pytest.raises(UserError, match="'dither_history' is in only one"):
        dnn.load_state_dict_(layer("mxfp8"), kept)
    assert torch.equal(other.dither_history, before) and dnn.state_dict(layer("mxfp8")) == {}


def test_what_delayed_scaling_cannot_be():
    for wrong in (dict(history=0), dict(margin=-1), dict(pick="last")):
        with pytest.raises(UserError, match=next(iter(wrong))):
            dnn.Delayed(**wrong)
    with pytest.raises(UserError, match="one fp32 absmax scale a tensor"):
        dnn.Operand("mxfp8_e4m3", delayed=dnn.Delayed())


def test_compiled_is_eager():
    eager, compiled = layer(delayed()), layer(delayed())
    torch._dynamo.reset()
    forward = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for step in range(4):
        for module, call in ((eager, eager), (compiled, forward)):
            dnn.set_clock_(module, step)
            x, g = batch(step)
            call(x).backward(g)
        assert torch.equal(eager.weight.grad, compiled.weight.grad)
        assert torch.equal(eager.dither_history, compiled.dither_history), step


@pytest.mark.slow
def test_ranks_share_their_maxima(tmp_path):
    """Two processes with inputs of their own: the history of both is that of the larger maxima."""
    started = [subprocess.Popen([sys.executable, "-c", RANK, str(n), str(tmp_path)]) for n in range(2)]
    assert [process.wait(120) for process in started] == [0, 0]
    first, second = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[0, 2:], torch.tensor([6.0, 4.0, 2.0]))


RANK = """
import sys, torch, torch.distributed as dist
import dither.nn as dnn
number, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
how = dnn.Delayed(history=3)
recipe = dnn.Recipe(fprop_x=dnn.Operand("fp8_e4m3", delayed=how))
module = dnn.prepare_(torch.nn.Linear(8, 8), recipe)
for step in range(3):
    dnn.set_clock_(module, step)
    module(torch.full((4, 8), 2.0 * step + number + 1))
dnn.set_clock_(module, 3)
torch.save(module.dither_history, f"{folder}/{number}.pt")
dist.destroy_process_group()
"""
