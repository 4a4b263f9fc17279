//! Every scaling beyond blocks along an axis under standard rules. Where the absmax of a block decides alone, the kernels
//! do it (`along`, `tiles`). Searched scales, zero points and policies look at whole blocks: the truth finds the scale, and
//! the kernels round what they can (`found`). Neighbours, statistics and fp64 are the scalar truth's: right, and slow. Every block is a box (`grid`).

use crate::bits::Draws;
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{Whole, along, through_f32};
use crate::found::{self, Found};
use crate::grid::Boxes;
use crate::layout::Layout;
use crate::moments::{Quantized, Spread, Stats, Wide, tree};
use crate::pieces::{Arrays, PIECE, Pieces};
use crate::pool;
use crate::stats::{Summary, Table, multiplier, numbers};
use crate::tiles;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Block, NanPolicy, Quantizer, Real, Scale, Scaling, TensorScale};
use std::sync::Mutex;

/// Elements of a part when the absmax of the whole array is looked for.
const PART: usize = 1 << 14;

/// The two types in which results are formed, as they lie in memory.
pub(crate) trait Element: Real + Wide {
    /// # Safety
    /// As [`Memory::load`].
    unsafe fn load(x: Memory, start: usize, out: &mut [Self]);
    /// # Safety
    /// As [`MemoryMut::store`].
    unsafe fn store(y: MemoryMut, start: usize, values: &[Self]);
    /// The smallest and the largest of some numbers and zero, where there is a fast way and all are finite.
    fn finite_ends(values: &[Self]) -> Option<[Self; 2]>;
}

impl Element for f32 {
    unsafe fn load(x: Memory, start: usize, out: &mut [f32]) {
        // SAFETY: the caller's contract.
        unsafe { x.load(start, out) }
    }
    unsafe fn store(y: MemoryMut, start: usize, values: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { y.store(start, values) }
    }
    fn finite_ends(values: &[f32]) -> Option<[f32; 2]> {
        found::finite_ends(values)
    }
}

impl Element for f64 {
    unsafe fn load(x: Memory, start: usize, out: &mut [f64]) {
        // SAFETY: the caller's contract.
        unsafe { x.load_f64(start, out) }
    }
    unsafe fn store(y: MemoryMut, start: usize, values: &[f64]) {
        // SAFETY: the caller's contract.
        unsafe { y.store_f64(start, values) }
    }
    fn finite_ends(_: &[f64]) -> Option<[f64; 2]> {
        None
    }
}

/// The elements of some runs.
///
/// # Safety
/// They lie in the array, and nobody writes it meanwhile.
unsafe fn read<T: Element>(x: Memory, runs: &[(usize, usize)]) -> Vec<T> {
    let mut values = vec![T::from_f64(0.0); runs.iter().map(|(_, len)| len).sum()];
    let mut rest = &mut values[..];
    for (start, len) in runs {
        let (now, later) = rest.split_at_mut(*len);
        // SAFETY: the caller's contract.
        unsafe { T::load(x, *start, now) };
        rest = later;
    }
    values
}

/// The second level, where the quantizer has one.
///
/// # Safety
/// `x` points to `layout.len()` elements that nobody writes meanwhile.
unsafe fn tensor_scale<T: Element>(q: &Quantizer, layout: &Layout, x: Memory, threads: usize) -> Option<TensorScale> {
    let scaling = q.scaling.as_ref().filter(|s| s.tensor_scale)?;
    if scaling.options.nan == NanPolicy::Block {
        // SAFETY: the caller's contract.
        return unsafe { Whole::of(q, x, layout, threads) }.tensor;
    }
    let parts = layout.len().div_ceil(PART);
    let peaks = Mutex::new(vec![0f64; parts]);
    pool::for_each(parts, threads, |i| {
        let start = i * PART;
        // SAFETY: parts lie in the array.
        let part: Vec<T> = unsafe { read(x, &[(start, PART.min(layout.len() - start))]) };
        let peak = T::finite_ends(&part).map_or_else(|| q.tensor_peak(&part), |ends| q.tensor_peak(&ends));
        peaks.lock().expect("no thread panics while it holds the lock")[i] = peak;
    });
    let peaks = peaks.into_inner().expect("as above");
    let whole = peaks.into_iter().fold(0.0, |m: f64, a| if m.is_nan() || a.is_nan() { f64::NAN } else { m.max(a) });
    q.tensor_scale(whole)
}

