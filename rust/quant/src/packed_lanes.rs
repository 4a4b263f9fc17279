//! Packed arrays at memory speed: whole blocks along the last axis under the standard scalings, over vectors.
//!
//! A part of a row is done in four passes over at most a unit, which stays in the first-level cache: the absmax of
//! every block; from them all scales and their codes; the parameters by which elements are rounded; the element codes.
//! Blocks with NaN or infinity, of zeros, or beyond the range of the fast arithmetic are done again by the truth.
#![cfg(target_arch = "x86_64")]

use crate::bits::integer_at;
use crate::codec::{Codec, Mode, Packing, vectors};
use crate::codec_lanes::{self, Blocks, Factors, Parameter};
use crate::dtype::MemoryMut;
use crate::fake_quant::{Whole, random_width};
use crate::job::Job;
use crate::layout::Unit;
use crate::pack::pack;
use crate::packed::Scales;
use crate::pieces::PIECE;
use crate::stream;
use dither_numerics::quantizer::absmax;
use dither_numerics::{Block, Dialect, Overflow, Quantizer, Scale, ScaleFormat, ScaleRule, Scaling};

/// Most blocks of a part: the units of `packed` hold 4096 elements, or one block.
const BLOCKS: usize = 256;

fn packing(width: u32) -> Option<Packing> {
    match width {
        4 => Some(Packing::Nibbles),
        8 => Some(Packing::Bytes),
        16 => Some(Packing::Halves),
        _ => None,
    }
}

/// How a block's parameter and the code of its scale come from its absmax.
enum Rule<'a> {
    /// One scale for all, set beforehand.
    Known(f32),
    /// A power of two.
    Power(Job<'a>),
    /// `absmax / max`, kept in fp32.
    Quotient(f32),
    /// An 8-bit float under a tensor scale: `absmax * multiplier` rounded, and what elements are multiplied with.
    TwoLevels { codec: Codec, multiplier: f32, encode: Box<[f32; 256]> },
}

pub struct Packer<'a> {
    q: &'a Quantizer,
    whole: &'a Whole,
    codec: Codec,
    mode: Mode,
    packing: Packing,
    rule: Rule<'a>,
}

impl<'a> Packer<'a> {
    /// `None` where the truth must do it.
    pub fn new(q: &'a Quantizer, whole: &'a Whole) -> Option<Packer<'a>> {
        let (codec, mode) = (Codec::new(&q.format)?, Mode::new(&q.format, q.rounding)?);
        let scaling = q.scaling.as_ref().filter(|s| s.is_plain())?;
        let saturates = q.overflow == Overflow::Saturate && vectors();
        let packing = packing(codec.bits).filter(|_| saturates)?;
        Some(Packer { q, whole, codec, mode, packing, rule: Rule::new(q, scaling, whole)? })
    }

    /// Codes and scales of whole blocks of whole vectors. Returns the position of the first element that has no code.
    ///
    /// # Safety
    /// `codes` and `scales` (from block `first` on) have room for what `x` needs and belong to this thread.
    pub unsafe fn part(
        &self,
        x: &[f32],
        fractions: &[u32],
        block: usize,
        codes: &mut [u8],
        scales: Scales,
        first: usize,
    ) -> Option<usize> {
        let n = x.len() / block;
        let (mut most, mut parameters) = ([0u32; BLOCKS], [0u32; BLOCKS]);
        let (most, parameters) = (&mut most[..n], &mut parameters[..n]);
        codec_lanes::absmaxes(x, block, most);
        // SAFETY: the caller's contract; the blocks are whole, and `vectors` was asked.
        let bad = unsafe {
            let bad = self.rule.parameters(self.q, most, parameters, scales, first);
            let run = Blocks { x, fractions, block, parameter: self.rule.parameter(), parameters };
            codec_lanes::encode(&self.codec, self.mode, self.packing, run, codes.as_mut_ptr());
            bad
        };
        let mut missing = None;
        for b in (0..if bad { n } else { 0 }).filter(|b| !self.rule.takes(most[*b])) {
            let range = b * block..(b + 1) * block;
            let bits = &fractions[if fractions.is_empty() { 0..0 } else { range.clone() }];
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
        pack(&plain, self.codec.bits, bytes);
        codes.iter().position(Option::is_none)
    }
}

