//! Number formats: how one element is stored.
//!
//! Every format, float or integer, is one grid: a magnitude `a` is a multiple of
//! `2^(max(floor(log2 a), emin) - mbits)` and at most `max`. An n-bit integer is the grid whose values all lie
//! below `2^emin`, where the spacing is constant.
//!
//! Sources: OCP OFP8 v1.0 (e4m3, e5m2), OCP MX v1.0 section 5.3 (e3m2, e2m3, e2m1, mxint8, e8m0),
//! IEEE 754-2019 (fp16, fp32 and the IEEE-like eXmY).

use crate::exact::{floor_log2, pow2};

/// What the codes with all exponent bits set mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Specials {
    /// Infinity and NaN as in IEEE 754: the top exponent holds no numbers.
    Ieee,
    /// Only the code with all bits (but the sign) set is NaN; no infinity (OFP8 E4M3, E8M0, UE5M3).
    NanTop,
    /// Every code is a finite number (MX FP6, FP4, integers).
    Finite,
}

/// How codes map to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sign, exponent and fraction fields, with subnormals.
    Float,
    /// Powers of two only, no sign, no zero (E8M0).
    Power,
    /// Two's complement with a fixed step; the most negative code is unused.
    Int,
}

/// A number format; everything else is derived from these fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    pub name: String,
    pub kind: Kind,
    /// Exponent field width (0 for integers).
    pub ebits: u32,
    /// Fraction bits below the leading one (n - 1 for integers of n bits).
    pub mbits: u32,
    pub signed: bool,
    /// Exponent of the smallest normal number.
    pub emin: i32,
    pub specials: Specials,
    /// Largest finite value.
    pub max: f64,
}

impl Format {
    /// Look a format up by name. `None` if the name is unknown.
    pub fn get(name: &str) -> Option<Format> {
        let format = match name {
            "e4m3" => Format::float(name, 4, 3, true, Specials::NanTop),
            "ue5m3" => Format::float(name, 5, 3, false, Specials::NanTop),
            "e8m0" => Format {
                name: name.into(),
                kind: Kind::Power,
                ebits: 8,
                mbits: 0,
                signed: false,
                emin: -127,
                specials: Specials::NanTop,
                max: pow2(127),
            },
            "bf16" | "e8m7" => Format::float("bf16", 8, 7, true, Specials::Ieee),
            "fp16" | "e5m10" => Format::float("fp16", 5, 10, true, Specials::Ieee),
            "tf32" | "e8m10" => Format::float("tf32", 8, 10, true, Specials::Ieee),
            "fp32" => Format::float("fp32", 8, 23, true, Specials::Ieee),
            "mxint8" => Format::int("mxint8", 8, 6),
            "int8" | "int4" | "int3" | "int2" => Format::int(name, u32::from(name.as_bytes()[3] - b'0'), 0),
            _ => return Format::parse(name),
        };
        Some(format)
    }

