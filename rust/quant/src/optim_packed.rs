//! Moments in codes: a chunk of them as values and back.

use crate::layout::Layout;
use crate::optim::{Address, Moment};
use crate::packed::{self, Parts, Scales, Shape};
use crate::{Memory, MemoryMut};
use dither_numerics::Quantizer;
use dither_numerics::quantizer::Randomness;

/// The values of a packed chunk; none of a dense one.
///
/// # Safety
/// As for [`adamw`].
pub(crate) unsafe fn unpack(moment: Moment<'_>, start: usize, len: usize) -> Vec<f32> {
    let Moment::Packed { quantizer, block, parts, .. } = moment else { return Vec::new() };
    let mut values = vec![0.0; len];
    // SAFETY: the caller's contract; the chunk begins at a whole block.
    unsafe {
        let (parts, y) = (part(quantizer, block, parts, start), MemoryMut::F32(values.as_mut_ptr()));
        packed::dequantize(quantizer, &flat(len), parts, None, false, y, 1);
    }
    values
}

/// Quantize a packed chunk; false where an element has no code.
///
/// # Safety
/// As for [`adamw`].
pub(crate) unsafe fn pack(moment: Moment<'_>, start: usize, values: &[f32]) -> bool {
    let Moment::Packed { quantizer, block, parts, address } = moment else { return true };
    let Address { seed, stream, offset } = address;
    let random = Randomness::Addressed { seed, stream, offset: offset.wrapping_add(start as u64) };
    // SAFETY: the caller's contract; the chunk begins at a whole block.
    unsafe {
        let (parts, x) = (part(quantizer, block, parts, start), Memory::F32(values.as_ptr()));
        packed::quantize(quantizer, &flat(values.len()), x, parts, random, 1).is_ok()
    }
}

/// One axis.
fn flat(len: usize) -> Shape {
    Shape { layout: Layout { outer: 1, axis: len, inner: 1 }, last: len, along_last: true }
}

/// The parts from element `start` on, the first of a block.
///
/// # Safety
/// It lies in the array.
unsafe fn part(quantizer: &Quantizer, block: usize, parts: Parts, start: usize) -> Parts {
    let (bytes, blocks) = (start * quantizer.format.bits() as usize / 8, start / block);
    // SAFETY: the caller's contract.
    unsafe {
        let scales = match parts.scales {
            Scales::None => Scales::None,
            Scales::Codes(p) => Scales::Codes(p.add(blocks)),
            Scales::F32(p) => Scales::F32(p.add(blocks)),
        };
        Parts { codes: parts.codes.add(bytes), scales, zeros: parts.zeros }
    }
}
