//! SemDeDup's score (Abbas et al., 2303.09540): the greatest similarity of an example with those before it.
//!
//! The products are BLAS's. Of each block of them only what lies below the diagonal counts, and it is read once.

use dither_cpu::dispatch;
use dither_cpu::threads::for_each;

/// Similarities that are compared at once: four vectors of the widest kind.
const LANES: usize = 64;

#[derive(Clone, Copy)]
struct Target(*mut f32);
// SAFETY: every thread writes its own elements.
unsafe impl Sync for Target {}

#[inline(always)]
fn greatest_body(x: &[f32], so_far: f32) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [so_far; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = greater(lanes[i], chunk[i]);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(so_far, greater)
}

dispatch! { fn greatest(x: &[f32], so_far: f32) -> f32 = greatest_body; }

/// Raise `out`, one a row, to the greatest of the first `before + i` elements of row i: of the examples before it among
/// those of the columns, of which `before` come before the first row's. No element is NaN. False where `give_up` said yes.
pub fn raise(
    similar: &[f32],
    columns: usize,
    before: usize,
    out: &mut [f32],
    threads: usize,
    give_up: &dyn Fn() -> bool,
) -> bool {
    assert_eq!(similar.len(), out.len() * columns);
    let (rows, out) = (out.len(), Target(out.as_mut_ptr()));
    for_each(rows, threads, give_up, |i| {
        let out = &out;
        // SAFETY: element i belongs to this thread.
        let out = unsafe { &mut *out.0.add(i) };
        *out = greatest(&similar[i * columns..][..columns.min(before + i)], *out);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a loop over all pairs, for widths around those of the vectors.
    #[test]
    fn only_what_is_before_counts() {
        let never = || false;
        for (rows, columns) in [(1, 1), (5, 3), (3, 63), (70, 64), (2, 65), (9, 200), (140, 140)] {
            let value = |i: usize, j: usize| ((i * 7919 + j * 104_729) % 1009) as f32 / 1009.0 - 0.5;
            let similar: Vec<f32> = (0..rows * columns).map(|k| value(k / columns, k % columns)).collect();
            for before in [0, 1, 64, 1000] {
                for threads in [1, 2] {
                    let mut out: Vec<f32> = (0..rows).map(|i| if i % 2 == 0 { -1.0 } else { 0.3 }).collect();
                    let mut expected = out.clone();
                    for (i, e) in expected.iter_mut().enumerate() {
                        (0..columns.min(before + i)).for_each(|j| *e = e.max(value(i, j)));
                    }
                    assert!(raise(&similar, columns, before, &mut out, threads, &never));
                    assert_eq!(out, expected, "{rows} x {columns}, {before} before");
                }
            }
        }
    }
}
