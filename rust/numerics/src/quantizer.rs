//! A quantizer is a format, a scaling, a rounding and an overflow mode; here it acts on one block.

use crate::affine::{affine_scale, steps};
use crate::dialect::{Dialect, NanPolicy};
use crate::exact::{Real, pow2};
use crate::format::Format;
use crate::orders::{counts_infinity, dialect_scale, torchao_tensor_scale};
use crate::random::random_bits;
use crate::rounding::{Overflow, Rounding, round_integer};
use crate::scale::{Scale, ScaleFormat, ScaleRule, Scaling, TensorScale};

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

/// What the rules look at in a block: the extremes of its numbers, and whether there is something else.
struct Peak {
    absmax: f64,
    min: f64,
    max: f64,
    nan: bool,
    infinite: bool,
}

impl Peak {
    fn of<T: Real>(block: &[T], counts_infinity: bool) -> Peak {
        let mut peak = Peak { absmax: 0.0, min: 0.0, max: 0.0, nan: false, infinite: false };
        for x in block.iter().map(|x| x.to_f64()) {
            peak.nan |= x.is_nan();
            peak.infinite |= x.is_infinite();
            if x.is_finite() || (x.is_infinite() && counts_infinity) {
                (peak.min, peak.max) = (peak.min.min(x), peak.max.max(x));
            }
        }
        peak.absmax = peak.max.max(-peak.min);
        peak
    }
}

impl Quantizer {
    /// The second-level scale for this absmax of the whole tensor; `None` where the quantizer has none.
    pub fn tensor_scale(&self, absmax: f64) -> Option<TensorScale> {
        let s = self.scaling.as_ref().filter(|s| s.tensor_scale)?;
        let ScaleFormat::Float(stored) = &s.format else { return None };
        // The larger scale of four-over-six must fit as well: E4M3 is used up to 256.
        let room = if s.options.four_over_six.is_some() { 1.75 } else { 1.0 };
        let bound = stored.max / room / f64::from(s.options.guard);
        Some(match (s.options.dialect, s.rule) {
            (Dialect::Torchao, ScaleRule::Static(decode)) => TensorScale { decode, multiplier: 1.0 / decode },
            (_, ScaleRule::Static(decode)) => TensorScale::given(decode, self.format.max),
            (Dialect::Torchao, _) => torchao_tensor_scale(absmax, stored.max, self.format.max),
            _ => TensorScale::new(absmax, bound, self.format.max),
        })
    }

    /// The absmax of the whole tensor as [`Quantizer::tensor_scale`] wants it, from the absmax of its parts.
    pub fn tensor_peak<T: Real>(&self, part: &[T]) -> f64 {
        let Some(s) = &self.scaling else { return 0.0 };
        let peak = Peak::of(part, counts_infinity(s));
        let poisoned = s.options.nan == NanPolicy::Block && (peak.nan || (peak.infinite && !counts_infinity(s)));
        if poisoned { f64::NAN } else { peak.absmax }
    }

    /// The scale of a block with this absmax, where that is all the rule looks at (see [`Scaling::needs_absmax_alone`]
    /// and, for all others, [`Quantizer::block_scale`]). A plain cast is the grid itself.
    pub fn scale<T: Real>(&self, absmax: T, tensor: Option<&TensorScale>) -> Scale {
        match &self.scaling {
            None => Scale::Power(0),
            Some(s) if absmax.to_f64().is_nan() || absmax.to_f64().is_infinite() && !counts_infinity(s) => {
                Scale::Poisoned
            }
            Some(s) => dialect_scale(absmax, &self.format, s, tensor),
        }
    }

    /// The scale of a block.
    pub fn block_scale<T: Real>(&self, block: &[T], tensor: Option<&TensorScale>) -> Scale {
        let Some(s) = &self.scaling else { return Scale::Power(0) };
        let peak = Peak::of(block, counts_infinity(s));
        let nonfinite = peak.nan || (peak.infinite && !counts_infinity(s));
        if s.options.nan == NanPolicy::Block && nonfinite {
            return Scale::Poisoned;
        }
        if s.options.zero_point {
            return affine_scale(T::from_f64(peak.min), T::from_f64(peak.max), &self.format, s);
        }
        let absmax = T::from_f64(peak.absmax);
        let searched = s.rule == ScaleRule::Mse || s.options.four_over_six.is_some();
        if searched && peak.absmax > 0.0 && tensor.is_none_or(|t| !t.multiplier.is_nan()) {
            return self.search(block, absmax, s, tensor);
        }
        match dialect_scale(absmax, &self.format, s, tensor) {
            // E8M0 has no zero: beside NaN or infinity the scale that is stored for it counts.
            Scale::Zero if s.format == ScaleFormat::E8m0 && (peak.nan || peak.infinite) => s.power(-127),
            scale => scale,
        }
    }

