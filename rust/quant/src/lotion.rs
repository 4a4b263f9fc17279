//! LOTION's penalty and its gradient in one pass over the weights (arXiv 2510.08757, Eq. 3):
//!
//! ```text
//! R       = 1/2 sum_i g_i (w_i - lo_i)(hi_i - w_i)           lo <= w <= hi: the neighbours on the block's grid
//! dR/dw_i = 1/2 g_i (lo_i + hi_i - 2 w_i)
//!         + at the block's largest weight: sign(w)/absmax * 1/2 sum_j g_j (hi_j (w_j - lo_j) - lo_j (hi_j - w_j))
//! ```
//!
//! The second line is the gradient through the block's scale, which moves with its largest weight. The conventions at
//! kinks and for several maxima are those of `dither.methods.noise`, whose torch expression is this kernel's twin.

use crate::element::{self, DOWN, NEAREST_EVEN, Shape, UP};
use crate::fake_quant::{Whole, threads_for};
use crate::fpu::Standard;
use crate::job::{Fast, Job};
use crate::layout::Layout;
use crate::neighbours::{next_down, next_up};
use crate::pool;
use crate::simd::dispatch;
use dither_numerics::{Block, Quantizer, ScaleFormat};
use std::sync::atomic::{AtomicU64, Ordering};

const MAGNITUDE: u32 = 0x7fff_ffff;
const LANES: usize = 16;

/// What becomes of the gradient.
#[derive(Clone, Copy, Debug)]
pub struct Gradient {
    /// It is multiplied by this number.
    pub factor: f32,
    /// Added to what lies in the output, instead of written over it.
    pub add: bool,
    /// Whether the part through the block's scale belongs to it.
    pub through_scale: bool,
}

/// Whether the kernel takes this quantizer: blocks along the axis, scales that the absmax alone decides.
pub fn takes(q: &Quantizer) -> bool {
    q.scaling.as_ref().is_some_and(|s| s.is_plain() && matches!(s.block, Block::Size(_) | Block::Row))
}

/// Writes (or adds) the gradient to `out` and returns R. Blocks run along the layout's axis, which is the last one.
///
/// # Safety
/// `w`, `g` and `out` point to `layout.len()` fp32 numbers; `out` overlaps neither of the others, and nobody else
/// writes them meanwhile. `q` is one that the kernel [`takes`], and `layout.inner` is 1.
pub unsafe fn lotion(
    q: &Quantizer,
    layout: &Layout,
    (w, g, out): (*const f32, *const f32, *mut f32),
    gradient: Gradient,
    threads: usize,
) -> f64 {
    let _standard = Standard::enter();
    let threads = threads_for(layout.len(), threads);
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, crate::Memory::F32(w), layout, threads) };
    let scaling = q.scaling.as_ref().expect("the kernel takes scaled quantizers");
    let kernel = Kernel { job: Job::new(q, whole.tensor), gradient, exact: scaling.format == ScaleFormat::Fp32 };
    let cut = layout.cut(Some(scaling.block));
    // One sum a unit, added up in order: the result does not depend on the number of threads.
    let sums: Vec<AtomicU64> = (0..cut.units()).map(|_| AtomicU64::new(0)).collect();
    let (w, g, out) = (w as usize, g as usize, out as usize);
    pool::for_each(cut.units(), threads, |i| {
        let unit = cut.unit(i);
        // SAFETY: units lie in the arrays and are disjoint.
        let (w, g, out) = unsafe {
            (
                std::slice::from_raw_parts((w as *const f32).add(unit.start), unit.len),
                std::slice::from_raw_parts((g as *const f32).add(unit.start), unit.len),
                std::slice::from_raw_parts_mut((out as *mut f32).add(unit.start), unit.len),
            )
        };
        let sum = match gradient.add {
            true => run::<true>(w, g, out, cut.block, &kernel),
            false => run::<false>(w, g, out, cut.block, &kernel),
        };
        sums[i].store(sum.to_bits(), Ordering::Relaxed);
    });
    0.5 * sums.iter().map(|sum| f64::from_bits(sum.load(Ordering::Relaxed))).sum::<f64>()
}

struct Kernel<'a> {
    job: Job<'a>,
    gradient: Gradient,
    /// The block's largest weight is a point of the grid by construction, rounding errors of its scale aside.
    exact: bool,
}

