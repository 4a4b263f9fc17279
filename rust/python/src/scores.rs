//! Example scores. Arrays are addresses that `dither.scores.engine` has checked.

use dither_scores::dynamics::{Record, Refused, Visits, update};
use dither_scores::kendall::{self, Row};
use dither_scores::logits::{Outputs, Rows, score};
use dither_scores::ngrams::Documents;
use dither_scores::ranks::rank;
use dither_scores::sketch::{Matrix, Sketch};
use dither_scores::sort::{Narrow, Sorter, Wide};
use dither_scores::values::Values;
use dither_scores::{shapley, subsets, vog};
use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError};
use pyo3::prelude::*;

/// Address and dtype word.
type Array = (usize, String);
/// Address and number of elements.
type Span = (usize, usize);

fn values((address, dtype): &Array) -> PyResult<Values> {
    Ok(match dtype.as_str() {
        "fp32" => Values::F32(*address as *const f32),
        "bf16" => Values::Bf16(*address as *const u16),
        "fp16" => Values::F16(*address as *const u16),
        "fp64" => Values::F64(*address as *const f64),
        _ => return Err(PyTypeError::new_err(format!("no kernel reads {dtype}"))),
    })
}

/// # Safety
/// The address is that of `len` elements that live, and are written by nobody else, as long as the slice.
unsafe fn slice<'a, T>((address, len): Span) -> &'a [T] {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}

/// # Safety
/// As for [`slice`], and nobody else reads them.
unsafe fn slice_mut<'a, T>((address, len): Span) -> &'a mut [T] {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts_mut(address as *mut T, len) }
}

/// Run `work` without the GIL; what a signal handler raises takes the place of the result.
fn run<R: Send>(py: Python<'_>, work: impl FnOnce(&dyn Fn() -> bool) -> Option<R> + Send) -> PyResult<R> {
    let signalled = || Python::attach(|py| py.check_signals().is_err());
    py.detach(|| work(&signalled)).ok_or_else(|| PyKeyboardInterrupt::new_err(()))
}

/// Scores of `shape` = (rows, classes, stride) logits into the given arrays (0: not wanted).
#[pyfunction]
fn score_logits(
    py: Python<'_>,
    logits: Array,
    shape: (usize, usize, usize),
    labels: Option<usize>,
    out: [usize; 9],
    threads: usize,
) -> PyResult<()> {
    let logits = values(&logits)?;
    run(py, |give_up| {
        let out = out.map(|address| (address != 0).then_some(address as *mut f64));
        let labels = labels.map(|address| address as *const i64);
        let rows = Rows { logits, rows: shape.0, classes: shape.1, stride: shape.2, labels };
        // SAFETY: the engine has checked sizes and labels, and the outputs are arrays of their own.
        unsafe { score(&rows, &Outputs(out), threads, give_up) }
    })
}

/// Take a batch into the records. `columns`: confidence, correct, then margin, loss, EL2N, entropy or 0. Returns None,
/// or the place in the batch that was refused and whether it was repeated.
#[pyfunction]
fn score_visit(py: Python<'_>, records: Span, index: Span, columns: [usize; 6]) -> Option<(usize, bool)> {
    py.detach(|| {
        // SAFETY: the engine has checked the arrays; each is fp64 and as long as the index.
        let column = |i: usize| (columns[i] != 0).then(|| unsafe { slice((columns[i], index.1)) });
        let visits = Visits {
            // SAFETY: as above.
            index: unsafe { slice(index) },
            confidence: column(0).unwrap_or_default(),
            correct: column(1).unwrap_or_default(),
            margin: column(2),
            loss: column(3),
            el2n: column(4),
            entropy: column(5),
        };
        // SAFETY: as above; the tracker lets one thread in at a time.
        match update(unsafe { slice_mut::<Record>(records) }, &visits) {
            Ok(()) => None,
            Err(Refused::Outside(place)) => Some((place, false)),
            Err(Refused::Twice(place)) => Some((place, true)),
        }
    })
}