    /// Quantize and dequantize one element under a block's scale.
    pub fn fake_quant<T: Real>(&self, x: T, scale: Scale, random: u32) -> T {
        self.value(self.element(x, scale, random), scale)
    }

    /// The number of the element format (with a zero point: the code) that `x` becomes under a block's scale.
    pub fn element<T: Real>(&self, x: T, scale: Scale, random: u32) -> f64 {
        self.element_by(x, scale, self.rounding, random)
    }

    pub(crate) fn element_by<T: Real>(&self, x: T, scale: Scale, rounding: Rounding, random: u32) -> f64 {
        let options = self.scaling.as_ref().map(|s| s.options).unwrap_or_default();
        let wide = x.to_f64();
        if wide.is_nan() && options.nan == NanPolicy::Saturate && !self.format.has_nan() {
            return self.format.max;
        }
        let keeps = options.nan == NanPolicy::Element && !self.scaling.as_ref().is_some_and(counts_infinity);
        let overflow = if keeps && wide.is_infinite() { Overflow::Propagate } else { self.overflow };
        let round = |z: f64| self.format.round(z, rounding, overflow, random);
        let element = match scale {
            Scale::Poisoned => f64::NAN,
            Scale::Zero if wide.is_finite() => self.format.round(wide * 0.0, rounding, overflow, 0),
            Scale::Zero => round(wide),
            // Rounded where it lies: the quotient could leave fp64's range, the result cannot.
            Scale::Power(e) => self.format.round_shifted(wide, e, rounding, overflow, random) * pow2(-e),
            Scale::Divide(s) => round(x.div(T::from_f64(f64::from(s))).to_f64()),
            Scale::Multiply { encode, .. } => round(x.mul(T::from_f64(f64::from(encode))).to_f64()),
            Scale::Quotient(s) => round(wide / f64::from(s)),
            Scale::Affine { .. } if !wide.is_finite() && keeps => f64::NAN,
            Scale::Affine { s, zero } => self.affine_code(x, s, zero, |z| round_integer(z, rounding, random)),
        };
        // The kernel returns a plain zero whatever the sign was.
        if options.dialect == Dialect::Microxcaling && element == 0.0 { 0.0 } else { element }
    }

    fn affine_code<T: Real>(&self, x: T, s: f32, zero: u32, round: impl Fn(f64) -> f64) -> f64 {
        let scaling = self.scaling.as_ref().expect("a zero point belongs to a scaling");
        let z = steps(x, s, scaling);
        // Far outside the codes the rounding decides nothing (and integers end at 2^53).
        let bound = 2.0 * self.format.max;
        (round(z.clamp(-bound, bound)) + f64::from(zero)).clamp(0.0, self.format.max)
    }

    /// What an element stands for under a block's scale.
    pub fn value<T: Real>(&self, element: f64, scale: Scale) -> T {
        let product = |s: f32| T::from_f64(element).mul(T::from_f64(f64::from(s)));
        match scale {
            Scale::Poisoned => T::from_f64(f64::NAN),
            Scale::Zero if self.format.has_neg_zero() => T::from_f64(element * 0.0),
            Scale::Zero => T::from_f64(element * 0.0 + 0.0),
            Scale::Power(e) => T::from_f64(element * pow2(e)),
            Scale::Divide(s) | Scale::Quotient(s) => product(s),
            Scale::Multiply { decode, .. } => product(decode),
            Scale::Affine { s, zero } => T::from_f64(element - f64::from(zero)).mul(T::from_f64(f64::from(s))),
        }
    }

    /// The smallest and the largest value under a scale; NaN in a poisoned block.
    pub fn range<T: Real>(&self, scale: Scale) -> (T, T) {
        let (low, high) = self.element_range(scale);
        (self.value(low, scale), self.value(high, scale))
    }

    fn element_range(&self, scale: Scale) -> (f64, f64) {
        match scale {
            Scale::Affine { .. } => (0.0, self.format.max),
            _ => (self.format.min, self.format.max),
        }
    }

    /// The neighbours of `x` among the values this quantizer can return under this scale: the largest at most `x`
    /// and the smallest at least `x`. Both are the nearest end where `x` lies outside, and NaN in a poisoned block.
    pub fn neighbours<T: Real>(&self, x: T, scale: Scale) -> (T, T) {
        if matches!(scale, Scale::Poisoned) || x.to_f64().is_nan() {
            return (T::from_f64(f64::NAN), T::from_f64(f64::NAN));
        }
        if scale == Scale::Zero {
            return (T::from_f64(0.0), T::from_f64(0.0));
        }
        let dequantized = |r: f64| self.value::<T>(r, scale);
        // The quotient is rounded, so the true neighbours can be one step away from its own.
        let mut lo = self.below(x, scale);
        if dequantized(lo) > x {
            lo = self.step(lo, scale, false);
        } else if dequantized(self.step(lo, scale, true)) <= x {
            lo = self.step(lo, scale, true);
        }
        let hi = if dequantized(lo) >= x { lo } else { self.step(lo, scale, true) };
        (dequantized(lo), dequantized(hi))
    }

