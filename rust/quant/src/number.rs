//! Numbers as they lie in memory, for the kernels that read and write them without a detour through a buffer of fp32:
//! a line is widened in registers when it is loaded and narrowed there before it is stored.
//!
//! Staged through buffers, bf16 and fp16 arrays ran at 0.7 of the element rate of fp32 although they are half as large.

#[cfg(target_arch = "x86_64")]
use crate::cells::Cells;
use crate::dtype::{Memory, MemoryMut};
use crate::half::{bf16_bits, bf16_value, f16_bits, f16_value};
#[cfg(target_arch = "x86_64")]
use crate::half_lines;
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
                half_lines::$widen::<WIDE>(&x.map(|x| x.0))
            }

            #[inline(always)]
            fn narrow(x: [f32; LINE]) -> [Self; LINE] {
                half_lines::$narrow::<WIDE>(&x).map(Self)
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

/// Other processors do not meet half precision here ([`Kind::between`]).
#[cfg(not(target_arch = "x86_64"))]
mod half_lines {
    use super::LINE;
    use crate::half::{bf16_bits, bf16_value, f16_bits, f16_value};

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
