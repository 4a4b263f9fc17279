//! Scales in the arithmetic orders of named libraries, from a block's absmax.
//!
//! torchao was run and is reproduced bit for bit; Transformer Engine, the microxcaling kernel and P3109 are followed by
//! rule. What each does differently is listed in docs/dialects.md.

use crate::dialect::Dialect;
use crate::exact::{Real, floor_log2, pow2};
use crate::format::Format;
use crate::rounding::{Overflow, Rounding};
use crate::scale::{Scale, ScaleFormat, ScaleRule, Scaling, TensorScale, block_scale};

/// The scale of a block with this absmax in the scaling's own dialect. `absmax` can be infinite where
/// [`counts_infinity`] says so.
pub(crate) fn dialect_scale<T: Real>(
    absmax: T,
    format: &Format,
    scaling: &Scaling,
    tensor: Option<&TensorScale>,
) -> Scale {
    let a = absmax.to_f64();
    match (scaling.options.dialect, &scaling.format) {
        (Dialect::Torchao, ScaleFormat::E8m0) => torchao_power(a as f32, format, scaling.rule),
        (Dialect::Torchao, ScaleFormat::Float(_)) => torchao_float(absmax, format, scaling, tensor),
        (Dialect::Te, ScaleFormat::E8m0) => te_power(a as f32, format),
        (Dialect::P3109, _) => p3109(a, scaling),
        _ => block_scale(absmax, format, scaling, tensor),
    }
}

/// Whether an infinity counts as a number larger than all others instead of poisoning its block.
pub(crate) fn counts_infinity(scaling: &Scaling) -> bool {
    match scaling.options.dialect {
        Dialect::Torchao => !scaling.options.zero_point,
        Dialect::Te => scaling.format == ScaleFormat::E8m0,
        _ => false,
    }
}

/// The power of two `2^e` that is stored, and the one that elements are multiplied by.
fn powers(e: i32, encode: i32) -> Scale {
    let decode = pow2(e) as f32;
    Scale::Multiply { encode: pow2(encode) as f32, decode, stored: decode }
}

/// torchao 0.18 `to_mx`: exponents from the bits of fp32, so that infinity is 2^128 and a subnormal 2^-127; elements are
/// divided by no less than 2^-126, although 2^-127 is stored.
fn torchao_power(absmax: f32, format: &Format, rule: ScaleRule) -> Scale {
    if absmax.is_nan() {
        return Scale::Poisoned;
    }
    if rule == ScaleRule::Rceil {
        return torchao_rceil(absmax / format.max as f32);
    }
    let mut bits = absmax.to_bits();
    if rule == ScaleRule::Even {
        bits = (bits + (1 << (22 - format.mbits))) & 0xff80_0000;
    }
    let carry = i32::from(rule == ScaleRule::Ceil && bits & 0x007f_ffff != 0);
    let e = ((bits >> 23) as i32 - 127 + carry - format.emax()).clamp(-127, 128);
    powers(e, -e.max(-126))
}

/// `ceil(log2 descale)` in fp32. Where 2^-127 is stored the elements stay as they are, and for 2^127 the reciprocal is
/// the subnormal 2^-127.
fn torchao_rceil(descale: f32) -> Scale {
    let e = if descale == 0.0 {
        -127
    } else if descale.is_infinite() {
        127
    } else {
        ceil_log2_in_fp32(descale).clamp(-127, 127)
    };
    powers(e, if e == -127 { 0 } else { -e })
}

/// `ceil(fl(log2 x))`: the logarithm rounded to fp32 loses what lies within half a unit of the integer `k` above it.
///
/// With `x = 2^k (1 + n 2^-23)`, `log2 x = k + n 2^-23 / ln 2 (1 - ...)`, and `fl` gives `k` where the second term is
/// less than half the spacing of fp32 above `k` (half of that again where `k` is a negative power of two).
fn ceil_log2_in_fp32(x: f32) -> i32 {
    let k = floor_log2(f64::from(x));
    let fraction = f64::from(x) * pow2(-k) - 1.0;
    let magnitude = k.unsigned_abs();
    let spacing = match magnitude {
        0 => return i32::from(fraction > 0.0),
        m if k < 0 && m.is_power_of_two() => pow2(m.ilog2() as i32 - 24),
        m => pow2(m.ilog2() as i32 - 23),
    };
    // ln 2 to fp64; fractions are multiples of 2^-23 and the bound is no such multiple, so its rounding decides nothing.
    k + i32::from(fraction > spacing / 2.0 * std::f64::consts::LN_2)
}

/// torchao 0.18 `nvfp4_quantize`: divided twice, clamped to [2^-6, 448], multiplied by a reciprocal.
fn torchao_float<T: Real>(absmax: T, format: &Format, scaling: &Scaling, tensor: Option<&TensorScale>) -> Scale {
    let ScaleFormat::Float(stored) = &scaling.format else { unreachable!("the caller matched it") };
    let block = absmax.div(T::from_f64(format.max)).to_f64() as f32;
    let whole = tensor.map_or(1.0, |t| t.decode);
    let wanted = if tensor.is_some() { block / whole } else { block };
    if wanted.is_nan() {
        return Scale::Poisoned;
    }
    let wanted = f64::from(wanted).clamp(pow2(stored.emin), stored.max);
    let stored = stored.round(wanted, Rounding::NearestEven, Overflow::Saturate, 0) as f32;
    Scale::Multiply { encode: (1.0 / whole) / stored, decode: whole * stored, stored }
}

