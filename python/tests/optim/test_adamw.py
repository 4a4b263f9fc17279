"""AdamW against its formula in fp64, against torch, and its rounding against the oracle of casts."""

from __future__ import annotations

import itertools
import math

import adam_formula
import numpy as np
import pytest
import torch

import dither
from dither import arrays, optim
from dither.errors import UserError
from dither.nn import streams
from dither.optim import kernel
from dither.optim.kernel import Bits, Constants

OPTIONS = {"lr": 0.03, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}


def parameter(n=1000, dtype=torch.float32, seed=0, shape=None):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(n, generator=generator).to(dtype)
    return torch.nn.Parameter(value if shape is None else value.view(shape))


def gradients(p, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-4, 1, p.numel()).view(p.shape)
    return [(torch.randn(p.shape, generator=generator) * scale).to(p.dtype) for _ in range(steps)]


def run(optimizer, p, grads):
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach().clone()


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("n", [1, 127, 128, 1000, 40_000])
def test_fp32_follows_the_formula(n, maximize):
    p = parameter(n)
    grads = gradients(p, 7)
    expected = adam_formula.adamw(p.detach().numpy(), [g.numpy() for g in grads], OPTIONS, maximize)
    got = run(optim.AdamW([p], **OPTIONS, maximize=maximize), p, grads)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=3e-6)


def test_fp32_is_torch_to_rounding():
    p = parameter(5000)
    twin, grads = torch.nn.Parameter(p.detach().clone()), gradients(p, 20)
    ours = run(optim.AdamW([p], **OPTIONS), p, grads)
    theirs = run(torch.optim.AdamW([twin], **OPTIONS), twin, grads)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-6)


@pytest.mark.parametrize("state", ["fp32", "bf16"])
@pytest.mark.parametrize("rounding", ["stochastic", "kahan", "nearest_even"])
def test_torch_twin_gives_the_same_bits(rounding, state):
    p = parameter(3000, torch.bfloat16)
    grads = gradients(p, 5)
    optimizer = optim.AdamW([p], **OPTIONS, rounding=rounding, state=state, seed=5)
    weight = p.detach().clone()
    twin: dict[str, torch.Tensor] = {}
    for step, g in enumerate(grads, start=1):
        p.grad = g.clone()
        optimizer.step()
        if not twin:
            twin = {name: torch.zeros_like(t) for name, t in optimizer.state[p].items()}
        group = optimizer.param_groups[0]
        kernel.torch_step(weight, g, twin, rounding, Bits(5, 0, step, 0), Constants.of(group, step))
    assert torch.equal(weight, p.detach())
    for name in twin.keys() - {"step"}:
        assert torch.equal(twin[name], optimizer.state[p][name]), name


def test_stochastic_weights_are_a_cast_with_addressed_bits():
    """One step from zero moments: w + u in fp32, then the oracle's cast from the documented address."""
    p = parameter(2000, torch.bfloat16)
    g = gradients(p, 1)[0]
    exact = torch.nn.Parameter(p.detach().float())
    run(optim.AdamW([exact], **OPTIONS), exact, [g.float()])
    other = parameter(10)
    optimizer = optim.AdamW([other, p], **OPTIONS, seed=11)
    run(optimizer, p, [g])
    address = streams.stream(1, kernel.WEIGHT, 0, 1)
    expected = dither.cast(exact.detach(), "bf16", rounding="stochastic", bits=16, seed=11, stream=address)
    assert torch.equal(p.detach().float(), expected.float())


def test_stochastic_weights_are_unbiased():
    """A step of 1/64 of a unit in the last place, 4096 elements, 64 steps of lr alone: the mean moves by the
    exact amount. The mean of n = 4096 independent sums has deviation ulp sqrt(64 p (1 - p) / n) with p =
    1/64, 0.0155 ulp against a drift of 1 ulp: 5 deviations are 8 % of it."""
    p = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    ulp = 2.0**-7
    optimizer = optim.AdamW([p], lr=ulp / 64, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, seed=3)
    run(optimizer, p, [-torch.ones_like(p)] * 64)
    drift = (p.detach().double().mean() - 1) / ulp
    assert abs(float(drift) - 1) < 5 * math.sqrt(64 * (1 / 64) * (63 / 64) / 4096)
    nearest = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    lost = optim.AdamW(
        [nearest], lr=ulp / 64, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, rounding="nearest_even"
    )
    run(lost, nearest, [-torch.ones_like(p)] * 64)
    assert torch.equal(nearest.detach(), torch.ones(4096, dtype=torch.bfloat16))


