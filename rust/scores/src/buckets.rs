//! A bucket of numbers near each other, put in order without comparing all.
//!
//! ```text
//! spread: write the items by the next bits of their places (a counting sort): only few share those
//! settle: an item's rank = where it was written + smaller ones of the next few - greater ones of the last few
//! ```
//!
//! Those that share the bits lie side by side, so that `few` is the most that share them. Ranks are sums of comparisons,
//! 16 items at a time, without a branch.

use crate::keys::{begin, put};
use dither_cpu::dispatch;

/// An item compares with at most so many on either side; where more share their bits, the bucket is to be sorted.
pub const REACH: usize = 16;

/// Items compared at a time.
const LANES: usize = 16;

/// The most bits by which a bucket is spread: their counts fit the nearest cache.
const MOST_BITS: u32 = 12;

/// A number's place in its bucket above its position in the array.
pub trait Item: Copy + Ord {
    const LEAST: Self;
    const GREATEST: Self;
    /// `place`: from the highest bit on; what does not fit is cut off.
    fn new(place: u32, position: u32) -> Self;
    fn position(self) -> u32;
    /// The highest bits of the place.
    fn highest(self, bits: u32) -> usize;
    /// Bits that differ.
    fn differ(self, other: Self) -> Self;
    /// The least difference of two places.
    const STEP: Self;
}

/// Of arrays of at most 2^16 numbers, for places of 16 bits: half the memory.
impl Item for u32 {
    const LEAST: u32 = 0;
    const GREATEST: u32 = u32::MAX;
    const STEP: u32 = 1 << 16;
    #[inline(always)]
    fn new(place: u32, position: u32) -> u32 {
        place & 0xffff_0000 | position
    }
    #[inline(always)]
    fn position(self) -> u32 {
        self & 0xffff
    }
    #[inline(always)]
    fn highest(self, bits: u32) -> usize {
        (self >> (32 - bits)) as usize
    }
    #[inline(always)]
    fn differ(self, other: u32) -> u32 {
        self ^ other
    }
}

impl Item for u64 {
    const LEAST: u64 = 0;
    const GREATEST: u64 = u64::MAX;
    const STEP: u64 = 1 << 32;
    #[inline(always)]
    fn new(place: u32, position: u32) -> u64 {
        u64::from(place) << 32 | u64::from(position)
    }
    #[inline(always)]
    fn position(self) -> u32 {
        self as u32
    }
    #[inline(always)]
    fn highest(self, bits: u32) -> usize {
        (self >> (64 - bits)) as usize
    }
    #[inline(always)]
    fn differ(self, other: u64) -> u64 {
        self ^ other
    }
}

/// The memory of one bucket at a time.
pub struct Room<I> {
    /// The items as they were spread, between REACH of the least and the greatest.
    items: Vec<I>,
    counts: Vec<u32>,
    /// The rank of every item in its bucket, from 0.
    ranks: Vec<u32>,
    /// Items that share their place with a later one (or are at the last place of all).
    near: Vec<u32>,
    sorted: Vec<I>,
    /// How many items there are, and the most that share their bits.
    count: usize,
    most: usize,
}

impl<I> Default for Room<I> {
    fn default() -> Room<I> {
        Room { items: vec![], counts: vec![], ranks: vec![], near: vec![], sorted: vec![], count: 0, most: 0 }
    }
}

impl<I: Item> Room<I> {
    /// Spread a bucket and settle its ranks; false where many share their bits or places, and [`Room::sorted`] tells the
    /// order.
    pub fn take(&mut self, bucket: &[I]) -> bool {
        let room = bucket.len() + 2 * REACH + LANES;
        if self.items.len() < room {
            self.items.resize(room, I::LEAST);
            self.ranks.resize(room, 0);
            self.counts.resize(1 << MOST_BITS, 0);
        }
        take(self, bucket);
        self.most <= REACH && self.near.len() <= bucket.len() / 8
    }

    /// The position of every item, and its rank.
    pub fn ranked(&self) -> impl Iterator<Item = (u32, u32)> {
        self.spread().iter().zip(&self.ranks).map(|(item, rank)| (item.position(), *rank))
    }

    fn spread(&self) -> &[I] {
        &self.items[REACH..REACH + self.count]
    }

    /// The positions of those that share their place, and the rank of the first.
    pub fn shared(&self) -> impl Iterator<Item = (impl Iterator<Item = u32>, u32)> {
        let spread = self.spread();
        let same = |i: usize, item: &I| item.differ(spread[i]) < I::STEP;
        let first = move |i: &usize| !spread[i.saturating_sub(self.most)..*i].iter().any(|item| same(*i, item));
        self.near.iter().map(|i| *i as usize).filter(first).map(move |i| {
            let after = spread[i..self.count.min(i + self.most)].iter().filter(move |item| same(i, item));
            (after.map(|item| item.position()), self.ranks[i])
        })
    }

