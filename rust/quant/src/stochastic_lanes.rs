//! Stochastic rounding of contiguous runs, over vectors.
//!
//! The first-level cache holds what a call works on; every call enters a function with the instruction set enabled once.
#![cfg(target_arch = "x86_64")]

use crate::block;
use crate::cast::Cast;
use crate::element::{STOCHASTIC, STOCHASTIC_FINE, STOCHASTIC_NEAREST};
use crate::job::{Fast, Job};
use crate::lanes::Lanes;
use crate::simd::{Level, level};
use crate::stochastic_vector::Constants;
use std::arch::x86_64::{__m256i, __m512i};

/// Blocks are whole vectors at every level.
pub const WIDTH: usize = 16;

/// How the elements of a run are scaled.
#[derive(Clone, Copy)]
pub enum Scaling {
    /// Each block of so many by its own absmax.
    Blocks(usize),
    /// All alike.
    Known(Fast),
}

/// Stochastic rounding of a run in whole blocks, which must be whole vectors; returns how many elements it has done.
pub fn scaled(x: &[f32], y: &mut [f32], fractions: &[u32], scaling: Scaling, job: &Job<'_>) -> usize {
    let block = match scaling {
        Scaling::Blocks(block) if block.is_multiple_of(WIDTH) => block,
        Scaling::Known(Fast::Power { .. } | Fast::Divide { .. } | Fast::Multiply { .. }) => WIDTH,
        _ => return 0,
    };
    let done = x.len() / block * block;
    if level() == Level::Baseline {
        return 0;
    }
    assert!(y.len() >= done && fractions.len() >= done);
    let (x, mode) = (&x[..done], job.mode);
    // SAFETY: `level` never exceeds what was found on this processor; the slices have the length.
    unsafe {
        match (level(), mode) {
            (Level::Avx512, STOCHASTIC) => avx512_scaled::<STOCHASTIC>(x, y, fractions, scaling, job),
            (Level::Avx512, STOCHASTIC_FINE) => avx512_scaled::<STOCHASTIC_FINE>(x, y, fractions, scaling, job),
            (Level::Avx512, _) => avx512_scaled::<STOCHASTIC_NEAREST>(x, y, fractions, scaling, job),
            (_, STOCHASTIC) => avx2_scaled::<STOCHASTIC>(x, y, fractions, scaling, job),
            (_, STOCHASTIC_FINE) => avx2_scaled::<STOCHASTIC_FINE>(x, y, fractions, scaling, job),
            (_, _) => avx2_scaled::<STOCHASTIC_NEAREST>(x, y, fractions, scaling, job),
        }
    }
    done
}

/// Stochastic casts; returns how many elements it has done.
pub fn cast(x: &[f32], y: &mut [f32], fractions: &[u32], cast: &Cast) -> usize {
    let done = x.len() / WIDTH * WIDTH;
    if level() == Level::Baseline {
        return 0;
    }
    assert!(y.len() >= done && fractions.len() >= done);
    let (x, mode) = (&x[..done], cast.mode);
    // SAFETY: as in `scaled`.
    unsafe {
        match (level(), mode) {
            (Level::Avx512, STOCHASTIC) => avx512_cast::<STOCHASTIC>(x, y, fractions, cast),
            (Level::Avx512, STOCHASTIC_FINE) => avx512_cast::<STOCHASTIC_FINE>(x, y, fractions, cast),
            (Level::Avx512, _) => avx512_cast::<STOCHASTIC_NEAREST>(x, y, fractions, cast),
            (_, STOCHASTIC) => avx2_cast::<STOCHASTIC>(x, y, fractions, cast),
            (_, STOCHASTIC_FINE) => avx2_cast::<STOCHASTIC_FINE>(x, y, fractions, cast),
            (_, _) => avx2_cast::<STOCHASTIC_NEAREST>(x, y, fractions, cast),
        }
    }
    done
}

macro_rules! levels {
    ($($name:ident, $lanes:ty, $features:literal: $body:ident($($arg:ident: $ty:ty),*);)*) => {
        $(
            #[target_feature(enable = $features)]
            fn $name<const M: u8>($($arg: $ty),*) {
                // SAFETY: this function enables the instruction set; the caller has checked the lengths.
                unsafe { $body::<$lanes, M>($($arg),*) }
            }
        )*
    };
}

