//! Linear algebra of a handful of unknowns.

/// Position of (i, j), j <= i, in a lower triangle.
#[inline(always)]
pub fn at(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}

/// Solve `a x = b` for a symmetric positive definite `a` (lower triangle, row by row), overwriting both: `a` becomes
/// its Cholesky factor, `b` the solution. False where `a` is not positive definite.
pub fn solve_positive(a: &mut [f64], b: &mut [f64]) -> bool {
    factor(a, b.len()) && {
        solve_factored(a, b);
        true
    }
}

/// Cholesky: `a = l l'`, in place.
pub fn factor(a: &mut [f64], n: usize) -> bool {
    for i in 0..n {
        for j in 0..=i {
            let mut sum = a[at(i, j)];
            for k in 0..j {
                sum -= a[at(i, k)] * a[at(j, k)];
            }
            if i == j {
                // A pivot lost to rounding counts as not positive.
                if sum.is_nan() || sum <= 1e-15 * a[at(i, i)].abs() {
                    return false;
                }
                a[at(i, i)] = sum.sqrt();
            } else {
                a[at(i, j)] = sum / a[at(j, j)];
            }
        }
    }
    true
}

/// Solve `l l' x = b` in place.
pub fn solve_factored(l: &[f64], b: &mut [f64]) {
    for i in 0..b.len() {
        let known: f64 = (0..i).map(|k| l[at(i, k)] * b[k]).sum();
        b[i] = (b[i] - known) / l[at(i, i)];
    }
    for i in (0..b.len()).rev() {
        let known: f64 = (i + 1..b.len()).map(|k| l[at(k, i)] * b[k]).sum();
        b[i] = (b[i] - known) / l[at(i, i)];
    }
}

/// Unknowns of a non-negative least-squares problem at most: all subsets are tried.
pub const MAX_TERMS: usize = 8;

/// Non-negative least squares from its normal equations: the `c >= 0` that minimises `c' gram c / 2 - c' moments`, and
/// that minimum. Exact: the best of all sets of positive unknowns.
pub fn nonnegative(gram: &[f64], moments: &[f64]) -> ([f64; MAX_TERMS], f64) {
    let n = moments.len();
    assert!(n <= MAX_TERMS);
    let mut best = ([0.0; MAX_TERMS], 0.0);
    for set in 1u32..1 << n {
        let mut members = [0; MAX_TERMS];
        let mut size = 0;
        for i in (0..n).filter(|i| set >> i & 1 == 1) {
            members[size] = i;
            size += 1;
        }
        let members = &members[..size];
        let mut a = [0.0; MAX_TERMS * (MAX_TERMS + 1) / 2];
        let mut c = [0.0; MAX_TERMS];
        for (i, &m) in members.iter().enumerate() {
            c[i] = moments[m];
            for (j, &k) in members[..=i].iter().enumerate() {
                a[at(i, j)] = gram[at(m, k)];
            }
        }
        if !solve_positive(&mut a, &mut c[..size]) || c[..size].iter().any(|c| *c <= 0.0) {
            continue;
        }
        // At the optimum of a set the value is -c' moments / 2.
        let value = -0.5 * members.iter().zip(&c).map(|(&m, c)| c * moments[m]).sum::<f64>();
        if value < best.1 {
            best = ([0.0; MAX_TERMS], value);
            members.iter().zip(&c).for_each(|(&m, c)| best.0[m] = *c);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_and_refuses() {
        let (mut a, mut b) = (vec![4.0, 2.0, 3.0, -1.0, 0.5, 5.0], vec![1.0, 2.0, 3.0]);
        assert!(solve_positive(&mut a, &mut b));
        let full = [[4.0, 2.0, -1.0], [2.0, 3.0, 0.5], [-1.0, 0.5, 5.0]];
        for (row, want) in full.iter().zip([1.0, 2.0, 3.0]) {
            let got: f64 = row.iter().zip(&b).map(|(a, x)| a * x).sum();
            assert!((got - want).abs() < 1e-13);
        }
        assert!(!solve_positive(&mut [1.0, 2.0, 1.0], &mut [1.0, 1.0]));
        assert!(!solve_positive(&mut [f64::NAN], &mut [1.0]));
    }

    #[test]
    fn nonnegative_meets_its_conditions() {
        // Columns of a fixed 12 x 4 matrix; the unconstrained solution has negative parts.
        let column = |j: usize| (0..12).map(move |i| ((i * 7 + j * 13) % 11) as f64 + 0.3 * j as f64);
        let y: Vec<f64> = (0..12).map(|i| ((i * 5) % 7) as f64 - 1.0).collect();
        let dot = |j: usize, k: usize| column(j).zip(column(k)).map(|(a, b)| a * b).sum::<f64>();
        let gram: Vec<f64> = (0..4).flat_map(|i| (0..=i).map(move |j| (i, j))).map(|(i, j)| dot(i, j)).collect();
        let moments: Vec<f64> = (0..4).map(|j| column(j).zip(&y).map(|(a, b)| a * b).sum()).collect();
        let (c, _) = nonnegative(&gram, &moments);
        for j in 0..4 {
            let slope: f64 = (0..4).map(|k| c[k] * gram[at(j.max(k), j.min(k))]).sum::<f64>() - moments[j];
            assert!(c[j] >= 0.0 && slope >= -1e-9 && (c[j] * slope).abs() < 1e-9, "{c:?} {slope}");
        }
    }
}
