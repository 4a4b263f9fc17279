//! What is stored of a quantized array, and what it means to a reader who has nothing else.
//!
//! Stored are one code an element, one scale a block (an 8-bit code, or an fp32 number) and, where the quantizer has
//! them, one fp32 scale for the tensor and one zero point a block. Reading is one rule for all of them:
//!
//! ```text
//! factor = scale                    (1 without a scale; scale * tensor scale, rounded to fp32, with a second level)
//! value  = element(code) * factor   rounded once to fp32 (to fp64 where the source was fp64)
//! ```
//!
//! With a zero point `element(code)` is the code minus it; with a prescale of 3/4 the factor is 4/3 of the scale, rounded
//! to fp32.
//!
//! The law of this file: a stored element read back is bit for bit what [`Quantizer::fake_quant`] returns (of a NaN the
//! sign is not kept: every NaN is stored as the positive one).
//!
//! * A block with NaN or infinity in it is stored as the scale's NaN (0xFF in E8M0, the NaN code of an 8-bit float, NaN in
//!   fp32) and element codes 0, unless the quantizer has another policy.
//! * A scale of zero (all elements zero, or an underflow) is stored as 0; E8M0 has no zero and stores its smallest power,
//!   2^-127, under which the zeros stay zeros.

use crate::dialect::ZeroScale;
use crate::exact::{Real, pow2};
use crate::quantizer::Quantizer;
use crate::scale::{Scale, ScaleFormat, Scaling};

impl Quantizer {
    /// Why arrays under this quantizer cannot be stored, where they cannot.
    pub fn unstorable(&self) -> Option<String> {
        if !self.format.fits_fp32() {
            return Some(format!(
                "elements are read back in fp32, which does not hold every value of {}",
                self.format.name
            ));
        }
        let zeros_stay = |s: &Scaling| s.format == ScaleFormat::E8m0 && s.options.zero_scale == ZeroScale::Rule;
        (self.scaling.as_ref().is_some_and(zeros_stay) && !self.format.has_zero()).then(|| {
            format!(
                "neither {} nor the scale format e8m0 has a zero, so a block of zeros has no code (zero_scale='one' or \
                 'smallest' gives it one)",
                self.format.name
            )
        })
    }

    /// How a block's scale is stored: an 8-bit code, or the bits of an fp32 number. A plain cast stores none (0). `None`
    /// where the scale has no code (E8M0 beyond 2^127).
    pub fn scale_code(&self, scale: Scale) -> Option<u32> {
        let Some(scaling) = &self.scaling else { return Some(0) };
        let value = match scale {
            Scale::Poisoned => f64::NAN,
            Scale::Zero => 0.0,
            Scale::Power(e) => pow2(e),
            Scale::Divide(s) | Scale::Quotient(s) | Scale::Affine { s, .. } => f64::from(s),
            Scale::Multiply { stored, .. } => f64::from(stored),
        };
        match &scaling.format {
            ScaleFormat::Fp32 => Some((value as f32).to_bits()),
            ScaleFormat::E8m0 if value.is_nan() => Some(0xff),
            ScaleFormat::E8m0 if value == 0.0 => Some(0),
            ScaleFormat::E8m0 if value > pow2(127) => None,
            ScaleFormat::E8m0 => Some((value.to_bits() >> 52) as u32 - (1023 - 127)),
            ScaleFormat::Float(format) => format.encode(value),
        }
    }

    /// The stored zero point of a block; 0 where there is none.
    pub fn zero_code(&self, scale: Scale) -> u32 {
        if let Scale::Affine { zero, .. } = scale { zero } else { 0 }
    }

