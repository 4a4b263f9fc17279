//! The arithmetic of AdamW (stated in `optim`) on whole tiles, written once over the vectors of two instruction sets.
//!
//! The rounds of Philox for the next tile stand between the elements of this one (see `philox_vectors`), whose divisions
//! and roots keep the processor's only divider busy. Left to the compiler, from the loops of `optim_lanes`, a step with
//! random bits takes twice as long.
#![cfg(target_arch = "x86_64")]
// One contract for every method, stated at the trait, as in `lanes`.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::optim::Constants;
use crate::optim_lanes::{KAHAN, STOCHASTIC, draws, sizes};
use crate::optim_tiles::{Random, TILE, Tiles};
use crate::philox::{LANES, Words};
use crate::philox_vectors::{self, Work};
use crate::products::Products;
use crate::stream::{self, AHEAD};
use std::arch::x86_64::*;
use std::ops::Range;

/// # Safety
/// As for [`Lanes`](crate::lanes::Lanes); pointers are valid for `LANES` elements.
unsafe trait Vector: Products {
    unsafe fn from_bf16(p: *const u16) -> Self;
    /// The upper halves of the lanes.
    unsafe fn store_upper(self, p: *mut u16);
    unsafe fn sqrt(self) -> Self;
}

// SAFETY: the contract is the caller's.
unsafe impl Vector for __m512i {
    #[inline(always)]
    unsafe fn from_bf16(p: *const u16) -> Self {
        _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))
    }

    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u16) {
        _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(self)));
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        _mm512_castps_si512(_mm512_sqrt_ps(_mm512_castsi512_ps(self)))
    }
}

// SAFETY: the contract is the caller's.
unsafe impl Vector for __m256i {
    #[inline(always)]
    unsafe fn from_bf16(p: *const u16) -> Self {
        _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))
    }

    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u16) {
        let upper = _mm256_srli_epi32::<16>(self);
        // The instruction packs each half of the register by itself.
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(upper, upper));
        _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        _mm256_castps_si256(_mm256_sqrt_ps(_mm256_castsi256_ps(self)))
    }
}

/// Constants of a step in every lane.
struct Splat<V> {
    sign: V,
    first: V,
    beta2: V,
    second: V,
    root: V,
    eps: V,
    step: V,
    decay: V,
}

impl<V: Vector> Splat<V> {
    /// # Safety
    /// [`Vector`]'s contract.
    #[inline(always)]
    unsafe fn new(c: &Constants) -> Self {
        let splat = |x: f32| V::splat(x.to_bits());
        Splat {
            sign: splat(c.sign),
            first: splat(c.first),
            beta2: splat(c.beta2),
            second: splat(c.second),
            root: splat(c.root),
            eps: splat(c.eps),
            step: splat(c.step),
            decay: splat(c.decay),
        }
    }
}

/// To the nearest bf16 number, ties to even, in the upper halves. What arithmetic makes is a
/// quiet NaN, which stays one when it is cut off.
///
/// # Safety
/// [`Vector`]'s contract.
#[inline(always)]
unsafe fn nearest<V: Vector>(x: V) -> V {
    let odd = x.shr(V::splat(16)).and(V::splat(1));
    x.add(V::splat(0x7fff)).add(odd).where_nan(x, x)
}

#[inline(always)]
unsafe fn load<V: Vector, const HALF: bool>(p: *const u8) -> V {
    if HALF { V::from_bf16(p.cast()) } else { V::load(p.cast()) }
}

#[inline(always)]
unsafe fn store<V: Vector, const HALF: bool>(x: V, p: *mut u8) {
    if HALF { nearest(x).store_upper(p.cast()) } else { x.store(p.cast()) }
}

/// A tile while it is updated.
struct Tile<'a, V, const W16: bool, const S16: bool, const MODE: u8> {
    memory: Tiles,
    c: &'a Splat<V>,
    words: &'a [Words; 2],
}

