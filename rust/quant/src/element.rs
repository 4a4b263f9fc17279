//! One element, fp32, branch-free: bit-equal to `Format::round_shifted` for finite input on grids that pass
//! [`crate::job::Job`]'s range checks. Overflow saturates.
//!
//! Nearest-even is one addition and one subtraction: with `C = 1.5 * 2^(e + 23 - m)`, whose last bit is worth the grid
//! spacing `2^(e - m)`, `(x + C) - C` is `x` rounded to `m` fraction bits, ties to even. Taking `e` as the larger of the
//! exponents of `x` and of the smallest normal number makes subnormals right without a branch. The other modes shift
//! the significand, decide, and multiply the integer back by the spacing (stochastic rounding: see `stochastic`).

pub const NEAREST_EVEN: u8 = 0;
pub const NEAREST_AWAY: u8 = 1;
pub const TOWARD_ZERO: u8 = 2;
pub const UP: u8 = 3;
pub const DOWN: u8 = 4;
pub const STOCHASTIC: u8 = 5;
/// Stochastic, with more random bits than fp32 has digits below the grid's.
pub const STOCHASTIC_FINE: u8 = 6;
/// Stochastic, after what is rounded off has been rounded to as many digits as there are random bits (StochasticC).
pub const STOCHASTIC_NEAREST: u8 = 7;
pub const TO_ODD: u8 = 8;

pub const fn is_stochastic(mode: u8) -> bool {
    matches!(mode, STOCHASTIC | STOCHASTIC_FINE | STOCHASTIC_NEAREST)
}

use crate::stochastic::{self, Spacing};

const MAGNITUDE: u32 = 0x7fff_ffff;
const EXPONENT: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;

/// What is the same for all elements of a job.
#[derive(Clone, Copy)]
pub struct Shape {
    pub mbits: u32,
    /// Random bits an element (stochastic rounding).
    pub n: u32,
    /// Added below the last digit of a random fraction: 1 for the half of StochasticB with 32 bits, else 0.
    pub last: u32,
    /// Added at the end: -0.0 keeps the sign of zero, +0.0 (integers) drops it.
    pub zero: f32,
}

/// The grid spacing starts at `2^(emin - mbits)`; `emin` and `max` are bit patterns of positive fp32 powers and values.
#[inline(always)]
pub fn round<const M: u8>(x: f32, emin: u32, max: u32, shape: Shape, random: u32) -> f32 {
    let b = x.to_bits();
    let magnitude = if M == NEAREST_EVEN {
        // The largest value lies on the grid, so clamping first is as good as last and keeps the sums in range.
        nearest((b & MAGNITUDE).min(max), emin, shape.mbits)
    } else if is_stochastic(M) {
        let spacing = Spacing { k: 23 - shape.mbits, last: shape.last };
        let a = b & MAGNITUDE;
        let a = if M == STOCHASTIC_NEAREST { nearest(a.min(max), emin, shape.mbits + shape.n) } else { a };
        stochastic::round(M == STOCHASTIC_FINE, a, emin, spacing, random).min(max)
    } else {
        by_significand::<M>(b, emin, shape).min(max)
    };
    f32::from_bits(magnitude | (b & SIGN)) + shape.zero
}

/// The bits of the magnitude with the bits `a` with `digits` (21 at most) after those of its exponent, ties to even.
#[inline(always)]
fn nearest(a: u32, emin: u32, digits: u32) -> u32 {
    let c = f32::from_bits((a & EXPONENT).max(emin).wrapping_add(((23 - digits) << 23) | 0x0040_0000));
    ((f32::from_bits(a) + c) - c).to_bits()
}

#[inline(always)]
fn by_significand<const M: u8>(b: u32, emin: u32, shape: Shape) -> u32 {
    let a = b & MAGNITUDE;
    let (field, fraction) = (a >> 23, a & 0x007f_ffff);
    let significand = if field > 0 { fraction | 0x0080_0000 } else { fraction };
    let exponent = field.max(1);
    let top = exponent.max(emin >> 23);
    // Discarded bits. The significand has 24, so beyond 30 no deterministic decision changes.
    let discarded = 23 - shape.mbits + (top - exponent);
    let spacing = f32::from_bits((top - shape.mbits) << 23);
    let whole = decide::<M>(significand, discarded, b & SIGN != 0);
    // As i32: the conversion from signed integers is one instruction at every level.
    (whole as i32 as f32 * spacing).to_bits()
}

/// `significand / 2^discarded` rounded to an integer; `discarded` is at least 1.
#[inline(always)]
fn decide<const M: u8>(significand: u32, discarded: u32, negative: bool) -> u32 {
    let k = discarded.min(30);
    let rest = (1u32 << k) - 1;
    let half = 1u32 << (k - 1);
    match M {
        NEAREST_EVEN => (significand + (half - 1) + (significand >> k & 1)) >> k,
        NEAREST_AWAY => (significand + half) >> k,
        TOWARD_ZERO => significand >> k,
        UP => (significand + if negative { 0 } else { rest }) >> k,
        TO_ODD => significand >> k | u32::from(significand & rest != 0),
        _ => (significand + if negative { rest } else { 0 }) >> k,
    }
}

/// Exponent and fraction as one integer, `k` (1..=23) low bits rounded off: for formats with fp32's exponent range.
#[inline(always)]
pub fn decide_wide<const M: u8>(a: u32, k: u32, negative: bool, random: u32) -> u32 {
    if is_stochastic(M) {
        return stochastic::round_wide(a, k, random);
    }
    let rest = (1u32 << k) - 1;
    let half = 1u32 << (k - 1);
    let whole = match M {
        NEAREST_EVEN => (a + (half - 1) + (a >> k & 1)) >> k,
        NEAREST_AWAY => (a + half) >> k,
        TOWARD_ZERO => a >> k,
        UP => (a + if negative { 0 } else { rest }) >> k,
        TO_ODD => a >> k | u32::from(a & rest != 0),
        _ => (a + if negative { rest } else { 0 }) >> k,
    };
    whole << k
}