    /// An element at, or one step from, the largest whose value is at most `x`.
    fn below<T: Real>(&self, x: T, scale: Scale) -> f64 {
        let down = |z: f64| self.format.round(z, Rounding::Down, Overflow::Saturate, 0);
        match scale {
            Scale::Poisoned | Scale::Zero => 0.0,
            Scale::Power(e) => down(x.to_f64() * pow2(-e)),
            Scale::Divide(s) | Scale::Quotient(s) => down(x.div(T::from_f64(f64::from(s))).to_f64()),
            // Not by `encode`, which is no reciprocal where it is bounded and in some dialects.
            Scale::Multiply { decode: 0.0, .. } => 0.0,
            Scale::Multiply { decode, .. } => down(x.div(T::from_f64(f64::from(decode))).to_f64()),
            Scale::Affine { s, zero } => self.affine_code(x, s, zero, f64::floor),
        }
    }

    /// The next element above (`up`) or below.
    fn step(&self, element: f64, scale: Scale, up: bool) -> f64 {
        match (scale, up) {
            (Scale::Affine { .. }, true) => (element + 1.0).min(self.format.max),
            (Scale::Affine { .. }, false) => (element - 1.0).max(0.0),
            (_, true) => self.format.next_up(element),
            (_, false) => self.format.next_down(element),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::Block;

    fn mx(name: &str) -> Quantizer {
        Quantizer {
            format: Format::get(name).unwrap(),
            scaling: Some(Scaling::new(Block::Size(32), ScaleFormat::E8m0, ScaleRule::Floor)),
            rounding: Rounding::NearestEven,
            overflow: Overflow::Saturate,
        }
    }

    fn block(q: &Quantizer, x: &[f32]) -> Vec<f32> {
        let scale = q.scale(absmax(x.iter().copied()) as f32, None);
        x.iter().map(|x| q.fake_quant(*x, scale, 0)).collect()
    }

    #[test]
    fn ranges_end_where_infinity_saturates() {
        let others = ["codebook_0_1_-0.25_3", "codebook_1_2", "binary8p1ue", "binary8p4se", "e1m0", "e6m9"];
        for name in Format::names().into_iter().chain(others) {
            let f = Format::get(name).unwrap();
            let end = |x: f64| f.round(x, Rounding::NearestEven, Overflow::Saturate, 0);
            assert_eq!((f.min, f.max), (end(f64::NEG_INFINITY), end(f64::INFINITY)), "{name}");
        }
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

    /// A whole block and its absmax lead to the same scale wherever the rule looks at nothing else.
    #[test]
    fn a_plain_block_is_its_absmax() {
        let noise = |i: u64| f32::from_bits(random_bits(3, 1, i, 32));
        let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
        for (format, rule) in [
            (ScaleFormat::E8m0, ScaleRule::Floor),
            (ScaleFormat::E8m0, ScaleRule::Even),
            (ScaleFormat::Fp32, ScaleRule::Rceil),
            (float("e4m3"), ScaleRule::Absmax),
        ] {
            let mut q = mx("e2m1");
            q.scaling = Some(Scaling::new(Block::Size(8), format, rule));
            assert!(q.scaling.as_ref().unwrap().is_plain());
            for k in 0..2000 {
                let block: Vec<f32> = (0..8).map(|i| noise(8 * k + i)).collect();
                let peak = absmax(block.iter().copied()) as f32;
                assert_eq!(q.block_scale(&block, None), q.scale(peak, None), "{block:?}");
            }
        }
    }

    #[test]
    fn policies_on_one_block() {
        let mut q = mx("e4m3");
        let block = [f32::NAN, f32::INFINITY, 3.0, -0.0];
        let values = |q: &Quantizer| {
            let scale = q.block_scale(&block, None);
            block.map(|x| q.fake_quant(x, scale, 0))
        };
        assert!(values(&q).iter().all(|y| y.is_nan()));
        q.scaling.as_mut().unwrap().options.nan = NanPolicy::Element;
        let y = values(&q);
        assert!(y[0].is_nan() && y[1].is_nan() && y[2] == 3.0);
        q.scaling.as_mut().unwrap().options.nan = NanPolicy::Saturate;
        let y = values(&q);
        assert!(y[0].is_nan() && y[1] == 3.5 && y[2] == 3.0 && y[3].is_sign_negative());
        q.format = Format::get("e2m1").unwrap();
        assert_eq!(values(&q)[..3], [3.0, 3.0, 3.0]);
    }
}
