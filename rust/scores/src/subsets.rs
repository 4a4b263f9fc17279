//! Memorization and influence from many models, each trained on a subset (Feldman and Zhang, 2008.03703): bits and
//! population counts.

use dither_cpu::dispatch;
use dither_cpu::threads::for_each;

#[derive(Clone, Copy)]
struct Target(*mut f64);
// SAFETY: every thread writes its own rows.
unsafe impl Sync for Target {}

#[inline(always)]
fn both_body(a: &[u64], b: &[u64]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum()
}

#[inline(always)]
fn contrast_body(member: &[u64], correct: &[u64], words: usize, models: u32, out: &mut [f64]) {
    let inside: u32 = member.iter().map(|m| m.count_ones()).sum();
    for (out, correct) in out.iter_mut().zip(correct.chunks_exact(words)) {
        let right: u32 = correct.iter().map(|c| c.count_ones()).sum();
        let right_inside = both_body(member, correct);
        // NaN where no model (or every model) had the example.
        *out =
            f64::from(right_inside) / f64::from(inside) - f64::from(right - right_inside) / f64::from(models - inside);
    }
}

dispatch! { fn contrast(member: &[u64], correct: &[u64], words: usize, models: u32, out: &mut [f64]) = contrast_body; }

/// P[correct on j | i was in the subset] - P[correct on j | it was not], for every i (a row) and j.
///
/// A bit a model: `members` is examples x words, `correct` is others x words, bits beyond `models` are 0. False where
/// `give_up` said yes.
pub fn influence(
    members: &[u64],
    correct: &[u64],
    models: u32,
    out: &mut [f64],
    threads: usize,
    give_up: &dyn Fn() -> bool,
) -> bool {
    let words = (models as usize).div_ceil(64);
    let (examples, others) = (members.len() / words, correct.len() / words);
    assert_eq!(out.len(), examples * others);
    let out = Target(out.as_mut_ptr());
    for_each(examples, threads, give_up, |i| {
        let out = &out;
        // SAFETY: row i belongs to this thread.
        let out = unsafe { std::slice::from_raw_parts_mut(out.0.add(i * others), others) };
        contrast(&members[i * words..][..words], correct, words, models, out);
    })
}

/// The same for j = i alone.
pub fn memorization(members: &[u64], correct: &[u64], models: u32, out: &mut [f64]) {
    let words = (models as usize).div_ceil(64);
    for ((out, member), correct) in out.chunks_mut(1).zip(members.chunks_exact(words)).zip(correct.chunks_exact(words))
    {
        contrast(member, correct, words, models, out);
    }
}
