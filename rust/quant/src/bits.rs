//! Addressed random bits for runs of neighbouring elements (see `dither_numerics::random` for the address).
//!
//! Sixteen counters are advanced side by side, so one tile (16 counters, 64 words) costs one vectorized Philox, and
//! every word serves sixteen neighbours at each of its shifts.

use crate::simd::dispatch;
use dither_numerics::quantizer::Randomness;

/// The bits of runs of neighbours; keeps the tile it used last.
pub struct Reader<'a> {
    source: Randomness<'a>,
    n: u32,
    tile: Option<u64>,
    /// R of every element of `tile`.
    values: Vec<u32>,
}

impl<'a> Reader<'a> {
    /// `n`: random bits an element; 0 where nothing is stochastic.
    pub fn new(source: Randomness<'a>, n: u32) -> Self {
        let tile = if n > 0 && matches!(source, Randomness::Addressed { .. }) { 64 * (32 / n) as usize } else { 0 };
        Reader { source, n, tile: None, values: vec![0; tile] }
    }

    /// Write R of elements `start..start + out.len()`.
    pub fn read(&mut self, start: usize, out: &mut [u32]) {
        match self.source {
            Randomness::None => {}
            Randomness::Given(bits) => out.copy_from_slice(&bits[start..start + out.len()]),
            Randomness::Addressed { seed, stream, offset } => {
                let size = self.values.len() as u64;
                let mut index = offset.wrapping_add(start as u64);
                let mut done = 0;
                while done < out.len() {
                    let (tile, at) = (index / size, (index % size) as usize);
                    if self.tile != Some(tile) {
                        fill_tile(&mut self.values, seed, stream, tile, self.n);
                        self.tile = Some(tile);
                    }
                    // Index 2^64 is index 0, which need not be the end of a tile.
                    let to_wrap = usize::try_from(u64::MAX - index).map_or(usize::MAX, |n| n.saturating_add(1));
                    let run = (self.values.len() - at).min(out.len() - done).min(to_wrap);
                    out[done..done + run].copy_from_slice(&self.values[at..at + run]);
                    done += run;
                    index = index.wrapping_add(run as u64);
                }
            }
        }
    }
}

const LANES: usize = 16;

#[inline(always)]
fn fill_tile_body(values: &mut [u32], seed: u64, stream: u64, tile: u64, n: u32) {
    let mut c = [[0u32; LANES]; 4];
    #[allow(clippy::needless_range_loop)] // lanes of four arrays side by side
    for lane in 0..LANES {
        let counter = tile.wrapping_mul(LANES as u64).wrapping_add(lane as u64);
        (c[0][lane], c[1][lane]) = (counter as u32, (counter >> 32) as u32);
        (c[2][lane], c[3][lane]) = (stream as u32, (stream >> 32) as u32);
    }
    let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        let mut next = [[0u32; LANES]; 4];
        for lane in 0..LANES {
            let a = 0xD251_1F53u64 * u64::from(c[0][lane]);
            let b = 0xCD9E_8D57u64 * u64::from(c[2][lane]);
            next[0][lane] = (b >> 32) as u32 ^ c[1][lane] ^ k0;
            next[1][lane] = b as u32;
            next[2][lane] = (a >> 32) as u32 ^ c[3][lane] ^ k1;
            next[3][lane] = a as u32;
        }
        c = next;
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    let per_word = (32 / n) as usize;
    let mask = if n == 32 { u32::MAX } else { (1 << n) - 1 };
    for (g, group) in values.chunks_exact_mut(LANES).enumerate() {
        let (word, shift) = (&c[g / per_word], n * (g % per_word) as u32);
        for lane in 0..LANES {
            group[lane] = word[lane] >> shift & mask;
        }
    }
}

dispatch! { fn fill_tile(values: &mut [u32], seed: u64, stream: u64, tile: u64, n: u32) = fill_tile_body; }

#[cfg(test)]
mod tests {
    use super::*;
    use dither_numerics::random::random_bits;

    #[test]
    fn runs_agree_with_the_address() {
        for n in 1..=32u32 {
            // The second offset wraps at 2^64, inside a tile where n is not a power of two.
            for offset in [(1u64 << 40) + 7, u64::MAX - 300] {
                let (seed, stream) = (0x1234_5678_9abc_def0, u64::MAX - 3);
                let mut reader = Reader::new(Randomness::Addressed { seed, stream, offset }, n);
                for (start, len) in [(0usize, 5usize), (3, 1000), (64, 64), (5000, 3), (1, 0)] {
                    let mut out = vec![0; len];
                    reader.read(start, &mut out);
                    for (i, r) in out.iter().enumerate() {
                        let index = offset.wrapping_add((start + i) as u64);
                        assert_eq!(*r, random_bits(seed, stream, index, n), "n={n} {start}+{i}");
                    }
                }
            }
        }
    }
}
