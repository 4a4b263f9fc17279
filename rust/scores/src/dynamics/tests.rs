use super::checks::SHORT;
use super::*;
use dither_cpu::simd::limit;

struct Run(Vec<Record>, Vec<Rest>);

impl Run {
    fn new(n: usize) -> Self {
        Self(vec![Record::default(); n], vec![Rest::default(); n])
    }

    fn update(&mut self, visits: &Visits) -> Result<(), Refused> {
        update(&mut Histories { records: &mut self.0, rest: &mut self.1 }, visits)
    }

    fn certain(index: &[i64]) -> Visits<'_> {
        let ones = &[1.0; 40][..index.len()];
        Visits { index, confidence: ones, correct: ones, margin: None, others: [None; 3] }
    }

    fn visit(&mut self, index: &[i64], p: &[f64], correct: &[f64]) -> Result<(), Refused> {
        self.update(&Visits { index, confidence: p, correct, margin: None, others: [None; 3] })
    }
}

/// Where the mean confidence is counted from.
fn from(record: &Record) -> f64 {
    f64::from(u8::from(record.confidence.is_sign_negative()))
}

#[test]
fn counts_follow_their_definitions() {
    let mut run = Run::new(2);
    for correct in [0.0, 1.0, 1.0, 0.0, 1.0, 0.0] {
        run.visit(&[1], &[0.25 + correct / 2.0], &[correct]).unwrap();
    }
    let r = run.0[1];
    assert_eq!((r.visits & !FLAG, r.correct, r.forgets, r.last_wrong), (6, 3, 2, 6));
    assert!((r.confidence.abs() - 0.5).abs() < 1e-7 && (r.deviation - 6.0 / 16.0).abs() < 1e-6);
    assert_eq!(run.1[1], Rest { first_correct: 2, means: [0.0; 3] });
    assert_eq!((run.0[0], run.1[0]), (Record::default(), Rest::default()));
}

/// Batches of every length around that of the vectors, and around that where examples are told apart by marks, in any
/// order, give the bits of one visit at a time.
#[test]
fn batches_give_the_bits_of_single_visits() {
    let n = 10 * TOGETHER + 3;
    for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
        limit(level);
        bits_of_single_visits(n, (0..=n).chain((0..20).map(|k| n - k)));
        bits_of_single_visits(SHORT + 9, [SHORT - 1, SHORT, SHORT + 1, SHORT + 9].into_iter().cycle().take(24));
    }
}

fn bits_of_single_visits(n: usize, lengths: impl Iterator<Item = usize>) {
    let (mut whole, mut single) = (Run::new(n), Run::new(n));
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    for length in lengths {
        let mut index: Vec<i64> = (0..n as i64).collect();
        (1..n).for_each(|i| index.swap(i, (draw() * (i + 1) as f64) as usize));
        let mut column = |k: usize| -> f64 { if k < 2 { draw() } else { draw() * 4.0 - 2.0 } };
        let columns: Vec<Vec<f64>> = (0..6).map(|k| (0..length).map(|_| column(k)).collect()).collect();
        let batch = |from: usize, to: usize| Visits {
            index: &index[from..to],
            confidence: &columns[0][from..to],
            correct: &columns[1][from..to],
            margin: Some(&columns[2][from..to]),
            others: [3, 4, 5].map(|k| (k != 4).then_some(&columns[k][from..to])),
        };
        whole.update(&batch(0, length)).unwrap();
        (0..length).for_each(|i| single.update(&batch(i, i + 1)).unwrap());
        assert_eq!((&whole.0, &whole.1), (&single.0, &single.1), "a batch of {length}");
    }
    assert!(whole.0.iter().all(|r| r.visits & !FLAG > 20 && r.forgets > 0 && r.margin != 0.0));
    assert!(whole.1.iter().all(|r| r.first_correct > 0 && r.means[0] != 0.0 && r.means[1] == 0.0));
}

