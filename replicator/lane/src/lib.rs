//! What captured programs and the sequencer share: lanes, rules and the board.
//!
//! A *lane* belongs to one thread of one program, which is its only writer. It is a chain of
//! memory-mapped segment files of frames; the sequencer reads behind the writer and hands consumed
//! segments back, so that a busy program keeps writing into the same warm pages. The *rules* say which
//! paths are captured; the *board* is one small file through which everybody learns what changed.
//!
//! This crate runs inside other people's programs, in signal handlers too. The writing half therefore
//! allocates nothing from the heap, takes no lock, calls no libc function that could be interposed or
//! change `errno`, and never panics. The reading half trusts nothing it finds in a lane.
//!
//! Numbers are in host byte order: a lane never leaves the host, and it does not outlive a boot.

pub mod board;
pub mod clock;
pub mod frame;
pub mod glob;
mod guard;
pub mod reader;
pub mod rules;
pub mod segment;
pub mod sync;
pub mod sys;
pub mod writer;

/// Version of the layout of everything shared with running programs. Both sides refuse what they don't know: the replicator
/// loudly, an interposer by capturing nothing.
pub const VERSION: u32 = 1;

/// Revision of what is said in that layout; grows with every addition. The board has that of the replicator, so that an
/// interposer says nothing it wouldn't understand; a segment has that of the interposer. Nobody refuses another's revision:
/// a replicator takes a frame of a kind it doesn't know as a change of the whole file.
pub const REVISION: u32 = 1;
