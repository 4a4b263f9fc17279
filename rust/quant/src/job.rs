//! A quantizer made ready for the fast kernels: constants worked out once, and a block's scale from its absmax.

use crate::bits::integer;
use crate::element::{self, Shape};
use crate::method::Method;
use crate::power::Power;
use crate::ways::Way;
use dither_numerics::format::Kind;
use dither_numerics::{Dialect, Format, Quantizer, Scale, ScaleFormat, TensorScale};

/// A block's scale as the kernels use it.
#[derive(Clone, Copy, Debug)]
pub enum Fast {
    /// Round on the grid whose smallest normal and largest value have these bit patterns.
    Power { emin: u32, max: u32 },
    /// `round(x / s) * s`.
    Divide { s: f32 },
    /// `round(x * encode) * decode`.
    Multiply { encode: f32, decode: f32 },
    /// Everything becomes zero, its sign kept where the format has one.
    Zero,
    /// Left to the scalar truth: special, or beyond the range in which the fast arithmetic is exact.
    Exact(Scale),
}

/// What the two numbers of [`Job::scales`] are: the fields of the `Fast` of this name (`Divide` has one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    Power,
    Divide,
    Multiply,
}

/// The constants of a grid in fp32 bit patterns.
#[derive(Clone, Copy)]
pub struct Grid {
    pub emin: u32,
    pub max: u32,
    pub mbits: u32,
}

impl Grid {
    /// `None` where the fast arithmetic would leave fp32's range.
    fn new(f: &Format) -> Option<Grid> {
        let (emin, top) = (f.emin + 127, f.emin.max(f.emax() + 1) + 127);
        let fits = f.mbits <= 20 && emin - f.mbits as i32 >= 1 && top + 23 - f.mbits as i32 <= 254;
        fits.then(|| Grid { emin: (emin as u32) << 23, max: (f.max as f32).to_bits(), mbits: f.mbits })
    }
}

pub struct Job<'a> {
    pub quantizer: &'a Quantizer,
    pub way: Way,
    pub shape: Shape,
    /// The rounding as the kernels' constant.
    pub mode: u8,
    pub tensor: Option<TensorScale>,
    /// The unshifted grid, for scales that divide.
    grid: Option<Grid>,
    /// The grid of 8-bit float scales.
    pub scale_grid: Option<Grid>,
    pub power: Power,
}

impl<'a> Job<'a> {
    pub fn new(quantizer: &'a Quantizer, tensor: Option<TensorScale>) -> Self {
        let f = &quantizer.format;
        let method = Method::new(f, quantizer.rounding);
        let grid = Grid::new(f).filter(|_| method.exact);
        let options = quantizer.scaling.as_ref().map(|s| s.options).unwrap_or_default();
        // The kernel of microxcaling loses the sign of zeros.
        let signed_zero = f.has_neg_zero() && options.dialect != Dialect::Microxcaling;
        let scale_grid = match quantizer.scaling.as_ref().map(|s| &s.format) {
            // Scales are positive, so a missing sign does not matter.
            Some(ScaleFormat::Float(stored)) if stored.kind == Kind::Float && !stored.even_by_exponent() => {
                Grid::new(stored)
            }
            _ => None,
        };
        Job {
            quantizer,
            way: quantizer.scaling.as_ref().map_or(Way::Truth, |s| Way::new(s, grid, scale_grid)),
            shape: Shape {
                mbits: f.mbits.min(20),
                n: method.n,
                last: method.last,
                zero: if signed_zero { -0.0 } else { 0.0 },
            },
            mode: method.mode,
            tensor,
            grid,
            scale_grid,
            power: Power::new(f, quantizer.scaling.as_ref().map(|s| s.rule), method.exact),
        }
    }

