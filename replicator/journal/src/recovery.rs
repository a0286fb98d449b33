//! What opening a journal finds, mends and refuses.
//!
//! - The headers and lengths of all segments are checked against each other; [`Verify::All`] reads every frame too.
//! - The last segment is read to its end. If it ends in anything but a sound frame, that is a *torn tail*: what a power
//!   cut leaves of bytes that were never synced. It is cut off. But if a later frame, or the mark of a clean close, proves
//!   that the missing entry had been durable, it is damage: refused, nothing changed.
//! - After an unclean end the last segment is copied and the copy, synced, takes its place. A process that died of a
//!   failed sync leaves bytes that can be read and that a new sync calls saved, though no disk has them; a copy in a new
//!   file does not depend on them.

use tracing::warn;

use crate::cursor::Cursors;
use crate::error::{Doing, full};
use crate::mark::Mark;
use crate::scan::{Scanner, Step, list_segments, read_full, read_header};
use crate::segment::{SegmentHeader, file_name};
use crate::storage::{Storage, TEMPORARY};
use crate::{Error, Lsn, Result};

/// The mark that a cleanly closed journal leaves: its last epoch and the lsn its next entry will have.
pub(crate) const CLOSED: &str = "closed.mark";

/// How much opening reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Every segment's header and length, and the frames of the last segment. The others are checked when they are read.
    #[default]
    Tail,
    /// Every frame of every segment.
    All,
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The first entry there is; equal to `next_lsn` if there is none.
    pub first_lsn: Lsn,
    /// The lsn the next entry will have.
    pub next_lsn: Lsn,
    /// The epoch of the last segment; 0 if the journal is new.
    pub last_epoch: u64,
    /// How many segments there are.
    pub segments: usize,
    /// Whether the journal was closed with [`Journal::close`](crate::Journal::close). If not, entries that were written
    /// but not durable may be gone even without a torn tail, and new ones need a new epoch. A new journal is not clean.
    pub clean: bool,
    /// What was cut off the end.
    pub torn_tail: Option<TornTail>,
    /// Readers that had acted on entries which are gone. Their cursors now stand where the gone entries would begin.
    pub cursors_ahead: Vec<CursorAhead>,
}

/// Bytes that were written but not synced when the power went, and were cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file name.
    pub segment: String,
    /// Its length now.
    pub offset: u64,
    /// How many bytes there were behind that.
    pub bytes: u64,
    /// What was wrong with them.
    pub reason: String,
}

/// A reader that knows entries the journal has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorAhead {
    /// The cursor's name.
    pub name: String,
    /// The epoch it was set in.
    pub epoch: u64,
    /// Where it stood: its reader had passed all entries of that epoch before this.
    pub lsn: Lsn,
    /// Where it stands now: the entries from here on, as that reader knew them, are gone.
    pub now: Lsn,
}

/// A segment as the writer keeps it in mind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) bytes: u64,
}

impl Segment {
    pub(crate) fn name(&self) -> String {
        file_name(self.header.first_lsn)
    }
}

/// A journal that may go on.
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Segment>,
    pub(crate) cursors: Vec<(String, Mark)>,
    pub(crate) recovery: Recovery,
}

