//! Operands: rows of k numbers each, in memory as numbers or as packed codes, unpacked a stretch at a time.

use super::PANEL;
use super::nibbles::{self, CODES, Lines, WORDS};
use super::turn::{Square, turn};
use crate::dtype::Memory;
use crate::pack::{row_bytes, unpack};
use crate::simd::dispatch;
use crate::stream;
use std::ops::Range;

pub enum Operand<'a> {
    Strided(Strided),
    Packed(Packed<'a>),
}

/// Numbers in memory: element (row, k) lies at `row * row_stride + k * stride`. Not fp64.
#[derive(Clone, Copy)]
pub struct Strided {
    pub x: Memory,
    pub rows: usize,
    pub len: usize,
    pub row_stride: usize,
    pub stride: usize,
}

/// Codes in rows of bits along k, and what each is multiplied by: `value = table[code] * factor`, rounded to fp32.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    pub codes: *const u8,
    pub rows: usize,
    pub len: usize,
    pub width: u32,
    /// The value of every code of the width.
    pub table: &'a [f32],
    pub factors: Factors<'a>,
    /// Elements that share a factor.
    pub block: usize,
    /// From the factors of one row to the next: 0 where all rows share them.
    pub factor_stride: usize,
}

/// Where factors are: nowhere (1), as 8-bit codes with the factor of each, or themselves.
#[derive(Clone, Copy)]
pub enum Factors<'a> {
    One,
    Codes(*const u8, &'a [f32; 256]),
    F32(*const f32),
}

// SAFETY: operands are only read.
unsafe impl Sync for Packed<'_> {}
// SAFETY: as above; a pointer carries no thread affinity.
unsafe impl Send for Packed<'_> {}
// SAFETY: as above.
unsafe impl Sync for Factors<'_> {}
// SAFETY: as above.
unsafe impl Send for Factors<'_> {}

impl Operand<'_> {
    pub fn rows(&self) -> usize {
        match self {
            Operand::Strided(x) => x.rows,
            Operand::Packed(x) => x.rows,
        }
    }

    /// Elements of a row: k.
    pub fn len(&self) -> usize {
        match self {
            Operand::Strided(x) => x.len,
            Operand::Packed(x) => x.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A stretch of one row.
    ///
    /// # Safety
    /// The operand points to what it describes; `row` and `ks` lie in it; `out` is as long as `ks`.
    pub unsafe fn row(&self, row: usize, ks: Range<usize>, out: &mut [f32]) {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Operand::Strided(x) => x.row(row, ks, out),
                Operand::Packed(x) => x.row(row, ks, out),
            }
        }
    }

    /// The same stretch of up to 32 rows side by side, one k after the other; columns without a row are zero.
    ///
    /// # Safety
    /// As for [`Operand::row`].
    pub unsafe fn panel(&self, rows: Range<usize>, ks: Range<usize>, out: &mut [[f32; PANEL]]) {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Operand::Strided(x) if x.row_stride == 1 => x.side_by_side(rows, ks, out),
                Operand::Packed(x) if x.is_nibbles(&rows, &ks) => {
                    x.lines(rows, ks, |at, lines| nibbles::unpack(lines, &mut out[at]));
                }
                _ => self.transposed(rows, ks, out),
            }
        }
    }

    /// Add the products of one row with a stretch of 32 rows to their sums in fp32, straight from the codes; false, and
    /// nothing done, where they or the processor do not allow it.
    ///
    /// # Safety
    /// As for [`Operand::row`].
    pub unsafe fn multiply(&self, a: &[f32], rows: Range<usize>, ks: Range<usize>, sums: &mut [f32; PANEL]) -> bool {
        match self {
            Operand::Packed(x) if nibbles::can_multiply() && x.is_nibbles(&rows, &ks) => {
                // SAFETY: the caller's contract.
                unsafe { x.lines(rows, ks, |at, lines| nibbles::multiply(lines, &a[at], sums)) };
                true
            }
            _ => false,
        }
    }

    /// Row by row through a buffer of few k, which stays in the first-level cache.
    unsafe fn transposed(&self, rows: Range<usize>, ks: Range<usize>, out: &mut [[f32; PANEL]]) {
        let mut square: Square = [[0.0; PANEL]; PANEL];
        for (i, out) in out.chunks_mut(PANEL).enumerate() {
            let from = ks.start + i * PANEL;
            for (row, square) in rows.clone().zip(&mut square) {
                // SAFETY: the caller's contract.
                unsafe { self.row(row, from..from + out.len(), &mut square[..out.len()]) };
            }
            turn(&square, out);
        }
    }
}

impl Strided {
    unsafe fn row(&self, row: usize, ks: Range<usize>, out: &mut [f32]) {
        let start = row * self.row_stride + ks.start * self.stride;
        if self.stride == 1 {
            // SAFETY: the caller's contract.
            return unsafe { self.x.load(start, out) };
        }
        for (i, y) in out.iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { self.x.load(start + i * self.stride, std::slice::from_mut(y)) };
        }
    }

    /// Rows that are neighbours in memory.
    unsafe fn side_by_side(&self, rows: Range<usize>, ks: Range<usize>, out: &mut [[f32; PANEL]]) {
        for (k, out) in ks.zip(out) {
            let (used, rest) = out.split_at_mut(rows.len());
            // SAFETY: the caller's contract.
            unsafe { self.x.load(rows.start + k * self.stride, used) };
            rest.fill(0.0);
        }
    }
}

