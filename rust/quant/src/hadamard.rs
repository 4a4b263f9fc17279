//! Block Walsh-Hadamard transform with addressed random signs.
//!
//! A block of `d = 2^k` elements becomes `y = H diag(s) x / sqrt(d)` with `H[i][j] = (-1)^popcount(i & j)`, and
//! `x = diag(s) H y / sqrt(d)` takes it back. In this order, which fixes every bit:
//!
//! ```text
//! v[j] = s[j] x[j]                                   (inverse: v[j] = x[j])
//! for h in 1, 2, 4, .. d/2:   for every j without bit h:   v[j], v[j + h] = v[j] + v[j + h], v[j] - v[j + h]
//! y[j] = v[j] * (1 / sqrt(d))                        (inverse: y[j] = s[j] (v[j] * (1 / sqrt(d))))
//! ```
//!
//! in fp32 (fp64 for fp64), `1 / sqrt(d)` being the number nearest to it: a power of two, hence exact, for even k.
//! The sign of position j is minus where `random_bits(seed, stream, j, 1)` is 1; j counts within the block, so that
//! all blocks share their signs (the NVFP4 recipe), or along the whole axis.

use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{threads_for, through_f32};
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::pool;
use crate::simd::dispatch;
use dither_numerics::Block;
use dither_numerics::random::random_bits;
use std::ops::{Add, Mul, Sub};

/// Which signs the elements get.
#[derive(Clone, Copy, Debug)]
pub enum Signs {
    /// All plus: the plain transform.
    Plus,
    /// Addressed bits: of the position in the block, or with `along_axis` of the position along the axis.
    Addressed { seed: u64, stream: u64, along_axis: bool },
}

/// The transform, or its inverse, of blocks of `d` (a power of two that divides the axis).
///
/// # Safety
/// As for [`crate::fake_quant()`].
pub unsafe fn hadamard(
    layout: &Layout,
    d: usize,
    signs: Signs,
    inverse: bool,
    x: Memory,
    y: MemoryMut,
    threads: usize,
) {
    assert!(d.is_power_of_two() && layout.axis.is_multiple_of(d));
    let _standard = Standard::enter();
    let signs = table(signs, d, layout.axis);
    let cut = layout.cut(Some(Block::Size(d)));
    pool::for_each(cut.units(), threads_for(layout.len(), threads), |u| {
        let unit = cut.unit(u);
        let place = Place { d, inner: layout.inner, first: unit.start / layout.inner, inverse };
        if x.is_f64() {
            let mut data = vec![0f64; unit.len];
            // SAFETY: units lie in the array and are disjoint.
            unsafe { x.load_f64(unit.start, &mut data) };
            unit_f64(&mut data, &signs, place);
            // SAFETY: as above.
            unsafe { y.store_f64(unit.start, &data) };
            return;
        }
        let narrow = |x: &[f32], y: &mut [f32]| {
            y.copy_from_slice(x);
            unit_f32(y, &signs, place);
        };
        // SAFETY: as above.
        unsafe { through_f32(x, y, unit, narrow) };
    });
}

/// +1 or -1 of every position, repeated with the table's period along the axis.
fn table(signs: Signs, d: usize, axis: usize) -> Vec<f32> {
    match signs {
        Signs::Plus => vec![1.0; d],
        Signs::Addressed { seed, stream, along_axis } => (0..if along_axis { axis } else { d })
            .map(|j| if random_bits(seed, stream, j as u64, 1) == 1 { -1.0 } else { 1.0 })
            .collect(),
    }
}

/// Where a unit lies: `first` is its first position along the axis, counted over all outer indices.
#[derive(Clone, Copy)]
struct Place {
    d: usize,
    inner: usize,
    first: usize,
    inverse: bool,
}

/// fp32 or fp64.
trait Float: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    fn of(x: f64) -> Self;
}

impl Float for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
}

impl Float for f64 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }
}

dispatch! { fn unit_f32(v: &mut [f32], signs: &[f32], place: Place) = unit_body; }
dispatch! { fn unit_f64(v: &mut [f64], signs: &[f32], place: Place) = unit_body; }

