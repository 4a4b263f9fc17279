//! Breaking off long calls.
//!
//! The thread that calls an operation may name a question to be asked every [`PAUSE`] while the operation runs: whether
//! to give up. After a yes the remaining units of work are left out, outputs are half written, and [`interruptible`]
//! says so by returning nothing. Python asks its signal handlers that way, so that Ctrl-C need not wait for the end.

use std::cell::Cell;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Time between two questions.
pub const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy)]
enum State {
    Unwatched,
    Watched(fn() -> bool),
    GivenUp,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Unwatched) };
}

/// Puts the caller's state back, also when unwinding.
struct Restore(State);

impl Drop for Restore {
    fn drop(&mut self) {
        STATE.set(self.0);
    }
}

/// Run `work` on this thread, asking `give_up` now and then. `None` where the answer was yes: what `work` returned,
/// and all that it wrote, is then incomplete.
pub fn interruptible<R>(give_up: fn() -> bool, work: impl FnOnce() -> R) -> Option<R> {
    let _restore = Restore(STATE.replace(State::Watched(give_up)));
    let result = work();
    (!matches!(STATE.get(), State::GivenUp)).then_some(result)
}

/// The question of the current thread, asked at most once in a [`PAUSE`].
pub(crate) struct Watch {
    asked: Cell<Instant>,
}

impl Watch {
    /// `None` where nobody asked to be able to give up.
    pub fn current() -> Option<Watch> {
        (!matches!(STATE.get(), State::Unwatched)).then(|| Watch { asked: Cell::new(Instant::now()) })
    }

    /// Whether to give up: the answer stays yes once it was.
    pub fn given_up(&self) -> bool {
        if let State::Watched(give_up) = STATE.get()
            && self.asked.get().elapsed() >= PAUSE
        {
            // Not asked again meanwhile: the answer may itself call operations.
            let answer = give_up();
            STATE.set(if answer { State::GivenUp } else { State::Watched(give_up) });
            self.asked.set(Instant::now());
        }
        matches!(STATE.get(), State::GivenUp)
    }
}

/// Set when work on other threads has ended, by dropping [`Done::later`].
#[derive(Default)]
pub(crate) struct Done {
    done: Mutex<bool>,
    changed: Condvar,
}

pub(crate) struct Later<'a>(&'a Done);

impl Drop for Later<'_> {
    fn drop(&mut self) {
        *self.0.done.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.0.changed.notify_all();
    }
}

impl Done {
    pub fn later(&self) -> Later<'_> {
        Later(self)
    }

    /// Wait for the end, at most a [`PAUSE`]; whether it has come.
    pub fn wait(&self) -> bool {
        let done = self.done.lock().unwrap_or_else(|e| e.into_inner());
        let (done, _) = self.changed.wait_timeout_while(done, PAUSE, |d| !*d).unwrap_or_else(|e| e.into_inner());
        *done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::for_each;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn slowly(units: usize, threads: usize, count: &AtomicUsize) {
        for_each(units, threads, |_| {
            std::thread::sleep(Duration::from_millis(1));
            count.fetch_add(1, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_yes_leaves_the_rest_out_and_a_no_changes_nothing() {
        for threads in [1, 3] {
            let count = AtomicUsize::new(0);
            assert!(interruptible(|| true, || slowly(10_000, threads, &count)).is_none());
            assert!(count.into_inner() < 2_000);
            let count = AtomicUsize::new(0);
            assert!(interruptible(|| false, || slowly(400, threads, &count)).is_some());
            assert_eq!(count.into_inner(), 400);
        }
    }

    #[test]
    fn after_a_yes_nothing_of_the_same_call_runs_and_the_next_call_does() {
        let count = AtomicUsize::new(0);
        let twice = || {
            slowly(1_000, 2, &count);
            let first = count.load(Ordering::Relaxed);
            slowly(1_000, 2, &count);
            assert_eq!(count.load(Ordering::Relaxed), first);
        };
        assert!(interruptible(|| true, twice).is_none());
        let before = count.load(Ordering::Relaxed);
        slowly(200, 2, &count);
        assert_eq!(count.into_inner(), before + 200);
    }
}
