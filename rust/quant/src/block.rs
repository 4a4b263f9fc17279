//! Whole blocks in cache: absmax, scale, elements. From fp32 to fp32.

use crate::element::{self, TOWARD_ZERO};
use crate::job::{Fast, Job};
use crate::simd::dispatch;
use crate::stochastic;

const MAGNITUDE: u32 = 0x7fff_ffff;
const GROUP: usize = 16;

/// Blocks of neighbours in a contiguous run; the last one may be short.
pub fn contiguous(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) {
    let done = if element::is_stochastic(job.mode) { stochastic::blocks(x, y, block, random, job) } else { 0 };
    let (x, y, random) = (&x[done..], &mut y[done..], random.get(done..).unwrap_or_default());
    match job.mode {
        element::NEAREST_EVEN => run_contiguous::<{ element::NEAREST_EVEN }>(x, y, block, random, job),
        element::NEAREST_AWAY => run_contiguous::<{ element::NEAREST_AWAY }>(x, y, block, random, job),
        element::TOWARD_ZERO => run_contiguous::<{ element::TOWARD_ZERO }>(x, y, block, random, job),
        element::UP => run_contiguous::<{ element::UP }>(x, y, block, random, job),
        element::DOWN => run_contiguous::<{ element::DOWN }>(x, y, block, random, job),
        element::STOCHASTIC => run_contiguous::<{ element::STOCHASTIC }>(x, y, block, random, job),
        _ => run_contiguous::<{ element::STOCHASTIC_FINE }>(x, y, block, random, job),
    }
}

/// One block a column: `x` holds rows of `inner` elements, every column is a block.
pub fn columns(x: &[f32], y: &mut [f32], inner: usize, random: &[u32], job: &Job<'_>) {
    match job.mode {
        element::NEAREST_EVEN => run_columns::<{ element::NEAREST_EVEN }>(x, y, inner, random, job),
        element::NEAREST_AWAY => run_columns::<{ element::NEAREST_AWAY }>(x, y, inner, random, job),
        element::TOWARD_ZERO => run_columns::<{ element::TOWARD_ZERO }>(x, y, inner, random, job),
        element::UP => run_columns::<{ element::UP }>(x, y, inner, random, job),
        element::DOWN => run_columns::<{ element::DOWN }>(x, y, inner, random, job),
        element::STOCHASTIC => run_columns::<{ element::STOCHASTIC }>(x, y, inner, random, job),
        _ => run_columns::<{ element::STOCHASTIC_FINE }>(x, y, inner, random, job),
    }
}

/// A run under one known scale.
pub fn scaled(x: &[f32], y: &mut [f32], random: &[u32], scale: Fast, job: &Job<'_>) {
    let done = if element::is_stochastic(job.mode) { stochastic::known(x, y, random, scale, job) } else { 0 };
    let (x, y, random) = (&x[done..], &mut y[done..], random.get(done..).unwrap_or_default());
    match job.mode {
        element::NEAREST_EVEN => run_scaled::<{ element::NEAREST_EVEN }>(x, y, random, scale, job),
        element::NEAREST_AWAY => run_scaled::<{ element::NEAREST_AWAY }>(x, y, random, scale, job),
        element::TOWARD_ZERO => run_scaled::<{ element::TOWARD_ZERO }>(x, y, random, scale, job),
        element::UP => run_scaled::<{ element::UP }>(x, y, random, scale, job),
        element::DOWN => run_scaled::<{ element::DOWN }>(x, y, random, scale, job),
        element::STOCHASTIC => run_scaled::<{ element::STOCHASTIC }>(x, y, random, scale, job),
        _ => run_scaled::<{ element::STOCHASTIC_FINE }>(x, y, random, scale, job),
    }
}

dispatch! { fn run_contiguous<const M: u8>(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) = contiguous_body; }
dispatch! { fn run_columns<const M: u8>(x: &[f32], y: &mut [f32], inner: usize, random: &[u32], job: &Job<'_>) = columns_body; }
dispatch! { fn run_scaled<const M: u8>(x: &[f32], y: &mut [f32], random: &[u32], scale: Fast, job: &Job<'_>) = apply; }

#[inline(always)]
fn contiguous_body<const M: u8>(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) {
    match block {
        // Known lengths let the compiler unroll and keep a block in registers.
        32 => fixed::<M, 32>(x, y, random, job),
        16 => fixed::<M, 16>(x, y, random, job),
        _ => ragged::<M>(x, y, block, random, job),
    }
}

#[inline(always)]
fn fixed<const M: u8, const B: usize>(x: &[f32], y: &mut [f32], random: &[u32], job: &Job<'_>) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<B>(), y.as_chunks_mut::<B>());
    let done = x.len() * B;
    if element::is_stochastic(M) {
        for ((x, y), r) in x.iter().zip(y).zip(random.as_chunks::<B>().0) {
            one::<M>(x, y, r, job);
        }
        ragged::<M>(x_rest, y_rest, B, &random[done..], job);
    } else {
        // The absmax of several blocks first: their reductions overlap instead of each delaying its own block.
        for (x, y) in x.chunks(GROUP).zip(y.chunks_mut(GROUP)) {
            let mut absmax = [0; GROUP];
            for (m, x) in absmax.iter_mut().zip(x) {
                *m = x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & MAGNITUDE));
            }
            for ((x, y), m) in x.iter().zip(y).zip(absmax) {
                apply::<M>(x, y, &[], job.scale(m), job);
            }
        }
        ragged::<M>(x_rest, y_rest, B, &[], job);
    }
}

#[inline(always)]
fn ragged<const M: u8>(x: &[f32], y: &mut [f32], block: usize, random: &[u32], job: &Job<'_>) {
    let mut start = 0;
    for (x, y) in x.chunks(block).zip(y.chunks_mut(block)) {
        let r = if element::is_stochastic(M) { &random[start..start + x.len()] } else { &[] };
        start += x.len();
        one::<M>(x, y, r, job);
    }
}

#[inline(always)]
fn one<const M: u8>(x: &[f32], y: &mut [f32], random: &[u32], job: &Job<'_>) {
    let absmax = x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & MAGNITUDE));
    apply::<M>(x, y, random, job.scale(absmax), job);
}

