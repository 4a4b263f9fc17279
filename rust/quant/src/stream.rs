//! Stores past the caches, for results too large to stay there.
//!
//! An ordinary store first reads the line it will overwrite, and pushes other lines out. A non-temporal store does
//! neither: 1.6 times a copy's speed for 64 MiB, but the reader that comes next finds nothing in the cache. Both are
//! weighed by `make bench-numbers` (the sweep over sizes): below [`threshold`] ordinary stores win.

use crate::number::{LINE, Number};
use crate::simd::{Level, level};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of a very large cache, shared by many cores, one program holds only a part: 32 MiB by measurement.
const MOST: usize = 32 << 20;

static THRESHOLD: AtomicUsize = AtomicUsize::new(0);

/// From this many bytes of output on, stores go past the caches: where half the last-level cache is exceeded.
pub fn threshold() -> usize {
    match THRESHOLD.load(Ordering::Relaxed) {
        0 => set_threshold(None),
        bytes => bytes,
    }
}

/// Use another threshold (for tests and for the sweep that finds the best one), or with `None` this machine's own.
/// Returns the one in use.
pub fn set_threshold(bytes: Option<usize>) -> usize {
    let own = || last_level_cache().map_or(MOST, |cache| (cache / 2).min(MOST));
    let bytes = bytes.unwrap_or_else(own).max(1);
    THRESHOLD.store(bytes, Ordering::Relaxed);
    bytes
}

#[cfg(target_arch = "x86_64")]
fn last_level_cache() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // Leaf 4 (Intel) and leaf 0x8000001d (AMD) list the caches in the same layout.
    let largest = |leaf: u32| {
        (0..8)
            .map(|i| __cpuid_count(leaf, i))
            .take_while(|r| r.eax & 31 != 0)
            .map(|r| ((r.ebx >> 22) + 1) * ((r.ebx >> 12 & 0x3ff) + 1) * ((r.ebx & 0xfff) + 1) * (r.ecx + 1))
            .max()
    };
    let has = |leaf: u32| __cpuid(leaf & 0x8000_0000).eax >= leaf;
    [0x8000_001d, 4].into_iter().filter(|leaf| has(*leaf)).find_map(largest).map(|bytes| bytes as usize)
}

#[cfg(not(target_arch = "x86_64"))]
fn last_level_cache() -> Option<usize> {
    None
}

/// Copy `bytes` bytes past the caches. Visible to other threads after [`fence`].
///
/// # Safety
/// Both ranges are valid and do not overlap.
#[cfg(target_arch = "x86_64")]
pub unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // Bytes before the first and after the last whole line.
    let head = to.align_offset(64).min(bytes);
    let tail = (bytes - head) % 64;
    let lines = bytes - head - tail;
    // SAFETY: the caller's contract; the lines start at a multiple of 64.
    unsafe {
        x86::part(from, to, head);
        match level() {
            Level::Avx512 => x86::lines_512(from.add(head), to.add(head), lines),
            Level::Avx2 => x86::lines_256(from.add(head), to.add(head), lines),
            Level::Baseline => x86::part(from.add(head), to.add(head), lines),
        }
        x86::part(from.add(head + lines), to.add(head + lines), tail);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Any range, 16 bytes a store: the two parts of a line meet in the processor's write-combining buffer.
    ///
    /// # Safety
    /// As for `copy`.
    pub unsafe fn part(from: *const u8, to: *mut u8, bytes: usize) {
        let head = to.align_offset(16).min(bytes);
        let tail = (bytes - head) % 16;
        // SAFETY: the caller's contract; the streamed part starts at a multiple of 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, to, head);
            for at in (head..bytes - tail).step_by(16) {
                _mm_stream_si128(to.add(at).cast(), _mm_loadu_si128(from.add(at).cast()));
            }
            std::ptr::copy_nonoverlapping(from.add(bytes - tail), to.add(bytes - tail), tail);
        }
    }

    /// # Safety
    /// As for `copy`; `to` and `bytes` are multiples of 64.
    #[target_feature(enable = "avx2")]
    pub unsafe fn lines_256(from: *const u8, to: *mut u8, bytes: usize) {
        for at in (0..bytes).step_by(32) {
            // SAFETY: the caller's contract.
            unsafe { _mm256_stream_si256(to.add(at).cast(), _mm256_loadu_si256(from.add(at).cast())) };
        }
    }

    /// # Safety
    /// As for `lines_256`.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn lines_512(from: *const u8, to: *mut u8, bytes: usize) {
        for at in (0..bytes).step_by(64) {
            // SAFETY: the caller's contract.
            unsafe { _mm512_stream_si512(to.add(at).cast(), _mm512_loadu_si512(from.add(at).cast())) };
        }
    }
}

/// An ordinary copy: this processor's stores past the caches are not used.
///
/// # Safety
/// As above.
#[cfg(not(target_arch = "x86_64"))]
pub unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
}

