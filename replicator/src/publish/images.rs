//! Images: byte-exact copies of the captured files as of a journal position.
//!
//! The journal is the write-ahead log, the images are the data files. Operations carry absolute positions, so after a
//! crash the images are brought up again by repeating the journal from the last checkpoint, whatever of them had reached
//! the disk. A checkpoint is a catalogue, replaced atomically, that says which image stands for which path *as of its lsn*;
//! image files that it names are kept until the next one.

use super::digests::Digests;
use crate::state::boot;
use crate::words::{from_hex, hex};
use counterfoil_lane::sys;
use counterfoil_proto::Position;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blocks of an image are allocated this much at a time, before they are written through the mapping.
const CHUNK: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Bytes of an image that may be touched before its pages are given up as this process's (they stay in the page cache), so
/// that what counts as this process's memory doesn't grow with the files.
const RESIDENT_MAX: u64 = 16 << 20;
/// How much an image grows until it is noted how large it was when, and how often that is between checkpoints.
const GROWTH: u64 = 4 << 20;
const GROWTHS_MAX: usize = 512;
/// Address space mapped for a small image.
const MAPPED_MIN: u64 = 16 << 20;
const CATALOGUE: &str = "catalogue.json";
/// There while images may hold what the journal hasn't on disk yet; says in which boot of the host.
const AHEAD: &str = "ahead";
const VERSION: u32 = 1;

/// An image, mapped into memory.
pub struct Image {
    file: File,
    map: *mut u8,
    mapped: u64,
    /// Length of the image's file. Bytes from `size` to here are zero.
    physical: u64,
    size: u64,
    /// Chunks known to have blocks.
    allocated: Vec<u64>,
    /// Holes have to have blocks too: to read one takes a page, and where there is none that would be SIGBUS.
    is_dense: bool,
    dirty: bool,
    /// Bytes touched since pages were last given up.
    touched: Cell<u64>,
    /// Smallest sizes since lsns, ascending; the last entry is for the time being.
    smallest: Vec<(u64, u64)>,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Image {}

impl Image {
    fn open(path: &Path, fresh: bool, size: u64, smallest: u64) -> io::Result<Image> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            .truncate(fresh);
        let file = options.open(path)?;
        // What lies behind the size is of operations that will be repeated; it must read as zeros until then.
        file.set_len(size)?;
        let mut image = Image {
            is_dense: is_in_memory(&file)?,
            file,
            map: std::ptr::null_mut(),
            mapped: 0,
            physical: size,
            size,
            allocated: Vec::new(),
            dirty: false,
            touched: Cell::new(0),
            smallest: vec![(0, smallest)],
        };
        image.map_at_least(size)?;
        image.round_up()?;
        if image.is_dense {
            image.allocate(0, size)?;
        }
        Ok(image)
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The smallest size it had since the last checkpoint's cursor.
    pub fn smallest_size(&self) -> u64 {
        self.smallest
            .iter()
            .map(|&(_, size)| size)
            .min()
            .unwrap_or(0)
    }

    /// [`Image::smallest_size`] as of a later cursor; the time before `now` can be told apart from then on.
    fn smallest_since(&mut self, cursor: u64, now: u64) -> u64 {
        let over = self
            .smallest
            .iter()
            .skip(1)
            .take_while(|&&(since, _)| since <= cursor)
            .count();
        self.smallest.drain(..over);
        let smallest = self.smallest_size();
        self.smallest.push((now, self.size));
        smallest
    }

    /// Notes how large it is before the operation `next`, where it has grown by much: then what a file had before a cursor needn't be
    /// sent again by a start from there, however long before it was made.
    pub fn note_growth(&mut self, next: u64) {
        if let Some(&(_, size)) = self.smallest.last()
            && self.size >= size + GROWTH
            && self.smallest.len() < GROWTHS_MAX
        {
            self.smallest.push((next, self.size));
        }
    }

    /// Notes that this much of the content was, or will be, looked at.
    pub fn note_touched(&self, bytes: u64) {
        self.touched.set(self.touched.get() + bytes);
        if self.touched.get() > RESIDENT_MAX {
            self.touched.set(0);
            // SAFETY: a shared mapping of a file reads the same from the page cache afterwards.
            unsafe { sys::advise(self.map, self.mapped as usize, libc::MADV_DONTNEED) };
        }
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping holds at least `size` bytes of the file, and nobody else changes it.
        unsafe { std::slice::from_raw_parts(self.map, self.size as usize) }
    }

