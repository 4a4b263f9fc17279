//! The same results whatever the arrays are made of: half precision, alignments, stores past the caches, threads.

mod common;

use common::{each_level, fast, noise};
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, simd, stream};

/// bf16 and fp16 arrays give the fp32 result of their values, rounded once: at every level, at every alignment, past the
/// caches, with threads and in place; NaN included, bit for bit the same on all these ways.
#[test]
fn half_precision_arrays() {
    let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
    let scaling = |block, format, rule| Some(Scaling::new(block, format, rule));
    let e8m0 = |block| scaling(block, ScaleFormat::E8m0, ScaleRule::Floor);
    let fp32 = |block| scaling(block, ScaleFormat::Fp32, ScaleRule::Absmax);
    let two_levels = |rule| Some(Scaling::two_levels(Block::Size(16), float("e4m3"), rule));
    let quantizers = [
        ("e4m3", e8m0(Block::Size(32))),
        ("e2m1", e8m0(Block::Size(48))),
        ("int4", fp32(Block::Size(5))),
        ("int4", fp32(Block::Size(128))),
        ("int8", fp32(Block::Row)),
        ("e5m2", fp32(Block::Tensor)),
        ("e2m1", two_levels(ScaleRule::Absmax)),
        ("e2m1", two_levels(ScaleRule::Static(0.0))),
        ("e4m3", fp32(Block::Tile(16, 16))),
        ("e2m1", e8m0(Block::Tile(3, 700))),
    ];
    let casts = ["e4m3", "e5m2", "e2m3", "tf32", "fp32", "fp16", "bf16", "int8", "e8m3"].map(|name| (name, None));
    for (name, scaling) in quantizers.into_iter().chain(casts) {
        let format = Format::get(name).unwrap();
        let overflow = if format.has_inf() { Overflow::Ieee } else { Overflow::Saturate };
        let q = Quantizer { format, scaling, rounding: Rounding::NearestEven, overflow };
        for layout in [(2, 80, 3), (1, 3000, 1), (3, 333, 1), (2, 37, 531), (3, 48, 32), (1, 3, 1), (1, 64, 16)] {
            half_precision(&q, &Layout { outer: layout.0, axis: layout.1, inner: layout.2 });
        }
    }
}

fn half_precision(q: &Quantizer, layout: &Layout) {
    let n = layout.len();
    for (name, any) in [("bf16", false), ("fp16", false), ("bf16", true), ("fp16", true)] {
        let f = Format::get(name).unwrap();
        // Any bits, among them many NaN; or finite ones, some blocks of subnormals.
        let middle = if name == "bf16" { 0x7fff } else { 0x77ff };
        let code = |(i, b): (usize, u32)| match b as u16 {
            b if any => b,
            b if i / 200 % 4 == 3 => b & 0x83ff >> (i / 800 % 3),
            b => b & (0x8000 | middle >> (i % 2)) & !0x0800,
        };
        let codes: Vec<u16> = noise(n, 8).into_iter().enumerate().map(code).collect();
        let x: Vec<f32> = codes.iter().map(|c| f.decode(u32::from(*c)) as f32).collect();
        let wide = fast(q, layout, &x, Randomness::None, 1);
        let mut first = None;
        let memory = |x: *const u16, y: *mut u16| match name {
            "bf16" => (Memory::Bf16(x), MemoryMut::Bf16(y)),
            _ => (Memory::F16(x), MemoryMut::F16(y)),
        };
        let mut check = |how: &str, got: &[u16]| {
            let first = first.get_or_insert_with(|| {
                for (i, (y, want)) in got.iter().zip(&wide).enumerate() {
                    let want = f.round(f64::from(*want), Rounding::NearestEven, Overflow::Ieee, 0);
                    let got = f.decode(u32::from(*y));
                    let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                    assert!(same, "{q:?} {layout:?} {name} {i}: {} gives {got}, not {want}", x[i]);
                }
                got.to_vec()
            });
            let same = first.iter().zip(got).position(|(a, b)| a != b);
            assert_eq!(same, None, "{q:?} {layout:?} {name} {how} {}", simd::level() as u8);
        };
        each_level(|| {
            for (at, threads) in (0..9).chain([16]).zip([1, 1, 1, 1, 1, 1, 1, 1, 2, 3]) {
                for threshold in [1, usize::MAX] {
                    stream::set_threshold(Some(threshold));
                    let mut y = vec![1u16; n + 32];
                    let (input, output) = memory(codes.as_ptr(), y[at..].as_mut_ptr());
                    // SAFETY: the output has room for the layout from `at` on.
                    unsafe { fake_quant(q, layout, input, output, Randomness::None, threads) };
                    check("apart", &y[at..at + n]);
                    assert!(y[..at].iter().chain(&y[at + n..]).all(|y| *y == 1));
                }
            }
            let mut y = codes.clone();
            let p = y.as_mut_ptr();
            let (input, output) = memory(p, p);
            // SAFETY: in place is allowed.
            unsafe { fake_quant(q, layout, input, output, Randomness::None, 2) };
            check("in place", &y);
        });
        stream::set_threshold(None);
    }
}

