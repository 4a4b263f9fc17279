//! Example scores. Arrays are addresses that `dither.scores.engine` has checked.

use dither_scores::dynamics::{Record, Refused, Visits, update};
use dither_scores::kendall::{self, Row};
use dither_scores::logits::{Outputs, Rows, score};
use dither_scores::ngrams::Documents;
use dither_scores::ranks::rank;
use dither_scores::sketch::{Matrix, Sketch};
use dither_scores::sort::{Number, Sorter};
use dither_scores::values::Values;
use dither_scores::{shapley, subsets, vog};
use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError, PyValueError};
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

/// The numbers of a buffer.
///
/// # Safety
/// Nobody writes them while the slice lives.
unsafe fn numbers<T: Element>(buffer: &PyBuffer<T>, n: Option<usize>) -> PyResult<&[T]> {
    let right = buffer.is_c_contiguous() && buffer.dimensions() == 1;
    if !right || n.is_some_and(|n| n != buffer.item_count()) {
        return Err(PyValueError::new_err("a column is not contiguous, has other axes, or another length"));
    }
    // SAFETY: the buffer is contiguous, aligned for its type, and held by the caller.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr() as *const T, buffer.item_count()) })
}

/// Take a batch into the records (their address and number): arrays of int64 and fp64. Returns None, or the place in the
/// batch that was refused and why ("outside", "twice", "finite").
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn score_visit(
    py: Python<'_>,
    records: Span,
    index: PyBuffer<i64>,
    confidence: PyBuffer<f64>,
    correct: PyBuffer<f64>,
    margin: Option<PyBuffer<f64>>,
    loss: Option<PyBuffer<f64>>,
    el2n: Option<PyBuffer<f64>>,
    entropy: Option<PyBuffer<f64>>,
) -> PyResult<Option<(usize, &'static str)>> {
    let n = Some(index.item_count());
    // SAFETY: the tracker's caller does not write to the batch meanwhile.
    let column =
        |b: &'_ Option<PyBuffer<f64>>| b.as_ref().map(|b| unsafe { numbers(b, n) }.map(|x| x as *const [f64]));
    let given = |b: &'_ Option<PyBuffer<f64>>| column(b).transpose();
    // SAFETY: as above; the buffers live to the end of this function.
    let read = |x: Option<*const [f64]>| x.map(|x| unsafe { &*x });
    let visits = Visits {
        // SAFETY: as above.
        index: unsafe { numbers(&index, None) }?,
        // SAFETY: as above.
        confidence: unsafe { numbers(&confidence, n) }?,
        // SAFETY: as above.
        correct: unsafe { numbers(&correct, n) }?,
        margin: read(given(&margin)?),
        loss: read(given(&loss)?),
        el2n: read(given(&el2n)?),
        entropy: read(given(&entropy)?),
    };
    // SAFETY: the tracker lets one thread in at a time.
    let refused = py.detach(|| update(unsafe { slice_mut::<Record>(records) }, &visits));
    Ok(refused.err().map(|why| match why {
        Refused::Outside(place) => (place, "outside"),
        Refused::Twice(place) => (place, "twice"),
        Refused::NotFinite(place) => (place, "finite"),
    }))
}

/// Ranks of every row of fp32 or fp64, without NaN, into rows of fp64; `centred`: less their mean, into rows of fp32.
#[pyfunction]
fn score_ranks(
    py: Python<'_>,
    x: Array,
    rows: usize,
    n: usize,
    out: usize,
    centred: bool,
    threads: usize,
) -> PyResult<()> {
    let narrow = x.1 == "fp32";
    run(py, |give_up| {
        let one = |row: usize| {
            // SAFETY: the engine has checked the arrays; a row belongs to one thread.
            unsafe {
                if narrow {
                    rank_row(slice::<f32>((x.0 + row * n * 4, n)), out, row, centred);
                } else {
                    rank_row(slice::<f64>((x.0 + row * n * 8, n)), out, row, centred);
                }
            }
        };
        dither_cpu::threads::for_each(rows, threads, give_up, one).then_some(())
    })
}

/// # Safety
/// `out` is an array of rows as long as `x`, of fp32 if centred, else of fp64; this one belongs to the caller.
unsafe fn rank_row<T: Number>(x: &[T], out: usize, row: usize, centred: bool) {
    thread_local! {
        /// Its memory serves all rows of a thread.
        static SORTER: std::cell::RefCell<Sorter> = const { std::cell::RefCell::new(Sorter::new()) };
    }
    let n = x.len();
    SORTER.with_borrow_mut(|sorter| {
        if centred {
            // SAFETY: the caller's contract.
            let out = unsafe { slice_mut::<f32>((out + row * n * 4, n)) };
            let mean = (n + 1) as f64 / 2.0;
            rank(x, sorter, |i, rank| out[i] = (rank - mean) as f32);
        } else {
            // SAFETY: as above.
            let out = unsafe { slice_mut::<f64>((out + row * n * 8, n)) };
            rank(x, sorter, |i, rank| out[i] = rank);
        }
    });
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
