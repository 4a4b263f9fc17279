//! Arrays in packed form: element codes at their true width, scales beside them (see `dither_numerics::stored` for what
//! they mean and [`crate::pack`] for the rows of bits).
//!
//! The codes of an array lie in rows of its last axis. A unit of work is a stretch of memory that holds whole blocks and
//! begins and ends at whole bytes of codes, so that no two threads share a byte. Whole blocks along rows go through
//! `pack_lanes` and `unpack_lanes` where they know the quantizer, all others through the scalar truth.

use crate::bits::{Draws, integer_at};
use crate::boxes;
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{Whole, random_width, threads_for};
use crate::formed::Element;
use crate::fpu::Standard;
use crate::layout::Layout;
#[cfg(target_arch = "x86_64")]
use crate::layout::Unit;
use crate::pack::{pack, unpack};
#[cfg(target_arch = "x86_64")]
use crate::pack_lanes::{self, Packer};
pub use crate::parts::{Parts, Scales};
use crate::pool;
use crate::rows::Cut;
use crate::stream;
#[cfg(target_arch = "x86_64")]
use crate::unpack_lanes::{self, Unpacker};
use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::{Format, Quantizer, Scale};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An array as (outer, axis, inner), with the length of its last axis: `axis` itself, or a factor of `inner`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub layout: Layout,
    pub last: usize,
    /// Whether `axis` is the last axis.
    pub along_last: bool,
}

/// Quantize into `parts`, blocks along the layout's axis. Returns the tensor scale where the quantizer has one, or the
/// position of the first element that has no code (a NaN that the format cannot hold).
///
/// # Safety
/// `x` points to the shape's elements, `parts` to as many codes and scales as they need; they do not overlap, nobody else
/// touches them meanwhile. A `Randomness::Given` holds an integer for every element.
pub unsafe fn quantize(
    q: &Quantizer,
    shape: &Shape,
    x: Memory,
    parts: Parts,
    source: Randomness<'_>,
    threads: usize,
) -> Result<Option<f32>, usize> {
    let _standard = Standard::enter();
    // SAFETY: the caller's contract.
    unsafe {
        if !is_plain(q) {
            boxes::quantize(q, shape, x, parts, source, threads)
        } else if x.is_f64() {
            quantize_as::<f64>(q, shape, x, parts, source, threads)
        } else {
            quantize_as::<f32>(q, shape, x, parts, source, threads)
        }
    }
}

/// The values of packed parts, formed in fp32 (`wide`: in fp64, as for fp64 sources) and rounded once to `y`'s type.
///
/// # Safety
/// `parts` and `y` hold what the shape and the quantizer ask for and do not overlap; nobody else touches `y` meanwhile.
pub unsafe fn dequantize(
    q: &Quantizer,
    shape: &Shape,
    parts: Parts,
    tensor: Option<f32>,
    wide: bool,
    y: MemoryMut,
    threads: usize,
) {
    let _standard = Standard::enter();
    // SAFETY: the caller's contract.
    unsafe {
        if !is_plain(q) {
            boxes::dequantize(q, shape, parts, tensor, wide, y, threads);
        } else if wide {
            dequantize_as::<f64>(q, shape, parts, tensor, y, threads);
        } else {
            dequantize_as::<f32>(q, shape, parts, tensor, y, threads);
        }
    }
}

/// Whether every scale follows from an absmax along one axis (or of everything) and reads as one factor.
fn is_plain(q: &Quantizer) -> bool {
    q.scaling.as_ref().is_none_or(|s| s.is_plain())
}

