//! Codes of an element format: encode and decode, one code an integer of 1, 2 or 4 bytes.

use crate::bits::{Draws, integer_at};
use crate::codec::{Codec, Mode, Packing, vectors};
use crate::dtype::{Memory, MemoryMut};
use crate::fake_quant::{random_width, threads_for};
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::pool;
use crate::stream;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Format, Quantizer};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where codes are.
#[derive(Clone, Copy)]
pub enum Codes {
    U8(*mut u8),
    U16(*mut u16),
    U32(*mut u32),
}

// SAFETY: every thread reads and writes only the ranges of its own units, which are disjoint.
unsafe impl Sync for Codes {}
// SAFETY: as above.
unsafe impl Send for Codes {}

impl Codes {
    /// # Safety
    /// `i` lies in the array.
    unsafe fn get(&self, i: usize) -> u32 {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Codes::U8(p) => u32::from(*p.add(i)),
                Codes::U16(p) => u32::from(*p.add(i)),
                Codes::U32(p) => *p.add(i),
            }
        }
    }

    /// Where code `i` is.
    ///
    /// # Safety
    /// `i` lies in the array.
    #[cfg(target_arch = "x86_64")]
    unsafe fn at(&self, i: usize) -> *mut u8 {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Codes::U8(p) => p.add(i),
                Codes::U16(p) => p.add(i).cast(),
                Codes::U32(p) => p.add(i).cast(),
            }
        }
    }

    /// # Safety
    /// `i` lies in the array and belongs to this thread.
    unsafe fn set(&self, i: usize, code: u32) {
        // SAFETY: the caller's contract, for every arm.
        unsafe {
            match self {
                Codes::U8(p) => *p.add(i) = code as u8,
                Codes::U16(p) => *p.add(i) = code as u16,
                Codes::U32(p) => *p.add(i) = code,
            }
        }
    }
}

/// Round `x` with the cast `q` and write the codes. Returns the position of the first element without a code (a NaN
/// in a format that has none), if there is one; its code is then 0.
///
/// # Safety
/// `x` and `codes` point to `len` elements each and do not overlap. A `Randomness::Given` holds as many integers.
pub unsafe fn encode(
    q: &Quantizer,
    len: usize,
    x: Memory,
    codes: Codes,
    source: Randomness<'_>,
    threads: usize,
) -> Option<usize> {
    let _standard = Standard::enter();
    let cut = Layout { outer: 1, axis: len, inner: 1 }.cut(None);
    let first_bad = AtomicUsize::new(usize::MAX);
    let draws = Draws::new(source, q.rounding);
    let fast = Fast::new(q, codes).filter(|_| !x.is_f64());
    pool::for_each(cut.units(), threads_for(len, threads), |u| {
        let unit = cut.unit(u);
        let truth = Truth { q, x, codes, first_bad: &first_bad };
        let (mut reader, mut fractions, mut loaded) = (draws.reader(), [0; RUN], Vec::new());
        for (start, n) in unit.pieces(RUN) {
            let fractions = &mut fractions[..if draws.any() { n } else { 0 }];
            reader.read(start, fractions);
            // SAFETY: units lie in the array and are disjoint.
            unsafe {
                match &fast {
                    Some(fast) => fast.run(&truth, start, n, fractions, &mut loaded),
                    None => truth.run(start, n, fractions),
                }
            }
        }
    });
    Some(first_bad.into_inner()).filter(|i| *i != usize::MAX)
}

/// Elements encoded at once: they and their random bits stay in the first-level cache.
const RUN: usize = 1024;

/// The scalar truth, for what the vector kernels do not take.
struct Truth<'a> {
    q: &'a Quantizer,
    x: Memory,
    codes: Codes,
    first_bad: &'a AtomicUsize,
}

impl Truth<'_> {
    /// # Safety
    /// As for [`encode`]; `start..start + n` lies in the array and belongs to this thread.
    unsafe fn run(&self, start: usize, n: usize, fractions: &[u32]) {
        let mut data = vec![0f64; n];
        // SAFETY: the caller's contract.
        unsafe {
            self.x.load_f64(start, &mut data);
            for (i, x) in data.into_iter().enumerate() {
                self.element(start + i, x, integer_at(fractions, i, random_width(self.q)));
            }
        }
    }

    /// # Safety
    /// As for [`Truth::run`], of element `i`.
    unsafe fn element(&self, i: usize, x: f64, random: u32) {
        let code = self.q.format.code_of(x, self.q.rounding, self.q.overflow, random).unwrap_or_else(|| {
            self.first_bad.fetch_min(i, Ordering::Relaxed);
            0
        });
        // SAFETY: the caller's contract.
        unsafe { self.codes.set(i, code) };
    }
}

