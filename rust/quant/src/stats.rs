//! What quantization did to an array: sums over the array and, on request, over each block.
//!
//! Sums run over units in order, whatever the number of threads, so they are reproducible bit for bit.

use crate::bits::Reader;
use crate::dtype::Memory;
use crate::fake_quant::{Kernel, Whole, for_each_block, random_width, threads_for};
use crate::fpu::Standard;
use crate::layout::Layout;
use crate::pool;
use dither_numerics::quantizer::Randomness;
use dither_numerics::{Block, Quantizer, Scale, pow2};
use std::sync::Mutex;

/// Sums and counts over a set of elements; the finite ones only, but for `nonfinite`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    pub count: u64,
    /// Elements that are, or become, NaN or infinite.
    pub nonfinite: u64,
    /// Sum of x^2.
    pub signal: f64,
    /// Sum of (y - x)^2.
    pub noise: f64,
    /// Largest |y - x| / |x| over x != 0.
    pub max_rel: f64,
    /// |x| above the largest value the scale allows, before rounding.
    pub clipped: u64,
    /// x != 0 that became 0.
    pub underflowed: u64,
    /// |y| equal to that largest value.
    pub last_bin: u64,
}

impl Stats {
    fn add(&mut self, x: f64, y: f64, top: f64) {
        self.count += 1;
        if !x.is_finite() || !y.is_finite() {
            self.nonfinite += 1;
            return;
        }
        let error = (y - x).abs();
        self.signal += x * x;
        self.noise += error * error;
        if x != 0.0 {
            self.max_rel = self.max_rel.max(error / x.abs());
            self.underflowed += u64::from(y == 0.0);
        }
        self.clipped += u64::from(x.abs() > top);
        self.last_bin += u64::from(y.abs() == top && top > 0.0);
    }

    pub fn merge(&mut self, other: &Stats) {
        self.count += other.count;
        self.nonfinite += other.nonfinite;
        self.signal += other.signal;
        self.noise += other.noise;
        self.max_rel = self.max_rel.max(other.max_rel);
        self.clipped += other.clipped;
        self.underflowed += other.underflowed;
        self.last_bin += other.last_bin;
    }
}

/// The largest value that a scale allows, as the kernels form it.
fn top(q: &Quantizer, scale: Scale, wide: bool) -> f64 {
    let product = |s: f32| if wide { q.format.max * f64::from(s) } else { f64::from(q.format.max as f32 * s) };
    match scale {
        Scale::Poisoned => f64::NAN,
        Scale::Zero => 0.0,
        Scale::Power(e) => q.format.max * pow2(e),
        Scale::Divide(s) => product(s),
        Scale::Multiply { decode, .. } => product(decode),
    }
}

/// Statistics over the array, and per block in C order (axis replaced by blocks) where `per_block` is given.
///
/// # Safety
/// `x` points to `layout.len()` elements that nobody writes meanwhile.
pub unsafe fn stats(
    q: &Quantizer,
    layout: &Layout,
    x: Memory,
    source: Randomness<'_>,
    per_block: Option<&mut Vec<Stats>>,
    threads: usize,
) -> Stats {
    let _standard = Standard::enter();
    let threads = threads_for(layout.len(), threads);
    // SAFETY: the caller's contract.
    let whole = unsafe { Whole::of(q, x, layout, threads) };
    let block = q.scaling.as_ref().map(|s| s.block);
    let cut = layout.cut(block);
    let kernel = Kernel::new(q, &whole);
    let fixed = matches!(block, None | Some(Block::Tensor));
    let units = Mutex::new(vec![Vec::new(); cut.units()]);
    pool::for_each(cut.units(), threads, |u| {
        let unit = cut.unit(u);
        let mut before = vec![0f64; unit.len];
        let mut random = vec![0; if random_width(q) > 0 { unit.len } else { 0 }];
        Reader::new(source, random_width(q)).read(unit.start, &mut random);
        // SAFETY: units lie in the array.
        unsafe { x.load_f64(unit.start, &mut before) };
        let mut after = vec![0f32; unit.len];
        if !x.is_f64() {
            let mut narrow = vec![0f32; unit.len];
            // SAFETY: as above.
            unsafe { x.load(unit.start, &mut narrow) };
            kernel.apply(&cut, &narrow, &mut after, &random);
        }
        let mut blocks = Vec::new();
        for_each_block(&cut, unit.len, |positions| {
            let positions: Vec<usize> = positions.collect();
            let absmax = dither_numerics::quantizer::absmax(positions.iter().map(|i| before[*i]));
            let absmax = if fixed { whole.absmax } else { absmax };
            let scale = match x.is_f64() {
                true => q.scale(absmax, whole.tensor.as_ref()),
                false => q.scale(absmax as f32, whole.tensor.as_ref()),
            };
            let top = top(q, scale, x.is_f64());
            let mut sums = Stats::default();
            for i in positions {
                let y = if x.is_f64() {
                    q.fake_quant(before[i], scale, random.get(i).copied().unwrap_or(0))
                } else {
                    f64::from(after[i])
                };
                sums.add(before[i], y, top);
            }
            blocks.push(sums);
        });
        units.lock().expect("no thread panics while it holds the lock")[u] = blocks;
    });
    let mut total = Stats::default();
    let blocks: Vec<Stats> = units.into_inner().expect("as above").into_iter().flatten().collect();
    for b in &blocks {
        total.merge(b);
    }
    if let Some(out) = per_block {
        *out = if fixed { vec![total] } else { blocks };
    }
    total
}
