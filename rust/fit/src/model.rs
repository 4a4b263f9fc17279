//! A law as a log-sum-exp, with its first and second derivatives.
//! ```text
//! z_j = sum of entries: factor * theta[param] * (feature column, or 1)          a term's logarithm
//! u   = LSE_j z_j                                                                the sum of the terms
//! f   = LSE(gamma u, e)                                                          ln L_hat, with floor E = exp(e)
//! ```
//!
//! With q_j = exp(z_j - u) and p = exp(gamma u - f), g_j the gradient of z_j, all derivatives are moments under q and
//! p: ḡ = sum q_j g_j, M = sum q_j g_j g_j', v = gamma ḡ + u 1_gamma, grad f = p v + (1-p) 1_e, and
//! hess f = p (1-p) (v - 1_e)(v - 1_e)' + p [gamma (M - ḡ ḡ') + 1_gamma ḡ' + ḡ 1_gamma'].
//! Without gamma the floor is one more term, and hess f = M - ḡ ḡ'.

use crate::objective::{Cost, Objective};
use dither_cpu::dispatch;
use dither_cpu::elementary::{LANES, Lanes, exp, ln, map};

/// Parameters of a law at most.
pub const MAX_PARAMS: usize = 16;

/// `factor * theta[param] * feature`, or `factor * theta[param]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub param: usize,
    pub feature: Option<usize>,
    pub factor: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub entries: Vec<Entry>,
}

/// What one parameter does in one term: the sum of its entries.
struct Slot {
    param: usize,
    parts: Vec<(Option<usize>, f64)>,
}

pub struct Model {
    pub params: usize,
    pub features: usize,
    pub terms: Vec<Term>,
    /// The parameter that is ln E.
    pub floor: Option<usize>,
    /// The parameter that is gamma, the exponent of the sum.
    pub outer: Option<usize>,
    slots: Vec<Vec<Slot>>,
}

impl Model {
    /// Says in words what is wrong with a description.
    pub fn new(
        params: usize,
        features: usize,
        terms: Vec<Term>,
        floor: Option<usize>,
        outer: Option<usize>,
    ) -> Result<Model, String> {
        if !(1..=MAX_PARAMS).contains(&params) {
            return Err(format!("a law has 1 to {MAX_PARAMS} parameters, not {params}"));
        }
        if terms.is_empty() || terms.iter().any(|t| t.entries.is_empty()) {
            return Err("a law has at least one term, and a term at least one entry".into());
        }
        for entry in terms.iter().flat_map(|t| &t.entries) {
            if entry.param >= params || entry.feature.is_some_and(|k| k >= features) {
                return Err(format!("{entry:?} is outside {params} parameters and {features} features"));
            }
        }
        if floor.into_iter().chain(outer).any(|p| p >= params) {
            return Err(format!("floor {floor:?} or outer {outer:?} is outside {params} parameters"));
        }
        let mut slots: Vec<Vec<Slot>> = terms.iter().map(slots).collect();
        if let (Some(param), None) = (floor, outer) {
            slots.push(vec![Slot { param, parts: vec![(None, 1.0)] }]);
        }
        Ok(Model { params, features, terms, floor, outer, slots })
    }

    /// Whether the law bends: an exponent on the sum.
    pub fn bends(&self) -> bool {
        self.outer.is_some()
    }
}

fn slots(term: &Term) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    for e in &term.entries {
        match slots.iter_mut().find(|s| s.param == e.param) {
            Some(slot) => slot.parts.push((e.feature, e.factor)),
            None => slots.push(Slot { param: e.param, parts: vec![(e.feature, e.factor)] }),
        }
    }
    slots
}

/// Rows in groups of [`LANES`]: for each group its features, then `y = ln L`, then the weights. Rows without weight
/// are left out; the last group is filled with rows of weight 0.
pub struct Data {
    groups: Vec<Lanes>,
    features: usize,
    pub rows: usize,
}

