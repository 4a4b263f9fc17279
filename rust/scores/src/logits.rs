//! Scores of every row of logits: each logit is read from memory once, whatever is asked for.

use crate::expf::exp;
use crate::large::{PIECE, Running};
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
            batch.e_label[i] = exp(batch.label[i] - batch.first[i]);
            batch.e_second[i] = exp(batch.second[i] - batch.first[i]);
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
        // SAFETY: the row lies in the array.
        running.take(unsafe { rows.logits.view(start + from, piece) });
    }
    // SAFETY: as above; labels are below `classes`.
    let at = |k: usize| unsafe { rows.logits.get(start + k) };
    let value = if label < 0 { f32::NAN } else { at(label as usize) };
    running.store(value, batch, lane);
    let predicted = running.predicts(value, |greatest| (0..label as usize).any(|k| at(k) == greatest));
    batch.correct[lane] = f64::from(u8::from(predicted));
}
