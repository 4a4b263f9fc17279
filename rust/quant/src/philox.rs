//! Philox4x32-10 for the sixteen counters of a tile at once (see `dither_numerics::random` for the address).
//!
//! A round multiplies two of the four words by constants, 32 x 32 to 64 bits. The vector instruction for that takes the
//! low halves of 64-bit lanes, so a register holds eight counters, one a 64-bit lane, whose high halves are never
//! looked at: a round of eight counters is two products, two moves of their high halves, two three-way XORs. Even and odd
//! counters live in two registers a word and are interleaved at the end. Written with intrinsics because the
//! compiler's own vectors of the portable loop below take 1.3 (AVX-512) and 1.5 (AVX2) times as long.

use crate::bits::fraction;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Level, level};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
pub const LANES: usize = 16;

/// The four words of sixteen neighbouring counters, word by word.
pub type Words = [[u32; LANES]; 4];

/// Key and stream, and the keys of the ten rounds.
#[derive(Clone, Copy)]
pub struct Philox {
    stream: u64,
    keys: [[u32; 2]; 10],
}

impl Philox {
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut key = [seed as u32, (seed >> 32) as u32];
        let keys = std::array::from_fn(|_| {
            let this = key;
            key = [key[0].wrapping_add(KEY_INCREMENTS[0]), key[1].wrapping_add(KEY_INCREMENTS[1])];
            this
        });
        Philox { stream, keys }
    }

    /// The fractions (see `bits`) of whole tiles from `tile` on: `32 / n` elements a word, the top bits of
    /// `word << shift` and below them `half`.
    pub fn fractions(&self, tile: u64, n: u32, out: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        match level() {
            // SAFETY: `level` never exceeds what was found on this processor.
            Level::Avx512 => return unsafe { x86::fractions_avx512(self, tile, n, out) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { x86::fractions_avx2(self, tile, n, out) },
            Level::Baseline => {}
        }
        for (t, out) in out.chunks_exact_mut(tile_len(n)).enumerate() {
            let words = portable(self, (tile + t as u64).wrapping_mul(LANES as u64));
            for (word, out) in words.iter().zip(out.chunks_exact_mut(tile_len(n) / 4)) {
                for (k, out) in out.chunks_exact_mut(LANES).enumerate() {
                    for (f, word) in out.iter_mut().zip(word) {
                        *f = fraction(word >> (n * k as u32), n);
                    }
                }
            }
        }
    }
}

/// Elements of a tile.
#[inline(always)]
pub fn tile_len(n: u32) -> usize {
    64 * (32 / n) as usize
}

fn portable(philox: &Philox, first: u64) -> Words {
    let mut rounds = Rounds::begin(philox, first);
    for i in 0..10 {
        rounds.advance(philox, i);
    }
    [0, 1, 2, 3].map(|i| rounds.word(i).map(|c| c as u32))
}

/// Sixteen counters on their way through the ten rounds, for callers who have other work between two rounds.
pub struct Rounds([[u64; LANES]; 4]);

#[allow(clippy::needless_range_loop)] // lanes of four arrays side by side
impl Rounds {
    /// The counters from `first` on, a multiple of [`LANES`].
    #[inline(always)]
    pub fn begin(philox: &Philox, first: u64) -> Self {
        let stream = philox.stream;
        let splat = |word: u64| std::array::from_fn(|_| word);
        let counters = std::array::from_fn(|lane| first + lane as u64);
        Rounds([counters, splat(first >> 32), splat(stream), splat(stream >> 32)])
    }

    /// Round `i` of 0..10, in order.
    #[inline(always)]
    pub fn advance(&mut self, philox: &Philox, i: usize) {
        let (c, key, low) = (&mut self.0, &philox.keys[i], 0xffff_ffff);
        for lane in 0..LANES {
            let a = u64::from(MULTIPLIERS[0]) * (c[0][lane] & low);
            let b = u64::from(MULTIPLIERS[1]) * (c[2][lane] & low);
            (c[0][lane], c[1][lane]) = ((b >> 32) ^ c[1][lane] ^ u64::from(key[0]), b);
            (c[2][lane], c[3][lane]) = ((a >> 32) ^ c[3][lane] ^ u64::from(key[1]), a);
        }
    }

