//! Codes of a run of elements, over vectors (see `codec` for the arithmetic).
//!
//! A run is whole vectors. Four of them become codes before they are stored, which packs them with fewest instructions.
#![cfg(target_arch = "x86_64")]

use crate::code_lanes::{BlockOf, CodeLanes};
use crate::codec::{Codec, Form, Mode, Packing};
use crate::lanes::Lanes;
use crate::simd::{Level, level};
use crate::stochastic_lanes::WIDTH;
use crate::stream;
use crate::to_code::{FLOAT, INT, NEAREST, STOCHASTIC, STOCHASTIC_FINE, ToCode, WIDE};
use crate::to_value::{BYTES, HALVES, NIBBLES, bytes};
use std::arch::x86_64::{__m256i, __m512i};

/// How far ahead of their use lines for codes are asked for (bytes). An ordinary store waits for its line, and codes are
/// too few to go past the caches, where whoever reads them next would wait.
const CODES_AHEAD: usize = 1024;

/// What is done with elements before, and how, they are rounded.
#[derive(Clone, Copy, Debug)]
pub enum Parameters<'a> {
    /// Nothing: the format's own grid.
    None,
    /// A block each, or an element each: bits of the smallest normal number of the grid on which it is rounded where it
    /// lies.
    Grid(&'a [u32]),
    /// As above: bits of what is divided by, or multiplied with.
    Divide(&'a [u32]),
    Multiply(&'a [u32]),
}

impl Parameters<'_> {
    fn numbers(&self) -> &[u32] {
        match self {
            Parameters::None => &[],
            Parameters::Grid(p) | Parameters::Divide(p) | Parameters::Multiply(p) => p,
        }
    }
}

/// What is encoded: blocks of the same length in whole vectors.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub x: &'a [f32],
    /// Empty where nothing is random.
    pub fractions: &'a [u32],
    pub parameters: Parameters<'a>,
    /// Where the input that is needed next lies, for as many elements.
    pub next: *const f32,
}

/// Write the codes of a run. Returns the bits of the largest magnitude where there are no parameters, else 0.
///
/// # Safety
/// `codes` has room for `x.len()` codes, and the level is above the baseline.
pub unsafe fn encode(codec: &Codec, mode: Mode, packing: Packing, run: Run<'_>, codes: *mut u8) -> u32 {
    let (n, blocks) = (run.x.len(), run.parameters.numbers().len().max(1));
    assert!(n.is_multiple_of(WIDTH) && (blocks == n || n.is_multiple_of(blocks * WIDTH)));
    assert!(mode == Mode::NearestEven || run.fractions.len() >= n);
    // SAFETY: the caller's contract; `level` never exceeds what was found on this processor.
    unsafe {
        match level() {
            Level::Avx512 => avx512_encode(codec, mode, packing, run, codes),
            _ => avx2_encode(codec, mode, packing, run, codes),
        }
    }
}

/// The bits of the largest magnitude of each block of whole vectors.
pub fn absmaxes(x: &[f32], block: usize, out: &mut [u32]) {
    assert!(block.is_multiple_of(WIDTH) && x.len().is_multiple_of(block) && out.len() >= x.len() / block);
    // SAFETY: `level` never exceeds what was found on this processor.
    unsafe {
        match level() {
            Level::Avx512 => avx512_absmaxes(x, block, out),
            _ => avx2_absmaxes(x, block, out),
        }
    }
}

