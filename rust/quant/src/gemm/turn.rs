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
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    pub fn turn(rows: &Square, out: &mut [[f32; PANEL]]) {
        let out: &mut Square = out.try_into().expect("checked by the caller");
        for j in (0..PANEL).step_by(8) {
            for k in (0..PANEL).step_by(8) {
                // SAFETY: eight numbers from column k of each of the rows j to j + 7.
                let load = |i: usize| unsafe { _mm256_loadu_ps(rows[j + i].as_ptr().add(k)) };
                let (r0, r1, r2, r3) = (load(0), load(1), load(2), load(3));
                let (r4, r5, r6, r7) = (load(4), load(5), load(6), load(7));
                // Pairs of rows, then fours, then eights.
                let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
                let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
                let (a4, a5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
                let (a6, a7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
                let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
                let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
                let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
                let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
                let columns = [
                    _mm256_permute2f128_ps::<0x20>(b0, b4),
                    _mm256_permute2f128_ps::<0x20>(b1, b5),
                    _mm256_permute2f128_ps::<0x20>(b2, b6),
                    _mm256_permute2f128_ps::<0x20>(b3, b7),
                    _mm256_permute2f128_ps::<0x31>(b0, b4),
                    _mm256_permute2f128_ps::<0x31>(b1, b5),
                    _mm256_permute2f128_ps::<0x31>(b2, b6),
                    _mm256_permute2f128_ps::<0x31>(b3, b7),
                ];
                for (i, column) in columns.into_iter().enumerate() {
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
