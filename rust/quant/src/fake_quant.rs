//! Quantize and dequantize an array.

use crate::absmax::absmax;
use crate::bits::{Draws, integer_at};
use crate::block;
use crate::cast::Cast;
use crate::dtype::{Memory, MemoryMut};
use crate::fpu::Standard;
use crate::job::{Fast, Job};
use crate::layout::{Cut, Layout, Unit};
use crate::pool;
use crate::prefetch::prefetch;
use dither_numerics::quantizer::Randomness;
use dither_numerics::quantizer::absmax as block_absmax;
use dither_numerics::{Block, Quantizer, Scale, TensorScale};

/// Arrays of fewer elements are done by the calling thread alone: waking others costs more.
const SERIAL: usize = 1 << 15;

/// Random bits drawn at once.
const RUN: usize = 1024;

/// How a whole array is scaled before its blocks are looked at.
pub(crate) struct Whole {
    /// The absmax of the array where a tensor scale needs it, else 0.
    pub absmax: f64,
    pub tensor: Option<TensorScale>,
}

impl Whole {
    /// # Safety
    /// `x` points to `layout.len()` elements that nobody writes meanwhile.
    pub unsafe fn of(q: &Quantizer, x: Memory, layout: &Layout, threads: usize) -> Whole {
        let needed = q.scaling.as_ref().is_some_and(|s| s.tensor_scale || s.block == Block::Tensor);
        // SAFETY: the caller's contract.
        let absmax = if needed { unsafe { absmax(x, layout, threads) } } else { 0.0 };
        Whole { absmax, tensor: q.tensor_scale(absmax) }
    }
}

pub(crate) fn threads_for(len: usize, threads: usize) -> usize {
    if len < SERIAL { 1 } else { threads }
}

/// Random bits an element, 0 where nothing is stochastic.
pub(crate) fn random_width(q: &Quantizer) -> u32 {
    q.rounding.random_bits()
}

/// `y = dequantize(quantize(x))`, blocks along the layout's axis; results as `dither_numerics::Quantizer` states them.
///
/// # Safety
/// `x` and `y` point to `layout.len()` elements each, are the same memory or do not overlap, and nobody else writes
/// `x` or touches `y` meanwhile. A `Randomness::Given` holds as many integers.
pub unsafe fn fake_quant(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    y: MemoryMut,
    source: Randomness<'_>,
    threads: usize,
) {
    let _standard = Standard::enter();
    let threads = threads_for(layout.len(), threads);
    if !q.scaling.as_ref().is_none_or(|s| s.is_plain()) {
        // SAFETY: the caller's contract.
        return unsafe { crate::general::fake_quant(q, layout, x, y, source, threads) };
    }
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, x, layout, threads) };
    let cut = layout.cut(q.scaling.as_ref().map(|s| s.block));
    let kernel = Kernel::new(q, &whole);
    let draws = Draws::new(source, random_width(q));
    pool::for_each(cut.units(), threads, |i| {
        let unit = cut.unit(i);
        if x.is_f64() {
            let (mut data, random) = (vec![0f64; unit.len], draws.run(unit.start, unit.len));
            // SAFETY: units lie in the array and are disjoint.
            unsafe { x.load_f64(unit.start, &mut data) };
            f64_unit(q, &whole, &cut, &mut data, &random);
            // SAFETY: as above.
            unsafe { y.store_f64(unit.start, &data) };
            return;
        }
        // SAFETY: units lie in the array and are disjoint.
        unsafe { through_f32(x, y, unit, |x, y| kernel.draw(&cut, x, y, unit.start, &draws)) };
    });
}

