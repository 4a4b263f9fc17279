//! Calls into the crates: the GIL released, Ctrl-C heard.

use dither_quant::interrupt::interruptible;
use pyo3::prelude::*;
use std::cell::Cell;

thread_local! {
    /// What a signal handler raised while this thread was in a call.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// Let Python run its signal handlers (in the main thread; elsewhere this does nothing).
fn signalled() -> bool {
    Python::attach(|py| match py.check_signals() {
        Ok(()) => false,
        Err(error) => {
            RAISED.set(Some(error));
            true
        }
    })
}

/// Run `work` without the GIL. Where a signal handler raises (KeyboardInterrupt), the work ends early and its outputs
/// are incomplete: the exception takes the place of the result.
pub fn run<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> PyResult<R> {
    match py.detach(|| interruptible(signalled, work)) {
        Some(result) => Ok(result),
        None => Err(RAISED.take().expect("who gave up had an exception")),
    }
}
