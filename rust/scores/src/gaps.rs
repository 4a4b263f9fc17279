//! Shapley values under a nearest-neighbour vote without sorting all examples: which two marks each lies between (see
//! [`crate::shapley`]).

use crate::sort::{Sorter, position};
use dither_cpu::dispatch;

/// The examples of one test in the order of their distance, as far as values need it.
#[derive(Default)]
pub struct Gaps {
    /// Positions of the marks, and their distances.
    marks: Vec<u32>,
    far: Vec<f32>,
    /// Whether a mark has the test's label.
    right: bool,
    /// Distances of the marks in order, with infinity behind; and the marks' positions in that order.
    edges: Vec<f32>,
    order: Vec<u32>,
    /// Distances of the others; NaN for a mark.
    others: Vec<f32>,
    /// How many edges lie before each part of the edges' range, all parts of one width.
    before: Vec<u32>,
    /// Which of `values` an example has: that of its gap, or a mark's, behind those of the gaps.
    of: Vec<u32>,
    /// How many lie in a gap.
    counts: Vec<u32>,
    values: Vec<f64>,
    sorter: Sorter,
}

impl Gaps {
    /// Add to every example its value for one test, of whose `label` there are `same` examples. `worth`: what a change
    /// of the label at each place is worth.
    pub fn add(
        &mut self,
        distances: &[f32],
        labels: &[u32],
        (label, same): (u32, usize),
        worth: &[f64],
        sum: &mut [f64],
    ) {
        let n = labels.len();
        assert!(distances.len() == n && worth.len() == n && sum.len() == n && same <= n);
        self.find(distances, labels, label, same);
        self.value(worth);
        gather(&self.values, &self.of, sum);
    }

    /// Find every example's gap.
    fn find(&mut self, distances: &[f32], labels: &[u32], label: u32, same: usize) {
        let n = labels.len();
        self.right = 2 * same <= n;
        self.others.resize(n, 0.0);
        self.of.resize(n, 0);
        hide(distances, labels, (label, self.right), &mut self.others);
        self.collect(distances, if self.right { same } else { n - same });
        let (low, scale) = self.divide();
        look_up(&self.others, (low, scale), &self.before, &self.edges, &mut self.of);
        self.count();
    }

    /// The marks, sorted.
    fn collect(&mut self, distances: &[f32], marks: usize) {
        self.marks.resize(marks + 1, 0);
        self.far.resize(marks + 1, 0.0);
        let mut found = 0;
        for (i, (other, distance)) in self.others.iter().zip(distances).enumerate() {
            // Written always, kept where it is a mark: a branch would be a coin toss.
            (self.marks[found], self.far[found]) = (i as u32, *distance);
            found += usize::from(other.is_nan());
        }
        let sorted = self.sorter.sort(&self.far[..marks]);
        self.edges.clear();
        self.edges.extend(sorted.iter().map(|item| self.far[position(*item)]));
        self.edges.push(f32::INFINITY);
        self.order.clear();
        self.order.extend(sorted.iter().map(|item| self.marks[position(*item)]));
    }

    /// Divide the range of the edges into parts. Returns its low end, and the parts in a unit of distance.
    fn divide(&mut self) -> (f32, f32) {
        let edges = &self.edges[..self.order.len()];
        let parts = (2 * edges.len()).next_power_of_two();
        let (low, high) = edges.first().zip(edges.last()).map_or((0.0, 0.0), |(low, high)| (*low, *high));
        let scale = parts as f32 / (high - low);
        let scale = if scale.is_finite() && low.is_finite() { scale } else { 0.0 };
        self.before.clear();
        for (i, edge) in edges.iter().enumerate() {
            let part = part(*edge, low, scale, parts);
            self.before.resize(self.before.len().max(part + 1), i as u32);
        }
        self.before.resize(parts, edges.len() as u32);
        (low, scale)
    }

    /// Count the members of every gap, and find those of which the look-up fell short.
    fn count(&mut self) {
        self.counts.clear();
        self.counts.resize(self.edges.len(), 0);
        for (i, (gap, x)) in self.of.iter_mut().zip(&self.others).enumerate() {
            // SAFETY: a gap is at most the number of marks, below that of edges and counts; the last edge, infinity, is
            // below nothing.
            let edge = |gap: u32| unsafe { *self.edges.get_unchecked(gap as usize) };
            if edge(*gap) <= *x {
                let last = *gap + FURTHER;
                while *gap < last && edge(*gap) < *x {
                    *gap += 1;
                }
                if edge(*gap) <= *x {
                    *gap += behind(&self.edges[*gap as usize..], &self.order[*gap as usize..], (*x, i as u32));
                }
            }
            // SAFETY: as above.
            unsafe { *self.counts.get_unchecked_mut(*gap as usize) += 1 };
        }
        self.counts[0] -= self.order.len() as u32; // the marks, which are behind no edge
    }

