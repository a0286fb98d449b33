//! The only door to the disk.
//!
//! A storage is one directory of files with plain names. Everything the journal does to a disk goes through it, so that
//! tests can put a disk behind it that breaks (`faulty`).

mod disk;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;

use std::io;

pub use disk::DiskStorage;

/// The ending of files that [`Storage::write_atomic`] has not finished. Recovery removes what it finds of them.
pub(crate) const TEMPORARY: &str = ".tmp";

/// One directory of files, as the journal needs it.
///
/// *Written* bytes are seen by every later read; they survive the end of the process, not a power cut. *Synced* bytes
/// survive both. The same goes for names: a created, renamed or removed name is durable after [`Storage::sync_dir`].
/// Names have no directory part. All methods may be called from several threads; only one of them writes.
pub trait Storage: Send + Sync {
    /// Creates an empty file, or empties the one there is by putting a new one in its place.
    fn create(&self, name: &str) -> io::Result<()>;

    /// Writes `bytes` at the end of a file. After an error any prefix of them may have been written.
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes a file's bytes and length durable. After an error it is unknown which of the bytes since the last sync are,
    /// and a later success proves nothing about them.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Makes all creations, renames and removals so far durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Reads at most `buffer.len()` bytes from `offset` on, and says how many; 0 only at or after the end.
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// A file's length in bytes.
    fn len(&self, name: &str) -> io::Result<u64>;

    /// Cuts a file off at `len` bytes.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;

    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing the file that had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes `bytes` the durable content of a file: after a crash at any point it has its old content or the new one.
    ///
    /// After an error it may have either, and the call may be repeated.
    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}{TEMPORARY}");
        let written = (|| {
            self.create(&temporary)?;
            self.append(&temporary, bytes)?;
            self.sync(&temporary)?;
            self.rename(&temporary, name)
        })();
        if let Err(error) = written {
            // It may hold the space the next attempt needs. If this fails too, recovery removes it.
            let _ = self.remove(&temporary);
            return Err(error);
        }
        self.sync_dir()
    }
}
