//! Formats that are nothing but a table: the value of every code.
//!
//! Rounding is the same as on a grid: between the two entries that enclose `x`, the fraction `v` of the way from the
//! one nearer to zero decides. The entries are integers times a common power of two, so `v` is known exactly.

use crate::exact::{decompose, pow2};
use crate::rounding::{Fraction, Rounding, rounds_away};

/// QLoRA's NormalFloat4 (arXiv:2305.14314, appendix E), in the order of its codes.
pub(crate) const NF4: [f64; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// Entries are below this many times their common unit, so that all sums below fit 128 bits.
const MAX_STEPS: f64 = (1u64 << 56) as f64;
/// Digits of `x` kept below the unit: more than random bits, so that what is cut off changes no decision.
const GUARD: i32 = 34;

#[derive(Debug, PartialEq)]
pub struct Codebook {
    /// The values by code.
    values: Vec<f64>,
    /// Codes in ascending order of their values.
    codes: Vec<u32>,
    /// Values in that order, as integers times `2^unit`.
    steps: Vec<i64>,
    unit: i32,
}

impl Codebook {
    /// Of the values by code: 2 to 256 different fp32 numbers, one of them positive. `None` if they are not, or if
    /// they differ by more than a factor of 2^56 down to the last bit.
    pub fn new(values: &[f64]) -> Option<Codebook> {
        let sound = values.iter().all(|v| v.is_finite() && f64::from(*v as f32) == *v);
        if !(2..=256).contains(&values.len()) || !sound || values.iter().all(|v| *v <= 0.0) {
            return None;
        }
        let last_bit = |v: &f64| {
            let (significand, exponent) = decompose(v.abs());
            exponent + significand.trailing_zeros() as i32
        };
        let unit = values.iter().filter(|v| **v != 0.0).map(last_bit).min()?;
        let mut entries = Vec::new();
        for (code, value) in values.iter().enumerate() {
            let steps = value * pow2(-unit);
            if steps.abs() >= MAX_STEPS {
                return None;
            }
            entries.push((steps as i64, code as u32));
        }
        entries.sort_unstable();
        let distinct = entries.windows(2).all(|pair| pair[0].0 != pair[1].0);
        let (steps, codes) = entries.into_iter().unzip();
        distinct.then_some(Codebook { values: values.to_vec(), codes, steps, unit })
    }

    /// `-1_-0.5_0_1`: the values by code, separated by underscores.
    pub fn parse(text: &str) -> Option<Vec<f64>> {
        text.split('_').map(|v| v.parse::<f32>().ok().map(f64::from)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The values by code.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The value of a code; NaN for a code beyond the table.
    pub fn decode(&self, code: u32) -> f64 {
        self.values.get(code as usize).copied().unwrap_or(f64::NAN)
    }

    pub fn encode(&self, x: f64) -> Option<u32> {
        let code = *self.codes.get(self.codes.partition_point(|c| self.decode(*c) < x))?;
        (self.decode(code) == x).then_some(code)
    }

    /// The value at this place of the ascending order.
    pub fn value(&self, place: usize) -> f64 {
        self.decode(self.codes[place])
    }

    /// A finite `x` rounded to an entry times `2^shift`; beyond the table, to a value beyond it.
    ///
    /// Where zero lies strictly between the entries that enclose `x`, `v` is counted from the lower one, and "toward
    /// zero" is the entry of x's sign.
    pub fn round(&self, x: f64, shift: i32, rounding: Rounding, random: u32) -> f64 {
        let (at, rest) = self.locate(x, shift);
        let scaled = |place: usize| self.value(place) * pow2(shift);
        // Entries below or at x. `at` is x rounded down, so an entry is at most x if and only if it is at most `at`.
        let below = self.steps.partition_point(|s| i128::from(*s) << GUARD <= at);
        if below == 0 || below == self.len() && (at > self.step(below - 1) || rest) {
            return if below == 0 { f64::NEG_INFINITY } else { f64::INFINITY };
        }
        let lo = below - 1;
        if at == self.step(lo) && !rest {
            return scaled(lo);
        }
        let hi = below;
        let width = (self.step(hi) - self.step(lo)) as u128;
        let (base, far, distance, rest) = if self.steps[hi] <= 0 {
            // Counted from above: x lies `rest` above `at`, so the distance is rounded down one further.
            (hi, lo, (self.step(hi) - at) as u128 - u128::from(rest), rest)
        } else {
            (lo, hi, (at - self.step(lo)) as u128, rest)
        };
        let negative = base == hi;
        let scaled_up = distance << Fraction::BITS;
        let v = Fraction { top: (scaled_up / width) as u64, rest: rest || !scaled_up.is_multiple_of(width) };
        let straddles = self.steps[lo] < 0 && self.steps[hi] > 0;
        let away = if straddles && rounding == Rounding::TowardZero {
            x >= 0.0
        } else {
            rounds_away(v, self.codes[base].is_multiple_of(2), negative, rounding, random)
        };
        scaled(if away { far } else { base })
    }

    fn step(&self, place: usize) -> i128 {
        i128::from(self.steps[place]) << GUARD
    }

    /// `x / 2^(unit + shift - GUARD)` rounded down, and whether it was rounded.
    fn locate(&self, x: f64, shift: i32) -> (i128, bool) {
        if x == 0.0 {
            return (0, false);
        }
        let (significand, exponent) = decompose(x.abs());
        let up = exponent - (self.unit + shift - GUARD);
        // Beyond all entries (below 2^56 units) any value beyond them will do.
        let (magnitude, rest) = if up > 126 - 53 {
            (i128::MAX >> 1, false)
        } else if up >= 0 {
            (i128::from(significand) << up, false)
        } else {
            let down = up.unsigned_abs().min(100);
            (i128::from(significand) >> down, i128::from(significand) & ((1 << down) - 1) != 0)
        };
        if x > 0.0 { (magnitude, rest) } else { (-magnitude - i128::from(rest), rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::rounding::Overflow;

    /// A table that holds the values of a float format rounds as the format does, in every mode and with equal bits.
    #[test]
    fn a_table_of_e2m1_is_e2m1() {
        let e2m1 = Format::get("e2m1").unwrap();
        // Code 8 is -0, which a table of different values does not have; another number beyond the range stands in.
        let values: Vec<f64> = (0..16).map(|c| if c == 8 { 4096.0 } else { e2m1.decode(c) }).collect();
        let book = Codebook::new(&values).unwrap();
        let modes = [
            Rounding::NearestEven,
            Rounding::NearestAway,
            Rounding::TowardZero,
            Rounding::Up,
            Rounding::Down,
            Rounding::ToOdd,
            Rounding::StochasticA(3),
            Rounding::Stochastic(3),
            Rounding::StochasticC(3),
        ];
        for k in -600..=600 {
            for nudge in [0.0, 1e-9, -1e-9] {
                let x = f64::from(k) / 100.0 + nudge;
                for mode in modes {
                    for random in 0..8 {
                        let want = e2m1.round(x, mode, Overflow::Saturate, random);
                        if x.abs() <= 6.0 {
                            assert_eq!(book.round(x, 0, mode, random), want, "{x} {mode:?} {random}");
                            assert_eq!(book.round(x * pow2(-90), -90, mode, random), want * pow2(-90), "{x} {mode:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn tables_that_are_none() {
        for text in ["", "1", "1_1", "0_-1", "0_0", "0_x", "0_nan", "0_inf", "1e-30_1", "0_1e39"] {
            assert!(Codebook::parse(text).and_then(|v| Codebook::new(&v)).is_none(), "{text}");
        }
    }

    #[test]
    fn beyond_the_table() {
        let book = Codebook::new(&[-1.0, 0.0, 0.5]).unwrap();
        let round = |x: f64| book.round(x, 0, Rounding::NearestEven, 0);
        assert_eq!((round(1e300), round(-1e300)), (f64::INFINITY, f64::NEG_INFINITY));
        assert_eq!((round(0.5), round(0.5f64.next_up())), (0.5, f64::INFINITY));
        assert_eq!((round(-1.0), round((-1.0f64).next_down())), (-1.0, f64::NEG_INFINITY));
        assert_eq!((round(5e-324), round(-5e-324)), (0.0, 0.0));
        assert_eq!(book.round(-5e-324, 0, Rounding::Down, 0), -1.0);
        assert_eq!(book.round(5e-324, 0, Rounding::Up, 0), 0.5);
    }
}
