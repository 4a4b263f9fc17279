//! One kernel over one array, and nothing else: what the instruction-count test runs under callgrind.
//!
//!     kernels NAME ELEMENTS
//!
//! The vectors are AVX2's, because callgrind knows no AVX-512.

use dither_numerics::quantizer::Randomness;
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::codes::{Codes, decode, encode};
use dither_quant::packed::{Parts, Scales, Shape, dequantize, quantize};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, simd};

const COLUMNS: usize = 1024;

fn quantizer(format: &str, scaling: Option<Scaling>, random: u32) -> Quantizer {
    Quantizer {
        format: Format::get(format).expect("a known format"),
        scaling,
        rounding: if random > 0 { Rounding::Stochastic(random) } else { Rounding::NearestEven },
        overflow: if format == "bf16" { Overflow::Ieee } else { Overflow::Saturate },
    }
}

fn mx(format: &str, random: u32) -> Quantizer {
    quantizer(format, Some(Scaling::new(Block::Size(32), ScaleFormat::E8m0, ScaleRule::Floor)), random)
}

fn nvfp4() -> Quantizer {
    let stored = ScaleFormat::Float(Format::get("e4m3").expect("a known format"));
    quantizer("e2m1", Some(Scaling::two_levels(Block::Size(16), stored, ScaleRule::Absmax)), 0)
}

fn int4() -> Quantizer {
    quantizer("int4", Some(Scaling::new(Block::Size(128), ScaleFormat::Fp32, ScaleRule::Absmax)), 0)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, name, elements] = args.as_slice() else { panic!("kernels NAME ELEMENTS") };
    let n: usize = elements.parse().expect("a number of elements");
    assert!(n.is_multiple_of(COLUMNS), "whole rows of {COLUMNS}");
    assert!(simd::limit(simd::Level::Avx2) == simd::Level::Avx2, "no AVX2 here");
    // A saw-tooth of many magnitudes: cheap to make, so that the kernel is what is counted.
    let x: Vec<f32> = (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 - 8_388_608.0).collect();
    let (mut y, mut codes, mut scales) = (vec![0f32; n], vec![0u8; n], vec![0u8; n / 4]);
    let layout = Layout { outer: n / COLUMNS, axis: COLUMNS, inner: 1 };
    let shape = Shape { layout, last: COLUMNS, along_last: true };
    let parts =
        Parts { codes: codes.as_mut_ptr(), scales: Scales::Codes(scales.as_mut_ptr()), zeros: std::ptr::null_mut() };
    let source = Randomness::Addressed { seed: 1, stream: 2, offset: 0 };
    let (input, output) = (Memory::F32(x.as_ptr()), MemoryMut::F32(y.as_mut_ptr()));
    // SAFETY: all arrays have n elements, codes and scales at least as many bytes as any of these kernels needs.
    unsafe {
        let fake = |q: Quantizer| fake_quant(&q, &layout, input, output, source, 1);
        match name.as_str() {
            "nothing" => {}
            "mxfp8" => fake(mx("e4m3", 0)),
            "mxfp4" => fake(mx("e2m1", 0)),
            "nvfp4" => fake(nvfp4()),
            "int4_g128" => fake(int4()),
            "sr_bf16" => fake(quantizer("bf16", None, 16)),
            "sr_e4m3" => fake(quantizer("e4m3", None, 8)),
            "sr_mxfp4" => fake(mx("e2m1", 8)),
            "sr_mxfp4_32" => fake(mx("e2m1", 32)),
            "encode_e4m3" => {
                encode(&quantizer("e4m3", None, 0), n, input, Codes::U8(parts.codes), source, 1);
            }
            "decode_e4m3" => {
                decode(&quantizer("e4m3", None, 0).format, n, Codes::U8(parts.codes), output, 1);
            }
            "pack_mxfp4" => {
                quantize(&mx("e2m1", 0), &shape, input, parts, source, 1).expect("finite input");
            }
            "unpack_mxfp4" => dequantize(&mx("e2m1", 0), &shape, parts, None, false, output, 1),
            _ => panic!("no kernel {name}"),
        }
    }
    std::hint::black_box((&y, &codes, &scales));
}
