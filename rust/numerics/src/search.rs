//! Scales found by trying: the `mse` rule, and the choice of four-over-six.
//!
//! Every candidate quantizes the block's finite elements with the quantizer's rounding (to nearest even where that is
//! stochastic: a scale does not depend on random bits). The distances are summed in fp64 in eight lanes, element `i` in lane
//! `i` modulo 8, and the lanes by halves: `l + (l + 4)`, then 2, then 1 apart.
//! A candidate replaces the best one so far only where its sum is strictly smaller, in this order:
//!
//! * powers of two: the exponent of the floor rule, then that plus 1, minus 1, minus 2;
//! * other scales: `k / 64` of the absmax rule's, rounded to the scale's format, for k = 64, then 63 down to 16, then 65
//!   up to 96;
//! * four-over-six: the scale that maps the absmax to 6, then 3/2 of it.

use crate::dialect::Distance;
use crate::exact::Real;
use crate::quantizer::Quantizer;
use crate::rounding::Rounding;
use crate::scale::{Scale, ScaleFormat, ScaleRule, Scaling, TensorScale, apply, fp32_scale, power_of_two, round_scale};
use crate::scale::{block_scale, wanted};

/// Lanes in which distances are summed.
pub const LANES: usize = 8;

/// What is added to the exponent of a power of two.
pub const POWERS: [i32; 4] = [0, 1, -1, -2];

/// 64ths of the absmax rule's scale.
pub const FACTORS: [u32; 81] = factors();

const fn factors() -> [u32; 81] {
    let mut all = [64; 81];
    let mut k = 1;
    while k < 81 {
        all[k as usize] = if k <= 48 { 64 - k } else { 16 + k };
        k += 1;
    }
    all
}

impl Quantizer {
    /// The best candidate for a block whose finite elements have this absmax > 0.
    pub(crate) fn search<T: Real>(
        &self,
        block: &[T],
        absmax: T,
        scaling: &Scaling,
        tensor: Option<&TensorScale>,
    ) -> Scale {
        let distance = scaling.options.four_over_six.unwrap_or(Distance::Mse);
        let mut best = (f64::INFINITY, block_scale(absmax, &self.format, scaling, tensor));
        for candidate in self.candidates(absmax, scaling, tensor) {
            let sum = self.distance(block, candidate, distance);
            if sum < best.0 {
                best = (sum, candidate);
            }
        }
        best.1
    }

    fn candidates<T: Real>(&self, absmax: T, scaling: &Scaling, tensor: Option<&TensorScale>) -> Vec<Scale> {
        let format = &self.format;
        let factors: Vec<f32> = match scaling.options.four_over_six {
            Some(_) => [1.0, 1.5].map(|f| f * scaling.options.guard).to_vec(),
            None => FACTORS.iter().map(|k| *k as f32 / 64.0).collect(),
        };
        let mut scales: Vec<Scale> = match &scaling.format {
            ScaleFormat::E8m0 => {
                let floor = power_of_two(absmax.to_f64(), format, ScaleRule::Floor);
                POWERS.iter().map(|d| scaling.power((floor + d).clamp(-127, 127))).collect()
            }
            ScaleFormat::Fp32 => {
                let s = fp32_scale(absmax, format.max, ScaleRule::Absmax);
                factors.iter().map(|f| apply((s * f).min(f32::MAX), None)).collect()
            }
            ScaleFormat::Float(stored) => {
                let scale = |f: &f32| round_scale(wanted(absmax, format, *f, tensor), stored, scaling.rule);
                factors.iter().map(|f| apply(scale(f), tensor)).collect()
            }
        };
        scales.dedup();
        scales
    }

    fn distance<T: Real>(&self, block: &[T], scale: Scale, distance: Distance) -> f64 {
        let rounding = match self.rounding {
            r if r.random_bits() > 0 => Rounding::NearestEven,
            r => r,
        };
        let error = |x: &T| {
            let y: T = self.value(self.element_by(*x, scale, rounding, 0), scale);
            (y.to_f64() - x.to_f64()).abs()
        };
        let mut lanes = [0f64; LANES];
        for (i, x) in block.iter().enumerate().filter(|(_, x)| x.to_f64().is_finite()) {
            let e = error(x);
            lanes[i % LANES] += if distance == Distance::Mse { e * e } else { e };
        }
        let half = |i: usize| lanes[i] + lanes[i + 4];
        (half(0) + half(2)) + (half(1) + half(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::rounding::Overflow;
    use crate::scale::Block;

    fn quantizer(format: &str, scaling: Scaling) -> Quantizer {
        Quantizer {
            format: Format::get(format).unwrap(),
            scaling: Some(scaling),
            rounding: Rounding::NearestEven,
            overflow: Overflow::Saturate,
        }
    }

    #[test]
    fn a_candidate_has_to_be_better_than_those_before_it() {
        let q = quantizer("e2m1", Scaling::new(Block::Row, ScaleFormat::E8m0, ScaleRule::Mse));
        // Exact under the floor exponent and others: the floor rule's stays.
        assert_eq!(q.block_scale(&[4.0f32, 2.0, -1.0], None), Scale::Power(0));
        // 7.9 clips to 6 under the floor exponent; 8 under the next one errs less.
        assert_eq!(q.block_scale(&[7.9f32, 0.0], None), Scale::Power(1));
        // Beside many small numbers the outlier is given up.
        let mut many = [0.3f32; 64];
        many[0] = 4.5;
        assert_eq!(q.block_scale(&many, None), Scale::Power(-1));
    }

    #[test]
    fn four_over_six_takes_six_where_both_err_alike() {
        let mut scaling = Scaling::new(Block::Row, ScaleFormat::Float(Format::get("e4m3").unwrap()), ScaleRule::Absmax);
        scaling.options.four_over_six = Some(Distance::Mse);
        let q = quantizer("e2m1", scaling);
        assert_eq!(q.block_scale(&[6.0f32, 3.0], None), Scale::Divide(1.0));
        assert_eq!(q.block_scale(&[6.0f32, 4.5, 4.5], None), Scale::Divide(1.5)); // 4.5 is 3 times 1.5
        assert_eq!(q.block_scale(&[0.0f32, -0.0], None), Scale::Zero);
    }
}
