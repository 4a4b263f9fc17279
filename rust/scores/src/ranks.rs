//! Ranks with ties: equal elements share the mean of their places.

use crate::sort::{Number, Sorter, position, runs};

/// Call `put(position, rank)` for every element, ranks from 1. No element is NaN.
pub fn rank<T: Number>(x: &[T], sorter: &mut Sorter, mut put: impl FnMut(usize, f64)) {
    let sorted = sorter.sort(x);
    runs(sorted, x, |start, end| {
        let rank = (start + end + 1) as f64 / 2.0;
        sorted[start..end].iter().for_each(|item| put(position(*item), rank));
    });
}

#[cfg(test)]
mod tests {
    use super::rank;
    use crate::sort::{Number, Sorter};

    fn ranks<T: Number>(x: &[T]) -> Vec<f64> {
        let mut out = vec![0.0; x.len()];
        rank(x, &mut Sorter::default(), |i, r| out[i] = r);
        out
    }

    #[test]
    fn equal_elements_share_their_places() {
        let x = [3.0, -0.0, f64::INFINITY, 0.0, 3.0, -7.5, f64::NEG_INFINITY, 3.0];
        assert_eq!(ranks(&x), [6.0, 3.5, 8.0, 3.5, 6.0, 2.0, 1.0, 6.0]);
        assert_eq!(ranks(&x.map(|x| x as f32)), ranks(&x));
    }

    #[test]
    fn numbers_that_share_their_upper_bits_are_told_apart() {
        let x: Vec<f64> = (0..300).map(|i| 1.0 + f64::from(i * 7919 % 300) * f64::EPSILON).collect();
        assert_eq!(ranks(&x), (0..300).map(|i| f64::from(i * 7919 % 300) + 1.0).collect::<Vec<_>>());
    }
}
