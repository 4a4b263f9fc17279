//! Threads that live as long as a call: nothing is left for a fork to inherit.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Time between two questions whether to give up.
const PAUSE: Duration = Duration::from_millis(50);

/// Call `work(i)` for every `i` below `units` on up to `threads` threads, the caller among them. False where `give_up`,
/// asked now and then on the calling thread, said yes; some units are then left out.
pub fn for_each(units: usize, threads: usize, give_up: &dyn Fn() -> bool, work: impl Fn(usize) + Sync) -> bool {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || (!stop.load(Ordering::Relaxed)).then(|| next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < units);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(units) {
            // Where the system starts no thread, the others do its share.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || {
                while let Some(i) = take() {
                    work(i);
                }
            });
        }
        let mut asked = Instant::now();
        while let Some(i) = take() {
            work(i);
            if asked.elapsed() >= PAUSE {
                asked = Instant::now();
                if give_up() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    });
    !stop.into_inner()
}

#[cfg(test)]
mod tests {
    use super::for_each;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_unit_runs_once() {
        for threads in [1, 2, 5, 40] {
            let counts: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
            assert!(for_each(counts.len(), threads, &|| false, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            }));
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}
