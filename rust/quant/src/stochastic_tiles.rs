//! Stochastic rounding of contiguous arrays, a tile of random words at a time: words, rounding and stores in one loop.
//!
//! ```text
//! for every piece
//!     absmax and scales of its blocks
//!     for every tile: its words (philox)
//!         for every word, for every shift: sixteen elements
//! ```
//!
//! Two passes over a piece (fractions, then rounding: `bits`, `stochastic_lanes`) do more work for an element, and
//! leave the memory idle in between. They remain for runs that do not start with a tile, for numbers of random
//! bits of which a piece does not hold whole tiles, and for special blocks.
#![cfg(target_arch = "x86_64")]

use crate::bits::{Draws, below, half};
use crate::block;
use crate::dtype::{Memory, MemoryMut};
use crate::element::{self, Shape};
use crate::fake_quant::Kernel;
use crate::job::{Fast, Job, Pair};
use crate::layout::Unit;
use crate::philox::{LANES, Philox, Products, Tiles, Words, tile_len};
use crate::pieces::{Arrays, PIECE};
use crate::reduce;
use crate::scales::Scales;
use crate::simd::{Level, level};
use crate::stochastic_lanes::Constants;
use crate::stream;
use std::arch::x86_64::{__m256i, __m512i};

/// Blocks of a piece at most: sixteen elements that share a word share a scale.
const BLOCKS: usize = PIECE / LANES;

/// How an element is rounded: on the bits (fp32's exponent range), with NaN kept, or under a scale.
const WIDE: u8 = 0;
const CAST: u8 = 1;
const POWER: u8 = 2;
const DIVIDE: u8 = 3;
const MULTIPLY: u8 = 4;

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
    if !element::is_stochastic(mode) || !PIECE.is_multiple_of(tile_len(shape.n)) {
        return 0;
    }
    let Some((philox, tile)) = arrays.draws.tiles(unit.start, len) else { return 0 };
    let run = Run { arrays, unit: Unit { start: unit.start, len }, tile, philox, shape, grid, scaling };
    // SAFETY: `level` never exceeds what was found on this processor; the caller's contract.
    unsafe {
        match (level(), mode == element::STOCHASTIC_FINE) {
            (Level::Avx512, false) => avx512::<false>(&run),
            (Level::Avx512, true) => avx512::<true>(&run),
            (_, false) => avx2::<false>(&run),
            (_, true) => avx2::<true>(&run),
        }
    }
    len
}

