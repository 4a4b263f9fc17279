//! Positions in the order of their numbers, by radix sort. No number is NaN; both zeros are equal.
//!
//! Most arrays are spread evenly enough over their range: a number's place in it, of 22 bits, sorts in two passes. Else
//! the upper 32 bits of a number are its key: all of an fp32 number, and nearly always enough to order fp64. Numbers
//! that share a place or a key are ordered among themselves afterwards.

use dither_cpu::dispatch;

/// Bits that one pass sorts by, and the passes that 32 bits need.
const DIGIT: u32 = 11;
const BUCKETS: usize = 1 << DIGIT;
const PASSES: usize = 3;

/// The greatest place in the range.
const LAST: f32 = ((1u32 << (2 * DIGIT)) - 1) as f32;

/// Arrays are sorted by place if no 2048th of their range holds more than one of so many numbers.
const CROWD: usize = 16;

/// Numbers that can be sorted.
pub trait Number: Copy + PartialOrd {
    /// An integer of the same order, but for numbers too near to tell apart.
    fn key(self) -> u32;
    /// Whether numbers of one key are equal.
    const EXACT: bool;
    /// The least and the greatest number, and what stretches their distance to LAST; None where it is not finite.
    fn range(x: &[Self]) -> Option<(Self, Self)>;
    /// Where the number lies in the range that starts at `low`; numbers in order have places in order.
    ///
    /// # Safety
    /// `low` and `scale` are those of [`Number::range`] of numbers that this one is among.
    unsafe fn place(self, low: Self, scale: Self) -> u32;
}

macro_rules! places {
    ($kind:ty) => {
        #[inline(always)]
        fn range(x: &[$kind]) -> Option<($kind, $kind)> {
            const LANES: usize = 16;
            let (mut low, mut high) = ([<$kind>::INFINITY; LANES], [<$kind>::NEG_INFINITY; LANES]);
            for chunk in x.chunks(LANES) {
                // The last ones stand for the lanes that are left.
                let mut last = [chunk[0]; LANES];
                let all: &[$kind; LANES] = match chunk.try_into() {
                    Ok(all) => all,
                    Err(_) => {
                        last[..chunk.len()].copy_from_slice(chunk);
                        &last
                    }
                };
                for i in 0..LANES {
                    low[i] = if all[i] < low[i] { all[i] } else { low[i] };
                    high[i] = if all[i] > high[i] { all[i] } else { high[i] };
                }
            }
            let low = low.iter().fold(<$kind>::INFINITY, |a, b| a.min(*b));
            let scale = <$kind>::from(LAST) / (high.iter().fold(<$kind>::NEG_INFINITY, |a, b| a.max(*b)) - low);
            (scale > 0.0 && scale.is_finite()).then_some((low, scale))
        }

        #[inline(always)]
        unsafe fn place(self, low: $kind, scale: $kind) -> u32 {
            // SAFETY: the product lies between 0 and LAST, give or take a rounding.
            unsafe { ((self - low) * scale).to_int_unchecked::<i32>() as u32 }
        }
    };
}

impl Number for f32 {
    places!(f32);
    const EXACT: bool = true;
    #[inline(always)]
    fn key(self) -> u32 {
        let bits = (self + 0.0).to_bits();
        bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
    }
}

impl Number for f64 {
    places!(f64);
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

#[inline(always)]
fn places_body<T: Number>(x: &[T], out: &mut [u32]) -> bool {
    let Some((low, scale)) = T::range(x) else { return false };
    for (place, x) in out.iter_mut().zip(x) {
        // SAFETY: range and scale are those of x.
        *place = unsafe { x.place(low, scale) };
    }
    true
}

dispatch! {
    /// The places of numbers in their range. False where that is not finite, or nothing.
    fn places[T: Number](x: &[T], out: &mut [u32]) -> bool = places_body;
}

/// The counts of a digit become the places where its items begin.
fn begin(counts: &mut [u32; BUCKETS]) {
    let mut place = 0;
    for count in counts {
        place += std::mem::replace(count, place);
    }
}

/// # Safety
/// `begins` are those of as many items as `out` has, this one among them.
#[inline(always)]
unsafe fn put(item: u64, pass: usize, begins: &mut [u32; BUCKETS], out: &mut [u64]) {
    let place = &mut begins[digit(item, pass)];
    // SAFETY: every item that was counted has a place of its own in `out`.
    unsafe { *out.get_unchecked_mut(*place as usize) = item };
    *place += 1;
}

/// Memory of a sort, kept from one array to the next.
#[derive(Default)]
pub struct Sorter {
    items: Vec<u64>,
    spare: Vec<u64>,
    places: Vec<u32>,
}

impl Sorter {
    pub const fn new() -> Sorter {
        Sorter { items: Vec::new(), spare: Vec::new(), places: Vec::new() }
    }

    /// Items in ascending order, equal numbers by position; [`position`] tells where each is. At most 2^32 numbers.
    pub fn sort<T: Number>(&mut self, x: &[T]) -> &[u64] {
        self.spare.resize(x.len(), 0);
        if self.by_place(x) || !self.by_key(x) {
            self.order_within(x);
        }
        &self.items
    }

