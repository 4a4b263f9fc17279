use super::*;

const MODES: [Rounding; 6] =
    [Rounding::NearestEven, Rounding::NearestAway, Rounding::TowardZero, Rounding::Up, Rounding::Down, Rounding::ToOdd];

/// Finite values of a format in ascending order.
fn values(f: &Format) -> Vec<f64> {
    let mut v: Vec<f64> = (0..1u32 << f.bits()).map(|c| f.decode(c)).filter(|v| f.min <= *v && *v <= f.max).collect();
    v.sort_by(f64::total_cmp);
    v.dedup();
    v
}

/// By search in the table of values: an independent statement of every deterministic mode.
fn by_table(table: &[f64], even: &dyn Fn(f64) -> bool, x: f64, mode: Rounding) -> f64 {
    let hi = table[table.partition_point(|v| *v < x)];
    if hi == x {
        return x;
    }
    let lo = table[table.partition_point(|v| *v < x) - 1];
    let nearest_or = |tie: f64| match (x - lo).total_cmp(&(hi - x)) {
        std::cmp::Ordering::Less => lo,
        std::cmp::Ordering::Greater => hi,
        std::cmp::Ordering::Equal => tie,
    };
    match mode {
        Rounding::NearestEven => {
            let up = !even(lo) && (even(hi) || x > 0.0);
            nearest_or(if up { hi } else { lo })
        }
        Rounding::NearestAway => nearest_or(if x > 0.0 { hi } else { lo }),
        Rounding::TowardZero => {
            if x > 0.0 {
                lo
            } else {
                hi
            }
        }
        Rounding::Up => hi,
        Rounding::Down => lo,
        Rounding::ToOdd => {
            let (near, far) = if x > 0.0 { (lo, hi) } else { (hi, lo) };
            if even(near) { far } else { near }
        }
        _ => unreachable!("stochastic"),
    }
}

#[test]
fn modes_agree_with_a_search_in_the_table() {
    let named = ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "e1m2", "e4m0", "int8", "int4", "int2", "mxint8", "fp16"];
    let others =
        ["mxint8_full", "uint4", "ue5m3", "e4m3fnuz", "binary8p4se", "binary6p1sf", "binary5p1ue", "binary5p5uf"];
    for name in named.into_iter().chain(others) {
        let f = Format::get(name).unwrap();
        let table = values(&f);
        // Without fraction bits every significand is 1: a tie between two of them takes the larger one, except
        // where P3109 looks at the exponent.
        let even = |v: f64| (f.mbits > 0 || f.one_nan()) && f.encode(v).unwrap() & 1 == 0 || v == 0.0;
        for pair in table.windows(2) {
            let mid = (pair[0] + pair[1]) / 2.0;
            for x in [pair[0], pair[0].next_up(), mid.next_down(), mid, mid.next_up(), pair[1].next_down()] {
                for mode in MODES {
                    let got = f.round(x, mode, Overflow::Saturate, 0);
                    assert_eq!(got, by_table(&table, &even, x, mode), "{name} {x} {mode:?}");
                }
            }
        }
    }
}

#[test]
fn top_of_e4m3_and_e5m2() {
    let (e4m3, e5m2) = (Format::get("e4m3").unwrap(), Format::get("e5m2").unwrap());
    let near = Rounding::NearestEven;
    assert_eq!(e4m3.round(464.0, near, Overflow::Ieee, 0), 448.0); // tie to even
    assert!(e4m3.round(464.0f64.next_up(), near, Overflow::Ieee, 0).is_nan());
    assert_eq!(e4m3.round(1e9, near, Overflow::Saturate, 0), 448.0);
    assert!(e4m3.round(f64::INFINITY, near, Overflow::Propagate, 0).is_nan());
    assert_eq!(e5m2.round(61440.0, near, Overflow::Ieee, 0), f64::INFINITY); // 57344 is odd
    assert_eq!(e5m2.round(61439.0, near, Overflow::Ieee, 0), 57344.0);
    assert_eq!(e5m2.round(-1e9, Rounding::TowardZero, Overflow::Ieee, 0), -57344.0);
    assert_eq!(e5m2.round(-1e9, Rounding::Up, Overflow::Ieee, 0), -57344.0);
    assert_eq!(e5m2.round(1e9, Rounding::Up, Overflow::Ieee, 0), f64::INFINITY);
    assert_eq!(e5m2.round(f64::INFINITY, Rounding::TowardZero, Overflow::Ieee, 0), f64::INFINITY);
    assert_eq!(e5m2.round(f64::NEG_INFINITY, near, Overflow::Propagate, 0), f64::NEG_INFINITY);
    assert_eq!(e5m2.round(1e9, near, Overflow::Propagate, 0), 57344.0);
}

