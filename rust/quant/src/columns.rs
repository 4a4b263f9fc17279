//! One block a column, for an axis that is not the last: absmax, scales and elements, row by row.

use crate::block::{apply, by_mode};
use crate::element::{self, is_stochastic};
use crate::job::{Job, Pair};
use crate::pieces::PIECE;
use crate::scales::Scales;
use crate::simd::dispatch;
use crate::stream;

/// Columns handled side by side: their absmax and scales stay in the first-level cache.
pub const STRIP: usize = PIECE;

/// `x` holds rows of `inner` elements, every column is a block.
pub fn columns(x: &[f32], y: &mut [f32], inner: usize, random: &[u32], job: &Job<'_>) {
    for from in (0..inner).step_by(STRIP) {
        let width = STRIP.min(inner - from);
        let mut absmax = [0; STRIP];
        for row in x.chunks_exact(inner) {
            raise(&mut absmax[..width], &row[from..from + width], inner);
        }
        let strip = Strip::new(&absmax[..width], job);
        for (k, (x, y)) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)).enumerate() {
            let random = if random.is_empty() { random } else { &random[k * inner + from..][..width] };
            strip.row(&x[from..from + width], &mut y[from..from + width], false, random);
        }
    }
}

/// Neighbouring columns whose scales are known.
pub struct Strip<'a> {
    job: &'a Job<'a>,
    scales: Scales<STRIP>,
}

impl<'a> Strip<'a> {
    pub fn new(absmax: &[u32], job: &'a Job<'a>) -> Strip<'a> {
        let mut strip = Strip { job, scales: Scales::new() };
        strip.scales.set(absmax, job);
        strip
    }

    /// A row; results go `past` the caches where the rounding is nearest-even.
    pub fn row(&self, x: &[f32], y: &mut [f32], past: bool, random: &[u32]) {
        by_mode!(self.job.mode, row(self, x, y, past, random));
    }
}

dispatch! {
    /// Raise the magnitudes `absmax` of columns to those of a row; the next row lies `inner` elements on.
    pub fn raise(absmax: &mut [u32], x: &[f32], inner: usize) = raise_body;
}
dispatch! { fn row<const M: u8>(strip: &Strip<'_>, x: &[f32], y: &mut [f32], past: bool, random: &[u32]) = row_body; }

#[inline(always)]
fn raise_body(absmax: &mut [u32], x: &[f32], inner: usize) {
    // A line of the cache at a time.
    for (absmax, x) in absmax.chunks_mut(16).zip(x.chunks(16)) {
        stream::prefetch(x.as_ptr().wrapping_add(inner));
        for (m, x) in absmax.iter_mut().zip(x) {
            *m = (*m).max(x.to_bits() & 0x7fff_ffff);
        }
    }
}

#[inline(always)]
fn row_body<const M: u8>(strip: &Strip<'_>, x: &[f32], y: &mut [f32], past: bool, random: &[u32]) {
    match past && M == element::NEAREST_EVEN {
        true => columns_of_row::<M, true>(strip, x, y, random),
        false => columns_of_row::<M, false>(strip, x, y, random),
    }
}

/// `y[i] = body`, from the arrays named; a line at a time, of known length, where it goes past the caches. A macro,
/// because a stochastic closure is too large to be inlined, and stays scalar (five times the time).
macro_rules! fill {
    ($y:ident, [$($from:ident),*], |$i:ident| $body:expr) => {{
        let mut done = 0;
        if PAST && stream::can_pass($y.as_ptr()) {
            for y in $y.as_chunks_mut().0 {
                $(let $from: &[_; 16] = $from[done..].first_chunk().expect("as long as y");)*
                let mut results = [0.0; 16];
                for $i in 0..16 {
                    results[$i] = $body;
                }
                // SAFETY: asked above; lines follow each other.
                unsafe { stream::line(results, y) };
                done += 16;
            }
        }
        for $i in done..$y.len() {
            $y[$i] = $body;
        }
    }};
}

#[inline(always)]
fn columns_of_row<const M: u8, const PAST: bool>(strip: &Strip<'_>, x: &[f32], y: &mut [f32], random: &[u32]) {
    let n = x.len();
    // Slices of one length, so that the loops need no further checks.
    let (first, second, y) = (&strip.scales.first[..n], &strip.scales.second[..n], &mut y[..n]);
    let random = if is_stochastic(M) { &random[..n] } else { &[] };
    let r = |i: usize| if is_stochastic(M) { random[i] } else { 0 };
    let shape = strip.job.shape;
    let (emin0, max0) = strip.job.plain_grid();
    let value = f32::from_bits;
    match strip.scales.kind {
        Pair::Power => fill!(y, [x, first, second], |i| element::round::<M>(x[i], first[i], second[i], shape, r(i))),
        Pair::Divide => fill!(y, [x, first], |i| {
            let s = value(first[i]);
            element::round::<M>(x[i] / s, emin0, max0, shape, r(i)) * s
        }),
        Pair::Multiply => fill!(y, [x, first, second], |i| {
            element::round::<M>(x[i] * value(first[i]), emin0, max0, shape, r(i)) * value(second[i])
        }),
    }
    for (i, scale) in &strip.scales.others {
        let i = *i..*i + 1;
        let random = if is_stochastic(M) { &random[i.clone()] } else { &[] };
        apply::<M, false>(&x[i.clone()], &mut y[i], random, *scale, strip.job);
    }
}
