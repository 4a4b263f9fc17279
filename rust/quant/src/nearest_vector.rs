//! A vector of magnitudes rounded to nearest even: the formula of `element`, in the same order.
#![cfg(target_arch = "x86_64")]

use crate::lanes::Lanes;

/// The constants of a job in every lane.
#[derive(Clone, Copy)]
pub struct Nearest<V> {
    exponent: V,
    to_c: V,
}

/// From the bits of `2^e` to those of what is added and taken away again (see `element`), where so many of fp32's `digits`
/// go.
pub fn to_c(digits: u32) -> u32 {
    digits << 23 | 0x0040_0000
}

impl<V: Lanes> Nearest<V> {
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn new(digits: u32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { Nearest { exponent: V::splat(0x7f80_0000), to_c: V::splat(to_c(digits)) } }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn round(&self, a: V, emin: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let c = a.and(self.exponent).max(emin).add(self.to_c);
            a.fadd(c).fsub(c)
        }
    }
}
