//! exp in fp32, without branches or tables, so that the compiler turns it into vector code.

/// ln 2 in two parts: multiples of the first up to 2^9 are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Adding it rounds to an integer, which then lies, 127 greater, in the low bits: the exponent field of a power of two.
const ROUND: f32 = 12_582_912.0 + 127.0;

/// Of the bits of such a sum, those that stand for a field of 0 (below the normal numbers).
const UNDERFLOW: i32 = 0x4b40_0000;

/// Minimax coefficients of (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, from the highest: 4e-9 of e^r.
const P: [f32; 5] = [1.381_446_7e-3, 8.368_781e-3, 4.166_839_3e-2, 1.666_652e-1, 4.999_999_4e-1];

/// x <= 0 no lower than -200, where e^x is 0 like that of -infinity, but 0 * x is 0. NaN gives NaN.
#[inline(always)]
pub fn bounded(x: f32) -> f32 {
    if x < -200.0 { -200.0 } else { x }
}

/// e^x for -200 <= x <= 0, to about one unit in the last place; 0 below about -87.6 (no subnormal results). NaN gives
/// NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = k.mul_add(-LN2_LOW, k.mul_add(-LN2_HIGH, x));
    let mut p = P[0];
    for c in &P[1..] {
        p = p.mul_add(r, *c);
    }
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits(((shifted.to_bits() as i32).max(UNDERFLOW) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::{bounded, exp};

    #[test]
    fn it_is_the_library_s() {
        let mut worst = 0.0f64;
        for i in 0..4_000_000 {
            let x = -(i as f32) * (87.0 / 4e6);
            worst = worst.max((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs());
        }
        assert!(worst < 1.2e-7, "{worst:e}");
        let far = [0.0, -88.1, -200.0, -1e30, f32::NEG_INFINITY].map(|x| exp(bounded(x)));
        assert_eq!(far, [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(exp(bounded(f32::NAN)).is_nan());
    }
}
