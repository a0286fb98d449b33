//! The board: one small shared file through which programs and the replicator tell each other what changed.
//!
//! It has a fixed size and its blocks are allocated when it is made, so programs can always write to it: it is
//! where a gap is marked when there is no lane to write to.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::{VERSION, sys};
use core::sync::atomic::AtomicPtr;

/// First bytes of the board.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CFOBOARD");
/// Name of the board's file in the lanes directory.
pub const FILE_NAME: &str = "board";
/// Name of the file that takes marks from programs that may only read the board. It is laid out as a board is.
pub const MARKS_FILE_NAME: &str = "marks";

const GAP_SLOTS: usize = 1024;
const INODE_SLOTS: usize = 1 << 16;
const PROBES_MAX: usize = 32;

/// The file, as it is mapped.
#[repr(C)]
struct Layout {
    magic: u64,
    version: u32,
    revision: AtomicU32,
    lane_bytes_max: AtomicU64,
    rules: AtomicU64,
    births: AtomicU64,
    gaps: AtomicU64,
    gap_everywhere: AtomicU32,
    _reserved2: u32,
    /// Hashes of paths that are to be read again; 0 is empty.
    gap_slots: [AtomicU64; GAP_SLOTS],
    /// Devices and inodes of captured files, so that links to them are recognised.
    inodes: [InodeSlot; INODE_SLOTS],
}

#[repr(C)]
struct InodeSlot {
    device: AtomicU64,
    inode: AtomicU64,
}

/// What follows in the file. Boards that were made before it was thought of end where it begins.
#[repr(C)]
struct Totals {
    lanes_bytes_max: AtomicU64,
    lanes_bytes: AtomicU64,
}

/// Bytes of the file of a board that says nothing of how much all lanes may take.
pub const BYTES_MIN: usize = size_of::<Layout>();

/// Bytes of the board's file.
pub const BYTES: usize = BYTES_MIN + size_of::<Totals>();

/// For a board that doesn't say how much all lanes may take: as much as they like.
static NO_TOTALS: Totals = Totals {
    lanes_bytes_max: AtomicU64::new(0),
    lanes_bytes: AtomicU64::new(0),
};

/// A board that was joined: what the replicator says in it, and where programs leave their marks. These are one file, or
/// two where programs of other users may only read what the replicator says.
pub struct Board {
    /// [`crate::REVISION`] of the replicator that uses it, or used it last.
    pub revision: &'static AtomicU32,
    /// Most bytes of segments that one lane may have.
    pub lane_bytes_max: &'static AtomicU64,
    /// Most bytes of segments that all lanes together may have, 0 when nobody minds.
    pub lanes_bytes_max: &'static AtomicU64,
    /// Bytes of segments that all lanes have: those who make one add to it, the replicator puts it right.
    pub lanes_bytes: &'static AtomicU64,
    /// Grows when a new rules file has been put in place: `rules-<this number>`.
    pub rules: &'static AtomicU64,
    /// Grows when a program made a segment file.
    pub births: &'static AtomicU64,
    /// Grows when a program marked a gap.
    pub gaps: &'static AtomicU64,
    /// Set when there was no room to say which file the gap is in: all are to be read again.
    pub gap_everywhere: &'static AtomicU32,
    gap_slots: &'static [AtomicU64; GAP_SLOTS],
    inodes: &'static [InodeSlot; INODE_SLOTS],
    identity: (u64, u64),
    /// The board that this process has joined since, if any.
    successor: AtomicPtr<Board>,
}

/// Why a board can't be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardError {
    /// It can't be opened or mapped; the number is `errno`.
    Unreadable(i32),
    /// It is no board, or only the beginning of one.
    Damaged,
    /// It has a layout this code doesn't know.
    Version(u32),
}

impl core::fmt::Display for BoardError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BoardError::Unreadable(errno) => {
                write!(f, "{}", std::io::Error::from_raw_os_error(*errno))
            }
            BoardError::Damaged => write!(f, "it is no board"),
            BoardError::Version(version) => write!(
                f,
                "it has layout {version}, and this version knows layout {VERSION}"
            ),
        }
    }
}

impl std::error::Error for BoardError {}