/// Calls `work` for every box with its number, its elements, their positions and its scale. Returns the second level.
///
/// # Safety
/// `x` points to `layout.len()` elements that nobody else writes meanwhile; `work` writes nothing but its own box.
pub(crate) unsafe fn each_box<T: Element>(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    threads: usize,
    work: impl Fn(usize, &[T], &[(usize, usize)], Scale) + Sync + Send,
) -> Option<TensorScale> {
    let boxes = Boxes::new(q, layout);
    // SAFETY: the caller's contract.
    let tensor = unsafe { tensor_scale::<T>(q, layout, x, threads) };
    pool::for_each(boxes.len(), threads, |b| {
        let runs = boxes.runs(b);
        // SAFETY: runs lie in the array.
        let values: Vec<T> = unsafe { read(x, &runs) };
        let scale = q.block_scale(&values, tensor.as_ref());
        work(b, &values, &runs, scale);
    });
    tensor
}

/// # Safety
/// As [`crate::fake_quant()`].
pub(crate) unsafe fn fake_quant(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    y: MemoryMut,
    source: Randomness<'_>,
    threads: usize,
) {
    let Some(scaling) = &q.scaling else { unreachable!("casts are plain") };
    // SAFETY: the caller's contract, for all.
    unsafe {
        match (along_an_axis(q, layout), scaling.block) {
            (Some((q, layout)), _) if scaling.needs_absmax_alone() => along(&q, &layout, x, y, source, threads),
            _ if x.is_f64() => by_truth(q, layout, x, y, source, threads),
            (None, Block::Tile(rows, columns)) if scaling.needs_absmax_alone() => {
                tiles::fake_quant(q, layout, [rows, columns], x, y, source, threads);
            }
            (Some((q, layout)), _) if layout.inner == 1 => neighbouring(&q, &layout, x, y, source, threads),
            _ => boxes(q, layout, x, y, source, threads),
        }
    }
}

/// The quantizer and the layout in which the same blocks lie along an axis, where there are such.
fn along_an_axis(q: &Quantizer, layout: &Layout) -> Option<(Quantizer, Layout)> {
    let scaling = q.scaling.as_ref()?;
    let Layout { outer, axis, inner } = *layout;
    let (block, layout) = match scaling.block {
        Block::Column if inner == 1 => (Block::Row, Layout { outer: 1, axis: outer, inner: axis }),
        Block::Column if outer == 1 => (Block::Row, Layout { outer: axis, axis: inner, inner: 1 }),
        Block::Tile(rows, columns) if columns >= inner => {
            (Block::Size(rows.saturating_mul(inner).max(1)), Layout { outer, axis: axis * inner, inner: 1 })
        }
        Block::Tile(1, columns) => (Block::Size(columns), Layout { outer: outer * axis, axis: inner, inner: 1 }),
        Block::Tile(rows, 1) => (Block::Size(rows), *layout),
        Block::Column | Block::Tile(..) => return None,
        along => (along, *layout),
    };
    let scaling = Some(Scaling { block, ..scaling.clone() });
    Some((Quantizer { scaling, ..q.clone() }, layout))
}

/// Blocks that lie in one piece each.
unsafe fn neighbouring(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    y: MemoryMut,
    source: Randomness<'_>,
    threads: usize,
) {
    // SAFETY: the caller's contract.
    let found = Found::new(q, unsafe { tensor_scale::<f32>(q, layout, x, threads) });
    let draws = Draws::new(source, q.rounding);
    let arrays = Arrays::new(x, y, &draws, layout.len(), false);
    let cut = match q.scaling.as_ref().map(|s| s.block) {
        Some(Block::Tensor) => layout.flat().cut(Some(Block::Row)),
        block => layout.cut(block),
    };
    pool::for_each(cut.units(), threads, |u| {
        let unit = cut.unit(u);
        if cut.block > PIECE {
            let random = draws.run(unit.start, unit.len);
            // SAFETY: units lie in the array and are disjoint.
            return unsafe { through_f32(x, y, unit, |x, y| found.blocks(x, y, false, cut.block, &random)) };
        }
        let mut pieces = Pieces::new(arrays);
        for (at, len) in unit.pieces(PIECE / cut.block * cut.block) {
            // SAFETY: as above.
            unsafe { pieces.map(at, len, |x, random, y, past| found.blocks(x, y, past, cut.block, random)) };
        }
    });
}

