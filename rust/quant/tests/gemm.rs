//! Matrix products against the scalar truth, element by element and bit for bit.

use dither_numerics::random::random_bits;
use dither_numerics::{Accumulator, Format, Narrow, pow2};
use dither_quant::gemm::{Factors, Operand, Packed, Strided, gemm};
use dither_quant::pack::{pack, row_bytes};
use dither_quant::simd::{Level, limit};
use dither_quant::{Memory, MemoryMut};

const ACCUMULATORS: [Accumulator; 7] = [
    Accumulator::Fp32,
    Accumulator::Fp64,
    Accumulator::Bf16,
    Accumulator::Fp16,
    Accumulator::Narrow(Narrow { fraction_bits: 13, group: 32, promote_every: Some(128) }),
    Accumulator::Narrow(Narrow { fraction_bits: 25, group: 16, promote_every: None }),
    Accumulator::Narrow(Narrow { fraction_bits: 5, group: 3, promote_every: Some(9) }),
];

/// Numbers of many sizes: ordinary, zero, huge, subnormal, and where asked for NaN and infinities.
fn number(stream: u64, i: usize, specials: bool) -> f32 {
    let r = random_bits(3, stream, i as u64, 32);
    let ordinary = r as f32 / 2f32.powi(31) - 1.0;
    match random_bits(4, stream, i as u64, 8) {
        0..=9 => 0.0 * ordinary,
        10..=29 => ordinary * pow2(random_bits(5, stream, i as u64, 5) as i32 - 16) as f32,
        30 => f32::from_bits(r & 0x807f_ffff),
        31 if specials => f32::from_bits(r),
        32 if specials && r.is_multiple_of(16) => f32::INFINITY.copysign(ordinary),
        _ => ordinary,
    }
}

fn same(got: f64, want: f64) -> bool {
    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan())
}

fn strided(x: &[f32], rows: usize, len: usize, along_k: bool) -> Operand<'static> {
    let (row_stride, stride) = if along_k { (len, 1) } else { (1, rows) };
    Operand::Strided(Strided { x: Memory::F32(x.as_ptr()), rows, len, row_stride, stride })
}

/// One test, because the level is global.
#[test]
fn every_accumulator_level_and_thread_count_equals_the_truth() {
    let shapes = [(1, 1, 1), (2, 3, 0), (1, 70, 33), (13, 33, 300), (17, 64, 129), (5, 40, 513), (400, 7, 20)];
    for (case, (m, n, k)) in shapes.into_iter().enumerate() {
        for specials in [false, true] {
            let stream = 10 * case as u64;
            let a: Vec<f32> = (0..m * k).map(|i| number(stream, i, specials)).collect();
            let b: Vec<f32> = (0..n * k).map(|i| number(stream + 1, i, specials)).collect();
            // The same operand with k across: b[k][n].
            let across: Vec<f32> = (0..n * k).map(|i| b[i % n * k + i / n]).collect();
            for accumulator in ACCUMULATORS {
                let want: Vec<f64> = (0..m * n)
                    .map(|i| accumulator.dot(&a[i / n * k..(i / n + 1) * k], &b[i % n * k..(i % n + 1) * k]))
                    .collect();
                for (level, threads) in [(Level::Avx512, 1), (Level::Avx512, 3), (Level::Avx2, 2), (Level::Baseline, 1)]
                {
                    limit(level);
                    for (b, along_k) in [(&b, true), (&across, false)] {
                        let (a, b) = (strided(&a, m, k, true), strided(b, n, k, along_k));
                        let mut out = vec![f64::NAN; m * n];
                        // SAFETY: the vectors hold what the operands describe.
                        unsafe { gemm(&a, &b, accumulator, MemoryMut::F64(out.as_mut_ptr()), threads) };
                        for (i, (got, want)) in out.iter().zip(&want).enumerate() {
                            assert!(same(*got, *want), "{accumulator:?} {m}x{n}x{k} {level:?} {i}: {got:e} {want:e}");
                        }
                    }
                }
            }
        }
    }
    packed_operands_are_their_values();
    limit(Level::Avx512);
}

fn packed_operands_are_their_values() {
    for (name, block, m, n, k) in [
        ("e2m1", 32, 3, 70, 512),
        ("e2m1", 16, 2, 33, 72),
        ("e2m1", 5, 2, 40, 37),
        ("e4m3", 32, 1, 40, 300),
        ("int3", 8, 4, 9, 61),
    ] {
        let format = Format::get(name).unwrap();
        let width = format.bits();
        let table: Vec<f32> = (0..1 << width).map(|c| format.decode(c) as f32).collect();
        let (bytes, blocks) = (row_bytes(k, width).unwrap(), k.div_ceil(block));
        let codes: Vec<u32> = (0..n * k)
            .map(|i| random_bits(8, 8, i as u64, width))
            .map(|c| if table[c as usize].is_nan() { 0 } else { c })
            .collect();
        let mut packed = vec![0u8; n * bytes];
        for (codes, out) in codes.chunks(k).zip(packed.chunks_mut(bytes)) {
            pack(codes, width, out);
        }
        let powers: Vec<u8> = (0..n * blocks).map(|i| 120 + random_bits(9, 9, i as u64, 4) as u8).collect();
        let factors: [f32; 256] =
            std::array::from_fn(|c| if c == 255 { f32::NAN } else { pow2(c as i32 - 127) as f32 });
        let singles: Vec<f32> = (0..n * blocks).map(|i| number(12, i, false) + 2.0).collect();
        let kinds = [
            (Factors::Codes(powers.as_ptr(), &factors), powers.iter().map(|c| factors[*c as usize]).collect()),
            (Factors::F32(singles.as_ptr()), singles.clone()),
            (Factors::One, vec![1f32; n * blocks]),
        ];
        let a: Vec<f32> = (0..m * k).map(|i| number(11, i, false)).collect();
        for (kind, factor) in kinds {
            let values: Vec<f32> =
                (0..n * k).map(|i| table[codes[i] as usize] * factor[i / k * blocks + i % k / block]).collect();
            let b = Packed {
                codes: packed.as_ptr(),
                rows: n,
                len: k,
                width,
                table: &table,
                factors: kind,
                block,
                factor_stride: blocks,
            };
            for level in [Level::Avx512, Level::Avx2, Level::Baseline] {
                limit(level);
                for accumulator in ACCUMULATORS {
                    let (mut got, mut want) = (vec![0f64; m * n], vec![1f64; m * n]);
                    let plain = strided(&values, n, k, true);
                    // SAFETY: the vectors hold what the operands describe.
                    unsafe {
                        let a = strided(&a, m, k, true);
                        gemm(&a, &Operand::Packed(b), accumulator, MemoryMut::F64(got.as_mut_ptr()), 1);
                        gemm(&a, &plain, accumulator, MemoryMut::F64(want.as_mut_ptr()), 1);
                    }
                    assert!(got.iter().zip(&want).all(|(g, w)| same(*g, *w)), "{name} {level:?} {accumulator:?}");
                    // And from the other side.
                    let (mut turned, a) = (vec![0f64; m * n], strided(&a, m, k, true));
                    // SAFETY: as above.
                    unsafe { gemm(&Operand::Packed(b), &a, accumulator, MemoryMut::F64(turned.as_mut_ptr()), 1) };
                    assert!((0..m * n).all(|i| same(turned[i], want[i % m * n + i / m])), "{name} {level:?}");
                }
            }
        }
    }
}
