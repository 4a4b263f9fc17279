//! The arrays as one thread sees them: pieces in the first-level cache, of the numbers that lie in memory where the kernels
//! take those, else of fp32.

use crate::bits::{Draws, Reader};
use crate::dtype::{Memory, MemoryMut};
use crate::number::Number;
use crate::stream;

/// Elements of a piece at most, where it goes through a buffer. What is stored past the caches is written there first
/// and copied on; larger pieces would not overlap the arithmetic with the stores (measured: 512 to 1024 are best).
pub const PIECE: usize = 512;

/// Input, output and random bits of an operation, as given by its caller, whose kernels see numbers of type `E`.
#[derive(Clone, Copy)]
pub struct Arrays<'a, E = f32> {
    pub x: Memory,
    pub y: MemoryMut,
    pub draws: &'a Draws<'a>,
    /// Whether results go past the caches.
    pub streamed: bool,
    /// Whether kernels work between the arrays themselves, without a buffer.
    direct: bool,
    /// The input, where it holds such numbers and is not the output; and the output, where it does.
    from: Option<*const E>,
    to: Option<*mut E>,
}

// SAFETY: as for `Memory` and `MemoryMut`.
unsafe impl<E> Sync for Arrays<'_, E> {}

impl<'a, E: Number> Arrays<'a, E> {
    /// `len` elements; a result that replaces its input is in the cache already and stays there. With `lines`, what is
    /// done to them is nearest-even, fast enough that a buffer is felt, in runs that start at multiples of 16 bytes.
    pub fn new(x: Memory, y: MemoryMut, draws: &'a Draws<'a>, len: usize, lines: bool) -> Self {
        let apart = x.address() != y.address();
        let streamed = apart && len * y.element_size() >= stream::threshold();
        let lines = lines && stream::can_pass(y.address());
        let (from, to) = (E::input(x).filter(|_| apart), E::output(y));
        let direct = from.is_some() && to.is_some() && !draws.any() && (lines || !streamed);
        Arrays { x, y, draws, streamed, direct, from, to }
    }
}

impl<'a, E> Arrays<'a, E> {
    /// The same for kernels that see fp32 alone, through buffers.
    pub fn as_floats(&self) -> Arrays<'a> {
        let Arrays { x, y, draws, streamed, .. } = *self;
        Arrays { x, y, draws, streamed, direct: false, from: None, to: None }
    }
}

/// A piece, aligned to lines of the cache.
#[repr(align(64))]
pub struct Buffer<T>(pub [T; PIECE]);

/// One thread's buffers. Dropping them makes streamed results visible to other threads.
pub struct Pieces<'a, E = f32> {
    pub arrays: Arrays<'a, E>,
    reader: Reader<'a>,
    input: Buffer<E>,
    output: Buffer<E>,
    random: Buffer<u32>,
}

impl<'a, E: Number> Pieces<'a, E> {
    pub fn new(arrays: Arrays<'a, E>) -> Self {
        let reader = arrays.draws.reader();
        let numbers = || Buffer([E::ZERO; PIECE]);
        Pieces { arrays, reader, input: numbers(), output: numbers(), random: Buffer([0; PIECE]) }
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
    pub unsafe fn look(&mut self, at: usize, len: usize) -> &[E] {
        // SAFETY: the caller's contract.
        unsafe {
            match self.arrays.from {
                Some(x) => std::slice::from_raw_parts(x.add(at), len),
                None => {
                    E::load(self.arrays.x, at, &mut self.input.0[..len]);
                    &self.input.0[..len]
                }
            }
        }
    }

    /// `work(input, random bits, output, past the caches)` on a piece.
    ///
    /// # Safety
    /// As for `look`; besides, the range belongs to this thread.
    #[inline(always)]
    pub unsafe fn map(&mut self, at: usize, len: usize, work: impl FnOnce(&[E], &[u32], &mut [E], bool)) {
        let drawn = if self.arrays.draws.any() { len } else { 0 };
        if drawn > 0 {
            self.ask(at + len, len);
        }
        self.reader.read(at, &mut self.random.0[..drawn]);
        let Arrays { y, streamed, direct, to, .. } = self.arrays;
        // SAFETY: the caller's contract; input and output are different memory where both are borrowed.
        unsafe {
            let x: *const [E] = self.look(at, len);
            let (x, random) = (&*x, &self.random.0[..drawn]);
            match to.filter(|_| direct || !streamed) {
                Some(y) => work(x, random, std::slice::from_raw_parts_mut(y.add(at), len), streamed),
                None => {
                    let output = &mut self.output.0[..len];
                    work(x, random, output, false);
                    if streamed { E::stream(y, at, output) } else { E::store(y, at, output) }
                }
            }
        }
    }

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

impl<E> Drop for Pieces<'_, E> {
    fn drop(&mut self) {
        if self.arrays.streamed {
            stream::fence();
        }
    }
}
