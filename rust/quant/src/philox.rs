//! Philox4x32-10 for the sixteen counters of a tile at once (see `dither_numerics::random` for the address).

use crate::bits::fraction;
#[cfg(target_arch = "x86_64")]
use crate::philox_vectors;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Level, level};

pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
pub const LANES: usize = 16;

/// The four words of sixteen neighbouring counters, word by word.
pub type Words = [[u32; LANES]; 4];

/// Key and stream, and the keys of the ten rounds.
#[derive(Clone, Copy)]
pub struct Philox {
    pub stream: u64,
    pub keys: [[u32; 2]; 10],
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
    pub fn fractions(&self, tile: u64, n: u32, half: u32, out: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        match level() {
            // SAFETY: `level` never exceeds what was found on this processor.
            Level::Avx512 => return unsafe { philox_vectors::fractions_avx512(self, tile, n, half, out) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { philox_vectors::fractions_avx2(self, tile, n, half, out) },
            Level::Baseline => {}
        }
        for (t, out) in out.chunks_exact_mut(tile_len(n)).enumerate() {
            let words = portable(self, (tile + t as u64).wrapping_mul(LANES as u64));
            for (word, out) in words.iter().zip(out.chunks_exact_mut(tile_len(n) / 4)) {
                for (k, out) in out.chunks_exact_mut(LANES).enumerate() {
                    for (f, word) in out.iter_mut().zip(word) {
                        *f = fraction(word >> (n * k as u32), n, half);
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

/// The words of the counters from `first` on, a multiple of [`LANES`].
#[allow(clippy::needless_range_loop)] // lanes of four arrays side by side
pub fn portable(philox: &Philox, first: u64) -> Words {
    let Philox { stream, keys } = philox;
    let splat = |word: u64| [word as u32; LANES];
    let low = std::array::from_fn(|lane| (first + lane as u64) as u32);
    let mut c = [low, splat(first >> 32), splat(*stream), splat(stream >> 32)];
    for key in keys {
        for lane in 0..LANES {
            let a = u64::from(MULTIPLIERS[0]) * u64::from(c[0][lane]);
            let b = u64::from(MULTIPLIERS[1]) * u64::from(c[2][lane]);
            (c[0][lane], c[1][lane]) = ((b >> 32) as u32 ^ c[1][lane] ^ key[0], b as u32);
            (c[2][lane], c[3][lane]) = ((a >> 32) as u32 ^ c[3][lane] ^ key[1], a as u32);
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use dither_numerics::random;

    #[test]
    fn every_way_gives_the_words_of_the_truth() {
        // The last two runs cross 2^32 counters and wrap at 2^64.
        for (seed, stream, tile) in [
            (0, 0, 0),
            (0x299f_31d0_a409_3822, 1 << 40, (1 << 28) - 1),
            (7, 3, 1 << 59),
            (1, u64::MAX - (1 << 33), (5 << 28) - 2),
            (u64::MAX, u64::MAX, u64::MAX),
        ] {
            let philox = Philox::new(seed, stream);
            let first = |t: u64| tile.wrapping_add(t).wrapping_mul(16);
            let mut ways = vec![[0, 1, 2].map(|t| portable(&philox, first(t)))];
            #[cfg(target_arch = "x86_64")]
            {
                use crate::simd::detected;
                if detected() >= Level::Avx2 {
                    ways.push([[[0; LANES]; 4]; 3]);
                    // SAFETY: just asked for.
                    unsafe { philox_vectors::tests::tiles_avx2(&philox, tile, ways.last_mut().unwrap()) };
                }
                if detected() >= Level::Avx512 {
                    ways.push([[[0; LANES]; 4]; 3]);
                    // SAFETY: just asked for.
                    unsafe { philox_vectors::tests::tiles_avx512(&philox, tile, ways.last_mut().unwrap()) };
                }
            }
            for words in ways {
                for t in 0..3 {
                    for lane in 0..16 {
                        let counter = first(t) + lane;
                        let got = words[t as usize].map(|word| word[lane as usize]);
                        assert_eq!(got, random::words(seed, stream, counter));
                    }
                }
            }
        }
    }
}
