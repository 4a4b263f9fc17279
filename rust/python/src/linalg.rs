//! Rotations and products.

use crate::calls;
use crate::memory;
use crate::quantizer::Quantizer;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Accumulator, Narrow};
use dither_quant::gemm::{self, Factors};
use dither_quant::hadamard::Signs;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

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
    calls::run(py, || unsafe { dither_quant::hadamard(&layout, block, signs, inverse, x, y, threads) })
}

/// Of what is rotated already; both arrays are fp32, and the axis is a multiple of 128.
#[pyfunction]
fn ms_eden(
    py: Python<'_>,
    shape: (usize, usize, usize),
    address: (u64, u64, u64),
    x: usize,
    y: usize,
    threads: usize,
) -> PyResult<()> {
    let (layout, x, y) = (memory::layout(shape), memory::input(x, "fp32")?, memory::output(y, "fp32")?);
    let (seed, stream, offset) = address;
    let source = Randomness::Addressed { seed, stream, offset };
    // SAFETY: as for `ops::fake_quant`.
    calls::run(py, || unsafe { dither_quant::eden::ms_eden(&layout, x, y, source, threads) })
}

/// fp32 input and values, and one byte an element that says where these are trusted.
#[pyfunction]
fn quest(
    py: Python<'_>,
    shape: (usize, usize, usize),
    x: usize,
    y: usize,
    mask: usize,
    threads: usize,
) -> PyResult<()> {
    let layout = memory::layout(shape);
    // SAFETY: as for `ops::fake_quant`; values and mask are fresh arrays.
    calls::run(py, move || unsafe {
        let arrays = dither_quant::quest::Arrays { x: x as *const f32, y: y as *mut f32, mask: mask as *mut u8 };
        dither_quant::quest::quest(&layout, arrays, threads);
    })
}

/// Rows of k numbers: address, dtype word, rows, k, and the elements from a row, and from a k, to the next.
type Strided<'a> = (usize, &'a str, usize, usize, usize, usize);
/// Rows of k codes along the last axis.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Coded<'py> {
    quantizer: PyRef<'py, Quantizer>,
    codes: usize,
    /// Address, and whether they are 8-bit codes rather than fp32.
    scales: Option<(usize, bool)>,
    tensor_scale: Option<f32>,
    rows: usize,
    k: usize,
    block: usize,
    /// From the scales of a row to those of the next.
    scale_stride: usize,
}

#[derive(FromPyObject)]
enum Operand<'py> {
    Coded(Coded<'py>),
    #[pyo3(transparent)]
    Strided(Bound<'py, PyTuple>),
}

/// What a packed operand's codes and scales mean.
struct Tables {
    values: Vec<f32>,
    factors: [f32; 256],
}

impl Operand<'_> {
    fn tables(&self) -> Tables {
        match self {
            Operand::Strided(_) => Tables { values: Vec::new(), factors: [1.0; 256] },
            Operand::Coded(x) => {
                let q = &x.quantizer.0;
                let coded = x.scales.is_some_and(|(_, coded)| coded);
                Tables {
                    values: (0..1u32 << q.format.bits()).map(|c| q.format.decode(c) as f32).collect(),
                    factors: std::array::from_fn(|c| {
                        let scale = q.stored_scale(if coded { c as u32 } else { 0 }, 0, x.tensor_scale);
                        q.factor(scale).expect("dither.linalg passes no quantizer that takes more than a factor")
                    }),
                }
            }
        }
    }

    fn with<'a>(&self, tables: &'a Tables) -> PyResult<gemm::Operand<'a>> {
        Ok(match self {
            Operand::Strided(x) => {
                let (address, dtype, rows, len, row_stride, stride) = x.extract::<Strided<'_>>()?;
                gemm::Operand::Strided(gemm::Strided {
                    x: memory::input(address, dtype)?,
                    rows,
                    len,
                    row_stride,
                    stride,
                })
            }
            Operand::Coded(x) => gemm::Operand::Packed(gemm::Packed {
                codes: x.codes as *const u8,
                rows: x.rows,
                len: x.k,
                width: x.quantizer.0.format.bits(),
                table: &tables.values,
                factors: match x.scales {
                    None => Factors::One,
                    Some((p, true)) => Factors::Codes(p as *const u8, &tables.factors),
                    Some((p, false)) => Factors::F32(p as *const f32),
                },
                block: x.block,
                factor_stride: x.scale_stride,
            }),
        })
    }
}

/// A word, or (fraction bits, group, promote every) of a narrow accumulator. Python has checked them.
#[derive(FromPyObject)]
enum AccumulatorArg {
    Narrow((u32, usize, Option<usize>)),
    Named(String),
}

fn accumulator(arg: &AccumulatorArg) -> PyResult<Accumulator> {
    Ok(match arg {
        AccumulatorArg::Narrow((fraction_bits, group, promote_every)) => {
            let (fraction_bits, group, promote_every) = (*fraction_bits, *group, *promote_every);
            Accumulator::Narrow(Narrow { fraction_bits, group, promote_every })
        }
        AccumulatorArg::Named(name) => match name.as_str() {
            "fp32" => Accumulator::Fp32,
            "fp64" => Accumulator::Fp64,
            "bf16" => Accumulator::Bf16,
            "fp16" => Accumulator::Fp16,
            _ => return Err(PyValueError::new_err(format!("unknown accumulator {name:?}"))),
        },
    })
}

/// `out` = a b^T, row-major.
#[pyfunction]
fn matmul(
    py: Python<'_>,
    a: Operand<'_>,
    b: Operand<'_>,
    accumulate: AccumulatorArg,
    out: Array<'_>,
    threads: usize,
) -> PyResult<()> {
    let tables = (a.tables(), b.tables());
    let (a, b) = (a.with(&tables.0)?, b.with(&tables.1)?);
    let (accumulator, out) = (accumulator(&accumulate)?, memory::output(out.0, out.1)?);
    // SAFETY: dither.arrays describes memory whose owners it holds; `out` is a fresh array of a's by b's rows.
    calls::run(py, || unsafe { gemm::gemm(&a, &b, accumulator, out, threads) })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(hadamard, m)?)?;
    m.add_function(wrap_pyfunction!(ms_eden, m)?)?;
    m.add_function(wrap_pyfunction!(quest, m)?)?;
    m.add_function(wrap_pyfunction!(matmul, m)?)
}
