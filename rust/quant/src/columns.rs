//! One block a column, for an axis that is not the last: absmax, scales and elements, row by row.

use crate::block::{apply, by_mode};
#[cfg(target_arch = "x86_64")]
use crate::column_lanes::Reciprocals;
use crate::element::{self, is_stochastic};
use crate::job::{Job, Pair};
use crate::number::{LINE, Number};
use crate::pieces::PIECE;
use crate::scales::Scales;
use crate::simd::dispatch;
use crate::stream;
use std::ops::Range;

/// Columns handled side by side: their absmax and scales stay in the first-level cache.
pub const STRIP: usize = PIECE;

/// `x` holds rows of `inner` elements, every column is a block.
pub fn columns<E: Number>(x: &[E], y: &mut [E], inner: usize, random: &[u32], job: &Job<'_>) {
    for from in (0..inner).step_by(STRIP) {
        let width = STRIP.min(inner - from);
        let mut absmax = [0; STRIP];
        for row in x.chunks_exact(inner) {
            raise(&mut absmax[..width], &row[from..from + width], inner);
        }
        let strip = Strip::new(&absmax[..width], job, STRIP);
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
    #[cfg(target_arch = "x86_64")]
    reciprocals: Option<Reciprocals>,
    /// How far on lies what comes next from memory: it is asked for while this row is rounded.
    next: usize,
}

impl<'a> Strip<'a> {
    pub fn new(absmax: &[u32], job: &'a Job<'a>, next: usize) -> Strip<'a> {
        let mut scales = Scales::new();
        scales.set(absmax, job);
        Strip {
            #[cfg(target_arch = "x86_64")]
            reciprocals: Reciprocals::new(&mut scales, absmax.len(), job),
            job,
            scales,
            next,
        }
    }

    /// A row; results go `past` the caches where the rounding is nearest-even, which it is for numbers other than fp32.
    pub fn row<E: Number>(&self, x: &[E], y: &mut [E], past: bool, random: &[u32]) {
        let n = x.len();
        let Some((x, y)) = E::floats(x, y) else {
            row::<E, { element::NEAREST_EVEN }>(self, 0..n, x, y, past, &[]);
            return others::<E, { element::NEAREST_EVEN }>(self, x, y, &[]);
        };
        let done = self.over_vectors(x, y, past);
        for part in [0..done.start, done.end..n].into_iter().filter(|part| !part.is_empty()) {
            by_mode!(self.job.mode, row<f32>(self, part.clone(), x, y, past, random));
        }
        by_mode!(self.job.mode, others<f32>(self, x, y, random))
    }

    /// The columns that vectors take, where there are reciprocals.
    fn over_vectors(&self, x: &[f32], y: &mut [f32], past: bool) -> Range<usize> {
        #[cfg(target_arch = "x86_64")]
        if let Some(reciprocals) = &self.reciprocals {
            return reciprocals.row(&self.scales, self.job, x, y, past, self.next);
        }
        0..0
    }
}

