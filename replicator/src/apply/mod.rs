//! Apply: from events to batches, from batches to rows.
//!
//! The [`Applier`] of a sink takes parcels of whole units, folds them to the last image per record, and applies each
//! batch atomically with its position; where more waits, while the next one is folded (`flight`). What a sink refuses is found in the batch (`refusal`, by `bisection` over its
//! `parts`), and kept as dead letters (`letters`) where that is its file's policy.

mod amending;
mod applier;
mod bisection;
mod checks;
mod flight;
mod fold;
mod letters;
mod mapping;
mod orphans;
mod parts;
mod refusal;
mod rows;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use fold::Fold;

pub use applier::{Applier, attach, positions};
