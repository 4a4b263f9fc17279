//! How a dot product is accumulated: which roundings happen, in which order. Operands are fp32 numbers (every element
//! format and its scales lie there), so that every product is exact in fp64: 48 significant bits, exponents in -298..=255.

use crate::format::Format;
use crate::rounding::{Overflow, Rounding};

/// The accumulator of a dot product; products are taken in order of k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulator {
    /// `acc = fma(a, b, acc)` in fp32: one rounding a product.
    Fp32,
    /// The same in fp64.
    Fp64,
    /// `acc = round(a * b + acc)` to bf16: one rounding a product, to nearest even.
    Bf16,
    /// The same in fp16; overflow becomes infinite.
    Fp16,
    /// A fixed-point adder over groups of products, as tensor cores have it; see [`Narrow`].
    Narrow(Narrow),
}

/// Groups of products and the accumulator are aligned to the largest exponent among them, cut off toward zero and added
/// exactly; the sum is cut off to as many fraction bits of its own:
///
/// ```text
/// E  = max over the products that are not zero of floor(log2 |a|) + floor(log2 |b|), and floor(log2 |acc|) if not zero
/// u  = 2^(E - F)
/// s  = sum of trunc(a b / u) + trunc(acc / u)                      exact
/// acc = s u, cut off toward zero to F bits below its leading one
/// ```
///
/// After every `promote_every` products (and at the end) acc is added to an fp32 total, rounded to nearest, and starts
/// again at zero. A group with NaN or infinity in a product adds the products as IEEE does.
///
/// Peichen Xie et al., "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores" (arXiv 2511.10909), find
/// this on hardware: F = 13 for the FP8 instructions of Ada and Hopper (groups of 16 and 32), 25 for Hopper's 16-bit ones
/// (groups of 16). DeepSeek-V3 (arXiv 2412.19437, section 3.3.2) promotes every 128 products. There a subnormal operand
/// counts with its format's smallest exponent; here operands are plain numbers and count with their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// F, 1..=30.
    pub fraction_bits: u32,
    /// Products added at once, 1..=1024.
    pub group: usize,
    /// A multiple of `group`; `None` keeps one accumulator to the end.
    pub promote_every: Option<usize>,
}

impl Narrow {
    pub fn is_valid(&self) -> bool {
        (1..=30).contains(&self.fraction_bits)
            && (1..=1024).contains(&self.group)
            && self.promote_every.is_none_or(|n| n > 0 && n.is_multiple_of(self.group))
    }
}

impl Accumulator {
    /// The dot product of equally long operands: an fp32 number, but for `Fp64`.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f64 {
        let pairs = a.iter().zip(b);
        match self {
            Accumulator::Fp32 => f64::from(pairs.fold(0f32, |acc, (a, b)| a.mul_add(*b, acc))),
            Accumulator::Fp64 => pairs.fold(0f64, |acc, (a, b)| f64::from(*a) * f64::from(*b) + acc),
            Accumulator::Bf16 => half(&Format::get("bf16").expect("a known format"), a, b),
            Accumulator::Fp16 => half(&Format::get("fp16").expect("a known format"), a, b),
            Accumulator::Narrow(narrow) => f64::from(narrow.dot(a, b)),
        }
    }
}

fn half(format: &Format, a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).fold(0.0, |acc, (a, b)| {
        let sum = add_to_odd(f64::from(*a) * f64::from(*b), acc);
        if sum.is_nan() { sum } else { format.round(sum, Rounding::NearestEven, Overflow::Ieee, 0) }
    })
}

