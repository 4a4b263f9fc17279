//! The objective of a law, with its first and second derivatives.
//!
//! With q_j = exp(z_j - u) and p = exp(gamma u - f) (names as in [`crate::model`]), g_j the gradient of z_j, all
//! derivatives are moments under q and p: ḡ = sum q_j g_j, M = sum q_j g_j g_j', v = gamma ḡ + u 1_gamma,
//! grad f = p v + (1-p) 1_e, and
//! hess f = p (1-p) (v - 1_e)(v - 1_e)' + p [gamma (M - ḡ ḡ') + 1_gamma ḡ' + ḡ 1_gamma'].
//! Without gamma the floor is one more term, and hess f = M - ḡ ḡ'.
//!
//! The loops are compiled for every usual number of parameters, so that their sums stay in registers.

use crate::linear::at;
use crate::model::{Data, MAX_PARAMS, Model, Slot};
use crate::objective::{Costs, Objective};
use dither_cpu::dispatch;
use dither_cpu::elementary::{LANES, Lanes, exp, ln, map};

/// Which second derivative of the objective is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curvature {
    /// Reweighted Gauss-Newton: never indefinite.
    Robust,
    /// The exact one.
    Exact,
}

/// Sums over the rows. The matrix is symmetric; its lower triangle is kept, row by row.
#[derive(Clone)]
pub struct Sums {
    pub value: f64,
    pub gradient: [f64; MAX_PARAMS],
    pub matrix: [f64; TRIANGLE],
    /// Diagonal of the robust curvature: the natural scale of each parameter.
    pub scale: [f64; MAX_PARAMS],
}

pub const TRIANGLE: usize = MAX_PARAMS * (MAX_PARAMS + 1) / 2;

impl Default for Sums {
    fn default() -> Sums {
        Sums { value: 0.0, gradient: [0.0; MAX_PARAMS], matrix: [0.0; TRIANGLE], scale: [0.0; MAX_PARAMS] }
    }
}

dispatch! {
    /// The objective and its derivatives at `theta`.
    pub fn evaluate(
        model: &Model, data: &Data, objective: Objective, theta: &[f64], curvature: Curvature, sums: &mut Sums,
    ) = evaluate_body;
}

dispatch! {
    /// `ln L_hat` of every row that has a weight, in order.
    pub fn predict(model: &Model, data: &Data, theta: &[f64], f: &mut Vec<f64>) = predict_body;
}

/// One group of rows, ready for its sums. P: parameters; a lower triangle is kept of the square.
struct Local<const P: usize> {
    f: Lanes,
    gradient: [Lanes; P],
    /// hess f + grad f grad f'.
    moment: [[Lanes; P]; P],
}

const ZERO: Lanes = [0.0; LANES];

impl<const P: usize> Local<P> {
    #[inline(always)]
    fn new() -> Local<P> {
        Local { f: ZERO, gradient: [ZERO; P], moment: [[ZERO; P]; P] }
    }
}

#[inline(always)]
fn add(to: &mut Lanes, factor: &Lanes, x: &Lanes) {
    for ((t, a), b) in to.iter_mut().zip(factor).zip(x) {
        *t = a.mul_add(*b, *t);
    }
}

#[inline(always)]
fn product(a: &Lanes, b: &Lanes) -> Lanes {
    combine(a, b, |a, b| a * b)
}

#[inline(always)]
fn combine(a: &Lanes, b: &Lanes, f: impl Fn(f64, f64) -> f64) -> Lanes {
    let mut c = *a;
    for (c, b) in c.iter_mut().zip(b) {
        *c = f(*c, *b);
    }
    c
}

/// A slot's derivative in one group.
#[inline(always)]
fn slope(slot: &Slot, group: &[Lanes]) -> Lanes {
    let mut g = ZERO;
    for &(feature, factor) in &slot.parts {
        match feature {
            Some(k) => add(&mut g, &[factor; LANES], &group[k]),
            None => g = map(g, |v| v + factor),
        }
    }
    g
}

#[inline(always)]
fn local<const P: usize>(model: &Model, group: &[Lanes], theta: &[f64], second: bool, out: &mut Local<P>) {
    out.gradient = [ZERO; P];
    if second {
        out.moment = [[ZERO; P]; P];
    }
    let count = model.slots.len();
    let mut z = [ZERO; MAX_PARAMS + 1];
    let mut top = [f64::NEG_INFINITY; LANES];
    for (slots, z) in model.slots.iter().zip(&mut z) {
        for slot in slots {
            add(z, &[theta[slot.param]; LANES], &slope(slot, group));
        }
        top = combine(&top, z, f64::max);
    }
    let mut sum = ZERO;
    for z in &mut z[..count] {
        *z = combine(z, &top, |z, top| exp(z - top));
        sum = combine(&sum, z, |a, b| a + b);
    }
    let u = combine(&top, &map(sum, ln), |a, b| a + b);
    let share = map(sum, f64::recip);
    for (slots, z) in model.slots.iter().zip(&z) {
        let q = product(z, &share);
        for (i, slot) in slots.iter().enumerate() {
            let qg = product(&q, &slope(slot, group));
            out.gradient[slot.param] = combine(&out.gradient[slot.param], &qg, |a, b| a + b);
            if second {
                for other in &slots[..=i] {
                    let (a, b) = (slot.param.max(other.param), slot.param.min(other.param));
                    add(&mut out.moment[a][b], &qg, &slope(other, group));
                }
            }
        }
    }
    out.f = u;
    if let Some(outer) = model.outer {
        bend(model, outer, u, theta, second, out);
    }
}

