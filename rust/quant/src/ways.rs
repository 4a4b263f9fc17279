//! The scales of many blocks at once, from their absmax.

use crate::block::GROUP;
use crate::element::{self, Shape};
use crate::job::{Grid, Job, Pair};
use dither_numerics::{Dialect, ScaleFormat, ScaleRule, Scaling};

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
pub enum Way {
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
    pub fn new(scaling: &Scaling, grid: Option<Grid>, scale_grid: Option<Grid>) -> Way {
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

impl Job<'_> {
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
}
