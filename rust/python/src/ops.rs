//! The operations on arrays.

use crate::calls;
use crate::memory::{self, Random};
use crate::quantizer::Quantizer;
use dither_numerics::Format;
use dither_quant::{codes, simd, stream};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

type Shape = (usize, usize, usize);
/// Address and dtype word.
type Array<'a> = (usize, &'a str);

#[pyfunction]
fn fake_quant(
    py: Python<'_>,
    q: &Quantizer,
    shape: Shape,
    x: Array<'_>,
    y: Array<'_>,
    random: Option<Random>,
    threads: usize,
) -> PyResult<()> {
    let (layout, x, y) = (memory::layout(shape), memory::input(x.0, x.1)?, memory::output(y.0, y.1)?);
    // SAFETY: dither.arrays has checked that both arrays (and given random integers) have the shape's elements, that
    // they are contiguous and aligned, and holds their owners; it refuses outputs that overlap the input in part.
    calls::run(py, || unsafe {
        let source = memory::source(random, layout.len());
        dither_quant::fake_quant(&q.0, &layout, x, y, source, threads);
    })
}

#[pyfunction]
fn neighbours(
    py: Python<'_>,
    q: &Quantizer,
    shape: Shape,
    x: Array<'_>,
    lo: Array<'_>,
    hi: Array<'_>,
    threads: usize,
) -> PyResult<()> {
    let (layout, x) = (memory::layout(shape), memory::input(x.0, x.1)?);
    let (lo, hi) = (memory::output(lo.0, lo.1)?, memory::output(hi.0, hi.1)?);
    // SAFETY: as in fake_quant; both outputs are fresh arrays.
    calls::run(py, || unsafe { dither_quant::neighbours(&q.0, &layout, x, lo, hi, threads) })
}

/// Returns the position of the first element that has no code, or None.
#[pyfunction]
fn encode(
    py: Python<'_>,
    q: &Quantizer,
    len: usize,
    x: Array<'_>,
    out: Array<'_>,
    random: Option<Random>,
    threads: usize,
) -> PyResult<Option<usize>> {
    let (x, out) = (memory::input(x.0, x.1)?, memory::codes(out.0, out.1)?);
    // SAFETY: as in fake_quant; the output is a fresh array.
    calls::run(py, || unsafe { codes::encode(&q.0, len, x, out, memory::source(random, len), threads) })
}

/// Returns the position of the first code whose value the output type cannot hold, or None.
#[pyfunction]
fn decode(
    py: Python<'_>,
    format: &str,
    len: usize,
    code: Array<'_>,
    y: Array<'_>,
    threads: usize,
) -> PyResult<Option<usize>> {
    let format = Format::get(format).ok_or_else(|| PyValueError::new_err(format!("unknown format {format:?}")))?;
    let (code, y) = (memory::codes(code.0, code.1)?, memory::output(y.0, y.1)?);
    // SAFETY: as in fake_quant; the output is a fresh array.
    calls::run(py, || unsafe { codes::decode(&format, len, code, y, threads) })
}

/// The `bits` random bits of element `index` of `stream` under `seed`.
#[pyfunction]
fn random_bits(seed: u64, stream: u64, index: u64, bits: u32) -> PyResult<u32> {
    if !(1..=32).contains(&bits) {
        return Err(PyValueError::new_err(format!("1 to 32 random bits an element, not {bits}")));
    }
    Ok(dither_numerics::random::random_bits(seed, stream, index, bits))
}

/// Ask for huge pages under fresh memory, if it is large.
#[pyfunction]
fn prefer_huge_pages(py: Python<'_>, address: usize, bytes: usize) -> PyResult<()> {
    // SAFETY: dither.arrays passes the memory of a tensor that it has just allocated.
    calls::run(py, || unsafe { dither_quant::pages::prefer_huge(address, bytes) })
}

const LEVELS: [(&str, simd::Level); 3] =
    [("baseline", simd::Level::Baseline), ("avx2", simd::Level::Avx2), ("avx512", simd::Level::Avx512)];

/// The instruction set in use; with a name, use at most that one (results never depend on it).
#[pyfunction]
#[pyo3(signature = (at_most=None))]
fn simd_level(at_most: Option<&str>) -> PyResult<&'static str> {
    let level = match at_most {
        None => simd::level(),
        Some(name) => match LEVELS.iter().find(|(known, _)| *known == name) {
            Some((_, level)) => simd::limit(*level),
            None => return Err(PyValueError::new_err(format!("unknown level {name:?}: baseline, avx2 or avx512"))),
        },
    };
    Ok(LEVELS[level as usize - 1].0)
}

/// From how many bytes of output stores go past the caches: sets it where a number is given, back to this machine's own
/// with 0, and returns what is in use.
#[pyfunction]
#[pyo3(signature = (bytes=None))]
fn stream_threshold(bytes: Option<usize>) -> usize {
    match bytes {
        None => stream::threshold(),
        Some(bytes) => stream::set_threshold(Some(bytes).filter(|b| *b > 0)),
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(fake_quant, m)?)?;
    m.add_function(wrap_pyfunction!(neighbours, m)?)?;
    m.add_function(wrap_pyfunction!(encode, m)?)?;
    m.add_function(wrap_pyfunction!(decode, m)?)?;
    m.add_function(wrap_pyfunction!(random_bits, m)?)?;
    m.add_function(wrap_pyfunction!(prefer_huge_pages, m)?)?;
    m.add_function(wrap_pyfunction!(simd_level, m)?)?;
    m.add_function(wrap_pyfunction!(stream_threshold, m)?)
}
