//! Whole blocks in cache: absmax, scale, elements. From fp32 to fp32.

use crate::element::{self, TOWARD_ZERO, is_stochastic};
use crate::job::{Fast, Job, Pair};
use crate::reduce;
use crate::scales::Scales;
use crate::simd::dispatch;
use crate::stochastic;
use crate::stream;

const MAGNITUDE: u32 = 0x7fff_ffff;
/// Contiguous blocks whose scales are worked out together.
const GROUP: usize = 32;

/// `f::<MODE>(arguments)` for the rounding of a job.
macro_rules! by_mode {
    ($mode:expr, $f:ident($($argument:expr),*)) => {
        match $mode {
            element::NEAREST_EVEN => $f::<{ element::NEAREST_EVEN }>($($argument),*),
            element::NEAREST_AWAY => $f::<{ element::NEAREST_AWAY }>($($argument),*),
            element::TOWARD_ZERO => $f::<{ element::TOWARD_ZERO }>($($argument),*),
            element::UP => $f::<{ element::UP }>($($argument),*),
            element::DOWN => $f::<{ element::DOWN }>($($argument),*),
            element::STOCHASTIC => $f::<{ element::STOCHASTIC }>($($argument),*),
            _ => $f::<{ element::STOCHASTIC_FINE }>($($argument),*),
        }
    };
}
pub(crate) use by_mode;

/// Blocks of neighbours in a contiguous run; the last one may be short.
pub fn contiguous(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) {
    let done = if is_stochastic(job.mode) { stochastic::blocks(x, y, block, random, job) } else { 0 };
    let (x, y, random) = (&x[done..], &mut y[done..], random.get(done..).unwrap_or_default());
    by_mode!(job.mode, run_contiguous(x, y, block, random, job));
}

/// A run under one known scale.
pub fn scaled(x: &[f32], y: &mut [f32], random: &[u32], scale: Fast, job: &Job<'_>) {
    let done = if is_stochastic(job.mode) { stochastic::known(x, y, random, scale, job) } else { 0 };
    let (x, y, random) = (&x[done..], &mut y[done..], random.get(done..).unwrap_or_default());
    by_mode!(job.mode, run_scaled(x, y, random, scale, job));
}

dispatch! { fn run_contiguous<const M: u8>(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) = contiguous_body; }
dispatch! { fn run_scaled<const M: u8>(x: &[f32], y: &mut [f32], random: &[u32], scale: Fast, job: &Job<'_>) = apply; }
dispatch! {
    /// The bits of the largest magnitude.
    pub fn absmax(x: &[f32]) -> u32 = absmax_body;
}

#[inline(always)]
fn absmax_body(x: &[f32]) -> u32 {
    x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & MAGNITUDE))
}

#[inline(always)]
fn contiguous_body<const M: u8>(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) {
    match block {
        // Short blocks in groups; in longer ones the reduction of a block weighs little.
        16 => blocks::<M, 16>(x, y, random, job),
        32 => blocks::<M, 32>(x, y, random, job),
        _ => ragged::<M>(x, y, block, random, job),
    }
}

#[inline(always)]
fn blocks<const M: u8, const B: usize>(x: &[f32], y: &mut [f32], random: &[u32], job: &Job<'_>) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<B>(), y.as_chunks_mut::<B>());
    let (random, random_rest) = if is_stochastic(M) { random.split_at(x.len() * B) } else { (random, random) };
    let mut random = random.chunks(GROUP * B);
    for (x, y) in x.chunks(GROUP).zip(y.chunks_mut(GROUP)) {
        group::<M, B>(x, y, random.next().unwrap_or_default(), job);
    }
    ragged::<M>(x_rest, y_rest, B, random_rest, job);
}

