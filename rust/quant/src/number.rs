//! Numbers as they lie in memory, for the kernels that read and write them without a detour through a buffer of fp32:
//! a line is widened in registers when it is loaded and narrowed there before it is stored.
//!
//! Staged through buffers, bf16 and fp16 arrays ran at 0.7 of the element rate of fp32 although they are half as large.

#[cfg(target_arch = "x86_64")]
use crate::cells::Cells;
use crate::dtype::{Memory, MemoryMut, bf16_bits, bf16_value, f16_bits, f16_value};
use crate::simd::{Level, level};
use crate::stream;
use dither_numerics::Rounding;

/// Elements that are widened and narrowed together: a line of the cache, as fp32.
pub const LINE: usize = 16;

/// # Safety
/// `load`, `store` and `stream`: the range lies in the array, which holds this type (or, for `f32`, any but fp64), and
/// nobody else touches it meanwhile; its other side is different memory.
pub unsafe trait Number: Copy + Cells {
    const ZERO: Self;
    fn value(self) -> f32;
    /// To nearest, ties to even; one NaN a sign.
    fn nearest(x: f32) -> Self;
    fn widen(x: &[Self; LINE]) -> [f32; LINE];
    /// As `nearest`.
    fn narrow(x: [f32; LINE]) -> [Self; LINE];
    /// The largest magnitude as bits of fp32; NaN is larger than infinity.
    fn largest(x: &[Self]) -> u32;
    /// The number whose bits are the upper half of `bits` (fp32: all of them).
    fn from_upper(bits: u32) -> f32;
    /// The same slices, where they are fp32.
    fn floats<'a>(x: &'a [Self], y: &'a mut [Self]) -> Option<(&'a [f32], &'a mut [f32])>;
    /// The array itself, where it holds this type.
    fn input(x: Memory) -> Option<*const Self>;
    fn output(y: MemoryMut) -> Option<*mut Self>;
    unsafe fn load(x: Memory, start: usize, to: &mut [Self]);
    unsafe fn store(y: MemoryMut, start: usize, from: &[Self]);
    /// As `store`, past the caches, for at most [`crate::pieces::PIECE`] elements.
    unsafe fn stream(y: MemoryMut, start: usize, from: &[Self]);
}

/// bf16, as its bits; for processors with AVX2 or, `WIDE`, with AVX-512 ([`Kind::between`] asks), as is `F16`. (Asking for
/// each line costs a quarter of the time.)
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bf16<const WIDE: bool>(u16);

/// fp16, as its bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F16<const WIDE: bool>(u16);

/// Which numbers the kernels see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The arrays hold fp32, or are widened and narrowed through a buffer.
    F32,
    Bf16 {
        wide: bool,
    },
    F16 {
        wide: bool,
    },
}

impl Kind {
    /// Half precision is met as it is where both arrays hold it, the rounding is nearest-even, for which alone the kernels
    /// are compiled so, and the processor widens and narrows a line in a few instructions.
    pub fn between(x: Memory, y: MemoryMut, rounding: Rounding) -> Kind {
        if rounding != Rounding::NearestEven || !cfg!(target_arch = "x86_64") || level() < Level::Avx2 {
            return Kind::F32;
        }
        let wide = level() == Level::Avx512;
        match (x, y) {
            (Memory::Bf16(_), MemoryMut::Bf16(_)) => Kind::Bf16 { wide },
            (Memory::F16(_), MemoryMut::F16(_)) => Kind::F16 { wide },
            _ => Kind::F32,
        }
    }
}

/// `$work::<Number>(arguments)` for a [`Kind`].
macro_rules! by_kind {
    ($kind:expr, $work:ident($($argument:expr),* $(,)?)) => {
        match $kind {
            $crate::number::Kind::F32 => $work::<f32>($($argument),*),
            $crate::number::Kind::Bf16 { wide: false } => $work::<$crate::number::Bf16<false>>($($argument),*),
            $crate::number::Kind::Bf16 { wide: true } => $work::<$crate::number::Bf16<true>>($($argument),*),
            $crate::number::Kind::F16 { wide: false } => $work::<$crate::number::F16<false>>($($argument),*),
            $crate::number::Kind::F16 { wide: true } => $work::<$crate::number::F16<true>>($($argument),*),
        }
    };
}
pub(crate) use by_kind;

/// Other processors have no kernels over vectors.
#[cfg(not(target_arch = "x86_64"))]
pub trait Cells {}
#[cfg(not(target_arch = "x86_64"))]
impl<T> Cells for T {}

const MAGNITUDE: u32 = 0x7fff_ffff;

// SAFETY: the contract is the caller's.
unsafe impl Number for f32 {
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn widen(x: &[f32; LINE]) -> [f32; LINE] {
        *x
    }

    #[inline(always)]
    fn narrow(x: [f32; LINE]) -> [f32; LINE] {
        x
    }

