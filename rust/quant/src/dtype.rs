//! Arrays in memory: fp32, bf16, fp16, fp64. Kernels work on fp32 (or fp64) in cache; these load and store it.

use crate::half::{bf16_bits, f16_bits, narrow_bf16, narrow_f16, to_odd, widen_bf16, widen_f16};
use crate::pieces::PIECE;
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
