//! Exact values of codes, and the codes of formats whose exponents go beyond fp64's: P3109's with 12 to 16 exponent
//! bits (50 of its 504).
//!
//! Every fp64 number but zero lies among the normal numbers of such a format, far from both ends. So any fp64 number
//! can be rounded to it and has a code, while most of its own numbers have no fp64: `max` and `min` are then infinite
//! and `min_positive` is 0, which are their nearest in fp64, and exact values are pairs of integers.

use crate::exact::{decompose, ldexp};
use crate::format::{Format, Kind};
use crate::rounding::{Overflow, Rounding};

/// A code as `significand * 2^exponent`, or what has no such form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exact {
    Number { significand: i64, exponent: i32 },
    Infinity { negative: bool },
    Nan,
}

impl Format {
    /// Whether the format's exponents go beyond fp64's.
    pub fn exceeds_fp64(&self) -> bool {
        self.max.is_infinite()
    }

    /// What a code stands for, in any format. The sign of zero is not kept.
    pub fn exact(&self, code: u32) -> Exact {
        let value = self.decode(code);
        let negative = value.is_sign_negative();
        let (significand, exponent) = match self.kind {
            Kind::Float if self.is_number(code) => self.parts(code),
            _ if value.is_nan() => return Exact::Nan,
            _ if value.is_infinite() => return Exact::Infinity { negative },
            _ => decompose(value.abs()),
        };
        let significand = significand as i64;
        Exact::Number { significand: if negative { -significand } else { significand }, exponent }
    }

    /// Whether `decode` gives the value of this code as it is (it always does within fp64's exponents).
    pub fn decodes_exactly(&self, code: u32) -> bool {
        let Exact::Number { significand, exponent } = self.exact(code) else { return true };
        if significand == 0 {
            return true;
        }
        let significand = significand.unsigned_abs();
        let lowest = exponent + significand.trailing_zeros() as i32;
        let highest = exponent + 63 - significand.leading_zeros() as i32;
        lowest >= -1074 && highest <= 1023
    }

    /// The code that `x` rounds to: `encode(round(x))`, and the same thing where fp64 does not hold the rounded number.
    pub fn code_of(&self, x: f64, rounding: Rounding, overflow: Overflow, random: u32) -> Option<u32> {
        let round = |x: f64| self.round(x, rounding, overflow, random);
        if !self.exceeds_fp64() || x == 0.0 || x.is_nan() {
            return self.encode(round(x));
        }
        if x.is_infinite() {
            return match self.beyond(x > 0.0, true, rounding, overflow) {
                Some(special) => self.encode(special),
                None if x > 0.0 => Some(self.max_code()),
                None if self.signed => Some(self.max_code() | 1 << (self.bits() - 1)),
                None => Some(0),
            };
        }
        // Away from the ends rounding does not see a power of two (an even one, where even codes are even exponents).
        let shift = if x.abs() < 1.0 { 64 } else { -64 };
        let rounded = round(ldexp(x, shift));
        let code = self.encode(rounded)?;
        // A negative number is zero or NaN without a sign; there is nothing to shift back.
        if rounded == 0.0 || rounded.is_nan() {
            Some(code)
        } else {
            Some(code.wrapping_sub((shift << self.mbits) as u32))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::pow2;
    use crate::random::random_bits;

    const MODES: [Rounding; 7] = [
        Rounding::NearestEven,
        Rounding::NearestAway,
        Rounding::TowardZero,
        Rounding::Up,
        Rounding::Down,
        Rounding::ToOdd,
        Rounding::Stochastic(3),
    ];

    /// Where fp64 holds the rounded number, the code is that number's; a narrower format of the same precision agrees.
    #[test]
    fn codes_are_those_of_the_rounded_numbers() {
        for (name, narrow) in
            [("binary16p4se", "binary15p4se"), ("binary16p1uf", "binary11p1uf"), ("binary13p1sf", "binary12p1sf")]
        {
            let (wide, narrow) = (Format::get(name).unwrap(), Format::get(narrow).unwrap());
            assert!(wide.exceeds_fp64() && !narrow.exceeds_fp64());
            for k in 0..4000u32 {
                let x = ldexp(1.0 + f64::from(random_bits(5, 5, k.into(), 32)) / pow2(32), k as i32 % 1800 - 900);
                let x = if k % 3 == 0 && wide.signed { -x } else { x };
                for mode in MODES {
                    let code = wide.code_of(x, mode, Overflow::Saturate, k % 8).unwrap();
                    let want = narrow.round(x, mode, Overflow::Saturate, k % 8);
                    assert_eq!(
                        wide.decode(code),
                        wide.round(x, mode, Overflow::Saturate, k % 8),
                        "{name} {x:e} {mode:?}"
                    );
                    if x.abs() < narrow.max && x.abs() >= pow2(narrow.emin) {
                        assert_eq!(wide.decode(code), want, "{name} {x:e} {mode:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_ends_of_fp64_have_codes() {
        let f = Format::get("binary16p4se").unwrap();
        let up = |x: f64| f.exact(f.code_of(x, Rounding::Up, Overflow::Saturate, 0).unwrap());
        assert_eq!(up(f64::MAX), Exact::Number { significand: 8, exponent: 1024 - 3 });
        assert_eq!(up(f64::from_bits(1)), Exact::Number { significand: 8, exponent: -1074 - 3 });
        assert_eq!(f.code_of(f64::INFINITY, Rounding::NearestEven, Overflow::Saturate, 0), Some(0x7ffe));
        assert_eq!(f.code_of(f64::NEG_INFINITY, Rounding::NearestEven, Overflow::Saturate, 0), Some(0xfffe));
        assert_eq!(f.code_of(f64::NEG_INFINITY, Rounding::NearestEven, Overflow::Ieee, 0), Some(0xffff));
    }
}
