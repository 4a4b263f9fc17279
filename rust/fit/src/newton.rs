//! One start to a minimum: Levenberg-Marquardt on reweighted least squares until progress slows, then damped Newton on
//! the exact objective.
//!
//! The first phase is robust far away (its matrix is never indefinite, and underestimates no residual); its last part
//! is slow where few residuals are small, which is what a small Huber delta asks for. The second phase ends it: the
//! objective is piecewise smooth, and on its last piece Newton's method converges quadratically. Every step is judged
//! by the true objective.

use crate::linear::{factor, solve_factored};
use crate::model::{Curvature, Data, MAX_PARAMS, Model, Sums, TRIANGLE, at, evaluate};
use crate::objective::Objective;

/// Lower and upper bound of every parameter; equal ones fix it.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    pub low: &'a [f64],
    pub high: &'a [f64],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Evaluations of the objective at most.
    pub evaluations: usize,
    /// Converged where a Newton step promises to lower the objective by less than this share of it.
    pub tolerance: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { evaluations: 500, tolerance: 1e-14 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No Newton step promises more than the tolerance.
    Converged,
    /// Every step that was tried raised the objective: as low as rounding allows, or a kink.
    Stalled,
    /// The limit of evaluations was reached.
    Stopped,
    /// The objective is not finite at the start.
    Invalid,
}

#[derive(Clone, Debug)]
pub struct Fit {
    pub theta: [f64; MAX_PARAMS],
    pub value: f64,
    /// What a Newton step promises to lower the objective by, as a share of it: the distance to the minimum in the
    /// objective's own unit.
    pub promise: f64,
    pub evaluations: usize,
    pub ending: Ending,
}

/// Damping beyond which a step is too small to matter.
const MOST_DAMPING: f64 = 1e16;

/// Cost of a row that is rounding alone: residuals of a few 1e-11.
const ROUNDING: f64 = 1e-21;

struct Search<'a> {
    model: &'a Model,
    data: &'a Data,
    objective: Objective,
    bounds: Bounds<'a>,
    curvature: Curvature,
    evaluations: usize,
}

impl Search<'_> {
    fn evaluate(&mut self, theta: &[f64], sums: &mut Sums) {
        self.evaluations += 1;
        evaluate(self.model, self.data, self.objective, theta, self.curvature, sums);
    }

    /// Parameters that may move: not fixed, not pushed against a bound.
    fn free(&self, theta: &[f64], gradient: &[f64]) -> ([usize; MAX_PARAMS], usize) {
        let (mut free, mut count) = ([0; MAX_PARAMS], 0);
        for i in 0..theta.len() {
            let (low, high) = (self.bounds.low[i], self.bounds.high[i]);
            let held = low == high || theta[i] <= low && gradient[i] >= 0.0 || theta[i] >= high && gradient[i] <= 0.0;
            if !held {
                free[count] = i;
                count += 1;
            }
        }
        (free, count)
    }
}

/// The step that minimises the damped quadratic model within the bounds, and what the undamped one promises for it.
///
/// A parameter whose step would leave its bounds goes to the bound, and the others are solved for again with it there:
/// cutting a step short in one direction alone need not go downhill. `None` where the matrix is not positive definite.
fn step(
    sums: &Sums,
    theta: &[f64],
    free: &[usize],
    bounds: Bounds<'_>,
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
            let (low, high) = (bounds.low[m] - theta[m], bounds.high[m] - theta[m]);
            if solved[i] < low || solved[i] > high {
                full[m] = solved[i].max(low).min(high);
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
    promise.is_finite().then_some((full, promise.max(0.0)))
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

/// Bring `start` to a minimum of the objective within the bounds.
pub fn minimise(
    model: &Model,
    data: &Data,
    objective: Objective,
    start: &[f64],
    bounds: Bounds<'_>,
    limits: Limits,
) -> Fit {
    let params = model.params;
    let mut search = Search { model, data, objective, bounds, curvature: Curvature::Robust, evaluations: 0 };
    let mut theta = [0.0; MAX_PARAMS];
    for i in 0..params {
        theta[i] = start[i].max(bounds.low[i]).min(bounds.high[i]);
    }
    let (mut now, mut next) = (Sums::default(), Sums::default());
    search.evaluate(&theta[..params], &mut now);
    let mut fit = Fit { theta, value: now.value, promise: f64::INFINITY, evaluations: 1, ending: Ending::Invalid };
    if !now.value.is_finite() {
        return fit;
    }
    let mut damping = 1e-3;
    fit.ending = Ending::Stopped;
    while search.evaluations < limits.evaluations {
        let exact = search.curvature == Curvature::Exact;
        let (free, count) = search.free(&fit.theta[..params], &now.gradient);
        let Some((s, promise)) = step(&now, &fit.theta[..params], &free[..count], bounds, damping) else {
            damping = (damping * 8.0).max(1e-6);
            if damping > MOST_DAMPING {
                fit.ending = Ending::Stalled;
                break;
            }
            continue;
        };
        if exact && damping < 1e-3 {
            fit.promise = promise / fit.value.max(f64::MIN_POSITIVE);
            if promise <= limits.tolerance * fit.value + ROUNDING * data.rows as f64 {
                fit.ending = Ending::Converged;
                break;
            }
        }
        let mut trial = fit.theta;
        for i in 0..params {
            trial[i] = (trial[i] + s[i]).max(bounds.low[i]).min(bounds.high[i]);
        }
        search.evaluate(&trial[..params], &mut next);
        let gain = fit.value - next.value;
        if gain > 0.0 {
            let slow = gain < 1e-2 * fit.value || search.evaluations > limits.evaluations / 4;
            (fit.theta, fit.value) = (trial, next.value);
            std::mem::swap(&mut now, &mut next);
            // A quadratic model that promised the truth may be trusted further.
            damping = if gain > 0.75 * promise {
                damping * 0.1
            } else if gain < 0.25 * promise {
                damping * 3.0
            } else {
                damping
            };
            if exact && damping < 1e-12 {
                damping = 0.0;
            }
            if !exact && slow {
                search.curvature = Curvature::Exact;
                search.evaluate(&fit.theta[..params], &mut now);
                damping = damping.max(1e-4);
            }
        } else {
            damping = (damping * 8.0).max(1e-8);
            if damping > MOST_DAMPING || fit.theta[..params] == trial[..params] {
                if exact {
                    fit.ending = Ending::Stalled;
                    break;
                }
                search.curvature = Curvature::Exact;
                search.evaluate(&fit.theta[..params], &mut now);
                damping = 1e-3;
            }
        }
    }
    fit.evaluations = search.evaluations;
    fit
}
