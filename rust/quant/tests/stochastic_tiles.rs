//! Stochastic rounding by whole tiles of random words against the scalar truth, bit for bit: arrays of several pieces and
//! a ragged end, every number of bits that fills a word, special blocks, half precision, every way to memory, every level.

use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::random::random_bits;
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, simd, stream};
use std::sync::Mutex;

/// Tests that force a SIMD level or a threshold must not run side by side.
static LEVEL: Mutex<()> = Mutex::new(());

/// Nine pieces of 512 and a ragged end.
const LEN: usize = 9 * 512 + 77;

fn each_level(mut work: impl FnMut()) {
    for level in [simd::Level::Baseline, simd::Level::Avx2, simd::Level::Avx512] {
        if simd::limit(level) == level {
            work();
        }
    }
    simd::limit(simd::detected());
}

/// Ordinary numbers, in some blocks numbers that the kernels leave to others.
fn data(special: bool) -> Vec<f32> {
    let noise = |i: usize| random_bits(3, 5, i as u64, 32);
    let mut x: Vec<f32> = (0..LEN).map(|i| (noise(i) as f32 / 1e9 - 2.1) * 2f32.powi(noise(i) as i32 % 7)).collect();
    if special {
        x[700] = f32::NAN;
        x[701] = f32::from_bits(0xffc1_2345);
        x[1300] = f32::NEG_INFINITY;
        x[1301] = f32::MAX;
        x[2048..2176].fill(-0.0);
        for (i, x) in x[2700..2900].iter_mut().enumerate() {
            *x = f32::from_bits(noise(i) & 0x8000_ffff);
        }
        x[3333] = f32::INFINITY;
    }
    x
}

fn quantizers(rounding: Rounding) -> Vec<Quantizer> {
    let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
    let scaled = |format: &str, scaling: Scaling| (format.to_owned(), Some(scaling), Overflow::Saturate);
    let mut all = vec![
        scaled("e2m1", Scaling::new(Block::Size(32), ScaleFormat::E8m0, ScaleRule::Floor)),
        scaled("e4m3", Scaling::new(Block::Size(512), ScaleFormat::E8m0, ScaleRule::Ceil)),
        scaled("e2m3", Scaling::new(Block::Size(48), ScaleFormat::E8m0, ScaleRule::Floor)),
        scaled("int4", Scaling::new(Block::Size(128), ScaleFormat::Fp32, ScaleRule::Absmax)),
        scaled("int8", Scaling::new(Block::Row, ScaleFormat::Fp32, ScaleRule::Absmax)),
        scaled("e2m1", Scaling::two_levels(Block::Size(16), float("e4m3"), ScaleRule::Absmax)),
        scaled("e3m2", Scaling::new(Block::Size(64), float("e4m3"), ScaleRule::Absmax)),
        scaled("e4m3", Scaling::new(Block::Tensor, ScaleFormat::Fp32, ScaleRule::Absmax)),
    ];
    for (format, overflow) in [
        ("e4m3", Overflow::Saturate),
        ("e5m2", Overflow::Ieee),
        ("bf16", Overflow::Ieee),
        ("bf16", Overflow::Saturate),
        ("fp16", Overflow::Ieee),
        ("int4", Overflow::Saturate),
    ] {
        all.push((format.to_owned(), None, overflow));
    }
    let quantizer = |(format, scaling, overflow): (String, _, _)| Quantizer {
        format: Format::get(&format).unwrap(),
        scaling,
        rounding,
        overflow,
    };
    all.into_iter().map(quantizer).collect()
}

fn layout() -> Layout {
    Layout { outer: 1, axis: LEN, inner: 1 }
}

fn truth(q: &Quantizer, x: &[f32], random: Randomness<'_>) -> Vec<f32> {
    let whole = absmax(x.iter().copied());
    let tensor = q.tensor_scale(whole);
    let block = match q.scaling.as_ref().map(|s| s.block) {
        Some(Block::Size(n)) => n,
        _ => x.len(),
    };
    let mut y = Vec::new();
    for block in x.chunks(block) {
        let scale = q.scale(absmax(block.iter().copied()) as f32, tensor.as_ref());
        for x in block {
            y.push(q.fake_quant(*x, scale, random.bits(y.len(), q.rounding)));
        }
    }
    y
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    if let Some(i) = (0..want.len()).find(|i| got[*i].to_bits() != want[*i].to_bits()) {
        panic!("{what}, level {}\nelement {i}: {:e}, truth {:e}", simd::level() as u8, got[i], want[i]);
    }
}