/// Run `work` on a unit as fp32, between the arrays themselves where they are fp32.
///
/// # Safety
/// As for [`fake_quant`]; `unit` belongs to this thread.
pub(crate) unsafe fn through_f32(x: Memory, y: MemoryMut, unit: Unit, work: impl FnOnce(&[f32], &mut [f32])) {
    // SAFETY: the caller's contract; a borrowed input range is not the output's (`borrow` refuses the same memory).
    unsafe {
        let mut loaded = Vec::new();
        let input = x.borrow(unit.start, unit.len, y).unwrap_or_else(|| {
            loaded.resize(unit.len, 0.0);
            x.load(unit.start, &mut loaded);
            &loaded
        });
        if let Some(output) = y.f32_range(unit.start, unit.len) {
            work(input, output);
        } else {
            let mut output = vec![0f32; unit.len];
            work(input, &mut output);
            y.store(unit.start, &output);
        }
    }
}

/// What is done to a unit of fp32.
pub(crate) enum Kernel<'a> {
    Cast(Cast),
    /// One scale for everything, known beforehand.
    Scaled(Job<'a>, Fast),
    Blocks(Job<'a>),
}

impl<'a> Kernel<'a> {
    pub fn new(q: &'a Quantizer, whole: &Whole) -> Kernel<'a> {
        let job = Job::new(q, whole.tensor);
        match q.scaling.as_ref().map(|s| s.block) {
            None => match Cast::new(q) {
                Some(cast) => Kernel::Cast(cast),
                None => Kernel::Scaled(job, Fast::Exact(Scale::Power(0))),
            },
            Some(Block::Tensor) => {
                let scale = job.scale((whole.absmax as f32).to_bits());
                Kernel::Scaled(job, scale)
            }
            _ => Kernel::Blocks(job),
        }
    }

    /// [`Kernel::apply`] with the random bits of the elements from `start` on.
    pub fn draw(&self, cut: &Cut, x: &[f32], y: &mut [f32], start: usize, draws: &Draws<'_>) {
        let step = match self {
            Kernel::Blocks(_) => RUN / cut.block * cut.block,
            _ => RUN,
        };
        if !draws.any() || cut.inner() > 1 || step == 0 {
            return self.apply(cut, x, y, &draws.run(start, x.len()));
        }
        // The random bits of some whole blocks stay in the first-level cache; while they are made, memory is asked
        // for the elements that come next.
        let (mut reader, mut random) = (draws.reader(), [0; RUN]);
        for (i, (x, y)) in x.chunks(step).zip(y.chunks_mut(step)).enumerate() {
            prefetch(x, y);
            let random = &mut random[..x.len()];
            reader.read(start + i * step, random);
            self.apply(cut, x, y, random);
        }
    }

    pub fn apply(&self, cut: &Cut, x: &[f32], y: &mut [f32], random: &[u32]) {
        match self {
            Kernel::Cast(cast) => cast.apply(x, y, random),
            Kernel::Scaled(job, scale) => block::scaled(x, y, random, *scale, job),
            Kernel::Blocks(job) if cut.inner() == 1 => block::contiguous(x, y, cut.block, random, job),
            Kernel::Blocks(job) => block::columns(x, y, cut.inner(), random, job),
        }
    }
}

/// Calls `work` for the blocks of a unit in order, with the positions of one block.
pub(crate) fn for_each_block(cut: &Cut, len: usize, mut work: impl FnMut(&mut dyn Iterator<Item = usize>)) {
    if cut.inner() == 1 {
        for start in (0..len).step_by(cut.block) {
            work(&mut (start..len.min(start + cut.block)));
        }
    } else {
        for column in 0..cut.inner() {
            work(&mut (column..len).step_by(cut.inner()));
        }
    }
}

/// fp64 goes through the scalar truth, block by block.
fn f64_unit(q: &Quantizer, whole: &Whole, cut: &Cut, data: &mut [f64], random: &[u32]) {
    for_each_block(cut, data.len(), |positions| {
        let positions: Vec<usize> = positions.collect();
        let scale = match q.scaling.as_ref().map(|s| s.block) {
            None | Some(Block::Tensor) => q.scale(whole.absmax, whole.tensor.as_ref()),
            _ => q.scale(block_absmax(positions.iter().map(|i| data[*i])), whole.tensor.as_ref()),
        };
        for i in positions {
            data[i] = q.fake_quant(data[i], scale, integer_at(random, i, random_width(q)));
        }
    });
}