impl<V: Vector, const W16: bool, const S16: bool, const MODE: u8> Tile<'_, V, W16, S16, MODE> {
    /// The elements from `at` on, as many as a vector has.
    ///
    /// # Safety
    /// [`Vector`]'s contract; the memory holds a tile.
    #[inline(always)]
    unsafe fn vector(&self, at: usize) {
        let (memory, c) = (self.memory.at(at, sizes::<W16, S16>()), self.c);
        if at.is_multiple_of(LANES) {
            ask::<W16>(memory.w);
            ask::<W16>(memory.g.cast_mut());
            ask::<S16>(memory.m);
            ask::<S16>(memory.v);
        }
        let (w, g) = (load::<V, W16>(memory.w), load::<V, W16>(memory.g).fmul(c.sign));
        let (m, v) = (load::<V, S16>(memory.m), load::<V, S16>(memory.v));
        let m = m.fadd(g.fsub(m).fmul(c.first));
        let v = v.fmul(c.beta2).fadd(g.fmul(g).fmul(c.second));
        let ratio = m.fdiv(v.sqrt().fmul(c.root).fadd(c.eps));
        let u = ratio.fmul(c.step).fadd(w.fmul(c.decay)).xor(V::splat(1 << 31));
        store::<V, S16>(m, memory.m);
        if S16 {
            self.store_stochastic(v, memory.v, 1, at)
        } else {
            v.store(memory.v.cast())
        }
        if let (KAHAN, Some(carry)) = (MODE, memory.carry) {
            let y = u.fsub(V::from_bf16(carry));
            let t = nearest(w.fadd(y)).and(V::splat(0xffff_0000));
            nearest(t.fsub(w).fsub(y)).store_upper(carry);
            t.store_upper(memory.w.cast());
        } else if MODE == STOCHASTIC {
            self.store_stochastic(w.fadd(u), memory.w, 0, at);
        } else {
            store::<V, W16>(w.fadd(u), memory.w);
        }
    }

    /// See `optim_lanes`.
    #[inline(always)]
    unsafe fn store_stochastic(&self, x: V, p: *mut u8, which: usize, at: usize) {
        let group = at / LANES;
        let word = V::load(self.words[which][group / 2].as_ptr().add(at % LANES));
        let random = if group.is_multiple_of(2) { word.and(V::splat(0xffff)) } else { word.shr(V::splat(16)) };
        let magnitude = x.and(V::splat(0x7fff_ffff));
        x.add(random).where_greater_or(V::splat(0x7f80_0000), magnitude, x).store_upper(p.cast());
    }
}

/// Ask for the memory of a later tile: the processor's own prefetching stops at every page.
#[inline(always)]
fn ask<const HALF: bool>(at: *mut u8) {
    stream::prefetch_for_write(at.wrapping_add(AHEAD * if HALF { 2 } else { 4 }));
}

/// The part of a tile that is updated while the words of the next one are made.
struct Part<'a, V, const W16: bool, const S16: bool, const MODE: u8> {
    tile: Tile<'a, V, W16, S16, MODE>,
    elements: Range<usize>,
}

impl<V: Vector, const W16: bool, const S16: bool, const MODE: u8> Work for Part<'_, V, W16, S16, MODE> {
    #[inline(always)]
    unsafe fn step(&mut self, i: usize) {
        let steps = philox_vectors::Tiles::<V>::STEPS;
        let vectors = self.elements.len() / V::LANES;
        for k in vectors * i / steps..vectors * (i + 1) / steps {
            self.tile.vector(self.elements.start + k * V::LANES);
        }
    }
}

/// # Safety
/// [`Vector`]'s contract; the memory holds `count` tiles.
#[inline(always)]
unsafe fn walk<V: Vector, const W16: bool, const S16: bool, const MODE: u8>(
    memory: Tiles,
    count: usize,
    c: &Constants,
    random: &Random,
) {
    let draws = const { draws::<S16, MODE>() };
    let c = Splat::<V>::new(c);
    let [mut weights, mut second] = [0, 1].map(|i| philox_vectors::Tiles::<V>::new(&random.philox[i], random.tile));
    let mut words: [[Words; 2]; 2] = Default::default();
    if draws[0] {
        weights.next(&mut words[0][0], &mut ());
    }
    if draws[1] {
        second.next(&mut words[0][1], &mut ());
    }
    for t in 0..count {
        let (left, right) = words.split_at_mut(1);
        let (now, next) = if t % 2 == 0 { (&left[0], &mut right[0]) } else { (&right[0], &mut left[0]) };
        let part = |elements| {
            let memory = memory.at(t * TILE, sizes::<W16, S16>());
            Part { tile: Tile::<V, W16, S16, MODE> { memory, c: &c, words: now }, elements }
        };
        // How much of the tile goes with the words of the weights: all, half or nothing.
        let middle = if draws[0] { TILE / (1 + usize::from(draws[1])) } else { 0 };
        if draws[0] {
            weights.next(&mut next[0], &mut part(0..middle));
        }
        if draws[1] {
            second.next(&mut next[1], &mut part(middle..TILE));
        }
        if draws == [false; 2] {
            let tile = part(0..TILE).tile;
            (0..TILE).step_by(V::LANES).for_each(|at| tile.vector(at));
        }
    }
}

macro_rules! instantiate {
    ($name:ident, $vector:ty, $features:literal) => {
        /// # Safety
        /// The processor has the instruction set; the memory holds `count` tiles.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $name<const W16: bool, const S16: bool, const MODE: u8>(
            memory: Tiles,
            count: usize,
            c: &Constants,
            random: &Random,
        ) {
            walk::<$vector, W16, S16, MODE>(memory, count, c, random);
        }
    };
}

instantiate!(avx2, __m256i, "avx2,bmi1,bmi2,lzcnt,popcnt");
instantiate!(avx512, __m512i, "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt");
