//! What a residual costs. All are summed over the rows, never averaged: with a mean, tolerances of common optimizers
//! stop at the start.

use dither_cpu::elementary::exp;

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

/// Cost and slopes of one row.
#[derive(Clone, Copy)]
pub struct Cost {
    pub value: f64,
    /// First derivative by `f`.
    pub first: f64,
    /// Second derivative by `f`.
    pub second: f64,
    /// A curvature that never underestimates the cost (iteratively reweighted least squares), and is not negative.
    pub majorant: f64,
}

impl Objective {
    #[inline(always)]
    pub fn cost(self, f: f64, y: f64) -> Cost {
        match self {
            Objective::Huber(delta) => huber(f - y, delta),
            Objective::LogSquare => {
                let r = f - y;
                Cost { value: 0.5 * r * r, first: r, second: 1.0, majorant: 1.0 }
            }
            Objective::RawSquare => {
                let r = exp(f) - exp(y);
                chain(Cost { value: 0.5 * r * r, first: r, second: 1.0, majorant: 1.0 }, exp(f))
            }
            Objective::RawHuber(delta) => chain(huber(exp(f) - exp(y), delta), exp(f)),
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
fn huber(r: f64, delta: f64) -> Cost {
    let size = r.abs();
    let small = size <= delta;
    let linear = delta * (size - 0.5 * delta);
    Cost {
        value: if small { 0.5 * r * r } else { linear },
        first: r.clamp(-delta, delta),
        second: if small { 1.0 } else { 0.0 },
        majorant: if small { 1.0 } else { delta / size },
    }
}

/// From slopes by `l = e^f` to slopes by `f`.
#[inline(always)]
fn chain(c: Cost, l: f64) -> Cost {
    Cost { first: c.first * l, second: c.second * l * l + c.first * l, majorant: c.majorant * l * l, ..c }
}