    /// The items in order.
    pub fn sorted(&mut self) -> &[I] {
        let items = &mut self.items[REACH..REACH + self.count];
        if self.most > REACH {
            items.sort_unstable(); // no two are equal: they tell positions
            return items;
        }
        self.sorted.resize(self.count, I::LEAST);
        for (item, rank) in items.iter().zip(&self.ranks) {
            self.sorted[*rank as usize] = *item;
        }
        &self.sorted
    }
}

#[inline(always)]
fn take_body<I: Item>(room: &mut Room<I>, bucket: &[I]) {
    let n = bucket.len();
    // About two items share their bits: counts cost as much as comparisons do.
    let bits = (usize::BITS - n.leading_zeros()).saturating_sub(1).clamp(1, MOST_BITS);
    let counts: &mut [u32; 1 << MOST_BITS] = (&mut *room.counts).try_into().expect("as many");
    counts[..1 << bits].fill(0);
    for item in bucket {
        counts[item.highest(bits) % (1 << MOST_BITS)] += 1;
    }
    (room.count, room.most) = (n, counts[..1 << bits].iter().fold(0, |most, count| most.max(*count)) as usize);
    begin(&mut counts[..1 << bits], REACH as u32);
    let items = &mut room.items[..n + 2 * REACH + LANES];
    for item in bucket {
        // SAFETY: there is room for as many items as were counted behind the first REACH.
        unsafe { put(*item, &mut counts[item.highest(bits) % (1 << MOST_BITS)], items) };
    }
    items[REACH + n..].fill(I::GREATEST);
    room.near.clear();
    if room.most > REACH {
        return;
    }
    let ranks = &mut room.ranks[..n.next_multiple_of(LANES)];
    for (chunk, ranks) in ranks.chunks_exact_mut(LANES).enumerate() {
        let start = chunk * LANES;
        let at = |i: usize| -> &[I; LANES] { items[i..i + LANES].try_into().expect("as long") };
        let own = at(REACH + start);
        let (mut rank, mut nearest) = ([0u32; LANES], [I::GREATEST; LANES]);
        for far in 1..room.most {
            let (after, before) = (at(REACH + start + far), at(REACH + start - far));
            for i in 0..LANES {
                rank[i] =
                    rank[i].wrapping_add(u32::from(own[i] > after[i])).wrapping_sub(u32::from(before[i] > own[i]));
                nearest[i] = nearest[i].min(own[i].differ(after[i]));
            }
        }
        for i in 0..LANES {
            ranks[i] = rank[i].wrapping_add((start + i) as u32);
        }
        if nearest.iter().fold(false, |any, one| any | (*one < I::STEP)) {
            room.near.extend((start..n).zip(nearest).filter(|(_, one)| *one < I::STEP).map(|(i, _)| i as u32));
        }
    }
}

dispatch! { fn take[I: Item](room: &mut Room<I>, bucket: &[I]) = take_body; }

#[cfg(test)]
mod tests {
    use super::{Item, REACH, Room};

    /// Whether ranks were settled by comparison.
    fn check<I: Item + std::fmt::Debug>(places: &[u32]) -> bool {
        let bucket: Vec<I> = (0..).zip(places).map(|(i, place)| I::new(*place, i)).collect();
        let mut expected = bucket.clone();
        expected.sort();
        let mut room = Room::default();
        let settled = room.take(&bucket);
        if settled {
            let mut found = vec![u32::MAX; bucket.len()];
            room.ranked().for_each(|(position, rank)| found[rank as usize] = position);
            assert_eq!(found, expected.iter().map(|item| item.position()).collect::<Vec<_>>());
            assert!(room.most <= REACH && room.near.len() <= bucket.len() / 8, "the work for an item is bounded");
            let shared: Vec<(Vec<u32>, u32)> =
                room.shared().map(|(positions, rank)| (positions.collect(), rank)).collect();
            let runs = expected.chunk_by(|a, b| a.differ(*b) < I::STEP).filter(|run| run.len() > 1);
            assert_eq!(shared.iter().filter(|(positions, _)| positions.len() > 1).count(), runs.count());
        }
        assert_eq!(room.sorted(), expected);
        settled
    }

    #[test]
    fn buckets_are_put_in_order() {
        let mut state = 3u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        for n in [1, 2, 3, 15, 16, 17, 63, 64, 65, 200, 1000, 6000] {
            let even: Vec<u32> = (0..n).map(|_| next() & 0xffff_0000).collect();
            assert!(check::<u32>(&even) && check::<u64>(&even), "{n}");
            let last: Vec<u32> = even.iter().map(|place| place | 0xfff0_0000).collect();
            let _ = (check::<u32>(&last), check::<u64>(&last));
        }
    }

    #[test]
    fn items_that_share_their_bits_are_sorted_instead() {
        for n in [REACH + 1, 1000, 60_000] {
            let near: Vec<u32> = (0..n as u32).rev().map(|i| 0x4000_0000 + (i << 8)).collect();
            assert!(!check::<u32>(&near) && !check::<u64>(&near));
            assert!(!check::<u32>(&vec![7 << 16; n]) && !check::<u64>(&vec![7; n]));
        }
        assert!(check::<u64>(&[7; 1]));
    }
}
