//! Every fast path against the scalar truth, bit for bit: all formats, roundings, scale rules, block shapes, levels and
//! thread counts, on ordinary and adversarial data.

mod common;

use common::{LEVEL, each_level, fast, noise};
use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, neighbours, simd};

/// Data families: ordinary, wide exponents, raw bit patterns, ties, near powers of two, tiny, huge, specials.
fn data(n: usize) -> Vec<(&'static str, Vec<f32>)> {
    let r = noise(n, 1);
    let unit = |b: u32| b as f32 / 4294967296.0 * 2.0 - 1.0;
    let mut families = vec![
        ("uniform", r.iter().map(|b| unit(*b)).collect::<Vec<f32>>()),
        ("wide", r.iter().map(|b| unit(*b) * 2f32.powi((b % 40) as i32 - 20)).collect()),
        ("ties", r.iter().map(|b| (*b % 257) as f32 / 16.0 - 8.0).collect()),
        ("powers", r.iter().map(|b| f32::from_bits((b % 200 + 20) << 23).next_down()).collect()),
        ("near 2^-126", r.iter().map(|b| unit(*b) * 2f32.powi(-124)).collect()),
        ("fp32 subnormal", r.iter().map(|b| f32::from_bits(b & 0x8000_ffff)).collect()),
        ("huge", r.iter().map(|b| unit(*b) * f32::MAX).collect()),
        ("zeros", r.iter().map(|b| if b & 1 == 0 { 0.0 } else { -0.0 }).collect()),
        ("sparse", r.iter().map(|b| if b % 50 == 0 { unit(*b) } else { -0.0 }).collect()),
    ];
    families.push((
        "finite patterns",
        r.iter().map(|b| f32::from_bits(*b)).map(|x| if x.is_finite() { x } else { 1.0 }).collect(),
    ));
    let mut special = families[0].1.clone();
    for (i, x) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0xffc1_2345)].into_iter().enumerate() {
        special[i * n / 5] = x;
    }
    families.push(("specials", special));
    families
}

fn roundings() -> Vec<Rounding> {
    use Rounding::*;
    vec![
        NearestEven,
        NearestAway,
        TowardZero,
        Up,
        Down,
        Stochastic(8),
        Stochastic(16),
        Stochastic(5),
        Stochastic(24),
        Stochastic(32),
        ToOdd,
        StochasticA(7),
        StochasticA(16),
        StochasticA(32),
        StochasticC(6),
        StochasticC(16),
        StochasticC(32),
    ]
}

fn truth(q: &Quantizer, layout: &Layout, x: &[f32], random: Randomness<'_>) -> Vec<f32> {
    let mut y = x.to_vec();
    let whole = absmax(x.iter().copied());
    let tensor = q.tensor_scale(whole);
    for block in blocks(q, layout, x.len()) {
        let a = match q.scaling.as_ref().map(|s| s.block) {
            Some(Block::Tensor) => whole,
            _ => absmax(block.iter().map(|i| x[*i])),
        };
        let scale = q.scale(a as f32, tensor.as_ref());
        for i in block {
            y[i] = q.fake_quant(x[i], scale, random.bits(i, q.rounding));
        }
    }
    y
}

fn blocks(q: &Quantizer, layout: &Layout, len: usize) -> Vec<Vec<usize>> {
    let size = match q.scaling.as_ref().map(|s| s.block) {
        Some(Block::Size(n)) => n,
        Some(Block::Row) => layout.axis,
        _ => return vec![(0..len).collect()],
    };
    let mut all = Vec::new();
    for outer in 0..layout.outer {
        for inner in 0..layout.inner {
            for start in (0..layout.axis).step_by(size) {
                let end = (start + size).min(layout.axis);
                all.push((start..end).map(|j| (outer * layout.axis + j) * layout.inner + inner).collect());
            }
        }
    }
    all
}

fn same(a: &[f32], b: &[f32]) -> Option<usize> {
    (0..a.len()).find(|i| a[*i].to_bits() != b[*i].to_bits())
}

/// The kernels at every level against one run of the truth.
fn check(q: &Quantizer, layout: &Layout, family: &str, x: &[f32]) {
    let (seed, stream, offset) = (0xfeed_beef_1234_5678, 42, 1000);
    let want = truth(q, layout, x, Randomness::Addressed { seed, stream, offset });
    each_level(|| {
        let got = fast(q, layout, x, Randomness::Addressed { seed, stream, offset }, 1);
        if let Some(i) = same(&got, &want) {
            panic!(
                "{family} {layout:?} {} {q:?}\nelement {i}: x {:e} ({:#x}) fast {:e} truth {:e}",
                simd::level() as u8,
                x[i],
                x[i].to_bits(),
                got[i],
                want[i]
            );
        }
    });
}

fn scalings() -> Vec<Scaling> {
    let mut all = Vec::new();
    let mut add = |format: ScaleFormat, rule, tensor_scale, block| {
        let new = if tensor_scale { Scaling::two_levels } else { Scaling::new };
        all.push(new(block, format, rule));
    };
    let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
    for block in [Block::Size(32), Block::Size(16), Block::Size(5), Block::Row, Block::Tensor] {
        for rule in [ScaleRule::Floor, ScaleRule::Ceil, ScaleRule::Rceil, ScaleRule::Even] {
            add(ScaleFormat::E8m0, rule, false, block);
        }
        for rule in [ScaleRule::Static(0.37), ScaleRule::Static(1e-30)] {
            add(float("e4m3"), rule, true, block);
        }
        for rule in [ScaleRule::Absmax, ScaleRule::Rceil] {
            add(ScaleFormat::Fp32, rule, false, block);
            add(float("e4m3"), rule, true, block);
            add(float("e4m3"), rule, false, block);
            add(float("ue5m3"), rule, true, block);
        }
    }
    all
}

