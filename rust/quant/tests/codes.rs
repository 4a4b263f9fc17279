//! Encode and decode against the truth, bit for bit: formats, roundings, overflow modes, element types, levels.

mod common;

use common::each_level;
use dither_numerics::quantizer::Randomness;
use dither_numerics::random::random_bits;
use dither_numerics::{Format, Overflow, Quantizer, Rounding};
use dither_quant::codes::{Codes, decode, encode};
use dither_quant::{Memory, MemoryMut, simd, stream};

const FORMATS: [&str; 20] = [
    "e4m3",
    "e5m2",
    "e3m2",
    "e2m3",
    "e2m1",
    "mxint8",
    "int8",
    "int4",
    "int3",
    "int2",
    "bf16",
    "fp16",
    "e1m2",
    "e6m9",
    "e8m3",
    "e4m3_480",
    "ue5m3",
    "nf4",
    "e5m0",
    "binary8p4se",
];

/// Codes of any width, as the truth's and as the array's.
fn encoded(q: &Quantizer, x: &[f32], source: Randomness<'_>, threads: usize) -> (Vec<u32>, Option<usize>) {
    let bits = q.format.bits();
    let memory = Memory::F32(x.as_ptr());
    // SAFETY: all arrays have the length of `x`.
    unsafe {
        if bits <= 8 {
            let mut c = vec![0u8; x.len()];
            let bad = encode(q, x.len(), memory, Codes::U8(c.as_mut_ptr()), source, threads);
            (c.into_iter().map(u32::from).collect(), bad)
        } else if bits <= 16 {
            let mut c = vec![0u16; x.len()];
            let bad = encode(q, x.len(), memory, Codes::U16(c.as_mut_ptr()), source, threads);
            (c.into_iter().map(u32::from).collect(), bad)
        } else {
            let mut c = vec![0u32; x.len()];
            let bad = encode(q, x.len(), memory, Codes::U32(c.as_mut_ptr()), source, threads);
            (c, bad)
        }
    }
}

fn check(q: &Quantizer, x: &[f32], source: Randomness<'_>) {
    let (got, bad) = encoded(q, x, source, 1);
    let mut first = None;
    for (i, x) in x.iter().enumerate() {
        let y = q.format.round(f64::from(*x), q.rounding, q.overflow, source.bits(i, q.rounding));
        let want = q.format.encode(y);
        first = first.or(want.is_none().then_some(i));
        assert_eq!(got[i], want.unwrap_or(0), "{q:?} {:?} element {i}: {x:e} {:#x}", simd::level(), x.to_bits());
    }
    assert_eq!(bad, first, "{q:?}");
}

fn roundings() -> [Rounding; 9] {
    use Rounding::*;
    [NearestEven, NearestAway, Up, ToOdd, Stochastic(8), Stochastic(16), Stochastic(24), Stochastic(32), StochasticA(8)]
}

/// Every high half with low halves at and beside the ties, and raw patterns.
fn patterns() -> Vec<f32> {
    let lows = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let halves = (0..1u32 << 16).step_by(7).flat_map(|high| lows.map(|low| high << 16 | low));
    let raw = (0..20_000).map(|i| random_bits(1, 2, i, 32));
    halves.chain(raw).map(f32::from_bits).collect()
}

#[test]
fn encode_equals_the_truth() {
    let all = patterns();
    let finite: Vec<f32> = all.iter().copied().filter(|x| x.is_finite()).collect();
    // Magnitudes around a format's own range, where most codes are.
    let near: Vec<f32> = finite.iter().map(|x| f32::from_bits(x.to_bits() & 0x83ff_ffff | 0x3c00_0000)).collect();
    let source = Randomness::Addressed { seed: 5, stream: 6, offset: u64::MAX - 7000 };
    each_level(|| {
        for (f, name) in FORMATS.iter().enumerate() {
            for (r, rounding) in roundings().into_iter().enumerate() {
                for overflow in [Overflow::Saturate, Overflow::Ieee, Overflow::Propagate] {
                    let q = Quantizer { format: Format::get(name).unwrap(), scaling: None, rounding, overflow };
                    // A third of the patterns a combination; the slow ones of the truth alone a little.
                    let from = (f + r) % 3;
                    let some = |x: &[f32]| x.iter().copied().skip(from).step_by(9).collect::<Vec<f32>>();
                    for x in [some(&near), some(&finite), some(&all)] {
                        check(&q, &x, source);
                    }
                }
            }
        }
    });
}

