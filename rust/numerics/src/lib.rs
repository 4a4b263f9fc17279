//! The truth about numbers: formats, rounding, scale rules and addressed random bits.
//!
//! Everything here is scalar, exact and slow enough to read. Fast paths elsewhere (SIMD, torch, CUDA) are
//! tested bit for bit against these functions. No dependencies, no I/O, no unsafe code.
//!
//! * [`format`]: what a format is; `catalogue`: the named ones (OFP8, MX, IEEE, P3109, any eXmY, integers);
//!   [`codebook`]: formats that are a table of values.
//! * [`rounding`]: rounding one real number onto a format's grid.
//! * [`random`]: Philox4x32-10 and the address of every random bit.
//! * [`scale`]: which scale a block gets from its absmax.
//! * [`dialect`], `orders`, `search`, `affine`: named arithmetic orders and policies, scales found by trying, zero points.
//! * [`quantizer`]: all of it together on one block.
//! * [`wide`]: exact values of codes, and formats beyond fp64's exponents.
//! * [`stored`]: what is kept of a block when it is stored, and what that means.

#![forbid(unsafe_code)]

pub mod accumulate;
mod affine;
mod catalogue;
pub mod codebook;
pub mod dialect;
mod exact;
pub mod format;
mod orders;
pub mod quantizer;
pub mod random;
pub mod rounding;
pub mod scale;
pub mod search;
pub mod stored;
pub mod wide;

pub use accumulate::{Accumulator, Narrow};
pub use dialect::{Dialect, Distance, NanPolicy, Options, ZeroScale};
pub use exact::{Real, floor_log2, pow2};
pub use format::Format;
pub use quantizer::Quantizer;
pub use rounding::{Overflow, Rounding};
pub use scale::{Block, Scale, ScaleFormat, ScaleRule, Scaling, TensorScale};
pub use wide::Exact;
