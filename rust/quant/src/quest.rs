//! MXFP4 whose scale follows from the deviation of a block (Quartet, arXiv 2505.14669), and where it can be trusted. fp32.
//!
//! ```text
//! s = 2^floor(log2(std CLIP / 6 + 1e-8))      blocks of 32, a ragged one filled up with zeros
//! y = e2m1(x / s) s,  to nearest even         mask: |x| < 6 s
//! ```
//!
//! The deviation is worked out in fp64, in eight lanes, and rounded to fp32. A block with NaN or infinity becomes NaN and is
//! not trusted.

use crate::element::{self, NEAREST_EVEN, Shape};
use crate::fake_quant::threads_for;
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::pool;
use crate::simd::dispatch;
use crate::turned::{COLUMNS, Runs};

const BLOCK: usize = 32;
const LANES: usize = 8;
/// Deviations at which clipping a normal value to the FP4 grid errs least, over the largest number of the grid.
const CLIP: f32 = (2.92247856 / 6.0f64) as f32;

/// Three fp32 arrays' memory: input, values, and where they are trusted (1 or 0).
#[derive(Clone, Copy)]
pub struct Arrays {
    pub x: *const f32,
    pub y: *mut f32,
    pub mask: *mut u8,
}

// SAFETY: every thread reads and writes only the blocks of its own tasks, which are disjoint.
unsafe impl Sync for Arrays {}
// SAFETY: as above; a pointer carries no thread affinity.
unsafe impl Send for Arrays {}

/// Blocks along the layout's axis.
///
/// # Safety
/// The arrays have the layout's elements, nobody else touches them meanwhile, and they do not overlap, but that `y` may be `x`.
pub unsafe fn quest(layout: &Layout, arrays: Arrays, threads: usize) {
    let _standard = Standard::enter();
    let Layout { outer, axis, inner } = *layout;
    let (along, across) = (axis.div_ceil(BLOCK), inner.div_ceil(COLUMNS));
    pool::for_each(outer * across * along, threads_for(layout.len(), threads), |task| {
        let Arrays { x, y, mask } = { arrays };
        let (o, block, strip) = (task / (across * along), task / across % along, task % across);
        let (row, from) = (block * BLOCK, strip * COLUMNS);
        let runs = Runs {
            first: (o * axis + row) * inner + from,
            inner,
            rows: BLOCK.min(axis - row),
            width: COLUMNS.min(inner - from),
        };
        let (mut values, mut trusted) = ([[0.0; BLOCK]; COLUMNS], [[0; BLOCK]; COLUMNS]);
        // SAFETY: the blocks of a task lie in the arrays and are its own.
        unsafe { runs.gather(x, &mut values) };
        for (values, trusted) in values.iter_mut().zip(&mut trusted).take(runs.width) {
            one(values, trusted);
        }
        // SAFETY: as above.
        unsafe {
            runs.scatter(&values, y);
            runs.scatter(&trusted, mask);
        }
    });
}

dispatch! { fn one(x: &mut [f32; BLOCK], trusted: &mut [u8; BLOCK]) = one_body; }

#[inline(always)]
fn one_body(x: &mut [f32; BLOCK], trusted: &mut [u8; BLOCK]) {
    let (mut sum, mut squares) = ([0f64; LANES], [0f64; LANES]);
    for line in x.as_chunks::<LANES>().0 {
        for l in 0..LANES {
            sum[l] += f64::from(line[l]);
        }
    }
    let mean = sum.iter().sum::<f64>() / BLOCK as f64;
    for line in x.as_chunks::<LANES>().0 {
        for l in 0..LANES {
            let d = f64::from(line[l]) - mean;
            squares[l] += d * d;
        }
    }
    let deviation = (squares.iter().sum::<f64>() / BLOCK as f64).sqrt() as f32 * CLIP + 1e-8;
    if !deviation.is_finite() {
        x.fill(f32::NAN);
        return;
    }
    let s = f32::from_bits(deviation.to_bits() & 0x7f80_0000);
    let shape = Shape { mbits: 1, n: 0, last: 0, zero: -0.0 };
    for i in 0..BLOCK {
        trusted[i] = u8::from(x[i].abs() < 6.0 * s);
        x[i] = element::round::<NEAREST_EVEN>(x[i] / s, 127 << 23, 6f32.to_bits(), shape, 0) * s;
    }
}
