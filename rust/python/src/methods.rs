//! Kernels of training methods.

use crate::calls;
use crate::memory;
use crate::quantizer::Quantizer;
use dither_quant::lotion::{Gradient, lotion as penalty, takes};
use pyo3::prelude::*;

/// Whether `lotion` takes the quantizer.
#[pyfunction]
fn lotion_takes(q: &Quantizer) -> bool {
    takes(&q.0)
}

/// Writes the gradient of LOTION's penalty, or adds it; returns the penalty. `shape`: rows and columns; blocks run along
/// the columns. `arrays`: the addresses of weights, curvature and gradient, all fp32. `gradient`: its factor, whether it
/// is added, and whether the part through the scales belongs to it.
#[pyfunction]
fn lotion(
    py: Python<'_>,
    q: &Quantizer,
    shape: (usize, usize),
    arrays: (usize, usize, usize),
    gradient: (f32, bool, bool),
    threads: usize,
) -> PyResult<f64> {
    let (layout, (w, g, out)) = (memory::layout((shape.0, shape.1, 1)), arrays);
    let gradient = Gradient { factor: gradient.0, add: gradient.1, through_scale: gradient.2 };
    // SAFETY: dither.arrays has checked dtype, size, alignment and that the kernel takes the quantizer; the output is
    // memory of its own.
    calls::run(py, || unsafe {
        penalty(&q.0, &layout, (w as *const f32, g as *const f32, out as *mut f32), gradient, threads)
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(lotion_takes, m)?)?;
    m.add_function(wrap_pyfunction!(lotion, m)?)
}
