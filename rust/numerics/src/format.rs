//! Number formats: how one element is stored.
//!
//! Every float and integer format is one grid: a magnitude `a` is a multiple of
//! `2^(max(floor(log2 a), emin) - mbits)`, between `min` and `max` with its sign. An n-bit integer is the grid whose
//! values all lie below `2^emin`, where the spacing is constant. What has no grid is a table ([`crate::codebook`]).
//! Which formats there are stands in `catalogue.rs`.

use crate::codebook::Codebook;
use crate::exact::{decompose, floor_log2, ldexp, pow2};
use std::sync::Arc;

/// What the codes at the end of the range mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Specials {
    /// Infinity and NaN as in IEEE 754: the top exponent holds no numbers.
    Ieee,
    /// Only the code with all bits (but the sign) set is NaN; no infinity (OFP8 E4M3, E8M0, UE5M3).
    NanTop,
    /// Every code is a finite number (MX FP6, FP4, integers).
    Finite,
    /// P3109 v4.0 section 4.3, finite: one NaN, where negative zero would be, or the top code if unsigned; no infinity.
    OneNan,
    /// P3109, extended: the same, and the codes next below the end of each sign are infinities.
    OneNanInf,
}

/// How codes map to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sign, exponent and fraction fields, with subnormals.
    Float,
    /// Powers of two only, no sign, no zero (E8M0).
    Power,
    /// Two's complement (plain binary if unsigned) with a fixed step.
    Int,
    /// A table.
    Codebook,
}

/// A number format; everything else is derived from these fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    pub name: String,
    pub kind: Kind,
    /// Exponent field width (0 for integers and tables).
    pub ebits: u32,
    /// Fraction bits below the leading one (all bits but the sign for integers; the most that an entry of a table has).
    pub mbits: u32,
    pub signed: bool,
    /// Exponent of the smallest normal number (of the smallest entry of a table).
    pub emin: i32,
    pub specials: Specials,
    /// Largest finite value; infinite where fp64 does not hold it (see `wide`).
    pub max: f64,
    /// Smallest value: `-max`, but for unsigned formats, full two's complement and tables.
    pub min: f64,
    /// The table of a `Kind::Codebook`.
    pub book: Option<Arc<Codebook>>,
}

impl Format {
    pub(crate) fn float(name: &str, ebits: u32, mbits: u32, bias: i32, signed: bool, specials: Specials) -> Format {
        let mut f = Format {
            name: name.into(),
            kind: Kind::Float,
            ebits,
            mbits,
            signed,
            emin: 1 - bias,
            specials,
            max: 0.0,
            min: 0.0,
            book: None,
        };
        f.max = f.magnitude(f.max_magnitude());
        f.min = if signed { -f.max } else { 0.0 };
        f
    }

    /// Integer of `bits` bits whose step is `2^-fraction`. Signed codes end at +-(2^(bits-1) - 1) unless `full`.
    pub(crate) fn int(name: &str, bits: u32, fraction: i32, signed: bool, full: bool) -> Format {
        let mbits = bits - u32::from(signed);
        let (step, top) = (pow2(-fraction), f64::from((1u32 << mbits) - 1));
        let max = top * step;
        Format {
            name: name.into(),
            kind: Kind::Int,
            ebits: 0,
            mbits,
            signed,
            emin: mbits as i32 - fraction,
            specials: Specials::Finite,
            max,
            min: match (signed, full) {
                (false, _) => 0.0,
                (true, false) => -max,
                (true, true) => -max - step,
            },
            book: None,
        }
    }

    /// The format of a table of values by code; without a name it gets one that carries the table. `None` for what is
    /// no table (see [`Codebook::new`]).
    pub fn codebook(name: Option<&str>, values: &[f64]) -> Option<Format> {
        let book = Codebook::new(values)?;
        let listed: Vec<String> = values.iter().map(|v| (*v as f32).to_string()).collect();
        let magnitudes = || values.iter().map(|v| v.abs()).filter(|v| *v != 0.0);
        let fraction_bits = |v: f64| 63 - (decompose(v).0.leading_zeros() + decompose(v).0.trailing_zeros());
        Some(Format {
            name: name.map_or_else(|| format!("codebook_{}", listed.join("_")), String::from),
            kind: Kind::Codebook,
            ebits: 0,
            mbits: magnitudes().map(fraction_bits).max()?,
            signed: values.iter().any(|v| *v < 0.0),
            emin: magnitudes().map(floor_log2).min()?,
            specials: Specials::Finite,
            max: book.value(book.len() - 1),
            min: book.value(0),
            book: Some(Arc::new(book)),
        })
    }

