//! Fits of scaling laws. Problems are small: arrays are copied in, results come back as bytes of fp64 rows.

use dither_fit::batch::Problem;
use dither_fit::evaluate::{Curvature, Sums, evaluate, predict};
use dither_fit::linear::at;
use dither_fit::multipower::{MultiPower, Schedule};
use dither_fit::{Data, Ending, Entry, Limits, Model, Objective, Term, project};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Parameters, features, entries (parameter, feature, factor) of every term, floor, outer exponent.
type Description = (usize, usize, Vec<Vec<(usize, Option<usize>, f64)>>, Option<usize>, Option<usize>);
/// Name and delta.
type Named = (String, f64);
type Floats = PyBuffer<f64>;

fn model((params, features, terms, floor, outer): Description) -> PyResult<Model> {
    let entry = |(param, feature, factor)| Entry { param, feature, factor };
    let terms = terms.into_iter().map(|t| Term { entries: t.into_iter().map(entry).collect() }).collect();
    Model::new(params, features, terms, floor, outer).map_err(PyValueError::new_err)
}

fn objective((name, delta): &Named) -> PyResult<Objective> {
    Ok(match name.as_str() {
        "huber" => Objective::Huber(*delta),
        "log_square" => Objective::LogSquare,
        "raw_square" => Objective::RawSquare,
        "raw_huber" => Objective::RawHuber(*delta),
        _ => return Err(PyValueError::new_err(format!("no objective {name:?}"))),
    })
}

fn check(right: bool, what: &str) -> PyResult<()> {
    if right { Ok(()) } else { Err(PyValueError::new_err(format!("wrong length: {what}"))) }
}

/// The rows of a table, their lengths checked.
struct Rows {
    x: Vec<f64>,
    y: Vec<f64>,
    weights: Option<Vec<f64>>,
}

impl Rows {
    fn new(py: Python<'_>, model: &Model, x: Floats, y: Floats, weights: Option<Floats>) -> PyResult<Rows> {
        let (x, y, weights) = (x.to_vec(py)?, y.to_vec(py)?, weights.map(|w| w.to_vec(py)).transpose()?);
        check(!y.is_empty() && x.len() == y.len() * model.features, "x")?;
        check(weights.as_ref().is_none_or(|w| w.len() % y.len() == 0 && !w.is_empty()), "weights")?;
        Ok(Rows { x, y, weights })
    }

    fn data(&self, model: &Model) -> Data {
        Data::new(&self.x, model.features, &self.y, self.weights.as_ref().map(|w| &w[..self.y.len()]))
    }
}

fn bytes<'py>(py: Python<'py>, values: &[f64]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, values.len() * 8, |out| {
        out.chunks_exact_mut(8).zip(values).for_each(|(out, v)| out.copy_from_slice(&v.to_ne_bytes()));
        Ok(())
    })
}

fn never() -> bool {
    false
}

/// Every set of weights (or objective) from each of its starts. A row a fit: theta, value, promise, evaluations, ending
/// (0 converged, 1 stalled, 2 stopped, 3 invalid).
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn fit_minimise<'py>(
    py: Python<'py>,
    description: Description,
    x: Floats,
    y: Floats,
    weights: Option<Floats>,
    objectives: Vec<Named>,
    low: Floats,
    high: Floats,
    starts: Floats,
    count: usize,
    evaluations: usize,
    tolerance: f64,
    threads: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let model = model(description)?;
    let rows = Rows::new(py, &model, x, y, weights)?;
    let objectives: Vec<Objective> = objectives.iter().map(objective).collect::<PyResult<_>>()?;
    let (low, high, starts) = (low.to_vec(py)?, high.to_vec(py)?, starts.to_vec(py)?);
    let problem = Problem {
        model: &model,
        x: &rows.x,
        y: &rows.y,
        weights: rows.weights.as_deref(),
        objectives: &objectives,
        low: &low,
        high: &high,
        limits: Limits { evaluations, tolerance },
    };
    let sets = problem.sets();
    let of_sets = |len: usize, size: usize| len == size || len == size * sets;
    check(objectives.len() == 1 || objectives.len() == sets, "objectives")?;
    check(of_sets(low.len(), model.params) && low.len() == high.len(), "bounds")?;
    check(of_sets(starts.len(), count * model.params), "starts")?;
    let signalled = || Python::attach(|py| py.check_signals().is_err());
    let Some(fits) = py.detach(|| problem.fit(&starts, count, threads, &signalled)) else {
        return Err(pyo3::exceptions::PyKeyboardInterrupt::new_err(()));
    };
    let mut table = Vec::with_capacity(fits.len() * (model.params + 4));
    for fit in &fits {
        table.extend_from_slice(&fit.theta[..model.params]);
        let ending = match fit.ending {
            Ending::Converged => 0.0,
            Ending::Stalled => 1.0,
            Ending::Stopped => 2.0,
            Ending::Invalid => 3.0,
        };
        table.extend([fit.value, fit.promise, fit.evaluations as f64, ending]);
    }
    bytes(py, &table)
}

