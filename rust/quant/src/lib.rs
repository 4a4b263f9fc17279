//! Slices in, slices out: quantization at memory speed, bit-equal to `dither-numerics`.
//!
//! * [`layout`]: an array as (outer, axis, inner) and its cut into independent units of whole blocks.
//! * [`simd`] (of `dither-cpu`): one source, cloned per instruction set, dispatched once.
//! * [`pool`]: our own threads, safe after fork; `fpu`: the floating-point mode of a call; [`pages`]: huge pages;
//!   [`interrupt`]: breaking off.
//! * [`reduce`], [`scales`], [`element`], [`method`], [`power`], [`block`], [`columns`]: the arithmetic, on fp32 in cache.
//! * `job`: a quantizer made ready for them; `ways`: the scales of many blocks.
//! * `strips`, `column_lanes`: columns, a strip of them at a time; rows of them over vectors.
//! * `ahead`, `ahead_elements`: whole blocks to nearest even at the speed of memory; `lanes`, `lines`, `cells`: its vectors,
//!   how they are written, and numbers in them; `nearest_vector`: their rounding.
//! * `stochastic_tiles`, `stochastic_pieces`: stochastic rounding in one loop with its random words.
//! * `tiles`: blocks of the last two axes; `found`, `search`: scales that take more than an absmax.
//! * `general`: whatever else a quantizer can be; `by_truth`: through the scalar truth, in one of the types that are
//!   `formed`; `grid`: its boxes.
//! * [`philox`], `philox_vectors`, `products`, [`bits`]: addressed random bits for a run of neighbours; [`stochastic`]: what
//!   they decide; `stochastic_vector`: a vector at a time.
//! * [`dtype`]: fp32, bf16, fp16 and fp64 in memory; `half`, `half_lines`: the latter two; `number`: in registers;
//!   [`pieces`]: their way into the cache and back; [`stream`]: past it.
//! * [`gemm`]: emulated matrix products.
//! * [`hadamard`]: rotations of blocks; `hadamard_lanes`: over vectors; `hadamard_strips`: of columns.
//! * [`moments`]: sums of errors and their merging; [`spread`]: how scales spread.
//! * [`eden`], [`quest`]: MS-EDEN and scales from deviations; `turned`: their way along any axis.
//! * [`lotion`]: the penalty of a training method and its gradient.
//! * [`fake_quant`], [`cast`], [`neighbours`], [`codes`], [`packed`], [`stats`], [`histogram`]: the operations.
//! * [`pack`]: rows of codes at their true width; `widths`: those of 1 to 7 bits, many at once.
//! * [`optim`]: optimizer steps over weights and state in few bits.

// The vectors are those of x86; elsewhere the same bits come from the loops beside them, and what serves vectors alone is idle.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

mod absmax;
mod ahead;
mod ahead_elements;
mod bits;
mod block;
mod boxes;
mod by_truth;
mod cast;
mod cells;
mod code_lanes;
mod codec;
pub mod codes;
mod column_lanes;
mod columns;
mod decode_lanes;
pub mod dtype;
pub mod eden;
mod element;
mod encode_lanes;
pub mod fake_quant;
mod formed;
mod found;
mod fpu;
pub mod gemm;
mod general;
mod grid;
pub mod hadamard;
mod hadamard_lanes;
mod hadamard_strips;
mod half;
mod half_lines;
pub mod histogram;
pub mod interrupt;
mod job;
mod lanes;
pub mod layout;
mod lines;
pub mod lotion;
mod method;
pub mod moments;
mod nearest_vector;
pub mod neighbours;
mod number;
pub mod optim;
mod optim_lanes;
mod optim_packed;
mod optim_tiles;
mod optim_vectors;
pub mod pack;
mod pack_lanes;
mod pack_rule;
pub mod packed;
pub mod pages;
mod parts;
mod philox;
mod philox_vectors;
mod pieces;
pub mod pool;
mod power;
mod products;
pub mod quest;
mod reduce;
mod rows;
mod scales;
mod search;
pub mod spread;
pub mod stats;
mod stochastic;
mod stochastic_lanes;
mod stochastic_pieces;
mod stochastic_tiles;
mod stochastic_vector;
pub mod stream;
mod strips;
mod tiles;
mod to_code;
mod to_value;
mod turned;
mod unpack_lanes;
mod ways;
mod widths;

pub use dither_cpu::simd;
pub use dtype::{Memory, MemoryMut};
pub use fake_quant::fake_quant;
pub use hadamard::hadamard;
pub use layout::Layout;
pub use neighbours::neighbours;
