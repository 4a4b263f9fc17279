//! The elements that `ahead` rounds, and what that needs of their blocks.
//!
//! A division costs as much time as memory leaves for everything. With `r` the reciprocal of `s` rounded and `e` what
//! that leaves, `q = x r + x e` is the quotient `x / s` within one unit in the last place, from where adding its exact
//! remainder times `r` rounds correctly (Markstein, IBM J. Res. Dev. 34 (1990) 111, theorem 8.2; no part of it leaves the
//! range of normal numbers for the scales that [`numbers`] takes, or the quotient is so small that it becomes zero).
#![cfg(target_arch = "x86_64")]

use crate::ahead::GROUP;
use crate::cells::Halves;
use crate::element::Shape;
use crate::job::Job;
use crate::nearest_vector::{Nearest, to_c};
use crate::number::Number;

/// How an element is rounded: on the grid of its block's power of two, the sign of zero kept or not; as a quotient; as
/// a quotient on a grid of equal steps, without a sign of zero.
pub const POWER: u8 = 0;
pub const UNSIGNED: u8 = 1;
pub const QUOTIENT: u8 = 2;
pub const INTEGER: u8 = 3;

/// Exponents of scales between which nothing overflows or loses digits.
pub const USUAL: std::ops::Range<u32> = 127 - 60..127 + 60;

/// The bits of the reciprocal of a scale, and of what it leaves.
#[inline(always)]
pub fn reciprocal(scale: u32) -> (u32, u32) {
    let s = f32::from_bits(scale);
    let r = 1.0 / s;
    (r.to_bits(), ((-s).mul_add(r, 1.0) * r).to_bits())
}

/// What [`Rounding::element`] needs of the blocks of a group, as bits: smallest normal and largest value; or the scale,
/// its reciprocal, and what that leaves.
pub struct Numbers<const G: usize> {
    pub absmax: [u32; G],
    pub scales: [[u32; G]; 3],
    /// Whether these are ordinary numbers.
    pub usual: bool,
}

impl<const G: usize> Default for Numbers<G> {
    fn default() -> Self {
        Numbers { absmax: [0; G], scales: [[0; G]; 3], usual: false }
    }
}

/// # Safety
/// [`Halves`]'s contract.
#[inline(always)]
pub unsafe fn numbers<V: Halves, E: Number, const HOW: u8, const G: usize>(most: [V; G], job: &Job<'_>) -> Numbers<G> {
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
        (second[b], third[b]) = reciprocal(first[b]);
        n.usual &= USUAL.contains(&(first[b] >> 23));
    }
    n
}

/// The constants of a run in every lane.
pub struct Rounding<V> {
    magnitude: V,
    sign: V,
    zero: V,
    nearest: Nearest<V>,
    /// The smallest normal number, and what it makes `nearest` add and take away again.
    emin: V,
    c: V,
}

impl<V: Halves> Rounding<V> {
    /// # Safety
    /// [`Halves`]'s contract, for every method.
    #[inline(always)]
    pub unsafe fn new(shape: Shape, emin: u32) -> Self {
        let digits = 23 - shape.mbits;
        // SAFETY: the caller's contract.
        unsafe {
            Rounding {
                magnitude: V::splat(0x7fff_ffff),
                sign: V::splat(0x8000_0000),
                zero: V::splat(shape.zero.to_bits()),
                nearest: Nearest::new(digits),
                emin: V::splat(emin),
                c: V::splat(emin.wrapping_add(to_c(digits))),
            }
        }
    }

    /// No quotient rounds to more than the largest value: the scale is the absmax divided by that.
    #[inline(always)]
    pub unsafe fn element<const HOW: u8>(&self, x: V, [first, second, third]: [V; 3]) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            match HOW {
                POWER => self.signed(x.and(self.magnitude).min(second), x, first),
                UNSIGNED => self.signed(x.and(self.magnitude).min(second), x, first).fadd(self.zero),
                QUOTIENT => {
                    let q = quotient(x, first, second, third).and(self.magnitude);
                    self.signed(q, x, self.emin).fused(first, self.zero)
                }
                _ => {
                    let q = quotient(x, first, second, third);
                    q.fadd(self.c).fsub(self.c).fused(first, self.zero)
                }
            }
        }
    }

    /// A magnitude rounded, with the sign of `x`.
    #[inline(always)]
    unsafe fn signed(&self, a: V, x: V, emin: V) -> V {
        // SAFETY: the caller's contract.
        unsafe { x.and_or(self.sign, self.nearest.round(a, emin)) }
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
