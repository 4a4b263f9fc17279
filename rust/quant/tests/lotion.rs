//! LOTION's kernel against the formula in fp64 over the scalar truth's neighbours; every SIMD level, any number of
//! threads, and writing against adding give the same bits.

use dither_numerics::random::random_bits;
use dither_numerics::{Block, Format, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule, Scaling};
use dither_quant::lotion::{Gradient, lotion, takes};
use dither_quant::{Layout, simd};

fn quantizer(format: &str, block: Block, scale: ScaleFormat, rule: ScaleRule) -> Quantizer {
    let format = Format::get(format).unwrap();
    let scaling = Some(Scaling::new(block, scale, rule));
    Quantizer { format, scaling, rounding: Rounding::NearestEven, overflow: Overflow::Saturate }
}

fn quantizers() -> Vec<Quantizer> {
    let e4m3 = || ScaleFormat::Float(Format::get("e4m3").unwrap());
    vec![
        quantizer("int4", Block::Size(32), ScaleFormat::Fp32, ScaleRule::Absmax),
        quantizer("int4", Block::Row, ScaleFormat::Fp32, ScaleRule::Absmax),
        quantizer("int8", Block::Size(128), ScaleFormat::Fp32, ScaleRule::Absmax),
        quantizer("int2", Block::Size(7), ScaleFormat::Fp32, ScaleRule::Absmax),
        quantizer("e2m1", Block::Size(32), ScaleFormat::Fp32, ScaleRule::Absmax),
        quantizer("e2m1", Block::Size(32), ScaleFormat::E8m0, ScaleRule::Rceil),
        quantizer("e4m3", Block::Size(16), e4m3(), ScaleRule::Rceil),
    ]
}

/// Weights (one block of zeros, ties at the maximum, points of the grid) and curvatures.
fn arrays(rows: usize, columns: usize) -> (Vec<f32>, Vec<f32>) {
    let unit = |i: usize, stream: u64| random_bits(5, stream, i as u64, 32) as f32 / 4294967296.0;
    let mut w: Vec<f32> = (0..rows * columns).map(|i| (2.0 * unit(i, 0) - 1.0) * 2f32.powi(i as i32 % 3)).collect();
    let g = (0..rows * columns).map(|i| unit(i, 1)).collect();
    w[..columns.min(40)].fill(0.0);
    for (i, w) in w.iter_mut().enumerate().skip(columns).step_by(5) {
        *w = [4.5, -4.5, 1.5, 0.0][i % 4];
    }
    (w, g)
}

/// The formula, in fp64; returns R and the gradient.
fn formula(q: &Quantizer, columns: usize, w: &[f32], g: &[f32], through_scale: bool) -> (f64, Vec<f64>) {
    let scaling = q.scaling.as_ref().unwrap();
    let block = if let Block::Size(n) = scaling.block { n } else { columns };
    let (mut r, mut gradient) = (0.0, Vec::new());
    for (w, g) in w.chunks(columns).zip(g.chunks(columns)).flat_map(|(w, g)| w.chunks(block).zip(g.chunks(block))) {
        let absmax = w.iter().fold(0f32, |m, w| m.max(w.abs()));
        let scale = q.scale(absmax, None);
        let (start, mut through, mut maxima) = (gradient.len(), 0.0, Vec::new());
        for (i, (w, g)) in w.iter().zip(g).enumerate() {
            let (lo, hi) = q.neighbours(*w, scale);
            let held = w.abs() == absmax && scaling.format == ScaleFormat::Fp32;
            let (lo, hi) = if held { (*w, *w) } else { (lo, hi) };
            let (w, g, lo, hi) = (f64::from(*w), f64::from(*g), f64::from(lo), f64::from(hi));
            r += 0.5 * g * (w - lo) * (hi - w);
            gradient.push(0.5 * g * (lo + hi - 2.0 * w));
            through += 0.5 * g * (hi * (w - lo) - lo * (hi - w));
            if w.abs() == f64::from(absmax) {
                maxima.push((start + i, w.signum()));
            }
        }
        if through_scale && absmax > 0.0 {
            for (i, sign) in &maxima {
                gradient[*i] += sign * through / (f64::from(absmax) * maxima.len() as f64);
            }
        }
    }
    (r, gradient)
}

fn run(q: &Quantizer, shape: (usize, usize), w: &[f32], g: &[f32], how: Gradient, threads: usize) -> (f64, Vec<f32>) {
    let layout = Layout { outer: shape.0, axis: shape.1, inner: 1 };
    let mut out = vec![if how.add { 0.25 } else { f32::NAN }; w.len()];
    // SAFETY: the arrays have the layout's size and are different memory.
    let r = unsafe { lotion(q, &layout, (w.as_ptr(), g.as_ptr(), out.as_mut_ptr()), how, threads) };
    (r, out)
}

#[test]
fn the_kernel_is_the_formula_at_every_level() {
    for q in quantizers() {
        assert!(takes(&q));
        for shape in [(3, 77), (5, 128), (1, 1), (300, 160)] {
            let (w, g) = arrays(shape.0, shape.1);
            for through_scale in [true, false] {
                let how = Gradient { factor: 1.0, add: false, through_scale };
                let (want_r, want) = formula(&q, shape.1, &w, &g, through_scale);
                let first = run(&q, shape, &w, &g, how, 1);
                assert!((first.0 - want_r).abs() <= 1e-5 * want_r, "{q:?} {shape:?}: {} {want_r}", first.0);
                let top = want.iter().fold(0f64, |m, x| m.max(x.abs()));
                for (i, (got, want)) in first.1.iter().zip(&want).enumerate() {
                    assert!((f64::from(*got) - want).abs() <= 2e-6 * top, "{q:?} {shape:?} {i}: {got} {want}");
                }
                for level in [simd::Level::Baseline, simd::Level::Avx2, simd::Level::Avx512] {
                    simd::limit(level);
                    assert_eq!(run(&q, shape, &w, &g, how, 1), first, "{level:?}");
                }
                assert_eq!(run(&q, shape, &w, &g, how, 2), first);
                let added = run(&q, shape, &w, &g, Gradient { factor: 2.0, add: true, ..how }, 1);
                for (added, written) in added.1.iter().zip(&first.1) {
                    assert!((added - (0.25 + 2.0 * written)).abs() <= 1e-6 * top as f32 + 1e-6);
                }
            }
        }
    }
}

#[test]
fn what_the_kernel_leaves_to_others() {
    assert!(!takes(&quantizer("int4", Block::Tensor, ScaleFormat::Fp32, ScaleRule::Absmax)));
    assert!(!takes(&quantizer("int4", Block::Tile(2, 2), ScaleFormat::Fp32, ScaleRule::Absmax)));
    assert!(!takes(&quantizer("int4", Block::Size(8), ScaleFormat::Fp32, ScaleRule::Mse)));
}
