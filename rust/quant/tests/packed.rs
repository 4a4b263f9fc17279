//! Packed arrays: what is read back equals `fake_quant` bit for bit, whatever the shape, axis, block and type; codes lie
//! where the layout says; threads change nothing.

use dither_numerics::quantizer::Randomness;
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::pack::row_bytes;
use dither_quant::packed::{Parts, Scales, Shape, dequantize, quantize};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant};

const ADDRESS: Randomness<'static> = Randomness::Addressed { seed: 5, stream: 6, offset: 7 };

fn data(n: usize) -> Vec<f32> {
    let noise = |i: usize| dither_numerics::random::random_bits(11, 12, i as u64, 32);
    let mut x: Vec<f32> =
        (0..n).map(|i| (noise(i) as f32 / 2f32.powi(31) - 1.0) * 2f32.powi((noise(i + n) % 30) as i32 - 15)).collect();
    for (i, special) in [0.0, -0.0, f32::from_bits(3), f32::MAX, f32::NAN, f32::NEG_INFINITY].into_iter().enumerate() {
        if n > 50 {
            x[i * n / 7] = special;
        }
    }
    x
}

fn quantizer(format: &str, block: Option<Block>, scale: ScaleFormat, tensor_scale: bool) -> Quantizer {
    let rule = if scale == ScaleFormat::E8m0 { ScaleRule::Floor } else { ScaleRule::Absmax };
    Quantizer {
        format: Format::get(format).unwrap(),
        scaling: block.map(|block| (if tensor_scale { Scaling::two_levels } else { Scaling::new })(block, scale, rule)),
        rounding: Rounding::NearestEven,
        overflow: Overflow::Saturate,
    }
}

fn quantizers() -> Vec<Quantizer> {
    use ScaleFormat::*;
    let float = |name: &str| Float(Format::get(name).unwrap());
    let size = |n| Some(Block::Size(n));
    let mut all = vec![
        quantizer("e4m3", size(32), E8m0, false),
        quantizer("e2m1", size(32), E8m0, false),
        quantizer("e2m1", size(16), float("e4m3"), true),
        quantizer("e3m2", size(7), float("ue5m3"), false),
        quantizer("int3", Some(Block::Row), Fp32, false),
        quantizer("int8", Some(Block::Tensor), Fp32, false),
        quantizer("e8m10", size(5), E8m0, false),
        quantizer("e5m2", None, Fp32, false),
        quantizer("bf16", None, Fp32, false),
        quantizer("e8m10", None, Fp32, false),
        quantizer("fp32", None, Fp32, false),
    ];
    all.push(Quantizer { rounding: Rounding::Stochastic(8), ..all[1].clone() });
    all.push(Quantizer { rounding: Rounding::Stochastic(16), ..all[8].clone() });
    all
}

/// Shapes of three axes: short rows, long rows, rows that are whole bytes or not, a last axis of one.
const SHAPES: [[usize; 3]; 8] =
    [[1, 1, 70], [5, 3, 33], [2, 40, 64], [300, 2, 9], [1, 2, 5000], [3, 70, 1], [1, 130, 2500], [2, 0, 3]];

fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|y| if y.is_nan() { u32::MAX } else { y.to_bits() }).collect()
}

/// Codes and scales with a guard behind each, and the tensor scale.
type Packed = (Vec<u8>, Vec<u8>, Vec<f32>, Option<f32>);

fn packed(q: &Quantizer, dims: [usize; 3], axis: usize, x: Memory, threads: usize) -> (Shape, Packed) {
    let shape = Shape { layout: Layout::new(&dims, axis), last: dims[2], along_last: axis == 2 };
    let n = dims[0] * dims[1] * row_bytes(dims[2], q.format.bits()).unwrap();
    let (mut codes, mut bytes, mut floats) = (vec![0xaa; n + 1], vec![0xaa; x_blocks(q, dims, axis) + 1], vec![]);
    floats.resize(bytes.len(), -7.0f32);
    let scales = match q.scaling.as_ref().map(|s| &s.format) {
        None => Scales::None,
        Some(ScaleFormat::Fp32) => Scales::F32(floats.as_mut_ptr()),
        Some(_) => Scales::Codes(bytes.as_mut_ptr()),
    };
    let parts = Parts { codes: codes.as_mut_ptr(), scales, zeros: std::ptr::null_mut() };
    // SAFETY: the arrays have the lengths that the layout asks for.
    let tensor = unsafe { quantize(q, &shape, x, parts, ADDRESS, threads) }.unwrap();
    assert_eq!((codes[n], *bytes.last().unwrap(), *floats.last().unwrap()), (0xaa, 0xaa, -7.0), "written beyond");
    (shape, (codes, bytes, floats, tensor))
}

