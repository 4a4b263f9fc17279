//! Rounding one number onto a format's grid.
//!
//! Idea: write `|x| = (S + v) * u` with the grid spacing `u` at `|x|`, an integer `S` and `0 <= v < 1`, all in
//! integer arithmetic; the mode decides from `S`, `v` and the sign whether to take `S` or `S + 1`. Overflow is
//! treated *after* rounding, as if the exponent were unbounded (OFP8 section 5.2, P3109 v4.0 "projection").

use crate::exact::{decompose, pow2};
use crate::format::Format;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Ties to the even significand. Between two powers of two in a format without fraction bits, whose
    /// significands are all odd, ties go to the larger one (as torch's and ml_dtypes' E8M0 casts do).
    NearestEven,
    NearestAway,
    TowardZero,
    Up,
    Down,
    /// P3109 v4.0 StochasticB with this many random bits (1..=32).
    Stochastic(u32),
}

/// What becomes of a rounded magnitude above the format's maximum, and of an infinite input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The largest finite value, for infinite input too.
    Saturate,
    /// Infinity where the format has it, else NaN; a directed rounding that points inwards stops at the maximum.
    Ieee,
    /// Finite input saturates, infinite input stays infinite (NaN where the format has no infinity).
    Propagate,
}

/// Does the fraction `frac / 2^shift` above the integer `whole` round away from zero?
fn rounds_away(whole: u128, frac: u128, shift: u32, negative: bool, rounding: Rounding, random: u32) -> bool {
    let half = 1u128 << (shift - 1);
    match rounding {
        Rounding::NearestEven => frac > half || (frac == half && whole & 1 == 1),
        Rounding::NearestAway => frac >= half,
        Rounding::TowardZero => false,
        Rounding::Up => frac != 0 && !negative,
        Rounding::Down => frac != 0 && negative,
        Rounding::Stochastic(n) => {
            // floor(v 2^(N+1)) + 2R + 1 >= 2^(N+1)
            let v = if shift > n + 1 { frac >> (shift - n - 1) } else { frac << (n + 1 - shift) };
            v + 2 * u128::from(random) + 1 >= 1 << (n + 1)
        }
    }
}

