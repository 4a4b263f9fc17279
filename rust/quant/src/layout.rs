//! An array in C order seen as (outer, axis, inner), and its cut into units of whole blocks.
//!
//! A unit is a contiguous range of memory: a run of blocks of one row where `inner` is 1, else the rows of one block
//! (`rows * inner` elements). The cut depends on the shape and the block alone, never on the number of threads, so
//! sums over units come out the same for any number of threads.

use dither_numerics::Block;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub outer: usize,
    pub axis: usize,
    pub inner: usize,
}

/// Elements of a unit aimed at: its input and output stay in the first-level cache.
const UNIT: usize = 4096;

/// A contiguous range of the array that holds whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    pub start: usize,
    pub len: usize,
}

impl Unit {
    /// Without its first `done` elements.
    pub fn after(self, done: usize) -> Unit {
        Unit { start: self.start + done, len: self.len - done }
    }

    /// Positions and lengths of its parts of at most `most` elements.
    pub fn pieces(self, most: usize) -> impl Iterator<Item = (usize, usize)> {
        let end = self.start + self.len;
        (self.start..end).step_by(most).map(move |at| (at, most.min(end - at)))
    }
}

/// How an array falls into units.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    layout: Layout,
    /// Elements along the axis in a block.
    pub block: usize,
    /// Elements along the axis in a unit (a multiple of `block`, but for the last).
    step: usize,
    per_outer: usize,
}

impl Layout {
    pub fn new(shape: &[usize], axis: usize) -> Layout {
        Layout { outer: shape[..axis].iter().product(), axis: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    pub fn len(&self) -> usize {
        self.outer * self.axis * self.inner
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same memory as one axis: what a cast, or one scale for the whole tensor, sees.
    pub fn flat(&self) -> Layout {
        Layout { outer: 1, axis: self.len(), inner: 1 }
    }

    /// Cut for a block rule; `Block::Tensor` is cut like a cast (its scale is known beforehand).
    pub fn cut(&self, block: Option<Block>) -> Cut {
        let (layout, block) = match block {
            Some(Block::Size(n)) => (*self, n.min(self.axis.max(1))),
            Some(Block::Row) => (*self, self.axis.max(1)),
            // Columns and tiles are cut by `general`; here they count as one scale that is known beforehand.
            Some(Block::Tensor | Block::Column | Block::Tile(..)) | None => (self.flat(), UNIT),
        };
        // Rows of whole blocks follow each other in memory like one long row, which makes fewer and larger units.
        let layout = if layout.inner == 1 && layout.axis % block == 0 { layout.flat() } else { layout };
        let step = if layout.inner == 1 { block * (UNIT / block).max(1) } else { block };
        Cut { layout, block, step, per_outer: layout.axis.div_ceil(step) }
    }
}

impl Cut {
    /// Whether all blocks start at multiples of `n` elements.
    pub fn in_multiples_of(&self, n: usize) -> bool {
        let Layout { outer, axis, inner } = self.layout;
        inner.is_multiple_of(n) || inner == 1 && self.block.is_multiple_of(n) && (outer == 1 || axis.is_multiple_of(n))
    }

    pub fn units(&self) -> usize {
        self.layout.outer * self.per_outer
    }

    pub fn inner(&self) -> usize {
        self.layout.inner
    }

    /// Units as one, where blocks follow each other without a short one between.
    pub fn run(&self, units: Range<usize>) -> Option<Unit> {
        let (first, last) = (self.unit(units.start), self.unit(units.end - 1));
        let one_row = self.layout.outer == 1 && self.layout.inner == 1;
        one_row.then(|| Unit { start: first.start, len: last.start + last.len - first.start })
    }

    pub fn unit(&self, i: usize) -> Unit {
        let (outer, j) = (i / self.per_outer, i % self.per_outer * self.step);
        let rows = self.step.min(self.layout.axis - j);
        Unit { start: (outer * self.layout.axis + j) * self.layout.inner, len: rows * self.layout.inner }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_tile_the_array() {
        for shape in [[1, 1, 1], [3, 70, 1], [2, 70, 5], [1, 10_000, 1], [7, 33, 129], [0, 5, 2], [2, 0, 3]] {
            for block in [None, Some(Block::Size(32)), Some(Block::Size(1)), Some(Block::Row), Some(Block::Tensor)] {
                let layout = Layout { outer: shape[0], axis: shape[1], inner: shape[2] };
                let cut = layout.cut(block);
                let mut next = 0;
                for i in 0..cut.units() {
                    let unit = cut.unit(i);
                    assert_eq!(unit.start, next);
                    assert_eq!(unit.len % cut.inner(), 0, "{shape:?} {block:?}");
                    next += unit.len;
                }
                assert_eq!(next, layout.len());
            }
        }
    }
}