macro_rules! levels {
    ($($encode:ident, $absmaxes:ident, $lanes:ty, $features:literal;)*) => {
        $(
            #[target_feature(enable = $features)]
            unsafe fn $encode(codec: &Codec, mode: Mode, packing: Packing, run: Run<'_>, codes: *mut u8) -> u32 {
                // SAFETY: this function enables the instruction set; the rest is the caller's contract.
                unsafe {
                    match (packing, codec.form) {
                        (Packing::Nibbles, Form::Int) => by_mode::<$lanes, NIBBLES, INT>(codec, mode, run, codes),
                        (Packing::Nibbles, _) => by_mode::<$lanes, NIBBLES, FLOAT>(codec, mode, run, codes),
                        (Packing::Bytes, Form::Int) => by_mode::<$lanes, BYTES, INT>(codec, mode, run, codes),
                        (Packing::Bytes, _) => by_mode::<$lanes, BYTES, FLOAT>(codec, mode, run, codes),
                        (Packing::Halves, Form::Int) => by_mode::<$lanes, HALVES, INT>(codec, mode, run, codes),
                        (Packing::Halves, Form::Float) => by_mode::<$lanes, HALVES, FLOAT>(codec, mode, run, codes),
                        (Packing::Halves, Form::Wide) => by_mode::<$lanes, HALVES, WIDE>(codec, mode, run, codes),
                    }
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn $absmaxes(x: &[f32], block: usize, out: &mut [u32]) {
                // SAFETY: as above.
                unsafe { absmaxes_body::<$lanes>(x, block, out) }
            }
        )*
    };
}

levels! {
    avx512_encode, avx512_absmaxes, __m512i, "avx512f,avx512bw,avx512dq,avx512vl,avx2";
    avx2_encode, avx2_absmaxes, __m256i, "avx2";
}

const PLAIN: u8 = 0;
const GRID: u8 = 1;
const SCALED: u8 = 2;

/// # Safety
/// [`Lanes`]'s contract; `x` is whole blocks of whole vectors.
#[inline(always)]
unsafe fn absmaxes_body<V: CodeLanes>(x: &[f32], block: usize, out: &mut [u32]) {
    // SAFETY: the caller's contract; positions lie in the run.
    unsafe {
        let (blocks, px) = (x.len() / block, x.as_ptr());
        let magnitude = V::splat(0x7fff_ffff);
        for first in (0..blocks).step_by(4) {
            // A block that is missing in the last four is replaced by the last one.
            let starts = [0, 1, 2, 3].map(|j| (first + j).min(blocks - 1) * block);
            let mut most = [V::splat(0); 4];
            for i in (0..block).step_by(V::LANES) {
                for (most, start) in most.iter_mut().zip(starts) {
                    stream::prefetch(px.wrapping_add(start + i + stream::AHEAD));
                    *most = most.max(V::load(px.add(start + i).cast()).and(magnitude));
                }
            }
            let mut four = [0u32; 4];
            V::store_largest(most, four.as_mut_ptr());
            let n = (blocks - first).min(4);
            out[first..first + n].copy_from_slice(&four[..n]);
        }
    }
}

/// # Safety
/// [`Lanes`]'s contract; there is room for the codes.
#[inline(always)]
unsafe fn by_mode<V: CodeLanes, const P: u8, const F: u8>(
    codec: &Codec,
    mode: Mode,
    run: Run<'_>,
    codes: *mut u8,
) -> u32 {
    // SAFETY: the caller's contract.
    unsafe {
        match mode {
            Mode::NearestEven => by_parameters::<V, P, F, NEAREST>(codec, 0, run, codes),
            Mode::Stochastic { fine: false, n } => by_parameters::<V, P, F, STOCHASTIC>(codec, n, run, codes),
            Mode::Stochastic { fine: true, n } => by_parameters::<V, P, F, STOCHASTIC_FINE>(codec, n, run, codes),
        }
    }
}

/// # Safety
/// As for [`by_mode`].
#[inline(always)]
unsafe fn by_parameters<V: CodeLanes, const P: u8, const F: u8, const M: u8>(
    codec: &Codec,
    n: u32,
    run: Run<'_>,
    codes: *mut u8,
) -> u32 {
    // SAFETY: the caller's contract.
    unsafe {
        match run.parameters {
            Parameters::None => body::<V, P, F, M, PLAIN>(codec, n, run, codes),
            Parameters::Grid(_) => body::<V, P, F, M, GRID>(codec, n, run, codes),
            Parameters::Divide(_) | Parameters::Multiply(_) => body::<V, P, F, M, SCALED>(codec, n, run, codes),
        }
    }
}

/// # Safety
/// As for [`by_mode`].
#[inline(always)]
unsafe fn body<V: CodeLanes, const P: u8, const F: u8, const M: u8, const W: u8>(
    codec: &Codec,
    random: u32,
    run: Run<'_>,
    codes: *mut u8,
) -> u32 {
    // SAFETY: the caller's contract; positions lie in the run.
    unsafe {
        let (n, group) = (run.x.len(), 4 * V::LANES);
        let source = Source::<V>::new(codec, random, &run);
        let mut most = V::splat(0);
        let whole = n / group * group;
        for at in (0..whole).step_by(group) {
            for line in (0..group).step_by(64 / size_of::<f32>()) {
                stream::prefetch(run.next.wrapping_add(at + line));
            }
            stream::prefetch_for_write(codes.wrapping_add(bytes::<P>(at) + CODES_AHEAD));
            let a = source.code::<F, M, W>(at, &mut most);
            let b = source.code::<F, M, W>(at + V::LANES, &mut most);
            let c = source.code::<F, M, W>(at + 2 * V::LANES, &mut most);
            let d = source.code::<F, M, W>(at + 3 * V::LANES, &mut most);
            store::<V, P>([a, b, c, d], codes.add(bytes::<P>(at)));
        }
        if whole < n {
            let (mut four, mut last) = ([V::splat(0); 4], [0u8; 128]);
            for (at, four) in (whole..n).step_by(V::LANES).zip(&mut four) {
                *four = source.code::<F, M, W>(at, &mut most);
            }
            store::<V, P>(four, last.as_mut_ptr());
            std::ptr::copy_nonoverlapping(last.as_ptr(), codes.add(bytes::<P>(whole)), bytes::<P>(n - whole));
        }
        if W == PLAIN { most.largest() } else { 0 }
    }
}

/// # Safety
/// [`Lanes`]'s contract; there is room for the codes.
#[inline(always)]
unsafe fn store<V: CodeLanes, const P: u8>(four: [V; 4], out: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        match P {
            NIBBLES => V::store_nibbles(four, out),
            BYTES => V::store_bytes(four, out),
            _ => V::store_halves(four, out),
        }
    }
}

/// The codes of a run, a vector a call.
struct Source<V> {
    to: ToCode<V>,
    x: *const u32,
    fractions: *const u32,
    parameters: *const u32,
    /// `None` where every element has its own parameter.
    block: Option<BlockOf>,
    divide: bool,
}

impl<V: Lanes> Source<V> {
    /// # Safety
    /// [`Lanes`]'s contract.
    #[inline(always)]
    unsafe fn new(codec: &Codec, random: u32, run: &Run<'_>) -> Self {
        let blocks = run.parameters.numbers().len().max(1);
        Source {
            // SAFETY: the caller's contract.
            to: unsafe { ToCode::new(codec, random) },
            x: run.x.as_ptr().cast(),
            fractions: run.fractions.as_ptr(),
            parameters: run.parameters.numbers().as_ptr(),
            block: (blocks < run.x.len()).then(|| BlockOf::new(run.x.len() / V::LANES, blocks)),
            divide: matches!(run.parameters, Parameters::Divide(_)),
        }
    }

    /// The codes of the vector at `at`; `most` collects magnitudes.
    ///
    /// # Safety
    /// [`Lanes`]'s contract; the vector lies in the run.
    #[inline(always)]
    unsafe fn code<const F: u8, const M: u8, const W: u8>(&self, at: usize, most: &mut V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let x = V::load(self.x.add(at));
            let fraction = if M == NEAREST { V::splat(0) } else { V::load(self.fractions.add(at)) };
            let ToCode { emin, limit, magnitude, .. } = self.to;
            if W == PLAIN {
                *most = most.max(x.and(magnitude));
                return self.to.code::<F, M>(x, emin, limit, fraction);
            }
            let parameter = match self.block {
                Some(block) => V::splat(*self.parameters.add(block.vector(at / V::LANES))),
                None => V::load(self.parameters.add(at)),
            };
            if W == GRID {
                return self.to.code::<F, M>(x, parameter, parameter.add(self.to.above_emin), fraction);
            }
            let x = if self.divide { x.fdiv(parameter) } else { x.fmul(parameter) };
            self.to.code::<F, M>(x, emin, limit, fraction)
        }
    }
}
