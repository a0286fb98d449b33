//! A disk in memory that breaks on request, for tests.
//!
//! It keeps apart what was written and what was synced, for the bytes of files and for their names. [`FaultyStorage::crash`]
//! gives the disk as it may be after a power cut: every synced byte, and of the others what a [`Crash`] says.
//!
//! The model of a crash: of the changes of names since the last `sync_dir` a prefix survives, and
//! single ones of it may be missing. Of a file, what was synced survives; of what was appended since,
//! a prefix survives, in which whole pages may be zero (the length reached the disk, the page did
//! not). What was cut off since the last sync may come back, in the place of what was appended after
//! the cut. After a failed sync the bytes it was to save are
//! lost to later syncs too, which succeed all the same; so do Linux file systems.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Storage;

/// The size in which bytes get lost, in bytes.
pub const PAGE_BYTES: usize = 4096;
/// What a disk that isn't true to pages loses, in bytes; shorter than real ones, so that short files have several.
pub const SECTOR_BYTES: usize = 64;

/// What a power cut leaves of what was not synced.
#[derive(Clone, Debug, Default)]
pub struct Crash {
    /// How many of the changes of names since the last `sync_dir` survive.
    pub names_kept: usize,
    /// Which of those are missing all the same.
    pub names_lost: BTreeSet<usize>,
    /// How many of the bytes appended to each file since its last sync survive.
    pub tail_kept: usize,
    /// Which whole pages (counted from the beginning of the file) are zero as far as they were not synced.
    pub pages_lost: BTreeSet<usize>,
    /// The same for sectors.
    pub sectors_lost: BTreeSet<usize>,
    /// Whether what was cut off a file since its last sync comes back, instead of what was appended
    /// after the cut.
    pub cuts_lost: bool,
}

impl Crash {
    /// Nothing that was not synced survives.
    pub fn nothing_kept() -> Crash {
        Crash {
            cuts_lost: true,
            ..Crash::default()
        }
    }

    /// Everything survives, as if only the process had died.
    pub fn all_kept() -> Crash {
        Crash {
            names_kept: usize::MAX,
            tail_kept: usize::MAX,
            ..Crash::default()
        }
    }
}

/// A disk in memory that breaks on request.
#[derive(Debug, Default)]
pub struct FaultyStorage {
    disk: Mutex<Disk>,
}

#[derive(Debug, Default)]
struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    /// Since the last `sync_dir`.
    name_changes: Vec<NameChange>,
    calls: u64,
    power_fails_at: Option<u64>,
    capacity_bytes: Option<usize>,
    short_write: Option<usize>,
    sync_fails: bool,
    sync_dir_fails: bool,
    read_fails: bool,
    truncate_fails: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// The content at the last sync.
    synced: Vec<u8>,
    /// The shortest the file was since the last sync; up to here `bytes` and `synced` agree.
    stable: usize,
    /// The content before the last cut since the last sync.
    before_cut: Option<Vec<u8>>,
    /// A sync failed, and syncs save nothing any more.
    lost: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    /// From, to, and which file that was: where another one has the name, the change was of an entry that isn't there.
    Rename(String, String, usize),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to, file) => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                    names.insert(to.clone(), *file);
                }
            }
        }
    }
}

impl FaultyStorage {
    /// An empty disk that works.
    pub fn new() -> FaultyStorage {
        FaultyStorage::default()
    }

    /// The power fails after this many more calls that change something: every later call of any kind fails.
    pub fn fail_power_after(&self, calls: u64) {
        let mut disk = self.disk();
        disk.power_fails_at = Some(disk.calls + calls);
    }

