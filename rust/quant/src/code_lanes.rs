//! Codes between memory and lanes, four vectors at a time where that takes fewer instructions.
#![cfg(target_arch = "x86_64")]
// One contract for every method, stated at the trait, as in `lanes`.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::lanes::Lanes;
use crate::stream;
use std::arch::x86_64::*;

/// # Safety
/// Every method: as for [`Lanes`]; pointers are valid for what is read or written, at any alignment.
pub unsafe trait CodeLanes: Lanes {
    /// Lanes from numbers of 8 or 16 bits, or of 4, two a byte, above which other bits remain.
    unsafe fn load_bytes(p: *const u8) -> Self;
    unsafe fn load_halves(p: *const u8) -> Self;
    unsafe fn load_nibbles(p: *const u8) -> Self;
    /// Such numbers from lanes that have nothing above their bits.
    unsafe fn store_bytes(four: [Self; 4], p: *mut u8);
    unsafe fn store_halves(four: [Self; 4], p: *mut u8);
    unsafe fn store_nibbles(four: [Self; 4], p: *mut u8);
    /// Two vectors past the caches, to a multiple of 16 bytes, where `stream::can_pass`.
    unsafe fn store_past(two: [Self; 2], p: *mut u32);
    /// The largest lane of each, unsigned.
    unsafe fn store_largest(four: [Self; 4], p: *mut u32);

    /// Words of 16 bits, twice as many as lanes, from bytes or as they are.
    unsafe fn load_words_of_bytes(p: *const u8) -> Self;
    unsafe fn load_words(p: *const u8) -> Self;
    unsafe fn shl_words(self, by: u32) -> Self;
    /// `self` in the words where `a > b` (both below 2^15), else `other`.
    unsafe fn where_words_greater_or(self, a: Self, b: Self, other: Self) -> Self;
    /// Words that are fp16 numbers as fp32, in their order.
    unsafe fn widen_words(self) -> [Self; 2];
}

/// Which of some blocks of the same length a vector lies in, without a division.
#[derive(Clone, Copy)]
pub struct BlockOf {
    /// 2^32 over the vectors of a block, rounded up; for a single block 0.
    inverse: u64,
}

impl BlockOf {
    pub fn new(vectors: usize, blocks: usize) -> BlockOf {
        // Rounding up adds less than a block to the product, times the index: less than 2^32.
        assert!(blocks == 1 || vectors <= 1 << 16, "the index of a block must be exact");
        BlockOf { inverse: if blocks == 1 { 0 } else { (1u64 << 32).div_ceil((vectors / blocks) as u64) } }
    }

    #[inline(always)]
    pub fn vector(self, i: usize) -> usize {
        ((i as u64 * self.inverse) >> 32) as usize
    }
}

/// Lanes of four vectors as bytes, in their order. Packing works within 128 bits, so that the fours of a vector come to
/// lie apart.
#[inline(always)]
unsafe fn bytes_512([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let packed = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
    _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), packed)
}