    /// Writes bytes; the image grows as a file would.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset + bytes.len() as u64;
        let from = match self.is_dense {
            true => offset.min(self.size),
            false => offset,
        };
        self.allocate(from, end)?;
        // SAFETY: allocate made sure that the range is mapped, lies in the file and has blocks.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.map.add(offset as usize),
                bytes.len(),
            );
        };
        self.size = self.size.max(end);
        self.dirty = true;
        // A page at least: scattered writes make whole pages resident.
        self.note_touched((bytes.len() as u64).max(PAGE));
        Ok(())
    }

    /// Sets the size; what is new is zero.
    pub fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.dirty = true;
        if let Some((_, smallest)) = self.smallest.last_mut() {
            *smallest = size.min(*smallest);
        }
        if size < self.size {
            self.file.set_len(size)?;
            self.physical = size;
            // The chunk the file now ends in no longer reaches as far as its blocks did.
            let chunk = (size / CHUNK) as usize;
            for (word, bits) in self.allocated.iter_mut().enumerate() {
                for bit in 0..64 {
                    if word * 64 + bit >= chunk {
                        *bits &= !(1 << bit);
                    }
                }
            }
            self.size = size;
            self.round_up()
        } else {
            if self.is_dense {
                self.allocate(self.size, size)?;
            }
            if size > self.physical {
                self.map_at_least(size)?;
                self.file.set_len(size.next_multiple_of(PAGE))?;
                self.physical = size.next_multiple_of(PAGE);
            }
            self.size = size;
            Ok(())
        }
    }

    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }

    /// The last page belongs to the file as a whole.
    fn round_up(&mut self) -> io::Result<()> {
        let whole = self.physical.next_multiple_of(PAGE);
        if whole != self.physical {
            self.file.set_len(whole)?;
            self.physical = whole;
        }
        Ok(())
    }

    fn map_at_least(&mut self, len: u64) -> io::Result<()> {
        if len <= self.mapped && !self.map.is_null() {
            return Ok(());
        }
        let wanted = len.saturating_mul(2).max(MAPPED_MIN).next_multiple_of(PAGE);
        let map = sys::map_shared(self.file.as_raw_fd(), wanted as usize, true);
        if map.is_null() {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("mapping {wanted} bytes failed"),
            ));
        }
        self.unmap();
        self.map = map;
        self.mapped = wanted;
        Ok(())
    }

    fn unmap(&mut self) {
        if !self.map.is_null() {
            // SAFETY: `bytes` borrows from self, so nobody uses the mapping.
            unsafe { sys::unmap(self.map, self.mapped as usize) };
            self.map = std::ptr::null_mut();
        }
    }

    /// Gives a range blocks, so that writing through the mapping can't fail for want of space (that would be SIGBUS).
    fn allocate(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.map_at_least(to)?;
        for chunk in from / CHUNK..to.div_ceil(CHUNK) {
            let (word, bit) = (chunk as usize / 64, chunk as usize % 64);
            if self
                .allocated
                .get(word)
                .is_some_and(|bits| bits >> bit & 1 == 1)
            {
                continue;
            }
            let start = chunk * CHUNK;
            rustix::fs::fallocate(
                &self.file,
                rustix::fs::FallocateFlags::empty(),
                start,
                CHUNK,
            )
            .or_else(|error| match error {
                rustix::io::Errno::OPNOTSUPP => {
                    write_zeros(&self.file, self.physical.max(start), start + CHUNK)
                }
                other => Err(other.into()),
            })?;
            if start >= self.physical {
                // A first touch of a page through the mapping costs far more than writing zeros does.
                write_zeros(&self.file, start, start + CHUNK)?;
            }
            self.physical = self.physical.max(start + CHUNK);
            if self.allocated.len() <= word {
                self.allocated.resize(word + 1, 0);
            }
            self.allocated[word] |= 1 << bit;
        }
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// Whether a file has its blocks in memory, and takes one for a hole that is read.
fn is_in_memory(file: &File) -> io::Result<bool> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    Ok(rustix::fs::fstatfs(file)?.f_type == TMPFS_MAGIC)
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

/// What went wrong with the images.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The disk refuses.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The catalogue isn't one, or not of a known version.
    #[error("{}: {reason}; move the images directory away to have every file read again", path.display())]
    Catalogue {
        /// The catalogue.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checksums of static files can't be kept or read.
    #[error("{doing} {}: {source}", path.display())]
    Digests {
        /// What was being done.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// Why it failed.
        source: rusqlite::Error,
    },
}

impl ImagesError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImagesError {
        move |source| ImagesError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the same may succeed later (disk full).
    pub fn is_retryable(&self) -> bool {
        match self {
            ImagesError::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::Interrupted
            ),
            ImagesError::Digests { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::DatabaseBusy)
            ),
            ImagesError::Catalogue { .. } => false,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// First lsn whose operation may be missing in the images.
    cursor: u64,
    /// What each sink had of each stream: epoch, lsn, index.
    #[serde(default)]
    applied: BTreeMap<String, BTreeMap<String, (u64, u64, u32)>>,
    /// Not all files have been read again since sinks were found to need it.
    #[serde(default)]
    refilling: bool,
    /// Units of work that were open before the cursor, of which the journal tells no more.
    #[serde(default)]
    units: Vec<StoredUnit>,
    files: Vec<StoredFile>,
}

/// A unit of work that was open at an lsn, and not a new one then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredUnit {
    /// Number of its group.
    pub group: u16,
    /// Number of the process.
    pub process: u64,
    /// Its id.
    pub pid: u32,
    /// Its program.
    pub program: String,
    /// Wall clock of the unit's first operation.
    pub began_ns: i64,
    /// How often it was cut.
    pub cuts: u64,
    /// It is as below just before this lsn.
    pub lsn: u64,
    /// How many units the process had marked the beginning of, and not the end.
    pub depth: u32,
    /// Locks it held: path of the file in hexadecimal, and ranges.
    pub locks: Vec<(String, Vec<(u64, u64)>)>,
}