/// What the vector kernels need for a cast.
struct Fast {
    codec: Codec,
    mode: Mode,
    packing: Packing,
    limit: u32,
}

impl Fast {
    fn new(q: &Quantizer, codes: Codes) -> Option<Fast> {
        let (codec, mode) = (Codec::new(&q.format)?, Mode::new(&q.format, q.rounding)?);
        let limit = codec.limit(q);
        Some(Fast { codec, mode, packing: packing(codes)?, limit }).filter(|_| vectors())
    }

    /// The codes of a run; the truth's for elements beyond the limit.
    ///
    /// # Safety
    /// As for [`Truth::run`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn run(&self, truth: &Truth<'_>, start: usize, n: usize, fractions: &[u32], loaded: &mut Vec<f32>) {
        // SAFETY: the caller's contract; the codes are no part of the input.
        unsafe {
            let x = truth.x.f32_slice(start, n, loaded);
            if self.codec.cast(self.mode, self.packing, x, fractions, truth.codes.at(start)) < self.limit {
                return;
            }
            for (i, x) in x.iter().enumerate().filter(|(_, x)| x.to_bits() & 0x7fff_ffff >= self.limit) {
                truth.element(start + i, f64::from(*x), integer_at(fractions, i, random_width(truth.q)));
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    unsafe fn run(&self, truth: &Truth<'_>, start: usize, n: usize, fractions: &[u32], _: &mut Vec<f32>) {
        // SAFETY: the caller's contract.
        unsafe { truth.run(start, n, fractions) }
    }
}

fn packing(codes: Codes) -> Option<Packing> {
    match codes {
        Codes::U8(_) => Some(Packing::Bytes),
        Codes::U16(_) => Some(Packing::Halves),
        Codes::U32(_) => None,
    }
}

/// Write the values of codes, as fp64 if `y` is. (Most formats' values are exact in fp32, see `Format`.) Returns the
/// position of the first code whose value fp64 does not hold, if there is one.
///
/// # Safety
/// `codes` and `y` point to `len` elements each and do not overlap.
pub unsafe fn decode(format: &Format, len: usize, codes: Codes, y: MemoryMut, threads: usize) -> Option<usize> {
    let _standard = Standard::enter();
    if format.exceeds_fp64() {
        // SAFETY: the caller's contract.
        let bad = (0..len).find(|i| !format.decodes_exactly(unsafe { codes.get(*i) }));
        if bad.is_some() {
            return bad;
        }
    }
    let cut = Layout { outer: 1, axis: len, inner: 1 }.cut(None);
    let streamed = len * y.element_size() >= stream::threshold();
    let fast = Codec::new(format).zip(packing(codes)).filter(|_| vectors() && !y.is_f64());
    let size = 1usize << format.bits().min(16);
    // A table pays as soon as there are more elements than codes.
    let table: Vec<f64> = if fast.is_none() && format.bits() <= 16 && len >= size {
        (0..size as u32).map(|c| format.decode(c)).collect()
    } else {
        Vec::new()
    };
    let group = if streamed { stream::GROUP } else { 1 };
    pool::for_each(cut.units().div_ceil(group), threads_for(len, threads), |g| {
        for unit in (g * group..cut.units()).take(group).map(|u| cut.unit(u)) {
            #[cfg(target_arch = "x86_64")]
            if let Some((codec, packing)) = &fast {
                // SAFETY: units lie in the array and are disjoint.
                unsafe { codec.values_to(*packing, codes.at(unit.start), y, unit, streamed) };
                continue;
            }
            let value = |i: usize| {
                // SAFETY: units lie in the array.
                let code = unsafe { codes.get(unit.start + i) };
                table.get(code as usize & (size - 1)).copied().unwrap_or_else(|| format.decode(code))
            };
            // SAFETY: units are disjoint.
            unsafe {
                if y.is_f64() {
                    y.store_f64(unit.start, &(0..unit.len).map(value).collect::<Vec<f64>>());
                } else {
                    y.store(unit.start, &(0..unit.len).map(|i| value(i) as f32).collect::<Vec<f32>>());
                }
            }
        }
        if streamed {
            stream::fence();
        }
    });
    None
}