dispatch! {
    fn run<const ADD: bool>(w: &[f32], g: &[f32], out: &mut [f32], block: usize, kernel: &Kernel<'_>) -> f64 = blocks;
}

/// Whole blocks: 2R of them, and their gradient.
#[inline(always)]
fn blocks<const ADD: bool>(w: &[f32], g: &[f32], out: &mut [f32], block: usize, kernel: &Kernel<'_>) -> f64 {
    let each = w.chunks(block).zip(g.chunks(block)).zip(out.chunks_mut(block));
    each.map(|((w, g), out)| one::<ADD>(w, g, out, kernel)).sum()
}

#[inline(always)]
fn one<const ADD: bool>(w: &[f32], g: &[f32], out: &mut [f32], kernel: &Kernel<'_>) -> f64 {
    let (absmax, job) = (absmax(w), &kernel.job);
    let (emin, max) = job.plain_grid();
    let mut sums = Sums::default();
    let block = Part { w, g, absmax, kernel };
    match job.scale(absmax) {
        Fast::Power { emin, max } => {
            lines::<ADD, POWER>(block, out, &mut sums, Points { emin, max, encode: 1.0, decode: 1.0 })
        }
        // Every number of the format is a multiple of the smallest.
        Fast::Divide { s } if max < emin + (1 << 23) => {
            lines::<ADD, UNIFORM>(block, out, &mut sums, Points { emin, max, encode: s, decode: s })
        }
        Fast::Divide { s } => lines::<ADD, DIVIDE>(block, out, &mut sums, Points { emin, max, encode: s, decode: s }),
        Fast::Multiply { encode, decode } => {
            lines::<ADD, MULTIPLY>(block, out, &mut sums, Points { emin, max, encode, decode })
        }
        scale @ (Fast::Zero | Fast::Exact(_)) => exact::<ADD>(block, out, &mut sums, scale),
    }
    if kernel.gradient.through_scale && absmax != 0 {
        let count: u32 = sums.maxima.iter().sum();
        let through = sums.through.iter().sum::<f32>() / (f32::from_bits(absmax) * count as f32);
        let share = 0.5 * kernel.gradient.factor * through;
        for (w, out) in w.chunks(LANES).zip(out.chunks_mut(LANES)) {
            // Most lines hold no maximum, which a vector comparison sees at once.
            if !w.iter().fold(false, |any, w| any | (w.to_bits() & MAGNITUDE == absmax)) {
                continue;
            }
            for (w, out) in w.iter().zip(out).filter(|(w, _)| w.to_bits() & MAGNITUDE == absmax) {
                *out += share * w.signum();
            }
        }
    }
    sums.penalty.iter().map(|x| f64::from(*x)).sum()
}

/// How the points around a weight are found.
const POWER: u8 = 0;
const UNIFORM: u8 = 1;
const DIVIDE: u8 = 2;
const MULTIPLY: u8 = 3;

/// The grid of a block: bit patterns of the smallest normal and the largest number, and the scale's factors.
#[derive(Clone, Copy)]
struct Points {
    emin: u32,
    max: u32,
    encode: f32,
    decode: f32,
}

/// The points around `w`. The nearest one is the lower neighbour or, where its product lies above `w`, the upper.
/// Both are worked out and one is chosen, so that no lane waits for a branch. (A function, since closures of this size
/// are not always inlined, and then no loop becomes vectors.)
#[inline(always)]
fn around<const KIND: u8>(w: f32, shape: Shape, p: Points) -> (f32, f32) {
    let Points { emin, max, encode, decode: s } = p;
    if KIND == POWER {
        let lo = element::round::<DOWN>(w, emin, max, shape, 0);
        return (lo, element::round::<UP>(w, emin, max, shape, 0));
    }
    let z = if KIND == MULTIPLY { w * encode } else { w / encode };
    let near = element::round::<NEAREST_EVEN>(z, emin, max, shape, 0);
    let (step, top) = (f32::from_bits(emin.wrapping_sub(shape.mbits << 23)), f32::from_bits(max));
    let under = match KIND {
        UNIFORM => (near - step).max(-top),
        _ => element::round::<DOWN>(next_down(near), emin, max, shape, 0),
    };
    let below = if near * s > w { under } else { near };
    let over = match KIND {
        UNIFORM => (below + step).min(top),
        _ => element::round::<UP>(next_up(below), emin, max, shape, 0),
    };
    let (lo, hi) = (below * s, over * s);
    (lo, if lo >= w { lo } else { hi })
}

/// A block that is left to the scalar truth.
#[cold]
#[inline(never)]
fn exact<const ADD: bool>(block: Part<'_>, out: &mut [f32], sums: &mut Sums, scale: Fast) {
    for ((w, g), out) in block.w.iter().zip(block.g).zip(out) {
        let (lo, hi) = match scale {
            Fast::Exact(scale) => block.kernel.job.quantizer.neighbours(*w, scale),
            _ => (0.0, 0.0),
        };
        let [mut ws, mut gs, mut los, mut his, mut outs] = [[0.0; LANES]; 5];
        (ws[0], gs[0], los[0], his[0], outs[0]) = (*w, *g, lo, hi, *out);
        line::<ADD>(&ws, &gs, (&los, &his), &mut outs, block, sums);
        *out = outs[0];
    }
}

#[inline(always)]
fn absmax(w: &[f32]) -> u32 {
    let (lines, rest) = w.as_chunks::<LANES>();
    let mut best = [0u32; LANES];
    for line in lines {
        (0..LANES).for_each(|i| best[i] = best[i].max(line[i].to_bits() & MAGNITUDE));
    }
    rest.iter().map(|w| w.to_bits() & MAGNITUDE).chain(best).fold(0, u32::max)
}

/// Sums over a block, one for each lane of a vector.
#[derive(Default)]
struct Sums {
    penalty: [f32; LANES],
    through: [f32; LANES],
    maxima: [u32; LANES],
}

/// A block on its way in.
#[derive(Clone, Copy)]
struct Part<'a> {
    w: &'a [f32],
    g: &'a [f32],
    absmax: u32,
    kernel: &'a Kernel<'a>,
}

