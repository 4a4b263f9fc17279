//! Kendall's tau-b of every pair of rows.
//!
//! Going through the elements in the order of one row, the discordant pairs are, for each element, those met before it
//! that lie above it in the other row. Elements met are bits at their place in the other row, with counts of the bits
//! before every bucket of places in two levels: a question costs two loads and a few population counts, an answer two
//! additions of vectors, where merging needs log n unpredictable branches.

use crate::order::{Nan, Order};
use crate::sort::Sorter;
use dither_cpu::dispatch;
use dither_cpu::threads::for_each;

/// A row of numbers in the forms that pairs need.
pub struct Row {
    /// Positions, ascending by value.
    order: Vec<u32>,
    /// Ends of the runs of equal values in `order`; empty where no two are equal.
    ends: Vec<u32>,
    /// The place of every element in `order`.
    place: Vec<u32>,
    /// The last place of its run; empty where no two are equal.
    last: Vec<u32>,
    /// Pairs of equal values.
    ties: u64,
}

impl Row {
    pub fn new(x: &[f64], sorter: &mut Sorter) -> Result<Row, Nan> {
        let mut sorted = Order::default();
        sorter.sort(x, &mut sorted)?;
        let Order { positions: order, ties } = sorted;
        let mut place = vec![0; x.len()];
        for (at, element) in order.iter().enumerate() {
            place[*element as usize] = at as u32;
        }
        let (mut last, mut ends, mut pairs) = (Vec::new(), Vec::new(), 0);
        if !ties.is_empty() {
            last.clone_from(&place);
        }
        for (start, end) in &ties {
            let count = u64::from(end - start);
            pairs += count * (count - 1) / 2;
            // Between runs, every element is one.
            ends.extend(ends.last().copied().unwrap_or(0) + 1..=*start);
            ends.push(*end);
            order[*start as usize..*end as usize].iter().for_each(|element| last[*element as usize] = end - 1);
        }
        if let Some(end) = ends.last().copied() {
            ends.extend(end + 1..=x.len() as u32);
        }
        Ok(Row { order, ends, place, last, ties: pairs })
    }

    fn last(&self) -> &[u32] {
        if self.last.is_empty() { &self.place } else { &self.last }
    }
}

const LANES: usize = 16;

/// Places met so far: a bit each, in 16 x 16 buckets.
struct Met {
    bits: Vec<u64>,
    /// Places met in the rows of buckets before each row, and in the buckets of a row before each bucket.
    rows: [u32; LANES],
    buckets: [[u32; LANES]; LANES],
    /// Words of a bucket, as a power of two.
    shift: u32,
    count: u32,
}

impl Met {
    fn new(n: usize) -> Met {
        let words = n.div_ceil(64 * LANES * LANES).max(1).next_power_of_two();
        let (rows, buckets) = ([0; LANES], [[0; LANES]; LANES]);
        Met { bits: vec![0; n.div_ceil(64)], rows, buckets, shift: words.ilog2(), count: 0 }
    }

    fn clear(&mut self) {
        self.bits.fill(0);
        (self.rows, self.buckets, self.count) = ([0; LANES], [[0; LANES]; LANES], 0);
    }

    /// Places met that lie above this one.
    #[inline(always)]
    fn above(&self, place: u32) -> u32 {
        let word = place as usize / 64;
        let bucket = word >> self.shift;
        let (row, column) = (bucket / LANES % LANES, bucket % LANES);
        let mut upto = self.rows[row] + self.buckets[row][column];
        upto += (self.bits[word] << (63 - place % 64)).count_ones();
        for bits in &self.bits[bucket << self.shift..word] {
            upto += bits.count_ones();
        }
        self.count - upto
    }

    #[inline(always)]
    fn meet(&mut self, place: u32) {
        let word = place as usize / 64;
        self.bits[word] |= 1 << (place % 64);
        self.count += 1;
        let bucket = word >> self.shift;
        let (row, column) = (bucket / LANES % LANES, bucket % LANES);
        for lane in 0..LANES {
            self.rows[lane] += u32::from(lane > row);
            self.buckets[row][lane] += u32::from(lane > column);
        }
    }
}

