//! The multi-power law against its formula, term by term.

use dither_fit::multipower::{MultiPower, Schedule};

const LAW: MultiPower = MultiPower { l0: 2.7, a: 0.6, alpha: 0.45, b: 380.0, c: 2.1, beta: 0.6, gamma: 0.64 };

fn naive(eta: &[f64], warmup: f64, t: usize) -> f64 {
    let total = |from: usize, to: usize| eta[from..=to].iter().sum::<f64>();
    let gained: f64 = (1..=t)
        .map(|k| {
            let base = 1.0 + LAW.c * eta[k].powf(-LAW.gamma) * total(k, t);
            (eta[k - 1] - eta[k]) * (1.0 - base.powf(-LAW.beta))
        })
        .sum();
    LAW.l0 + LAW.a * (total(0, t) + warmup).powf(-LAW.alpha) - LAW.b * gained
}

#[test]
fn losses_are_the_formula_s() {
    let cosine: Vec<f64> =
        (0..300).map(|i| 3e-4 * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * i as f64 / 300.0).cos()))).collect();
    let constant = vec![3e-4; 300];
    let steps: Vec<f64> = (0..300).map(|i| if i < 150 { 3e-4 } else { 9e-5 }).collect();
    let at: Vec<usize> = vec![0, 1, 7, 8, 149, 150, 151, 299];
    for eta in [cosine, constant, steps] {
        let schedule = Schedule::new(&eta, 0.3);
        let losses = schedule.losses(LAW, &at, 1, &|| false).unwrap();
        for (t, loss) in at.iter().zip(&losses) {
            let expected = naive(&eta, 0.3, *t);
            assert!((loss / expected - 1.0).abs() < 1e-12, "{t} {loss} {expected}");
        }
        assert_eq!(Some(losses), schedule.losses(LAW, &at, 3, &|| false));
    }
}
