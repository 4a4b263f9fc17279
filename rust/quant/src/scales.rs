//! The scales of many blocks, as the kernels use them: two numbers a block, which two is the same for all blocks.

use crate::job::{Fast, Job, Pair};

/// The bits of 1.0: a number that does no harm where none is needed.
pub const ONE: u32 = 127 << 23;

/// For up to `N` blocks.
pub struct Scales<const N: usize> {
    pub kind: Pair,
    /// Bits of the first and second field of the `Fast` that `kind` names.
    pub first: [u32; N],
    pub second: [u32; N],
    /// Blocks of another kind; their numbers above are placeholders.
    pub others: Vec<(usize, Fast)>,
}

impl<const N: usize> Scales<N> {
    #[inline(always)]
    pub fn new() -> Self {
        Scales { kind: Pair::Power, first: [ONE; N], second: [ONE; N], others: Vec::new() }
    }

    /// Work them out, in place: moving what was just stored would wait for all stores before it (a fifth of the time).
    #[inline(always)]
    pub fn set(&mut self, absmax: &[u32], job: &Job<'_>) {
        let n = absmax.len();
        match job.scales(absmax, &mut self.first[..n], &mut self.second[..n]) {
            Some(kind) => self.kind = kind,
            None => self.one_by_one(absmax, job),
        }
    }

    #[cold]
    #[inline(never)]
    fn one_by_one(&mut self, absmax: &[u32], job: &Job<'_>) {
        for (i, absmax) in absmax.iter().enumerate() {
            let scale = job.scale(*absmax);
            (self.first[i], self.second[i]) = match scale {
                Fast::Power { emin, max } => {
                    self.kind = Pair::Power;
                    (emin, max)
                }
                Fast::Divide { s } => {
                    self.kind = Pair::Divide;
                    (s.to_bits(), ONE)
                }
                Fast::Multiply { encode, decode } => {
                    self.kind = Pair::Multiply;
                    (encode.to_bits(), decode.to_bits())
                }
                Fast::Zero | Fast::Exact(_) => {
                    self.others.push((i, scale));
                    (ONE, ONE)
                }
            };
        }
    }
}
