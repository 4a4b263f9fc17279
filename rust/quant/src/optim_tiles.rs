//! The walk of an optimizer's step over a chunk: whole tiles in place, a part of a tile at either end through buffers.
//!
//! A tile of [`TILE`] elements is what one set of Philox counters serves. Its bits belong to the index in the whole tensor,
//! so a chunk (or a rank's shard) may begin and end inside a tile.

use crate::optim::Address;
use crate::philox::Philox;

/// Elements that 16 counters serve with 16 bits each.
pub(crate) const TILE: usize = 128;

/// Where the random bits of a chunk are.
pub(crate) struct Random {
    pub(crate) philox: [Philox; 2],
    /// Of the next tile.
    pub(crate) tile: u64,
    /// Elements of the first tile that lie before the chunk.
    pub(crate) skip: usize,
}

impl Random {
    /// For the weights and the second moment, whose elements have the same indices.
    pub(crate) fn new(addresses: [Address; 2], start: usize) -> Self {
        let first = addresses[0].offset.wrapping_add(start as u64);
        let philox = addresses.map(|address| Philox::new(address.seed, address.stream));
        Random { philox, tile: first / TILE as u64, skip: (first % TILE as u64) as usize }
    }
}

/// Addresses of the same elements of all arrays.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub(crate) w: *mut u8,
    pub(crate) g: *const u8,
    pub(crate) m: *mut u8,
    pub(crate) v: *mut u8,
    pub(crate) carry: Option<*mut u16>,
}

impl Tiles {
    /// `run(memory, tiles)` on whole tiles; a part of a tile at either end goes through buffers. `skip` elements of the
    /// first tile do not exist; `sizes` are bytes an element of weights and moments.
    ///
    /// # Safety
    /// The arrays have `len` elements of these sizes.
    pub(crate) unsafe fn each(self, len: usize, skip: usize, sizes: [usize; 2], mut run: impl FnMut(Tiles, usize)) {
        let head = if skip > 0 { len.min(TILE - skip) } else { 0 };
        let whole = (len - head) / TILE;
        // SAFETY: the caller's contract.
        unsafe {
            if head > 0 {
                self.part(skip, head, sizes, &mut run);
            }
            if whole > 0 {
                run(self.at(head, sizes), whole);
            }
            let rest = len - head - whole * TILE;
            if rest > 0 {
                self.at(head + whole * TILE, sizes).part(0, rest, sizes, &mut run);
            }
        }
    }

    /// From element `i` on.
    pub(crate) fn at(self, i: usize, [weights, moments]: [usize; 2]) -> Tiles {
        Tiles {
            w: self.w.wrapping_add(i * weights),
            g: self.g.wrapping_add(i * weights),
            m: self.m.wrapping_add(i * moments),
            v: self.v.wrapping_add(i * moments),
            carry: self.carry.map(|p| p.wrapping_add(i)),
        }
    }

    /// The elements `skip..skip + n` of a tile.
    ///
    /// # Safety
    /// As for `each`.
    unsafe fn part(self, skip: usize, n: usize, sizes: [usize; 2], run: &mut impl FnMut(Tiles, usize)) {
        let mut buffers = [[0f32; TILE]; 5];
        let [w, g, m, v, carry] = buffers.each_mut().map(|buffer| buffer.as_mut_ptr().cast::<u8>());
        let tile = Tiles { w, g, m, v, carry: self.carry.map(|_| carry.cast()) };
        let inner = tile.at(skip, sizes);
        let [weights, moments] = sizes.map(|size| n * size);
        // SAFETY: the caller's contract; the buffers hold a tile of four-byte elements each.
        unsafe {
            std::ptr::copy_nonoverlapping(self.w, inner.w, weights);
            std::ptr::copy_nonoverlapping(self.g, inner.g.cast_mut(), weights);
            std::ptr::copy_nonoverlapping(self.m, inner.m, moments);
            std::ptr::copy_nonoverlapping(self.v, inner.v, moments);
            if let Some((outside, inside)) = self.carry.zip(inner.carry) {
                std::ptr::copy_nonoverlapping(outside, inside, n);
            }
            run(tile, 1);
            std::ptr::copy_nonoverlapping(inner.w, self.w, weights);
            std::ptr::copy_nonoverlapping(inner.m, self.m, moments);
            std::ptr::copy_nonoverlapping(inner.v, self.v, moments);
            if let Some((outside, inside)) = self.carry.zip(inner.carry) {
                std::ptr::copy_nonoverlapping(inside, outside, n);
            }
        }
    }
}
