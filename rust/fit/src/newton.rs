//! One start to a minimum.
//! ```text
//! far:   Levenberg-Marquardt on reweighted least squares, whose matrix is never indefinite. Huber's delta begins at
//!        the size of the residuals and falls to the one that is asked for: a small delta is a kink with few rows near
//!        it, where steps are short, and the way to its neighbourhood is the same without it.
//! near:  damped Newton on the exact objective, which is piecewise smooth: on its last piece it converges
//!        quadratically.
//! ```
//! Every step is judged by the objective itself, and stays in a box around the point ([`Trust`]): a term that is far
//! below the others bends the objective so little that its parameters would be sent off for good.

use crate::evaluate::{Curvature, Sums, TRIANGLE, evaluate};
use crate::linear::{at, factor, solve_factored};
use crate::model::{Data, MAX_PARAMS, Model};
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

/// A start is near its minimum where Newton's step promises less than this share of the objective.
const WARM: f64 = 0.1;

/// What is minimised, and when that is enough: where a step damped by less than `damping` promises less than `share` of
/// the objective.
#[derive(Clone, Copy)]
struct Phase {
    objective: Objective,
    curvature: Curvature,
    share: f64,
    damping: f64,
}

/// How far a quadratic model is trusted: the damping of its matrix, and the half width of the box around the point.
struct Trust {
    damping: f64,
    reach: f64,
    failures: i32,
    successes: i32,
}

/// The half width of the box at first, after a failure, and at most: in logarithms of scales, and in exponents.
const REACH: f64 = 1.0;
const FARTHEST: f64 = 10.0;

impl Trust {
    fn new(damping: f64) -> Trust {
        Trust { damping, reach: REACH, failures: 0, successes: 0 }
    }

    /// The step raised the objective, or there is none: many failures in a row ask for much more damping.
    fn fail(&mut self) {
        self.damping = (self.damping * 8.0 * 4f64.powi(self.failures)).max(1e-7);
        self.reach = REACH;
        (self.failures, self.successes) = (self.failures + 1, 0);
    }

    /// The step lowered the objective by this share of what it promised.
    fn succeed(&mut self, share: f64) {
        let recovering = self.failures > 0;
        self.failures = 0;
        if share < 0.25 {
            self.damping *= 3.0;
            self.successes = 0;
        } else if recovering {
            self.damping *= 0.25;
        } else if share > 0.75 {
            self.damping *= 0.1 * 0.3f64.powi(self.successes);
            self.reach = (2.0 * self.reach).min(FARTHEST);
            self.successes += 1;
        } else {
            self.successes = 0;
        }
        if self.damping < 1e-12 {
            self.damping = 0.0;
        }
    }
}

struct Search<'a> {
    model: &'a Model,
    data: &'a Data,
    bounds: Bounds<'a>,
    limits: Limits,
    theta: [f64; MAX_PARAMS],
    now: Sums,
    next: Sums,
    trust: Trust,
    promise: f64,
    evaluations: usize,
}