/// From the sum of terms to its power, and the floor beneath it.
#[inline(always)]
fn bend<const P: usize>(model: &Model, outer: usize, u: Lanes, theta: &[f64], second: bool, out: &mut Local<P>) {
    let gamma = theta[outer];
    let t = map(u, |u| gamma * u);
    let (mut p, mut rest) = ([1.0; LANES], ZERO);
    out.f = t;
    if let Some(floor) = model.floor {
        let e = theta[floor];
        let top = map(t, |t| t.max(e));
        let (a, b) = (combine(&t, &top, |t, top| exp(t - top)), map(top, |top| exp(e - top)));
        let sum = combine(&a, &b, |a, b| a + b);
        p = combine(&a, &sum, |a, s| a / s);
        rest = combine(&b, &sum, |b, s| b / s);
        out.f = combine(&top, &map(sum, ln), |a, b| a + b);
    }
    // v = gamma g + u 1_gamma.
    let mean = out.gradient;
    for v in &mut out.gradient {
        *v = map(*v, |v| gamma * v);
    }
    out.gradient[outer] = combine(&out.gradient[outer], &u, |a, b| a + b);
    let v = out.gradient;
    if second {
        // moment = p v v' + (1-p) 1_e 1_e' + p [gamma (M - g g') + 1_gamma g' + g 1_gamma'].
        for i in 0..P {
            for j in 0..=i {
                let spread = combine(&out.moment[i][j], &product(&mean[i], &mean[j]), |m, gg| gamma * (m - gg));
                let inner = combine(&spread, &product(&v[i], &v[j]), |a, b| a + b);
                out.moment[i][j] = product(&p, &inner);
            }
        }
        for (i, g) in mean.iter().enumerate() {
            let (a, b) = (i.max(outer), i.min(outer));
            let twice = if i == outer { 2.0 } else { 1.0 };
            add(&mut out.moment[a][b], &map(p, |p| twice * p), g);
        }
        if let Some(e) = model.floor {
            out.moment[e][e] = combine(&out.moment[e][e], &rest, |a, b| a + b);
        }
    }
    for v in &mut out.gradient {
        *v = product(v, &p);
    }
    if let Some(e) = model.floor {
        out.gradient[e] = combine(&out.gradient[e], &rest, |a, b| a + b);
    }
}

/// `$sized::<P>(args)` for the least P of the list that holds the model's parameters.
macro_rules! sized {
    ($model:expr, $sized:ident ($($arg:expr),*)) => {
        match $model.params {
            0..=4 => $sized::<4>($($arg),*),
            5 => $sized::<5>($($arg),*),
            6 => $sized::<6>($($arg),*),
            7..=9 => $sized::<9>($($arg),*),
            _ => $sized::<MAX_PARAMS>($($arg),*),
        }
    };
}

#[inline(always)]
fn evaluate_body(
    model: &Model,
    data: &Data,
    objective: Objective,
    theta: &[f64],
    curvature: Curvature,
    sums: &mut Sums,
) {
    sized!(model, evaluate_sized(model, data, objective, theta, curvature, sums));
}

// Plain loops up to a constant are what the compiler unrolls.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn evaluate_sized<const P: usize>(
    model: &Model,
    data: &Data,
    objective: Objective,
    theta: &[f64],
    curvature: Curvature,
    sums: &mut Sums,
) {
    let exact = curvature == Curvature::Exact;
    let mut local_ = Local::<P>::new();
    let (mut value, mut gradient, mut scale) = (ZERO, [ZERO; P], [ZERO; P]);
    let mut matrix = [[ZERO; P]; P];
    for group in data.groups() {
        local(model, group, theta, exact, &mut local_);
        let (y, w) = (&group[data.features], &group[data.features + 1]);
        let Costs { value: cost, first, second, majorant } = objective.costs(&local_.f, y);
        let (first, robust) = (product(w, &first), product(w, &majorant));
        // second * grad grad' + first * (moment - grad grad').
        let outer = if exact { combine(&product(w, &second), &first, |s, d| s - d) } else { robust };
        add(&mut value, w, &cost);
        let g = &local_.gradient;
        for i in 0..P {
            add(&mut gradient[i], &first, &g[i]);
            add(&mut scale[i], &product(&robust, &g[i]), &g[i]);
            let gi = product(&outer, &g[i]);
            for j in 0..=i {
                add(&mut matrix[i][j], &gi, &g[j]);
            }
        }
        if exact {
            for i in 0..P {
                for j in 0..=i {
                    add(&mut matrix[i][j], &first, &local_.moment[i][j]);
                }
            }
        }
    }
    let total = |lanes: &Lanes| lanes.iter().sum::<f64>();
    sums.value = total(&value);
    for i in 0..model.params {
        sums.gradient[i] = total(&gradient[i]);
        sums.scale[i] = total(&scale[i]);
        for j in 0..=i {
            sums.matrix[at(i, j)] = total(&matrix[i][j]);
        }
    }
}

#[inline(always)]
fn predict_body(model: &Model, data: &Data, theta: &[f64], f: &mut Vec<f64>) {
    let mut local_ = Local::<MAX_PARAMS>::new();
    f.clear();
    for group in data.groups() {
        local(model, group, theta, false, &mut local_);
        f.extend(local_.f);
    }
    f.truncate(data.rows);
}
