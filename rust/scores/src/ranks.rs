//! Ranks with ties: equal elements share the mean of their places.

use crate::order::{Listener, Nan};
use crate::places::Number;
use crate::sort::Sorter;
use dither_cpu::dispatch;

/// Memory of ranks, kept from one row to the next.
#[derive(Default)]
pub struct Ranker {
    sorter: Sorter,
    /// Ranks in units of one half. They are written in the order of the numbers, that is everywhere at once, and read
    /// from here: the row of the result is in no cache yet.
    halves: Vec<u32>,
}

impl Ranker {
    /// Write the rank of every element, from 1. At most 2^31 elements.
    pub fn rank<T: Number>(&mut self, x: &[T], out: &mut [f64]) -> Result<(), Nan> {
        self.take(x)?;
        half(&self.halves, out);
        Ok(())
    }

    /// Write ranks less their mean, exact for at most 2^22 elements.
    pub fn centred<T: Number>(&mut self, x: &[T], out: &mut [f32]) -> Result<(), Nan> {
        self.take(x)?;
        centred(&self.halves, out);
        Ok(())
    }

    fn take<T: Number>(&mut self, x: &[T]) -> Result<(), Nan> {
        self.halves.resize(x.len(), 0);
        self.sorter.tell(x, &mut Halves(&mut self.halves))
    }
}

struct Halves<'a>(&'a mut [u32]);

impl Listener for Halves<'_> {
    #[inline(always)]
    fn one(&mut self, position: u32, place: u32) {
        self.0[position as usize] = 2 * (place + 1);
    }

    fn equal(&mut self, positions: &[u32], place: u32) {
        let both = 2 * place + 1 + positions.len() as u32; // the first rank and the last
        positions.iter().for_each(|position| self.0[*position as usize] = both);
    }
}

#[inline(always)]
fn half_body(halves: &[u32], out: &mut [f64]) {
    for (out, halves) in out.iter_mut().zip(halves) {
        *out = f64::from(*halves) / 2.0;
    }
}

dispatch! { fn half(halves: &[u32], out: &mut [f64]) = half_body; }

#[inline(always)]
fn centred_body(halves: &[u32], out: &mut [f32]) {
    let mean = halves.len() as u32 + 1;
    for (out, halves) in out.iter_mut().zip(halves) {
        *out = halves.wrapping_sub(mean) as i32 as f32 / 2.0;
    }
}

dispatch! { fn centred(halves: &[u32], out: &mut [f32]) = centred_body; }

#[cfg(test)]
mod tests {
    use super::Ranker;
    use crate::places::Number;

    fn ranks<T: Number>(x: &[T]) -> Vec<f64> {
        let mut out = vec![0.0; x.len()];
        Ranker::default().rank(x, &mut out).expect("no NaN");
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
