//! Stochastic rounding of contiguous arrays, a tile of random words at a time: words, rounding and stores in one loop.
//!
//! ```text
//! for every piece
//!     absmax and scales of its blocks
//!     for every tile: its words are there; between the rounds that make those of the next one (philox)
//!         for every word, for every shift: sixteen elements
//! ```
//!
//! Every round of Philox waits for the one before; the rounding, which waits for memory, fills the gaps (1.3 times the
//! speed of one after the other). Two passes over a piece (fractions, then rounding: `bits`, `stochastic_lanes`) do more
//! work for an element, and leave the memory idle in between. They remain for runs that do not start with a tile, for
//! numbers of random bits of which a piece does not hold whole tiles, and for special blocks.
#![cfg(target_arch = "x86_64")]

use crate::bits::Draws;
use crate::block;
use crate::dtype::{Memory, MemoryMut};
use crate::element::{self, Shape};
use crate::fake_quant::Kernel;
use crate::job::{Fast, Job, Pair};
use crate::layout::Unit;
use crate::lines::Writer;
use crate::philox::{LANES, Philox, tile_len};
use crate::pieces::{Arrays, PIECE};
use crate::products::Products;
use crate::reduce;
use crate::scales::Scales;
use crate::simd::{Level, level};
use crate::stochastic_pieces::{CAST, DIVIDE, MULTIPLY, Numbers, POWER, Rounding, Source, WIDE};
use crate::stream;
use std::arch::x86_64::{__m256i, __m512i};

/// Blocks of a piece at most: sixteen elements that share a word share a scale.
const BLOCKS: usize = PIECE / LANES;

/// A contiguous run of whole pieces and what is done to it.
struct Run<'a> {
    arrays: Arrays<'a>,
    unit: Unit,
    tile: u64,
    philox: &'a Philox,
    shape: Shape,
    /// Smallest normal and largest value of the grid without a scale.
    grid: (u32, u32),
    scaling: Scaling<'a>,
}

#[derive(Clone, Copy)]
enum Scaling<'a> {
    /// One for all, with its two numbers (see [`Pair`]).
    Known(u8, u32, u32),
    /// Each block of `1 << log` elements by its own absmax.
    Blocks(&'a Job<'a>, u32),
}

/// Round whole pieces at the start of a contiguous unit; returns how many elements that were.
///
/// # Safety
/// The unit lies in the arrays and belongs to this thread.
pub unsafe fn round(kernel: &Kernel<'_>, block: usize, unit: Unit, arrays: Arrays<'_>) -> usize {
    let len = unit.len / PIECE * PIECE;
    if len == 0 || level() < Level::Avx2 {
        return 0;
    }
    let Some((mode, shape, grid, scaling)) = plan(kernel, block) else { return 0 };
    let wide = level() == Level::Avx512;
    // Elements a word; of eight and four the fractions never reach below fp32's own digits.
    let run: unsafe fn(&Run<'_>) = match (32 / shape.n.max(1), mode, wide) {
        (8, element::STOCHASTIC, true) => avx512::<8, false>,
        (8, element::STOCHASTIC, false) => avx2::<8, false>,
        (4, element::STOCHASTIC, true) => avx512::<4, false>,
        (4, element::STOCHASTIC, false) => avx2::<4, false>,
        (2, element::STOCHASTIC, true) => avx512::<2, false>,
        (2, element::STOCHASTIC, false) => avx2::<2, false>,
        (2, element::STOCHASTIC_FINE, true) => avx512::<2, true>,
        (2, element::STOCHASTIC_FINE, false) => avx2::<2, true>,
        (1, element::STOCHASTIC, true) => avx512::<1, false>,
        (1, element::STOCHASTIC, false) => avx2::<1, false>,
        (1, element::STOCHASTIC_FINE, true) => avx512::<1, true>,
        (1, element::STOCHASTIC_FINE, false) => avx2::<1, true>,
        _ => return 0,
    };
    let Some((philox, tile)) = arrays.draws.tiles(unit.start, len) else { return 0 };
    // SAFETY: `level` never exceeds what was found on this processor; the caller's contract.
    unsafe { run(&Run { arrays, unit: Unit { start: unit.start, len }, tile, philox, shape, grid, scaling }) };
    len
}