impl Packed<'_> {
    fn row_bytes(&self) -> usize {
        row_bytes(self.len, self.width).expect("the codes exist")
    }

    unsafe fn factor(&self, row: usize, block: usize) -> f32 {
        let i = row * self.factor_stride + block;
        // SAFETY: the caller's contract: the block lies in the operand.
        unsafe {
            match self.factors {
                Factors::One => 1.0,
                Factors::Codes(p, table) => table[*p.add(i) as usize],
                Factors::F32(p) => *p.add(i),
            }
        }
    }

    /// The factors of some blocks of 32 rows, side by side.
    ///
    /// # Safety
    /// The blocks lie in the operand.
    unsafe fn factors_of(&self, rows: Range<usize>, blocks: Range<usize>, out: &mut [[f32; PANEL]]) {
        let (n, at) = (blocks.len(), |row: usize| row * self.factor_stride + blocks.start);
        for (j, row) in rows.enumerate() {
            // SAFETY: the caller's contract.
            unsafe {
                match self.factors {
                    Factors::One => out.iter_mut().for_each(|out| out[j] = 1.0),
                    Factors::Codes(p, table) => {
                        let codes = std::slice::from_raw_parts(p.add(at(row)), n);
                        out.iter_mut().zip(codes).for_each(|(out, code)| out[j] = table[usize::from(*code)]);
                    }
                    Factors::F32(p) => {
                        let factors = std::slice::from_raw_parts(p.add(at(row)), n);
                        out.iter_mut().zip(factors).for_each(|(out, factor)| out[j] = *factor);
                    }
                }
            }
        }
    }

    unsafe fn row(&self, row: usize, ks: Range<usize>, out: &mut [f32]) {
        // Stretches begin at multiples of 8, hence at whole bytes.
        let first = row * self.row_bytes() + ks.start / 8 * self.width as usize;
        let bytes = row_bytes(ks.len(), self.width).expect("the codes exist");
        // SAFETY: the caller's contract.
        let bytes = unsafe { std::slice::from_raw_parts(self.codes.add(first), bytes) };
        let mut wide = Vec::new();
        if self.width != 8 {
            wide.resize(ks.len(), 0u32);
            unpack(bytes, self.width, &mut wide);
        }
        let mut k = ks.start;
        while k < ks.end {
            let end = ks.end.min((k / self.block + 1) * self.block);
            // SAFETY: as above.
            let factor = unsafe { self.factor(row, k / self.block) };
            let part = k - ks.start..end - ks.start;
            match <&[f32; 256]>::try_from(self.table) {
                Ok(table) => look_up_bytes(&bytes[part.clone()], table, factor, &mut out[part]),
                Err(_) => look_up(&wide[part.clone()], self.table, factor, &mut out[part]),
            }
            k = end;
        }
    }

    /// Whether a stretch can be unpacked eight 4-bit codes at a time, all of them of one block.
    fn is_nibbles(&self, rows: &Range<usize>, ks: &Range<usize>) -> bool {
        let whole = |n: usize| n.is_multiple_of(8);
        self.width == 4 && rows.len() == PANEL && whole(ks.start) && whole(ks.end) && whole(self.block)
    }

    /// Calls `with` for the stretch a cache line at a time, with the place in the stretch.
    ///
    /// # Safety
    /// As for [`Operand::row`], and the stretch is one of nibbles.
    unsafe fn lines(&self, rows: Range<usize>, ks: Range<usize>, mut with: impl FnMut(Range<usize>, &Lines<'_>)) {
        let table: &[f32; 16] = self.table.try_into().expect("a value for every code of four bits");
        let (codes, mut factors) = ([[0; CODES / 2]; PANEL], [[0.0; PANEL]; WORDS]);
        let mut lines = Lines { codes, factors, words: 0, table };
        let bytes = self.row_bytes();
        for from in ks.clone().step_by(CODES) {
            let len = CODES.min(ks.end - from);
            lines.words = len / 8;
            for (row, line) in rows.clone().zip(&mut lines.codes) {
                // SAFETY: the caller's contract; two codes a byte.
                let codes = unsafe { std::slice::from_raw_parts(self.codes.add(row * bytes + from / 2), len / 2) };
                // Rows lie pages apart, which the processor's own prefetching does not follow.
                stream::prefetch(codes.as_ptr_range().end);
                match codes.first_chunk() {
                    Some(whole) => *line = *whole,
                    None => line[..len / 2].copy_from_slice(codes),
                }
            }
            let first = from / self.block;
            let blocks = first..(from + len).div_ceil(self.block);
            // SAFETY: as above.
            unsafe { self.factors_of(rows.clone(), blocks.clone(), &mut factors[..blocks.len()]) };
            for (word, lines) in lines.factors[..len / 8].iter_mut().enumerate() {
                *lines = factors[(from + 8 * word) / self.block - first];
            }
            with(from - ks.start..from - ks.start + len, &lines);
        }
    }
}

#[inline(always)]
fn look_up_bytes_body(codes: &[u8], table: &[f32; 256], factor: f32, out: &mut [f32]) {
    for (y, code) in out.iter_mut().zip(codes) {
        *y = table[usize::from(*code)] * factor;
    }
}

#[inline(always)]
fn look_up_body(codes: &[u32], table: &[f32], factor: f32, out: &mut [f32]) {
    for (y, code) in out.iter_mut().zip(codes) {
        *y = table[*code as usize] * factor;
    }
}

dispatch! { fn look_up_bytes(codes: &[u8], table: &[f32; 256], factor: f32, out: &mut [f32]) = look_up_bytes_body; }
dispatch! { fn look_up(codes: &[u32], table: &[f32], factor: f32, out: &mut [f32]) = look_up_body; }