/// The lattice part of the gradient, and the sums, a vector at a time; the last one is filled with zeros, which add
/// nothing.
#[inline(always)]
fn lines<const ADD: bool, const KIND: u8>(block: Part<'_>, out: &mut [f32], sums: &mut Sums, points: Points) {
    let shape = block.kernel.job.shape;
    let mut all = |w: &[f32; LANES], g: &[f32; LANES], out: &mut [f32; LANES]| {
        let [mut lo, mut hi] = [[0.0f32; LANES]; 2];
        for i in 0..LANES {
            (lo[i], hi[i]) = around::<KIND>(w[i], shape, points);
        }
        line::<ADD>(w, g, (&lo, &hi), out, block, sums);
    };
    let ((w, w_rest), (g, g_rest)) = (block.w.as_chunks::<LANES>(), block.g.as_chunks::<LANES>());
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for ((w, g), out) in w.iter().zip(g).zip(out) {
        all(w, g, out);
    }
    if !w_rest.is_empty() {
        let [mut w, mut g, mut last] = [[0.0; LANES]; 3];
        let n = w_rest.len();
        w[..n].copy_from_slice(w_rest);
        g[..n].copy_from_slice(g_rest);
        last[..n].copy_from_slice(out_rest);
        all(&w, &g, &mut last);
        out_rest.copy_from_slice(&last[..n]);
    }
}

#[inline(always)]
fn line<const ADD: bool>(
    w: &[f32; LANES],
    g: &[f32; LANES],
    (lo, hi): (&[f32; LANES], &[f32; LANES]),
    out: &mut [f32; LANES],
    block: Part<'_>,
    sums: &mut Sums,
) {
    let half = 0.5 * block.kernel.gradient.factor;
    let held = if block.kernel.exact { block.absmax } else { u32::MAX };
    for i in 0..LANES {
        let magnitude = w[i].to_bits() & MAGNITUDE;
        let keep = if magnitude == held { 0.0 } else { 1.0 };
        let (below, above) = ((w[i] - lo[i]) * keep, (hi[i] - w[i]) * keep);
        let (below_g, above_g) = (below * g[i], above * g[i]);
        sums.maxima[i] += u32::from(magnitude == block.absmax);
        sums.penalty[i] += below_g * above;
        sums.through[i] += hi[i] * below_g - lo[i] * above_g;
        let gradient = half * (above_g - below_g);
        out[i] = if ADD { out[i] + gradient } else { gradient };
    }
}
