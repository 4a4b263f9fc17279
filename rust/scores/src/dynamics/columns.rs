//! Records as columns and back. Between the two, the arithmetic of visits is one of vectors.

use super::Record;

/// Records that are visited together: with their 8 fields, a square that the processor turns in registers.
pub const TOGETHER: usize = 8;
const FIELDS: usize = 8;

/// The fields of N records, in their order; floats by their bits.
pub type Columns<const N: usize> = [[u32; N]; FIELDS];

/// The records at `index`.
///
/// # Safety
/// `SQUARES` only where the processor has AVX2.
#[inline(always)]
pub unsafe fn gather<const N: usize, const SQUARES: bool>(records: &[Record], index: &[i64; N]) -> Columns<N> {
    let mut columns = [[0; N]; FIELDS];
    #[cfg(target_arch = "x86_64")]
    if SQUARES && N == TOGETHER {
        // SAFETY: the caller says that the processor has AVX2; there are N indices, and N numbers in a column.
        unsafe { avx2::gather(records, &*index.as_ptr().cast(), &mut *columns.as_mut_ptr().cast()) };
        return columns;
    }
    for i in 0..N {
        let r = &records[index[i] as usize];
        let floats = [r.confidence, r.deviation, r.margin, r.margin_error].map(f32::to_bits);
        let [a, b, c, d] = floats;
        for (column, word) in columns.iter_mut().zip([r.visits, r.correct, r.forgets, r.last_wrong, a, b, c, d]) {
            column[i] = word;
        }
    }
    columns
}

/// What `gather` gave, to where it was.
///
/// # Safety
/// As `gather`.
#[inline(always)]
pub unsafe fn scatter<const N: usize, const SQUARES: bool>(
    columns: &Columns<N>,
    records: &mut [Record],
    index: &[i64; N],
) {
    #[cfg(target_arch = "x86_64")]
    if SQUARES && N == TOGETHER {
        // SAFETY: as in `gather`.
        unsafe { avx2::scatter(&*columns.as_ptr().cast(), records, &*index.as_ptr().cast()) };
        return;
    }
    for i in 0..N {
        let [visits, correct, forgets, last_wrong, a, b, c, d] = columns.map(|column| column[i]);
        let [confidence, deviation, margin, margin_error] = [a, b, c, d].map(f32::from_bits);
        records[index[i] as usize] =
            Record { visits, correct, forgets, last_wrong, confidence, deviation, margin, margin_error };
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Columns, Record, TOGETHER};
    use dither_cpu::turn::turned;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn gather(records: &[Record], index: &[i64; TOGETHER], columns: &mut Columns<TOGETHER>) {
        let mut rows = [_mm256_setzero_ps(); TOGETHER];
        for i in 0..TOGETHER {
            // SAFETY: a record is 32 bytes.
            rows[i] = unsafe { _mm256_load_ps(std::ptr::from_ref(&records[index[i] as usize]).cast()) };
        }
        let turned = turned(rows);
        for i in 0..TOGETHER {
            // SAFETY: a column of eight numbers.
            unsafe { _mm256_storeu_ps(columns[i].as_mut_ptr().cast(), turned[i]) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn scatter(columns: &Columns<TOGETHER>, records: &mut [Record], index: &[i64; TOGETHER]) {
        let mut rows = [_mm256_setzero_ps(); TOGETHER];
        for i in 0..TOGETHER {
            // SAFETY: a column of eight numbers.
            rows[i] = unsafe { _mm256_loadu_ps(columns[i].as_ptr().cast()) };
        }
        let turned = turned(rows);
        for i in 0..TOGETHER {
            // SAFETY: a record is 32 bytes, and any of them make one.
            unsafe { _mm256_store_ps(std::ptr::from_mut(&mut records[index[i] as usize]).cast(), turned[i]) };
        }
    }
}
