//! A law as a sum of power terms, and the rows it is held against.
//! ```text
//! z_j = sum of entries: factor * theta[param] * (feature column, or 1)          a term's logarithm
//! u   = LSE_j z_j                                                                the sum of the terms
//! f   = LSE(gamma u, e)                                                          ln L_hat, with floor E = exp(e)
//! ```
//! Without gamma the floor is one more term.

use dither_cpu::elementary::{LANES, Lanes};

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
pub(crate) struct Slot {
    pub param: usize,
    pub parts: Vec<(Option<usize>, f64)>,
}

pub struct Model {
    pub params: usize,
    pub features: usize,
    pub terms: Vec<Term>,
    /// The parameter that is ln E.
    pub floor: Option<usize>,
    /// The parameter that is gamma, the exponent of the sum.
    pub outer: Option<usize>,
    pub(crate) slots: Vec<Vec<Slot>>,
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
    pub(crate) features: usize,
    pub rows: usize,
    /// Sum of the weights.
    pub weight: f64,
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
        let weight = kept.iter().map(|&i| weight(i)).sum();
        Data { groups, features, rows: kept.len(), weight }
    }

    #[inline(always)]
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Lanes]> {
        self.groups.chunks_exact(self.features + 2)
    }
}
