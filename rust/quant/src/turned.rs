//! Neighbouring columns of an fp32 array laid side by side, so that runs along any axis are runs in memory; and back.

/// Columns that are turned together: a line of the cache.
pub(crate) const COLUMNS: usize = 16;

/// Runs of up to `rows` elements along an axis.
#[derive(Clone, Copy)]
pub(crate) struct Runs {
    /// Where the first run starts.
    pub first: usize,
    /// From an element of a run to its next.
    pub inner: usize,
    pub rows: usize,
    /// Neighbouring runs, at most [`COLUMNS`].
    pub width: usize,
}

impl Runs {
    /// # Safety
    /// The runs lie in the array, and nobody writes it meanwhile.
    pub unsafe fn gather<const N: usize>(&self, x: *const f32, columns: &mut [[f32; N]; COLUMNS]) {
        if self.inner == 1 {
            // SAFETY: the caller's contract: one run, which lies in one piece.
            let run = unsafe { std::slice::from_raw_parts(x.add(self.first), self.rows) };
            columns[0][..self.rows].copy_from_slice(run);
            return;
        }
        for i in 0..self.rows {
            // SAFETY: the caller's contract.
            let row = unsafe { std::slice::from_raw_parts(x.add(self.first + i * self.inner), self.width) };
            for (column, x) in columns.iter_mut().zip(row) {
                column[i] = *x;
            }
        }
    }

    /// # Safety
    /// The runs lie in the array and belong to this thread.
    pub unsafe fn scatter<const N: usize, T: Copy>(&self, columns: &[[T; N]; COLUMNS], y: *mut T) {
        if self.inner == 1 {
            // SAFETY: as in `gather`.
            let run = unsafe { std::slice::from_raw_parts_mut(y.add(self.first), self.rows) };
            run.copy_from_slice(&columns[0][..self.rows]);
            return;
        }
        for i in 0..self.rows {
            // SAFETY: the caller's contract.
            let row = unsafe { std::slice::from_raw_parts_mut(y.add(self.first + i * self.inner), self.width) };
            for (y, column) in row.iter_mut().zip(columns) {
                *y = column[i];
            }
        }
    }
}
