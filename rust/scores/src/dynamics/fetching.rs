//! What a batch will read and write is asked for before its turn: memory answers while others are worked on.

use super::columns::TOGETHER;
use super::{Histories, Visits};

/// Visits between asking for a record and writing it.
pub const AHEAD: usize = 48;

/// Ask for an element; it lies in one line of the cache.
#[inline(always)]
fn fetch<T>(elements: &[T], index: i64) {
    #[cfg(target_arch = "x86_64")]
    if let Some(element) = usize::try_from(index).ok().and_then(|i| elements.get(i)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, and the address is an element's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast::<i8>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (elements, index);
}

/// The records, and what else the batch will write to, of the visits from `start` on, eight at most.
#[inline(always)]
pub fn ask(histories: &Histories, visits: &Visits, start: usize) {
    let others = visits.others.iter().any(Option::is_some);
    let end = visits.index.len().min(start + TOGETHER);
    for index in visits.index.get(start..end).unwrap_or_default() {
        fetch(histories.records, *index);
        if others {
            fetch(histories.rest, *index);
        }
    }
}

/// The first lines of all columns at once: each may be an array of its own, and the processor follows one only after it
/// was waited for.
#[inline(always)]
pub fn ask_columns(visits: &Visits) {
    const LINE: usize = 8;
    for place in (0..4 * LINE).step_by(LINE) {
        fetch(visits.index, place as i64);
        let [p, correct] = [visits.confidence, visits.correct].map(Some);
        for values in [p, correct, visits.margin].into_iter().chain(visits.others).flatten() {
            fetch(values, place as i64);
        }
    }
}
