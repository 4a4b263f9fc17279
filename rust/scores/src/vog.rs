//! Variance of gradients (Agarwal et al., 2008.11600): how much the gradient of an example's class moves over checkpoints.

use crate::values::Values;
use dither_cpu::dispatch;
use dither_cpu::threads::for_each;

/// Elements of a share: they stay in the first-level cache between the passes.
const SHARE: usize = 2048;
const LANES: usize = 16;

/// What is averaged over an example's elements: the variance (sum of squares over K - ddof) or its root.
#[derive(Clone, Copy)]
pub struct Statistic {
    pub root: bool,
    pub ddof: usize,
}

#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: every thread works on its own range.
unsafe impl<T> Sync for Shared<T> {}

#[inline(always)]
fn welford_body(x: &[f32], mean: &mut [f32], squares: &mut [f32], share: f32) {
    for ((x, mean), squares) in x.iter().zip(mean).zip(squares) {
        let before = x - *mean;
        *mean += before * share;
        *squares += before * (x - *mean);
    }
}

dispatch! { fn welford(x: &[f32], mean: &mut [f32], squares: &mut [f32], share: f32) = welford_body; }

/// Take in the gradients of the `count`-th checkpoint (counted from 1): `len` elements. False where `give_up` said yes.
///
/// # Safety
/// The arrays have `len` elements and do not overlap.
pub unsafe fn update(
    x: Values,
    (mean, squares): (*mut f32, *mut f32),
    len: usize,
    count: u32,
    threads: usize,
    give_up: &dyn Fn() -> bool,
) -> bool {
    const UNIT: usize = 64 * SHARE;
    let (mean, squares) = (Shared(mean), Shared(squares));
    for_each(len.div_ceil(UNIT), threads, give_up, |unit| {
        let (mean, squares) = (&mean, &squares);
        let mut scratch = [0.0; SHARE];
        for start in (unit * UNIT..len.min((unit + 1) * UNIT)).step_by(SHARE) {
            let n = SHARE.min(len - start);
            // SAFETY: the range lies in the arrays and belongs to this thread.
            unsafe {
                let mean = std::slice::from_raw_parts_mut(mean.0.add(start), n);
                let squares = std::slice::from_raw_parts_mut(squares.0.add(start), n);
                welford(x.view(start, &mut scratch[..n]), mean, squares, 1.0 / count as f32);
            }
        }
    })
}

#[inline(always)]
fn sum_body(squares: &[f32], divisor: f32, root: bool) -> f64 {
    let mut sums = [0.0f64; LANES];
    let value = |s: f32| if root { (s / divisor).sqrt() } else { s / divisor };
    let mut chunks = squares.chunks_exact(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            sums[i] += f64::from(value(chunk[i]));
        }
    }
    let rest: f64 = chunks.remainder().iter().map(|s| f64::from(value(*s))).sum();
    sums.iter().sum::<f64>() + rest
}

dispatch! { fn sum(squares: &[f32], divisor: f32, root: bool) -> f64 = sum_body; }

/// The mean over each example's elements; `squares` is examples x `size`, after `count` checkpoints.
pub fn reduce(squares: &[f32], size: usize, count: usize, statistic: Statistic, out: &mut [f64]) {
    let divisor = (count - statistic.ddof) as f32;
    for (out, squares) in out.iter_mut().zip(squares.chunks_exact(size)) {
        *out = sum(squares, divisor, statistic.root) / size as f64;
    }
}

/// Welford's update of zeros; what is not finite gives NaN.
#[inline(always)]
fn first_body(x: &[f32], mean: &mut [f32], squares: &mut [f32]) {
    for ((x, mean), squares) in x.iter().zip(mean).zip(squares) {
        (*mean, *squares) = (*x, x * 0.0);
    }
}

/// Elements of an example that are reduced together, their state in the first-level cache.
const TOGETHER: usize = 4096;
/// Elements that are asked for before their turn: the processor's own look-ahead ends with the page of 4 KiB.
const AHEAD: usize = 1024;

#[inline(always)]
fn example_body(x: &Values, start: usize, (count, size): (usize, usize), statistic: Statistic) -> f64 {
    let (mut mean, mut squares, mut scratch) = ([0.0f32; TOGETHER], [0.0f32; TOGETHER], [0.0f32; TOGETHER]);
    let mut total = 0.0;
    for from in (0..size).step_by(TOGETHER) {
        let n = TOGETHER.min(size - from);
        let (mean, squares) = (&mut mean[..n], &mut squares[..n]);
        for k in 0..count {
            let at = start + k * size + from;
            // SAFETY: the example lies in the array.
            let x_now = unsafe { x.view(at, &mut scratch[..n]) };
            let vectors = x_now.chunks(LANES).zip(mean.chunks_mut(LANES)).zip(squares.chunks_mut(LANES));
            for (i, ((now, mean), squares)) in vectors.enumerate() {
                x.prefetch(at + i * LANES + AHEAD);
                match k {
                    0 => first_body(now, mean, squares),
                    _ => welford_body(now, mean, squares, 1.0 / (k + 1) as f32),
                }
            }
        }
        total += sum_body(squares, (count - statistic.ddof) as f32, statistic.root);
    }
    total / size as f64
}

dispatch! { fn example(x: &Values, start: usize, shape: (usize, usize), statistic: Statistic) -> f64 = example_body; }

/// The same at once, from gradients of examples x checkpoints x elements. False where `give_up` said yes.
///
/// # Safety
/// The arrays have these sizes and do not overlap.
pub unsafe fn examples(
    x: Values,
    (n, count, size): (usize, usize, usize),
    statistic: Statistic,
    out: *mut f64,
    threads: usize,
    give_up: &dyn Fn() -> bool,
) -> bool {
    let out = Shared(out);
    for_each(n, threads, give_up, |i| {
        let out = &out;
        let value = example(&x, i * count * size, (count, size), statistic);
        // SAFETY: element i belongs to this thread.
        unsafe { *out.0.add(i) = value };
    })
}
