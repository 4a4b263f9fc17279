//! The formats that have a name: one line each, with the standard it comes from.

use crate::codebook::{Codebook, NF4};
use crate::exact::pow2;
use crate::format::{Format, Kind, Specials};
use Specials::{Finite, Ieee, NanTop, OneNan, OneNanInf};

/// Name, exponent bits, fraction bits, bias, signed, specials.
type Float = (&'static str, u32, u32, i32, bool, Specials);

#[rustfmt::skip]
const FLOATS: &[Float] = &[
    // IEEE 754-2019 table 3.5, and the two truncations of binary32.
    ("fp32",        8, 23, 127, true,  Ieee),
    ("tf32",        8, 10, 127, true,  Ieee),
    ("bf16",        8,  7, 127, true,  Ieee),
    ("fp16",        5, 10,  15, true,  Ieee),
    // OCP OFP8 v1.0, table 1.
    ("e5m2",        5,  2,  15, true,  Ieee),
    ("e4m3",        4,  3,   7, true,  NanTop),
    // OCP MX v1.0, section 5.3.
    ("e3m2",        3,  2,   3, true,  Finite),
    ("e2m3",        2,  3,   1, true,  Finite),
    ("e2m1",        2,  1,   1, true,  Finite),
    // The same fields under another convention; a number at the end of a name is the largest value.
    ("e4m3_480",    4,  3,   7, true,  Finite),
    ("e4m3_ieee",   4,  3,   7, true,  Ieee),
    ("e3m4_ieee",   3,  4,   3, true,  Ieee),
    ("e5m3",        5,  3,  15, true,  Ieee),
    ("e5m3_114688", 5,  3,  15, true,  NanTop),
    ("ue5m3",       5,  3,  15, false, NanTop),
    ("ue5m3_61440", 5,  3,  15, false, Ieee),
    // "Finite, one NaN, unsigned zero" (arXiv:2206.02915): the first two are P3109's Binary8p4sf and Binary8p3sf.
    ("e4m3fnuz",    4,  3,   8, true,  OneNan),
    ("e5m2fnuz",    5,  2,  16, true,  OneNan),
    ("e4m3b11fnuz", 4,  3,  11, true,  OneNan),
];

/// Name, width, fraction bits, signed, whether the most negative code is used.
type Int = (&'static str, u32, i32, bool, bool);

#[rustfmt::skip]
const INTEGERS: &[Int] = &[
    // OCP MX v1.0, section 5.3.4: -128 may stay unused.
    ("mxint8",      8, 6, true,  false),
    ("mxint8_full", 8, 6, true,  true),
    // Symmetric, step 1.
    ("int8",        8, 0, true,  false),
    ("int4",        4, 0, true,  false),
    ("int3",        3, 0, true,  false),
    ("int2",        2, 0, true,  false),
    ("ternary",     2, 0, true,  false),
    // From zero, as under a zero point.
    ("uint8",       8, 0, false, true),
    ("uint4",       4, 0, false, true),
    ("uint3",       3, 0, false, true),
    ("uint2",       2, 0, false, true),
];

/// Tables of values by code. `int1` stores the sign bit.
const CODEBOOKS: &[(&str, &[f64])] = &[("int1", &[1.0, -1.0]), ("nf4", &NF4)];

/// The formats that P3109 v4.0 requires of every implementation.
const P3109_REQUIRED: &[&str] = &["binary8p4se", "binary8p3se", "binary4p2sf", "binary8p1uf"];

const SECOND_NAMES: &[(&str, &str)] = &[("e8m7", "bf16"), ("e5m10", "fp16"), ("e8m10", "tf32")];

impl Format {
    /// Look a format up by name. `None` if the name is unknown.
    pub fn get(name: &str) -> Option<Format> {
        let name = SECOND_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |(_, known)| *known);
        if let Some((_, ebits, mbits, bias, signed, specials)) = FLOATS.iter().find(|f| f.0 == name) {
            return Some(Format::float(name, *ebits, *mbits, *bias, *signed, *specials));
        }
        if let Some((_, bits, fraction, signed, full)) = INTEGERS.iter().find(|f| f.0 == name) {
            return Some(Format::int(name, *bits, *fraction, *signed, *full));
        }
        if let Some((_, values)) = CODEBOOKS.iter().find(|f| f.0 == name) {
            return Format::codebook(Some(name), values);
        }
        if name == "e8m0" {
            return Some(Format::e8m0());
        }
        exmy(name).or_else(|| p3109(name)).or_else(|| table(name))
    }

    /// Names of the catalogue; any other eXmY, P3109 format and table of values has a name too.
    pub fn names() -> Vec<&'static str> {
        let floats = FLOATS.iter().map(|f| f.0).chain(["e8m0"]);
        let p3109 = P3109_REQUIRED.iter().copied();
        let integers = INTEGERS.iter().map(|f| f.0);
        floats.chain(p3109).chain(integers).chain(CODEBOOKS.iter().map(|f| f.0)).collect()
    }

    /// OCP MX v1.0, section 5.4.1: the scale format.
    fn e8m0() -> Format {
        Format {
            name: "e8m0".into(),
            kind: Kind::Power,
            ebits: 8,
            mbits: 0,
            signed: false,
            emin: -127,
            specials: NanTop,
            max: pow2(127),
            min: pow2(-127),
            book: None,
        }
    }
}

