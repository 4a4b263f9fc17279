//! AdamW (arXiv:1711.05101) in one pass over weights, gradients and moments.
//!
//! Per element, in fp32 and in this order (no fused multiply-add, so every instruction set gives the same bits):
//!
//! ```text
//! g  = sign gradient
//! m  = m + (g - m) (1 - beta1)
//! v  = v beta2 + (g g) (1 - beta2)
//! u  = -(step (m / (sqrt(v) root + eps)) + decay w)        step = lr / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t)
//! w  = w + u                                               decay = lr weight_decay
//! ```
//!
//! What is stored in fewer bits than fp32 is rounded once, at the end: weights to nearest, stochastically with addressed
//! bits, or to nearest with a carry (Kahan summation as in arXiv:2010.06192, section 3.2); bf16 moments to nearest (the
//! first) and stochastically (the second); packed moments by their quantizer.
//!
//! `optim_tiles` walks over a chunk, `optim_vectors` does the arithmetic (`optim_lanes` where there are no such vectors),
//! `optim_packed` reads and writes moments in codes.

use crate::fpu::Standard;
use crate::optim_lanes::{KAHAN, NEAREST, STOCHASTIC, tiles};
use crate::optim_packed::{pack, unpack};
use crate::optim_tiles::{Random, Tiles};
use crate::packed::Parts;
use crate::pool;
use dither_numerics::Quantizer;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements that a thread does in one go.
const CHUNK: usize = 1 << 15;

/// The numbers of a step (see the head of this file), the same for all elements of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    pub sign: f32,
    /// 1 - beta1
    pub first: f32,
    pub beta2: f32,
    /// 1 - beta2
    pub second: f32,
    pub root: f32,
    pub eps: f32,
    pub step: f32,
    pub decay: f32,
}

/// Where random bits come from: element `i` of the tensor has those of index `offset + i`.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub seed: u64,
    pub stream: u64,
    pub offset: u64,
}

/// fp32 or bf16 memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dense {
    F32(*mut f32),
    Bf16(*mut u16),
}

/// How weights are rounded. Only bf16 ones are but to nearest.
#[derive(Clone, Copy)]
pub enum Rounding {
    Nearest,
    Stochastic(Address),
    /// What was rounded off is kept here, in bf16.
    Kahan(*mut u16),
}

/// A moment between steps.
#[derive(Clone, Copy)]
pub enum Moment<'a> {
    /// Of both moments or none in bf16.
    Dense(Dense),
    /// Codes of the flat array under a quantizer whose block satisfies [`divides`].
    Packed { quantizer: &'a Quantizer, block: usize, parts: Parts, address: Address },
}

/// One parameter with all that belongs to it.
#[derive(Clone, Copy)]
pub struct Parameter<'a> {
    pub len: usize,
    pub weights: Dense,
    /// Of the weights' type.
    pub gradient: *const u8,
    pub rounding: Rounding,
    pub moments: [Moment<'a>; 2],
    /// For the second moment in bf16.
    pub address: Address,
    pub constants: Constants,
}

// SAFETY: threads work on disjoint ranges; pointers carry no thread affinity.
unsafe impl Sync for Parameter<'_> {}
// SAFETY: as above.
unsafe impl Send for Parameter<'_> {}

/// Whether blocks of this size fill chunks, and whole bytes of codes.
pub fn divides(block: usize) -> bool {
    block > 0 && block.is_multiple_of(8) && CHUNK.is_multiple_of(block)
}

/// One step of all parameters. Returns the first of them with a moment that has no code (a NaN or an infinity that its
/// format cannot hold), if any.
///
/// # Safety
/// All memory of a parameter has `len` elements (or codes and scales for as many), none overlaps another, and nobody
/// else touches any of it meanwhile.
pub unsafe fn adamw(parameters: &[Parameter<'_>], threads: usize) -> Option<usize> {
    let _standard = Standard::enter();
    let mut chunks = Vec::new();
    for (i, parameter) in parameters.iter().enumerate() {
        chunks.extend((0..parameter.len).step_by(CHUNK).map(|at| (i, at)));
    }
    let bad = AtomicUsize::new(usize::MAX);
    pool::for_each(chunks.len(), threads, |c| {
        let (i, at) = chunks[c];
        // SAFETY: the caller's contract; chunks are disjoint.
        if !unsafe { chunk(&parameters[i], at, CHUNK.min(parameters[i].len - at)) } {
            bad.fetch_min(i, Ordering::Relaxed);
        }
    });
    Some(bad.into_inner()).filter(|i| *i != usize::MAX)
}

/// A chunk; false where a moment has no code.
///
/// # Safety
/// As for [`adamw`], for the elements `start..start + len`.
unsafe fn chunk(parameter: &Parameter<'_>, start: usize, len: usize) -> bool {
    // SAFETY: the caller's contract.
    unsafe {
        let [mut first, mut second] = parameter.moments.map(|moment| unpack(moment, start, len));
        let [m, v] = [(0, &mut first), (1, &mut second)].map(|(i, values)| match parameter.moments[i] {
            Moment::Dense(Dense::F32(p)) => p.add(start).cast(),
            Moment::Dense(Dense::Bf16(p)) => p.add(start).cast(),
            Moment::Packed { .. } => values.as_mut_ptr().cast::<u8>(),
        });
        let wide = matches!(parameter.weights, Dense::F32(_));
        let (w, size) = match parameter.weights {
            Dense::F32(p) => (p.add(start).cast::<u8>(), 4),
            Dense::Bf16(p) => (p.add(start).cast(), 2),
        };
        let carry = if let Rounding::Kahan(p) = parameter.rounding { Some(p.add(start)) } else { None };
        let memory = Tiles { w, g: parameter.gradient.add(start * size), m, v, carry };
        let narrow = matches!(parameter.moments[0], Moment::Dense(Dense::Bf16(_)));
        let c = &parameter.constants;
        let weights = if let Rounding::Stochastic(address) = parameter.rounding { address } else { parameter.address };
        let mut random = Random::new([weights, parameter.address], start);
        let run = match (wide, narrow, parameter.rounding) {
            (true, false, _) => tiles::<false, false, NEAREST>,
            (true, true, _) => tiles::<false, true, NEAREST>,
            (_, false, Rounding::Nearest) => tiles::<true, false, NEAREST>,
            (_, true, Rounding::Nearest) => tiles::<true, true, NEAREST>,
            (_, false, Rounding::Stochastic(_)) => tiles::<true, false, STOCHASTIC>,
            (_, true, Rounding::Stochastic(_)) => tiles::<true, true, STOCHASTIC>,
            (_, false, Rounding::Kahan(_)) => tiles::<true, false, KAHAN>,
            (_, true, Rounding::Kahan(_)) => tiles::<true, true, KAHAN>,
        };
        memory.each(len, random.skip, [size, if narrow { 2 } else { 4 }], |memory, count| {
            run(memory, count, c, &mut random);
        });
        pack(parameter.moments[0], start, &first) & pack(parameter.moments[1], start, &second)
    }
}
