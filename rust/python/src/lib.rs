//! PyO3 bindings: check arguments, borrow buffers, release the GIL, call the crates. No arithmetic.
//!
//! Arrays arrive as addresses: `dither.arrays` has checked dtype, layout and alignment and keeps the owner alive for
//! the length of the call. (numpy's buffer protocol knows neither bf16 nor torch.)

mod calls;
mod fit;
mod formats;
mod linalg;
mod memory;
mod methods;
mod ops;
mod optim;
mod packed;
mod quantizer;
mod ranks;
mod scores;
mod statistics;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    formats::register(m)?;
    quantizer::register(m)?;
    ops::register(m)?;
    optim::register(m)?;
    linalg::register(m)?;
    statistics::register(m)?;
    packed::register(m)?;
    methods::register(m)?;
    fit::register(m)?;
    scores::register(m)?;
    ranks::register(m)
}
