//! What a sort tells: where every number is in order, and which are equal.

use crate::buckets::Item;
use crate::places::Number;

/// Some number is NaN, which has no place in any order.
#[derive(Debug, PartialEq, Eq)]
pub struct Nan;

/// Hears where numbers are in order; the last word about a number counts.
pub trait Listener {
    /// The number at `position` is the one at `place`.
    fn one(&mut self, position: u32, place: u32);
    /// The numbers at these positions, which ascend, are equal; the first is the one at `place`.
    fn equal(&mut self, positions: &[u32], place: u32);
}

/// The positions of numbers in order, equal ones by position; and the runs of equal ones there, `(start, end)`.
#[derive(Default)]
pub struct Order {
    pub positions: Vec<u32>,
    pub ties: Vec<(u32, u32)>,
}

impl Listener for Order {
    #[inline(always)]
    fn one(&mut self, position: u32, place: u32) {
        self.positions[place as usize] = position;
    }

    fn equal(&mut self, positions: &[u32], place: u32) {
        let end = place + positions.len() as u32;
        self.positions[place as usize..end as usize].copy_from_slice(positions);
        self.ties.push((place, end));
    }
}

/// Tells a listener about numbers of `x`.
pub struct Teller<'a, T, L> {
    pub x: &'a [T],
    /// Memory of those that share a place.
    pub positions: &'a mut Vec<u32>,
    pub listener: &'a mut L,
}

impl<T: Number, L: Listener> Teller<'_, T, L> {
    /// Tell of sorted items, the first of which is at `place`.
    pub fn sorted<I: Item>(&mut self, items: &[I], place: u32) {
        let mut start = place;
        for run in items.chunk_by(|a, b| a.differ(*b) < I::STEP) {
            match run {
                [item] => self.listener.one(item.position(), start),
                _ => self.shared(run.iter().map(|item| item.position()), start),
            }
            start += run.len() as u32;
        }
    }

    /// Tell of numbers that share a place or a key; their positions ascend.
    pub fn shared(&mut self, positions: impl Iterator<Item = u32>, place: u32) {
        self.positions.clear();
        self.positions.extend(positions);
        let value = |position: &u32| self.x[*position as usize];
        if !self.positions.is_sorted_by(|a, b| value(a) <= value(b)) {
            self.positions.sort_by(|a, b| value(a).partial_cmp(&value(b)).expect("no NaN"));
        }
        let mut start = place;
        for run in self.positions.chunk_by(|a, b| value(a) == value(b)) {
            match run {
                [one] => self.listener.one(*one, start),
                _ => self.listener.equal(run, start),
            }
            start += run.len() as u32;
        }
    }
}
