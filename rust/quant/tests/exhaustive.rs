//! Casts on every input there is. The long ones run with `make test-slow`.

use dither_numerics::quantizer::Randomness;
use dither_numerics::{Format, Overflow, Quantizer, Rounding};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant};

const INFINITY: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;
const ADDRESS: Randomness<'_> = Randomness::Addressed { seed: 7, stream: 11, offset: 13 };

fn cast(name: &str, rounding: Rounding, overflow: Overflow) -> Quantizer {
    Quantizer { format: Format::get(name).unwrap(), scaling: None, rounding, overflow }
}

/// Overflow modes that have a meaning for the format.
fn overflows(f: &Format) -> Vec<Overflow> {
    let all = vec![Overflow::Saturate, Overflow::Ieee, Overflow::Propagate];
    if f.has_nan() || f.has_inf() { all } else { vec![Overflow::Saturate] }
}

fn roundings() -> Vec<Rounding> {
    use Rounding::*;
    vec![NearestEven, NearestAway, TowardZero, Up, Down, ToOdd, StochasticA(8), Stochastic(8), StochasticC(8)]
}

fn fast(q: &Quantizer, x: Memory, y: &mut [f32], source: Randomness<'_>) {
    let layout = Layout { outer: 1, axis: y.len(), inner: 1 };
    // SAFETY: the callers' `x` has as many elements as `y`.
    unsafe { fake_quant(q, &layout, x, MemoryMut::F32(y.as_mut_ptr()), source, 2) };
}

/// Where the truth changes its mind: magnitudes (as fp32 bits) from which on positive input has another result, and
/// that result. Found by bisection between the places of two neighbouring grid values, where the truth is monotone.
fn boundaries(q: &Quantizer) -> Vec<(u32, u32)> {
    let truth =
        |bits: u32| (q.format.round(f64::from(f32::from_bits(bits)), q.rounding, q.overflow, 0) as f32).to_bits();
    let codes = 0..1u32 << q.format.bits();
    let mut places: Vec<u32> = codes
        .map(|c| q.format.decode(c))
        .filter(|v| v.is_finite() && !v.is_sign_negative())
        .map(|v| (v as f32).to_bits())
        .chain([INFINITY - 1, INFINITY])
        .collect();
    places.sort_unstable();
    let mut found = vec![(0, truth(0))];
    for pair in places.windows(2) {
        let (mut from, mut to) = (pair[0], pair[1]);
        if truth(from) == truth(to) {
            continue;
        }
        while to - from > 1 {
            let middle = from + (to - from) / 2;
            if truth(middle) == truth(from) { from = middle } else { to = middle }
        }
        found.push((to, truth(to)));
    }
    found
}

/// All 2^32 inputs: every interval between two boundaries has one result.
fn every_input(q: &Quantizer) {
    let boundaries = boundaries(q);
    const BLOCK: u32 = 1 << 20;
    let (mut x, mut y) = (vec![0f32; BLOCK as usize], vec![0f32; BLOCK as usize]);
    for sign in [0, SIGN] {
        for start in (0..SIGN).step_by(BLOCK as usize) {
            for (x, bits) in x.iter_mut().zip(start | sign..) {
                *x = f32::from_bits(bits);
            }
            fast(q, Memory::F32(x.as_ptr()), &mut y, Randomness::None);
            let mut at = start;
            while at < start + BLOCK {
                let next = boundaries.partition_point(|(from, _)| *from <= at);
                let end = boundaries.get(next).map_or(INFINITY + 1, |(from, _)| *from);
                let end = if at > INFINITY { SIGN } else { end }.min(start + BLOCK);
                let expected = boundaries[next - 1].1 | sign;
                let run = &y[(at - start) as usize..(end - start) as usize];
                let all = if at > INFINITY || f32::from_bits(expected).is_nan() {
                    run.iter().fold(true, |all, y| all & y.is_nan())
                } else {
                    run.iter().fold(true, |all, y| all & (y.to_bits() == expected))
                };
                assert!(all, "{} {:?} {:?}: {at:#x}..{end:#x} sign {sign:#x}", q.format.name, q.rounding, q.overflow);
                at = end;
            }
        }
    }
}

