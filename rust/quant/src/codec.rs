//! Codes of an element format from fp32 and back, over vectors; bit-equal to `Format::encode` after `Format::round`, and
//! to `Format::decode`.
//!
//! Encode: with `C = 1.5 * 2^(e + k)` the integer difference of the bits of `|x| + C` and of `C` is the significand `S` in units of the
//! spacing, rounded to nearest even (`element`), and `((e - emin) >> k) + S` is the code: the hidden one of `S` carries
//! into the exponent field, subnormals have none. Stochastic rounding has the same sum in its own way (`stochastic`).
//!
//! Decode: the code shifted into place is the number with its exponent counted from zero; adding the exponent of the
//! smallest normal number makes it a float, and for subnormals, whose field is 0 like that of the lowest normal
//! binade less one, the hidden one that this brings in is subtracted again. Codes of up to 4 bits are looked up in a register.
//!
//! What the kernels do not take (`Codec::new` is `None`, or a run holds NaN, infinity or an overflow that is not
//! clamped) is the truth's.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

#[cfg(target_arch = "x86_64")]
use crate::decode_lanes::decode;
use crate::dtype::MemoryMut;
#[cfg(target_arch = "x86_64")]
use crate::encode_lanes::{Parameters, Run, encode};
use crate::layout::Unit;
use crate::pieces::{Buffer, PIECE};
use crate::simd::{Level, level};
use crate::stochastic::is_fine;
#[cfg(target_arch = "x86_64")]
use crate::stochastic_lanes::WIDTH;
#[cfg(target_arch = "x86_64")]
use crate::stream;
use dither_numerics::format::{Kind, Specials};
use dither_numerics::{Format, Overflow, Quantizer, Rounding, pow2};

/// How codes lie in memory: two a byte (the first in the low half), one a byte, one in two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Nibbles,
    Bytes,
    Halves,
}

impl Packing {
    /// The narrowest that has room for codes of so many bits (at most 16), whose own width may be another.
    pub fn of(bits: u32) -> Packing {
        match bits {
            4 => Packing::Nibbles,
            ..=8 => Packing::Bytes,
            _ => Packing::Halves,
        }
    }

    /// Bits of a code.
    pub fn width(self) -> u32 {
        match self {
            Packing::Nibbles => 4,
            Packing::Bytes => 8,
            Packing::Halves => 16,
        }
    }

    /// Put a code in the place of another.
    pub fn set(self, codes: &mut [u8], at: usize, code: u32) {
        match self {
            Packing::Nibbles => {
                let shift = 4 * (at % 2);
                codes[at / 2] = codes[at / 2] & !(15 << shift) | (code as u8 & 15) << shift;
            }
            Packing::Bytes => codes[at] = code as u8,
            Packing::Halves => codes[2 * at..2 * at + 2].copy_from_slice(&(code as u16).to_le_bytes()),
        }
    }

    /// Bytes of `n` codes.
    pub fn bytes(self, n: usize) -> usize {
        n * self.width() as usize / 8
    }
}

/// How a code relates to the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Sign and magnitude, with an exponent of its own.
    Float,
    /// Sign and magnitude with fp32's exponent: the top bits of the number.
    Wide,
    /// Two's complement in multiples of a step.
    Int,
}

/// The constants of a format, as the kernels use them.
#[derive(Clone, Debug)]
pub struct Codec {
    pub form: Form,
    pub bits: u32,
    /// Digits of an fp32 significand that the format lacks.
    pub k: u32,
    /// Bits of the smallest normal number.
    pub emin: u32,
    /// Largest code of a positive number, and of infinity (that of the maximum where there is none).
    pub max_code: u32,
    pub inf_code: u32,
    /// Bits of the largest number.
    pub max: u32,
    pub step: f32,
    /// The values of codes of up to 4 bits.
    pub table: Option<[f32; 16]>,
    /// What fp16 numbers are multiplied by, where the digits of a code are those of one (its NaN apart).
    pub half: Option<f32>,
}

impl Codec {
    /// `None` for formats without a sign, with P3109's one NaN, for tables, and for grids outside fp32's range.
    pub fn new(f: &Format) -> Option<Codec> {
        let form = match f.kind {
            Kind::Float if f.emin == -126 => Form::Wide,
            Kind::Float => Form::Float,
            Kind::Int => Form::Int,
            _ => return None,
        };
        let room = form == Form::Wide
            || (f.emin + 127 - f.mbits as i32 >= 1 && f.emin.max(f.emax() + 2) + 127 + 23 - f.mbits as i32 <= 254);
        let plain = f.signed && !f.one_nan() && f.min == -f.max && (1..=20).contains(&f.mbits) && f.bits() <= 16;
        if !(plain && room) {
            return None;
        }
        let max_code = f.encode(f.max)?;
        let mut table = [0f32; 16];
        for (code, value) in (0..).zip(&mut table) {
            *value = f.decode(code) as f32;
        }
        Some(Codec {
            form,
            bits: f.bits(),
            k: 23 - f.mbits,
            emin: ((f.emin + 127) as u32) << 23,
            max_code,
            inf_code: if f.specials == Specials::Ieee { max_code + 1 } else { max_code },
            max: (f.max as f32).to_bits(),
            step: f.min_positive() as f32,
            table: (f.bits() <= 4).then_some(table),
            half: half(f, form),
        })
    }

