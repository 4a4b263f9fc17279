//! One start to a minimum.
//! ```text
//! far:   Levenberg-Marquardt on reweighted least squares, whose matrix is never indefinite. Huber's delta begins at
//!        the size of the residuals and falls to the one that is asked for: a small delta is a kink with few rows near
//!        it, where steps are short, and the way to its neighbourhood is the same without it.
//! near:  damped Newton on the objective with its exact second derivatives. Squares are smooth and Huber's costs are in
//!        pieces: on its last piece it converges quadratically.
//! ```
//! A start where Newton's step promises little is near at once. Every step is judged by the objective of its phase, and
//! stays in a box around the point ([`Trust`]): a term that is far below the others bends the objective so little that
//! its parameters would be sent off for good. What softer objectives led to a worse end than the start is left, and the
//! start goes down by itself: a fit never ends above its start.

use crate::evaluate::{Curvature, Sums, evaluate};
use crate::model::{Data, MAX_PARAMS, Model};
use crate::objective::Objective;
use crate::step::step;
use crate::trust::Trust;

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
    /// objective's own unit. Infinite where no such step was looked for.
    pub promise: f64,
    pub evaluations: usize,
    pub ending: Ending,
}

/// Damping beyond which a step is too small to matter.
const MOST_DAMPING: f64 = 1e16;

/// Cost of a row of weight 1 that is rounding alone: residuals of a few 1e-11.
const ROUNDING: f64 = 1e-21;

/// A start is near its minimum where Newton's step promises less than this share of the objective.
const WARM: f64 = 0.1;

/// What is minimised, and when that is enough: where a step damped by less than `damping` promises less than `share` of
/// the objective, or where `last` evaluations have been made.
#[derive(Clone, Copy)]
struct Phase {
    objective: Objective,
    curvature: Curvature,
    share: f64,
    damping: f64,
    last: usize,
}

/// The far phases together take at most a half of the evaluations, and each of them at most this share.
const FAR_SHARE: usize = 8;

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
        while self.evaluations < phase.last {
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
                if promise <= phase.share * value + ROUNDING * self.data.weight {
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
        self.trust = Trust::new(1e-3);
        if let Some(delta) = objective.delta() {
            // The mean size of the residuals, where most of them are larger than delta.
            let mut softer = self.now.value / (delta * self.data.weight) + 0.5 * delta;
            while softer > 2.0 * delta && self.evaluations < self.limits.evaluations / 2 {
                self.far(objective.with_delta(softer));
                self.trust = Trust::new(self.trust.damping.clamp(1e-6, 1e-3));
                softer /= 4.0;
            }
        }
        if self.evaluations < self.limits.evaluations / 2 {
            self.far(objective);
        }
    }

    /// Down a softer objective, or on the way down this one.
    fn far(&mut self, objective: Objective) {
        let most = self.limits.evaluations;
        let last = (self.evaluations + most / FAR_SHARE).min(most / 2);
        let phase = Phase { objective, curvature: Curvature::Robust, share: 1e-2, damping: 1e-2, last };
        self.look(phase);
        self.descend(phase);
    }

    /// To the minimum, from where the search has looked last.
    fn arrive(&mut self, near: Phase) -> Ending {
        self.promise = f64::INFINITY;
        self.trust = Trust::new(1e-4);
        self.descend(near)
    }
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
    let last = limits.evaluations;
    let near = Phase { objective, curvature: Curvature::Exact, share: limits.tolerance, damping: 1e-3, last };
    search.look(near);
    let value = search.now.value;
    let warm = search.step().is_some_and(|(_, promise)| promise < WARM * value);
    let ending = if !value.is_finite() {
        Ending::Invalid
    } else if warm || limits.evaluations < FAR_SHARE {
        search.arrive(near)
    } else {
        let start = search.now.clone();
        search.approach(objective);
        search.look(near);
        let ending = search.arrive(near);
        if search.now.value <= value {
            ending
        } else {
            (search.theta, search.now) = (theta, start);
            search.arrive(near)
        }
    };
    let Search { theta, now, promise, evaluations, .. } = search;
    Fit { theta, value: now.value, promise, evaluations, ending }
}
