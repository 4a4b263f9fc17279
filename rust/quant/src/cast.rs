//! Plain casts: every element on its own, any input, every overflow mode. From fp32 to fp32.

use crate::element::{self, Shape};
use crate::method::Method;
use crate::number::Number;
use crate::simd::dispatch;
use crate::stochastic;
use crate::stream;
use dither_numerics::format::Kind;
use dither_numerics::{Format, Overflow, Quantizer};

/// Constants of a cast, in fp32 bit patterns.
pub struct Cast {
    pub(crate) mode: u8,
    pub(crate) shape: Shape,
    /// Exponent field of the smallest normal is 1: the format has fp32's exponent range and rounding acts on the bits.
    pub(crate) wide: bool,
    pub(crate) emin: u32,
    pub(crate) max: u32,
    /// Larger input rounds to more than `max` in every mode; clamping to it keeps the arithmetic in range.
    pub(crate) clamp: u32,
    /// What overflowing finite input becomes, by sign, and what infinite input becomes.
    pub(crate) over: [u32; 2],
    pub(crate) infinite: u32,
}

impl Cast {
    /// `None` where the truth must do it (see [`Method`]).
    pub fn new(q: &Quantizer) -> Option<Cast> {
        let f = &q.format;
        let method = Method::new(f, q.rounding);
        let wide = f.emin == -126;
        let room =
            f.mbits <= 20 && f.emin + 127 - f.mbits as i32 >= 1 && f.emax() + 2 + 127 + 23 - f.mbits as i32 <= 254;
        // fp32 itself is no rounding at all.
        let known = method.exact || (f.kind == Kind::Float && f.mbits == 23);
        if !known || !(wide || room) {
            return None;
        }
        let bits = |x: f64| (x as f32).to_bits() & 0x7fff_ffff;
        let over = |negative: bool| bits(overflow(f, q, if negative { -f.max * 4.0 } else { f.max * 4.0 }));
        Some(Cast {
            mode: method.mode,
            shape: Shape {
                mbits: f.mbits,
                n: method.n,
                last: method.last,
                zero: if f.has_neg_zero() { -0.0 } else { 0.0 },
            },
            wide,
            emin: ((f.emin + 127) as u32) << 23,
            max: bits(f.max),
            clamp: bits((f.max * 2.0).min(f64::from(f32::MAX))),
            over: [over(false), over(true)],
            infinite: bits(overflow(f, q, f64::INFINITY)),
        })
    }

    /// Whether the arithmetic on the bits gives what overflow and infinite input become by itself.
    pub(crate) fn carries_to_infinity(&self) -> bool {
        let infinity = f32::INFINITY.to_bits();
        let rounds = self.wide && self.shape.mbits < 23 && self.shape.zero.is_sign_negative();
        rounds && self.over == [infinity; 2] && self.infinite == infinity
    }

    /// Whether whatever is too large becomes the largest value.
    pub(crate) fn saturates(&self) -> bool {
        self.over == [self.max; 2] && self.infinite == self.max
    }

    /// Results go `past` the caches where the rounding is nearest-even, which it is for numbers other than fp32.
    pub fn apply<E: Number>(&self, x: &[E], y: &mut [E], past: bool, random: &[u32]) {
        if self.shape.mbits == 23 {
            return whole(x, y, past, self.infinite);
        }
        match E::floats(x, y) {
            Some((x, y)) => self.apply_any(x, y, past, random),
            None => run::<E, { element::NEAREST_EVEN }>(x, y, past, &[], self),
        }
    }

    fn apply_any(&self, x: &[f32], y: &mut [f32], past: bool, random: &[u32]) {
        let done = if element::is_stochastic(self.mode) { stochastic::cast(x, y, random, self) } else { 0 };
        let (x, y, random) = (&x[done..], &mut y[done..], random.get(done..).unwrap_or_default());
        match self.mode {
            element::NEAREST_EVEN => run::<f32, { element::NEAREST_EVEN }>(x, y, past, random, self),
            element::NEAREST_AWAY => run::<f32, { element::NEAREST_AWAY }>(x, y, past, random, self),
            element::TOWARD_ZERO => run::<f32, { element::TOWARD_ZERO }>(x, y, past, random, self),
            element::UP => run::<f32, { element::UP }>(x, y, past, random, self),
            element::DOWN => run::<f32, { element::DOWN }>(x, y, past, random, self),
            element::TO_ODD => run::<f32, { element::TO_ODD }>(x, y, past, random, self),
            element::STOCHASTIC => run::<f32, { element::STOCHASTIC }>(x, y, past, random, self),
            element::STOCHASTIC_NEAREST => run::<f32, { element::STOCHASTIC_NEAREST }>(x, y, past, random, self),
            _ => run::<f32, { element::STOCHASTIC_FINE }>(x, y, past, random, self),
        }
    }
}

