//! Publish: from raw operations to change events.
//!
//! The [`Publisher`] reads the journal and applies every operation to its [`images`]: byte-exact copies of the files as of
//! a journal position. What an operation touched is then decoded into `pieces` and, at the end of its `units` of work,
//! becomes events. Of files of trees it has [`digests`] instead. It is a state machine of the journal alone: the same operations give the same events.

pub mod digests;
mod former;
pub mod images;
mod pieces;
mod publisher;
mod units;

pub use publisher::{CURSOR, Publisher, PublisherOptions, PublisherParts};

#[cfg(test)]
mod tests;
