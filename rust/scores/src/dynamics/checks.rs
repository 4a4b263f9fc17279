//! A batch is looked through before anything of it is taken: all examples are there, none twice, all values as they should be.

use super::columns::TOGETHER;
use super::fetching::{AHEAD, ask};
use super::{FLAG, Histories, Refused, Visits};

/// Whether fp32 holds a mean of such numbers: below 2^127, and no NaN.
#[inline(always)]
fn held(x: f64) -> bool {
    const EXPONENT: u64 = 0x7ff << 52;
    const LIMIT: u64 = (1023 + 127) << 52;
    x.to_bits() & EXPONENT < LIMIT
}

/// Whether a number is a share of one, give or take the rounding of bf16, and no NaN.
#[inline(always)]
fn share(x: f64) -> bool {
    const MOST: f64 = 1.0 + 1.0 / 256.0;
    let above = x >= 0.0;
    above & (x <= MOST)
}

/// The first place at which a column is not as it should be. It is looked for only where there is one: without a way
/// out halfway it is quicker to see that there is none.
#[inline(always)]
fn first_bad(x: &[f64], good: impl Fn(f64) -> bool) -> Option<usize> {
    if x.iter().fold(true, |all, x| all & good(*x)) { None } else { x.iter().position(|x| !good(*x)) }
}

/// Visits of a batch whose examples are told apart in a table (8 KiB), without a look at their records: those can still
/// be on their way when the first are visited.
pub const SHORT: usize = 1024;
const SLOTS: usize = 4 * SHORT;

/// Whether all are examples, of `n`, and none stands there twice.
#[inline(always)]
fn tell_apart(index: &[i64], n: usize) -> Result<(), Refused> {
    // Places counted from 1, at the hash of the example there or, where that is taken, after it.
    let mut table = [0u16; SLOTS];
    for (place, example) in index.iter().enumerate() {
        if !usize::try_from(*example).is_ok_and(|example| example < n) {
            return Err(Refused::Outside(place));
        }
        // Fibonacci hashing (Knuth, 6.4).
        let mut slot = ((*example as u32).wrapping_mul(0x9E37_79B9) >> (u32::BITS - SLOTS.ilog2())) as usize;
        while table[slot] != 0 {
            if index[usize::from(table[slot]) - 1] == *example {
                return Err(Refused::Twice(place));
            }
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = place as u16 + 1;
    }
    Ok(())
}

/// The same for any number: the records are marked.
#[inline(always)]
fn mark(histories: &mut Histories, visits: &Visits) -> Result<(), Refused> {
    for (place, index) in visits.index.iter().enumerate() {
        if place % TOGETHER == 0 {
            ask(histories, visits, place + AHEAD);
        }
        let record = usize::try_from(*index).ok().and_then(|i| histories.records.get_mut(i));
        let why = match record {
            None => Refused::Outside(place),
            Some(record) if record.forgets & FLAG != 0 => Refused::Twice(place),
            Some(record) => {
                record.forgets |= FLAG;
                continue;
            }
        };
        for index in &visits.index[..place] {
            histories.records[*index as usize].forgets &= !FLAG;
        }
        return Err(why);
    }
    Ok(())
}

/// Nothing, or why the batch is refused.
#[inline(always)]
pub fn check(histories: &mut Histories, visits: &Visits) -> Result<(), Refused> {
    for shares in [visits.confidence, visits.correct] {
        if let Some(place) = first_bad(shares, share) {
            return Err(Refused::NotFinite(place));
        }
    }
    for numbers in [visits.margin].into_iter().chain(visits.others).flatten() {
        if let Some(place) = first_bad(numbers, held) {
            return Err(Refused::NotFinite(place));
        }
    }
    match visits.index.len() <= SHORT {
        true => tell_apart(visits.index, histories.records.len()),
        false => mark(histories, visits),
    }
}