impl<'a> Rule<'a> {
    fn new(q: &'a Quantizer, scaling: &Scaling, whole: &Whole) -> Option<Rule<'a>> {
        if scaling.block == Block::Tensor {
            return match q.scale(whole.absmax as f32, whole.tensor.as_ref()) {
                Scale::Divide(s) => Some(Rule::Known(s)),
                _ => None,
            };
        }
        match &scaling.format {
            ScaleFormat::E8m0 => Some(Rule::Power(Job::new(q, None))),
            ScaleFormat::Fp32 if scaling.rule == ScaleRule::Absmax => Some(Rule::Quotient(q.format.max as f32)),
            ScaleFormat::Float(format)
                if scaling.rule == ScaleRule::Absmax && scaling.options.dialect == Dialect::Te =>
            {
                let tensor = whole.tensor.filter(|t| !t.multiplier.is_nan())?;
                let mut encode = Box::new([0f32; 256]);
                for (code, encode) in (0..).zip(encode.iter_mut()) {
                    *encode = (1.0 / (format.decode(code) as f32 * tensor.decode)).min(f32::MAX);
                }
                Some(Rule::TwoLevels { codec: Codec::new(format)?, multiplier: tensor.multiplier, encode })
            }
            _ => None,
        }
    }

    fn parameter(&self) -> Parameter {
        match self {
            Rule::Power(_) => Parameter::Grid,
            Rule::Known(_) | Rule::Quotient(_) => Parameter::Divide,
            Rule::TwoLevels { .. } => Parameter::Multiply,
        }
    }

    /// Whether a block with this absmax needs no truth.
    fn takes(&self, absmax: u32) -> bool {
        match self {
            Rule::Known(_) => true,
            Rule::Power(job) => job.powers(&[absmax], &mut [0], &mut [0]),
            Rule::Quotient(max) => absmax < 0x7f80_0000 && f32::from_bits(absmax) / max > 0.0,
            Rule::TwoLevels { .. } => absmax < 0x7f80_0000 && absmax > 0,
        }
    }

    /// Parameters and scales; returns whether there are blocks for the truth.
    ///
    /// # Safety
    /// The scales from `first` on belong to this thread.
    unsafe fn parameters(
        &self,
        q: &Quantizer,
        most: &[u32],
        parameters: &mut [u32],
        scales: Scales,
        first: usize,
    ) -> bool {
        let n = most.len();
        match (self, scales) {
            (Rule::Known(s), _) => {
                parameters.fill(s.to_bits());
                false
            }
            (Rule::Power(job), Scales::Codes(p)) => {
                // SAFETY: the caller's contract.
                let scales = unsafe { std::slice::from_raw_parts_mut(p.add(first), n) };
                let mut unused = [0; BLOCKS];
                let all = job.powers(most, parameters, &mut unused[..n]);
                if !all {
                    for (most, parameter) in most.iter().zip(&mut *parameters) {
                        *parameter = 127 << 23; // harmless, for blocks that are done again
                        job.powers(&[*most], std::slice::from_mut(parameter), &mut [0]);
                    }
                }
                for (scale, parameter) in scales.iter_mut().zip(&*parameters) {
                    *scale = ((parameter >> 23) as i32 - q.format.emin) as u8;
                }
                !all
            }
            (Rule::Quotient(max), Scales::F32(p)) => {
                // SAFETY: the caller's contract.
                let scales = unsafe { std::slice::from_raw_parts_mut(p.add(first), n) };
                let mut all = true;
                for ((most, parameter), scale) in most.iter().zip(parameters).zip(scales) {
                    let s = f32::from_bits(*most) / max;
                    all &= *most < 0x7f80_0000 && s > 0.0;
                    (*scale, *parameter) = (s, s.to_bits());
                }
                !all
            }
            (Rule::TwoLevels { codec, multiplier, encode }, Scales::Codes(p)) => {
                // SAFETY: the caller's contract.
                let scales = unsafe { std::slice::from_raw_parts_mut(p.add(first), n) };
                let mut wanted = [0f32; BLOCKS];
                let mut all = true;
                for (most, wanted) in most.iter().zip(&mut wanted) {
                    all &= *most < 0x7f80_0000 && *most > 0;
                    *wanted = (f32::from_bits(*most) * multiplier).min(f32::MAX);
                }
                // SAFETY: as above; the input is finite, or done again.
                unsafe {
                    codec.cast(Mode::NearestEven, Packing::Bytes, u32::MAX, &wanted[..n], &[], scales.as_mut_ptr());
                }
                for (scale, parameter) in scales.iter().zip(parameters) {
                    *parameter = encode[usize::from(*scale)].to_bits();
                }
                !all
            }
            _ => true,
        }
    }
}

/// The values of packed blocks.
pub struct Unpacker {
    codec: Codec,
    packing: Packing,
    tensor: Option<f32>,
    /// Whether values go past the caches.
    streamed: bool,
    /// What each code of a scale stands for.
    factors: Box<[f32; 256]>,
}

impl Unpacker {
    /// `None` where the truth must do it.
    pub fn new(q: &Quantizer, tensor: Option<f32>, streamed: bool) -> Option<Unpacker> {
        let codec = Codec::new(&q.format)?;
        let packing = packing(codec.bits).filter(|_| vectors())?;
        let mut factors = Box::new([0f32; 256]);
        match q.scaling.as_ref() {
            Some(s) if !s.is_plain() => return None,
            Some(s) if s.format != ScaleFormat::Fp32 => {
                for (code, factor) in (0..).zip(factors.iter_mut()) {
                    *factor = q.factor(q.stored_scale(code, 0, tensor))?;
                }
            }
            _ => {}
        }
        Some(Unpacker { codec, packing, tensor, streamed, factors })
    }

