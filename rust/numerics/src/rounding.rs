//! Rounding one number onto a format's grid.
//!
//! Idea: write `|x| = (S + v) * u` with the grid spacing `u` at `|x|`, an integer `S` and `0 <= v < 1`, all in
//! integer arithmetic; the mode decides from `S`, `v` and the sign whether to take `S` or `S + 1`. Overflow is
//! treated *after* rounding, as if the exponent were unbounded (OFP8 section 5.2, P3109 v4.0 "projection").

use crate::exact::{decompose, pow2};
use crate::format::Format;

/// Names after P3109 v4.0 section 4.7.4 (RoundToPrecision), whose rules the modes follow in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Ties to the even code. Where a format has no fraction bits only P3109's formats have even codes ("even" then
    /// looks at the exponent); in the others all significands are odd, and ties between two powers of two go to the
    /// larger one, as torch's and ml_dtypes' E8M0 casts do.
    NearestEven,
    NearestAway,
    TowardZero,
    Up,
    Down,
    /// What is not on the grid goes to the neighbour with the odd code ("even" as above).
    ToOdd,
    /// Away from zero if `floor(v 2^N) + R >= 2^N`, for N = 1..=32 random bits R.
    StochasticA(u32),
    /// StochasticB: `floor(v 2^(N+1)) + 2R + 1 >= 2^(N+1)`.
    Stochastic(u32),
    /// `RNE(v 2^N) + R >= 2^N`, with RNE to the nearest integer, ties to even.
    StochasticC(u32),
}

impl Rounding {
    /// N of the stochastic modes, 0 for the others.
    pub fn random_bits(self) -> u32 {
        match self {
            Rounding::StochasticA(n) | Rounding::Stochastic(n) | Rounding::StochasticC(n) => n,
            _ => 0,
        }
    }
}

/// What becomes of a rounded value beyond the format's range, and of an infinite input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The end of the range, for infinite input too (P3109's SatFinite).
    Saturate,
    /// Infinity where the format has it on that side, else NaN; a rounding that points inwards stops at the end of the
    /// range (P3109's SatNone).
    Ieee,
    /// Finite input saturates, infinite input stays infinite. Without infinity it becomes NaN, but in P3109's formats
    /// the end of the range (P3109's SatPropagate).
    Propagate,
}

/// How far `x` is on the way from one neighbour to the next: all that any mode looks at.
pub(crate) struct Fraction {
    /// `floor(v 2^BITS)`.
    pub top: u64,
    /// Whether `v` is more than that.
    pub rest: bool,
}

impl Fraction {
    /// One more than the most random bits.
    pub const BITS: u32 = 33;

    /// `floor(v 2^n)`, n <= BITS.
    fn floor(&self, n: u32) -> u64 {
        self.top >> (Self::BITS - n)
    }

    fn is_zero(&self) -> bool {
        self.top == 0 && !self.rest
    }

    fn compare_to_half(&self) -> std::cmp::Ordering {
        self.top.cmp(&(1 << (Self::BITS - 1))).then(self.rest.cmp(&false))
    }

    /// `v 2^n` to the nearest integer, ties to even; n < BITS.
    fn nearest(&self, n: u32) -> u64 {
        let (whole, beyond) = (self.floor(n), self.top & ((1 << (Self::BITS - n)) - 1));
        let half = 1 << (Self::BITS - n - 1);
        whole + u64::from(beyond > half || (beyond == half && (self.rest || whole & 1 == 1)))
    }
}

/// Does a number that lies `v` above a neighbour of magnitude `S u` round away from zero? `even`: that neighbour's
/// code. P3109 v4.0 section 4.7.4.
pub(crate) fn rounds_away(v: Fraction, even: bool, negative: bool, rounding: Rounding, random: u32) -> bool {
    let r = u64::from(random);
    match rounding {
        Rounding::NearestEven => v.compare_to_half().is_gt() || (v.compare_to_half().is_eq() && !even),
        Rounding::NearestAway => v.compare_to_half().is_ge(),
        Rounding::TowardZero => false,
        Rounding::Up => !v.is_zero() && !negative,
        Rounding::Down => !v.is_zero() && negative,
        Rounding::ToOdd => !v.is_zero() && even,
        Rounding::StochasticA(n) => v.floor(n) + r >= 1 << n,
        Rounding::Stochastic(n) => v.floor(n + 1) + 2 * r + 1 >= 1 << (n + 1),
        Rounding::StochasticC(n) => v.nearest(n) + r >= 1 << n,
    }
}

/// A finite `x` below 2^53 rounded to an integer.
pub(crate) fn round_integer(x: f64, rounding: Rounding, random: u32) -> f64 {
    let whole = x.abs().trunc();
    let scaled = (x.abs() - whole) * pow2(Fraction::BITS as i32);
    let v = Fraction { top: scaled as u64, rest: scaled.fract() != 0.0 };
    let away = rounds_away(v, whole as u64 & 1 == 0, x.is_sign_negative(), rounding, random);
    (whole + f64::from(u8::from(away))).copysign(x)
}