    /// A block's scale as a reader knows it.
    pub fn stored_scale(&self, scale_code: u32, zero: u32, tensor: Option<f32>) -> Scale {
        let Some(scaling) = &self.scaling else { return Scale::Power(0) };
        let s = match &scaling.format {
            ScaleFormat::Fp32 => f32::from_bits(scale_code),
            ScaleFormat::E8m0 if scale_code == 0xff => f32::NAN,
            ScaleFormat::E8m0 => return scaling.power(scale_code as i32 - 127),
            ScaleFormat::Float(format) => format.decode(scale_code) as f32,
        };
        match tensor {
            _ if s.is_nan() => Scale::Poisoned,
            // How a reader would quantize again is not known, and not needed.
            Some(tensor) => Scale::Multiply { encode: f32::NAN, decode: s * tensor, stored: s },
            None if s == 0.0 => Scale::Zero,
            None if scaling.options.zero_point => Scale::Affine { s, zero },
            None => Scale::Divide(s),
        }
    }

    /// What the elements of a block are multiplied by, NaN in a poisoned block; `None` where reading takes more than one
    /// multiplication.
    pub fn factor(&self, scale: Scale) -> Option<f32> {
        match scale {
            Scale::Poisoned => Some(f32::NAN),
            Scale::Zero => Some(0.0),
            Scale::Power(e) => Some(pow2(e) as f32),
            Scale::Divide(s) | Scale::Quotient(s) => Some(s),
            Scale::Multiply { decode, .. } => Some(decode),
            Scale::Affine { .. } => None,
        }
    }

    /// The code of one element under a block's scale. `None` where it becomes a NaN that the format has no code for.
    pub fn element_code<T: Real>(&self, x: T, scale: Scale, random: u32) -> Option<u32> {
        if scale == Scale::Poisoned {
            return Some(0);
        }
        let element = self.element(x, scale, random);
        // The plain zero that a scale of zero stands for: a reader who multiplies would make -0 of a negative element.
        if scale == Scale::Zero && !self.format.has_neg_zero() && element.is_finite() {
            return self.format.encode(if self.format.has_zero() { 0.0 } else { self.format.max });
        }
        self.format.encode(element)
    }