/// torchao's second level: `absmax / (448 * 6)`.
pub(crate) fn torchao_tensor_scale(absmax: f64, scale_max: f64, element_max: f64) -> TensorScale {
    let decode = absmax as f32 / (scale_max * element_max) as f32;
    TensorScale { decode, multiplier: 1.0 / decode }
}

/// Transformer Engine `float_to_e8m0(absmax * (1 / max))`, rounded up; `exp2f_rcp` of the code 0 is 1.
fn te_power(absmax: f32, format: &Format) -> Scale {
    let wanted = absmax * (1.0 / format.max as f32);
    if wanted.is_nan() {
        return Scale::Poisoned;
    }
    let bits = wanted.to_bits();
    let (field, fraction) = ((bits >> 23) as i32, bits & 0x007f_ffff);
    let up = fraction > 0 && field < 0xfe && !(field == 0 && fraction <= 0x0040_0000);
    let e = (field + i32::from(up)).min(0xfe) - 127;
    powers(e, if e == -127 { 0 } else { -e })
}

/// P3109 v4.0 ConvertToBlockMaxAbsFinite: the largest finite magnitude itself, projected onto the scale's format.
fn p3109(absmax: f64, scaling: &Scaling) -> Scale {
    let rounding = match scaling.rule {
        ScaleRule::Floor => Rounding::TowardZero,
        ScaleRule::Ceil | ScaleRule::Rceil => Rounding::Up,
        _ => Rounding::NearestEven,
    };
    if absmax == 0.0 {
        return Scale::Zero;
    }
    match &scaling.format {
        ScaleFormat::E8m0 => {
            let e8m0 = Format::get("e8m0").expect("a format of the table");
            Scale::Power(floor_log2(e8m0.round(absmax, rounding, Overflow::Saturate, 0)))
        }
        ScaleFormat::Fp32 => Scale::Quotient(absmax.min(f64::from(f32::MAX)) as f32),
        ScaleFormat::Float(stored) => {
            let s = stored.round(absmax, rounding, Overflow::Saturate, 0);
            if s == 0.0 { Scale::Zero } else { Scale::Quotient(s as f32) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::Block;

    /// The units of 2^-23 above a power of two that an fp32 logarithm loses, as measured on torch's.
    #[test]
    fn logarithms_in_fp32_lose_what_is_close_above_a_power_of_two() {
        for (k, lost) in
            [(0, 0), (1, 0), (3, 0), (4, 1), (8, 2), (16, 5), (33, 11), (100, 22), (-1, 0), (-4, 0), (-5, 1)]
        {
            let x = |n: u32| f32::from_bits((pow2(k) as f32).to_bits() + n);
            assert_eq!(ceil_log2_in_fp32(x(0)), k);
            assert_eq!((1..100).find(|n| ceil_log2_in_fp32(x(*n)) > k), Some(lost + 1), "2^{k}");
        }
    }

    fn scale(dialect: Dialect, rule: ScaleRule, absmax: f32) -> Scale {
        let mut scaling = Scaling::new(Block::Row, ScaleFormat::E8m0, rule);
        scaling.options.dialect = dialect;
        dialect_scale(absmax, &Format::get("e4m3").unwrap(), &scaling, None)
    }

    #[test]
    fn the_smallest_and_the_largest_power() {
        let both = |encode: f64, decode: f64| Scale::Multiply {
            encode: encode as f32,
            decode: decode as f32,
            stored: decode as f32,
        };
        let tiny = f32::from_bits(1);
        assert_eq!(scale(Dialect::Torchao, ScaleRule::Floor, tiny), both(pow2(126), pow2(-127)));
        assert_eq!(scale(Dialect::Torchao, ScaleRule::Rceil, tiny), both(1.0, pow2(-127)));
        assert_eq!(scale(Dialect::Te, ScaleRule::Rceil, 0.0), both(1.0, pow2(-127)));
        assert_eq!(scale(Dialect::Torchao, ScaleRule::Floor, f32::INFINITY), both(pow2(-120), pow2(120)));
        assert_eq!(scale(Dialect::Te, ScaleRule::Rceil, f32::INFINITY), both(pow2(-127), pow2(127)));
        assert_eq!(scale(Dialect::Microxcaling, ScaleRule::Floor, tiny), Scale::Power(-127));
        assert_eq!(scale(Dialect::P3109, ScaleRule::Absmax, 0.74), Scale::Power(-1));
        assert_eq!(scale(Dialect::P3109, ScaleRule::Absmax, 0.75), Scale::Power(0)); // the tie takes the larger
    }
}