#[test]
fn tiles_equal_the_truth() {
    let _guard = LEVEL.lock().unwrap_or_else(|e| e.into_inner());
    let b = [1, 2, 4, 5, 7, 8, 12, 16, 20, 32].map(Rounding::Stochastic);
    for rounding in b.into_iter().chain([4, 8, 16, 32].map(Rounding::StochasticA)) {
        for q in quantizers(rounding) {
            for special in [false, true] {
                let x = data(special);
                // The first starts a tile, the second ends the addresses within the array, the third is within a tile.
                for offset in [1 << 40, u64::MAX - 2047, 1000] {
                    let source = Randomness::Addressed { seed: 7, stream: 1 << 33, offset };
                    let want = truth(&q, &x, source);
                    each_level(|| {
                        let mut y = vec![1f32; LEN];
                        let (from, to) = (Memory::F32(x.as_ptr()), MemoryMut::F32(y.as_mut_ptr()));
                        // SAFETY: both arrays have the layout's length.
                        unsafe { fake_quant(&q, &layout(), from, to, source, 1) };
                        assert_same(&y, &want, &format!("{q:?} special {special} offset {offset}"));
                    });
                }
            }
        }
    }
}

/// Past the caches at every alignment and not, in place, by several threads: the same numbers, and nothing beside them.
#[test]
fn every_way_to_memory() {
    let _guard = LEVEL.lock().unwrap_or_else(|e| e.into_inner());
    let source = Randomness::Addressed { seed: 7, stream: 3, offset: 0 };
    for q in [8, 16].map(Rounding::Stochastic).into_iter().flat_map(quantizers) {
        let x = data(true);
        let want = truth(&q, &x, source);
        each_level(|| {
            for streamed in [false, true] {
                stream::set_threshold(Some(if streamed { 1 } else { usize::MAX }));
                for at in 0..17 {
                    let mut y = vec![1f32; LEN + 32];
                    let (from, to) = (Memory::F32(x.as_ptr()), MemoryMut::F32(y[at..].as_mut_ptr()));
                    // SAFETY: the output has room for the layout from `at` on.
                    unsafe { fake_quant(&q, &layout(), from, to, source, 1 + at % 3) };
                    assert_same(&y[at..], &want, &format!("{q:?} streamed {streamed} at {at}"));
                    assert!(y[..at].iter().chain(&y[at + LEN..]).all(|y| *y == 1.0), "{q:?} wrote beside its output");
                }
                let mut y = x.clone();
                let p = y.as_mut_ptr();
                // SAFETY: input and output are the same memory, which is allowed.
                unsafe { fake_quant(&q, &layout(), Memory::F32(p), MemoryMut::F32(p), source, 2) };
                assert_same(&y, &want, &format!("{q:?} in place"));
            }
        });
        stream::set_threshold(None);
    }
}

/// bf16 and fp16 in and out give the fp32 result of their values, rounded once.
#[test]
fn half_precision() {
    let _guard = LEVEL.lock().unwrap_or_else(|e| e.into_inner());
    let source = Randomness::Addressed { seed: 9, stream: 3, offset: 0 };
    for q in quantizers(Rounding::Stochastic(8)) {
        for name in ["bf16", "fp16"] {
            let f = Format::get(name).unwrap();
            let nearest = |x: f32| f.round(f64::from(x), Rounding::NearestEven, Overflow::Ieee, 0) as f32;
            let x: Vec<f32> = data(true).into_iter().map(nearest).collect();
            let codes: Vec<u16> = x.iter().map(|x| f.encode(f64::from(*x)).unwrap() as u16).collect();
            let want: Vec<f32> = truth(&q, &x, source).into_iter().map(nearest).collect();
            each_level(|| {
                for streamed in [false, true] {
                    stream::set_threshold(Some(if streamed { 1 } else { usize::MAX }));
                    let mut y = vec![0u16; LEN];
                    let (from, to) = match name {
                        "bf16" => (Memory::Bf16(codes.as_ptr()), MemoryMut::Bf16(y.as_mut_ptr())),
                        _ => (Memory::F16(codes.as_ptr()), MemoryMut::F16(y.as_mut_ptr())),
                    };
                    // SAFETY: all arrays have the layout's length.
                    unsafe { fake_quant(&q, &layout(), from, to, source, 2) };
                    for (i, (y, want)) in y.iter().zip(&want).enumerate() {
                        let got = f.decode(u32::from(*y)) as f32;
                        let equal = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                        assert!(equal, "{name} {q:?} element {i}: {got} {want}");
                    }
                }
            });
        }
    }
    stream::set_threshold(None);
}
