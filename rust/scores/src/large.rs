//! Rows of many classes: piece by piece, lanes over the classes. Where a piece holds a new greatest logit, the sums so
//! far are scaled to it, so that the row is read from memory once.

use crate::expf::exp;
use crate::row::Batch;

/// Logits of a piece: they stay in the first-level cache, and fp32 sums over them keep their last bits.
pub const PIECE: usize = 1024;

const LANES: usize = 32;

/// Sums over the classes below the greatest logit so far; `ties` classes have it.
#[derive(Clone, Copy)]
pub struct Running {
    first: f32,
    second: f32,
    ties: f64,
    sum: f64,
    squares: f64,
    weighted: f64,
    bad: bool,
}

impl Default for Running {
    fn default() -> Running {
        let none = f32::NEG_INFINITY;
        Running { first: none, second: none, ties: 0.0, sum: 0.0, squares: 0.0, weighted: 0.0, bad: false }
    }
}

#[inline(always)]
fn greatest_two(z: &[f32]) -> (f32, f32, bool) {
    let (mut first, mut second, mut bad) = ([f32::NEG_INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0.0f32; LANES]);
    let mut step = |x: &[f32; LANES]| {
        for i in 0..LANES {
            let below = if x[i] < first[i] { x[i] } else { first[i] };
            second[i] = if below > second[i] { below } else { second[i] };
            first[i] = if x[i] > first[i] { x[i] } else { first[i] };
            bad[i] += if x[i].is_nan() { f32::NAN } else { 0.0 };
        }
    };
    let mut chunks = z.chunks_exact(LANES);
    for x in &mut chunks {
        step(x.try_into().expect("whole chunks"));
    }
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    step(&last);
    let mut top = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for i in 0..LANES {
        let low = first[i].min(top.0);
        top = (first[i].max(top.0), second[i].max(top.1).max(low));
    }
    (top.0, top.1, bad.iter().any(|b| b.is_nan()))
}

/// ties, sum, squares, weighted of a piece, below `first`.
#[inline(always)]
fn sums(z: &[f32], first: f32) -> [f64; 4] {
    let (mut ties, mut sum, mut squares, mut weighted) =
        ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    let mut step = |x: &[f32; LANES]| {
        for i in 0..LANES {
            // Bounded, so that 0 * d is 0 for -infinity.
            let d = (first - x[i]).min(200.0);
            let top = d == 0.0;
            let e = if top { 0.0 } else { exp(-d) };
            ties[i] += if top { 1.0 } else { 0.0 };
            sum[i] += e;
            squares[i] += e * e;
            weighted[i] += e * d;
        }
    };
    let mut chunks = z.chunks_exact(LANES);
    for x in &mut chunks {
        step(x.try_into().expect("whole chunks"));
    }
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    step(&last);
    [ties, sum, squares, weighted].map(|lanes| lanes.iter().map(|x| f64::from(*x)).sum())
}

impl Running {
    /// Take in the next logits of the row.
    #[inline(always)]
    pub fn take(&mut self, z: &[f32]) {
        let (first, second, bad) = greatest_two(z);
        self.bad |= bad;
        self.second = self.second.max(second).max(self.first.min(first));
        if first > self.first {
            if self.ties > 0.0 {
                let d = f64::from(first) - f64::from(self.first);
                let (r, sum) = ((-d).exp(), self.sum + self.ties);
                self.weighted = r * (self.weighted + d.min(1e300) * sum);
                self.squares = r * r * (self.squares + self.ties);
                self.sum = r * sum;
            }
            (self.first, self.ties) = (first, 0.0);
        }
        if self.first.is_finite() {
            let [ties, sum, squares, weighted] = sums(z, self.first);
            self.ties += ties;
            self.sum += sum;
            self.squares += squares;
            self.weighted += weighted;
        }
    }

    /// Write the row as lane `i`; `label` is its logit (NaN for none).
    #[inline(always)]
    pub fn store(&self, label: f32, b: &mut Batch, i: usize) {
        b.first[i] = if self.bad { f32::NAN } else { self.first };
        b.second[i] = self.second;
        b.sum[i] = self.sum + (self.ties - 1.0);
        b.squares[i] = self.squares + (self.ties - 1.0);
        b.weighted[i] = self.weighted;
        b.label[i] = label;
    }

    /// Whether the class at `label` is predicted, `before(first)` telling if a class before it has the greatest logit.
    #[inline(always)]
    pub fn predicts(&self, label: f32, before: impl FnOnce(f32) -> bool) -> bool {
        label == self.first && (self.ties == 1.0 || !before(self.first))
    }
}
