//! Rotations and products.

use crate::memory;
use dither_quant::hadamard::Signs;
use pyo3::prelude::*;

/// Address and dtype word.
type Array<'a> = (usize, &'a str);

/// `signs` is (seed, stream, along the whole axis); None has no signs. Python has checked the block.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // as many as the operation has
fn hadamard(
    py: Python<'_>,
    shape: (usize, usize, usize),
    block: usize,
    signs: Option<(u64, u64, bool)>,
    inverse: bool,
    x: Array<'_>,
    y: Array<'_>,
    threads: usize,
) -> PyResult<()> {
    let (layout, x, y) = (memory::layout(shape), memory::input(x.0, x.1)?, memory::output(y.0, y.1)?);
    let signs = match signs {
        None => Signs::Plus,
        Some((seed, stream, along_axis)) => Signs::Addressed { seed, stream, along_axis },
    };
    // SAFETY: as for `ops::fake_quant`.
    py.detach(|| unsafe { dither_quant::hadamard(&layout, block, signs, inverse, x, y, threads) });
    Ok(())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(hadamard, m)?)
}
