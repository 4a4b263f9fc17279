//! Exact helpers on binary floating point: exponents from bits, never from `log2`.

/// The two types in which results are formed: fp32 for fp32/bf16/fp16 input, fp64 for fp64 input.
pub trait Real: Copy + PartialOrd + Send + Sync + 'static {
    /// Exact widening.
    fn to_f64(self) -> f64;
    /// Round to nearest even.
    fn from_f64(x: f64) -> Self;
    /// One correctly rounded division.
    fn div(self, other: Self) -> Self;
    /// One correctly rounded multiplication.
    fn mul(self, other: Self) -> Self;
}

impl Real for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    fn div(self, other: Self) -> Self {
        self / other
    }
    fn mul(self, other: Self) -> Self {
        self * other
    }
}

impl Real for f64 {
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(x: f64) -> Self {
        x
    }
    fn div(self, other: Self) -> Self {
        self / other
    }
    fn mul(self, other: Self) -> Self {
        self * other
    }
}

/// A finite positive `x` as `significand * 2^exponent` with an integer significand below 2^53.
pub(crate) fn decompose(x: f64) -> (u64, i32) {
    let bits = x.to_bits() & 0x7fff_ffff_ffff_ffff;
    let field = (bits >> 52) as i32;
    let fraction = bits & 0x000f_ffff_ffff_ffff;
    if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) }
}

/// `floor(log2 x)` of a finite positive `x`, exact, subnormals included.
pub fn floor_log2(x: f64) -> i32 {
    let (significand, exponent) = decompose(x);
    debug_assert!(significand != 0);
    63 - significand.leading_zeros() as i32 + exponent
}

/// `2^e` exactly, for -1074 <= e <= 1023.
pub fn pow2(e: i32) -> f64 {
    debug_assert!((-1074..=1023).contains(&e));
    if e >= -1022 { f64::from_bits(((e + 1023) as u64) << 52) } else { f64::from_bits(1 << (e + 1074)) }
}

/// `x * 2^n`, rounded once to nearest even.
pub(crate) fn ldexp(x: f64, n: i32) -> f64 {
    let (mut x, mut n) = (x, n.clamp(-4096, 4096));
    while n > 1023 {
        x *= pow2(1023);
        n -= 1023;
    }
    // 53 bits are kept above the subnormal numbers, so that only the last product rounds.
    while n < -969 {
        x *= pow2(-969);
        n += 969;
    }
    x * pow2(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_with_a_power_of_two_rounds_once() {
        for (x, n, want) in [
            (3.0, -1075, pow2(-1073)),
            (5.0, -1075, pow2(-1073)),
            (1.0, -1075, 0.0),
            (1.0 + pow2(-52), -1075, pow2(-1074)),
            (1.0, 1023, pow2(1023)),
            (1.0, 1024, f64::INFINITY),
            (pow2(-1074), 2097, pow2(1023)),
            (-1.0, 40_000, f64::NEG_INFINITY),
            (1.0, -40_000, 0.0),
        ] {
            assert_eq!(ldexp(x, n), want, "{x:e} {n}");
        }
    }

    #[test]
    fn powers_and_logarithms_agree() {
        for e in -1074..=1023 {
            assert_eq!(floor_log2(pow2(e)), e);
            if e > -1022 {
                assert_eq!(floor_log2(pow2(e).next_down()), e - 1);
            }
        }
        assert_eq!(pow2(-1074), f64::from_bits(1));
        assert_eq!(pow2(10), 1024.0);
    }
}
