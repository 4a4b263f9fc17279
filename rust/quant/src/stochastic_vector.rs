//! A vector of elements rounded stochastically: the formula of `stochastic`, in the same order.
#![cfg(target_arch = "x86_64")]

use crate::element::{STOCHASTIC_FINE, STOCHASTIC_NEAREST, Shape};
use crate::lanes::Lanes;
use crate::nearest_vector::Nearest;

/// The constants of a job in every lane.
#[derive(Clone, Copy)]
pub struct Constants<V> {
    pub magnitude: V,
    pub sign: V,
    pub zero: V,
    /// Whether adding `zero` does anything.
    unsigned_zero: bool,
    /// From a fraction to what is added to the bits.
    pub shift: V,
    /// The digits that the grid has.
    pub kept: V,
    fine: Fine<V>,
    /// Rounding to as many digits as random bits reach, and the same on the bits.
    pub nearest: Nearest<V>,
    wide: Wide<V>,
}

/// The digits that go where bits are rounded to nearest, and half of the last one less one.
#[derive(Clone, Copy)]
struct Wide<V> {
    digits: V,
    half: V,
    one: V,
}

/// What carries from below fp32's own digits.
#[derive(Clone, Copy)]
struct Fine<V> {
    /// Less `emin`: the bits of its reciprocal.
    inverse: V,
    finer: V,
    low: V,
    last: V,
    down: V,
}

impl<V: Lanes> Constants<V> {
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn new(shape: Shape) -> Self {
        let k = 23 - shape.mbits;
        let j = 33 - k;
        // Used where there are some.
        let digits = k.saturating_sub(shape.n).max(1);
        // SAFETY: the caller's contract.
        unsafe {
            Constants {
                magnitude: V::splat(0x7fff_ffff),
                sign: V::splat(0x8000_0000),
                zero: V::splat(shape.zero.to_bits()),
                unsigned_zero: shape.zero.is_sign_positive(),
                shift: V::splat(32 - k),
                kept: V::splat(u32::MAX << k),
                fine: Fine {
                    inverse: V::splat(0x7f00_0000),
                    finer: V::splat((127 + 23 + j) << 23),
                    low: V::splat(u32::MAX >> k),
                    last: V::splat(shape.last),
                    down: V::splat(j),
                },
                nearest: Nearest::new(digits),
                wide: Wide { digits: V::splat(digits), half: V::splat((1 << (digits - 1)) - 1), one: V::splat(1) },
            }
        }
    }

    /// The sum of `stochastic::round` and `stochastic::carry`, cut off, and what was lifted for it. `random`: the
    /// fraction if `FINE`, else what it adds to the bits.
    ///
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn sum<const FINE: bool>(&self, a: V, emin: V, random: V) -> (V, V::Lift) {
        // SAFETY: the caller's contract.
        unsafe {
            let (sum, lift) = a.lift(emin);
            let mut added = random;
            if FINE {
                let f = &self.fine;
                let rest = a.fsub(sum.lower(lift)).fmul(f.inverse.sub(emin)).fmul(f.finer).to_int();
                let low = random.and(f.low);
                let low = low.add(low).add(f.last);
                added = random.shr(self.shift).add(rest.add(low).shr(f.down));
            }
            (sum.add(added).and(self.kept), lift)
        }
    }

    /// What `sum` takes, of a fraction.
    ///
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn random<const FINE: bool>(&self, fraction: V) -> V {
        // SAFETY: the caller's contract.
        if FINE { fraction } else { unsafe { fraction.shr(self.shift) } }
    }

    /// A magnitude rounded.
    ///
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn round<const FINE: bool>(&self, a: V, emin: V, random: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let (sum, lift) = self.sum::<FINE>(a, emin, random);
            sum.lower(lift)
        }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn element<const FINE: bool>(&self, x: V, emin: V, max: V, random: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let m = self.round::<FINE>(x.and(self.magnitude), emin, random).min(max);
            let signed = x.and_or(self.sign, m);
            if self.unsigned_zero { signed.fadd(self.zero) } else { signed }
        }
    }

    /// The same of a fraction, in the job's mode `M`.
    ///
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn rounded<const M: u8>(&self, x: V, emin: V, max: V, fraction: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            match M {
                STOCHASTIC_FINE => self.element::<true>(x, emin, max, fraction),
                STOCHASTIC_NEAREST => {
                    let a = self.nearest.round(x.and(self.magnitude).min(max), emin);
                    self.element::<false>(x.and_or(self.sign, a), emin, max, self.random::<false>(fraction))
                }
                _ => self.element::<false>(x, emin, max, self.random::<false>(fraction)),
            }
        }
    }

    /// A magnitude with as many digits as random bits reach, on the bits, for fp32's exponent range.
    ///
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn nearest_wide(&self, a: V) -> V {
        let Wide { digits, half, one } = self.wide;
        // SAFETY: the caller's contract.
        unsafe { a.add(half).add(a.shr(digits).and(one)).shr(digits).shl(digits) }
    }
}
