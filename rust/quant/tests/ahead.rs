//! Runs of blocks to nearest even, where the next absmax is taken while a block is rounded, and rows of columns without
//! divisions: quotients at their hardest, special blocks anywhere, every type, alignment and level, against the scalar
//! truth.

use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::{Block, Overflow, ScaleFormat, ScaleRule, Scaling};
use dither_numerics::{Format, Quantizer, Rounding, Scale};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, simd, stream};
use std::sync::Mutex;

/// SIMD levels and the threshold of streaming are the process's.
static STATE: Mutex<()> = Mutex::new(());

fn bits(seed: u64, i: usize) -> u32 {
    dither_numerics::random::random_bits(seed, 7, i as u64, 32)
}

fn quantizer(format: &str, block: Block, scale: ScaleFormat) -> Quantizer {
    let rule = if matches!(scale, ScaleFormat::E8m0) { ScaleRule::Floor } else { ScaleRule::Absmax };
    let scaling = Scaling { block, format: scale, rule, tensor_scale: false, options: Default::default() };
    Quantizer {
        format: Format::get(format).unwrap(),
        scaling: Some(scaling),
        rounding: Rounding::NearestEven,
        overflow: Overflow::Saturate,
    }
}

/// `work` at every level, with ordinary stores and past the caches.
fn everywhere(mut work: impl FnMut(&str)) {
    let _guard = STATE.lock().unwrap_or_else(|e| e.into_inner());
    for level in [simd::Level::Baseline, simd::Level::Avx2, simd::Level::Avx512] {
        for threshold in [usize::MAX, 1] {
            stream::set_threshold(Some(threshold));
            if simd::limit(level) == level {
                work(&format!("{level:?}, past the caches from {threshold} bytes on"));
            }
        }
    }
    simd::limit(simd::detected());
    stream::set_threshold(None);
}

fn truth(q: &Quantizer, block: usize, x: &[f32]) -> Vec<u32> {
    let one = |x: &[f32]| -> Vec<u32> {
        let scale: Scale = q.scale(absmax(x.iter().copied()), None);
        x.iter().map(|x| q.fake_quant(*x, scale, 0).to_bits()).collect()
    };
    x.chunks(block).flat_map(one).collect()
}

/// A corrected product with the reciprocal must round as the division does: inputs are the neighbours of scales times
/// midpoints of the grid, for scales of few digits, just beside them, and others. (Uncorrected, 4 % of them come out wrong.)
#[test]
fn quotients_beside_midpoints() {
    const N: usize = 128;
    for format in ["int2", "int3", "int4", "int8", "e2m1", "e3m2", "e4m3"] {
        let q = quantizer(format, Block::Size(N), ScaleFormat::Fp32);
        let mut grid: Vec<f64> = (0..1 << q.format.bits()).map(|c| q.format.decode(c)).filter(|v| *v >= 0.0).collect();
        grid.sort_by(f64::total_cmp);
        let middles: Vec<f64> = grid.windows(2).map(|w| (w[0] + w[1]) / 2.0).filter(|m| *m > 0.0).collect();
        let max = q.format.max as f32;
        let mut x = Vec::new();
        for i in 0..3000 {
            let r = bits(1, i);
            // A significand of few digits, one unit beside it, or any.
            let significand = match i % 3 {
                0 => (1 << 23 | (r % 64) << 17) - 1 + r / 64 % 3,
                1 => (1 << 23 | (r % 4096) << 11) - 1 + r / 4096 % 3,
                _ => 1 << 23 | r >> 9,
            };
            let wanted = significand as f32 * 2f32.powi((i % 60) as i32 - 53);
            let top = wanted * max;
            let s = top / max;
            for k in 0..N as u32 - 1 {
                let middle = middles[bits(2, i * N + k as usize) as usize % middles.len()];
                let near = (f64::from(s) * middle) as f32;
                let beside = f32::from_bits((near.to_bits() + k % 5).wrapping_sub(2));
                x.push(if k % 2 == 0 { beside.min(top) } else { -beside.min(top) });
            }
            x.push(top);
        }
        let want = truth(&q, N, &x);
        let (row, columns) =
            (Layout { outer: 1, axis: x.len(), inner: 1 }, Layout { outer: 1, axis: N, inner: x.len() / N });
        for (layout, x, want) in [(row, x.clone(), want.clone()), (columns, upright(&x, N), upright(&want, N))] {
            everywhere(|how| {
                let mut y = vec![0f32; x.len()];
                let (from, to) = (Memory::F32(x.as_ptr()), MemoryMut::F32(y.as_mut_ptr()));
                // SAFETY: both arrays have the layout's length.
                unsafe { fake_quant(&q, &layout, from, to, Randomness::None, 1) };
                let wrong = (0..x.len()).find(|i| y[*i].to_bits() != want[*i]);
                if let Some(i) = wrong {
                    panic!("{format} {layout:?} {how} element {i}: x {:e}, got {:e}", x[i], y[i]);
                }
            });
        }
    }
}

/// Blocks of `n` elements as columns.
fn upright<T: Copy>(blocks: &[T], n: usize) -> Vec<T> {
    (0..n).flat_map(|i| blocks.iter().skip(i).step_by(n).copied()).collect()
}

