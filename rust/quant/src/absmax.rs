//! The absmax of a whole array, before blocks can be scaled (tensor scales).

use crate::dtype::Memory;
use crate::layout::Layout;
use crate::pool;
use std::sync::atomic::{AtomicU64, Ordering};

/// Largest magnitude; NaN if there is one.
///
/// # Safety
/// `x` points to `layout.len()` elements that nobody writes meanwhile.
pub unsafe fn absmax(x: Memory, layout: &Layout, threads: usize) -> f64 {
    let cut = layout.cut(None);
    // Magnitudes as integers: NaN > infinity > finite, and a maximum does not depend on the order.
    let best = AtomicU64::new(0);
    pool::for_each(cut.units(), threads, |i| {
        let unit = cut.unit(i);
        let bits = if x.is_f64() {
            let mut buffer = vec![0f64; unit.len];
            // SAFETY: units lie in the array.
            unsafe { x.load_f64(unit.start, &mut buffer) };
            buffer.iter().fold(0, |m: u64, x| m.max(x.to_bits() & !(1 << 63)))
        } else {
            let mut buffer = vec![0f32; unit.len];
            // SAFETY: units lie in the array.
            unsafe { x.load(unit.start, &mut buffer) };
            u64::from(buffer.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff)))
        };
        best.fetch_max(bits, Ordering::Relaxed);
    });
    let bits = best.into_inner();
    if x.is_f64() { f64::from_bits(bits) } else { f64::from(f32::from_bits(bits as u32)) }
}