impl Search<'_> {
    /// Look at the point with the eyes of a phase.
    fn look(&mut self, phase: Phase) {
        self.evaluations += 1;
        let theta = &self.theta[..self.model.params];
        evaluate(self.model, self.data, phase.objective, theta, phase.curvature, &mut self.now);
    }

    /// Parameters that may move: not fixed, not pushed against a bound.
    fn free(&self) -> ([usize; MAX_PARAMS], usize) {
        let (mut free, mut count) = ([0; MAX_PARAMS], 0);
        for i in 0..self.model.params {
            let (low, high) = (self.bounds.low[i], self.bounds.high[i]);
            let (at, slope) = (self.theta[i], self.now.gradient[i]);
            let held = low == high || at <= low && slope >= 0.0 || at >= high && slope <= 0.0;
            if !held {
                free[count] = i;
                count += 1;
            }
        }
        (free, count)
    }

    /// The next step and what it promises; `None` where its matrix is not positive definite.
    fn step(&self) -> Option<([f64; MAX_PARAMS], f64)> {
        let (free, count) = self.free();
        let (mut low, mut high) = ([0.0; MAX_PARAMS], [0.0; MAX_PARAMS]);
        for i in 0..self.model.params {
            low[i] = (self.bounds.low[i] - self.theta[i]).max(-self.trust.reach);
            high[i] = (self.bounds.high[i] - self.theta[i]).min(self.trust.reach);
        }
        step(&self.now, &free[..count], &low, &high, self.trust.damping)
    }

    /// Go down until the phase has had enough.
    fn descend(&mut self, phase: Phase) -> Ending {
        let params = self.model.params;
        while self.evaluations < self.limits.evaluations {
            let value = self.now.value;
            let Some((step, promise)) = self.step() else {
                self.trust.fail();
                if self.trust.damping > MOST_DAMPING {
                    return Ending::Stalled;
                }
                continue;
            };
            if self.trust.damping < phase.damping {
                self.promise = promise / value.max(f64::MIN_POSITIVE);
                if promise <= phase.share * value + ROUNDING * self.data.rows as f64 {
                    return Ending::Converged;
                }
            }
            let mut trial = self.theta;
            for i in 0..params {
                trial[i] = (trial[i] + step[i]).max(self.bounds.low[i]).min(self.bounds.high[i]);
            }
            self.evaluations += 1;
            evaluate(self.model, self.data, phase.objective, &trial[..params], phase.curvature, &mut self.next);
            let gain = value - self.next.value;
            if gain > 0.0 {
                self.theta = trial;
                std::mem::swap(&mut self.now, &mut self.next);
                self.trust.succeed(gain / promise);
            } else {
                self.trust.fail();
                if self.trust.damping > MOST_DAMPING || self.theta[..params] == trial[..params] {
                    return Ending::Stalled;
                }
            }
        }
        Ending::Stopped
    }

    /// From anywhere to where Newton's method may begin.
    fn approach(&mut self, objective: Objective) {
        let mut phase = Phase { objective, curvature: Curvature::Robust, share: 1e-2, damping: 1e-2 };
        self.trust = Trust::new(1e-3);
        let Some(delta) = objective.delta() else {
            self.look(phase);
            self.descend(phase);
            return;
        };
        // The mean size of the residuals, where most of them are larger than delta.
        let mut softer = self.now.value / (delta * self.data.rows as f64) + 0.5 * delta;
        while softer > 2.0 * delta && self.evaluations < self.limits.evaluations / 2 {
            phase.objective = objective.with_delta(softer);
            self.look(phase);
            self.descend(phase);
            self.trust = Trust::new(self.trust.damping.clamp(1e-6, 1e-3));
            softer /= 4.0;
        }
    }
}

/// The step that minimises the damped quadratic model between `low` and `high`, and what the undamped one promises for
/// it.
///
/// A parameter whose step would leave its interval goes to the end of it, and the others are solved for again with it
/// there: cutting a step short in one direction alone need not go downhill. `None` where the matrix is not positive
/// definite, or the ends of intervals leave no way down.
fn step(
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

/// Bring `start` to a minimum of the objective within the bounds.
pub fn minimise(
    model: &Model,
    data: &Data,
    objective: Objective,
    start: &[f64],
    bounds: Bounds<'_>,
    limits: Limits,
) -> Fit {
    let mut theta = [0.0; MAX_PARAMS];
    for i in 0..model.params {
        theta[i] = start[i].max(bounds.low[i]).min(bounds.high[i]);
    }
    let mut search = Search {
        model,
        data,
        bounds,
        limits,
        theta,
        now: Sums::default(),
        next: Sums::default(),
        trust: Trust::new(0.0),
        promise: f64::INFINITY,
        evaluations: 0,
    };
    let near = Phase { objective, curvature: Curvature::Exact, share: limits.tolerance, damping: 1e-3 };
    search.look(near);
    let ending = if search.now.value.is_finite() {
        let warm = search.step().is_some_and(|(_, promise)| promise < WARM * search.now.value);
        if !warm {
            search.approach(objective);
            search.look(near);
        }
        search.trust = Trust::new(1e-4);
        search.descend(near)
    } else {
        Ending::Invalid
    };
    let Search { theta, now, promise, evaluations, .. } = search;
    Fit { theta, value: now.value, promise, evaluations, ending }
}
