//! Scalings beyond the plain ones: arrays against the truth of each block, gathered here by its own definition of which
//! elements share a scale, for any number of threads, SIMD level and element type.

use dither_numerics::quantizer::Randomness;
use dither_numerics::random::random_bits;
use dither_numerics::{
    Block, Dialect, Distance, Format, NanPolicy, Options, Overflow, Quantizer, Rounding, ScaleFormat, ScaleRule,
    Scaling, ZeroScale,
};
use dither_quant::{Layout, Memory, MemoryMut, fake_quant, neighbours, simd};

/// The number of the block in which the element (outer, axis, inner) lies.
fn block_of(block: Block, [o, a, i]: [usize; 3]) -> (usize, usize, usize) {
    match block {
        Block::Size(n) => (o, a / n, i),
        Block::Row => (o, 0, i),
        Block::Column => (0, a, 0),
        Block::Tile(rows, columns) => (o, a / rows, i / columns),
        Block::Tensor => (0, 0, 0),
    }
}

fn quantizers() -> Vec<Quantizer> {
    let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
    let mut all = Vec::new();
    let mut add = |format: &str, scaling: Scaling, rounding| {
        let format = Format::get(format).unwrap();
        all.push(Quantizer { format, scaling: Some(scaling), rounding, overflow: Overflow::Saturate });
    };
    for block in [Block::Column, Block::Tile(4, 3), Block::Tile(100, 100)] {
        add("e2m1", Scaling::new(block, ScaleFormat::E8m0, ScaleRule::Floor), Rounding::Stochastic(8));
        add("int4", Scaling::new(block, ScaleFormat::Fp32, ScaleRule::Absmax), Rounding::NearestEven);
        add("e2m1", Scaling::two_levels(block, float("e4m3"), ScaleRule::Absmax), Rounding::NearestEven);
    }
    for block in [Block::Size(5), Block::Row, Block::Tensor] {
        add("e2m1", Scaling::new(block, ScaleFormat::E8m0, ScaleRule::Mse), Rounding::Stochastic(16));
        add("int4", Scaling::new(block, ScaleFormat::Fp32, ScaleRule::Static(0.25)), Rounding::Down);
        let mut searched = Scaling::two_levels(block, float("e4m3"), ScaleRule::Absmax);
        searched.options.four_over_six = Some(Distance::Mae);
        add("e2m1", searched, Rounding::NearestEven);
        let mut affine = Scaling::new(block, ScaleFormat::Fp32, ScaleRule::Absmax);
        (affine.options.zero_point, affine.options.nan) = (true, NanPolicy::Saturate);
        add("uint4", affine, Rounding::NearestEven);
        let mut torchao = Scaling::new(block, ScaleFormat::E8m0, ScaleRule::Rceil);
        torchao.options.dialect = Dialect::Torchao;
        add("e4m3", torchao, Rounding::NearestEven);
    }
    all
}

fn data(n: usize, special: bool) -> Vec<f32> {
    let noise = |i: usize| random_bits(5, 2, i as u64, 32) as f32 / 2147483648.0 - 1.0;
    let mut x: Vec<f32> = (0..n).map(|i| noise(i) * 2f32.powi(i as i32 % 9 - 4)).collect();
    if special && n > 3 {
        (x[0], x[n / 2], x[n - 1]) = (f32::NAN, f32::INFINITY, -0.0);
        (x[n / 3], x[n / 4]) = (-f32::MAX, f32::from_bits(0x8000_0001));
        x[n / 5..n / 4].fill(0.0);
    }
    x
}

#[test]
fn arrays_are_their_blocks() {
    for (outer, axis, inner) in [(1, 24, 1), (2, 9, 7), (3, 1, 10), (1, 300, 120)] {
        let layout = Layout { outer, axis, inner };
        for q in quantizers() {
            for special in [false, true] {
                check(&q, &layout, &data(layout.len(), special));
            }
        }
    }
}

