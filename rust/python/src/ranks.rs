//! Ranks and rank correlations. Arrays are addresses that `dither.scores.engine` has checked.

use crate::scores::{Array, run, slice, slice_mut};
use dither_scores::kendall::{self, Row};
use dither_scores::order::Nan;
use dither_scores::places::Number;
use dither_scores::ranks::Ranker;
use dither_scores::sort::Sorter;
use pyo3::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ranks of every row of fp32 or fp64 into rows of fp64; `centred`: less their mean, into rows of fp32. Returns the first
/// row with NaN, whose ranks are not written.
#[pyfunction]
fn score_ranks(
    py: Python<'_>,
    x: Array,
    rows: usize,
    n: usize,
    out: usize,
    centred: bool,
    threads: usize,
) -> PyResult<Option<usize>> {
    let narrow = x.1 == "fp32";
    run(py, |give_up| {
        let refused = AtomicUsize::new(usize::MAX);
        let one = |row: usize| {
            // SAFETY: the engine has checked the arrays; a row belongs to one thread.
            let done = unsafe {
                if narrow {
                    rank_row(slice::<f32>((x.0 + row * n * 4, n)), out, row, centred)
                } else {
                    rank_row(slice::<f64>((x.0 + row * n * 8, n)), out, row, centred)
                }
            };
            if done.is_err() {
                refused.fetch_min(row, Ordering::Relaxed);
            }
        };
        let complete = dither_cpu::threads::for_each(rows, threads, give_up, one);
        let refused = refused.into_inner();
        complete.then_some((refused < rows).then_some(refused))
    })
}

/// # Safety
/// `out` is an array of rows as long as `x`, of fp32 if centred, else of fp64; this one belongs to the caller.
unsafe fn rank_row<T: Number>(x: &[T], out: usize, row: usize, centred: bool) -> Result<(), Nan> {
    thread_local! {
        /// Its memory serves all rows of a thread.
        static RANKER: RefCell<Ranker> = RefCell::default();
    }
    let n = x.len();
    RANKER.with_borrow_mut(|ranker| {
        if centred {
            // SAFETY: the caller's contract.
            ranker.centred(x, unsafe { slice_mut::<f32>((out + row * n * 4, n)) })
        } else {
            // SAFETY: as above.
            ranker.rank(x, unsafe { slice_mut::<f64>((out + row * n * 8, n)) })
        }
    })
}

/// tau-b of all pairs of rows of fp64, i < j, row by row; or the first row with NaN.
#[pyfunction]
fn score_kendall(
    py: Python<'_>,
    x: usize,
    rows: usize,
    n: usize,
    threads: usize,
) -> PyResult<(Vec<f64>, Option<usize>)> {
    run(py, |give_up| {
        let mut sorter = Sorter::default();
        let mut sorted = Vec::new();
        for row in 0..rows {
            // SAFETY: the engine has checked the array.
            match Row::new(unsafe { slice((x + row * n * 8, n)) }, &mut sorter) {
                Ok(row) => sorted.push(row),
                Err(Nan) => return Some((Vec::new(), Some(row))),
            }
        }
        kendall::pairs(&sorted, threads, give_up).map(|taus| (taus, None))
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(score_ranks, m)?)?;
    m.add_function(wrap_pyfunction!(score_kendall, m)?)
}