def test_kahan_keeps_what_rounding_loses():
    """Updates of 1/64 of a unit in the last place add up: after 6400 steps w - carry is off by less than one
    unit of the carry's own precision, where rounding to nearest would not have moved."""
    p = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    ulp = 2.0**-7
    optimizer = optim.AdamW([p], lr=ulp / 64, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, rounding="kahan")
    run(optimizer, p, [-torch.ones_like(p)] * 64)
    carry = optimizer.state[p]["carry"]
    total = p.detach().double() - carry.double()
    assert float((total - (1 + ulp)).abs().max()) < ulp * 2**-7


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("state", ["fp32", "bf16", "fp8", "int8", "fp4"])
def test_threads_do_not_change_bits(state, threads):
    p = parameter(100_003, torch.bfloat16)
    grads = gradients(p, 2)
    results = []
    for n in (1, threads):
        twin = torch.nn.Parameter(p.detach().clone())
        dither.set_num_threads(n)
        try:
            results.append(run(optim.AdamW([twin], **OPTIONS, state=state), twin, grads))
        finally:
            dither.set_num_threads(None)
    assert torch.equal(*results)


SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-38, 1e-20, 3e38, -3e38, 1.0]


@pytest.mark.parametrize("level", ["baseline", "avx2"])
@pytest.mark.parametrize("state", ["fp32", "bf16"])
@pytest.mark.parametrize("rounding", ["stochastic", "kahan", "nearest_even"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_instruction_sets_do_not_change_bits(level, state, rounding, dtype):
    """Weights and state after three steps, among them special values against each other."""
    from dither import _core

    p = parameter(1111, dtype)
    grads, best = gradients(p, 3), _core.simd_level()
    with torch.no_grad():
        pairs = torch.tensor(list(itertools.product(SPECIAL, SPECIAL)), dtype=dtype)
        p[500 : 500 + len(pairs)], grads[0][500 : 500 + len(pairs)] = pairs.T
    results = []
    for used in (best, level):
        twin = torch.nn.Parameter(p.detach().clone())
        optimizer = optim.AdamW([twin], **OPTIONS, state=state, rounding=rounding)
        _core.simd_level(used)
        try:
            weights = run(optimizer, twin, grads)
        finally:
            _core.simd_level("avx512")
        kept = optimizer.state[twin]
        results.append([weights, *(kept[name] for name in sorted(kept.keys() - {"step"}))])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        integers = {2: torch.int16, 4: torch.int32}[one.element_size()]
        there = ~one.isnan()
        assert torch.equal(one[there].view(integers), other[there].view(integers))


def test_a_shard_has_the_bits_of_the_whole():
    """Rows 37.. of a parameter, stepped alone from their offset, come out as within the whole."""
    whole = parameter(1000, torch.bfloat16)
    g, start = gradients(whole, 1)[0], 370
    part = whole.detach()[start:].clone()
    optimizer = optim.AdamW([whole], **OPTIONS, state="bf16", seed=2)
    run(optimizer, whole, [g])
    bits, constants = Bits(2, 0, 1, start), Constants.of(optimizer.param_groups[0], 1)
    zeros = {name: torch.zeros(1000 - start, dtype=torch.bfloat16) for name in ("exp_avg", "exp_avg_sq")}
    own = g[start:].clone()  # the description holds its address only
    described = kernel.describe(part, own, zeros, ("bf16", "bf16"), "stochastic", bits, constants)
    arrays.run_adamw([described])
    assert torch.equal(part, whole.detach()[start:])
    assert torch.equal(zeros["exp_avg_sq"], optimizer.state[whole]["exp_avg_sq"][start:])


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.parametrize("state", ["fp32", "bf16", "fp8", "int8", "fp4"])
def test_resumed_is_uninterrupted(state, rounding, tmp_path):
    def make():
        p = parameter(5000, torch.bfloat16, shape=(50, 100))
        small = parameter(9, torch.bfloat16)
        return p, small, optim.AdamW([p, small], **OPTIONS, state=state, rounding=rounding)

    p, small, optimizer = make()
    grads, other = gradients(p, 6), gradients(small, 6)

    def steps(p, small, optimizer, which):
        for i in which:
            p.grad, small.grad = grads[i].clone(), other[i].clone()
            optimizer.step()

    steps(p, small, optimizer, range(3))
    torch.save({"p": p.detach(), "small": small.detach(), "state": optimizer.state_dict()}, tmp_path / "x.pt")
    steps(p, small, optimizer, range(3, 6))
    q, tiny, resumed = make()
    saved = torch.load(tmp_path / "x.pt")
    with torch.no_grad():
        q.copy_(saved["p"])
        tiny.copy_(saved["small"])
    resumed.load_state_dict(saved["state"])
    steps(q, tiny, resumed, range(3, 6))
    assert torch.equal(p, q) and torch.equal(small, tiny)
    for name, value in optimizer.state[p].items():
        assert resumed.state[q][name].dtype == value.dtype
        assert torch.equal(resumed.state[q][name], value), name


def test_strided_weights_and_gradients():
    p, g = (
        parameter(600, torch.bfloat16, shape=(20, 30)),
        gradients(parameter(600), 1)[0].view(20, 30).bfloat16(),
    )
    strided = torch.nn.Parameter(p.detach().t().contiguous().t())
    assert not strided.is_contiguous()
    a = run(optim.AdamW([p], **OPTIONS), p, [g])
    b = run(optim.AdamW([strided], **OPTIONS), strided, [g.t().contiguous().t()])
    assert torch.equal(a, b)


def test_schedulers_groups_and_closures():
    a, b = parameter(100), parameter(100, seed=1)
    frozen = parameter(10)
    optimizer = optim.AdamW([{"params": [a], "lr": 0.5}, {"params": [b, frozen]}], lr=0.1, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    before = a.detach().clone(), b.detach().clone(), frozen.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = a.sum() + b.sum()
        loss.backward()
        return loss

    assert torch.is_tensor(optimizer.step(closure))
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.05]
    torch.testing.assert_close(a.detach(), before[0] - 0.5)
    torch.testing.assert_close(b.detach(), before[1] - 0.1)
    assert torch.equal(frozen, before[2]) and frozen not in optimizer.state


def test_what_cannot_be_used():
    with pytest.raises(UserError, match="did you mean 'stochastic'"):
        optim.AdamW([parameter()], rounding="stochastik")
    with pytest.raises(UserError, match="unknown optimizer state 'fp9'"):
        optim.AdamW([parameter()], state="fp9")
    with pytest.raises(UserError, match="to nearest"):
        optim.AdamW([parameter()], state=("fp32", "int8_g128"))
    with pytest.raises(UserError, match="second moment"):
        linear = dither.Quantizer("int8_g128", rounding="stochastic")
        optim.AdamW([parameter()], state=("fp32", linear))
    with pytest.raises(UserError, match="both moments or none"):
        optim.AdamW([parameter()], state=("bf16", "fp32"))
    with pytest.raises(TypeError, match="float64"):
        optim.AdamW([parameter(dtype=torch.float64)])
    with pytest.raises(UserError, match="betas"):
        optim.AdamW([parameter()], betas=(0.9, 1.0))
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="sparse"):
        optim.AdamW(embedding.parameters()).step()


def test_nan_gradients():
    dense = parameter(100, torch.bfloat16)
    g = torch.ones(100, dtype=torch.bfloat16)
    g[7] = math.nan
    g[8] = math.inf
    after = run(optim.AdamW([dense]), dense, [g])
    assert after[7].isnan() and after[8].isnan() and after[[*range(7), *range(9, 100)]].isfinite().all()
    first, packed = parameter(5000), parameter(5000)
    optimizer = optim.AdamW([first, packed], state="fp8")
    before = first.detach().clone()
    first.grad, packed.grad = torch.ones(5000), torch.full((5000,), math.nan)
    with pytest.raises(UserError, match="parameter 1 of shape"):
        optimizer.step()
    assert torch.equal(first, before) and not optimizer.state