/// Awkward lengths, given bits, bf16 input, threads.
#[test]
fn encode_lengths_types_and_threads() {
    let x: Vec<f32> = (0..70_000).map(|i| (random_bits(3, 4, i, 32) as f32 / 2e9 - 1.0) * 300.0).collect();
    let given: Vec<u32> = (0..x.len() as u64).map(|i| random_bits(9, 9, i, 8)).collect();
    let q = |name: &str, rounding| Quantizer {
        format: Format::get(name).unwrap(),
        scaling: None,
        rounding,
        overflow: Overflow::Saturate,
    };
    each_level(|| {
        for n in [0, 1, 3, 15, 16, 17, 31, 33, 1000, 1023, 1025, 4095, 4097] {
            check(&q("e4m3", Rounding::NearestEven), &x[..n], Randomness::None);
            check(&q("fp16", Rounding::Stochastic(8)), &x[..n], Randomness::Given(&given[..n]));
            check(&q("int4", Rounding::Stochastic(8)), &x[..n], Randomness::Given(&given[..n]));
        }
        let source = Randomness::Addressed { seed: 1, stream: 2, offset: 3 };
        let q = q("e5m2", Rounding::Stochastic(7));
        assert_eq!(encoded(&q, &x, source, 1), encoded(&q, &x, source, 3));
        let narrow: Vec<u16> = x.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        let wide: Vec<f32> = narrow.iter().map(|b| f32::from_bits(u32::from(*b) << 16)).collect();
        let mut codes = vec![0u8; x.len()];
        // SAFETY: all arrays have the length of `x`.
        unsafe { encode(&q, x.len(), Memory::Bf16(narrow.as_ptr()), Codes::U8(codes.as_mut_ptr()), source, 1) };
        assert!(codes.into_iter().map(u32::from).eq(encoded(&q, &wide, source, 1).0));
    });
}

#[test]
fn decode_equals_the_truth() {
    each_level(|| {
        for name in FORMATS {
            let f = Format::get(name).unwrap();
            let wide = f.bits() > 8;
            // Every code; bits above the width are ignored.
            let n = if wide { 1usize << 16 } else { 256 };
            for len in [n, n - 1, 37, 16, 5] {
                let (mut bytes, mut halves) = ((0..=255u8).collect::<Vec<u8>>(), (0..=u16::MAX).collect::<Vec<u16>>());
                let codes = if wide { Codes::U16(halves.as_mut_ptr()) } else { Codes::U8(bytes.as_mut_ptr()) };
                // Past the caches or not, at addresses that allow it and at others.
                for (threshold, start) in [(usize::MAX, 0), (1, 0), (1, 1), (1, 4)] {
                    stream::set_threshold(Some(threshold));
                    let mut y = vec![0f32; start + len];
                    // SAFETY: both arrays hold at least `len` elements, the second after `start` others.
                    unsafe { decode(&f, len, codes, MemoryMut::F32(y.as_mut_ptr().add(start)), 1) };
                    for (code, y) in y[start..].iter().enumerate() {
                        let want = f.decode(code as u32) as f32;
                        assert!(y.to_bits() == want.to_bits(), "{name} {code:#x}: {y:e} {want:e} {:?}", simd::level());
                    }
                }
                stream::set_threshold(None);
            }
        }
    });
}
