//! Arrays in memory: fp32, bf16, fp16, fp64. Kernels work on fp32 (or fp64) in cache; these load and store it.

use crate::pieces::PIECE;
use crate::simd::dispatch;
use crate::stream;

/// Input memory, by element type. Raw pointers, because the output may be the very same memory (in place).
#[derive(Clone, Copy)]
pub enum Memory {
    F32(*const f32),
    Bf16(*const u16),
    F16(*const u16),
    F64(*const f64),
}

/// Output memory, written by threads that own disjoint ranges. It is the memory of the input or does not overlap it.
#[derive(Clone, Copy)]
pub enum MemoryMut {
    F32(*mut f32),
    Bf16(*mut u16),
    F16(*mut u16),
    F64(*mut f64),
}

// SAFETY: every thread reads and writes only the ranges of its own units, which are disjoint.
unsafe impl Sync for Memory {}
// SAFETY: as above; a pointer carries no thread affinity.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for MemoryMut {}
// SAFETY: as above.
unsafe impl Send for MemoryMut {}

impl Memory {
    pub fn is_f64(&self) -> bool {
        matches!(self, Memory::F64(_))
    }

    pub fn address(&self) -> *const u8 {
        match self {
            Memory::F32(p) => p.cast(),
            Memory::Bf16(p) | Memory::F16(p) => p.cast(),
            Memory::F64(p) => p.cast(),
        }
    }

    /// Bytes an element.
    pub fn element_size(&self) -> usize {
        match self {
            Memory::F32(_) => 4,
            Memory::Bf16(_) | Memory::F16(_) => 2,
            Memory::F64(_) => 8,
        }
    }

    /// The range itself where it is fp32 and not the memory of `output`.
    ///
    /// # Safety
    /// `start..start + len` lies in the array and nobody writes it while the slice lives.
    pub unsafe fn borrow<'a>(&self, start: usize, len: usize, output: MemoryMut) -> Option<&'a [f32]> {
        match (self, output) {
            (Memory::F32(x), MemoryMut::F32(y)) if std::ptr::eq(*x, y) => None,
            // SAFETY: the caller's contract.
            (Memory::F32(x), _) => Some(unsafe { std::slice::from_raw_parts(x.add(start), len) }),
            _ => None,
        }
    }

    /// The range as fp32, through `loaded` where it is not.
    ///
    /// # Safety
    /// `start..start + len` lies in the array (which is no fp64) and nobody writes it while the slice lives.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn f32_slice<'a>(&self, start: usize, len: usize, loaded: &'a mut Vec<f32>) -> &'a [f32] {
        // SAFETY: the caller's contract.
        unsafe {
            if let Memory::F32(x) = self {
                return std::slice::from_raw_parts(x.add(start), len);
            }
            loaded.resize(len, 0.0);
            self.load(start, loaded);
        }
        loaded
    }

    /// Copy a range into fp32, exactly (fp64 is not read this way).
    ///
    /// # Safety
    /// `start..start + out.len()` lies in the array and nobody writes it meanwhile.
    pub unsafe fn load(&self, start: usize, out: &mut [f32]) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Memory::F32(p) => std::ptr::copy_nonoverlapping(p.add(start), out.as_mut_ptr(), out.len()),
                Memory::Bf16(p) => widen_bf16(std::slice::from_raw_parts(p.add(start), out.len()), out),
                Memory::F16(p) => widen_f16(std::slice::from_raw_parts(p.add(start), out.len()), out),
                Memory::F64(_) => unreachable!("fp64 is processed in fp64"),
            }
        }
    }

    /// Copy a range into fp64, exactly.
    ///
    /// # Safety
    /// As for [`Memory::load`].
    pub unsafe fn load_f64(&self, start: usize, out: &mut [f64]) {
        // SAFETY: the caller's contract.
        unsafe {
            if let Memory::F64(p) = self {
                std::ptr::copy_nonoverlapping(p.add(start), out.as_mut_ptr(), out.len());
                return;
            }
            let mut narrow = vec![0.0; out.len()];
            self.load(start, &mut narrow);
            for (wide, x) in out.iter_mut().zip(narrow) {
                *wide = f64::from(x);
            }
        }
    }
}

impl MemoryMut {
    pub fn is_f64(&self) -> bool {
        matches!(self, MemoryMut::F64(_))
    }

    pub fn address(&self) -> *const u8 {
        self.as_input().address()
    }

