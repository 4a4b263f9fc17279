//! Hashed 1- and 2-gram features of text (DSIR, Xie et al., 2302.03169): in buckets, counted or weighed in one pass.
//!
//! Tokens are the runs of word characters (letters, numbers, underscore) and the runs of other characters that are no
//! space, in lower case: what Python's regular expression `\w+|[^\w\s]+` finds.

mod words;

use dither_cpu::threads::for_each;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use words::is_word;

/// Documents one after the other in UTF-8: document i is `bytes[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy)]
pub struct Documents<'a> {
    pub bytes: &'a [u8],
    pub offsets: &'a [i64],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    Word,
    Other,
}

const KINDS: [Kind; 128] = {
    let mut kinds = [Kind::Other; 128];
    let mut c = 0;
    while c < 128 {
        let b = c as u8;
        if b.is_ascii_alphanumeric() || b == b'_' {
            kinds[c] = Kind::Word;
        } else if b == b' ' || (b >= 9 && b <= 13) || (b >= 28 && b <= 31) {
            kinds[c] = Kind::Space;
        }
        c += 1;
    }
    kinds
};

/// Word characters of ASCII in lower case; 0 for all other bytes.
const LOWER: [u8; 256] = {
    let mut lower = [0; 256];
    let mut c = 0;
    while c < 128 {
        if matches!(KINDS[c], Kind::Word) {
            lower[c] = (c as u8).to_ascii_lowercase();
        }
        c += 1;
    }
    lower
};

/// FNV-1a's offset basis and prime; a finisher spreads the result over all bits (splitmix64's).
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[inline(always)]
fn finished(h: u64) -> u64 {
    let h = (h ^ h >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let h = (h ^ h >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ h >> 31
}

/// Call `feature(hash)` for every token and every two that follow each other; returns the number of tokens.
#[inline(always)]
fn features(text: &[u8], mut feature: impl FnMut(u64)) -> usize {
    let (mut hash, mut kind, mut before, mut tokens) = (BASIS, Kind::Space, None, 0);
    let mut end = |hash: u64| {
        let token = finished(hash);
        feature(token);
        if let Some(before) = before {
            feature(finished(token.wrapping_mul(PRIME) ^ before));
        }
        before = Some(token);
        tokens += 1;
    };
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        if byte < 128 {
            at += 1;
            let this = KINDS[byte as usize];
            if this != kind {
                if kind != Kind::Space {
                    end(hash);
                }
                (kind, hash) = (this, BASIS);
            }
            hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(PRIME);
            if this == Kind::Word {
                // Most of a text: the rest of a word, where nothing but its end is to be looked for.
                for byte in &text[at..] {
                    if LOWER[usize::from(*byte)] == 0 {
                        break;
                    }
                    hash = (hash ^ u64::from(LOWER[usize::from(*byte)])).wrapping_mul(PRIME);
                    at += 1;
                }
            }
            continue;
        }
        let (character, size) = decode(&text[at..]);
        let mut utf8 = [0; 4];
        // A letter may become a letter and a mark, which is none.
        let (lower, count) = lowered(character, text, at);
        for lower in &lower[..count] {
            let this = kind_of(*lower);
            if this != kind {
                if kind != Kind::Space {
                    end(hash);
                }
                (kind, hash) = (this, BASIS);
            }
            for byte in lower.encode_utf8(&mut utf8).bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
            }
        }
        at += size;
    }
    if kind != Kind::Space {
        end(hash);
    }
    tokens
}

#[inline]
fn kind_of(c: char) -> Kind {
    match c {
        c if is_word(c) => Kind::Word,
        c if c.is_whitespace() || ('\x1c'..='\x1f').contains(&c) => Kind::Space,
        _ => Kind::Other,
    }
}

/// Lower case in the alphabets of Europe, a character each but for İ. The standard library's tables are large and slow.
static EUROPE: LazyLock<[char; 0x590]> = LazyLock::new(|| {
    std::array::from_fn(|c| char::from_u32(c as u32).and_then(|c| c.to_lowercase().next()).expect("no surrogate"))
});

/// Scripts without case, and signs: of Asia and Africa most.
#[inline]
fn has_no_case(c: char) -> bool {
    matches!(u32::from(c), 0x590..=0x109f | 0x1100..=0x139f | 0x1400..=0x1c7f | 0x2e00..=0xa63f | 0xac00..=0xff20)
}

/// The character at `at` in lower case: so many of three.
#[inline]
fn lowered(character: char, text: &[u8], at: usize) -> ([char; 3], usize) {
    if has_no_case(character) {
        return ([character; 3], 1);
    }
    match EUROPE.get(character as usize) {
        Some(_) if character == 'Σ' && is_final(text, at) => (['ς'; 3], 1),
        Some(lower) if character != 'İ' => ([*lower; 3], 1),
        _ => {
            let (mut all, mut count) = ([character; 3], 0);
            for lower in character.to_lowercase() {
                all[count] = lower;
                count += 1;
            }
            (all, count)
        }
    }
}

/// Whether the capital sigma at `at` ends its word: the standard library tells it of the neighbourhood.
#[cold]
fn is_final(text: &[u8], at: usize) -> bool {
    const NEAR: usize = 16;
    let before = String::from_utf8_lossy(&text[at.saturating_sub(NEAR)..at]);
    let after = String::from_utf8_lossy(&text[at + 'Σ'.len_utf8()..text.len().min(at + NEAR)]);
    let lower = format!("{before}Σ{after}").to_lowercase();
    lower[before.to_lowercase().len()..].starts_with('ς')
}

