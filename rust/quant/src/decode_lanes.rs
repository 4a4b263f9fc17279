//! Values of a run of codes, over vectors (see `codec` for the arithmetic).
#![cfg(target_arch = "x86_64")]

use crate::code_lanes::{BlockOf, CodeLanes};
use crate::codec::{Codec, Form, Packing};
use crate::lanes::Lanes;
use crate::simd::{Level, level};
use crate::stochastic_lanes::WIDTH;
use crate::stream;
use std::arch::x86_64::{__m256i, __m512i};

/// The values of codes, times the factor of their block: blocks are of the same length, in whole vectors. They go `past`
/// the caches where [`stream::can_pass`], and are then visible to other threads after `stream::fence`.
///
/// # Safety
/// `codes` holds `y.len()` codes, and the level is above the baseline.
pub unsafe fn decode(codec: &Codec, packing: Packing, codes: *const u8, y: &mut [f32], factors: &[f32], past: bool) {
    assert!(!factors.is_empty() && y.len().is_multiple_of(factors.len() * WIDTH));
    let past = past && stream::can_pass(y.as_ptr());
    // SAFETY: the caller's contract; `level` never exceeds what was found on this processor.
    unsafe {
        match level() {
            Level::Avx512 => avx512_decode(codec, packing, codes, y, factors, past),
            _ => avx2_decode(codec, packing, codes, y, factors, past),
        }
    }
}

macro_rules! levels {
    ($($decode:ident, $lanes:ty, $features:literal;)*) => {
        $(
            #[target_feature(enable = $features)]
            unsafe fn $decode(codec: &Codec, packing: Packing, codes: *const u8, y: &mut [f32], f: &[f32], past: bool) {
                // SAFETY: this function enables the instruction set; the rest is the caller's contract.
                unsafe {
                    match past {
                        true => by_form::<$lanes, true>(codec, packing, codes, y, f),
                        false => by_form::<$lanes, false>(codec, packing, codes, y, f),
                    }
                }
            }
        )*
    };
}

levels! {
    avx512_decode, __m512i, "avx512f,avx512bw,avx512dq,avx512vl,avx2";
    avx2_decode, __m256i, "avx2,f16c";
}

/// # Safety
/// [`Lanes`]'s contract; that of [`decode`].
#[inline(always)]
unsafe fn by_form<V: CodeLanes, const PAST: bool>(
    codec: &Codec,
    packing: Packing,
    codes: *const u8,
    y: &mut [f32],
    f: &[f32],
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (packing, codec.form, codec.table.is_some(), codec.half.is_some()) {
            (Packing::Nibbles, ..) => body::<V, Table<V>, NIBBLES, PAST>(codec, codes, y, f),
            (Packing::Bytes, _, true, _) => body::<V, Table<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Bytes, _, _, true) => body::<V, Half<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Bytes, Form::Int, ..) => body::<V, Int<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Bytes, ..) => body::<V, Float<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Halves, _, _, true) => body::<V, Half<V>, HALVES, PAST>(codec, codes, y, f),
            (Packing::Halves, Form::Int, ..) => body::<V, Int<V>, HALVES, PAST>(codec, codes, y, f),
            (Packing::Halves, ..) => body::<V, Float<V>, HALVES, PAST>(codec, codes, y, f),
        }
    }
}

const NIBBLES: u8 = 0;
const BYTES: u8 = 1;
const HALVES: u8 = 2;

/// How far ahead codes are asked for (bytes): they are read at a fraction of the speed at which values are written.
const AHEAD: usize = 2048;

/// A way from codes to values.
///
/// # Safety
/// Every method: [`Lanes`]'s contract.
unsafe trait Way<V: CodeLanes> {
    unsafe fn new(codec: &Codec) -> Self;
    /// The values of two vectors of codes: `P` tells how they lie at `codes`, where they are.
    unsafe fn values<const P: u8>(&self, codes: *const u8) -> [V; 2];
}

/// # Safety
/// [`Lanes`]'s contract; that of [`decode`]. `PAST`: where `stream::can_pass`.
#[inline(always)]
unsafe fn body<V: CodeLanes, W: Way<V>, const P: u8, const PAST: bool>(
    codec: &Codec,
    codes: *const u8,
    y: &mut [f32],
    factors: &[f32],
) {
    // SAFETY: the caller's contract; positions lie in the run.
    unsafe {
        let (n, pair) = (y.len(), 2 * V::LANES);
        let block = BlockOf::new(n / V::LANES, factors.len());
        let factor = |at: usize| V::splat(factors.get_unchecked(block.vector(at / V::LANES)).to_bits());
        let (way, py) = (W::new(codec), y.as_mut_ptr().cast::<u32>());
        let whole = n / pair * pair;
        for at in (0..whole).step_by(pair) {
            let from = codes.add(bytes::<P>(at));
            stream::prefetch(from.wrapping_add(AHEAD));
            let [a, b] = way.values::<P>(from);
            let two = [a.fmul(factor(at)), b.fmul(factor(at + V::LANES))];
            if PAST {
                V::store_past(two, py.add(at));
            } else {
                two[0].store(py.add(at));
                two[1].store(py.add(at + V::LANES));
            }
        }
        if whole < n {
            let mut last = [0u8; 128];
            std::ptr::copy_nonoverlapping(codes.add(bytes::<P>(whole)), last.as_mut_ptr(), bytes::<P>(n - whole));
            let [a, _] = way.values::<P>(last.as_ptr());
            a.fmul(factor(whole)).store(py.add(whole));
        }
    }
}

/// Bytes of `n` codes.
#[inline(always)]
fn bytes<const P: u8>(n: usize) -> usize {
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
struct Table<V> {
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
struct Int<V> {
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
struct Half<V> {
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
struct Float<V> {
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
