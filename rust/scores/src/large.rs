//! Rows of many classes: piece by piece, lanes over the classes. Where a piece holds a new greatest logit, the sums so
//! far are scaled to it, so that the row is read from memory once.

use crate::expf::{bounded, exp};
use crate::row::Batch;

/// Logits of a piece: they stay in the first-level cache, and fp32 sums over them keep their last bits.
pub const PIECE: usize = 1024;

pub const LANES: usize = 32;

/// Sums over all classes so far but the first of the greatest.
#[derive(Clone, Copy)]
pub struct Running {
    first: f32,
    second: f32,
    /// The class that the sums leave out.
    place: usize,
    sum: f64,
    squares: f64,
    weighted: f64,
    bad: bool,
}

impl Default for Running {
    fn default() -> Running {
        let none = f32::NEG_INFINITY;
        Running { first: none, second: none, place: 0, sum: 0.0, squares: 0.0, weighted: 0.0, bad: false }
    }
}

/// The last logits of a piece, filled up with -infinity, which adds nothing.
#[inline(always)]
fn filled(rest: &[f32]) -> [f32; LANES] {
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..rest.len()].copy_from_slice(rest);
    last
}

/// Reduce lanes by halves, a tree that vectors can climb.
#[inline(always)]
fn tree<T: Copy>(mut lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The greatest logit, the next one, and the place of the first greatest. NaN counts as nothing.
#[inline(always)]
fn greatest_two(z: &[f32]) -> (f32, f32, usize) {
    let (mut first, mut second, mut at) = ([f32::NEG_INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0u32; LANES]);
    let mut step = |x: &[f32; LANES], chunk: usize| {
        for i in 0..LANES {
            let below = if x[i] < first[i] { x[i] } else { first[i] };
            second[i] = if below > second[i] { below } else { second[i] };
            at[i] = if x[i] > first[i] { chunk as u32 } else { at[i] };
            first[i] = if x[i] > first[i] { x[i] } else { first[i] };
        }
    };
    let mut chunks = z.chunks_exact(LANES);
    for (chunk, x) in (&mut chunks).enumerate() {
        step(x.try_into().expect("whole chunks"), chunk);
    }
    if !chunks.remainder().is_empty() {
        step(&filled(chunks.remainder()), z.len() / LANES);
    }
    let greatest = tree(first, |a, b| if a > b { a } else { b });
    let mut place = [u32::MAX; LANES];
    for i in 0..LANES {
        place[i] = if first[i] == greatest { at[i] * LANES as u32 + i as u32 } else { u32::MAX };
        // What is second in the lane of the greatest competes with the first of all other lanes.
        second[i] = if first[i] == greatest { second[i] } else { first[i] };
    }
    let runner_up = tree(second, |a, b| if a > b { a } else { b });
    let tied = first.iter().map(|x| u32::from(*x == greatest)).sum::<u32>() > 1;
    (greatest, if tied { greatest } else { runner_up }, tree(place, u32::min) as usize)
}

/// sum, squares, weighted of a piece below `first`, without the element at `skip`; NaN where the piece has one.
/// `ahead(i)` is called before the i-th LANES logits are read.
#[inline(always)]
fn sums(z: &[f32], first: f32, skip: Option<usize>, ahead: impl Fn(usize)) -> [f64; 3] {
    let (mut sum, mut squares, mut weighted) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    let mut step = |x: &[f32; LANES]| {
        for i in 0..LANES {
            let t = bounded(x[i] - first);
            let e = exp(t);
            sum[i] += e;
            squares[i] = e.mul_add(e, squares[i]);
            weighted[i] = e.mul_add(-t, weighted[i]);
        }
    };
    let (which, without) = match skip {
        Some(place) => {
            let chunk = place / LANES;
            let mut copy = filled(&z[chunk * LANES..z.len().min((chunk + 1) * LANES)]);
            copy[place % LANES] = f32::NEG_INFINITY;
            (chunk, copy)
        }
        None => (usize::MAX, [f32::NEG_INFINITY; LANES]),
    };
    let mut chunks = z.chunks_exact(LANES);
    for (chunk, x) in (&mut chunks).enumerate() {
        ahead(chunk);
        step(if chunk == which { &without } else { x.try_into().expect("whole chunks") });
    }
    if !chunks.remainder().is_empty() {
        let last = filled(chunks.remainder());
        step(if z.len() / LANES == which { &without } else { &last });
    }
    [sum, squares, weighted].map(|lanes| tree(lanes.map(f64::from), |a, b| a + b))
}

impl Running {
    /// Take in the logits of the classes from `from` on.
    #[inline(always)]
    pub fn take(&mut self, z: &[f32], from: usize, ahead: impl Fn(usize)) {
        let (first, second, place) = greatest_two(z);
        let runner_up = if first < self.first { first } else { self.first };
        self.second = self.second.max(second).max(runner_up);
        let mut skip = None;
        if first > self.first {
            if self.first.is_finite() {
                let d = f64::from(first) - f64::from(self.first);
                let (r, sum) = ((-d).exp(), self.sum + 1.0);
                self.weighted = r * (self.weighted + d.min(1e300) * sum);
                self.squares = r * r * (self.squares + 1.0);
                self.sum = r * sum;
            }
            (self.first, self.place, skip) = (first, from + place, Some(place));
        }
        if self.first.is_finite() {
            let [sum, squares, weighted] = sums(z, self.first, skip, ahead);
            self.sum += sum;
            self.squares += squares;
            self.weighted += weighted;
        } else {
            self.bad |= z.iter().any(|x| x.is_nan());
        }
    }

    /// Write the row as lane `i`; `label` is the class of the label (below 0: none) and `logit` its logit.
    #[inline(always)]
    pub fn store(&self, label: i64, logit: f32, b: &mut Batch, i: usize) {
        b.first[i] = if self.bad || self.sum.is_nan() { f32::NAN } else { self.first };
        b.second[i] = self.second;
        b.sum[i] = self.sum;
        b.squares[i] = self.squares;
        b.weighted[i] = self.weighted;
        b.label[i] = logit;
        b.correct[i] = f64::from(u8::from(self.place as i64 == label));
    }
}
