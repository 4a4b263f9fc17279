//! Numbers as they lie in memory, two vectors of fp32 at a time: in registers they are widened, narrowed, and compared
//! where they are still narrow.
//!
//! Two bf16 numbers in a lane of 32 bits are two fp32 numbers after a shift of one and a mask of the other, which stay
//! where they are until they are put together again.
#![cfg(target_arch = "x86_64")]
// One contract for every method of the traits, stated there, as in `lanes`.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::lines::{Lines, Writer};
use crate::number::{Bf16, F16};
use std::arch::x86_64::*;

/// # Safety
/// As for [`Lines`].
pub unsafe trait Halves: Lines {
    /// Lanes of 16 bits, unsigned.
    unsafe fn max16(self, o: Self) -> Self;
    unsafe fn from_f16(p: *const u16) -> Self;
    /// To nearest, ties to even; no lane is a NaN.
    unsafe fn to_f16(low: Self, high: Self) -> Self;
    /// The largest lane of each, unsigned.
    unsafe fn largest_of(four: [Self; 4]) -> [u32; 4];
}

/// The largest lanes of four vectors of four.
#[inline(always)]
unsafe fn stored(four: __m128i) -> [u32; 4] {
    let mut lanes = [0; 4];
    _mm_storeu_si128(lanes.as_mut_ptr().cast(), four);
    lanes
}

// SAFETY: the contract is the caller's.
unsafe impl Halves for __m512i {
    #[inline(always)]
    unsafe fn max16(self, o: Self) -> Self {
        _mm512_max_epu16(self, o)
    }

    #[inline(always)]
    unsafe fn from_f16(p: *const u16) -> Self {
        _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }

    #[inline(always)]
    unsafe fn to_f16(low: Self, high: Self) -> Self {
        let narrow = |x| _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_castsi512_ps(x));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(narrow(low)), narrow(high))
    }

    #[inline(always)]
    unsafe fn largest_of([a, b, c, d]: [Self; 4]) -> [u32; 4] {
        // Neighbouring lanes, then pairs of lanes, then parts of the vector.
        let ab = _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_max_epu32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let all = _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let half = _mm256_max_epu32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
        stored(_mm_max_epu32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half)))
    }
}

// SAFETY: the contract is the caller's.
unsafe impl Halves for __m256i {
    #[inline(always)]
    unsafe fn max16(self, o: Self) -> Self {
        _mm256_max_epu16(self, o)
    }

    #[inline(always)]
    unsafe fn from_f16(p: *const u16) -> Self {
        _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())))
    }

    #[inline(always)]
    unsafe fn to_f16(low: Self, high: Self) -> Self {
        let narrow = |x| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_castsi256_ps(x));
        _mm256_set_m128i(narrow(high), narrow(low))
    }

    #[inline(always)]
    unsafe fn largest_of([a, b, c, d]: [Self; 4]) -> [u32; 4] {
        // As above.
        let ab = _mm256_max_epu32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let cd = _mm256_max_epu32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        let all = _mm256_max_epu32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
        stored(_mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all)))
    }
}

/// # Safety
/// As for [`Lines`]; pointers are valid for `2 * LANES` numbers. Those that are narrowed are no NaN.
pub unsafe trait Cells: Sized {
    /// Digits after those of the exponent with which normal fp32 numbers may be narrowed as `exact`.
    const DIGITS: u32;
    unsafe fn pair<V: Halves>(p: *const Self) -> [V; 2];
    /// Write what `pair` gave several times, rounded to nearest unless it is `exact`.
    unsafe fn put<V: Halves, const N: usize>(x: [[V; 2]; N], exact: bool, to: &mut Writer<V>);
    /// The larger of the magnitudes in each lane, of 32 or 16 bits.
    unsafe fn raise<V: Halves>(most: V, p: *const Self) -> V;
    /// The same in lanes of 32 bits; half precision has its bits in the upper half, and anything below.
    unsafe fn lanes<V: Halves>(most: V) -> V;
}