#[inline(always)]
fn unit_body<T: Float>(v: &mut [T], signs: &[f32], place: Place) {
    if !place.inverse {
        flip(v, signs, place);
    }
    let mut h = 1;
    while h < place.d {
        // Strides below a vector's length need lanes exchanged within it, which fixed lengths let the compiler see.
        match h * place.inner {
            1 => near::<T, 1>(v),
            2 => near::<T, 2>(v),
            4 => near::<T, 4>(v),
            8 => near::<T, 8>(v),
            stride => far(v, stride),
        }
        h *= 2;
    }
    let scale = T::of(1.0 / (place.d as f64).sqrt());
    v.iter_mut().for_each(|v| *v = *v * scale);
    if place.inverse {
        flip(v, signs, place);
    }
}

/// Elements `i` and `i + stride` of every run of `2 stride` become sum and difference.
#[inline(always)]
fn far<T: Float>(v: &mut [T], stride: usize) {
    for pair in v.chunks_exact_mut(2 * stride) {
        let (low, high) = pair.split_at_mut(stride);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

#[inline(always)]
fn near<T: Float, const STRIDE: usize>(v: &mut [T]) {
    let (chunks, rest) = v.as_chunks_mut::<16>();
    for v in chunks {
        let old = *v;
        for i in 0..16 {
            let other = old[i ^ STRIDE];
            v[i] = if i & STRIDE == 0 { old[i] + other } else { other - old[i] };
        }
    }
    far(rest, STRIDE);
}

/// Multiply by the signs of the positions along the axis.
#[inline(always)]
fn flip<T: Float>(v: &mut [T], signs: &[f32], place: Place) {
    if place.inner == 1 {
        let mut at = place.first % signs.len();
        let mut rest = v;
        while !rest.is_empty() {
            let (run, tail) = rest.split_at_mut((signs.len() - at).min(rest.len()));
            for (v, s) in run.iter_mut().zip(&signs[at..]) {
                *v = *v * T::of(f64::from(*s));
            }
            (rest, at) = (tail, 0);
        }
    } else {
        for (row, v) in v.chunks_exact_mut(place.inner).enumerate() {
            let s = T::of(f64::from(signs[(place.first + row) % signs.len()]));
            v.iter_mut().for_each(|v| *v = *v * s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, element by element, on integers whose sums are exact.
    #[test]
    fn agrees_with_the_matrix_and_inverts() {
        for (outer, axis, inner, d) in [(3, 64, 1, 16), (1, 8, 1, 8), (2, 48, 5, 4), (5, 4, 1, 4), (1, 512, 3, 256)] {
            let layout = Layout { outer, axis, inner };
            let x: Vec<f32> = (0..layout.len()).map(|i| ((i * 37 + i / 7) % 31) as f32 - 15.0).collect();
            for along_axis in [false, true] {
                let (seed, stream) = (77, 1 << 40);
                let signs = Signs::Addressed { seed, stream, along_axis };
                let mut y = vec![0f32; x.len()];
                let mut back = vec![0f32; x.len()];
                // SAFETY: the vectors have the layout's length.
                unsafe {
                    hadamard(&layout, d, signs, false, Memory::F32(x.as_ptr()), MemoryMut::F32(y.as_mut_ptr()), 1);
                    hadamard(&layout, d, signs, true, Memory::F32(y.as_ptr()), MemoryMut::F32(back.as_mut_ptr()), 2);
                }
                if d.ilog2() % 2 == 0 {
                    assert_eq!(back, x); // the scale is a power of two
                }
                for (i, y) in y.iter().enumerate() {
                    let (column, position) = (i % inner, i / inner % axis);
                    let (first, row) = (i / inner / d * d, position % d);
                    let sum: f32 = (0..d)
                        .map(|j| {
                            let p = if along_axis { position - row + j } else { j };
                            let minus = random_bits(seed, stream, p as u64, 1) + (row & j).count_ones();
                            let x = x[(first + j) * inner + column];
                            if minus % 2 == 1 { -x } else { x }
                        })
                        .sum();
                    let scale = (1.0 / (d as f64).sqrt()) as f32;
                    assert_eq!(*y, sum * scale, "{layout:?} {d} {i}");
                }
            }
        }
    }
}
