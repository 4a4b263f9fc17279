//! The two values a quantizer could return next to each element: largest at most x, smallest at least x.

use crate::dtype::{Memory, MemoryMut};
use crate::element::{self, DOWN, Shape, UP};
use crate::fake_quant::{Whole, for_each_block, threads_for};
use crate::fpu::Standard;
use crate::job::{Fast, Job};
use crate::layout::Layout;
use crate::pool;
use crate::simd::dispatch;
use dither_numerics::{Block, Quantizer, Scale};

/// Writes the neighbours of `x` under the scales that `q` gives it (`q`'s rounding does not matter).
///
/// # Safety
/// `x`, `lo` and `hi` point to `layout.len()` elements each; the outputs overlap neither each other nor `x`.
pub unsafe fn neighbours(q: &Quantizer, layout: &Layout, x: Memory, lo: MemoryMut, hi: MemoryMut, threads: usize) {
    let _standard = Standard::enter();
    let threads = threads_for(layout.len(), threads);
    if !q.scaling.as_ref().is_none_or(|s| s.is_plain()) {
        // SAFETY: the caller's contract.
        return unsafe { crate::by_truth::neighbours(q, layout, x, lo, hi, threads) };
    }
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, x, layout, threads) };
    let block = q.scaling.as_ref().map(|s| s.block);
    let cut = layout.cut(block);
    let job = Job::new(q, whole.tensor);
    pool::for_each(cut.units(), threads, |i| {
        let unit = cut.unit(i);
        let fixed = matches!(block, None | Some(Block::Tensor));
        if x.is_f64() {
            let mut data = vec![0f64; unit.len];
            // SAFETY: units lie in the array and are disjoint.
            unsafe { x.load_f64(unit.start, &mut data) };
            let (mut below, mut above) = (data.clone(), data.clone());
            for_each_block(&cut, unit.len, |positions| {
                let positions: Vec<usize> = positions.collect();
                let absmax = dither_numerics::quantizer::absmax(positions.iter().map(|i| data[*i]));
                let scale = q.scale(if fixed { whole.absmax } else { absmax }, whole.tensor.as_ref());
                for i in positions {
                    (below[i], above[i]) = q.neighbours(data[i], scale);
                }
            });
            // SAFETY: as above.
            unsafe {
                lo.store_f64(unit.start, &below);
                hi.store_f64(unit.start, &above);
            }
            return;
        }
        let (mut below, mut above) = (vec![0f32; unit.len], vec![0f32; unit.len]);
        // SAFETY: as above.
        unsafe { x.load(unit.start, &mut below) };
        let one = |x: &mut [f32], above: &mut [f32]| {
            let absmax = if fixed {
                (whole.absmax as f32).to_bits()
            } else {
                x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff))
            };
            let scale = if block.is_none() { Fast::Exact(Scale::Power(0)) } else { job.scale(absmax) };
            block_neighbours(x, above, scale, &job);
        };
        if cut.inner() == 1 {
            below.chunks_mut(cut.block).zip(above.chunks_mut(cut.block)).for_each(|(x, above)| one(x, above));
        } else {
            for_each_block(&cut, unit.len, |positions| {
                let positions: Vec<usize> = positions.collect();
                let mut a: Vec<f32> = positions.iter().map(|i| below[*i]).collect();
                let mut b = vec![0f32; a.len()];
                one(&mut a, &mut b);
                for (k, i) in positions.into_iter().enumerate() {
                    (below[i], above[i]) = (a[k], b[k]);
                }
            });
        }
        // SAFETY: as above.
        unsafe {
            lo.store(unit.start, &below);
            hi.store(unit.start, &above);
        }
    });
}

dispatch! { fn block_neighbours(x: &mut [f32], above: &mut [f32], scale: Fast, job: &Job<'_>) = body; }

/// `x` becomes the lower neighbours.
#[inline(always)]
fn body(x: &mut [f32], above: &mut [f32], scale: Fast, job: &Job<'_>) {
    let shape = job.shape;
    let (emin, max) = job.plain_grid();
    match scale {
        Fast::Power { emin, max } => {
            for (x, above) in x.iter_mut().zip(above) {
                *above = element::round::<UP>(*x, emin, max, shape, 0);
                *x = element::round::<DOWN>(*x, emin, max, shape, 0);
            }
        }
        Fast::Divide { s } => {
            for (x, above) in x.iter_mut().zip(above) {
                (*x, *above) = enclose(*x, *x / s, s, emin, max, shape);
            }
        }
        Fast::Multiply { decode, .. } => {
            // Not by `encode`, which is no reciprocal where it is bounded.
            for (x, above) in x.iter_mut().zip(above) {
                let z = if decode == 0.0 { 0.0 } else { *x / decode };
                (*x, *above) = enclose(*x, z, decode, emin, max, shape);
            }
        }
        Fast::Zero => {
            x.fill(0.0);
            above.fill(0.0);
        }
        Fast::Exact(scale) => {
            for (x, above) in x.iter_mut().zip(above) {
                (*x, *above) = job.quantizer.neighbours(*x, scale);
            }
        }
    }
}

/// The quotient `z` is rounded, so the neighbours of `x` among the products `r * s` can be one step from those of `z`.
#[inline(always)]
fn enclose(x: f32, z: f32, s: f32, emin: u32, max: u32, shape: Shape) -> (f32, f32) {
    let up = |r: f32| element::round::<UP>(next_up(r), emin, max, shape, 0);
    let down = |r: f32| element::round::<DOWN>(next_down(r), emin, max, shape, 0);
    let r = element::round::<DOWN>(z, emin, max, shape, 0);
    let (below, above) = (down(r), up(r));
    let r = if r * s > x {
        below
    } else if above * s <= x {
        above
    } else {
        r
    };
    let lo = r * s;
    (lo, if lo >= x { lo } else { up(r) * s })
}

/// The next fp32 above a finite number, without the special cases that a grid value cannot be.
#[inline(always)]
pub(crate) fn next_up(r: f32) -> f32 {
    let b = r.to_bits();
    f32::from_bits(if r == 0.0 {
        1
    } else if b >> 31 == 0 {
        b + 1
    } else {
        b - 1
    })
}

#[inline(always)]
pub(crate) fn next_down(r: f32) -> f32 {
    -next_up(-r)
}
