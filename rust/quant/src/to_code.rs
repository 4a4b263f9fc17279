//! Elements as codes, a vector at a time (see `codec` for the arithmetic).
#![cfg(target_arch = "x86_64")]

use crate::codec::Codec;
use crate::element::Shape;
use crate::lanes::Lanes;
use crate::stochastic_vector::Constants;

pub const FLOAT: u8 = 0;
pub const WIDE: u8 = 1;
pub const INT: u8 = 2;

pub const NEAREST: u8 = 0;
pub const STOCHASTIC: u8 = 1;
pub const STOCHASTIC_FINE: u8 = 2;

/// Constants of encoding in every lane.
pub struct ToCode<V> {
    c: Constants<V>,
    pub magnitude: V,
    exponent: V,
    /// The smallest normal number of the format, the largest, and what is between them.
    pub emin: V,
    pub limit: V,
    pub above_emin: V,
    /// From `2^e` to the bits of `C`.
    to_c: V,
    /// Halves less one, for the wide form.
    half: V,
    one: V,
    k: V,
    hidden: V,
    mask: V,
    last: V,
    to_sign: V,
    code_sign: V,
}

impl<V: Lanes> ToCode<V> {
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn new(codec: &Codec, n: u32) -> Self {
        let k = codec.k;
        // SAFETY: the caller's contract.
        unsafe {
            ToCode {
                c: Constants::new(Shape { mbits: 23 - k, n, last: u32::from(n == 32), zero: -0.0 }),
                magnitude: V::splat(0x7fff_ffff),
                exponent: V::splat(0x7f80_0000),
                emin: V::splat(codec.emin),
                limit: V::splat(codec.max),
                above_emin: V::splat(codec.max.wrapping_sub(codec.emin)),
                to_c: V::splat(k << 23 | 0x0040_0000),
                half: V::splat((1 << (k - 1)) - 1),
                one: V::splat(1),
                k: V::splat(k),
                hidden: V::splat(1 << (23 - k)),
                mask: V::splat((1 << codec.bits) - 1),
                last: V::splat(31),
                to_sign: V::splat(32 - codec.bits),
                code_sign: V::splat(1 << (codec.bits - 1)),
            }
        }
    }

    /// Codes on the grid from `emin` to `limit`, at which magnitudes are clamped before they are rounded: it is on the
    /// grid, so that rounding first would give the same.
    ///
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    pub unsafe fn code<const F: u8, const M: u8>(&self, x: V, emin: V, limit: V, fraction: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let a = x.and(self.magnitude).min(limit);
            let magnitude = match (F, M) {
                (WIDE, NEAREST) => a.add(self.half).add(a.shr(self.k).and(self.one)).shr(self.k),
                (WIDE, _) => a.add(fraction.shr(self.c.shift)).shr(self.k),
                (_, NEAREST) => self.nearest(a, emin),
                (_, STOCHASTIC) => self.stochastic::<false>(a, emin, fraction),
                _ => self.stochastic::<true>(a, emin, fraction),
            };
            if F == INT {
                let negative = x.sar(self.last);
                magnitude.xor(negative).sub(negative).and(self.mask)
            } else {
                x.shr(self.to_sign).and_or(self.code_sign, magnitude)
            }
        }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn nearest(&self, a: V, emin: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let e = a.and(self.exponent).max(emin);
            let c = e.add(self.to_c);
            e.sub(emin).shr(self.k).add(a.fadd(c).sub(c))
        }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn stochastic<const FINE: bool>(&self, a: V, emin: V, fraction: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let (sum, _) = self.c.sum::<FINE>(a, emin, self.c.random::<FINE>(fraction));
            // The hidden one of a normal number is in its exponent already.
            let normal = self.hidden.where_less(emin.sub(self.one), a);
            sum.sub(emin).shr(self.k).add(normal)
        }
    }
}
