//! 32 rows of 32 numbers turned into 32 columns side by side, 8 x 8 numbers at a time in registers.

use super::PANEL;
use crate::simd::{Level, level};

pub type Square = [[f32; PANEL]; PANEL];

/// `out[k][j] = rows[j][k]` for as many k as `out` has (at most 32).
pub fn turn(rows: &Square, out: &mut [[f32; PANEL]]) {
    #[cfg(target_arch = "x86_64")]
    if out.len() == PANEL && level() >= Level::Avx2 {
        // SAFETY: `level` never exceeds what this processor has.
        return unsafe { avx2::turn(rows, out) };
    }
    for (k, out) in out.iter_mut().enumerate() {
        *out = std::array::from_fn(|j| rows[j][k]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{PANEL, Square};
    use dither_cpu::turn::turned;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    pub fn turn(rows: &Square, out: &mut [[f32; PANEL]]) {
        let out: &mut Square = out.try_into().expect("checked by the caller");
        for j in (0..PANEL).step_by(8) {
            for k in (0..PANEL).step_by(8) {
                // SAFETY: eight numbers from column k of each of the rows j to j + 7.
                let load = |i: usize| unsafe { _mm256_loadu_ps(rows[j + i].as_ptr().add(k)) };
                let rows = [load(0), load(1), load(2), load(3), load(4), load(5), load(6), load(7)];
                for (i, column) in turned(rows).into_iter().enumerate() {
                    // SAFETY: numbers j to j + 7 of one column.
                    unsafe { _mm256_storeu_ps(out[k + i].as_mut_ptr().add(j), column) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let rows: Square = std::array::from_fn(|j| std::array::from_fn(|k| (100 * j + k) as f32));
        for count in [0, 1, 31, 32] {
            let mut out = vec![[0f32; PANEL]; count];
            turn(&rows, &mut out);
            assert!(out.iter().enumerate().all(|(k, out)| (0..PANEL).all(|j| out[j] == rows[j][k])));
        }
    }
}
