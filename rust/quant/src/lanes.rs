//! Vectors of 32-bit lanes, integers and floats in one register, for the kernels that the compiler does not vectorize
//! well by itself (stochastic rounding, codes): each is written once over [`Lanes`] and instantiated per instruction set.
//!
//! Measured: left to the compiler, stochastic rounding spends most of its time in scalar reductions and scattered stores.
#![cfg(target_arch = "x86_64")]
// One contract for every method, stated at the trait, instead of a block and a comment for each intrinsic.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

/// # Safety
/// Every method: the processor has the instruction set of the implementing type, and the calling function enables it.
/// `load` and `store`: the pointer is valid for `LANES` elements, at any alignment.
pub unsafe trait Lanes: Copy {
    const LANES: usize;
    /// What `lift` has added, and where.
    type Lift: Copy;
    unsafe fn load(p: *const u32) -> Self;
    unsafe fn store(self, p: *mut u32);
    unsafe fn splat(x: u32) -> Self;
    unsafe fn and(self, o: Self) -> Self;
    /// `self & mask | o`.
    unsafe fn and_or(self, mask: Self, o: Self) -> Self;
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    /// Unsigned, as is `max`.
    unsafe fn min(self, o: Self) -> Self;
    unsafe fn max(self, o: Self) -> Self;
    unsafe fn shl(self, by: Self) -> Self;
    unsafe fn shr(self, by: Self) -> Self;
    /// Signed.
    unsafe fn sar(self, by: Self) -> Self;
    unsafe fn xor(self, o: Self) -> Self;
    /// `self` in the lanes where `a < b` (both below 2^31), else 0.
    unsafe fn where_less(self, a: Self, b: Self) -> Self;
    /// `self` in the lanes where `a > b` (both below 2^31), else `other`.
    unsafe fn where_greater_or(self, a: Self, b: Self, other: Self) -> Self;
    /// `nan` in the lanes where `x` is a NaN, else `self`.
    unsafe fn where_nan(self, x: Self, nan: Self) -> Self;
    /// Largest lane, unsigned.
    unsafe fn largest(self) -> u32;
    unsafe fn fadd(self, o: Self) -> Self;
    unsafe fn fsub(self, o: Self) -> Self;
    unsafe fn fmul(self, o: Self) -> Self;
    unsafe fn fdiv(self, o: Self) -> Self;
    /// `self * o + add`, rounded once, as is `add - self * o`; for callers who enable `fma`.
    unsafe fn fused(self, o: Self, add: Self) -> Self;
    unsafe fn fused_less(self, o: Self, from: Self) -> Self;
    /// `self + base`, rounded toward zero, in the lanes below `base`; neither is negative.
    unsafe fn lift(self, base: Self) -> (Self, Self::Lift);
    /// `self - base` in the same lanes.
    unsafe fn lower(self, lift: Self::Lift) -> Self;
    /// `self & mask`, or `nan` in the lanes where `x` is a NaN.
    unsafe fn and_unless_nan(self, mask: Self, x: Self, nan: Self) -> Self;
    /// Toward zero; `self` is not negative and below 2^31.
    unsafe fn to_int(self) -> Self;
    /// Signed.
    unsafe fn int_to_float(self) -> Self;
    /// The entry of each lane, of which the lowest 4 bits count.
    unsafe fn lookup(self, table: &[f32; 16]) -> Self;
}

macro_rules! binary {
    (int: $($name:ident = $intrinsic:ident),*; float($from:ident, $to:ident): $($fname:ident = $fintrinsic:ident),*;) => {
        $(#[inline(always)]
        unsafe fn $name(self, o: Self) -> Self {
            $intrinsic(self, o)
        })*
        $(#[inline(always)]
        unsafe fn $fname(self, o: Self) -> Self {
            $to($fintrinsic($from(self), $from(o)))
        })*
    };
}

// SAFETY: the contract is the caller's.
unsafe impl Lanes for __m512i {
    const LANES: usize = 16;
    type Lift = (__mmask16, Self);