    /// What the numbers of ordinary blocks are, where their scales are powers of two or fp32 quotients.
    #[cfg(target_arch = "x86_64")]
    pub fn pair(&self) -> Option<Pair> {
        match self.way {
            Way::Powers => Some(Pair::Power),
            Way::Quotients => Some(Pair::Divide),
            _ => None,
        }
    }

    /// The scale of the block whose absmax has this bit pattern.
    #[inline(always)]
    pub fn scale(&self, absmax: u32) -> Fast {
        match self.way {
            Way::Powers => self.power(absmax),
            Way::Rounded(aim, up) => self.stored(absmax, aim, up),
            _ => self.by_truth(absmax),
        }
    }

    #[inline(always)]
    fn power(&self, absmax: u32) -> Fast {
        let p = &self.power;
        let field = absmax >> 23;
        if field < p.first || field > p.last {
            return self.by_truth(absmax);
        }
        let top = (field + u32::from(absmax & 0x007f_ffff >= p.carry)) << 23;
        Fast::Power { emin: top.wrapping_add(p.emin), max: top.wrapping_add(p.max) }
    }

    /// A scale stored as an 8-bit float, rounded by the element kernel on the scale's own grid.
    #[inline(always)]
    fn stored(&self, absmax: u32, aim: f32, up: bool) -> Fast {
        let (a, grid) = (f32::from_bits(absmax), self.scale_grid.expect("checked by the caller"));
        if absmax == 0 || absmax >= 0x7f80_0000 || self.tensor.is_some_and(|t| t.multiplier.is_nan()) {
            return self.by_truth(absmax);
        }
        let max = self.quantizer.format.max as f32;
        let wanted = match &self.tensor {
            Some(t) => (a * t.multiplier * aim).min(f32::MAX),
            None => a / max * aim,
        };
        let shape = Shape { mbits: grid.mbits, n: 0, last: 0, zero: 0.0 };
        let block = if up {
            element::round::<{ element::UP }>(wanted, grid.emin, grid.max, shape, 0)
        } else {
            element::round::<{ element::NEAREST_EVEN }>(wanted, grid.emin, grid.max, shape, 0)
        };
        match &self.tensor {
            Some(t) => {
                let decode = block * t.decode;
                Fast::Multiply { encode: (1.0 / decode).min(f32::MAX), decode }
            }
            None if block == 0.0 => Fast::Zero,
            None => Fast::Divide { s: block },
        }
    }

    /// What the scalar truth says, in the kernels' words where they can act on it.
    pub fn by_truth(&self, absmax: u32) -> Fast {
        self.known(self.quantizer.scale(f32::from_bits(absmax), self.tensor.as_ref()))
    }

    /// A scale in the kernels' words where they can act on it.
    pub fn known(&self, scale: Scale) -> Fast {
        match (scale, self.grid) {
            (Scale::Power(e), _) => self.power.known(e, &self.quantizer.format).unwrap_or(Fast::Exact(scale)),
            (Scale::Divide(s), Some(_)) => Fast::Divide { s },
            // An infinite factor would make NaN of a zero, which the kernels do not know.
            (Scale::Multiply { encode, decode, .. }, Some(_)) if encode.is_finite() => {
                Fast::Multiply { encode, decode }
            }
            (Scale::Zero, _) if self.quantizer.format.signed => Fast::Zero,
            _ => Fast::Exact(scale),
        }
    }

    /// Bit patterns of the unshifted grid (only for `Divide` and `Multiply`, which exist only where there is one).
    #[inline(always)]
    pub fn plain_grid(&self) -> (u32, u32) {
        self.grid.map_or((127 << 23, 127 << 23), |g| (g.emin, g.max))
    }

    /// The truth for one element: NaN and the exact paths.
    #[cold]
    #[inline(never)]
    pub fn exact(&self, x: f32, scale: Scale, random: u32) -> f32 {
        let random = if element::is_stochastic(self.mode) { integer(random, self.shape.n) } else { 0 };
        self.quantizer.fake_quant(x, scale, random)
    }
}