    /// The values of whole blocks of whole vectors, from `first` on, to where they belong.
    ///
    /// # Safety
    /// As for [`Unpacker::part`]; `y` holds the unit, and nobody else touches it.
    #[allow(clippy::too_many_arguments)] // where everything is
    pub unsafe fn part_to(
        &self,
        codes: &[u8],
        y: MemoryMut,
        unit: Unit,
        block: usize,
        scales: Scales,
        first: usize,
        known: Option<f32>,
    ) {
        // SAFETY: the caller's contract; pieces lie in the unit and begin at blocks.
        unsafe {
            if let Some(y) = y.f32_range(unit.start, unit.len).filter(|_| !self.streamed || block > PIECE) {
                return self.part(codes, y, block, scales, first, known);
            }
            let mut buffer = vec![0f32; block.max(PIECE)];
            for (at, len) in unit.pieces(PIECE.max(block) / block * block) {
                let (values, from) = (&mut buffer[..len], at - unit.start);
                let codes = &codes[self.packing.bytes(from)..];
                let first = if known.is_some() { 0 } else { first + from / block };
                self.part(codes, values, block, scales, first, known);
                if self.streamed && len <= PIECE { y.stream(at, values) } else { y.store(at, values) }
            }
        }
        stream::fence();
    }

    /// The values of whole blocks of whole vectors from `first` on; `known` is the factor where all have the same.
    ///
    /// # Safety
    /// The scales hold those blocks.
    pub unsafe fn part(
        &self,
        codes: &[u8],
        y: &mut [f32],
        block: usize,
        scales: Scales,
        first: usize,
        known: Option<f32>,
    ) {
        let n = y.len() / block;
        assert!(codes.len() >= self.packing.bytes(y.len()));
        // SAFETY: the caller's contract.
        unsafe {
            let factors = match (known, scales) {
                (Some(factor), _) => Factors::Same(factor),
                (None, Scales::None) => Factors::Same(1.0),
                (None, Scales::Codes(p)) => Factors::Coded(std::slice::from_raw_parts(p.add(first), n), &self.factors),
                (None, Scales::F32(p)) => {
                    Factors::Scaled(std::slice::from_raw_parts(p.add(first), n), self.tensor.unwrap_or(1.0))
                }
            };
            codec_lanes::decode(&self.codec, self.packing, codes.as_ptr(), y, block, factors);
        }
    }
}
