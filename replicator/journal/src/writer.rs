//! The one that appends.
//!
//! A batch is encoded into one buffer and written with one call. If that fails, what it left is cut off again before
//! anything else is written, so there is never an entry that the caller was told had failed.

use std::ops::Range;
use std::sync::Arc;

use crate::cursor::Cursors;
use crate::error::Doing;
use crate::mark::Mark;
use crate::progress::Progress;
use crate::reader::JournalReader;
use crate::recovery::{CLOSED, Recovered, Recovery, Segment, Verify, recover};
use crate::segment::{
    BATCH_BYTES_MAX, FRAME_BYTES, HEADER_BYTES, PAYLOAD_BYTES_MAX, SegmentHeader, encode_frame,
    file_name, salt,
};
use crate::storage::Storage;
use crate::{Error, Lsn, Result};

/// What of the batch buffer is kept from one batch to the next.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// How many segments are kept even if every reader has passed them: the one being written, and the one before it, so
/// that there is always something to look at.
pub const SEGMENTS_KEPT: usize = 2;

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// A segment that has reached this many bytes is followed by another. A batch never spans segments, so one may be
    /// longer by a batch.
    pub segment_bytes: u64,
    /// How much opening reads.
    pub verify: Verify,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            verify: Verify::Tail,
        }
    }
}

/// The size and ends of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The length of all segments, in bytes.
    pub bytes: u64,
    /// How many segments there are.
    pub segments: usize,
    /// The epoch of the last one; 0 if there is none.
    pub epoch: u64,
    /// The first entry there is; equal to `next_lsn` if there is none.
    pub first_lsn: Lsn,
    /// The lsn the next entry will have.
    pub next_lsn: Lsn,
    /// All entries before this one survive a power cut.
    pub durable_end: Lsn,
}

/// What [`Journal::release`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// How many segments.
    pub segments: usize,
    /// How many bytes they had.
    pub bytes: u64,
}

/// The durable, ordered log: the side that appends. See the crate's documentation.
pub struct Journal {
    storage: Arc<dyn Storage>,
    options: Options,
    progress: Arc<Progress>,
    cursors: Cursors,
    /// Oldest first; the last one is written to.
    segments: Vec<Segment>,
    /// The last segment's file name and what its checksums begin with.
    tail_name: String,
    tail_seed: u32,
    next_lsn: Lsn,
    durable_end: Lsn,
    buffer: Vec<u8>,
    /// The journal is new or was not closed, and no epoch has begun since.
    needs_epoch: bool,
    /// A failed append may have left bytes behind the last entry.
    tail_dirty: bool,
    /// A failed attempt to begin a segment may have left one: nothing may go into the one before it any more.
    must_roll: bool,
    /// The segment whose sync failed.
    poisoned: Option<String>,
}

impl Journal {
    /// Opens the journal in `storage`, an empty directory being a new journal. Mends what a crash left and says so.
    ///
    /// Unless it was closed cleanly, [`Journal::begin_epoch`] must come before the first append. To begin
    /// `recovery.last_epoch + 1` at every start is always right.
    ///
    /// # Errors
    /// Damage, a missing segment, a newer format version, a damaged cursor: nothing is changed then. Or the storage
    /// refuses.
    pub fn open(storage: Arc<dyn Storage>, options: Options) -> Result<(Journal, Recovery)> {
        let Recovered {
            segments,
            cursors: marks,
            recovery,
        } = recover(&*storage, options.verify)?;
        let progress = Arc::new(Progress::new(recovery.next_lsn, recovery.last_epoch));
        let cursors = Cursors::new(Arc::clone(&storage), Arc::clone(&progress), marks);
        let journal = Journal {
            storage,
            options,
            progress,
            cursors,
            tail_name: segments.last().map_or_else(String::new, Segment::name),
            tail_seed: segments.last().map_or(0, |segment| segment.header.seed()),
            segments,
            next_lsn: recovery.next_lsn,
            durable_end: recovery.next_lsn,
            buffer: Vec::new(),
            needs_epoch: !recovery.clean,
            tail_dirty: false,
            must_roll: false,
            poisoned: None,
        };
        Ok((journal, recovery))
    }