/// A number without sign or leading zeros.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// `eXmY`, 1 <= X <= 8, 0 <= Y <= 10: IEEE-like for X >= 5, else finite numbers only.
fn exmy(name: &str) -> Option<Format> {
    let (ebits, mbits) = name.strip_prefix('e')?.split_once('m')?;
    let (ebits, mbits) = (number(ebits)?, number(mbits)?);
    if !(1..=8).contains(&ebits) || mbits > 10 {
        return None;
    }
    let bias = (1 << (ebits - 1)) - 1;
    Some(Format::float(name, ebits, mbits, bias, true, if ebits >= 5 { Ieee } else { Finite }))
}

/// `binaryKpP[su][ef]`, P3109 v4.0 section 4.2: K bits, precision P (with the leading one), signed or unsigned,
/// extended (with infinity) or finite. 3 <= K <= 16; P <= K - 1 if signed, else P <= K.
fn p3109(name: &str) -> Option<Format> {
    let text = name.strip_prefix("binary")?;
    let (text, specials) = match text.strip_suffix('e') {
        Some(rest) => (rest, OneNanInf),
        None => (text.strip_suffix('f')?, OneNan),
    };
    let (text, signed) = match text.strip_suffix('s') {
        Some(rest) => (rest, true),
        None => (text.strip_suffix('u')?, false),
    };
    let (width, precision) = text.split_once('p')?;
    let (width, precision) = (number(width)?, number(precision)?);
    if !(3..=16).contains(&width) || precision == 0 || precision + u32::from(signed) > width {
        return None;
    }
    let ebits = width - precision + u32::from(!signed);
    // 2^(K-P-1) signed, 2^(K-P) unsigned.
    let bias = 1 << (ebits - 1);
    Some(Format::float(name, ebits, precision - 1, bias, signed, specials))
}

/// `codebook_V0_V1_...`: the values by code. The name of the result has them in their shortest form.
fn table(name: &str) -> Option<Format> {
    Format::codebook(None, &Codebook::parse(name.strip_prefix("codebook_")?)?)
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
            ("e4m3_480", 480.0, pow2(-6), pow2(-9)),
            ("e4m3_ieee", 240.0, pow2(-6), pow2(-9)),
            ("e3m4_ieee", 15.5, 0.25, pow2(-6)),
            ("e5m3", 61440.0, pow2(-14), pow2(-17)),
            ("e5m3_114688", 114688.0, pow2(-14), pow2(-17)),
            ("ue5m3", 114688.0, pow2(-14), pow2(-17)),
            ("ue5m3_61440", 61440.0, pow2(-14), pow2(-17)),
            ("e4m3fnuz", 240.0, pow2(-7), pow2(-10)),
            ("e5m2fnuz", 57344.0, pow2(-15), pow2(-17)),
            ("e4m3b11fnuz", 30.0, pow2(-10), pow2(-13)),
            ("e8m0", pow2(127), pow2(-127), pow2(-127)),
            ("bf16", 3.3895313892515355e38, pow2(-126), pow2(-133)),
            ("fp16", 65504.0, pow2(-14), pow2(-24)),
            ("fp32", f64::from(f32::MAX), pow2(-126), pow2(-149)),
            ("mxint8", 1.984375, 2.0, pow2(-6)),
            ("int4", 7.0, 8.0, 1.0),
            ("uint4", 15.0, 16.0, 1.0),
            ("binary8p4se", 224.0, pow2(-7), pow2(-10)),
            ("binary8p3se", 49152.0, pow2(-15), pow2(-17)),
            ("binary4p2sf", 3.0, 0.5, 0.25),
            ("binary8p1uf", pow2(126), pow2(-127), pow2(-127)),
        ];
        for (name, max, min_normal, min_positive) in table {
            let f = Format::get(name).unwrap();
            assert_eq!((f.max, pow2(f.emin), f.min_positive()), (max, min_normal, min_positive), "{name}");
        }
    }

    #[test]
    fn names_that_are_no_format() {
        for name in ["", "e", "e4", "m3", "e9m1", "e0m3", "e4m11", "e04m3", "e4m03", "E4M3", "int5", "e-1m3", "e4m3 "] {
            assert!(Format::get(name).is_none(), "{name:?}");
        }
        for name in ["binary2p1se", "binary17p8se", "binary8p8se", "binary8p0ue", "binary8p9uf", "binary8p3s", "binary"]
        {
            assert!(Format::get(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn a_name_of_a_table_is_made_short_and_parses_back() {
        let f = Format::get("codebook_-1.0_-0.25e0_0_0.10000000149011612").unwrap();
        assert_eq!(f.name, "codebook_-1_-0.25_0_0.1");
        assert_eq!(Format::get(&f.name).unwrap(), f);
        assert_eq!((f.bits(), f.min, f.max), (2, -1.0, f64::from(0.1f32)));
    }
}
