//! Asymmetric integers: unsigned codes, a scale and a zero point a block.
//!
//! As torchao's `choose_qparams_affine` and compressed-tensors' `calculate_qparams` have it, the range is widened to
//! include zero, so that zero is exact: `s = (max - min) / (2^n - 1)`, `zero = round(-min / s)`, both in the type the
//! results are formed in (`s` rounded to fp32), the zero point to nearest even and clamped to the codes. A code is
//! `round(x / s) + zero`, clamped (torchao's order; compressed-tensors adds the zero point before it rounds). The
//! torchao dialect differs in two ways: `s` is at least 2^-126, and elements are multiplied by `1 / s`.

use crate::dialect::Dialect;
use crate::exact::Real;
use crate::format::Format;
use crate::rounding::{Rounding, round_integer};
use crate::scale::{Scale, Scaling};

/// The scale and zero point of the block whose finite elements lie between `min <= 0` and `max >= 0`.
pub(crate) fn affine_scale<T: Real>(min: T, max: T, format: &Format, scaling: &Scaling) -> Scale {
    let top = format.max;
    let range = T::from_f64(max.to_f64() - min.to_f64());
    let mut s = (range.div(T::from_f64(top)).to_f64() as f32).min(f32::MAX);
    if scaling.options.dialect == Dialect::Torchao {
        s = s.max(f32::MIN_POSITIVE);
    }
    if s == 0.0 {
        return Scale::Zero;
    }
    let zero = -min.div(T::from_f64(f64::from(s))).to_f64();
    let zero = round_integer(zero, Rounding::NearestEven, 0).clamp(0.0, top);
    Scale::Affine { s, zero: zero as u32 }
}

/// `x / s` as the scaling's dialect forms it.
pub(crate) fn steps<T: Real>(x: T, s: f32, scaling: &Scaling) -> f64 {
    if scaling.options.dialect == Dialect::Torchao {
        return x.mul(T::from_f64(1.0).div(T::from_f64(f64::from(s)))).to_f64();
    }
    x.div(T::from_f64(f64::from(s))).to_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::{Block, ScaleFormat, ScaleRule};

    #[test]
    fn zero_is_exact_and_the_ends_are_reached() {
        let scaling = Scaling::new(Block::Row, ScaleFormat::Fp32, ScaleRule::Absmax);
        let format = Format { max: 15.0, ..Format::get("int4").unwrap() };
        for (min, max, zero) in [(-1.0f32, 2.0, 5), (0.0, 15.0, 0), (-15.0, 0.0, 15), (-0.4, 14.6, 0), (-0.6, 14.4, 1)]
        {
            let Scale::Affine { s, zero: z } = affine_scale(min, max, &format, &scaling) else { panic!() };
            assert_eq!(z, zero, "{min} {max}");
            let (lo, hi) = (-f64::from(z) * f64::from(s), (15.0 - f64::from(z)) * f64::from(s));
            assert!((lo - f64::from(min)).abs() <= f64::from(s) && (hi - f64::from(max)).abs() <= f64::from(s));
        }
        // A range beyond fp32 saturates; one that underflows leaves nothing but zero.
        assert!(matches!(affine_scale(-f32::MAX, f32::MAX, &format, &scaling), Scale::Affine { .. }));
        assert_eq!(affine_scale(0.0, f32::from_bits(1), &format, &scaling), Scale::Zero);
    }
}
