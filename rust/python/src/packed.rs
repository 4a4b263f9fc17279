//! Packed arrays.

use crate::calls;
use crate::memory::{self, Random};
use crate::quantizer::Quantizer;
use dither_quant::packed::{self, Parts, Scales, Shape};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

type Array<'a> = (usize, &'a str);
/// (outer, axis, inner), the length of the last axis, and whether that is the axis.
type Dims = ((usize, usize, usize), usize, bool);

fn shape((layout, last, along_last): Dims) -> Shape {
    Shape { layout: memory::layout(layout), last, along_last }
}

/// Addresses of the codes and of the zero points, where there are some.
type Bytes = (usize, Option<usize>);

fn parts((codes, zeros): Bytes, scales: Option<Array<'_>>) -> PyResult<Parts> {
    let scales = match scales {
        None => Scales::None,
        Some((address, "u8")) => Scales::Codes(address as *mut u8),
        Some((address, "fp32")) => Scales::F32(address as *mut f32),
        Some((_, dtype)) => return Err(PyTypeError::new_err(format!("scales are u8 or fp32, not {dtype}"))),
    };
    Ok(Parts { codes: codes as *mut u8, scales, zeros: zeros.unwrap_or(0) as *mut u8 })
}

/// Why arrays under this quantizer cannot be stored, or None.
#[pyfunction]
fn unstorable(q: &Quantizer) -> Option<String> {
    q.0.unstorable()
}

/// Fill codes and scales. Returns the position of the first element that has no code, and the tensor scale.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the parts of one array
fn quantize(
    py: Python<'_>,
    q: &Quantizer,
    dims: Dims,
    x: Array<'_>,
    codes: Bytes,
    scales: Option<Array<'_>>,
    random: Option<Random>,
    threads: usize,
) -> PyResult<(Option<usize>, Option<f32>)> {
    let (shape, x, parts) = (shape(dims), memory::input(x.0, x.1)?, parts(codes, scales)?);
    // SAFETY: dither.arrays has allocated codes and scales for this shape and holds the owners of all memory.
    let result = calls::run(py, || unsafe {
        packed::quantize(&q.0, &shape, x, parts, memory::source(random, shape.layout.len()), threads)
    })?;
    Ok(match result {
        Ok(tensor) => (None, tensor),
        Err(at) => (Some(at), None),
    })
}

/// Write the values of packed parts; `wide` forms them in fp64.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the parts of one array
fn dequantize(
    py: Python<'_>,
    q: &Quantizer,
    dims: Dims,
    codes: Bytes,
    scales: Option<Array<'_>>,
    tensor: Option<f32>,
    wide: bool,
    y: Array<'_>,
    threads: usize,
) -> PyResult<()> {
    let (shape, parts, y) = (shape(dims), parts(codes, scales)?, memory::output(y.0, y.1)?);
    // SAFETY: dither.arrays has checked that codes and scales have the lengths that this shape asks for.
    calls::run(py, || unsafe { packed::dequantize(&q.0, &shape, parts, tensor, wide, y, threads) })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(unstorable, m)?)?;
    m.add_function(wrap_pyfunction!(quantize, m)?)?;
    m.add_function(wrap_pyfunction!(dequantize, m)?)
}
