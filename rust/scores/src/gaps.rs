//! Shapley values under a nearest-neighbour vote without sorting all examples: which two marks each lies between (see
//! [`crate::shapley`]).

use crate::order::Order;
use crate::sort::Sorter;
use dither_cpu::dispatch;

/// The rarer kind of examples: those that have a label, or those that have it not.
#[derive(Clone, Copy)]
pub struct Marks<'a> {
    /// Ascending.
    pub positions: &'a [u32],
    pub label: u32,
    /// Whether marks have the label.
    pub right: bool,
}

/// The examples of one test in the order of their distance, as far as values need it.
#[derive(Default)]
pub struct Gaps {
    /// Distances of the marks.
    far: Vec<f32>,
    sorter: Sorter,
    sorted: Order,
    /// Distances of the marks in order, with infinity behind; and the marks' positions in that order.
    edges: Vec<f32>,
    order: Vec<u32>,
    /// Of every 32 parts of the edges' range, all of one width: a bit for each that holds edges, and the edges before.
    /// And one more, behind all edges.
    parts: Vec<(u32, u32)>,
    /// Which of `values` an example has: that of its gap, or a mark's, behind those of the gaps.
    of: Vec<u32>,
    /// How many lie in a gap.
    counts: Vec<u32>,
    values: Vec<f64>,
}

impl Gaps {
    /// Add to every example its value for one test. `worth`: what a change of the label at each place is worth.
    pub fn add(&mut self, distances: &[f32], labels: &[u32], marks: Marks, worth: &[f64], sum: &mut [f64]) {
        let n = labels.len();
        assert!(distances.len() == n && worth.len() == n && sum.len() == n);
        // Read in order once, so that marks, which are all over the row, are near then.
        assert!(!any_nan(distances), "no distance is NaN");
        self.order(distances, marks.positions);
        let range = self.divide();
        self.of.resize(n, 0);
        self.counts.clear();
        self.counts.resize(self.edges.len(), 0);
        find(self, distances, labels, marks, range);
        self.value(marks.right, worth);
        gather(&self.values, &self.of, sum);
    }

    /// The marks in order.
    fn order(&mut self, distances: &[f32], marks: &[u32]) {
        self.far.clear();
        self.far.extend(marks.iter().map(|mark| distances[*mark as usize]));
        self.sorter.sort(&self.far, &mut self.sorted).expect("no distance is NaN");
        let sorted = &self.sorted.positions;
        self.edges.clear();
        self.edges.extend(sorted.iter().map(|mark| self.far[*mark as usize]));
        self.edges.push(f32::INFINITY);
        self.order.clear();
        self.order.extend(sorted.iter().map(|mark| marks[*mark as usize]));
    }

    /// Divide the range of the edges into parts. Returns its low end, and the parts in a unit of distance.
    fn divide(&mut self) -> (f32, f32) {
        let edges = &self.edges[..self.order.len()];
        let parts = (PARTS * edges.len()).next_power_of_two().clamp(32, MOST_PARTS);
        let (low, high) = edges.first().zip(edges.last()).map_or((0.0, 0.0), |(low, high)| (*low, *high));
        let scale = parts as f32 / (high - low);
        let scale = if scale.is_finite() && low.is_finite() { scale } else { 0.0 };
        self.parts.clear();
        self.parts.resize(parts / 32 + 1, (0, 0));
        for edge in edges {
            let part = part(*edge, low, scale, parts);
            let (bits, here) = &mut self.parts[part / 32];
            *bits |= 1 << (part % 32);
            *here += 1;
        }
        let mut before = 0;
        for (_, edges) in &mut self.parts {
            before += std::mem::replace(edges, before);
        }
        (low, scale)
    }

    /// The value of every gap and mark, from the farthest on.
    fn value(&mut self, right: bool, worth: &[f64]) {
        let marks = self.order.len();
        let (own, other) = if right { (1.0, 0.0) } else { (0.0, 1.0) };
        self.values.clear();
        self.values.resize(2 * marks + 1, 0.0);
        // Between marks there are others or not: a coin toss, so that both are worked out and one is taken.
        let (mut s, mut next, mut place) = (0.0, 0.0, worth.len());
        let worth = |place: usize| worth[place.max(1) - 1];
        for gap in (0..=marks).rev() {
            let count = self.counts[gap] as usize;
            s += if count > 0 { (other - next) * worth(place) } else { 0.0 };
            next = if count > 0 { other } else { next };
            self.values[gap] = s;
            place -= count;
            if let Some(mark) = gap.checked_sub(1) {
                s += (own - next) * worth(place);
                next = own;
                let slot = marks + gap;
                self.values[slot] = s;
                self.of[self.order[mark] as usize] = slot as u32;
                place -= 1;
            }
        }
    }
}

