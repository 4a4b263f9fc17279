//! How the block scales of an array spread.

/// What the block scales of an array look like: of log2 of those that are finite and not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub scales: u64,
    pub lowest: f64,
    pub highest: f64,
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub m2: f64,
}

impl Spread {
    pub fn of(scale: f64) -> Spread {
        if !(scale > 0.0 && scale.is_finite()) {
            return Spread::default();
        }
        let log = scale.log2();
        Spread { scales: 1, lowest: log, highest: log, mean: log, m2: 0.0 }
    }

    pub fn merge(a: &Spread, b: &Spread) -> Spread {
        if a.scales == 0 || b.scales == 0 {
            return if a.scales == 0 { *b } else { *a };
        }
        let (na, nb) = (a.scales as f64, b.scales as f64);
        let (n, d) = (na + nb, b.mean - a.mean);
        Spread {
            scales: a.scales + b.scales,
            lowest: a.lowest.min(b.lowest),
            highest: a.highest.max(b.highest),
            mean: a.mean + d * (nb / n),
            m2: a.m2 + b.m2 + d * d * (na * nb / n),
        }
    }
}
