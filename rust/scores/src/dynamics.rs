//! Training dynamics: 48 bytes an example, touched once a visit.
//!
//! What the known scores need of an example's history is a handful of counts and means; kept together, a visit costs one
//! cache line instead of a dozen gathers: half a line for what nearly every tracker needs, a quarter of another for the
//! rest. Means are updated in fp64 and kept in fp32: dithered, since rounding to nearest would stop a mean for good once its
//! steps, 1/T of what is left, are below half a unit (one wrong visit, then 20,000 of p = 1: 1e-4 off). So there is no bias,
//! and after T visits a mean is right to about 5e-8 sqrt(T/3) of itself (rms). The margin's, which is not bounded, has its
//! rounding error beside it instead. Confidences are kept as what they are above 0 or below 1, whichever is less, so that
//! fp32's digits do not end near 1.
//!
//! ```text
//! ask for the first records of the batch; check that all are there, none twice, and the values
//! 8 examples at a time: ask for later ones; records to columns, one visit in vectors, columns to records
//! ```

mod checks;
mod columns;
mod fetching;

use checks::check;
use columns::{TOGETHER, gather, scatter};
use dither_cpu::dispatch;
use dither_cpu::simd::{Level, level};
use fetching::{AHEAD, ask, ask_columns};
use std::mem::size_of;

/// History of an example in one run. The layout is known to `dither.scores.engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(32))]
pub struct Record {
    /// Visits so far; the highest bit says whether the last one was correct.
    visits: u32,
    /// Visits that were correct.
    correct: u32,
    /// Times it was wrong right after it was correct (Toneva et al., 1812.05159). The highest bit marks the examples of
    /// the batch in hand.
    forgets: u32,
    /// The last wrong visit, counted from 1; 0 for none.
    last_wrong: u32,
    /// Mean of p_y; or, where that is above 1/2, less 1, with the sign bit set (-0 is 1).
    confidence: f32,
    /// Sum of squared deviations of p_y from its mean (Welford).
    deviation: f32,
    margin: f32,
    margin_error: f32,
}

/// What is rarely written, or rarely asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Rest {
    /// The first correct visit, counted from 1; 0 for none.
    first_correct: u32,
    /// Loss, EL2N, entropy.
    means: [f32; 3],
}

const _: () = assert!(size_of::<Record>() == 32 && size_of::<Rest>() == 16);

const FLAG: u32 = 1 << 31;

/// Both parts of all examples' histories, of the same length.
pub struct Histories<'a> {
    pub records: &'a mut [Record],
    pub rest: &'a mut [Rest],
}

/// One visit of each example of a batch. Values that are absent are absent from every batch of a run.
#[derive(Clone, Copy)]
pub struct Visits<'a> {
    pub index: &'a [i64],
    /// p_y. Above 1 by rounding it is 1.
    pub confidence: &'a [f64],
    /// 0 or 1, or a share: above one half it counts as right.
    pub correct: &'a [f64],
    pub margin: Option<&'a [f64]>,
    /// Loss, EL2N, entropy.
    pub others: [Option<&'a [f64]>; 3],
}

/// Why a batch was refused; nothing of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The index at this place of the batch is not an example.
    Outside(usize),
    /// The example at this place of the batch stands in it before.
    Twice(usize),
    /// A value at this place is NaN, or beyond what fp32 holds; or the confidence, or whether it is correct, does not lie
    /// between 0 and 1.
    NotFinite(usize),
}

/// To fp32, up where the bits that go, as a share of a unit, and the offset of the visit add up to 1. What fp32 holds exactly
/// stays what it is.
///
/// Offsets are multiples of the golden ratio, which fill the unit more evenly than random bits (Weyl): they depend on the
/// number of the visit alone, so that order and shards change nothing.
#[inline(always)]
fn dithered(x: f64, visit: u32) -> f32 {
    const GONE: u32 = f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS;
    let offset = visit.wrapping_mul(0x9E37_79B9) >> (u32::BITS - GONE);
    f64::from_bits((x.to_bits() + u64::from(offset)) & (u64::MAX << GONE)) as f32
}

/// The mean confidence, as a record keeps it but in fp64, after a visit that weighs `share`; and what the visit adds to the
/// squares. Of all that is subtracted only 0 and 1 are far apart: p is kept to 1e-16.
#[inline(always)]
fn averaged(before: f32, p: f64, share: f64) -> (f64, f64) {
    let above = if p > 0.5 { 1.0 } else { 0.0 };
    let x = if p < 1.0 { p - above } else { 0.0 };
    // The first visit says from where the mean is counted, 0 or 1.
    let from = if before.is_sign_negative() { 1.0 } else { 0.0 };
    let from = if share == 1.0 { above } else { from };
    let before = f64::from(before);
    let delta = (x - before) + (above - from);
    let mean = before + delta * share;
    let now = if from + mean > 0.5 { 1.0 } else { 0.0 };
    let mean = (mean + (from - now)).abs();
    (if now == 1.0 { -mean } else { mean }, delta * delta * (1.0 - share))
}