fn x_blocks(q: &Quantizer, dims: [usize; 3], axis: usize) -> usize {
    let along = match q.scaling.as_ref().map(|s| s.block) {
        None => return 0,
        Some(Block::Tensor) => return 1,
        Some(Block::Row) => dims[axis].min(1),
        Some(Block::Size(n)) => dims[axis].div_ceil(n),
        Some(Block::Column | Block::Tile(..)) => unreachable!("not packed"),
    };
    dims.iter().product::<usize>() / dims[axis].max(1) * along
}

#[test]
fn reading_back_is_fake_quant() {
    for q in quantizers() {
        for dims in SHAPES {
            let mut x = data(dims.iter().product());
            if q.scaling.is_none() && !q.format.has_nan() {
                x.retain(|x| !x.is_nan());
            }
            for axis in 0..3 {
                let layout = Layout::new(&dims, axis);
                let mut want = vec![0f32; x.len()];
                let mut got = want.clone();
                let source = Memory::F32(x.as_ptr());
                let (shape, (codes, mut bytes, mut floats, tensor)) = packed(&q, dims, axis, source, 1);
                let again = packed(&q, dims, axis, source, 3).1;
                assert_eq!((&codes, &bytes, bits(&floats)), (&again.0, &again.1, bits(&again.2)), "threads");
                let scales = match q.scaling.as_ref().map(|s| &s.format) {
                    None => Scales::None,
                    Some(ScaleFormat::Fp32) => Scales::F32(floats.as_mut_ptr()),
                    Some(_) => Scales::Codes(bytes.as_mut_ptr()),
                };
                let parts = Parts { codes: codes.as_ptr().cast_mut(), scales, zeros: std::ptr::null_mut() };
                // SAFETY: all arrays have the lengths that the layout asks for.
                unsafe {
                    fake_quant(&q, &layout, source, MemoryMut::F32(want.as_mut_ptr()), ADDRESS, 1);
                    dequantize(&q, &shape, parts, tensor, false, MemoryMut::F32(got.as_mut_ptr()), 2);
                }
                assert_eq!(bits(&got), bits(&want), "{dims:?} axis {axis} {q:?}");
            }
        }
    }
}

#[test]
fn fp64_is_formed_in_fp64() {
    for q in quantizers() {
        let dims = [3, 5, 70];
        let x: Vec<f64> = data(1050).iter().map(|x| f64::from(*x) * 1.000_000_000_1).collect();
        let (mut want, mut got) = (vec![0f64; x.len()], vec![0f64; x.len()]);
        let (shape, (codes, mut bytes, mut floats, tensor)) = packed(&q, dims, 2, Memory::F64(x.as_ptr()), 1);
        let scales = match q.scaling.as_ref().map(|s| &s.format) {
            None => Scales::None,
            Some(ScaleFormat::Fp32) => Scales::F32(floats.as_mut_ptr()),
            Some(_) => Scales::Codes(bytes.as_mut_ptr()),
        };
        let parts = Parts { codes: codes.as_ptr().cast_mut(), scales, zeros: std::ptr::null_mut() };
        // SAFETY: all arrays have the lengths that the layout asks for.
        unsafe {
            let y = MemoryMut::F64(want.as_mut_ptr());
            fake_quant(&q, &shape.layout, Memory::F64(x.as_ptr()), y, ADDRESS, 1);
            dequantize(&q, &shape, parts, tensor, true, MemoryMut::F64(got.as_mut_ptr()), 1);
        }
        for (g, w) in got.iter().zip(&want) {
            assert!(g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()), "{g:e} {w:e} {q:?}");
        }
    }
}

#[test]
fn rows_end_with_zero_bits_and_nan_without_a_code_is_named() {
    let q = quantizer("int3", Some(Block::Size(4)), ScaleFormat::Fp32, false);
    let x = [-1f32; 14]; // int3 of -1 absmax is -3: binary 101
    let (_, (codes, ..)) = packed(&q, [2, 1, 7], 2, Memory::F32(x.as_ptr()), 1);
    // 7 codes are 21 bits of 101101...
    assert_eq!(codes[..6], [0b0110_1101, 0b1101_1011, 0b0001_0110, 0b0110_1101, 0b1101_1011, 0b0001_0110]);

    let q = quantizer("e2m1", None, ScaleFormat::Fp32, false);
    let x = [1.0, 2.0, f32::NAN, f32::NAN];
    let shape = Shape { layout: Layout::new(&[4], 0), last: 4, along_last: true };
    let mut codes = [0u8; 2];
    let parts = Parts { codes: codes.as_mut_ptr(), scales: Scales::None, zeros: std::ptr::null_mut() };
    // SAFETY: four codes of four bits.
    let result = unsafe { quantize(&q, &shape, Memory::F32(x.as_ptr()), parts, Randomness::None, 1) };
    assert_eq!(result, Err(2));
}
