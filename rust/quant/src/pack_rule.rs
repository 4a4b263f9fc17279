//! From the absmax of blocks to the codes of their scales and to what their elements are rounded by.
#![cfg(target_arch = "x86_64")]

use crate::codec::{Codec, Mode, Packing};
use crate::encode_lanes::Parameters;
use crate::fake_quant::Whole;
use crate::job::Job;
use crate::packed::Scales;
use crate::simd::dispatch;
use dither_numerics::{Block, Dialect, Quantizer, Scale, ScaleFormat, ScaleRule, Scaling};
use std::slice::from_raw_parts_mut;

pub enum Rule<'a> {
    /// One scale for all, set beforehand.
    Known([u32; 1]),
    /// A power of two.
    Power(Job<'a>),
    /// `absmax / max`, kept in fp32.
    Quotient(f32),
    /// An 8-bit float under a tensor scale: `absmax * multiplier` rounded, and what elements are multiplied with.
    TwoLevels { codec: Codec, multiplier: f32, encode: Box<[f32; 256]> },
}

impl<'a> Rule<'a> {
    /// `None` where the truth must find them.
    pub fn new(q: &'a Quantizer, scaling: &Scaling, whole: &Whole) -> Option<Rule<'a>> {
        if scaling.block == Block::Tensor {
            return match q.scale(whole.absmax as f32, whole.tensor.as_ref()) {
                Scale::Divide(s) => Some(Rule::Known([s.to_bits()])),
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

    /// The numbers that `scales` has found, as what they are.
    pub fn parameters<'p>(&'p self, numbers: &'p [u32]) -> Parameters<'p> {
        match self {
            Rule::Known(s) => Parameters::Divide(s),
            Rule::Power(_) => Parameters::Grid(numbers),
            Rule::Quotient(_) => Parameters::Divide(numbers),
            Rule::TwoLevels { .. } => Parameters::Multiply(numbers),
        }
    }

    /// Whether a block with this absmax needs no truth.
    pub fn takes(&self, absmax: u32) -> bool {
        match self {
            Rule::Known(_) => true,
            Rule::Power(job) => job.powers(&[absmax], &mut [0], &mut [0]),
            Rule::Quotient(max) => absmax < 0x7f80_0000 && f32::from_bits(absmax) / max > 0.0,
            Rule::TwoLevels { .. } => absmax < 0x7f80_0000 && absmax > 0,
        }
    }

    /// Scales and numbers of blocks with these absmaxes; returns whether there are blocks for the truth.
    ///
    /// # Safety
    /// The scales from `first` on belong to this thread.
    pub unsafe fn scales(&self, most: &[u32], numbers: &mut [u32], scales: Scales, first: usize) -> bool {
        let n = most.len();
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match (self, scales) {
                (Rule::Known(_), _) => false,
                (Rule::Power(job), Scales::Codes(p)) => powers(job, most, numbers, from_raw_parts_mut(p.add(first), n)),
                (Rule::Quotient(max), Scales::F32(p)) => {
                    quotients(*max, most, numbers, from_raw_parts_mut(p.add(first), n))
                }
                (Rule::TwoLevels { codec, multiplier, encode }, Scales::Codes(p)) => {
                    let scales = from_raw_parts_mut(p.add(first), n);
                    let some = wanted(*multiplier, most, numbers);
                    let wanted = std::slice::from_raw_parts(numbers.as_ptr().cast(), n);
                    codec.cast(Mode::NearestEven, Packing::Bytes, wanted, &[], scales.as_mut_ptr());
                    for (scale, number) in scales.iter().zip(numbers) {
                        *number = encode[usize::from(*scale)].to_bits();
                    }
                    some
                }
                _ => true,
            }
        }
    }
}

dispatch! {
    /// Powers of two as E8M0 codes, and the smallest normal number of each block's grid.
    fn powers(job: &Job<'_>, most: &[u32], emin: &mut [u32], scales: &mut [u8]) -> bool = powers_body;
}
dispatch! {
    /// The scales, which are also the numbers.
    fn quotients(max: f32, most: &[u32], numbers: &mut [u32], scales: &mut [f32]) -> bool = quotients_body;
}
dispatch! {
    /// What the scales are before they are rounded to their format.
    fn wanted(multiplier: f32, most: &[u32], wanted: &mut [u32]) -> bool = wanted_body;
}

#[inline(always)]
fn powers_body(job: &Job<'_>, most: &[u32], emin: &mut [u32], scales: &mut [u8]) -> bool {
    let mut all = true;
    let mut unused = [0; 16];
    for (most, emin) in most.chunks(16).zip(emin.chunks_mut(16)) {
        all &= job.powers(most, emin, &mut unused[..most.len()]);
    }
    let below = job.quantizer.format.emin;
    for (scale, emin) in scales.iter_mut().zip(emin) {
        *scale = ((*emin >> 23) as i32 - below) as u8;
    }
    !all
}

#[inline(always)]
fn quotients_body(max: f32, most: &[u32], numbers: &mut [u32], scales: &mut [f32]) -> bool {
    let mut all = true;
    for ((most, number), scale) in most.iter().zip(numbers).zip(scales) {
        let s = f32::from_bits(*most) / max;
        all &= (*most < 0x7f80_0000) & (s > 0.0);
        (*scale, *number) = (s, s.to_bits());
    }
    !all
}

#[inline(always)]
fn wanted_body(multiplier: f32, most: &[u32], wanted: &mut [u32]) -> bool {
    let mut all = true;
    for (most, wanted) in most.iter().zip(wanted) {
        all &= (*most < 0x7f80_0000) & (*most > 0);
        *wanted = (f32::from_bits(*most) * multiplier).min(f32::MAX).to_bits();
    }
    !all
}
