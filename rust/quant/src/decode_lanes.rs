//! Values of a run of codes, over vectors (see `codec` for the arithmetic).
#![cfg(target_arch = "x86_64")]

use crate::code_lanes::{BlockOf, CodeLanes};
use crate::codec::{Codec, Form, Packing};
use crate::simd::{Level, level};
use crate::stochastic_lanes::WIDTH;
use crate::stream;
use crate::to_value::{BYTES, Float, HALVES, Half, Int, NIBBLES, Table, Way, bytes};
use std::arch::x86_64::{__m256i, __m512i};

/// The values of codes, times the factor of their block (of the same length, in whole vectors) or each its own. They go
/// `past` the caches where [`stream::can_pass`], and are then visible to other threads after `stream::fence`.
///
/// # Safety
/// `codes` holds `y.len()` codes, and the level is above the baseline.
pub unsafe fn decode(codec: &Codec, packing: Packing, codes: *const u8, y: &mut [f32], factors: &[f32], past: bool) {
    let (n, blocks) = (y.len(), factors.len());
    assert!(n.is_multiple_of(WIDTH) && blocks > 0 && (blocks == n || n.is_multiple_of(blocks * WIDTH)));
    let past = past && stream::can_pass(y.as_ptr());
    // SAFETY: the caller's contract; `level` never exceeds what was found on this processor.
    unsafe {
        match level() {
            Level::Avx512 => avx512_decode(codec, packing, codes, y, factors, past),
            _ => avx2_decode(codec, packing, codes, y, factors, past),
        }
    }
}

macro_rules! levels {
    ($($decode:ident, $lanes:ty, $features:literal;)*) => {
        $(
            #[target_feature(enable = $features)]
            unsafe fn $decode(codec: &Codec, packing: Packing, codes: *const u8, y: &mut [f32], f: &[f32], past: bool) {
                // SAFETY: this function enables the instruction set; the rest is the caller's contract.
                unsafe {
                    match past {
                        true => by_form::<$lanes, true>(codec, packing, codes, y, f),
                        false => by_form::<$lanes, false>(codec, packing, codes, y, f),
                    }
                }
            }
        )*
    };
}

levels! {
    avx512_decode, __m512i, "avx512f,avx512bw,avx512dq,avx512vl,avx2";
    avx2_decode, __m256i, "avx2,f16c";
}

/// # Safety
/// [`CodeLanes`]'s contract; that of [`decode`].
#[inline(always)]
unsafe fn by_form<V: CodeLanes, const PAST: bool>(
    codec: &Codec,
    packing: Packing,
    codes: *const u8,
    y: &mut [f32],
    f: &[f32],
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (packing, codec.form, codec.table.is_some(), codec.half.is_some()) {
            (Packing::Nibbles, ..) => body::<V, Table<V>, NIBBLES, PAST>(codec, codes, y, f),
            (Packing::Bytes, _, true, _) => body::<V, Table<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Bytes, _, _, true) => body::<V, Half<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Bytes, Form::Int, ..) => body::<V, Int<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Bytes, ..) => body::<V, Float<V>, BYTES, PAST>(codec, codes, y, f),
            (Packing::Halves, _, _, true) => body::<V, Half<V>, HALVES, PAST>(codec, codes, y, f),
            (Packing::Halves, Form::Int, ..) => body::<V, Int<V>, HALVES, PAST>(codec, codes, y, f),
            (Packing::Halves, ..) => body::<V, Float<V>, HALVES, PAST>(codec, codes, y, f),
        }
    }
}

/// How far ahead codes are asked for (bytes): they are read at a fraction of the speed at which values are written.
const AHEAD: usize = 2048;

/// # Safety
/// [`CodeLanes`]'s contract; that of [`decode`]. `PAST`: where `stream::can_pass`.
#[inline(always)]
unsafe fn body<V: CodeLanes, W: Way<V>, const P: u8, const PAST: bool>(
    codec: &Codec,
    codes: *const u8,
    y: &mut [f32],
    factors: &[f32],
) {
    // SAFETY: the caller's contract; positions lie in the run.
    unsafe {
        let (n, pair) = (y.len(), 2 * V::LANES);
        let block = (factors.len() < n).then(|| BlockOf::new(n / V::LANES, factors.len()));
        let factor = |at: usize| match block {
            Some(block) => V::splat(factors.get_unchecked(block.vector(at / V::LANES)).to_bits()),
            None => V::load(factors.as_ptr().add(at).cast()),
        };
        let (way, py) = (W::new(codec), y.as_mut_ptr().cast::<u32>());
        let whole = n / pair * pair;
        for at in (0..whole).step_by(pair) {
            let from = codes.add(bytes::<P>(at));
            stream::prefetch(from.wrapping_add(AHEAD));
            let [a, b] = way.values::<P>(from);
            let two = [a.fmul(factor(at)), b.fmul(factor(at + V::LANES))];
            if PAST {
                V::store_past(two, py.add(at));
            } else {
                two[0].store(py.add(at));
                two[1].store(py.add(at + V::LANES));
            }
        }
        if whole < n {
            let mut last = [0u8; 128];
            std::ptr::copy_nonoverlapping(codes.add(bytes::<P>(whole)), last.as_mut_ptr(), bytes::<P>(n - whole));
            let [a, _] = way.values::<P>(last.as_ptr());
            a.fmul(factor(whole)).store(py.add(whole));
        }
    }
}
