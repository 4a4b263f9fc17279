//! A batch is looked through before anything of it is taken: all examples are there, none twice, all values as they should be.

use super::{FLAG, Histories, Refused, Visits};

/// Records that are asked for before their turn.
const AHEAD: usize = 32;

/// Ask for an element; it lies in one line of the cache.
#[inline(always)]
fn fetch<T>(elements: &[T], index: i64) {
    #[cfg(target_arch = "x86_64")]
    if let Some(element) = usize::try_from(index).ok().and_then(|i| elements.get(i)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, and the address is an element's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast::<i8>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (elements, index);
}

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

/// Mark the examples of the batch, or say why it is refused. Whoever comes after finds their records in the cache.
#[inline(always)]
pub fn mark(histories: &mut Histories, visits: &Visits) -> Result<(), Refused> {
    let others = visits.others.iter().any(Option::is_some);
    let ask = |histories: &Histories, index: i64| {
        fetch(histories.records, index);
        if others {
            fetch(histories.rest, index);
        }
    };
    for index in visits.index.iter().take(AHEAD) {
        ask(histories, *index);
    }
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
    for (place, index) in visits.index.iter().enumerate() {
        if let Some(next) = visits.index.get(place + AHEAD) {
            ask(histories, *next);
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
