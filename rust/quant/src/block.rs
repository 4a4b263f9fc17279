//! Whole blocks in cache: absmax, scale, elements. From fp32 to fp32; for nearest-even also between half-precision numbers,
//! which are fp32 in registers alone.

#[cfg(target_arch = "x86_64")]
use crate::ahead;
use crate::element::{self, TOWARD_ZERO, is_stochastic};
use crate::job::{Fast, Job, Pair};
use crate::number::Number;
use crate::reduce;
use crate::scales::Scales;
use crate::simd::dispatch;
use crate::stochastic;
use crate::stream;

/// Contiguous blocks whose scales are worked out together, at most.
pub const GROUP: usize = 32;
/// Elements of a group, where its blocks allow it: few, so that the next group is read while results of this one are on
/// their way to memory.
pub const GROUP_ELEMENTS: usize = 512;
/// Elements of a block from which its own reduction and scale weigh little, and a group would leave the first-level
/// cache.
const LONG: usize = 256;

/// `f::<Number, MODE>(arguments)` for the rounding of a job.
macro_rules! by_mode {
    ($mode:expr, $f:ident<$number:ty>($($argument:expr),*)) => {
        match $mode {
            element::NEAREST_EVEN => $f::<$number, { element::NEAREST_EVEN }>($($argument),*),
            element::NEAREST_AWAY => $f::<$number, { element::NEAREST_AWAY }>($($argument),*),
            element::TOWARD_ZERO => $f::<$number, { element::TOWARD_ZERO }>($($argument),*),
            element::UP => $f::<$number, { element::UP }>($($argument),*),
            element::DOWN => $f::<$number, { element::DOWN }>($($argument),*),
            element::TO_ODD => $f::<$number, { element::TO_ODD }>($($argument),*),
            element::STOCHASTIC => $f::<$number, { element::STOCHASTIC }>($($argument),*),
            element::STOCHASTIC_NEAREST => $f::<$number, { element::STOCHASTIC_NEAREST }>($($argument),*),
            _ => $f::<$number, { element::STOCHASTIC_FINE }>($($argument),*),
        }
    };
}
pub(crate) use by_mode;

/// Blocks of neighbours in a contiguous run; the last one may be short. Results may go `past` the caches (see
/// [`stream::map`]) where the rounding is nearest-even, which it is for numbers other than fp32.
pub fn contiguous<E: Number>(x: &[E], y: &mut [E], past: bool, block: usize, random: &[u32], job: &Job<'_>) {
    #[cfg(target_arch = "x86_64")]
    let (x, y) = {
        let done = ahead::blocks(x, y, past, block, job);
        (&x[done..], &mut y[done..])
    };
    if x.is_empty() {
        return;
    }
    let Some((x, y)) = E::floats(x, y) else {
        return run_contiguous::<E, { element::NEAREST_EVEN }>(x, y, past, block, &[], job);
    };
    let done = if is_stochastic(job.mode) { stochastic::blocks(x, y, block, random, job) } else { 0 };
    let (x, y, random) = (&x[done..], &mut y[done..], random.get(done..).unwrap_or_default());
    by_mode!(job.mode, run_contiguous<f32>(x, y, past, block, random, job));
}

/// A run under one known scale; `past` and `E` as above.
pub fn scaled<E: Number>(x: &[E], y: &mut [E], past: bool, random: &[u32], scale: Fast, job: &Job<'_>) {
    let Some((x, y)) = E::floats(x, y) else {
        return run_scaled::<E, { element::NEAREST_EVEN }>(x, y, past, &[], scale, job);
    };
    let done = if is_stochastic(job.mode) { stochastic::known(x, y, random, scale, job) } else { 0 };
    let (x, y, random) = (&x[done..], &mut y[done..], random.get(done..).unwrap_or_default());
    by_mode!(job.mode, run_scaled<f32>(x, y, past, random, scale, job));
}

/// Whole blocks under known scales.
pub fn under(
    x: &[f32],
    y: &mut [f32],
    past: bool,
    block: usize,
    random: &[u32],
    scales: &Scales<GROUP>,
    job: &Job<'_>,
) {
    by_mode!(job.mode, run_under<f32>(x, y, past, block, random, scales, job));
}

