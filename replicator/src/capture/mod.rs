//! Capture: from what programs did to one durable order of operations.
//!
//! Programs write frames into lanes; the [`Sequencer`] merges the lanes by the end of each call, adds what the
//! [`check`] thread found by reading files, and appends [`operation`]s to the journal. Whatever is in doubt is not
//! guessed but read from the file again.

pub mod check;
mod directories;
mod entries;
mod files;
mod lanes;
pub mod operation;
mod processes;
mod sequencer;

pub use sequencer::{Parts, Sequencer, SequencerOptions, journaled_frames};
