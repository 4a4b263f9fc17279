//! Training dynamics: one record of 48 bytes an example, touched once a visit.
//!
//! What the known scores need of an example's history is a handful of counts and means; kept together, a visit costs one
//! or two cache lines instead of a dozen gathers. Means are updated in fp64 and kept in fp32 (after T visits they are
//! right to about 6e-8 sqrt(T/3)), the margin's, which is not bounded, with its rounding error beside it.

use std::mem::size_of;

/// History of an example in one run. The layout is known to `dither.scores.tracker`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Record {
    /// Visits so far; the highest bit says whether the last one was correct.
    visits: u32,
    /// Visits that were correct.
    correct: u32,
    /// Times it was wrong right after it was correct (Toneva et al., 1812.05159). The highest bit marks the examples of
    /// the batch in hand.
    forgets: u32,
    /// The first correct visit, counted from 1; 0 for none.
    first_correct: u32,
    /// The last wrong visit; 0 for none.
    last_wrong: u32,
    confidence: f32,
    /// Sum of squared deviations of the confidence from its mean (Welford).
    deviation: f32,
    margin: f32,
    margin_error: f32,
    loss: f32,
    el2n: f32,
    entropy: f32,
}

const _: () = assert!(size_of::<Record>() == 48);

const FLAG: u32 = 1 << 31;

/// One visit of each example of a batch. Values that are absent are absent from every batch of a run.
#[derive(Clone, Copy)]
pub struct Visits<'a> {
    pub index: &'a [i64],
    pub confidence: &'a [f64],
    pub correct: &'a [f64],
    pub margin: Option<&'a [f64]>,
    pub loss: Option<&'a [f64]>,
    pub el2n: Option<&'a [f64]>,
    pub entropy: Option<&'a [f64]>,
}

/// Why a batch was refused; nothing of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The index at this place of the batch is not an example.
    Outside(usize),
    /// The example at this place of the batch stands in it before.
    Twice(usize),
    /// A value at this place is NaN or infinite.
    NotFinite(usize),
}

/// Records that are asked for before their turn.
const AHEAD: usize = 16;

/// Ask for a record: it may lie across two cache lines.
#[inline(always)]
fn fetch(records: &[Record], index: i64) {
    #[cfg(target_arch = "x86_64")]
    if let Some(record) = usize::try_from(index).ok().and_then(|i| records.get(i)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(record).cast::<i8>();
        // SAFETY: a prefetch reads nothing; both addresses lie in the record.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(start);
            _mm_prefetch::<_MM_HINT_T0>(start.add(size_of::<Record>() - 1));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (records, index);
}

/// Whether all are finite, without a way out halfway: that is quicker.
fn finite(x: &[f64]) -> bool {
    const EXPONENT: u64 = 0x7ff << 52;
    x.iter().fold(true, |all, x| all & (x.to_bits() & EXPONENT != EXPONENT))
}

/// `yes` where `which` is 1, `no` where it is 0.
#[inline(always)]
fn if_else(which: u32, yes: u32, no: u32) -> u32 {
    let mask = which.wrapping_neg();
    (yes & mask) | (no & !mask)
}

/// Take a batch in.
pub fn update(records: &mut [Record], visits: &Visits) -> Result<(), Refused> {
    let columns =
        [Some(visits.confidence), Some(visits.correct), visits.margin, visits.loss, visits.el2n, visits.entropy];
    if !columns.into_iter().flatten().all(finite) {
        let place = columns.into_iter().flatten().find_map(|c| c.iter().position(|x| !x.is_finite()));
        return Err(Refused::NotFinite(place.expect("one is not finite")));
    }
    // The first pass checks, and fetches the records; the second finds them in the cache.
    for (place, index) in visits.index.iter().enumerate() {
        if let Some(next) = visits.index.get(place + AHEAD) {
            fetch(records, *next);
        }
        let record = usize::try_from(*index).ok().and_then(|i| records.get_mut(i));
        let why = match record {
            None => Refused::Outside(place),
            Some(record) if record.forgets & FLAG != 0 => Refused::Twice(place),
            Some(record) => {
                record.forgets |= FLAG;
                continue;
            }
        };
        for index in &visits.index[..place] {
            records[*index as usize].forgets &= !FLAG;
        }
        return Err(why);
    }
    for (i, index) in visits.index.iter().enumerate() {
        let r = &mut records[*index as usize];
        // Whether a visit is correct is a coin toss to the processor: no branch depends on it.
        let correct = u32::from(visits.correct[i] > 0.5);
        let visit = (r.visits & !FLAG) + 1;
        r.forgets = (r.forgets & !FLAG) + ((r.visits >> 31) & (1 - correct));
        r.visits = visit | (correct << 31);
        r.correct += correct;
        r.first_correct += u32::from(r.first_correct == 0) * correct * visit;
        r.last_wrong = if_else(correct, r.last_wrong, visit);
        let share = 1.0 / f64::from(visit);
        let towards = |mean: f32, x: f64| (f64::from(mean) + (x - f64::from(mean)) * share) as f32;
        let (p, before) = (visits.confidence[i], f64::from(r.confidence));
        let mean = before + (p - before) * share;
        r.deviation = (f64::from(r.deviation) + (p - before) * (p - mean)) as f32;
        r.confidence = mean as f32;
        if let Some(margins) = visits.margin {
            let mean = f64::from(r.margin) + f64::from(r.margin_error);
            let mean = mean + (margins[i] - mean) * share;
            r.margin = mean as f32;
            r.margin_error = (mean - f64::from(r.margin)) as f32;
        }
        if let Some(losses) = visits.loss {
            r.loss = towards(r.loss, losses[i]);
        }
        if let Some(el2n) = visits.el2n {
            r.el2n = towards(r.el2n, el2n[i]);
        }
        if let Some(entropy) = visits.entropy {
            r.entropy = towards(r.entropy, entropy[i]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(records: &mut [Record], index: &[i64], p: &[f64], correct: &[f64]) -> Result<(), Refused> {
        let visits = Visits { index, confidence: p, correct, margin: None, loss: None, el2n: None, entropy: None };
        update(records, &visits)
    }

    #[test]
    fn counts_follow_their_definitions() {
        let mut records = [Record::default(); 2];
        for correct in [0.0, 1.0, 1.0, 0.0, 1.0, 0.0] {
            visit(&mut records, &[1], &[0.25 + correct / 2.0], &[correct]).unwrap();
        }
        let r = records[1];
        assert_eq!((r.visits & !FLAG, r.correct, r.forgets, r.first_correct, r.last_wrong), (6, 3, 2, 2, 6));
        assert!(r.confidence == 0.5 && (r.deviation - 6.0 / 16.0).abs() < 1e-6);
        assert_eq!(records[0], Record::default());
    }

    #[test]
    fn a_refused_batch_leaves_nothing() {
        let mut records = [Record::default(); 3];
        assert_eq!(visit(&mut records, &[0, 3], &[0.5; 2], &[1.0; 2]), Err(Refused::Outside(1)));
        assert_eq!(visit(&mut records, &[-1], &[0.5], &[1.0]), Err(Refused::Outside(0)));
        assert_eq!(visit(&mut records, &[2, 1, 2], &[0.5; 3], &[1.0; 3]), Err(Refused::Twice(2)));
        assert_eq!(visit(&mut records, &[2, 1], &[0.5, f64::NAN], &[1.0; 2]), Err(Refused::NotFinite(1)));
        assert_eq!(records, [Record::default(); 3]);
    }
}