/// Opens what is in `storage`, and mends its end.
pub(crate) fn recover(storage: &dyn Storage, verify: Verify) -> Result<Recovered> {
    // Looks first and changes last: whatever is refused is left as it was.
    let mut segments = chain(storage)?;
    if verify == Verify::All {
        for pair in segments.windows(2) {
            check_complete(storage, &pair[0], &pair[1])?;
        }
    }
    let closed = match Mark::read(storage, CLOSED) {
        // The mark is a promise that can be done without; a newer version's is not for us to judge.
        Err(Error::DamagedCursor { reason, .. }) => {
            warn!(
                file = CLOSED,
                reason, "ignoring the mark of a clean close; treating the journal as not closed"
            );
            None
        }
        mark => mark?,
    };
    let mut cursors = Cursors::read_all(storage)?;

    let mut recovery = Recovery {
        first_lsn: segments
            .first()
            .map_or(1, |segment| segment.header.first_lsn),
        next_lsn: 1,
        last_epoch: segments.last().map_or(0, |segment| segment.header.epoch),
        segments: segments.len(),
        clean: false,
        torn_tail: None,
        cursors_ahead: Vec::new(),
    };
    let mut sound_bytes = 0;
    if let Some(last) = segments.last() {
        let tail = read_tail(storage, last)?;
        recovery.next_lsn = tail.next_lsn;
        sound_bytes = tail.sound_bytes;
        recovery.torn_tail = tail.torn;
    }
    let damaged_end = |reason| Error::Damaged {
        segment: segments.last().map_or_else(|| file_name(1), Segment::name),
        offset: sound_bytes,
        reason,
    };
    if let Some(closed) = closed.filter(|closed| closed.epoch == recovery.last_epoch) {
        if closed.lsn > recovery.next_lsn {
            return Err(damaged_end(format!(
                "the journal was closed at lsn {} and ends before {} here{}",
                closed.lsn,
                recovery.next_lsn,
                recovery
                    .torn_tail
                    .as_ref()
                    .map_or(String::new(), |torn| format!(" ({})", torn.reason)),
            )));
        }
        recovery.clean = closed.lsn == recovery.next_lsn && recovery.torn_tail.is_none();
    }
    let closing = closed.iter().map(|mark| (CLOSED, mark));
    for (name, mark) in closing.chain(cursors.iter().map(|(name, mark)| (name.as_str(), mark))) {
        // An epoch is durable before anything can be said in it.
        if mark.epoch > recovery.last_epoch {
            return Err(damaged_end(format!(
                "{name} was set in epoch {}, and the last segment there is has epoch {}: later segments are missing",
                mark.epoch, recovery.last_epoch
            )));
        }
    }
    for (name, mark) in &mut cursors {
        let end = epoch_end(&segments, mark.epoch, recovery.next_lsn);
        if mark.lsn > end {
            let ahead = CursorAhead {
                name: name.clone(),
                epoch: mark.epoch,
                lsn: mark.lsn,
                now: end,
            };
            recovery.cursors_ahead.push(ahead);
            // Not on disk: until the reader sets its cursor again, every opening reports it again.
            mark.lsn = end;
        }
    }

    remove_leftovers(storage)?;
    if let Some(last) = segments.last_mut() {
        if !recovery.clean {
            renew(storage, &last.name(), sound_bytes)?;
        }
        last.bytes = sound_bytes;
    }
    if closed.is_some() {
        // Before the first append, and durably: the mark must never be believed about a journal that went on.
        storage.remove(CLOSED).doing("remove", CLOSED)?;
        storage.sync_dir().doing("sync", "the directory")?;
    }
    Ok(Recovered {
        segments,
        cursors,
        recovery,
    })
}

/// Reads all headers, and checks that each segment follows the one before it.
fn chain(storage: &dyn Storage) -> Result<Vec<Segment>> {
    let mut segments: Vec<Segment> = Vec::new();
    for first_lsn in list_segments(storage)? {
        let name = file_name(first_lsn);
        let header = read_header(storage, &name)?.ok_or_else(|| Error::Damaged {
            segment: name.clone(),
            offset: 0,
            reason: "the file went away while the journal was being opened".to_owned(),
        })?;
        let bytes = storage.len(&name).doing("measure", &name)?;
        if let Some(before) = segments.last() {
            if header.previous_first_lsn != before.header.first_lsn {
                return Err(Error::MissingSegment {
                    segment: name,
                    expected: file_name(header.previous_first_lsn),
                    found: before.name(),
                });
            }
            if header.previous_bytes != before.bytes {
                return Err(Error::Damaged {
                    segment: before.name(),
                    offset: before.bytes.min(header.previous_bytes),
                    reason: format!(
                        "it has {} bytes, and {name} says that it was complete with {}",
                        before.bytes, header.previous_bytes
                    ),
                });
            }
            if header.epoch < before.header.epoch {
                return Err(Error::Damaged {
                    segment: name,
                    offset: 16,
                    reason: format!(
                        "epoch {} follows epoch {}",
                        header.epoch, before.header.epoch
                    ),
                });
            }
        }
        segments.push(Segment { header, bytes });
    }
    Ok(segments)
}

