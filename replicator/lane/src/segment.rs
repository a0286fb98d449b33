//! A segment: one memory-mapped file of a lane.
//!
//! The first page is the header, the rest frames. Whatever a later layout changes, magic, version, process id and program name
//! stay where they are, so that a reader that refuses it can say whose it is.
//! Only the lane's thread writes frames and `tail`; only the
//! sequencer writes `consumed` and sets [`STATE_FREE`]. The in-flight slot that counts is the one in the lane's
//! first segment file (`index` 0), which the lane never gives up.

use crate::sync::{AtomicU32, AtomicU64};

/// First bytes of every segment.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CFOILANE");
/// Bytes of the header; frames begin behind it.
pub const HEADER_BYTES: usize = 4096;

/// The writer is at work in it (or its process died there).
pub const STATE_OPEN: u32 = 1;
/// The writer went on to the next segment: nothing more comes in this one.
pub const STATE_FULL: u32 = 2;
/// Everything in it is in the journal: the writer may use it again.
pub const STATE_FREE: u32 = 3;

/// [`Header::mode`]: libc's own calls are seen too (stdio), not only those by symbol.
pub const MODE_PATCHED: u32 = 1;

/// The header, as it is mapped.
#[repr(C)]
pub struct Header {
    /// [`MAGIC`], written last by the segment's maker.
    pub magic: AtomicU64,
    /// [`crate::VERSION`].
    pub version: u32,
    /// Number of this segment file within its lane, from 0.
    pub index: u32,
    /// Number that only the writing process has, also in the file's name.
    pub process: u64,
    /// Number of the lane within its process.
    pub lane: u32,
    /// The writing process.
    pub pid: u32,
    /// The thread that made the lane.
    pub tid: u32,
    /// Real user id of the process.
    pub uid: u32,
    /// When the process started, in clock ticks since boot (field 22 of /proc/PID/stat).
    pub pid_started: u64,
    /// Inode of the process's id namespace, 0 when not known.
    pub pid_namespace: u64,
    /// Bytes that frames may take.
    pub capacity: u64,
    /// Name of the program, NUL-padded.
    pub program: [u8; 16],
    /// When the segment was put to use for the n-th time in its lane, counted over all segments from 1.
    pub sequence: AtomicU64,
    /// A `STATE_` constant.
    pub state: AtomicU32,
    /// [`crate::REVISION`] of the interposer.
    pub revision: u32,
    /// `MODE_` flags: how the program is captured.
    pub mode: u32,
    /// Version of the interposer as text, NUL-padded.
    pub release: [u8; 16],
    _pad0: [u8; 64 - 20 - 24],
    /// Bytes of complete frames.
    pub tail: Line<AtomicU64>,
    /// Bytes of frames that are in the journal.
    pub consumed: Line<AtomicU64>,
    /// The call the thread is in.
    pub slot: Line<Slot>,
    /// Whether its thread waits for room; only the lane's segment with index 0 tells.
    pub waiting: Line<Waiting>,
}

/// A value on a cache line of its own.
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// The call a thread is in. `begin` is written last when it is published and cleared first.
#[repr(C)]
pub struct Slot {
    /// Clock before the call, 0 when there is none.
    pub begin: AtomicU64,
    /// Device of the file.
    pub device: AtomicU64,
    /// Inode of the file, 0 when not known before the call.
    pub inode: AtomicU64,
    /// Where in the file, `u64::MAX` when not known before the call.
    pub offset: AtomicU64,
    /// How many bytes, `u64::MAX` for all that follow.
    pub extent: AtomicU64,
    /// Which group the file is of.
    pub group: AtomicU64,
}

/// A thread that waits before a call until its lane has room. A killed one says so no more: `at` grows while it waits.
#[repr(C)]
pub struct Waiting {
    /// Clock when it began to wait, 0 when it doesn't.
    pub since: AtomicU64,
    /// Clock when it last looked whether it may go on.
    pub at: AtomicU64,
}

const _: () = assert!(
    size_of::<Header>() <= HEADER_BYTES,
    "frames begin right behind the header page"
);
