//! Scales found by trying, many blocks at once: `dither_numerics::search` with the same candidates in the same order, and
//! the same sums, for elements that are rounded to nearest even.
//!
//! ```text
//! for every candidate:  the scales and the elements of all blocks; for every block: the sum of its errors, the better one
//! ```

use crate::block::{self, GROUP, GROUP_ELEMENTS, largest};
use crate::job::{Job, Pair};
use crate::scales::Scales;
use crate::simd::dispatch;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Level, level};
use crate::ways::Candidate;
use dither_numerics::search::{FACTORS, LANES, POWERS};
use dither_numerics::{Distance, Quantizer, Rounding, ScaleFormat};

pub(crate) struct Search {
    candidates: Vec<Candidate>,
    distance: Distance,
}

impl Search {
    /// `None` where candidates are not rounded to nearest even.
    pub fn new(q: &Quantizer) -> Option<Search> {
        let scaling = q.scaling.as_ref()?;
        let options = scaling.options;
        let to_even = q.rounding == Rounding::NearestEven || q.rounding.random_bits() > 0;
        if !to_even || q.format.even_by_exponent() {
            return None;
        }
        let aim = |aim: f32| Candidate { aim, power: 0 };
        let candidates = match (options.four_over_six, &scaling.format) {
            (Some(_), _) => [1.0, 1.5].map(|f| aim(f * options.guard)).to_vec(),
            (None, ScaleFormat::E8m0) => POWERS.map(|power| Candidate { aim: 1.0, power }).to_vec(),
            (None, _) => FACTORS.map(|k| aim(k as f32 / 64.0)).to_vec(),
        };
        Some(Search { candidates, distance: options.four_over_six.unwrap_or(Distance::Mse) })
    }

    /// The scales of at most [`GROUP`] blocks of together at most [`GROUP_ELEMENTS`] elements, or of a longer one; false
    /// where one of them is special.
    pub fn group(&self, x: &[f32], block: usize, job: &Job<'_>, scales: &mut Scales<GROUP>) -> bool {
        let n = x.len() / block;
        let (mut absmax, mut least) = ([0; GROUP], [f64::INFINITY; GROUP]);
        peaks(x, block, &mut absmax[..n]);
        let (mut here, mut longer) = ([0.0; GROUP_ELEMENTS], Vec::new());
        let quantized = match x.len() <= GROUP_ELEMENTS {
            true => &mut here[..x.len()],
            false => {
                longer.resize(x.len(), 0.0);
                &mut longer[..]
            }
        };
        let mut tried = Scales::<GROUP>::new();
        for candidate in &self.candidates {
            match candidates(job, &absmax[..n], *candidate, &mut tried) {
                Some(kind) => (tried.kind, scales.kind) = (kind, kind),
                None => return false,
            }
            block::under_to_even(x, quantized, block, &tried, job);
            let mut sums = [0.0; GROUP];
            match self.distance {
                Distance::Mse => distances::<true>(x, quantized, block, &mut sums[..n]),
                Distance::Mae => distances::<false>(x, quantized, block, &mut sums[..n]),
            }
            keep_better(&sums[..n], &mut least[..n], &tried, scales);
        }
        least[..n].iter().all(|sum| *sum < f64::INFINITY)
    }
}