    /// Begins an epoch: a new segment, durable when this returns, as is everything before it.
    ///
    /// # Errors
    /// `epoch` is not greater than the last one; a sync failed, now or before; the storage refuses (may be repeated).
    pub fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        let current = self.epoch();
        if epoch <= current {
            return Err(Error::EpochNotGrowing {
                current,
                asked: epoch,
            });
        }
        self.check_sound()?;
        self.roll(epoch)?;
        self.needs_epoch = false;
        Ok(())
    }

    /// Appends the entries that `fill` pushes, all or none of them, with one write. They are written when this returns,
    /// not durable. Returns their lsns; none if nothing was pushed.
    ///
    /// # Errors
    /// Those of `fill`, and then nothing is appended. No epoch has begun. The storage refuses: then nothing was
    /// appended, and the same call may succeed later ([`Error::is_retryable`]). A sync failed, now or before: then the
    /// journal must be opened again.
    pub fn append_batch(
        &mut self,
        fill: impl FnOnce(&mut Batch<'_>) -> Result<()>,
    ) -> Result<Range<Lsn>> {
        self.check_sound()?;
        if self.needs_epoch {
            return Err(Error::EpochNeeded { last: self.epoch() });
        }
        self.clean_tail()?;
        let tail_bytes = self.segments.last().map_or(0, |segment| segment.bytes);
        if self.must_roll
            || (tail_bytes >= self.options.segment_bytes && tail_bytes > HEADER_BYTES as u64)
        {
            self.roll(self.epoch())?;
        }
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        let mut batch = Batch {
            buffer: &mut self.buffer,
            seed: self.tail_seed,
            next_lsn: self.next_lsn,
            durable_end: self.durable_end,
        };
        fill(&mut batch)?;
        let lsns = self.next_lsn..batch.next_lsn;
        if lsns.is_empty() {
            return Ok(lsns);
        }
        if let Err(cause) = self.storage.append(&self.tail_name, &self.buffer) {
            self.tail_dirty = true;
            // At once if possible, so that nobody looks at it. If it fails, the next append begins with it; the caller
            // needs to know of the failed write either way.
            let _ = self.clean_tail();
            return Err(Error::Io {
                action: "append to",
                name: self.tail_name.clone(),
                cause,
            });
        }
        if let Some(tail) = self.segments.last_mut() {
            tail.bytes += self.buffer.len() as u64;
        }
        self.next_lsn = lsns.end;
        self.progress.set_written_end(lsns.end);
        Ok(lsns)
    }

    /// Appends payloads as one batch; see [`Journal::append_batch`].
    ///
    /// # Errors
    /// As [`Journal::append_batch`].
    pub fn append<P: AsRef<[u8]>>(
        &mut self,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Range<Lsn>> {
        self.append_batch(|batch| {
            for payload in payloads {
                batch.push(payload.as_ref())?;
            }
            Ok(())
        })
    }

    /// Makes everything that was appended durable. Returns the durable end: all entries before it survive a power cut.
    /// Costs nothing if there is nothing new.
    ///
    /// # Errors
    /// The sync failed, now or before: then the journal must be opened again. What a failed append left cannot be cut
    /// off: then this may be repeated.
    pub fn sync(&mut self) -> Result<Lsn> {
        self.check_sound()?;
        // Otherwise the bytes of an append that failed would become durable with the rest.
        self.clean_tail()?;
        if self.durable_end < self.next_lsn {
            self.sync_tail()?;
        }
        Ok(self.durable_end)
    }

    /// Reads from `from_lsn` on, up to what is written at any time, while this journal goes on.
    ///
    /// # Errors
    /// `from_lsn` was released, or is past the end.
    pub fn reader(&self, from_lsn: Lsn) -> Result<JournalReader> {
        if from_lsn > self.next_lsn {
            return Err(Error::BeyondEnd {
                lsn: from_lsn,
                next_lsn: self.next_lsn,
            });
        }
        if from_lsn < self.first_lsn() {
            return Err(Error::Released {
                lsn: from_lsn,
                first_lsn: self.first_lsn(),
            });
        }
        Ok(JournalReader::following(
            Arc::clone(&self.storage),
            Arc::clone(&self.progress),
            from_lsn,
        ))
    }

    /// The readers' durable cursors.
    pub fn cursors(&self) -> Cursors {
        self.cursors.clone()
    }

    /// How far the journal has come, for other threads.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Deletes the segments that every cursor has passed, oldest first, but never the last two. Without any cursor
    /// nothing is deleted.
    ///
    /// # Errors
    /// The storage refuses; what was deleted before that stays deleted.
    pub fn release(&mut self) -> Result<Released> {
        let mut released = Released::default();
        let Some(passed) = self.cursors.min() else {
            return Ok(released);
        };
        while self.segments.len() > SEGMENTS_KEPT && self.segments[1].header.first_lsn <= passed {
            let name = self.segments[0].name();
            self.storage.remove(&name).doing("remove", &name)?;
            let segment = self.segments.remove(0);
            released.segments += 1;
            released.bytes += segment.bytes;
            // One by one: a crash must not bring back an older segment without the ones between it and the rest.
            self.storage.sync_dir().doing("sync", "the directory")?;
        }
        Ok(released)
    }

    /// The journal's epoch; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.segments
            .last()
            .map_or(0, |segment| segment.header.epoch)
    }

    /// The first entry there is; equal to [`Journal::next_lsn`] if there is none.
    pub fn first_lsn(&self) -> Lsn {
        self.segments
            .first()
            .map_or(1, |segment| segment.header.first_lsn)
    }

    /// The lsn the next entry will have.
    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// All entries before this one survive a power cut.
    pub fn durable_end(&self) -> Lsn {
        self.durable_end
    }

    /// The size and ends of the journal.
    pub fn stats(&self) -> Stats {
        Stats {
            bytes: self.segments.iter().map(|segment| segment.bytes).sum(),
            segments: self.segments.len(),
            epoch: self.epoch(),
            first_lsn: self.first_lsn(),
            next_lsn: self.next_lsn,
            durable_end: self.durable_end,
        }
    }

    /// Makes everything durable and leaves a mark that nothing was lost, so that the next opening may go on in the same
    /// epoch. Returns the durable end. A journal that is only dropped counts as not closed.
    ///
    /// # Errors
    /// A sync failed, now or before, or the storage refuses; the journal then counts as not closed.
    pub fn close(mut self) -> Result<Lsn> {
        let end = self.sync()?;
        // Not if this journal never began an epoch of its own, nor if the segment of an epoch that could
        // not be begun may be there: the end before, or this one, was not clean then.
        if !self.needs_epoch && !self.must_roll {
            Mark {
                epoch: self.epoch(),
                lsn: end,
            }
            .write(&*self.storage, CLOSED)?;
        }
        Ok(end)
    }

    fn check_sound(&self) -> Result<()> {
        match &self.poisoned {
            Some(name) => Err(Error::Poisoned { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Syncs the last segment. Whatever fails here ends the journal: the system may have dropped the unsaved pages and
    /// call the next sync a success.
    fn sync_tail(&mut self) -> Result<()> {
        if let Err(cause) = self.storage.sync(&self.tail_name) {
            self.poisoned = Some(self.tail_name.clone());
            return Err(Error::SyncFailed {
                name: self.tail_name.clone(),
                cause,
            });
        }
        self.durable_end = self.next_lsn;
        self.progress.set_durable_end(self.durable_end);
        Ok(())
    }

    /// Cuts off what a failed append left. Synced, since otherwise a crash could bring parts of it back behind entries
    /// that came later.
    fn clean_tail(&mut self) -> Result<()> {
        if self.tail_dirty {
            let bytes = self.segments.last().map_or(0, |segment| segment.bytes);
            self.storage
                .truncate(&self.tail_name, bytes)
                .doing("cut off a failed write to", &self.tail_name)?;
            self.sync_tail()?;
            self.tail_dirty = false;
        }
        Ok(())
    }

    /// Begins a segment. The one before it is durable as a whole first, so that only the last can have a torn tail.
    fn roll(&mut self, epoch: u64) -> Result<()> {
        self.clean_tail()?;
        if self.durable_end < self.next_lsn {
            self.sync_tail()?;
        }
        let replaced = self
            .segments
            .last()
            .filter(|last| last.header.first_lsn == self.next_lsn);
        let (previous_first_lsn, previous_bytes) = match (replaced, self.segments.last()) {
            // The last segment has no entry; the new one has the same name and takes its place.
            (Some(empty), _) => (empty.header.previous_first_lsn, empty.header.previous_bytes),
            (None, Some(last)) => (last.header.first_lsn, last.bytes),
            (None, None) => (0, 0),
        };
        let replaces = replaced.is_some();
        let header = SegmentHeader {
            epoch,
            first_lsn: self.next_lsn,
            previous_first_lsn,
            previous_bytes,
            salt: salt(),
        };
        let name = file_name(self.next_lsn);
        self.must_roll = true;
        self.storage
            .write_atomic(&name, &header.encode())
            .doing("begin segment", &name)?;
        self.must_roll = false;
        if replaces {
            self.segments.pop();
        }
        self.segments.push(Segment {
            header,
            bytes: HEADER_BYTES as u64,
        });
        self.tail_name = name;
        self.tail_seed = header.seed();
        self.progress.set_epoch(epoch);
        Ok(())
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Journal")
            .field("stats", &self.stats())
            .field("poisoned", &self.poisoned)
            .finish()
    }
}

/// The entries of one append; see [`Journal::append_batch`].
#[derive(Debug)]
pub struct Batch<'journal> {
    buffer: &'journal mut Vec<u8>,
    seed: u32,
    next_lsn: Lsn,
    durable_end: Lsn,
}

impl Batch<'_> {
    /// Adds an entry. The lsn is its own if the append succeeds.
    ///
    /// # Errors
    /// The payload or the batch is too long. The batch is as it was before.
    pub fn push(&mut self, payload: &[u8]) -> Result<Lsn> {
        self.push_parts(&[payload])
    }

    /// Adds an entry whose payload is the concatenation of `parts`.
    ///
    /// # Errors
    /// The payload or the batch is too long. The batch is as it was before.
    pub fn push_parts(&mut self, parts: &[&[u8]]) -> Result<Lsn> {
        let bytes = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(Error::PayloadTooLarge {
                bytes,
                limit: PAYLOAD_BYTES_MAX,
            });
        }
        if self.buffer.len() + FRAME_BYTES + bytes > BATCH_BYTES_MAX {
            return Err(Error::BatchTooLarge {
                limit: BATCH_BYTES_MAX,
            });
        }
        let lsn = self.next_lsn;
        encode_frame(self.buffer, self.seed, lsn, self.durable_end, parts);
        self.next_lsn += 1;
        Ok(lsn)
    }

    /// How long the batch is, in bytes, frame headers included.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The lsn the next entry would have.
    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }
}