const FORMATS: [&str; 14] =
    ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "mxint8", "int8", "int4", "int2", "bf16", "fp16", "e1m0", "e6m9", "e8m3"];

/// Formats of which the kernels know only some roundings, or none; and other grids.
const OTHERS: [&str; 8] =
    ["e4m3_480", "mxint8_full", "uint4", "nf4", "int1", "codebook_0_1_-0.25_3", "binary8p4se", "binary6p1sf"];

#[test]
fn blocks_equal_the_truth() {
    let layouts = [
        Layout { outer: 3, axis: 75, inner: 1 },
        Layout { outer: 1, axis: 37, inner: 67 },
        Layout { outer: 2, axis: 33, inner: 3 },
    ];
    let families = data(37 * 67);
    for name in FORMATS.into_iter().chain(OTHERS) {
        let share = if OTHERS.contains(&name) { 44 } else { 5 };
        for (k, scaling) in scalings().into_iter().enumerate() {
            for (r, rounding) in roundings().into_iter().enumerate() {
                let q = Quantizer {
                    format: Format::get(name).unwrap(),
                    scaling: Some(scaling.clone()),
                    rounding,
                    overflow: Overflow::Saturate,
                };
                // Every pair of (scaling, rounding) sees some families; every family meets every format.
                for (f, (family, x)) in families.iter().enumerate() {
                    if (k + r + f) % share == 0 {
                        for layout in &layouts {
                            check(&q, layout, family, &x[..layout.len()]);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn casts_equal_the_truth() {
    let layout = Layout { outer: 1, axis: 1500, inner: 1 };
    let families = data(1500);
    for name in FORMATS
        .iter()
        .chain(&OTHERS)
        .chain(["tf32", "fp32", "e8m0", "ue5m3", "e5m0", "e7m2", "e4m3fnuz", "binary8p1ue", "binary9p1se"].iter())
    {
        for rounding in roundings() {
            for overflow in [Overflow::Saturate, Overflow::Ieee, Overflow::Propagate] {
                let format = Format::get(name).unwrap();
                if overflow != Overflow::Saturate && !format.has_nan() && !format.has_inf() {
                    continue;
                }
                let q = Quantizer { format, scaling: None, rounding, overflow };
                for (family, x) in &families {
                    check(&q, &layout, family, x);
                }
            }
        }
    }
}

#[test]
fn neighbours_equal_the_truth() {
    let layouts = [Layout { outer: 3, axis: 75, inner: 1 }, Layout { outer: 2, axis: 33, inner: 3 }];
    each_level(|| {
        for name in ["e4m3", "e2m1", "int8", "int4", "int2", "mxint8", "e2m3", "mxint8_full", "nf4", "uint4"] {
            for scaling in scalings() {
                let q = Quantizer {
                    format: Format::get(name).unwrap(),
                    scaling: Some(scaling),
                    rounding: Rounding::NearestEven,
                    overflow: Overflow::Saturate,
                };
                for (family, x) in data(225) {
                    for layout in &layouts {
                        let x = &x[..layout.len()];
                        let (mut lo, mut hi) = (vec![0f32; x.len()], vec![0f32; x.len()]);
                        let (l, h) = (MemoryMut::F32(lo.as_mut_ptr()), MemoryMut::F32(hi.as_mut_ptr()));
                        // SAFETY: all arrays have the layout's length.
                        unsafe { neighbours(&q, layout, Memory::F32(x.as_ptr()), l, h, 1) };
                        let whole = absmax(x.iter().copied());
                        let tensor = q.tensor_scale(whole);
                        for block in blocks(&q, layout, x.len()) {
                            let fixed = q.scaling.as_ref().unwrap().block == Block::Tensor;
                            let a = if fixed { whole } else { absmax(block.iter().map(|i| x[*i])) };
                            let scale = q.scale(a as f32, tensor.as_ref());
                            for i in block {
                                let (below, above) = q.neighbours(x[i], scale);
                                let ok = (lo[i] == below && hi[i] == above) || (below.is_nan() && lo[i].is_nan());
                                assert!(
                                    ok,
                                    "{family} {q:?} x {:e}: {:e} {:e}, truth {below:e} {above:e}",
                                    x[i], lo[i], hi[i]
                                );
                            }
                        }
                    }
                }
            }
        }
    });
}

/// The result does not depend on the number of threads, and in-place equals out of place.
#[test]
fn threads_and_in_place() {
    let _guard = LEVEL.lock().unwrap_or_else(|e| e.into_inner());
    let layout = Layout { outer: 5, axis: 333, inner: 77 };
    let x: Vec<f32> = noise(layout.len(), 5).into_iter().map(|b| b as f32 / 1e9 - 2.0).collect();
    let source = Randomness::Addressed { seed: 1, stream: 2, offset: 3 };
    for scaling in scalings() {
        let q = Quantizer {
            format: Format::get("e2m1").unwrap(),
            scaling: Some(scaling),
            rounding: Rounding::Stochastic(8),
            overflow: Overflow::Saturate,
        };
        let one = fast(&q, &layout, &x, source, 1);
        for threads in [2, 3, 8] {
            assert!(same(&one, &fast(&q, &layout, &x, source, threads)).is_none());
        }
        let mut y = x.clone();
        let p = y.as_mut_ptr();
        // SAFETY: input and output are the same memory, which is allowed.
        unsafe { fake_quant(&q, &layout, Memory::F32(p), MemoryMut::F32(p), source, 2) };
        assert!(same(&one, &y).is_none());
    }
}