/// The first character and its length; U+FFFD for a byte that begins none.
#[inline]
fn decode(text: &[u8]) -> (char, usize) {
    let size = match text[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let valid = text.get(..size).and_then(|bytes| std::str::from_utf8(bytes).ok());
    valid.and_then(|s| s.chars().next()).map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, size))
}

/// The bucket of a hash, of as many.
#[inline(always)]
fn bucket(hash: u64, buckets: usize) -> usize {
    ((u128::from(hash) * buckets as u128) >> 64) as usize
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Documents that a thread takes at a time.
const SHARE: usize = 256;

impl<'a> Documents<'a> {
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, i: usize) -> &'a [u8] {
        &self.bytes[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// Add the features of all documents to `counts`. False where `give_up` said yes.
    pub fn count(&self, counts: &mut [u64], threads: usize, give_up: &dyn Fn() -> bool) -> bool {
        let buckets = counts.len();
        // As many counts as threads work at a time, handed on from share to share.
        let idle: Mutex<Vec<Vec<u64>>> = Mutex::new(vec![]);
        let complete = for_each(self.len().div_ceil(SHARE), threads, give_up, |share| {
            let mut mine = locked(&idle).pop().unwrap_or_else(|| vec![0; buckets]);
            for i in share * SHARE..self.len().min((share + 1) * SHARE) {
                features(self.get(i), |hash| mine[bucket(hash, buckets)] += 1);
            }
            locked(&idle).push(mine);
        });
        for mine in locked(&idle).iter() {
            counts.iter_mut().zip(mine).for_each(|(total, m)| *total += m);
        }
        complete
    }

    /// Write for every document the sum of its features' weights, and the number of its tokens. False where `give_up`
    /// said yes.
    pub fn weigh(
        &self,
        weights: &[f64],
        out: &mut [f64],
        tokens: &mut [i64],
        threads: usize,
        give_up: &dyn Fn() -> bool,
    ) -> bool {
        let shares: Vec<_> = out.chunks_mut(SHARE).zip(tokens.chunks_mut(SHARE)).map(Mutex::new).collect();
        for_each(shares.len(), threads, give_up, |share| {
            let mut mine = locked(&shares[share]);
            let (out, tokens) = &mut *mine;
            for (i, (out, tokens)) in out.iter_mut().zip(tokens.iter_mut()).enumerate() {
                let mut sum = 0.0;
                let found = features(self.get(share * SHARE + i), |hash| sum += weights[bucket(hash, weights.len())]);
                (*out, *tokens) = (sum, found as i64);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> usize {
        features(text.as_bytes(), |_| ())
    }

    fn hashes(text: &str) -> Vec<u64> {
        let mut all = Vec::new();
        features(text.as_bytes(), |h| all.push(h));
        all
    }

    #[test]
    fn tokens_are_runs() {
        for (text, count) in [
            ("", 0),
            ("  \t\n", 0),
            ("a", 1),
            ("don't stop...", 5),
            ("x_1+y ", 3),
            ("naïve café!", 3),
            ("日本 語", 2),
            ("İstanbul", 3),
            ("हिन्दी", 6),
            ("Ⓐ", 1),
            ("aⒶ", 2),
        ] {
            assert_eq!(tokens(text), count, "{text}");
        }
        assert_eq!(features(&[b'a', 0xff, b'b', 0xe6], |_| ()), 4);
    }

    /// Runs of characters of one kind, each hashed whole.
    #[test]
    fn hashes_are_those_of_the_runs() {
        let characters: Vec<char> = "abzAZ09_ \t\n.,!é日Ǆ\u{a0}€İαΣ\u{301}ि".chars().collect();
        let mut state = 1u64;
        for length in 0..300 {
            let text: String = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    characters[(state >> 33) as usize % characters.len()]
                })
                .collect();
            let characters: Vec<char> = text.to_lowercase().chars().collect();
            let mut expected = Vec::new();
            let mut before = None;
            for run in
                characters.chunk_by(|a, b| kind_of(*a) == kind_of(*b)).filter(|run| kind_of(run[0]) != Kind::Space)
            {
                let token = finished(
                    run.iter().collect::<String>().bytes().fold(BASIS, |h, b| (h ^ u64::from(b)).wrapping_mul(PRIME)),
                );
                expected.push(token);
                expected.extend(before.map(|before: u64| finished(token.wrapping_mul(PRIME) ^ before)));
                before = Some(token);
            }
            assert_eq!(hashes(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_character_is_lowered_as_the_library_does() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| *c != 'Σ') {
            let (lower, count) = lowered(c, &[], 0);
            assert!(c.to_lowercase().eq(lower[..count].iter().copied()), "{c}");
        }
        for text in ["ΟΔΟΣ ΣΑΣ'.Σ Σ", "ΑΣ\u{301}\u{301}Β", "ΑΣ\u{301}", "aΣ日"] {
            assert_eq!(hashes(text), hashes(&text.to_lowercase()), "{text}");
        }
    }

    #[test]
    fn case_and_space_do_not_matter_and_order_does() {
        assert_eq!(hashes("Hello  WORLD É"), hashes("hello world\né"));
        assert_ne!(hashes("a b"), hashes("b a"));
        assert_eq!(hashes("a b c").len(), 5);
    }
}