#[test]
fn zero_keeps_its_sign_where_there_is_one() {
    let e4m3 = Format::get("e4m3").unwrap();
    assert!(e4m3.round(-0.0, Rounding::NearestEven, Overflow::Saturate, 0).is_sign_negative());
    assert!(e4m3.round(-1e-9, Rounding::NearestEven, Overflow::Saturate, 0).is_sign_negative());
    let int4 = Format::get("int4").unwrap();
    assert!(int4.round(-0.3, Rounding::NearestEven, Overflow::Saturate, 0).is_sign_positive());
}

#[test]
fn unsigned_formats_clamp_from_below() {
    let e8m0 = Format::get("e8m0").unwrap();
    assert_eq!(e8m0.round(0.0, Rounding::NearestEven, Overflow::Saturate, 0), pow2(-127));
    assert_eq!(e8m0.round(-3.0, Rounding::NearestEven, Overflow::Saturate, 0), pow2(-127));
    assert!(e8m0.round(-3.0, Rounding::NearestEven, Overflow::Ieee, 0).is_nan());
    assert!(e8m0.round(0.0, Rounding::NearestEven, Overflow::Ieee, 0).is_nan());
    assert_eq!(e8m0.round(-3.0, Rounding::TowardZero, Overflow::Ieee, 0), pow2(-127));
    let ue5m3 = Format::get("ue5m3").unwrap();
    assert_eq!(ue5m3.round(-3.0, Rounding::NearestEven, Overflow::Saturate, 0), 0.0);
}

/// P3109 v4.0 section 4.7.5, SatNone: a row is (format, input, rounding, result).
#[test]
fn sat_none_and_sat_propagate() {
    use Rounding::*;
    const INF: f64 = f64::INFINITY;
    let modes = [NearestEven, NearestAway, TowardZero, Up, Down, ToOdd, StochasticA(4), Stochastic(4), StochasticC(4)];
    for (name, max) in
        [("binary8p4se", 224.0), ("binary8p4sf", 240.0), ("binary8p4ue", 53248.0), ("binary8p4uf", 57344.0)]
    {
        let f = Format::get(name).unwrap();
        assert_eq!(f.max, max);
        let special = if f.has_inf() { INF } else { f64::NAN };
        let below = if f.has_inf() && f.signed { -INF } else { f64::NAN };
        for mode in modes {
            let round = |x: f64, overflow: Overflow| f.round(x, mode, overflow, 0);
            let same = |a: f64, b: f64| assert!(a == b || (a.is_nan() && b.is_nan()), "{name} {mode:?} {a} {b}");
            same(round(INF, Overflow::Ieee), special);
            same(round(-INF, Overflow::Ieee), below);
            let stops = matches!(mode, TowardZero | Down) || (mode == ToOdd && name == "binary8p4ue");
            same(round(1e9, Overflow::Ieee), if stops { max } else { special });
            let stops = matches!(mode, TowardZero | Up);
            same(round(-1e9, Overflow::Ieee), if stops { f.min } else { below });
            same(round(INF, Overflow::Propagate), if f.has_inf() { INF } else { max });
            same(round(-INF, Overflow::Propagate), if f.has_inf() && f.signed { -INF } else { f.min });
            same(round(1e9, Overflow::Propagate), max);
            same(round(-1e9, Overflow::Propagate), f.min);
            same(round(INF, Overflow::Saturate), max);
            same(round(-INF, Overflow::Saturate), f.min);
        }
        // What rounds to zero is in range whatever its sign.
        assert_eq!(f.round(-1e-9, NearestEven, Overflow::Ieee, 0), 0.0);
    }
    // Round to odd in IEEE formats stops at the largest number, which is odd.
    assert_eq!(Format::get("fp16").unwrap().round(1e9, ToOdd, Overflow::Ieee, 0), 65504.0);
    assert!(Format::get("e4m3").unwrap().round(1e9, ToOdd, Overflow::Ieee, 0).is_nan());
}

