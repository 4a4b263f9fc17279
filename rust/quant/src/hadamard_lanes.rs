//! The block Hadamard transform of contiguous fp32 over vectors: a block of up to sixteen of them stays in registers.
//!
//! Within a vector the step of stride `h` is one addition: lane `i` adds itself, or its negative where `i` has the bit `h`,
//! to lane `i ^ h`. Between vectors it is a sum and a difference. The order of additions is that of
//! [`crate::hadamard`], so the bits are the same.
#![cfg(target_arch = "x86_64")]
// One contract for every method of the trait, stated there, as in `lanes`.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::hadamard::Rotation;
use crate::lanes::Lanes;
use crate::simd::{Level, level};
use crate::stream;
use std::arch::x86_64::*;

/// Vectors whose lanes can be exchanged.
///
/// # Safety
/// As for [`Lanes`].
unsafe trait Swap: Lanes {
    /// In lane `i`: lane `i ^ H` plus lane `i` times `sign` (1 or -1), for a power of two below `LANES`.
    unsafe fn step<const H: usize>(self, sign: Self) -> Self;
}

// SAFETY: the contract is the caller's.
unsafe impl Swap for __m512i {
    #[inline(always)]
    unsafe fn step<const H: usize>(self, sign: Self) -> Self {
        let other = match H {
            1 => _mm512_shuffle_epi32::<0xb1>(self),
            2 => _mm512_shuffle_epi32::<0x4e>(self),
            4 => _mm512_shuffle_i32x4::<0xb1>(self, self),
            _ => _mm512_shuffle_i32x4::<0x4e>(self, self),
        };
        // The product is exact, so the sum is rounded as ever.
        let [x, sign, other] = [self, sign, other].map(|v| _mm512_castsi512_ps(v));
        _mm512_castps_si512(_mm512_fmadd_ps(x, sign, other))
    }
}

// SAFETY: as above.
unsafe impl Swap for __m256i {
    #[inline(always)]
    unsafe fn step<const H: usize>(self, sign: Self) -> Self {
        let other = match H {
            1 => _mm256_shuffle_epi32::<0xb1>(self),
            2 => _mm256_shuffle_epi32::<0x4e>(self),
            _ => _mm256_permute2x128_si256::<0x01>(self, self),
        };
        other.fadd(self.fmul(sign))
    }
}

/// The longest block that stays in registers.
pub fn longest() -> usize {
    16 * if level() == Level::Avx512 { __m512i::LANES } else { __m256i::LANES }
}

/// Rotate the whole blocks of a run that are whole vectors, the first of which starts at element `at` of the array; of
/// blocks longer than [`longest`] the signs and the steps up to that. Returns how many elements it has done.
pub fn run(rotation: &Rotation, x: &[f32], y: &mut [f32], at: usize) -> usize {
    assert!(x.len() == y.len() && rotation.signs.len() >= rotation.period + __m512i::LANES);
    // SAFETY: `level` never exceeds what was found on this processor; the slices are of one length.
    unsafe {
        match level() {
            Level::Avx512 => avx512(rotation, x, y, at),
            Level::Avx2 => avx2(rotation, x, y, at),
            Level::Baseline => 0,
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
unsafe fn avx512(rotation: &Rotation, x: &[f32], y: &mut [f32], at: usize) -> usize {
    body::<__m512i>(rotation, x, y, at)
}

#[target_feature(enable = "avx2")]
unsafe fn avx2(rotation: &Rotation, x: &[f32], y: &mut [f32], at: usize) -> usize {
    body::<__m256i>(rotation, x, y, at)
}

/// # Safety
/// [`Lanes`]'s contract; the slices are of one length, and the signs hold a vector more than their period.
#[inline(always)]
unsafe fn body<V: Swap>(rotation: &Rotation, x: &[f32], y: &mut [f32], at: usize) -> usize {
    match rotation.d / V::LANES {
        0 | 1 => blocks::<V, 1>(rotation, x, y, at),
        2 => blocks::<V, 2>(rotation, x, y, at),
        4 => blocks::<V, 4>(rotation, x, y, at),
        8 => blocks::<V, 8>(rotation, x, y, at),
        _ => blocks::<V, 16>(rotation, x, y, at),
    }
}

/// Blocks of `R` vectors, or several blocks in one; of longer blocks the steps within `R` vectors.
///
/// # Safety
/// As for `body`.
#[inline(always)]
unsafe fn blocks<V: Swap, const R: usize>(rotation: &Rotation, x: &[f32], y: &mut [f32], at: usize) -> usize {
    let Rotation { d, inverse, ref signs, period } = *rotation;
    let last = d <= R * V::LANES;
    let step = R * V::LANES;
    let whole = x.len() / step * step;
    let scale = V::splat(((1.0 / (d as f64).sqrt()) as f32).to_bits());
    let odd = [1, 2, 4, 8].map(|h| negative_where::<V>(h));
    let mut place = at % period;
    for from in (0..whole).step_by(step) {
        let (px, py) = (x.as_ptr().add(from).cast::<u32>(), y.as_mut_ptr().add(from).cast::<u32>());
        let sign = signs.as_ptr().add(place);
        place += step;
        if place >= period {
            place %= period;
        }
        let mut v = [V::splat(0); R];
        for (i, v) in v.iter_mut().enumerate() {
            *v = V::load(px.add(i * V::LANES));
            stream::prefetch(px.wrapping_add(i * V::LANES + stream::AHEAD));
            if !inverse {
                *v = v.xor(V::load(sign.add(i * V::LANES)));
            }
        }
        if d > 1 {
            within::<V, R, 1>(&mut v, odd[0]);
        }
        if d > 2 {
            within::<V, R, 2>(&mut v, odd[1]);
        }
        if d > 4 {
            within::<V, R, 4>(&mut v, odd[2]);
        }
        if d > 8 && V::LANES > 8 {
            within::<V, R, 8>(&mut v, odd[3]);
        }
        between::<V, R, 1>(&mut v);
        between::<V, R, 2>(&mut v);
        between::<V, R, 4>(&mut v);
        between::<V, R, 8>(&mut v);
        for (i, v) in v.iter().enumerate() {
            let mut v = *v;
            if last {
                v = v.fmul(scale);
                if inverse {
                    v = v.xor(V::load(sign.add(i * V::LANES)));
                }
            }
            v.store(py.add(i * V::LANES));
        }
    }
    whole
}

/// -1 in the lanes that have the bit `h`, else 1.
///
/// # Safety
/// [`Lanes`]'s contract.
#[inline(always)]
unsafe fn negative_where<V: Swap>(h: usize) -> V {
    let lanes: [f32; 16] = std::array::from_fn(|i| if i & h == 0 { 1.0 } else { -1.0 });
    V::load(lanes.as_ptr().cast())
}

/// The step of stride `H` lanes.
///
/// # Safety
/// [`Lanes`]'s contract.
#[inline(always)]
unsafe fn within<V: Swap, const R: usize, const H: usize>(v: &mut [V; R], sign: V) {
    for v in v {
        *v = v.step::<H>(sign);
    }
}

/// The step of stride `H` vectors.
///
/// # Safety
/// [`Lanes`]'s contract.
#[inline(always)]
unsafe fn between<V: Swap, const R: usize, const H: usize>(v: &mut [V; R]) {
    for i in 0..R {
        if H < R && i & H == 0 {
            (v[i], v[i + H]) = (v[i].fadd(v[i + H]), v[i].fsub(v[i + H]));
        }
    }
}