/// Rounding mode, shape, grid and scaling of a kernel that this module knows.
fn plan<'a>(kernel: &'a Kernel<'a>, block: usize) -> Option<(u8, Shape, (u32, u32), Scaling<'a>)> {
    let (job, scaling) = match kernel {
        Kernel::Cast(cast) => {
            let stochastic = element::is_stochastic(cast.mode);
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
unsafe fn avx512<const FINE: bool>(run: &Run<'_>) {
    // SAFETY: this function enables the instruction set; the caller's contract.
    unsafe { body::<__m512i, FINE>(run) };
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx2<const FINE: bool>(run: &Run<'_>) {
    // SAFETY: as above.
    unsafe { body::<__m256i, FINE>(run) };
}

/// # Safety
/// [`Products`]'s contract; the run lies in the arrays and belongs to this thread.
#[inline(always)]
unsafe fn body<V: Products, const FINE: bool>(run: &Run<'_>) {
    let Run { arrays, unit, scaling, .. } = *run;
    let mut buffers = Buffers { input: [0.0; PIECE], output: [0.0; PIECE] };
    // SAFETY: the caller's contract; pieces lie in the run.
    unsafe {
        let past = match arrays.y {
            MemoryMut::F32(y) => arrays.streamed && stream::can_pass(y.add(unit.start)),
            _ => false,
        };
        let rounding = Rounding::<V>::new::<FINE>(run, past);
        let mut tiles = Tiles::<V>::new(run.philox, run.tile);
        for at in (unit.start..unit.start + unit.len).step_by(PIECE) {
            let x = buffers.input(&arrays, at);
            let y = buffers.output(&arrays, at, past);
            match scaling {
                Scaling::Known(how, first, second) => {
                    let numbers = Numbers { first: &[first], second: &[second], log: u32::BITS - 1 };
                    rounding.piece::<FINE>(how, x, y, &mut tiles, numbers);
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
                        rounding.piece::<FINE>(how, x, y, &mut tiles, numbers);
                    } else {
                        special(job, 1 << log, x, y, arrays.draws, at);
                        let done = (at + PIECE - unit.start) / tile_len(run.shape.n);
                        tiles = Tiles::new(run.philox, run.tile.wrapping_add(done as u64));
                    }
                }
            }
            buffers.finish(&arrays, at, past);
        }
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

/// The two numbers (see [`Pair`]) of every block of `1 << log` elements.
#[derive(Clone, Copy)]
struct Numbers<'a> {
    first: &'a [u32],
    second: &'a [u32],
    log: u32,
}

/// Numbers of random bits of which a word holds so many at most (a piece holds whole tiles of them).
const PER_WORD: usize = PIECE / 64;

/// The constants of a run in every lane.
struct Rounding<V> {
    constants: Constants<V>,
    grid: (V, V),
    nan: V,
    /// What of a word, shifted, is kept, and what is set beside it.
    kept: V,
    set: V,
    /// How far a word is shifted for each of the elements that it serves: left or right.
    shifts: [(u32, u32); PER_WORD],
    per_word: usize,
    /// Whether lines go past the caches.
    past: bool,
}

/// A line of the cache.
#[repr(align(64))]
struct Line([f32; LANES]);

impl<V: Products> Rounding<V> {
    /// # Safety
    /// [`Products`]'s contract, for every method.
    #[inline(always)]
    unsafe fn new<const FINE: bool>(run: &Run<'_>, past: bool) -> Self {
        let Shape { mbits, n, .. } = run.shape;
        // Fine kernels take a fraction (see `bits`), others what its part above fp32's last digit adds to the bits.
        let top = if FINE { 32 } else { 23 - mbits };
        let (kept, set) = (!below(n) >> (32 - top), half(n) >> (32 - top));
        let mut shifts = [(0, 0); PER_WORD];
        let per_word = (32 / n) as usize;
        for (i, shift) in shifts[..per_word].iter_mut().enumerate() {
            let (to, from) = (top, n * (i as u32 + 1));
            *shift = (to.saturating_sub(from), from.saturating_sub(to));
        }
        // SAFETY: the caller's contract.
        unsafe {
            Rounding {
                constants: Constants::new(run.shape),
                grid: (V::splat(run.grid.0), V::splat(run.grid.1)),
                nan: V::splat(0x7fc0_0000),
                kept: V::splat(kept),
                set: V::splat(set),
                shifts,
                per_word,
                past,
            }
        }
    }

    /// # Safety
    /// Besides: `x` and `y` are valid for a piece; there are numbers for each of its blocks.
    #[inline(always)]
    unsafe fn piece<const FINE: bool>(
        &self,
        how: u8,
        x: *const f32,
        y: *mut f32,
        tiles: &mut Tiles<'_, V>,
        numbers: Numbers<'_>,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            match how {
                WIDE => self.run::<FINE, WIDE>(x, y, tiles, numbers),
                CAST => self.run::<FINE, CAST>(x, y, tiles, numbers),
                POWER => self.run::<FINE, POWER>(x, y, tiles, numbers),
                DIVIDE => self.run::<FINE, DIVIDE>(x, y, tiles, numbers),
                _ => self.run::<FINE, MULTIPLY>(x, y, tiles, numbers),
            }
        }
    }

    #[inline(always)]
    unsafe fn run<const FINE: bool, const HOW: u8>(
        &self,
        x: *const f32,
        y: *mut f32,
        tiles: &mut Tiles<'_, V>,
        Numbers { first, second, log }: Numbers<'_>,
    ) {
        let mut words: Words = [[0; LANES]; 4];
        let mut i = 0;
        // SAFETY: the caller's contract; a piece holds whole tiles, and a tile has four words for as many elements.
        unsafe {
            while i < PIECE {
                tiles.next(&mut words);
                for word in &words {
                    for (left, right) in &self.shifts[..self.per_word] {
                        let (left, right) = (V::splat(*left), V::splat(*right));
                        let first = V::splat(*first.get_unchecked(i >> log));
                        let second = V::splat(*second.get_unchecked(i >> log));
                        stream::prefetch(x.wrapping_add(i + stream::AHEAD));
                        let mut line = Line([0.0; LANES]);
                        let y = y.add(i);
                        let to = if self.past { line.0.as_mut_ptr() } else { y };
                        for lane in (0..LANES).step_by(V::LANES) {
                            let word = V::load(word.as_ptr().add(lane));
                            let random = word.shl(left).shr(right).and_or(self.kept, self.set);
                            let x = V::load(x.add(i + lane).cast());
                            self.element::<FINE, HOW>(x, first, second, random).store(to.add(lane).cast());
                        }
                        if self.past {
                            stream::line(line.0, &mut *y.cast());
                        }
                        i += LANES;
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn element<const FINE: bool, const HOW: u8>(&self, x: V, first: V, second: V, random: V) -> V {
        let c = &self.constants;
        // SAFETY: the caller's contract.
        unsafe {
            let (emin, max) = self.grid;
            match HOW {
                WIDE => x.add(random).and(c.kept).where_nan(x, self.nan),
                CAST => c.element::<FINE>(x, first, second, random).where_nan(x, self.nan),
                POWER => c.element::<FINE>(x, first, second, random),
                DIVIDE => c.element::<FINE>(x.fdiv(first), emin, max, random).fmul(first),
                _ => c.element::<FINE>(x.fmul(first), emin, max, random).fmul(second),
            }
        }
    }
}
