//! Positions in the order of their numbers, by radix sort. No number is NaN; both zeros are equal.

/// Bits that one pass sorts by.
const DIGIT: u32 = 11;
const BUCKETS: usize = 1 << DIGIT;

/// A number as an integer of the same order, with its position.
pub trait Item: Copy + Default {
    /// Passes that a key needs.
    const PASSES: u32;
    fn key(self) -> u64;
    fn position(self) -> usize;
}

/// An fp32 number: the key above, the position below.
#[derive(Clone, Copy, Default)]
pub struct Narrow(u64);

/// An fp64 number.
#[derive(Clone, Copy, Default)]
pub struct Wide(u64, u32);

impl From<(usize, f32)> for Narrow {
    #[inline(always)]
    fn from((position, x): (usize, f32)) -> Narrow {
        let bits = (x + 0.0).to_bits();
        let key = bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
        Narrow(u64::from(key) << 32 | position as u64)
    }
}

impl From<(usize, f64)> for Wide {
    #[inline(always)]
    fn from((position, x): (usize, f64)) -> Wide {
        let bits = (x + 0.0).to_bits();
        Wide(bits ^ if bits >> 63 == 1 { u64::MAX } else { 1 << 63 }, position as u32)
    }
}

impl Item for Narrow {
    const PASSES: u32 = 3;
    #[inline(always)]
    fn key(self) -> u64 {
        self.0 >> 32
    }
    #[inline(always)]
    fn position(self) -> usize {
        self.0 as u32 as usize
    }
}

impl Item for Wide {
    const PASSES: u32 = 6;
    #[inline(always)]
    fn key(self) -> u64 {
        self.0
    }
    #[inline(always)]
    fn position(self) -> usize {
        self.1 as usize
    }
}

/// Memory of a sort, kept from one array to the next.
pub struct Sorter<T> {
    items: Vec<T>,
    spare: Vec<T>,
    counts: Vec<[u32; BUCKETS]>,
}

impl<T> Default for Sorter<T> {
    fn default() -> Sorter<T> {
        Sorter { items: Vec::new(), spare: Vec::new(), counts: Vec::new() }
    }
}

impl<T: Item> Sorter<T> {
    /// Ascending; equal numbers by position.
    pub fn sort<X>(&mut self, x: impl Iterator<Item = X>) -> &[T]
    where
        T: From<(usize, X)>,
    {
        self.items.clear();
        self.items.extend(x.enumerate().map(T::from));
        let n = self.items.len();
        self.counts.clear();
        self.counts.resize(T::PASSES as usize, [0; BUCKETS]);
        let digit = |item: T, pass: u32| (item.key() >> (pass * DIGIT)) as usize % BUCKETS;
        for item in &self.items {
            for pass in 0..T::PASSES {
                self.counts[pass as usize][digit(*item, pass)] += 1;
            }
        }
        self.spare.resize(n, T::default());
        for pass in 0..T::PASSES {
            let counts = &mut self.counts[pass as usize];
            if counts.iter().any(|c| *c as usize == n) {
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
        &self.items
    }
}

/// Call `f(start, end)` for every run of equal numbers.
pub fn runs<T: Item>(sorted: &[T], mut f: impl FnMut(usize, usize)) {
    let mut start = 0;
    for end in 1..=sorted.len() {
        if end == sorted.len() || sorted[end].key() != sorted[start].key() {
            f(start, end);
            start = end;
        }
    }
}
