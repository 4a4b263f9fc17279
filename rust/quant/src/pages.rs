//! Large fresh memory from huge pages.
//!
//! The first touch of a page costs a fault; over 64 MiB of 4 KiB pages the faults cost several times what a kernel
//! does. Linux backs an aligned stretch by pages of 2 MiB where it is asked to, which numpy does for arrays from
//! 4 MiB on and torch does not.

/// Below this, faults are few and huge pages would only take memory.
pub const LARGE: usize = 4 << 20;

/// Memory that is zeroed between two questions whether to give up: some milliseconds, where the machine has to find
/// the memory first a tenth of a second.
const PIECE: usize = 16 << 20;

/// Ask for huge pages under a large allocation that was not touched yet. A hint: contents never change, and systems
/// that know nothing of it ignore it. Ends early where [`interruptible`](crate::interrupt::interruptible) is told to.
///
/// # Safety
/// The range is one allocation of the caller.
pub unsafe fn prefer_huge(address: usize, bytes: usize) {
    if bytes >= LARGE {
        // SAFETY: the caller's contract.
        unsafe { advise(address, bytes) };
    }
}

#[cfg(target_os = "linux")]
unsafe fn advise(address: usize, bytes: usize) {
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    const MADV_HUGEPAGE: c_int = 14;
    const MADV_POPULATE_WRITE: c_int = 23;
    const PAGE: usize = 4096;
    // The kernel takes whole pages; where its own are larger it answers EINVAL, and nothing is lost.
    let start = address.next_multiple_of(PAGE);
    let end = (address + bytes) / PAGE * PAGE;
    // SAFETY: the pages lie in the caller's allocation; neither advice changes contents.
    unsafe {
        madvise(start as *mut c_void, end - start, MADV_HUGEPAGE);
        // A page that is zeroed by its first touch lies in the cache, where stores past the caches are slow: 64 MiB
        // cost 16 ms more than memory that is there. Zeroed all before, they cost what the zeroing does.
        if bytes >= crate::stream::threshold() {
            let watch = crate::interrupt::Watch::current();
            for piece in (start..end).step_by(PIECE) {
                if watch.as_ref().is_some_and(|watch| watch.given_up()) {
                    return;
                }
                madvise(piece as *mut c_void, PIECE.min(end - piece), MADV_POPULATE_WRITE);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
unsafe fn advise(_: usize, _: usize) {}

#[cfg(test)]
mod tests {
    #[test]
    fn contents_stay() {
        let mut data = vec![0u8; super::LARGE + 12_345];
        data.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        // SAFETY: `data` is ours.
        unsafe { super::prefer_huge(data.as_ptr() as usize, data.len()) };
        assert!(data.iter().enumerate().all(|(i, b)| *b == i as u8));
    }
}