unsafe fn quantize_as<T: Element>(
    q: &Quantizer,
    shape: &Shape,
    x: Memory,
    parts: Parts,
    source: Randomness<'_>,
    threads: usize,
) -> Result<Option<f32>, usize> {
    let threads = threads_for(shape.layout.len(), threads);
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, x, &shape.layout, threads) };
    let cut = Cut::new(q, shape);
    let known = cut.known.then(|| q.scale(T::from_f64(whole.absmax), whole.tensor.as_ref()));
    if let Some(scale) = known {
        // SAFETY: a tensor has one scale, a cast none. A plain scale has a code.
        unsafe { parts.set_scale(q, 0, scale) };
    }
    let first_bad = AtomicUsize::new(usize::MAX);
    let draws = Draws::new(source, q.rounding);
    #[cfg(target_arch = "x86_64")]
    let packer = Packer::new(q, &whole).filter(|_| !x.is_f64());
    pool::for_each(cut.units(), threads, |u| {
        let unit = cut.unit(u);
        #[cfg(target_arch = "x86_64")]
        if let Some((packer, block)) = packer.as_ref().zip(cut.vectors(&unit)) {
            let mut loaded = Vec::new();
            let random = draws.run(unit.start, unit.len());
            // SAFETY: units lie in the array and are disjoint, and so are their codes and scales.
            unsafe {
                let x = x.f32_slice(unit.start, unit.len(), &mut loaded);
                cut.for_each_part(&unit, |part, bytes| {
                    let fractions = random.get(part.clone()).unwrap_or_default();
                    let (x, first) = (&x[part.clone()], cut.first_block(unit.start + part.start));
                    let whole = pack_lanes::Part { x, fractions, block, scales: parts.scales, first };
                    if let Some(at) = packer.part(whole, parts.bytes(bytes)) {
                        first_bad.fetch_min(unit.start + part.start + at, Ordering::Relaxed);
                    }
                });
            }
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some((packer, columns)) = packer.as_ref().zip(cut.columns(&unit)) {
            let mut loaded = Vec::new();
            let fractions = &draws.run(unit.start, unit.len());
            // SAFETY: as above.
            let missing = unsafe {
                let x = x.f32_slice(unit.start, unit.len(), &mut loaded);
                let row = parts.bytes(columns.bytes.clone());
                packer.columns(pack_lanes::Columns { x, fractions, scales: parts.scales, at: columns }, row)
            };
            missing.map(|at| first_bad.fetch_min(unit.start + at, Ordering::Relaxed));
            return;
        }
        let (mut data, mut codes) = (vec![T::from_f64(0.0); unit.len()], vec![0u32; unit.len()]);
        let random = draws.run(unit.start, unit.len());
        // SAFETY: units lie in the array and are disjoint, and so are their codes and scales.
        unsafe { T::load(x, unit.start, &mut data) };
        cut.for_each_block(&unit, |at, positions| {
            let scale = known.unwrap_or_else(|| {
                let scale = q.scale(T::from_f64(absmax(positions.clone().map(|i| data[i]))), whole.tensor.as_ref());
                // SAFETY: as above.
                unsafe { parts.set_scale(q, at, scale) };
                scale
            });
            for i in positions {
                codes[i] =
                    q.element_code(data[i], scale, integer_at(&random, i, random_width(q))).unwrap_or_else(|| {
                        first_bad.fetch_min(unit.start + i, Ordering::Relaxed);
                        0
                    });
            }
        });
        cut.for_each_part(&unit, |part, bytes| {
            // SAFETY: as above.
            pack(&codes[part], cut.width, unsafe { parts.bytes(bytes) });
        });
    });
    match first_bad.into_inner() {
        usize::MAX => Ok(whole.tensor.map(|t| t.decode)),
        at => Err(at),
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
    let cut = Cut::new(q, shape);
    let values = Values::new(&q.format, shape.layout.len());
    // SAFETY: a tensor has one scale, a cast none.
    let known = cut.known.then(|| factor(q, unsafe { parts.scale(q, 0, tensor) }));
    let streamed = shape.layout.len() * y.element_size() >= stream::threshold();
    #[cfg(target_arch = "x86_64")]
    let unpacker = Unpacker::new(q, tensor, known, streamed).filter(|_| size_of::<T>() == size_of::<f32>());
    let work = |unit: Range<usize>| {
        #[cfg(target_arch = "x86_64")]
        if let Some((unpacker, block)) = unpacker.as_ref().zip(cut.vectors(&unit)) {
            // SAFETY: the codes and scales of a unit are its own, and so are its values.
            cut.for_each_part(&unit, |part, bytes| unsafe {
                let (start, len) = (unit.start + part.start, part.len());
                let part = unpack_lanes::Part { unit: Unit { start, len }, block, first: cut.first_block(start) };
                unpacker.part(parts.bytes(bytes), parts.scales, y, part);
            });
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some((unpacker, columns)) = unpacker.as_ref().zip(cut.columns(&unit)) {
            // SAFETY: as above.
            unsafe { unpacker.columns(parts.bytes(columns.bytes.clone()), parts.scales, y, unit, &columns) };
            return;
        }
        let (mut data, mut codes) = (vec![T::from_f64(0.0); unit.len()], vec![0u32; unit.len()]);
        cut.for_each_part(&unit, |part, bytes| {
            // SAFETY: the codes of a unit are its own.
            unpack(unsafe { parts.bytes(bytes) }, cut.width, &mut codes[part]);
        });
        cut.for_each_block(&unit, |at, positions| {
            // SAFETY: as above, the scales.
            let factor = known.unwrap_or_else(|| factor(q, unsafe { parts.scale(q, at, tensor) }));
            let factor = T::from_f64(f64::from(factor));
            for i in positions {
                data[i] = T::from_f64(f64::from(values.get(codes[i]))).mul(factor);
            }
        });
        // SAFETY: units are disjoint.
        unsafe { T::store(y, unit.start, &data) };
    };
    let group = if streamed { stream::GROUP } else { 1 };
    pool::for_each(cut.units().div_ceil(group), threads_for(shape.layout.len(), threads), |g| {
        (g * group..cut.units()).take(group).for_each(|u| work(cut.unit(u)));
        if streamed {
            stream::fence();
        }
    });
}

fn factor(q: &Quantizer, scale: Scale) -> f32 {
    q.factor(scale).expect("plain scales are read by one multiplication")
}

/// The values of a format's codes (all exact in fp32), in a table where there are more elements than codes.
pub(crate) struct Values<'a> {
    format: &'a Format,
    table: Vec<f32>,
}

impl<'a> Values<'a> {
    pub fn new(format: &'a Format, elements: usize) -> Self {
        let tabled = format.bits() <= 8 || (format.bits() <= 16 && elements >> format.bits() > 0);
        let codes = if tabled { 0..1u32 << format.bits() } else { 0..0 };
        Values { format, table: codes.map(|c| format.decode(c) as f32).collect() }
    }

    #[inline(always)]
    pub fn get(&self, code: u32) -> f32 {
        self.table.get(code as usize).copied().unwrap_or_else(|| self.format.decode(code) as f32)
    }
}
