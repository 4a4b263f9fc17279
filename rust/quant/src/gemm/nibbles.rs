//! 4-bit codes of 32 rows, a cache line of each, into numbers side by side. A table of sixteen fp32 numbers is one
//! register of AVX-512 and two of AVX2, so a vector of codes becomes a vector of numbers in one or three instructions.
//! (The compiler does not find this by itself: it loads every number from memory, which takes several times as long.)

use super::PANEL;
use crate::simd::{Level, level};

/// Codes of a row taken at once: a cache line.
pub const CODES: usize = 128;
/// Words of eight codes in a line; all codes of a word have one factor.
pub const WORDS: usize = CODES / 8;

/// A stretch of up to 128 codes of each of 32 rows. The number of code k of row j is
/// `table[code] * factors[k / 8][j]`.
pub struct Lines<'a> {
    pub codes: [[u8; CODES / 2]; PANEL],
    pub factors: [[f32; PANEL]; WORDS],
    pub words: usize,
    pub table: &'a [f32; 16],
}

/// `out[k][j]` is the number of code k of row j.
pub fn unpack(lines: &Lines<'_>, out: &mut [[f32; PANEL]]) {
    assert!(lines.words <= WORDS && out.len() == 8 * lines.words);
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: `level` never exceeds what this processor has.
        Level::Avx512 => return unsafe { avx512::unpack(lines, out) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { avx2::unpack(lines, out) },
        Level::Baseline => {}
    }
    for (word, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for (j, line) in lines.codes.iter().enumerate() {
            let codes = u32::from_le_bytes(line.as_chunks::<4>().0[word]);
            for (k, out) in out.iter_mut().enumerate() {
                out[j] = lines.table[(codes >> (4 * k) & 15) as usize] * lines.factors[word][j];
            }
        }
    }
}

