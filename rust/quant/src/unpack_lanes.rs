//! Unpacking at memory speed: whole blocks along the last axis, over vectors, in pieces that stay in the first-level
//! cache on their way past the others.
#![cfg(target_arch = "x86_64")]

use crate::codec::{Codec, Packing, vectors};
use crate::decode_lanes::decode;
use crate::dtype::MemoryMut;
use crate::layout::Unit;
use crate::pack::{row_bytes, unpack};
use crate::packed::Scales;
use crate::pieces::PIECE;
use crate::stochastic_lanes::WIDTH;
use crate::widths::widen;
use dither_numerics::{Quantizer, ScaleFormat};

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
        // Pieces of several blocks, or of one.
        let stretch = if block > PIECE { block } else { len };
        for from in (0..len).step_by(stretch) {
            let within = Unit { start: start + from, len: stretch };
            for (at, n) in within.pieces(if block > PIECE { PIECE } else { PIECE / block * block }) {
                let (bits, mut factors) = (self.codec.bits, [0f32; PIECE / WIDTH]);
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
        let (mut codes, mut values) = ([0u8; 2 * PIECE], [0f32; PIECE]);
        let codes = self.codes(row, &mut codes[..self.packing.bytes(n)]);
        // SAFETY: the caller's contract.
        unsafe {
            match y.f32_range(at, n).filter(|_| !self.streamed) {
                Some(y) => decode(&self.codec, self.packing, codes, y, factors),
                None => {
                    let values = &mut values[..n];
                    decode(&self.codec, self.packing, codes, values, factors);
                    if self.streamed { y.stream(at, values) } else { y.store(at, values) }
                }
            }
        }
    }

    /// Where the codes of a row are at the width that vectors load: the row itself, or `held`.
    fn codes(&self, row: &[u8], held: &mut [u8]) -> *const u8 {
        let bits = self.codec.bits;
        let n = held.len() * 8 / self.packing.width() as usize;
        let row = &row[..row_bytes(n, bits).expect("the codes were allocated")];
        match self.packing {
            _ if self.packing.width() == bits => return row.as_ptr(),
            Packing::Halves => {
                let mut wide = [0u32; PIECE];
                unpack(row, bits, &mut wide[..n]);
                held.as_chunks_mut().0.iter_mut().zip(wide).for_each(|(c, w)| *c = (w as u16).to_le_bytes());
            }
            _ => widen(row, bits, held),
        }
        held.as_ptr()
    }
}
