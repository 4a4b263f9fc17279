//! How far the steps of a search may go.

/// How far a quadratic model is trusted: the damping of its matrix, and the half width of the box around the point.
pub(crate) struct Trust {
    pub damping: f64,
    pub reach: f64,
    failures: i32,
    successes: i32,
}

/// The half width of the box at first, after a failure, and at most: in logarithms of scales, and in exponents.
const REACH: f64 = 1.0;
const FARTHEST: f64 = 10.0;

impl Trust {
    pub fn new(damping: f64) -> Trust {
        Trust { damping, reach: REACH, failures: 0, successes: 0 }
    }

    /// The step raised the objective, or there is none: many failures in a row ask for much more damping.
    pub fn fail(&mut self) {
        self.damping = (self.damping * 8.0 * 4f64.powi(self.failures)).max(1e-7);
        self.reach = REACH;
        (self.failures, self.successes) = (self.failures + 1, 0);
    }

    /// The step lowered the objective by this share of what it promised.
    pub fn succeed(&mut self, share: f64) {
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
