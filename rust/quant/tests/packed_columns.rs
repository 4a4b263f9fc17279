//! Packed arrays whose blocks lie along an axis that is not the last, against the truth, and read back against
//! `fake_quant`.

use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::random::random_bits;
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::pack::{row_bytes, unpack};
use dither_quant::packed::{Parts, Scales, Shape, dequantize, quantize};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, simd, stream};

/// Columns of every kind beside each other: ordinary, tiny, huge, zero, and with NaN or infinity.
fn data(layout: Layout, specials: bool) -> Vec<f32> {
    let unit = |i: usize| random_bits(1, 1, i as u64, 32) as f32 / 2f32.powi(31) - 1.0;
    let column = |i: usize| i % layout.inner + i / (layout.inner * layout.axis);
    let mut x: Vec<f32> = (0..layout.len())
        .map(|i| match column(i) % 16 {
            3 => 0.0 * unit(i),
            5 => unit(i) * 1e-39,
            7 => unit(i) * 3e38,
            9 => (unit(i) * 32.0).round() / 16.0,
            c => unit(i) * 2f32.powi(c as i32 - 8),
        })
        .collect();
    if specials {
        let n = x.len();
        (x[n / 3], x[n / 2], x[n - 1]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    }
    x
}

/// `block` rows share the scales of their columns; `last` divides `inner`.
fn check(q: &Quantizer, layout: Layout, last: usize, block: usize, x: &[f32], threads: usize) {
    let shape = Shape { layout, last, along_last: false };
    let (width, blocks) = (q.format.bits(), layout.axis.div_ceil(block));
    let bytes = row_bytes(last, width).unwrap();
    let mut codes = vec![0u8; layout.len() / last * bytes];
    let mut scales = vec![0u32; layout.outer * blocks * layout.inner];
    let p = scales.as_mut_ptr();
    let small = q.scaling.as_ref().unwrap().format != ScaleFormat::Fp32;
    let kept = if small { Scales::Codes(p.cast()) } else { Scales::F32(p.cast()) };
    let parts = Parts { codes: codes.as_mut_ptr(), scales: kept, zeros: std::ptr::null_mut() };
    let source = match q.rounding {
        Rounding::Stochastic(_) => Randomness::Addressed { seed: 3, stream: 4, offset: 77 },
        _ => Randomness::None,
    };
    // SAFETY: all arrays have the shape's lengths.
    let result = unsafe { quantize(q, &shape, Memory::F32(x.as_ptr()), parts, source, threads) };
    let tensor = q.tensor_scale(absmax(x.iter().copied()));
    let mut got = vec![0u32; layout.len()];
    for (codes, got) in codes.chunks(bytes).zip(got.chunks_mut(last)) {
        unpack(codes, width, got);
    }
    let mut missing: Option<usize> = None;
    for at in 0..scales.len() {
        let (row, column) = (at / layout.inner, at % layout.inner);
        let (outer, first) = (row / blocks, row % blocks * block);
        let positions =
            (first..layout.axis.min(first + block)).map(|r| (outer * layout.axis + r) * layout.inner + column);
        let scale = q.scale(absmax(positions.clone().map(|i| x[i])) as f32, tensor.as_ref());
        // SAFETY: scales are written as bytes or as words, of which there are enough.
        let code = unsafe { if small { u32::from(*p.cast::<u8>().add(at)) } else { *p.add(at) } };
        assert_eq!(Some(code), q.scale_code(scale), "{q:?} block {at}");
        for i in positions {
            let want = q.element_code(x[i], scale, source.bits(i, q.rounding));
            if want.is_none() {
                missing = Some(missing.map_or(i, |m| m.min(i)));
            }
            assert_eq!(got[i], want.unwrap_or(0), "{q:?} {:?} {scale:?} element {i}: {:e}", simd::level(), x[i]);
        }
    }
    assert_eq!(result.err(), missing, "{q:?}");
    let Ok(tensor) = result else { return };
    let mut want = vec![0f32; x.len()];
    let z = MemoryMut::F32(want.as_mut_ptr());
    // SAFETY: as above.
    unsafe { fake_quant(q, &layout, Memory::F32(x.as_ptr()), z, source, threads) };
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
    let e4m3 = || ScaleFormat::Float(Format::get("e4m3").unwrap());
    let sizes = [Block::Size(32), Block::Size(16), Block::Size(5), Block::Row];
    let all = sizes.into_iter().flat_map(|block| {
        [
            Scaling::new(block, ScaleFormat::E8m0, ScaleRule::Floor),
            Scaling::new(block, ScaleFormat::E8m0, ScaleRule::Rceil),
            Scaling::new(block, ScaleFormat::Fp32, ScaleRule::Absmax),
            Scaling::two_levels(block, e4m3(), ScaleRule::Absmax),
        ]
    });
    all.collect()
}

#[test]
fn columns_equal_the_truth() {
    // Strips of 512 columns and less, of vectors and of other lengths; several axes after the blocks' one.
    let shapes = [(2, 70, 48, 48), (1, 33, 528, 528), (3, 40, 64, 32), (2, 37, 30, 30), (1, 64, 72, 24)];
    for level in [simd::Level::Baseline, simd::Level::Avx2, simd::Level::Avx512] {
        if simd::limit(level) != level {
            continue;
        }
        let names = ["e4m3", "e2m1", "int4", "int8", "e3m2", "bf16", "e3m6", "int3"];
        for (f, format) in names.map(|n| Format::get(n).unwrap()).into_iter().enumerate() {
            for (k, scaling) in scalings().into_iter().enumerate() {
                for (r, rounding) in
                    [Rounding::NearestEven, Rounding::Stochastic(8), Rounding::Up].into_iter().enumerate()
                {
                    let (outer, axis, inner, last) = shapes[(f + k + r) % shapes.len()];
                    let layout = Layout { outer, axis, inner };
                    let block = match scaling.block {
                        Block::Size(n) => n,
                        _ => axis,
                    };
                    let scaling = Some(scaling.clone());
                    let q = Quantizer { format: format.clone(), scaling, rounding, overflow: Overflow::Saturate };
                    check(&q, layout, last, block, &data(layout, (f + k + r) % 2 == 0), 1 + k % 2);
                }
            }
        }
    }
    simd::limit(simd::detected());
}
