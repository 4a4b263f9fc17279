//! The absmax of many short blocks at once.
//!
//! The maximum within a vector costs several shuffles a block, as much as rounding the block. Sixteen vectors, one a
//! block, are merged pairwise instead: a merge takes the maxima of both over halves of their lanes and places them side
//! by side (two shuffles and one maximum), so that after fifteen merges lane `i` holds the maximum of block `i`.
//! Compilers do not find this, so it is written with intrinsics: MXFP8 in cache runs 1.6 times as fast as with a
//! reduction a block.

use crate::number::Number;
use crate::simd::{Level, level};

#[cfg(target_arch = "x86_64")]
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The bits of the largest magnitude of every block of `B` elements (a multiple of 16).
#[inline(always)]
pub fn absmax<E: Number, const B: usize>(x: &[[E; B]], out: &mut [u32]) {
    assert!(B.is_multiple_of(16) && x.len() == out.len());
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    {
        let level = level();
        while level == Level::Avx512
            && let (Some(x), Some(out)) = (x[done..].first_chunk(), out[done..].first_chunk_mut())
        {
            // SAFETY: `level` never exceeds what was detected on this processor.
            unsafe { x86::sixteen(x, out) };
            finish::<E>(out);
            done += 16;
        }
        while level >= Level::Avx2
            && let (Some(x), Some(out)) = (x[done..].first_chunk(), out[done..].first_chunk_mut())
        {
            // SAFETY: as above.
            unsafe { x86::eight(x, out) };
            finish::<E>(out);
            done += 8;
        }
    }
    for (x, out) in x[done..].iter().zip(&mut out[done..]) {
        *out = E::largest(x);
    }
}

/// Lanes in which the tree found the largest: those of fp32 are its bits, those of half precision hold its bits in their
/// upper half and anything below.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn finish<E: Number>(lanes: &mut [u32]) {
    for lane in lanes {
        *lane = E::from_upper(*lane).to_bits();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::MAGNITUDE;
    use crate::number::Number;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn sixteen<E: Number, const B: usize>(x: &[[E; B]; 16], out: &mut [u32; 16]) {
        let fold = |i: usize| {
            let mut m = _mm512_setzero_si512();
            if size_of::<E>() == 4 {
                let mask = _mm512_set1_epi32(MAGNITUDE as i32);
                for part in x[i].as_chunks::<16>().0 {
                    // SAFETY: a part has 16 elements.
                    let v = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
                    m = _mm512_max_epu32(m, _mm512_and_si512(v, mask));
                }
                return m;
            }
            let mask = _mm512_set1_epi16(0x7fff);
            let (parts, rest) = x[i].as_chunks::<32>();
            for part in parts {
                // SAFETY: a part has 32 elements of 16 bits.
                let v = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
                m = _mm512_max_epu16(m, _mm512_and_si512(v, mask));
            }
            if rest.len() == 16 {
                // SAFETY: 16 elements of 16 bits.
                let v = unsafe { _mm512_zextsi256_si512(_mm256_loadu_si256(rest.as_ptr().cast())) };
                m = _mm512_max_epu16(m, _mm512_and_si512(v, mask));
            }
            // The larger of a lane's two in its upper half, which decides from here on.
            _mm512_max_epu16(m, _mm512_slli_epi32::<16>(m))
        };
        // Neighbouring lanes, then pairs of lanes, then quarters of the vector.
        let pair = |a, b| _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let four = |i: usize| {
            let (a, b) = (pair(fold(i), fold(i + 1)), pair(fold(i + 2), fold(i + 3)));
            _mm512_max_epu32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
        };
        let eight = |i: usize| {
            let (a, b) = (four(i), four(i + 4));
            _mm512_max_epu32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b))
        };
        let (a, b) = (eight(0), eight(8));
        let all = _mm512_max_epu32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        // SAFETY: `out` has 16 elements.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), all) };
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn eight<E: Number, const B: usize>(x: &[[E; B]; 8], out: &mut [u32; 8]) {
        let fold = |i: usize| {
            let mut m = _mm256_setzero_si256();
            if size_of::<E>() == 4 {
                let mask = _mm256_set1_epi32(MAGNITUDE as i32);
                for part in x[i].as_chunks::<8>().0 {
                    // SAFETY: a part has 8 elements.
                    let v = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
                    m = _mm256_max_epu32(m, _mm256_and_si256(v, mask));
                }
                return m;
            }
            let mask = _mm256_set1_epi16(0x7fff);
            for part in x[i].as_chunks::<16>().0 {
                // SAFETY: a part has 16 elements of 16 bits.
                let v = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
                m = _mm256_max_epu16(m, _mm256_and_si256(v, mask));
            }
            // As for sixteen.
            _mm256_max_epu16(m, _mm256_slli_epi32::<16>(m))
        };
        let pair = |a, b| _mm256_max_epu32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let four = |i: usize| {
            let (a, b) = (pair(fold(i), fold(i + 1)), pair(fold(i + 2), fold(i + 3)));
            _mm256_max_epu32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
        };
        let (a, b) = (four(0), four(4));
        let all = _mm256_max_epu32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
        // SAFETY: `out` has 8 elements.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), all) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const B: usize>() {
        let blocks = 37;
        for at in 0..B * 3 {
            let mut x = vec![[0f32; B]; blocks];
            for (i, x) in x.iter_mut().enumerate() {
                x[(at + i) % B] = -(i as f32) - 1.5;
                x[(at + i + 1) % B] = 1.0;
            }
            let mut got = vec![0; blocks];
            absmax(&x, &mut got);
            let want: Vec<u32> = (0..blocks).map(|i| (i as f32 + 1.5).to_bits()).collect();
            assert_eq!(got, want, "{B} {at}");
        }
    }

    #[test]
    fn every_lane_counts() {
        check::<16>();
        check::<32>();
        check::<64>();
    }
}
