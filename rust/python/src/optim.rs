//! Optimizer steps.

use crate::calls;
use crate::quantizer::Quantizer;
use dither_quant::optim::{self, Address, Constants, Dense, Moment, Parameter, Rounding};
use dither_quant::packed::{Parts, Scales};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Seed, stream, offset.
type Bits = (u64, u64, u64);

fn address((seed, stream, offset): Bits) -> Address {
    Address { seed, stream, offset }
}

fn dense(p: usize, dtype: &str) -> PyResult<Dense> {
    match dtype {
        "fp32" => Ok(Dense::F32(p as *mut f32)),
        "bf16" => Ok(Dense::Bf16(p as *mut u16)),
        _ => Err(PyTypeError::new_err(format!("optimizers work on fp32 and bf16, not on {dtype}"))),
    }
}

/// A dense array, or the addresses of codes and of fp32 scales.
#[derive(FromPyObject)]
enum MomentArg<'py> {
    Packed(PyRef<'py, Quantizer>, usize, usize, usize, Bits),
    Dense(usize, String),
}

impl MomentArg<'_> {
    fn moment(&self) -> PyResult<Moment<'_>> {
        match self {
            MomentArg::Dense(p, dtype) => Ok(Moment::Dense(dense(*p, dtype)?)),
            MomentArg::Packed(_, block, ..) if !optim::divides(*block) => {
                Err(PyValueError::new_err(format!("blocks of {block} do not divide a chunk")))
            }
            MomentArg::Packed(quantizer, block, codes, scales, bits) => {
                let scales = Scales::F32(*scales as *mut f32);
                let parts = Parts { codes: *codes as *mut u8, scales, zeros: std::ptr::null_mut() };
                Ok(Moment::Packed { quantizer: &quantizer.0, block: *block, parts, address: address(*bits) })
            }
        }
    }
}

/// A parameter as dither.arrays.run_adamw has it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ParameterArg<'py> {
    len: usize,
    /// Address and dtype word.
    weights: (usize, String),
    gradient: usize,
    stochastic: Option<Bits>,
    carry: Option<usize>,
    first: MomentArg<'py>,
    second: MomentArg<'py>,
    /// Of a second moment in bf16.
    bits: Bits,
    /// In the order of `Constants`.
    constants: (f32, f32, f32, f32, f32, f32, f32, f32),
}

impl ParameterArg<'_> {
    fn parameter(&self) -> PyResult<Parameter<'_>> {
        let (sign, one_less_beta1, beta2, one_less_beta2, root, eps, step, decay) = self.constants;
        let moments = [self.first.moment()?, self.second.moment()?];
        let [first, second] = moments.map(|moment| matches!(moment, Moment::Dense(Dense::Bf16(_))));
        if first != second {
            return Err(PyTypeError::new_err("either both moments are bf16 or none"));
        }
        let (first, second) = (one_less_beta1, one_less_beta2);
        Ok(Parameter {
            len: self.len,
            weights: dense(self.weights.0, &self.weights.1)?,
            gradient: self.gradient as *const u8,
            rounding: match (self.stochastic, self.carry) {
                (Some(bits), _) => Rounding::Stochastic(address(bits)),
                (None, Some(p)) => Rounding::Kahan(p as *mut u16),
                (None, None) => Rounding::Nearest,
            },
            moments,
            address: address(self.bits),
            constants: Constants { sign, first, beta2, second, root, eps, step, decay },
        })
    }
}

/// Whether optimizer state can be kept in blocks of this size.
#[pyfunction]
fn optimizer_block(block: usize) -> bool {
    optim::divides(block)
}

/// One AdamW step of all parameters. Returns the first whose moment has no code, or None.
#[pyfunction]
fn adamw(py: Python<'_>, parameters: Vec<ParameterArg<'_>>, threads: usize) -> PyResult<Option<usize>> {
    let parameters = parameters.iter().map(ParameterArg::parameter).collect::<PyResult<Vec<_>>>()?;
    // SAFETY: dither.optim has checked sizes and dtypes of all memory and holds its owners during the call.
    calls::run(py, || unsafe { optim::adamw(&parameters, threads) })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(optimizer_block, m)?)?;
    m.add_function(wrap_pyfunction!(adamw, m)?)
}
