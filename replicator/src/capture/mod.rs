//! Capture: from what programs did to one durable order of operations.
//!
//! Programs write frames into lanes; the [`Sequencer`] merges the lanes by the end of each call, adds what the
//! [`check`] thread found by looking at files and reading them, where the kernel says that something happened, and appends [`operation`]s to the journal. Whatever is in doubt is not
//! guessed but read from the file again.

pub mod check;
mod directories;
mod entries;
pub(crate) mod files;
mod lanes;
pub mod operation;
mod order;
pub(crate) mod processes;
mod sequencer;
mod watch;

pub use watch::Toucher;

#[doc(hidden)]
pub use lanes::{LanesRead, read_lanes};

pub use processes::identity;
pub use sequencer::{Parts, Sequencer, SequencerOptions, journaled_frames};
