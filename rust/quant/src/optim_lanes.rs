//! The arithmetic of AdamW (stated in `optim`) on whole tiles, written once and cloned for every instruction set.
//!
//! The processor's only divider is busy most of the time. The rounds of Philox for the next tile stand between the
//! divisions for this one, so that they cost next to nothing; apart from each other they took a third of the step.

use crate::half::{bf16_bits, bf16_value};
use crate::optim::Constants;
use crate::optim_tiles::{Random, TILE, Tiles};
use crate::philox::Rounds;
use crate::simd::dispatch;
use crate::stream::{self, AHEAD};

const LANES: usize = 16;

pub(crate) const NEAREST: u8 = 0;
pub(crate) const STOCHASTIC: u8 = 1;
pub(crate) const KAHAN: u8 = 2;

dispatch! { pub(crate) fn tiles<const W16: bool, const S16: bool, const MODE: u8>(memory: Tiles, count: usize, c: &Constants, random: &mut Random) = tiles_body; }

/// Whole tiles: weights in bf16 for `W16`, moments for `S16`. Only `chunk` calls it, on memory that it owns.
#[inline(always)]
fn tiles_body<const W16: bool, const S16: bool, const MODE: u8>(
    memory: Tiles,
    count: usize,
    c: &Constants,
    random: &mut Random,
) {
    let draws = [MODE == STOCHASTIC, S16];
    let begin = |tile: u64| [0, 1].map(|which| Rounds::begin(&random.philox[which], tile.wrapping_mul(LANES as u64)));
    let advance = |rounds: &mut [Rounds; 2], i: usize| {
        for which in 0..2 {
            if draws[which] {
                rounds[which].advance(&random.philox[which], i);
            }
        }
    };
    let mut this = begin(random.tile);
    (0..10).for_each(|i| advance(&mut this, i));
    let sizes = [if W16 { 2 } else { 4 }, if S16 { 2 } else { 4 }];
    for t in 0..count {
        let mut next = begin(random.tile.wrapping_add(1 + t as u64));
        for i in 0..10 {
            advance(&mut next, i);
            if i < TILE / LANES {
                // SAFETY: the caller's memory holds `count` tiles.
                unsafe { lanes::<W16, S16, MODE>(memory.at(t * TILE + i * LANES, sizes), c, &this, i) };
            }
        }
        this = next;
    }
    random.tile = random.tile.wrapping_add(count as u64);
}

/// Sixteen elements: those of number `i` in their tile, which have the random bits of half a word each.
#[inline(always)]
unsafe fn lanes<const W16: bool, const S16: bool, const MODE: u8>(
    at: Tiles,
    c: &Constants,
    random: &[Rounds; 2],
    i: usize,
) {
    // SAFETY: the caller's contract, for all loads and stores.
    unsafe {
        ask::<W16>(at.w);
        ask::<W16>(at.g.cast_mut());
        ask::<S16>(at.m);
        ask::<S16>(at.v);
        let (mut w, g) = (load::<W16>(at.w), load::<W16>(at.g));
        let (mut m, mut v) = (load::<S16>(at.m), load::<S16>(at.v));
        let mut u = [0f32; LANES];
        for k in 0..LANES {
            let g = c.sign * g[k];
            m[k] += (g - m[k]) * c.first;
            v[k] = v[k] * c.beta2 + (g * g) * c.second;
            u[k] = -(c.step * (m[k] / (v[k].sqrt() * c.root + c.eps)) + c.decay * w[k]);
        }
        store::<S16>(at.m, &m);
        let drawn = |which: usize| random[which].word(i / 2).map(|word| (word as u32) >> (16 * (i % 2)) & 0xffff);
        if S16 {
            store_stochastic(at.v, &v, &drawn(1));
        } else {
            store::<false>(at.v, &v);
        }
        if let (KAHAN, Some(memory)) = (MODE, at.carry) {
            let mut carry = load::<true>(memory.cast());
            for k in 0..LANES {
                let y = u[k] - carry[k];
                let t = bf16_value(bf16_bits(w[k] + y));
                carry[k] = (t - w[k]) - y;
                w[k] = t;
            }
            store::<true>(memory.cast(), &carry);
        } else {
            for k in 0..LANES {
                w[k] += u[k];
            }
        }
        if MODE == STOCHASTIC { store_stochastic(at.w, &w, &drawn(0)) } else { store::<W16>(at.w, &w) }
    }
}

#[inline(always)]
unsafe fn load<const HALF: bool>(at: *const u8) -> [f32; LANES] {
    // SAFETY: the caller's contract.
    unsafe {
        if HALF {
            at.cast::<[u16; LANES]>().read_unaligned().map(bf16_value)
        } else {
            at.cast::<[f32; LANES]>().read_unaligned()
        }
    }
}

#[inline(always)]
unsafe fn store<const HALF: bool>(at: *mut u8, x: &[f32; LANES]) {
    // SAFETY: the caller's contract.
    unsafe {
        if HALF {
            at.cast::<[u16; LANES]>().write_unaligned(x.map(bf16_bits));
        } else {
            at.cast::<[f32; LANES]>().write_unaligned(*x);
        }
    }
}

/// All sixteen bits that are rounded off decide, so adding as many random bits and cutting off is P3109's StochasticB
/// (see `stochastic`). Infinities and NaN are kept.
#[inline(always)]
unsafe fn store_stochastic(at: *mut u8, x: &[f32; LANES], random: &[u32; LANES]) {
    let mut y = [0u16; LANES];
    for k in 0..LANES {
        let rounded = (x[k].to_bits().wrapping_add(random[k]) >> 16) as u16;
        y[k] = if x[k].is_finite() { rounded } else { bf16_bits(x[k]) };
    }
    // SAFETY: the caller's contract.
    unsafe { at.cast::<[u16; LANES]>().write_unaligned(y) };
}

/// Ask for the memory of a later tile: the processor's own prefetching stops at every page.
#[inline(always)]
fn ask<const HALF: bool>(at: *mut u8) {
    stream::prefetch_for_write(at.wrapping_add(AHEAD * if HALF { 2 } else { 4 }));
}
