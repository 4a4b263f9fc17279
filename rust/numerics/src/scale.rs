//! Which scale a block gets from its absmax.

use crate::dialect::{Dialect, NanPolicy, Options, ZeroScale};
use crate::exact::{Real, decompose, floor_log2, pow2};
use crate::format::Format;
use crate::rounding::{Overflow, Rounding};

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// This many neighbours along the axis; the last block may be shorter.
    Size(usize),
    /// The whole axis.
    Row,
    /// One place along the axis: everything that the other axes hold there.
    Column,
    /// This many rows and columns of the last two axes; blocks at the edges may be smaller.
    Tile(usize, usize),
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
    pub options: Options,
}

impl Scaling {
    /// Without a second level, everything else at its default.
    pub fn new(block: Block, format: ScaleFormat, rule: ScaleRule) -> Scaling {
        Scaling { block, format, rule, tensor_scale: false, options: Options::default() }
    }

    /// Two levels, 8-bit floats under one fp32 number, in Transformer Engine's order.
    pub fn two_levels(block: Block, format: ScaleFormat, rule: ScaleRule) -> Scaling {
        let options = Options { dialect: Dialect::Te, ..Options::default() };
        Scaling { block, format, rule, tensor_scale: true, options }
    }

    /// Whether a block's absmax is all that the rule looks at, and nothing but the rule decides: what the fast kernels
    /// know.
    pub fn is_standard(&self) -> bool {
        let two_levels = self.tensor_scale && matches!(self.options.dialect, Dialect::Te | Dialect::Cudnn);
        let dialect = if two_levels { self.options.dialect } else { Dialect::Ocp };
        self.rule != ScaleRule::Mse && self.options == Options { dialect, ..Options::default() }
    }

    /// Whether a block's absmax (NaN if there is one) is all that its scale depends on.
    pub fn needs_absmax_alone(&self) -> bool {
        let o = &self.options;
        self.rule != ScaleRule::Mse && o.nan == NanPolicy::Block && !o.zero_point && o.four_over_six.is_none()
    }

    /// The same as `is_standard` for blocks along an axis, whose scales follow from the data.
    pub fn is_plain(&self) -> bool {
        !matches!(self.block, Block::Column | Block::Tile(..)) && !self.is_given() && self.is_standard()
    }

    /// Whether the scale of every block is given. (A given second level leaves them to be found as ever.)
    pub fn is_given(&self) -> bool {
        let two = self.tensor_scale && matches!(self.format, ScaleFormat::Float(_));
        matches!(self.rule, ScaleRule::Static(_)) && !two
    }
}

/// How scales are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum ScaleFormat {
    /// Powers of two, 2^-127..2^127 (OCP MX).
    E8m0,
    /// An 8-bit float such as e4m3 (NVFP4) or ue5m3.
    Float(Format),
    Fp32,
}

/// How the scale is picked.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// The candidate with the least squared error over the block: see [`crate::search`].
    Mse,
    /// This one, whatever the data: of the tensor where there is a second level, else of every block.
    Static(f32),
}

/// NVFP4's second level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorScale {
    /// What turns stored block scales back into true ones; this is the number that is stored.
    pub decode: f32,
    /// Transformer Engine's order: `absmax_block * multiplier` is the block scale before rounding. NaN poisons all.
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

    /// A given second level, in the same order.
    pub fn given(decode: f32, element_max: f64) -> TensorScale {
        TensorScale { decode, multiplier: (1.0 / decode) * (1.0 / element_max as f32) }
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
    /// `round(x * encode) * decode`; `stored` is the block's own scale (with a second level, `decode` over it).
    Multiply { encode: f32, decode: f32, stored: f32 },
    /// `round(x / s) * s` with an exact quotient (P3109).
    Quotient(f32),
    /// `(code - zero) * s` with codes `round(x / s) + zero`.
    Affine { s: f32, zero: u32 },
}

impl Scaling {
    /// What the power of two `2^e` does. Under a pre-scale elements are multiplied by `prescale 2^-e`, and what they are
    /// rounded to by `2^e / prescale`, each a number rounded to fp32.
    pub(crate) fn power(&self, e: i32) -> Scale {
        match f64::from(self.options.prescale) {
            1.0 => Scale::Power(e),
            p => {
                Scale::Multiply { encode: (p * pow2(-e)) as f32, decode: (pow2(e) / p) as f32, stored: pow2(e) as f32 }
            }
        }
    }