/// Means that converge, of which rounding to nearest is 1e-4 off, and means of noise.
#[test]
fn long_histories_keep_their_means() {
    const VISITS: usize = 20_000;
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let (mut run, mut exact) = (Run::new(5), vec![Vec::new(); 5]);
    for t in 0..VISITS {
        let learned = 1.0 - (-(t as f64) / 300.0).exp();
        let p = [f64::from(u32::from(t > 0)), learned, draw(), 0.1, (t % 2) as f64];
        let loss: Vec<f64> = p.iter().map(|p| 5.0 * (1.0 - p)).collect();
        let others = [Some(&loss[..]), Some(&p[..]), Some(&loss[..])];
        let (index, correct) = (&[0, 1, 2, 3, 4], p.map(f64::round));
        let visits = Visits { index, confidence: &p, correct: &correct, margin: Some(&p), others };
        run.update(&visits).unwrap();
        p.iter().zip(&mut exact).for_each(|(p, all)| all.push(*p));
    }
    let bound = 4.0 * 5e-8 * (VISITS as f64 / 3.0).sqrt();
    for (example, all) in exact.iter().enumerate() {
        let mean = all.iter().sum::<f64>() / VISITS as f64;
        let squares: f64 = all.iter().map(|p| (p - mean) * (p - mean)).sum();
        let (r, rest) = (run.0[example], run.1[example].means);
        let near = |found: f32, exact: f64| (f64::from(found) - exact).abs() <= bound * exact.abs() + 1e-9;
        assert!(near(r.confidence, mean - from(&r)) && near(rest[1], mean), "{example}: {r:?} for {mean}");
        assert!(near(rest[0], 5.0 * (1.0 - mean)) && near(rest[2], 5.0 * (1.0 - mean)), "{example}: {rest:?}");
        assert!(near(r.deviation, squares) || squares < 1e-6, "{example}: {} for {squares}", r.deviation);
        assert!((f64::from(r.margin) + f64::from(r.margin_error) - mean).abs() < 1e-10);
    }
}

/// Examples known for sure, whose p_y is 0 or 1 to all digits of fp32.
#[test]
fn confidences_keep_their_digits_at_both_ends() {
    const SCALES: [f64; 4] = [1e-3, 1e-7, 1e-10, 0.0];
    let index = &[0, 1, 2, 3];
    let (mut high, mut low) = (Run::new(4), Run::new(4));
    for t in 1..=30 {
        let q = SCALES.map(|s| s * f64::from(t));
        low.update(&Visits { confidence: &q, ..Run::certain(index) }).unwrap();
        high.update(&Visits { confidence: &q.map(|q| 1.0 - q), ..Run::certain(index) }).unwrap();
    }
    for (k, s) in SCALES.iter().enumerate() {
        let (low, high) = (low.0[k], high.0[k]);
        assert!(low.confidence.is_sign_positive() && high.confidence.is_sign_negative(), "{low:?} {high:?}");
        for (r, lost) in [(low, 0.0), (high, 1e-16)] {
            let (mean, squares) = (15.5 * s, s * s * 2247.5);
            assert!((f64::from(r.confidence.abs()) - mean).abs() <= 1e-6 * mean + lost, "{r:?}");
            assert!((f64::from(r.deviation) - squares).abs() <= 1e-6 * squares + 10.0 * s * lost, "{r:?}");
        }
    }
}

/// Means that cross 1/2 both ways.
#[test]
fn means_change_sides() {
    let mut run = Run::new(1);
    let (mut sum, mut sides) = (0.0, [0, 0]);
    for t in 1..=400u32 {
        let p = if t / 20 % 2 == 0 { 1.0 - 1e-3 * f64::from(t % 7) } else { 1e-3 * f64::from(t % 5) };
        sum += p;
        run.visit(&[0], &[p], &[1.0]).unwrap();
        let (r, mean) = (run.0[0], sum / f64::from(t));
        assert!((f64::from(r.confidence) + from(&r) - mean).abs() < 3e-7, "{t}: {r:?} for {mean}");
        sides[usize::from(r.confidence.is_sign_negative())] += 1;
    }
    assert!(sides[0] > 20 && sides[1] > 20, "{sides:?}");
}

#[test]
fn dither_leaves_what_fp32_holds() {
    for x in [0.0f32, -0.0, 1.0, -1.5, 0.1, f32::MIN_POSITIVE, f32::MAX, 1e-30] {
        (0..1000).for_each(|visit| assert_eq!(dithered(x.into(), visit).to_bits(), x.to_bits()));
    }
    let up = (1..=1000).filter(|visit| dithered(1.0 + f64::from(f32::EPSILON) * 0.3, *visit) > 1.0).count();
    assert!((295..=305).contains(&up), "{up} of 1000");
}

