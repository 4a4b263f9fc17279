//! Positions in the order of their numbers, by radix sort. No number is NaN; both zeros are equal.
//!
//! The upper 32 bits of a number are its key: all of an fp32 number, and nearly always enough to order fp64. Where fp64
//! numbers share them, they are ordered among themselves afterwards.

/// Bits that one pass sorts by, and the passes that 32 bits need.
const DIGIT: u32 = 11;
const BUCKETS: usize = 1 << DIGIT;
const PASSES: usize = 3;

/// Numbers that can be sorted.
pub trait Number: Copy + PartialOrd {
    /// An integer of the same order, but for numbers too near to tell apart.
    fn key(self) -> u32;
    /// Whether numbers of one key are equal.
    const EXACT: bool;
}

impl Number for f32 {
    const EXACT: bool = true;
    #[inline(always)]
    fn key(self) -> u32 {
        let bits = (self + 0.0).to_bits();
        bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
    }
}

impl Number for f64 {
    const EXACT: bool = false;
    #[inline(always)]
    fn key(self) -> u32 {
        let bits = (self + 0.0).to_bits();
        ((bits ^ if bits >> 63 == 1 { u64::MAX } else { 1 << 63 }) >> 32) as u32
    }
}

/// A key above a position.
#[inline(always)]
fn digit(item: u64, pass: usize) -> usize {
    (item >> (32 + pass as u32 * DIGIT)) as usize % BUCKETS
}

/// The position of a sorted item.
#[inline(always)]
pub fn position(item: u64) -> usize {
    item as u32 as usize
}

/// Memory of a sort, kept from one array to the next.
#[derive(Default)]
pub struct Sorter {
    items: Vec<u64>,
    spare: Vec<u64>,
}

impl Sorter {
    pub const fn new() -> Sorter {
        Sorter { items: Vec::new(), spare: Vec::new() }
    }

    /// Items in ascending order, equal numbers by position; [`position`] tells where each is. At most 2^32 numbers.
    pub fn sort<T: Number>(&mut self, x: &[T]) -> &[u64] {
        let mut counts = [[0u32; BUCKETS]; PASSES];
        self.items.clear();
        self.items.extend(x.iter().enumerate().map(|(i, x)| u64::from(x.key()) << 32 | i as u64));
        for item in &self.items {
            for (pass, counts) in counts.iter_mut().enumerate() {
                counts[digit(*item, pass)] += 1;
            }
        }
        self.spare.resize(x.len(), 0);
        for (pass, counts) in counts.iter_mut().enumerate() {
            if counts.iter().any(|c| *c as usize == x.len()) {
                continue; // all share this digit
            }
            let mut place = 0;
            for count in counts.iter_mut() {
                place += std::mem::replace(count, place);
            }
            for item in &self.items {
                let place = &mut counts[digit(*item, pass)];
                self.spare[*place as usize] = *item;
                *place += 1;
            }
            std::mem::swap(&mut self.items, &mut self.spare);
        }
        if !T::EXACT {
            for near in self.items.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|near| near.len() > 1) {
                let value = |item: &u64| x[position(*item)];
                near.sort_by(|a, b| value(a).partial_cmp(&value(b)).expect("no NaN"));
            }
        }
        &self.items
    }
}

/// Call `f(start, end)` for every run of equal numbers among the sorted items of `x`.
pub fn runs<T: Number>(sorted: &[u64], x: &[T], mut f: impl FnMut(usize, usize)) {
    let mut start = 0;
    for end in 1..=sorted.len() {
        if end == sorted.len() || x[position(sorted[end])] != x[position(sorted[start])] {
            f(start, end);
            start = end;
        }
    }
}