/// Ranks of every row of fp32 or fp64, without NaN, into rows of fp64.
#[pyfunction]
fn score_ranks(py: Python<'_>, x: Array, rows: usize, n: usize, out: usize, threads: usize) -> PyResult<()> {
    let narrow = x.1 == "fp32";
    run(py, |give_up| {
        let one = |row: usize| {
            // SAFETY: the engine has checked the arrays; a row belongs to one thread.
            let out = unsafe { slice_mut((out + row * n * 8, n)) };
            if narrow {
                // SAFETY: as above.
                rank::<Narrow, f32>(unsafe { slice((x.0 + row * n * 4, n)) }, out, &mut Sorter::default());
            } else {
                // SAFETY: as above.
                rank::<Wide, f64>(unsafe { slice((x.0 + row * n * 8, n)) }, out, &mut Sorter::default());
            }
        };
        dither_cpu::threads::for_each(rows, threads, give_up, one).then_some(())
    })
}

/// tau-b of all pairs of rows of fp64 without NaN: i < j, row by row.
#[pyfunction]
fn score_kendall(py: Python<'_>, x: usize, rows: usize, n: usize, threads: usize) -> PyResult<Vec<f64>> {
    run(py, |give_up| {
        let mut sorter = Sorter::default();
        // SAFETY: the engine has checked the array.
        let rows: Vec<Row> = (0..rows).map(|i| Row::new(unsafe { slice((x + i * n * 8, n)) }, &mut sorter)).collect();
        kendall::pairs(&rows, threads, give_up)
    })
}

/// Add nearest-neighbour Shapley values of tests x examples distances (fp32, no NaN) to fp64.
#[pyfunction]
fn score_shapley(
    py: Python<'_>,
    distances: usize,
    labels: Span,
    tests: Span,
    k: usize,
    out: usize,
    threads: usize,
) -> PyResult<()> {
    run(py, |give_up| {
        // SAFETY: the engine has checked the arrays.
        let (distances, out) = unsafe { (slice((distances, labels.1 * tests.1)), slice_mut((out, labels.1))) };
        // SAFETY: as above.
        let (labels, tests) = unsafe { (slice(labels), slice(tests)) };
        shapley::add(distances, labels, tests, k, out, threads, give_up).then_some(())
    })
}

/// Projections of `shape` = (rows, columns, stride) into rows x k fp32; the columns are coordinates from `first` on.
/// `matrix`: k, entries a coordinate, seed, stream.
#[pyfunction]
fn score_project(
    py: Python<'_>,
    x: Array,
    shape: (usize, usize, usize),
    first: u64,
    matrix: (usize, usize, u64, u64),
    out: usize,
    threads: usize,
) -> PyResult<()> {
    let values = values(&x)?;
    let (k, s, seed, stream) = matrix;
    run(py, |give_up| {
        let x = Matrix { values, rows: shape.0, columns: shape.1, stride: shape.2 };
        let sketch = Sketch { k, s, seed, stream };
        // SAFETY: the engine has checked the arrays.
        unsafe { sketch.project(&x, first, out as *mut f32, threads, give_up) }.then_some(())
    })
}

/// Take the gradients of the `count`-th checkpoint into mean and squares (fp32).
#[pyfunction]
fn score_vog_update(
    py: Python<'_>,
    x: Array,
    mean: usize,
    squares: usize,
    len: usize,
    count: u32,
    threads: usize,
) -> PyResult<()> {
    let x = values(&x)?;
    run(py, |give_up| {
        // SAFETY: the engine has checked the arrays.
        unsafe { vog::update(x, (mean as *mut f32, squares as *mut f32), len, count, threads, give_up) }.then_some(())
    })
}

