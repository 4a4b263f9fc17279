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
//! The processor's only divider is busy most of the time. A tile of [`TILE`] elements is what one set of Philox counters
//! serves, and the rounds for the next tile stand between the divisions for this one, so that they cost next to
//! nothing; apart from each other they took a third of the step.

use crate::dtype::{bf16_bits, bf16_value};
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::packed::{self, Parts, Scales, Shape};
use crate::philox::{Philox, Rounds};
use crate::pool;
use crate::simd::dispatch;
use crate::stream::{self, AHEAD};
use crate::{Memory, MemoryMut};
use dither_numerics::Quantizer;
use dither_numerics::quantizer::Randomness;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements that a thread does in one go.
const CHUNK: usize = 1 << 15;

/// Elements that 16 counters serve with 16 bits each.
const TILE: usize = 128;
const LANES: usize = 16;

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

/// Where the random bits of a chunk are.
struct Random {
    philox: [Philox; 2],
    /// Of the next tile.
    tile: u64,
    /// Elements of the first tile that lie before the chunk.
    skip: usize,
}

impl Random {
    /// For the weights and the second moment, whose elements have the same indices.
    fn new(addresses: [Address; 2], start: usize) -> Self {
        let first = addresses[0].offset.wrapping_add(start as u64);
        let philox = addresses.map(|address| Philox::new(address.seed, address.stream));
        Random { philox, tile: first / TILE as u64, skip: (first % TILE as u64) as usize }
    }
}

/// Addresses of the same elements of all arrays.
#[derive(Clone, Copy)]
struct Tiles {
    w: *mut u8,
    g: *const u8,
    m: *mut u8,
    v: *mut u8,
    carry: Option<*mut u16>,
}

