//! Lines of bf16 and fp16 to fp32 and back by the processor's own conversions, and by integers; the compiler leaves the
//! latter scalar in some loops.
#![cfg(target_arch = "x86_64")]

use crate::number::LINE;
use std::arch::x86_64::*;

/// A function on a line from one on the whole of it, and one on half of it.
macro_rules! line {
    ($name:ident: $from:ty => $to:ty = $whole:ident, $half:ident) => {
        #[inline(always)]
        pub fn $name<const WIDE: bool>(x: &[$from; LINE]) -> [$to; LINE] {
            let mut y: [$to; LINE] = [Default::default(); LINE];
            // SAFETY: `Kind::between` asked for the level.
            unsafe {
                if WIDE {
                    $whole(x.as_ptr(), y.as_mut_ptr());
                } else {
                    $half(x.as_ptr(), y.as_mut_ptr());
                    $half(x.as_ptr().add(LINE / 2), y.as_mut_ptr().add(LINE / 2));
                }
            }
            y
        }
    };
}

line! { widen_f16: u16 => f32 = line_from_f16, eight_from_f16 }
line! { narrow_f16: f32 => u16 = line_to_f16, eight_to_f16 }
line! { widen_bf16: u16 => f32 = line_from_bf16, eight_from_bf16 }
line! { narrow_bf16: f32 => u16 = line_to_bf16, eight_to_bf16 }

/// # Safety
/// A line at both, here and below.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn line_from_f16(x: *const u16, y: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe { _mm512_storeu_ps(y, _mm512_cvtph_ps(_mm256_loadu_si256(x.cast()))) }
}

/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn line_to_f16(x: *const f32, y: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let x = _mm512_loadu_ps(x);
        // The conversion would keep part of a NaN's payload.
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0));
        let x = _mm512_mask_or_ps(x, is_nan, sign, _mm512_set1_ps(f32::NAN));
        _mm256_storeu_si256(y.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
    }
}

/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn line_from_bf16(x: *const u16, y: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(x.cast())));
        _mm512_storeu_si512(y.cast(), wide);
    }
}

/// `dtype::bf16_bits` of a line.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn line_to_bf16(x: *const f32, y: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let x = _mm512_loadu_ps(x);
        let b = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(b), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), odd);
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let bits = _mm512_mask_or_epi32(rounded, is_nan, b, _mm512_set1_epi32(0x0040_0000));
        _mm256_storeu_si256(y.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits)));
    }
}

/// # Safety
/// Half a line at both, here and below.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn eight_from_f16(x: *const u16, y: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe { _mm256_storeu_ps(y, _mm256_cvtph_ps(_mm_loadu_si128(x.cast()))) }
}

/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn eight_to_f16(x: *const f32, y: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let x = _mm256_loadu_ps(x);
        // The conversion would keep part of a NaN's payload.
        let nan = _mm256_or_ps(_mm256_and_ps(x, _mm256_set1_ps(-0.0)), _mm256_set1_ps(f32::NAN));
        let x = _mm256_blendv_ps(x, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        _mm_storeu_si128(y.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
    }
}

/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn eight_from_bf16(x: *const u16, y: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        let wide = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast())));
        _mm256_storeu_si256(y.cast(), wide);
    }
}

/// `dtype::bf16_bits`, eight at once.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn eight_to_bf16(x: *const f32, y: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let x = _mm256_loadu_ps(x);
        let b = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(b), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(_mm256_add_epi32(b, _mm256_set1_epi32(0x7fff)), odd);
        let nan = _mm256_or_si256(b, _mm256_set1_epi32(0x0040_0000));
        let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, nan, is_nan));
        let narrow = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256::<1>(upper));
        _mm_storeu_si128(y.cast(), narrow);
    }
}
