//! Which scale a block gets from its absmax.

use crate::exact::{Real, decompose, floor_log2};
use crate::format::Format;
use crate::rounding::{Overflow, Rounding};

/// How scales are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum ScaleFormat {
    /// Powers of two, 2^-127..2^127 (OCP MX).
    E8m0,
    /// An 8-bit float such as e4m3 (NVFP4) or ue5m3.
    Float(Format),
    Fp32,
}

/// How the scale is picked from the absmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    /// `2^(floor(log2 absmax) - emax)`: OCP MX v1.0 section 6.3; values above `max` clip.
    Floor,
    /// `2^(ceil(log2 absmax) - emax)`.
    Ceil,
    /// The smallest scale of the format with `max * scale >= absmax`.
    Rceil,
    /// Floor after rounding the absmax to the element's fraction bits.
    Even,
    /// `absmax / max`, rounded to nearest in the scale's format.
    Absmax,
}

/// NVFP4's second level, in Transformer Engine's arithmetic order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorScale {
    /// What turns stored block scales back into true ones.
    pub decode: f32,
    /// `absmax_block * multiplier` is the block scale before rounding.
    pub multiplier: f32,
}

impl TensorScale {
    /// From the absmax of the whole tensor. NaN or infinity there poisons every block.
    pub fn new(absmax: f64, scale_max: f64, element_max: f64) -> TensorScale {
        if !absmax.is_finite() {
            return TensorScale { decode: f32::NAN, multiplier: f32::NAN };
        }
        let encode = ((scale_max * element_max) as f32).div(absmax as f32).min(f32::MAX);
        let encode = if absmax as f32 == 0.0 || encode == 0.0 { 1.0 } else { encode };
        TensorScale { decode: 1.0 / encode, multiplier: encode * (1.0 / element_max as f32) }
    }
}

/// What a block does to its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// NaN or infinity in the block: every element becomes NaN.
    Poisoned,
    /// All elements become zero (an all-zero block, or a scale that underflows).
    Zero,
    /// Elements are rounded on the grid multiplied by `2^e`.
    Power(i32),
    /// `round(x / s) * s`.
    Divide(f32),
    /// `round(x * encode) * decode`; `stored` is the block's own scale, a part of `decode`.
    Multiply { encode: f32, decode: f32, stored: f32 },
}

/// The scale of a block with this absmax (NaN propagated into `absmax`).
pub fn block_scale<T: Real>(
    absmax: T,
    format: &Format,
    scale_format: &ScaleFormat,
    rule: ScaleRule,
    tensor: Option<&TensorScale>,
) -> Scale {
    let a = absmax.to_f64();
    if !a.is_finite() || tensor.is_some_and(|t| t.multiplier.is_nan()) {
        return Scale::Poisoned;
    }
    if a == 0.0 {
        return Scale::Zero;
    }
    match scale_format {
        ScaleFormat::E8m0 => Scale::Power(power_of_two(a, format, rule).clamp(-127, 127)),
        ScaleFormat::Fp32 => nonzero(fp32_scale(absmax, format.max, rule)),
        ScaleFormat::Float(stored) => match tensor {
            None => nonzero(round_scale(absmax.div(T::from_f64(format.max)).to_f64(), stored, rule)),
            Some(tensor) => {
                let wanted = absmax.mul(T::from_f64(f64::from(tensor.multiplier))).to_f64() as f32;
                let block = round_scale(f64::from(wanted.min(f32::MAX)), stored, rule);
                let decode = block * tensor.decode;
                Scale::Multiply { encode: (1.0 / decode).min(f32::MAX), decode, stored: block }
            }
        },
    }
}

fn nonzero(s: f32) -> Scale {
    if s == 0.0 { Scale::Zero } else { Scale::Divide(s) }
}

/// The exponent that a power-of-two rule gives, before clamping to E8M0's range.
pub fn power_of_two(absmax: f64, format: &Format, rule: ScaleRule) -> i32 {
    let floor = floor_log2(absmax);
    let (significand, _) = decompose(absmax);
    // The 63 bits below the leading one.
    let fraction = significand << significand.leading_zeros() << 1;
    let carry = match rule {
        ScaleRule::Floor => false,
        ScaleRule::Ceil => fraction != 0,
        ScaleRule::Rceil | ScaleRule::Absmax => {
            let (top, _) = decompose(format.max);
            fraction > top << top.leading_zeros() << 1
        }
        // Rounding to m fraction bits carries from 2 - 2^-(m+1) upwards: 1.1...1 is odd, so its tie carries too.
        ScaleRule::Even => fraction.leading_ones() as i32 > format.top_mbits(),
    };
    floor + i32::from(carry) - format.emax()
}

