//! Many problems at once: the same rows under many weights, objectives, bounds and starts, on several threads.

use crate::model::{Data, Model};
use crate::newton::{Bounds, Fit, Limits, minimise};
use crate::objective::Objective;
use dither_cpu::threads::for_each;
use std::sync::Mutex;

/// One law over one table of rows.
pub struct Problem<'a> {
    pub model: &'a Model,
    /// rows x features, row by row: logarithms.
    pub x: &'a [f64],
    /// ln L.
    pub y: &'a [f64],
    /// sets x rows; `None`: one set, all ones.
    pub weights: Option<&'a [f64]>,
    /// One for every set, or one for all.
    pub objectives: &'a [Objective],
    /// sets x params each, or params for all.
    pub low: &'a [f64],
    pub high: &'a [f64],
    pub limits: Limits,
}

impl Problem<'_> {
    pub fn sets(&self) -> usize {
        self.weights.map_or(self.objectives.len(), |w| w.len() / self.y.len().max(1))
    }

    /// Fit every set from each of its starts: `starts` is sets x count x params, or count x params for all sets.
    /// Results lie set by set. `None` where `give_up`, asked now and then on the calling thread, said yes.
    pub fn fit(&self, starts: &[f64], count: usize, threads: usize, give_up: &dyn Fn() -> bool) -> Option<Vec<Fit>> {
        let sets = self.sets();
        let results: Mutex<Vec<(usize, Vec<Fit>)>> = Mutex::new(Vec::with_capacity(sets));
        let complete = for_each(sets, threads, give_up, |set| {
            let fits = self.fit_set(set, starts, count);
            results.lock().unwrap_or_else(|e| e.into_inner()).push((set, fits));
        });
        let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
        results.sort_by_key(|(set, _)| *set);
        complete.then(|| results.into_iter().flat_map(|(_, fits)| fits).collect())
    }

    fn fit_set(&self, set: usize, starts: &[f64], count: usize) -> Vec<Fit> {
        let (rows, params) = (self.y.len(), self.model.params);
        let data = Data::new(self.x, self.model.features, self.y, self.weights.map(|w| &w[set * rows..][..rows]));
        let objective = self.objectives[if self.objectives.len() == 1 { 0 } else { set }];
        let of_set = |values: &'_ [f64], size: usize| if values.len() == size { 0 } else { set * size };
        let low = &self.low[of_set(self.low, params)..][..params];
        let high = &self.high[of_set(self.high, params)..][..params];
        let first = of_set(starts, count * params);
        let one = |start| minimise(self.model, &data, objective, start, Bounds { low, high }, self.limits);
        starts[first..][..count * params].chunks_exact(params).map(one).collect()
    }
}
