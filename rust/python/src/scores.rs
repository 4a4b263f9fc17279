//! Example scores. Arrays are addresses that `dither.scores.engine` has checked.

use dither_scores::dynamics::{Histories, Record, Refused, Rest, Visits, update};
use dither_scores::logits::{Outputs, Rows, score};
use dither_scores::ngrams::Documents;
use dither_scores::sketch::{Matrix, Sketch};
use dither_scores::values::Values;
use dither_scores::{duplicates, shapley, subsets, vog};
use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError};
use pyo3::prelude::*;

/// Address and dtype word.
pub type Array = (usize, String);
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
pub unsafe fn slice<'a, T>((address, len): Span) -> &'a [T] {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}

/// # Safety
/// As for [`slice`], and nobody else reads them.
pub unsafe fn slice_mut<'a, T>((address, len): Span) -> &'a mut [T] {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts_mut(address as *mut T, len) }
}

/// Run `work` without the GIL; what a signal handler raises takes the place of the result.
pub fn run<R: Send>(py: Python<'_>, work: impl FnOnce(&dyn Fn() -> bool) -> Option<R> + Send) -> PyResult<R> {
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

/// Below so many visits a batch takes microseconds, less than to let go of the GIL and to wait for it.
const SHORT: usize = 4096;

/// The buffer of an array as it is: contiguous, of one axis, of this type, and of `n` elements; None for anything else.
fn column<T: Element>(array: &Bound<'_, PyAny>, n: Option<usize>) -> Option<PyBuffer<T>> {
    let buffer = PyBuffer::<T>::get(array).ok()?;
    let right = buffer.dimensions() == 1 && buffer.is_c_contiguous() && n.is_none_or(|n| n == buffer.item_count());
    right.then_some(buffer)
}

/// # Safety
/// Nobody writes the numbers while the slice lives.
unsafe fn numbers<T: Element>(buffer: &PyBuffer<T>) -> &[T] {
    // SAFETY: `column` saw to it that the buffer is contiguous and aligned for its type, and it is held by the caller.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr() as *const T, buffer.item_count()) }
}

/// Take a batch into the histories (addresses of their two parts, and their number). index: int64; columns: confidence,
/// correct, margin, loss, EL2N, entropy, of fp64; those whose bit in `wanted` is 0 are not looked at. Returns None, or the
/// place in the batch that was refused and why ("outside", "twice", "finite"), or "form" where one is not such an array.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn score_visit(
    py: Python<'_>,
    histories: (usize, usize, usize),
    wanted: u8,
    index: &Bound<'_, PyAny>,
    confidence: &Bound<'_, PyAny>,
    correct: &Bound<'_, PyAny>,
    margin: &Bound<'_, PyAny>,
    loss: &Bound<'_, PyAny>,
    el2n: &Bound<'_, PyAny>,
    entropy: &Bound<'_, PyAny>,
) -> Option<(usize, &'static str)> {
    const FORM: Option<(usize, &str)> = Some((0, "form"));
    let Some(index) = column::<i64>(index, None) else { return FORM };
    let mut columns = [const { None }; 6];
    for (k, array) in [confidence, correct, margin, loss, el2n, entropy].into_iter().enumerate() {
        if wanted >> k & 1 == 1 {
            columns[k] = column::<f64>(array, Some(index.item_count()));
            if columns[k].is_none() {
                return FORM;
            }
        }
    }
    // SAFETY: the tracker's caller does not write to the batch meanwhile.
    let read = |k: usize| columns[k].as_ref().map(|buffer| unsafe { numbers(buffer) });
    let (Some(confidence), Some(correct)) = (read(0), read(1)) else { return FORM };
    // SAFETY: as above.
    let index = unsafe { numbers(&index) };
    let visits = Visits { index, confidence, correct, margin: read(2), others: [read(3), read(4), read(5)] };
    let (records, rest, n) = histories;
    let take = || {
        // SAFETY: the tracker owns both parts and lets one thread in at a time.
        let (records, rest) = unsafe { (slice_mut::<Record>((records, n)), slice_mut::<Rest>((rest, n))) };
        update(&mut Histories { records, rest }, &visits)
    };
    let refused = if index.len() < SHORT { take() } else { py.detach(take) };
    refused.err().map(|why| match why {
        Refused::Outside(place) => (place, "outside"),
        Refused::Twice(place) => (place, "twice"),
        Refused::NotFinite(place) => (place, "finite"),
    })
}

/// Raise `out` to the greatest similarity (fp32, no NaN; rows as many as `out`) with the examples before each row's.
#[pyfunction]
fn score_duplicates(
    py: Python<'_>,
    similar: Span,
    columns: usize,
    before: usize,
    out: Span,
    threads: usize,
) -> PyResult<()> {
    run(py, |give_up| {
        // SAFETY: the engine has checked the arrays.
        let (similar, out) = unsafe { (slice(similar), slice_mut(out)) };
        duplicates::raise(similar, columns, before, out, threads, give_up).then_some(())
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
    m.add_function(wrap_pyfunction!(score_duplicates, m)?)?;
    m.add_function(wrap_pyfunction!(score_shapley, m)?)?;
    m.add_function(wrap_pyfunction!(score_project, m)?)?;
    m.add_function(wrap_pyfunction!(score_vog_update, m)?)?;
    m.add_function(wrap_pyfunction!(score_vog_reduce, m)?)?;
    m.add_function(wrap_pyfunction!(score_vog_examples, m)?)?;
    m.add_function(wrap_pyfunction!(score_ngram_count, m)?)?;
    m.add_function(wrap_pyfunction!(score_ngram_weigh, m)?)?;
    m.add_function(wrap_pyfunction!(score_subsets, m)?)
}
