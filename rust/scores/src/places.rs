//! Where numbers lie in their range, as integers: places are in order where numbers are.

use dither_cpu::dispatch;

/// The greatest place, of 31 bits: what processors convert numbers to at once is signed.
const LAST: f64 = i32::MAX as f64;

/// Numbers that can be sorted.
pub trait Number: Copy + PartialOrd + Into<f64> {
    /// An integer of the same order, but for numbers too near to tell apart.
    fn key(self) -> u32;
    /// What the array spans.
    fn span(x: &[Self]) -> Span;
}

/// The least and the greatest of some numbers, and whether any is NaN.
pub struct Span {
    low: f64,
    high: f64,
    nan: bool,
}

macro_rules! span {
    ($kind:ty) => {
        #[inline(always)]
        fn span(x: &[$kind]) -> Span {
            const LANES: usize = 16;
            let (mut low, mut high) = ([<$kind>::INFINITY; LANES], [<$kind>::NEG_INFINITY; LANES]);
            let mut nan = [false; LANES];
            for chunk in x.chunks(LANES) {
                // The first one stands for the lanes that are left.
                let mut last = [chunk[0]; LANES];
                let all: &[$kind; LANES] = match chunk.try_into() {
                    Ok(all) => all,
                    Err(_) => {
                        last[..chunk.len()].copy_from_slice(chunk);
                        &last
                    }
                };
                for i in 0..LANES {
                    low[i] = if all[i] < low[i] { all[i] } else { low[i] };
                    high[i] = if all[i] > high[i] { all[i] } else { high[i] };
                    nan[i] |= all[i].is_nan();
                }
            }
            Span {
                low: low.iter().fold(<$kind>::INFINITY, |a, b| a.min(*b)).into(),
                high: high.iter().fold(<$kind>::NEG_INFINITY, |a, b| a.max(*b)).into(),
                nan: nan.contains(&true),
            }
        }
    };
}

impl Number for f32 {
    span!(f32);
    #[inline(always)]
    fn key(self) -> u32 {
        let bits = (self + 0.0).to_bits();
        bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
    }
}

impl Number for f64 {
    span!(f64);
    #[inline(always)]
    fn key(self) -> u32 {
        let bits = (self + 0.0).to_bits();
        ((bits ^ if bits >> 63 == 1 { u64::MAX } else { 1 << 63 }) >> 32) as u32
    }
}

/// What came of looking for places.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Places,
    /// The range is not finite, or nothing: there are no places.
    NoRange,
    Nan,
}

#[inline(always)]
fn places_body<T: Number>(x: &[T], out: &mut [u32]) -> Found {
    let Span { low, high, nan } = T::span(x);
    let scale = LAST / (high - low);
    if nan {
        return Found::Nan;
    }
    if !(scale > 0.0 && scale.is_finite() && low.is_finite()) {
        return Found::NoRange;
    }
    for (place, x) in out.iter_mut().zip(x) {
        let x: f64 = (*x).into();
        // SAFETY: the product lies between 0 and LAST, give or take a rounding, far less than one.
        *place = (unsafe { ((x - low) * scale).to_int_unchecked::<i32>() } as u32) << 1;
    }
    Found::Places
}

dispatch! {
    /// The places of numbers in their range, as parts of 2^32 (even: 31 bits).
    pub fn places[T: Number](x: &[T], out: &mut [u32]) -> Found = places_body;
}