/// Means over the elements of each example after `count` checkpoints. `statistic`: root, ddof.
#[pyfunction]
fn score_vog_reduce(py: Python<'_>, squares: Span, size: usize, count: usize, statistic: (bool, usize), out: Span) {
    let statistic = vog::Statistic { root: statistic.0, ddof: statistic.1 };
    // SAFETY: the engine has checked the arrays.
    py.detach(|| unsafe { vog::reduce(slice(squares), size, count, statistic, slice_mut(out)) });
}

/// The same from gradients of examples x checkpoints x elements.
#[pyfunction]
fn score_vog_examples(
    py: Python<'_>,
    x: Array,
    shape: (usize, usize, usize),
    statistic: (bool, usize),
    out: usize,
    threads: usize,
) -> PyResult<()> {
    let x = values(&x)?;
    let statistic = vog::Statistic { root: statistic.0, ddof: statistic.1 };
    // SAFETY: the engine has checked the arrays.
    run(py, |give_up| unsafe { vog::examples(x, shape, statistic, out as *mut f64, threads, give_up) }.then_some(()))
}

/// Add the hashed n-grams of documents to counts (u64).
#[pyfunction]
fn score_ngram_count(py: Python<'_>, bytes: Span, offsets: Span, counts: Span, threads: usize) -> PyResult<()> {
    // SAFETY: the engine has checked the arrays.
    let documents = unsafe { Documents { bytes: slice(bytes), offsets: slice(offsets) } };
    // SAFETY: as above.
    run(py, |give_up| documents.count(unsafe { slice_mut(counts) }, threads, give_up).then_some(()))
}

/// Write the sum of the weights of every document's n-grams, and its number of tokens.
#[pyfunction]
fn score_ngram_weigh(
    py: Python<'_>,
    bytes: Span,
    offsets: Span,
    weights: Span,
    out: usize,
    tokens: usize,
    threads: usize,
) -> PyResult<()> {
    let n = offsets.1 - 1;
    // SAFETY: the engine has checked the arrays.
    let documents = unsafe { Documents { bytes: slice(bytes), offsets: slice(offsets) } };
    // SAFETY: as above.
    let (weights, out, tokens) = unsafe { (slice(weights), slice_mut((out, n)), slice_mut((tokens, n))) };
    run(py, |give_up| documents.weigh(weights, out, tokens, threads, give_up).then_some(()))
}

/// Differences of accuracy with and without each example, from bits a model; `out` is examples x others, or examples
/// for their own.
#[pyfunction]
fn score_subsets(
    py: Python<'_>,
    members: Span,
    correct: Span,
    models: u32,
    own: bool,
    out: Span,
    threads: usize,
) -> PyResult<()> {
    // SAFETY: the engine has checked the arrays.
    let (members, correct, out) = unsafe { (slice(members), slice(correct), slice_mut(out)) };
    run(py, |give_up| {
        if own {
            subsets::memorization(members, correct, models, out);
            return Some(());
        }
        subsets::influence(members, correct, models, out, threads, give_up).then_some(())
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(score_logits, m)?)?;
    m.add_function(wrap_pyfunction!(score_visit, m)?)?;
    m.add_function(wrap_pyfunction!(score_ranks, m)?)?;
    m.add_function(wrap_pyfunction!(score_kendall, m)?)?;
    m.add_function(wrap_pyfunction!(score_shapley, m)?)?;
    m.add_function(wrap_pyfunction!(score_project, m)?)?;
    m.add_function(wrap_pyfunction!(score_vog_update, m)?)?;
    m.add_function(wrap_pyfunction!(score_vog_reduce, m)?)?;
    m.add_function(wrap_pyfunction!(score_vog_examples, m)?)?;
    m.add_function(wrap_pyfunction!(score_ngram_count, m)?)?;
    m.add_function(wrap_pyfunction!(score_ngram_weigh, m)?)?;
    m.add_function(wrap_pyfunction!(score_subsets, m)?)
}