/// Reads a segment that is not the last.
fn check_complete(storage: &dyn Storage, segment: &Segment, next: &Segment) -> Result<()> {
    let mut scanner = open(storage, segment)?;
    loop {
        match scanner.step(storage)? {
            Step::Frame { .. } => {}
            Step::End if scanner.next_lsn() == next.header.first_lsn => return Ok(()),
            Step::End => {
                let reason = format!(
                    "it ends before lsn {}, and the next segment begins with {}",
                    scanner.next_lsn(),
                    next.header.first_lsn
                );
                return Err(scanner.damaged(reason));
            }
            Step::Broken { reason } => return Err(scanner.damaged(reason)),
        }
    }
}

struct Tail {
    next_lsn: Lsn,
    sound_bytes: u64,
    torn: Option<TornTail>,
}

/// Reads the last segment, and decides whether what is wrong with its end may be cut off.
fn read_tail(storage: &dyn Storage, last: &Segment) -> Result<Tail> {
    let mut scanner = open(storage, last)?;
    let reason = loop {
        match scanner.step(storage)? {
            Step::Frame { .. } => {}
            Step::End => break None,
            Step::Broken { reason } => break Some(reason),
        }
    };
    let mut torn = None;
    if let Some(reason) = reason {
        if let Some(witness) = scanner.find_witness(storage)? {
            return Err(scanner.damaged(format!(
                "{reason}, and lsn {} was durable before the frame at offset {witness} was written",
                scanner.next_lsn()
            )));
        }
        torn = Some(TornTail {
            segment: scanner.name().to_owned(),
            offset: scanner.offset(),
            bytes: last.bytes.saturating_sub(scanner.offset()),
            reason: reason.to_owned(),
        });
    }
    Ok(Tail {
        next_lsn: scanner.next_lsn(),
        sound_bytes: scanner.offset(),
        torn,
    })
}

fn open(storage: &dyn Storage, segment: &Segment) -> Result<Scanner> {
    Scanner::open(storage, segment.header.first_lsn)?.ok_or_else(|| Error::Damaged {
        segment: segment.name(),
        offset: 0,
        reason: "the file went away while the journal was being opened".to_owned(),
    })
}

/// The first lsn after the entries of `epoch` and those before it.
fn epoch_end(segments: &[Segment], epoch: u64, next_lsn: Lsn) -> Lsn {
    segments
        .iter()
        .find(|segment| segment.header.epoch > epoch)
        .map_or(next_lsn, |segment| segment.header.first_lsn)
}

/// Removes what a crash in [`Storage::write_atomic`] or [`renew`] left.
fn remove_leftovers(storage: &dyn Storage) -> Result<()> {
    for name in storage.list().doing("list", "the directory")? {
        if name.ends_with(TEMPORARY) {
            storage.remove(&name).doing("remove", &name)?;
        }
    }
    Ok(())
}

/// Puts a synced copy of the first `bytes` bytes of a segment in its place.
fn renew(storage: &dyn Storage, name: &str, bytes: u64) -> Result<()> {
    let temporary = format!("{name}{TEMPORARY}");
    match copy(storage, name, &temporary, bytes) {
        Ok(()) => {}
        Err(Error::Io { cause, .. }) if full(&cause) => {
            // Perhaps full because of the journal itself: it must come up to be read and released.
            warn!(
                segment = name,
                "no space to copy the journal's last segment; cutting it off in place"
            );
            storage.remove(&temporary).doing("remove", &temporary)?;
            storage
                .truncate(name, bytes)
                .doing("cut off the torn tail of", name)?;
            return storage.sync(name).doing("sync", name);
        }
        Err(error) => return Err(error),
    }
    storage
        .rename(&temporary, name)
        .doing("rename the copy of", name)?;
    storage.sync_dir().doing("sync", "the directory")
}

fn copy(storage: &dyn Storage, name: &str, temporary: &str, bytes: u64) -> Result<()> {
    storage.create(temporary).doing("create", temporary)?;
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    while offset < bytes {
        let wanted = usize::try_from(bytes - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = read_full(storage, name, offset, &mut buffer[..wanted])?;
        if count < wanted {
            return Err(Error::Damaged {
                segment: name.to_owned(),
                offset: offset + count as u64,
                reason: "the file became shorter while the journal was being opened".to_owned(),
            });
        }
        storage
            .append(temporary, &buffer[..wanted])
            .doing("append to", temporary)?;
        offset += wanted as u64;
    }
    storage.sync(temporary).doing("sync", temporary)
}
