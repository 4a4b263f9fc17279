//! Quantize and dequantize an array.

use crate::absmax::absmax;
use crate::bits::{Draws, integer_at};
use crate::block;
use crate::cast::Cast;
use crate::columns;
use crate::dtype::{Memory, MemoryMut};
use crate::fpu::Standard;
use crate::job::{Fast, Job};
use crate::layout::{Cut, Layout, Unit};
use crate::number::{Kind, Number, by_kind};
use crate::pieces::{Arrays, PIECE, Pieces};
use crate::pool;
#[cfg(target_arch = "x86_64")]
use crate::stochastic_tiles;
use crate::strips::{self, Strips};
use dither_numerics::quantizer::Randomness;
use dither_numerics::quantizer::absmax as block_absmax;
use dither_numerics::{Block, Quantizer, Rounding, Scale, ScaleRule, TensorScale};

/// Arrays of fewer elements are done by the calling thread alone: waking others costs more.
const SERIAL: usize = 1 << 15;

/// Contiguous units that a thread does in one go.
const GROUP: usize = 8;

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
        let needed = q.scaling.as_ref().is_some_and(|s| match s.block {
            Block::Tensor => true,
            _ => s.tensor_scale && !matches!(s.rule, ScaleRule::Static(_)),
        });
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
    // SAFETY: the caller's contract.
    unsafe {
        match q.scaling.as_ref().is_none_or(|s| s.is_plain()) {
            true => along(q, layout, x, y, source, threads),
            false => crate::general::fake_quant(q, layout, x, y, source, threads),
        }
    }
}

/// The same for a cast, for one scale, and for standard scales of blocks along the axis.
///
/// # Safety
/// As for [`fake_quant`].
pub(crate) unsafe fn along(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    y: MemoryMut,
    source: Randomness<'_>,
    threads: usize,
) {
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, x, layout, threads) };
    let cut = layout.cut(q.scaling.as_ref().map(|s| s.block));
    let draws = Draws::new(source, q.rounding);
    if x.is_f64() {
        pool::for_each(cut.units(), threads, |i| {
            let unit = cut.unit(i);
            let (mut data, random) = (vec![0f64; unit.len], draws.run(unit.start, unit.len));
            // SAFETY: units lie in the array and are disjoint.
            unsafe { x.load_f64(unit.start, &mut data) };
            f64_unit(q, &whole, &cut, &mut data, &random);
            // SAFETY: as above.
            unsafe { y.store_f64(unit.start, &data) };
        });
        return;
    }
    let kernel = Kernel::new(q, &whole);
    // SAFETY: the caller's contract.
    unsafe {
        by_kind!(Kind::between(x, y, q.rounding), each_unit(q, &cut, &kernel, x, y, &draws, layout.len(), threads))
    }
}

/// The kernel on every unit, whose elements it sees as numbers of type `E`.
///
/// # Safety
/// As for [`fake_quant`].
#[allow(clippy::too_many_arguments)]
unsafe fn each_unit<E: Number>(
    q: &Quantizer,
    cut: &Cut,
    kernel: &Kernel<'_>,
    x: Memory,
    y: MemoryMut,
    draws: &Draws<'_>,
    len: usize,
    threads: usize,
) {
    let lines = q.rounding == Rounding::NearestEven && cut.in_multiples_of(16 / size_of::<E>());
    let arrays = Arrays::<E>::new(x, y, draws, len, lines);
    let strips = Strips::new(cut, y.address(), y.element_size(), threads);
    let tasks = cut.units() * strips.sets;
    let group = if cut.inner() == 1 { GROUP } else { 1 };
    pool::for_each(tasks.div_ceil(group), threads, |g| {
        let mut pieces = Pieces::new(arrays);
        if let Some(run) = cut.run(g * group..tasks.min(g * group + group)) {
            // SAFETY: as below.
            unsafe { kernel.run(cut, run, &mut pieces) };
            return;
        }
        for task in (g * group..tasks).take(group) {
            let (unit, set) = (cut.unit(task / strips.sets), task % strips.sets);
            // SAFETY: units lie in the array; they and their strips are disjoint.
            unsafe {
                if cut.inner() == 1 {
                    kernel.run(cut, unit, &mut pieces);
                } else {
                    strips::round(kernel.of_blocks(), unit, &strips, set, &mut pieces);
                }
            }
        }
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

/// What is done to a unit.
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

    /// A unit of whole blocks; results may go `past` the caches.
    pub fn apply<E: Number>(&self, cut: &Cut, x: &[E], y: &mut [E], past: bool, random: &[u32]) {
        match self {
            Kernel::Cast(cast) => cast.apply(x, y, past, random),
            Kernel::Scaled(job, scale) => block::scaled(x, y, past, random, *scale, job),
            Kernel::Blocks(job) if cut.inner() == 1 => block::contiguous(x, y, past, cut.block, random, job),
            Kernel::Blocks(job) => columns::columns(x, y, cut.inner(), random, job),
        }
    }

    fn of_blocks(&self) -> &Job<'a> {
        let Kernel::Blocks(job) = self else { unreachable!("casts and tensor scales see one contiguous run") };
        job
    }

    /// A contiguous unit, piece by piece.
    ///
    /// # Safety
    /// The unit lies in the arrays and belongs to this thread.
    unsafe fn run<E: Number>(&self, cut: &Cut, unit: Unit, pieces: &mut Pieces<'_, E>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's contract.
        let unit = unit.after(unsafe { stochastic_tiles::round(self, cut.block, unit, pieces.arrays.as_floats()) });
        if unit.len == 0 {
            return;
        }
        let most = pieces.most(unit.len);
        if let Kernel::Blocks(job) = self
            && cut.block > most
        {
            for start in (0..unit.len).step_by(cut.block) {
                let block = Unit { start: unit.start + start, len: cut.block.min(unit.len - start) };
                // SAFETY: the caller's contract.
                unsafe { long_block(job, block, pieces) };
            }
            return;
        }
        let block = cut.block.min(most);
        for (at, len) in unit.pieces(most / block * block) {
            // SAFETY: the caller's contract.
            unsafe { pieces.map(at, len, |x, random, y, past| self.apply(cut, x, y, past, random)) };
        }
    }
}

/// A block of several pieces.
///
/// # Safety
/// It lies in the arrays and belongs to this thread.
unsafe fn long_block<E: Number>(job: &Job<'_>, block: Unit, pieces: &mut Pieces<'_, E>) {
    let mut absmax = 0;
    for (at, len) in block.pieces(PIECE) {
        // SAFETY: the caller's contract.
        absmax = absmax.max(block::absmax(unsafe { pieces.look(at, len) }));
    }
    let scale = job.scale(absmax);
    for (at, len) in block.pieces(PIECE) {
        // SAFETY: the caller's contract.
        unsafe { pieces.map(at, len, |x, random, y, past| block::scaled(x, y, past, random, scale, job)) };
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
