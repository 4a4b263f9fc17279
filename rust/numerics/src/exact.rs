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

#[cfg(test)]
mod tests {
    use super::*;

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
