//! Rotations of blocks that are columns, a strip of them at a time.

use crate::dtype::{Memory, MemoryMut};
use crate::formed::Element;
use crate::hadamard::{Rotation, VECTOR, butterflies};
use crate::layout::Layout;
use crate::pool;
use crate::simd::dispatch;
use crate::stream;
use std::ops::{Add, Mul, Sub};

/// Elements of a strip: it stays in the first-level cache.
const STRIP: usize = 8192;

/// Strips that a thread does in one go.
const GROUP: usize = 8;

/// Some columns of a block of rows, which lie in the arrays and belong to this thread.
pub struct Strip {
    x: Memory,
    y: MemoryMut,
    /// Of the first row, counted over all outer indices.
    first: usize,
    /// The first column.
    from: usize,
    inner: usize,
    width: usize,
    /// Whether results go past the caches.
    past: bool,
}

impl Strip {
    fn place(&self, row: usize) -> usize {
        (self.first + row) * self.inner + self.from
    }
}

/// fp32 or fp64.
pub trait Float: Element + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    /// A strip, through a buffer of its length.
    fn rotate(strip: &Strip, buffer: &mut [Self], rotation: &Rotation);
}

impl Float for f32 {
    fn rotate(strip: &Strip, buffer: &mut [f32], rotation: &Rotation) {
        strip_f32(strip, buffer, rotation);
    }
}

impl Float for f64 {
    fn rotate(strip: &Strip, buffer: &mut [f64], rotation: &Rotation) {
        let (width, [before, after]) = (strip.width, rotation.factors::<f64>(strip));
        for ((row, data), sign) in buffer.chunks_exact_mut(width).enumerate().zip(before) {
            // SAFETY: what a strip is.
            unsafe { strip.x.load_f64(strip.place(row), data) };
            data.iter_mut().for_each(|v| *v *= sign);
        }
        butterflies(buffer, width, rotation.d * width);
        for ((row, data), factor) in buffer.chunks_exact_mut(width).enumerate().zip(after) {
            data.iter_mut().for_each(|v| *v *= factor);
            // SAFETY: as above.
            unsafe { strip.y.store_f64(strip.place(row), data) };
        }
    }
}

impl Rotation {
    /// Blocks of rows, a strip of columns at a time.
    ///
    /// # Safety
    /// As for [`crate::hadamard()`].
    pub unsafe fn strips<T: Float>(&self, layout: &Layout, x: Memory, y: MemoryMut, threads: usize) {
        let (d, inner) = (self.d, layout.inner);
        let most = (STRIP / d).clamp(VECTOR, STRIP).min(inner);
        let across = inner.div_ceil(most);
        let tasks = layout.outer * (layout.axis / d) * across;
        let past = x.address() != y.address() && layout.len() * y.element_size() >= stream::threshold();
        pool::for_each(tasks.div_ceil(GROUP), threads, |group| {
            let mut buffer = vec![T::from_f64(0.0); d * most];
            for task in (group * GROUP..tasks).take(GROUP) {
                let (first, from) = (task / across * d, task % across * most);
                let width = most.min(inner - from);
                // Strips lie in the array and are disjoint.
                T::rotate(&Strip { x, y, first, from, inner, width, past }, &mut buffer[..d * width], self);
            }
            if past {
                stream::fence();
            }
        });
    }

    /// What the rows of a strip are multiplied by before the steps, and after them.
    #[inline(always)]
    fn factors<T: Float>(&self, strip: &Strip) -> [impl Iterator<Item = T> + '_; 2] {
        let at = strip.first % self.period;
        let scale = T::from_f64(1.0 / (self.d as f64).sqrt());
        [(!self.inverse, T::from_f64(1.0)), (self.inverse, scale)].map(|(signed, factor)| {
            let minus = T::from_f64(-1.0) * factor;
            // A block ends before the period does.
            self.signs[at..at + self.d].iter().map(move |sign| if signed && *sign != 0 { minus } else { factor })
        })
    }
}

dispatch! { fn strip_f32(strip: &Strip, buffer: &mut [f32], rotation: &Rotation) = strip_body; }

#[inline(always)]
fn strip_body(strip: &Strip, buffer: &mut [f32], rotation: &Rotation) {
    let Strip { x, y, width, past, .. } = *strip;
    let [before, after] = rotation.factors::<f32>(strip);
    for ((row, data), sign) in buffer.chunks_exact_mut(width).enumerate().zip(before) {
        // SAFETY: what a strip is.
        unsafe {
            match x.borrow(strip.place(row), width, y) {
                Some(x) => stream::map::<_, false>(x, data, |x| x * sign),
                None => {
                    x.load(strip.place(row), data);
                    for v in data {
                        *v *= sign;
                    }
                }
            }
        }
    }
    butterflies(buffer, width, rotation.d * width);
    for ((row, data), factor) in buffer.chunks_exact_mut(width).enumerate().zip(after) {
        // SAFETY: as above.
        unsafe {
            match y.f32_range(strip.place(row), width) {
                Some(y) if past => stream::map::<_, true>(data, y, |x| x * factor),
                Some(y) => stream::map::<_, false>(data, y, |x| x * factor),
                None => {
                    for v in &mut *data {
                        *v *= factor;
                    }
                    y.store(strip.place(row), data);
                }
            }
        }
    }
}