/// Blocks of any shape, gathered.
unsafe fn boxes(q: &Quantizer, layout: &Layout, x: Memory, y: MemoryMut, source: Randomness<'_>, threads: usize) {
    // SAFETY: the caller's contract.
    let found = Found::new(q, unsafe { tensor_scale::<f32>(q, layout, x, threads) });
    let (boxes, draws) = (Boxes::new(q, layout), Draws::new(source, q.rounding));
    pool::for_each(boxes.len(), threads, |b| {
        let runs = boxes.runs(b);
        // SAFETY: runs lie in the array.
        let values: Vec<f32> = unsafe { read(x, &runs) };
        let (mut random, mut reader) = (vec![0; if draws.any() { values.len() } else { 0 }], draws.reader());
        let mut quantized = vec![0f32; values.len()];
        let mut rest = &mut random[..];
        for (start, len) in runs.iter().filter(|_| draws.any()) {
            reader.read(*start, rest.split_off_mut(..*len).expect("as many as the values"));
        }
        found.block(&values, &mut quantized, &random);
        let mut rest = &quantized[..];
        for (start, len) in &runs {
            let (now, later) = rest.split_at(*len);
            // SAFETY: the runs of boxes are disjoint.
            unsafe { y.store(*start, now) };
            rest = later;
        }
    });
}

/// fp64, by the truth alone.
unsafe fn by_truth(q: &Quantizer, layout: &Layout, x: Memory, y: MemoryMut, source: Randomness<'_>, threads: usize) {
    let work = |_: usize, values: &[f64], runs: &[(usize, usize)], scale: Scale| {
        let mut values = values.iter();
        for (start, len) in runs {
            let quantized: Vec<f64> = (*start..start + len)
                .zip(values.by_ref())
                .map(|(i, x)| q.fake_quant(*x, scale, source.bits(i, q.rounding)))
                .collect();
            // SAFETY: the runs of boxes are disjoint.
            unsafe { y.store_f64(*start, &quantized) };
        }
    };
    // SAFETY: the caller's contract; a box is read before it is written.
    unsafe { each_box(q, layout, x, threads, work) };
}

/// # Safety
/// As [`crate::neighbours()`].
pub(crate) unsafe fn neighbours(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    lo: MemoryMut,
    hi: MemoryMut,
    threads: usize,
) {
    // SAFETY: the caller's contract, for both.
    unsafe {
        match x.is_f64() {
            true => neighbours_as::<f64>(q, layout, x, lo, hi, threads),
            false => neighbours_as::<f32>(q, layout, x, lo, hi, threads),
        }
    }
}

unsafe fn neighbours_as<T: Element>(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    lo: MemoryMut,
    hi: MemoryMut,
    threads: usize,
) {
    let work = |_: usize, values: &[T], runs: &[(usize, usize)], scale: Scale| {
        let mut values = values.iter();
        for (start, len) in runs {
            let (below, above): (Vec<T>, Vec<T>) = values.by_ref().take(*len).map(|x| q.neighbours(*x, scale)).unzip();
            // SAFETY: the runs of boxes are disjoint.
            unsafe {
                T::store(lo, *start, &below);
                T::store(hi, *start, &above);
            }
        }
    };
    // SAFETY: the caller's contract.
    unsafe { each_box(q, layout, x, threads, work) };
}

/// Boxes of an array.
pub(crate) fn block_count(q: &Quantizer, layout: &Layout) -> usize {
    Boxes::new(q, layout).len()
}

/// # Safety
/// As [`crate::stats::stats`].
pub(crate) unsafe fn stats(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    source: Randomness<'_>,
    table: Option<Table>,
    threads: usize,
) -> Summary {
    // SAFETY: the caller's contract, for both.
    unsafe {
        match x.is_f64() {
            true => stats_as::<f64>(q, layout, x, source, table, threads),
            false => stats_as::<f32>(q, layout, x, source, table, threads),
        }
    }
}

unsafe fn stats_as<T: Element>(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    source: Randomness<'_>,
    table: Option<Table>,
    threads: usize,
) -> Summary {
    let all = Mutex::new(vec![Summary::default(); block_count(q, layout)]);
    let work = |b: usize, values: &[T], runs: &[(usize, usize)], scale: Scale| {
        let positions = runs.iter().flat_map(|(start, len)| *start..start + len);
        let quantized = positions.zip(values).map(|(i, x)| q.fake_quant(*x, scale, source.bits(i, q.rounding)));
        let after: Vec<T> = quantized.collect();
        let (low, high) = q.range::<T>(scale);
        let (low, high) = (vec![low; values.len()], vec![high; values.len()]);
        let stats = Stats::of(Quantized { x: values, y: &after, low: &low, high: &high });
        let scale = multiplier(scale);
        if let Some(table) = table {
            // SAFETY: boxes are counted as the table's blocks, and each is one thread's.
            unsafe { table.set(b, numbers(&stats, scale)) };
        }
        all.lock().expect("no thread panics while it holds the lock")[b] = Summary { stats, spread: Spread::of(scale) };
    };
    // SAFETY: the caller's contract.
    unsafe { each_box(q, layout, x, threads, work) };
    tree(&all.into_inner().expect("as above"), Summary::merge)
}
