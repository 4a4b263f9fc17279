//! A quantizer, parsed once and kept by `dither.arrays`.

use dither_numerics::{Block, Format, Overflow, Rounding, ScaleFormat, ScaleRule, Scaling};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

#[pyclass(frozen, module = "dither._core")]
pub struct Quantizer(pub dither_numerics::Quantizer);

fn named<T>(what: &str, name: &str, value: Option<T>) -> PyResult<T> {
    value.ok_or_else(|| PyValueError::new_err(format!("unknown {what} {name:?}")))
}

/// A number along the axis, "row" or "tensor".
#[derive(FromPyObject)]
enum BlockArg {
    Size(usize),
    Named(String),
}

#[pymethods]
impl Quantizer {
    #[new]
    #[allow(clippy::too_many_arguments)] // one for each field of dither.Quantizer
    fn new(
        format: &str,
        block: Option<BlockArg>,
        scale_format: Option<&str>,
        scale_rule: Option<&str>,
        tensor_scale: bool,
        rounding: &str,
        bits: u32,
        overflow: &str,
    ) -> PyResult<Self> {
        let format = named("format", format, Format::get(format))?;
        let scaling = match block {
            None => None,
            Some(block) => Some(Scaling {
                block: match block {
                    BlockArg::Size(0) => return Err(PyValueError::new_err("a block has at least one element")),
                    BlockArg::Size(n) => Block::Size(n),
                    BlockArg::Named(name) if name == "row" => Block::Row,
                    BlockArg::Named(name) if name == "tensor" => Block::Tensor,
                    BlockArg::Named(name) => return named("block", &name, None),
                },
                format: match scale_format.unwrap_or_default() {
                    "e8m0" => ScaleFormat::E8m0,
                    "fp32" => ScaleFormat::Fp32,
                    name => ScaleFormat::Float(named("scale format", name, Format::get(name))?),
                },
                rule: match scale_rule.unwrap_or_default() {
                    "floor" => ScaleRule::Floor,
                    "ceil" => ScaleRule::Ceil,
                    "rceil" => ScaleRule::Rceil,
                    "even" => ScaleRule::Even,
                    "absmax" => ScaleRule::Absmax,
                    name => return named("scale rule", name, None),
                },
                tensor_scale,
            }),
        };
        let rounding = match rounding {
            "nearest_even" => Rounding::NearestEven,
            "nearest_away" => Rounding::NearestAway,
            "toward_zero" => Rounding::TowardZero,
            "up" => Rounding::Up,
            "down" => Rounding::Down,
            "to_odd" => Rounding::ToOdd,
            "stochastic" if (1..=32).contains(&bits) => Rounding::Stochastic(bits),
            "stochastic_a" if (1..=32).contains(&bits) => Rounding::StochasticA(bits),
            "stochastic_c" if (1..=32).contains(&bits) => Rounding::StochasticC(bits),
            name => return named("rounding", name, None),
        };
        let overflow = match overflow {
            "saturate" => Overflow::Saturate,
            "ieee" => Overflow::Ieee,
            "propagate" => Overflow::Propagate,
            name => return named("overflow mode", name, None),
        };
        Ok(Quantizer(dither_numerics::Quantizer { format, scaling, rounding, overflow }))
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Quantizer>()
}