/// In registers and one by one.
#[test]
fn records_become_columns_and_come_back() {
    let records: Vec<Record> = (0..40u32)
        .map(|k| {
            let f = |x: u32| f32::from_bits(0x3f80_0000 + 100 * k + x);
            let [confidence, deviation, margin, margin_error] = [4, 5, 6, 7].map(f);
            let [visits, correct, forgets, last_wrong] = [0, 1, 2, 3].map(|x| 100 * k + x);
            Record { visits, correct, forgets, last_wrong, confidence, deviation, margin, margin_error }
        })
        .collect();
    let index: [i64; TOGETHER] = std::array::from_fn(|i| (i as i64 * 7 + 3) % 40);
    // SAFETY: no vectors.
    let columns = unsafe { gather::<TOGETHER, false>(&records, &index) };
    for (i, example) in index.iter().enumerate() {
        let word = |k: usize| 100 * *example as u32 + k as u32 + if k < 4 { 0 } else { 0x3f80_0000 };
        assert!((0..8).all(|k| columns[k][i] == word(k)));
    }
    let back = |squares: bool| {
        let mut out = vec![Record::default(); 40];
        match squares {
            // SAFETY: asked for below, where there is AVX2.
            true => unsafe { scatter::<TOGETHER, true>(&columns, &mut out, &index) },
            // SAFETY: no vectors.
            false => unsafe { scatter::<TOGETHER, false>(&columns, &mut out, &index) },
        }
        out
    };
    let expected = |k: usize| if index.contains(&(k as i64)) { records[k] } else { Record::default() };
    assert_eq!(back(false), (0..40).map(expected).collect::<Vec<_>>());
    if level() >= Level::Avx2 {
        // SAFETY: there is AVX2.
        assert_eq!(unsafe { gather::<TOGETHER, true>(&records, &index) }, columns);
        assert_eq!(back(true), back(false));
    }
}

/// Where an example comes twice, whatever lies between, and however the places of examples fall together.
#[test]
fn long_batches_are_refused_whole() {
    let n = 3 * SHORT as i64;
    let mut run = Run::new(n as usize * 5);
    for length in [2, 17, SHORT, SHORT + 1, n as usize] {
        let (half, ones) = (vec![0.5; length], vec![1.0; length]);
        for stride in [1, 2, 3, 5] {
            let mut index: Vec<i64> = (0..length as i64).map(|i| i * stride).collect();
            for (place, value, why) in [
                (length - 1, index[0], Refused::Twice(length - 1)),
                (length / 2, index[length - 1], Refused::Twice(length - 1)),
                (length - 1, -1, Refused::Outside(length - 1)),
                (length / 2, n * 5, Refused::Outside(length / 2)),
                (length / 2, i64::MIN, Refused::Outside(length / 2)),
            ] {
                let was = std::mem::replace(&mut index[place], value);
                if value != was {
                    assert_eq!(run.visit(&index, &half, &ones), Err(why), "{length} {stride} {place}");
                }
                index[place] = was;
            }
        }
    }
    assert!(run.0.iter().all(|r| *r == Record::default()) && run.1.iter().all(|r| *r == Rest::default()));
}

#[test]
fn a_refused_batch_leaves_nothing() {
    let mut run = Run::new(40);
    let index: Vec<i64> = (0..39).chain([7]).collect();
    assert_eq!(run.visit(&[0, 40], &[0.5; 2], &[1.0; 2]), Err(Refused::Outside(1)));
    assert_eq!(run.visit(&[-1], &[0.5], &[1.0]), Err(Refused::Outside(0)));
    assert_eq!(run.visit(&[i64::MIN], &[0.5], &[1.0]), Err(Refused::Outside(0)));
    assert_eq!(run.visit(&index, &[0.5; 40], &[1.0; 40]), Err(Refused::Twice(39)));
    for bad in [f64::NAN, f64::NEG_INFINITY, 2f64.powi(127), f64::MAX, -1e-9, 1.01] {
        assert_eq!(run.visit(&[2, 1], &[0.5, bad], &[1.0; 2]), Err(Refused::NotFinite(1)));
        assert_eq!(run.visit(&[2, 1], &[0.5; 2], &[bad, 1.0]), Err(Refused::NotFinite(0)));
        if bad.abs() < 2.0 {
            continue; // as a margin
        }
        let (index, half, margin) = (&[3, 4, 5], &[0.5; 3], Some(&[0.0, 0.0, bad][..]));
        let visits = Visits { index, confidence: half, correct: half, margin, others: [None; 3] };
        assert_eq!(run.update(&visits), Err(Refused::NotFinite(2)));
    }
    assert!(run.0.iter().all(|r| *r == Record::default()) && run.1.iter().all(|r| *r == Rest::default()));
}
