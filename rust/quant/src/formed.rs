//! The two types in which results are formed, between the arrays and the scalar truth.

use crate::dtype::{Memory, MemoryMut};
use crate::found;
use crate::moments::Wide;
use dither_numerics::Real;

/// fp32 or fp64.
pub(crate) trait Element: Real + Wide {
    /// # Safety
    /// As [`Memory::load`].
    unsafe fn load(x: Memory, start: usize, out: &mut [Self]);
    /// # Safety
    /// As [`MemoryMut::store`].
    unsafe fn store(y: MemoryMut, start: usize, values: &[Self]);
    /// The smallest and the largest of some numbers and zero, where there is a fast way and all are finite.
    fn finite_ends(values: &[Self]) -> Option<[Self; 2]>;
}

impl Element for f32 {
    unsafe fn load(x: Memory, start: usize, out: &mut [f32]) {
        // SAFETY: the caller's contract.
        unsafe { x.load(start, out) }
    }
    unsafe fn store(y: MemoryMut, start: usize, values: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { y.store(start, values) }
    }
    fn finite_ends(values: &[f32]) -> Option<[f32; 2]> {
        found::finite_ends(values)
    }
}

impl Element for f64 {
    unsafe fn load(x: Memory, start: usize, out: &mut [f64]) {
        // SAFETY: the caller's contract.
        unsafe { x.load_f64(start, out) }
    }
    unsafe fn store(y: MemoryMut, start: usize, values: &[f64]) {
        // SAFETY: the caller's contract.
        unsafe { y.store_f64(start, values) }
    }
    fn finite_ends(_: &[f64]) -> Option<[f64; 2]> {
        None
    }
}