#[derive(Serialize, Deserialize)]
struct StoredFile {
    /// Hexadecimal: a path is bytes.
    path: String,
    number: u64,
    size: u64,
    /// Smallest size since the cursor: bytes behind it may be of operations that have to be repeated.
    smallest: u64,
}

/// All images, and which path each stands for.
pub struct Images {
    directory: PathBuf,
    next_number: u64,
    cursor: u64,
    /// Which image a path has as of `cursor`.
    base: BTreeMap<Arc<[u8]>, u64>,
    /// What changed since, by lsn.
    changes: Vec<(u64, Arc<[u8]>, Option<u64>)>,
    /// Sizes of images, and smallest sizes since the cursor, as of the last checkpoint.
    sizes: BTreeMap<u64, (u64, u64)>,
    applied: AppliedPositions,
    refilling: bool,
    units: Vec<StoredUnit>,
    /// Whether it is noted that images may hold what the journal hasn't on disk.
    ahead: bool,
    /// What is known of files of trees, which have no images.
    pub(super) digests: Digests,
}

/// What each sink has of each stream.
pub type AppliedPositions = BTreeMap<String, BTreeMap<String, Position>>;

impl Images {
    /// Reads the catalogue; without one there are no images.
    pub fn open(directory: &Path) -> Result<Images, ImagesError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(ImagesError::io("making", directory))?;
        let path = directory.join(CATALOGUE);
        if !path.exists() {
            // Nothing says which sinks have what these are of.
            Digests::wipe(directory)?;
        }
        let mut images = Images {
            digests: Digests::open(directory)?,
            directory: directory.to_owned(),
            next_number: 1,
            cursor: 0,
            base: BTreeMap::new(),
            changes: Vec::new(),
            sizes: BTreeMap::new(),
            applied: AppliedPositions::new(),
            refilling: false,
            units: Vec::new(),
            ahead: std::fs::read_to_string(directory.join(AHEAD)).is_ok_and(|at| at == boot()),
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(images),
            Err(error) => return Err(ImagesError::io("reading", &path)(error)),
        };
        let wrong = |reason: String| ImagesError::Catalogue {
            path: path.clone(),
            reason,
        };
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if stored.version != VERSION {
            return Err(wrong(format!(
                "it has version {}, this counterfoil knows {VERSION}",
                stored.version
            )));
        }
        for file in stored.files {
            let name =
                from_hex(&file.path).ok_or_else(|| wrong(format!("{:?} is no path", file.path)))?;
            images.base.insert(name.into(), file.number);
            images.sizes.insert(file.number, (file.size, file.smallest));
            images.next_number = images.next_number.max(file.number.saturating_add(1));
        }
        images.cursor = stored.cursor;
        images.refilling = stored.refilling;
        images.units = stored.units;
        for (sink, streams) in stored.applied {
            let positions = streams.into_iter().map(|(stream, (epoch, lsn, index))| {
                let position = Position { epoch, lsn, index };
                (stream, position)
            });
            images.applied.insert(sink, positions.collect());
        }
        Ok(images)
    }

    /// What a sink had of a stream at the last checkpoint: with that, it has every event before the cursor.
    pub fn applied(&self, sink: &str, stream: &str) -> Option<Position> {
        self.applied.get(sink)?.get(stream).copied()
    }

    /// Notes what sinks have, for the next checkpoint. It must be no less than every event before that one's cursor.
    pub fn set_applied(&mut self, applied: AppliedPositions) {
        self.applied = applied;
    }

    /// Notes on disk that images may get what the journal hasn't there yet: the system writes both as it likes, so if the host
    /// stops now, an image may have a change that the journal has lost and no sink ever got.
    pub fn go_ahead(&mut self) -> Result<(), ImagesError> {
        if !self.ahead {
            let path = self.directory.join(AHEAD);
            replace(&path, boot().as_bytes()).map_err(ImagesError::io("writing", &path))?;
            self.ahead = true;
        }
        Ok(())
    }

    /// Whether that is noted.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Notes that the journal has on disk whatever is in the images.
    pub fn settle(&mut self) {
        settle(&self.directory);
        self.ahead = false;
    }

    /// Whether the host stopped while images may have held what the journal hadn't on disk.
    pub fn are_in_doubt(&self) -> bool {
        std::fs::read_to_string(self.directory.join(AHEAD)).is_ok_and(|noted| noted != boot())
    }

    /// Whether sinks need every file to be read again, and that is not through.
    pub fn is_refilling(&self) -> bool {
        self.refilling
    }

    /// Notes whether that is so, for the next checkpoint.
    pub fn set_refilling(&mut self, refilling: bool) {
        self.refilling = refilling;
    }

    /// Units that were open at the last checkpoint, and of which the journal from its cursor on doesn't tell all.
    pub fn units(&self) -> &[StoredUnit] {
        &self.units
    }

    /// Notes such units, for the next checkpoint.
    pub fn set_units(&mut self, units: Vec<StoredUnit>) {
        self.units = units;
    }

    /// First lsn whose operation may be missing; 0 when there never was a checkpoint.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// First lsn that nothing is known of: no less than the cursor.
    pub fn reach(&self) -> u64 {
        self.cursor.max(self.digests.cursor())
    }

    /// Paths that have an image, or digests, as of the cursor.
    pub fn paths(&self) -> Result<HashSet<Arc<[u8]>>, ImagesError> {
        let mut paths: HashSet<Arc<[u8]>> = self.base.keys().cloned().collect();
        paths.extend(self.digests.paths()?);
        Ok(paths)
    }

    /// Whether a path has an image as of the cursor.
    pub(super) fn has_at_cursor(&self, path: &[u8]) -> bool {
        self.base.contains_key(path)
    }

    /// Whether a path has an image.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        let mut changes = self.changes.iter().rev();
        match changes.find(|(_, changed, _)| **changed == *path) {
            Some((_, _, number)) => number.is_some(),
            None => self.base.contains_key(path),
        }
    }

    /// Opens the image a path has, by the catalogue and what was assigned since.
    pub fn existing(&self, path: &[u8]) -> Result<Option<(u64, Image)>, ImagesError> {
        let assigned = self
            .changes
            .iter()
            .rev()
            .find(|(_, changed, _)| **changed == *path);
        let number = match assigned {
            Some((_, _, number)) => *number,
            None => self.base.get(path).copied(),
        };
        let Some(number) = number else {
            return Ok(None);
        };
        let (size, smallest) = self.sizes.get(&number).copied().unwrap_or((0, 0));
        let file = self.file(number);
        let image = Image::open(&file, false, size, smallest)
            .map_err(ImagesError::io("opening the image", &file))?;
        Ok(Some((number, image)))
    }

    /// Makes an empty image for a path, as of an lsn.
    pub fn create(&mut self, path: &Arc<[u8]>, lsn: u64) -> Result<(u64, Image), ImagesError> {
        let number = self.next_number;
        let file = self.file(number);
        let image =
            Image::open(&file, true, 0, 0).map_err(ImagesError::io("making the image", &file))?;
        self.next_number += 1;
        self.changes.push((lsn, Arc::clone(path), Some(number)));
        Ok((number, image))
    }

    /// As of an lsn the path has this image, or none.
    pub fn assign(&mut self, path: &Arc<[u8]>, number: Option<u64>, lsn: u64) {
        self.changes.push((lsn, Arc::clone(path), number));
    }

    /// Makes `open` images durable and the state as of `cursor` the one to start from. `now` is the first lsn that the
    /// images don't have.
    pub fn checkpoint<'i>(
        &mut self,
        cursor: u64,
        now: u64,
        open: impl Iterator<Item = (u64, &'i mut Image)>,
    ) -> Result<(), ImagesError> {
        for (number, image) in open {
            let file = self.file(number);
            image
                .sync()
                .map_err(ImagesError::io("synchronising the image", &file))?;
            let smallest = image.smallest_since(cursor, now);
            self.sizes.insert(number, (image.size(), smallest));
        }
        let due = self.changes.partition_point(|(lsn, ..)| *lsn < cursor);
        for (_, path, number) in self.changes.drain(..due) {
            match number {
                Some(number) => self.base.insert(path, number),
                None => self.base.remove(&path),
            };
        }
        // Before the catalogue: digests may be ahead of it, as sinks have what both have.
        self.digests.checkpoint(cursor)?;
        self.cursor = cursor;
        let files = self
            .base
            .iter()
            .map(|(path, &number)| {
                let (size, smallest) = self.sizes.get(&number).copied().unwrap_or((0, 0));
                StoredFile {
                    path: hex(path),
                    number,
                    size,
                    smallest,
                }
            })
            .collect();
        let stored = Stored {
            version: VERSION,
            cursor,
            applied: self
                .applied
                .iter()
                .map(|(sink, streams)| {
                    let positions = streams
                        .iter()
                        .map(|(stream, at)| (stream.clone(), (at.epoch, at.lsn, at.index)));
                    (sink.clone(), positions.collect())
                })
                .collect(),
            refilling: self.refilling,
            units: self.units.clone(),
            files,
        };
        let path = self.directory.join(CATALOGUE);
        replace(&path, &serde_json::to_vec(&stored).unwrap_or_default())
            .map_err(ImagesError::io("writing the catalogue", &path))?;
        self.sweep();
        Ok(())
    }

    /// Removes image files that neither the catalogue nor a later change needs.
    fn sweep(&mut self) {
        let needed: HashSet<u64> = self
            .base
            .values()
            .copied()
            .chain(self.changes.iter().filter_map(|(_, _, number)| *number))
            .collect();
        let unneeded: Vec<u64> = self
            .sizes
            .keys()
            .copied()
            .filter(|number| !needed.contains(number))
            .collect();
        for number in unneeded {
            // An open one vanishes with its last user; one that can't be removed is only space.
            let _ = std::fs::remove_file(self.file(number));
            self.sizes.remove(&number);
        }
    }

    /// Removes all images and the catalogue.
    pub fn wipe(directory: &Path) -> Result<(), ImagesError> {
        // The catalogue first: images and digests without one are nothing.
        for name in [CATALOGUE.to_owned(), AHEAD.to_owned()]
            .into_iter()
            .chain(image_files(directory))
        {
            let path = directory.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ImagesError::io("removing", &path)(error));
                }
                _ => {}
            }
        }
        Digests::wipe(directory)
    }

    fn file(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number}.image"))
    }
}