impl Tiles {
    /// `run(memory, tiles)` on whole tiles; a part of a tile at either end goes through buffers. `skip` elements of the
    /// first tile do not exist; `sizes` are bytes an element of weights and moments.
    ///
    /// # Safety
    /// The arrays have `len` elements of these sizes.
    unsafe fn each(self, len: usize, skip: usize, sizes: [usize; 2], mut run: impl FnMut(Tiles, usize)) {
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
    fn at(self, i: usize, [weights, moments]: [usize; 2]) -> Tiles {
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

const NEAREST: u8 = 0;
const STOCHASTIC: u8 = 1;
const KAHAN: u8 = 2;

dispatch! { fn tiles<const W16: bool, const S16: bool, const MODE: u8>(memory: Tiles, count: usize, c: &Constants, random: &mut Random) = tiles_body; }

/// Whole tiles: weights in bf16 for `W16`, moments for `S16`. Only `chunk` calls it, on memory that it owns.
#[inline(always)]
fn tiles_body<const W16: bool, const S16: bool, const MODE: u8>(
    memory: Tiles,
    count: usize,
    c: &Constants,
    random: &mut Random,
) {
    let draws = [MODE == STOCHASTIC, S16];
    let begin = |tile: u64| [0, 1].map(|which| Rounds::begin(&random.philox[which], tile.wrapping_mul(LANES as u64)));
    let advance = |rounds: &mut [Rounds; 2], i: usize| {
        for which in 0..2 {
            if draws[which] {
                rounds[which].advance(&random.philox[which], i);
            }
        }
    };
    let mut this = begin(random.tile);
    (0..10).for_each(|i| advance(&mut this, i));
    let sizes = [if W16 { 2 } else { 4 }, if S16 { 2 } else { 4 }];
    for t in 0..count {
        let mut next = begin(random.tile.wrapping_add(1 + t as u64));
        for i in 0..10 {
            advance(&mut next, i);
            if i < TILE / LANES {
                // SAFETY: the caller's memory holds `count` tiles.
                unsafe { lanes::<W16, S16, MODE>(memory.at(t * TILE + i * LANES, sizes), c, &this, i) };
            }
        }
        this = next;
    }
    random.tile = random.tile.wrapping_add(count as u64);
}

/// Sixteen elements: those of number `i` in their tile, which have the random bits of half a word each.
#[inline(always)]
unsafe fn lanes<const W16: bool, const S16: bool, const MODE: u8>(
    at: Tiles,
    c: &Constants,
    random: &[Rounds; 2],
    i: usize,
) {
    // SAFETY: the caller's contract, for all loads and stores.
    unsafe {
        ask::<W16>(at.w);
        ask::<W16>(at.g.cast_mut());
        ask::<S16>(at.m);
        ask::<S16>(at.v);
        let (mut w, g) = (load::<W16>(at.w), load::<W16>(at.g));
        let (mut m, mut v) = (load::<S16>(at.m), load::<S16>(at.v));
        let mut u = [0f32; LANES];
        for k in 0..LANES {
            let g = c.sign * g[k];
            m[k] += (g - m[k]) * c.first;
            v[k] = v[k] * c.beta2 + (g * g) * c.second;
            u[k] = -(c.step * (m[k] / (v[k].sqrt() * c.root + c.eps)) + c.decay * w[k]);
        }
        store::<S16>(at.m, &m);
        let drawn = |which: usize| random[which].word(i / 2).map(|word| (word as u32) >> (16 * (i % 2)) & 0xffff);
        if S16 {
            store_stochastic(at.v, &v, &drawn(1));
        } else {
            store::<false>(at.v, &v);
        }
        if let (KAHAN, Some(memory)) = (MODE, at.carry) {
            let mut carry = load::<true>(memory.cast());
            for k in 0..LANES {
                let y = u[k] - carry[k];
                let t = bf16_value(bf16_bits(w[k] + y));
                carry[k] = (t - w[k]) - y;
                w[k] = t;
            }
            store::<true>(memory.cast(), &carry);
        } else {
            for k in 0..LANES {
                w[k] += u[k];
            }
        }
        if MODE == STOCHASTIC { store_stochastic(at.w, &w, &drawn(0)) } else { store::<W16>(at.w, &w) }
    }
}

#[inline(always)]
unsafe fn load<const HALF: bool>(at: *const u8) -> [f32; LANES] {
    // SAFETY: the caller's contract.
    unsafe {
        if HALF {
            at.cast::<[u16; LANES]>().read_unaligned().map(bf16_value)
        } else {
            at.cast::<[f32; LANES]>().read_unaligned()
        }
    }
}

#[inline(always)]
unsafe fn store<const HALF: bool>(at: *mut u8, x: &[f32; LANES]) {
    // SAFETY: the caller's contract.
    unsafe {
        if HALF {
            at.cast::<[u16; LANES]>().write_unaligned(x.map(bf16_bits));
        } else {
            at.cast::<[f32; LANES]>().write_unaligned(*x);
        }
    }
}

/// All sixteen bits that are rounded off decide, so adding as many random bits and cutting off is P3109's StochasticB
/// (see `stochastic`). Infinities and NaN are kept.
#[inline(always)]
unsafe fn store_stochastic(at: *mut u8, x: &[f32; LANES], random: &[u32; LANES]) {
    let mut y = [0u16; LANES];
    for k in 0..LANES {
        let rounded = (x[k].to_bits().wrapping_add(random[k]) >> 16) as u16;
        y[k] = if x[k].is_finite() { rounded } else { bf16_bits(x[k]) };
    }
    // SAFETY: the caller's contract.
    unsafe { at.cast::<[u16; LANES]>().write_unaligned(y) };
}

/// Ask for the memory of a later tile: the processor's own prefetching stops at every page.
#[inline(always)]
fn ask<const HALF: bool>(at: *mut u8) {
    stream::prefetch_for_write(at.wrapping_add(AHEAD * if HALF { 2 } else { 4 }));
}

/// The values of a packed chunk; none of a dense one.
///
/// # Safety
/// As for [`adamw`].
unsafe fn unpack(moment: Moment<'_>, start: usize, len: usize) -> Vec<f32> {
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
unsafe fn pack(moment: Moment<'_>, start: usize, values: &[f32]) -> bool {
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