    /// Bytes an element.
    pub fn element_size(&self) -> usize {
        self.as_input().element_size()
    }

    pub(crate) fn as_input(&self) -> Memory {
        match *self {
            MemoryMut::F32(p) => Memory::F32(p),
            MemoryMut::Bf16(p) => Memory::Bf16(p),
            MemoryMut::F16(p) => Memory::F16(p),
            MemoryMut::F64(p) => Memory::F64(p),
        }
    }

    /// The output range itself where it is fp32, so that kernels can work in place.
    ///
    /// # Safety
    /// `start..start + len` lies in the array and no other reference to that range is alive.
    pub unsafe fn f32_range<'a>(&self, start: usize, len: usize) -> Option<&'a mut [f32]> {
        match self {
            // SAFETY: the caller's contract.
            MemoryMut::F32(p) => Some(unsafe { std::slice::from_raw_parts_mut(p.add(start), len) }),
            _ => None,
        }
    }

    /// Store fp32 results, rounded to nearest even where the type is narrower.
    ///
    /// # Safety
    /// `start..start + x.len()` lies in the array and no other reference to that range is alive.
    pub unsafe fn store(&self, start: usize, x: &[f32]) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                MemoryMut::F32(p) => std::slice::from_raw_parts_mut(p.add(start), x.len()).copy_from_slice(x),
                MemoryMut::Bf16(p) => narrow_bf16(x, std::slice::from_raw_parts_mut(p.add(start), x.len())),
                MemoryMut::F16(p) => narrow_f16(x, std::slice::from_raw_parts_mut(p.add(start), x.len())),
                MemoryMut::F64(p) => {
                    for (i, x) in x.iter().enumerate() {
                        *p.add(start + i) = f64::from(*x);
                    }
                }
            }
        }
    }

    /// As `store`, past the caches: for at most [`PIECE`] elements, visible to other threads after `stream::fence`.
    ///
    /// # Safety
    /// As for [`MemoryMut::store`].
    pub unsafe fn stream(&self, start: usize, x: &[f32]) {
        let mut narrow = [0u16; PIECE];
        let (from, to, bytes) = match self {
            MemoryMut::F32(p) => (x.as_ptr().cast(), p.wrapping_add(start).cast(), 4 * x.len()),
            MemoryMut::Bf16(p) | MemoryMut::F16(p) => {
                let narrow = &mut narrow[..x.len()];
                if matches!(self, MemoryMut::Bf16(_)) {
                    narrow_bf16(x, narrow)
                } else {
                    narrow_f16(x, narrow)
                }
                (narrow.as_ptr().cast(), p.wrapping_add(start).cast(), 2 * x.len())
            }
            // SAFETY: the caller's contract.
            MemoryMut::F64(_) => return unsafe { self.store(start, x) },
        };
        // SAFETY: the caller's contract; what is copied is borrowed or local, so it does not overlap the output.
        unsafe { stream::copy(from, to, bytes) };
    }

    /// Store fp64 results, rounded once to the output type.
    ///
    /// # Safety
    /// As for [`MemoryMut::store`].
    pub unsafe fn store_f64(&self, start: usize, x: &[f64]) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                MemoryMut::F64(p) => std::slice::from_raw_parts_mut(p.add(start), x.len()).copy_from_slice(x),
                MemoryMut::F32(p) => {
                    for (i, x) in x.iter().enumerate() {
                        *p.add(start + i) = *x as f32;
                    }
                }
                MemoryMut::Bf16(p) => {
                    for (i, x) in x.iter().enumerate() {
                        *p.add(start + i) = bf16_bits(to_odd(*x));
                    }
                }
                MemoryMut::F16(p) => {
                    for (i, x) in x.iter().enumerate() {
                        *p.add(start + i) = f16_bits(to_odd(*x));
                    }
                }
            }
        }
    }
}

/// fp64 to fp32 rounded to odd: rounding the result again to a narrower type is as good as rounding once.
fn to_odd(x: f64) -> f32 {
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

dispatch! { fn widen_bf16(x: &[u16], out: &mut [f32]) = widen_bf16_body; }
dispatch! { fn widen_f16(x: &[u16], out: &mut [f32]) = widen_f16_body; }
dispatch! { fn narrow_bf16(x: &[f32], out: &mut [u16]) = narrow_bf16_body; }
dispatch! { fn narrow_f16(x: &[f32], out: &mut [u16]) = narrow_f16_body; }

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
