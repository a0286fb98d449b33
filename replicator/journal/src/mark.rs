//! A position in a small file of its own: a reader's cursor, or where the journal was closed.
//!
//! Written as a whole, atomically, so a crash leaves the old mark or the new one. Anything else is damage.

use std::io;

use crate::error::Doing;
use crate::segment::{FORMAT_VERSION, u32_at, u64_at};
use crate::storage::Storage;
use crate::{Error, Lsn, Result};

const MAGIC: [u8; 8] = *b"cfjmark\n";
const MARK_BYTES: usize = 36;

/// A position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The journal's epoch when the mark was made.
    pub(crate) epoch: u64,
    pub(crate) lsn: Lsn,
}

impl Mark {
    pub(crate) fn write(self, storage: &dyn Storage, name: &str) -> Result<()> {
        let mut bytes = [0; MARK_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.lsn.to_le_bytes());
        let crc = crc(&bytes, name);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        storage.write_atomic(name, &bytes).doing("write", name)
    }

    /// `None` if there is no such file.
    pub(crate) fn read(storage: &dyn Storage, name: &str) -> Result<Option<Mark>> {
        // One byte more than there should be, to notice if there is.
        let mut bytes = [0; MARK_BYTES + 1];
        let mut filled = 0;
        while filled < bytes.len() {
            match storage.read_at(name, filled as u64, &mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).doing("read", name),
            }
        }
        let damaged = |reason: &str| Error::DamagedCursor {
            name: name.to_owned(),
            reason: reason.to_owned(),
        };
        if filled < 12 || bytes[0..8] != MAGIC {
            return Err(damaged("it does not begin like one"));
        }
        let version = u32_at(&bytes, 8);
        if version > FORMAT_VERSION {
            return Err(Error::NewerVersion {
                name: name.to_owned(),
                found: version,
                known: FORMAT_VERSION,
            });
        }
        if filled != MARK_BYTES {
            return Err(damaged("its length is wrong"));
        }
        if u32_at(&bytes, 32) != crc(&bytes, name) {
            return Err(damaged("its checksum does not match"));
        }
        Ok(Some(Mark {
            epoch: u64_at(&bytes, 16),
            lsn: u64_at(&bytes, 24),
        }))
    }
}

/// Covers the file's name too, so a copied or renamed mark is noticed.
fn crc(bytes: &[u8], name: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..32]);
    hasher.update(name.as_bytes());
    hasher.finalize()
}
