//! Tiles of the last two axes under standard scales: columns whose absmax is that of their tile.
//!
//! A task is a row of tiles, or as many of its tiles as make a strip that the second-level cache holds. The absmax is
//! raised column by column, row after row (`columns`), then shared within each tile; from there on a tile is its columns.

use crate::bits::Draws;
use crate::block;
use crate::columns::{STRIP, Strip, raise};
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::Whole;
use crate::job::Job;
use crate::layout::{Layout, Unit};
use crate::number::{Kind, Number, by_kind};
use crate::pieces::{Arrays, PIECE, Pieces};
use crate::pool;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Quantizer, Rounding};

/// Tiles of `rows` by `columns`; the layout's axis are the rows, its inner part the columns.
///
/// # Safety
/// As [`crate::fake_quant()`], for arrays that are not fp64.
pub(crate) unsafe fn fake_quant(
    q: &Quantizer,
    layout: &Layout,
    [rows, columns]: [usize; 2],
    x: Memory,
    y: MemoryMut,
    source: Randomness<'_>,
    threads: usize,
) {
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, x, layout, threads) };
    let (job, draws) = (Job::new(q, whole.tensor), Draws::new(source, q.rounding));
    let shape = Tiles { rows, columns, layout: *layout };
    // SAFETY: the caller's contract.
    unsafe { by_kind!(Kind::between(x, y, q.rounding), each_strip(q, shape, &job, x, y, &draws, threads)) }
}

struct Tiles {
    rows: usize,
    columns: usize,
    layout: Layout,
}

/// The tiles, whose elements are seen as numbers of type `E`.
///
/// # Safety
/// As for [`fake_quant`].
unsafe fn each_strip<E: Number>(
    q: &Quantizer,
    Tiles { rows, columns, layout }: Tiles,
    job: &Job<'_>,
    x: Memory,
    y: MemoryMut,
    draws: &Draws<'_>,
    threads: usize,
) {
    let width = if columns <= STRIP { STRIP / columns * columns } else { columns };
    let part = 16 / size_of::<E>();
    let aligned = layout.inner.is_multiple_of(part) && width.is_multiple_of(part);
    let arrays = Arrays::<E>::new(x, y, draws, layout.len(), q.rounding == Rounding::NearestEven && aligned);
    let (bands, strips) = (layout.axis.div_ceil(rows), layout.inner.div_ceil(width));
    pool::for_each(layout.outer * bands * strips, threads, |task| {
        let (band, from) = (task / strips, task % strips * width);
        let (outer, top) = (band / bands, band % bands * rows);
        let strip = Area {
            start: (outer * layout.axis + top) * layout.inner + from,
            rows: rows.min(layout.axis - top),
            width: width.min(layout.inner - from),
            stride: layout.inner,
        };
        let mut pieces = Pieces::new(arrays);
        // SAFETY: strips lie in the array and are disjoint.
        unsafe {
            if strip.width <= STRIP { strip.tiles(columns, job, &mut pieces) } else { strip.tile(job, &mut pieces) }
        }
    });
}

/// Neighbouring columns of some rows.
struct Area {
    start: usize,
    rows: usize,
    width: usize,
    /// Elements from one row to the next.
    stride: usize,
}

impl Area {
    fn each_row(&self) -> impl Iterator<Item = Unit> {
        let len = self.width;
        (0..self.rows).map(move |row| Unit { start: self.start + row * self.stride, len })
    }

    /// At most [`STRIP`] columns: tiles of `columns`.
    ///
    /// # Safety
    /// The area lies in the arrays and belongs to this thread.
    unsafe fn tiles<E: Number>(&self, columns: usize, job: &Job<'_>, pieces: &mut Pieces<'_, E>) {
        let mut absmax = [0; STRIP];
        let absmax = &mut absmax[..self.width];
        for row in self.each_row() {
            // SAFETY: the caller's contract.
            raise(absmax, unsafe { pieces.look(row.start, row.len) }, self.stride);
        }
        for tile in absmax.chunks_mut(columns) {
            let largest = tile.iter().fold(0, |m: u32, a| m.max(*a));
            tile.fill(largest);
        }
        let strip = Strip::new(absmax, job, self.width);
        for row in self.each_row() {
            // SAFETY: as above.
            unsafe { pieces.map(row.start, row.len, |x, random, y, past| strip.row(x, y, past, random)) };
        }
    }

    /// One tile, wider than a strip.
    ///
    /// # Safety
    /// As for `tiles`.
    unsafe fn tile<E: Number>(&self, job: &Job<'_>, pieces: &mut Pieces<'_, E>) {
        let mut absmax = 0;
        for (at, len) in self.each_row().flat_map(|row| row.pieces(PIECE)) {
            // SAFETY: the caller's contract.
            absmax = absmax.max(block::absmax(unsafe { pieces.look(at, len) }));
        }
        let scale = job.scale(absmax);
        for (at, len) in self.each_row().flat_map(|row| row.pieces(PIECE)) {
            // SAFETY: as above.
            unsafe { pieces.map(at, len, |x, random, y, past| block::scaled(x, y, past, random, scale, job)) };
        }
    }
}
