//! Our own thread pool, keyed by process and size.
//!
//! Rayon's global pool does not survive `fork`: a child that uses it waits for threads that exist only in the parent.
//! Here a child finds a pool of another process id, leaves it alone and builds its own.

use crate::interrupt::{Done, Watch};
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

struct Pool {
    process: u32,
    threads: rayon::ThreadPool,
}

/// More threads than this are never useful for loops bound by memory.
pub const MAX_THREADS: usize = 256;

static POOLS: [AtomicPtr<Pool>; MAX_THREADS + 1] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_THREADS + 1];

/// `None` where the operating system does not start that many threads.
fn pool(threads: usize) -> Option<&'static rayon::ThreadPool> {
    let process = std::process::id();
    let slot = &POOLS[threads];
    // SAFETY: pointers in the table come from `Box::leak` below and are never freed.
    if let Some(pool) = unsafe { slot.load(Ordering::Acquire).as_ref() }
        && pool.process == process
    {
        return Some(&pool.threads);
    }
    let threads =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("dither-{i}")).build().ok()?;
    // Leaked on purpose: it lives as long as the process. Two racing callers leak one pool more, once.
    let built = Box::leak(Box::new(Pool { process, threads }));
    slot.store(built, Ordering::Release);
    Some(&built.threads)
}

/// Units between two looks at the clock, where the caller works alone.
const LOOK: usize = 64;

/// Call `work(i)` for every `i` below `units`, on up to `threads` threads. The calls must be independent; nothing may
/// depend on their order. A caller within [`interruptible`](crate::interrupt::interruptible) may end it early.
pub fn for_each(units: usize, threads: usize, work: impl Fn(usize) + Sync + Send) {
    let threads = threads.clamp(1, MAX_THREADS).min(units);
    match (if threads > 1 { pool(threads) } else { None }, Watch::current()) {
        (None, None) => (0..units).for_each(work),
        (None, Some(watch)) => {
            for start in (0..units).step_by(LOOK) {
                if watch.given_up() {
                    return;
                }
                (start..units.min(start + LOOK)).for_each(&work);
            }
        }
        (Some(pool), None) => pool.install(|| (0..units).into_par_iter().for_each(work)),
        (Some(pool), Some(watch)) => {
            // The caller waits outside the pool, because the question must be asked on its thread.
            let (stop, done) = (AtomicBool::new(watch.given_up()), Done::default());
            pool.in_place_scope(|scope| {
                scope.spawn(|_| {
                    let _done = done.later();
                    let one = |i| {
                        if !stop.load(Ordering::Relaxed) {
                            work(i)
                        }
                    };
                    (0..units).into_par_iter().for_each(one);
                });
                while !done.wait() {
                    if watch.given_up() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_unit_runs_once() {
        for threads in [1, 2, 5, 1000] {
            let counts: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
            super::for_each(counts.len(), threads, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}
