//! Whole blocks to nearest even over vectors, at the speed of memory: while a group of blocks is rounded, the absmax of
//! blocks further on is taken.
//!
//! ```text
//! for every group of blocks
//!     its scales, from the absmax of its blocks
//!     for every step of a block
//!         most = max(most, magnitudes of the same step of a group further on)
//!         write round(this step, scale)
//! ```
//!
//! All absmax first, then the elements (`block`), reads memory in one phase and writes it in the other; here every step
//! does both. Short blocks go four to a group, whose scales are worked out a group before they are used, so that nothing
//! waits for them. Groups with a block whose scale is not an ordinary number go through `block`.
#![cfg(target_arch = "x86_64")]

use crate::ahead_elements::{INTEGER, Numbers, POWER, QUOTIENT, Rounding, UNSIGNED, numbers};
use crate::block;
use crate::cells::Halves;
use crate::element::NEAREST_EVEN;
use crate::job::{Job, Pair};
use crate::lines::Writer;
use crate::number::Number;
use crate::simd::{Level, level};
use crate::stream;
use std::arch::x86_64::{__m256i, __m512i};

/// Elements of a step: two or four vectors.
const STEP: usize = 32;
/// Blocks of a group, where they are short.
pub const GROUP: usize = 4;
/// Elements of the longest of those.
const SHORT: usize = 64;

/// A contiguous run of blocks.
struct Run<'a, E> {
    x: &'a [E],
    y: &'a mut [E],
    past: bool,
    block: usize,
    job: &'a Job<'a>,
}

/// Whole blocks at the start of a run; returns how many elements that were. Results may go `past` the caches.
pub fn blocks<E: Number>(x: &[E], y: &mut [E], past: bool, block: usize, job: &Job<'_>) -> usize {
    let (level, len) = (level(), x.len() / block * block);
    if level < Level::Avx2 || len == 0 || !block.is_multiple_of(STEP) {
        return 0;
    }
    let Some(how) = plan::<E>(job) else { return 0 };
    let past = past && stream::can_pass(y.as_ptr());
    let run = Run { x: &x[..len], y: &mut y[..len], past, block, job };
    // SAFETY: `level` never exceeds what was found on this processor; blocks are whole steps.
    unsafe {
        match (level, how) {
            (Level::Avx512, POWER) => avx512::<E, POWER>(run),
            (Level::Avx512, UNSIGNED) => avx512::<E, UNSIGNED>(run),
            (Level::Avx512, QUOTIENT) => avx512::<E, QUOTIENT>(run),
            (Level::Avx512, _) => avx512::<E, INTEGER>(run),
            (_, POWER) => avx2::<E, POWER>(run),
            (_, UNSIGNED) => avx2::<E, UNSIGNED>(run),
            (_, QUOTIENT) => avx2::<E, QUOTIENT>(run),
            (_, _) => avx2::<E, INTEGER>(run),
        }
    }
    len
}

