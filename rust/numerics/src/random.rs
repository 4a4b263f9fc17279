//! Addressed random bits: the same bits for the same address on every machine, device and thread count.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a key and a counter
//! to four 32-bit words. The address of the N bits of element `index` in `stream` under `seed`, which never changes:
//!
//! ```text
//! P = 32 div N (elements a word serves)     tile = index div (64 P)      j = index mod (64 P)
//! lane = j mod 16       g = j div 16        word = g div P               shift = N (g mod P)
//! key = seed        counter = (16 tile + lane) + 2^64 stream        R = (words[word] >> shift) mod 2^N
//! ```
//!
//! Sixteen neighbouring elements read the same word of sixteen neighbouring counters at the same shift, so neither
//! SIMD lanes nor GPU threads ever move bits across lanes.

const ROUND_MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One block of Philox4x32 with ten rounds.
pub fn philox4x32_10(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let (mut k, mut c) = (key, counter);
    for _ in 0..10 {
        let a = u64::from(ROUND_MULTIPLIERS[0]) * u64::from(c[0]);
        let b = u64::from(ROUND_MULTIPLIERS[1]) * u64::from(c[2]);
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(KEY_INCREMENTS[0]), k[1].wrapping_add(KEY_INCREMENTS[1])];
    }
    c
}

/// Where the bits of one element are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub counter: u64,
    pub word: usize,
    pub shift: u32,
}

/// The address of element `index` at `bits` (1..=32) bits an element.
pub fn address(index: u64, bits: u32) -> Address {
    let per_word = u64::from(32 / bits);
    let (tile, j) = (index / (64 * per_word), index % (64 * per_word));
    let (lane, g) = (j % 16, j / 16);
    Address {
        counter: tile.wrapping_mul(16).wrapping_add(lane),
        word: (g / per_word) as usize,
        shift: bits * (g % per_word) as u32,
    }
}

/// The four words of one counter of a stream.
pub fn words(seed: u64, stream: u64, counter: u64) -> [u32; 4] {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let (c, s) = (halves(counter), halves(stream));
    philox4x32_10(halves(seed), [c[0], c[1], s[0], s[1]])
}

/// The random bits of element `index`, below `2^bits`.
pub fn random_bits(seed: u64, stream: u64, index: u64, bits: u32) -> u32 {
    let at = address(index, bits);
    let word = words(seed, stream, at.counter)[at.word];
    let mask = if bits == 32 { u32::MAX } else { (1 << bits) - 1 };
    word >> at.shift & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (file kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        let vectors = [
            ([0; 2], [0; 4], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 2], [u32::MAX; 4], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0xa4093822, 0x299f31d0],
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (key, counter, expected) in vectors {
            assert_eq!(philox4x32_10(key, counter), expected);
        }
    }

    /// No two elements of a tile share bits, and a tile uses each bit at most once.
    #[test]
    fn addresses_do_not_overlap() {
        for bits in 1..=32u32 {
            let per_word = 32 / bits;
            let mut seen = std::collections::HashSet::new();
            for index in 0..u64::from(64 * per_word) {
                let a = address(index, bits);
                assert!(a.counter < 16 && a.word < 4 && a.shift + bits <= 32, "{bits} {index} {a:?}");
                assert!(seen.insert((a.counter, a.word, a.shift)), "{bits} {index}");
            }
            assert_eq!(address(u64::from(64 * per_word), bits).counter, 16);
        }
    }

    #[test]
    fn golden_addresses() {
        assert_eq!(address(0, 8), Address { counter: 0, word: 0, shift: 0 });
        assert_eq!(address(17, 8), Address { counter: 1, word: 0, shift: 8 });
        assert_eq!(address(64, 8), Address { counter: 0, word: 1, shift: 0 });
        assert_eq!(address(255, 8), Address { counter: 15, word: 3, shift: 24 });
        assert_eq!(address(256, 8), Address { counter: 16, word: 0, shift: 0 });
        assert_eq!(address(33, 12), Address { counter: 1, word: 1, shift: 0 });
        assert_eq!(address(u64::MAX, 32), Address { counter: u64::MAX / 64 * 16 + 15, word: 3, shift: 0 });
    }
}