    binary! {
        int: and = _mm512_and_si512, add = _mm512_add_epi32, sub = _mm512_sub_epi32, min = _mm512_min_epu32,
             max = _mm512_max_epu32, shl = _mm512_sllv_epi32, shr = _mm512_srlv_epi32, sar = _mm512_srav_epi32, xor = _mm512_xor_si512;
        float(_mm512_castsi512_ps, _mm512_castps_si512): fadd = _mm512_add_ps, fsub = _mm512_sub_ps,
             fmul = _mm512_mul_ps, fdiv = _mm512_div_ps;
    }

    #[inline(always)]
    unsafe fn fused(self, o: Self, add: Self) -> Self {
        _mm512_castps_si512(_mm512_fmadd_ps(
            _mm512_castsi512_ps(self),
            _mm512_castsi512_ps(o),
            _mm512_castsi512_ps(add),
        ))
    }

    #[inline(always)]
    unsafe fn fused_less(self, o: Self, from: Self) -> Self {
        _mm512_castps_si512(_mm512_fnmadd_ps(
            _mm512_castsi512_ps(self),
            _mm512_castsi512_ps(o),
            _mm512_castsi512_ps(from),
        ))
    }

    #[inline(always)]
    unsafe fn load(p: *const u32) -> Self {
        _mm512_loadu_si512(p.cast())
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut u32) {
        _mm512_storeu_si512(p.cast(), self);
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> Self {
        _mm512_set1_epi32(x as i32)
    }

    #[inline(always)]
    unsafe fn and_or(self, mask: Self, o: Self) -> Self {
        _mm512_ternarylogic_epi32::<0xea>(self, mask, o)
    }

    #[inline(always)]
    unsafe fn where_less(self, a: Self, b: Self) -> Self {
        _mm512_maskz_mov_epi32(_mm512_cmplt_epu32_mask(a, b), self)
    }

    #[inline(always)]
    unsafe fn where_greater_or(self, a: Self, b: Self, other: Self) -> Self {
        _mm512_mask_mov_epi32(other, _mm512_cmpgt_epu32_mask(a, b), self)
    }

    #[inline(always)]
    unsafe fn where_nan(self, x: Self, nan: Self) -> Self {
        let x = _mm512_castsi512_ps(x);
        _mm512_mask_mov_epi32(self, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), nan)
    }

    #[inline(always)]
    unsafe fn largest(self) -> u32 {
        _mm256_max_epu32(_mm512_castsi512_si256(self), _mm512_extracti64x4_epi64::<1>(self)).largest()
    }

    #[inline(always)]
    unsafe fn lift(self, base: Self) -> (Self, Self::Lift) {
        const TOWARD_ZERO: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
        let below = _mm512_cmplt_epu32_mask(self, base);
        let (x, to) = (_mm512_castsi512_ps(self), _mm512_castsi512_ps(base));
        (_mm512_castps_si512(_mm512_mask_add_round_ps::<TOWARD_ZERO>(x, below, x, to)), (below, base))
    }

    #[inline(always)]
    unsafe fn lower(self, (below, base): Self::Lift) -> Self {
        let x = _mm512_castsi512_ps(self);
        _mm512_castps_si512(_mm512_mask_sub_ps(x, below, x, _mm512_castsi512_ps(base)))
    }

    #[inline(always)]
    unsafe fn and_unless_nan(self, mask: Self, x: Self, nan: Self) -> Self {
        let x = _mm512_castsi512_ps(x);
        _mm512_mask_and_epi32(nan, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x), self, mask)
    }

    #[inline(always)]
    unsafe fn to_int(self) -> Self {
        _mm512_cvttps_epi32(_mm512_castsi512_ps(self))
    }

    #[inline(always)]
    unsafe fn int_to_float(self) -> Self {
        _mm512_castps_si512(_mm512_cvtepi32_ps(self))
    }

    #[inline(always)]
    unsafe fn lookup(self, table: &[f32; 16]) -> Self {
        _mm512_castps_si512(_mm512_permutexvar_ps(self, _mm512_loadu_ps(table.as_ptr())))
    }
}

// SAFETY: the contract is the caller's.
unsafe impl Lanes for __m256i {
    const LANES: usize = 8;
    type Lift = Self;

