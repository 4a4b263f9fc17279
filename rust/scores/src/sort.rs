//! Numbers in order, by buckets. Both zeros are equal.
//!
//! Most arrays are spread evenly enough over their range: a number's place in it says which of some hundred buckets it
//! goes to, and [`crate::buckets`] orders each in the nearest cache. Else numbers are sorted by their upper 32 bits
//! ([`crate::keys`]). Numbers that share a place or a key are ordered among themselves afterwards.

use crate::buckets::{Item, Room};
use crate::keys::{Keys, begin, put};
use crate::order::{Listener, Nan, Order, Teller};
use crate::places::{Found, Number, places};
use dither_cpu::dispatch;

/// Numbers of a bucket if all hold as many, and the most buckets, as powers of two: a bucket lies in the nearest cache,
/// and so do the ends of all, where they are written.
const FULL: u32 = 8;
const MOST: u32 = 11;

/// A bucket that holds more than one of so many numbers should be spread better itself: of a sample of so many numbers,
/// no part of its range may hold as many of those in it.
const CROWD: usize = 4;
const SAMPLE: usize = 512;

/// Memory of a sort, kept from one array to the next.
#[derive(Default)]
pub struct Sorter {
    places: Vec<u32>,
    narrow: Buckets<u32>,
    wide: Buckets<u64>,
    keys: Keys,
    shared: Vec<u32>,
}

impl Sorter {
    /// The order of at most 2^31 numbers.
    pub fn sort<T: Number>(&mut self, x: &[T], order: &mut Order) -> Result<(), Nan> {
        order.positions.resize(x.len(), 0);
        order.ties.clear();
        self.tell(x, order)?;
        order.ties.sort_unstable();
        Ok(())
    }

    /// Tell where each of at most 2^31 numbers is.
    pub fn tell<T: Number>(&mut self, x: &[T], listener: &mut impl Listener) -> Result<(), Nan> {
        self.places.resize(x.len(), 0);
        let even = match places(x, &mut self.places) {
            Found::Nan => return Err(Nan),
            Found::NoRange => false,
            Found::Places if x.len() <= 1 << 16 => self.narrow.take(&self.places),
            Found::Places => self.wide.take(&self.places),
        };
        let mut teller = Teller { x, positions: &mut self.shared, listener };
        match even {
            false => teller.sorted(self.keys.sort(x), 0),
            true if x.len() <= 1 << 16 => self.narrow.tell(&mut teller),
            true => self.wide.tell(&mut teller),
        }
        Ok(())
    }
}

/// Items by bucket.
struct Buckets<I> {
    items: Vec<I>,
    ends: Vec<u32>,
    room: Room<I>,
}

impl<I> Default for Buckets<I> {
    fn default() -> Buckets<I> {
        Buckets { items: Vec::new(), ends: Vec::new(), room: Room::default() }
    }
}

impl<I: Item> Buckets<I> {
    /// Put numbers of these places into buckets. False, and nothing was done, where too many crowd in one.
    fn take(&mut self, places: &[u32]) -> bool {
        self.items.resize(places.len(), I::LEAST);
        fill(places, &mut self.items, &mut self.ends)
    }

    fn tell<T: Number>(&mut self, teller: &mut Teller<'_, T, impl Listener>) {
        let mut start = 0;
        for end in &self.ends {
            let bucket = &self.items[start as usize..*end as usize];
            match bucket {
                [] => {}
                [item] => teller.listener.one(item.position(), start),
                _ if self.room.take(bucket) => {
                    for (position, rank) in self.room.ranked() {
                        teller.listener.one(position, start + rank);
                    }
                    for (positions, rank) in self.room.shared() {
                        teller.shared(positions, start + rank);
                    }
                }
                _ => teller.sorted(self.room.sorted(), start),
            }
            start = *end;
        }
    }
}

#[inline(always)]
fn fill_body<I: Item>(places: &[u32], items: &mut [I], ends: &mut Vec<u32>) -> bool {
    let n = places.len();
    let bits = (usize::BITS - n.leading_zeros()).saturating_sub(FULL).clamp(1, MOST);
    let bucket = |place: u32| (place >> (32 - bits)) as usize % (1 << MOST);
    // Neighbours count apart: of numbers that are alike, one would wait for the other.
    let mut counts = [[0u32; 1 << MOST]; 2];
    let pairs = places.chunks_exact(2);
    pairs.remainder().iter().for_each(|place| counts[0][bucket(*place)] += 1);
    for pair in pairs {
        counts[0][bucket(pair[0])] += 1;
        counts[1][bucket(pair[1])] += 1;
    }
    let [mut counts, others] = counts;
    for (count, other) in counts.iter_mut().zip(others).take(1 << bits) {
        *count += other;
    }
    let most = (0..1 << bits).max_by_key(|bucket| counts[*bucket]).expect("some bucket");
    if counts[most] as usize > n / CROWD {
        let sample = places.iter().step_by(n.div_ceil(SAMPLE)).filter(|place| bucket(**place) == most);
        if crowded(sample.map(|place| place << bits)) {
            return false;
        }
    }
    begin(&mut counts[..1 << bits], 0);
    for (i, place) in places.iter().enumerate() {
        // SAFETY: there are as many items as places, whose buckets were counted.
        unsafe { put(I::new(place << bits, i as u32), &mut counts[bucket(*place)], items) };
    }
    ends.clear();
    ends.extend_from_slice(&counts[..1 << bits]);
    true
}

