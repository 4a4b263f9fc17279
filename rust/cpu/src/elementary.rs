//! exp and ln over eight numbers at once, without branches or tables, so that the compiler turns them into vector code.
//!
//! Both are accurate to a few units in the last place (tested against the standard library), and the same bits on
//! every processor: only additions, (fused) multiplications, divisions and integer operations.

/// Numbers handled together.
pub const LANES: usize = 8;

pub type Lanes = [f64; LANES];

#[inline(always)]
pub fn map(x: Lanes, f: impl Fn(f64) -> f64) -> Lanes {
    let mut y = x;
    for v in &mut y {
        *v = f(*v);
    }
    y
}

/// 1/n! from n = 13 down: beyond that a term is below 2^-53 for |r| <= ln(2)/2.
const EXP: [f64; 14] = [
    1.0 / 6227020800.0,
    1.0 / 479001600.0,
    1.0 / 39916800.0,
    1.0 / 3628800.0,
    1.0 / 362880.0,
    1.0 / 40320.0,
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// ln 2 in two parts: multiples of the first up to 2^11 are exact.
const LN2_HIGH: f64 = 6.931471803691238e-1;
const LN2_LOW: f64 = 1.9082149292705877e-10;

/// Adding it rounds to an integer, which then lies in the low bits.
const ROUND: f64 = 6755399441055744.0;

/// e^x; 0 below -708 (no subnormal results) and infinity above 709. NaN gives NaN.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let inside = x.clamp(-708.0, 709.0);
    let shifted = inside.mul_add(std::f64::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = k.mul_add(-LN2_LOW, k.mul_add(-LN2_HIGH, inside));
    // Even and odd powers apart: two chains that do not wait for each other.
    let s = r * r;
    let (mut odd, mut even) = (EXP[0], EXP[1]);
    for c in EXP[2..].chunks_exact(2) {
        odd = odd.mul_add(s, c[0]);
        even = even.mul_add(s, c[1]);
    }
    let p = odd.mul_add(r, even);
    // The exponent field counts from 1023; k is in the low bits of `shifted`.
    let scale = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    let y = p * scale;
    let y = if x < -708.0 { 0.0 } else { y };
    if x > 709.0 { f64::INFINITY } else { y }
}

/// 1/(2n+1) from n = 11 down: the series of atanh.
const LN: [f64; 12] = [
    1.0 / 23.0,
    1.0 / 21.0,
    1.0 / 19.0,
    1.0 / 17.0,
    1.0 / 15.0,
    1.0 / 13.0,
    1.0 / 11.0,
    1.0 / 9.0,
    1.0 / 7.0,
    1.0 / 5.0,
    1.0 / 3.0,
    1.0,
];

/// ln x for normal positive x (what a log-sum-exp needs); meaningless for others.
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    const HALF_ROOT: u64 = 0x3fe6_a09e_667f_3bcd; // sqrt(1/2)
    // x = 2^k m with m in [sqrt(1/2), sqrt(2)); k + 1024 is positive and becomes a float by way of `ROUND`'s low bits.
    let bits = x.to_bits().wrapping_sub(HALF_ROOT).wrapping_add(1024 << 52);
    let k = f64::from_bits(ROUND.to_bits() + (bits >> 52)) - (ROUND + 1024.0);
    let m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff).wrapping_add(HALF_ROOT));
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let u = t * t;
    let (mut odd, mut even) = (LN[0], LN[1]);
    for c in LN[2..].chunks_exact(2) {
        odd = odd.mul_add(u, c[0]);
        even = even.mul_add(u, c[1]);
    }
    let p = odd.mul_add(t, even);
    k.mul_add(LN2_HIGH, (2.0 * s).mul_add(p, k * LN2_LOW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_library_s() {
        let mut worst = 0.0f64;
        for i in 0..2_000_000 {
            let x = -707.9 + 1416.0 * (i as f64 + 0.37) / 2e6;
            worst = worst.max((exp(x) / x.exp() - 1.0).abs());
        }
        for i in 0..200_000 {
            let x = (i as f64 - 1e5) * 1e-5;
            worst = worst.max((exp(x) / x.exp() - 1.0).abs());
        }
        assert!(worst < 5e-16, "{worst:e}");
        assert_eq!([exp(0.0), exp(-709.0), exp(-1e300), exp(710.0)], [1.0, 0.0, 0.0, f64::INFINITY]);
        assert!(exp(f64::NAN).is_nan());
    }

    #[test]
    fn ln_is_the_library_s() {
        let mut worst = 0.0f64;
        for i in 1..2_000_000u64 {
            let x = f64::from_bits(0x0010_0000_0000_0000 + i * 4_600_000_000_000);
            worst = worst.max((ln(x) - x.ln()).abs() / x.ln().abs().max(1e-3));
        }
        for i in 0..200_000 {
            let x = 0.5 + i as f64 * 1e-5;
            worst = worst.max((ln(x) - x.ln()).abs() / x.ln().abs().max(1e-3));
        }
        assert!(worst < 2e-15, "{worst:e}");
        assert_eq!(ln(1.0), 0.0);
    }
}
