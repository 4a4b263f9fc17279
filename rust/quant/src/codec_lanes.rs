//! The loops of `codec`, over vectors.
#![cfg(target_arch = "x86_64")]

use crate::codec::{Codec, Form, Mode, Packing};
use crate::element::Shape;
use crate::lanes::Lanes;
use crate::simd::{Level, level};
use crate::stochastic_lanes::{Constants, WIDTH};
use crate::stream;
use std::arch::x86_64::{__m256i, __m512i};

/// What the parameter of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Bits of the smallest normal number of the grid on which its elements are rounded where they lie.
    Grid,
    /// Bits of what they are divided by, or multiplied with, before they are rounded.
    Divide,
    Multiply,
}

/// What is encoded: whole blocks of whole vectors, a parameter each.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    pub x: &'a [f32],
    /// Empty where nothing is random.
    pub fractions: &'a [u32],
    pub block: usize,
    pub parameter: Parameter,
    pub parameters: &'a [u32],
}

/// Write the codes of blocks.
///
/// # Safety
/// `codes` has room for `x.len()` codes, and the level is above the baseline.
pub unsafe fn encode(codec: &Codec, mode: Mode, packing: Packing, run: Blocks<'_>, codes: *mut u8) {
    let n = run.x.len();
    assert!(run.block.is_multiple_of(WIDTH) && n.is_multiple_of(run.block) && run.parameters.len() >= n / run.block);
    assert!(mode == Mode::NearestEven || run.fractions.len() >= n);
    // SAFETY: the caller's contract; `level` never exceeds what was found on this processor.
    unsafe {
        match (level(), packing) {
            (Level::Avx512, Packing::Nibbles) => avx512_encode::<NIBBLES>(codec, mode, run, codes),
            (Level::Avx512, Packing::Bytes) => avx512_encode::<BYTES>(codec, mode, run, codes),
            (Level::Avx512, Packing::Halves) => avx512_encode::<HALVES>(codec, mode, run, codes),
            (_, Packing::Nibbles) => avx2_encode::<NIBBLES>(codec, mode, run, codes),
            (_, Packing::Bytes) => avx2_encode::<BYTES>(codec, mode, run, codes),
            (_, Packing::Halves) => avx2_encode::<HALVES>(codec, mode, run, codes),
        }
    }
}

/// The bits of the largest magnitude of each block of whole vectors.
pub fn absmaxes(x: &[f32], block: usize, out: &mut [u32]) {
    assert!(block.is_multiple_of(WIDTH) && x.len().is_multiple_of(block) && out.len() >= x.len() / block);
    // SAFETY: `level` never exceeds what was found on this processor.
    unsafe {
        match level() {
            Level::Avx512 => avx512_absmaxes(x, block, out),
            _ => avx2_absmaxes(x, block, out),
        }
    }
}

/// The values of codes, `y.len()` a multiple of `block` and that of [`WIDTH`], each block times its factor.
///
/// # Safety
/// `codes` holds `y.len()` codes, and the level is above the baseline.
pub unsafe fn decode(
    codec: &Codec,
    packing: Packing,
    codes: *const u8,
    y: &mut [f32],
    block: usize,
    factors: Factors<'_>,
) {
    assert!(block.is_multiple_of(WIDTH) && y.len().is_multiple_of(block) && factors.len() >= y.len() / block);
    // SAFETY: as in `encode`.
    unsafe {
        match (level(), packing) {
            (Level::Avx512, Packing::Nibbles) => avx512_decode::<NIBBLES>(codec, codes, y, block, factors),
            (Level::Avx512, Packing::Bytes) => avx512_decode::<BYTES>(codec, codes, y, block, factors),
            (Level::Avx512, Packing::Halves) => avx512_decode::<HALVES>(codec, codes, y, block, factors),
            (_, Packing::Nibbles) => avx2_decode::<NIBBLES>(codec, codes, y, block, factors),
            (_, Packing::Bytes) => avx2_decode::<BYTES>(codec, codes, y, block, factors),
            (_, Packing::Halves) => avx2_decode::<HALVES>(codec, codes, y, block, factors),
        }
    }
}

