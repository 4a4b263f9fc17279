//! A quantizer made ready for the fast kernels: constants worked out once, and a block's scale from its absmax.

use crate::bits::integer;
use crate::block::GROUP;
use crate::element::{self, Shape};
use crate::method::Method;
use crate::power::Power;
use dither_numerics::format::Kind;
use dither_numerics::{Dialect, Format, Quantizer, Scale, ScaleFormat, ScaleRule, Scaling, TensorScale};

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
struct Grid {
    emin: u32,
    max: u32,
    mbits: u32,
}

impl Grid {
    /// `None` where the fast arithmetic would leave fp32's range.
    fn new(f: &Format) -> Option<Grid> {
        let (emin, top) = (f.emin + 127, f.emin.max(f.emax() + 1) + 127);
        let fits = f.mbits <= 20 && emin - f.mbits as i32 >= 1 && top + 23 - f.mbits as i32 <= 254;
        fits.then(|| Grid { emin: (emin as u32) << 23, max: (f.max as f32).to_bits(), mbits: f.mbits })
    }
}

/// How a candidate of a search differs from what the rule without a search gives.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Other scales than powers of two aim so much higher.
    pub aim: f32,
    /// Added to the exponent of powers of two.
    pub power: i32,
}

/// How the scales of many blocks follow from their absmax without a branch a block.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Powers,
    /// Powers of two under a pre-scale: the bits of that, and of its reciprocal.
    Prescaled(u32, u32),
    /// fp32.
    Quotients,
    /// 8-bit floats that aim this much higher, to nearest or up.
    Rounded(f32, bool),
    /// 8-bit floats in torchao's order.
    Torchao,
    /// One by one.
    Truth,
}

impl Way {
    fn new(scaling: &Scaling, grid: Option<Grid>, scale_grid: Option<Grid>) -> Way {
        let (options, up) = (scaling.options, scaling.rule == ScaleRule::Rceil);
        match (&scaling.format, options.dialect) {
            _ if scaling.is_given() || options.dialect == Dialect::P3109 => Way::Truth,
            (ScaleFormat::E8m0, Dialect::Ocp | Dialect::Microxcaling) if options.prescale == 1.0 => Way::Powers,
            _ if grid.is_none() => Way::Truth,
            (ScaleFormat::E8m0, Dialect::Ocp) => {
                Way::Prescaled(options.prescale.to_bits(), ((1.0 / f64::from(options.prescale)) as f32).to_bits())
            }
            (ScaleFormat::E8m0, _) => Way::Truth,
            (ScaleFormat::Fp32, _) if !up => Way::Quotients,
            (ScaleFormat::Float(_), Dialect::Torchao) if scale_grid.is_some() => Way::Torchao,
            (ScaleFormat::Float(_), _) if scale_grid.is_some() => Way::Rounded(options.guard, up),
            _ => Way::Truth,
        }
    }
}

