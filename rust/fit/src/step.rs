//! One step of a search, within a box.

use crate::evaluate::{Sums, TRIANGLE};
use crate::linear::{at, factor, solve_factored};
use crate::model::MAX_PARAMS;

/// The step that minimises the damped quadratic model between `low` and `high`, and what the undamped one promises for
/// it.
///
/// A parameter whose step would leave its interval goes to the end of it, and the others are solved for again with it
/// there: cutting a step short in one direction alone need not go downhill. `None` where the matrix is not positive
/// definite, or the ends of intervals leave no way down.
pub(crate) fn step(
    sums: &Sums,
    free: &[usize],
    low: &[f64; MAX_PARAMS],
    high: &[f64; MAX_PARAMS],
    damping: f64,
) -> Option<([f64; MAX_PARAMS], f64)> {
    let mut full = [0.0; MAX_PARAMS];
    let mut moving = [0; MAX_PARAMS];
    moving[..free.len()].copy_from_slice(free);
    let mut count = free.len();
    loop {
        let solved = solve(sums, &moving[..count], &full, damping)?;
        let mut left = 0;
        for (i, &m) in moving[..count].to_owned().iter().enumerate() {
            if solved[i] < low[m] || solved[i] > high[m] {
                full[m] = solved[i].max(low[m]).min(high[m]);
            } else {
                moving[left] = m;
                left += 1;
            }
        }
        if left == count {
            (0..count).for_each(|i| full[moving[i]] = solved[i]);
            break;
        }
        count = left;
    }
    let mut promise = 0.0;
    for &m in free {
        let bend: f64 = free.iter().map(|&k| sums.matrix[at(m.max(k), m.min(k))] * full[k]).sum();
        promise -= full[m] * (sums.gradient[m] + 0.5 * bend);
    }
    let cut = count < free.len();
    (promise.is_finite() && (promise > 0.0 || !cut)).then_some((full, promise.max(0.0)))
}

/// Steps of the `moving` parameters, the others going where `full` says.
fn solve(sums: &Sums, moving: &[usize], full: &[f64; MAX_PARAMS], damping: f64) -> Option<[f64; MAX_PARAMS]> {
    let (n, mut a, mut s) = (moving.len(), [0.0; TRIANGLE], [0.0; MAX_PARAMS]);
    // In units where every parameter's robust curvature is 1, exponents and logarithms of coefficients compare.
    let mut unit = [0.0; MAX_PARAMS];
    for (u, &m) in unit.iter_mut().zip(moving) {
        *u = sums.scale[m].max(f64::MIN_POSITIVE).sqrt().recip();
    }
    for (i, &m) in moving.iter().enumerate() {
        for (j, &k) in moving[..=i].iter().enumerate() {
            a[at(i, j)] = sums.matrix[at(m.max(k), m.min(k))] * unit[i] * unit[j];
        }
        a[at(i, i)] += damping;
        let pulled: f64 = (0..MAX_PARAMS)
            .filter(|k| full[*k] != 0.0 && !moving.contains(k))
            .map(|k| sums.matrix[at(m.max(k), m.min(k))] * full[k])
            .sum();
        s[i] = -(sums.gradient[m] + pulled) * unit[i];
    }
    if !factor(&mut a[..n * (n + 1) / 2], n) {
        return None;
    }
    solve_factored(&a, &mut s[..n]);
    (0..n).for_each(|i| s[i] *= unit[i]);
    Some(s)
}
