//! Shapley values of training examples under a k-nearest-neighbour classifier (Jia et al., 1908.08619, theorem 1).

use crate::sort::{Sorter, position};
use dither_cpu::threads::for_each;
use std::sync::Mutex;

/// Test examples summed in one go: sums are formed in the same order for any number of threads.
const CHUNK: usize = 16;

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
    let chunks = tests.len().div_ceil(CHUNK);
    let sums: Vec<Mutex<Vec<f64>>> = (0..chunks).map(|_| Mutex::default()).collect();
    let complete = for_each(chunks, threads, give_up, |chunk| {
        let (mut right, mut sum, mut sorter) = (Vec::with_capacity(n), vec![0.0; n], Sorter::default());
        let first = chunk * CHUNK;
        for (row, test) in distances[first * n..].chunks_exact(n).zip(&tests[first..]).take(CHUNK) {
            right.clear();
            right.extend(labels.iter().map(|label| u8::from(label == test)));
            one(sorter.sort(row), &right, k, &mut sum);
        }
        *sums[chunk].lock().unwrap_or_else(|e| e.into_inner()) = sum;
    });
    for sum in sums {
        let sum = sum.into_inner().unwrap_or_else(|e| e.into_inner());
        values.iter_mut().zip(sum).for_each(|(value, s)| *value += s);
    }
    complete
}

/// `right`: whether an example has the test's label.
fn one(sorted: &[u64], right: &[u8], k: usize, sum: &mut [f64]) {
    let (n, k) = (sorted.len(), k as f64);
    let right = |j: usize| f64::from(right[position(sorted[j - 1])]);
    let mut s = right(n) * k.min(n as f64) / (k * n as f64);
    sum[position(sorted[n - 1])] += s;
    let mut next = right(n);
    for j in (1..n).rev() {
        let this = right(j);
        if this != next {
            s += (this - next) / k * (k.min(j as f64) / j as f64);
        }
        next = this;
        sum[position(sorted[j - 1])] += s;
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
