//! bf16 and fp16 as bits: their values, the nearest to a number, and runs of them to fp32 and back.

use crate::simd::dispatch;
use crate::stream;

/// fp64 to fp32 rounded to odd: rounding the result again to a narrower type is as good as rounding once.
pub(crate) fn to_odd(x: f64) -> f32 {
    let y = x as f32;
    if y.is_nan() || f64::from(y) == x {
        return y;
    }
    // Of the two neighbours that enclose x, take the one with an odd last bit.
    let toward_zero = if f64::from(y).abs() > x.abs() { f32::from_bits(y.to_bits() - 1) } else { y };
    f32::from_bits(toward_zero.to_bits() | 1)
}

/// The nearest bf16 number, ties to even.
#[inline(always)]
pub(crate) fn nearest_bf16(x: f64) -> f32 {
    f32::from_bits(u32::from(bf16_bits(to_odd(x))) << 16)
}

/// The nearest fp16 number, ties to even.
#[inline(always)]
pub(crate) fn nearest_f16(x: f64) -> f32 {
    f16_value(f16_bits(to_odd(x)))
}

#[inline(always)]
pub(crate) fn bf16_value(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u16 {
    let b = x.to_bits();
    let rounded = b.wrapping_add(0x7fff + (b >> 16 & 1));
    // NaN: keep it one whatever its payload.
    let bits = if b & 0x7fff_ffff > 0x7f80_0000 { b | 0x0040_0000 } else { rounded };
    (bits >> 16) as u16
}

#[inline(always)]
pub(crate) fn f16_bits(x: f32) -> u16 {
    let b = x.to_bits();
    let (sign, a) = (b & 0x8000_0000, b & 0x7fff_ffff);
    // 2^-14 and above: round 13 bits off and rebias; overflow reaches the code of infinity by itself.
    let normal = (a.wrapping_add(0xfff + (a >> 13 & 1)) >> 13).wrapping_sub(112 << 10).min(0x7c00);
    // Below: adding 2^-1 puts the units of 2^-24 into the last bits.
    let subnormal = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if a < 0x3880_0000 { subnormal } else { normal };
    let bits = if a > 0x7f80_0000 { 0x7e00 } else { finite };
    (bits | sign >> 16) as u16
}

#[inline(always)]
pub(crate) fn f16_value(h: u16) -> f32 {
    let (sign, a) = (u32::from(h & 0x8000) << 16, u32::from(h & 0x7fff));
    // Exponent and fraction moved into place, then rebiased by an exact multiplication: subnormals come out right.
    let finite = (f32::from_bits(a << 13) * f32::from_bits(0x7780_0000)).to_bits();
    let bits = if a >= 0x7c00 { a << 13 | 0x7f80_0000 } else { finite };
    f32::from_bits(bits | sign)
}

#[inline(always)]
fn widen(x: &[u16], out: &mut [f32], value: impl Fn(u16) -> f32) {
    // A line of the cache at a time.
    for (out, x) in out.chunks_mut(32).zip(x.chunks(32)) {
        stream::prefetch(x.as_ptr().wrapping_add(stream::AHEAD));
        for (y, x) in out.iter_mut().zip(x) {
            *y = value(*x);
        }
    }
}

#[inline(always)]
fn widen_bf16_body(x: &[u16], out: &mut [f32]) {
    widen(x, out, bf16_value);
}

#[inline(always)]
fn widen_f16_body(x: &[u16], out: &mut [f32]) {
    widen(x, out, f16_value);
}

#[inline(always)]
fn narrow_bf16_body(x: &[f32], out: &mut [u16]) {
    for (y, x) in out.iter_mut().zip(x) {
        *y = bf16_bits(*x);
    }
}

#[inline(always)]
fn narrow_f16_body(x: &[f32], out: &mut [u16]) {
    for (y, x) in out.iter_mut().zip(x) {
        *y = f16_bits(*x);
    }
}

dispatch! { pub(crate) fn widen_bf16(x: &[u16], out: &mut [f32]) = widen_bf16_body; }
dispatch! { pub(crate) fn widen_f16(x: &[u16], out: &mut [f32]) = widen_f16_body; }
dispatch! { pub(crate) fn narrow_bf16(x: &[f32], out: &mut [u16]) = narrow_bf16_body; }
dispatch! { pub(crate) fn narrow_f16(x: &[f32], out: &mut [u16]) = narrow_f16_body; }

#[cfg(test)]
mod tests {
    use super::*;
    use dither_numerics::{Format, Overflow, Rounding};

    #[test]
    fn half_precision_widens_exactly() {
        let (f16, bf16) = (Format::get("fp16").unwrap(), Format::get("bf16").unwrap());
        for code in 0..=u16::MAX {
            let (h, b) = (f16_value(code), f32::from_bits(u32::from(code) << 16));
            for (got, want) in [(h, f16.decode(code.into())), (b, bf16.decode(code.into()))] {
                assert!(f64::from(got).to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{code:#x}");
            }
        }
    }

    #[test]
    fn half_precision_narrows_to_nearest_even() {
        let (f16, bf16) = (Format::get("fp16").unwrap(), Format::get("bf16").unwrap());
        let near = |f: &Format, x: f64| f.encode(f.round(x, Rounding::NearestEven, Overflow::Ieee, 0)).unwrap();
        for high in 0..=u16::MAX {
            for low in [0u32, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                if x.is_nan() {
                    assert!(f16_value(f16_bits(x)).is_nan() && bf16_bits(x) & 0x7fff > 0x7f80);
                    continue;
                }
                assert_eq!(u32::from(f16_bits(x)), near(&f16, f64::from(x)), "{x:e}");
                assert_eq!(u32::from(bf16_bits(x)), near(&bf16, f64::from(x)), "{x:e}");
            }
        }
    }

    #[test]
    fn fp64_narrows_once() {
        let bf16 = Format::get("bf16").unwrap();
        // Just above a tie of bf16: rounding through fp32 would fall back on the tie.
        for x in [1.00390625 + 1e-12, 1.00390625 - 1e-12, 3.0e-45, 1e-46, -1.01171875 - 1e-13, 1e300, 0.1] {
            let want = bf16.encode(bf16.round(x, Rounding::NearestEven, Overflow::Ieee, 0)).unwrap();
            assert_eq!(u32::from(bf16_bits(to_odd(x))), want, "{x:e}");
        }
    }
}
