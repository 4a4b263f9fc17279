//! What quantization did to an array: sums over the array and, on request, over each block.

use crate::bits::{Draws, integer_at};
use crate::block;
use crate::dtype::Memory;
use crate::fake_quant::{Kernel, Whole, for_each_block, random_width, threads_for};
use crate::fpu::Standard;
use crate::layout::{Cut, Layout};
use crate::moments::{Quantized, Stats, Wide, tree};
use crate::pool;
use crate::spread::Spread;
use dither_numerics::quantizer::{Randomness, absmax};
use dither_numerics::{Block, Quantizer, Real, Scale, pow2};
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

/// Blocks of an array, axis replaced by blocks; one where all elements share a scale or have none.
pub fn block_count(q: &Quantizer, layout: &Layout) -> usize {
    if !q.scaling.as_ref().is_none_or(|s| s.is_plain()) {
        return crate::by_truth::block_count(q, layout);
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
        return unsafe { crate::by_truth::stats(q, layout, x, source, table, threads) };
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
        let random = Draws::new(self.source, self.q.rounding).run(unit.start, unit.len);
        // SAFETY: units lie in the array and are disjoint.
        unsafe {
            if self.x.is_f64() {
                let mut x = vec![0f64; unit.len];
                self.x.load_f64(unit.start, &mut x);
                let scales = self.scales(&x, |x| absmax(x.iter().copied()));
                let bits = |i: usize| integer_at(&random, i, random_width(self.q));
                let each = |(i, x): (usize, &f64)| self.q.fake_quant(*x, scales[self.block_of(i)], bits(i));
                let y: Vec<f64> = x.iter().enumerate().map(each).collect();
                self.sums(unit.start, &x, &y, &scales)
            } else {
                let (mut x, mut y) = (vec![0f32; unit.len], vec![0f32; unit.len]);
                self.x.load(unit.start, &mut x);
                let scales = self.scales(&x, |x| f64::from(f32::from_bits(block::absmax(x))));
                self.kernel.apply(&self.cut, &x, &mut y, false, &random);
                self.sums(unit.start, &x, &y, &scales)
            }
        }
    }

    /// The scales of a unit's blocks.
    fn scales<T: Wide>(&self, x: &[T], absmax: impl Fn(&[T]) -> f64) -> Vec<Scale> {
        let scale = |absmax: f64| scale_of(self.q, self.whole, self.x.is_f64(), absmax);
        if is_whole(self.q) {
            return vec![scale(self.whole.absmax)];
        }
        let mut scales = Vec::new();
        self.each_block(x, |block| scales.push(scale(absmax(block))));
        scales
    }

    /// Calls `work` for the elements of every block of a unit, in order.
    fn each_block<T: Wide>(&self, x: &[T], mut work: impl FnMut(&[T])) {
        if self.cut.inner() == 1 {
            x.chunks(self.cut.block).for_each(work);
            return;
        }
        let mut block = Vec::new();
        for_each_block(&self.cut, x.len(), |positions| {
            block.clear();
            block.extend(positions.map(|i| x[i]));
            work(&block);
        });
    }

    /// The block of an element of a unit.
    fn block_of(&self, i: usize) -> usize {
        if self.cut.inner() == 1 { i / self.cut.block } else { i % self.cut.inner() }
    }

    /// What belongs to the blocks of a unit, for each of its `len` elements.
    fn spread_out<T: Wide>(&self, len: usize, blocks: impl Iterator<Item = T> + Clone) -> Vec<T> {
        let mut all = vec![T::default(); len];
        match self.cut.inner() {
            1 => all.chunks_mut(self.cut.block).zip(blocks).for_each(|(part, one)| part.fill(one)),
            inner => {
                for row in all.chunks_mut(inner) {
                    row.iter_mut().zip(blocks.clone()).for_each(|(all, one)| *all = one);
                }
            }
        }
        all
    }

    /// The sums of a unit, from its elements before and after and the scales of its blocks.
    ///
    /// # Safety
    /// As for `unit`.
    unsafe fn sums<T: Wide + Real>(&self, start: usize, x: &[T], y: &[T], scales: &[Scale]) -> Summary {
        let ends: Vec<[T; 2]> = scales.iter().map(|scale| self.q.range(*scale).into()).collect();
        let [low, high] = [0, 1].map(|end| self.spread_out(x.len(), ends.iter().map(|ends| ends[end])));
        let stats = Stats::of(Quantized { x, y, low: &low, high: &high });
        if is_whole(self.q) {
            return Summary { stats, spread: Spread::default() };
        }
        if let Some(table) = self.table {
            let mut parts: [Vec<T>; 4] = Default::default();
            let (first, mut b) = (self.first_block(start), 0);
            for_each_block(&self.cut, x.len(), |positions| {
                parts.iter_mut().for_each(Vec::clear);
                for i in positions {
                    parts.iter_mut().zip([x, y, &low, &high]).for_each(|(part, all)| part.push(all[i]));
                }
                let [x, y, low, high] = &parts;
                let stats = Stats::of(Quantized { x, y, low, high });
                // SAFETY: the blocks of a unit belong to its thread.
                unsafe { table.set(first + b, numbers(&stats, multiplier(scales[b]))) };
                b += 1;
            });
        }
        let spreads: Vec<Spread> = scales.iter().map(|scale| Spread::of(multiplier(*scale))).collect();
        Summary { stats, spread: tree(&spreads, Spread::merge) }
    }

    /// The index of the block in which a unit starts.
    fn first_block(&self, start: usize) -> usize {
        let row = start / self.layout.inner;
        let (outer, along) = (row / self.layout.axis, row % self.layout.axis);
        (outer * blocks_along(self.q, self.layout) + along / self.cut.block) * self.layout.inner
    }
}