/// The N values from `start` on.
#[inline(always)]
fn part<const N: usize>(values: &[f64], start: usize) -> &[f64; N] {
    values[start..].first_chunk().expect("as many values as examples")
}

/// The N visits from `start` on.
#[inline(always)]
fn visit<const N: usize, const SQUARES: bool>(histories: &mut Histories, visits: &Visits, start: usize) {
    let index: &[i64; N] = visits.index[start..].first_chunk().expect("N are left");
    let (p, right): (&[f64; N], &[f64; N]) = (part(visits.confidence, start), part(visits.correct, start));
    // Without margins their mean stays what it is: 0.
    let m = visits.margin.map_or(&[0.0; N], |margins| part(margins, start));
    // SAFETY: SQUARES at levels that have AVX2.
    let columns = unsafe { gather::<N, SQUARES>(histories.records, index) };
    let [mut visits, mut correct, mut forgets, mut last_wrong, a, b, c, d] = columns;
    let [mut confidence, mut deviation, mut margin, mut margin_error] = [a, b, c, d].map(|x| x.map(f32::from_bits));
    let mut first = 0;
    for i in 0..N {
        // Whether a visit is correct is a coin toss to the processor: no branch depends on it.
        let now = u32::from(right[i] > 0.5);
        let visit = (visits[i] & !FLAG) + 1;
        forgets[i] = (forgets[i] & !FLAG) + ((visits[i] >> 31) & (1 - now));
        visits[i] = visit | (now << 31);
        correct[i] += now;
        first |= now & u32::from(correct[i] == 1);
        last_wrong[i] = if now == 1 { last_wrong[i] } else { visit };
        // Below 2^31 visits: signed integers take one instruction to convert.
        let share = 1.0 / f64::from(visit as i32);
        let (mean, squares) = averaged(confidence[i], p[i], share);
        deviation[i] = dithered(f64::from(deviation[i]) + squares, visit);
        confidence[i] = dithered(mean, visit);
        let mean = f64::from(margin[i]) + f64::from(margin_error[i]);
        let mean = mean + (m[i] - mean) * share;
        margin[i] = mean as f32;
        margin_error[i] = (mean - f64::from(margin[i])) as f32;
    }
    let [a, b, c, d] = [confidence, deviation, margin, margin_error].map(|x| x.map(f32::to_bits));
    let columns = [visits, correct, forgets, last_wrong, a, b, c, d];
    // SAFETY: as above.
    unsafe { scatter::<N, SQUARES>(&columns, histories.records, index) };
    if first != 0 {
        for i in 0..N {
            if visits[i] & FLAG != 0 && correct[i] == 1 {
                histories.rest[index[i] as usize].first_correct = visits[i] & !FLAG;
            }
        }
    }
}

/// The means of loss, EL2N and entropy over the visits from `start` to `end`, after `visit`.
#[inline(always)]
fn average_others(histories: &mut Histories, visits: &Visits, start: usize, end: usize) {
    for i in start..end {
        let example = visits.index[i] as usize;
        let visit = histories.records[example].visits & !FLAG;
        let share = 1.0 / f64::from(visit);
        for (mean, values) in histories.rest[example].means.iter_mut().zip(visits.others) {
            let before = f64::from(*mean);
            // Where values are absent, the mean stays what it is.
            let x = values.map_or(before, |values| values[i]);
            *mean = dithered(before + (x - before) * share, visit);
        }
    }
}

/// All visits of a batch that was looked through.
#[inline(always)]
fn take<const SQUARES: bool>(histories: &mut Histories, visits: &Visits) {
    let others = visits.others.iter().any(Option::is_some);
    let n = visits.index.len();
    // Loops, not closures, which would be compiled for the least of processors.
    let mut start = 0;
    while start < n {
        let end = if start + TOGETHER <= n { start + TOGETHER } else { start + 1 };
        if end - start == TOGETHER {
            ask(histories, visits, start + AHEAD);
            visit::<TOGETHER, SQUARES>(histories, visits, start);
        } else {
            visit::<1, SQUARES>(histories, visits, start);
        }
        if others {
            average_others(histories, visits, start, end);
        }
        start = end;
    }
}

#[inline(always)]
fn update_body(histories: &mut Histories, visits: &Visits) -> Result<(), Refused> {
    ask_columns(visits);
    for start in (0..AHEAD).step_by(TOGETHER) {
        ask(histories, visits, start);
    }
    check(histories, visits)?;
    match level() {
        Level::Baseline => take::<false>(histories, visits),
        Level::Avx2 | Level::Avx512 => take::<true>(histories, visits),
    }
    Ok(())
}

dispatch! {
    /// Take a batch in. Panics where columns are shorter than the index, or the two parts of the histories differ in length.
    pub fn update(histories: &mut Histories, visits: &Visits) -> Result<(), Refused> = update_body;
}

#[cfg(test)]
mod tests;
