//! Example scores: slices in, slices out. Formulas and their sources stand in `dither.scores` beside each score's name.
//!
//! * [`values`]: arrays of any floating-point type, read as fp32.
//! * [`logits`]: loss, margins, entropy, EL2N of every row, read once; `small`, `large`, `row`, `expf`: its parts.
//! * [`dynamics`]: the history of every example, a record each.
//! * [`sort`], [`ranks`], [`kendall`]: orders, ranks with ties, tau-b of all pairs; [`places`], `buckets`, `keys`,
//!   [`order`]: the parts of a sort.
//! * [`shapley`] and `gaps`: values under a nearest-neighbour classifier; [`subsets`]: memorization and influence.
//! * [`duplicates`]: the greatest similarity with examples before; [`vog`]: variance of gradients; [`sketch`]: sparse random projections; [`ngrams`]: hashed features of text.

mod buckets;
pub mod duplicates;
pub mod dynamics;
mod expf;
mod gaps;
pub mod kendall;
mod keys;
mod large;
pub mod logits;
pub mod ngrams;
pub mod order;
pub mod places;
pub mod ranks;
mod row;
pub mod shapley;
pub mod sketch;
mod small;
pub mod sort;
pub mod subsets;
pub mod values;
pub mod vog;
