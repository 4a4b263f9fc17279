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

use crate::element;
use crate::fake_quant::{Whole, threads_for};
use crate::fpu::Standard;
use crate::job::{Fast, Job};
use crate::layout::Layout;
use crate::neighbours;
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
        sums[i].store(blocks(w, g, out, cut.block, &kernel).to_bits(), Ordering::Relaxed);
    });
    0.5 * sums.iter().map(|sum| f64::from_bits(sum.load(Ordering::Relaxed))).sum::<f64>()
}

struct Kernel<'a> {
    job: Job<'a>,
    gradient: Gradient,
    /// The block's largest weight is a point of the grid by construction, rounding errors of its scale aside.
    exact: bool,
}

dispatch! { fn blocks(w: &[f32], g: &[f32], out: &mut [f32], block: usize, kernel: &Kernel<'_>) -> f64 = blocks_body; }

#[inline(always)]
fn blocks_body(w: &[f32], g: &[f32], out: &mut [f32], block: usize, kernel: &Kernel<'_>) -> f64 {
    let (mut lo, mut hi) = (vec![0f32; block.min(w.len())], vec![0f32; block.min(w.len())]);
    let each = w.chunks(block).zip(g.chunks(block)).zip(out.chunks_mut(block));
    each.map(|((w, g), out)| one(w, g, out, &mut lo[..w.len()], &mut hi[..w.len()], kernel)).sum()
}

/// A block: 2R of it, and its gradient.
#[inline(always)]
fn one(w: &[f32], g: &[f32], out: &mut [f32], lo: &mut [f32], hi: &mut [f32], kernel: &Kernel<'_>) -> f64 {
    let absmax = w.iter().fold(0, |m: u32, w| m.max(w.to_bits() & MAGNITUDE));
    enclose(w, lo, hi, kernel.job.scale(absmax), &kernel.job);
    let Gradient { factor, add, through_scale } = kernel.gradient;
    let half = 0.5 * factor;
    let mut sums = Sums::default();
    let held = if kernel.exact { absmax } else { u32::MAX };
    let mut each = |lane: usize, w: f32, g: f32, lo: f32, hi: f32, out: &mut f32| {
        let magnitude = w.to_bits() & MAGNITUDE;
        let keep = if magnitude == held { 0.0 } else { 1.0 };
        let (below, above) = ((w - lo) * keep, (hi - w) * keep);
        let (below_g, above_g) = (below * g, above * g);
        sums.penalty[lane] += below_g * above;
        sums.through[lane] += hi * below_g - lo * above_g;
        sums.maxima[lane] += u32::from(magnitude == absmax);
        let gradient = half * (above_g - below_g);
        *out = if add { *out + gradient } else { gradient };
    };
    let whole = w.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let part = |x: &[f32]| -> [f32; LANES] { x[at..at + LANES].try_into().expect("a line has LANES numbers") };
        let (w, g, lo, hi) = (part(w), part(g), part(lo), part(hi));
        let out = &mut out[at..at + LANES];
        (0..LANES).for_each(|i| each(i, w[i], g[i], lo[i], hi[i], &mut out[i]));
    }
    (whole..w.len()).for_each(|i| each(i - whole, w[i], g[i], lo[i], hi[i], &mut out[i]));
    if through_scale && absmax != 0 {
        let count: u32 = sums.maxima.iter().sum();
        let share = half * (sums.through.iter().sum::<f32>() / (f32::from_bits(absmax) * count as f32));
        for (w, out) in w.iter().zip(out).filter(|(w, _)| w.to_bits() & MAGNITUDE == absmax) {
            *out += share * w.signum();
        }
    }
    sums.penalty.iter().map(|x| f64::from(*x)).sum()
}

/// Sums over a block, one for each lane of a vector.
#[derive(Default)]
struct Sums {
    penalty: [f32; LANES],
    through: [f32; LANES],
    maxima: [u32; LANES],
}

/// The neighbours of a block: those of [`neighbours`], with fewer operations where the grid is uniform.
#[inline(always)]
fn enclose(w: &[f32], lo: &mut [f32], hi: &mut [f32], scale: Fast, job: &Job<'_>) {
    let (emin, max) = job.plain_grid();
    let uniform = max < emin + (1 << 23);
    let Fast::Divide { s } = scale else {
        lo.copy_from_slice(w);
        return neighbours::body(lo, hi, scale, job);
    };
    if !uniform {
        lo.copy_from_slice(w);
        return neighbours::body(lo, hi, scale, job);
    }
    // The nearest point is the lower neighbour or, where its product lies above w, the upper one.
    let (step, top) = (f32::from_bits(emin - (job.shape.mbits << 23)), f32::from_bits(max));
    for ((w, lo), hi) in w.iter().zip(lo).zip(hi) {
        let r = element::round::<{ element::NEAREST_EVEN }>(*w / s, emin, max, job.shape, 0);
        let below = if r * s > *w { (r - step).max(-top) } else { r };
        *lo = below * s;
        *hi = if *lo >= *w { *lo } else { (below + step).min(top) * s };
    }
}
