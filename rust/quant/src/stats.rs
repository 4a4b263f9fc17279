//! What quantization did to an array: sums over the array and, on request, over each block.

use crate::bits::{Draws, integer_at};
use crate::dtype::Memory;
use crate::fake_quant::{Kernel, Whole, for_each_block, random_width, threads_for};
use crate::fpu::Standard;
use crate::layout::{Cut, Layout};
use crate::moments::{Spread, Stats, tree};
use crate::pool;
use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::{Block, Quantizer, Scale, pow2};
use std::sync::Mutex;

/// What [`table`] writes of a block, a row each.
pub const FIELDS: [&str; 13] = [
    "count",
    "nonfinite",
    "signal",
    "noise",
    "max_rel",
    "absmax",
    "clipped",
    "underflowed",
    "last_bin",
    "mean",
    "m2",
    "m4",
    "scale",
];

/// The numbers of [`FIELDS`]; counts are exact below 2^53.
pub fn numbers(s: &Stats, scale: f64) -> [f64; FIELDS.len()] {
    [
        s.count as f64,
        s.nonfinite as f64,
        s.signal,
        s.noise,
        s.max_rel,
        s.absmax,
        s.clipped as f64,
        s.underflowed as f64,
        s.last_bin as f64,
        s.mean,
        s.m2,
        s.m4,
        scale,
    ]
}

/// The sums of an array, and how its block scales spread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    pub stats: Stats,
    pub spread: Spread,
}

impl Summary {
    pub(crate) fn merge(a: &Summary, b: &Summary) -> Summary {
        Summary { stats: Stats::merge(&a.stats, &b.stats), spread: Spread::merge(&a.spread, &b.spread) }
    }
}

/// A table of [`FIELDS`] by blocks: `blocks` numbers a row.
#[derive(Clone, Copy)]
pub struct Table {
    pub rows: *mut f64,
    pub blocks: usize,
}

// SAFETY: every thread writes only the columns of its own units' blocks, which are disjoint.
unsafe impl Sync for Table {}
// SAFETY: as above; a pointer carries no thread affinity.
unsafe impl Send for Table {}

impl Table {
    /// # Safety
    /// `block` lies in the table and belongs to this thread.
    pub(crate) unsafe fn set(&self, block: usize, numbers: [f64; FIELDS.len()]) {
        debug_assert!(block < self.blocks);
        for (row, number) in numbers.into_iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { *self.rows.add(row * self.blocks + block) = number };
        }
    }
}

/// The number by which a scale multiplies elements; 0 for a block that becomes zero, NaN for a poisoned one.
pub(crate) fn multiplier(scale: Scale) -> f64 {
    match scale {
        Scale::Poisoned => f64::NAN,
        Scale::Zero => 0.0,
        Scale::Power(e) => pow2(e),
        Scale::Divide(s) | Scale::Quotient(s) | Scale::Affine { s, .. } => f64::from(s),
        Scale::Multiply { decode, .. } => f64::from(decode),
    }
}

/// The smallest and the largest value that a scale allows, as the kernels form them: in fp32, in fp64 for fp64.
fn range(q: &Quantizer, scale: Scale, wide: bool) -> [f64; 2] {
    [q.format.min, q.format.max].map(|end| {
        let product = end * multiplier(scale);
        if wide || matches!(scale, Scale::Power(_)) { product } else { f64::from(product as f32) }
    })
}

/// Blocks of an array, axis replaced by blocks; one where all elements share a scale or have none.
pub fn block_count(q: &Quantizer, layout: &Layout) -> usize {
    if !q.scaling.as_ref().is_none_or(|s| s.is_plain()) {
        return crate::general::block_count(q, layout);
    }
    if is_whole(q) { 1 } else { layout.outer * blocks_along(q, layout) * layout.inner }
}

fn is_whole(q: &Quantizer) -> bool {
    matches!(q.scaling.as_ref().map(|s| s.block), None | Some(Block::Tensor))
}

fn blocks_along(q: &Quantizer, layout: &Layout) -> usize {
    layout.axis.div_ceil(layout.cut(q.scaling.as_ref().map(|s| s.block)).block)
}

