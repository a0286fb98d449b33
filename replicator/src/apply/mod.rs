//! Apply: from events to batches, from batches to rows.
//!
//! The [`Applier`] of a sink takes parcels of whole units, folds them to the last image per record, and applies each
//! batch atomically with its position.

mod applier;
mod fold;
mod mapping;

#[cfg(test)]
pub(crate) use fold::Fold;

pub use applier::{Applier, attach, positions};
