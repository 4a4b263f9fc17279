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
//!
//! A division costs as much time as memory leaves for everything. With `r` the reciprocal of `s` rounded and `e` what
//! that leaves, `q = x r + x e` is the quotient `x / s` within one unit in the last place, from where adding its exact
//! remainder times `r` rounds correctly (Markstein, IBM J. Res. Dev. 34 (1990) 111, theorem 8.2; no part of it leaves the
//! range of normal numbers for the scales that [`numbers`] takes, or the quotient is so small that it becomes zero).
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

/// Elements of a step: two or four vectors.
const STEP: usize = 32;
/// Blocks of a group, where they are short.
const GROUP: usize = 4;
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
fn plan<E: Number>(job: &Job<'_>) -> Option<u8> {
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

/// What [`Rounding::element`] needs of the blocks of a group, as bits: smallest normal and largest value; or the scale,
/// its reciprocal, and what that leaves.
struct Numbers<const G: usize> {
    absmax: [u32; G],
    scales: [[u32; G]; 3],
    /// Whether these are ordinary numbers.
    usual: bool,
}

impl<const G: usize> Default for Numbers<G> {
    fn default() -> Self {
        Numbers { absmax: [0; G], scales: [[0; G]; 3], usual: false }
    }
}

/// # Safety
/// [`Halves`]'s contract.
#[inline(always)]
unsafe fn numbers<V: Halves, E: Number, const HOW: u8, const G: usize>(most: [V; G], job: &Job<'_>) -> Numbers<G> {
    /// Exponents of scales between which nothing overflows or loses digits.
    const USUAL: std::ops::Range<u32> = 127 - 60..127 + 60;
    let mut n = Numbers::default();
    // SAFETY: the caller's contract.
    unsafe {
        if G == GROUP {
            let mut lanes = [V::splat(0); GROUP];
            for b in 0..GROUP {
                lanes[b] = E::lanes(most[b]);
            }
            n.absmax.copy_from_slice(&V::largest_of(lanes));
        } else {
            n.absmax[0] = E::lanes(most[0]).largest();
        }
    }
    for absmax in &mut n.absmax {
        *absmax = E::from_upper(*absmax).to_bits();
    }
    let [first, second, third] = &mut n.scales;
    if matches!(HOW, POWER | UNSIGNED) {
        n.usual = job.powers(&n.absmax, first, second);
        return n;
    }
    n.usual = job.quotients(&n.absmax, 1.0, first);
    for b in 0..G {
        let s = f32::from_bits(first[b]);
        let r = 1.0 / s;
        (second[b], third[b]) = (r.to_bits(), ((-s).mul_add(r, 1.0) * r).to_bits());
        n.usual &= USUAL.contains(&(first[b] >> 23));
    }
    n
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
}

impl<V: Halves> Rounding<V> {
    /// # Safety
    /// [`Halves`]'s contract, for every method.
    #[inline(always)]
    unsafe fn new(shape: Shape, emin: u32) -> Self {
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
            }
        }
    }

    /// No quotient rounds to more than the largest value: the scale is the absmax divided by that.
    #[inline(always)]
    unsafe fn element<const HOW: u8>(&self, x: V, [first, second, third]: [V; 3]) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            match HOW {
                POWER => self.nearest(x.and(self.magnitude).min(second), x, first),
                UNSIGNED => self.nearest(x.and(self.magnitude).min(second), x, first).fadd(self.zero),
                QUOTIENT => {
                    let q = quotient(x, first, second, third).and(self.magnitude);
                    self.nearest(q, x, self.emin).fused(first, self.zero)
                }
                _ => {
                    let q = quotient(x, first, second, third);
                    q.fadd(self.c).fsub(self.c).fused(first, self.zero)
                }
            }
        }
    }

    /// `element::round` of a magnitude, with the sign of `signed`.
    #[inline(always)]
    unsafe fn nearest(&self, a: V, signed: V, emin: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let c = a.and(self.exponent).max(emin).add(self.to_c);
            signed.and_or(self.sign, a.fadd(c).fsub(c))
        }
    }
}

/// `x / s` by the reciprocal of `s` and what that leaves; the sign of a zero is lost.
///
/// # Safety
/// [`Halves`]'s contract.
#[inline(always)]
unsafe fn quotient<V: Halves>(x: V, s: V, reciprocal: V, rest: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let q = x.fused(reciprocal, x.fmul(rest));
        q.fused_less(s, x).fused(reciprocal, q)
    }
}
