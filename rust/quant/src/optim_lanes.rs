//! The arithmetic of AdamW (stated in `optim`) on whole tiles, in plain loops over sixteen elements: for processors without
//! the vectors that `optim_vectors` is written for, and what that is tested against.

use crate::half::{bf16_bits, bf16_value};
use crate::optim::Constants;
use crate::optim_tiles::{Random, TILE, Tiles};
#[cfg(target_arch = "x86_64")]
use crate::optim_vectors;
use crate::philox::{LANES, Words, portable};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Level, level};

pub(crate) const NEAREST: u8 = 0;
pub(crate) const STOCHASTIC: u8 = 1;
pub(crate) const KAHAN: u8 = 2;

/// Bytes an element of weights (bf16 for `W16`) and of moments (bf16 for `S16`).
pub(crate) const fn sizes<const W16: bool, const S16: bool>() -> [usize; 2] {
    [if W16 { 2 } else { 4 }, if S16 { 2 } else { 4 }]
}

/// Whether the weights draw random bits, and whether the second moment does.
pub(crate) const fn draws<const S16: bool, const MODE: u8>() -> [bool; 2] {
    [MODE == STOCHASTIC, S16]
}

/// Whole tiles of memory that nobody else touches. Only `chunk` calls it, on memory that it owns.
pub(crate) fn tiles<const W16: bool, const S16: bool, const MODE: u8>(
    memory: Tiles,
    count: usize,
    c: &Constants,
    random: &mut Random,
) {
    let run = match () {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` never exceeds what was found on this processor.
        () if level() == Level::Avx512 => optim_vectors::avx512::<W16, S16, MODE>,
        #[cfg(target_arch = "x86_64")]
        () if level() == Level::Avx2 => optim_vectors::avx2::<W16, S16, MODE>,
        () => plain::<W16, S16, MODE>,
    };
    // SAFETY: the memory holds `count` tiles.
    unsafe { run(memory, count, c, random) };
    random.tile = random.tile.wrapping_add(count as u64);
}

/// # Safety
/// The memory holds `count` tiles.
unsafe fn plain<const W16: bool, const S16: bool, const MODE: u8>(
    memory: Tiles,
    count: usize,
    c: &Constants,
    random: &Random,
) {
    for t in 0..count {
        let first = random.tile.wrapping_add(t as u64).wrapping_mul(LANES as u64);
        let draws = draws::<S16, MODE>();
        let words = [0, 1].map(|i| if draws[i] { portable(&random.philox[i], first) } else { Words::default() });
        for i in 0..TILE / LANES {
            // SAFETY: the caller's contract.
            unsafe { lanes::<W16, S16, MODE>(memory.at(t * TILE + i * LANES, sizes::<W16, S16>()), c, &words, i) };
        }
    }
}

/// Sixteen elements: those of number `i` in their tile, which have the random bits of half a word each.
#[inline(always)]
unsafe fn lanes<const W16: bool, const S16: bool, const MODE: u8>(
    at: Tiles,
    c: &Constants,
    words: &[Words; 2],
    i: usize,
) {
    // SAFETY: the caller's contract, for all loads and stores.
    unsafe {
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
        let drawn = |which: usize| words[which][i / 2].map(|word| word >> (16 * (i % 2)) & 0xffff);
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
