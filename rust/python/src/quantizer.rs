//! A quantizer, parsed once and kept by `dither.arrays`.

use dither_numerics::{
    Block, Dialect, Distance, Format, NanPolicy, Options, Overflow, Rounding, ScaleFormat, ScaleRule, Scaling,
    ZeroScale,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

#[pyclass(frozen, module = "dither._core")]
pub struct Quantizer(pub dither_numerics::Quantizer);

fn named<T>(what: &str, name: &str, value: Option<T>) -> PyResult<T> {
    value.ok_or_else(|| PyValueError::new_err(format!("unknown {what} {name:?}")))
}

/// A number along the axis, a tile (rows, columns), "row", "column" or "tensor".
#[derive(FromPyObject)]
enum BlockArg {
    Size(usize),
    Tile(usize, usize),
    Named(String),
}

/// `dither.Quantizer`'s dialect, nan, zero_scale, zero_point, four_over_six, prescale and guard.
type OptionArgs<'a> = (&'a str, &'a str, &'a str, bool, Option<&'a str>, f32, f32);

fn options(
    (dialect, nan, zero_scale, zero_point, four_over_six, prescale, guard): OptionArgs<'_>,
) -> PyResult<Options> {
    Ok(Options {
        dialect: named("dialect", dialect, Dialect::get(dialect))?,
        nan: named("NaN policy", nan, NanPolicy::get(nan))?,
        zero_scale: named("zero scale", zero_scale, ZeroScale::get(zero_scale))?,
        zero_point,
        four_over_six: match four_over_six {
            None => None,
            Some("mse") => Some(Distance::Mse),
            Some("mae") => Some(Distance::Mae),
            Some(name) => return named("four-over-six choice", name, None),
        },
        prescale,
        guard,
    })
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
        scale: Option<f32>,
        more: Option<OptionArgs<'_>>,
    ) -> PyResult<Self> {
        let format = named("format", format, Format::get(format))?;
        let scaling = match block {
            None => None,
            Some(block) => Some(Scaling {
                block: match block {
                    BlockArg::Size(0) | BlockArg::Tile(0, _) | BlockArg::Tile(_, 0) => {
                        return Err(PyValueError::new_err("a block has at least one element"));
                    }
                    BlockArg::Size(n) => Block::Size(n),
                    BlockArg::Tile(rows, columns) => Block::Tile(rows, columns),
                    BlockArg::Named(name) if name == "row" => Block::Row,
                    BlockArg::Named(name) if name == "column" => Block::Column,
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
                    "mse" => ScaleRule::Mse,
                    "static" => match scale {
                        Some(s) if s > 0.0 && s.is_finite() => ScaleRule::Static(s),
                        _ => return Err(PyValueError::new_err("a static scale is a positive number")),
                    },
                    name => return named("scale rule", name, None),
                },
                tensor_scale,
                options: more.map_or(Ok(Options::default()), options)?,
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