/// At most [`GROUP`] blocks: all absmax, all scales, then the elements.
#[inline(always)]
fn group<const M: u8, const B: usize>(x: &[[f32; B]], y: &mut [[f32; B]], random: &[u32], job: &Job<'_>) {
    let mut absmax = [0; GROUP];
    let absmax = &mut absmax[..x.len()];
    reduce::absmax(x, absmax);
    let scales = Scales::<GROUP>::new(absmax, job);
    let random = random.as_chunks::<B>().0;
    let r = |i: usize| if is_stochastic(M) { random[i].as_slice() } else { &[] };
    let shape = job.shape;
    let (emin0, max0) = job.plain_grid();
    let each = x.iter().zip(y.iter_mut()).zip(scales.first.iter().zip(&scales.second)).enumerate();
    match scales.kind {
        Pair::Power => each.for_each(|(i, ((x, y), (emin, max)))| {
            map::<M>(x, y, r(i), |x, r| element::round::<M>(x, *emin, *max, shape, r));
        }),
        Pair::Divide => each.for_each(|(i, ((x, y), (s, _)))| {
            let s = f32::from_bits(*s);
            map::<M>(x, y, r(i), |x, r| element::round::<M>(x / s, emin0, max0, shape, r) * s);
        }),
        Pair::Multiply => each.for_each(|(i, ((x, y), (encode, decode)))| {
            let (encode, decode) = (f32::from_bits(*encode), f32::from_bits(*decode));
            map::<M>(x, y, r(i), |x, r| element::round::<M>(x * encode, emin0, max0, shape, r) * decode);
        }),
    }
    for (i, scale) in &scales.others {
        apply::<M>(&x[*i], &mut y[*i], r(*i), *scale, job);
    }
}

#[inline(always)]
fn ragged<const M: u8>(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) {
    let mut start = 0;
    for (x, y) in x.chunks(block).zip(y.chunks_mut(block)) {
        let r = if is_stochastic(M) { &random[start..start + x.len()] } else { &[] };
        start += x.len();
        one::<M>(x, y, r, job);
    }
}

#[inline(always)]
fn one<const M: u8>(x: &[f32], y: &mut [f32], random: &[u32], job: &Job<'_>) {
    let absmax = absmax_body(x);
    apply::<M>(x, y, random, job.scale(absmax), job);
}

#[inline(always)]
pub fn apply<const M: u8>(x: &[f32], y: &mut [f32], random: &[u32], scale: Fast, job: &Job<'_>) {
    let shape = job.shape;
    let (emin0, max0) = job.plain_grid();
    match scale {
        Fast::Power { emin, max } => map::<M>(x, y, random, |x, r| element::round::<M>(x, emin, max, shape, r)),
        Fast::Divide { s } => map::<M>(x, y, random, |x, r| element::round::<M>(x / s, emin0, max0, shape, r) * s),
        Fast::Multiply { encode, decode } => {
            map::<M>(x, y, random, |x, r| element::round::<M>(x * encode, emin0, max0, shape, r) * decode)
        }
        Fast::Zero => map::<TOWARD_ZERO>(x, y, &[], |x, _| x * 0.0 + shape.zero),
        Fast::Exact(scale) => map::<M>(x, y, random, |x, r| job.exact(x, scale, r)),
    }
}

#[inline(always)]
fn map<const M: u8>(x: &[f32], y: &mut [f32], random: &[u32], f: impl Fn(f32, u32) -> f32) {
    if is_stochastic(M) {
        for ((x, y), r) in x.iter().zip(y).zip(random) {
            *y = f(*x, *r);
        }
    } else {
        // A line of the cache at a time.
        let ((lines, x), (out, y)) = (x.as_chunks::<16>(), y.as_chunks_mut::<16>());
        for (x, y) in lines.iter().zip(out) {
            stream::prefetch(x.as_ptr().wrapping_add(stream::AHEAD));
            (0..16).for_each(|i| y[i] = f(x[i], 0));
        }
        for (x, y) in x.iter().zip(y) {
            *y = f(*x, 0);
        }
    }
}