    /// A block without a number other than zero.
    pub(crate) fn zero(&self, tensor: Option<&TensorScale>) -> Scale {
        let smallest = match &self.format {
            ScaleFormat::E8m0 => pow2(-127),
            ScaleFormat::Fp32 => f64::from(f32::from_bits(1)),
            ScaleFormat::Float(stored) => stored.min_positive(),
        };
        let s = match self.options.zero_scale {
            ZeroScale::Rule => return Scale::Zero,
            ZeroScale::Smallest => smallest,
            ZeroScale::One => 1.0,
        };
        match &self.format {
            ScaleFormat::E8m0 => self.power(floor_log2(s)),
            _ => apply(s as f32, tensor),
        }
    }
}

/// The scale of a block with this absmax (NaN propagated into `absmax`), in the orders `Ocp`, `Te` and `Cudnn`; the
/// other dialects are in [`crate::orders`].
pub fn block_scale<T: Real>(absmax: T, format: &Format, scaling: &Scaling, tensor: Option<&TensorScale>) -> Scale {
    let a = absmax.to_f64();
    if !a.is_finite() || tensor.is_some_and(|t| t.multiplier.is_nan()) {
        return Scale::Poisoned;
    }
    if a == 0.0 {
        return scaling.zero(tensor);
    }
    match (&scaling.format, scaling.rule) {
        (ScaleFormat::E8m0, ScaleRule::Static(s)) => scaling.power(floor_log2(f64::from(s))),
        (_, ScaleRule::Static(s)) if tensor.is_none() => Scale::Divide(s),
        (ScaleFormat::E8m0, rule) => scaling.power(power_of_two(a, format, rule).clamp(-127, 127)),
        (ScaleFormat::Fp32, rule) => apply(fp32_scale(absmax, format.max, rule), None),
        (ScaleFormat::Float(stored), rule) => {
            let wanted = wanted(absmax, format, scaling.options.guard, tensor);
            apply(round_scale(wanted, stored, rule), tensor)
        }
    }
}

/// The 8-bit scale that a block asks for times `factor`, before it is rounded.
pub(crate) fn wanted<T: Real>(absmax: T, format: &Format, factor: f32, tensor: Option<&TensorScale>) -> f64 {
    match tensor {
        None => absmax.div(T::from_f64(format.max)).mul(T::from_f64(f64::from(factor))).to_f64(),
        Some(tensor) => {
            let wanted = absmax.mul(T::from_f64(f64::from(tensor.multiplier))).to_f64() as f32;
            f64::from((wanted * factor).min(f32::MAX))
        }
    }
}

/// What a stored block scale does, in the orders `Ocp` (no second level) and `Te`.
pub(crate) fn apply(stored: f32, tensor: Option<&TensorScale>) -> Scale {
    match tensor {
        None if stored == 0.0 => Scale::Zero,
        None => Scale::Divide(stored),
        Some(tensor) => {
            let decode = stored * tensor.decode;
            Scale::Multiply { encode: (1.0 / decode).min(f32::MAX), decode, stored }
        }
    }
}

/// The exponent that a power-of-two rule gives, before clamping to E8M0's range.
pub fn power_of_two(absmax: f64, format: &Format, rule: ScaleRule) -> i32 {
    let floor = floor_log2(absmax);
    let (significand, _) = decompose(absmax);
    // The 63 bits below the leading one.
    let fraction = significand << significand.leading_zeros() << 1;
    let carry = match rule {
        ScaleRule::Floor | ScaleRule::Mse | ScaleRule::Static(_) => false,
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

pub(crate) fn fp32_scale<T: Real>(absmax: T, max: f64, rule: ScaleRule) -> f32 {
    let s = absmax.div(T::from_f64(max)).to_f64() as f32;
    let s = s.min(f32::MAX);
    // The product of a 24-bit and a format's significand is exact in fp64.
    if rule == ScaleRule::Rceil && f64::from(s) * max < absmax.to_f64() { s.next_up().min(f32::MAX) } else { s }
}

pub(crate) fn round_scale(wanted: f64, stored: &Format, rule: ScaleRule) -> f32 {
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
            let scaling = Scaling::new(Block::Row, ScaleFormat::Fp32, ScaleRule::Rceil);
            let Scale::Divide(s) = block_scale(absmax, &f, &scaling, None) else { panic!() };
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
            let scaling = Scaling::new(Block::Row, ScaleFormat::E8m0, ScaleRule::Floor);
            assert_eq!(block_scale(absmax, &f, &scaling, None), expected);
        }
        let scaling = Scaling::new(Block::Row, ScaleFormat::Fp32, ScaleRule::Absmax);
        assert_eq!(block_scale(f32::from_bits(1), &f, &scaling, None), Scale::Zero);
    }
}
