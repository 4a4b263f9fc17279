//! A quantizer is a format, a scaling, a rounding and an overflow mode; here it acts on one block.

use crate::exact::Real;
use crate::format::Format;
use crate::random::random_bits;
use crate::rounding::{Overflow, Rounding};
use crate::scale::{Scale, ScaleFormat, ScaleRule, TensorScale, block_scale};

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// This many neighbours along the axis; the last block may be shorter.
    Size(usize),
    /// The whole axis.
    Row,
    /// Everything.
    Tensor,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    pub block: Block,
    pub format: ScaleFormat,
    pub rule: ScaleRule,
    /// NVFP4's second-level fp32 scale over the whole tensor.
    pub tensor_scale: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Quantizer {
    pub format: Format,
    /// `None` is a plain cast.
    pub scaling: Option<Scaling>,
    pub rounding: Rounding,
    pub overflow: Overflow,
}

/// Where random bits come from: an address, or the caller.
#[derive(Clone, Copy, Debug)]
pub enum Randomness<'a> {
    None,
    /// Element `i` of the array reads the bits of index `offset + i`.
    Addressed {
        seed: u64,
        stream: u64,
        offset: u64,
    },
    /// One integer below 2^N an element.
    Given(&'a [u32]),
}

impl Randomness<'_> {
    /// The bits of element `index` of the array.
    pub fn bits(&self, index: usize, rounding: Rounding) -> u32 {
        match (self, rounding.random_bits()) {
            (_, 0) | (Randomness::None, _) => 0,
            (Randomness::Addressed { seed, stream, offset }, n) => {
                random_bits(*seed, *stream, offset.wrapping_add(index as u64), n)
            }
            (Randomness::Given(bits), _) => bits[index],
        }
    }
}

/// Largest magnitude, NaN if there is one.
pub fn absmax<T: Real>(values: impl Iterator<Item = T>) -> f64 {
    values.map(|x| x.to_f64().abs()).fold(0.0, |m: f64, a| if a.is_nan() || m.is_nan() { f64::NAN } else { m.max(a) })
}

impl Quantizer {
    /// The second-level scale for this absmax of the whole tensor; `None` where the quantizer has none.
    pub fn tensor_scale(&self, absmax: f64) -> Option<TensorScale> {
        match &self.scaling {
            Some(Scaling { tensor_scale: true, format: ScaleFormat::Float(stored), .. }) => {
                Some(TensorScale::new(absmax, stored.max, self.format.max))
            }
            _ => None,
        }
    }

    /// The scale of a block with this absmax. A plain cast is the grid itself.
    pub fn scale<T: Real>(&self, absmax: T, tensor: Option<&TensorScale>) -> Scale {
        match &self.scaling {
            None => Scale::Power(0),
            Some(s) => block_scale(absmax, &self.format, &s.format, s.rule, tensor),
        }
    }

    /// Quantize and dequantize one element under a block's scale.
    pub fn fake_quant<T: Real>(&self, x: T, scale: Scale, random: u32) -> T {
        let round = |z: f64| self.format.round(z, self.rounding, self.overflow, random);
        match scale {
            Scale::Poisoned => T::from_f64(f64::NAN),
            Scale::Zero if self.format.has_neg_zero() => T::from_f64(x.to_f64() * 0.0),
            Scale::Zero => T::from_f64(0.0),
            Scale::Power(e) => {
                T::from_f64(self.format.round_shifted(x.to_f64(), e, self.rounding, self.overflow, random))
            }
            Scale::Divide(s) => {
                let s = T::from_f64(f64::from(s));
                T::from_f64(round(x.div(s).to_f64())).mul(s)
            }
            Scale::Multiply { encode, decode, .. } => {
                let z = x.mul(T::from_f64(f64::from(encode)));
                T::from_f64(round(z.to_f64())).mul(T::from_f64(f64::from(decode)))
            }
        }
    }

