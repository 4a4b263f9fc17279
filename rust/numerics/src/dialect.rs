//! What a scaling can be told beyond its block, its scale's format and its rule.
//!
//! The defaults are the standard's answer (OCP MX v1.0, or Transformer Engine's order where there is a second level);
//! every other value names a documented difference. The table of all of them is docs/dialects.md.

/// Whose arithmetic order a scaling follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// OCP MX v1.0 for powers of two; `round(x / s) * s` for other scales.
    #[default]
    Ocp,
    /// torchao 0.18, eager: `to_mx`, `nvfp4_quantize`, `choose_qparams_affine`.
    Torchao,
    /// Transformer Engine: NVFP4 by the encode scale, MXFP8 by `float_to_e8m0`.
    Te,
    /// IEEE P3109 v4.0, ConvertToBlockMaxAbsFinite.
    P3109,
    /// The CUDA kernel of microxcaling.
    Microxcaling,
    /// cuDNN's text: the order of `Te` with the block scale rounded up.
    Cudnn,
}

impl Dialect {
    pub fn get(name: &str) -> Option<Dialect> {
        Some(match name {
            "ocp" => Dialect::Ocp,
            "torchao" => Dialect::Torchao,
            "te" => Dialect::Te,
            "p3109" => Dialect::P3109,
            "microxcaling" => Dialect::Microxcaling,
            "cudnn" => Dialect::Cudnn,
            _ => return None,
        })
    }
}

/// What NaN and infinity in a block do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum NanPolicy {
    /// The whole block becomes NaN (the scale's NaN is stored).
    #[default]
    Block,
    /// Each stays what it is where the format can say so, else it is NaN; the scale comes from the finite elements.
    Element,
    /// Infinity becomes the largest value, NaN stays NaN where the format has one and becomes the largest value where it
    /// has none (as PTX `cvt.satfinite` does); the scale comes from the finite elements.
    Saturate,
}

impl NanPolicy {
    pub fn get(name: &str) -> Option<NanPolicy> {
        Some(match name {
            "block" => NanPolicy::Block,
            "element" => NanPolicy::Element,
            "saturate" => NanPolicy::Saturate,
            _ => return None,
        })
    }
}

/// What is stored as the scale of a block without a number other than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ZeroScale {
    /// What the rule gives for an absmax of zero: 0, and in E8M0, which has no zero, its smallest power 2^-127.
    #[default]
    Rule,
    /// The smallest positive scale of the format.
    Smallest,
    One,
}

impl ZeroScale {
    pub fn get(name: &str) -> Option<ZeroScale> {
        Some(match name {
            "rule" => ZeroScale::Rule,
            "smallest" => ZeroScale::Smallest,
            "one" => ZeroScale::One,
            _ => return None,
        })
    }
}

/// How two candidates of a search are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distance {
    /// Sum of squared errors.
    Mse,
    /// Sum of absolute errors.
    Mae,
}

/// Everything about a scaling that has a default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    pub dialect: Dialect,
    pub nan: NanPolicy,
    pub zero_scale: ZeroScale,
    /// Unsigned integers that represent `(code - zero point) * scale`.
    pub zero_point: bool,
    /// Each block takes the better of a scale that maps its absmax to 6 and one that maps it to 4 (arXiv 2512.02010).
    pub four_over_six: Option<Distance>,
    /// 3/4: elements are multiplied by this over their scale and come back by the scale over this (arXiv 2502.20586), so
    /// that a power of two from the floor rule clips nothing. 1: no such thing.
    pub prescale: f32,
    /// 17/16: 8-bit scales aim this much higher, so that rounding them to nearest never clips (arXiv 2601.22813).
    pub guard: f32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            dialect: Dialect::default(),
            nan: NanPolicy::default(),
            zero_scale: ZeroScale::default(),
            zero_point: false,
            four_over_six: None,
            prescale: 1.0,
            guard: 1.0,
        }
    }
}