/// Starts from a grid of exponents. A row each: theta, error.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn fit_project<'py>(
    py: Python<'py>,
    description: Description,
    x: Floats,
    y: Floats,
    weights: Option<Floats>,
    params: Vec<usize>,
    values: Vec<Vec<f64>>,
    base: Vec<f64>,
    keep: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let model = model(description)?;
    let rows = Rows::new(py, &model, x, y, weights)?;
    check(base.len() == model.params && params.len() == values.len(), "base or values")?;
    check(params.iter().all(|p| *p < model.params) && values.iter().all(|v| !v.is_empty()), "grid")?;
    let weights = rows.weights.as_deref();
    let starts = py
        .detach(|| project::starts(&model, &rows.x, &rows.y, weights, &params, &values, &base, keep))
        .map_err(PyValueError::new_err)?;
    let mut table = Vec::new();
    for start in &starts {
        table.extend_from_slice(&start.theta[..model.params]);
        table.push(start.error);
    }
    bytes(py, &table)
}

/// The objective at `theta`: value, gradient, and its exact second derivatives row by row.
#[pyfunction]
fn fit_evaluate(
    py: Python<'_>,
    description: Description,
    x: Floats,
    y: Floats,
    weights: Option<Floats>,
    named: Named,
    theta: Vec<f64>,
) -> PyResult<(f64, Vec<f64>, Vec<f64>)> {
    let model = model(description)?;
    let rows = Rows::new(py, &model, x, y, weights)?;
    check(theta.len() == model.params, "theta")?;
    let (mut sums, n) = (Sums::default(), model.params);
    evaluate(&model, &rows.data(&model), objective(&named)?, &theta, Curvature::Exact, &mut sums);
    let full = (0..n * n).map(|i| (i / n, i % n)).map(|(i, j)| sums.matrix[at(i.max(j), i.min(j))]).collect();
    Ok((sums.value, sums.gradient[..n].to_vec(), full))
}

/// ln L of every row.
#[pyfunction]
fn fit_predict<'py>(
    py: Python<'py>,
    description: Description,
    x: Floats,
    theta: Vec<f64>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (model, x) = (model(description)?, x.to_vec(py)?);
    check(theta.len() == model.params && model.features > 0 && x.len() % model.features == 0, "x or theta")?;
    let mut f = Vec::new();
    let zero = vec![0.0; x.len() / model.features];
    predict(&model, &Data::new(&x, model.features, &zero, None), &theta, &mut f);
    bytes(py, &f)
}

/// Losses of the multi-power law at the steps `at`: law = (L0, A, alpha, B, C, beta, gamma).
#[pyfunction]
fn fit_multipower<'py>(
    py: Python<'py>,
    eta: Floats,
    warmup: f64,
    law: [f64; 7],
    at: Vec<usize>,
    threads: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let eta = eta.to_vec(py)?;
    check(at.iter().all(|t| *t < eta.len()), "steps lie outside the schedule")?;
    let [l0, a, alpha, b, c, beta, gamma] = law;
    let law = MultiPower { l0, a, alpha, b, c, beta, gamma };
    let losses = py.detach(|| Schedule::new(&eta, warmup).losses(law, &at, threads, &never));
    bytes(py, &losses.unwrap_or_default())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(fit_minimise, m)?)?;
    m.add_function(wrap_pyfunction!(fit_project, m)?)?;
    m.add_function(wrap_pyfunction!(fit_evaluate, m)?)?;
    m.add_function(wrap_pyfunction!(fit_predict, m)?)?;
    m.add_function(wrap_pyfunction!(fit_multipower, m)?)
}