    /// Width of a code.
    pub fn bits(&self) -> u32 {
        match (self.kind, &self.book) {
            (Kind::Codebook, Some(book)) => book.len().next_power_of_two().trailing_zeros(),
            _ => u32::from(self.signed) + self.ebits + self.mbits,
        }
    }

    /// Exponent bias of the float kinds (0 for the others).
    pub fn bias(&self) -> i32 {
        match self.kind {
            Kind::Float => 1 - self.emin,
            Kind::Power => -self.emin,
            Kind::Int | Kind::Codebook => 0,
        }
    }

    /// `floor(log2 max)`: what the power-of-two scale rules subtract.
    pub fn emax(&self) -> i32 {
        if self.exceeds_fp64() {
            return self.emin - 1 + (self.max_magnitude() >> self.mbits) as i32;
        }
        floor_log2(self.max)
    }

    /// Fraction bits of the numbers in the binade of `max` (fewer than `mbits` for integers).
    pub fn top_mbits(&self) -> i32 {
        self.mbits as i32 - (self.emin - self.emax()).max(0)
    }

    /// Smallest positive value.
    pub fn min_positive(&self) -> f64 {
        match &self.book {
            Some(book) => book.values().iter().copied().filter(|v| *v > 0.0).fold(self.max, f64::min),
            None => ldexp(1.0, self.emin - self.mbits as i32),
        }
    }

    /// Whether every value is an fp32 number; all but P3109's widest formats are.
    pub fn fits_fp32(&self) -> bool {
        self.max <= f64::from(f32::MAX) && self.emin - self.mbits as i32 >= -149
    }

    pub fn has_inf(&self) -> bool {
        self.inf_code().is_some()
    }

    pub fn has_nan(&self) -> bool {
        self.nan_code().is_some()
    }

    pub fn has_zero(&self) -> bool {
        match &self.book {
            Some(book) => book.encode(0.0).is_some(),
            None => self.kind != Kind::Power,
        }
    }

    pub fn has_neg_zero(&self) -> bool {
        self.kind == Kind::Float && self.signed && !self.one_nan()
    }

    /// Whether the format follows P3109's conventions: one NaN, no negative zero.
    pub fn one_nan(&self) -> bool {
        matches!(self.specials, Specials::OneNan | Specials::OneNanInf)
    }

    /// Whether "even" means an even code where there are no fraction bits (P3109 section 4.7.4, P = 1), and not an even
    /// significand, which no power of two has.
    pub fn even_by_exponent(&self) -> bool {
        self.one_nan() && self.mbits == 0
    }

    /// All bits but the sign.
    fn top(&self) -> u32 {
        ((1u64 << (self.ebits + self.mbits)) - 1) as u32
    }

    /// The code of the NaN that `encode` gives.
    fn nan_code(&self) -> Option<u32> {
        match self.specials {
            Specials::Ieee if self.mbits == 0 => None,
            Specials::Ieee => Some((self.top() - ((1 << self.mbits) - 1)) | (1 << (self.mbits - 1))),
            Specials::Finite => None,
            Specials::OneNan | Specials::OneNanInf if self.signed => Some(self.top() + 1),
            Specials::NanTop | Specials::OneNan | Specials::OneNanInf => Some(self.top()),
        }
    }

    /// The code of positive infinity.
    fn inf_code(&self) -> Option<u32> {
        match self.specials {
            Specials::Ieee => Some(self.top() - ((1 << self.mbits) - 1)),
            Specials::OneNanInf => Some(self.top() - u32::from(!self.signed)),
            Specials::NanTop | Specials::Finite | Specials::OneNan => None,
        }
    }

