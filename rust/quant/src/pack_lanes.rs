//! Packing at memory speed: whole blocks along the last axis under the standard scalings, over vectors.
//!
//! A part of a row is done in passes over at most a unit, which stays in the first-level cache: the absmax of every
//! block; from them all scales and the parameters by which elements are rounded; the element codes, while the next
//! part is on its way; where a code has not 4, 8 or 16 bits, the row of bits. Blocks with NaN or infinity, of zeros, or
//! beyond the range of the fast arithmetic are done again by the truth.
#![cfg(target_arch = "x86_64")]

use crate::bits::integer_at;
use crate::codec::{Codec, Mode, Packing, vectors};
use crate::encode_lanes::{Run, absmaxes, encode};
use crate::fake_quant::{Whole, random_width};
use crate::pack::pack;
use crate::pack_rule::Rule;
use crate::packed::Scales;
use crate::widths::narrow;
use dither_numerics::quantizer::absmax;
use dither_numerics::{Overflow, Quantizer};

/// Most blocks of a part: the units of `packed` hold 4096 elements, or one block.
const BLOCKS: usize = 256;

pub struct Packer<'a> {
    q: &'a Quantizer,
    whole: &'a Whole,
    codec: Codec,
    mode: Mode,
    packing: Packing,
    rule: Rule<'a>,
}

/// What is packed, and where its scales go.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Whole blocks of whole vectors.
    pub x: &'a [f32],
    pub fractions: &'a [u32],
    pub block: usize,
    pub scales: Scales,
    /// The index of the first block.
    pub first: usize,
}

impl<'a> Packer<'a> {
    /// `None` where the truth must do it.
    pub fn new(q: &'a Quantizer, whole: &'a Whole) -> Option<Packer<'a>> {
        let (codec, mode) = (Codec::new(&q.format)?, Mode::new(&q.format, q.rounding)?);
        let scaling = q.scaling.as_ref().filter(|s| s.is_plain() && q.overflow == Overflow::Saturate && vectors())?;
        let packing = Packing::of(codec.bits);
        Some(Packer { q, whole, codec, mode, packing, rule: Rule::new(q, scaling, whole)? })
    }

    /// Codes and scales of a part. Returns the position of the first element that has no code.
    ///
    /// # Safety
    /// `row` and the scales have room for what `x` needs and belong to this thread.
    pub unsafe fn part(&self, part: Part<'_>, row: &mut [u8]) -> Option<usize> {
        let width = self.codec.bits;
        if self.packing.width() == width {
            // SAFETY: the caller's contract.
            return unsafe { self.codes(part, row) };
        }
        let mut codes = vec![0; self.packing.bytes(part.x.len())];
        // SAFETY: the caller's contract.
        let missing = unsafe { self.codes(part, &mut codes) };
        match self.packing {
            Packing::Halves => {
                let wide = |c: &[u8; 2]| u32::from(u16::from_le_bytes(*c));
                pack(&codes.as_chunks().0.iter().map(wide).collect::<Vec<u32>>(), width, row);
            }
            _ => narrow(&codes, width, row),
        }
        missing
    }

    /// As `part`, the codes at the width that vectors store.
    ///
    /// # Safety
    /// As for [`Packer::part`].
    unsafe fn codes(&self, part: Part<'_>, codes: &mut [u8]) -> Option<usize> {
        let Part { x, fractions, block, scales, first } = part;
        let n = x.len() / block;
        let (mut most, mut numbers) = ([0u32; BLOCKS], [0u32; BLOCKS]);
        let most = &mut most[..n];
        absmaxes(x, block, most);
        // SAFETY: the caller's contract; the blocks are whole, and `vectors` was asked.
        let bad = unsafe {
            let bad = self.rule.scales(most, &mut numbers[..n], scales, first);
            let run = Run { x, fractions, parameters: self.rule.parameters(&numbers[..n]), next: x.as_ptr_range().end };
            encode(&self.codec, self.mode, self.packing, run, codes.as_mut_ptr());
            bad
        };
        let mut missing = None;
        for b in (0..if bad { n } else { 0 }).filter(|b| !self.rule.takes(most[*b])) {
            let range = b * block..(b + 1) * block;
            let bits = fractions.get(range.clone()).unwrap_or_default();
            let bytes = &mut codes[self.packing.bytes(range.start)..self.packing.bytes(range.end)];
            // SAFETY: the caller's contract.
            let at = unsafe { self.by_truth(&x[range], bits, bytes, scales, first + b) };
            missing = missing.or(at.map(|i| b * block + i));
        }
        missing
    }

    /// # Safety
    /// As for [`Packer::part`].
    unsafe fn by_truth(&self, x: &[f32], bits: &[u32], bytes: &mut [u8], scales: Scales, at: usize) -> Option<usize> {
        let scale = self.q.scale(absmax(x.iter().copied()) as f32, self.whole.tensor.as_ref());
        // SAFETY: the caller's contract.
        unsafe { scales.set(at, self.q.scale_code(scale).unwrap_or(0)) };
        let code = |i: usize| self.q.element_code(x[i], scale, integer_at(bits, i, random_width(self.q)));
        let codes: Vec<Option<u32>> = (0..x.len()).map(code).collect();
        let plain: Vec<u32> = codes.iter().map(|c| c.unwrap_or(0)).collect();
        pack(&plain, self.packing.width(), bytes);
        codes.iter().position(Option::is_none)
    }
}
