//! Rows of few classes: sixteen rows at a time, a lane each.

use crate::expf::{bounded, exp};
use crate::row::{Batch, ROWS};

/// More classes than this are worth a pass of their own.
pub const CLASSES: usize = 256;

/// Classes that are summed up in fp32, one after the other, before they go to fp64: so few that the sums keep their digits.
const FEW: usize = 16;

/// The logits of ROWS rows, class by class.
pub type Columns = [[f32; ROWS]; CLASSES];

const SIDE: usize = 4;

/// A square of logits turned. (Left to itself, the compiler scatters element by element, at four times the cost.)
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned(square: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
    use std::arch::x86_64::{_mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
    // SAFETY: SSE belongs to the architecture, and both types are the same 16 bytes.
    unsafe {
        let [a, b, c, d] = square.map(|row| std::mem::transmute::<[f32; SIDE], std::arch::x86_64::__m128>(row));
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        let (above, below) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        let columns =
            [_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab), _mm_movelh_ps(above, below), _mm_movehl_ps(below, above)];
        columns.map(|column| std::mem::transmute::<std::arch::x86_64::__m128, [f32; SIDE]>(column))
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn turned(square: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
    std::array::from_fn(|j| std::array::from_fn(|i| square[i][j]))
}

/// Turn ROWS rows of `classes` logits, one after the other in `z`.
#[inline(always)]
pub fn turn(z: &[f32], classes: usize, columns: &mut Columns) {
    if classes < SIDE {
        for (lane, row) in z.chunks_exact(classes).enumerate() {
            row.iter().enumerate().for_each(|(k, x)| columns[k][lane] = *x);
        }
        return;
    }
    for (side, rows) in z.chunks_exact(SIDE * classes).enumerate() {
        for start in (0..classes).step_by(SIDE) {
            // The last square reaches back into the one before.
            let start = start.min(classes - SIDE);
            let mut square = [[0.0; SIDE]; SIDE];
            for (i, row) in square.iter_mut().enumerate() {
                *row = rows[i * classes + start..][..SIDE].try_into().expect("a row of the square");
            }
            for (k, column) in turned(square).iter().enumerate() {
                columns[start + k][side * SIDE..][..SIDE].copy_from_slice(column);
            }
        }
    }
}

/// Reduce the rows whose logits stand in the first `classes` columns.
#[inline(always)]
pub fn reduce(columns: &Columns, classes: usize, labels: &[i64; ROWS], b: &mut Batch) {
    let columns = &columns[..classes];
    let (mut first, mut second) = ([f32::NEG_INFINITY; ROWS], [f32::NEG_INFINITY; ROWS]);
    let mut predicted = [0i32; ROWS];
    for (k, column) in columns.iter().enumerate() {
        for i in 0..ROWS {
            let x = column[i];
            let below = if x < first[i] { x } else { first[i] };
            second[i] = if below > second[i] { below } else { second[i] };
            predicted[i] = if x > first[i] { k as i32 } else { predicted[i] };
            first[i] = if x > first[i] { x } else { first[i] };
        }
    }
    let (mut sum, mut squares, mut weighted) = ([0.0f64; ROWS], [0.0f64; ROWS], [0.0f64; ROWS]);
    for (block, columns) in columns.chunks(FEW).enumerate() {
        let (mut s, mut q, mut w) = ([0.0f32; ROWS], [0.0f32; ROWS], [0.0f32; ROWS]);
        for (k, column) in columns.iter().enumerate() {
            let class = (block * FEW + k) as i32;
            for i in 0..ROWS {
                let t = bounded(column[i] - first[i]);
                let e = if predicted[i] == class { 0.0 } else { exp(t) };
                s[i] += e;
                q[i] = e.mul_add(e, q[i]);
                w[i] = e.mul_add(-t, w[i]);
            }
        }
        for i in 0..ROWS {
            sum[i] += f64::from(s[i]);
            squares[i] += f64::from(q[i]);
            weighted[i] += f64::from(w[i]);
        }
    }
    for i in 0..ROWS {
        // NaN among the logits has passed the comparisons by and stands in the sum, which is finite else.
        b.first[i] = first[i] + 0.0 * sum[i] as f32;
        b.second[i] = second[i];
    }
    (b.sum, b.squares, b.weighted) = (sum, squares, weighted);
    // One by one: kept apart from the vector code above.
    for (i, label) in labels.iter().enumerate() {
        b.label[i] = if *label < 0 { f32::NAN } else { columns[*label as usize][i] };
        b.correct[i] = f64::from(u8::from(i64::from(predicted[i]) == *label));
    }
}
