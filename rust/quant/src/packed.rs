//! Arrays in packed form: element codes at their true width, scales beside them (see `dither_numerics::stored` for what
//! they mean and [`crate::pack`] for the rows of bits).
//!
//! The codes of an array lie in rows of its last axis. A unit of work is a stretch of memory that holds whole blocks and
//! begins and ends at whole bytes of codes, so that no two threads share a byte. Units go through the scalar truth; a faster kernel
//! for one quantizer takes the place of `for_each_block` and `pack` (or `unpack`) in them.

use crate::bits::{Draws, integer_at};
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{Whole, random_width, threads_for};
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::pack::{pack, row_bytes, unpack};
use crate::pool;
use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::{Block, Format, Quantizer, Real};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where an array's parts are. [`dequantize`] only reads them.
#[derive(Clone, Copy)]
pub struct Parts {
    /// One row of bits for each row of the last axis.
    pub codes: *mut u8,
    pub scales: Scales,
}

/// One scale a block in C order, the axis replaced by the blocks along it; none for plain casts.
#[derive(Clone, Copy)]
pub enum Scales {
    None,
    Codes(*mut u8),
    F32(*mut f32),
}

// SAFETY: every thread reads and writes only the ranges of its own units, which are disjoint.
unsafe impl Sync for Scales {}
// SAFETY: as above; a pointer carries no thread affinity.
unsafe impl Send for Scales {}
// SAFETY: as above.
unsafe impl Sync for Parts {}
// SAFETY: as above.
unsafe impl Send for Parts {}

impl Parts {
    /// # Safety
    /// `range` lies in the codes and no other reference to it is alive.
    #[allow(clippy::mut_from_ref)] // the pointer is the owner's, not this value's
    unsafe fn bytes(&self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.codes.add(range.start), range.len()) }
    }
}

impl Scales {
    /// # Safety
    /// `i` lies in the array.
    unsafe fn get(&self, i: usize) -> u32 {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Scales::None => 0,
                Scales::Codes(p) => u32::from(*p.add(i)),
                Scales::F32(p) => (*p.add(i)).to_bits(),
            }
        }
    }

    /// # Safety
    /// `i` lies in the array and belongs to this thread.
    unsafe fn set(&self, i: usize, code: u32) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Scales::None => {}
                Scales::Codes(p) => *p.add(i) = code as u8,
                Scales::F32(p) => *p.add(i) = f32::from_bits(code),
            }
        }
    }
}

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
        if x.is_f64() {
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
        if wide {
            dequantize_as::<f64>(q, shape, parts, tensor, y, threads);
        } else {
            dequantize_as::<f32>(q, shape, parts, tensor, y, threads);
        }
    }
}

