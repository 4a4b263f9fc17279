//! The rotation against its definition, bit for bit: every level, last and other axes, in place, fp32 and bf16.

use dither_numerics::random::random_bits;
use dither_quant::hadamard::{Signs, hadamard};
use dither_quant::simd::{self, Level};
use dither_quant::{Layout, Memory, MemoryMut};

const ADDRESS: (u64, u64) = (5, u64::MAX - 9);

/// The steps in the order that the module states, block by block.
fn defined(layout: &Layout, d: usize, signs: Signs, inverse: bool, x: &[f32]) -> Vec<f32> {
    let Layout { outer, axis, inner } = *layout;
    let (mut y, scale) = (x.to_vec(), (1.0 / (d as f64).sqrt()) as f32);
    for first in (0..outer * axis).step_by(d) {
        for column in 0..inner {
            let place = |j: usize| (first + j) * inner + column;
            let sign = |j: usize| match signs {
                Signs::Addressed { seed, stream, along_axis } => {
                    let position = if along_axis { first % axis + j } else { j };
                    if random_bits(seed, stream, position as u64, 1) == 1 { -1.0 } else { 1.0 }
                }
                Signs::Plus => 1.0,
            };
            let mut v: Vec<f32> = (0..d).map(|j| y[place(j)] * if inverse { 1.0 } else { sign(j) }).collect();
            let mut h = 1;
            while h < d {
                for j in (0..d).filter(|j| j & h == 0) {
                    (v[j], v[j + h]) = (v[j] + v[j + h], v[j] - v[j + h]);
                }
                h *= 2;
            }
            for (j, v) in v.iter().enumerate() {
                y[place(j)] = v * scale * if inverse { sign(j) } else { 1.0 };
            }
        }
    }
    y
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

#[test]
fn every_level_and_axis() {
    let shapes = [(3, 64, 1), (1, 2048, 1), (2, 512, 37), (1, 128, 700), (5, 24, 1), (3, 8, 16), (2, 32, 3)];
    for (outer, axis, inner) in shapes {
        let layout = Layout { outer, axis, inner };
        // Any finite bits, and a few blocks with something else in them.
        let mut x: Vec<f32> =
            (0..layout.len() as u64).map(|i| f32::from_bits(random_bits(1, 2, i, 32) & 0xbfff_ffff)).collect();
        for (i, special) in [f32::INFINITY, f32::NAN, -0.0, 1e-45].into_iter().enumerate() {
            x[(i * 91 + 5) % layout.len()] = special;
        }
        for d in (0..12).map(|k| 1 << k).filter(|d| axis % d == 0) {
            for (signs, inverse) in [false, true].into_iter().flat_map(|inverse| {
                let addressed = |along_axis| Signs::Addressed { seed: ADDRESS.0, stream: ADDRESS.1, along_axis };
                [Signs::Plus, addressed(false), addressed(true)].map(|signs| (signs, inverse))
            }) {
                let want = defined(&layout, d, signs, inverse, &x);
                for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
                    simd::limit(level);
                    let (mut y, mut own) = (vec![0f32; x.len()], x.clone());
                    let half: Vec<u16> = x.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
                    let wide: Vec<f32> = half.iter().map(|h| f32::from_bits(u32::from(*h) << 16)).collect();
                    let mut from_half = vec![0f32; x.len()];
                    // SAFETY: all have the layout's length; the second call's input is its output.
                    unsafe {
                        let (to, from) = (MemoryMut::F32(y.as_mut_ptr()), Memory::F32(x.as_ptr()));
                        hadamard(&layout, d, signs, inverse, from, to, 2);
                        let both = own.as_mut_ptr();
                        hadamard(&layout, d, signs, inverse, Memory::F32(both), MemoryMut::F32(both), 1);
                        let to = MemoryMut::F32(from_half.as_mut_ptr());
                        hadamard(&layout, d, signs, inverse, Memory::Bf16(half.as_ptr()), to, 1);
                    }
                    assert!(same(&y, &want) && same(&own, &want), "{layout:?} {d} {signs:?} {inverse} {level:?}");
                    let want = defined(&layout, d, signs, inverse, &wide);
                    assert!(same(&from_half, &want), "bf16 {layout:?} {d} {level:?}");
                }
                simd::limit(simd::detected());
            }
        }
    }
}