/// Results stored past the caches are those of ordinary stores: outputs at every alignment, tails, all output types,
/// every level.
#[test]
fn streamed_results() {
    let quantizers = [
        (ScaleFormat::E8m0, ScaleRule::Floor, false, Block::Size(32)),
        (ScaleFormat::Fp32, ScaleRule::Absmax, false, Block::Row),
        (ScaleFormat::Fp32, ScaleRule::Absmax, false, Block::Size(128)),
        (ScaleFormat::Fp32, ScaleRule::Absmax, false, Block::Tensor),
        (ScaleFormat::Float(Format::get("e4m3").unwrap()), ScaleRule::Absmax, true, Block::Size(16)),
    ]
    .map(|(format, rule, tensor_scale, block)| {
        Some(Scaling { block, format, rule, tensor_scale, options: Default::default() })
    });
    let quantizers = quantizers.into_iter().chain([None]).map(|scaling| Quantizer {
        format: Format::get("e2m1").unwrap(),
        scaling,
        rounding: Rounding::NearestEven,
        overflow: Overflow::Saturate,
    });
    let quantizers: Vec<Quantizer> = quantizers.collect();
    for layout in [(1, 3000, 1), (3, 1333, 1), (2, 70, 531), (1, 5, 1), (40, 33, 3)] {
        let layout = Layout { outer: layout.0, axis: layout.1, inner: layout.2 };
        let n = layout.len();
        let x: Vec<f32> = noise(n, 6).into_iter().map(|b| b as f32 / 1e9 - 2.0).collect();
        for q in &quantizers {
            let run = |streamed: bool, at: usize, threads: usize| {
                stream::set_threshold(Some(if streamed { 1 } else { usize::MAX }));
                let (mut wide, mut bf16, mut fp16) = (vec![1f32; n + 32], vec![1u16; n + 32], vec![1u16; n + 32]);
                let outputs = [
                    MemoryMut::F32(wide[at..].as_mut_ptr()),
                    MemoryMut::Bf16(bf16[at..].as_mut_ptr()),
                    MemoryMut::F16(fp16[at..].as_mut_ptr()),
                ];
                for y in outputs {
                    // SAFETY: the outputs have room for the layout from `at` on.
                    unsafe { fake_quant(q, &layout, Memory::F32(x.as_ptr()), y, Randomness::None, threads) };
                }
                let wide: Vec<u32> = wide.into_iter().map(f32::to_bits).collect();
                (wide, bf16, fp16)
            };
            each_level(|| {
                for at in 0..17 {
                    let want = run(false, at, 1);
                    assert!(want == run(true, at, 1) && want == run(true, at, 3), "{layout:?} {at}");
                }
            });
        }
    }
    stream::set_threshold(None);
}