#[inline(always)]
unsafe fn bytes_256([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// A pair of bytes times these: the second is moved into the high half of the first.
const NIBBLES: i16 = 0x1001;

// SAFETY: the contract is the caller's.
unsafe impl CodeLanes for __m512i {
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self {
        _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> Self {
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> Self {
        let halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        let eights = _mm512_permutexvar_epi32(halves, _mm512_castsi128_si512(_mm_loadl_epi64(p.cast())));
        _mm512_srlv_epi32(eights, _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28))
    }

    #[inline(always)]
    unsafe fn store_bytes(four: [Self; 4], p: *mut u8) {
        _mm512_storeu_si512(p.cast(), bytes_512(four));
    }

    #[inline(always)]
    unsafe fn store_halves([a, b, c, d]: [Self; 4], p: *mut u8) {
        _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(a));
        _mm256_storeu_si256(p.add(32).cast(), _mm512_cvtepi32_epi16(b));
        _mm256_storeu_si256(p.add(64).cast(), _mm512_cvtepi32_epi16(c));
        _mm256_storeu_si256(p.add(96).cast(), _mm512_cvtepi32_epi16(d));
    }

    #[inline(always)]
    unsafe fn store_nibbles(four: [Self; 4], p: *mut u8) {
        let words = _mm512_maddubs_epi16(bytes_512(four), _mm512_set1_epi16(NIBBLES));
        _mm256_storeu_si256(p.cast(), _mm512_cvtepi16_epi8(words));
    }

    #[inline(always)]
    unsafe fn store_past(two: [Self; 2], p: *mut u32) {
        for (i, x) in two.into_iter().enumerate() {
            let x = _mm512_castsi512_ps(x);
            let parts = [
                _mm512_castps512_ps128(x),
                _mm512_extractf32x4_ps::<1>(x),
                _mm512_extractf32x4_ps::<2>(x),
                _mm512_extractf32x4_ps::<3>(x),
            ];
            stream::parts(p.add(16 * i).cast(), parts);
        }
    }

    #[inline(always)]
    unsafe fn store_largest([a, b, c, d]: [Self; 4], p: *mut u32) {
        let ab = _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_max_epu32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let all = _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let half = _mm256_max_epu32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
        let most = _mm_max_epu32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
        _mm_storeu_si128(p.cast(), most);
    }

    #[inline(always)]
    unsafe fn load_words_of_bytes(p: *const u8) -> Self {
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_words(p: *const u8) -> Self {
        _mm512_loadu_si512(p.cast())
    }

    #[inline(always)]
    unsafe fn shl_words(self, by: u32) -> Self {
        _mm512_sll_epi16(self, _mm_cvtsi32_si128(by as i32))
    }

    #[inline(always)]
    unsafe fn where_words_greater_or(self, a: Self, b: Self, other: Self) -> Self {
        _mm512_mask_mov_epi16(other, _mm512_cmpgt_epi16_mask(a, b), self)
    }

    #[inline(always)]
    unsafe fn widen_words(self) -> [Self; 2] {
        let (low, high) = (_mm512_castsi512_si256(self), _mm512_extracti64x4_epi64::<1>(self));
        [_mm512_castps_si512(_mm512_cvtph_ps(low)), _mm512_castps_si512(_mm512_cvtph_ps(high))]
    }
}

// SAFETY: the contract is the caller's.
unsafe impl CodeLanes for __m256i {
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self {
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_halves(p: *const u8) -> Self {
        _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> Self {
        let eight = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
        _mm256_srlv_epi32(eight, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28))
    }

    #[inline(always)]
    unsafe fn store_bytes(four: [Self; 4], p: *mut u8) {
        _mm256_storeu_si256(p.cast(), bytes_256(four));
    }

    #[inline(always)]
    unsafe fn store_halves([a, b, c, d]: [Self; 4], p: *mut u8) {
        let halves = |a, b| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b));
        _mm256_storeu_si256(p.cast(), halves(a, b));
        _mm256_storeu_si256(p.add(32).cast(), halves(c, d));
    }

    #[inline(always)]
    unsafe fn store_nibbles(four: [Self; 4], p: *mut u8) {
        let words = _mm256_maddubs_epi16(bytes_256(four), _mm256_set1_epi16(NIBBLES));
        let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        _mm_storeu_si128(p.cast(), _mm_packus_epi16(low, high));
    }

    #[inline(always)]
    unsafe fn store_past(two: [Self; 2], p: *mut u32) {
        let [a, b] = two.map(|x| _mm256_castsi256_ps(x));
        let (low, high) = (|x| _mm256_castps256_ps128(x), |x| _mm256_extractf128_ps::<1>(x));
        stream::parts(p.cast(), [low(a), high(a), low(b), high(b)]);
    }

    #[inline(always)]
    unsafe fn store_largest([a, b, c, d]: [Self; 4], p: *mut u32) {
        let ab = _mm256_max_epu32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let cd = _mm256_max_epu32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        let all = _mm256_max_epu32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
        let most = _mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
        _mm_storeu_si128(p.cast(), most);
    }

    #[inline(always)]
    unsafe fn load_words_of_bytes(p: *const u8) -> Self {
        _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()))
    }

    #[inline(always)]
    unsafe fn load_words(p: *const u8) -> Self {
        _mm256_loadu_si256(p.cast())
    }

    #[inline(always)]
    unsafe fn shl_words(self, by: u32) -> Self {
        _mm256_sll_epi16(self, _mm_cvtsi32_si128(by as i32))
    }

    #[inline(always)]
    unsafe fn where_words_greater_or(self, a: Self, b: Self, other: Self) -> Self {
        _mm256_blendv_epi8(other, self, _mm256_cmpgt_epi16(a, b))
    }

    #[inline(always)]
    unsafe fn widen_words(self) -> [Self; 2] {
        let (low, high) = (_mm256_castsi256_si128(self), _mm256_extracti128_si256::<1>(self));
        [_mm256_castps_si256(_mm256_cvtph_ps(low)), _mm256_castps_si256(_mm256_cvtph_ps(high))]
    }
}
