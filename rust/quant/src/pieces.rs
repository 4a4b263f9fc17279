//! The arrays as one thread sees them: pieces of fp32 in the first-level cache, whatever lies in memory.

use crate::bits::{Draws, Reader};
use crate::dtype::{Memory, MemoryMut};
use crate::stream;

/// Elements of a piece at most, where it goes through a buffer. What is stored past the caches is written there first
/// and copied on; larger pieces would not overlap the arithmetic with the stores (measured: 512 to 1024 are best).
pub const PIECE: usize = 512;

/// Input, output and random bits of an operation, as given by its caller.
#[derive(Clone, Copy)]
pub struct Arrays<'a> {
    pub x: Memory,
    pub y: MemoryMut,
    pub draws: &'a Draws<'a>,
    /// Whether results go past the caches.
    pub streamed: bool,
    /// Whether kernels work between the arrays themselves, without a buffer.
    direct: bool,
}

impl<'a> Arrays<'a> {
    /// `len` elements; a result that replaces its input is in the cache already and stays there. With `lines`, what is
    /// done to them is nearest-even, fast enough that a buffer is felt, in runs that start at multiples of four elements.
    pub fn new(x: Memory, y: MemoryMut, draws: &'a Draws<'a>, len: usize, lines: bool) -> Self {
        let apart = x.address() != y.address();
        let streamed = apart && len * y.element_size() >= stream::threshold();
        let lines = lines && stream::can_pass(y.address());
        let fp32 = matches!((x, y), (Memory::F32(_), MemoryMut::F32(_)));
        Arrays { x, y, draws, streamed, direct: fp32 && apart && !draws.any() && (lines || !streamed) }
    }
}

/// A piece, aligned to lines of the cache.
#[repr(align(64))]
pub struct Buffer<T>(pub [T; PIECE]);

/// One thread's buffers. Dropping them makes streamed results visible to other threads.
pub struct Pieces<'a> {
    pub arrays: Arrays<'a>,
    reader: Reader<'a>,
    input: Buffer<f32>,
    output: Buffer<f32>,
    random: Buffer<u32>,
}

impl<'a> Pieces<'a> {
    pub fn new(arrays: Arrays<'a>) -> Self {
        let reader = arrays.draws.reader();
        Pieces { arrays, reader, input: Buffer([0.0; PIECE]), output: Buffer([0.0; PIECE]), random: Buffer([0; PIECE]) }
    }

    /// Elements of a piece at most, of a run of `len`.
    pub fn most(&self, len: usize) -> usize {
        if self.arrays.direct { len } else { len.min(PIECE) }
    }

    /// The input of a piece.
    ///
    /// # Safety
    /// `at..at + len` lies in the array, nobody writes it meanwhile, and `len` is at most what `most` says.
    #[inline(always)]
    pub unsafe fn look(&mut self, at: usize, len: usize) -> &[f32] {
        let Arrays { x, y, .. } = self.arrays;
        // SAFETY: the caller's contract.
        unsafe {
            x.borrow(at, len, y).unwrap_or_else(|| {
                x.load(at, &mut self.input.0[..len]);
                &self.input.0[..len]
            })
        }
    }

    /// `work(input, random bits, output, past the caches)` on a piece.
    ///
    /// # Safety
    /// As for `look`; besides, the range belongs to this thread.
    #[inline(always)]
    pub unsafe fn map(&mut self, at: usize, len: usize, work: impl FnOnce(&[f32], &[u32], &mut [f32], bool)) {
        let drawn = if self.arrays.draws.any() { len } else { 0 };
        if drawn > 0 {
            self.ask(at + len, len);
        }
        self.reader.read(at, &mut self.random.0[..drawn]);
        let Arrays { y, streamed, direct, .. } = self.arrays;
        // SAFETY: the caller's contract; input and output are different memory where both are borrowed.
        unsafe {
            let x: *const [f32] = self.look(at, len);
            let (x, random) = (&*x, &self.random.0[..drawn]);
            match y.f32_range(at, len).filter(|_| direct || !streamed) {
                Some(y) => work(x, random, y, streamed),
                None => {
                    let output = &mut self.output.0[..len];
                    work(x, random, output, false);
                    if streamed { y.stream(at, output) } else { y.store(at, output) }
                }
            }
        }
    }
}

impl Pieces<'_> {
    /// Ask for the memory of the next piece, while random bits are made.
    fn ask(&self, at: usize, len: usize) {
        let Arrays { x, y, streamed, .. } = self.arrays;
        for line in (0..len * x.element_size()).step_by(64) {
            stream::prefetch(x.address().wrapping_add(at * x.element_size() + line));
        }
        for line in (0..if streamed { 0 } else { len * y.element_size() }).step_by(64) {
            stream::prefetch_for_write(y.address().wrapping_add(at * y.element_size() + line));
        }
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        if self.arrays.streamed {
            stream::fence();
        }
    }
}
