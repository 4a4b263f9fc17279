//! Sorting by the upper 32 bits of numbers in three passes: for arrays that are too uneven for [`crate::buckets`].

use crate::buckets::Item;
use crate::places::Number;

/// Bits that one pass sorts by, and the passes that 32 bits need.
const DIGIT: u32 = 11;
const PASSES: usize = 3;

/// Memory of the sort.
#[derive(Default)]
pub struct Keys {
    items: Vec<u64>,
    spare: Vec<u64>,
}

impl Keys {
    /// The items in order of their keys; those that share one by position.
    pub fn sort<T: Number>(&mut self, x: &[T]) -> &[u64] {
        self.items.clear();
        self.items.extend((0..).zip(x).map(|(i, x)| u64::new(x.key(), i)));
        self.spare.resize(x.len(), 0);
        let mut counts = [[0; 1 << DIGIT]; PASSES];
        for item in &self.items {
            for (pass, counts) in counts.iter_mut().enumerate() {
                counts[digit(*item, pass)] += 1;
            }
        }
        for (pass, counts) in counts.iter_mut().enumerate() {
            if counts.iter().any(|c| *c as usize == x.len()) {
                continue; // all share this digit
            }
            begin(counts, 0);
            for item in &self.items {
                // SAFETY: `spare` is as long as the items, whose digits were counted.
                unsafe { put(*item, &mut counts[digit(*item, pass)], &mut self.spare) };
            }
            std::mem::swap(&mut self.items, &mut self.spare);
        }
        &self.items
    }
}

#[inline(always)]
fn digit(item: u64, pass: usize) -> usize {
    (item >> (32 + pass as u32 * DIGIT)) as usize % (1 << DIGIT)
}

/// Counts become the places where what was counted begins; the first at `first`.
#[inline(always)]
pub fn begin(counts: &mut [u32], first: u32) {
    let mut place = first;
    for count in counts {
        place += std::mem::replace(count, place);
    }
}

/// Write an item where those of its kind begin, which is then one further.
///
/// # Safety
/// `out` has room at `place`: it has it for all that were counted.
#[inline(always)]
pub unsafe fn put<I: Copy>(item: I, place: &mut u32, out: &mut [I]) {
    // SAFETY: the caller's contract.
    unsafe { *out.get_unchecked_mut(*place as usize) = item };
    *place += 1;
}
