//! What several tests need: noise, a run of the kernels, every level.
// Each test is a crate of its own and uses some of it.
#![allow(dead_code)]

use dither_numerics::Quantizer;
use dither_numerics::quantizer::Randomness;
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, simd};
use std::sync::Mutex;

/// Tests that force a SIMD level must not run side by side.
pub static LEVEL: Mutex<()> = Mutex::new(());

/// `work` at every level that this processor has.
pub fn each_level(mut work: impl FnMut()) {
    let _guard = LEVEL.lock().unwrap_or_else(|e| e.into_inner());
    for level in [simd::Level::Baseline, simd::Level::Avx2, simd::Level::Avx512] {
        if simd::limit(level) == level {
            work();
        }
    }
    simd::limit(simd::detected());
}

pub fn noise(n: usize, seed: u64) -> Vec<u32> {
    (0..n as u64).map(|i| dither_numerics::random::random_bits(seed, 99, i, 32)).collect()
}

/// fp32 to fp32.
pub fn fast(q: &Quantizer, layout: &Layout, x: &[f32], source: Randomness<'_>, threads: usize) -> Vec<f32> {
    let mut y = vec![0f32; x.len()];
    // SAFETY: both arrays have the layout's length.
    unsafe { fake_quant(q, layout, Memory::F32(x.as_ptr()), MemoryMut::F32(y.as_mut_ptr()), source, threads) };
    y
}
