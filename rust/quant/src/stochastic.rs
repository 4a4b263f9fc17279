//! Stochastic rounding of one fp32 magnitude, branch-free: P3109's StochasticB (and A and C), equal to the truth bit for bit.
//!
//! B takes the spacing `u` of the grid at `|x|` and rounds away iff `floor(v 2^(N+1)) + 2R + 1 >= 2^(N+1)`, `v` being
//! what `|x| / u` has after the point. Since `floor((floor(z) + i) / m) = floor((z + i) / m)` for integers `i` and `m`,
//! that is
//!
//! ```text
//! result = floor(|x| / u + (2R + 1) / 2^(N+1)) u
//! ```
//!
//! the exact sum, cut off. In a binade `[2^e, 2^(e+1))` the bits of an fp32 number are a fixed-point number, so the sum is an
//! integer addition to its bits, and cutting off clears the `k = 23 - m` lowest; a carry runs into the exponent as it
//! should. Below the smallest normal number `2^emin` the spacing no longer shrinks: adding `2^emin` moves such a number
//! into the binade `[2^emin, 2^(emin+1))`, whose spacing is the same; this addition cuts off too (`truncated_sum`), and
//! the subtraction afterwards is exact.
//!
//! A adds `R / 2^N` instead. C does so after `v` has been rounded to N bits, ties to even: where that is not what A does
//! anyway, and fp32 has the bits, the magnitude is rounded to them first (`element`).
//!
//! What that addition cuts off lies below `2^(emin-23)`, so it can matter only if the random fraction reaches there:
//! for `N + 1 > k` (`fine`, a constant of the kernel) it is carried over.

use crate::cast::Cast;
use crate::job::{Fast, Job};
#[cfg(target_arch = "x86_64")]
use crate::stochastic_lanes::{self as lanes, Scaling};

/// Whole blocks of a run over vectors where there are any; returns how many elements it has done.
pub fn blocks(x: &[f32], y: &mut [f32], block: usize, fractions: &[u32], job: &Job<'_>) -> usize {
    #[cfg(target_arch = "x86_64")]
    return lanes::scaled(x, y, fractions, Scaling::Blocks(block), job);
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// The same under one known scale.
pub fn known(x: &[f32], y: &mut [f32], fractions: &[u32], scale: Fast, job: &Job<'_>) -> usize {
    #[cfg(target_arch = "x86_64")]
    return lanes::scaled(x, y, fractions, Scaling::Known(scale), job);
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// The same for casts.
pub fn cast(x: &[f32], y: &mut [f32], fractions: &[u32], cast: &Cast) -> usize {
    #[cfg(target_arch = "x86_64")]
    return lanes::cast(x, y, fractions, cast);
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// What is the same for all elements of a job.
#[derive(Clone, Copy)]
pub struct Spacing {
    /// Low bits of an fp32 significand that the grid does not have: 3 to 22.
    pub k: u32,
    /// Added below the last digit of a random fraction (see `element::Shape`).
    pub last: u32,
}

/// Whether the random fraction reaches below fp32's own digits.
pub fn is_fine(mbits: u32, n: u32) -> bool {
    n + mbits + 1 > 23
}

/// The bits of the magnitude with the bits `a`, rounded with a random `fraction` (see `bits`) on the grid whose smallest
/// normal number has the bits `emin`.
#[inline(always)]
pub fn round(fine: bool, a: u32, emin: u32, spacing: Spacing, fraction: u32) -> u32 {
    let base = f32::from_bits(if a < emin { emin } else { 0 });
    let x = f32::from_bits(a);
    let (sum, whole) = truncated_sum(x, base);
    let mut added = fraction >> (32 - spacing.k);
    if fine {
        added += carry(x - whole, emin, spacing, fraction);
    }
    (f32::from_bits(cut_off(sum.wrapping_add(added), spacing.k)) - base).to_bits()
}

/// The same for a format with fp32's exponent range: exponent and fraction are one fixed-point number everywhere.
#[inline(always)]
pub fn round_wide(a: u32, k: u32, fraction: u32) -> u32 {
    cut_off(a + (fraction >> (32 - k)), k)
}

#[inline(always)]
fn cut_off(bits: u32, k: u32) -> u32 {
    bits & (u32::MAX << k)
}

/// The bits of `x + base` rounded toward zero, and that sum less `base` again (exact).
#[inline(always)]
fn truncated_sum(x: f32, base: f32) -> (u32, f32) {
    let sum = x + base;
    let above = sum - base > x;
    let sum = sum.to_bits().wrapping_sub(u32::from(above));
    (sum, f32::from_bits(sum) - base)
}

/// Whether `rest`, which lies below the last digit `2^(emin-23)`, and the part of the random fraction that lies there,
/// reach 1 together.
#[inline(always)]
fn carry(rest: f32, emin: u32, spacing: Spacing, fraction: u32) -> u32 {
    // In units of 2^-j of that digit the random part is an integer plus one half (N = 32), or less finely divided.
    let j = 33 - spacing.k;
    let (unit, finer) = (f32::from_bits(0x7f00_0000u32.wrapping_sub(emin)), f32::from_bits((127 + 23 + j) << 23));
    let rest = (rest * unit * finer) as i32 as u32;
    let random = (fraction << spacing.k >> spacing.k) << 1 | spacing.last;
    (rest + random) >> j
}