/// The part of the range where a number lies. Numbers in order have parts in order.
#[inline(always)]
fn part(x: f32, low: f32, scale: f32, parts: usize) -> usize {
    let (place, last) = ((x - low) * scale, (parts - 1) as f32);
    let place = if place > 0.0 { place } else { 0.0 }; // also where it is NaN, of infinity
    let place = if place < last { place } else { last };
    // SAFETY: it lies between 0 and the last part, of which there are less than 2^31.
    unsafe { place.to_int_unchecked::<i32>() as usize }
}

/// Examples whose parts are found at a time.
const BLOCK: usize = 1024;

/// Parts of the range for every edge: few have more than one edge, and all have their bits in the nearest cache.
const PARTS: usize = 16;

/// fp32 tells all of so many parts apart.
const MOST_PARTS: usize = 1 << 23;

/// Edges that an example goes on to one by one before it bisects.
const FURTHER: u32 = 8;

#[inline(always)]
fn find_body(gaps: &mut Gaps, distances: &[f32], labels: &[u32], marks: Marks, (low, scale): (f32, f32)) {
    let parts = 32 * (gaps.parts.len() - 1);
    let mut found = [0u32; BLOCK];
    let blocks = distances.chunks(BLOCK).zip(labels.chunks(BLOCK)).zip(gaps.of.chunks_mut(BLOCK));
    for (block, ((distances, labels), of)) in blocks.enumerate() {
        for ((found, x), label) in found.iter_mut().zip(distances).zip(labels) {
            // Marks, whose values are known otherwise, go behind all edges.
            let mark = (*label == marks.label) == marks.right;
            *found = if mark { parts } else { part(*x, low, scale, parts) } as u32;
        }
        for (i, ((of, x), part)) in of.iter_mut().zip(distances).zip(&found).enumerate() {
            // SAFETY: a part is at most `parts`. A gap is at most the number of marks, below that of edges and counts: the
            // edge of that number, infinity, is below nothing, so that steps end there.
            unsafe {
                let (bits, before) = *gaps.parts.get_unchecked(*part as usize / 32);
                // Edges before this one, or fewer where parts that hold several are among the 32.
                let mut gap = before + (bits & !(u32::MAX << (part % 32))).count_ones();
                gap += u32::from(*gaps.edges.get_unchecked(gap as usize) < *x);
                if *gaps.edges.get_unchecked(gap as usize) <= *x {
                    gap = further(&gaps.edges, &gaps.order, gap, (*x, (block * BLOCK + i) as u32));
                }
                *gaps.counts.get_unchecked_mut(gap as usize) += 1;
                *of = gap;
            }
        }
    }
    gaps.counts[marks.positions.len()] -= marks.positions.len() as u32;
}

dispatch! {
    /// Find every example's gap, and count the members of each.
    fn find(gaps: &mut Gaps, distances: &[f32], labels: &[u32], marks: Marks, range: (f32, f32)) = find_body;
}

/// The first edge from `gap` on that an example is not behind. Of equal distances the first position is nearer.
fn further(edges: &[f32], order: &[u32], mut gap: u32, (x, i): (f32, u32)) -> u32 {
    let last = gap + FURTHER;
    while gap < last && edges[gap as usize] < x {
        gap += 1;
    }
    if edges[gap as usize] <= x {
        let (edges, order) = (&edges[gap as usize..], &order[gap as usize..]);
        let smaller = edges[..order.len()].partition_point(|edge| *edge < x);
        let equal = edges[smaller..order.len()].partition_point(|edge| *edge <= x);
        gap += (smaller + order[smaller..smaller + equal].partition_point(|mark| *mark < i)) as u32;
    }
    gap
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

#[inline(always)]
fn any_nan_body(x: &[f32]) -> bool {
    x.chunks(256).fold(false, |any, x| any | x.iter().fold(false, |any, x| any | x.is_nan()))
}

dispatch! { fn any_nan(x: &[f32]) -> bool = any_nan_body; }
