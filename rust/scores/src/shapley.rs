//! Shapley values of training examples under a k-nearest-neighbour classifier (Jia et al., 1908.08619, theorem 1).
//!
//! With examples j = 1..N by distance and u_j = 1 where the label of the j-th is the test's:
//!
//! ```text
//! s_N = u_N min(K, N) / (K N),   s_j = s_(j+1) + (u_j - u_(j+1)) / K * min(K, j) / j
//! ```
//!
//! A value differs from the next one's only where u does. So the rarer kind alone (those with the test's label, or those
//! without; "marks" below) is sorted, every other example asks how many marks come before it, and all that lie between
//! two marks, in a gap, have one value. That is a table look-up an example, where sorting all is two passes of scattered
//! writes and a chain of dependent additions. Where marks are not few, sorting all is the quicker way.

use crate::sort::{Sorter, position};
use dither_cpu::dispatch;
use dither_cpu::threads::for_each;
use std::sync::Mutex;

/// Test examples summed in one go: sums are formed in the same order for any number of threads, and their memory is
/// asked for seldom.
const CHUNK: usize = 64;

/// Marks are few where they are at most this part of the examples (measured: gaps take 5 to 8 ns an example up to a
/// tenth, 22 at a half, sorting all 10).
const FEW: usize = 8;

/// Add to `values` (examples) the sum over the test examples of each one's Shapley value.
///
/// `distances` is tests x examples, without NaN; of equal ones the first is nearer. False where `give_up` said yes.
pub fn add(
    distances: &[f32],
    labels: &[i64],
    tests: &[i64],
    k: usize,
    values: &mut [f64],
    threads: usize,
    give_up: &dyn Fn() -> bool,
) -> bool {
    let n = labels.len();
    // min(k, j) / (k j) of the j-th nearest: what a change of the label there is worth.
    let worth: Vec<f64> = (1..=n).map(|j| k.min(j) as f64 / (k as f64 * j as f64)).collect();
    let codes = Codes::of(labels);
    let chunks = tests.len().div_ceil(CHUNK);
    let sums: Vec<Mutex<Vec<f64>>> = (0..chunks).map(|_| Mutex::default()).collect();
    let complete = for_each(chunks, threads, give_up, |chunk| {
        let (mut sum, mut gaps, mut right) = (vec![0.0; n], Gaps::default(), vec![0; n]);
        let first = chunk * CHUNK;
        for (row, test) in distances[first * n..].chunks_exact(n).zip(&tests[first..]).take(CHUNK) {
            let code = codes.code(*test);
            if codes.marks(code) > n / FEW {
                compare(&codes.labels, code, &mut right);
                in_order(gaps.sorter.sort(row), &right, &worth, &mut sum);
                continue;
            }
            gaps.find(row, &codes, code);
            gaps.value(&worth);
            gather(&gaps.values, &gaps.of, &mut sum);
        }
        *sums[chunk].lock().unwrap_or_else(|e| e.into_inner()) = sum;
    });
    for sum in sums {
        let sum = sum.into_inner().unwrap_or_else(|e| e.into_inner());
        values.iter_mut().zip(sum).for_each(|(value, s)| *value += s);
    }
    complete
}

/// Labels as small numbers, which are compared with every test's, and how often each occurs.
struct Codes {
    labels: Vec<u32>,
    known: Vec<i64>,
    counts: Vec<usize>,
}

impl Codes {
    fn of(labels: &[i64]) -> Codes {
        let mut known = labels.to_vec();
        known.sort_unstable();
        known.dedup();
        let mut codes = Codes { labels: Vec::new(), counts: vec![0; known.len()], known };
        codes.labels = labels.iter().map(|label| codes.code(*label)).collect();
        codes.labels.iter().for_each(|code| codes.counts[*code as usize] += 1);
        codes
    }

    /// A number that no label has, if it is none of the labels.
    fn code(&self, label: i64) -> u32 {
        self.known.binary_search(&label).map_or(u32::MAX, |place| place as u32)
    }

    /// How many have this label.
    fn same(&self, code: u32) -> usize {
        self.counts.get(code as usize).copied().unwrap_or(0)
    }

    /// How many have it, or have it not: the rarer.
    fn marks(&self, code: u32) -> usize {
        self.same(code).min(self.labels.len() - self.same(code))
    }
}

#[inline(always)]
fn compare_body(labels: &[u32], label: u32, right: &mut [u8]) {
    for (right, one) in right.iter_mut().zip(labels) {
        *right = u8::from(*one == label);
    }
}

dispatch! {
    /// Whether each has the label.
    fn compare(labels: &[u32], label: u32, right: &mut [u8]) = compare_body;
}

