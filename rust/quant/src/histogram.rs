//! How many elements fall where: between edges, under each exponent, on each code. Counts are integers, so the number of
//! threads cannot matter.

use crate::dtype::Memory;
use crate::pack::{row_bytes, unpack};
use crate::pool;
use dither_numerics::floor_log2;
use std::sync::Mutex;

/// Elements counted before counts are added up.
const PART: usize = 1 << 16;

/// Exponents from the smallest fp64 subnormal to the largest number.
pub const FIRST_EXPONENT: i32 = -1074;
pub const EXPONENTS: usize = 1024 + 1074;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    pub counts: Vec<u64>,
    pub zeros: u64,
    /// NaN and infinite elements, which are counted nowhere else.
    pub nonfinite: u64,
    /// Elements before the first edge, and after the last.
    pub below: u64,
    pub above: u64,
}

impl Histogram {
    fn new(bins: usize) -> Histogram {
        Histogram { counts: vec![0; bins], ..Histogram::default() }
    }

    fn add(&mut self, other: &Histogram) {
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
        self.zeros += other.zeros;
        self.nonfinite += other.nonfinite;
        self.below += other.below;
        self.above += other.above;
    }
}

fn parts(bins: usize, len: usize, threads: usize, count: impl Fn(usize, usize, &mut Histogram) + Sync) -> Histogram {
    let total = Mutex::new(Histogram::new(bins));
    pool::for_each(len.div_ceil(PART), threads, |i| {
        let mut part = Histogram::new(bins);
        count(i * PART, PART.min(len - i * PART), &mut part);
        total.lock().expect("no thread panics while it holds the lock").add(&part);
    });
    total.into_inner().expect("as above")
}

/// Calls `place` for the finite elements, after counting zeros and the rest.
///
/// # Safety
/// `x` points to `len` elements that nobody writes meanwhile.
unsafe fn each(
    bins: usize,
    x: Memory,
    len: usize,
    threads: usize,
    place: impl Fn(f64, &mut Histogram) + Sync,
) -> Histogram {
    parts(bins, len, threads, |start, n, part| {
        let mut data = vec![0f64; n];
        // SAFETY: the caller's contract; parts lie in the array.
        unsafe { x.load_f64(start, &mut data) };
        for x in data {
            if x.is_finite() {
                part.zeros += u64::from(x == 0.0);
                place(x, part);
            } else {
                part.nonfinite += 1;
            }
        }
    })
}

/// Elements with `edges[i] <= x < edges[i + 1]`; the last bin takes the last edge too, as numpy's. Edges ascend.
///
/// # Safety
/// `x` points to `len` elements that nobody writes meanwhile.
pub unsafe fn values(x: Memory, len: usize, edges: &[f64], threads: usize) -> Histogram {
    let bins = edges.len() - 1;
    // Most edges are equally far apart: where the bin that this would make it is not the right one, it is looked for.
    let a_bin = bins as f64 / (edges[bins] - edges[0]);
    let place = |x: f64, part: &mut Histogram| {
        let guess = (((x - edges[0]) * a_bin) as usize).min(bins - 1);
        if edges[guess] <= x && x < edges[guess + 1] {
            part.counts[guess] += 1;
            return;
        }
        match edges.partition_point(|e| *e <= x) {
            0 => part.below += 1,
            i if i <= bins => part.counts[i - 1] += 1,
            _ if x == edges[bins] => part.counts[bins - 1] += 1,
            _ => part.above += 1,
        }
    };
    // SAFETY: the caller's contract.
    unsafe { each(bins, x, len, threads, place) }
}

/// Elements with `floor(log2 |x|) = FIRST_EXPONENT + i`; zeros are not among them.
///
/// # Safety
/// As for [`values`].
pub unsafe fn exponents(x: Memory, len: usize, threads: usize) -> Histogram {
    /// The field of the exponent of fp64: 0 for zero and subnormal numbers, the last one for what is not finite.
    const FIELDS: usize = 1 << 11;
    parts(EXPONENTS, len, threads, |start, n, part| {
        let mut data = vec![0f64; n];
        // SAFETY: the caller's contract; parts lie in the array.
        unsafe { x.load_f64(start, &mut data) };
        // Neighbours have like exponents: counted in one place, each would wait for the one before.
        let mut fields = [[0u64; FIELDS]; 4];
        for four in data.chunks(4) {
            for (fields, x) in fields.iter_mut().zip(four) {
                fields[(x.to_bits() >> 52) as usize % FIELDS] += 1;
            }
        }
        let counts = |field: usize| fields.iter().map(|fields| fields[field]).sum::<u64>();
        for field in 1..FIELDS - 1 {
            part.counts[(field as i32 - 1023 - FIRST_EXPONENT) as usize] += counts(field);
        }
        part.nonfinite += counts(FIELDS - 1);
        if counts(0) > 0 {
            for x in data.iter().filter(|x| x.abs() < f64::MIN_POSITIVE) {
                match *x == 0.0 {
                    true => part.zeros += 1,
                    false => part.counts[(floor_log2(x.abs()) - FIRST_EXPONENT) as usize] += 1,
                }
            }
        }
    })
}

/// How often each code of up to 16 bits occurs in rows of bits.
///
/// # Safety
/// `codes` points to `rows` rows of `n` codes that nobody writes meanwhile.
pub unsafe fn codes(codes: *const u8, rows: usize, n: usize, width: u32, threads: usize) -> Vec<u64> {
    let bytes = row_bytes(n, width).expect("the codes exist");
    let address = codes as usize;
    let count = |first: usize, some: usize, part: &mut Histogram| {
        let mut row = vec![0u32; n];
        for r in first..first + some {
            // SAFETY: the caller's contract.
            let bits = unsafe { std::slice::from_raw_parts((address as *const u8).add(r * bytes), bytes) };
            unpack(bits, width, &mut row);
            row.iter().for_each(|code| part.counts[*code as usize] += 1);
        }
    };
    parts(1 << width, rows, threads, count).counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_exponents_and_codes() {
        let x = [0.0f32, -0.0, 1.0, 1.5, 2.0, 3.0, -1.0, 4.0, 9.0, f32::NAN, f32::INFINITY, f32::from_bits(1)];
        let memory = Memory::F32(x.as_ptr());
        // SAFETY: the array has twelve elements.
        let (v, e) = unsafe { (values(memory, 12, &[0.0, 1.0, 2.0, 4.0], 1), exponents(memory, 12, 2)) };
        assert_eq!((v.counts, v.below, v.above, v.nonfinite, v.zeros), (vec![3, 2, 3], 1, 1, 2, 2));
        let at = |exponent: i32| e.counts[(exponent - FIRST_EXPONENT) as usize];
        assert_eq!((at(0), at(1), at(2), at(3), at(-149)), (3, 2, 1, 1, 1));
        assert_eq!((e.counts.iter().sum::<u64>(), e.zeros, e.nonfinite), (8, 2, 2));
        // SAFETY: two rows of three codes of three bits, two bytes each.
        let counts = unsafe { codes([0b10_001_111u8, 1, 0, 0].as_ptr(), 2, 3, 3, 1) };
        assert_eq!(counts, [3, 1, 0, 0, 0, 0, 1, 1]);
    }
}
