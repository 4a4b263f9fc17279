//! Hashed 1- and 2-gram features of text (DSIR, Xie et al., 2302.03169): in buckets, counted or weighed in one pass.
//!
//! Tokens are the runs of word characters (letters, digits, underscore) and the runs of other characters that are no
//! space, in lower case: what the regular expression `\w+|[^\w\s]+` finds.

use dither_cpu::threads::for_each;
use std::sync::Mutex;

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
        at += size;
        let this = match character {
            c if c.is_alphanumeric() => Kind::Word,
            c if c.is_whitespace() => Kind::Space,
            _ => Kind::Other,
        };
        if this != kind {
            if kind != Kind::Space {
                end(hash);
            }
            (kind, hash) = (this, BASIS);
        }
        let mut utf8 = [0; 4];
        for lower in character.to_lowercase() {
            for byte in lower.encode_utf8(&mut utf8).bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
            }
        }
    }
    if kind != Kind::Space {
        end(hash);
    }
    tokens
}

/// The first character and its length; U+FFFD for a byte that begins none.
#[cold]
fn decode(text: &[u8]) -> (char, usize) {
    let head = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(s) => s,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or(""),
    };
    valid.chars().next().map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8()))
}

/// The bucket of a hash, of as many.
#[inline(always)]
fn bucket(hash: u64, buckets: usize) -> usize {
    ((u128::from(hash) * buckets as u128) >> 64) as usize
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
        let (total, buckets) = (Mutex::new(counts.to_vec()), counts.len());
        let complete = for_each(self.len().div_ceil(SHARE), threads, give_up, |share| {
            let mut mine = vec![0u64; buckets];
            for i in share * SHARE..self.len().min((share + 1) * SHARE) {
                features(self.get(i), |hash| mine[bucket(hash, buckets)] += 1);
            }
            let mut total = total.lock().unwrap_or_else(|e| e.into_inner());
            total.iter_mut().zip(mine).for_each(|(t, m)| *t += m);
        });
        counts.copy_from_slice(&total.into_inner().unwrap_or_else(|e| e.into_inner()));
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
            let mut mine = shares[share].lock().unwrap_or_else(|e| e.into_inner());
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
        for (text, count) in
            [("", 0), ("  \t\n", 0), ("a", 1), ("don't stop...", 5), ("x_1+y ", 3), ("naïve café!", 3), ("日本 語", 2)]
        {
            assert_eq!(tokens(text), count, "{text}");
        }
        assert_eq!(features(&[b'a', 0xff, b'b', 0xe6], |_| ()), 4);
    }

    /// Runs of characters of one kind, each hashed whole.
    #[test]
    fn hashes_are_those_of_the_runs() {
        let kind = |c: char| match c {
            c if c.is_alphanumeric() || c == '_' => Kind::Word,
            c if c.is_whitespace() || ('\x1c'..='\x1f').contains(&c) => Kind::Space,
            _ => Kind::Other,
        };
        let characters: Vec<char> = "abzAZ09_ \t\n.,!é日Ǆ\u{a0}€".chars().collect();
        let mut state = 1u64;
        for length in 0..300 {
            let text: String = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    characters[(state >> 33) as usize % characters.len()]
                })
                .collect();
            let characters: Vec<char> = text.chars().collect();
            let mut expected = Vec::new();
            let mut before = None;
            for run in characters.chunk_by(|a, b| kind(*a) == kind(*b)).filter(|run| kind(run[0]) != Kind::Space) {
                let lower: String = run.iter().flat_map(|c| c.to_lowercase()).collect();
                let token = finished(lower.bytes().fold(BASIS, |h, b| (h ^ u64::from(b)).wrapping_mul(PRIME)));
                expected.push(token);
                expected.extend(before.map(|before: u64| finished(token.wrapping_mul(PRIME) ^ before)));
                before = Some(token);
            }
            assert_eq!(hashes(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn case_and_space_do_not_matter_and_order_does() {
        assert_eq!(hashes("Hello  WORLD É"), hashes("hello world\né"));
        assert_ne!(hashes("a b"), hashes("b a"));
        assert_eq!(hashes("a b c").len(), 5);
    }
}
