use super::*;

#[test]
fn every_code_survives_decode_and_encode() {
    let exmy = (1..=8).flat_map(|e| (0..=10).map(move |m| format!("e{e}m{m}")));
    let p3109 =
        (3..=10).flat_map(|k| (1..=k).flat_map(move |p| ["se", "sf", "ue", "uf"].map(|d| format!("binary{k}p{p}{d}"))));
    let named = Format::names().into_iter().map(String::from);
    for name in exmy.chain(p3109).chain(named).chain(["codebook_3_1_-2".into()]) {
        let Some(f) = Format::get(&name) else {
            assert!(name.starts_with("binary"), "{name}"); // signed formats with P = K
            continue;
        };
        if f.bits() > 19 {
            continue;
        }
        for code in 0..1u32 << f.bits() {
            let value = f.decode(code);
            match f.encode(value) {
                Some(back) if value.is_nan() => assert!(f.decode(back).is_nan(), "{name} {code:#x}"),
                Some(back) => assert_eq!(back, code, "{name} {value}"),
                // The most negative code of symmetric integers, and codes beyond a table.
                None if f.kind == Kind::Int => assert!(code == 1 << (f.bits() - 1), "{name} {code:#x} {value}"),
                None => assert!(f.book.is_some() && value.is_nan(), "{name} {code:#x} {value}"),
            }
        }
    }
}

#[test]
fn positive_codes_are_ordered() {
    for name in ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "ue5m3", "e8m0", "bf16", "e1m0", "e1m3", "binary8p1ue"] {
        let f = Format::get(name).unwrap();
        let top = 1u32 << (f.bits() - u32::from(f.signed));
        let values: Vec<f64> = (0..top).map(|c| f.decode(c)).filter(|v| v.is_finite()).collect();
        assert!(values.windows(2).all(|w| w[0] < w[1]), "{name}");
        assert_eq!(*values.last().unwrap(), f.max, "{name}");
        assert_eq!(f.decode(f.max_code()), f.max, "{name}");
    }
}

/// P3109 v4.0 section 4.3: where the specials are.
#[test]
fn specials_of_p3109() {
    let at = |name: &str, code: u32| Format::get(name).unwrap().decode(code);
    assert!(at("binary8p4se", 0x80).is_nan() && at("binary8p4sf", 0x80).is_nan());
    assert_eq!((at("binary8p4se", 0x7f), at("binary8p4se", 0xff)), (f64::INFINITY, f64::NEG_INFINITY));
    assert_eq!((at("binary8p4sf", 0x7f), at("binary8p4sf", 0xff)), (240.0, -240.0));
    assert!(at("binary8p4ue", 0xff).is_nan() && at("binary8p4uf", 0xff).is_nan());
    assert_eq!(at("binary8p4ue", 0xfe), f64::INFINITY);
    assert_eq!(at("binary8p4uf", 0xfe), Format::get("binary8p4uf").unwrap().max);
}
