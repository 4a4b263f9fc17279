//! Rows of columns to nearest even over vectors, every lane under the scale of its own column, without a division (see
//! `ahead_elements`) and with whole lines past the caches.
#![cfg(target_arch = "x86_64")]

use crate::ahead::plan;
use crate::ahead_elements::{INTEGER, POWER, QUOTIENT, Rounding, UNSIGNED, USUAL, reciprocal};
use crate::cells::Halves;
use crate::columns::STRIP;
use crate::job::{Fast, Job};
use crate::number::LINE;
use crate::scales::{ONE, Scales};
use crate::simd::{Level, dispatch, level};
use crate::stream;
use std::arch::x86_64::{__m256i, __m512i};
use std::ops::Range;

/// What the rounding needs besides the scales of a strip: reciprocals of quotients' scales and what those leave.
pub struct Reciprocals {
    how: u8,
    of: [u32; STRIP],
    rest: [u32; STRIP],
}

impl Reciprocals {
    /// For the first `n` columns; scales whose reciprocals would overflow or lose digits move to the others. `None` where
    /// elements are rounded in another way.
    pub fn new(scales: &mut Scales<STRIP>, n: usize, job: &Job<'_>) -> Option<Reciprocals> {
        let how = plan::<f32>(job).filter(|_| level() >= Level::Avx2)?;
        let mut r = Reciprocals { how, of: [ONE; STRIP], rest: [0; STRIP] };
        if matches!(how, QUOTIENT | INTEGER) {
            for (i, scale) in scales.first[..n].iter_mut().enumerate().filter(|(_, s)| !USUAL.contains(&(**s >> 23))) {
                scales.others.push((i, Fast::Divide { s: f32::from_bits(std::mem::replace(scale, ONE)) }));
            }
            reciprocals(&scales.first[..n], &mut r.of[..n], &mut r.rest[..n]);
        }
        Some(r)
    }

    /// Round a row, but for what lies before and after whole lines of the output where it goes `past` the caches; the
    /// part that is done. What is read next lies `next` elements on.
    pub fn row(
        &self,
        scales: &Scales<STRIP>,
        job: &Job<'_>,
        x: &[f32],
        y: &mut [f32],
        past: bool,
        next: usize,
    ) -> Range<usize> {
        let head = if past { y.as_ptr().align_offset(64).min(y.len()) } else { 0 };
        let done = head..head + (y.len() - head) / LINE * LINE;
        let second = if matches!(self.how, QUOTIENT | INTEGER) { &self.of } else { &scales.second };
        let numbers = [&scales.first, second, &self.rest].map(|numbers| &numbers[done.clone()]);
        let row = Row { job, x: &x[done.clone()], y: &mut y[done.clone()], past, numbers, next };
        // SAFETY: `level` never exceeds what was found on this processor; lines are whole, and aligned where they go past
        // the caches.
        unsafe {
            match (level(), self.how) {
                (Level::Avx512, POWER) => avx512::<POWER>(row),
                (Level::Avx512, UNSIGNED) => avx512::<UNSIGNED>(row),
                (Level::Avx512, QUOTIENT) => avx512::<QUOTIENT>(row),
                (Level::Avx512, _) => avx512::<INTEGER>(row),
                (Level::Avx2, POWER) => avx2::<POWER>(row),
                (Level::Avx2, UNSIGNED) => avx2::<UNSIGNED>(row),
                (Level::Avx2, QUOTIENT) => avx2::<QUOTIENT>(row),
                (Level::Avx2, _) => avx2::<INTEGER>(row),
                (Level::Baseline, _) => return 0..0,
            }
        }
        done
    }
}

dispatch! {
    fn reciprocals(scales: &[u32], of: &mut [u32], rest: &mut [u32]) = reciprocals_body;
}

#[inline(always)]
fn reciprocals_body(scales: &[u32], of: &mut [u32], rest: &mut [u32]) {
    for ((scale, of), rest) in scales.iter().zip(of).zip(rest) {
        (*of, *rest) = reciprocal(*scale);
    }
}

/// Whole lines of a row, and the numbers of their columns.
struct Row<'a> {
    job: &'a Job<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
    past: bool,
    numbers: [&'a [u32]; 3],
    next: usize,
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx512<const HOW: u8>(row: Row<'_>) {
    // SAFETY: this function enables the instruction set; the caller's contract.
    unsafe { body::<__m512i, HOW>(row) }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx2<const HOW: u8>(row: Row<'_>) {
    // SAFETY: as above.
    unsafe { body::<__m256i, HOW>(row) }
}

/// # Safety
/// [`Halves`]'s contract; lines are whole, and aligned where they go past the caches.
#[inline(always)]
unsafe fn body<V: Halves, const HOW: u8>(row: Row<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        match row.past {
            true => lines::<V, HOW, true>(row),
            false => lines::<V, HOW, false>(row),
        }
    }
}

/// # Safety
/// As for `body`.
#[inline(always)]
unsafe fn lines<V: Halves, const HOW: u8, const PAST: bool>(Row { job, x, y, numbers, next, .. }: Row<'_>) {
    let (px, py) = (x.as_ptr(), y.as_mut_ptr());
    // SAFETY: the caller's contract; all arrays are of one length.
    unsafe {
        let rounding = Rounding::<V>::new(job.shape, job.plain_grid().0);
        for line in (0..x.len()).step_by(LINE) {
            stream::prefetch_far(px.wrapping_add(line + next));
            for i in (line..line + LINE).step_by(V::LANES) {
                let scale = numbers.map(|numbers| V::load(numbers.as_ptr().add(i)));
                let y = rounding.element::<HOW>(V::load(px.add(i).cast()), scale);
                if PAST { y.stream(py.add(i).cast()) } else { y.store(py.add(i).cast()) }
            }
        }
    }
}