    /// The value of every gap and mark, from the farthest on.
    fn value(&mut self, worth: &[f64]) {
        let marks = self.order.len();
        let (own, other) = if self.right { (1.0, 0.0) } else { (0.0, 1.0) };
        self.values.clear();
        self.values.resize(2 * marks + 1, 0.0);
        let (mut s, mut next, mut place) = (0.0, 0.0, worth.len());
        for gap in (0..=marks).rev() {
            if self.counts[gap] > 0 {
                s += (other - next) * worth[place - 1];
                next = other;
                self.values[gap] = s;
                place -= self.counts[gap] as usize;
            }
            if let Some(mark) = gap.checked_sub(1) {
                s += (own - next) * worth[place - 1];
                next = own;
                let slot = marks + gap;
                self.values[slot] = s;
                self.of[self.order[mark] as usize] = slot as u32;
                place -= 1;
            }
        }
    }
}

/// The part of the range where a number lies; NaN lies in the first. Numbers in order have parts in order.
#[inline(always)]
fn part(x: f32, low: f32, scale: f32, parts: usize) -> usize {
    let (place, last) = ((x - low) * scale, (parts - 1) as f32);
    let place = if place > 0.0 { place } else { 0.0 };
    let place = if place < last { place } else { last };
    // SAFETY: it lies between 0 and the last part, of which there are less than 2^31.
    unsafe { place.to_int_unchecked::<i32>() as usize }
}

/// How many of these sorted edges are not behind x. Of equal distances the first position is nearer.
#[cold]
fn behind(edges: &[f32], order: &[u32], (x, i): (f32, u32)) -> u32 {
    let smaller = edges[..order.len()].partition_point(|edge| *edge < x);
    let equal = edges[smaller..order.len()].partition_point(|edge| *edge <= x);
    (smaller + order[smaller..smaller + equal].partition_point(|mark| *mark < i)) as u32
}

#[inline(always)]
fn hide_body(distances: &[f32], labels: &[u32], (label, marked): (u32, bool), out: &mut [f32]) {
    for ((out, x), one) in out.iter_mut().zip(distances).zip(labels) {
        *out = if (*one == label) == marked { f32::NAN } else { *x };
    }
}

dispatch! {
    /// The distances, NaN for those whose label is (`marked`) or is not the given one.
    fn hide(distances: &[f32], labels: &[u32], which: (u32, bool), out: &mut [f32]) = hide_body;
}

#[inline(always)]
fn look_up_body(x: &[f32], (low, scale): (f32, f32), before: &[u32], edges: &[f32], out: &mut [u32]) {
    for (out, x) in out.iter_mut().zip(x) {
        // SAFETY: a part is below the number of parts. `before` is at most the number of marks, and the edge of that
        // number, infinity, is below nothing, so that steps end there.
        unsafe {
            let mut gap = *before.get_unchecked(part(*x, low, scale, before.len()));
            for _ in 0..STEPS {
                gap += u32::from(*edges.get_unchecked(gap as usize) < *x);
            }
            *out = gap;
        }
    }
}

/// Edges of its part that the look-up passes by, and those it goes on to one by one before it bisects.
const STEPS: usize = 2;
const FURTHER: u32 = 8;

dispatch! {
    /// The gap of every number, or one that is too small where many edges crowd in a part.
    fn look_up(x: &[f32], range: (f32, f32), before: &[u32], edges: &[f32], out: &mut [u32]) = look_up_body;
}

#[inline(always)]
fn gather_body(values: &[f64], of: &[u32], sum: &mut [f64]) {
    for (sum, which) in sum.iter_mut().zip(of) {
        // SAFETY: there is a value for every gap and mark.
        *sum += unsafe { *values.get_unchecked(*which as usize) };
    }
}

dispatch! {
    /// Add to every example the value of its gap.
    fn gather(values: &[f64], of: &[u32], sum: &mut [f64]) = gather_body;
}