    binary! {
        int: and = _mm256_and_si256, add = _mm256_add_epi32, sub = _mm256_sub_epi32, min = _mm256_min_epu32,
             max = _mm256_max_epu32, shl = _mm256_sllv_epi32, shr = _mm256_srlv_epi32, sar = _mm256_srav_epi32, xor = _mm256_xor_si256;
        float(_mm256_castsi256_ps, _mm256_castps_si256): fadd = _mm256_add_ps, fsub = _mm256_sub_ps,
             fmul = _mm256_mul_ps, fdiv = _mm256_div_ps;
    }

    #[inline(always)]
    unsafe fn fused(self, o: Self, add: Self) -> Self {
        _mm256_castps_si256(_mm256_fmadd_ps(
            _mm256_castsi256_ps(self),
            _mm256_castsi256_ps(o),
            _mm256_castsi256_ps(add),
        ))
    }

    #[inline(always)]
    unsafe fn fused_less(self, o: Self, from: Self) -> Self {
        _mm256_castps_si256(_mm256_fnmadd_ps(
            _mm256_castsi256_ps(self),
            _mm256_castsi256_ps(o),
            _mm256_castsi256_ps(from),
        ))
    }

    #[inline(always)]
    unsafe fn load(p: *const u32) -> Self {
        _mm256_loadu_si256(p.cast())
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut u32) {
        _mm256_storeu_si256(p.cast(), self);
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> Self {
        _mm256_set1_epi32(x as i32)
    }

    #[inline(always)]
    unsafe fn and_or(self, mask: Self, o: Self) -> Self {
        _mm256_or_si256(_mm256_and_si256(self, mask), o)
    }

    #[inline(always)]
    unsafe fn where_less(self, a: Self, b: Self) -> Self {
        _mm256_and_si256(_mm256_cmpgt_epi32(b, a), self)
    }

    #[inline(always)]
    unsafe fn where_greater_or(self, a: Self, b: Self, other: Self) -> Self {
        _mm256_blendv_epi8(other, self, _mm256_cmpgt_epi32(a, b))
    }

    #[inline(always)]
    unsafe fn where_nan(self, x: Self, nan: Self) -> Self {
        let x = _mm256_castsi256_ps(x);
        let which = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        _mm256_or_si256(_mm256_andnot_si256(which, self), _mm256_and_si256(which, nan))
    }

    #[inline(always)]
    unsafe fn largest(self) -> u32 {
        let four = _mm_max_epu32(_mm256_castsi256_si128(self), _mm256_extracti128_si256::<1>(self));
        let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        _mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two))) as u32
    }

    #[inline(always)]
    unsafe fn lift(self, base: Self) -> (Self, Self::Lift) {
        let base = base.where_less(self, base);
        // Rounded to nearest; one step back where that is above the exact sum. Taking `base` away again is exact.
        let sum = self.fadd(base);
        let (back, x) = (_mm256_castsi256_ps(sum.fsub(base)), _mm256_castsi256_ps(self));
        (_mm256_add_epi32(sum, _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(back, x))), base)
    }

    #[inline(always)]
    unsafe fn lower(self, base: Self::Lift) -> Self {
        self.fsub(base)
    }

    #[inline(always)]
    unsafe fn and_unless_nan(self, mask: Self, x: Self, nan: Self) -> Self {
        self.and(mask).where_nan(x, nan)
    }

    #[inline(always)]
    unsafe fn to_int(self) -> Self {
        _mm256_cvttps_epi32(_mm256_castsi256_ps(self))
    }

    #[inline(always)]
    unsafe fn int_to_float(self) -> Self {
        _mm256_castps_si256(_mm256_cvtepi32_ps(self))
    }

    #[inline(always)]
    unsafe fn lookup(self, table: &[f32; 16]) -> Self {
        // Three bits choose within a half of the table, the fourth, moved to the sign, between the halves.
        let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), self);
        let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), self);
        let which = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(self));
        _mm256_castps_si256(_mm256_blendv_ps(low, high, which))
    }
}