impl Board {
    /// Marks that changes of the file at `path` were not captured.
    pub fn mark_gap(&self, path: &[u8]) {
        self.latest().mark(path);
    }

    fn mark(&self, path: &[u8]) {
        let hash = path_hash(path);
        let start = hash as usize % GAP_SLOTS;
        let placed = (0..PROBES_MAX).any(|probe| {
            let slot = &self.gap_slots[(start + probe) % GAP_SLOTS];
            match slot.compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => true,
                Err(there) => there == hash,
            }
        });
        if !placed {
            self.gap_everywhere.store(1, Ordering::Release);
        }
        self.gaps.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes so many bytes for a further segment. False when all lanes together have as many as they may.
    pub fn take_lane_bytes(&self, bytes: u64) -> bool {
        let before = self.lanes_bytes.fetch_add(bytes, Ordering::AcqRel);
        let is_granted = match self.lanes_bytes_max.load(Ordering::Relaxed) {
            0 => true,
            most => before.saturating_add(bytes) <= most,
        };
        if !is_granted {
            self.give_lane_bytes(bytes);
        }
        is_granted
    }

    /// Gives bytes back that [`Board::take_lane_bytes`] took: there is no such segment, or no more.
    pub fn give_lane_bytes(&self, bytes: u64) {
        // What somebody else has corrected meanwhile must not go below nothing.
        let less = |there: u64| Some(there.saturating_sub(bytes));
        let _ = self
            .lanes_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Whether a lane's first segment would not be granted.
    pub fn is_full(&self) -> bool {
        let most = self.lanes_bytes_max.load(Ordering::Relaxed);
        let least = crate::writer::SEGMENT_BYTES_MIN as u64;
        most != 0
            && self
                .lanes_bytes
                .load(Ordering::Acquire)
                .saturating_add(least)
                > most
    }

    /// Device and inode of the board's file, to tell whether another one has taken its place.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Says that this process has joined another board instead, which gets the marks from now on.
    pub fn succeed(&self, by: &'static Board) {
        self.successor
            .store(core::ptr::from_ref(by).cast_mut(), Ordering::Release);
    }

    fn latest(&self) -> &Board {
        let mut latest = self;
        // SAFETY: boards are never unmapped.
        while let Some(next) = unsafe { latest.successor.load(Ordering::Acquire).as_ref() } {
            latest = next;
        }
        latest
    }

    /// Takes all marks: calls `each` with the hash of every path marked; true means "every file".
    pub fn take_gaps(&self, mut each: impl FnMut(u64)) -> bool {
        for slot in self.gap_slots {
            match slot.swap(0, Ordering::AcqRel) {
                0 => {}
                hash => each(hash),
            }
        }
        self.gap_everywhere.swap(0, Ordering::AcqRel) != 0
    }

    /// Notes that this inode is a captured file. When the table is full it stays unknown: links to the file are
    /// then found by its path only.
    pub fn add_inode(&self, device: u64, inode: u64) -> bool {
        let start = inode_hash(device, inode) % INODE_SLOTS;
        for probe in 0..PROBES_MAX {
            let slot = &self.inodes[(start + probe) % INODE_SLOTS];
            let there = slot.inode.load(Ordering::Acquire);
            if there == inode && slot.device.load(Ordering::Acquire) == device {
                return true;
            }
            if there == 0 {
                // One writer only, the replicator: device first, so that a reader who sees the inode sees both.
                slot.device.store(device, Ordering::Release);
                slot.inode.store(inode, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// Whether this inode was noted.
    pub fn has_inode(&self, device: u64, inode: u64) -> bool {
        let start = inode_hash(device, inode) % INODE_SLOTS;
        for probe in 0..PROBES_MAX {
            let slot = &self.inodes[(start + probe) % INODE_SLOTS];
            match slot.inode.load(Ordering::Acquire) {
                0 => return false,
                there if there == inode && slot.device.load(Ordering::Acquire) == device => {
                    return true;
                }
                _ => {}
            }
        }
        false
    }
}

/// The hash by which a gap names its path. Never 0.
pub fn path_hash(path: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in path {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash | 1
}

fn inode_hash(device: u64, inode: u64) -> usize {
    ((inode ^ device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

/// Joins the board in `directory`, which ends with a NUL byte, for ever: it stays mapped.
///
/// # Errors
/// There is none, this process may not, or it isn't of the layout this code knows.
pub fn join(directory: &[u8]) -> Result<&'static Board, BoardError> {
    let directory = sys::open(directory, libc::O_PATH | libc::O_DIRECTORY, 0);
    if directory < 0 {
        return Err(BoardError::Unreadable(-directory as i32));
    }
    let directory = directory as i32;
    let joined = join_in(directory);
    sys::close(directory);
    joined
}

/// As [`join`], without the reason.
pub fn attach(directory: &[u8]) -> Option<&'static Board> {
    join(directory).ok()
}

fn join_in(directory: i32) -> Result<&'static Board, BoardError> {
    let (is_ours, (said, said_totals, identity)) = match map(directory, b"board\0", true) {
        Err(BoardError::Unreadable(libc::EACCES)) => (false, map(directory, b"board\0", false)?),
        other => (true, other?),
    };
    // Where there are marks, everybody uses them: the replicator looks in one place.
    let (marks, marked_totals) = match map(directory, b"marks\0", true) {
        Ok((marks, totals, _)) => (marks, totals),
        Err(BoardError::Unreadable(libc::ENOENT)) if is_ours => (said, said_totals),
        Err(error) => return Err(error),
    };
    let memory = sys::map_private(size_of::<Board>()).cast::<Board>();
    if memory.is_null() {
        return Err(BoardError::Unreadable(libc::ENOMEM));
    }
    // SAFETY: a fresh page, aligned and large enough, that is never unmapped.
    unsafe {
        memory.write(Board {
            revision: &said.revision,
            lane_bytes_max: &said.lane_bytes_max,
            lanes_bytes_max: &said_totals.lanes_bytes_max,
            lanes_bytes: &marked_totals.lanes_bytes,
            rules: &said.rules,
            births: &marks.births,
            gaps: &marks.gaps,
            gap_everywhere: &marks.gap_everywhere,
            gap_slots: &marks.gap_slots,
            inodes: &said.inodes,
            identity,
            successor: AtomicPtr::new(core::ptr::null_mut()),
        });
        Ok(&*memory)
    }
}

/// One of the files, as it is mapped, and which file that is.
type Mapped = (&'static Layout, &'static Totals, (u64, u64));

/// Maps one of the files.
fn map(directory: i32, name: &[u8], writable: bool) -> Result<Mapped, BoardError> {
    let mode = if writable {
        libc::O_RDWR
    } else {
        libc::O_RDONLY
    };
    let fd = sys::open_at(directory, name, mode | libc::O_NOFOLLOW, 0);
    if fd < 0 {
        return Err(BoardError::Unreadable(-fd as i32));
    }
    let fd = fd as i32;
    let identity = sys::identity(fd);
    let bytes = match sys::file_size(fd) {
        size if size >= BYTES as i64 => BYTES,
        size if size >= BYTES_MIN as i64 => BYTES_MIN,
        _ => 0,
    };
    let address = if bytes > 0 {
        sys::map_shared(fd, bytes, writable)
    } else {
        core::ptr::null_mut()
    };
    sys::close(fd);
    if address.is_null() {
        return Err(BoardError::Damaged);
    }
    // SAFETY: the mapping is long enough, zero-initialised atomics and integers are valid for any bytes, and it is
    // never unmapped. Where it may not be written to, nobody does: see who uses which field.
    let layout = unsafe { &*address.cast::<Layout>() };
    if layout.magic != MAGIC {
        return Err(BoardError::Damaged);
    }
    if layout.version != VERSION {
        return Err(BoardError::Version(layout.version));
    }
    let totals = if bytes == BYTES {
        // SAFETY: as above; what follows the layout is aligned as it is.
        unsafe { &*address.add(BYTES_MIN).cast::<Totals>() }
    } else {
        &NO_TOTALS
    };
    Ok((layout, totals, identity.ok_or(BoardError::Damaged)?))
}

/// Makes the bytes of a new board's header; the rest of the file is zero.
pub fn initial_header(lane_bytes_max: u64) -> [u8; 24] {
    let mut header = [0; 24];
    header[..8].copy_from_slice(&MAGIC.to_le_bytes());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&lane_bytes_max.to_le_bytes());
    header
}
