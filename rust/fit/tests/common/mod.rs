//! A law and runs of it, for several tests.

use dither_fit::evaluate::predict;
use dither_fit::{Data, Entry, Model, Term};

pub fn entry(param: usize, feature: Option<usize>, factor: f64) -> Entry {
    Entry { param, feature, factor }
}

/// L = E + A N^-alpha + B D^-beta; parameters a, b, e, alpha, beta.
pub fn chinchilla() -> Model {
    let term = |a, k, p| Term { entries: vec![entry(a, None, 1.0), entry(p, Some(k), -1.0)] };
    Model::new(5, 2, vec![term(0, 0, 3), term(1, 1, 4)], Some(2), None).unwrap()
}

/// A fixed spread of numbers in [0, 1).
pub fn spread(i: usize) -> f64 {
    (i as f64 * 0.754877666246693).fract()
}

pub fn table(n: usize) -> Vec<f64> {
    (0..n).flat_map(|i| [16.0 + 8.0 * spread(i), 20.0 + 6.0 * spread(3 * i + 1)]).collect()
}

pub const TRUTH: [f64; 6] = [6.1, 7.4, 0.55, 0.34, 0.37, 1.0];

pub fn losses(model: &Model, x: &[f64], theta: &[f64], noise: f64) -> Vec<f64> {
    let zero = vec![0.0; x.len() / model.features];
    let mut f = Vec::new();
    predict(model, &Data::new(x, model.features, &zero, None), theta, &mut f);
    f.iter().enumerate().map(|(i, f)| f + noise * (spread(7 * i + 2) - 0.5)).collect()
}

pub fn free(params: usize) -> (Vec<f64>, Vec<f64>) {
    (vec![f64::NEG_INFINITY; params], vec![f64::INFINITY; params])
}
