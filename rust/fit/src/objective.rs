//! What a residual costs. All are summed over the rows, never averaged: with a mean, tolerances of common optimizers
//! stop at the start.

use dither_cpu::elementary::{LANES, Lanes, exp};

/// The cost of a row whose law predicts `f = ln L_hat` where `y = ln L` was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// `r^2/2` for `|r| <= delta`, else `delta (|r| - delta/2)`, with `r = f - y`. As delta goes to 0, `1/delta` times
    /// this is the least absolute deviation.
    Huber(f64),
    /// `r^2/2` with `r = f - y`.
    LogSquare,
    /// `(L_hat - L)^2/2`.
    RawSquare,
    /// As `Huber`, with `r = L_hat - L`.
    RawHuber(f64),
}

/// Cost and slopes of a group of rows.
#[derive(Clone, Copy)]
pub struct Costs {
    pub value: Lanes,
    /// First derivative by `f`.
    pub first: Lanes,
    /// Second derivative by `f`.
    pub second: Lanes,
    /// A curvature that never underestimates the cost (iteratively reweighted least squares), and is not negative.
    pub majorant: Lanes,
}

impl Objective {
    #[inline(always)]
    pub fn costs(self, f: &Lanes, y: &Lanes) -> Costs {
        match self {
            Objective::Huber(delta) => each(f, y, |f, y| huber(f - y, delta)),
            Objective::LogSquare => each(f, y, |f, y| square(f - y)),
            Objective::RawSquare => each(f, y, |f, y| chain(square(exp(f) - exp(y)), exp(f))),
            Objective::RawHuber(delta) => each(f, y, |f, y| chain(huber(exp(f) - exp(y), delta), exp(f))),
        }
    }

    /// The scale below which a residual counts as small: divides the objective, so that tolerances have no unit.
    pub fn delta(self) -> Option<f64> {
        match self {
            Objective::Huber(delta) | Objective::RawHuber(delta) => Some(delta),
            Objective::LogSquare | Objective::RawSquare => None,
        }
    }

    pub fn with_delta(self, delta: f64) -> Objective {
        match self {
            Objective::Huber(_) => Objective::Huber(delta),
            Objective::RawHuber(_) => Objective::RawHuber(delta),
            other => other,
        }
    }
}

#[inline(always)]
fn each(f: &Lanes, y: &Lanes, cost: impl Fn(f64, f64) -> [f64; 4]) -> Costs {
    let zero = [0.0; LANES];
    let mut c = Costs { value: zero, first: zero, second: zero, majorant: zero };
    for i in 0..LANES {
        [c.value[i], c.first[i], c.second[i], c.majorant[i]] = cost(f[i], y[i]);
    }
    c
}

/// Value, first and second derivative, and majorant of `r^2/2`.
#[inline(always)]
fn square(r: f64) -> [f64; 4] {
    [0.5 * r * r, r, 1.0, 1.0]
}

#[inline(always)]
fn huber(r: f64, delta: f64) -> [f64; 4] {
    let size = r.abs();
    let small = size <= delta;
    let near = if small { 1.0 } else { 0.0 };
    let value = if small { 0.5 * r * r } else { delta * (size - 0.5 * delta) };
    [value, r.clamp(-delta, delta), near, if small { 1.0 } else { delta / size }]
}

/// From slopes by `l = e^f` to slopes by `f`.
#[inline(always)]
fn chain([value, first, second, majorant]: [f64; 4], l: f64) -> [f64; 4] {
    [value, first * l, second * l * l + first * l, majorant * l * l]
}
