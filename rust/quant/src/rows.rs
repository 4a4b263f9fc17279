//! An array whose codes lie in rows of its last axis, cut into units of whole blocks that begin and end at whole bytes of
//! codes, so that no two threads share a byte.

use crate::layout::Layout;
use crate::pack::row_bytes;
use crate::packed::Shape;
#[cfg(target_arch = "x86_64")]
use crate::stochastic_lanes::WIDTH;
use dither_numerics::{Block, Quantizer};
use std::ops::Range;

/// Elements of a unit aimed at.
const UNIT: usize = 4096;

/// Blocks that are the columns of rows of `inner` elements.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Columns {
    pub inner: usize,
    /// The index of the first column's block.
    pub first: usize,
    /// Where the codes are.
    pub bytes: Range<usize>,
}

/// An array in units of whole blocks and whole bytes of codes.
pub(crate) struct Cut {
    layout: Layout,
    last: usize,
    pub width: u32,
    row_bytes: usize,
    /// One scale for everything (or none), so that blocks need not be looked for.
    pub known: bool,
    /// Elements along the axis in a block; where the scale is known, in a stretch that fills whole bytes.
    block: usize,
    along_last: bool,
    /// Elements of a row in a unit, where blocks lie in rows; else elements in the rows of one block.
    step: usize,
    /// Whole rows in a unit, where blocks lie in rows shorter than a unit.
    rows: usize,
}

impl Cut {
    /// For a plain quantizer.
    pub fn new(q: &Quantizer, shape: &Shape) -> Cut {
        Cut::of(q.scaling.as_ref().map(|s| s.block), q, shape)
    }

    /// Whole bytes alone, whatever the blocks.
    pub fn rows(q: &Quantizer, shape: &Shape) -> Cut {
        Cut::of(None, q, shape)
    }

    fn of(rule: Option<Block>, q: &Quantizer, shape: &Shape) -> Cut {
        let known = matches!(rule, None | Some(Block::Tensor));
        let width = q.format.bits();
        let along_last = known || shape.along_last;
        let mut last = shape.last.max(1);
        let block = match rule {
            Some(Block::Size(n)) => n.min(shape.layout.axis.max(1)),
            Some(Block::Row) => shape.layout.axis.max(1),
            Some(Block::Tensor) | None => 8,
            Some(Block::Column | Block::Tile(..)) => unreachable!("not plain"),
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

    pub fn units(&self) -> usize {
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

    pub fn unit(&self, i: usize) -> Range<usize> {
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

    /// The block, where the unit consists of whole blocks along rows that are whole vectors.
    #[cfg(target_arch = "x86_64")]
    pub fn vectors(&self, unit: &Range<usize>) -> Option<usize> {
        let block = if self.known { WIDTH } else { self.block };
        let whole = self.along_last && block.is_multiple_of(WIDTH) && self.last.is_multiple_of(block);
        (whole && unit.len().is_multiple_of(block)).then_some(block)
    }

    /// The columns of the unit, where it consists of whole vectors of such blocks.
    #[cfg(target_arch = "x86_64")]
    pub fn columns(&self, unit: &Range<usize>) -> Option<Columns> {
        let byte = |at: usize| at * self.width as usize / 8;
        let columns = |first| Columns { inner: self.layout.inner, first, bytes: byte(unit.start)..byte(unit.end) };
        // Rows of whole vectors of codes end at whole bytes.
        (!self.along_last && self.last.is_multiple_of(WIDTH)).then(|| columns(self.first_column(unit)))
    }

    /// The index of the block of the first column of a unit, where blocks are columns.
    fn first_column(&self, unit: &Range<usize>) -> usize {
        let (row, per_outer) = (unit.start / self.layout.inner, self.layout.axis.div_ceil(self.block));
        (row / self.layout.axis * per_outer + row % self.layout.axis / self.block) * self.layout.inner
    }

    /// The block that starts at element `at`, where blocks lie in rows of whole blocks; 0 where there is one scale.
    #[cfg(target_arch = "x86_64")]
    pub fn first_block(&self, at: usize) -> usize {
        if self.known { 0 } else { at / self.block }
    }

    /// Calls `work` for the stretches of the unit that lie in one row each, with their positions in the unit and the
    /// bytes of their codes.
    pub fn for_each_part(&self, unit: &Range<usize>, mut work: impl FnMut(Range<usize>, Range<usize>)) {
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
    pub fn for_each_block(&self, unit: &Range<usize>, mut work: impl FnMut(usize, std::iter::StepBy<Range<usize>>)) {
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
            let first = self.first_column(unit);
            for column in 0..inner {
                work(first + column, (column..len).step_by(inner));
            }
        }
    }
}
