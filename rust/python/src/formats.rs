//! What a format is, for Python.

use dither_numerics::format::Kind;
use dither_numerics::{Exact, Format};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Fields of the named format as a dict, or None for an unknown name.
#[pyfunction]
fn format_info<'py>(py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(f) = Format::get(name) else { return Ok(None) };
    let info = PyDict::new(py);
    info.set_item("name", &f.name)?;
    let kind = match f.kind {
        Kind::Float | Kind::Power => "float",
        Kind::Int => "int",
        Kind::Codebook => "codebook",
    };
    info.set_item("kind", kind)?;
    info.set_item("bits", f.bits())?;
    info.set_item("ebits", f.ebits)?;
    info.set_item("mbits", f.mbits)?;
    info.set_item("bias", f.bias())?;
    info.set_item("signed", f.signed)?;
    info.set_item("emin", f.emin)?;
    info.set_item("emax", f.emax())?;
    info.set_item("top_mbits", f.top_mbits())?;
    info.set_item("max", f.max)?;
    info.set_item("min", f.min)?;
    info.set_item("max_code", f.max_code())?;
    info.set_item("min_positive", f.min_positive())?;
    info.set_item("has_inf", f.has_inf())?;
    info.set_item("has_nan", f.has_nan())?;
    info.set_item("has_zero", f.has_zero())?;
    info.set_item("has_neg_zero", f.has_neg_zero())?;
    info.set_item("one_nan", f.one_nan())?;
    Ok(Some(info))
}

/// The value of a code as (significand, exponent of two); infinity and NaN as the significand.
#[pyfunction]
fn format_value(name: &str, code: u32) -> Option<(f64, i32)> {
    Some(match Format::get(name)?.exact(code) {
        // At most 53 bits: exact.
        Exact::Number { significand, exponent } => (significand as f64, exponent),
        Exact::Infinity { negative } => (if negative { f64::NEG_INFINITY } else { f64::INFINITY }, 0),
        Exact::Nan => (f64::NAN, 0),
    })
}

#[pyfunction]
fn format_names() -> Vec<&'static str> {
    Format::names()
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(format_info, m)?)?;
    m.add_function(wrap_pyfunction!(format_value, m)?)?;
    m.add_function(wrap_pyfunction!(format_names, m)?)
}
