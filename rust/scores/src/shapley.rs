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
//! two marks, in a gap, have one value. That is a table look-up an example, where sorting all is scattered writes and a
//! chain of dependent additions. Where marks are not few, sorting all is the quicker way.

use crate::gaps::{Gaps, Marks};
use crate::order::Order;
use crate::sort::Sorter;
use dither_cpu::dispatch;
use dither_cpu::threads::for_each;
use std::sync::Mutex;

/// Test examples summed in one go: sums are formed in the same order for any number of threads, and their memory is
/// asked for seldom.
const CHUNK: usize = 64;

/// Marks are few where they are at most this part of the examples (measured, an example: 3 to 5 ns up to a tenth, 7 at a
/// fifth; 8 for sorting all).
const FEW: usize = 4;

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
        let (mut sum, mut right) = (vec![0.0; n], vec![0; n]);
        let (mut gaps, mut sorter, mut order) = (Gaps::default(), Sorter::default(), Order::default());
        let first = chunk * CHUNK;
        for (row, test) in distances[first * n..].chunks_exact(n).zip(&tests[first..]).take(CHUNK) {
            let code = codes.code(*test);
            match codes.marks(code) {
                Some(marks) => gaps.add(row, &codes.labels, marks, &worth, &mut sum),
                None => {
                    compare(&codes.labels, code, &mut right);
                    sorter.sort(row, &mut order).expect("no distance is NaN");
                    in_order(&order.positions, &right, &worth, &mut sum);
                }
            }
        }
        *sums[chunk].lock().unwrap_or_else(|e| e.into_inner()) = sum;
    });
    for sum in sums {
        let sum = sum.into_inner().unwrap_or_else(|e| e.into_inner());
        values.iter_mut().zip(sum).for_each(|(value, s)| *value += s);
    }
    complete
}

/// Labels as small numbers, which are compared with every test's, and where each occurs.
struct Codes {
    labels: Vec<u32>,
    known: Vec<i64>,
    /// The positions of every label.
    with: Vec<Vec<u32>>,
    /// The positions without a label that few are without.
    without: Option<(u32, Vec<u32>)>,
}

impl Codes {
    fn of(labels: &[i64]) -> Codes {
        let mut known = labels.to_vec();
        known.sort_unstable();
        known.dedup();
        let with = vec![Vec::new(); known.len()];
        let mut codes = Codes { labels: Vec::new(), known, with, without: None };
        codes.labels = labels.iter().map(|label| codes.code(*label)).collect();
        for (i, code) in (0..).zip(&codes.labels) {
            codes.with[*code as usize].push(i);
        }
        let frequent = (0..).zip(&codes.with).find(|(_, with)| labels.len() - with.len() <= labels.len() / FEW);
        codes.without = frequent.map(|(code, _)| {
            (code, (0..).zip(&codes.labels).filter(|(_, own)| **own != code).map(|(i, _)| i).collect())
        });
        codes
    }

    /// A number that no label has, if it is none of the labels.
    fn code(&self, label: i64) -> u32 {
        self.known.binary_search(&label).map_or(u32::MAX, |place| place as u32)
    }

    /// Those that have the label, or those that have it not, where they are few.
    fn marks(&self, label: u32) -> Option<Marks<'_>> {
        let with = self.with.get(label as usize).map_or(&[][..], |with| with);
        let without = self.without.as_ref().filter(|(code, _)| *code == label);
        match without {
            Some((_, positions)) => Some(Marks { positions, label, right: false }),
            None if with.len() <= self.labels.len() / FEW => Some(Marks { positions: with, label, right: true }),
            None => None,
        }
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
fn in_order(sorted: &[u32], right: &[u8], worth: &[f64], sum: &mut [f64]) {
    let (mut s, mut next) = (0.0, 0.0);
    assert!(right.len() == sorted.len() && sum.len() == sorted.len());
    for (position, worth) in sorted.iter().zip(worth).rev() {
        let position = *position as usize;
        // SAFETY: these are the positions of as many numbers.
        let (right, sum) = unsafe { (right.get_unchecked(position), sum.get_unchecked_mut(position)) };
        let this = f64::from(*right);
        s += (this - next) * worth;
        next = this;
        *sum += s;
    }
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
        for n in [1, 2, 3, 17, 100, 255, 256, 257, 3000] {
            let even: Vec<f32> = (0..n).map(|_| next() - 0.5).collect();
            let kinds: [Vec<f32>; 6] = [
                even.clone(),
                even.iter().map(|x| (x * 5.0).round()).collect(), // many equal, both zeros
                even.iter().map(|x| (x * 60.0).exp()).collect(),  // crowded at one end
                even.iter().map(|x| if *x > 0.3 { f32::INFINITY } else { *x }).collect(),
                even.iter().map(|x| x * 1e-42).collect(), // subnormal
                vec![2.5; n],
            ];
            for classes in [1, 2, 4, 10, 1000] {
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