/// The same to nearest even, whatever the job's rounding.
pub fn under_to_even(x: &[f32], y: &mut [f32], block: usize, scales: &Scales<GROUP>, job: &Job<'_>) {
    run_under::<f32, { element::NEAREST_EVEN }>(x, y, false, block, &[], scales, job);
}

dispatch! {
    fn run_under[E: Number]<const M: u8>(
        x: &[E], y: &mut [E], past: bool, block: usize, random: &[u32], scales: &Scales<GROUP>, job: &Job<'_>,
    ) = under_body;
}
dispatch! {
    fn run_contiguous[E: Number]<const M: u8>(
        x: &[E], y: &mut [E], past: bool, block: usize, random: &[u32], job: &Job<'_>,
    ) = contiguous_body;
}
dispatch! {
    fn run_scaled[E: Number]<const M: u8>(x: &[E], y: &mut [E], past: bool, random: &[u32], scale: Fast, job: &Job<'_>)
        = scaled_body;
}
dispatch! {
    /// The bits of the largest magnitude.
    pub fn absmax[E: Number](x: &[E]) -> u32 = absmax_body;
}

#[inline(always)]
fn absmax_body<E: Number>(x: &[E]) -> u32 {
    E::largest(x)
}

#[inline(always)]
fn contiguous_body<E: Number, const M: u8>(
    x: &[E],
    y: &mut [E],
    past: bool,
    block: usize,
    random: &[u32],
    job: &Job<'_>,
) {
    match past && M == element::NEAREST_EVEN {
        true => by_block::<E, M, true>(x, y, block, random, job),
        false => by_block::<E, M, false>(x, y, block, random, job),
    }
}

#[inline(always)]
fn under_body<E: Number, const M: u8>(
    x: &[E],
    y: &mut [E],
    past: bool,
    block: usize,
    random: &[u32],
    scales: &Scales<GROUP>,
    job: &Job<'_>,
) {
    match past && M == element::NEAREST_EVEN {
        true => elements::<E, M, true>(x, y, block, random, scales, job),
        false => elements::<E, M, false>(x, y, block, random, scales, job),
    }
}

#[inline(always)]
fn scaled_body<E: Number, const M: u8>(x: &[E], y: &mut [E], past: bool, random: &[u32], scale: Fast, job: &Job<'_>) {
    match past && M == element::NEAREST_EVEN {
        true => apply::<E, M, true>(x, y, random, scale, job),
        false => apply::<E, M, false>(x, y, random, scale, job),
    }
}

#[inline(always)]
fn by_block<E: Number, const M: u8, const PAST: bool>(
    x: &[E],
    y: &mut [E],
    block: usize,
    random: &[u32],
    job: &Job<'_>,
) {
    match block {
        // Loops of known length are unrolled.
        16 => groups::<E, M, PAST>(x, y, 16, random, job),
        32 => groups::<E, M, PAST>(x, y, 32, random, job),
        48.. if block.is_multiple_of(16) && block <= LONG => groups::<E, M, PAST>(x, y, block, random, job),
        _ => ragged::<E, M, PAST>(x, y, block, random, job),
    }
}

/// Blocks of whole lines in groups, so that many scales are worked out at once.
#[inline(always)]
fn groups<E: Number, const M: u8, const PAST: bool>(x: &[E], y: &mut [E], block: usize, random: &[u32], job: &Job<'_>) {
    let whole = x.len() / block * block;
    let step = block * (GROUP_ELEMENTS / block).clamp(8, GROUP);
    for from in (0..whole).step_by(step) {
        let range = from..whole.min(from + step);
        let random = if is_stochastic(M) { &random[range.clone()] } else { &[] };
        group::<E, M, PAST>(&x[range.clone()], &mut y[range], block, random, job);
    }
    let random = if is_stochastic(M) { &random[whole..] } else { &[] };
    ragged::<E, M, PAST>(&x[whole..], &mut y[whole..], block, random, job);
}

/// At most [`GROUP`] blocks: all absmax, all scales, then the elements.
#[inline(always)]
fn group<E: Number, const M: u8, const PAST: bool>(x: &[E], y: &mut [E], block: usize, random: &[u32], job: &Job<'_>) {
    let mut absmax = [0; GROUP];
    let absmax = &mut absmax[..x.len() / block];
    largest(x, block, absmax);
    let mut scales = Scales::<GROUP>::new();
    scales.set(absmax, job);
    elements::<E, M, PAST>(x, y, block, random, &scales, job);
}

/// The bits of the largest magnitude of every block.
#[inline(always)]
pub fn largest<E: Number>(x: &[E], block: usize, absmax: &mut [u32]) {
    match block {
        16 => reduce::absmax(x.as_chunks::<16>().0, absmax),
        32 => reduce::absmax(x.as_chunks::<32>().0, absmax),
        _ => {
            for (x, absmax) in x.chunks_exact(block).zip(absmax) {
                *absmax = absmax_body(x);
            }
        }
    }
}

#[inline(always)]
fn elements<E: Number, const M: u8, const PAST: bool>(
    x: &[E],
    y: &mut [E],
    block: usize,
    random: &[u32],
    scales: &Scales<GROUP>,
    job: &Job<'_>,
) {
    let random = |i: usize| if is_stochastic(M) { &random[i * block..][..block] } else { &[] };
    let shape = job.shape;
    let (emin0, max0) = job.plain_grid();
    let value = f32::from_bits;
    let each = x.chunks_exact(block).zip(y.chunks_exact_mut(block)).zip(scales.first.iter().zip(&scales.second));
    // Loops, not `for_each`: that is too large to be inlined, and would be compiled for the processor that every x86-64
    // is (three times the time).
    match scales.kind {
        Pair::Power => {
            for (i, ((x, y), (emin, max))) in each.enumerate() {
                map::<E, M, PAST>(x, y, random(i), |x, r| element::round::<M>(x, *emin, *max, shape, r));
            }
        }
        Pair::Divide => {
            for (i, ((x, y), (s, _))) in each.enumerate() {
                let s = value(*s);
                map::<E, M, PAST>(x, y, random(i), |x, r| element::round::<M>(x / s, emin0, max0, shape, r) * s);
            }
        }
        Pair::Multiply => {
            for (i, ((x, y), (encode, decode))) in each.enumerate() {
                let (encode, decode) = (value(*encode), value(*decode));
                let one = |x, r| element::round::<M>(x * encode, emin0, max0, shape, r) * decode;
                map::<E, M, PAST>(x, y, random(i), one);
            }
        }
    }
    for (i, scale) in &scales.others {
        let range = i * block..(i + 1) * block;
        apply::<E, M, PAST>(&x[range.clone()], &mut y[range], random(*i), *scale, job);
    }
}

#[inline(always)]
fn ragged<E: Number, const M: u8, const PAST: bool>(x: &[E], y: &mut [E], block: usize, random: &[u32], job: &Job<'_>) {
    let mut start = 0;
    for (x, y) in x.chunks(block).zip(y.chunks_mut(block)) {
        let r = if is_stochastic(M) { &random[start..start + x.len()] } else { &[] };
        start += x.len();
        apply::<E, M, PAST>(x, y, r, job.scale(absmax_body(x)), job);
    }
}

#[inline(always)]
pub fn apply<E: Number, const M: u8, const PAST: bool>(
    x: &[E],
    y: &mut [E],
    random: &[u32],
    scale: Fast,
    job: &Job<'_>,
) {
    let shape = job.shape;
    let (emin0, max0) = job.plain_grid();
    match scale {
        Fast::Power { emin, max } => {
            map::<E, M, PAST>(x, y, random, |x, r| element::round::<M>(x, emin, max, shape, r));
        }
        Fast::Divide { s } => {
            map::<E, M, PAST>(x, y, random, |x, r| element::round::<M>(x / s, emin0, max0, shape, r) * s);
        }
        Fast::Multiply { encode, decode } => {
            map::<E, M, PAST>(x, y, random, |x, r| element::round::<M>(x * encode, emin0, max0, shape, r) * decode);
        }
        Fast::Zero => map::<E, TOWARD_ZERO, false>(x, y, &[], |x, _| x * 0.0 + shape.zero),
        Fast::Exact(scale) => map::<E, M, false>(x, y, random, |x, r| job.exact(x, scale, r)),
    }
}

#[inline(always)]
fn map<E: Number, const M: u8, const PAST: bool>(x: &[E], y: &mut [E], random: &[u32], f: impl Fn(f32, u32) -> f32) {
    if is_stochastic(M) {
        for ((x, y), r) in x.iter().zip(y).zip(random) {
            *y = E::nearest(f(x.value(), *r));
        }
    } else {
        stream::map::<E, PAST>(x, y, |x| f(x, 0));
    }
}