/// `y = f(x)`, [`LINE`] elements at a time; straight from the registers `PAST` the caches if `y` allows it.
#[inline(always)]
pub fn map<E: Number, const PAST: bool>(x: &[E], y: &mut [E], f: impl Fn(f32) -> f32) {
    let past = PAST && can_pass(y.as_ptr());
    let ((lines, x), (out, y)) = (x.as_chunks::<LINE>(), y.as_chunks_mut::<LINE>());
    for (x, y) in lines.iter().zip(out) {
        prefetch(x.as_ptr().wrapping_add(AHEAD));
        let x = E::widen(x);
        let mut results = [0.0; LINE];
        for i in 0..LINE {
            results[i] = f(x[i]);
        }
        let results = E::narrow(results);
        if past {
            // SAFETY: asked above; lines follow each other.
            unsafe { line(results, y) }
        } else {
            *y = results;
        }
    }
    for (x, y) in x.iter().zip(y) {
        *y = E::nearest(f(x.value()));
    }
}

/// Whether lines from here on can be stored by [`line`].
#[inline(always)]
pub fn can_pass<T>(at: *const T) -> bool {
    cfg!(target_arch = "x86_64") && level() >= Level::Avx2 && at.addr().is_multiple_of(16)
}

/// Store [`LINE`] elements past the caches. Parts of 16 bytes meet in the processor's write-combining buffer, which asks
/// for less alignment than a store of 64 bytes (`lines` puts those together, where the difference is felt).
///
/// # Safety
/// [`can_pass`] is true of `y`, or of other memory a multiple of 16 bytes away.
#[inline(always)]
pub unsafe fn line<E: Number>(x: [E; LINE], y: &mut [E; LINE]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's contract; a part has 16 of the line's 64 or 32 bytes.
    unsafe {
        let (from, to) = (x.as_ptr().cast::<f32>(), y.as_mut_ptr().cast::<f32>());
        let part = |i: usize| std::arch::x86_64::_mm_loadu_ps(from.add(i));
        if size_of_val(&x) == 64 {
            parts(to, [part(0), part(4), part(8), part(12)]);
        } else {
            two_parts(to, [part(0), part(4)]);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        *y = x;
    }
}

/// As [`line`], of the parts of a line.
///
/// # Safety
/// As for [`line`]; the line at `y` may be written.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn parts(y: *mut f32, [a, b, c, d]: [std::arch::x86_64::__m128; 4]) {
    // SAFETY: the processor has AVX and the address is a multiple of 16, by the caller's contract. (The intrinsic would
    // be encoded for SSE, which stalls the first processors with AVX2, and takes an address register for each part.)
    unsafe {
        std::arch::asm!(
            "vmovntps [{y}], {a}",
            "vmovntps [{y} + 16], {b}",
            "vmovntps [{y} + 32], {c}",
            "vmovntps [{y} + 48], {d}",
            y = in(reg) y,
            a = in(xmm_reg) a,
            b = in(xmm_reg) b,
            c = in(xmm_reg) c,
            d = in(xmm_reg) d,
            options(nostack, preserves_flags),
        );
    }
}

/// As [`parts`], of half a line.
///
/// # Safety
/// As for [`parts`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn two_parts(y: *mut f32, [a, b]: [std::arch::x86_64::__m128; 2]) {
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "vmovntps [{y}], {a}",
            "vmovntps [{y} + 16], {b}",
            y = in(reg) y,
            a = in(xmm_reg) a,
            b = in(xmm_reg) b,
            options(nostack, preserves_flags),
        );
    }
}

/// Orders the stores of [`copy`] and [`line`] before whatever this thread does next.
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}

/// Units of 4096 elements between two fences: a fence after each unit costs a third of the time, after each 16th nothing.
pub const GROUP: usize = 16;

/// How far ahead of their loads the kernels ask for input (elements). The processor's own prefetching stops at every
/// page, and stores past the caches leave no slack for it: a quarter of the time of a copy.
pub const AHEAD: usize = 2048;

/// Ask for the cache line at an address, to be read soon. A hint: any address will do.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same for a line that is too far ahead for the first-level cache.
#[inline(always)]
pub fn prefetch_far<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same for a line that will be written.
#[inline(always)]
pub fn prefetch_for_write<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    #[test]
    fn copies_at_any_alignment() {
        let from: Vec<u8> = (0..200u32).map(|i| (i * 7 + 1) as u8).collect();
        for start in 0..40 {
            for len in [0, 1, 15, 16, 17, 100, 160] {
                let mut to = vec![0u8; 200];
                // SAFETY: 40 + 160 bytes at most, of 200.
                unsafe { super::copy(from.as_ptr().add(3 * start / 4), to.as_mut_ptr().add(start), len) };
                super::fence();
                assert_eq!(to[start..start + len], from[3 * start / 4..][..len]);
                assert!(to[..start].iter().chain(&to[start + len..]).all(|b| *b == 0));
            }
        }
    }

    #[test]
    fn the_threshold_is_a_cache_size() {
        assert!((128 << 10..=super::MOST).contains(&super::set_threshold(None)));
    }
}
