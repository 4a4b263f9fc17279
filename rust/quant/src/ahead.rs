//! Whole blocks to nearest even over vectors, at the speed of memory: while a block is rounded, the absmax of the next one
//! is taken.
//!
//! ```text
//! most = absmax of the first block
//! for every block
//!     numbers = scale of most; most = 0
//!     for every pair of vectors
//!         most = max(most, magnitudes of the next block's)
//!         write round(this block's, numbers)
//! ```
//!
//! All absmax of a group first, then its elements (`block`), reads memory in one phase and writes it in the other; here
//! every step does both. Blocks whose scale is not an ordinary number go through `block` one by one.
//!
//! A quotient `x / s` costs as much time as memory leaves for everything. With `r` the rounded reciprocal of `s`, two
//! corrections of `x r` by the exact remainder give the same bits: the first leaves an error below one unit in the last
//! place, from where the second rounds correctly (Markstein, IBM J. Res. Dev. 34 (1990) 111, theorem 8.2; no part of it
//! leaves the range of normal numbers for the scales that [`numbers`] takes, and quotients below 2^-40 become zero).
#![cfg(target_arch = "x86_64")]

use crate::block;
use crate::cells::Halves;
use crate::element::{NEAREST_EVEN, Shape};
use crate::job::{Job, Pair};
use crate::lines::Writer;
use crate::number::Number;
use crate::simd::{Level, level};
use crate::stream;
use std::arch::x86_64::{__m256i, __m512i};

