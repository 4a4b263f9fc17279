//! Philox4x32-10 over vectors.
//!
//! A round multiplies two of the four words by constants, 32 x 32 to 64 bits. The vector instruction for that takes the
//! low halves of 64-bit lanes, so a register holds one counter a 64-bit lane, whose high halves are never looked at: a
//! round is two products, two moves of their high halves, two three-way XORs. Even and odd counters live in two
//! registers a word, so that the last round interleaves them while it moves the halves.
//!
//! Three words of a tile's counters are the same in all lanes, and so is half of what the first two rounds make of them:
//! `Head` does that half once for 2^32 counters, and the products of the first round follow each other by addition.
//! Written with intrinsics because the compiler's own vectors of the portable loop (`philox`) take twice as long.
#![cfg(target_arch = "x86_64")]
// One contract for every method of the traits, stated there, as in `lanes`.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::bits::below;
use crate::philox::{LANES, MULTIPLIERS, Philox, Words, tile_len};
use crate::products::Products;
use std::arch::x86_64::{__m256i, __m512i};

/// What the first rounds make of the words that all counters with the same high half share.
#[derive(Clone, Copy)]
struct Head {
    /// The second key of the first round and the stream's high half.
    first: u32,
    /// Word 1 after the first round, with the first key of the second.
    second: u32,
    /// The product of word 0 in the second round: its halves, with the second keys of that round and the next.
    high: u32,
    low: u32,
}

impl Head {
    fn new(philox: &Philox, counter: u64) -> Head {
        let Philox { stream, keys } = philox;
        let product = |m: u32, word: u32| {
            let p = u64::from(m) * u64::from(word);
            [p as u32, (p >> 32) as u32]
        };
        let b = product(MULTIPLIERS[1], *stream as u32);
        let a = product(MULTIPLIERS[0], b[1] ^ (counter >> 32) as u32 ^ keys[0][0]);
        Head {
            first: (stream >> 32) as u32 ^ keys[0][1],
            second: b[0] ^ keys[1][0],
            high: a[1] ^ keys[1][1],
            low: a[0] ^ keys[2][1],
        }
    }
}

/// What is done between the rounds of Philox: each round waits for the one before, and other work fills the gaps.
pub trait Work {
    /// The step of this index.
    ///
    /// # Safety
    /// [`Products`]'s contract; every step comes once, in order.
    unsafe fn step(&mut self, i: usize);
}

/// Steps of work between the rounds of the counters of a register.
const BATCH: usize = 8;

impl Work for () {
    #[inline(always)]
    unsafe fn step(&mut self, _: usize) {}
}

/// The words of tiles that follow each other.
pub struct Tiles<'a, V> {
    philox: &'a Philox,
    /// Its keys in every lane.
    keys: [[V; 2]; 10],
    counter: u64,
    head: Head,
    /// Of the first round, for the next even and odd counters.
    products: [V; 2],
}

impl<'a, V: Products> Tiles<'a, V> {
    /// Steps of [`Work`] a tile.
    pub const STEPS: usize = BATCH * LANES / V::LANES;

    /// # Safety
    /// [`Products`]'s contract, as for `next`.
    #[inline(always)]
    pub unsafe fn new(philox: &'a Philox, tile: u64) -> Self {
        let counter = tile.wrapping_mul(LANES as u64);
        let m = u64::from(MULTIPLIERS[0]);
        let first = m * (counter & 0xffff_ffff);
        let products = [V::series(first, 2 * m), V::series(first + m, 2 * m)];
        let keys = philox.keys.map(|keys| keys.map(|key| V::splat(key)));
        Tiles { philox, keys, counter, head: Head::new(philox, counter), products }
    }

    /// Write the words of the next tile; `work` is done between the rounds, in [`Self::STEPS`] steps.
    #[inline(always)]
    pub unsafe fn next(&mut self, words: &mut Words, work: &mut impl Work) {
        self.batch(words, 0, work);
        if V::LANES < LANES {
            self.batch(words, V::LANES, work);
        }
        self.counter = self.counter.wrapping_add(LANES as u64);
        if self.counter as u32 == 0 {
            *self = Self::new(self.philox, self.counter / LANES as u64);
        }
    }