#[inline(always)]
fn apply<const M: u8>(x: &[f32], y: &mut [f32], random: &[u32], scale: Fast, job: &Job<'_>) {
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
    if element::is_stochastic(M) {
        for ((x, y), r) in x.iter().zip(y).zip(random) {
            *y = f(*x, *r);
        }
    } else {
        for (x, y) in x.iter().zip(y) {
            *y = f(*x, 0);
        }
    }
}

/// Columns handled side by side: their absmax and scales stay in the first-level cache.
const STRIP: usize = 32;

#[inline(always)]
fn columns_body<const M: u8>(x: &[f32], y: &mut [f32], inner: usize, random: &[u32], job: &Job<'_>) {
    let mut from = 0;
    while from < inner {
        let width = STRIP.min(inner - from);
        strip::<M>(x, y, inner, from, width, random, job);
        from += width;
    }
}

#[inline(always)]
fn strip<const M: u8>(
    x: &[f32],
    y: &mut [f32],
    inner: usize,
    from: usize,
    width: usize,
    random: &[u32],
    job: &Job<'_>,
) {
    let mut absmax = [0u32; STRIP];
    for row in x.chunks_exact(inner) {
        for (m, x) in absmax.iter_mut().zip(&row[from..from + width]) {
            *m = (*m).max(x.to_bits() & MAGNITUDE);
        }
    }
    // Two numbers a column; which two is the same for all columns but the exact ones, which are put right at the end.
    let (mut first, mut second) = ([127u32 << 23; STRIP], [127u32 << 23; STRIP]);
    let mut kind = Fast::Power { emin: 0, max: 0 };
    let mut exact = Vec::new();
    let usual = job.powers(&absmax[..width], &mut first[..width], &mut second[..width]);
    for i in if usual { 0..0 } else { 0..width } {
        let scale = job.scale(absmax[i]);
        match scale {
            Fast::Power { emin, max } => (first[i], second[i]) = (emin, max),
            Fast::Divide { s } => first[i] = s.to_bits(),
            Fast::Multiply { encode, decode } => (first[i], second[i]) = (encode.to_bits(), decode.to_bits()),
            Fast::Zero | Fast::Exact(_) => {
                let column: Vec<f32> = x.iter().skip(from + i).step_by(inner).copied().collect();
                let mut values = vec![0.0; column.len()];
                let r: Vec<u32> = random.iter().skip(from + i).step_by(inner).copied().collect();
                apply::<M>(&column, &mut values, &r, scale, job);
                exact.push((i, values));
                continue;
            }
        }
        kind = scale;
    }
    let shape = job.shape;
    let (emin0, max0) = job.plain_grid();
    let value = f32::from_bits;
    match kind {
        Fast::Divide { .. } => each::<M>(x, y, inner, from, width, random, |x, r, i| {
            let s = value(first[i]);
            element::round::<M>(x / s, emin0, max0, shape, r) * s
        }),
        Fast::Multiply { .. } => each::<M>(x, y, inner, from, width, random, |x, r, i| {
            element::round::<M>(x * value(first[i]), emin0, max0, shape, r) * value(second[i])
        }),
        _ => {
            each::<M>(x, y, inner, from, width, random, |x, r, i| element::round::<M>(x, first[i], second[i], shape, r))
        }
    }
    for (i, values) in exact {
        for (row, value) in values.into_iter().enumerate() {
            y[row * inner + from + i] = value;
        }
    }
}

#[inline(always)]
fn each<const M: u8>(
    x: &[f32],
    y: &mut [f32],
    inner: usize,
    from: usize,
    width: usize,
    random: &[u32],
    f: impl Fn(f32, u32, usize) -> f32,
) {
    for (k, (x, y)) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)).enumerate() {
        let (x, y) = (&x[from..from + width], &mut y[from..from + width]);
        let random = if element::is_stochastic(M) { &random[k * inner + from..k * inner + from + width] } else { &[] };
        // A whole strip has a known length, so that its scales stay in registers from row to row.
        match (<&[f32; STRIP]>::try_from(x), <&mut [f32; STRIP]>::try_from(&mut *y)) {
            (Ok(x), Ok(y)) if element::is_stochastic(M) => {
                let random: &[u32; STRIP] = random.try_into().expect("as long as the row");
                (0..STRIP).for_each(|i| y[i] = f(x[i], random[i], i));
            }
            (Ok(x), Ok(y)) => (0..STRIP).for_each(|i| y[i] = f(x[i], 0, i)),
            _ => {
                for (i, (x, y)) in x.iter().zip(y).enumerate().take(STRIP) {
                    *y = f(*x, if element::is_stochastic(M) { random[i] } else { 0 }, i);
                }
            }
        }
    }
}
