//! Blocks in cache whose scales take more than an absmax: searched ones, zero points, policies about NaN. Where a block is
//! not ordinary (or no kernel knows the way) the truth finds its scale. fp32 to fp32.

use crate::block::{self, GROUP, GROUP_ELEMENTS};
use crate::job::{Fast, Job};
use crate::scales::Scales;
use crate::search::Search;
use crate::simd::dispatch;
use dither_numerics::{Dialect, Quantizer, Rounding, ScaleRule, TensorScale};

pub(crate) struct Found<'a> {
    job: Job<'a>,
    tensor: Option<TensorScale>,
    way: Way,
}

enum Way {
    /// The extremes of a finite block decide.
    Ends,
    Searched(Search),
    Affine(Affine),
    Truth,
}

impl<'a> Found<'a> {
    pub fn new(q: &'a Quantizer, tensor: Option<TensorScale>) -> Self {
        let scaling = q.scaling.as_ref().expect("casts have no scales to be found");
        let options = scaling.options;
        let searched = scaling.rule == ScaleRule::Mse || options.four_over_six.is_some();
        let way = if options.zero_point && q.rounding == Rounding::NearestEven {
            Way::Affine(Affine { torchao: options.dialect == Dialect::Torchao, top: q.format.max as f32 })
        } else if searched {
            Search::new(q).map_or(Way::Truth, Way::Searched)
        } else if options.zero_point {
            Way::Truth
        } else {
            Way::Ends
        };
        Found { job: Job::new(q, tensor), tensor, way }
    }

    /// Blocks of neighbours, the last of which may be short; `random` holds the fractions of the elements where anything
    /// is stochastic. Results may go `past` the caches.
    pub fn blocks(&self, x: &[f32], y: &mut [f32], past: bool, block: usize, random: &[u32]) {
        let step = block * (GROUP_ELEMENTS / block).clamp(1, GROUP);
        let of = |start: usize, len: usize| random.get(start..start + len).unwrap_or_default();
        for (i, (x, y)) in x.chunks(step).zip(y.chunks_mut(step)).enumerate() {
            if self.group(x, y, past, block, of(i * step, x.len())) {
                continue;
            }
            for (j, (x, y)) in x.chunks(block).zip(y.chunks_mut(block)).enumerate() {
                self.block(x, y, of(i * step + j * block, x.len()));
            }
        }
    }

    /// Whole blocks at once; false where there is no way to do so.
    fn group(&self, x: &[f32], y: &mut [f32], past: bool, block: usize, random: &[u32]) -> bool {
        let Way::Searched(search) = &self.way else { return false };
        let mut scales = Scales::<GROUP>::new();
        let found = x.len().is_multiple_of(block) && search.group(x, block, &self.job, &mut scales);
        if found {
            block::under(x, y, past, block, random, &scales, &self.job);
        }
        found
    }

    /// One block.
    pub fn block(&self, x: &[f32], y: &mut [f32], random: &[u32]) {
        let (q, tensor) = (self.job.quantizer, self.tensor.as_ref());
        let scale = match &self.way {
            Way::Affine(way) if affine(x, y, *way) => return,
            Way::Searched(_) if self.group(x, y, false, x.len(), random) => return,
            Way::Ends => match finite_ends(x) {
                Some(ends) => self.job.known(q.block_scale(&ends, tensor)),
                // What NaN and infinity become beside numbers is a policy.
                None => Fast::Exact(q.block_scale(x, tensor)),
            },
            _ => Fast::Exact(q.block_scale(x, tensor)),
        };
        block::scaled(x, y, false, random, scale, &self.job);
    }
}

/// The smallest and the largest of some numbers and zero; `None` where NaN or infinity is among them.
pub(crate) fn finite_ends(x: &[f32]) -> Option<[f32; 2]> {
    let (low, high, magnitude) = ends(x);
    (magnitude < 0x7f80_0000).then_some([low, high])
}

dispatch! { fn ends(x: &[f32]) -> (f32, f32, u32) = ends_body; }

#[inline(always)]
fn ends_body(x: &[f32]) -> (f32, f32, u32) {
    const LANES: usize = 16;
    let (mut low, mut high, mut magnitude) = ([0f32; LANES], [0f32; LANES], [0u32; LANES]);
    let (lines, rest) = x.as_chunks::<LANES>();
    let mut raise = |i: usize, x: f32| {
        low[i] = if x < low[i] { x } else { low[i] };
        high[i] = if x > high[i] { x } else { high[i] };
        magnitude[i] = magnitude[i].max(x.to_bits() & 0x7fff_ffff);
    };
    for x in lines {
        (0..LANES).for_each(|i| raise(i, x[i]));
    }
    rest.iter().enumerate().for_each(|(i, x)| raise(i, *x));
    let smallest = low.iter().fold(0.0, |m: f32, x| m.min(*x));
    let largest = high.iter().fold(0.0, |m: f32, x| m.max(*x));
    (smallest, largest, magnitude.iter().fold(0, |m, x| m.max(*x)))
}

/// Codes of a zero point, to nearest.
#[derive(Clone, Copy)]
struct Affine {
    /// torchao's order: a product with the scale's reciprocal, and a scale that is a normal number.
    torchao: bool,
    /// The largest code.
    top: f32,
}

dispatch! {
    /// A block under its own scale and zero point (see `dither_numerics::affine`); false where it is not finite, or has a
    /// scale of zero.
    fn affine(x: &[f32], y: &mut [f32], way: Affine) -> bool = affine_body;
}

#[inline(always)]
fn affine_body(x: &[f32], y: &mut [f32], Affine { torchao, top }: Affine) -> bool {
    /// Adding and subtracting it rounds to an integer, ties to even.
    const INTEGER: f32 = 12_582_912.0;
    let (low, high, magnitude) = ends_body(x);
    let s = ((high - low) / top).min(f32::MAX);
    let s = if torchao { s.max(f32::MIN_POSITIVE) } else { s };
    if magnitude >= 0x7f80_0000 || s == 0.0 {
        return false;
    }
    let zero = ((-low / s + INTEGER) - INTEGER).clamp(0.0, top);
    let (bound, inverse) = (2.0 * top, 1.0 / s);
    for (y, x) in y.iter_mut().zip(x) {
        let steps = if torchao { *x * inverse } else { *x / s };
        let whole = (steps.clamp(-bound, bound) + INTEGER) - INTEGER;
        *y = ((whole + zero).clamp(0.0, top) - zero) * s;
    }
    true
}