    /// Sort by the place in the range. False, and nothing was done, where too many numbers crowd in one.
    fn by_place<T: Number>(&mut self, x: &[T]) -> bool {
        self.places.resize(x.len(), 0);
        if !places(x, &mut self.places) {
            return false;
        }
        let [mut low, mut high] = [[0u32; BUCKETS]; 2];
        for place in &self.places {
            low[*place as usize % BUCKETS] += 1;
            high[(*place >> DIGIT) as usize % BUCKETS] += 1;
        }
        if high.iter().any(|count| *count as usize > x.len() / CROWD) {
            return false;
        }
        begin(&mut low);
        begin(&mut high);
        self.items.resize(x.len(), 0);
        for (i, place) in self.places.iter().enumerate() {
            // SAFETY: `spare` is as long as the places, whose digits were counted.
            unsafe { put(u64::from(*place) << 32 | i as u64, 0, &mut low, &mut self.spare) };
        }
        for item in &self.spare {
            // SAFETY: as above, for the items.
            unsafe { put(*item, 1, &mut high, &mut self.items) };
        }
        true
    }

    /// Sort by key. Says whether numbers of one key are equal.
    fn by_key<T: Number>(&mut self, x: &[T]) -> bool {
        let mut counts = [[0u32; BUCKETS]; PASSES];
        self.items.clear();
        self.items.extend(x.iter().enumerate().map(|(i, x)| u64::from(x.key()) << 32 | i as u64));
        for item in &self.items {
            for (pass, counts) in counts.iter_mut().enumerate() {
                counts[digit(*item, pass)] += 1;
            }
        }
        for (pass, counts) in counts.iter_mut().enumerate() {
            if counts.iter().any(|c| *c as usize == x.len()) {
                continue; // all share this digit
            }
            begin(counts);
            for item in &self.items {
                // SAFETY: `spare` is as long as the items, whose digits were counted.
                unsafe { put(*item, pass, counts, &mut self.spare) };
            }
            std::mem::swap(&mut self.items, &mut self.spare);
        }
        T::EXACT
    }

    /// Put the numbers that share a place or a key in order.
    fn order_within<T: Number>(&mut self, x: &[T]) {
        let value = |item: &u64| x[position(*item)];
        let mut start = 0;
        while let Some(found) = shared(&self.items, start) {
            let key = self.items[found] >> 32;
            let more = self.items[found..].iter().take_while(|item| **item >> 32 == key).count();
            let near = &mut self.items[found..found + more];
            if let [a, b] = near {
                if value(b) < value(a) {
                    std::mem::swap(a, b);
                }
            } else {
                near.sort_by(|a, b| value(a).partial_cmp(&value(b)).expect("no NaN"));
            }
            start = found + more;
        }
    }
}

#[inline(always)]
fn shared_body(items: &[u64], start: usize) -> Option<usize> {
    const BLOCK: usize = 16;
    let same = |i: usize| (items[i] ^ items[i + 1]) >> 32 == 0;
    let mut i = start;
    while i + BLOCK < items.len() {
        let (block, next) = (&items[i..i + BLOCK], &items[i + 1..i + 1 + BLOCK]);
        let mut any = false;
        for (a, b) in block.iter().zip(next) {
            any |= (a ^ b) >> 32 == 0;
        }
        if any {
            break;
        }
        i += BLOCK;
    }
    (i..items.len().max(1) - 1).find(|i| same(*i))
}

dispatch! {
    /// The first item from `start` on whose upper half the next item has too.
    fn shared(items: &[u64], start: usize) -> Option<usize> = shared_body;
}

/// Call `f(start, end)` for every run of equal numbers among the sorted items of `x`.
pub fn runs<T: Number>(sorted: &[u64], x: &[T], mut f: impl FnMut(usize, usize)) {
    let mut start = 0;
    // Equal numbers share a place or a key: only of those that do are the numbers fetched.
    let apart = |a: u64, b: u64| (a ^ b) >> 32 != 0 || x[position(a)] != x[position(b)];
    for end in 1..=sorted.len() {
        if end == sorted.len() || apart(sorted[end], sorted[start]) {
            f(start, end);
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Number, Sorter, position};

    /// Positions as the library's stable sort has them.
    fn check<T: Number>(x: &[T]) {
        let mut expected: Vec<usize> = (0..x.len()).collect();
        expected.sort_by(|a, b| x[*a].partial_cmp(&x[*b]).expect("no NaN"));
        let mut sorter = Sorter::new();
        let found: Vec<usize> = sorter.sort(x).iter().map(|item| position(*item)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn arrays_of_every_kind_are_sorted_stably() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for n in [0, 1, 2, 15, 16, 17, 100, 5000] {
            let even: Vec<f64> = (0..n).map(|_| next() - 0.5).collect();
            let kinds: [Vec<f64>; 6] = [
                even.clone(),
                even.iter().map(|x| (x * 9.0).round()).collect(), // many equal
                even.iter().map(|x| (x * 60.0).exp()).collect(),  // crowded at one end
                even.iter().map(|x| 1.0 + x * 1e-13).collect(),   // nearly equal
                even.iter().map(|x| (x * 3e3).round() / 3e3).collect(), // even, with equals
                even.iter().map(|x| if *x > 0.4 { f64::INFINITY } else { *x }).collect(),
            ];
            for x in kinds {
                check(&x);
                check(&x.iter().map(|x| *x as f32).collect::<Vec<_>>());
            }
        }
        check(&[0.0, -0.0, 1.0, -0.0, 0.0]);
        check(&[f64::MAX, -f64::MAX, 0.0]);
        check(&[5e-324, 0.0, 1e-323]);
        check(&[1e-45f32, 0.0]);
    }
}