/// What the values of blocks are multiplied by.
#[derive(Clone, Copy)]
pub enum Factors<'a> {
    /// Nothing.
    None,
    /// One number for all.
    Same(f32),
    /// Codes of scales and what each of them stands for.
    Coded(&'a [u8], &'a [f32; 256]),
    /// Numbers, each times the same one more.
    Scaled(&'a [f32], f32),
}

impl Factors<'_> {
    fn len(&self) -> usize {
        match self {
            Factors::None | Factors::Same(_) => usize::MAX,
            Factors::Coded(codes, _) => codes.len(),
            Factors::Scaled(scales, _) => scales.len(),
        }
    }

    #[inline(always)]
    fn get(&self, i: usize) -> f32 {
        match self {
            Factors::None => 1.0,
            Factors::Same(factor) => *factor,
            Factors::Coded(codes, table) => table[usize::from(codes[i])],
            Factors::Scaled(scales, factor) => scales[i] * factor,
        }
    }
}

const NIBBLES: u8 = 0;
const BYTES: u8 = 1;
const HALVES: u8 = 2;

macro_rules! levels {
    ($($encode:ident, $decode:ident, $absmaxes:ident, $lanes:ty, $features:literal;)*) => {
        $(
            #[target_feature(enable = $features)]
            unsafe fn $encode<const P: u8>(codec: &Codec, mode: Mode, run: Blocks<'_>, codes: *mut u8) {
                // SAFETY: this function enables the instruction set; the rest is the caller's contract.
                unsafe {
                    match mode {
                        Mode::NearestEven => encode_body::<$lanes, P, 0>(codec, 0, run, codes),
                        Mode::Stochastic { fine: false, n } => encode_body::<$lanes, P, 1>(codec, n, run, codes),
                        Mode::Stochastic { fine: true, n } => encode_body::<$lanes, P, 2>(codec, n, run, codes),
                    }
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn $absmaxes(x: &[f32], block: usize, out: &mut [u32]) {
                // SAFETY: as above.
                unsafe { absmaxes_body::<$lanes>(x, block, out) }
            }

            #[target_feature(enable = $features)]
            unsafe fn $decode<const P: u8>(codec: &Codec, codes: *const u8, y: &mut [f32], block: usize, factors: Factors<'_>) {
                // SAFETY: as above.
                unsafe { decode_body::<$lanes, P>(codec, codes, y, block, factors) }
            }
        )*
    };
}

levels! {
    avx512_encode, avx512_decode, avx512_absmaxes, __m512i, "avx512f,avx512bw,avx512dq,avx512vl,avx2";
    avx2_encode, avx2_decode, avx2_absmaxes, __m256i, "avx2";
}

/// # Safety
/// [`Lanes`]'s contract; `x` is whole blocks of whole vectors.
#[inline(always)]
unsafe fn absmaxes_body<V: Lanes>(x: &[f32], block: usize, out: &mut [u32]) {
    // SAFETY: the caller's contract; positions lie in the run.
    unsafe {
        let magnitude = V::splat(0x7fff_ffff);
        for (start, out) in (0..x.len()).step_by(block).zip(out) {
            let mut most = V::splat(0);
            for i in (start..start + block).step_by(V::LANES) {
                stream::prefetch(x.as_ptr().wrapping_add(i + stream::AHEAD));
                most = most.max(V::load(x.as_ptr().add(i).cast()).and(magnitude));
            }
            *out = most.largest();
        }
    }
}

/// # Safety
/// [`Lanes`]'s contract; there is room for the codes.
#[inline(always)]
unsafe fn encode_body<V: Lanes, const P: u8, const M: u8>(codec: &Codec, n: u32, run: Blocks<'_>, codes: *mut u8) {
    // SAFETY: the caller's contract; positions lie in the run.
    unsafe {
        let mut to = ToCode::<V>::new(codec, n);
        let (px, pf) = (run.x.as_ptr().cast::<u32>(), run.fractions.as_ptr());
        let fraction = |i: usize| if M == 0 { V::splat(0) } else { V::load(pf.add(i)) };
        for (start, parameter) in (0..run.x.len()).step_by(run.block).zip(run.parameters) {
            let positions = (start..start + run.block).step_by(V::LANES);
            let s = V::splat(*parameter);
            match run.parameter {
                Parameter::Grid => {
                    to.set_grid(codec, *parameter);
                    for i in positions {
                        store::<V, P>(to.code::<M>(V::load(px.add(i)), fraction(i)), codes, i);
                    }
                }
                Parameter::Divide => {
                    for i in positions {
                        store::<V, P>(to.code::<M>(V::load(px.add(i)).fdiv(s), fraction(i)), codes, i);
                    }
                }
                Parameter::Multiply => {
                    for i in positions {
                        store::<V, P>(to.code::<M>(V::load(px.add(i)).fmul(s), fraction(i)), codes, i);
                    }
                }
            }
        }
    }
}

/// Constants of encoding in every lane.
struct ToCode<V> {
    form: Form,
    c: Constants<V>,
    exponent: V,
    emin: V,
    below_emin: V,
    /// From `2^e` to the bits of `C`.
    to_c: V,
    /// Halves less one, for the wide form.
    half: V,
    one: V,
    k: V,
    hidden: V,
    max_code: V,
    mask: V,
    last: V,
    to_sign: V,
    code_sign: V,
    /// Beyond the maximum: larger numbers have the largest code, and this keeps the arithmetic in range.
    limit: V,
}

impl<V: Lanes> ToCode<V> {
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn new(codec: &Codec, n: u32) -> Self {
        let k = codec.k;
        // SAFETY: the caller's contract.
        unsafe {
            ToCode {
                form: codec.form,
                c: Constants::new(Shape { mbits: 23 - k, n, zero: -0.0 }),
                exponent: V::splat(0x7f80_0000),
                emin: V::splat(codec.emin),
                below_emin: V::splat(codec.emin - 1),
                to_c: V::splat(k << 23 | 0x0040_0000),
                half: V::splat((1 << (k - 1)) - 1),
                one: V::splat(1),
                k: V::splat(k),
                hidden: V::splat(1 << (23 - k)),
                max_code: V::splat(codec.max_code),
                mask: V::splat((1 << codec.bits) - 1),
                last: V::splat(31),
                to_sign: V::splat(32 - codec.bits),
                code_sign: V::splat(1 << (codec.bits - 1)),
                limit: V::splat(codec.max + (1 << 23)),
            }
        }
    }

    /// Round on the grid whose smallest normal number has the bits `emin`.
    ///
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn set_grid(&mut self, codec: &Codec, emin: u32) {
        // SAFETY: the caller's contract.
        unsafe {
            self.emin = V::splat(emin);
            self.below_emin = V::splat(emin.wrapping_sub(1));
            self.limit = V::splat(codec.max.wrapping_add(emin).wrapping_sub(codec.emin).wrapping_add(1 << 23));
        }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn code<const M: u8>(&self, x: V, fraction: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let a = x.and(self.c.magnitude);
            let magnitude = match (self.form, M) {
                (Form::Wide, 0) => a.add(self.half).add(a.shr(self.k).and(self.one)).shr(self.k),
                (Form::Wide, _) => a.add(fraction.shr(self.c.shift)).shr(self.k),
                (_, 0) => self.nearest(a.min(self.limit)),
                (_, 1) => self.stochastic::<false>(a.min(self.limit), fraction),
                _ => self.stochastic::<true>(a.min(self.limit), fraction),
            };
            let magnitude = magnitude.min(self.max_code);
            if self.form == Form::Int {
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
    unsafe fn nearest(&self, a: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let e = a.and(self.exponent).max(self.emin);
            let c = e.add(self.to_c);
            e.sub(self.emin).shr(self.k).add(a.fadd(c).sub(c))
        }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn stochastic<const FINE: bool>(&self, a: V, fraction: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let (sum, _) = self.c.sum::<FINE>(a, self.emin, fraction);
            sum.sub(self.emin).shr(self.k).add(self.hidden.where_less(self.below_emin, a))
        }
    }
}

/// # Safety
/// [`Lanes`]'s contract; there is room for the codes.
#[inline(always)]
unsafe fn store<V: Lanes, const P: u8>(codes: V, out: *mut u8, i: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match P {
            NIBBLES => codes.store_nibbles(out.add(i / 2)),
            BYTES => codes.store_bytes(out.add(i)),
            _ => codes.store_halves(out.add(2 * i)),
        }
    }
}

/// # Safety
/// [`Lanes`]'s contract; the codes are there.
#[inline(always)]
unsafe fn load<V: Lanes, const P: u8>(codes: *const u8, i: usize) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        match P {
            NIBBLES => V::load_nibbles(codes.add(i / 2)),
            BYTES => V::load_bytes(codes.add(i)),
            _ => V::load_halves(codes.add(2 * i)),
        }
    }
}

/// # Safety
/// [`Lanes`]'s contract; the codes are there, `y.len()` is a multiple of `block` and that of [`WIDTH`].
#[inline(always)]
unsafe fn decode_body<V: Lanes, const P: u8>(
    codec: &Codec,
    codes: *const u8,
    y: &mut [f32],
    block: usize,
    factors: Factors<'_>,
) {
    // SAFETY: the caller's contract; positions lie in the run.
    unsafe {
        let from = FromCode::<V>::new(codec);
        let py = y.as_mut_ptr().cast::<u32>();
        if matches!(factors, Factors::None) {
            for i in (0..y.len()).step_by(V::LANES) {
                from.value(load::<V, P>(codes, i)).store(py.add(i));
            }
            return;
        }
        for (b, start) in (0..y.len()).step_by(block).enumerate() {
            let factor = V::splat(factors.get(b).to_bits());
            for i in (start..start + block).step_by(V::LANES) {
                from.value(load::<V, P>(codes, i)).fmul(factor).store(py.add(i));
            }
        }
    }
}

/// Constants of decoding in every lane.
struct FromCode<'a, V> {
    form: Form,
    table: Option<&'a [f32; 16]>,
    magnitude: V,
    sign: V,
    to_sign: V,
    k: V,
    emin: V,
    /// From a code with its exponent counted from zero to the bits of a float.
    rebias: V,
    binade: V,
    hidden: V,
    step: V,
    specials: bool,
    max_code: V,
    inf_code: V,
    infinity: V,
    nan: V,
}