/// A finite non-negative `a` rounded to a multiple of `2^(max(floor(log2 a), emin) - mbits)`.
pub(crate) fn round_magnitude(a: f64, mbits: i32, emin: i32, negative: bool, rounding: Rounding, random: u32) -> f64 {
    if a == 0.0 {
        return 0.0;
    }
    let (significand, exponent) = decompose(a);
    let e = 63 - significand.leading_zeros() as i32 + exponent;
    let quantum = e.max(emin) - mbits;
    if quantum <= exponent {
        return a;
    }
    // Beyond 120 every digit is far below the last random bit: the cap changes no decision.
    let shift = (quantum - exponent).min(120) as u32;
    let significand = u128::from(significand);
    let (whole, frac) = (significand >> shift, significand & ((1 << shift) - 1));
    let away = rounds_away(whole, frac, shift, negative, rounding, random);
    (whole as u64 + u64::from(away)) as f64 * pow2(quantum)
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
        let negative = x.is_sign_negative();
        let max = self.max * pow2(shift);
        if negative && !self.signed {
            return self.below_range(x, shift, overflow);
        }
        let magnitude = if x.is_infinite() {
            f64::INFINITY
        } else {
            round_magnitude(x.abs(), self.mbits as i32, self.emin + shift, negative, rounding, random)
        };
        if magnitude > max {
            let r = self.overflowed(max, x.is_infinite(), negative, rounding, overflow);
            return if negative { -r } else { r };
        }
        if magnitude == 0.0 {
            return if !self.has_zero() {
                self.below_range(x, shift, overflow)
            } else if negative && self.has_neg_zero() {
                -0.0
            } else {
                0.0
            };
        }
        if negative { -magnitude } else { magnitude }
    }

    /// A negative number in an unsigned format, or zero where there is none.
    fn below_range(&self, x: f64, shift: i32, overflow: Overflow) -> f64 {
        if x == 0.0 && self.has_zero() {
            return 0.0;
        }
        match overflow {
            Overflow::Saturate | Overflow::Propagate if !self.has_zero() => self.min_positive() * pow2(shift),
            Overflow::Saturate | Overflow::Propagate => 0.0,
            Overflow::Ieee => f64::NAN,
        }
    }

    fn overflowed(&self, max: f64, infinite: bool, negative: bool, rounding: Rounding, overflow: Overflow) -> f64 {
        let special = if self.has_inf() { f64::INFINITY } else { f64::NAN };
        match overflow {
            Overflow::Saturate => max,
            Overflow::Propagate => {
                if infinite {
                    special
                } else {
                    max
                }
            }
            Overflow::Ieee => {
                let inwards = match rounding {
                    Rounding::TowardZero => true,
                    Rounding::Up => negative,
                    Rounding::Down => !negative,
                    _ => false,
                };
                if inwards && !infinite { max } else { special }
            }
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
mod tests {
    use super::*;

    const MODES: [Rounding; 5] =
        [Rounding::NearestEven, Rounding::NearestAway, Rounding::TowardZero, Rounding::Up, Rounding::Down];

    /// Finite values of a format in ascending order.
    fn values(f: &Format) -> Vec<f64> {
        let mut v: Vec<f64> = (0..1u32 << f.bits()).map(|c| f.decode(c)).filter(|v| v.abs() <= f.max).collect();
        v.sort_by(f64::total_cmp);
        v.dedup();
        v
    }

    /// By search in the table of values: an independent statement of every deterministic mode.
    fn by_table(table: &[f64], even: &dyn Fn(f64) -> bool, x: f64, mode: Rounding) -> f64 {
        let hi = table[table.partition_point(|v| *v < x)];
        if hi == x {
            return x;
        }
        let lo = table[table.partition_point(|v| *v < x) - 1];
        let nearest_or = |tie: f64| match (x - lo).total_cmp(&(hi - x)) {
            std::cmp::Ordering::Less => lo,
            std::cmp::Ordering::Greater => hi,
            std::cmp::Ordering::Equal => tie,
        };
        match mode {
            Rounding::NearestEven => {
                let up = !even(lo) && (even(hi) || x > 0.0);
                nearest_or(if up { hi } else { lo })
            }
            Rounding::NearestAway => nearest_or(if x > 0.0 { hi } else { lo }),
            Rounding::TowardZero => {
                if x > 0.0 {
                    lo
                } else {
                    hi
                }
            }
            Rounding::Up => hi,
            Rounding::Down => lo,
            Rounding::Stochastic(_) => unreachable!(),
        }
    }

    #[test]
    fn modes_agree_with_a_search_in_the_table() {
        for name in ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "e1m2", "e4m0", "int8", "int4", "int2", "mxint8", "fp16"] {
            let f = Format::get(name).unwrap();
            let table = values(&f);
            // Without fraction bits every significand is 1: a tie between two of them takes the larger one.
            let even = |v: f64| f.mbits > 0 && f.encode(v).unwrap() & 1 == 0 || v == 0.0;
            for pair in table.windows(2) {
                let mid = (pair[0] + pair[1]) / 2.0;
                for x in [pair[0], pair[0].next_up(), mid.next_down(), mid, mid.next_up(), pair[1].next_down()] {
                    for mode in MODES {
                        let got = f.round(x, mode, Overflow::Saturate, 0);
                        assert_eq!(got, by_table(&table, &even, x, mode), "{name} {x} {mode:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn top_of_e4m3_and_e5m2() {
        let (e4m3, e5m2) = (Format::get("e4m3").unwrap(), Format::get("e5m2").unwrap());
        let near = Rounding::NearestEven;
        assert_eq!(e4m3.round(464.0, near, Overflow::Ieee, 0), 448.0); // tie to even
        assert!(e4m3.round(464.0f64.next_up(), near, Overflow::Ieee, 0).is_nan());
        assert_eq!(e4m3.round(1e9, near, Overflow::Saturate, 0), 448.0);
        assert!(e4m3.round(f64::INFINITY, near, Overflow::Propagate, 0).is_nan());
        assert_eq!(e5m2.round(61440.0, near, Overflow::Ieee, 0), f64::INFINITY); // 57344 is odd
        assert_eq!(e5m2.round(61439.0, near, Overflow::Ieee, 0), 57344.0);
        assert_eq!(e5m2.round(-1e9, Rounding::TowardZero, Overflow::Ieee, 0), -57344.0);
        assert_eq!(e5m2.round(-1e9, Rounding::Up, Overflow::Ieee, 0), -57344.0);
        assert_eq!(e5m2.round(1e9, Rounding::Up, Overflow::Ieee, 0), f64::INFINITY);
        assert_eq!(e5m2.round(f64::INFINITY, Rounding::TowardZero, Overflow::Ieee, 0), f64::INFINITY);
        assert_eq!(e5m2.round(f64::NEG_INFINITY, near, Overflow::Propagate, 0), f64::NEG_INFINITY);
        assert_eq!(e5m2.round(1e9, near, Overflow::Propagate, 0), 57344.0);
    }

    #[test]
    fn zero_keeps_its_sign_where_there_is_one() {
        let e4m3 = Format::get("e4m3").unwrap();
        assert!(e4m3.round(-0.0, Rounding::NearestEven, Overflow::Saturate, 0).is_sign_negative());
        assert!(e4m3.round(-1e-9, Rounding::NearestEven, Overflow::Saturate, 0).is_sign_negative());
        let int4 = Format::get("int4").unwrap();
        assert!(int4.round(-0.3, Rounding::NearestEven, Overflow::Saturate, 0).is_sign_positive());
    }

    #[test]
    fn unsigned_formats_clamp_from_below() {
        let e8m0 = Format::get("e8m0").unwrap();
        assert_eq!(e8m0.round(0.0, Rounding::NearestEven, Overflow::Saturate, 0), pow2(-127));
        assert_eq!(e8m0.round(-3.0, Rounding::NearestEven, Overflow::Saturate, 0), pow2(-127));
        assert!(e8m0.round(-3.0, Rounding::NearestEven, Overflow::Ieee, 0).is_nan());
        let ue5m3 = Format::get("ue5m3").unwrap();
        assert_eq!(ue5m3.round(-3.0, Rounding::NearestEven, Overflow::Saturate, 0), 0.0);
    }

    /// With every value of R the share that rounds away is the probability that StochasticB states.
    #[test]
    fn stochastic_b_counts() {
        let f = Format::get("e4m3").unwrap();
        for n in [1u32, 3, 8, 10] {
            for k in 0..64 {
                let v = f64::from(k) / 64.0;
                let x = 16.0 + 2.0 * v; // spacing 2 in [16, 32)
                let up = (0..1u32 << n)
                    .filter(|r| f.round(x, Rounding::Stochastic(n), Overflow::Saturate, *r) > 16.0)
                    .count();
                let t = (v * f64::from(1u32 << (n + 1))).floor() as u32;
                let expected = (0..1u32 << n).filter(|r| t + 2 * r + 1 >= 1 << (n + 1)).count();
                assert_eq!(up, if v == 0.0 { 0 } else { expected }, "n={n} v={v}");
            }
        }
    }

    #[test]
    fn stochastic_far_below_the_grid() {
        let f = Format::get("e4m3").unwrap();
        let quantum = pow2(-9);
        // v = 2^-20: floor(v 2^33) = 2^13 of 2^33, so exactly the R from 2^32 - 2^12 up round away.
        let x = quantum * pow2(-20);
        let up = |r: u32| f.round(x, Rounding::Stochastic(32), Overflow::Saturate, r);
        assert_eq!(up(u32::MAX - (1 << 12) + 1), quantum);
        assert_eq!(up(u32::MAX - (1 << 12)), 0.0);
        // Far below the last bit of R nothing can round away.
        assert_eq!(f.round(1e-300, Rounding::Stochastic(32), Overflow::Saturate, u32::MAX), 0.0);
    }
}