    /// Names of the standard formats, in the order of the table in the documentation.
    pub fn names() -> &'static [&'static str] {
        &[
            "fp32", "tf32", "bf16", "fp16", "e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "e8m0", "ue5m3", "mxint8", "int8",
            "int4", "int3", "int2",
        ]
    }

    /// `eXmY`, 1 <= X <= 8, 0 <= Y <= 10: IEEE-like for X >= 5, else finite numbers only.
    fn parse(name: &str) -> Option<Format> {
        let (ebits, mbits) = name.strip_prefix('e')?.split_once('m')?;
        let number = |digits: &str| -> Option<u32> {
            let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
            if plain { digits.parse().ok() } else { None }
        };
        let (ebits, mbits) = (number(ebits)?, number(mbits)?);
        if !(1..=8).contains(&ebits) || mbits > 10 {
            return None;
        }
        let specials = if ebits >= 5 { Specials::Ieee } else { Specials::Finite };
        Some(Format::float(name, ebits, mbits, true, specials))
    }

    fn float(name: &str, ebits: u32, mbits: u32, signed: bool, specials: Specials) -> Format {
        let bias = (1 << (ebits - 1)) - 1;
        let top = (1 << ebits) - 1 - bias;
        let step = pow2(-(mbits as i32));
        let max = match specials {
            Specials::Ieee => (2.0 - step) * pow2(top - 1),
            Specials::NanTop => (2.0 - 2.0 * step) * pow2(top),
            Specials::Finite => (2.0 - step) * pow2(top),
        };
        Format { name: name.into(), kind: Kind::Float, ebits, mbits, signed, emin: 1 - bias, specials, max }
    }

    /// Integer of `bits` bits whose step is `2^-fraction`; codes lie in +-(2^(bits-1) - 1).
    fn int(name: &str, bits: u32, fraction: i32) -> Format {
        Format {
            name: name.into(),
            kind: Kind::Int,
            ebits: 0,
            mbits: bits - 1,
            signed: true,
            emin: bits as i32 - 1 - fraction,
            specials: Specials::Finite,
            max: f64::from((1u32 << (bits - 1)) - 1) * pow2(-fraction),
        }
    }

    /// Width of a code.
    pub fn bits(&self) -> u32 {
        match self.kind {
            Kind::Int => self.mbits + 1,
            _ => u32::from(self.signed) + self.ebits + self.mbits,
        }
    }

    /// Exponent bias of the float kinds (0 for integers).
    pub fn bias(&self) -> i32 {
        match self.kind {
            Kind::Float => 1 - self.emin,
            Kind::Power => -self.emin,
            Kind::Int => 0,
        }
    }

    /// `floor(log2 max)`: what the power-of-two scale rules subtract.
    pub fn emax(&self) -> i32 {
        floor_log2(self.max)
    }

    /// Fraction bits of the numbers in the binade of `max` (fewer than `mbits` for integers).
    pub fn top_mbits(&self) -> i32 {
        self.mbits as i32 - (self.emin - self.emax()).max(0)
    }

    /// Smallest positive value.
    pub fn min_positive(&self) -> f64 {
        pow2(self.emin - self.mbits as i32)
    }

    pub fn has_inf(&self) -> bool {
        self.specials == Specials::Ieee
    }

    pub fn has_nan(&self) -> bool {
        match self.specials {
            Specials::Ieee => self.mbits > 0,
            Specials::NanTop => true,
            Specials::Finite => false,
        }
    }

    pub fn has_zero(&self) -> bool {
        self.kind != Kind::Power
    }

    pub fn has_neg_zero(&self) -> bool {
        self.kind == Kind::Float && self.signed
    }

    /// The code of a value that lies on the grid (or is a special that the format has).
    ///
    /// NaN becomes the positive quiet NaN. Returns `None` for a value the format cannot hold.
    pub fn encode(&self, x: f64) -> Option<u32> {
        let field_mask = ((1u64 << self.ebits) - 1) as u32;
        if x.is_nan() {
            return self.has_nan().then(|| match self.specials {
                Specials::Ieee => field_mask << self.mbits | 1 << (self.mbits - 1),
                _ => field_mask << self.mbits | ((1 << self.mbits) - 1),
            });
        }
        let negative = x.is_sign_negative();
        let sign = if negative && self.signed { 1u32 << (self.bits() - 1) } else { 0 };
        if x.is_infinite() {
            return self.has_inf().then_some(sign | field_mask << self.mbits);
        }
        if x.abs() > self.max || (negative && !self.signed && x != 0.0) || (x == 0.0 && !self.has_zero()) {
            return None;
        }
        if self.kind == Kind::Int {
            let steps = x / self.min_positive();
            let mask = (1u32 << self.bits()) - 1;
            return (steps == steps.trunc()).then_some(steps as i32 as u32 & mask);
        }
        if x == 0.0 {
            return Some(sign);
        }
        let e = floor_log2(x.abs()).max(self.emin);
        let significand = x.abs() / pow2(e - self.mbits as i32);
        if significand != significand.trunc() {
            return None;
        }
        let significand = significand as u32;
        if self.kind == Kind::Power {
            return Some((e - self.emin) as u32);
        }
        // The hidden one, where present, carries into the exponent field.
        Some(sign | ((((e - self.emin) as u32) << self.mbits) + significand))
    }

    /// The value of a code; bits above the format's width are ignored.
    pub fn decode(&self, code: u32) -> f64 {
        let bits = self.bits();
        let code = if bits == 32 { code } else { code & ((1 << bits) - 1) };
        match self.kind {
            Kind::Int => {
                let shift = 32 - bits;
                f64::from((code << shift) as i32 >> shift) * self.min_positive()
            }
            Kind::Power if code == 0xff => f64::NAN,
            Kind::Power => pow2(code as i32 + self.emin),
            Kind::Float => self.decode_float(code),
        }
    }

    fn decode_float(&self, code: u32) -> f64 {
        let negative = self.signed && code >> (self.bits() - 1) == 1;
        let sign = if negative { -1.0 } else { 1.0 };
        let field_mask = ((1u64 << self.ebits) - 1) as u32;
        let fraction_mask = (1u32 << self.mbits) - 1;
        let (field, fraction) = (code >> self.mbits & field_mask, code & fraction_mask);
        if field == field_mask {
            match self.specials {
                Specials::Ieee if fraction == 0 => return sign * f64::INFINITY,
                Specials::Ieee => return f64::NAN,
                Specials::NanTop if fraction == fraction_mask => return f64::NAN,
                _ => {}
            }
        }
        let quantum = pow2(self.emin + (field as i32 - 1).max(0) - self.mbits as i32);
        let hidden = if field > 0 { 1u32 << self.mbits } else { 0 };
        sign * f64::from(hidden + fraction) * quantum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The extremes that the standards print: (name, max, smallest normal, smallest positive).
    #[test]
    fn extremes_are_the_standards() {
        let table = [
            ("e5m2", 57344.0, pow2(-14), pow2(-16)),
            ("e4m3", 448.0, pow2(-6), pow2(-9)),
            ("e3m2", 28.0, 0.25, 0.0625),
            ("e2m3", 7.5, 1.0, 0.125),
            ("e2m1", 6.0, 1.0, 0.5),
            ("ue5m3", 114688.0, pow2(-14), pow2(-17)),
            ("e8m0", pow2(127), pow2(-127), pow2(-127)),
            ("bf16", 3.3895313892515355e38, pow2(-126), pow2(-133)),
            ("fp16", 65504.0, pow2(-14), pow2(-24)),
            ("fp32", f64::from(f32::MAX), pow2(-126), pow2(-149)),
            ("mxint8", 1.984375, 2.0, pow2(-6)),
            ("int4", 7.0, 8.0, 1.0),
        ];
        for (name, max, min_normal, min_positive) in table {
            let f = Format::get(name).unwrap();
            assert_eq!((f.max, pow2(f.emin), f.min_positive()), (max, min_normal, min_positive), "{name}");
        }
    }

    #[test]
    fn every_code_survives_decode_and_encode() {
        let every = (1..=8).flat_map(|e| (0..=10).map(move |m| format!("e{e}m{m}")));
        for name in every.chain(Format::names().iter().map(|s| s.to_string())) {
            let f = Format::get(&name).unwrap();
            if f.bits() > 19 {
                continue;
            }
            for code in 0..1u32 << f.bits() {
                let value = f.decode(code);
                match f.encode(value) {
                    Some(back) if value.is_nan() => assert!(f.decode(back).is_nan(), "{name} {code:#x}"),
                    Some(back) => assert_eq!(back, code, "{name} {value}"),
                    None => assert!(f.kind == Kind::Int && code == 1 << (f.bits() - 1), "{name} {code:#x} {value}"),
                }
            }
        }
    }

    #[test]
    fn positive_codes_are_ordered() {
        for name in ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "ue5m3", "e8m0", "bf16", "e1m0", "e1m3"] {
            let f = Format::get(name).unwrap();
            let top = 1u32 << (f.bits() - u32::from(f.signed));
            let values: Vec<f64> = (0..top).map(|c| f.decode(c)).filter(|v| v.is_finite()).collect();
            assert!(values.windows(2).all(|w| w[0] < w[1]), "{name}");
            assert_eq!(*values.last().unwrap(), f.max, "{name}");
        }
    }

    #[test]
    fn names_that_are_no_format() {
        for name in ["", "e", "e4", "m3", "e9m1", "e0m3", "e4m11", "e04m3", "e4m03", "E4M3", "int5", "e-1m3", "e4m3 "] {
            assert!(Format::get(name).is_none(), "{name:?}");
        }
    }
}
