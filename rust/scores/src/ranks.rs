//! Ranks with ties: equal elements share the mean of their places.

use crate::sort::{Item, Sorter, runs};

/// Write the rank of every element, counted from 1. No element is NaN.
pub fn rank<T: Item + From<(usize, X)>, X: Copy>(x: &[X], out: &mut [f64], sorter: &mut Sorter<T>) {
    let sorted = sorter.sort(x.iter().copied());
    runs(sorted, |start, end| {
        let rank = (start + end + 1) as f64 / 2.0;
        sorted[start..end].iter().for_each(|item| out[item.position()] = rank);
    });
}

#[cfg(test)]
mod tests {
    use super::rank;
    use crate::sort::{Narrow, Sorter, Wide};

    #[test]
    fn equal_elements_share_their_places() {
        let x = [3.0, -0.0, f64::INFINITY, 0.0, 3.0, -7.5, f64::NEG_INFINITY, 3.0];
        let (mut wide, mut narrow) = ([0.0; 8], [0.0; 8]);
        rank::<Wide, f64>(&x, &mut wide, &mut Sorter::default());
        rank::<Narrow, f32>(&x.map(|x| x as f32), &mut narrow, &mut Sorter::default());
        assert_eq!(wide, [6.0, 3.5, 8.0, 3.5, 6.0, 2.0, 1.0, 6.0]);
        assert_eq!(wide, narrow);
    }
}