#[inline(always)]
fn discordant_body(x: &Row, y: &Row, met: &mut Met) -> u64 {
    met.clear();
    let last = y.last();
    let mut discordant = 0u64;
    if x.ends.is_empty() {
        for element in &x.order {
            discordant += u64::from(met.above(last[*element as usize]));
            met.meet(y.place[*element as usize]);
        }
        return discordant;
    }
    let mut start = 0;
    for end in &x.ends {
        // Elements that are equal in x are no discordant pairs: all ask before any is met.
        let run = &x.order[start..*end as usize];
        run.iter().for_each(|element| discordant += u64::from(met.above(last[*element as usize])));
        run.iter().for_each(|element| met.meet(y.place[*element as usize]));
        start = *end as usize;
    }
    discordant
}

dispatch! { fn discordant(x: &Row, y: &Row, met: &mut Met) -> u64 = discordant_body; }

/// Pairs that are equal in both rows.
fn joint_ties(x: &Row, y: &Row) -> u64 {
    let (mut start, mut joint, mut values) = (0, 0, Vec::new());
    for end in &x.ends {
        let run = &x.order[start..*end as usize];
        start = *end as usize;
        if run.len() > 1 {
            values.clear();
            values.extend(run.iter().map(|element| y.last()[*element as usize]));
            values.sort_unstable();
            joint += values.chunk_by(|a, b| a == b).map(|c| (c.len() * (c.len() - 1) / 2) as u64).sum::<u64>();
        }
    }
    joint
}

/// tau-b; NaN where a row has one value only.
fn tau(x: &Row, y: &Row, met: &mut Met) -> f64 {
    let n = x.order.len() as i64;
    let pairs = n * (n - 1) / 2;
    let joint = if x.ties == 0 || y.ties == 0 { 0 } else { joint_ties(x, y) as i64 };
    let (ties_x, ties_y) = (x.ties as i64, y.ties as i64);
    let excess = pairs - ties_x - ties_y + joint - 2 * discordant(x, y, met) as i64;
    let scale = ((pairs - ties_x) as f64).sqrt() * ((pairs - ties_y) as f64).sqrt();
    if scale > 0.0 { (excess as f64 / scale).clamp(-1.0, 1.0) } else { f64::NAN }
}

/// tau-b of rows i < j, for i = 0, 1, ... (rows - 1 values, then rows - 2, ...). `None` where `give_up` said yes.
pub fn pairs(rows: &[Row], threads: usize, give_up: &dyn Fn() -> bool) -> Option<Vec<f64>> {
    let n = rows.first().map_or(0, |row| row.order.len());
    let results: Vec<std::sync::Mutex<Vec<f64>>> = rows.iter().map(|_| Default::default()).collect();
    let complete = for_each(rows.len(), threads, give_up, |i| {
        let mut met = Met::new(n);
        let taus: Vec<f64> = rows[i + 1..].iter().map(|y| tau(&rows[i], y, &mut met)).collect();
        *results[i].lock().unwrap_or_else(|e| e.into_inner()) = taus;
    });
    complete.then(|| results.into_iter().flat_map(|r| r.into_inner().unwrap_or_else(|e| e.into_inner())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of elements, as the definition has it.
    fn definition(x: &[f64], y: &[f64]) -> f64 {
        let (mut excess, mut in_x, mut in_y) = (0.0, 0.0f64, 0.0f64);
        for i in 0..x.len() {
            for j in 0..i {
                let (a, b) = ((x[i] - x[j]), (y[i] - y[j]));
                let sign = |d: f64| if d == 0.0 { 0.0 } else { d.signum() };
                excess += sign(a) * sign(b);
                in_x += sign(a).abs();
                in_y += sign(b).abs();
            }
        }
        excess / (in_x.sqrt() * in_y.sqrt())
    }

    #[test]
    fn it_is_the_definition() {
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for (n, values) in [(2, 5), (3, 2), (64, 1000), (65, 3), (257, 20), (700, 1 << 30), (1500, 40)] {
            let data: Vec<Vec<f64>> = (0..3).map(|_| (0..n).map(|_| next(values) as f64).collect()).collect();
            let rows: Vec<Row> = data.iter().map(|x| Row::new(x, &mut Sorter::default()).unwrap()).collect();
            let taus = pairs(&rows, 2, &|| false).unwrap();
            for (tau, (i, j)) in taus.iter().zip([(0, 1), (0, 2), (1, 2)]) {
                let expected = definition(&data[i], &data[j]);
                assert!((tau - expected).abs() < 1e-14 || tau.is_nan() && expected.is_nan(), "{n} {tau} {expected}");
            }
        }
    }
}
