//! exp in fp32, without branches or tables, so that the compiler turns it into vector code.

/// ln 2 in two parts: multiples of the first up to 2^9 are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Adding it rounds to an integer, which then lies in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Minimax coefficients of (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, from the highest.
const P: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];

/// e^x for x <= 0, to about one unit in the last place; 0 below -87 (no subnormal results). NaN gives NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let inside = x.max(-87.0);
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (inside - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = P[0];
    for c in &P[1..] {
        p = p * r + c;
    }
    let y = (p * (r * r) + r) + 1.0;
    // The exponent field counts from 127; k is in the low bits of `shifted`.
    let y = y * f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn it_is_the_library_s() {
        let mut worst = 0.0f64;
        for i in 0..4_000_000 {
            let x = -(i as f32) * (87.0 / 4e6);
            worst = worst.max((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs());
        }
        assert!(worst < 1.2e-7, "{worst:e}");
        assert_eq!([exp(0.0), exp(-87.1), exp(-1e30), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0, 0.0]);
    }
}
