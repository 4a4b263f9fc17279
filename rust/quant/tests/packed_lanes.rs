//! Packed arrays against the truth, code for code and scale for scale, and read back against `fake_quant`.

use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::random::random_bits;
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::pack::{row_bytes, unpack};
use dither_quant::packed::{Parts, Scales, Shape, dequantize, quantize};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, simd, stream};

/// Blocks of every kind beside each other: ordinary, tiny, huge, zero, and with NaN or infinity.
fn data(n: usize, specials: bool) -> Vec<f32> {
    let unit = |i: usize| random_bits(1, 1, i as u64, 32) as f32 / 2f32.powi(31) - 1.0;
    let mut x: Vec<f32> = (0..n)
        .map(|i| match i / 64 % 16 {
            3 => 0.0 * unit(i),
            5 => unit(i) * 1e-39,
            7 => unit(i) * 3e38,
            9 => (unit(i) * 32.0).round() / 16.0,
            _ => unit(i) * 2f32.powi((i / 64 % 23) as i32 - 11),
        })
        .collect();
    if specials && n > 1000 {
        (x[100], x[433], x[901]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    }
    x
}

fn check(q: &Quantizer, rows: usize, last: usize, x: &[f32], threads: usize) {
    let shape = Shape { layout: Layout { outer: rows, axis: last, inner: 1 }, last, along_last: true };
    let width = q.format.bits();
    let scaling = q.scaling.as_ref().unwrap();
    let block = match scaling.block {
        Block::Size(n) => n,
        Block::Row => last,
        _ => rows * last,
    };
    let per_row = last.div_ceil(block);
    let bytes = row_bytes(last, width).unwrap();
    let (mut codes, mut scales) = (vec![0u8; rows * bytes], vec![0u32; (rows * per_row).max(1)]);
    let p = scales.as_mut_ptr();
    let small = scaling.format != ScaleFormat::Fp32;
    let kept = if small { Scales::Codes(p.cast()) } else { Scales::F32(p.cast()) };
    let parts = Parts { codes: codes.as_mut_ptr(), scales: kept, zeros: std::ptr::null_mut() };
    let source = match q.rounding {
        Rounding::Stochastic(_) => Randomness::Addressed { seed: 3, stream: 4, offset: 77 },
        _ => Randomness::None,
    };
    // SAFETY: all arrays have the shape's lengths.
    let result = unsafe { quantize(q, &shape, Memory::F32(x.as_ptr()), parts, source, threads) };
    let whole = absmax(x.iter().copied());
    let tensor = q.tensor_scale(whole);
    let mut missing = None;
    for r in 0..rows {
        let mut row = vec![0u32; last];
        unpack(&codes[r * bytes..(r + 1) * bytes], width, &mut row);
        for b in 0..per_row {
            let range = b * block..last.min((b + 1) * block);
            let values = &x[r * last..][range.clone()];
            let a = if scaling.block == Block::Tensor { whole } else { absmax(values.iter().copied()) };
            let scale = q.scale(a as f32, tensor.as_ref());
            let at = if scaling.block == Block::Tensor { 0 } else { r * per_row + b };
            // SAFETY: scales are written as bytes or as words, of which there are enough.
            let got = unsafe { if small { u32::from(*p.cast::<u8>().add(at)) } else { *p.add(at) } };
            assert_eq!(Some(got), q.scale_code(scale), "{q:?} row {r} block {b} {a:e}");
            for i in range {
                let at = r * last + i;
                let want = q.element_code(x[at], scale, source.bits(at, q.rounding));
                missing = missing.or(want.is_none().then_some(at));
                let level = simd::level();
                assert_eq!(row[i], want.unwrap_or(0), "{q:?} {level:?} {scale:?} element {r},{i}: {:e}", x[at]);
            }
        }
    }
    assert_eq!(result.err(), missing);
    let Ok(tensor) = result else { return };
    let mut want = vec![0f32; x.len()];
    let z = MemoryMut::F32(want.as_mut_ptr());
    // SAFETY: as above.
    unsafe { fake_quant(q, &shape.layout, Memory::F32(x.as_ptr()), z, source, threads) };
    // Past the caches or not, at an address that allows it and at another.
    for (threshold, start) in [(usize::MAX, 0), (1, 0), (1, 1)] {
        stream::set_threshold(Some(threshold));
        let mut back = vec![0f32; start + x.len()];
        // SAFETY: as above, after `start` others.
        unsafe {
            let y = MemoryMut::F32(back.as_mut_ptr().add(start));
            dequantize(q, &shape, parts, tensor, false, y, threads);
        }
        for (i, (y, z)) in back[start..].iter().zip(&want).enumerate() {
            assert!(y.to_bits() == z.to_bits() || (y.is_nan() && z.is_nan()), "{q:?} element {i}: {y:e} {z:e}");
        }
    }
    stream::set_threshold(None);
}

fn scalings() -> Vec<Scaling> {
    let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
    let mut all = Vec::new();
    for block in [Block::Size(32), Block::Size(16), Block::Size(48), Block::Size(20), Block::Row, Block::Tensor] {
        for rule in [ScaleRule::Floor, ScaleRule::Ceil, ScaleRule::Rceil, ScaleRule::Even] {
            all.push(Scaling::new(block, ScaleFormat::E8m0, rule));
        }
        for rule in [ScaleRule::Absmax, ScaleRule::Rceil] {
            all.push(Scaling::new(block, ScaleFormat::Fp32, rule));
            all.push(Scaling::new(block, float("e4m3"), rule));
            all.push(Scaling::two_levels(block, float("e4m3"), rule));
            all.push(Scaling::two_levels(block, float("ue5m3"), rule));
        }
    }
    all
}

#[test]
fn parts_equal_the_truth() {
    let (with, without) = (data(97 * 96, true), data(97 * 96, false));
    for level in [simd::Level::Baseline, simd::Level::Avx2, simd::Level::Avx512] {
        if simd::limit(level) != level {
            continue;
        }
        let names = ["e4m3", "e5m2", "e2m1", "int4", "int8", "mxint8", "fp16", "bf16", "e3m2", "nf4"];
        for name in names.map(|n| Format::get(n).unwrap()) {
            for (k, scaling) in scalings().into_iter().enumerate() {
                for rounding in [Rounding::NearestEven, Rounding::Stochastic(8), Rounding::Stochastic(32), Rounding::Up]
                {
                    let scaling = Some(scaling.clone());
                    let q = Quantizer { format: name.clone(), scaling, rounding, overflow: Overflow::Saturate };
                    let x = if k % 2 == 0 { &with } else { &without };
                    let (rows, last) =
                        [(3, 96), (2, 75), (97, 16), (1, 4800)][(k + rounding.random_bits() as usize) % 4];
                    check(&q, rows, last, &x[..rows * last], 1 + k % 2);
                }
            }
        }
    }
    simd::limit(simd::detected());
}