    /// Inputs whose magnitudes have smaller bits have a code that the kernels give: in a cast with this overflow.
    pub fn limit(&self, q: &Quantizer) -> u32 {
        match (q.overflow, self.form) {
            (Overflow::Saturate, Form::Float | Form::Int) => 0x7f80_0000,
            _ => self.max + 1,
        }
    }
}

/// fp16's exponent field has 5 bits, of which only infinity and NaN fill all.
fn half(f: &Format, form: Form) -> Option<f32> {
    let same = if f.specials == Specials::Ieee { f.ebits == 5 } else { f.ebits < 5 };
    (form == Form::Float && same && f.mbits <= 10).then(|| pow2(f.emin + 14) as f32)
}

/// How elements become codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    NearestEven,
    Stochastic { fine: bool, n: u32 },
}

impl Mode {
    /// `None` where the truth must round.
    pub fn new(f: &Format, rounding: Rounding) -> Option<Mode> {
        match rounding {
            Rounding::NearestEven => Some(Mode::NearestEven),
            Rounding::Stochastic(n) => Some(Mode::Stochastic { fine: is_fine(f.mbits, n), n }),
            _ => None,
        }
    }
}

/// Whether there are vectors to work with.
pub fn vectors() -> bool {
    cfg!(target_arch = "x86_64") && level() > Level::Baseline
}

/// How far ahead of its use a cast asks for its input (elements): past the caches there is nothing else to wait for.
const AHEAD: usize = 2048;

#[cfg(target_arch = "x86_64")]
impl Codec {
    /// The codes of a run under a cast. Returns the bits of the largest magnitude: the codes of elements from the limit
    /// on are not right.
    ///
    /// # Safety
    /// `codes` has room for `x.len()` codes of a byte or more; [`vectors`].
    pub unsafe fn cast(&self, mode: Mode, packing: Packing, x: &[f32], fractions: &[u32], codes: *mut u8) -> u32 {
        let whole = x.len() / WIDTH * WIDTH;
        let run = |x, fractions, next| Run { x, fractions, parameters: Parameters::None, next };
        let (mut rest, mut bits, mut out) = ([0f32; WIDTH], [0u32; WIDTH], [0u8; 2 * WIDTH]);
        let mut largest = 0;
        // SAFETY: the caller's contract; the rest is padded to a vector and copied.
        unsafe {
            if whole > 0 {
                let next = x.as_ptr().wrapping_add(AHEAD);
                largest = encode(self, mode, packing, run(&x[..whole], fractions, next), codes);
            }
            let n = x.len() - whole;
            if n > 0 {
                rest[..n].copy_from_slice(&x[whole..]);
                if let Some(fractions) = fractions.get(whole..x.len()) {
                    bits[..n].copy_from_slice(fractions);
                }
                let run = run(&rest, &bits, x.as_ptr());
                largest = largest.max(encode(self, mode, packing, run, out.as_mut_ptr()));
                std::ptr::copy_nonoverlapping(out.as_ptr(), codes.add(packing.bytes(whole)), packing.bytes(n));
            }
        }
        largest
    }

    /// The values of a run of codes, to where they belong; past the caches if `streamed`, and then visible to other
    /// threads after `stream::fence`.
    ///
    /// # Safety
    /// As for [`Codec::values`]; `y` holds the run from `start` on, and nobody else touches it.
    pub unsafe fn values_to(&self, packing: Packing, codes: *const u8, y: MemoryMut, unit: Unit, streamed: bool) {
        // SAFETY: the caller's contract; pieces lie in the unit.
        unsafe {
            if let Some(y) = y.f32_range(unit.start, unit.len).filter(|y| !streamed || stream::can_pass(y.as_ptr())) {
                return self.values(packing, codes, y, streamed);
            }
            let mut buffer = Buffer([0f32; PIECE]);
            for (at, len) in unit.pieces(PIECE) {
                let values = &mut buffer.0[..len];
                self.values(packing, codes.add(packing.bytes(at - unit.start)), values, false);
                if streamed { y.stream(at, values) } else { y.store(at, values) }
            }
        }
    }

    /// The values of a run of codes (`past`: see [`decode`]).
    ///
    /// # Safety
    /// `codes` holds `y.len()` codes of a byte or more; [`vectors`].
    unsafe fn values(&self, packing: Packing, codes: *const u8, y: &mut [f32], past: bool) {
        let (whole, rest) = y.split_at_mut(y.len() / WIDTH * WIDTH);
        let (mut values, mut bytes) = ([0f32; WIDTH], [0u8; 2 * WIDTH]);
        // SAFETY: the caller's contract; the rest is padded to a vector and copied.
        unsafe {
            decode(self, packing, codes, whole, &[1.0], past);
            if !rest.is_empty() {
                let from = codes.add(packing.bytes(whole.len()));
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), packing.bytes(rest.len()));
                decode(self, packing, bytes.as_ptr(), &mut values, &[1.0], false);
                rest.copy_from_slice(&values[..rest.len()]);
            }
        }
    }
}
