//! Blocks in cache whose scales the truth finds: searched ones, those under a policy, zero points. Elements go through the kernels where these give the same; fp32 to fp32.

use crate::block;
use crate::job::{Fast, Job};
use crate::simd::dispatch;
use dither_numerics::{Dialect, Quantizer, Rounding, Scale, ScaleRule, TensorScale};

pub(crate) struct Found<'a> {
    job: Job<'a>,
    tensor: Option<TensorScale>,
    /// Whether the rule looks at more than the extremes of a block.
    searched: bool,
    how: How,
}

/// What quantizes the elements of a block that is finite.
enum How {
    Kernels,
    /// Codes to nearest under a zero point; whether they come from a product with the scale's reciprocal.
    Affine(bool),
    Truth,
}

impl<'a> Found<'a> {
    pub fn new(q: &'a Quantizer, tensor: Option<TensorScale>) -> Self {
        let scaling = q.scaling.as_ref().expect("casts have no scales to be found");
        let options = scaling.options;
        let how = match q.rounding {
            Rounding::NearestEven if options.zero_point => How::Affine(options.dialect == Dialect::Torchao),
            _ if options.zero_point => How::Truth,
            _ => How::Kernels,
        };
        let searched = scaling.rule == ScaleRule::Mse || options.four_over_six.is_some();
        Found { job: Job::new(q, tensor), tensor, searched, how }
    }

    /// One block; `random` holds the fractions of its elements where anything is stochastic.
    pub fn block(&self, x: &[f32], y: &mut [f32], random: &[u32]) {
        let q = self.job.quantizer;
        let ends = finite_ends(x);
        let scale = match ends {
            Some(ends) if !self.searched => q.block_scale(&ends, self.tensor.as_ref()),
            _ => q.block_scale(x, self.tensor.as_ref()),
        };
        match (&self.how, scale) {
            // What NaN and infinity become beside numbers is a policy.
            _ if ends.is_none() => block::scaled(x, y, false, random, Fast::Exact(scale), &self.job),
            (How::Kernels, _) => block::scaled(x, y, false, random, self.job.known(scale), &self.job),
            (How::Affine(reciprocal), Scale::Affine { s, zero }) => {
                affine(x, y, Affine { s, reciprocal: *reciprocal, zero: zero as f32, max: q.format.max as f32 });
            }
            _ => block::scaled(x, y, false, random, Fast::Exact(scale), &self.job),
        }
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

/// Codes of a zero point, read back.
#[derive(Clone, Copy)]
struct Affine {
    s: f32,
    reciprocal: bool,
    zero: f32,
    max: f32,
}

dispatch! { fn affine(x: &[f32], y: &mut [f32], a: Affine) = affine_body; }

#[inline(always)]
fn affine_body(x: &[f32], y: &mut [f32], a: Affine) {
    /// Adding and subtracting it rounds to an integer, ties to even.
    const INTEGER: f32 = 12_582_912.0;
    let bound = 2.0 * a.max;
    let code = |steps: f32| {
        let whole = (steps.clamp(-bound, bound) + INTEGER) - INTEGER;
        ((whole + a.zero).clamp(0.0, a.max) - a.zero) * a.s
    };
    if a.reciprocal {
        let inverse = 1.0 / a.s;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = code(x * inverse));
    } else {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = code(x / a.s));
    }
}