impl Format {
    /// `x` rounded onto the format's grid. NaN stays NaN even where the format has no code for it.
    ///
    /// `random` holds the addressed bits of a stochastic rounding, below `2^N`; other modes ignore it.
    pub fn round(&self, x: f64, rounding: Rounding, overflow: Overflow, random: u32) -> f64 {
        self.round_shifted(x, 0, rounding, overflow, random)
    }

    /// The same on the grid multiplied by `2^shift`: what a power-of-two scale does, with no division.
    pub fn round_shifted(&self, x: f64, shift: i32, rounding: Rounding, overflow: Overflow, random: u32) -> f64 {
        if x.is_nan() {
            return f64::NAN;
        }
        let (min, max) = (self.min * pow2(shift), self.max * pow2(shift));
        let rounded = match &self.book {
            _ if x.is_infinite() || x == 0.0 && self.has_zero() => x,
            Some(book) => book.round(x, shift, rounding, random),
            None => self.round_magnitude(x, shift, rounding, random).copysign(x),
        };
        // Infinite input lies beyond a range that fp64 does not hold, too.
        if rounded < min || rounded > max || x.is_infinite() {
            let above = rounded > min;
            self.beyond(above, x.is_infinite(), rounding, overflow).unwrap_or(if above { max } else { min })
        } else if rounded == 0.0 && !self.has_neg_zero() {
            0.0
        } else {
            rounded
        }
    }

    /// The magnitude of a finite `x` rounded to a multiple of `2^(max(floor(log2 |x|), emin) - mbits)`.
    fn round_magnitude(&self, x: f64, shift: i32, rounding: Rounding, random: u32) -> f64 {
        if x == 0.0 {
            return 0.0;
        }
        let emin = self.emin + shift;
        let (significand, exponent) = decompose(x.abs());
        let e = 63 - significand.leading_zeros() as i32 + exponent;
        let quantum = e.max(emin) - self.mbits as i32;
        if quantum <= exponent {
            return x.abs();
        }
        // Beyond 120 every digit is far below the last random bit: the cap changes no decision.
        let discarded = (quantum - exponent).min(120) as u32;
        let significand = u128::from(significand);
        let (whole, fraction) = (significand >> discarded, significand & ((1 << discarded) - 1));
        let v = if discarded > Fraction::BITS {
            let below = discarded - Fraction::BITS;
            Fraction { top: (fraction >> below) as u64, rest: fraction & ((1 << below) - 1) != 0 }
        } else {
            Fraction { top: (fraction << (Fraction::BITS - discarded)) as u64, rest: false }
        };
        // Without fraction bits the code is the exponent field, quantum - emin + 1.
        let even = if self.even_by_exponent() { whole == 0 || (quantum - emin) & 1 == 1 } else { whole & 1 == 0 };
        let away = rounds_away(v, even, x.is_sign_negative(), rounding, random);
        (whole as u64 + u64::from(away)) as f64 * pow2(quantum)
    }

    /// What a value beyond the range becomes, `None` for the end of the range: P3109 v4.0 section 4.7.5 (Saturate), for
    /// every format.
    pub(crate) fn beyond(&self, above: bool, infinite: bool, rounding: Rounding, overflow: Overflow) -> Option<f64> {
        let infinity = match above {
            true if self.has_inf() => f64::INFINITY,
            false if self.has_inf() && self.signed => f64::NEG_INFINITY,
            // NaN has the sign of the input where there are signs.
            false if self.signed => -f64::NAN,
            _ => f64::NAN,
        };
        // Of the end of the range and infinity one has the odd code; the other formats have no such choice.
        let inwards = match rounding {
            Rounding::TowardZero => true,
            Rounding::Up => !above,
            Rounding::Down => above,
            Rounding::ToOdd => !infinity.is_nan() && self.max_code() & 1 == 1,
            _ => false,
        };
        match overflow {
            Overflow::Saturate => None,
            Overflow::Propagate if !infinite || (infinity.is_nan() && self.one_nan()) => None,
            Overflow::Ieee if inwards && !infinite => None,
            Overflow::Propagate | Overflow::Ieee => Some(infinity),
        }
    }

    /// The next larger grid value, or `max` at the top.
    pub fn next_up(&self, r: f64) -> f64 {
        self.round(r.next_up(), Rounding::Up, Overflow::Saturate, 0)
    }

    /// The next smaller grid value, or the lowest at the bottom.
    pub fn next_down(&self, r: f64) -> f64 {
        self.round(r.next_down(), Rounding::Down, Overflow::Saturate, 0)
    }
}

#[cfg(test)]
mod tests;