levels! {
    avx512_scaled, __m512i, "avx512f,avx512bw,avx512dq,avx512vl,avx2":
        scaled_body(x: &[f32], y: &mut [f32], fractions: &[u32], scaling: Scaling, job: &Job<'_>);
    avx2_scaled, __m256i, "avx2":
        scaled_body(x: &[f32], y: &mut [f32], fractions: &[u32], scaling: Scaling, job: &Job<'_>);
    avx512_cast, __m512i, "avx512f,avx512bw,avx512dq,avx512vl,avx2":
        cast_body(x: &[f32], y: &mut [f32], fractions: &[u32], cast: &Cast);
    avx2_cast, __m256i, "avx2":
        cast_body(x: &[f32], y: &mut [f32], fractions: &[u32], cast: &Cast);
}

/// # Safety
/// [`Lanes`]'s contract; `x.len()` is a multiple of the block and of `WIDTH`, and `y` and `fractions` are as long.
#[inline(always)]
unsafe fn scaled_body<V: Lanes, const M: u8>(
    x: &[f32],
    y: &mut [f32],
    fractions: &[u32],
    scaling: Scaling,
    job: &Job<'_>,
) {
    // SAFETY: the caller's contract; blocks lie within the slices.
    unsafe {
        let c = Constants::<V>::new(job.shape);
        let block = match scaling {
            Scaling::Known(scale) => return run::<V, M>(&c, x, y, fractions, scale, job),
            Scaling::Blocks(block) => block,
        };
        for start in (0..x.len()).step_by(block) {
            let x = x.get_unchecked(start..start + block);
            let mut absmax = V::splat(0);
            for i in (0..block).step_by(V::LANES) {
                absmax = absmax.max(V::load(x.as_ptr().add(i).cast()).and(c.magnitude));
            }
            let y = y.get_unchecked_mut(start..start + block);
            run::<V, M>(&c, x, y, fractions.get_unchecked(start..start + block), job.scale(absmax.largest()), job);
        }
    }
}

/// Elements under one scale.
///
/// # Safety
/// [`Lanes`]'s contract; `x.len()` is a multiple of `WIDTH`, and `y` and `fractions` are as long.
#[inline(always)]
unsafe fn run<V: Lanes, const M: u8>(
    c: &Constants<V>,
    x: &[f32],
    y: &mut [f32],
    fractions: &[u32],
    scale: Fast,
    job: &Job<'_>,
) {
    // SAFETY: the caller's contract; all positions are below the length.
    unsafe {
        let positions = (0..x.len()).step_by(V::LANES);
        let (px, py, pf) = (x.as_ptr().cast::<u32>(), y.as_mut_ptr().cast::<u32>(), fractions.as_ptr());
        let (emin0, max0) = job.plain_grid();
        let fraction = |i: usize| V::load(pf.add(i));
        match scale {
            Fast::Power { emin, max } => {
                let (emin, max) = (V::splat(emin), V::splat(max));
                for i in positions {
                    c.rounded::<M>(V::load(px.add(i)), emin, max, fraction(i)).store(py.add(i));
                }
            }
            Fast::Divide { s } => {
                let (emin, max, s) = (V::splat(emin0), V::splat(max0), V::splat(s.to_bits()));
                for i in positions {
                    let z = V::load(px.add(i)).fdiv(s);
                    c.rounded::<M>(z, emin, max, fraction(i)).fmul(s).store(py.add(i));
                }
            }
            Fast::Multiply { encode, decode } => {
                let (emin, max) = (V::splat(emin0), V::splat(max0));
                let (encode, decode) = (V::splat(encode.to_bits()), V::splat(decode.to_bits()));
                for i in positions {
                    let z = V::load(px.add(i)).fmul(encode);
                    c.rounded::<M>(z, emin, max, fraction(i)).fmul(decode).store(py.add(i));
                }
            }
            scale => block::scaled(x, y, false, fractions, scale, job),
        }
    }
}

/// # Safety
/// [`Lanes`]'s contract; `x.len()` is a multiple of `WIDTH`, and `y` and `fractions` are as long.
#[inline(always)]
unsafe fn cast_body<V: Lanes, const M: u8>(x: &[f32], y: &mut [f32], fractions: &[u32], cast: &Cast) {
    // SAFETY: the caller's contract; all positions are below the length.
    unsafe {
        let c = Constants::<V>::new(cast.shape);
        let (emin, clamp) = (V::splat(cast.emin), V::splat(if cast.wide { 0x7f7f_ffff } else { cast.clamp }));
        let (max, infinity, below) = (V::splat(cast.max), V::splat(0x7f80_0000), V::splat(0x7f7f_ffff));
        let (over, last_bit) = ([V::splat(cast.over[0]), V::splat(cast.over[1])], V::splat(31));
        let (infinite, nan) = (V::splat(cast.infinite), V::splat(0x7fc0_0000));
        for i in (0..x.len()).step_by(V::LANES) {
            let x = V::load(x.as_ptr().add(i).cast());
            let fraction = V::load(fractions.as_ptr().add(i));
            let a = x.and(c.magnitude);
            let finite = a.min(clamp);
            let finite = match (M == STOCHASTIC_NEAREST, cast.wide) {
                (false, _) => finite,
                (true, true) => c.nearest_wide(finite),
                (true, false) => c.nearest.round(finite, emin),
            };
            let rounded = match (cast.wide, M == STOCHASTIC_FINE) {
                (true, _) => finite.add(fraction.shr(c.shift)).and(c.kept),
                (false, true) => c.round::<true>(finite, emin, fraction),
                (false, false) => c.round::<false>(finite, emin, c.random::<false>(fraction)),
            };
            let beyond = match cast.over[0] == cast.over[1] {
                true => over[0],
                false => over[1].where_greater_or(x.shr(last_bit), V::splat(0), over[0]),
            };
            let rounded = beyond.where_greater_or(rounded, max, rounded);
            let rounded = infinite.where_greater_or(a, below, rounded);
            let signed = x.and_or(c.sign, rounded);
            nan.where_greater_or(a, infinity, signed).fadd(c.zero).store(y.as_mut_ptr().add(i).cast());
        }
    }
}