/// Whether [`multiply`] exists at this level: a fused multiply-add and registers that hold the table.
pub fn can_multiply() -> bool {
    #[cfg(target_arch = "x86_64")]
    return match level() {
        Level::Avx512 => true,
        Level::Avx2 => std::arch::is_x86_feature_detected!("fma"),
        Level::Baseline => false,
    };
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `sums[j] = fma(a[k], number k of row j, sums[j])` for every k in order, without a detour through memory.
pub fn multiply(lines: &Lines<'_>, a: &[f32], sums: &mut [f32; PANEL]) {
    assert!(can_multiply() && lines.words <= WORDS && a.len() == 8 * lines.words);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `can_multiply` says that the level has what these ask for.
    unsafe {
        if level() == Level::Avx512 { avx512::multiply(lines, a, sums) } else { avx2::multiply(lines, a, sums) }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{CODES, Lines, PANEL, WORDS};
    use std::arch::x86_64::*;

    /// Calls `with(k, half, numbers)` for the sixteen numbers of code k in each half of the rows.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn each(lines: &Lines<'_>, mut with: impl FnMut(usize, usize, __m512)) {
        // SAFETY: sixteen numbers.
        let table = unsafe { _mm512_loadu_ps(lines.table.as_ptr()) };
        let words = words(&lines.codes, 0).into_iter().zip(words(&lines.codes, 16));
        for (word, (low, high)) in words.enumerate().take(lines.words) {
            // SAFETY: there are at most as many words as factors hold.
            let factors =
                |half: usize| unsafe { _mm512_loadu_ps(lines.factors.as_ptr().add(word).cast::<f32>().add(16 * half)) };
            let (mut codes, factors) = ([low, high], [factors(0), factors(1)]);
            for k in 0..8 {
                for half in 0..2 {
                    // The permutation reads the low four bits of each lane.
                    let numbers = _mm512_permutexvar_ps(codes[half], table);
                    with(8 * word + k, half, _mm512_mul_ps(numbers, factors[half]));
                    codes[half] = _mm512_srli_epi32::<4>(codes[half]);
                }
            }
        }
    }

    /// Word i of sixteen lines side by side, for all sixteen words. (With a gather a word, the product takes a twentieth longer.)
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn words(lines: &[[u8; CODES / 2]; PANEL], first: usize) -> [__m512i; WORDS] {
        // SAFETY: a line has sixteen words.
        let row = |i: usize| unsafe { _mm512_loadu_si512(lines[first + i].as_ptr().cast()) };
        let mut fours = [_mm512_setzero_si512(); WORDS];
        // Pairs of rows, then fours of them: part p of number 4 i + c has word 4 p + c of the rows from 4 i on.
        for i in (0..WORDS).step_by(4) {
            let (a, b, c, d) = (row(i), row(i + 1), row(i + 2), row(i + 3));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            (fours[i], fours[i + 1]) = (_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            (fours[i + 2], fours[i + 3]) = (_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        }
        let mut words = fours;
        for c in 0..4 {
            let (a, b, d, e) = (fours[c], fours[4 + c], fours[8 + c], fours[12 + c]);
            let even = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e));
            let odd = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e));
            words[c] = _mm512_shuffle_i32x4::<0x88>(even.0, even.1);
            words[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd.0, odd.1);
            words[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even.0, even.1);
            words[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd.0, odd.1);
        }
        words
    }

    #[target_feature(enable = "avx512f")]
    pub fn unpack(lines: &Lines<'_>, out: &mut [[f32; PANEL]]) {
        each(lines, |k, half, numbers| {
            let to: &mut [f32] = &mut out[k][16 * half..16 * half + 16];
            // SAFETY: sixteen numbers.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), numbers) }
        });
    }

    #[target_feature(enable = "avx512f")]
    pub fn multiply(lines: &Lines<'_>, a: &[f32], sums: &mut [f32; PANEL]) {
        // SAFETY: a panel has 32 numbers.
        let mut acc = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] };
        each(lines, |k, half, numbers| acc[half] = _mm512_fmadd_ps(_mm512_set1_ps(a[k]), numbers, acc[half]));
        // SAFETY: as above.
        unsafe {
            _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
            _mm512_storeu_ps(sums.as_mut_ptr().add(16), acc[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{CODES, Lines, PANEL};
    use std::arch::x86_64::*;

    /// Calls `with(k, part, numbers)` for the eight numbers of code k in each quarter of the rows.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn each(lines: &Lines<'_>, mut with: impl FnMut(usize, usize, __m256)) {
        const STEP: i32 = CODES as i32 / 8;
        // SAFETY: sixteen numbers.
        let (small, large) =
            unsafe { (_mm256_loadu_ps(lines.table.as_ptr()), _mm256_loadu_ps(lines.table.as_ptr().add(8))) };
        let rows = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(STEP));
        for word in 0..lines.words {
            for part in 0..4 {
                // SAFETY: there are at most as many words as lines and factors hold.
                let (mut codes, factors) = unsafe {
                    let first = lines.codes.as_ptr().add(8 * part).cast::<i32>().add(word);
                    (
                        _mm256_i32gather_epi32::<4>(first, rows),
                        _mm256_loadu_ps(lines.factors.as_ptr().add(word).cast::<f32>().add(8 * part)),
                    )
                };
                for k in 0..8 {
                    // The permutations read the low three bits of each lane, the blend takes the table by the fourth.
                    let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                    let low = _mm256_permutevar8x32_ps(small, codes);
                    let high = _mm256_permutevar8x32_ps(large, codes);
                    with(8 * word + k, part, _mm256_mul_ps(_mm256_blendv_ps(low, high, fourth), factors));
                    codes = _mm256_srli_epi32::<4>(codes);
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn unpack(lines: &Lines<'_>, out: &mut [[f32; PANEL]]) {
        each(lines, |k, part, numbers| {
            let to: &mut [f32] = &mut out[k][8 * part..8 * part + 8];
            // SAFETY: eight numbers.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), numbers) }
        });
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn multiply(lines: &Lines<'_>, a: &[f32], sums: &mut [f32; PANEL]) {
        // SAFETY: a panel has 32 numbers.
        let mut acc: [__m256; 4] = std::array::from_fn(|p| unsafe { _mm256_loadu_ps(sums.as_ptr().add(8 * p)) });
        each(lines, |k, part, numbers| acc[part] = _mm256_fmadd_ps(_mm256_set1_ps(a[k]), numbers, acc[part]));
        for (p, acc) in acc.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8 * p), acc) };
        }
    }
}