    /// The value of a stored element under a scale as [`Quantizer::stored_scale`] knows it.
    pub fn stored_value<T: Real>(&self, code: u32, scale: Scale) -> T {
        self.value(self.format.decode(code), scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::absmax;
    use crate::random::random_bits;
    use crate::{Block, Format, Overflow, Rounding, ScaleRule};

    /// Blocks that reach every kind of scale: ordinary, zero, underflowing, huge, poisoned, subnormal.
    fn blocks() -> Vec<Vec<f64>> {
        let noise = |i: u64| f64::from(random_bits(7, 7, i, 32)) / 2f64.powi(31) - 1.0;
        let mut all: Vec<Vec<f64>> = [1.0, 1e-3, 300.0, 1e30, 3e38, 1e-30, 1e-38, 1e-42, 1.4e-45]
            .iter()
            .map(|size| (0..24).map(|i| f64::from((noise(i) * size) as f32)).collect())
            .collect();
        all.push(vec![0.0, -0.0, 0.0]);
        all.push(vec![-0.0]);
        all.push(vec![1.0, f64::NAN, -0.0]);
        all.push(vec![1.0, f64::NEG_INFINITY, 2.0]);
        all.push((0..16).map(|i| f64::from(i) - 8.0).collect());
        all
    }

    fn scalings() -> Vec<Option<Scaling>> {
        let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
        let new = |format, rule, tensor_scale| {
            let new = if tensor_scale { Scaling::two_levels } else { Scaling::new };
            Some(new(Block::Size(32), format, rule))
        };
        let mut all = vec![None];
        for rule in [ScaleRule::Floor, ScaleRule::Ceil, ScaleRule::Rceil, ScaleRule::Even] {
            all.push(new(ScaleFormat::E8m0, rule, false));
        }
        for rule in [ScaleRule::Absmax, ScaleRule::Rceil] {
            all.push(new(ScaleFormat::Fp32, rule, false));
            for name in ["e4m3", "ue5m3"] {
                all.push(new(float(name), rule, false));
                all.push(new(float(name), rule, true));
            }
        }
        all
    }

    /// `x` under a tensor whose absmax is `whole`: stored and read back against fake-quantized.
    fn check<T: Real>(q: &Quantizer, x: &[f64], whole: f64, bits: impl Fn(T) -> u64) {
        let x: Vec<T> = x.iter().map(|x| T::from_f64(*x)).collect();
        let tensor = q.tensor_scale(whole);
        let scale = q.scale(T::from_f64(absmax(x.iter().copied())), tensor.as_ref());
        let stored = q.stored_scale(q.scale_code(scale).unwrap(), q.zero_code(scale), tensor.map(|t| t.decode));
        assert_eq!(stored == Scale::Poisoned, scale == Scale::Poisoned, "{q:?} {scale:?}");
        for (i, x) in x.iter().enumerate() {
            let random = random_bits(1, 2, i as u64, 8);
            let want = q.fake_quant(*x, scale, random);
            let Some(code) = q.element_code(*x, scale, random) else {
                assert!(!q.format.has_nan() && want.to_f64().is_nan(), "{q:?} {}", x.to_f64());
                continue;
            };
            let got: T = q.stored_value(code, stored);
            if let Some(factor) = q.factor(stored) {
                let product = T::from_f64(q.format.decode(code)).mul(T::from_f64(f64::from(factor)));
                assert!(bits(product) == bits(got) || got.to_f64().is_nan() && product.to_f64().is_nan(), "{q:?}");
            }
            let same = bits(got) == bits(want) || (got.to_f64().is_nan() && want.to_f64().is_nan());
            assert!(same, "{q:?} {} -> {} {}", x.to_f64(), got.to_f64(), want.to_f64());
        }
    }

    #[test]
    fn what_is_read_back_is_the_fake_quantized_value() {
        let names =
            ["e4m3", "e5m2", "e3m2", "e2m1", "e8m10", "bf16", "fp16", "fp32", "ue5m3", "e1m0", "e5m0", "int8", "int2"];
        let roundings = [Rounding::NearestEven, Rounding::Up, Rounding::Stochastic(8)];
        for format in names.iter().chain(&["mxint8", "e8m0"]).map(|n| Format::get(n).unwrap()) {
            for (scaling, rounding) in scalings().into_iter().flat_map(|s| roundings.map(|r| (s.clone(), r))) {
                let overflow = if scaling.is_none() && format.has_nan() { Overflow::Ieee } else { Overflow::Saturate };
                let q = Quantizer { format: format.clone(), scaling, rounding, overflow };
                if q.unstorable().is_some() {
                    continue;
                }
                for block in blocks() {
                    // The block alone, in a larger tensor, and in one that is poisoned elsewhere.
                    for whole in [absmax(block.iter().copied()), 3.4e38, f64::NAN] {
                        check::<f32>(&q, &block, whole, |x| u64::from(x.to_bits()));
                        check::<f64>(&q, &block, whole, f64::to_bits);
                    }
                }
            }
        }
    }

    #[test]
    fn codes_of_special_scales() {
        let q = |format: ScaleFormat| Quantizer {
            format: Format::get("e2m1").unwrap(),
            scaling: Some(Scaling::new(Block::Row, format, ScaleRule::Absmax)),
            rounding: Rounding::NearestEven,
            overflow: Overflow::Saturate,
        };
        let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
        for (format, poisoned, zero) in [
            (ScaleFormat::E8m0, 0xff, 0),
            (float("e4m3"), 0x7f, 0),
            (float("ue5m3"), 0xff, 0),
            (ScaleFormat::Fp32, 0x7fc0_0000, 0),
        ] {
            let q = q(format);
            assert_eq!((q.scale_code(Scale::Poisoned), q.scale_code(Scale::Zero)), (Some(poisoned), Some(zero)));
        }
        for e in -127..=127 {
            let q = q(ScaleFormat::E8m0);
            let code = q.scale_code(Scale::Power(e)).unwrap();
            assert_eq!((code as i32, q.stored_scale(code, 0, None)), (e + 127, Scale::Power(e)));
        }
    }
}