fn fp32_scale<T: Real>(absmax: T, max: f64, rule: ScaleRule) -> f32 {
    let s = absmax.div(T::from_f64(max)).to_f64() as f32;
    let s = s.min(f32::MAX);
    // The product of a 24-bit and a format's significand is exact in fp64.
    if rule == ScaleRule::Rceil && f64::from(s) * max < absmax.to_f64() { s.next_up().min(f32::MAX) } else { s }
}

fn round_scale(wanted: f64, stored: &Format, rule: ScaleRule) -> f32 {
    let rounding = if rule == ScaleRule::Rceil { Rounding::Up } else { Rounding::NearestEven };
    stored.round(wanted, rounding, Overflow::Saturate, 0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::pow2;

    fn power(absmax: f64, name: &str, rule: ScaleRule) -> i32 {
        power_of_two(absmax, &Format::get(name).unwrap(), rule)
    }

    #[test]
    fn power_of_two_rules_at_their_edges() {
        // e4m3: emax 8, max 448 = 1.75 * 2^8.
        for (absmax, floor, ceil, rceil, even) in [
            (256.0, 0, 0, 0, 0),
            (256.0f64.next_down(), -1, 0, 0, 0),
            (448.0, 0, 1, 0, 0),
            (448.0f64.next_up(), 0, 1, 1, 0),
            (496.0f64.next_down(), 0, 1, 1, 0), // 1.9375 = 2 - 2^-4 carries under "even"
            (496.0, 0, 1, 1, 1),
        ] {
            assert_eq!(power(absmax, "e4m3", ScaleRule::Floor), floor, "{absmax}");
            assert_eq!(power(absmax, "e4m3", ScaleRule::Ceil), ceil, "{absmax}");
            assert_eq!(power(absmax, "e4m3", ScaleRule::Rceil), rceil, "{absmax}");
            assert_eq!(power(absmax, "e4m3", ScaleRule::Even), even, "{absmax}");
        }
        assert_eq!(power(7.0, "int4", ScaleRule::Rceil), 0);
        assert_eq!(power(7.5, "int4", ScaleRule::Rceil), 1);
        assert_eq!(power(7.5f64.next_down(), "int4", ScaleRule::Even), 0);
        assert_eq!(power(7.5, "int4", ScaleRule::Even), 1);
    }

    /// `rceil` is the smallest scale that does not clip, for every format and many significands.
    #[test]
    fn rceil_is_tight() {
        for name in ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "mxint8", "int4", "e5m0"] {
            let f = Format::get(name).unwrap();
            for k in 0..4096u32 {
                let absmax = (1.0 + f64::from(k) / 4096.0) * pow2(k as i32 % 90 - 45);
                let e = power_of_two(absmax, &f, ScaleRule::Rceil);
                assert!(f.max * pow2(e) >= absmax && f.max * pow2(e - 1) < absmax, "{name} {absmax}");
            }
        }
    }

    #[test]
    fn fp32_rceil_never_clips() {
        let f = Format::get("int4").unwrap();
        for k in 1..20000u32 {
            let absmax = k as f32 * 1.000_123;
            let Scale::Divide(s) = block_scale(absmax, &f, &ScaleFormat::Fp32, ScaleRule::Rceil, None) else {
                panic!()
            };
            assert!(f64::from(s) * 7.0 >= f64::from(absmax) && f64::from(s.next_down()) * 7.0 < f64::from(absmax));
        }
    }

    #[test]
    fn specials() {
        let f = Format::get("e4m3").unwrap();
        for (absmax, expected) in [
            (f32::NAN, Scale::Poisoned),
            (f32::INFINITY, Scale::Poisoned),
            (0.0, Scale::Zero),
            (f32::from_bits(1), Scale::Power(-127)),
        ] {
            assert_eq!(block_scale(absmax, &f, &ScaleFormat::E8m0, ScaleRule::Floor, None), expected);
        }
        assert_eq!(block_scale(f32::from_bits(1), &f, &ScaleFormat::Fp32, ScaleRule::Absmax, None), Scale::Zero);
    }
}
