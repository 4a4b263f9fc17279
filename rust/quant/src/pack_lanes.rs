//! Packing at memory speed: whole blocks along the last axis, or columns of them along another, under the standard
//! scalings, over vectors.
//!
//! A part of a row, or a strip of columns, is done in passes over at most a unit, which stays in the first-level cache: the absmax of every
//! block; from them all scales and the parameters by which elements are rounded; the element codes, while the next
//! part is on its way; where a code has not 4, 8 or 16 bits, the row of bits. Blocks with NaN or infinity, of zeros, or
//! beyond the range of the fast arithmetic are done again by the truth.
#![cfg(target_arch = "x86_64")]

use crate::bits::integer_at;
use crate::codec::{Codec, Mode, Packing, vectors};
use crate::columns::{STRIP, raise};
use crate::encode_lanes::{Run, absmaxes, encode};
use crate::fake_quant::{Whole, random_width};
use crate::pack::pack;
use crate::pack_rule::Rule;
use crate::packed::Scales;
use crate::rows;
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

/// What is packed where blocks are columns.
pub struct Columns<'a> {
    /// Whole rows.
    pub x: &'a [f32],
    pub fractions: &'a [u32],
    pub scales: Scales,
    pub at: rows::Columns,
}

/// A column whose codes the truth has found.
struct Column {
    at: usize,
    codes: Vec<u32>,
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
        // SAFETY: the caller's contract.
        self.at_width(part.x.len(), row, |codes| unsafe { self.codes(part, codes) })
    }

    /// `work` on room for `n` codes at the width that vectors store, which then become a row of bits.
    fn at_width<R>(&self, n: usize, row: &mut [u8], work: impl FnOnce(&mut [u8]) -> R) -> R {
        let width = self.codec.bits;
        if self.packing.width() == width {
            return work(row);
        }
        let mut codes = vec![0; self.packing.bytes(n)];
        let result = work(&mut codes);
        if self.packing == Packing::Halves {
            let wide = |c: &[u8; 2]| u32::from(u16::from_le_bytes(*c));
            pack(&codes.as_chunks().0.iter().map(wide).collect::<Vec<u32>>(), width, row);
        } else {
            narrow(&codes, width, row);
        }
        result
    }

    /// As `part`, of blocks that are columns, into the bytes of their rows.
    ///
    /// # Safety
    /// As for [`Packer::part`].
    pub unsafe fn columns(&self, part: Columns<'_>, bytes: &mut [u8]) -> Option<usize> {
        let Columns { x, fractions, scales, at: rows::Columns { inner, first, .. } } = part;
        let byte = |at: usize| at * self.codec.bits as usize / 8;
        let mut missing = None;
        for from in (0..inner).step_by(STRIP) {
            let n = STRIP.min(inner - from);
            let (mut most, mut numbers) = ([0u32; STRIP], [0u32; STRIP]);
            let (most, numbers) = (&mut most[..n], &mut numbers[..n]);
            for row in x.chunks_exact(inner) {
                raise(most, &row[from..from + n], inner);
            }
            // SAFETY: the caller's contract.
            let bad = unsafe { self.rule.scales(most, numbers, scales, first + from) };
            let bad = (0..if bad { n } else { 0 }).filter(|c| !self.rule.takes(most[*c]));
            // SAFETY: as above.
            let others: Vec<Column> = bad.map(|c| unsafe { self.column(&part, from, c, &mut missing) }).collect();
            for (r, row) in x.chunks_exact(inner).enumerate() {
                let at = r * inner + from;
                let fractions = fractions.get(at..at + n).unwrap_or_default();
                let next = row.as_ptr().wrapping_add(inner + from);
                let run = Run { x: &row[from..from + n], fractions, parameters: self.rule.parameters(numbers), next };
                self.at_width(n, &mut bytes[byte(at)..byte(at + n)], |codes| {
                    // SAFETY: as above; rows are whole vectors, and `vectors` was asked.
                    unsafe { encode(&self.codec, self.mode, self.packing, run, codes.as_mut_ptr()) };
                    others.iter().for_each(|o| self.packing.set(codes, o.at, o.codes[r]));
                });
            }
        }
        missing
    }

    /// The truth's scale and codes of column `from + c`; lowers `missing` to the first element without a code.
    ///
    /// # Safety
    /// As for [`Packer::columns`].
    unsafe fn column(&self, part: &Columns<'_>, from: usize, c: usize, missing: &mut Option<usize>) -> Column {
        let Columns { x, fractions, scales, at: rows::Columns { inner, first, .. } } = part;
        let positions = (from + c..x.len()).step_by(*inner);
        let absmax = absmax(positions.clone().map(|i| x[i])) as f32;
        // SAFETY: the caller's contract.
        let code = unsafe { self.true_code(absmax, *scales, first + from + c) };
        let codes = positions.map(|i| {
            code(x[i], integer_at(fractions, i, random_width(self.q))).unwrap_or_else(|| {
                *missing = Some(missing.map_or(i, |at: usize| at.min(i)));
                0
            })
        });
        Column { at: c, codes: codes.collect() }
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
        // SAFETY: the caller's contract.
        let code = unsafe { self.true_code(absmax(x.iter().copied()) as f32, scales, at) };
        let codes: Vec<Option<u32>> =
            x.iter().enumerate().map(|(i, x)| code(*x, integer_at(bits, i, random_width(self.q)))).collect();
        let plain: Vec<u32> = codes.iter().map(|c| c.unwrap_or(0)).collect();
        pack(&plain, self.packing.width(), bytes);
        codes.iter().position(Option::is_none)
    }

    /// Store the scale of block `at`, and how its elements and their random bits become codes.
    ///
    /// # Safety
    /// As for [`Packer::part`].
    unsafe fn true_code(&self, absmax: f32, scales: Scales, at: usize) -> impl Fn(f32, u32) -> Option<u32> {
        let scale = self.q.scale(absmax, self.whole.tensor.as_ref());
        // SAFETY: the caller's contract.
        unsafe { scales.set(at, self.q.scale_code(scale).unwrap_or(0)) };
        move |x, random| self.q.element_code(x, scale, random)
    }
}
