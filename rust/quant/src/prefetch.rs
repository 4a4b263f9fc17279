//! Asking for memory before it is needed.

/// Ask for the elements that follow the slices, as many as they have.
#[inline]
pub fn prefetch(x: &[f32], y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        let ahead = x.len();
        let (x, y) = (x.as_ptr().wrapping_add(x.len()), y.as_ptr().wrapping_add(y.len()));
        for i in (0..ahead).step_by(16) {
            // SAFETY: a hint; it reads nothing and addresses outside the arrays do no harm.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(i).cast());
                _mm_prefetch::<_MM_HINT_ET0>(y.wrapping_add(i).cast());
            }
        }
    }
}