    /// The neighbours of `x` among the values this quantizer can return under this scale: the largest at most `x`
    /// and the smallest at least `x`. Both are the nearest end where `x` lies outside, and NaN in a poisoned block.
    pub fn neighbours<T: Real>(&self, x: T, scale: Scale) -> (T, T) {
        if matches!(scale, Scale::Poisoned) || x.to_f64().is_nan() {
            return (T::from_f64(f64::NAN), T::from_f64(f64::NAN));
        }
        let dequantized = |r: f64| match scale {
            Scale::Poisoned => unreachable!(),
            Scale::Zero => T::from_f64(0.0),
            Scale::Power(e) => T::from_f64(r * crate::exact::pow2(e)),
            Scale::Divide(s) => T::from_f64(r).mul(T::from_f64(f64::from(s))),
            Scale::Multiply { decode, .. } => T::from_f64(r).mul(T::from_f64(f64::from(decode))),
        };
        let z = match scale {
            Scale::Power(e) => x.to_f64() * crate::exact::pow2(-e),
            Scale::Divide(s) => x.div(T::from_f64(f64::from(s))).to_f64(),
            Scale::Multiply { encode, .. } => x.mul(T::from_f64(f64::from(encode))).to_f64(),
            _ => 0.0,
        };
        // The quotient is rounded, so the true neighbours can be one step away from its own.
        let f = &self.format;
        let mut lo = f.round(z, Rounding::Down, Overflow::Saturate, 0);
        if dequantized(lo) > x {
            lo = f.next_down(lo);
        } else if dequantized(f.next_up(lo)) <= x {
            lo = f.next_up(lo);
        }
        let hi = if dequantized(lo) >= x { lo } else { f.next_up(lo) };
        (dequantized(lo), dequantized(hi))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(name: &str) -> Quantizer {
        Quantizer {
            format: Format::get(name).unwrap(),
            scaling: Some(Scaling {
                block: Block::Size(32),
                format: ScaleFormat::E8m0,
                rule: ScaleRule::Floor,
                tensor_scale: false,
            }),
            rounding: Rounding::NearestEven,
            overflow: Overflow::Saturate,
        }
    }

    fn block(q: &Quantizer, x: &[f32]) -> Vec<f32> {
        let scale = q.scale(absmax(x.iter().copied()) as f32, None);
        x.iter().map(|x| q.fake_quant(*x, scale, 0)).collect()
    }

    #[test]
    fn mx_examples() {
        // microxcaling issue 4: 957 becomes 896 under the floor rule.
        assert_eq!(block(&mx("e4m3"), &[957.0, 1.0, -0.0]), [896.0, 1.0, -0.0]);
        assert_eq!(block(&mx("e2m1"), &[7.9, 2.5, 3.5, -0.25]), [6.0, 2.0, 4.0, -0.0]);
        assert_eq!(block(&mx("mxint8"), &[1.9, 1.5, 1.0]), [1.90625, 1.5, 1.0]);
        // A block around 2^-126 and one of fp32 subnormals are not flushed.
        let tiny = f32::MIN_POSITIVE;
        assert_eq!(block(&mx("e4m3"), &[tiny, tiny * 0.5]), [tiny, tiny * 0.5]);
        assert_eq!(block(&mx("e2m1"), &[f32::from_bits(3), f32::from_bits(1)]).len(), 2);
        // Just below a power of two the exponent is still the lower one.
        let below = 2f32.powi(100).next_down();
        assert_eq!(block(&mx("e2m1"), &[below])[0], 1.5 * 2f32.powi(99));
        assert!(block(&mx("e4m3"), &[f32::NAN, 1.0]).iter().all(|y| y.is_nan()));
        assert!(block(&mx("e4m3"), &[f32::INFINITY, 1.0]).iter().all(|y| y.is_nan()));
        assert!(block(&mx("e4m3"), &[0.0, -0.0])[1].is_sign_negative());
    }

    #[test]
    fn neighbours_enclose_and_are_adjacent() {
        let mut q = mx("int4");
        q.scaling.as_mut().unwrap().format = ScaleFormat::Fp32;
        q.scaling.as_mut().unwrap().rule = ScaleRule::Absmax;
        for k in 1..2000u32 {
            let top = 0.731 + k as f32 * 0.001_37;
            let scale = q.scale(top, None);
            let Scale::Divide(s) = scale else { panic!() };
            let grid: Vec<f32> = (-7..=7).map(|c| c as f32 * s).collect();
            for x in grid.iter().flat_map(|g| [g.next_down(), *g, g.next_up(), g + 0.3 * s]) {
                let (lo, hi) = q.neighbours(x, scale);
                let below = grid.iter().copied().filter(|g| *g <= x).fold(grid[0], f32::max);
                let above = grid.iter().copied().filter(|g| *g >= x).fold(grid[14], f32::min);
                assert_eq!((lo, hi), (below, above), "{x} {s}");
            }
        }
    }
}