/// How an element is rounded: on the grid of its block's power of two, the sign of zero kept or not; as a quotient; as
/// a quotient on a grid of equal steps, without a sign of zero.
const POWER: u8 = 0;
const UNSIGNED: u8 = 1;
const QUOTIENT: u8 = 2;
const INTEGER: u8 = 3;

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
    let pair = if level == Level::Avx512 { 32 } else { 16 };
    if level < Level::Avx2 || len == 0 || !block.is_multiple_of(pair) {
        return 0;
    }
    let Some(how) = plan(job) else { return 0 };
    let past = past && stream::can_pass(y.as_ptr());
    let run = Run { x: &x[..len], y: &mut y[..len], past, block, job };
    // SAFETY: `level` never exceeds what was found on this processor; blocks are whole pairs of vectors.
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
fn plan(job: &Job<'_>) -> Option<u8> {
    if job.mode != NEAREST_EVEN {
        return None;
    }
    let unsigned = job.shape.zero.is_sign_positive();
    let (emin, max) = job.plain_grid();
    match job.pair()? {
        Pair::Power => Some(if unsigned { UNSIGNED } else { POWER }),
        Pair::Divide if unsigned && max >> 23 <= emin >> 23 && max >> 23 < 127 + 20 => Some(INTEGER),
        Pair::Divide if emin >> 23 >= 127 - 39 + job.shape.mbits && max >> 23 < 127 + 20 => Some(QUOTIENT),
        _ => None,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx512<E: Number, const HOW: u8>(run: Run<'_, E>) {
    // SAFETY: this function enables the instruction set; the caller's contract.
    unsafe { body::<__m512i, E, HOW>(run) };
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx2<E: Number, const HOW: u8>(run: Run<'_, E>) {
    // SAFETY: as above.
    unsafe { body::<__m256i, E, HOW>(run) };
}

/// # Safety
/// [`Halves`]'s contract; blocks are whole pairs of vectors, and the run is whole blocks.
#[inline(always)]
unsafe fn body<V: Halves, E: Number, const HOW: u8>(Run { x, y, past, block, job }: Run<'_, E>) {
    let pair = 2 * V::LANES;
    let exact = matches!(HOW, POWER | UNSIGNED) && job.shape.mbits <= E::DIGITS;
    // SAFETY: the caller's contract; all positions are below the length.
    unsafe {
        let rounding = Rounding::<V>::new(job.shape, job.plain_grid());
        let (px, py) = (x.as_ptr(), y.as_mut_ptr());
        let mut out = Writer::<V>::new(py.cast(), past);
        let mut most = V::splat(0);
        for i in (0..block).step_by(pair) {
            most = E::raise(most, px.add(i));
        }
        for at in (0..x.len()).step_by(block) {
            let absmax = E::from_upper(E::top(most)).to_bits();
            // After the last block nothing comes; looking at it again is as good as a branch.
            let next = if at + block < x.len() { at + block } else { at };
            most = V::splat(0);
            if let Some((first, second)) = numbers::<HOW>(absmax, job) {
                let (first, second) = (V::splat(first), V::splat(second));
                for i in (0..block).step_by(pair) {
                    for line in (0..pair * size_of::<E>()).step_by(64) {
                        stream::prefetch(px.wrapping_add(next + i + stream::AHEAD).wrapping_byte_add(line));
                    }
                    most = E::raise(most, px.add(next + i));
                    let [a, b] = E::pair::<V>(px.add(at + i));
                    let results =
                        [rounding.element::<HOW>(a, first, second), rounding.element::<HOW>(b, first, second)];
                    E::put(results, exact, &mut out);
                }
            } else {
                out.finish();
                let y = std::slice::from_raw_parts_mut(py.add(at), block);
                block::scaled(x.get_unchecked(at..at + block), y, false, &[], job.scale(absmax), job);
                out = Writer::new(py.add(at + block).cast(), past);
                for i in (0..block).step_by(pair) {
                    most = E::raise(most, px.add(next + i));
                }
            }
        }
        out.finish();
    }
}

/// The bits of what [`Rounding::element`] needs of a block: smallest normal and largest value, or scale and reciprocal.
#[inline(always)]
fn numbers<const HOW: u8>(absmax: u32, job: &Job<'_>) -> Option<(u32, u32)> {
    let (mut first, mut second) = ([0], [0]);
    if matches!(HOW, POWER | UNSIGNED) {
        return job.powers(&[absmax], &mut first, &mut second).then_some((first[0], second[0]));
    }
    /// Exponents of scales between which nothing overflows or loses digits.
    const USUAL: std::ops::Range<u32> = 127 - 60..127 + 60;
    let finite = job.quotients(&[absmax], 1.0, &mut first);
    let inverse = 1.0 / f32::from_bits(first[0]);
    (finite && USUAL.contains(&(first[0] >> 23))).then_some((first[0], inverse.to_bits()))
}

/// The constants of a run in every lane.
struct Rounding<V> {
    magnitude: V,
    exponent: V,
    sign: V,
    zero: V,
    /// From `2^e` to what is added and taken away again (see `element`), and that of the smallest normal number.
    to_c: V,
    c: V,
    emin: V,
    max: V,
    min: V,
}

impl<V: Halves> Rounding<V> {
    /// # Safety
    /// [`Halves`]'s contract, for every method.
    #[inline(always)]
    unsafe fn new(shape: Shape, (emin, max): (u32, u32)) -> Self {
        let to_c = (23 - shape.mbits) << 23 | 0x0040_0000;
        // SAFETY: the caller's contract.
        unsafe {
            Rounding {
                magnitude: V::splat(0x7fff_ffff),
                exponent: V::splat(0x7f80_0000),
                sign: V::splat(0x8000_0000),
                zero: V::splat(shape.zero.to_bits()),
                to_c: V::splat(to_c),
                c: V::splat(emin.wrapping_add(to_c)),
                emin: V::splat(emin),
                max: V::splat(max),
                min: V::splat(max | 0x8000_0000),
            }
        }
    }

    #[inline(always)]
    unsafe fn element<const HOW: u8>(&self, x: V, first: V, second: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            match HOW {
                POWER => self.nearest(x, x, first, second),
                UNSIGNED => self.nearest(x, x, first, second).fadd(self.zero),
                QUOTIENT => {
                    let q = quotient(x, first, second);
                    self.nearest(q, x, self.emin, self.max).fused(first, self.zero)
                }
                _ => {
                    let q = quotient(x, first, second).fmax(self.min).fmin(self.max);
                    q.fadd(self.c).fsub(self.c).fused(first, self.zero)
                }
            }
        }
    }

    /// `element::round` of a magnitude, with the sign of `signed`.
    #[inline(always)]
    unsafe fn nearest(&self, x: V, signed: V, emin: V, max: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let a = x.and(self.magnitude).min(max);
            let c = a.and(self.exponent).max(emin).add(self.to_c);
            signed.and_or(self.sign, a.fadd(c).fsub(c))
        }
    }
}

/// `x / s` by the reciprocal of `s`; the sign of a zero is lost.
///
/// # Safety
/// [`Halves`]'s contract.
#[inline(always)]
unsafe fn quotient<V: Halves>(x: V, s: V, reciprocal: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let q = x.fmul(reciprocal);
        let q = q.fused_less(s, x).fused(reciprocal, q);
        q.fused_less(s, x).fused(reciprocal, q)
    }
}
