//! How the kernels round elements of a format.

use crate::element;
use crate::stochastic;
use dither_numerics::format::Kind;
use dither_numerics::{Format, Rounding};

/// How the kernels round.
pub struct Method {
    /// The rounding as the kernels' constant; where they do not know it, one that reads as many random bits.
    pub mode: u8,
    /// Random bits an element.
    pub n: u32,
    /// Of [`Shape`].
    pub last: u32,
    /// Whether the kernels give what the truth gives; if not, every element is left to the truth.
    pub exact: bool,
}

impl Method {
    pub fn new(f: &Format, rounding: Rounding) -> Method {
        let (mode, known) = match rounding {
            Rounding::NearestEven => (element::NEAREST_EVEN, !f.even_by_exponent()),
            Rounding::NearestAway => (element::NEAREST_AWAY, true),
            Rounding::TowardZero => (element::TOWARD_ZERO, true),
            Rounding::Up => (element::UP, true),
            Rounding::Down => (element::DOWN, true),
            // Without fraction bits all significands are odd.
            Rounding::ToOdd => (element::TO_ODD, f.mbits > 0 && !f.even_by_exponent()),
            // fp32 has no digits that C would round away.
            Rounding::StochasticC(n) if f.emin == -126 && n + f.mbits >= 23 => (element::STOCHASTIC, true),
            Rounding::StochasticC(n) if n + f.mbits <= 21 => (element::STOCHASTIC_NEAREST, true),
            Rounding::Stochastic(n) | Rounding::StochasticA(n) | Rounding::StochasticC(n) => {
                let fine = stochastic::is_fine(f.mbits, n);
                let mode = if fine { element::STOCHASTIC_FINE } else { element::STOCHASTIC };
                (mode, !matches!(rounding, Rounding::StochasticC(_)))
            }
        };
        // A symmetric grid: no table, no two's complement with its most negative number.
        let grid = f.kind != Kind::Codebook && f.signed && f.min == -f.max && f.mbits <= 20;
        let last = u32::from(rounding == Rounding::Stochastic(32));
        Method { mode, n: rounding.random_bits(), last, exact: known && grid }
    }
}