    /// How many calls that change something there were.
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// All files together may have this many bytes, or any number. An append that needs more writes what fits and fails.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.disk().capacity_bytes = bytes;
    }

    /// How many bytes all files have together.
    pub fn used_bytes(&self) -> usize {
        self.disk().used_bytes()
    }

    /// The next append writes only this many bytes and fails.
    pub fn short_write(&self, bytes: usize) {
        self.disk().short_write = Some(bytes);
    }

    /// The next sync of a file fails.
    pub fn fail_sync(&self) {
        self.disk().sync_fails = true;
    }

    /// The next sync of the directory fails.
    pub fn fail_sync_dir(&self) {
        self.disk().sync_dir_fails = true;
    }

    /// The next read fails.
    pub fn fail_read(&self) {
        self.disk().read_fails = true;
    }

    /// The next truncation fails.
    pub fn fail_truncate(&self) {
        self.disk().truncate_fails = true;
    }

    /// Turns a bit of a file over, durably.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u8) {
        let mut disk = self.disk();
        if let Some(file) = disk.file(name).ok().map(|index| &mut disk.files[index]) {
            for bytes in [&mut file.bytes, &mut file.synced] {
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }

    /// The content of a file, as written.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names
            .get(name)
            .map(|&index| disk.files[index].bytes.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.disk();
        let index = disk.files.len();
        disk.files.push(File {
            bytes: bytes.to_vec(),
            synced: bytes.to_vec(),
            stable: bytes.len(),
            ..File::default()
        });
        disk.names.insert(name.to_owned(), index);
        disk.synced_names.insert(name.to_owned(), index);
    }

    /// How many changes of names a crash may lose.
    pub fn unsynced_names(&self) -> usize {
        self.disk().name_changes.len()
    }

    /// How many bytes, at most, a crash may lose of any one file.
    pub fn unsynced_bytes(&self) -> usize {
        let disk = self.disk();
        disk.files
            .iter()
            .map(File::unsynced_bytes)
            .max()
            .unwrap_or(0)
    }

    /// The names of files of which a crash may lose bytes.
    pub fn unsynced_files(&self) -> Vec<String> {
        let disk = self.disk();
        let files = disk.names.iter();
        files
            .filter(|(_, index)| disk.files[**index].unsynced_bytes() > 0)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The longest file, in bytes.
    pub fn longest(&self) -> usize {
        let disk = self.disk();
        disk.files
            .iter()
            .map(|file| file.bytes.len())
            .max()
            .unwrap_or(0)
    }

    /// The longest file, in pages.
    pub fn pages(&self) -> usize {
        let disk = self.disk();
        disk.files
            .iter()
            .map(|file| file.bytes.len().div_ceil(PAGE_BYTES))
            .max()
            .unwrap_or(0)
    }

    /// The disk as it may be after a power cut, without any faults to come.
    pub fn crash(&self, crash: &Crash) -> FaultyStorage {
        let disk = self.disk();
        let mut names = disk.synced_names.clone();
        for (index, change) in disk.name_changes.iter().enumerate().take(crash.names_kept) {
            if !crash.names_lost.contains(&index) {
                change.apply(&mut names);
            }
        }
        let after = FaultyStorage::new();
        for (name, index) in names {
            after.put(&name, &disk.files[index].after(crash));
        }
        after
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk for a call that changes something.
    fn change(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.look()?;
        disk.calls += 1;
        Ok(disk)
    }

    /// The disk for a call that changes nothing.
    fn look(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk();
        if disk.power_fails_at.is_some_and(|at| disk.calls >= at) {
            return Err(io::Error::other("the power is off"));
        }
        Ok(disk)
    }
}

impl File {
    fn unsynced_bytes(&self) -> usize {
        let before_cut = self.before_cut.as_ref().map_or(0, Vec::len);
        (self.bytes.len() - self.stable).max(before_cut.saturating_sub(self.synced.len()))
    }

    fn after(&self, crash: &Crash) -> Vec<u8> {
        let (bytes, stable) = match &self.before_cut {
            Some(before) if crash.cuts_lost => (before, self.synced.len().min(before.len())),
            _ => (&self.bytes, self.stable),
        };
        let kept = bytes.len().min(stable.saturating_add(crash.tail_kept));
        let mut after = bytes[..kept].to_vec();
        let pages = crash.pages_lost.iter().map(|&page| (page, PAGE_BYTES));
        let sectors = crash.sectors_lost.iter();
        for (number, len) in pages.chain(sectors.map(|&sector| (sector, SECTOR_BYTES))) {
            let start = (number * len).clamp(stable, kept);
            let end = ((number + 1) * len).clamp(stable, kept);
            after[start..end].fill(0);
        }
        after
    }
}

impl Disk {
    fn file(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn used_bytes(&self) -> usize {
        self.names
            .values()
            .map(|&index| self.files[index].bytes.len())
            .sum()
    }
}

impl Storage for FaultyStorage {
    fn create(&self, name: &str) -> io::Result<()> {
        let mut disk = self.change()?;
        let index = disk.files.len();
        disk.files.push(File::default());
        disk.rename(NameChange::Set(name.to_owned(), index));
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.change()?;
        let index = disk.file(name)?;
        if let Some(kept) = disk.short_write.take() {
            disk.files[index]
                .bytes
                .extend_from_slice(&bytes[..kept.min(bytes.len())]);
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        if let Some(capacity) = disk.capacity_bytes {
            let room = capacity.saturating_sub(disk.used_bytes());
            if room < bytes.len() {
                disk.files[index].bytes.extend_from_slice(&bytes[..room]);
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
        }
        disk.files[index].bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut disk = self.change()?;
        let index = disk.file(name)?;
        let fails = std::mem::take(&mut disk.sync_fails);
        let file = &mut disk.files[index];
        if fails {
            file.lost = true;
            return Err(io::Error::other("input/output error"));
        }
        if !file.lost {
            file.synced.clone_from(&file.bytes);
            file.stable = file.bytes.len();
            file.before_cut = None;
        }
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.change()?;
        if std::mem::take(&mut disk.sync_dir_fails) {
            return Err(io::Error::other("input/output error"));
        }
        disk.synced_names = disk.names.clone();
        disk.name_changes.clear();
        Ok(())
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.look()?;
        if std::mem::take(&mut disk.read_fails) {
            return Err(io::Error::other("input/output error"));
        }
        let bytes = &disk.files[disk.file(name)?].bytes;
        let offset = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let count = buffer.len().min(bytes.len() - offset);
        buffer[..count].copy_from_slice(&bytes[offset..offset + count]);
        Ok(count)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let disk = self.look()?;
        Ok(disk.files[disk.file(name)?].bytes.len() as u64)
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut disk = self.change()?;
        if std::mem::take(&mut disk.truncate_fails) {
            return Err(io::Error::other("input/output error"));
        }
        let index = disk.file(name)?;
        let file = &mut disk.files[index];
        file.before_cut = Some(file.bytes.clone());
        file.bytes
            .resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        file.stable = file.stable.min(file.bytes.len());
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.look()?.names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.change()?;
        disk.file(name)?;
        disk.rename(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.change()?;
        let file = disk.file(from)?;
        disk.rename(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        Ok(())
    }
}
