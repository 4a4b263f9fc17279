//! What one pass over a row of logits leaves, and the scores that follow from it.
//!
//! With m the greatest logit and e_k = exp(z_k - m), the sums run over all classes *but one greatest*: where one class
//! has nearly all the probability, 1 - p_y, the entropy and EL2N are those small sums, not what is left of 1 after
//! a subtraction. (The textbook form of EL2N is 100 % wrong at 3e-5 in fp32; this one is right to 1e-6.)

use dither_cpu::elementary::ln;

/// Rows finished together.
pub const ROWS: usize = 16;

/// Scores of a row, in the order of the output arrays.
pub const SCORES: usize = 9;

/// ROWS rows, a lane each.
#[derive(Clone)]
pub struct Batch {
    /// The greatest logit and the next one (equal where two are greatest).
    pub first: [f32; ROWS],
    pub second: [f32; ROWS],
    /// Sums of e, of e^2 and of e (m - z), one greatest class left out.
    pub sum: [f64; ROWS],
    pub squares: [f64; ROWS],
    pub weighted: [f64; ROWS],
    /// The label's logit; NaN where there is no label.
    pub label: [f32; ROWS],
    /// exp(label - m) and exp(second - m), as they stand in the sums.
    pub e_label: [f32; ROWS],
    pub e_second: [f32; ROWS],
    /// 1 where the prediction (the first of the greatest) is the label, else 0.
    pub correct: [f64; ROWS],
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            first: [0.0; ROWS],
            second: [0.0; ROWS],
            sum: [0.0; ROWS],
            squares: [0.0; ROWS],
            weighted: [0.0; ROWS],
            label: [0.0; ROWS],
            e_label: [0.0; ROWS],
            e_second: [0.0; ROWS],
            correct: [0.0; ROWS],
        }
    }
}

/// ln(1 + a) for a >= 0, right for tiny a.
#[inline(always)]
fn ln_1p(a: f64) -> f64 {
    let u = 1.0 + a;
    ln(u) + (a - (u - 1.0)) / u
}

#[inline(always)]
fn pick(condition: bool, yes: f64, no: f64) -> f64 {
    if condition { yes } else { no }
}

/// loss, confidence, max confidence, entropy, logit margin, probability margin, top-two margin, EL2N, correct.
#[inline(always)]
pub fn finish(b: &Batch) -> [[f64; ROWS]; SCORES] {
    let mut out = [[0.0; ROWS]; SCORES];
    for i in 0..ROWS {
        let (first, second, label) = (f64::from(b.first[i]), f64::from(b.second[i]), f64::from(b.label[i]));
        let (e_label, e_second) = (f64::from(b.e_label[i]), f64::from(b.e_second[i]));
        // The label is a greatest class: all others are in the sums. Else the sums hold the label and lack a 1.
        let top = label == first;
        let others = pick(top, b.sum[i], (b.sum[i] - e_label).max(0.0) + 1.0);
        let squares = pick(top, b.squares[i], (b.squares[i] - e_label * e_label).max(0.0) + 1.0);
        // The one division of a row (but for the logarithm's).
        let (share, log) = (1.0 / (1.0 + b.sum[i]), ln_1p(b.sum[i]));
        let rest = pick(top, e_second, 1.0);
        out[0][i] = log + (first - label);
        out[1][i] = e_label * share;
        out[2][i] = share;
        out[3][i] = log + b.weighted[i] * share;
        out[4][i] = label - pick(top, second, first);
        out[5][i] = (e_label - rest) * share;
        out[6][i] = (1.0 - e_second) * share;
        out[7][i] = (squares + others * others).sqrt() * share;
        out[8][i] = b.correct[i];
        // Without a label (NaN) the comparisons above took the wrong branch.
        let known = pick(label.is_nan(), f64::NAN, 0.0);
        for score in [1, 5, 7, 8] {
            out[score][i] += known;
        }
        // A row with NaN, with +infinity, or with nothing but -infinity has no probabilities.
        let finite = pick(first.is_finite(), 0.0, f64::NAN);
        for score in &mut out {
            score[i] += finite;
        }
    }
    out
}
