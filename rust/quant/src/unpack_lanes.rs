//! Unpacking at memory speed: whole blocks along the last axis, or columns of them, over vectors, in pieces that stay in the first-level
//! cache on their way past the others.
#![cfg(target_arch = "x86_64")]

use crate::codec::{Codec, Packing, vectors};
use crate::decode_lanes::decode;
use crate::dtype::MemoryMut;
use crate::layout::Unit;
use crate::pack::{row_bytes, unpack};
use crate::packed::Scales;
use crate::pieces::{Buffer, PIECE};
use crate::rows::Columns;
use crate::stochastic_lanes::WIDTH;
use crate::stream;
use crate::widths::widen;
use dither_numerics::{Quantizer, ScaleFormat};
use std::ops::Range;

/// Elements done at once where there is no buffer between: as many as a unit has.
const DIRECT: usize = 4096;

pub struct Unpacker {
    codec: Codec,
    packing: Packing,
    factors: Factors,
    /// Whether values go past the caches.
    streamed: bool,
}

/// What elements are multiplied by.
enum Factors {
    /// All by the same.
    Same(f32),
    /// By what the code of their scale stands for.
    Coded(Box<[f32; 256]>),
    /// By their scale and by this.
    Scaled(f32),
}

/// Where the values of whole blocks of whole vectors belong, and the index of the first block.
#[derive(Clone, Copy)]
pub struct Part {
    pub unit: Unit,
    pub block: usize,
    pub first: usize,
}

impl Unpacker {
    /// `known`: the factor where all elements have the same. `None` where the truth must do it.
    pub fn new(q: &Quantizer, tensor: Option<f32>, known: Option<f32>, streamed: bool) -> Option<Unpacker> {
        let codec = Codec::new(&q.format).filter(|_| vectors())?;
        let factors = match (known, q.scaling.as_ref()) {
            (_, Some(s)) if !s.is_plain() => return None,
            (Some(factor), _) => Factors::Same(factor),
            (None, Some(s)) if s.format != ScaleFormat::Fp32 => {
                let mut factors = Box::new([0f32; 256]);
                for (code, factor) in (0..).zip(factors.iter_mut()) {
                    *factor = q.factor(q.stored_scale(code, 0, tensor))?;
                }
                Factors::Coded(factors)
            }
            _ => Factors::Scaled(tensor.unwrap_or(1.0)),
        };
        Some(Unpacker { packing: Packing::of(codec.bits), codec, factors, streamed })
    }

    /// The values of a part; if streamed, visible to other threads after `stream::fence`.
    ///
    /// # Safety
    /// `row` and the scales hold the part, and so does `y`, which nobody else touches there.
    pub unsafe fn part(&self, row: &[u8], scales: Scales, y: MemoryMut, part: Part) {
        let Part { unit: Unit { start, len }, block, first } = part;
        // SAFETY: the caller's contract.
        let most = unsafe { self.most(y, start) };
        // Pieces of several blocks, or of one.
        let stretch = if block > most { block } else { len };
        for from in (0..len).step_by(stretch) {
            let within = Unit { start: start + from, len: stretch };
            for (at, n) in within.pieces(if block > most { most } else { most / block * block }) {
                let (bits, mut factors) = (self.codec.bits, [0f32; DIRECT / WIDTH]);
                let bytes = row_bytes(at - start, bits).expect("the codes were allocated");
                let factors = &mut factors[..n.div_ceil(block)];
                // SAFETY: the caller's contract.
                unsafe {
                    self.factors(scales, first + (at - start) / block, factors);
                    self.piece(&row[bytes..], y, at, n, factors);
                }
            }
        }
    }

