//! Every scaling beyond blocks along an axis under standard rules. Where the absmax of a block decides alone, the kernels
//! do it (`along`, `tiles`). Searched scales, zero points and policies look at whole blocks: the truth finds the scale, and
//! the kernels round what they can (`found`). The rest is the scalar truth's (`by_truth`). Every block is a box (`grid`).

use crate::bits::Draws;
use crate::by_truth;
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{Whole, along, through_f32};
use crate::formed::Element;
use crate::found::Found;
use crate::grid::Boxes;
use crate::layout::Layout;
use crate::pieces::{Arrays, PIECE, Pieces};
use crate::pool;
use crate::tiles;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Block, NanPolicy, Quantizer, Scaling, TensorScale};
use std::sync::Mutex;

/// Elements of a part when the absmax of the whole array is looked for.
const PART: usize = 1 << 14;

/// The elements of some runs.
///
/// # Safety
/// They lie in the array, and nobody writes it meanwhile.
pub(crate) unsafe fn read<T: Element>(x: Memory, runs: &[(usize, usize)]) -> Vec<T> {
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
pub(crate) unsafe fn tensor_scale<T: Element>(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    threads: usize,
) -> Option<TensorScale> {
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
            _ if x.is_f64() => by_truth::fake_quant(q, layout, x, y, source, threads),
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