/// `x + y` rounded to odd: rounding the result once more, to at most 51 bits, is as good as rounding the exact sum.
pub fn add_to_odd(x: f64, y: f64) -> f64 {
    let sum = x + y;
    // What rounding lost (Knuth's two-sum); NaN where something is infinite.
    let y_part = sum - x;
    let lost = (x - (sum - y_part)) + (y - y_part);
    let inexact = lost.abs() > 0.0;
    if !inexact || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // The exact sum lies between two neighbours; the odd one of them.
    f64::from_bits(if (lost > 0.0) == (sum > 0.0) { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

impl Narrow {
    fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        let span = self.promote_every.unwrap_or(usize::MAX);
        let mut total = 0f32;
        for (a, b) in a.chunks(span).zip(b.chunks(span)) {
            let groups = a.chunks(self.group).zip(b.chunks(self.group));
            total += groups.fold(0.0, |acc, (a, b)| self.add(acc, a, b)) as f32;
        }
        total
    }

    /// One group.
    fn add(&self, acc: f64, a: &[f32], b: &[f32]) -> f64 {
        let products = || a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        let ieee = acc + products().sum::<f64>();
        if !ieee.is_finite() {
            return ieee;
        }
        let operands = a.iter().zip(b).filter(|(a, b)| **a != 0.0 && **b != 0.0);
        let exponents = operands.map(|(a, b)| exponent(f64::from(*a)) + exponent(f64::from(*b)));
        let Some(top) = exponents.chain((acc != 0.0).then(|| exponent(acc))).max() else { return acc };
        let unit = crate::exact::pow2(top - self.fraction_bits as i32);
        let sum: i64 = products().chain([acc]).map(|p| (p / unit) as i64).sum();
        let sum = sum as f64 * unit;
        // fp64 numbers in this range are normal, so their low fraction bits can be cleared.
        f64::from_bits(sum.to_bits() >> (52 - self.fraction_bits) << (52 - self.fraction_bits))
    }
}

fn exponent(x: f64) -> i32 {
    crate::exact::floor_log2(x.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow(fraction_bits: u32, group: usize, promote_every: Option<usize>) -> Accumulator {
        Accumulator::Narrow(Narrow { fraction_bits, group, promote_every })
    }

    #[test]
    fn narrow_cuts_off_what_lies_below_the_unit() {
        // 1 and three quarters of a unit of 2^-3: each is cut off before the sum, so nothing of them is left.
        let quarter = 0.75 * 0.125;
        assert_eq!(narrow(3, 4, None).dot(&[1.0, quarter, quarter, -quarter], &[1.0; 4]), 1.0);
        // In groups of one the accumulator (1) is what cuts them off.
        assert_eq!(narrow(3, 1, None).dot(&[quarter, quarter, 1.0], &[1.0; 3]), 1.125);
        // 1.5 * 1.5 = 2.25 is aligned at the exponents' sum, 2^0, so its unit is 2^-3; the sum then keeps 3 bits: 2.25.
        assert_eq!(narrow(3, 2, None).dot(&[1.5, 0.125], &[1.5, 1.0]), 2.25);
        assert_eq!(narrow(3, 2, None).dot(&[1.5, 0.0], &[1.5, 1.0]), 2.25);
        // Toward zero on both sides.
        assert_eq!(narrow(2, 2, None).dot(&[-1.0, -0.49], &[1.0, 1.0]), -1.25);
    }

    #[test]
    fn promotion_starts_the_accumulator_again() {
        let small = [2f32.powi(-10); 64];
        let mut a = vec![1f32];
        a.extend(small);
        // Next to 1 with 8 fraction bits the small ones vanish; in spans of their own they count.
        assert_eq!(narrow(8, 1, None).dot(&a, &[1.0; 65]), 1.0);
        assert_eq!(narrow(8, 1, Some(1)).dot(&a, &[1.0; 65]), 1.0625);
    }

    #[test]
    fn specials_follow_ieee() {
        let inf = f32::INFINITY;
        for acc in [Accumulator::Fp32, Accumulator::Fp64, Accumulator::Bf16, Accumulator::Fp16, narrow(13, 2, Some(4))]
        {
            assert_eq!(acc.dot(&[1.0, inf, 3.0], &[1.0, 2.0, 3.0]), f64::INFINITY, "{acc:?}");
            assert!(acc.dot(&[1.0, inf, -inf], &[1.0, 2.0, 3.0]).is_nan(), "{acc:?}");
            assert!(acc.dot(&[inf], &[0.0]).is_nan() && acc.dot(&[f32::NAN, 1.0], &[0.0, 1.0]).is_nan());
            assert_eq!(acc.dot(&[], &[]).to_bits(), 0, "{acc:?}");
        }
        assert_eq!(Accumulator::Fp16.dot(&[60000.0, 60000.0], &[1.0, 1.0]), f64::INFINITY);
    }

    #[test]
    fn half_accumulators_round_once() {
        // 1 + 2^-9 + 2^-60 lies just above the tie of bf16 between 1 and 1 + 2^-7... in two steps it would fall on it.
        let tie = 2f32.powi(-8);
        let a = [1.0, tie * (1.0 + 2f32.powi(-23))];
        assert_eq!(Accumulator::Bf16.dot(&a, &[1.0, 1.0]), 1.0 + 2f64.powi(-7));
        assert_eq!(Accumulator::Bf16.dot(&[1.0, tie], &[1.0, 1.0]), 1.0);
        // A product of 48 bits that ends 2^-46 above the tie.
        let (x, y) = (1.0 + 2f32.powi(-23), tie * (1.0 + 2f32.powi(-23)));
        assert_eq!(Accumulator::Bf16.dot(&[1.0, x], &[1.0, y]), 1.0 + 2f64.powi(-7));
    }

    #[test]
    fn odd_sums_round_as_exact_ones() {
        for (x, y) in [(1.0, 2f64.powi(-80)), (1.0, -(2f64.powi(-80))), (-3.0, 2f64.powi(-70)), (1e300, 1.0)] {
            let odd = add_to_odd(x, y);
            assert_eq!(odd.to_bits() & 1, 1);
            assert!((odd > x) == (y > 0.0) && odd != x);
        }
        assert_eq!(add_to_odd(1.5, 2.25), 3.75);
        assert_eq!(add_to_odd(f64::INFINITY, 1.0), f64::INFINITY);
    }
}