dispatch! {
    /// Raise the magnitudes `absmax` of columns to those of a row; what is read next lies `next` elements on.
    pub fn raise[E: Number](absmax: &mut [u32], x: &[E], next: usize) = raise_body;
}
dispatch! {
    /// The part `at` of a row.
    fn row[E: Number]<const M: u8>(strip: &Strip<'_>, at: Range<usize>, x: &[E], y: &mut [E], past: bool, random: &[u32]) = row_body;
}

#[inline(always)]
fn raise_body<E: Number>(absmax: &mut [u32], x: &[E], next: usize) {
    let magnitude = |x: f32| x.to_bits() & 0x7fff_ffff;
    let ((lines, x), (most, absmax)) = (x.as_chunks::<LINE>(), absmax.as_chunks_mut::<LINE>());
    for (absmax, x) in most.iter_mut().zip(lines) {
        stream::prefetch(x.as_ptr().wrapping_add(next));
        let x = E::widen(x);
        for i in 0..LINE {
            absmax[i] = absmax[i].max(magnitude(x[i]));
        }
    }
    for (m, x) in absmax.iter_mut().zip(x) {
        *m = (*m).max(magnitude(x.value()));
    }
}

#[inline(always)]
fn row_body<E: Number, const M: u8>(
    strip: &Strip<'_>,
    at: Range<usize>,
    x: &[E],
    y: &mut [E],
    past: bool,
    random: &[u32],
) {
    let random = if is_stochastic(M) { &random[at.clone()] } else { &[] };
    let (x, y) = (&x[at.clone()], &mut y[at.clone()]);
    match past && M == element::NEAREST_EVEN {
        true => columns_of_row::<E, M, true>(strip, at, x, y, random),
        false => columns_of_row::<E, M, false>(strip, at, x, y, random),
    }
}

/// `y[i] = body`, from `x` as fp32 and the arrays named; a line at a time, of known length, where it goes past the caches
/// or changes its type. A macro, because a stochastic closure is too large to be inlined, and stays scalar (five times
/// the time).
macro_rules! fill {
    ($x:ident, $y:ident, $next:expr, [$($from:ident),*], |$i:ident, $v:ident| $body:expr) => {{
        let mut done = 0;
        let past = PAST && stream::can_pass($y.as_ptr());
        if past || size_of::<E>() != size_of::<f32>() {
            for (x, y) in $x.as_chunks().0.iter().zip($y.as_chunks_mut().0) {
                $(let $from: &[_; LINE] = $from[done..].first_chunk().expect("as long as y");)*
                stream::prefetch_far(x.as_ptr().wrapping_add($next));
                let x = E::widen(x);
                let mut results = [0.0; LINE];
                for $i in 0..LINE {
                    let $v = x[$i];
                    results[$i] = $body;
                }
                let results = E::narrow(results);
                if past {
                    // SAFETY: asked above; lines follow each other.
                    unsafe { stream::line(results, y) };
                } else {
                    *y = results;
                }
                done += LINE;
            }
        }
        for $i in done..$y.len() {
            let $v = $x[$i].value();
            $y[$i] = E::nearest($body);
        }
    }};
}

#[inline(always)]
fn columns_of_row<E: Number, const M: u8, const PAST: bool>(
    strip: &Strip<'_>,
    at: Range<usize>,
    x: &[E],
    y: &mut [E],
    random: &[u32],
) {
    let n = x.len();
    // Slices of one length, so that the loops need no further checks.
    let (first, second, y) = (&strip.scales.first[at.clone()][..n], &strip.scales.second[at][..n], &mut y[..n]);
    let random = if is_stochastic(M) { &random[..n] } else { &[] };
    let r = |i: usize| if is_stochastic(M) { random[i] } else { 0 };
    let shape = strip.job.shape;
    let (emin0, max0) = strip.job.plain_grid();
    let value = f32::from_bits;
    match strip.scales.kind {
        Pair::Power => {
            fill!(x, y, strip.next, [first, second], |i, v| element::round::<M>(v, first[i], second[i], shape, r(i)))
        }
        Pair::Divide => fill!(x, y, strip.next, [first], |i, v| {
            let s = value(first[i]);
            element::round::<M>(v / s, emin0, max0, shape, r(i)) * s
        }),
        Pair::Multiply => fill!(x, y, strip.next, [first, second], |i, v| {
            element::round::<M>(v * value(first[i]), emin0, max0, shape, r(i)) * value(second[i])
        }),
    }
}

/// Columns whose scales are of another kind.
fn others<E: Number, const M: u8>(strip: &Strip<'_>, x: &[E], y: &mut [E], random: &[u32]) {
    for (i, scale) in &strip.scales.others {
        let i = *i..*i + 1;
        let random = if is_stochastic(M) { &random[i.clone()] } else { &[] };
        apply::<E, M, false>(&x[i.clone()], &mut y[i], random, *scale, strip.job);
    }
}