// SAFETY: the contract is the caller's.
unsafe impl Cells for f32 {
    const DIGITS: u32 = 23;

    #[inline(always)]
    unsafe fn pair<V: Halves>(p: *const f32) -> [V; 2] {
        [V::load(p.cast()), V::load(p.add(V::LANES).cast())]
    }

    #[inline(always)]
    unsafe fn put<V: Halves, const N: usize>(x: [[V; 2]; N], _: bool, to: &mut Writer<V>) {
        to.put_all(x);
    }

    #[inline(always)]
    unsafe fn raise<V: Halves>(most: V, p: *const f32) -> V {
        let [a, b] = Self::pair::<V>(p);
        let magnitude = V::splat(0x7fff_ffff);
        most.max(a.and(magnitude)).max(b.and(magnitude))
    }

    #[inline(always)]
    unsafe fn lanes<V: Halves>(most: V) -> V {
        most
    }
}

/// As above, of numbers of 16 bits.
#[inline(always)]
unsafe fn raise16<V: Halves>(most: V, p: *const u32) -> V {
    most.max16(V::load(p).and(V::splat(0x7fff_7fff)))
}

#[inline(always)]
unsafe fn lanes16<V: Halves>(most: V) -> V {
    most.max16(most.shl(V::splat(16)))
}

// SAFETY: the contract is the caller's.
unsafe impl<const WIDE: bool> Cells for Bf16<WIDE> {
    const DIGITS: u32 = 7;

    #[inline(always)]
    unsafe fn pair<V: Halves>(p: *const Self) -> [V; 2] {
        let two = V::load(p.cast());
        [two.shl(V::splat(16)), two.and(V::splat(0xffff_0000))]
    }

    #[inline(always)]
    unsafe fn put<V: Halves, const N: usize>(x: [[V; 2]; N], exact: bool, to: &mut Writer<V>) {
        let (sixteen, one, half) = (V::splat(16), V::splat(1), V::splat(0x7fff));
        let mut narrow = [[one]; N];
        // Loops, here and below: a closure that is not inlined would be compiled without the instruction set.
        for i in 0..N {
            let [mut even, mut odd] = x[i];
            if !exact {
                even = even.add(even.shr(sixteen).and(one)).add(half);
                odd = odd.add(odd.shr(sixteen).and(one)).add(half);
            }
            narrow[i] = [odd.and_or(V::splat(0xffff_0000), even.shr(sixteen))];
        }
        to.put_all(narrow);
    }

    #[inline(always)]
    unsafe fn raise<V: Halves>(most: V, p: *const Self) -> V {
        raise16(most, p.cast())
    }

    #[inline(always)]
    unsafe fn lanes<V: Halves>(most: V) -> V {
        lanes16(most)
    }
}

// SAFETY: the contract is the caller's.
unsafe impl<const WIDE: bool> Cells for F16<WIDE> {
    /// Any: they are rounded in any case.
    const DIGITS: u32 = 23;

    #[inline(always)]
    unsafe fn pair<V: Halves>(p: *const Self) -> [V; 2] {
        [V::from_f16(p.cast()), V::from_f16(p.add(V::LANES).cast())]
    }

    #[inline(always)]
    unsafe fn put<V: Halves, const N: usize>(x: [[V; 2]; N], _: bool, to: &mut Writer<V>) {
        let mut narrow = [[x[0][0]]; N];
        for i in 0..N {
            narrow[i] = [V::to_f16(x[i][0], x[i][1])];
        }
        to.put_all(narrow);
    }

    #[inline(always)]
    unsafe fn raise<V: Halves>(most: V, p: *const Self) -> V {
        raise16(most, p.cast())
    }

    #[inline(always)]
    unsafe fn lanes<V: Halves>(most: V) -> V {
        lanes16(most)
    }
}
