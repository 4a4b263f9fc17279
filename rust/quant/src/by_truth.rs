//! Box by box through the scalar truth: fp64, and the neighbours and statistics of every scaling beyond blocks along an
//! axis under standard rules. Right, and slow.

use crate::dtype::{Memory, MemoryMut};
use crate::formed::Element;
use crate::general::{read, tensor_scale};
use crate::grid::Boxes;
use crate::layout::Layout;
use crate::moments::{Quantized, Stats, tree};
use crate::pool;
use crate::spread::Spread;
use crate::stats::{Summary, Table, multiplier, numbers};
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Quantizer, Scale, TensorScale};
use std::sync::Mutex;

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

/// fp64.
///
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