/// Scales that the truth finds, over blocks that lie in one piece and others.
#[test]
fn found_scales() {
    let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
    let option = |block, format, rule, set: fn(&mut Options)| {
        let mut scaling = Scaling::new(block, format, rule);
        set(&mut scaling.options);
        scaling
    };
    let two = |block, set: fn(&mut Options)| {
        let mut scaling = Scaling::two_levels(block, float("e4m3"), ScaleRule::Absmax);
        set(&mut scaling.options);
        scaling
    };
    let (e8m0, fp32, rne, sr) = (ScaleFormat::E8m0, ScaleFormat::Fp32, Rounding::NearestEven, Rounding::Stochastic(8));
    for block in [Block::Size(32), Block::Size(8), Block::Row, Block::Column, Block::Tensor, Block::Tile(5, 3)] {
        let floor = |set| option(block, e8m0.clone(), ScaleRule::Floor, set);
        let absmax = |set| option(block, fp32.clone(), ScaleRule::Absmax, set);
        let all = [
            ("e2m1", floor(|o| o.prescale = 0.75), rne),
            ("e2m1", floor(|o| o.prescale = 0.75), sr),
            ("e5m2", floor(|o| o.prescale = 0.75), Rounding::Stochastic(32)),
            ("mxint8", floor(|o| o.prescale = 0.75), Rounding::Stochastic(1)),
            ("e3m2", floor(|o| o.prescale = 0.75), Rounding::Up),
            ("uint4", absmax(|o| o.zero_point = true), rne),
            ("uint8", absmax(|o| (o.zero_point, o.dialect) = (true, Dialect::Torchao)), rne),
            ("uint2", absmax(|o| o.zero_point = true), sr),
            ("uint8", absmax(|o| (o.zero_point, o.nan) = (true, NanPolicy::Element)), rne),
            ("e2m1", two(block, |o| o.guard = 17.0 / 16.0), sr),
            ("e2m1", two(block, |o| o.guard = 17.0 / 16.0), rne),
            ("e2m1", option(block, float("e4m3"), ScaleRule::Absmax, |o| o.guard = 17.0 / 16.0), sr),
            ("e2m1", two(block, |o| o.dialect = Dialect::Torchao), rne),
            ("e2m1", option(block, float("e4m3"), ScaleRule::Absmax, |o| o.dialect = Dialect::Torchao), sr),
            ("e4m3", floor(|o| o.dialect = Dialect::Torchao), rne),
            ("e2m1", two(block, |o| o.four_over_six = Some(Distance::Mse)), sr),
            ("e4m3", floor(|o| o.nan = NanPolicy::Element), Rounding::Down),
            ("e4m3", floor(|o| o.dialect = Dialect::Microxcaling), rne),
            ("e4m3", option(block, e8m0.clone(), ScaleRule::Rceil, |o| o.dialect = Dialect::Te), rne),
            ("e4m3", option(block, fp32.clone(), ScaleRule::Absmax, |o| o.dialect = Dialect::P3109), rne),
            ("int4", absmax(|o| o.zero_scale = ZeroScale::One), rne),
            ("e2m1", option(block, e8m0.clone(), ScaleRule::Mse, |_| {}), sr),
            ("int4", option(block, fp32.clone(), ScaleRule::Mse, |_| {}), rne),
            ("e3m2", option(block, float("e4m3"), ScaleRule::Mse, |_| {}), rne),
            ("e2m1", Scaling::two_levels(block, float("e4m3"), ScaleRule::Mse), rne),
        ];
        for (format, scaling, rounding) in all {
            let (format, scaling) = (Format::get(format).unwrap(), Some(scaling));
            let q = Quantizer { format, scaling, rounding, overflow: Overflow::Saturate };
            for (outer, axis, inner) in [(2, 75, 1), (2, 96, 1), (1, 4, 150), (2, 9, 11)] {
                let layout = Layout { outer, axis, inner };
                for special in [false, true] {
                    check(&q, &layout, &data(layout.len(), special));
                }
            }
        }
    }
}