/// The truth on an input beyond the range (fp64 holds four times fp32's maximum).
fn overflow(f: &Format, q: &Quantizer, x: f64) -> f64 {
    match q.overflow {
        Overflow::Saturate => f.max,
        _ => f.round(x, q.rounding, q.overflow, 0),
    }
}

dispatch! { fn whole[E: Number](x: &[E], y: &mut [E], past: bool, infinite: u32) = whole_body; }
dispatch! {
    fn run[E: Number]<const M: u8>(x: &[E], y: &mut [E], past: bool, random: &[u32], cast: &Cast) = body;
}

/// fp32 to fp32: NaN becomes the one NaN that every cast returns, infinity what the overflow mode says.
#[inline(always)]
fn whole_body<E: Number>(x: &[E], y: &mut [E], past: bool, infinite: u32) {
    let one = |x: f32| {
        let (a, sign) = (x.to_bits() & 0x7fff_ffff, x.to_bits() & 0x8000_0000);
        let number = if a == 0x7f80_0000 { f32::from_bits(infinite | sign) } else { x };
        if a > 0x7f80_0000 { f32::NAN } else { number }
    };
    if past { stream::map::<E, true>(x, y, one) } else { stream::map::<E, false>(x, y, one) }
}

/// Which arithmetic a cast takes: on the bits (fp32's exponent range), with one clamp, or with all that overflow can be.
const WIDE: u8 = 0;
const SATURATING: u8 = 1;
const GENERAL: u8 = 2;

#[inline(always)]
fn body<E: Number, const M: u8>(x: &[E], y: &mut [E], past: bool, random: &[u32], cast: &Cast) {
    match (cast.wide, cast.saturates()) {
        (true, _) => map::<E, M, WIDE>(x, y, past, random, cast),
        (false, true) => map::<E, M, SATURATING>(x, y, past, random, cast),
        (false, false) => map::<E, M, GENERAL>(x, y, past, random, cast),
    }
}

#[inline(always)]
fn map<E: Number, const M: u8, const HOW: u8>(x: &[E], y: &mut [E], past: bool, random: &[u32], cast: &Cast) {
    if element::is_stochastic(M) {
        for ((x, y), r) in x.iter().zip(y).zip(random) {
            *y = E::nearest(one::<M, HOW>(x.value(), cast, *r));
        }
    } else if past && M == element::NEAREST_EVEN {
        stream::map::<E, true>(x, y, |x| one::<M, HOW>(x, cast, 0));
    } else {
        stream::map::<E, false>(x, y, |x| one::<M, HOW>(x, cast, 0));
    }
}

#[inline(always)]
fn one<const M: u8, const HOW: u8>(x: f32, cast: &Cast, random: u32) -> f32 {
    let b = x.to_bits();
    let (a, sign) = (b & 0x7fff_ffff, b & 0x8000_0000);
    if HOW == SATURATING {
        // Nearest-even clamps first by itself.
        let z = if M == element::NEAREST_EVEN { x } else { f32::from_bits(a.min(cast.clamp) | sign) };
        let finite = element::round::<M>(z, cast.emin, cast.max, cast.shape, random);
        return if a > 0x7f80_0000 { f32::NAN } else { finite };
    }
    let rounded = if HOW == WIDE {
        // Exponent and fraction together are one integer in the same order as the values.
        let k = 23 - cast.shape.mbits;
        let mut finite = a.min(0x7f7f_ffff);
        if M == element::STOCHASTIC_NEAREST {
            finite = element::decide_wide::<{ element::NEAREST_EVEN }>(finite, k - cast.shape.n, false, 0);
        }
        element::decide_wide::<M>(finite, k, sign != 0, random)
    } else {
        let clamped = f32::from_bits(a.min(cast.clamp) | sign);
        element::round::<M>(clamped, cast.emin, 0x7f80_0000, cast.shape, random).to_bits() & 0x7fff_ffff
    };
    // A choice of two constants; indexing would become a gather.
    let beyond = if sign != 0 { cast.over[1] } else { cast.over[0] };
    let over = if rounded > cast.max { beyond } else { rounded };
    let over = if a == 0x7f80_0000 { cast.infinite } else { over };
    let bits = if a > 0x7f80_0000 { 0x7fc0_0000 } else { over | sign };
    f32::from_bits(bits) + cast.shape.zero
}
