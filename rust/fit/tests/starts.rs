//! From anywhere: the starts of a published grid, under every objective and scale of the weights.

mod common;

use common::{TRUTH, chinchilla, free, losses, spread, table};
use dither_fit::batch::Problem;
use dither_fit::evaluate::{Curvature, Sums, evaluate};
use dither_fit::newton::minimise;
use dither_fit::{Bounds, Data, Fit, Limits, Objective};

/// The grid of starts of Chinchilla's approach 3 (arXiv:2203.15556, appendix D.3; 4,500 of them).
fn published_grid() -> Vec<f64> {
    let logs = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0];
    let powers = [0.0, 0.5, 1.0, 1.5, 2.0];
    let mut starts = Vec::new();
    for a in logs {
        for b in logs {
            for e in [-1.0, -0.5, 0.0, 0.5, 1.0] {
                for alpha in powers {
                    for beta in powers {
                        starts.extend([a, b, e, alpha, beta]);
                    }
                }
            }
        }
    }
    starts
}

fn from_all(starts: &[f64], x: &[f64], y: &[f64], weights: &[f64], objective: Objective) -> Vec<Fit> {
    let (model, (low, high)) = (chinchilla(), free(5));
    let (weights, objectives) = (Some(weights), &[objective]);
    let (low, high, limits) = (&low, &high, Limits::default());
    let problem = Problem { model: &model, x, y, weights, objectives, low, high, limits };
    problem.fit(starts, starts.len() / 5, 1, &|| false).unwrap()
}

fn best(fits: &[Fit]) -> &Fit {
    fits.iter().min_by(|a, b| a.value.total_cmp(&b.value)).unwrap()
}

/// How many fits end at the best of them.
fn arriving(fits: &[Fit]) -> usize {
    fits.iter().filter(|fit| fit.value <= best(fits).value * (1.0 + 1e-9)).count()
}

/// Every seventh.
fn some(starts: Vec<f64>) -> Vec<f64> {
    starts.chunks(5).step_by(7).flatten().copied().collect()
}

#[test]
fn fits_do_not_depend_on_the_scale_of_the_weights() {
    let x = table(240);
    let y = losses(&chinchilla(), &x, &TRUTH[..5], 0.05);
    let starts = some(published_grid());
    let weights: Vec<f64> = (0..240).map(|i| (4.0 * spread(5 * i)).floor()).collect();
    let scaled = |factor: f64| weights.iter().map(|w| factor * w).collect::<Vec<f64>>();
    for objective in [Objective::Huber(1e-3), Objective::Huber(0.1), Objective::LogSquare] {
        let fits = from_all(&starts, &x, &y, &weights, objective);
        // A power of two changes no digit of any step.
        for (a, b) in fits.iter().zip(from_all(&starts, &x, &y, &scaled(2f64.powi(-10)), objective)) {
            assert_eq!((a.theta, a.evaluations, a.ending), (b.theta, b.evaluations, b.ending), "{objective:?}");
        }
        for factor in [1e-3, 1e3] {
            let others = from_all(&starts, &x, &y, &scaled(factor), objective);
            assert_eq!(arriving(&fits), arriving(&others), "{objective:?} {factor}");
            let (a, b) = (best(&fits), best(&others));
            let apart = a.theta.iter().zip(&b.theta).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-6, "{objective:?} {factor}: {a:?} {b:?}");
        }
    }
}

#[test]
fn where_no_residual_is_large_huber_s_way_is_that_of_squares() {
    let x = table(240);
    let y = losses(&chinchilla(), &x, &TRUTH[..5], 0.05);
    let (starts, ones) = (some(published_grid()), vec![1.0; 240]);
    let squares = from_all(&starts, &x, &y, &ones, Objective::LogSquare);
    for (a, b) in squares.iter().zip(from_all(&starts, &x, &y, &ones, Objective::Huber(1e3))) {
        assert_eq!((a.theta, a.evaluations, a.ending), (b.theta, b.evaluations, b.ending));
    }
    // Of the whole grid all but 1 % arrive.
    assert!(arriving(&squares) * 100 >= 99 * squares.len(), "{} of {}", arriving(&squares), squares.len());
}

#[test]
fn no_fit_ends_above_its_start_or_takes_more_evaluations_than_it_may() {
    let x = table(120);
    let (model, y) = (chinchilla(), losses(&chinchilla(), &x, &TRUTH[..5], 0.3));
    let data = Data::new(&x, 2, &y, None);
    let (low, high) = free(5);
    let bounds = Bounds { low: &low, high: &high };
    let mut sums = Sums::default();
    for objective in [Objective::Huber(1e-3), Objective::Huber(1e-5), Objective::RawHuber(1e-3), Objective::RawSquare] {
        for evaluations in [1, 7, 8, 30, 100] {
            for start in some(published_grid()).chunks(5).step_by(3) {
                let fit = minimise(&model, &data, objective, start, bounds, Limits { evaluations, tolerance: 1e-14 });
                evaluate(&model, &data, objective, start, Curvature::Exact, &mut sums);
                let what = format!("{objective:?} {evaluations} {start:?} {} {fit:?}", sums.value);
                assert!(fit.value <= sums.value && fit.evaluations <= evaluations, "{what}");
                evaluate(&model, &data, objective, &fit.theta[..5], Curvature::Exact, &mut sums);
                assert_eq!(fit.value, sums.value, "{what}");
            }
        }
    }
}

/// Rows far off pull the softer objectives away from a start that is nearly right for the one that is asked for.
#[test]
fn softer_objectives_lead_no_good_start_away() {
    let x = table(120);
    let (model, mut y) = (chinchilla(), losses(&chinchilla(), &x, &TRUTH[..5], 0.0));
    y.iter_mut().step_by(4).for_each(|y| *y += 3.0);
    let data = Data::new(&x, 2, &y, None);
    let (low, high) = free(5);
    let bounds = Bounds { low: &low, high: &high };
    let mut sums = Sums::default();
    for i in 0..200 {
        let start: Vec<f64> = (0..5).map(|k| TRUTH[k] + 1e-3 * (spread(13 * i + 5 * k) - 0.5)).collect();
        for evaluations in [8, 20, 50, 500] {
            let objective = Objective::Huber(1e-5);
            let fit = minimise(&model, &data, objective, &start, bounds, Limits { evaluations, tolerance: 1e-14 });
            evaluate(&model, &data, objective, &start, Curvature::Exact, &mut sums);
            assert!(fit.value <= sums.value, "{evaluations} {start:?} {} {fit:?}", sums.value);
        }
    }
}
