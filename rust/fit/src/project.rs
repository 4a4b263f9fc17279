//! Starts by variable projection: for fixed exponents a sum of power terms is linear in its coefficients and its floor.
//! ```text
//! for every point of a coarse grid of exponents:
//!     columns phi_j = prod_k X_k^p_jk / L, and 1 / L for the floor        (relative errors)
//!     coefficients >= 0 by least squares, exactly
//! keep the points with the least error
//! ```
//!
//! From these starts the exact objective reaches its best known optimum where random points of published grids find it
//! one time in two or fewer.

use crate::linear::{MAX_TERMS, at, nonnegative};
use crate::model::{MAX_PARAMS, Model};
use dither_cpu::elementary::exp;

/// A start, and its mean squared relative error.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub theta: [f64; MAX_PARAMS],
    pub error: f64,
}

/// Every term's own coefficient: the parameter that enters it alone, with factor 1. An error names the first term that
/// has none, and a law whose floor or sum this does not fit.
pub fn coefficients(model: &Model) -> Result<Vec<usize>, String> {
    if model.bends() {
        return Err("an exponent on the sum leaves nothing linear to project on".into());
    }
    if model.terms.len() + usize::from(model.floor.is_some()) > MAX_TERMS {
        return Err(format!("a projection has at most {MAX_TERMS} terms, the floor included"));
    }
    let uses = |param: usize| model.terms.iter().flat_map(|t| &t.entries).filter(|e| e.param == param).count();
    let own = |(j, term): (usize, &crate::model::Term)| {
        let entry = term.entries.iter().find(|e| e.feature.is_none() && e.factor == 1.0 && uses(e.param) == 1);
        entry.map(|e| e.param).ok_or_else(|| format!("term {j} has no coefficient of its own"))
    };
    model.terms.iter().enumerate().map(own).collect()
}

/// The best `keep` starts over the grid: `values[i]` are those of parameter `params[i]`. Parameters that are neither
/// coefficients nor in the grid stay as in `base`.
///
/// `x`: rows x features (logarithms); `y`: ln L.
#[allow(clippy::too_many_arguments)]
pub fn starts(
    model: &Model,
    x: &[f64],
    y: &[f64],
    weights: Option<&[f64]>,
    params: &[usize],
    values: &[Vec<f64>],
    base: &[f64],
    keep: usize,
) -> Result<Vec<Start>, String> {
    let coefficients = coefficients(model)?;
    let terms = coefficients.len();
    let columns = terms + usize::from(model.floor.is_some());
    let mut best: Vec<Start> = Vec::new();
    let mut theta = [0.0; MAX_PARAMS];
    theta[..base.len()].copy_from_slice(base);
    let mut phi = vec![[0.0; MAX_TERMS]; y.len()];
    let total: usize = values.iter().map(Vec::len).product();
    for point in 0..total {
        let mut rest = point;
        for (&p, values) in params.iter().zip(values) {
            theta[p] = values[rest % values.len()];
            rest /= values.len();
        }
        coefficients.iter().for_each(|&p| theta[p] = 0.0);
        let shift = columns_at(model, x, y, &theta, &mut phi);
        let (gram, moments) = normal(&phi, weights, columns);
        // Unit columns: the normal equations square the condition number.
        let norm: Vec<f64> = (0..columns).map(|j| gram[at(j, j)].sqrt()).collect();
        if norm.iter().any(|n| !n.is_finite() || *n == 0.0) {
            continue;
        }
        let mut unit = gram.clone();
        for i in 0..columns {
            (0..=i).for_each(|j| unit[at(i, j)] /= norm[i] * norm[j]);
        }
        let scaled: Vec<f64> = moments.iter().zip(&norm).map(|(m, n)| m / n).collect();
        let (c, value) = nonnegative(&unit, &scaled);
        let error = value;
        if best.len() == keep && best.last().is_some_and(|worst| worst.error <= error) {
            continue;
        }
        // A term that the data do not want here is kept alive at a thousandth, so that it may come back.
        let log = |j: usize| (if c[j] > 0.0 { c[j] / norm[j] } else { 1e-3 / norm[j] }).ln();
        coefficients.iter().enumerate().for_each(|(j, &p)| theta[p] = log(j) - shift[j]);
        if let Some(floor) = model.floor {
            theta[floor] = log(terms);
        }
        let place = best.partition_point(|s| s.error <= error);
        best.insert(place, Start { theta, error });
        best.truncate(keep);
    }
    Ok(best)
}

/// Fill `phi` with the terms over L, each divided by `exp(shift)` so that none overflows.
fn columns_at(model: &Model, x: &[f64], y: &[f64], theta: &[f64], phi: &mut [[f64; MAX_TERMS]]) -> [f64; MAX_TERMS] {
    let mut shift = [f64::NEG_INFINITY; MAX_TERMS];
    for ((row, y), phi) in x.chunks_exact(model.features).zip(y).zip(phi.iter_mut()) {
        for (j, term) in model.terms.iter().enumerate() {
            phi[j] = term.entries.iter().map(|e| e.factor * theta[e.param] * e.feature.map_or(1.0, |k| row[k])).sum();
            shift[j] = shift[j].max(phi[j]);
        }
        phi[model.terms.len()] = exp(-y);
    }
    for (y, phi) in y.iter().zip(phi.iter_mut()) {
        for j in 0..model.terms.len() {
            phi[j] = exp(phi[j] - shift[j] - y);
        }
    }
    shift
}

/// Gram matrix of the columns, and their products with 1 (the relative loss).
fn normal(phi: &[[f64; MAX_TERMS]], weights: Option<&[f64]>, columns: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut gram, mut moments) = (vec![0.0; at(columns, 0)], vec![0.0; columns]);
    for (r, phi) in phi.iter().enumerate() {
        let w = weights.map_or(1.0, |w| w[r]);
        for i in 0..columns {
            moments[i] += w * phi[i];
            for j in 0..=i {
                gram[at(i, j)] += w * phi[i] * phi[j];
            }
        }
    }
    (gram, moments)
}
