//! The arithmetic: a few rows of a times a panel of b, the same operations on every element in the same order.
//!
//! A fused multiply-add is one instruction with AVX-512, or with AVX2 and FMA, and on other architectures; elsewhere it
//! is worked out in fp64, exactly.

use super::{PANEL, STRETCH};
use crate::half::{nearest_bf16, nearest_f16};
use crate::simd::{Level, level};
use dither_numerics::accumulate::{Accumulator, Narrow, add_to_odd};

type Row = [f32; STRETCH];
type Sums = [f32; PANEL];

/// Defines `fn name(args)` that runs `body::<FUSED>` compiled for the level in use.
macro_rules! fused {
    (fn $name:ident($($arg:ident : $ty:ty),*) = $body:ident;) => {
        pub fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
                fn avx2($($arg: $ty),*) {
                    $body::<true, 3>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
                fn avx512($($arg: $ty),*) {
                    $body::<true, 12>($($arg),*)
                }
                match level() {
                    // SAFETY: `level` never exceeds what this processor has; avx512f includes fma.
                    Level::Avx512 => unsafe { avx512($($arg),*) },
                    // SAFETY: as above, and fma is asked for.
                    Level::Avx2 if std::arch::is_x86_feature_detected!("fma") => unsafe { avx2($($arg),*) },
                    _ => $body::<false, 3>($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            $body::<true, 6>($($arg),*)
        }
    };
}

fused! { fn fp32(a: &[Row], b: &[Sums], sums: &mut [Sums]) = fp32_body; }
fused! { fn any(accumulator: Accumulator, a: &[f32], b: &[Sums], sums: &mut [f64; PANEL]) = any_body; }

/// `a b + c`, rounded once.
#[inline(always)]
fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { add_to_odd(f64::from(a) * f64::from(b), f64::from(c)) as f32 }
}

/// Add the products of all rows with the panel to their sums. `ROWS` of them fit the registers.
#[inline(always)]
fn fp32_body<const FUSED: bool, const ROWS: usize>(a: &[Row], b: &[Sums], sums: &mut [Sums]) {
    let mut done = 0;
    while a.len() - done >= ROWS {
        rows::<FUSED, ROWS>(&a[done..], b, &mut sums[done..]);
        done += ROWS;
    }
    while a.len() - done >= 4 {
        rows::<FUSED, 4>(&a[done..], b, &mut sums[done..]);
        done += 4;
    }
    while done < a.len() {
        rows::<FUSED, 1>(&a[done..], b, &mut sums[done..]);
        done += 1;
    }
}

#[inline(always)]
fn rows<const FUSED: bool, const ROWS: usize>(a: &[Row], b: &[Sums], sums: &mut [Sums]) {
    let a: &[Row; ROWS] = a.first_chunk().expect("as many rows as asked for");
    let sums: &mut [Sums; ROWS] = sums.first_chunk_mut().expect("as many sums as rows");
    let mut acc = *sums;
    for (k, b) in b.iter().enumerate().take(STRETCH) {
        for r in 0..ROWS {
            for j in 0..PANEL {
                acc[r][j] = fma::<FUSED>(a[r][k], b[j], acc[r][j]);
            }
        }
    }
    *sums = acc;
}

/// One row of a with the panel, in any accumulator.
#[inline(always)]
fn any_body<const FUSED: bool, const ROWS: usize>(
    accumulator: Accumulator,
    a: &[f32],
    b: &[Sums],
    sums: &mut [f64; PANEL],
) {
    match accumulator {
        Accumulator::Fp32 => {
            let mut acc = [0f32; PANEL];
            for (a, b) in a.iter().zip(b) {
                for j in 0..PANEL {
                    acc[j] = fma::<FUSED>(*a, b[j], acc[j]);
                }
            }
            *sums = acc.map(f64::from);
        }
        Accumulator::Fp64 => {
            let mut acc = [0f64; PANEL];
            for (a, b) in a.iter().zip(b) {
                for j in 0..PANEL {
                    // The product is exact, so this rounds once.
                    acc[j] += f64::from(*a) * f64::from(b[j]);
                }
            }
            *sums = acc;
        }
        Accumulator::Bf16 => half(a, b, sums, nearest_bf16),
        Accumulator::Fp16 => half(a, b, sums, nearest_f16),
        Accumulator::Narrow(narrow) => narrow_row(narrow, a, b, sums),
    }
}

#[inline(always)]
fn half(a: &[f32], b: &[Sums], sums: &mut [f64; PANEL], round: impl Fn(f64) -> f32) {
    let mut acc = [0f32; PANEL];
    for (a, b) in a.iter().zip(b) {
        for j in 0..PANEL {
            acc[j] = round(add_to_odd(f64::from(*a) * f64::from(b[j]), f64::from(acc[j])));
        }
    }
    *sums = acc.map(f64::from);
}

#[inline(always)]
fn narrow_row(narrow: Narrow, a: &[f32], b: &[Sums], sums: &mut [f64; PANEL]) {
    let span = narrow.promote_every.unwrap_or(usize::MAX);
    let mut total = [0f32; PANEL];
    for (a, b) in a.chunks(span).zip(b.chunks(span)) {
        let mut acc = [0f64; PANEL];
        for (a, b) in a.chunks(narrow.group).zip(b.chunks(narrow.group)) {
            // Eight columns at a time stay in registers.
            for from in (0..PANEL).step_by(8) {
                let columns: &mut [f64; 8] = (&mut acc[from..from + 8]).try_into().expect("eight columns");
                group(narrow.fraction_bits, a, b, from, columns);
            }
        }
        for j in 0..PANEL {
            total[j] += acc[j] as f32;
        }
    }
    *sums = total.map(f64::from);
}

/// The biased exponent of an fp64 number.
#[inline(always)]
fn field(x: f64) -> u64 {
    x.to_bits() >> 52 & 0x7ff
}

/// One group of products into eight accumulators; `Narrow` states the rule. Operands are fp32 numbers and so normal in
/// fp64: their exponent fields lie in 874..=1150, that of zero is 0, and sums of fields compare as exponents do.
#[inline(always)]
fn group(fraction_bits: u32, a: &[f32], b: &[Sums], from: usize, acc: &mut [f64; 8]) {
    let mut top: [u64; 8] = std::array::from_fn(|j| field(acc[j]) + 1023);
    let mut ieee = *acc;
    for (a, b) in a.iter().zip(b) {
        let a = f64::from(*a);
        for j in 0..8 {
            let b = f64::from(b[from + j]);
            let fields = field(a) + field(b);
            // A product of zero must not count: without this, that of zero and a large number could.
            let fields = if a * b == 0.0 { 0 } else { fields };
            top[j] = if fields > top[j] { fields } else { top[j] };
            ieee[j] += a * b;
        }
    }
    let finite: [bool; 8] = std::array::from_fn(|j| ieee[j].abs() < f64::INFINITY);
    // Of E; any will do where nothing is finite or all is zero.
    let known = |j: usize| finite[j] & (top[j] > 1023);
    let exponent: [u64; 8] = std::array::from_fn(|j| if known(j) { top[j] - 1023 } else { 1023 });
    // 2^(F - E), a normal number for every E that occurs.
    let up: [f64; 8] = std::array::from_fn(|j| f64::from_bits((2046 + u64::from(fraction_bits) - exponent[j]) << 52));
    let mut sum: [f64; 8] = std::array::from_fn(|j| (acc[j] * up[j]).trunc());
    for (a, b) in a.iter().zip(b) {
        let a = f64::from(*a);
        for j in 0..8 {
            sum[j] += (a * f64::from(b[from + j]) * up[j]).trunc();
        }
    }
    for j in 0..8 {
        let down = f64::from_bits((exponent[j] - u64::from(fraction_bits)) << 52);
        let kept = (sum[j] * down).to_bits() >> (52 - fraction_bits) << (52 - fraction_bits);
        acc[j] = if finite[j] { f64::from_bits(kept) } else { ieee[j] };
    }
}
