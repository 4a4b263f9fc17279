//! The processor's floating-point mode, made the standard one for the length of a call.
//!
//! A caller may have switched on "flush subnormals to zero" (`torch.set_flush_denormal` does, for its thread), and
//! results would depend on which thread computes them. Every operation on arrays enters the standard mode first; a
//! pool's threads inherit it, because they start within one. Only x86-64 has the switch here.

/// Standard mode (round to nearest, subnormals kept) until dropped; then the caller's mode again.
pub(crate) struct Standard {
    #[cfg(target_arch = "x86_64")]
    before: u32,
}

#[cfg(target_arch = "x86_64")]
mod mxcsr {
    use std::arch::asm;

    /// All exceptions masked, round to nearest, no flushing: the state in which threads start.
    pub const STANDARD: u32 = 0x1f80;

    pub fn get() -> u32 {
        let mut value = 0u32;
        // SAFETY: stores the register into a local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
        value
    }

    pub fn set(value: u32) {
        // SAFETY: `value` is the standard state, or one that `get` returned.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, preserves_flags)) };
    }
}

impl Standard {
    #[inline(never)]
    pub fn enter() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let before = mxcsr::get();
            mxcsr::set(mxcsr::STANDARD);
            Standard { before }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Standard {}
    }
}

impl Drop for Standard {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        mxcsr::set(self.before);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn flushing_is_off_inside_and_back_outside() {
        const FLUSH: u32 = 0x8040; // FTZ and DAZ
        let halved = || black_box(f32::MIN_POSITIVE) * black_box(0.5);
        let own = mxcsr::get();
        mxcsr::set(own | FLUSH);
        let outside = halved();
        let standard = Standard::enter();
        let inside = halved();
        drop(standard);
        let after = halved();
        mxcsr::set(own);
        assert_eq!((outside, inside, after), (0.0, 2f32.powi(-127), 0.0));
    }
}
