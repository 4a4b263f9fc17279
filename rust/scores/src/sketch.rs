//! Sparse random projections (sparse Johnson-Lindenstrauss, Kane and Nelson 1012.1577, block construction; one entry a
//! coordinate is the count-sketch). Signs and places are addressed by (seed, stream, coordinate), not drawn: shards of
//! rows and of coordinates, on any machine, project with the same matrix.
//!
//! The target's k rows are cut into s equal blocks; coordinate c has one entry +-1/sqrt(s) in each. Sixteen rows are
//! projected at a time, a lane each, so that an entry costs one addition of vectors.

use crate::values::Values;
use dither_cpu::dispatch;
use dither_cpu::threads::for_each;
use dither_numerics::random::words;

const LANES: usize = 16;

/// Coordinates whose places are kept at once, and those turned to lanes at once.
const SPAN: usize = 1 << 18;
const STRIP: usize = 64;

/// The matrix: `k` rows, `s` entries a coordinate; s divides k.
#[derive(Clone, Copy)]
pub struct Sketch {
    pub k: usize,
    pub s: usize,
    pub seed: u64,
    pub stream: u64,
}

/// Rows of an array, row i from element `i * stride` on.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub values: Values,
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
}

struct Target(*mut f32);
// SAFETY: every thread writes the rows of its own tile.
unsafe impl Sync for Target {}

impl Sketch {
    /// Places (row of the matrix, times 2, plus 1 for a minus) of the coordinates from `first` on, s each.
    fn places(&self, first: u64, count: usize) -> Vec<u32> {
        let (block, s) = ((self.k / self.s) as u64, self.s as u64);
        let mut places = Vec::with_capacity(count * self.s);
        let (mut have, mut tile) = (u64::MAX, [0; 64]);
        for index in first * s..(first + count as u64) * s {
            // Entry `index` of the matrix takes the 32 random bits of element `index` (dither_numerics::random):
            // 64 of them come from sixteen counters.
            if index / 64 != have {
                have = index / 64;
                for lane in 0..16 {
                    let words = words(self.seed, self.stream, have.wrapping_mul(16).wrapping_add(lane as u64));
                    words.iter().enumerate().for_each(|(g, word)| tile[16 * g + lane] = *word);
                }
            }
            let word: u32 = tile[index as usize % 64];
            let place = index % s * block + ((u64::from(word >> 1) * block) >> 31);
            places.push((place as u32) << 1 | word & 1);
        }
        places
    }

    /// Write the projections, rows x k, of columns that are the coordinates from `first` on. False where `give_up`
    /// said yes.
    ///
    /// # Safety
    /// The arrays have these sizes and do not overlap.
    pub unsafe fn project(
        &self,
        x: &Matrix,
        first: u64,
        out: *mut f32,
        threads: usize,
        give_up: &dyn Fn() -> bool,
    ) -> bool {
        let out = Target(out);
        for start in (0..x.columns).step_by(SPAN) {
            let count = SPAN.min(x.columns - start);
            let places = self.places(first + start as u64, count);
            let complete = for_each(x.rows.div_ceil(LANES), threads, give_up, |tile| {
                let out = &out;
                let (row, have) = (tile * LANES, LANES.min(x.rows - tile * LANES));
                // SAFETY: the rows of this tile belong to this thread.
                let out = unsafe { std::slice::from_raw_parts_mut(out.0.add(row * self.k), have * self.k) };
                project_tile(x, row, start, &places, self, out);
            });
            if !complete {
                return false;
            }
        }
        let scale = 1.0 / (self.s as f32).sqrt();
        // SAFETY: the array has this size.
        unsafe { std::slice::from_raw_parts_mut(out.0, x.rows * self.k) }.iter_mut().for_each(|y| *y *= scale);
        true
    }
}

#[inline(always)]
fn project_tile_body(x: &Matrix, row: usize, start: usize, places: &[u32], sketch: &Sketch, out: &mut [f32]) {
    let (k, s) = (sketch.k, sketch.s);
    let have = out.len() / k;
    let mut sums = vec![[0.0f32; LANES]; k];
    if start > 0 {
        for (lane, row) in out.chunks_exact(k).enumerate() {
            sums.iter_mut().zip(row).for_each(|(sum, y)| sum[lane] = *y);
        }
    }
    let count = places.len() / s;
    let (mut strip, mut loaded) = ([[0.0f32; LANES]; STRIP], [0.0f32; STRIP]);
    for from in (0..count).step_by(STRIP) {
        let width = STRIP.min(count - from);
        for lane in 0..have {
            // SAFETY: the row lies in the array.
            let values = unsafe { x.values.view((row + lane) * x.stride + start + from, &mut loaded[..width]) };
            strip.iter_mut().zip(values).for_each(|(column, x)| column[lane] = *x);
        }
        for (column, places) in strip.iter().zip(places[from * s..][..width * s].chunks_exact(s)) {
            for place in places {
                let (sum, flip) = (&mut sums[*place as usize >> 1], place << 31);
                for i in 0..LANES {
                    sum[i] += f32::from_bits(column[i].to_bits() ^ flip);
                }
            }
        }
    }
    for (lane, row) in out.chunks_exact_mut(k).enumerate() {
        row.iter_mut().zip(&sums).for_each(|(y, sum)| *y = sum[lane]);
    }
}

dispatch! {
    fn project_tile(x: &Matrix, row: usize, start: usize, places: &[u32], sketch: &Sketch, out: &mut [f32]) = project_tile_body;
}
