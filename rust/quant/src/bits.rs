//! Addressed random bits for runs of neighbouring elements (see `dither_numerics::random` for the address).
//!
//! The kernels take the N bits `R` of an element as the fraction that is added to what is rounded off, 32 bits after the
//! point, whatever N is: `(2R + 1) / 2^(N+1)` for P3109's StochasticB (for N = 32 its last bit is left out and the kernel
//! adds it), `R / 2^N` for A and C.
//!
//! Sixteen counters are advanced side by side (`philox`), and every word serves sixteen neighbours at each of its
//! shifts: a tile needs no exchange between lanes.

use crate::philox::{Philox, tile_len};
use dither_numerics::Rounding;
use dither_numerics::quantizer::Randomness;

/// `R` as the fraction that the kernels add; `half`: what is set below it.
#[inline(always)]
pub fn fraction(bits: u32, n: u32, half: u32) -> u32 {
    bits << (32 - n) & !below(n) | half
}

/// `R` of a fraction.
#[inline(always)]
pub fn integer(fraction: u32, n: u32) -> u32 {
    fraction >> (32 - n)
}

/// `R` of element `i` of a run of fractions; 0 where nothing is stochastic (an empty run).
pub fn integer_at(run: &[u32], i: usize, n: u32) -> u32 {
    run.get(i).map_or(0, |f| integer(*f, n))
}

/// The bits of a fraction that `R` does not reach.
#[inline(always)]
pub fn below(n: u32) -> u32 {
    if n == 32 { 0 } else { u32::MAX >> n }
}

/// What StochasticB adds below `R`.
#[inline(always)]
fn half(n: u32) -> u32 {
    if n == 32 { 0 } else { 1 << (31 - n) }
}

/// Where the fractions of an array come from.
#[derive(Clone, Copy)]
pub struct Draws<'a> {
    source: Randomness<'a>,
    n: u32,
    half: u32,
    philox: Philox,
}

impl<'a> Draws<'a> {
    pub fn new(source: Randomness<'a>, rounding: Rounding) -> Self {
        let n = rounding.random_bits();
        let half = if let Rounding::Stochastic(n) = rounding { half(n) } else { 0 };
        let (seed, stream) = match source {
            Randomness::Addressed { seed, stream, .. } => (seed, stream),
            _ => (0, 0),
        };
        Draws { source, n, half, philox: Philox::new(seed, stream) }
    }

    /// Whether anything is drawn.
    pub fn any(&self) -> bool {
        self.n > 0
    }

    /// What is set below the random bits of a fraction.
    #[cfg(target_arch = "x86_64")]
    pub fn half(&self) -> u32 {
        self.half
    }

    /// For a run that starts with a tile: the words' source and that tile.
    #[cfg(target_arch = "x86_64")]
    pub fn tiles(&self, start: usize, len: usize) -> Option<(&Philox, u64)> {
        let Randomness::Addressed { offset, .. } = self.source else { return None };
        let (index, size) = (offset.wrapping_add(start as u64), tile_len(self.n) as u64);
        // Index 2^64 is index 0, which need not start a tile.
        let within = index.checked_add(len as u64).is_some();
        (within && index % size == 0).then_some((&self.philox, index / size))
    }

    pub fn reader(&self) -> Reader<'_> {
        Reader { draws: self, tile: None, values: Vec::new() }
    }

    /// The fractions of a run; empty where nothing is drawn.
    pub fn run(&self, start: usize, len: usize) -> Vec<u32> {
        let mut run = vec![0; if self.any() { len } else { 0 }];
        self.reader().read(start, &mut run);
        run
    }
}

/// Reads runs that follow each other; keeps the tile in which the last one ended.
pub struct Reader<'a> {
    draws: &'a Draws<'a>,
    tile: Option<u64>,
    /// The fraction of every element of `tile`.
    values: Vec<u32>,
}

impl Reader<'_> {
    /// Write the fractions of elements `start..start + out.len()`.
    pub fn read(&mut self, start: usize, out: &mut [u32]) {
        if out.is_empty() {
            return;
        }
        match self.draws.source {
            Randomness::None => {}
            Randomness::Given(bits) => {
                let bits = &bits[start..start + out.len()];
                for (f, bits) in out.iter_mut().zip(bits) {
                    *f = fraction(*bits, self.draws.n, self.draws.half);
                }
            }
            Randomness::Addressed { offset, .. } => self.addressed(offset.wrapping_add(start as u64), out),
        }
    }

    fn addressed(&mut self, mut index: u64, mut out: &mut [u32]) {
        let Draws { n, half, philox, .. } = self.draws;
        let size = tile_len(*n);
        while !out.is_empty() {
            let (tile, at) = (index / size as u64, (index % size as u64) as usize);
            // Index 2^64 is index 0, which need not be the end of a tile.
            let to_wrap = usize::try_from(u64::MAX - index).map_or(usize::MAX, |n| n.saturating_add(1));
            let whole = if at == 0 { out.len().min(to_wrap) / size * size } else { 0 };
            let run = if whole > 0 {
                philox.fractions(tile, *n, *half, &mut out[..whole]);
                whole
            } else {
                if self.tile != Some(tile) {
                    self.values.resize(size, 0);
                    philox.fractions(tile, *n, *half, &mut self.values);
                    self.tile = Some(tile);
                }
                let run = (size - at).min(out.len()).min(to_wrap);
                out[..run].copy_from_slice(&self.values[at..at + run]);
                run
            };
            out = &mut out[run..];
            index = index.wrapping_add(run as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dither_numerics::random::random_bits;

    #[test]
    fn runs_agree_with_the_address() {
        for n in 1..=32u32 {
            // The second offset wraps at 2^64, inside a tile where n is not a power of two.
            for offset in [(1u64 << 40) + 7, 0, u64::MAX - 300] {
                let (seed, stream) = (0x1234_5678_9abc_def0, u64::MAX - 3);
                let draws = Draws::new(Randomness::Addressed { seed, stream, offset }, Rounding::Stochastic(n));
                let mut reader = draws.reader();
                for (start, len) in [(0usize, 5usize), (3, 1000), (64, 64), (0, 10_000), (5000, 3), (1, 0)] {
                    let mut out = vec![0; len];
                    reader.read(start, &mut out);
                    for (i, f) in out.iter().enumerate() {
                        let index = offset.wrapping_add((start + i) as u64);
                        let bits = random_bits(seed, stream, index, n);
                        assert_eq!(*f, fraction(bits, n, half(n)), "n={n} {start}+{i}");
                        assert_eq!(integer(*f, n), bits);
                    }
                }
            }
        }
    }

    #[test]
    fn a_fraction_is_2r_plus_1() {
        for n in 1..=31u32 {
            for bits in [0, 1, (1u32 << n) - 1, 0x5555_5555 & ((1 << n) - 1)] {
                let exact = (2 * u64::from(bits) + 1) << 32 >> (n + 1);
                assert_eq!(u64::from(fraction(bits, n, half(n))), exact);
            }
        }
        assert_eq!(fraction(0xdead_beef, 32, half(32)), 0xdead_beef);
    }
}
