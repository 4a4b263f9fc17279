//! Addresses and dtype words into the crates' memory types.

use dither_numerics::quantizer::Randomness;
use dither_quant::codes::Codes;
use dither_quant::{Layout, Memory, MemoryMut};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

fn unknown(dtype: &str) -> PyErr {
    PyTypeError::new_err(format!("no kernel reads or writes {dtype}"))
}

pub fn input(address: usize, dtype: &str) -> PyResult<Memory> {
    Ok(match dtype {
        "fp32" => Memory::F32(address as *const f32),
        "bf16" => Memory::Bf16(address as *const u16),
        "fp16" => Memory::F16(address as *const u16),
        "fp64" => Memory::F64(address as *const f64),
        _ => return Err(unknown(dtype)),
    })
}

pub fn output(address: usize, dtype: &str) -> PyResult<MemoryMut> {
    Ok(match dtype {
        "fp32" => MemoryMut::F32(address as *mut f32),
        "bf16" => MemoryMut::Bf16(address as *mut u16),
        "fp16" => MemoryMut::F16(address as *mut u16),
        "fp64" => MemoryMut::F64(address as *mut f64),
        _ => return Err(unknown(dtype)),
    })
}

pub fn codes(address: usize, dtype: &str) -> PyResult<Codes> {
    Ok(match dtype {
        "u8" => Codes::U8(address as *mut u8),
        "u16" => Codes::U16(address as *mut u16),
        "u32" => Codes::U32(address as *mut u32),
        _ => return Err(unknown(dtype)),
    })
}

/// (outer, axis, inner) as Python passes it.
pub fn layout((outer, axis, inner): (usize, usize, usize)) -> Layout {
    Layout { outer, axis, inner }
}

/// How Python names random bits: None, (seed, stream, offset), or the address of u32 integers.
#[derive(FromPyObject)]
pub enum Random {
    Addressed((u64, u64, u64)),
    Given(usize),
}

/// # Safety
/// A given address points to `len` integers that live as long as the call.
pub unsafe fn source<'a>(random: Option<Random>, len: usize) -> Randomness<'a> {
    match random {
        None => Randomness::None,
        Some(Random::Addressed((seed, stream, offset))) => Randomness::Addressed { seed, stream, offset },
        // SAFETY: the caller's contract.
        Some(Random::Given(p)) => Randomness::Given(unsafe { std::slice::from_raw_parts(p as *const u32, len) }),
    }
}