/// The boundaries themselves, counted: one between any two neighbours, one to infinity or NaN where there is one.
#[test]
fn boundaries_of_the_truth() {
    for name in ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1"] {
        let q = cast(name, Rounding::NearestEven, Overflow::Saturate);
        let positive = (0..1u32 << (q.format.bits() - 1)).filter(|c| q.format.decode(*c).is_finite()).count();
        assert_eq!(boundaries(&q).len(), positive, "{name}");
    }
    let q = cast("e2m1", Rounding::NearestEven, Overflow::Saturate);
    let ties: Vec<f32> = boundaries(&q).iter().map(|(from, _)| f32::from_bits(*from)).collect();
    // 0.25 is even (0), 0.75 goes up to 1, 1.25 down to 1, ...
    let expected = [0.0, 0.25f32.next_up(), 0.75, 1.25f32.next_up(), 1.75, 2.5f32.next_up(), 3.5, 5.0f32.next_up()];
    assert_eq!(ties, expected);
}

#[test]
#[ignore = "slow: 2^32 inputs for each of 18 casts"]
fn every_fp32_into_fp8_fp6_fp4() {
    for name in ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1"] {
        for rounding in [Rounding::NearestEven, Rounding::TowardZero] {
            for overflow in overflows(&Format::get(name).unwrap()) {
                every_input(&cast(name, rounding, overflow));
            }
        }
    }
}

fn check(q: &Quantizer, x: &[f64], y: &[f32]) {
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let want = q.fake_quant(*x as f32, dither_numerics::Scale::Power(0), ADDRESS.bits(i, q.rounding));
        assert!(
            y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()),
            "{} {:?} {:?}: {x:e} gives {y:e}, not {want:e}",
            q.format.name,
            q.rounding,
            q.overflow
        );
    }
}

/// All 2^16 fp16 and bf16 inputs into a format, in every mode.
fn every_half(name: &str) {
    let codes: Vec<u16> = (0..=u16::MAX).collect();
    let mut y = vec![0f32; codes.len()];
    for half in ["fp16", "bf16"] {
        let format = Format::get(half).unwrap();
        let x: Vec<f64> = codes.iter().map(|c| format.decode(u32::from(*c))).collect();
        for rounding in roundings() {
            for overflow in overflows(&Format::get(name).unwrap()) {
                let q = cast(name, rounding, overflow);
                let memory = match half {
                    "fp16" => Memory::F16(codes.as_ptr()),
                    _ => Memory::Bf16(codes.as_ptr()),
                };
                fast(&q, memory, &mut y, ADDRESS);
                check(&q, &x, &y);
            }
        }
    }
}

#[test]
fn every_half_into_the_common_formats() {
    for name in ["e4m3", "e2m1", "int4", "binary8p4se"] {
        every_half(name);
    }
}

#[test]
#[ignore = "slow: 2^17 inputs for each mode of some 600 formats"]
fn every_half_into_every_format() {
    let exmy = (1..=8).flat_map(|e| (0..=10).map(move |m| format!("e{e}m{m}")));
    let p3109 =
        (3..=16).flat_map(|k| (1..=k).flat_map(move |p| ["se", "sf", "ue", "uf"].map(|d| format!("binary{k}p{p}{d}"))));
    for name in Format::names().into_iter().map(String::from).chain(exmy).chain(p3109) {
        if Format::get(&name).is_some() {
            every_half(&name);
        }
    }
}

/// Low halves around every tie and every last bit of a format: 0, 1, 2^k and its neighbours, their complements.
fn low_halves() -> Vec<u32> {
    let mut all: Vec<u32> = (0..16).flat_map(|k| [(1 << k) - 1, 1 << k, (1 << k) + 1]).collect();
    all.extend((4..16).map(|k| 0xffff - (1 << k)));
    all.extend([0xffff, 0xfffe, 0xfffd, 0x5555, 0xaaaa, 0x7ffe, 0x8002, 0xc000, 0x4001]);
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
#[ignore = "slow: 2^22 inputs for each mode of 10 formats"]
fn every_high_half_with_adversarial_low_halves() {
    let low = low_halves();
    assert_eq!(low.len(), 64);
    let x: Vec<f32> =
        (0..1u32 << 16).flat_map(|high| low.iter().map(move |low| f32::from_bits(high << 16 | low))).collect();
    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let mut y = vec![0f32; x.len()];
    for name in ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "bf16", "fp16", "tf32", "int8", "binary8p4se"] {
        for rounding in roundings() {
            for overflow in overflows(&Format::get(name).unwrap()) {
                let q = cast(name, rounding, overflow);
                fast(&q, Memory::F32(x.as_ptr()), &mut y, ADDRESS);
                check(&q, &wide, &y);
            }
        }
    }
}
