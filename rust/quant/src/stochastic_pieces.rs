//! The elements of a piece (`stochastic_tiles`), rounded while the random words of the next tile are made.
#![cfg(target_arch = "x86_64")]

use crate::bits::below;
use crate::element::Shape;
use crate::lines::{Lines, Writer};
use crate::philox::{LANES, Philox, Words};
use crate::philox_vectors::{Tiles, Work};
use crate::pieces::PIECE;
use crate::products::Products;
use crate::stochastic_vector::Constants;
use crate::stream;

/// How an element is rounded: on the bits (fp32's exponent range), with NaN kept, or under a scale.
pub const WIDE: u8 = 0;
pub const CAST: u8 = 1;
pub const POWER: u8 = 2;
pub const DIVIDE: u8 = 3;
pub const MULTIPLY: u8 = 4;

/// The two numbers (see [`Pair`](crate::job::Pair)) of every block of `1 << log` elements.
#[derive(Clone, Copy)]
pub struct Numbers<'a> {
    pub first: &'a [u32],
    pub second: &'a [u32],
    pub log: u32,
}

/// The constants of a run in every lane.
pub struct Rounding<V> {
    constants: Constants<V>,
    grid: (V, V),
    nan: V,
    /// What of a word, shifted, is kept, and what is set beside it.
    kept: V,
    set: V,
    /// How far a word is shifted for each of the elements that it serves, to the left.
    shifts: [i32; 8],
}

/// The words of a tile and, while that is rounded, of the next.
pub struct Source<'a, V> {
    tiles: Tiles<'a, V>,
    words: [Words; 2],
    /// Which of the two is the present tile's.
    second: bool,
}

impl<'a, V: Products> Source<'a, V> {
    /// # Safety
    /// [`Products`]'s contract.
    #[inline(always)]
    pub unsafe fn new(philox: &'a Philox, tile: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            let mut source = Source { tiles: Tiles::new(philox, tile), words: [[[0; LANES]; 4]; 2], second: false };
            source.tiles.next(&mut source.words[0], &mut ());
            source
        }
    }
}

/// A tile that is rounded while the words of the next one are made: `PER` elements a word.
struct Tile<'a, V: Lines, const PER: usize, const FINE: bool, const HOW: u8> {
    rounding: &'a Rounding<V>,
    x: *const f32,
    out: &'a mut Writer<V>,
    numbers: Numbers<'a>,
    words: &'a Words,
    /// Where in the piece the tile begins.
    start: usize,
}

impl<V: Products, const PER: usize, const FINE: bool, const HOW: u8> Work for Tile<'_, V, PER, FINE, HOW> {
    #[inline(always)]
    unsafe fn step(&mut self, i: usize) {
        let vectors = 4 * PER * LANES / V::LANES;
        for at in i * vectors / Tiles::<V>::STEPS..(i + 1) * vectors / Tiles::<V>::STEPS {
            // SAFETY: the caller's contract; a tile has so many vectors.
            unsafe { self.vector(at * V::LANES) };
        }
    }
}

impl<V: Products, const PER: usize, const FINE: bool, const HOW: u8> Tile<'_, V, PER, FINE, HOW> {
    /// The elements of a vector, from `at` in the tile on.
    ///
    /// # Safety
    /// [`Products`]'s contract; the tile lies in `x` and in what `out` writes; its vectors come in order.
    #[inline(always)]
    unsafe fn vector(&mut self, at: usize) {
        let r = self.rounding;
        let (group, lane) = (at / LANES, at % LANES);
        let Numbers { first, second, log } = self.numbers;
        let (i, block) = (self.start + at, (self.start + at) >> log);
        // SAFETY: the caller's contract.
        unsafe {
            if lane == 0 {
                stream::prefetch(self.x.wrapping_add(i + stream::AHEAD));
            }
            let word = V::load(self.words[group / PER].as_ptr().add(lane));
            let random = word.turn(r.shifts[group % PER]).and_or(r.kept, r.set);
            let (first, second) = (V::splat(*first.get_unchecked(block)), V::splat(*second.get_unchecked(block)));
            let y = r.element::<FINE, HOW>(V::load(self.x.add(i).cast()), first, second, random);
            self.out.put(y);
        }
    }
}

impl<V: Products> Rounding<V> {
    /// # Safety
    /// [`Products`]'s contract, for every method.
    #[inline(always)]
    pub unsafe fn new<const FINE: bool>(shape: Shape, half: u32, grid: (u32, u32)) -> Self {
        let Shape { mbits, n, .. } = shape;
        // Fine kernels take a fraction (see `bits`), others what its part above fp32's last digit adds to the bits.
        let top = if FINE { 32 } else { 23 - mbits };
        let (kept, set) = (!below(n) >> (32 - top), half >> (32 - top));
        let shifts = std::array::from_fn(|i| top as i32 - (n * (i as u32 + 1)) as i32);
        // SAFETY: the caller's contract.
        unsafe {
            Rounding {
                constants: Constants::new(shape),
                grid: (V::splat(grid.0), V::splat(grid.1)),
                nan: V::splat(0x7fc0_0000),
                kept: V::splat(kept),
                set: V::splat(set),
                shifts,
            }
        }
    }

    /// # Safety
    /// Besides: `x` and what `out` writes are valid for a piece; there are numbers for each of its blocks.
    #[inline(always)]
    pub unsafe fn piece<const PER: usize, const FINE: bool>(
        &self,
        how: u8,
        x: *const f32,
        out: &mut Writer<V>,
        source: &mut Source<'_, V>,
        numbers: Numbers<'_>,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            match how {
                WIDE if !FINE => self.run::<PER, FINE, WIDE>(x, out, source, numbers),
                CAST => self.run::<PER, FINE, CAST>(x, out, source, numbers),
                POWER => self.run::<PER, FINE, POWER>(x, out, source, numbers),
                DIVIDE => self.run::<PER, FINE, DIVIDE>(x, out, source, numbers),
                _ => self.run::<PER, FINE, MULTIPLY>(x, out, source, numbers),
            }
        }
    }

    #[inline(always)]
    unsafe fn run<const PER: usize, const FINE: bool, const HOW: u8>(
        &self,
        x: *const f32,
        out: &mut Writer<V>,
        source: &mut Source<'_, V>,
        numbers: Numbers<'_>,
    ) {
        for start in (0..PIECE).step_by(4 * LANES * PER) {
            let [words, next] = &mut source.words;
            let (words, next) = if source.second { (next, words) } else { (words, next) };
            let mut work = Tile::<V, PER, FINE, HOW> { rounding: self, x, out: &mut *out, numbers, words, start };
            // SAFETY: the caller's contract; a piece holds whole tiles.
            unsafe { source.tiles.next(next, &mut work) };
            source.second = !source.second;
        }
    }

    #[inline(always)]
    unsafe fn element<const FINE: bool, const HOW: u8>(&self, x: V, first: V, second: V, random: V) -> V {
        let c = &self.constants;
        // SAFETY: the caller's contract.
        unsafe {
            let (emin, max) = self.grid;
            match HOW {
                WIDE => x.add(random).and_unless_nan(c.kept, x, self.nan),
                CAST => c.element::<FINE>(x, first, second, random).where_nan(x, self.nan),
                POWER => c.element::<FINE>(x, first, second, random),
                DIVIDE => c.element::<FINE>(x.fdiv(first), emin, max, random).fmul(first),
                _ => c.element::<FINE>(x.fmul(first), emin, max, random).fmul(second),
            }
        }
    }
}
