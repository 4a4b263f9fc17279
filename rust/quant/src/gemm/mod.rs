//! Emulated matrix product: `c[m][n] = dot(a[m], b[n])` with the accumulators of `dither_numerics::accumulate`.
//!
//! Every element of the product is accumulated in order of k by itself, so its bits depend on nothing but its two rows:
//! not on the other rows, the number of threads or the instruction set. Speed comes from doing many elements side by side:
//!
//! ```text
//! for each tile of up to 384 x 512 elements (threads take tiles):
//!     for each stretch of 256 k:
//!         unpack the stretch of a's rows
//!         for each panel of 32 rows of b:
//!             unpack it, k by k, into the first-level cache
//!             for each few rows of a: multiply and add into registers, from and to the tile
//! ```
//!
//! Accumulators other than fp32 keep more than one number an element; they take all of k as one stretch.

mod kernel;
mod nibbles;
mod operand;
mod turn;

use crate::dtype::MemoryMut;
use crate::fpu::Standard;
use crate::pool;
use dither_numerics::Accumulator;
pub use operand::{Factors, Operand, Packed, Strided};

/// Columns of a panel: two vectors of sixteen.
const PANEL: usize = 32;
/// Stretch of k: a panel of it fills half a first-level cache.
const STRETCH: usize = 256;
const TILE_ROWS: usize = 384;
const TILE_COLUMNS: usize = 512;
const FEW_ROWS: usize = 8;

/// Products below this number are done by the calling thread alone.
const SERIAL: usize = 1 << 18;

/// `out` (row-major, `a.rows` x `b.rows`) = a b^T, rounded once from the accumulator to its type.
///
/// # Safety
/// The operands point to what they describe, `out` to as many elements; nobody else touches `out` meanwhile.
pub unsafe fn gemm(a: &Operand<'_>, b: &Operand<'_>, accumulator: Accumulator, out: MemoryMut, threads: usize) {
    let _standard = Standard::enter();
    let (m, n, k) = (a.rows(), b.rows(), a.len());
    assert_eq!(k, b.len(), "operands share k");
    if m == 0 || n == 0 {
        return;
    }
    // With few rows of a, b is what is read: panel by panel, so that memory is read in order.
    let columns = if m <= FEW_ROWS { PANEL } else { TILE_COLUMNS };
    let across = n.div_ceil(columns);
    let tiles = m.div_ceil(TILE_ROWS) * across;
    let threads = if m.saturating_mul(n).saturating_mul(k.max(1)) < SERIAL { 1 } else { threads };
    pool::for_each(tiles, threads, |t| {
        let rows = range(t / across, TILE_ROWS, m);
        let columns = range(t % across, columns, n);
        let tile = Tile { a, b, rows, columns, k, width: n, out };
        // SAFETY: the caller's contract; tiles are disjoint.
        unsafe {
            match accumulator {
                Accumulator::Fp32 => tile.fp32(),
                _ => tile.by_element(accumulator),
            }
        }
    });
}

fn range(i: usize, step: usize, end: usize) -> std::ops::Range<usize> {
    i * step..end.min((i + 1) * step)
}

struct Tile<'a> {
    a: &'a Operand<'a>,
    b: &'a Operand<'a>,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    k: usize,
    /// Columns of the whole product.
    width: usize,
    out: MemoryMut,
}

impl Tile<'_> {
    unsafe fn fp32(&self) {
        let (m, panels) = (self.rows.len(), self.columns.len().div_ceil(PANEL));
        let mut sums = vec![[0f32; PANEL]; panels * m];
        let mut a = vec![[0f32; STRETCH]; m];
        let mut b = vec![[0f32; PANEL]; STRETCH];
        for from in (0..self.k).step_by(STRETCH) {
            let ks = from..self.k.min(from + STRETCH);
            for (row, a) in self.rows.clone().zip(&mut a) {
                // SAFETY: the caller's contract.
                unsafe { self.a.row(row, ks.clone(), &mut a[..ks.len()]) };
            }
            for (panel, sums) in sums.chunks_exact_mut(m).enumerate() {
                // SAFETY: the caller's contract.
                unsafe {
                    if m == 1 && self.b.multiply(&a[0][..ks.len()], self.panel(panel), ks.clone(), &mut sums[0]) {
                        continue;
                    }
                    self.b.panel(self.panel(panel), ks.clone(), &mut b[..ks.len()]);
                }
                kernel::fp32(&a, &b[..ks.len()], sums);
            }
        }
        for (panel, sums) in sums.chunks_exact(m).enumerate() {
            let columns = self.panel(panel);
            for (row, sums) in self.rows.clone().zip(sums) {
                // SAFETY: the caller's contract; the range lies in this tile.
                unsafe { self.out.store(row * self.width + columns.start, &sums[..columns.len()]) };
            }
        }
    }

    unsafe fn by_element(&self, accumulator: Accumulator) {
        let mut a = vec![vec![0f32; self.k]; self.rows.len()];
        for (row, a) in self.rows.clone().zip(&mut a) {
            // SAFETY: the caller's contract.
            unsafe { self.a.row(row, 0..self.k, a) };
        }
        let mut b = vec![[0f32; PANEL]; self.k];
        for panel in 0..self.columns.len().div_ceil(PANEL) {
            let columns = self.panel(panel);
            // SAFETY: the caller's contract.
            unsafe { self.b.panel(columns.clone(), 0..self.k, &mut b) };
            for (row, a) in self.rows.clone().zip(&a) {
                let mut sums = [0f64; PANEL];
                kernel::any(accumulator, a, &b, &mut sums);
                // SAFETY: the caller's contract; the range lies in this tile.
                unsafe { self.out.store_f64(row * self.width + columns.start, &sums[..columns.len()]) };
            }
        }
    }

    /// The rows of b in a panel of this tile.
    fn panel(&self, i: usize) -> std::ops::Range<usize> {
        let start = self.columns.start + i * PANEL;
        start..self.columns.end.min(start + PANEL)
    }
}