/// Blocks of numbers between 1/2 and 2, some of them zero, `tiny`, `huge`, or holding what is not finite: first, last,
/// alone and side by side.
fn special_blocks(block: usize, blocks: usize, tiny: f32, huge: f32) -> Vec<f32> {
    let n = block * blocks;
    let mut x: Vec<f32> = (0..n).map(|i| f32::from_bits(bits(3, i) & 0x80ff_ffff | 0x3f00_0000)).collect();
    for (b, x) in x.chunks_mut(block).enumerate() {
        let at = b * 7 % block;
        match (b + block) % 9 {
            0 => x.fill(-0.0),
            1 => x.iter_mut().for_each(|x| *x *= tiny),
            2 => x.iter_mut().for_each(|x| *x *= huge),
            3 => x[at] = f32::NAN,
            4 => x[at] = f32::NEG_INFINITY,
            5 => x[at] = -0.0,
            _ => {}
        }
    }
    x
}

/// What stands in an array of another format: codes, and as fp32.
fn stored(format: &Format, x: &[f32]) -> (Vec<u16>, Vec<f32>) {
    let code = |x: &f32| format.code_of(f64::from(*x), Rounding::NearestEven, Overflow::Ieee, 0).unwrap();
    let codes: Vec<u32> = x.iter().map(code).collect();
    let values = codes.iter().map(|c| format.decode(*c) as f32).collect();
    (codes.into_iter().map(|c| c as u16).collect(), values)
}

#[test]
fn special_blocks_anywhere() {
    let cases = [
        ("e4m3", ScaleFormat::E8m0),
        ("mxint8", ScaleFormat::E8m0),
        ("e3m9", ScaleFormat::E8m0),
        ("int4", ScaleFormat::Fp32),
        ("e2m1", ScaleFormat::Fp32),
        ("e5m10", ScaleFormat::Fp32),
    ];
    for (format, scale) in cases {
        for (block, blocks) in [(32, 23), (64, 1), (96, 7), (160, 5), (4096, 3)] {
            let q = quantizer(format, Block::Size(block), scale.clone());
            let layout = Layout { outer: blocks, axis: block, inner: 1 };
            floats(&q, &layout, format);
            // Subnormal numbers, and the largest that are no infinity.
            halves(&q, &layout, format, "bf16", 1e-38, 1e38);
            halves(&q, &layout, format, "fp16", 2f32.powi(-16), 2f32.powi(14));
        }
    }
}

/// Fewer columns than a strip has, several strips that a cache holds, and columns that memory is read twice for.
#[test]
fn special_columns_anywhere() {
    let formats = [("e4m3", ScaleFormat::E8m0), ("int4", ScaleFormat::Fp32), ("e2m1", ScaleFormat::Fp32)];
    for (format, scale) in formats {
        for (block, columns) in [(32, 1040), (7, 70), (1101, 560)] {
            let q = quantizer(format, Block::Size(block), scale.clone());
            floats(&q, &Layout { outer: 1, axis: block, inner: columns }, format);
        }
    }
}

fn floats(q: &Quantizer, layout: &Layout, format: &str) {
    let (block, n) = (layout.axis, layout.len());
    let mut x = special_blocks(block, n / block, 1e-38, 1e38);
    let mut want = truth(q, block, &x);
    if layout.inner > 1 {
        (x, want) = (upright(&x, block), upright(&want, block));
    }
    everywhere(|how| {
        for (at, threads) in [0, 3, 4, 8, 12].into_iter().flat_map(|at| [(at, 1), (at, 3)]) {
            let mut y = vec![7f32; n + 32];
            let to = MemoryMut::F32(y[at..].as_mut_ptr());
            // SAFETY: the output has room for the layout from `at` on.
            unsafe { fake_quant(q, layout, Memory::F32(x.as_ptr()), to, Randomness::None, threads) };
            let got: Vec<u32> = y[at..at + n].iter().map(|y| y.to_bits()).collect();
            assert!(got == want, "{format} {block} at {at} {how}");
            assert!(y[..at].iter().chain(&y[at + n..]).all(|y| *y == 7.0));
        }
    });
}

fn halves(q: &Quantizer, layout: &Layout, format: &str, name: &str, tiny: f32, huge: f32) {
    let (block, n) = (layout.axis, layout.len());
    let half = Format::get(name).unwrap();
    let (codes, x) = stored(&half, &special_blocks(block, layout.outer, tiny, huge));
    let wide: Vec<f32> = truth(q, block, &x).into_iter().map(f32::from_bits).collect();
    let (want, values) = stored(&half, &wide);
    everywhere(|how| {
        for (at, threads) in [0, 6, 8, 16, 24].into_iter().flat_map(|at| [(at, 1), (at, 3)]) {
            let mut z = vec![7u16; n + 64];
            let (from, to) = (codes.as_ptr(), z[at..].as_mut_ptr());
            let (from, to) = match name {
                "bf16" => (Memory::Bf16(from), MemoryMut::Bf16(to)),
                _ => (Memory::F16(from), MemoryMut::F16(to)),
            };
            // SAFETY: the output has room for the layout from `at` on.
            unsafe { fake_quant(q, layout, from, to, Randomness::None, threads) };
            for (i, z) in z[at..][..n].iter().enumerate() {
                let same = *z == want[i] || values[i].is_nan() && half.decode(u32::from(*z)).is_nan();
                assert!(same, "{format} {block} {name} {i} at {at} {how}: {z:#x}, not {:#x}", want[i]);
            }
            assert!(z[..at].iter().chain(&z[at + n..]).all(|z| *z == 7));
        }
    });
}