/// Statistics over the array; with a `table`, of [`block_count`] blocks in C order, also those of every block.
///
/// # Safety
/// `x` points to `layout.len()` elements that nobody writes meanwhile, the table to its numbers, which nobody else
/// reads or writes meanwhile. A `Randomness::Given` holds as many integers as `x`.
pub unsafe fn stats(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    source: Randomness<'_>,
    table: Option<Table>,
    threads: usize,
) -> Summary {
    let _standard = Standard::enter();
    let threads = threads_for(layout.len(), threads);
    if !q.scaling.as_ref().is_none_or(|s| s.is_plain()) {
        // SAFETY: the caller's contract.
        return unsafe { crate::general::stats(q, layout, x, source, table, threads) };
    }
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, x, layout, threads) };
    let cut = layout.cut(q.scaling.as_ref().map(|s| s.block));
    let job = Job { q, layout, x, source, kernel: Kernel::new(q, &whole), whole: &whole, cut, table };
    let units = Mutex::new(vec![Summary::default(); cut.units()]);
    pool::for_each(cut.units(), threads, |u| {
        // SAFETY: the caller's contract; units are disjoint.
        let sums = unsafe { job.unit(u) };
        units.lock().expect("no thread panics while it holds the lock")[u] = sums;
    });
    let mut total = tree(&units.into_inner().expect("as above"), Summary::merge);
    if is_whole(q) {
        let scale = multiplier(scale_of(q, &whole, x.is_f64(), whole.absmax));
        total.spread = Spread::of(scale);
        if let Some(table) = table {
            // SAFETY: the table has one block, which no unit wrote.
            unsafe { table.set(0, numbers(&total.stats, scale)) };
        }
    }
    total
}

fn scale_of(q: &Quantizer, whole: &Whole, wide: bool, absmax: f64) -> Scale {
    match wide {
        true => q.scale(absmax, whole.tensor.as_ref()),
        false => q.scale(absmax as f32, whole.tensor.as_ref()),
    }
}

struct Job<'a> {
    q: &'a Quantizer,
    layout: &'a Layout,
    x: Memory,
    source: Randomness<'a>,
    kernel: Kernel<'a>,
    whole: &'a Whole,
    cut: Cut,
    table: Option<Table>,
}

impl Job<'_> {
    /// # Safety
    /// As for [`stats`]; the unit belongs to this thread.
    unsafe fn unit(&self, u: usize) -> Summary {
        let unit = self.cut.unit(u);
        let wide = self.x.is_f64();
        let mut before = vec![0f64; unit.len];
        // SAFETY: units lie in the array.
        unsafe { self.x.load_f64(unit.start, &mut before) };
        let random = Draws::new(self.source, self.q.rounding).run(unit.start, unit.len);
        let mut after: Vec<f64> = Vec::new();
        if !wide {
            let narrow: Vec<f32> = before.iter().map(|x| *x as f32).collect();
            let mut quantized = vec![0f32; unit.len];
            self.kernel.apply(&self.cut, &narrow, &mut quantized, false, &random);
            after.extend(quantized.into_iter().map(f64::from));
        }
        let mut block = self.first_block(unit.start);
        let mut sums = Vec::new();
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for_each_block(&self.cut, unit.len, |positions| {
            let positions: Vec<usize> = positions.collect();
            xs.clear();
            xs.extend(positions.iter().map(|i| before[*i]));
            let largest = if is_whole(self.q) { self.whole.absmax } else { absmax(xs.iter().copied()) };
            let scale = scale_of(self.q, self.whole, wide, largest);
            ys.clear();
            ys.extend(positions.iter().map(|i| match wide {
                true => self.q.fake_quant(before[*i], scale, integer_at(&random, *i, random_width(self.q))),
                false => after[*i],
            }));
            let stats = Stats::of(&xs, &ys, range(self.q, scale, wide));
            if is_whole(self.q) {
                sums.push(Summary { stats, spread: Spread::default() });
                return;
            }
            let scale = multiplier(scale);
            if let Some(table) = self.table {
                // SAFETY: the blocks of a unit belong to its thread.
                unsafe { table.set(block, numbers(&stats, scale)) };
            }
            block += 1;
            sums.push(Summary { stats, spread: Spread::of(scale) });
        });
        tree(&sums, Summary::merge)
    }

    /// The index of the block in which a unit starts.
    fn first_block(&self, start: usize) -> usize {
        let row = start / self.layout.inner;
        let (outer, along) = (row / self.layout.axis, row % self.layout.axis);
        (outer * blocks_along(self.q, self.layout) + along / self.cut.block) * self.layout.inner
    }
}