    /// The values of the rows of a unit whose blocks are columns; otherwise as `part`.
    ///
    /// # Safety
    /// As for [`Unpacker::part`].
    pub unsafe fn columns(&self, row: &[u8], scales: Scales, y: MemoryMut, unit: Range<usize>, at: &Columns) {
        let byte = |at: usize| (at - unit.start) * self.codec.bits as usize / 8;
        // SAFETY: the caller's contract.
        let strip = unsafe { self.most(y, unit.start) };
        for from in (0..at.inner).step_by(strip) {
            let (n, mut factors) = (strip.min(at.inner - from), [0f32; DIRECT]);
            let factors = &mut factors[..n];
            // SAFETY: as above.
            unsafe {
                self.factors(scales, at.first + from, factors);
                for at in (unit.start + from..unit.end).step_by(at.inner) {
                    self.piece(&row[byte(at)..], y, at, n, factors);
                }
            }
        }
    }

    /// Elements that are done at once.
    ///
    /// # Safety
    /// As for [`Unpacker::part`].
    unsafe fn most(&self, y: MemoryMut, start: usize) -> usize {
        // SAFETY: the caller's contract.
        let straight = unsafe { self.straight(y, start, 0) }.is_some();
        if straight && self.packing.width() == self.codec.bits { DIRECT } else { PIECE }
    }

    /// Where values belong, if they get there straight from the registers.
    ///
    /// # Safety
    /// As for `MemoryMut::f32_range`.
    unsafe fn straight<'a>(&self, y: MemoryMut, at: usize, n: usize) -> Option<&'a mut [f32]> {
        // SAFETY: the caller's contract.
        unsafe { y.f32_range(at, n) }.filter(|y| !self.streamed || stream::can_pass(y.as_ptr()))
    }

    /// # Safety
    /// The scales hold those blocks.
    unsafe fn factors(&self, scales: Scales, first: usize, out: &mut [f32]) {
        match (&self.factors, scales) {
            (Factors::Coded(factors), Scales::Codes(p)) => {
                // SAFETY: the caller's contract.
                let codes = unsafe { std::slice::from_raw_parts(p.add(first), out.len()) };
                out.iter_mut().zip(codes).for_each(|(f, code)| *f = factors[usize::from(*code)]);
            }
            (Factors::Scaled(by), Scales::F32(p)) => {
                // SAFETY: the caller's contract.
                let scales = unsafe { std::slice::from_raw_parts(p.add(first), out.len()) };
                out.iter_mut().zip(scales).for_each(|(f, scale)| *f = scale * by);
            }
            (Factors::Same(factor), _) => out.fill(*factor),
            _ => unreachable!("scales are kept in the quantizer's format"),
        }
    }

    /// # Safety
    /// As for [`Unpacker::part`], of `n` elements at `at`, whose codes begin the row.
    unsafe fn piece(&self, row: &[u8], y: MemoryMut, at: usize, n: usize, factors: &[f32]) {
        let mut held = [0u8; 2 * PIECE];
        let codes =
            if self.packing.width() == self.codec.bits { row.as_ptr() } else { self.widened(row, n, &mut held) };
        // SAFETY: the caller's contract.
        unsafe {
            if let Some(y) = self.straight(y, at, n) {
                return decode(&self.codec, self.packing, codes, y, factors, self.streamed);
            }
            let mut values = Buffer([0f32; PIECE]);
            let values = &mut values.0[..n];
            decode(&self.codec, self.packing, codes, values, factors, false);
            if self.streamed { y.stream(at, values) } else { y.store(at, values) }
        }
    }

    /// The `n` codes that begin a row at the width that vectors load, in `held`.
    fn widened(&self, row: &[u8], n: usize, held: &mut [u8]) -> *const u8 {
        let (bits, held) = (self.codec.bits, &mut held[..self.packing.bytes(n)]);
        let row = &row[..row_bytes(n, bits).expect("the codes were allocated")];
        if self.packing == Packing::Halves {
            let mut wide = [0u32; PIECE];
            unpack(row, bits, &mut wide[..n]);
            held.as_chunks_mut().0.iter_mut().zip(wide).for_each(|(c, w)| *c = (w as u16).to_le_bytes());
        } else {
            widen(row, bits, held);
        }
        held.as_ptr()
    }
}
