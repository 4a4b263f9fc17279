//! The multi-power law of a learning-rate schedule (2503.12811):
//! ```text
//! L(t) = L0 + A (S1(t) + SW)^-alpha - B sum_{k<=t} (eta_{k-1} - eta_k) [1 - (1 + C eta_k^-gamma S_k(t))^-beta]
//! ```
//!
//! with S1(t) the sum of learning rates up to t and S_k(t) that from k to t. The sum over k is quadratic in the number
//! of steps, and only steps that change the rate enter it.

use dither_cpu::dispatch;
use dither_cpu::elementary::{LANES, Lanes, exp, ln};
use dither_cpu::threads::for_each;

#[derive(Clone, Copy, Debug)]
pub struct MultiPower {
    pub l0: f64,
    pub a: f64,
    pub alpha: f64,
    pub b: f64,
    pub c: f64,
    pub beta: f64,
    pub gamma: f64,
}

/// A schedule's changes of the learning rate, and its sums.
pub struct Schedule {
    /// `total[t]`: the sum of eta_0..=eta_t, on top of the warm-up's `SW`.
    total: Vec<f64>,
    /// For every step k >= 1 that changes the rate: k, ln eta_k, eta_{k-1} - eta_k, and the sum before k.
    steps: Vec<usize>,
    logs: Vec<f64>,
    drops: Vec<f64>,
    before: Vec<f64>,
}

impl Schedule {
    /// `eta`: the learning rate of every step, positive. `warmup`: SW.
    pub fn new(eta: &[f64], warmup: f64) -> Schedule {
        let total: Vec<f64> = eta
            .iter()
            .scan(warmup, |sum, e| {
                *sum += e;
                Some(*sum)
            })
            .collect();
        let steps: Vec<usize> = (1..eta.len()).filter(|&k| eta[k] != eta[k - 1]).collect();
        Schedule {
            logs: steps.iter().map(|&k| eta[k].ln()).collect(),
            drops: steps.iter().map(|&k| eta[k - 1] - eta[k]).collect(),
            before: steps.iter().map(|&k| total[k - 1]).collect(),
            total,
            steps,
        }
    }

    /// Losses at the steps `at` (each below the schedule's length).
    pub fn losses(
        &self,
        law: MultiPower,
        at: &[usize],
        threads: usize,
        give_up: &dyn Fn() -> bool,
    ) -> Option<Vec<f64>> {
        // C eta_k^-gamma does not depend on t.
        let rates: Vec<f64> = self.logs.iter().map(|l| law.c * (-law.gamma * l).exp()).collect();
        let losses: Vec<std::sync::atomic::AtomicU64> = at.iter().map(|_| 0.into()).collect();
        let complete = for_each(at.len(), threads, give_up, |i| {
            let sum = self.total[at[i]];
            let changes = self.steps.partition_point(|&k| k <= at[i]);
            let gained = annealed(&rates[..changes], &self.drops[..changes], &self.before[..changes], sum, law.beta);
            let loss = law.l0 + law.a * sum.powf(-law.alpha) - law.b * gained;
            losses[i].store(loss.to_bits(), std::sync::atomic::Ordering::Relaxed);
        });
        complete.then(|| losses.into_iter().map(|bits| f64::from_bits(bits.into_inner())).collect())
    }
}

dispatch! {
    /// The sum over k, without B.
    fn annealed(rates: &[f64], drops: &[f64], before: &[f64], sum: f64, beta: f64) -> f64 = annealed_body;
}

#[inline(always)]
fn annealed_body(rates: &[f64], drops: &[f64], before: &[f64], sum: f64, beta: f64) -> f64 {
    let one = |rate: f64, drop: f64, before: f64| drop * (1.0 - exp(-beta * ln(1.0 + rate * (sum - before))));
    let mut lanes: Lanes = [0.0; LANES];
    let whole = rates.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let (r, d, b) = (&rates[i..i + LANES], &drops[i..i + LANES], &before[i..i + LANES]);
        for k in 0..LANES {
            lanes[k] += one(r[k], d[k], b[k]);
        }
    }
    let tail: f64 = (whole..rates.len()).map(|i| one(rates[i], drops[i], before[i])).sum();
    lanes.iter().sum::<f64>() + tail
}