/// Rounding mode, shape, grid and scaling of a kernel that this module knows.
fn plan<'a>(kernel: &'a Kernel<'a>, block: usize) -> Option<(u8, Shape, (u32, u32), Scaling<'a>)> {
    let (job, scaling) = match kernel {
        Kernel::Cast(cast) => {
            // Rounding to nearest first is left to the two passes.
            let stochastic = matches!(cast.mode, element::STOCHASTIC | element::STOCHASTIC_FINE);
            let (how, mode) = match (cast.carries_to_infinity(), cast.saturates() && !cast.wide) {
                // On the bits there is nothing below fp32's last digit.
                (true, _) if stochastic => (WIDE, element::STOCHASTIC),
                (_, true) => (CAST, cast.mode),
                _ => return None,
            };
            return Some((mode, cast.shape, (cast.emin, cast.max), Scaling::Known(how, cast.emin, cast.max)));
        }
        Kernel::Scaled(job, Fast::Power { emin, max }) => (job, Scaling::Known(POWER, *emin, *max)),
        Kernel::Scaled(job, Fast::Divide { s }) => (job, Scaling::Known(DIVIDE, s.to_bits(), 0)),
        Kernel::Scaled(job, Fast::Multiply { encode, decode }) => {
            (job, Scaling::Known(MULTIPLY, encode.to_bits(), decode.to_bits()))
        }
        Kernel::Blocks(job) if block.is_power_of_two() && (LANES..=PIECE).contains(&block) => {
            (job, Scaling::Blocks(job, block.ilog2()))
        }
        _ => return None,
    };
    Some((job.mode, job.shape, job.plain_grid(), scaling))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx512<const PER: usize, const FINE: bool>(run: &Run<'_>) {
    // SAFETY: this function enables the instruction set; the caller's contract.
    unsafe { body::<__m512i, PER, FINE>(run) };
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx2<const PER: usize, const FINE: bool>(run: &Run<'_>) {
    // SAFETY: as above.
    unsafe { body::<__m256i, PER, FINE>(run) };
}

/// # Safety
/// [`Products`]'s contract; the run lies in the arrays and belongs to this thread.
#[inline(always)]
unsafe fn body<V: Products, const PER: usize, const FINE: bool>(run: &Run<'_>) {
    let Run { arrays, unit, scaling, .. } = *run;
    let mut buffers = Buffers { input: [0.0; PIECE], output: [0.0; PIECE] };
    // SAFETY: the caller's contract; pieces lie in the run.
    unsafe {
        let past = match arrays.y {
            MemoryMut::F32(y) => arrays.streamed && stream::can_pass(y.add(unit.start)),
            _ => false,
        };
        let rounding = Rounding::<V>::new::<FINE>(run.shape, arrays.draws.half(), run.grid);
        let mut out = Writer::<V>::new(buffers.output(&arrays, unit.start, past).cast(), past);
        let mut source = Source::<V>::new(run.philox, run.tile);
        for at in (unit.start..unit.start + unit.len).step_by(PIECE) {
            let x = buffers.input(&arrays, at);
            let y = buffers.output(&arrays, at, past);
            if !past {
                out = Writer::new(y.cast(), past);
            }
            match scaling {
                Scaling::Known(how, first, second) => {
                    let numbers = Numbers { first: &[first], second: &[second], log: u32::BITS - 1 };
                    rounding.piece::<PER, FINE>(how, x, &mut out, &mut source, numbers);
                }
                Scaling::Blocks(job, log) => {
                    let mut largest = [0; BLOCKS];
                    let largest = &mut largest[..PIECE >> log];
                    absmax(std::slice::from_raw_parts(x, PIECE), largest);
                    let mut scales = Scales::<BLOCKS>::new();
                    scales.set(largest, job);
                    let how = match scales.kind {
                        Pair::Power => POWER,
                        Pair::Divide => DIVIDE,
                        Pair::Multiply => MULTIPLY,
                    };
                    if scales.others.is_empty() {
                        let numbers = Numbers { first: &scales.first, second: &scales.second, log };
                        rounding.piece::<PER, FINE>(how, x, &mut out, &mut source, numbers);
                    } else {
                        out.finish();
                        special(job, 1 << log, x, y, arrays.draws, at);
                        out = Writer::new(y.add(PIECE).cast(), past);
                        let done = (at + PIECE - unit.start) / tile_len(run.shape.n);
                        source = Source::new(run.philox, run.tile.wrapping_add(done as u64));
                    }
                }
            }
            buffers.finish(&arrays, at, past);
        }
        out.finish();
    }
}

/// Where a piece of the arrays is not worked on in place.
#[repr(align(64))]
struct Buffers {
    input: [f32; PIECE],
    output: [f32; PIECE],
}

impl Buffers {
    /// # Safety
    /// The piece from `at` on lies in the arrays and belongs to this thread; as for `output` and `finish`.
    #[inline(always)]
    unsafe fn input(&mut self, arrays: &Arrays<'_>, at: usize) -> *const f32 {
        match arrays.x {
            // SAFETY: the caller's contract.
            Memory::F32(x) => unsafe { x.add(at) },
            x => {
                // SAFETY: as above.
                unsafe { x.load(at, &mut self.input) };
                self.input.as_ptr()
            }
        }
    }

    #[inline(always)]
    unsafe fn output(&mut self, arrays: &Arrays<'_>, at: usize, past: bool) -> *mut f32 {
        match arrays.y {
            // SAFETY: as above.
            MemoryMut::F32(y) if past || !arrays.streamed => unsafe { y.add(at) },
            _ => self.output.as_mut_ptr(),
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, arrays: &Arrays<'_>, at: usize, past: bool) {
        // SAFETY: as above.
        unsafe {
            match arrays.y {
                _ if past => {}
                y if arrays.streamed => y.stream(at, &self.output),
                MemoryMut::F32(_) => {}
                y => y.store(at, &self.output),
            }
        }
    }
}

/// The bits of the largest magnitude of every block.
#[inline(always)]
fn absmax(x: &[f32], out: &mut [u32]) {
    match PIECE / out.len() {
        16 => reduce::absmax::<f32, 16>(x.as_chunks().0, out),
        32 => reduce::absmax::<f32, 32>(x.as_chunks().0, out),
        64 => reduce::absmax::<f32, 64>(x.as_chunks().0, out),
        128 => reduce::absmax::<f32, 128>(x.as_chunks().0, out),
        256 => reduce::absmax::<f32, 256>(x.as_chunks().0, out),
        _ => reduce::absmax::<f32, PIECE>(x.as_chunks().0, out),
    }
}

/// A piece with blocks that the vectors do not know, in two passes.
///
/// # Safety
/// `x` and `y` are valid for a piece; they may be the same.
#[cold]
#[inline(never)]
unsafe fn special(job: &Job<'_>, block: usize, x: *const f32, y: *mut f32, draws: &Draws<'_>, at: usize) {
    let (mut input, mut output, mut random) = ([0.0; PIECE], [0.0; PIECE], [0; PIECE]);
    draws.reader().read(at, &mut random);
    // SAFETY: the caller's contract.
    unsafe {
        x.copy_to_nonoverlapping(input.as_mut_ptr(), PIECE);
        block::contiguous(&input, &mut output, false, block, &random, job);
        y.copy_from_nonoverlapping(output.as_ptr(), PIECE);
    }
}
