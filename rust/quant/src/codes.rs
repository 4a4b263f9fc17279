//! Codes of an element format: encode and decode, one code an integer of 1, 2 or 4 bytes.

use crate::bits::{Draws, integer_at};
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{random_width, threads_for};
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::pool;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Format, Quantizer};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where codes are.
#[derive(Clone, Copy)]
pub enum Codes {
    U8(*mut u8),
    U16(*mut u16),
    U32(*mut u32),
}

// SAFETY: every thread reads and writes only the ranges of its own units, which are disjoint.
unsafe impl Sync for Codes {}
// SAFETY: as above.
unsafe impl Send for Codes {}

impl Codes {
    /// # Safety
    /// `i` lies in the array.
    unsafe fn get(&self, i: usize) -> u32 {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Codes::U8(p) => u32::from(*p.add(i)),
                Codes::U16(p) => u32::from(*p.add(i)),
                Codes::U32(p) => *p.add(i),
            }
        }
    }

    /// # Safety
    /// `i` lies in the array and belongs to this thread.
    unsafe fn set(&self, i: usize, code: u32) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Codes::U8(p) => *p.add(i) = code as u8,
                Codes::U16(p) => *p.add(i) = code as u16,
                Codes::U32(p) => *p.add(i) = code,
            }
        }
    }
}

/// Round `x` with the cast `q` and write the codes. Returns the position of the first element without a code (a NaN
/// in a format that has none), if there is one; its code is then 0.
///
/// # Safety
/// `x` and `codes` point to `len` elements each and do not overlap. A `Randomness::Given` holds as many integers.
pub unsafe fn encode(
    q: &Quantizer,
    len: usize,
    x: Memory,
    codes: Codes,
    source: Randomness<'_>,
    threads: usize,
) -> Option<usize> {
    let _standard = Standard::enter();
    let cut = Layout { outer: 1, axis: len, inner: 1 }.cut(None);
    let first_bad = AtomicUsize::new(usize::MAX);
    pool::for_each(cut.units(), threads_for(len, threads), |u| {
        let unit = cut.unit(u);
        let mut data = vec![0f64; unit.len];
        let random = Draws::new(source, random_width(q)).run(unit.start, unit.len);
        // SAFETY: units lie in the array and are disjoint.
        unsafe { x.load_f64(unit.start, &mut data) };
        for (i, x) in data.into_iter().enumerate() {
            let y = q.format.round(x, q.rounding, q.overflow, integer_at(&random, i, random_width(q)));
            let code = q.format.encode(y).unwrap_or_else(|| {
                first_bad.fetch_min(unit.start + i, Ordering::Relaxed);
                0
            });
            // SAFETY: as above.
            unsafe { codes.set(unit.start + i, code) };
        }
    });
    Some(first_bad.into_inner()).filter(|i| *i != usize::MAX)
}

/// Write the values of codes, as fp64 if `y` is. (Most formats' values are exact in fp32, see `Format`.)
///
/// # Safety
/// `codes` and `y` point to `len` elements each and do not overlap.
pub unsafe fn decode(format: &Format, len: usize, codes: Codes, y: MemoryMut, threads: usize) {
    let _standard = Standard::enter();
    let cut = Layout { outer: 1, axis: len, inner: 1 }.cut(None);
    let size = 1usize << format.bits().min(16);
    // A table pays as soon as there are more elements than codes.
    let table: Vec<f64> = if format.bits() <= 16 && len >= size {
        (0..size as u32).map(|c| format.decode(c)).collect()
    } else {
        Vec::new()
    };
    let narrow: Vec<f32> = table.iter().map(|v| *v as f32).collect();
    pool::for_each(cut.units(), threads_for(len, threads), |u| {
        let unit = cut.unit(u);
        // SAFETY: units lie in the array.
        let code = |i: usize| unsafe { codes.get(unit.start + i) };
        if y.is_f64() {
            let value = |c: u32| table.get(c as usize & (size - 1)).copied().unwrap_or_else(|| format.decode(c));
            let data: Vec<f64> = (0..unit.len).map(|i| value(code(i))).collect();
            // SAFETY: units are disjoint.
            unsafe { y.store_f64(unit.start, &data) };
        } else {
            let value =
                |c: u32| narrow.get(c as usize & (size - 1)).copied().unwrap_or_else(|| format.decode(c) as f32);
            let data: Vec<f32> = (0..unit.len).map(|i| value(code(i))).collect();
            // SAFETY: as above.
            unsafe { y.store(unit.start, &data) };
        }
    });
}
