//! One block a column, for an axis that is not the last: absmax, scales and elements, row by row.

use crate::block::{apply, by_mode};
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

/// A row cut into strips. They meet where lines of the cache do, in rows that begin alike: two halves of a line that are
/// stored past the caches at different times cost as much as ten lines.
pub struct Strips {
    inner: usize,
    pub count: usize,
    width: usize,
    /// Elements by which all but the first begin earlier than at a multiple of the width.
    back: usize,
}

impl Strips {
    /// Of rows of `inner` elements of `size` bytes, the first of which lies at `to`.
    pub fn new(inner: usize, to: *const u8, size: usize) -> Strips {
        let line = 64 / size;
        let count = inner.div_ceil(if inner <= STRIP { STRIP } else { STRIP - line });
        let width = inner.div_ceil(count.max(1)).next_multiple_of(line);
        let alike = (inner * size).is_multiple_of(64) && to.addr().is_multiple_of(size);
        Strips { inner, count, width, back: if alike { to.addr() % 64 / size } else { 0 } }
    }

    /// The columns of a strip.
    pub fn columns(&self, i: usize) -> Range<usize> {
        let start = |i: usize| match i {
            0 => 0,
            i if i == self.count => self.inner,
            i => i * self.width - self.back,
        };
        start(i)..start(i + 1)
    }
}

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
    /// How far on the same row of the next strip lies: it is asked for while this one is rounded.
    next: usize,
}

impl<'a> Strip<'a> {
    pub fn new(absmax: &[u32], job: &'a Job<'a>, next: usize) -> Strip<'a> {
        let mut strip = Strip { job, scales: Scales::new(), next };
        strip.scales.set(absmax, job);
        strip
    }

    /// A row; results go `past` the caches where the rounding is nearest-even, which it is for numbers other than fp32.
    pub fn row<E: Number>(&self, x: &[E], y: &mut [E], past: bool, random: &[u32]) {
        match E::floats(x, y) {
            Some((x, y)) => by_mode!(self.job.mode, row<f32>(self, x, y, past, random)),
            None => row::<E, { element::NEAREST_EVEN }>(self, x, y, past, &[]),
        }
    }
}

dispatch! {
    /// Raise the magnitudes `absmax` of columns to those of a row; the next row lies `inner` elements on.
    pub fn raise[E: Number](absmax: &mut [u32], x: &[E], inner: usize) = raise_body;
}
dispatch! {
    fn row[E: Number]<const M: u8>(strip: &Strip<'_>, x: &[E], y: &mut [E], past: bool, random: &[u32]) = row_body;
}

#[inline(always)]
fn raise_body<E: Number>(absmax: &mut [u32], x: &[E], inner: usize) {
    let magnitude = |x: f32| x.to_bits() & 0x7fff_ffff;
    let ((lines, x), (most, absmax)) = (x.as_chunks::<LINE>(), absmax.as_chunks_mut::<LINE>());
    for (absmax, x) in most.iter_mut().zip(lines) {
        stream::prefetch(x.as_ptr().wrapping_add(inner));
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
fn row_body<E: Number, const M: u8>(strip: &Strip<'_>, x: &[E], y: &mut [E], past: bool, random: &[u32]) {
    match past && M == element::NEAREST_EVEN {
        true => columns_of_row::<E, M, true>(strip, x, y, random),
        false => columns_of_row::<E, M, false>(strip, x, y, random),
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
fn columns_of_row<E: Number, const M: u8, const PAST: bool>(strip: &Strip<'_>, x: &[E], y: &mut [E], random: &[u32]) {
    let n = x.len();
    // Slices of one length, so that the loops need no further checks.
    let (first, second, y) = (&strip.scales.first[..n], &strip.scales.second[..n], &mut y[..n]);
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
    for (i, scale) in &strip.scales.others {
        let i = *i..*i + 1;
        let random = if is_stochastic(M) { &random[i.clone()] } else { &[] };
        apply::<E, M, false>(&x[i.clone()], &mut y[i], random, *scale, strip.job);
    }
}
