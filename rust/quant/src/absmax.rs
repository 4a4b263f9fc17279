//! The absmax of a whole array, before blocks can be scaled (tensor scales).

use crate::dtype::Memory;
use crate::layout::Layout;
use crate::pool;
use crate::simd::dispatch;
use crate::stream;
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements that a thread reads in one go.
const RUN: usize = 1 << 16;

/// Largest magnitude; NaN if there is one.
///
/// # Safety
/// `x` points to `layout.len()` elements that nobody writes meanwhile.
pub unsafe fn absmax(x: Memory, layout: &Layout, threads: usize) -> f64 {
    let len = layout.len();
    // Magnitudes as integers: NaN > infinity > finite, and a maximum does not depend on the order.
    let best = AtomicU64::new(0);
    pool::for_each(len.div_ceil(RUN), threads, |i| {
        let (start, len) = (i * RUN, RUN.min(len - i * RUN));
        // SAFETY: the runs lie in the array.
        let bits = unsafe {
            match x {
                Memory::F32(p) => largest(std::slice::from_raw_parts(p.add(start), len)).into(),
                Memory::Bf16(p) | Memory::F16(p) => largest_half(std::slice::from_raw_parts(p.add(start), len)).into(),
                Memory::F64(p) => std::slice::from_raw_parts(p.add(start), len)
                    .iter()
                    .fold(0, |m: u64, x| m.max(x.to_bits() & !(1 << 63))),
            }
        };
        best.fetch_max(bits, Ordering::Relaxed);
    });
    let bits = best.into_inner();
    let half = [bits as u16];
    let mut wide = [0f32];
    match x {
        Memory::F32(_) => f64::from(f32::from_bits(bits as u32)),
        Memory::F64(_) => f64::from_bits(bits),
        Memory::Bf16(_) | Memory::F16(_) => {
            let value =
                if matches!(x, Memory::F16(_)) { Memory::F16(half.as_ptr()) } else { Memory::Bf16(half.as_ptr()) };
            // SAFETY: one element.
            unsafe { value.load(0, &mut wide) };
            f64::from(wide[0])
        }
    }
}

dispatch! { fn largest(x: &[f32]) -> u32 = largest_body; }
dispatch! { fn largest_half(x: &[u16]) -> u16 = largest_half_body; }

/// Vectors of running maxima: several, so that they do not wait for each other.
const LANES: usize = 64;

#[inline(always)]
fn largest_body(x: &[f32]) -> u32 {
    let mut best = [0u32; LANES];
    let (lines, rest) = x.as_chunks::<LANES>();
    for x in lines {
        for line in 0..LANES / 16 {
            stream::prefetch(x.as_ptr().wrapping_add(4 * stream::AHEAD + line * 16));
        }
        for (best, x) in best.iter_mut().zip(x) {
            *best = (*best).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    rest.iter().map(|x| x.to_bits() & 0x7fff_ffff).chain(best).fold(0, u32::max)
}

#[inline(always)]
fn largest_half_body(x: &[u16]) -> u16 {
    let mut best = [0u16; LANES];
    let (lines, rest) = x.as_chunks::<LANES>();
    for x in lines {
        for (best, x) in best.iter_mut().zip(x) {
            *best = (*best).max(x & 0x7fff);
        }
    }
    rest.iter().map(|x| x & 0x7fff).chain(best).fold(0, u16::max)
}