unsafe fn quantize_as<T: Work>(
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
        // SAFETY: a tensor has one scale, a cast none.
        unsafe { parts.scales.set(0, q.scale_code(scale)) };
    }
    let first_bad = AtomicUsize::new(usize::MAX);
    let draws = Draws::new(source, random_width(q));
    pool::for_each(cut.units(), threads, |u| {
        let unit = cut.unit(u);
        let (mut data, mut codes) = (vec![T::default(); unit.len()], vec![0u32; unit.len()]);
        let random = draws.run(unit.start, unit.len());
        // SAFETY: units lie in the array and are disjoint, and so are their codes and scales.
        unsafe { T::load(x, unit.start, &mut data) };
        cut.for_each_block(&unit, |at, positions| {
            let scale = known.unwrap_or_else(|| {
                let scale = q.scale(T::from_f64(absmax(positions.clone().map(|i| data[i]))), whole.tensor.as_ref());
                // SAFETY: as above.
                unsafe { parts.scales.set(at, q.scale_code(scale)) };
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

unsafe fn dequantize_as<T: Work>(
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
    let known = cut.known.then(|| q.factor(unsafe { parts.scales.get(0) }, tensor));
    pool::for_each(cut.units(), threads_for(shape.layout.len(), threads), |u| {
        let unit = cut.unit(u);
        let (mut data, mut codes) = (vec![T::default(); unit.len()], vec![0u32; unit.len()]);
        cut.for_each_part(&unit, |part, bytes| {
            // SAFETY: the codes of a unit are its own.
            unpack(unsafe { parts.bytes(bytes) }, cut.width, &mut codes[part]);
        });
        cut.for_each_block(&unit, |at, positions| {
            // SAFETY: as above, the scales.
            let factor = known.unwrap_or_else(|| q.factor(unsafe { parts.scales.get(at) }, tensor));
            let factor = T::from_f64(f64::from(factor));
            for i in positions {
                data[i] = T::from_f64(f64::from(values.get(codes[i]))).mul(factor);
            }
        });
        // SAFETY: units are disjoint.
        unsafe { T::store(y, unit.start, &data) };
    });
}

/// The two types in which values are formed, as memory is read and written with them.
trait Work: Real + Default {
    /// # Safety
    /// As for [`Memory::load`].
    unsafe fn load(x: Memory, start: usize, out: &mut [Self]);
    /// # Safety
    /// As for [`MemoryMut::store`].
    unsafe fn store(y: MemoryMut, start: usize, x: &[Self]);
}

impl Work for f32 {
    unsafe fn load(x: Memory, start: usize, out: &mut [f32]) {
        // SAFETY: the caller's contract.
        unsafe { x.load(start, out) }
    }
    unsafe fn store(y: MemoryMut, start: usize, x: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { y.store(start, x) }
    }
}

impl Work for f64 {
    unsafe fn load(x: Memory, start: usize, out: &mut [f64]) {
        // SAFETY: the caller's contract.
        unsafe { x.load_f64(start, out) }
    }
    unsafe fn store(y: MemoryMut, start: usize, x: &[f64]) {
        // SAFETY: the caller's contract.
        unsafe { y.store_f64(start, x) }
    }
}

/// The values of a format's codes (all exact in fp32), in a table where there are more elements than codes.
struct Values<'a> {
    format: &'a Format,
    table: Vec<f32>,
}

impl<'a> Values<'a> {
    fn new(format: &'a Format, elements: usize) -> Self {
        let tabled = format.bits() <= 8 || (format.bits() <= 16 && elements >> format.bits() > 0);
        let codes = if tabled { 0..1u32 << format.bits() } else { 0..0 };
        Values { format, table: codes.map(|c| format.decode(c) as f32).collect() }
    }

    #[inline(always)]
    fn get(&self, code: u32) -> f32 {
        self.table.get(code as usize).copied().unwrap_or_else(|| self.format.decode(code) as f32)
    }
}

/// Elements of a unit aimed at.
const UNIT: usize = 4096;

/// An array in units of whole blocks and whole bytes of codes.
struct Cut {
    layout: Layout,
    last: usize,
    width: u32,
    row_bytes: usize,
    /// One scale for everything (or none), so that blocks need not be looked for.
    known: bool,
    /// Elements along the axis in a block; where the scale is known, in a stretch that fills whole bytes.
    block: usize,
    along_last: bool,
    /// Elements of a row in a unit, where blocks lie in rows; else elements in the rows of one block.
    step: usize,
    /// Whole rows in a unit, where blocks lie in rows shorter than a unit.
    rows: usize,
}

impl Cut {
    fn new(q: &Quantizer, shape: &Shape) -> Cut {
        let rule = q.scaling.as_ref().map(|s| s.block);
        let known = matches!(rule, None | Some(Block::Tensor));
        let width = q.format.bits();
        let along_last = known || shape.along_last;
        let mut last = shape.last.max(1);
        let block = match rule {
            Some(Block::Size(n)) => n.min(shape.layout.axis.max(1)),
            Some(Block::Row) => shape.layout.axis.max(1),
            Some(Block::Tensor) | None => 8,
            Some(Block::Column | Block::Tile(..)) => unreachable!("refused by `Quantizer::unstorable`"),
        };
        let whole_bytes = |n: usize| n.is_multiple_of(8) || (n * width as usize).is_multiple_of(8);
        // Rows of whole blocks and bytes follow each other like one long row.
        if along_last && (known || last.is_multiple_of(block)) && whole_bytes(last) {
            last = shape.layout.len().max(1);
        }
        let bytes_of_8 = block * if whole_bytes(block) { 1 } else { 8 };
        let (step, rows) = match along_last {
            true => (bytes_of_8 * (UNIT / bytes_of_8).max(1), (UNIT / last).max(1)),
            false => (block * shape.layout.inner, 1),
        };
        let row_bytes = row_bytes(last, width).expect("the codes were allocated");
        Cut { layout: shape.layout, last, width, row_bytes, known, block, along_last, step, rows }
    }

    fn units(&self) -> usize {
        let n = self.layout.len();
        if n == 0 {
            0
        } else if !self.along_last {
            self.layout.outer * self.layout.axis.div_ceil(self.block)
        } else if self.last > UNIT {
            n / self.last * self.last.div_ceil(self.step)
        } else {
            (n / self.last).div_ceil(self.rows)
        }
    }

    fn unit(&self, i: usize) -> Range<usize> {
        let n = self.layout.len();
        let (start, len) = if !self.along_last {
            let (per_outer, size) = (self.layout.axis.div_ceil(self.block), self.layout.axis * self.layout.inner);
            let (outer, j) = (i / per_outer, i % per_outer * self.step);
            (outer * size + j, self.step.min(size - j))
        } else if self.last > UNIT {
            let per_row = self.last.div_ceil(self.step);
            let (row, from) = (i / per_row, i % per_row * self.step);
            (row * self.last + from, self.step.min(self.last - from))
        } else {
            let start = i * self.rows * self.last;
            (start, (self.rows * self.last).min(n - start))
        };
        start..start + len
    }

    /// Calls `work` for the stretches of the unit that lie in one row each, with their positions in the unit and the
    /// bytes of their codes.
    fn for_each_part(&self, unit: &Range<usize>, mut work: impl FnMut(Range<usize>, Range<usize>)) {
        let mut start = unit.start;
        while start < unit.end {
            let (row, from) = (start / self.last, start % self.last);
            let n = (self.last - from).min(unit.end - start);
            let byte = row * self.row_bytes + from * self.width as usize / 8;
            let bytes = row_bytes(n, self.width).expect("the codes were allocated");
            work(start - unit.start..start - unit.start + n, byte..byte + bytes);
            start += n;
        }
    }

    /// Calls `work` for the blocks of the unit with the index of the block and the positions of its elements in the unit.
    fn for_each_block(&self, unit: &Range<usize>, mut work: impl FnMut(usize, std::iter::StepBy<Range<usize>>)) {
        let (len, inner) = (unit.len(), self.layout.inner);
        if self.known {
            work(0, (0..len).step_by(1));
        } else if self.along_last {
            let per_row = self.last.div_ceil(self.block);
            self.for_each_part(unit, |part, _| {
                let at = unit.start + part.start;
                let first = at / self.last * per_row + at % self.last / self.block;
                for (i, start) in part.clone().step_by(self.block).enumerate() {
                    work(first + i, (start..part.end.min(start + self.block)).step_by(1));
                }
            });
        } else {
            let (row, per_outer) = (unit.start / inner, self.layout.axis.div_ceil(self.block));
            let block = row / self.layout.axis * per_outer + row % self.layout.axis / self.block;
            for column in 0..inner {
                work(block * inner + column, (column..len).step_by(inner));
            }
        }
    }
}