/// P3109 section 4.7.4: with one digit "even" is an even exponent field.
#[test]
fn ties_between_powers_of_two() {
    let f = Format::get("binary8p1se").unwrap();
    let near = |x: f64, mode| f.round(x, mode, Overflow::Saturate, 0);
    // Bias 64: 2^0 has the code 64, 2^1 65, 2^2 66.
    assert_eq!((near(1.5, Rounding::NearestEven), near(3.0, Rounding::NearestEven)), (1.0, 4.0));
    assert_eq!((near(1.1, Rounding::ToOdd), near(3.9, Rounding::ToOdd)), (2.0, 2.0));
    let smallest = f.min_positive();
    assert_eq!((near(smallest / 2.0, Rounding::NearestEven), near(smallest / 9.0, Rounding::ToOdd)), (0.0, smallest));
    let e4m0 = Format::get("e4m0").unwrap();
    assert_eq!(
        (
            e4m0.round(1.5, Rounding::NearestEven, Overflow::Saturate, 0),
            e4m0.round(3.0, Rounding::NearestEven, Overflow::Saturate, 0)
        ),
        (2.0, 4.0)
    );
}

/// With every value of R the share that rounds away is the one that P3109 states for the mode.
#[test]
fn stochastic_a_and_c_count() {
    let f = Format::get("e4m3").unwrap();
    for n in [1u32, 3, 8] {
        for k in 0..4096 {
            let v = f64::from(k) / 4096.0;
            let x = 16.0 + 2.0 * v; // spacing 2 in [16, 32)
            let count = |mode| (0..1u32 << n).filter(|r| f.round(x, mode, Overflow::Saturate, *r) > 16.0).count();
            let scaled = v * f64::from(1u32 << n);
            assert_eq!(count(Rounding::StochasticA(n)), scaled.floor() as usize, "{n} {v}");
            assert_eq!(count(Rounding::StochasticC(n)), scaled.round_ties_even() as usize, "{n} {v}");
        }
    }
}

/// With every value of R the share that rounds away is the probability that StochasticB states.
#[test]
fn stochastic_b_counts() {
    let f = Format::get("e4m3").unwrap();
    for n in [1u32, 3, 8, 10] {
        for k in 0..64 {
            let v = f64::from(k) / 64.0;
            let x = 16.0 + 2.0 * v; // spacing 2 in [16, 32)
            let up =
                (0..1u32 << n).filter(|r| f.round(x, Rounding::Stochastic(n), Overflow::Saturate, *r) > 16.0).count();
            let t = (v * f64::from(1u32 << (n + 1))).floor() as u32;
            let expected = (0..1u32 << n).filter(|r| t + 2 * r + 1 >= 1 << (n + 1)).count();
            assert_eq!(up, if v == 0.0 { 0 } else { expected }, "n={n} v={v}");
        }
    }
}

#[test]
fn stochastic_far_below_the_grid() {
    let f = Format::get("e4m3").unwrap();
    let quantum = pow2(-9);
    // v = 2^-20: floor(v 2^33) = 2^13 of 2^33, so exactly the R from 2^32 - 2^12 up round away.
    let x = quantum * pow2(-20);
    let up = |r: u32| f.round(x, Rounding::Stochastic(32), Overflow::Saturate, r);
    assert_eq!(up(u32::MAX - (1 << 12) + 1), quantum);
    assert_eq!(up(u32::MAX - (1 << 12)), 0.0);
    // Far below the last bit of R nothing can round away.
    assert_eq!(f.round(1e-300, Rounding::Stochastic(32), Overflow::Saturate, u32::MAX), 0.0);
}