/// The recursion over all examples, from the farthest on. `right`: whether an example has the test's label.
fn in_order(sorted: &[u64], right: &[u8], worth: &[f64], sum: &mut [f64]) {
    let (mut s, mut next) = (0.0, 0.0);
    assert!(right.len() == sorted.len() && sum.len() == sorted.len());
    for (item, worth) in sorted.iter().zip(worth).rev() {
        // SAFETY: items are the positions of as many numbers.
        let (right, sum) = unsafe { (right.get_unchecked(position(*item)), sum.get_unchecked_mut(position(*item))) };
        let this = f64::from(*right);
        s += (this - next) * worth;
        next = this;
        *sum += s;
    }
}

/// The examples of one test in the order of their distance, as far as values need it.
#[derive(Default)]
struct Gaps {
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
    /// Find every example's gap.
    fn find(&mut self, distances: &[f32], codes: &Codes, label: u32) {
        let n = codes.labels.len();
        let same = codes.same(label);
        self.right = 2 * same <= n;
        self.others.resize(n, 0.0);
        self.of.resize(n, 0);
        hide(distances, &codes.labels, (label, self.right), &mut self.others);
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
            let last = *gap + FURTHER;
            while *gap < last && edge(*gap) < *x {
                *gap += 1;
            }
            if edge(*gap) <= *x {
                *gap += behind(&self.edges[*gap as usize..], &self.order[*gap as usize..], (*x, i as u32));
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

#[cfg(test)]
mod tests {
    use super::add;

    /// The share of right labels among the k nearest of a subset (of k, also where there are fewer).
    fn utility(set: u32, distances: &[f32], labels: &[i64], k: usize) -> f64 {
        let mut members: Vec<usize> = (0..labels.len()).filter(|i| set >> i & 1 == 1).collect();
        members.sort_by(|a, b| distances[*a].total_cmp(&distances[*b]));
        members.iter().take(k).filter(|i| labels[**i] == 1).count() as f64 / k as f64
    }

    #[test]
    fn it_is_the_shapley_value() {
        let distances = [0.3, 0.1, 0.7, 0.2, 0.9, 0.5];
        let labels = [1, 0, 1, 1, 0, 1];
        for k in [1, 2, 3, 6, 9] {
            let mut values = [0.0; 6];
            assert!(add(&distances, &labels, &[1], k, &mut values, 1, &|| false));
            for (i, value) in values.iter().enumerate() {
                let mut expected = 0.0;
                for set in (0u32..64).filter(|s| s >> i & 1 == 0) {
                    let size = set.count_ones() as usize;
                    let ways: f64 = (1..=size).map(|j| (6 - j) as f64 / j as f64).product(); // 5 choose size
                    let gain = utility(set | 1 << i, &distances, &labels, k) - utility(set, &distances, &labels, k);
                    expected += gain / (6.0 * ways);
                }
                assert!((value - expected).abs() < 1e-14, "k={k} {value} {expected}");
            }
        }
    }

    /// The recursion as the paper has it.
    fn plain(distances: &[f32], labels: &[i64], test: i64, k: usize) -> Vec<f64> {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by(|a, b| distances[*a].partial_cmp(&distances[*b]).expect("no NaN"));
        let (mut values, mut s, mut next) = (vec![0.0; labels.len()], 0.0, 0.0);
        for (j, i) in order.iter().enumerate().rev() {
            let right = f64::from(u8::from(labels[*i] == test));
            s += (right - next) * (k.min(j + 1) as f64 / (k as f64 * (j + 1) as f64));
            (next, values[*i]) = (right, s);
        }
        values
    }

    #[test]
    fn distances_and_labels_of_every_kind_give_the_plain_recursion_to_the_last_bit() {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f32 / (1u64 << 53) as f32
        };
        for n in [1, 2, 3, 17, 100, 3000] {
            let even: Vec<f32> = (0..n).map(|_| next() - 0.5).collect();
            let kinds: [Vec<f32>; 6] = [
                even.clone(),
                even.iter().map(|x| (x * 5.0).round()).collect(), // many equal, both zeros
                even.iter().map(|x| (x * 60.0).exp()).collect(),  // crowded at one end
                even.iter().map(|x| if *x > 0.3 { f32::INFINITY } else { *x }).collect(),
                even.iter().map(|x| x * 1e-42).collect(), // subnormal
                vec![2.5; n],
            ];
            for classes in [1, 2, 10, 1000] {
                let labels: Vec<i64> = (0..n).map(|_| (next() * classes as f32) as i64 - 3).collect();
                for (x, k) in kinds.iter().zip([1, 2, 5, 10, 10, n]) {
                    for test in [labels[0], -3, 77] {
                        let mut values = vec![0.0; n];
                        assert!(add(x, &labels, &[test], k, &mut values, 1, &|| false));
                        assert_eq!(values, plain(x, &labels, test, k), "{n} of {classes} classes, k={k}");
                    }
                }
            }
        }
    }
}
