//! MS-EDEN of what is rotated already (dither.eden states it): elements to nearest, block scales corrected and rounded
//! stochastically. fp32 to fp32.
//!
//! ```text
//! s = e4m3(absmax AIM / d)        blocks of 16; d = absmax of everything / BOUND
//! q = e2m1(r / (s d))
//! S = <r, r> / <r, q s d>         of each rotation of 128; sums in fp64, by halves
//! y = q stochastic_e4m3(S s) d    16 bits, addressed by the number of the block
//! ```
//!
//! Blocks are counted in C order, as elements are, from `offset` on: the parts of a larger array have its bits.

use crate::absmax::absmax;
use crate::bits::Draws;
use crate::dtype::{Memory, MemoryMut};
use crate::element::{self, NEAREST_EVEN, STOCHASTIC, Shape};
use crate::fake_quant::threads_for;
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::pool;
use crate::simd::dispatch;
use crate::turned::{COLUMNS, Runs};
use dither_numerics::Rounding;
use dither_numerics::quantizer::Randomness;

pub const ROTATION: usize = 128;
const BLOCK: usize = 16;
/// Blocks that share a correction.
const BLOCKS: usize = ROTATION / BLOCK;
const BITS: u32 = 16;
const AIM: f32 = (17.0 / 16.0 * 0.93 / 6.0f64) as f32;
const BOUND: f32 = (6.0 * 255.99f64) as f32;

/// Blocks along the layout's axis, which is a multiple of [`ROTATION`]. NaN or infinity anywhere makes everything NaN.
///
/// # Safety
/// As for [`crate::fake_quant()`]; both are fp32.
pub unsafe fn ms_eden(layout: &Layout, x: Memory, y: MemoryMut, source: Randomness, threads: usize) {
    assert!(layout.axis.is_multiple_of(ROTATION));
    let _standard = Standard::enter();
    let threads = threads_for(layout.len(), threads);
    // SAFETY: the caller's contract.
    let peak = unsafe { absmax(x, layout, threads) } as f32;
    let decode = (peak / BOUND).max(f32::from_bits(1));
    let draws = Draws::new(source, Rounding::Stochastic(BITS));
    let Layout { outer, axis, inner } = *layout;
    let (along, across) = (axis / ROTATION, inner.div_ceil(COLUMNS));
    pool::for_each(outer * across * along, threads, |task| {
        let (Memory::F32(x), MemoryMut::F32(y)) = (x, y) else { unreachable!("both are fp32") };
        let (o, strip, rotation) = (task / (across * along), task / along % across, task % along);
        let from = strip * COLUMNS;
        let first = (o * axis + rotation * ROTATION) * inner + from;
        let runs = Runs { first, inner, rows: ROTATION, width: COLUMNS.min(inner - from) };
        let (mut before, mut after) = ([[0.0; ROTATION]; COLUMNS], [[0.0; ROTATION]; COLUMNS]);
        // SAFETY: the rotations of a task lie in the array and are its own.
        unsafe { runs.gather(x, &mut before) };
        let (mut fractions, mut row) = ([[0; BLOCKS]; COLUMNS], [0; COLUMNS]);
        let mut reader = draws.reader();
        for i in 0..BLOCKS {
            let row = &mut row[..runs.width];
            reader.read(((o * along + rotation) * BLOCKS + i) * inner + from, row);
            row.iter().zip(&mut fractions).for_each(|(fraction, of)| of[i] = *fraction);
        }
        for ((x, y), fractions) in before[..runs.width].iter().zip(&mut after).zip(&fractions) {
            match peak {
                p if !p.is_finite() => y.fill(f32::NAN),
                0.0 => y.copy_from_slice(x),
                _ => rotated(x, y, decode, fractions),
            }
        }
        // SAFETY: as above.
        unsafe { runs.scatter(&after, y) };
    });
}

dispatch! {
    /// One rotation; `fractions`: the random bits of its blocks.
    fn rotated(x: &[f32; ROTATION], y: &mut [f32; ROTATION], decode: f32, fractions: &[u32]) = rotated_body;
}

/// Bits of the smallest normal and the largest number.
const E4M3: (u32, u32) = ((127 - 6) << 23, 448f32.to_bits());
const E2M1: (u32, u32) = (127 << 23, 6f32.to_bits());

#[inline(always)]
fn rotated_body(x: &[f32; ROTATION], y: &mut [f32; ROTATION], decode: f32, fractions: &[u32]) {
    let scale_shape = Shape { mbits: 3, n: BITS, last: 0, zero: -0.0 };
    let shape = Shape { mbits: 1, n: 0, last: 0, zero: -0.0 };
    let mut scales = [0f32; BLOCKS];
    let (mut signal, mut kept) = ([0f64; ROTATION], [0f64; ROTATION]);
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(y.as_chunks_mut::<BLOCK>().0).zip(&mut scales);
    for (((x, y), scale), (signal, kept)) in
        blocks.zip(signal.as_chunks_mut::<BLOCK>().0.iter_mut().zip(kept.as_chunks_mut::<BLOCK>().0))
    {
        let largest = x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff));
        let wanted = f32::from_bits(largest) * AIM / decode;
        *scale = element::round::<NEAREST_EVEN>(wanted, E4M3.0, E4M3.1, scale_shape, 0);
        let step = *scale * decode;
        for i in 0..BLOCK {
            let code = element::round::<NEAREST_EVEN>(x[i] / step, E2M1.0, E2M1.1, shape, 0);
            y[i] = if step > 0.0 { code } else { 0.0 };
        }
        for i in 0..BLOCK {
            let wide = f64::from(x[i]);
            signal[i] = wide * wide;
            kept[i] = wide * f64::from(y[i] * step);
        }
    }
    let (signal, kept) = (by_halves(signal), by_halves(kept));
    let factor = if kept > 0.0 { signal / kept } else { 1.0 } as f32;
    for ((y, scale), fraction) in y.as_chunks_mut::<BLOCK>().0.iter_mut().zip(scales).zip(fractions) {
        let corrected = element::round::<STOCHASTIC>(scale * factor, E4M3.0, E4M3.1, scale_shape, *fraction);
        for y in y {
            *y *= corrected * decode;
        }
    }
}

#[inline(always)]
fn by_halves(mut x: [f64; ROTATION]) -> f64 {
    let mut half = ROTATION / 2;
    while half > 0 {
        let (low, high) = x.split_at_mut(half);
        for i in 0..half {
            low[i] += high[i];
        }
        half /= 2;
    }
    x[0]
}
