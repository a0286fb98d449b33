//! Frames: what a lane is made of.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `len`: the whole frame, a multiple of 8 |
//! | 4..6 | `kind` |
//! | 6..8 | `flags` |
//! | 8..12 | `name`: number of the file's name, announced earlier in the same segment |
//! | 12..16 | `data_len`: bytes of data behind the header |
//! | 16..24 | `number`: dense within the lane, from 1 |
//! | 24..32 | `begin`: clock before the call |
//! | 32..40 | `end`: clock after the call |
//! | 40..48 | `offset`: where in the file |
//! | 48..56 | `extent`: how many bytes of the file are concerned |
//! | 56.. | data, padded to 8 |

/// Size of a frame's header.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// Most bytes of data in one frame; a longer write becomes several frames of the same times.
pub const DATA_BYTES_MAX: usize = if cfg!(schedules) { 16 } else { 64 * 1024 };

/// The fixed part of a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// Bytes of the whole frame, padding included.
    pub len: u32,
    /// A [`Kind`].
    pub kind: u16,
    /// Flags of that kind.
    pub flags: u16,
    /// Number of the file's name, announced by a [`Kind::Name`] earlier in the same segment; 0 for none.
    pub name: u32,
    /// Bytes of data behind the header, without padding.
    pub data_len: u32,
    /// Dense number within the lane, from 1.
    pub number: u64,
    /// Clock before the call.
    pub begin: u64,
    /// Clock after the call.
    pub end: u64,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes of the file are concerned; `u64::MAX` for all that follow.
    pub extent: u64,
}

const _: () = assert!(
    HEADER_BYTES == 56,
    "the table above and the readers rely on it"
);

/// What a program did.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Announces a name: data is a [`NameHeader`] and the path.
    Name = 1,
    /// Opened for writing. `offset` is the size right after; flags [`OPEN_TRUNCATED`], [`OPEN_CREATED`].
    Open = 2,
    /// Wrote `data` at `offset`.
    Write = 3,
    /// Set the size to `offset`.
    Truncate = 4,
    /// Changed something in `offset..offset + extent`; only the file knows what.
    Reread = 5,
    /// Renamed: data is the old path, a NUL byte, the new path (either may be uncaptured).
    Rename = 6,
    /// Removed the path in data.
    Unlink = 7,
    /// fsync or fdatasync returned.
    Sync = 8,
    /// Took a lock on `offset..offset + extent`.
    Lock = 9,
    /// Gave up a lock on `offset..offset + extent`.
    Unlock = 10,
    /// Closed the last descriptor of an open file description that this process had.
    Close = 11,
    /// Mapped `offset..offset + extent` shared and writable: the file may change at any time from now on, unseen.
    /// Revision 1.
    Map = 12,
    /// Such a mapping of `offset..offset + extent` ended. Revision 1.
    Unmap = 13,
    /// Gave the file another name: data is that path. Revision 1.
    Link = 14,
    /// Changed permissions, owner or times. Revision 1.
    Attributes = 15,
    /// Began a unit of work; concerns no file. `offset` is the group, `u64::MAX` for all; `extent` is how many units the
    /// process has open after it; flag [`MARK_RESUMED`]. Revision 1.
    Begin = 16,
    /// Completed a unit of work, likewise. Revision 1.
    Commit = 17,
    /// Gave a unit of work up, likewise. Revision 1.
    Abort = 18,
    /// Of a kind this version doesn't know: anything may have happened to the file. Never written.
    Unknown = u16::MAX,
}

impl Kind {
    /// The kind with this number.
    pub fn from_number(number: u16) -> Kind {
        use Kind::*;
        [
            Name, Open, Write, Truncate, Reread, Rename, Unlink, Sync, Lock, Unlock, Close, Map,
            Unmap, Link, Attributes, Begin, Commit, Abort,
        ]
        .into_iter()
        .find(|kind| *kind as u16 == number)
        .unwrap_or(Unknown)
    }

    /// The first [`crate::REVISION`] of a replicator that understands it.
    pub const fn revision(self) -> u32 {
        if self as u16 > Kind::Close as u16 {
            1
        } else {
            0
        }
    }
}

/// [`Kind::Open`]: the file was emptied by `O_TRUNC`.
pub const OPEN_TRUNCATED: u16 = 1;
/// [`Kind::Open`]: `O_CREAT` was given and the file was empty after it.
pub const OPEN_CREATED: u16 = 2;
/// [`Kind::Close`]: locks that the process holds on the file belong to other descriptions and stay.
pub const CLOSE_KEEPS_LOCKS: u16 = 1;
/// [`Kind::Write`]: this frame goes on with the write of the frame before.
pub const WRITE_CONTINUED: u16 = 1;

/// [`Kind::Begin`], [`Kind::Commit`], [`Kind::Abort`]: marks before it were lost, so only `extent` says what is open.
pub const MARK_RESUMED: u16 = 1;

/// The group of a call in flight that concerns every group.
pub const ALL_GROUPS: u16 = u16::MAX;

/// What a [`Kind::Name`] frame's data begins with; the path follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NameHeader {
    /// Device of the file.
    pub device: u64,
    /// Inode of the file.
    pub inode: u64,
}

/// Bytes a frame with this much data takes.
#[inline(always)]
pub const fn frame_bytes(data_len: usize) -> usize {
    (HEADER_BYTES + data_len + 7) & !7
}
