//! Statistics of what quantization does.

use crate::calls;
use crate::memory::{self, Random};
use crate::quantizer::Quantizer;
use dither_quant::histogram::{self, Histogram};
use dither_quant::stats::{FIELDS, Table, block_count, numbers};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

type Shape = (usize, usize, usize);
/// Address and dtype word.
type Array<'a> = (usize, &'a str);

/// Blocks of the statistics and the names of their rows: the shape of the table that `stats` fills.
#[pyfunction]
fn stats_table(q: &Quantizer, shape: Shape) -> (Vec<&'static str>, usize) {
    (FIELDS.to_vec(), block_count(&q.0, &memory::layout(shape)))
}

/// Sums over the array by name; with the address of an fp64 table, those of every block go there.
#[pyfunction]
fn stats<'py>(
    py: Python<'py>,
    q: &Quantizer,
    shape: Shape,
    x: Array<'_>,
    random: Option<Random>,
    table: Option<usize>,
    threads: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let (layout, x) = (memory::layout(shape), memory::input(x.0, x.1)?);
    let blocks = block_count(&q.0, &layout);
    // SAFETY: as for `ops::fake_quant`; the table is a fresh array of the shape that `stats_table` states.
    let total = calls::run(py, || unsafe {
        let source = memory::source(random, layout.len());
        let table = table.map(|p| Table { rows: p as *mut f64, blocks });
        dither_quant::stats::stats(&q.0, &layout, x, source, table, threads)
    })?;
    let sums = PyDict::new(py);
    for (name, number) in FIELDS.into_iter().zip(numbers(&total.stats, f64::NAN)) {
        sums.set_item(name, number)?;
    }
    let spread = total.spread;
    sums.set_item("scale", (spread.scales, spread.lowest, spread.highest, spread.m2))?;
    Ok(sums)
}

/// Counts, and the numbers of zeros, of NaN and infinite elements, of those below and above all bins.
type Counted = (Vec<u64>, (u64, u64, u64, u64));

fn counted(h: Histogram) -> Counted {
    (h.counts, (h.zeros, h.nonfinite, h.below, h.above))
}

/// Elements between ascending edges.
#[pyfunction]
fn histogram_values(py: Python<'_>, x: Array<'_>, len: usize, edges: Vec<f64>, threads: usize) -> PyResult<Counted> {
    if edges.len() < 2 {
        return Err(PyValueError::new_err("a histogram has at least two edges"));
    }
    let x = memory::input(x.0, x.1)?;
    // SAFETY: dither.arrays holds the owner of `len` elements.
    Ok(counted(calls::run(py, || unsafe { histogram::values(x, len, &edges, threads) })?))
}

/// The exponent of the first count, and the elements of each.
#[pyfunction]
fn histogram_exponents(py: Python<'_>, x: Array<'_>, len: usize, threads: usize) -> PyResult<(i32, Counted)> {
    let x = memory::input(x.0, x.1)?;
    // SAFETY: as above.
    let counts = calls::run(py, || unsafe { histogram::exponents(x, len, threads) })?;
    Ok((histogram::FIRST_EXPONENT, counted(counts)))
}

/// How often each code occurs in `rows` packed rows of `n` codes.
#[pyfunction]
fn histogram_codes(
    py: Python<'_>,
    codes: usize,
    rows: usize,
    n: usize,
    width: u32,
    threads: usize,
) -> PyResult<Vec<u64>> {
    if !(1..=16).contains(&width) {
        return Err(PyValueError::new_err(format!("codes of 1 to 16 bits are counted, not of {width}")));
    }
    // SAFETY: dither.arrays holds the owner of the rows.
    calls::run(py, || unsafe { histogram::codes(codes as *const u8, rows, n, width, threads) })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(stats, m)?)?;
    m.add_function(wrap_pyfunction!(stats_table, m)?)?;
    m.add_function(wrap_pyfunction!(histogram_values, m)?)?;
    m.add_function(wrap_pyfunction!(histogram_exponents, m)?)?;
    m.add_function(wrap_pyfunction!(histogram_codes, m)?)
}
