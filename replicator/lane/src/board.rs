//! The board: one small shared file through which programs and the replicator tell each other what changed.
//!
//! It has a fixed size and its blocks are allocated when it is made, so programs can always write to it: it is
//! where a gap is marked when there is no lane to write to.

use crate::{VERSION, sys};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// First bytes of the board.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CFOBOARD");
/// Name of the board's file in the lanes directory.
pub const FILE_NAME: &str = "board";

const GAP_SLOTS: usize = 1024;
const INODE_SLOTS: usize = 1 << 16;
const PROBES_MAX: usize = 32;

/// The board, as it is mapped.
#[repr(C)]
pub struct Board {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::VERSION`].
    pub version: u32,
    /// [`crate::REVISION`] of the replicator that uses it, or used it last.
    pub revision: AtomicU32,
    /// Most bytes of segments that one lane may have.
    pub lane_bytes_max: AtomicU64,
    /// Grows when a new rules file has been put in place: `rules-<this number>`.
    pub rules: AtomicU64,
    /// Grows when a program made a segment file.
    pub births: AtomicU64,
    /// Grows when a program marked a gap.
    pub gaps: AtomicU64,
    /// Set when there was no room to say which file the gap is in: all are to be read again.
    pub gap_everywhere: AtomicU32,
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

/// Bytes of the board's file.
pub const BYTES: usize = size_of::<Board>();

impl Board {
    /// Marks that changes of the file at `path` were not captured.
    pub fn mark_gap(&self, path: &[u8]) {
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

    /// Takes all marks: calls `each` with the hash of every path marked; true means "every file".
    pub fn take_gaps(&self, mut each: impl FnMut(u64)) -> bool {
        for slot in &self.gap_slots {
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

/// Maps an existing board, read and write, for ever. `path` ends with a NUL byte. `None` when there is none, it is
/// shorter than it should be, or of a version this code doesn't know.
pub fn attach(path: &[u8]) -> Option<&'static Board> {
    let fd = sys::open(path, libc::O_RDWR | libc::O_NOFOLLOW, 0);
    if fd < 0 {
        return None;
    }
    let fd = fd as i32;
    let address = if sys::file_size(fd) >= BYTES as i64 {
        sys::map_shared(fd, BYTES, true)
    } else {
        core::ptr::null_mut()
    };
    sys::close(fd);
    if address.is_null() {
        return None;
    }
    // SAFETY: the mapping is long enough, zero-initialised atomics and integers are valid for any bytes, and it is
    // never unmapped.
    let board = unsafe { &*address.cast::<Board>() };
    (board.magic == MAGIC && board.version == VERSION).then_some(board)
}

/// Makes the bytes of a new board's header; the rest of the file is zero.
pub fn initial_header(lane_bytes_max: u64) -> [u8; 24] {
    let mut header = [0; 24];
    header[..8].copy_from_slice(&MAGIC.to_le_bytes());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&lane_bytes_max.to_le_bytes());
    header
}
