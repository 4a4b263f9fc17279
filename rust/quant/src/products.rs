//! The vector instructions of Philox (`philox`).
#![cfg(target_arch = "x86_64")]
// One contract for every method of the trait, stated there, as in `lanes`.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::lines::Lines;
use std::arch::{asm, x86_64::*};

/// Registers seen as 64-bit lanes, each with a counter's word (or its product) in the low half.
///
/// # Safety
/// As for [`Lines`].
pub unsafe trait Products: Lines {
    /// `first + step * lane`.
    unsafe fn series(first: u64, step: u64) -> Self;
    unsafe fn add_wide(self, o: Self) -> Self;
    /// The low halves multiplied.
    unsafe fn product(self, o: Self) -> Self;
    /// The high halves in the low ones.
    unsafe fn high(self) -> Self;
    /// `self ^ a ^ b`.
    unsafe fn xor3(self, a: Self, b: Self) -> Self;
    /// The high (low) halves of even and odd counters, in the counters' order.
    unsafe fn highs(even: Self, odd: Self) -> Self;
    unsafe fn lows(even: Self, odd: Self) -> Self;
    /// The same, worked out before whatever is stored later: compilers move such work to where its result is used.
    unsafe fn now(self) -> Self;
    /// Shifted to the left by `by`, or by `-by` to the right; what bits come in is not said.
    unsafe fn turn(self, by: i32) -> Self;
}

// SAFETY: the contract is the caller's.
unsafe impl Products for __m512i {
    #[inline(always)]
    unsafe fn series(first: u64, step: u64) -> Self {
        let at: [u64; 8] = std::array::from_fn(|i| first.wrapping_add(step.wrapping_mul(i as u64)));
        _mm512_loadu_si512(at.as_ptr().cast())
    }

    #[inline(always)]
    unsafe fn add_wide(self, o: Self) -> Self {
        _mm512_add_epi64(self, o)
    }

    #[inline(always)]
    unsafe fn product(self, o: Self) -> Self {
        _mm512_mul_epu32(self, o)
    }

    #[inline(always)]
    unsafe fn high(self) -> Self {
        _mm512_shuffle_epi32::<0xf5>(self)
    }

    #[inline(always)]
    unsafe fn xor3(self, a: Self, b: Self) -> Self {
        _mm512_ternarylogic_epi32::<0x96>(self, a, b)
    }

    #[inline(always)]
    unsafe fn highs(even: Self, odd: Self) -> Self {
        _mm512_mask_shuffle_epi32::<0xf5>(odd, 0x5555, even)
    }

    #[inline(always)]
    unsafe fn lows(even: Self, odd: Self) -> Self {
        _mm512_mask_shuffle_epi32::<0xa0>(even, 0xaaaa, odd)
    }

    #[inline(always)]
    unsafe fn now(self) -> Self {
        asm!("/* {0} */", in(xmm_reg) _mm512_castsi512_si128(self), options(nomem, nostack, preserves_flags));
        self
    }

    #[inline(always)]
    unsafe fn turn(self, by: i32) -> Self {
        _mm512_rolv_epi32(self, _mm512_set1_epi32(by))
    }
}

// SAFETY: the contract is the caller's.
unsafe impl Products for __m256i {
    #[inline(always)]
    unsafe fn series(first: u64, step: u64) -> Self {
        let at: [u64; 4] = std::array::from_fn(|i| first.wrapping_add(step.wrapping_mul(i as u64)));
        _mm256_loadu_si256(at.as_ptr().cast())
    }

    #[inline(always)]
    unsafe fn add_wide(self, o: Self) -> Self {
        _mm256_add_epi64(self, o)
    }

    #[inline(always)]
    unsafe fn product(self, o: Self) -> Self {
        _mm256_mul_epu32(self, o)
    }

    #[inline(always)]
    unsafe fn high(self) -> Self {
        _mm256_shuffle_epi32::<0xf5>(self)
    }

    #[inline(always)]
    unsafe fn xor3(self, a: Self, b: Self) -> Self {
        _mm256_xor_si256(self, _mm256_xor_si256(a, b))
    }

    #[inline(always)]
    unsafe fn highs(even: Self, odd: Self) -> Self {
        _mm256_blend_epi32::<0x55>(odd, even.high())
    }

    #[inline(always)]
    unsafe fn lows(even: Self, odd: Self) -> Self {
        _mm256_blend_epi32::<0xaa>(even, _mm256_shuffle_epi32::<0xa0>(odd))
    }

    #[inline(always)]
    unsafe fn now(self) -> Self {
        asm!("/* {0} */", in(xmm_reg) _mm256_castsi256_si128(self), options(nomem, nostack, preserves_flags));
        self
    }

    #[inline(always)]
    unsafe fn turn(self, by: i32) -> Self {
        match by >= 0 {
            true => _mm256_sllv_epi32(self, _mm256_set1_epi32(by)),
            false => _mm256_srlv_epi32(self, _mm256_set1_epi32(-by)),
        }
    }
}
