//! Packed arrays under every scaling that is not plain: blocks are boxes, and elements go through the scalar truth one by
//! one. Between the boxes and the rows of bits the codes lie in memory as 32-bit integers.

use crate::by_truth::each_box;
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::threads_for;
use crate::formed::Element;
use crate::grid::Boxes;
use crate::pack::{pack, unpack};
use crate::packed::{Parts, Shape, Values};
use crate::pool;
use crate::rows::Cut;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Block, Quantizer, Scale};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// # Safety
/// As [`crate::packed::quantize`].
pub(crate) unsafe fn quantize(
    q: &Quantizer,
    shape: &Shape,
    x: Memory,
    parts: Parts,
    source: Randomness<'_>,
    threads: usize,
) -> Result<Option<f32>, usize> {
    // SAFETY: the caller's contract, for both.
    unsafe {
        match x.is_f64() {
            true => quantize_as::<f64>(q, shape, x, parts, source, threads),
            false => quantize_as::<f32>(q, shape, x, parts, source, threads),
        }
    }
}

unsafe fn quantize_as<T: Element>(
    q: &Quantizer,
    shape: &Shape,
    x: Memory,
    parts: Parts,
    source: Randomness<'_>,
    threads: usize,
) -> Result<Option<f32>, usize> {
    let (layout, first_bad) = (&shape.layout, AtomicUsize::new(usize::MAX));
    let threads = threads_for(layout.len(), threads);
    let codes: Vec<AtomicU32> = (0..layout.len()).map(|_| AtomicU32::new(0)).collect();
    let bad = |at: usize| {
        first_bad.fetch_min(at, Ordering::Relaxed);
    };
    let work = |b: usize, values: &[T], runs: &[(usize, usize)], scale: Scale| {
        // SAFETY: boxes are counted as the blocks whose scales are stored, and each is one thread's.
        if !unsafe { parts.set_scale(q, b, scale) } {
            bad(runs[0].0);
        }
        let positions = runs.iter().flat_map(|(start, len)| *start..start + len);
        for (i, x) in positions.zip(values) {
            match q.element_code(*x, scale, source.bits(i, q.rounding)) {
                Some(code) => codes[i].store(code, Ordering::Relaxed),
                None => bad(i),
            }
        }
    };
    // SAFETY: the caller's contract.
    let tensor = unsafe { each_box(q, layout, x, threads, work) };
    if layout.is_empty() && q.scaling.as_ref().is_some_and(|s| s.block == Block::Tensor) {
        // SAFETY: a tensor without elements has one scale all the same.
        unsafe { parts.set_scale(q, 0, q.block_scale::<T>(&[], tensor.as_ref())) };
    }
    let cut = Cut::rows(q, shape);
    pool::for_each(cut.units(), threads, |u| {
        let unit = cut.unit(u);
        let own: Vec<u32> = codes[unit.clone()].iter().map(|c| c.load(Ordering::Relaxed)).collect();
        // SAFETY: units are disjoint and end at whole bytes.
        cut.for_each_part(&unit, |part, bytes| pack(&own[part], cut.width, unsafe { parts.bytes(bytes) }));
    });
    match first_bad.into_inner() {
        usize::MAX => Ok(tensor.map(|t| t.decode)),
        at => Err(at),
    }
}

/// # Safety
/// As [`crate::packed::dequantize`].
pub(crate) unsafe fn dequantize(
    q: &Quantizer,
    shape: &Shape,
    parts: Parts,
    tensor: Option<f32>,
    wide: bool,
    y: MemoryMut,
    threads: usize,
) {
    // SAFETY: the caller's contract, for both.
    unsafe {
        match wide {
            true => dequantize_as::<f64>(q, shape, parts, tensor, y, threads),
            false => dequantize_as::<f32>(q, shape, parts, tensor, y, threads),
        }
    }
}

unsafe fn dequantize_as<T: Element>(
    q: &Quantizer,
    shape: &Shape,
    parts: Parts,
    tensor: Option<f32>,
    y: MemoryMut,
    threads: usize,
) {
    let layout = &shape.layout;
    let threads = threads_for(layout.len(), threads);
    let codes: Vec<AtomicU32> = (0..layout.len()).map(|_| AtomicU32::new(0)).collect();
    let cut = Cut::rows(q, shape);
    pool::for_each(cut.units(), threads, |u| {
        let unit = cut.unit(u);
        cut.for_each_part(&unit, |part, bytes| {
            let mut own = vec![0; part.len()];
            // SAFETY: the codes of a unit are its own.
            unpack(unsafe { parts.bytes(bytes) }, cut.width, &mut own);
            for (code, own) in codes[unit.clone()][part].iter().zip(own) {
                code.store(own, Ordering::Relaxed);
            }
        });
    });
    let (boxes, values) = (Boxes::new(q, layout), Values::new(&q.format, layout.len()));
    pool::for_each(boxes.len(), threads, |b| {
        // SAFETY: boxes are counted as the blocks whose scales are stored.
        let scale = unsafe { parts.scale(q, b, tensor) };
        let factor = q.factor(scale).map(|f| T::from_f64(f64::from(f)));
        for (start, len) in boxes.runs(b) {
            let own = codes[start..start + len].iter().map(|c| c.load(Ordering::Relaxed));
            let data: Vec<T> = match factor {
                Some(factor) => own.map(|c| T::from_f64(f64::from(values.get(c))).mul(factor)).collect(),
                None => own.map(|c| q.stored_value(c, scale)).collect(),
            };
            // SAFETY: the runs of boxes are disjoint.
            unsafe { T::store(y, start, &data) };
        }
    });
}