    /// The words of as many counters as a register has lanes, from lane `at` on. Without a loop: what is in registers
    /// stays there, and the processor sees rounds and work as one stream (1.5 times the speed).
    #[inline(always)]
    unsafe fn batch(&mut self, words: &mut Words, at: usize, work: &mut impl Work) {
        let m = [V::series(u64::from(MULTIPLIERS[0]), 0), V::series(u64::from(MULTIPLIERS[1]), 0)];
        let step = V::series(u64::from(MULTIPLIERS[0]) * V::LANES as u64, 0);
        let first = at / V::LANES * BATCH;
        let mut state = self.third(m);
        self.products = [self.products[0].add_wide(step), self.products[1].add_wide(step)];
        work.step(first);
        macro_rules! rounds {
            ($($round:literal)*) => {$(
                state = [advance(m, self.keys[$round], state[0]), advance(m, self.keys[$round], state[1])];
                work.step(first + $round - 2);
            )*};
        }
        rounds!(3 4 5 6 7 8);
        let made = self.last(m, state);
        for i in 0..4 {
            made[i].store(words[i].as_mut_ptr().add(at));
        }
        work.step(first + BATCH - 1);
    }

    /// The words of even and odd counters after the third round, from the products of the first.
    #[inline(always)]
    unsafe fn third(&self, m: [V; 2]) -> [[V; 4]; 2] {
        let head = &self.head;
        let mut even_odd = [[m[0]; 4]; 2];
        for (c, a) in even_odd.iter_mut().zip(self.products) {
            let b = a.high().xor(V::splat(head.first)).product(m[1]);
            let next = b.high().xor(V::splat(head.second)).product(m[0]);
            let last = a.xor(V::splat(head.high)).product(m[1]);
            *c = [last.high().xor3(b, self.keys[2][0]), last, next.high().xor(V::splat(head.low)), next];
        }
        even_odd
    }

    /// The last round, in the counters' order.
    #[inline(always)]
    unsafe fn last(&self, m: [V; 2], [even, odd]: [[V; 4]; 2]) -> [V; 4] {
        let key = self.keys[9];
        let a = [even[0].product(m[0]), odd[0].product(m[0])];
        let b = [even[2].product(m[1]), odd[2].product(m[1])];
        [
            V::highs(b[0], b[1]).xor3(V::lows(even[1], odd[1]), key[0]),
            V::lows(b[0], b[1]),
            V::highs(a[0], a[1]).xor3(V::lows(even[3], odd[3]), key[1]),
            V::lows(a[0], a[1]),
        ]
    }
}

/// A round.
///
/// # Safety
/// [`Products`]'s contract.
#[inline(always)]
unsafe fn advance<V: Products>(m: [V; 2], key: [V; 2], c: [V; 4]) -> [V; 4] {
    let (a, b) = (c[0].product(m[0]), c[2].product(m[1]));
    [b.high().xor3(c[1], key[0]).now(), b, a.high().xor3(c[3], key[1]).now(), a]
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
pub fn fractions_avx512(philox: &Philox, tile: u64, n: u32, half: u32, out: &mut [u32]) {
    // SAFETY: this function enables the instruction set.
    unsafe { fractions::<__m512i>(philox, tile, n, half, out) };
}

#[target_feature(enable = "avx2")]
pub fn fractions_avx2(philox: &Philox, tile: u64, n: u32, half: u32, out: &mut [u32]) {
    // SAFETY: this function enables the instruction set.
    unsafe { fractions::<__m256i>(philox, tile, n, half, out) };
}

/// # Safety
/// [`Products`]'s contract.
#[inline(always)]
unsafe fn fractions<V: Products>(philox: &Philox, tile: u64, n: u32, half: u32, out: &mut [u32]) {
    let (kept, half) = (V::splat(!below(n)), V::splat(half));
    let mut tiles = Tiles::<V>::new(philox, tile);
    for out in out.chunks_exact_mut(tile_len(n)) {
        let mut words = [[0; LANES]; 4];
        tiles.next(&mut words, &mut ());
        for (word, out) in words.iter().zip(out.chunks_exact_mut(tile_len(n) / 4)) {
            let mut left = 32 - n;
            // A group has sixteen elements, as has a word.
            for out in out.chunks_exact_mut(LANES) {
                let by = V::splat(left);
                for lane in (0..LANES).step_by(V::LANES) {
                    let word = V::load(word.as_ptr().add(lane));
                    word.shl(by).and_or(kept, half).store(out.as_mut_ptr().add(lane));
                }
                left = left.wrapping_sub(n);
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    pub fn tiles_avx512(philox: &Philox, tile: u64, words: &mut [Words]) {
        // SAFETY: this function enables the instruction set.
        unsafe { tiles::<__m512i>(philox, tile, words) };
    }

    #[target_feature(enable = "avx2")]
    pub fn tiles_avx2(philox: &Philox, tile: u64, words: &mut [Words]) {
        // SAFETY: this function enables the instruction set.
        unsafe { tiles::<__m256i>(philox, tile, words) };
    }

    #[inline(always)]
    unsafe fn tiles<V: Products>(philox: &Philox, tile: u64, words: &mut [Words]) {
        let mut tiles = Tiles::<V>::new(philox, tile);
        words.iter_mut().for_each(|words| tiles.next(words, &mut ()));
    }
}