/// Notes, of an images directory that nobody uses, that the journal has on disk whatever is in the images. Should that be
/// lost, files are read again without need.
pub(crate) fn settle(directory: &Path) {
    let _ = std::fs::remove_file(directory.join(AHEAD));
}

fn image_files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".image"))
        .collect()
}

/// Writes a file so that after a crash either the old or the new content is there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = prop_oneof![0..10_000u64, (CHUNK - 50)..(CHUNK + 50), 0..3 * CHUNK];
        prop_oneof![
            4 => (offset.clone(), proptest::collection::vec(any::<u8>(), 0..5000)).prop_map(|(at, bytes)| Step::Write(at, bytes)),
            2 => offset.prop_map(Step::Truncate),
            1 => Just(Step::Reopen),
        ]
    }

    /// Reading a hole takes a page there: on a full one that would be SIGBUS.
    #[test]
    fn a_file_system_in_memory_gets_no_holes() {
        use std::os::unix::fs::MetadataExt as _;
        let size = 3 * CHUNK + 5;
        for parent in [std::env::temp_dir(), "/dev/shm".into()] {
            let directory = tempfile::tempdir_in(&parent).expect("a directory");
            let path = directory.path().join("image");
            let mut image = Image::open(&path, true, 0, 0).expect("an image");
            image.write(10, b"x").expect("writing");
            image.truncate(size).expect("growing");
            image.write(2 * size, b"y").expect("writing behind the end");
            image.truncate(2 * size).expect("cutting");
            let there = image.file.metadata().expect("looking");
            let is_dense = there.blocks() * 512 >= 2 * size;
            assert_eq!(is_dense, image.is_dense, "{}", parent.display());
            let bytes = image.bytes();
            assert_eq!((bytes.len() as u64, bytes[10]), (2 * size, b'x'));
            assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 1);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn an_image_is_what_a_file_would_be(steps in proptest::collection::vec(step(), 1..30)) {
            let directory = tempfile::tempdir().unwrap();
            let path: Arc<[u8]> = Arc::from(&b"/f"[..]);
            let mut images = Images::open(directory.path()).unwrap();
            let (mut number, mut image) = images.create(&path, 1).unwrap();
            let mut model: Vec<u8> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(at, bytes) => {
                        image.write(at, &bytes).unwrap();
                        let end = at as usize + bytes.len();
                        if !bytes.is_empty() && model.len() < end {
                            model.resize(end, 0);
                        }
                        if !bytes.is_empty() {
                            model[at as usize..end].copy_from_slice(&bytes);
                        }
                    }
                    Step::Truncate(size) => {
                        image.truncate(size).unwrap();
                        model.resize(size as usize, 0);
                    }
                    Step::Reopen => {
                        images.checkpoint(5, 9, std::iter::once((number, &mut image))).unwrap();
                        drop(image);
                        images = Images::open(directory.path()).unwrap();
                        (number, image) = images.existing(&path).unwrap().unwrap();
                    }
                }
                prop_assert!(image.bytes() == model.as_slice());
            }
        }
    }

    #[test]
    fn the_catalogue_keeps_what_sinks_had() {
        let directory = tempfile::tempdir().unwrap();
        let mut images = Images::open(directory.path()).unwrap();
        let position = Position {
            epoch: 2,
            lsn: 3,
            index: 4,
        };
        let streams = BTreeMap::from([("hq/payments".to_owned(), position)]);
        images.set_applied(BTreeMap::from([("here".to_owned(), streams)]));
        images.set_refilling(true);
        images.checkpoint(9, 9, std::iter::empty()).unwrap();

        let images = Images::open(directory.path()).unwrap();
        assert_eq!(images.cursor(), 9);
        assert!(images.is_refilling());
        assert_eq!(images.applied("here", "hq/payments"), Some(position));
        assert_eq!(images.applied("there", "hq/payments"), None);
    }

    #[test]
    fn the_catalogue_is_as_of_its_cursor() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b): (Arc<[u8]>, Arc<[u8]>) = (Arc::from(&b"/a"[..]), Arc::from(&b"/b\xff"[..]));
        let mut images = Images::open(directory.path()).unwrap();
        let (number, mut image) = images.create(&a, 3).unwrap();
        image.write(0, b"x").unwrap();
        // Renamed at 10, while the checkpoint is as of 7.
        images.assign(&a, None, 10);
        images.assign(&b, Some(number), 10);
        images
            .checkpoint(7, 11, std::iter::once((number, &mut image)))
            .unwrap();
        let again = Images::open(directory.path()).unwrap();
        assert_eq!(again.paths().unwrap(), HashSet::from([Arc::clone(&a)]));
        assert_eq!(again.existing(&a).unwrap().unwrap().1.bytes(), b"x");
        images
            .checkpoint(11, 11, std::iter::once((number, &mut image)))
            .unwrap();
        assert_eq!(
            Images::open(directory.path()).unwrap().paths().unwrap(),
            HashSet::from([b])
        );
    }
}
