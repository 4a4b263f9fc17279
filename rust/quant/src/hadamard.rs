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

use crate::bits::Draws;
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{threads_for, through_f32};
use crate::fpu::Standard;
#[cfg(target_arch = "x86_64")]
use crate::hadamard_lanes;
use crate::layout::Layout;
use crate::pieces::{Arrays, PIECE, Pieces};
use crate::pool;
use crate::simd::dispatch;
use dither_numerics::Block;
use dither_numerics::Rounding;
use dither_numerics::quantizer::Randomness;
use dither_numerics::random::random_bits;
use std::ops::{Add, Sub};

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
    let _standard = Standard::enter();
    let (rotation, threads) = (Rotation::new(layout, d, signs, inverse), threads_for(layout.len(), threads));
    // SAFETY: the caller's contract.
    unsafe {
        match (layout.inner, x.is_f64()) {
            (1, false) => rotation.rows(layout, x, y, threads),
            (_, true) => rotation.strips::<f64>(layout, x, y, threads),
            (_, false) => rotation.strips::<f32>(layout, x, y, threads),
        }
    }
}

/// What is done to every block.
pub(crate) struct Rotation {
    pub d: usize,
    pub inverse: bool,
    /// The sign bit of every position, with this period along the axis; more than a period is there, so that a vector
    /// can be read from any position.
    pub signs: Vec<u32>,
    pub period: usize,
}

/// Elements of the longest vector.
pub(crate) const VECTOR: usize = 16;

impl Rotation {
    pub fn new(layout: &Layout, d: usize, signs: Signs, inverse: bool) -> Rotation {
        assert!(d.is_power_of_two() && layout.axis.is_multiple_of(d));
        let own: Vec<u32> = match signs {
            Signs::Plus => vec![0; d],
            Signs::Addressed { seed, stream, along_axis } => (0..if along_axis { layout.axis } else { d })
                .map(|j| random_bits(seed, stream, j as u64, 1) << 31)
                .collect(),
        };
        let period = own.len().max(1);
        let signs = own.iter().copied().cycle().take(if own.is_empty() { 0 } else { period + VECTOR }).collect();
        Rotation { d, inverse, signs, period }
    }

    /// Blocks along the last axis.
    ///
    /// # Safety
    /// As for [`hadamard`].
    unsafe fn rows(&self, layout: &Layout, x: Memory, y: MemoryMut, threads: usize) {
        let draws = Draws::new(Randomness::None, Rounding::NearestEven);
        let arrays = Arrays::new(x, y, &draws, layout.len(), false);
        let cut = layout.cut(Some(Block::Size(self.d)));
        pool::for_each(cut.units(), threads, |u| {
            let unit = cut.unit(u);
            if self.d > PIECE {
                // SAFETY: units lie in the array and are disjoint.
                return unsafe { through_f32(x, y, unit, |x, y| self.run(x, y, unit.start)) };
            }
            let mut pieces = Pieces::new(arrays);
            for (at, len) in unit.pieces(PIECE) {
                // SAFETY: as above.
                unsafe { pieces.map(at, len, |x, _, y, _| self.run(x, y, at)) };
            }
        });
    }

    /// Whole blocks, the first of which starts at element `at` of an array whose last axis they lie along.
    pub fn run(&self, x: &[f32], y: &mut [f32], at: usize) {
        #[cfg(target_arch = "x86_64")]
        let (done, longest) = (hadamard_lanes::run(self, x, y, at), hadamard_lanes::longest());
        #[cfg(not(target_arch = "x86_64"))]
        let (done, longest) = (0, 1);
        if done > 0 && self.d > longest {
            finish(y, longest, at, self);
        }
        y[done..].copy_from_slice(&x[done..]);
        whole(&mut y[done..], at + done, self);
    }
}

dispatch! {
    /// Whole blocks in place.
    fn whole(v: &mut [f32], at: usize, rotation: &Rotation) = whole_body;
}
dispatch! {
    /// The steps of strides from `from` on, after which everything else is done.
    fn finish(v: &mut [f32], from: usize, at: usize, rotation: &Rotation) = finish_body;
}

#[inline(always)]
fn whole_body(v: &mut [f32], at: usize, rotation: &Rotation) {
    if !rotation.inverse {
        flip(v, at, rotation);
    }
    finish_body(v, 1, at, rotation);
}

#[inline(always)]
fn finish_body(v: &mut [f32], from: usize, at: usize, rotation: &Rotation) {
    butterflies(v, from, rotation.d);
    let scale = (1.0 / (rotation.d as f64).sqrt()) as f32;
    for v in &mut *v {
        *v *= scale;
    }
    if rotation.inverse {
        flip(v, at, rotation);
    }
}

/// The signs of neighbours, the first of which lies at this position along the axis.
#[inline(always)]
fn flip(v: &mut [f32], at: usize, rotation: &Rotation) {
    let (mut rest, mut at) = (v, at % rotation.period);
    while !rest.is_empty() {
        let (run, tail) = rest.split_at_mut((rotation.period - at).min(rest.len()));
        for (v, sign) in run.iter_mut().zip(&rotation.signs[at..]) {
            *v = f32::from_bits(v.to_bits() ^ sign);
        }
        (rest, at) = (tail, 0);
    }
}

/// The steps of strides `from`, `2 from`, .. below `to`, of every run of `to`; two steps in one pass while there are two.
#[inline(always)]
pub(crate) fn butterflies<T: Copy + Add<Output = T> + Sub<Output = T>>(v: &mut [T], from: usize, to: usize) {
    let mut h = from;
    while 4 * h <= to {
        for four in v.chunks_exact_mut(4 * h) {
            let (low, high) = four.split_at_mut(2 * h);
            let ((a, b), (c, d)) = (low.split_at_mut(h), high.split_at_mut(h));
            for i in 0..h {
                let ((p, q), (r, s)) = ((a[i] + b[i], a[i] - b[i]), (c[i] + d[i], c[i] - d[i]));
                (a[i], b[i], c[i], d[i]) = (p + r, q + s, p - r, q - s);
            }
        }
        h *= 4;
    }
    if h < to {
        for pair in v.chunks_exact_mut(2 * h) {
            let (low, high) = pair.split_at_mut(h);
            for i in 0..h {
                (low[i], high[i]) = (low[i] + high[i], low[i] - high[i]);
            }
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