dispatch! { fn peaks(x: &[f32], block: usize, absmax: &mut [u32]) = largest; }
dispatch! {
    fn candidates(job: &Job<'_>, absmax: &[u32], candidate: Candidate, scales: &mut Scales<GROUP>) -> Option<Pair>
        = candidates_body;
}

dispatch! {
    fn keep_better(sums: &[f64], least: &mut [f64], tried: &Scales<GROUP>, best: &mut Scales<GROUP>)
        = keep_better_body;
}

#[inline(always)]
fn keep_better_body(sums: &[f64], least: &mut [f64], tried: &Scales<GROUP>, best: &mut Scales<GROUP>) {
    for (i, (sum, least)) in sums.iter().zip(least).enumerate() {
        // Which one is better is as good as random: no branch.
        let better = *sum < *least;
        *least = if better { *sum } else { *least };
        best.first[i] = if better { tried.first[i] } else { best.first[i] };
        best.second[i] = if better { tried.second[i] } else { best.second[i] };
    }
}

#[inline(always)]
fn candidates_body(job: &Job<'_>, absmax: &[u32], candidate: Candidate, scales: &mut Scales<GROUP>) -> Option<Pair> {
    let n = absmax.len();
    job.candidates(absmax, candidate, &mut scales.first[..n], &mut scales.second[..n])
}

/// The distances of blocks from what they become.
fn distances<const SQUARED: bool>(x: &[f32], y: &[f32], block: usize, sums: &mut [f64]) {
    assert!(x.len() == sums.len() * block && y.len() == x.len());
    #[cfg(target_arch = "x86_64")]
    if block.is_multiple_of(LANES) {
        match level() {
            // SAFETY: `level` never exceeds what was found on this processor; the slices have blocks of whole vectors.
            Level::Avx512 => return unsafe { x86::avx512::<SQUARED>(x, y, block, sums) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { x86::avx2::<SQUARED>(x, y, block, sums) },
            Level::Baseline => {}
        }
    }
    for ((x, y), sum) in x.chunks_exact(block).zip(y.chunks_exact(block)).zip(sums) {
        let mut lanes = [0f64; LANES];
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            let e = f64::from(*y) - f64::from(*x);
            lanes[i % LANES] += if SQUARED { e * e } else { e.abs() };
        }
        let half = |i: usize| lanes[i] + lanes[i + 4];
        *sum = (half(0) + half(2)) + (half(1) + half(3));
    }
}

/// The compiler makes vectors of two numbers of the loop above (four times the time).
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::LANES;
    use std::arch::x86_64::*;

    /// # Safety
    /// `block` is a multiple of [`LANES`], and both slices have as many blocks as there are sums; as for `avx2`.
    #[target_feature(enable = "avx512f,avx2")]
    pub unsafe fn avx512<const SQUARED: bool>(x: &[f32], y: &[f32], block: usize, sums: &mut [f64]) {
        for (b, out) in sums.iter_mut().enumerate() {
            let mut sum = _mm512_setzero_pd();
            for i in (b * block..(b + 1) * block).step_by(LANES) {
                // SAFETY: the caller's contract.
                let [x, y] = [x, y].map(|v| unsafe { _mm512_cvtps_pd(_mm256_loadu_ps(v.as_ptr().add(i))) });
                let e = _mm512_sub_pd(y, x);
                sum = _mm512_add_pd(sum, if SQUARED { _mm512_mul_pd(e, e) } else { _mm512_abs_pd(e) });
            }
            *out = halves(_mm512_castpd512_pd256(sum), _mm512_extractf64x4_pd::<1>(sum));
        }
    }

    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2<const SQUARED: bool>(x: &[f32], y: &[f32], block: usize, sums: &mut [f64]) {
        for (b, out) in sums.iter_mut().enumerate() {
            let (mut parts, sign) = ([_mm256_setzero_pd(); 2], _mm256_set1_pd(-0.0));
            for i in (b * block..(b + 1) * block).step_by(LANES) {
                for (half, sum) in parts.iter_mut().enumerate() {
                    let at = i + 4 * half;
                    // SAFETY: the caller's contract.
                    let [x, y] = [x, y].map(|v| unsafe { _mm256_cvtps_pd(_mm_loadu_ps(v.as_ptr().add(at))) });
                    let e = _mm256_sub_pd(y, x);
                    *sum = _mm256_add_pd(*sum, if SQUARED { _mm256_mul_pd(e, e) } else { _mm256_andnot_pd(sign, e) });
                }
            }
            *out = halves(parts[0], parts[1]);
        }
    }

    /// Eight lanes by halves.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn halves(low: __m256d, high: __m256d) -> f64 {
        let four = _mm256_add_pd(low, high);
        let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
        _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
    }
}
