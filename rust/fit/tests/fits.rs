//! Derivatives against differences, recovery of known laws, bounds, and independence of threads.

mod common;

use common::{TRUTH, chinchilla, entry, free, losses, spread, table};
use dither_fit::batch::Problem;
use dither_fit::evaluate::{Curvature, Sums, evaluate};
use dither_fit::linear::at;
use dither_fit::newton::minimise;
use dither_fit::project;
use dither_fit::{Bounds, Data, Ending, Limits, Model, Objective, Term};

/// L = E + (A N^-alpha + B D^-beta)^gamma; gamma is parameter 5.
fn bent(floor: bool) -> Model {
    let term = |a, k, p| Term { entries: vec![entry(a, None, 1.0), entry(p, Some(k), -1.0)] };
    Model::new(6, 2, vec![term(0, 0, 3), term(1, 1, 4)], floor.then_some(2), Some(5)).unwrap()
}

/// L = E + (a M^eta + b M^-eta) C^-eta: one exponent on two features, in both terms.
fn overtraining() -> Model {
    let term = |a, sign| Term { entries: vec![entry(a, None, 1.0), entry(3, Some(0), sign), entry(3, Some(1), -1.0)] };
    Model::new(4, 2, vec![term(0, 1.0), term(1, -1.0)], Some(2), None).unwrap()
}

#[test]
fn derivatives_are_differences() {
    let x = table(37);
    let theta = [5.7, 7.9, 0.4, 0.31, 0.40, 0.8];
    let objectives = [Objective::Huber(0.05), Objective::LogSquare, Objective::RawSquare, Objective::RawHuber(0.1)];
    let narrow = [0.3, 0.2, 0.4, 0.02];
    let cases: [(Model, &[f64]); 4] =
        [(chinchilla(), &theta[..5]), (bent(true), &theta), (bent(false), &theta), (overtraining(), &narrow)];
    for (model, theta) in &cases {
        let y = losses(&chinchilla(), &x, &TRUTH[..5], 0.3);
        let weights: Vec<f64> = (0..37).map(|i| (i % 4) as f64 * 0.7).collect();
        let data = Data::new(&x, 2, &y, Some(&weights));
        for objective in objectives {
            let at_theta = |theta: &[f64]| {
                let mut sums = Sums::default();
                evaluate(model, &data, objective, theta, Curvature::Exact, &mut sums);
                sums
            };
            let exact = at_theta(theta);
            for i in 0..model.params {
                let h = 1e-6;
                let (mut up, mut down) = (theta.to_vec(), theta.to_vec());
                (up[i], down[i]) = (up[i] + h, down[i] - h);
                let (up, down) = (at_theta(&up), at_theta(&down));
                let slope = (up.value - down.value) / (2.0 * h);
                assert!((slope - exact.gradient[i]).abs() <= 1e-7 * (1.0 + slope.abs()), "{objective:?} {i}");
                for j in 0..model.params {
                    // Huber's second derivative jumps where a residual crosses delta: none does within h here.
                    let bend = (up.gradient[j] - down.gradient[j]) / (2.0 * h);
                    let mine = exact.matrix[at(i.max(j), i.min(j))];
                    assert!((bend - mine).abs() <= 1e-5 * (1.0 + bend.abs()), "{objective:?} {i} {j} {bend} {mine}");
                }
            }
        }
    }
}

#[test]
fn the_robust_matrix_is_gauss_newton() {
    let (x, model) = (table(20), chinchilla());
    let y = losses(&model, &x, &TRUTH[..5], 0.3);
    let data = Data::new(&x, 2, &y, None);
    let mut sums = Sums::default();
    evaluate(&model, &data, Objective::LogSquare, &TRUTH[..5], Curvature::Robust, &mut sums);
    for i in 0..5 {
        assert_eq!(sums.matrix[at(i, i)], sums.scale[i]);
    }
}

#[test]
fn known_laws_come_back_from_projected_starts() {
    let x = table(60);
    let grid: Vec<f64> = (0..20).map(|i| 0.05 + 0.07 * i as f64).collect();
    let model = chinchilla();
    let y = losses(&model, &x, &TRUTH[..5], 0.0);
    let starts = project::starts(&model, &x, &y, None, &[3, 4], &[grid.clone(), grid.clone()], &[0.0; 5], 10).unwrap();
    assert_eq!(starts.len(), 10);
    let data = Data::new(&x, 2, &y, None);
    let (low, high) = free(5);
    for objective in [Objective::Huber(1e-3), Objective::LogSquare, Objective::RawSquare] {
        for start in &starts {
            let fit = minimise(
                &model,
                &data,
                objective,
                &start.theta[..5],
                Bounds { low: &low, high: &high },
                Limits::default(),
            );
            let worst = fit.theta[..5].iter().zip(&TRUTH).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-6, "{objective:?} {fit:?}");
        }
    }
}