pub struct Job<'a> {
    pub quantizer: &'a Quantizer,
    way: Way,
    pub shape: Shape,
    /// The rounding as the kernels' constant.
    pub mode: u8,
    tensor: Option<TensorScale>,
    /// The unshifted grid, for scales that divide.
    grid: Option<Grid>,
    /// The grid of 8-bit float scales.
    scale_grid: Option<Grid>,
    power: Power,
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

    /// The scales of many blocks at once, without a branch a block: two numbers each, as bits. `None` where one of
    /// them needs more than that. (Loops, not folds: those are too large to be inlined into a level's kernel.)
    #[inline(always)]
    pub fn scales(&self, absmax: &[u32], first: &mut [u32], second: &mut [u32]) -> Option<Pair> {
        match self.way {
            Way::Powers => self.powers(absmax, first, second).then_some(Pair::Power),
            Way::Prescaled(encode, decode) => self.prescaled(absmax, [encode, decode], first, second),
            Way::Quotients => self.quotients(absmax, 1.0, first).then_some(Pair::Divide),
            Way::Rounded(aim, false) => self.rounded(absmax, aim, first, second),
            Way::Torchao => self.torchao(absmax, first, second),
            Way::Rounded(_, true) | Way::Truth => None,
        }
    }

    /// Powers of two `2^e` whose exponent is subtracted from that of the factor `encode` and added to that of `decode`.
    #[inline(always)]
    fn prescaled(
        &self,
        absmax: &[u32],
        [encode, decode]: [u32; 2],
        first: &mut [u32],
        second: &mut [u32],
    ) -> Option<Pair> {
        /// Exponents at which both products are normal numbers.
        const MOST: u32 = 120;
        let emax = self.quantizer.format.emax();
        let mut all = true;
        for ((a, first), second) in absmax.iter().zip(first).zip(second) {
            let e = (a >> 23) as i32 - 127 - emax + i32::from(a & 0x007f_ffff >= self.power.carry);
            let shift = (e << 23) as u32;
            (*first, *second) = (encode.wrapping_sub(shift), decode.wrapping_add(shift));
            all &= (e.unsigned_abs() <= MOST) & (*a >= 1 << 23) & (*a < 0x7f80_0000);
        }
        all.then_some(Pair::Multiply)
    }

    /// torchao's order: divided twice, clamped to normal numbers and rounded.
    #[inline(always)]
    fn torchao(&self, absmax: &[u32], first: &mut [u32], second: &mut [u32]) -> Option<Pair> {
        let grid = self.scale_grid?;
        let shape = Shape { mbits: grid.mbits, n: 0, last: 0, zero: 0.0 };
        let (low, high) = (f32::from_bits(grid.emin), f32::from_bits(grid.max));
        let (max, whole) = (self.quantizer.format.max as f32, self.tensor.map_or(1.0, |t| t.decode));
        let inverse = 1.0 / whole;
        let mut all = true;
        for ((a, encode), decode) in absmax.iter().zip(first).zip(second) {
            let wanted = (f32::from_bits(*a) / max / whole).max(low).min(high);
            let s = element::round::<{ element::NEAREST_EVEN }>(wanted, grid.emin, grid.max, shape, 0);
            let (e, d) = (inverse / s, whole * s);
            (*encode, *decode) = (e.to_bits(), d.to_bits());
            all &= (*a < 0x7f80_0000) & (e < f32::INFINITY);
        }
        (all && whole > 0.0 && whole < f32::INFINITY).then_some(Pair::Multiply)
    }

    /// The same for a candidate of a search.
    #[inline(always)]
    pub fn candidates(&self, absmax: &[u32], c: Candidate, first: &mut [u32], second: &mut [u32]) -> Option<Pair> {
        match self.way {
            // The exponent is moved by moving that of the absmax.
            Way::Powers if absmax.len() <= GROUP => {
                let mut moved = [0; GROUP];
                for (moved, a) in moved.iter_mut().zip(absmax) {
                    *moved = a.wrapping_add((c.power << 23) as u32);
                }
                self.powers(&moved[..absmax.len()], first, second).then_some(Pair::Power)
            }
            Way::Quotients => self.quotients(absmax, c.aim, first).then_some(Pair::Divide),
            Way::Rounded(_, false) => self.rounded(absmax, c.aim, first, second),
            _ => None,
        }
    }

    /// fp32 scales times `aim`; false where there is a zero, an infinity or a NaN.
    #[inline(always)]
    pub fn quotients(&self, absmax: &[u32], aim: f32, scales: &mut [u32]) -> bool {
        let max = self.quantizer.format.max as f32;
        let mut all = true;
        for (a, scale) in absmax.iter().zip(scales) {
            let s = ((f32::from_bits(*a) / max).min(f32::MAX) * aim).min(f32::MAX);
            *scale = s.to_bits();
            all &= (s > 0.0) & (*a < 0x7f80_0000);
        }
        all
    }

    /// Scales stored as 8-bit floats, as `stored` gives them.
    #[inline(always)]
    fn rounded(&self, absmax: &[u32], aim: f32, first: &mut [u32], second: &mut [u32]) -> Option<Pair> {
        let grid = self.scale_grid?;
        let shape = Shape { mbits: grid.mbits, n: 0, last: 0, zero: 0.0 };
        let round = |wanted: f32| element::round::<{ element::NEAREST_EVEN }>(wanted, grid.emin, grid.max, shape, 0);
        let ordinary = |a: u32| (a != 0) & (a < 0x7f80_0000);
        let Some(t) = &self.tensor else {
            let max = self.quantizer.format.max as f32;
            let mut all = true;
            for (a, scale) in absmax.iter().zip(first) {
                let s = round(f32::from_bits(*a) / max * aim);
                *scale = s.to_bits();
                all &= ordinary(*a) & (s > 0.0);
            }
            return all.then_some(Pair::Divide);
        };
        let mut all = true;
        for ((a, encode), decode) in absmax.iter().zip(first).zip(second) {
            let d = round((f32::from_bits(*a) * t.multiplier * aim).min(f32::MAX)) * t.decode;
            (*encode, *decode) = ((1.0 / d).min(f32::MAX).to_bits(), d.to_bits());
            all &= ordinary(*a);
        }
        (all && !t.multiplier.is_nan()).then_some(Pair::Multiply)
    }

    #[inline(always)]
    pub fn powers(&self, absmax: &[u32], emin: &mut [u32], max: &mut [u32]) -> bool {
        let p = &self.power;
        for ((a, emin), max) in absmax.iter().zip(emin).zip(max) {
            let top = ((a >> 23) + u32::from(a & 0x007f_ffff >= p.carry)) << 23;
            (*emin, *max) = (top.wrapping_add(p.emin), top.wrapping_add(p.max));
        }
        absmax.iter().fold(true, |all, a| all & (a >> 23 >= p.first) & (a >> 23 <= p.last))
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