/// Whether too many places lie in one of 256 parts of their range.
fn crowded(places: impl Iterator<Item = u32>) -> bool {
    let (mut counts, mut all) = ([0usize; 256], 0);
    for place in places {
        counts[(place >> 24) as usize] += 1;
        all += 1;
    }
    counts.iter().any(|count| *count > all / CROWD + 1)
}

dispatch! {
    /// Items by bucket, and where each ends. False, and no items, where too many crowd in one.
    fn fill[I: Item](places: &[u32], items: &mut [I], ends: &mut Vec<u32>) -> bool = fill_body;
}

#[cfg(test)]
mod tests {
    use super::{Nan, Number, Order, Sorter};
    use dither_cpu::simd::{Level, limit};

    /// Positions as the library's stable sort has them.
    fn check<T: Number>(x: &[T]) {
        let mut expected: Vec<usize> = (0..x.len()).collect();
        expected.sort_by(|a, b| x[*a].partial_cmp(&x[*b]).expect("no NaN"));
        let mut order = Order::default();
        Sorter::default().sort(x, &mut order).expect("no NaN");
        let found: Vec<usize> = order.positions.iter().map(|position| *position as usize).collect();
        assert_eq!(found, expected);
        let mut ties = Vec::new();
        for start in 0..x.len() {
            let end = (start..x.len()).take_while(|i| x[found[*i]] == x[found[start]]).count() + start;
            if end > start + 1 && (start == 0 || x[found[start - 1]] != x[found[start]]) {
                ties.push((start as u32, end as u32));
            }
        }
        assert_eq!(order.ties, ties);
    }

    fn numbers() -> impl FnMut() -> f64 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn check_kinds(even: &[f64]) {
        let kinds: [Vec<f64>; 9] = [
            even.to_vec(),
            even.iter().map(|x| (x * 9.0).round()).collect(), // many equal
            even.iter().map(|x| (x * 60.0).exp()).collect(),  // crowded at one end
            even.iter().map(|x| 1.0 + x * 1e-13).collect(),   // nearly equal
            even.iter().map(|x| (x * 3e3).round() / 3e3).collect(), // even, with equals
            even.iter().map(|x| x.floor() * 1e4 + x).collect(), // two crowds far apart
            even.iter().map(|x| if *x > 0.49 { x * 1e9 } else { *x }).collect(), // few that are far
            even.iter().map(|x| if *x > 0.4 { f64::INFINITY } else { *x }).collect(),
            even.iter().map(|x| x * 1e-310).collect(), // subnormal
        ];
        for x in kinds {
            check(&x);
            check(&x.iter().map(|x| *x as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn arrays_of_every_kind_are_sorted_stably() {
        let mut next = numbers();
        for n in [0, 1, 2, 3, 15, 16, 17, 100, 255, 256, 257, 511, 512, 513, 5000, 40_000] {
            check_kinds(&(0..n).map(|_| next() - 0.5).collect::<Vec<_>>());
        }
        check(&[0.0, -0.0, 1.0, -0.0, 0.0]);
        check(&[f64::MAX, -f64::MAX, 0.0]);
        check(&[5e-324, 0.0, 1e-323]);
        check(&[1e-45f32, 0.0]);
        check(&[f64::NEG_INFINITY, f64::INFINITY, f64::NEG_INFINITY, 1.0]);
    }

    #[test]
    fn positions_beyond_16_bits_are_told() {
        let mut next = numbers();
        for n in [(1 << 16) - 1, 1 << 16, (1 << 16) + 1, 300_000] {
            let even: Vec<f64> = (0..n).map(|_| next()).collect();
            check(&even);
            check(&even.iter().map(|x| (x * 2e4).round()).collect::<Vec<_>>());
        }
    }

    /// Order that a place follows, or its opposite, and places so that one part after another holds nearly all.
    #[test]
    fn orders_made_to_be_bad_are_sorted() {
        let n = 30_000;
        check(&(0..n).map(f64::from).collect::<Vec<_>>());
        check(&(0..n).rev().map(f64::from).collect::<Vec<_>>());
        check(&(0..n).map(|i| f64::from(i % 100) * (-f64::from(i % 64)).exp2()).collect::<Vec<_>>());
        check(&(0..n).map(|i| f64::from(u32::from(i % 97 == 0)) + f64::from(i * 7919 % n) * 1e-12).collect::<Vec<_>>());
    }

    #[test]
    fn every_instruction_set_gives_the_same_order() {
        let mut next = numbers();
        let even: Vec<f64> = (0..20_000).map(|_| next() - 0.5).collect();
        for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
            limit(level);
            check_kinds(&even);
        }
    }

    #[test]
    fn nan_has_no_place() {
        for n in [1, 2, 17, 1000] {
            for at in [0, n / 2, n - 1] {
                let mut x = vec![1.0f32; n];
                x[at] = -f32::NAN;
                assert_eq!(Sorter::default().sort(&x, &mut Order::default()), Err(Nan));
            }
        }
    }
}
