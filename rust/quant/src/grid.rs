//! An array cut into boxes of (outer, axis, inner): its blocks, whatever their shape.
//!
//! A tile's layout has the rows as its axis and the columns as its inner part, so that a tile is a box as well; a column is
//! the box (all, 1, all).

use crate::layout::Layout;
use dither_numerics::{Block, Quantizer};

/// How an array falls into boxes.
pub(crate) struct Boxes {
    layout: Layout,
    /// Extent of a box along outer, axis and inner.
    size: [usize; 3],
    /// Number of boxes along each.
    grid: [usize; 3],
}

impl Boxes {
    pub fn new(q: &Quantizer, layout: &Layout) -> Boxes {
        let whole = [layout.outer, layout.axis, layout.inner];
        let size = match q.scaling.as_ref().map(|s| s.block) {
            Some(Block::Size(n)) => [1, n, 1],
            Some(Block::Row) => [1, layout.axis, 1],
            Some(Block::Column) => [layout.outer, 1, layout.inner],
            Some(Block::Tile(rows, columns)) => [1, rows, columns],
            Some(Block::Tensor) | None => whole,
        };
        let grid = [0, 1, 2].map(|d| whole[d].div_ceil(size[d].max(1)));
        Boxes { layout: *layout, size, grid }
    }

    pub fn len(&self) -> usize {
        self.grid.iter().product()
    }

    /// Contiguous runs (start, length) of box `b`, boxes counted in C order.
    pub fn runs(&self, b: usize) -> Vec<(usize, usize)> {
        let whole = [self.layout.outer, self.layout.axis, self.layout.inner];
        let at = [b / (self.grid[1] * self.grid[2]), b / self.grid[2] % self.grid[1], b % self.grid[2]];
        let [outer, axis, inner] = [0, 1, 2].map(|d| {
            let start = at[d] * self.size[d];
            start..whole[d].min(start.saturating_add(self.size[d]))
        });
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for o in outer {
            for a in axis.clone() {
                let start = (o * self.layout.axis + a) * self.layout.inner + inner.start;
                match runs.last_mut() {
                    Some((first, len)) if *first + *len == start => *len += inner.len(),
                    _ => runs.push((start, inner.len())),
                }
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dither_numerics::{Format, Overflow, Rounding, ScaleFormat, ScaleRule, Scaling};

    #[test]
    fn boxes_tile_the_array() {
        for [outer, axis, inner] in [[1, 1, 1], [3, 70, 1], [2, 70, 5], [2, 33, 17], [0, 5, 2], [2, 0, 3], [1, 3, 0]] {
            let layout = Layout { outer, axis, inner };
            for block in [Block::Size(32), Block::Row, Block::Column, Block::Tile(16, 4), Block::Tensor] {
                let q = Quantizer {
                    format: Format::get("int4").unwrap(),
                    scaling: Some(Scaling::new(block, ScaleFormat::Fp32, ScaleRule::Absmax)),
                    rounding: Rounding::NearestEven,
                    overflow: Overflow::Saturate,
                };
                let boxes = Boxes::new(&q, &layout);
                let mut seen = vec![0; layout.len()];
                for b in 0..boxes.len() {
                    for (start, len) in boxes.runs(b) {
                        seen[start..start + len].iter_mut().for_each(|n| *n += 1);
                    }
                }
                assert!(seen.iter().all(|n| *n == 1), "{layout:?} {block:?}");
            }
        }
    }
}