    /// Word `i` of the counters after the last round, in the low half of each element.
    #[inline(always)]
    pub fn word(&self, i: usize) -> &[u64; LANES] {
        &self.0[i]
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, MULTIPLIERS, Philox, Words, tile_len};
    use crate::bits::{below, half};
    use crate::lanes::Lanes;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    pub fn fractions_avx512(philox: &Philox, tile: u64, n: u32, out: &mut [u32]) {
        for (t, out) in out.chunks_exact_mut(tile_len(n)).enumerate() {
            let mut words = [[0; LANES]; 4];
            avx512(philox, (tile + t as u64).wrapping_mul(16), &mut words);
            // SAFETY: this function enables the instruction set.
            unsafe { spread::<__m512i>(&words, n, out) };
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn fractions_avx2(philox: &Philox, tile: u64, n: u32, out: &mut [u32]) {
        for (t, out) in out.chunks_exact_mut(tile_len(n)).enumerate() {
            let mut words = [[0; LANES]; 4];
            avx2(philox, (tile + t as u64).wrapping_mul(16), &mut words);
            // SAFETY: this function enables the instruction set.
            unsafe { spread::<__m256i>(&words, n, out) };
        }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn spread<V: Lanes>(words: &Words, n: u32, out: &mut [u32]) {
        // SAFETY: the caller's contract; a group has sixteen elements, as has a word.
        unsafe {
            let (kept, half) = (V::splat(!below(n)), V::splat(half(n)));
            for (word, out) in words.iter().zip(out.chunks_exact_mut(tile_len(n) / 4)) {
                let mut left = 32 - n;
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

    #[target_feature(enable = "avx512f")]
    pub fn avx512(philox: &Philox, first: u64, words: &mut Words) {
        let lanes = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
        let stream = philox.stream as i64;
        let mut c = [0, 1].map(|odd| {
            let counter = _mm512_add_epi64(_mm512_set1_epi64((first + odd) as i64), lanes);
            let high = _mm512_srli_epi64::<32>(counter);
            [counter, high, _mm512_set1_epi64(stream), _mm512_set1_epi64(stream >> 32)]
        });
        let (m0, m1) = (_mm512_set1_epi64(i64::from(MULTIPLIERS[0])), _mm512_set1_epi64(i64::from(MULTIPLIERS[1])));
        for key in &philox.keys {
            let (k0, k1) = (_mm512_set1_epi32(key[0] as i32), _mm512_set1_epi32(key[1] as i32));
            for c in &mut c {
                let (a, b) = (_mm512_mul_epu32(c[0], m0), _mm512_mul_epu32(c[2], m1));
                let (a_high, b_high) = (_mm512_shuffle_epi32::<0xf5>(a), _mm512_shuffle_epi32::<0xf5>(b));
                let next = _mm512_ternarylogic_epi32::<0x96>(b_high, c[1], k0);
                *c = [next, b, _mm512_ternarylogic_epi32::<0x96>(a_high, c[3], k1), a];
            }
        }
        for (w, word) in words.iter_mut().enumerate() {
            let both = _mm512_mask_shuffle_epi32::<0xa0>(c[0][w], 0xaaaa, c[1][w]);
            // SAFETY: a word holds sixteen lanes of 32 bits.
            unsafe { _mm512_storeu_si512(word.as_mut_ptr().cast(), both) };
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(philox: &Philox, first: u64, words: &mut Words) {
        let lanes = _mm256_set_epi64x(6, 4, 2, 0);
        let stream = philox.stream as i64;
        let (m0, m1) = (_mm256_set1_epi64x(i64::from(MULTIPLIERS[0])), _mm256_set1_epi64x(i64::from(MULTIPLIERS[1])));
        // Eight counters at a time: sixteen would need more registers than there are.
        for half in 0..2 {
            let mut c = [0, 1].map(|odd| {
                let counter = _mm256_add_epi64(_mm256_set1_epi64x((first + 8 * half + odd) as i64), lanes);
                let high = _mm256_srli_epi64::<32>(counter);
                [counter, high, _mm256_set1_epi64x(stream), _mm256_set1_epi64x(stream >> 32)]
            });
            for key in &philox.keys {
                let (k0, k1) = (_mm256_set1_epi32(key[0] as i32), _mm256_set1_epi32(key[1] as i32));
                for c in &mut c {
                    let (a, b) = (_mm256_mul_epu32(c[0], m0), _mm256_mul_epu32(c[2], m1));
                    let (a_high, b_high) = (_mm256_shuffle_epi32::<0xf5>(a), _mm256_shuffle_epi32::<0xf5>(b));
                    let next = _mm256_xor_si256(_mm256_xor_si256(b_high, c[1]), k0);
                    *c = [next, b, _mm256_xor_si256(_mm256_xor_si256(a_high, c[3]), k1), a];
                }
            }
            for (w, word) in words.iter_mut().enumerate() {
                let both = _mm256_blend_epi32::<0xaa>(c[0][w], _mm256_shuffle_epi32::<0xa0>(c[1][w]));
                // SAFETY: a word holds sixteen lanes of 32 bits, and this is the lower or the upper half.
                unsafe { _mm256_storeu_si256(word.as_mut_ptr().add(8 * half as usize).cast(), both) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dither_numerics::random;

    #[test]
    fn every_way_gives_the_words_of_the_truth() {
        for (seed, stream, tile) in [
            (0, 0, 0),
            (u64::MAX, u64::MAX, u64::MAX),
            (0x299f_31d0_a409_3822, 1 << 40, (1 << 28) - 1),
            (7, 3, 1 << 59),
        ] {
            let philox = Philox::new(seed, stream);
            let first = tile.wrapping_mul(16);
            let mut ways = vec![portable(&philox, first)];
            #[cfg(target_arch = "x86_64")]
            {
                use crate::simd::detected;
                if detected() >= Level::Avx2 {
                    ways.push([[0; LANES]; 4]);
                    // SAFETY: just asked for.
                    unsafe { x86::avx2(&philox, first, ways.last_mut().unwrap()) };
                }
                if detected() >= Level::Avx512 {
                    ways.push([[0; LANES]; 4]);
                    // SAFETY: just asked for.
                    unsafe { x86::avx512(&philox, first, ways.last_mut().unwrap()) };
                }
            }
            for words in ways {
                for (lane, counter) in (first..=first + 15).enumerate() {
                    assert_eq!(words.map(|word| word[lane]), random::words(seed, stream, counter));
                }
            }
        }
    }
}
