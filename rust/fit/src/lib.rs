//! Fits of scaling laws: many small problems, each to its optimum.
//!
//! A law is a sum of power terms, `L = E + (sum_j A_j prod_k X_k^p_jk)^gamma`, evaluated as a log-sum-exp of its
//! logarithms ([`model`], its derivatives in [`evaluate`](mod@evaluate)); an objective says what a residual costs
//! ([`objective`]). [`newton`] brings one start to a minimum (`step`, a step of it; `trust`, how far that may go),
//! [`project`] finds starts from which that minimum is the best one, and [`batch`] does this for many sets
//! of weights and starts at once: bootstrap replicates, hold-outs, profiles. A fit's result depends on its own
//! problem alone: not on the number of threads, nor on the instruction set.

pub mod batch;
pub mod evaluate;
pub mod linear;
pub mod model;
pub mod multipower;
pub mod newton;
pub mod objective;
pub mod project;
mod step;
mod trust;

pub use model::{Data, Entry, Model, Term};
pub use newton::{Bounds, Ending, Fit, Limits};
pub use objective::Objective;
