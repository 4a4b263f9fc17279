//! Shapley values of training examples under a k-nearest-neighbour classifier (Jia et al., 1908.08619, theorem 1).

use crate::sort::{Sorter, position};
use dither_cpu::dispatch;
use dither_cpu::threads::for_each;
use std::sync::Mutex;

/// Test examples summed in one go: sums are formed in the same order for any number of threads, and their memory is
/// asked for seldom.
const CHUNK: usize = 64;

/// Add to `values` (examples) the sum over the test examples of each one's Shapley value.
///
/// With examples j = 1..N by distance and u_j = 1 where the label of the j-th is the test's:
/// s_N = u_N min(K, N) / (K N), s_j = s_(j+1) + (u_j - u_(j+1)) / K * min(K, j) / j.
/// `distances` is tests x examples, without NaN. False where `give_up` said yes.
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
        let (mut right, mut sum, mut sorter) = (vec![0; n], vec![0.0; n], Sorter::default());
        let first = chunk * CHUNK;
        for (row, test) in distances[first * n..].chunks_exact(n).zip(&tests[first..]).take(CHUNK) {
            compare(&codes.labels, codes.code(*test), &mut right);
            one(sorter.sort(row), &right, &worth, &mut sum);
        }
        *sums[chunk].lock().unwrap_or_else(|e| e.into_inner()) = sum;
    });
    for sum in sums {
        let sum = sum.into_inner().unwrap_or_else(|e| e.into_inner());
        values.iter_mut().zip(sum).for_each(|(value, s)| *value += s);
    }
    complete
}

/// Labels as small numbers: they are compared with every test's.
struct Codes {
    labels: Vec<u32>,
    known: Vec<i64>,
}

impl Codes {
    fn of(labels: &[i64]) -> Codes {
        let mut known = labels.to_vec();
        known.sort_unstable();
        known.dedup();
        let mut codes = Codes { labels: Vec::new(), known };
        codes.labels = labels.iter().map(|label| codes.code(*label)).collect();
        codes
    }

    /// A number that no label has, if it is none of the labels.
    fn code(&self, label: i64) -> u32 {
        self.known.binary_search(&label).map_or(u32::MAX, |place| place as u32)
    }
}

#[inline(always)]
fn compare_body(labels: &[u32], label: u32, right: &mut [u8]) {
    for (right, one) in right.iter_mut().zip(labels) {
        *right = u8::from(*one == label);
    }
}

dispatch! { fn compare(labels: &[u32], label: u32, right: &mut [u8]) = compare_body; }

/// `right`: whether an example has the test's label.
fn one(sorted: &[u64], right: &[u8], worth: &[f64], sum: &mut [f64]) {
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
}