impl<'a, V: Lanes> FromCode<'a, V> {
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn new(codec: &'a Codec) -> Self {
        let top = (1 << (codec.bits - 1)) - 1;
        // SAFETY: the caller's contract.
        unsafe {
            FromCode {
                form: codec.form,
                table: codec.table.as_ref(),
                magnitude: V::splat(top),
                sign: V::splat(0x8000_0000),
                to_sign: V::splat(32 - codec.bits),
                k: V::splat(codec.k),
                emin: V::splat(codec.emin),
                rebias: V::splat(codec.emin - (1 << 23)),
                binade: V::splat(1 << 23),
                hidden: V::splat(1 << (23 - codec.k)),
                step: V::splat(codec.step.to_bits()),
                specials: codec.max_code < top && codec.form != Form::Int,
                max_code: V::splat(codec.max_code),
                inf_code: V::splat(codec.inf_code),
                infinity: V::splat(0x7f80_0000),
                nan: V::splat(0x7fc0_0000),
            }
        }
    }

    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn value(&self, code: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            if let Some(table) = self.table {
                return code.lookup(table);
            }
            let high = code.shl(self.to_sign);
            if self.form == Form::Int {
                return high.sar(self.to_sign).int_to_float().fmul(self.step);
            }
            let magnitude = code.and(self.magnitude);
            let shifted = magnitude.shl(self.k);
            let number = if self.form == Form::Wide {
                shifted
            } else {
                let subnormal = self.binade.where_less(magnitude, self.hidden);
                let base = self.emin.where_less(magnitude, self.hidden);
                shifted.add(self.rebias).add(subnormal).fsub(base)
            };
            if !self.specials {
                return high.and_or(self.sign, number);
            }
            let number = self.infinity.where_greater_or(magnitude, self.max_code, number);
            self.nan.where_greater_or(magnitude, self.inf_code, high.and_or(self.sign, number))
        }
    }
}