    /// The code of the largest value of a float: just below infinity, or NaN, or the end.
    fn max_magnitude(&self) -> u32 {
        let nan_above = self.nan_code().filter(|nan| *nan <= self.top());
        self.inf_code().or(nan_above).map_or(self.top(), |special| special - 1)
    }

    /// The code of `max`.
    pub fn max_code(&self) -> u32 {
        match self.kind {
            Kind::Float => self.max_magnitude(),
            _ => self.encode(self.max).expect("max is a value of the format"),
        }
    }

    /// The code of a value that lies on the grid (or is a special that the format has).
    ///
    /// NaN becomes the positive quiet NaN. Returns `None` for a value the format cannot hold.
    pub fn encode(&self, x: f64) -> Option<u32> {
        if x.is_nan() {
            return self.nan_code();
        }
        let negative = x.is_sign_negative() && (x != 0.0 || self.has_neg_zero());
        if negative && !self.signed {
            return None;
        }
        let sign = if negative { 1u32 << (self.bits() - 1) } else { 0 };
        if x.is_infinite() {
            return self.inf_code().map(|code| sign | code);
        }
        if x > self.max || x < self.min {
            return None;
        }
        match self.kind {
            Kind::Codebook => return self.book.as_ref()?.encode(x),
            Kind::Int => {
                let steps = x / self.min_positive();
                let mask = (1u32 << self.bits()) - 1;
                return (steps == steps.trunc()).then_some(steps as i32 as u32 & mask);
            }
            Kind::Float if x == 0.0 => return Some(sign),
            Kind::Float | Kind::Power => {}
        }
        let e = floor_log2(x.abs()).max(self.emin);
        let significand = ldexp(x.abs(), self.mbits as i32 - e);
        if significand != significand.trunc() {
            return None;
        }
        if self.kind == Kind::Power {
            return Some((e - self.emin) as u32);
        }
        // The hidden one, where present, carries into the exponent field.
        Some(sign | ((((e - self.emin) as u32) << self.mbits) + significand as u32))
    }

    /// The value of a code; bits above the format's width are ignored. NaN for an unused code of a table. Rounded to fp64
    /// where that does not hold it (see [`Format::decodes_exactly`]).
    pub fn decode(&self, code: u32) -> f64 {
        let bits = self.bits();
        let code = if bits == 32 { code } else { code & ((1 << bits) - 1) };
        match self.kind {
            Kind::Codebook => self.book.as_ref().map_or(f64::NAN, |book| book.decode(code)),
            Kind::Int if self.signed => {
                let shift = 32 - bits;
                f64::from((code << shift) as i32 >> shift) * self.min_positive()
            }
            Kind::Int => f64::from(code) * self.min_positive(),
            Kind::Power if code == self.top() => f64::NAN,
            Kind::Power => pow2(code as i32 + self.emin),
            Kind::Float => self.decode_float(code),
        }
    }

    fn decode_float(&self, code: u32) -> f64 {
        let magnitude = code & self.top();
        let sign = if code == magnitude { 1.0 } else { -1.0 };
        if self.inf_code() == Some(magnitude) {
            sign * f64::INFINITY
        } else if self.is_number(code) {
            sign * self.magnitude(magnitude)
        } else {
            f64::NAN
        }
    }

    /// Whether a code of a float is neither infinity nor NaN.
    pub(crate) fn is_number(&self, code: u32) -> bool {
        code & self.top() <= self.max_magnitude() && !(self.one_nan() && self.nan_code() == Some(code))
    }

    /// The magnitude of a number's code as an integer times `2^exponent`.
    pub(crate) fn parts(&self, code: u32) -> (u64, i32) {
        let magnitude = code & self.top();
        let (field, fraction) = ((magnitude >> self.mbits) as i32, magnitude & ((1 << self.mbits) - 1));
        let hidden = if field > 0 { 1u32 << self.mbits } else { 0 };
        (u64::from(hidden + fraction), self.emin + (field - 1).max(0) - self.mbits as i32)
    }

    /// The value of a code of a float without sign or specials.
    fn magnitude(&self, code: u32) -> f64 {
        let (significand, exponent) = self.parts(code);
        ldexp(significand as f64, exponent)
    }
}

#[cfg(test)]
mod tests;