impl Data {
    /// `x`: rows x features, row by row.
    pub fn new(x: &[f64], features: usize, y: &[f64], weights: Option<&[f64]>) -> Data {
        let weight = |i: usize| weights.map_or(1.0, |w| w[i]);
        let kept: Vec<usize> = (0..y.len()).filter(|&i| weight(i) != 0.0).collect();
        let mut groups = Vec::with_capacity(kept.len().div_ceil(LANES) * (features + 2));
        for rows in kept.chunks(LANES) {
            let lanes = |value: &dyn Fn(usize) -> f64| {
                let mut lanes = [value(rows[0]); LANES];
                rows.iter().zip(&mut lanes).for_each(|(&i, lane)| *lane = value(i));
                lanes
            };
            groups.extend((0..features).map(|k| lanes(&|i| x[i * features + k])));
            groups.push(lanes(&|i| y[i]));
            let mut w = [0.0; LANES];
            rows.iter().zip(&mut w).for_each(|(&i, w)| *w = weight(i));
            groups.push(w);
        }
        Data { groups, features, rows: kept.len() }
    }

    #[inline(always)]
    fn groups(&self) -> impl Iterator<Item = &[Lanes]> {
        self.groups.chunks_exact(self.features + 2)
    }
}

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

/// Position of (i, j), j <= i, in a lower triangle.
#[inline(always)]
pub fn at(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
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

/// One group of rows, ready for its sums.
struct Local {
    f: Lanes,
    gradient: [Lanes; MAX_PARAMS],
    /// hess f + grad f grad f'.
    moment: [Lanes; TRIANGLE],
}

#[inline(always)]
fn add(to: &mut Lanes, factor: &Lanes, x: &Lanes) {
    for ((t, a), b) in to.iter_mut().zip(factor).zip(x) {
        *t += a * b;
    }
}

#[inline(always)]
fn product(a: &Lanes, b: &Lanes) -> Lanes {
    let mut c = *a;
    for (c, b) in c.iter_mut().zip(b) {
        *c *= b;
    }
    c
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
    let mut g = [0.0; LANES];
    for &(feature, factor) in &slot.parts {
        match feature {
            Some(k) => add(&mut g, &[factor; LANES], &group[k]),
            None => g = map(g, |v| v + factor),
        }
    }
    g
}

#[inline(always)]
fn local(model: &Model, group: &[Lanes], theta: &[f64], second: bool, out: &mut Local) {
    let params = model.params;
    out.gradient[..params].fill([0.0; LANES]);
    if second {
        out.moment[..at(params, 0)].fill([0.0; LANES]);
    }
    let count = model.slots.len();
    let mut z = [[0.0; LANES]; MAX_PARAMS + 1];
    let mut top = [f64::NEG_INFINITY; LANES];
    for (slots, z) in model.slots.iter().zip(&mut z) {
        for slot in slots {
            add(z, &[theta[slot.param]; LANES], &slope(slot, group));
        }
        top = combine(&top, z, f64::max);
    }
    let mut sum = [0.0; LANES];
    for z in &mut z[..count] {
        *z = combine(z, &top, |z, top| exp(z - top));
        sum = combine(&sum, z, |a, b| a + b);
    }
    let u = combine(&top, &map(sum, ln), |a, b| a + b);
    for (slots, z) in model.slots.iter().zip(&z) {
        let q = combine(z, &sum, |z, sum| z / sum);
        for (i, slot) in slots.iter().enumerate() {
            let qg = product(&q, &slope(slot, group));
            out.gradient[slot.param] = combine(&out.gradient[slot.param], &qg, |a, b| a + b);
            if second {
                for other in &slots[..=i] {
                    let (a, b) = (slot.param.max(other.param), slot.param.min(other.param));
                    add(&mut out.moment[at(a, b)], &qg, &slope(other, group));
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
fn bend(model: &Model, outer: usize, u: Lanes, theta: &[f64], second: bool, out: &mut Local) {
    let (params, gamma) = (model.params, theta[outer]);
    let t = map(u, |u| gamma * u);
    let (mut p, mut rest) = ([1.0; LANES], [0.0; LANES]);
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
    for v in &mut out.gradient[..params] {
        *v = map(*v, |v| gamma * v);
    }
    out.gradient[outer] = combine(&out.gradient[outer], &u, |a, b| a + b);
    let v = out.gradient;
    if second {
        // moment = p v v' + (1-p) 1_e 1_e' + p [gamma (M - g g') + 1_gamma g' + g 1_gamma'].
        for i in 0..params {
            for j in 0..=i {
                let spread = combine(&out.moment[at(i, j)], &product(&mean[i], &mean[j]), |m, gg| gamma * (m - gg));
                let inner = combine(&spread, &product(&v[i], &v[j]), |a, b| a + b);
                out.moment[at(i, j)] = product(&p, &inner);
            }
        }
        for (i, g) in mean[..params].iter().enumerate() {
            let (a, b) = (i.max(outer), i.min(outer));
            let twice = if i == outer { 2.0 } else { 1.0 };
            add(&mut out.moment[at(a, b)], &map(p, |p| twice * p), g);
        }
        if let Some(e) = model.floor {
            out.moment[at(e, e)] = combine(&out.moment[at(e, e)], &rest, |a, b| a + b);
        }
    }
    for v in &mut out.gradient[..params] {
        *v = product(v, &p);
    }
    if let Some(e) = model.floor {
        out.gradient[e] = combine(&out.gradient[e], &rest, |a, b| a + b);
    }
}

#[inline(always)]
fn new_local() -> Local {
    Local { f: [0.0; LANES], gradient: [[0.0; LANES]; MAX_PARAMS], moment: [[0.0; LANES]; TRIANGLE] }
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
    let params = model.params;
    let exact = curvature == Curvature::Exact;
    let mut local_ = new_local();
    let (mut value, mut gradient) = ([0.0; LANES], [[0.0; LANES]; MAX_PARAMS]);
    let (mut matrix, mut scale) = ([[0.0; LANES]; TRIANGLE], [[0.0; LANES]; MAX_PARAMS]);
    for group in data.groups() {
        local(model, group, theta, exact, &mut local_);
        let (y, w) = (&group[data.features], &group[data.features + 1]);
        let (mut cost, mut first, mut outer, mut robust) = (*w, *w, *w, *w);
        for i in 0..LANES {
            let Cost { value, first: d, second, majorant } = objective.cost(local_.f[i], y[i]);
            cost[i] *= value;
            first[i] *= d;
            // second * grad grad' + first * (moment - grad grad').
            outer[i] *= if exact { second - d } else { majorant };
            robust[i] *= majorant;
        }
        value = combine(&value, &cost, |a, b| a + b);
        let g = &local_.gradient;
        for i in 0..params {
            add(&mut gradient[i], &first, &g[i]);
            let gi = product(&outer, &g[i]);
            for j in 0..=i {
                add(&mut matrix[at(i, j)], &gi, &g[j]);
                if exact {
                    add(&mut matrix[at(i, j)], &first, &local_.moment[at(i, j)]);
                }
            }
            add(&mut scale[i], &product(&robust, &g[i]), &g[i]);
        }
    }
    let total = |lanes: &Lanes| lanes.iter().sum::<f64>();
    sums.value = total(&value);
    for i in 0..params {
        sums.gradient[i] = total(&gradient[i]);
        sums.scale[i] = total(&scale[i]);
    }
    for (to, from) in sums.matrix[..at(params, 0)].iter_mut().zip(&matrix) {
        *to = total(from);
    }
}

#[inline(always)]
fn predict_body(model: &Model, data: &Data, theta: &[f64], f: &mut Vec<f64>) {
    let mut local_ = new_local();
    f.clear();
    for group in data.groups() {
        local(model, group, theta, false, &mut local_);
        f.extend(local_.f);
    }
    f.truncate(data.rows);
}
