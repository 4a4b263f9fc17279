//! Scores of every row of logits: each logit is read from memory once, whatever is asked for.

use crate::expf::{bounded, exp};
use crate::large::{LANES, PIECE, Running};
use crate::row::{Batch, ROWS, SCORES, finish};
use crate::small;
use crate::values::Values;
use dither_cpu::dispatch;
use dither_cpu::threads::for_each;

/// Rows of logits, row i from element `i * stride` on, and the label of each: below 0 for none.
#[derive(Clone, Copy)]
pub struct Rows {
    pub logits: Values,
    pub rows: usize,
    pub classes: usize,
    pub stride: usize,
    pub labels: Option<*const i64>,
}

/// An array of `rows` fp64 for each score that is wanted, in the order of [`crate::row::finish`].
#[derive(Clone, Copy)]
pub struct Outputs(pub [Option<*mut f64>; SCORES]);

// SAFETY: threads read the inputs only, and write disjoint ranges of rows.
unsafe impl Sync for Rows {}
// SAFETY: as above.
unsafe impl Sync for Outputs {}

/// Logits that a thread takes at a time.
const SHARE: usize = 1 << 17;

/// Logits in hand: of ROWS short rows or of a piece of a long one.
const MOST: usize = if ROWS * small::CLASSES > PIECE { ROWS * small::CLASSES } else { PIECE };

struct Scratch {
    logits: [f32; MOST],
    columns: small::Columns,
}

/// Write the scores. `None` where `give_up` said yes; the outputs are then incomplete.
///
/// # Safety
/// The arrays have the sizes stated, the labels are below `classes`, the outputs overlap nothing, and `classes > 0`.
pub unsafe fn score(rows: &Rows, out: &Outputs, threads: usize, give_up: &dyn Fn() -> bool) -> Option<()> {
    let share = (SHARE / rows.classes / ROWS).max(1) * ROWS;
    let one = |unit: usize| {
        let start = unit * share;
        range(rows, out, start, share.min(rows.rows - start));
    };
    for_each(rows.rows.div_ceil(share), threads, give_up, one).then_some(())
}

#[inline(always)]
fn range_body(rows: &Rows, out: &Outputs, start: usize, count: usize) {
    let mut scratch = Scratch { logits: [0.0; MOST], columns: [[0.0; ROWS]; small::CLASSES] };
    let mut batch = Batch::default();
    for first in (start..start + count).step_by(ROWS) {
        let have = ROWS.min(start + count - first);
        let labels = labels(rows, first, have);
        if rows.classes <= small::CLASSES {
            few(rows, first, have, &labels, &mut scratch, &mut batch);
        } else {
            for (lane, label) in labels.iter().enumerate().take(have) {
                many(rows, first + lane, *label, &mut scratch, &mut batch, lane);
            }
        }
        for i in 0..ROWS {
            batch.e_label[i] = exp(bounded(batch.label[i] - batch.first[i]));
            batch.e_second[i] = exp(bounded(batch.second[i] - batch.first[i]));
        }
        let scores = finish(&batch);
        for (score, out) in scores.iter().zip(out.0) {
            if let Some(out) = out {
                // SAFETY: `first + have <= rows`, and no other thread has these rows.
                unsafe { std::ptr::copy_nonoverlapping(score.as_ptr(), out.add(first), have) };
            }
        }
    }
}

dispatch! { fn range(rows: &Rows, out: &Outputs, start: usize, count: usize) = range_body; }

#[inline(always)]
fn labels(rows: &Rows, first: usize, have: usize) -> [i64; ROWS] {
    let mut labels = [-1; ROWS];
    if let Some(given) = rows.labels {
        // SAFETY: `first + have <= rows`.
        labels[..have].copy_from_slice(unsafe { std::slice::from_raw_parts(given.add(first), have) });
    }
    labels
}

#[inline(always)]
fn few(rows: &Rows, first: usize, have: usize, labels: &[i64; ROWS], scratch: &mut Scratch, batch: &mut Batch) {
    let classes = rows.classes;
    let z = &mut scratch.logits[..ROWS * classes];
    let z = if rows.stride == classes && have == ROWS {
        // SAFETY: the rows lie in the array.
        unsafe { rows.logits.view(first * classes, z) }
    } else {
        for (i, row) in z.chunks_exact_mut(classes).take(have).enumerate() {
            // SAFETY: as above.
            unsafe { rows.logits.load((first + i) * rows.stride, row) };
        }
        z
    };
    small::turn(z, classes, &mut scratch.columns);
    small::reduce(&scratch.columns, classes, labels, batch);
}

#[inline(always)]
fn many(rows: &Rows, row: usize, label: i64, scratch: &mut Scratch, batch: &mut Batch, lane: usize) {
    let start = row * rows.stride;
    let mut running = Running::default();
    for from in (0..rows.classes).step_by(PIECE) {
        let piece = &mut scratch.logits[..PIECE.min(rows.classes - from)];
        // While the sums are formed, the next piece is on its way: the processor's own prefetching stops at every page.
        let next = if from + PIECE < rows.classes { start + from + PIECE } else { start + rows.stride };
        let ahead = |chunk: usize| {
            rows.logits.prefetch(next + chunk * LANES);
            rows.logits.prefetch(next + chunk * LANES + LANES / 2);
        };
        // SAFETY: the row lies in the array.
        running.take(unsafe { rows.logits.view(start + from, piece) }, from, ahead);
    }
    // SAFETY: as above; labels are below `classes`.
    let logit = if label < 0 { f32::NAN } else { unsafe { rows.logits.get(start + label as usize) } };
    running.store(label, logit, batch, lane);
}

#[cfg(test)]
mod tests {
    use super::{Outputs, Rows, score};
    use crate::row::SCORES;
    use crate::values::Values;
    use dither_cpu::simd::{Level, limit};

    /// Scores of `classes` logits a row at one level of instructions, as bits.
    fn bits(z: &[f32], classes: usize, labels: &[i64], level: Level) -> Vec<u64> {
        limit(level);
        let rows = labels.len();
        let mut out = vec![0.0f64; SCORES * rows];
        let mut columns = out.chunks_exact_mut(rows).map(|c| Some(c.as_mut_ptr()));
        let outputs = Outputs(std::array::from_fn(|_| columns.next().expect("a column a score")));
        let labels = Some(labels.as_ptr());
        let given = Rows { logits: Values::F32(z.as_ptr()), rows, classes, stride: classes, labels };
        // SAFETY: the arrays have these sizes.
        unsafe { score(&given, &outputs, 1, &|| false) }.expect("nobody gives up");
        // NaN has many forms, which processors choose among.
        out.iter().map(|x| if x.is_nan() { u64::MAX } else { x.to_bits() }).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 40.0
        };
        for classes in [2, 3, 10, 255, 257, 1000, 2081] {
            let mut z: Vec<f32> = (0..37 * classes).map(|_| next()).collect();
            z[classes..classes + 2].fill(f32::NEG_INFINITY);
            z[4 * classes - 1] = f32::NAN;
            z[5 * classes] = 99.0; // tied below, in another piece where there are some
            z[6 * classes - 1] = 99.0;
            let labels: Vec<i64> = (0..37).map(|i| i % classes as i64).collect();
            let plain = bits(&z, classes, &labels, Level::Baseline);
            assert_eq!(plain, bits(&z, classes, &labels, Level::Avx2), "{classes}");
            assert_eq!(plain, bits(&z, classes, &labels, Level::Avx512), "{classes}");
        }
    }
}