/// Tiles narrower and wider than a strip, over its end, and as wide as the array; columns of every layout; given scales
/// under which quotients overflow and vanish.
#[test]
fn standard_scales_of_tiles_and_columns() {
    let float = |name: &str| ScaleFormat::Float(Format::get(name).unwrap());
    let tiles = [(16, 16), (2, 513), (7, 1), (1, 9), (3, 4000), (128, 200)].map(|(r, c)| Block::Tile(r, c));
    let roundings = [Rounding::NearestEven, Rounding::Up, Rounding::Stochastic(8), Rounding::Stochastic(32)];
    let mut turn = roundings.iter().cycle();
    for block in tiles.into_iter().chain([Block::Column, Block::Size(32), Block::Row, Block::Tensor]) {
        for (format, scale_format, rule, two) in [
            ("e4m3", ScaleFormat::E8m0, ScaleRule::Rceil, false),
            ("e4m3", ScaleFormat::Fp32, ScaleRule::Absmax, false),
            ("int8", ScaleFormat::Fp32, ScaleRule::Rceil, false),
            ("e2m1", float("e4m3"), ScaleRule::Absmax, true),
            ("e2m1", float("ue5m3"), ScaleRule::Static(1e-3), true),
            ("e5m2", ScaleFormat::E8m0, ScaleRule::Static(0.5), false),
            ("e3m2", ScaleFormat::E8m0, ScaleRule::Static(2f32.powi(120)), false),
            ("e2m3", ScaleFormat::Fp32, ScaleRule::Static(f32::MIN_POSITIVE), false),
            ("uint4", ScaleFormat::Fp32, ScaleRule::Static(3e38), false),
        ] {
            let scaling = match two {
                true => Scaling::two_levels(block, scale_format, rule),
                false => Scaling::new(block, scale_format, rule),
            };
            for rounding in turn.by_ref().take(2) {
                let format = Format::get(format).unwrap();
                let scaling = Some(scaling.clone());
                let q = Quantizer { format, scaling, rounding: *rounding, overflow: Overflow::Saturate };
                for (outer, axis, inner) in [(2, 19, 1), (1, 5, 1100), (3, 17, 33)] {
                    let layout = Layout { outer, axis, inner };
                    for special in [false, true] {
                        check(&q, &layout, &data(layout.len(), special));
                    }
                }
            }
        }
    }
}

fn check(q: &Quantizer, layout: &Layout, x: &[f32]) {
    let block = q.scaling.as_ref().unwrap().block;
    let mut blocks = std::collections::BTreeMap::<_, Vec<usize>>::new();
    for k in 0..x.len() {
        let at = [k / (layout.axis * layout.inner), k / layout.inner % layout.axis, k % layout.inner];
        blocks.entry(block_of(block, at)).or_default().push(k);
    }
    let tensor = q.tensor_scale(q.tensor_peak(x));
    let source = Randomness::Addressed { seed: 1, stream: 2, offset: 3 };
    let (mut want, mut low, mut high) = (x.to_vec(), x.to_vec(), x.to_vec());
    for positions in blocks.values() {
        let values: Vec<f32> = positions.iter().map(|k| x[*k]).collect();
        let scale = q.block_scale(&values, tensor.as_ref());
        for k in positions {
            want[*k] = q.fake_quant(x[*k], scale, source.bits(*k, q.rounding));
            (low[*k], high[*k]) = q.neighbours(x[*k], scale);
        }
    }
    let same =
        |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
    for level in [simd::Level::Baseline, simd::detected()] {
        simd::limit(level);
        for threads in [1, 3] {
            let [mut y, mut lo, mut hi] = [0; 3].map(|_| vec![0f32; x.len()]);
            let input = Memory::F32(x.as_ptr());
            // SAFETY: all arrays have the layout's length.
            unsafe {
                fake_quant(q, layout, input, MemoryMut::F32(y.as_mut_ptr()), source, threads);
                let (lo, hi) = (MemoryMut::F32(lo.as_mut_ptr()), MemoryMut::F32(hi.as_mut_ptr()));
                neighbours(q, layout, input, lo, hi, threads);
            }
            assert!(same(&y, &want), "{q:?} {layout:?}");
            assert!(same(&lo, &low) && same(&hi, &high), "{q:?} {layout:?}");
        }
    }
    // fp64 input is the same truth in fp64; in place.
    let mut wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let (from, to) = (wide.as_ptr(), wide.as_mut_ptr());
    // SAFETY: as above; input and output are the same memory.
    unsafe { fake_quant(q, layout, Memory::F64(from), MemoryMut::F64(to), source, 2) };
    let scaling = q.scaling.as_ref().unwrap();
    let powers = scaling.format == ScaleFormat::E8m0 && scaling.options.prescale == 1.0;
    let exact = powers && x.iter().all(|x| x.is_finite());
    if exact {
        assert!(wide.iter().zip(&want).all(|(y, want)| *y == f64::from(*want)), "{q:?}");
    }
}
