//! PyO3 bindings: check arguments, borrow buffers, release the GIL, call the crates. No arithmetic.

mod formats;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    formats::register(m)
}
