//! Codes as elements, two vectors at a time (see `codec` for the arithmetic).
#![cfg(target_arch = "x86_64")]

use crate::code_lanes::CodeLanes;
use crate::codec::{Codec, Form};
use crate::lanes::Lanes;

/// How codes lie in memory, see `codec::Packing`.
pub const NIBBLES: u8 = 0;
pub const BYTES: u8 = 1;
pub const HALVES: u8 = 2;

/// A way from codes to values.
///
/// # Safety
/// Every method: [`Lanes`]'s contract.
pub unsafe trait Way<V: CodeLanes> {
    unsafe fn new(codec: &Codec) -> Self;
    /// The values of two vectors of codes: `P` tells how they lie at `codes`, where they are.
    unsafe fn values<const P: u8>(&self, codes: *const u8) -> [V; 2];
}

/// Bytes of `n` codes.
#[inline(always)]
pub fn bytes<const P: u8>(n: usize) -> usize {
    match P {
        NIBBLES => n / 2,
        BYTES => n,
        _ => 2 * n,
    }
}

/// Two vectors of codes.
///
/// # Safety
/// [`Lanes`]'s contract; the codes are there.
#[inline(always)]
unsafe fn load<V: CodeLanes, const P: u8>(codes: *const u8) -> [V; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let next = codes.add(bytes::<P>(V::LANES));
        match P {
            NIBBLES => [V::load_nibbles(codes), V::load_nibbles(next)],
            BYTES => [V::load_bytes(codes), V::load_bytes(next)],
            _ => [V::load_halves(codes), V::load_halves(next)],
        }
    }
}

/// Codes of up to 4 bits, looked up in registers.
pub struct Table<V> {
    values: [f32; 16],
    lanes: std::marker::PhantomData<V>,
}

// SAFETY: the contract is the caller's.
unsafe impl<V: CodeLanes> Way<V> for Table<V> {
    #[inline(always)]
    unsafe fn new(codec: &Codec) -> Self {
        Table { values: codec.table.expect("asked for"), lanes: std::marker::PhantomData }
    }

    #[inline(always)]
    unsafe fn values<const P: u8>(&self, codes: *const u8) -> [V; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [a, b] = load::<V, P>(codes);
            [a.lookup(&self.values), b.lookup(&self.values)]
        }
    }
}

/// Two's complement in multiples of a step.
pub struct Int<V> {
    to_sign: V,
    step: V,
}

// SAFETY: the contract is the caller's.
unsafe impl<V: CodeLanes> Way<V> for Int<V> {
    #[inline(always)]
    unsafe fn new(codec: &Codec) -> Self {
        // SAFETY: the caller's contract.
        unsafe { Int { to_sign: V::splat(32 - codec.bits), step: V::splat(codec.step.to_bits()) } }
    }

    #[inline(always)]
    unsafe fn values<const P: u8>(&self, codes: *const u8) -> [V; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [a, b] = load::<V, P>(codes);
            let value = |code: V| code.shl(self.to_sign).sar(self.to_sign).int_to_float().fmul(self.step);
            [value(a), value(b)]
        }
    }
}

/// Floats whose digits, moved to where fp16 has them, are an fp16 number that is a power of two away.
pub struct Half<V> {
    to_digits: u32,
    to_sign: u32,
    /// The digits without the sign; the sign; the largest number, above which there is NaN.
    magnitude: V,
    sign: V,
    largest: V,
    nan: V,
    scale: V,
}

// SAFETY: the contract is the caller's.
unsafe impl<V: CodeLanes> Way<V> for Half<V> {
    #[inline(always)]
    unsafe fn new(codec: &Codec) -> Self {
        let to_digits = codec.k - 13;
        let words = |w: u32| w << 16 | w;
        // SAFETY: the caller's contract.
        unsafe {
            Half {
                to_digits,
                to_sign: 16 - codec.bits,
                magnitude: V::splat(words(((1 << (codec.bits - 1)) - 1) << to_digits)),
                sign: V::splat(0x8000_8000),
                largest: V::splat(words(codec.inf_code << to_digits)),
                nan: V::splat(0x7e00_7e00),
                scale: V::splat(codec.half.expect("asked for").to_bits()),
            }
        }
    }

    #[inline(always)]
    unsafe fn values<const P: u8>(&self, codes: *const u8) -> [V; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let words = if P == BYTES { V::load_words_of_bytes(codes) } else { V::load_words(codes) };
            let magnitude = words.shl_words(self.to_digits).and(self.magnitude);
            let number = words.shl_words(self.to_sign).and_or(self.sign, magnitude);
            let [a, b] = self.nan.where_words_greater_or(magnitude, self.largest, number).widen_words();
            [a.fmul(self.scale), b.fmul(self.scale)]
        }
    }
}

/// Any other float.
pub struct Float<V> {
    form: Form,
    magnitude: V,
    sign: V,
    to_sign: V,
    k: V,
    emin: V,
    /// From a code with its exponent counted from zero to the bits of a float.
    rebias: V,
    binade: V,
    hidden: V,
    max_code: V,
    inf_code: V,
    infinity: V,
    nan: V,
}

// SAFETY: the contract is the caller's.
unsafe impl<V: CodeLanes> Way<V> for Float<V> {
    #[inline(always)]
    unsafe fn new(codec: &Codec) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            Float {
                form: codec.form,
                magnitude: V::splat((1 << (codec.bits - 1)) - 1),
                sign: V::splat(0x8000_0000),
                to_sign: V::splat(32 - codec.bits),
                k: V::splat(codec.k),
                emin: V::splat(codec.emin),
                rebias: V::splat(codec.emin - (1 << 23)),
                binade: V::splat(1 << 23),
                hidden: V::splat(1 << (23 - codec.k)),
                max_code: V::splat(codec.max_code),
                inf_code: V::splat(codec.inf_code),
                infinity: V::splat(0x7f80_0000),
                nan: V::splat(0x7fc0_0000),
            }
        }
    }

    #[inline(always)]
    unsafe fn values<const P: u8>(&self, codes: *const u8) -> [V; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [a, b] = load::<V, P>(codes);
            [self.value(a), self.value(b)]
        }
    }
}

impl<V: Lanes> Float<V> {
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn value(&self, code: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let magnitude = code.and(self.magnitude);
            let shifted = magnitude.shl(self.k);
            let number = if self.form == Form::Wide {
                shifted
            } else {
                let subnormal = self.binade.where_less(magnitude, self.hidden);
                let base = self.emin.where_less(magnitude, self.hidden);
                shifted.add(self.rebias).add(subnormal).fsub(base)
            };
            let number = self.infinity.where_greater_or(magnitude, self.max_code, number);
            let signed = code.shl(self.to_sign).and_or(self.sign, number);
            self.nan.where_greater_or(magnitude, self.inf_code, signed)
        }
    }
}
