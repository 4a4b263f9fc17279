//! Where the parts of a packed array are.

use dither_numerics::{Quantizer, Scale};
use std::ops::Range;

/// Where an array's parts are. Reading an array leaves them as they are.
#[derive(Clone, Copy)]
pub struct Parts {
    /// One row of bits for each row of the last axis.
    pub codes: *mut u8,
    pub scales: Scales,
    /// One zero point a block; null where the quantizer has none.
    pub zeros: *mut u8,
}

/// One scale a block in C order, the axis replaced by the blocks along it; none for plain casts.
#[derive(Clone, Copy)]
pub enum Scales {
    None,
    Codes(*mut u8),
    F32(*mut f32),
}

// SAFETY: every thread reads and writes only the ranges of its own units, which are disjoint.
unsafe impl Sync for Scales {}
// SAFETY: as above; a pointer carries no thread affinity.
unsafe impl Send for Scales {}
// SAFETY: as above.
unsafe impl Sync for Parts {}
// SAFETY: as above.
unsafe impl Send for Parts {}

impl Parts {
    /// # Safety
    /// `range` lies in the codes and no other reference to it is alive.
    #[allow(clippy::mut_from_ref)] // the pointer is the owner's, not this value's
    pub(crate) unsafe fn bytes(&self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.codes.add(range.start), range.len()) }
    }

    /// Store the scale of block `at`; false where it has no code.
    ///
    /// # Safety
    /// The block lies in the array and belongs to this thread.
    pub(crate) unsafe fn set_scale(&self, q: &Quantizer, at: usize, scale: Scale) -> bool {
        let code = q.scale_code(scale);
        // SAFETY: the caller's contract.
        unsafe {
            self.scales.set(at, code.unwrap_or(0));
            if !self.zeros.is_null() {
                *self.zeros.add(at) = q.zero_code(scale) as u8;
            }
        }
        code.is_some()
    }

    /// The scale of block `at` as it is stored.
    ///
    /// # Safety
    /// The block lies in the array.
    pub(crate) unsafe fn scale(&self, q: &Quantizer, at: usize, tensor: Option<f32>) -> Scale {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = if self.zeros.is_null() { 0 } else { u32::from(*self.zeros.add(at)) };
            q.stored_scale(self.scales.get(at), zero, tensor)
        }
    }
}

impl Scales {
    /// # Safety
    /// `i` lies in the array.
    pub(crate) unsafe fn get(&self, i: usize) -> u32 {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Scales::None => 0,
                Scales::Codes(p) => u32::from(*p.add(i)),
                Scales::F32(p) => (*p.add(i)).to_bits(),
            }
        }
    }

    /// # Safety
    /// `i` lies in the array and belongs to this thread.
    pub(crate) unsafe fn set(&self, i: usize, code: u32) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Scales::None => {}
                Scales::Codes(p) => *p.add(i) = code as u8,
                Scales::F32(p) => *p.add(i) = f32::from_bits(code),
            }
        }
    }
}