    #[inline(always)]
    fn largest(x: &[f32]) -> u32 {
        x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & MAGNITUDE))
    }

    #[inline(always)]
    fn from_upper(bits: u32) -> f32 {
        f32::from_bits(bits)
    }

    #[inline(always)]
    fn floats<'a>(x: &'a [f32], y: &'a mut [f32]) -> Option<(&'a [f32], &'a mut [f32])> {
        Some((x, y))
    }

    fn input(x: Memory) -> Option<*const f32> {
        if let Memory::F32(p) = x { Some(p) } else { None }
    }

    fn output(y: MemoryMut) -> Option<*mut f32> {
        if let MemoryMut::F32(p) = y { Some(p) } else { None }
    }

    unsafe fn load(x: Memory, start: usize, to: &mut [f32]) {
        // SAFETY: the caller's contract.
        unsafe { x.load(start, to) }
    }

    unsafe fn store(y: MemoryMut, start: usize, from: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { y.store(start, from) }
    }

    unsafe fn stream(y: MemoryMut, start: usize, from: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { y.stream(start, from) }
    }
}

macro_rules! half {
    ($type:ident, $memory:ident, $value:ident, $bits:ident, $widen:ident, $narrow:ident) => {
        // SAFETY: the contract is the caller's.
        unsafe impl<const WIDE: bool> Number for $type<WIDE> {
            const ZERO: Self = Self(0);

            #[inline(always)]
            fn value(self) -> f32 {
                $value(self.0)
            }

            #[inline(always)]
            fn nearest(x: f32) -> Self {
                Self($bits(x))
            }

            #[inline(always)]
            fn widen(x: &[Self; LINE]) -> [f32; LINE] {
                lines::$widen::<WIDE>(&x.map(|x| x.0))
            }

            #[inline(always)]
            fn narrow(x: [f32; LINE]) -> [Self; LINE] {
                lines::$narrow::<WIDE>(&x).map(Self)
            }

            #[inline(always)]
            fn largest(x: &[Self]) -> u32 {
                $value(x.iter().fold(0, |m: u16, x| m.max(x.0 & 0x7fff))).to_bits()
            }

            #[inline(always)]
            fn from_upper(bits: u32) -> f32 {
                $value((bits >> 16) as u16)
            }

            #[inline(always)]
            fn floats<'a>(_: &'a [Self], _: &'a mut [Self]) -> Option<(&'a [f32], &'a mut [f32])> {
                None
            }

            fn input(x: Memory) -> Option<*const Self> {
                if let Memory::$memory(p) = x { Some(p.cast()) } else { None }
            }

            fn output(y: MemoryMut) -> Option<*mut Self> {
                if let MemoryMut::$memory(p) = y { Some(p.cast()) } else { None }
            }

            unsafe fn load(x: Memory, start: usize, to: &mut [Self]) {
                let from = Self::input(x).expect("chosen for such arrays");
                // SAFETY: the caller's contract.
                unsafe { std::ptr::copy_nonoverlapping(from.add(start), to.as_mut_ptr(), to.len()) }
            }

            unsafe fn store(y: MemoryMut, start: usize, from: &[Self]) {
                let to = Self::output(y).expect("chosen for such arrays");
                // SAFETY: the caller's contract.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.add(start), from.len()) }
            }

            unsafe fn stream(y: MemoryMut, start: usize, from: &[Self]) {
                let to = Self::output(y).expect("chosen for such arrays");
                // SAFETY: the caller's contract.
                unsafe { stream::copy(from.as_ptr().cast(), to.add(start).cast(), size_of_val(from)) }
            }
        }
    };
}

half! { Bf16, Bf16, bf16_value, bf16_bits, widen_bf16, narrow_bf16 }
half! { F16, F16, f16_value, f16_bits, widen_f16, narrow_f16 }

/// Lines by the processor's own conversions, and by integers; the compiler leaves the latter scalar in some loops.
#[cfg(target_arch = "x86_64")]
mod lines {
    use super::LINE;
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
}

/// Other processors do not meet half precision here ([`Kind::between`]).
#[cfg(not(target_arch = "x86_64"))]
mod lines {
    use super::{LINE, bf16_bits, bf16_value, f16_bits, f16_value};

    pub fn widen_f16<const WIDE: bool>(x: &[u16; LINE]) -> [f32; LINE] {
        x.map(f16_value)
    }

    pub fn narrow_f16<const WIDE: bool>(x: &[f32; LINE]) -> [u16; LINE] {
        x.map(f16_bits)
    }

    pub fn widen_bf16<const WIDE: bool>(x: &[u16; LINE]) -> [f32; LINE] {
        x.map(bf16_value)
    }

    pub fn narrow_bf16<const WIDE: bool>(x: &[f32; LINE]) -> [u16; LINE] {
        x.map(bf16_bits)
    }
}
