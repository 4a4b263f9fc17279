//! What is stored of a quantized array, and what it means to a reader who has nothing else.
//!
//! Stored are one code an element, one scale a block (an 8-bit code, or an fp32 number) and, where the quantizer has a
//! second level, one fp32 scale for the tensor. Reading is one rule for all of them:
//!
//! ```text
//! factor = scale                    (1 without a scale; scale * tensor scale, rounded to fp32, with a second level)
//! value  = element(code) * factor   rounded once to fp32 (to fp64 where the source was fp64)
//! ```
//!
//! The law of this file: a stored element read back is bit for bit what [`Quantizer::fake_quant`] returns (of a NaN the
//! sign is not kept: every NaN is stored as the positive one).
//!
//! * A block with NaN or infinity in it is stored as the scale's NaN (0xFF in E8M0, the NaN code of an 8-bit float, NaN in
//!   fp32) and element codes 0.
//! * A scale of zero (all elements zero, or an underflow) is stored as 0; E8M0 has no zero and stores its smallest power,
//!   2^-127, under which the zeros stay zeros.

use crate::exact::{Real, pow2};
use crate::quantizer::Quantizer;
use crate::scale::{Scale, ScaleFormat};

impl Quantizer {
    /// Why arrays under this quantizer cannot be stored, where they cannot.
    pub fn unstorable(&self) -> Option<String> {
        let scaled = self.scaling.is_some();
        if !self.scaling.as_ref().is_none_or(|s| s.is_plain()) {
            return Some("only plain scalings are packed: blocks along an axis, without searches, zero points, policies or another dialect's order".into());
        }
        (scaled && !self.format.has_zero()).then(|| {
            format!(
                "{} has no zero, so a block whose scale is zero cannot be read back from its codes",
                self.format.name
            )
        })
    }

    /// How a block's scale is stored: an 8-bit code, or the bits of an fp32 number. A plain cast stores none (0).
    pub fn scale_code(&self, scale: Scale) -> u32 {
        let Some(scaling) = &self.scaling else { return 0 };
        let value = match scale {
            Scale::Poisoned => f64::NAN,
            Scale::Zero => 0.0,
            Scale::Power(e) => pow2(e),
            Scale::Divide(s) | Scale::Quotient(s) | Scale::Affine { s, .. } => f64::from(s),
            Scale::Multiply { stored, .. } => f64::from(stored),
        };
        match &scaling.format {
            ScaleFormat::Fp32 => (value as f32).to_bits(),
            ScaleFormat::E8m0 if value.is_nan() => 0xff,
            ScaleFormat::E8m0 if value == 0.0 => 0,
            ScaleFormat::E8m0 => (value.to_bits() >> 52) as u32 - (1023 - 127),
            ScaleFormat::Float(format) => format.encode(value).expect("scales lie on the grid of their format"),
        }
    }

    /// What the elements of a block are multiplied by, from its stored scale; NaN for a poisoned block.
    pub fn factor(&self, scale_code: u32, tensor: Option<f32>) -> f32 {
        let scale = match self.scaling.as_ref().map(|s| &s.format) {
            None => 1.0,
            Some(ScaleFormat::Fp32) => f32::from_bits(scale_code),
            Some(ScaleFormat::E8m0) if scale_code == 0xff => f32::NAN,
            Some(ScaleFormat::E8m0) => pow2(scale_code as i32 - 127) as f32,
            Some(ScaleFormat::Float(format)) => format.decode(scale_code) as f32,
        };
        tensor.map_or(scale, |t| scale * t)
    }

    /// The code of one element under a block's scale. `None` where it becomes a NaN that the format has no code for.
    pub fn element_code<T: Real>(&self, x: T, scale: Scale, random: u32) -> Option<u32> {
        if scale == Scale::Poisoned {
            return Some(0);
        }
        let element = self.element(x, scale, random);
        self.format.encode(element)
    }

    /// The value of a stored element.
    pub fn stored_value<T: Real>(&self, code: u32, factor: f32) -> T {
        T::from_f64(self.format.decode(code)).mul(T::from_f64(f64::from(factor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::absmax;
    use crate::random::random_bits;
    use crate::{Block, Format, Overflow, Rounding, ScaleRule, Scaling};

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
        let code = q.scale_code(scale);
        let factor = q.factor(code, tensor.map(|t| t.decode));
        assert_eq!(factor.is_nan(), matches!(scale, Scale::Poisoned), "{q:?} {code:#x}");
        for (i, x) in x.iter().enumerate() {
            let random = random_bits(1, 2, i as u64, 8);
            let want = q.fake_quant(*x, scale, random);
            let Some(code) = q.element_code(*x, scale, random) else {
                assert!(!q.format.has_nan() && want.to_f64().is_nan(), "{q:?} {}", x.to_f64());
                continue;
            };
            let got: T = q.stored_value(code, factor);
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
            assert_eq!((q.scale_code(Scale::Poisoned), q.scale_code(Scale::Zero)), (poisoned, zero));
        }
        for e in -127..=127 {
            let code = q(ScaleFormat::E8m0).scale_code(Scale::Power(e));
            assert_eq!((code as i32, q(ScaleFormat::E8m0).factor(code, None)), (e + 127, pow2(e) as f32));
        }
    }
}
