//! Starts by variable projection: for fixed exponents a sum of power terms is linear in its coefficients and its floor.
//! ```text
//! for every point of a coarse grid of exponents:
//!     columns phi_j = prod_k X_k^p_jk / L, and 1 / L for the floor        (relative errors)
//!     coefficients >= 0 by least squares, exactly
//! keep the points with the least error
//! ```
//!
//! A few such starts are near the best optimum, where a published grid has thousands of starts, most of them far from it.

use crate::linear::{MAX_TERMS, at, nonnegative};
use crate::model::{Data, MAX_PARAMS, Model, Term};
use dither_cpu::dispatch;
use dither_cpu::elementary::{LANES, Lanes, exp};

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
    let columns = coefficients.len() + usize::from(model.floor.is_some());
    let data = Data::new(x, model.features, y, weights);
    let root: Vec<Lanes> = data.groups().map(|group| group[model.features + 1].map(f64::sqrt)).collect();
    let mut theta = [0.0; MAX_PARAMS];
    theta[..base.len()].copy_from_slice(base);
    coefficients.iter().for_each(|&p| theta[p] = 0.0);
    let axes: Vec<(usize, &[f64])> = params.iter().copied().zip(values.iter().map(Vec::as_slice)).collect();
    let terms: Vec<Columns> = model.terms.iter().map(|term| Columns::new(term, &data, &axes, theta, &root)).collect();
    let mut floor = Vec::new();
    column(&Term { entries: Vec::new() }, &data, &theta, &root, &mut floor);
    let mut best: Vec<Start> = Vec::new();
    let total: usize = values.iter().map(Vec::len).product();
    let mut at_axis = vec![0; axes.len()];
    for point in 0..total {
        let mut rest = point;
        for (digit, (param, values)) in at_axis.iter_mut().zip(&axes) {
            (*digit, rest) = (rest % values.len(), rest / values.len());
            theta[*param] = values[*digit];
        }
        let mut phi = [floor.as_slice(); MAX_TERMS];
        let mut shift = [0.0; MAX_TERMS];
        for (j, term) in terms.iter().enumerate() {
            (phi[j], shift[j]) = term.column(&at_axis);
        }
        let mut gram = [0.0; MAX_TERMS * (MAX_TERMS + 1) / 2];
        let mut moments = [0.0; MAX_TERMS];
        normal(&phi[..columns], &root, &mut gram, &mut moments);
        // Unit columns: the normal equations square the condition number.
        let norm: [f64; MAX_TERMS] = std::array::from_fn(|j| if j < columns { gram[at(j, j)].sqrt() } else { 1.0 });
        if norm.iter().any(|n| !n.is_finite() || *n == 0.0) {
            continue;
        }
        for i in 0..columns {
            (0..=i).for_each(|j| gram[at(i, j)] /= norm[i] * norm[j]);
            moments[i] /= norm[i];
        }
        let (c, error) = nonnegative(&gram, &moments[..columns]);
        if best.len() == keep && best.last().is_some_and(|worst| worst.error <= error) {
            continue;
        }
        // A term that the data do not want here is kept alive at a thousandth, so that it may come back.
        let log = |j: usize| (if c[j] > 0.0 { c[j] / norm[j] } else { 1e-3 / norm[j] }).ln();
        let mut start = Start { theta, error };
        coefficients.iter().enumerate().for_each(|(j, &p)| start.theta[p] = log(j) - shift[j]);
        if let Some(floor) = model.floor {
            start.theta[floor] = log(terms.len());
        }
        let place = best.partition_point(|s| s.error <= error);
        best.insert(place, start);
        best.truncate(keep);
    }
    Ok(best)
}

/// One term over L at all values of the exponents in it, times the roots of the weights.
struct Columns {
    /// Axes of the grid that are in the term, and how far apart their values' columns lie.
    strides: Vec<(usize, usize)>,
    /// Each column is divided by `exp(shift)`, so that none overflows.
    shifts: Vec<f64>,
    columns: Vec<Lanes>,
    groups: usize,
}

impl Columns {
    fn new(
        term: &Term,
        data: &Data,
        axes: &[(usize, &[f64])],
        mut theta: [f64; MAX_PARAMS],
        root: &[Lanes],
    ) -> Columns {
        let mut made = Columns { strides: Vec::new(), shifts: Vec::new(), columns: Vec::new(), groups: root.len() };
        let mut count = 1;
        for (axis, (param, values)) in axes.iter().enumerate() {
            if term.entries.iter().any(|e| e.param == *param) {
                made.strides.push((axis, count));
                count *= values.len();
            }
        }
        for which in 0..count {
            for &(axis, stride) in &made.strides {
                let (param, values) = axes[axis];
                theta[param] = values[which / stride % values.len()];
            }
            made.shifts.push(column(term, data, &theta, root, &mut made.columns));
        }
        made
    }

    /// The column at these digits of the axes, and its shift.
    fn column(&self, digits: &[usize]) -> (&[Lanes], f64) {
        let which: usize = self.strides.iter().map(|&(axis, stride)| digits[axis] * stride).sum();
        (&self.columns[which * self.groups..][..self.groups], self.shifts[which])
    }
}

dispatch! {
    /// Append a column of the term; returns its shift.
    fn column(
        term: &Term, data: &Data, theta: &[f64; MAX_PARAMS], root: &[Lanes], columns: &mut Vec<Lanes>,
    ) -> f64 = column_body;
}

#[inline(always)]
fn column_body(term: &Term, data: &Data, theta: &[f64; MAX_PARAMS], root: &[Lanes], columns: &mut Vec<Lanes>) -> f64 {
    let first = columns.len();
    let mut top = f64::NEG_INFINITY;
    for group in data.groups() {
        let mut z = [0.0; LANES];
        for e in &term.entries {
            let slope = e.factor * theta[e.param];
            match e.feature {
                Some(k) => z.iter_mut().zip(&group[k]).for_each(|(z, x)| *z += slope * x),
                None => z.iter_mut().for_each(|z| *z += slope),
            }
        }
        top = z.iter().fold(top, |a, b| a.max(*b));
        columns.push(z);
    }
    for ((z, group), root) in columns[first..].iter_mut().zip(data.groups()).zip(root) {
        for ((z, y), root) in z.iter_mut().zip(&group[data.features]).zip(root) {
            *z = root * exp(*z - top - y);
        }
    }
    top
}

dispatch! {
    /// Gram matrix of the columns, and their products with `target` (the relative loss, 1, times the weights' roots).
    fn normal(phi: &[&[Lanes]], target: &[Lanes], gram: &mut [f64], moments: &mut [f64]) = normal_body;
}

#[inline(always)]
fn normal_body(phi: &[&[Lanes]], target: &[Lanes], gram: &mut [f64], moments: &mut [f64]) {
    for (i, a) in phi.iter().enumerate() {
        moments[i] = dot(a, target);
        for (j, b) in phi[..=i].iter().enumerate() {
            gram[at(i, j)] = dot(a, b);
        }
    }
}

#[inline(always)]
fn dot(a: &[Lanes], b: &[Lanes]) -> f64 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for (s, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *s = a.mul_add(*b, *s);
        }
    }
    sums.iter().sum()
}
