//! Vectors written one after the other to memory that need not begin with a line of the cache: whole lines past the
//! caches, put together from two neighbouring vectors.
//!
//! Stores of a quarter of a line would ask for less alignment. But a line would take four places in the processor's queue
//! of stores, where results wait for memory: with one store a line the arithmetic runs four times as far ahead.
#![cfg(target_arch = "x86_64")]
// One contract for every method of the trait, stated there, as in `lanes`.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::lanes::Lanes;
use std::arch::x86_64::*;

/// # Safety
/// As for [`Lanes`].
pub unsafe trait Lines: Lanes {
    /// How two vectors are put together.
    type Turn: Copy;
    /// For lines whose `first` lanes, a multiple of 4, are the end of a vector and whose others the start of the next one;
    /// with 0, a line is a vector.
    unsafe fn turn(first: usize) -> Self::Turn;
    /// The line that begins in `self` and ends in `next`.
    unsafe fn join(self, next: Self, turn: Self::Turn) -> Self;
    /// Past the caches, to a multiple of the vector's size.
    unsafe fn stream(self, to: *mut u32);
}

// SAFETY: the contract is the caller's.
unsafe impl Lines for __m512i {
    type Turn = Self;

    #[inline(always)]
    unsafe fn turn(first: usize) -> Self {
        let lanes: [u32; 16] = std::array::from_fn(|i| i as u32 + (16 - first as u32) % 16);
        _mm512_loadu_si512(lanes.as_ptr().cast())
    }

    #[inline(always)]
    unsafe fn join(self, next: Self, turn: Self) -> Self {
        _mm512_permutex2var_epi32(self, turn, next)
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u32) {
        _mm512_stream_si512(to.cast(), self);
    }
}

// SAFETY: the contract is the caller's.
unsafe impl Lines for __m256i {
    /// Whether it is half a vector.
    type Turn = bool;

    #[inline(always)]
    unsafe fn turn(first: usize) -> bool {
        first != 0
    }

    #[inline(always)]
    unsafe fn join(self, next: Self, half: bool) -> Self {
        if half { _mm256_permute2x128_si256::<0x21>(self, next) } else { self }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u32) {
        _mm256_stream_si256(to.cast(), self);
    }
}

/// Writes vectors that follow each other, past the caches or not.
pub struct Writer<V: Lines> {
    begin: *mut u32,
    /// Where the last vector, or the part of it that has not been written, belongs.
    to: *mut u32,
    last: V,
    turn: V::Turn,
    past: bool,
}

impl<V: Lines> Writer<V> {
    /// # Safety
    /// [`Lanes`]'s contract, for every method; where `past`, `stream::can_pass` is true of `to`.
    #[inline(always)]
    pub unsafe fn new(to: *mut u32, past: bool) -> Self {
        // Lanes before the first whole line.
        let head = if past { to.align_offset(size_of::<V>()) } else { 0 };
        let before = to.wrapping_add(head).wrapping_sub(V::LANES);
        let first = if past { before } else { to };
        Writer { begin: to, to: first, last: V::splat(0), turn: V::turn((V::LANES - head) % V::LANES), past }
    }

    /// # Safety
    /// Besides: the vector's place may be written. It is complete after `finish`.
    #[inline(always)]
    pub unsafe fn put(&mut self, x: V) {
        self.put_all([[x]]);
    }

    /// Several, which costs less.
    ///
    /// # Safety
    /// As for `put`.
    #[inline(always)]
    pub unsafe fn put_all<const M: usize, const N: usize>(&mut self, x: [[V; M]; N]) {
        let (x, count) = (x.as_flattened(), M * N);
        let place = |i: usize| self.to.wrapping_add(i * V::LANES);
        if !self.past {
            for (i, x) in x.iter().enumerate() {
                x.store(place(i));
            }
        } else {
            match self.to < self.begin {
                true => head(x[0], self.begin, self.to),
                false => self.last.join(x[0], self.turn).stream(self.to),
            }
            for i in 1..count {
                x[i - 1].join(x[i], self.turn).stream(place(i));
            }
        }
        (self.last, self.to) = (x[count - 1], place(count));
    }

    /// Write what is left.
    ///
    /// # Safety
    /// As for `new`.
    #[inline(always)]
    pub unsafe fn finish(&self) {
        if self.past && self.to >= self.begin {
            tail(self.last, self.begin, self.to);
        }
    }
}

/// The lanes of the first vector before a whole line. (By value, as below: a writer whose address is taken would live in
/// memory.)
#[cold]
#[inline(never)]
unsafe fn head<V: Lines>(x: V, begin: *mut u32, to: *mut u32) {
    let lanes = (&raw const x).cast::<u32>();
    begin.copy_from_nonoverlapping(lanes, to.wrapping_add(V::LANES).offset_from(begin) as usize);
}

/// The lanes of the last vector after the last whole line.
#[inline(never)]
unsafe fn tail<V: Lines>(x: V, begin: *mut u32, to: *mut u32) {
    let lanes = (&raw const x).cast::<u32>();
    let done = to.offset_from(begin) as usize % V::LANES;
    to.copy_from_nonoverlapping(lanes.add(done), V::LANES - done);
}
