//! Blocks along an axis that is not the last: rows cut into strips of columns, whose scales stay in the first-level cache.

use crate::columns::{self, STRIP, Strip};
use crate::job::Job;
use crate::layout::{Cut, Unit};
use crate::number::Number;
use crate::pieces::Pieces;
use std::ops::Range;

/// Bytes of a strip that a second-level cache surely holds between finding the largest and rounding.
const CACHED: usize = 1 << 20;

/// Strips that go together at most, where that does not hold them: their scales do stay there.
const TOGETHER: usize = 32;

/// Rows of a strip before the next strip's: enough that scales come from the first-level cache, few enough that memory
/// is read and written in long runs.
const ROWS: usize = 4;

/// A row cut into strips. They meet where lines of the cache do, in rows that begin alike: two halves of a line that are
/// stored past the caches at different times cost as much as ten lines.
pub struct Strips {
    inner: usize,
    count: usize,
    width: usize,
    /// Elements by which all but the first begin earlier than at a multiple of the width.
    back: usize,
    /// Strips of a set, which go together, and sets of a row.
    together: usize,
    pub sets: usize,
}

impl Strips {
    /// Of rows whose elements have `size` bytes, the first of which lies at `to`.
    pub fn new(cut: &Cut, to: *const u8, size: usize, threads: usize) -> Strips {
        let (inner, line) = (cut.inner(), 64 / size);
        let count = inner.div_ceil(if inner <= STRIP { STRIP } else { STRIP - line });
        let width = inner.div_ceil(count.max(1)).next_multiple_of(line);
        let alike = (inner * size).is_multiple_of(64) && to.addr().is_multiple_of(size);
        let cached = cut.block * width * size <= CACHED;
        let together = if cached { 1 } else { count.div_ceil(threads).clamp(1, TOGETHER) };
        let back = if alike { to.addr() % 64 / size } else { 0 };
        Strips { inner, count, width, back, together, sets: count.div_ceil(together) }
    }

    fn set(&self, i: usize) -> impl Iterator<Item = Range<usize>> {
        (i * self.together..self.count.min((i + 1) * self.together)).map(|i| self.columns(i))
    }

    /// The columns of a strip.
    fn columns(&self, i: usize) -> Range<usize> {
        let start = |i: usize| match i {
            0 => 0,
            i if i == self.count => self.inner,
            i => i * self.width - self.back,
        };
        start(i)..start(i + 1)
    }
}

/// A set of strips of a unit, one block a column.
///
/// # Safety
/// The unit lies in the arrays, and these columns of it belong to this thread.
pub unsafe fn round<E: Number>(job: &Job<'_>, unit: Unit, strips: &Strips, set: usize, pieces: &mut Pieces<'_, E>) {
    // SAFETY: the caller's contract.
    unsafe {
        match strips.together {
            1 => one(job, unit, strips.inner, strips.columns(set), pieces),
            _ => together(job, unit, strips.inner, strips.set(set), pieces),
        }
    }
}

/// A strip that a cache holds: the next one's rows are asked for while this one's are rounded.
///
/// # Safety
/// As for `round`.
unsafe fn one<E: Number>(job: &Job<'_>, unit: Unit, inner: usize, columns: Range<usize>, pieces: &mut Pieces<'_, E>) {
    let width = columns.len();
    let rows = (unit.start + columns.start..unit.start + unit.len).step_by(inner);
    let mut absmax = [0; STRIP];
    for at in rows.clone() {
        // SAFETY: the caller's contract.
        columns::raise(&mut absmax[..width], unsafe { pieces.look(at, width) }, inner);
    }
    let next = if columns.end < inner { width } else { unit.len - columns.start };
    let strip = Strip::new(&absmax[..width], job, next);
    for at in rows {
        // SAFETY: as above.
        unsafe { pieces.map(at, width, |x, random, y, past| strip.row(x, y, past, random)) };
    }
}

/// Strips that lie in memory: twice through all of them in the order in which they lie there.
///
/// # Safety
/// As for `round`.
unsafe fn together<E: Number>(
    job: &Job<'_>,
    unit: Unit,
    inner: usize,
    strips: impl Iterator<Item = Range<usize>>,
    pieces: &mut Pieces<'_, E>,
) {
    let strips: Vec<Range<usize>> = strips.collect();
    let (begin, end) = (strips[0].start, strips[strips.len() - 1].end);
    // How far on the same row of what comes next lies: the next strip, or the first of the next rows.
    let next =
        |columns: &Range<usize>| if columns.end < end { columns.len() } else { ROWS * inner - (columns.start - begin) };
    let each = |work: &mut dyn FnMut(usize, usize)| {
        for rows in (unit.start..unit.start + unit.len).step_by(ROWS * inner) {
            for (i, columns) in strips.iter().enumerate() {
                for row in (rows..(unit.start + unit.len).min(rows + ROWS * inner)).step_by(inner) {
                    work(i, row + columns.start);
                }
            }
        }
    };
    let mut absmax = vec![[0; STRIP]; strips.len()];
    each(&mut |i, at| {
        let width = strips[i].len();
        // SAFETY: the caller's contract.
        columns::raise(&mut absmax[i][..width], unsafe { pieces.look(at, width) }, next(&strips[i]));
    });
    let scaled: Vec<Strip<'_>> = (strips.iter().zip(&absmax))
        .map(|(columns, absmax)| Strip::new(&absmax[..columns.len()], job, next(columns)))
        .collect();
    each(&mut |i, at| {
        // SAFETY: as above.
        unsafe { pieces.map(at, strips[i].len(), |x, random, y, past| scaled[i].row(x, y, past, random)) };
    });
}
