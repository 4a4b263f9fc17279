//! Scales that are powers of two: the grid of a block from the bits of its absmax.

use crate::job::Fast;
use dither_numerics::{Format, ScaleRule, pow2};

/// What a power-of-two scale needs, worked out once.
pub(crate) struct Power {
    /// Smallest 23-bit fraction of the absmax that raises the scale.
    pub carry: u32,
    /// Absmax exponent fields for which all grid constants stay within fp32 (empty where none do).
    pub first: u32,
    pub last: u32,
    /// Added to the bits of `2^(field of the scale's top)`: the smallest normal's, and the maximum's.
    pub emin: u32,
    pub max: u32,
}

impl Power {
    pub fn new(f: &Format, rule: Option<ScaleRule>, usable: bool) -> Power {
        let (emin, emax, mbits) = (f.emin, f.emax(), f.mbits as i32);
        let fits = |field: i32| {
            // The scale may be raised by one: both possibilities must fit.
            [field, field + 1].iter().all(|top| {
                let (emin, shift) = (top + emin - emax, top - 127 - emax);
                *top <= 254 && emin - mbits >= 1 && emin.max(*top) + 23 - mbits <= 254 && (-127..=127).contains(&shift)
            })
        };
        let range: Vec<i32> = (1..=254).filter(|field| usable && fits(*field)).collect();
        let power = |e: i32| (e as u32) << 23;
        Power {
            carry: carry(f, rule),
            first: range.first().map_or(255, |e| *e as u32),
            last: range.last().map_or(0, |e| *e as u32),
            emin: power(emin - emax),
            max: (f.max as f32).to_bits().wrapping_sub(power(emax + 127)),
        }
    }

    /// The grid times `2^e`, where its constants are fp32's.
    pub fn known(&self, e: i32, f: &Format) -> Option<Fast> {
        let field = u32::try_from(e + f.emax() + 127).ok().filter(|field| (self.first..=self.last).contains(field))?;
        let top = field << 23;
        Some(Fast::Power { emin: top.wrapping_add(self.emin), max: top.wrapping_add(self.max) })
    }
}

fn carry(f: &Format, rule: Option<ScaleRule>) -> u32 {
    match rule {
        Some(ScaleRule::Ceil) => 1,
        Some(ScaleRule::Rceil) => ((f.max / pow2(f.emax()) - 1.0) * f64::from(1 << 23)) as u32 + 1,
        Some(ScaleRule::Even) => 0x0080_0000 - (0x0040_0000 >> f.top_mbits().clamp(0, 22)),
        _ => 0x0080_0000,
    }
}