#[test]
fn noisy_fits_end_where_no_direction_helps() {
    let x = table(120);
    for (model, theta) in [(chinchilla(), &TRUTH[..5]), (bent(true), &TRUTH[..])] {
        let y = losses(&model, &x, theta, 0.05);
        let data = Data::new(&x, 2, &y, None);
        let (low, high) = free(model.params);
        for objective in [Objective::Huber(1e-3), Objective::Huber(1e-5), Objective::LogSquare, Objective::RawSquare] {
            let start: Vec<f64> = theta.iter().map(|t| t * 1.1).collect();
            let bounds = Bounds { low: &low, high: &high };
            let fit = minimise(&model, &data, objective, &start, bounds, Limits::default());
            assert_eq!(fit.ending, Ending::Converged, "{objective:?} {fit:?}");
            let mut sums = Sums::default();
            for i in 0..model.params {
                for h in [1e-4, -1e-4] {
                    let mut moved = fit.theta;
                    moved[i] += h;
                    evaluate(&model, &data, objective, &moved[..model.params], Curvature::Robust, &mut sums);
                    assert!(sums.value >= fit.value, "{objective:?} {i} {h}");
                }
            }
        }
    }
}

#[test]
fn bounds_hold_and_fixed_parameters_stay() {
    let (x, model) = (table(60), chinchilla());
    let y = losses(&model, &x, &TRUTH[..5], 0.01);
    let data = Data::new(&x, 2, &y, None);
    let (mut low, mut high) = free(5);
    (low[3], high[3]) = (0.3, 0.3);
    high[4] = 0.35;
    let fit = minimise(
        &model,
        &data,
        Objective::Huber(1e-3),
        &[6.0, 7.0, 0.5, 0.9, 0.9],
        Bounds { low: &low, high: &high },
        Limits::default(),
    );
    assert_eq!(fit.ending, Ending::Converged);
    assert_eq!(fit.theta[3], 0.3);
    assert!(fit.theta[4] <= 0.35);
}

#[test]
fn a_batch_is_its_fits_for_any_number_of_threads() {
    let (x, model) = (table(50), chinchilla());
    let y = losses(&model, &x, &TRUTH[..5], 0.05);
    let sets = 23;
    let weights: Vec<f64> = (0..sets * 50).map(|i| (spread(11 * i) * 3.0).floor()).collect();
    let (low, high) = free(5);
    let objectives = [Objective::Huber(1e-3)];
    let problem = Problem {
        model: &model,
        x: &x,
        y: &y,
        weights: Some(&weights),
        objectives: &objectives,
        low: &low,
        high: &high,
        limits: Limits::default(),
    };
    let starts = [6.0, 7.0, 0.5, 0.3, 0.3, 5.0, 5.0, 0.2, 0.5, 0.5];
    let alone = problem.fit(&starts, 2, 1, &|| false).unwrap();
    let shared = problem.fit(&starts, 2, 4, &|| false).unwrap();
    assert_eq!(alone.len(), 2 * sets);
    for (a, b) in alone.iter().zip(&shared) {
        assert_eq!((a.theta, a.value), (b.theta, b.value));
    }
    let bounds = Bounds { low: &low, high: &high };
    let own = minimise(
        &model,
        &Data::new(&x, 2, &y, Some(&weights[5 * 50..6 * 50])),
        objectives[0],
        &starts[5..],
        bounds,
        Limits::default(),
    );
    assert_eq!(own.theta, alone[11].theta);
}

#[test]
fn infinite_losses_are_invalid_not_a_result() {
    let (x, model) = (table(10), chinchilla());
    let mut y = losses(&model, &x, &TRUTH[..5], 0.0);
    y[3] = f64::NAN;
    let (low, high) = free(5);
    let fit = minimise(
        &model,
        &Data::new(&x, 2, &y, None),
        Objective::Huber(1e-3),
        &TRUTH[..5],
        Bounds { low: &low, high: &high },
        Limits::default(),
    );
    assert_eq!(fit.ending, Ending::Invalid);
}