/// How the job's elements are rounded, where this module knows it.
pub fn plan<E: Number>(job: &Job<'_>) -> Option<u8> {
    /// Values below this leave a quotient and its rounding within the range of exact sums.
    const LARGE: u32 = 127 + 20;
    let unsigned = job.shape.zero.is_sign_positive();
    let (emin, max) = job.plain_grid();
    let (emin, max) = (emin >> 23, max >> 23);
    match job.pair()? {
        _ if job.mode != NEAREST_EVEN => None,
        // Such values are narrowed by leaving digits out.
        Pair::Power if job.shape.mbits > E::DIGITS => None,
        Pair::Power => Some(if unsigned { UNSIGNED } else { POWER }),
        Pair::Divide if unsigned && max <= emin && max < LARGE => Some(INTEGER),
        // What is below a half of the smallest step becomes zero; see `numbers` for smaller quotients.
        Pair::Divide if emin >= 127 - 39 + job.shape.mbits && max < LARGE => Some(QUOTIENT),
        _ => None,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx512<E: Number, const HOW: u8>(run: Run<'_, E>) {
    // SAFETY: this function enables the instruction set; the caller's contract.
    unsafe {
        match run.block {
            ..=SHORT => body::<__m512i, E, HOW, GROUP>(run),
            _ => body::<__m512i, E, HOW, 1>(run),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx2<E: Number, const HOW: u8>(run: Run<'_, E>) {
    // SAFETY: as above.
    unsafe {
        match run.block {
            ..=SHORT => body::<__m256i, E, HOW, GROUP>(run),
            _ => body::<__m256i, E, HOW, 1>(run),
        }
    }
}

/// Groups of `G` blocks.
///
/// # Safety
/// [`Halves`]'s contract; blocks are whole steps, and the run is whole blocks.
#[inline(always)]
unsafe fn body<V: Halves, E: Number, const HOW: u8, const G: usize>(Run { x, y, past, block, job }: Run<'_, E>) {
    // Groups whose absmax is known beforehand: one, and another where scales are worked out early.
    let known = if G > 1 { 2 } else { 1 };
    let (count, last) = (x.len() / block, x.len() - block);
    let (px, py) = (x.as_ptr(), y.as_mut_ptr());
    // Where block `i` starts; after the last one nothing comes, and looking at it again is as good as a branch.
    let start = |i: usize| (i * block).min(last);
    // SAFETY: the caller's contract; all positions are below the length.
    unsafe {
        let rounding = Rounding::<V>::new(job.shape, job.plain_grid().0);
        let mut out = Writer::<V>::new(py.cast(), past);
        let mut most = [V::splat(0); G];
        let mut early = Numbers::default();
        for group in 0..known {
            if group > 0 {
                early = numbers::<V, E, HOW, G>(most, job);
            }
            most = [V::splat(0); G];
            for (b, most) in most.iter_mut().enumerate() {
                for i in (0..block).step_by(STEP) {
                    *most = raise(*most, px.add(start(group * G + b) + i));
                }
            }
        }
        for first in (0..count).step_by(G) {
            let found = numbers::<V, E, HOW, G>(most, job);
            let now = if known > 1 { std::mem::replace(&mut early, found) } else { found };
            most = [V::splat(0); G];
            if !now.usual {
                out.finish();
            }
            for (b, most) in most.iter_mut().enumerate().take(count - first) {
                let (at, next) = ((first + b) * block, start(first + b + known * G));
                let scale = now.scales.map(|numbers| V::splat(numbers[b]));
                for i in (0..block).step_by(STEP) {
                    for line in (0..STEP * size_of::<E>()).step_by(64) {
                        stream::prefetch(px.wrapping_add(next + i + stream::AHEAD).wrapping_byte_add(line));
                    }
                    *most = raise(*most, px.add(next + i));
                    if now.usual {
                        step::<V, E, HOW>(&rounding, px.add(at + i), scale, &mut out);
                    }
                }
                if !now.usual {
                    let (x, y) = (x.get_unchecked(at..at + block), std::slice::from_raw_parts_mut(py.add(at), block));
                    block::scaled(x, y, false, &[], job.scale(now.absmax[b]), job);
                    out = Writer::new(py.add(at + block).cast(), past);
                }
            }
        }
        out.finish();
    }
}

/// The magnitudes of a step.
///
/// # Safety
/// [`Halves`]'s contract; a step lies at `x`.
#[inline(always)]
unsafe fn raise<V: Halves, E: Number>(most: V, x: *const E) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let most = E::raise(most, x);
        if 2 * V::LANES < STEP { E::raise(most, x.add(2 * V::LANES)) } else { most }
    }
}

/// The elements of a step under a scale.
///
/// # Safety
/// [`Halves`]'s contract; a step lies at `x`, and its results may be written.
#[inline(always)]
unsafe fn step<V: Halves, E: Number, const HOW: u8>(
    rounding: &Rounding<V>,
    x: *const E,
    scale: [V; 3],
    out: &mut Writer<V>,
) {
    let exact = matches!(HOW, POWER | UNSIGNED);
    // SAFETY: the caller's contract.
    unsafe {
        let [a, b] = E::pair::<V>(x);
        let first = [rounding.element::<HOW>(a, scale), rounding.element::<HOW>(b, scale)];
        if 2 * V::LANES == STEP {
            return E::put([first], exact, out);
        }
        let [a, b] = E::pair::<V>(x.add(2 * V::LANES));
        let second = [rounding.element::<HOW>(a, scale), rounding.element::<HOW>(b, scale)];
        E::put([first, second], exact, out);
    }
}
