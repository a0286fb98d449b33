//! Reading entries in order, while the writer goes on.

use std::sync::Arc;
use std::time::Duration;

use crate::progress::Progress;
use crate::scan::{Scanner, Step, list_segments};
use crate::segment::file_name;
use crate::storage::Storage;
use crate::{Error, Lsn, Result};

/// An entry of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'reader> {
    /// Its place.
    pub lsn: Lsn,
    /// The epoch it was appended in.
    pub epoch: u64,
    /// What was appended; part of the reader's buffer.
    pub payload: &'reader [u8],
}

/// Reads entries in order; one that has come to the end goes on when there are more.
///
/// A reader of the writer's process ([`Journal::reader`](crate::Journal::reader)) sees exactly what is written. One of
/// another process ([`JournalReader::open`]) only has the files to go by: it takes a last frame that is not complete for
/// the end, and may see entries of a batch whose write then fails, and which never come to be. It is for looking, not
/// for acting on.
pub struct JournalReader {
    storage: Arc<dyn Storage>,
    progress: Option<Arc<Progress>>,
    /// What was written when the scanner's buffer was filled. Bytes behind it may be of a write that failed since.
    trusted_end: Lsn,
    scanner: Option<Scanner>,
    next_lsn: Lsn,
}

impl JournalReader {
    /// Reads a journal that another process may be writing, from `from_lsn` on (1 is the first there can be). If there is
    /// no such entry yet, it waits for it like any reader at the end.
    ///
    /// # Errors
    /// `from_lsn` was released; the storage refuses.
    pub fn open(storage: Arc<dyn Storage>, from_lsn: Lsn) -> Result<JournalReader> {
        let from_lsn = from_lsn.max(1);
        if let Some(&first_lsn) = list_segments(&*storage)?.first()
            && from_lsn < first_lsn
        {
            return Err(Error::Released {
                lsn: from_lsn,
                first_lsn,
            });
        }
        Ok(Self::new(storage, None, from_lsn))
    }

    /// Reads along with the writer.
    pub(crate) fn following(
        storage: Arc<dyn Storage>,
        progress: Arc<Progress>,
        from_lsn: Lsn,
    ) -> JournalReader {
        Self::new(storage, Some(progress), from_lsn.max(1))
    }

    fn new(
        storage: Arc<dyn Storage>,
        progress: Option<Arc<Progress>>,
        next_lsn: Lsn,
    ) -> JournalReader {
        let trusted_end = if progress.is_some() { 0 } else { Lsn::MAX };
        JournalReader {
            storage,
            progress,
            trusted_end,
            scanner: None,
            next_lsn,
        }
    }

    /// The lsn of the entry that [`JournalReader::next`] returns next.
    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Whether all entries before the next one survive a power cut. Without a writer in this process nobody knows.
    pub fn is_durable(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_some_and(|progress| progress.durable_end() >= self.next_lsn)
    }

    /// Waits until there is a next entry, for at most `limit`; says whether there is. Without a writer in this process
    /// it says yes at once: only [`JournalReader::next`] can tell.
    pub fn wait(&self, limit: Duration) -> bool {
        self.progress
            .as_ref()
            .is_none_or(|progress| progress.wait_for(self.next_lsn, limit))
    }

    /// The next entry, or `None` at the present end.
    ///
    /// # Errors
    /// Damage, or the entry was released in the meantime; the storage refuses. The reader stays where it is.
    #[allow(clippy::should_implement_trait)] // An entry borrows from the reader, which an iterator's item cannot.
    pub fn next(&mut self) -> Result<Option<Entry<'_>>> {
        let Some((lsn, payload)) = self.advance()? else {
            return Ok(None);
        };
        let Some(scanner) = &self.scanner else {
            return Ok(None);
        };
        Ok(Some(Entry {
            lsn,
            epoch: scanner.header().epoch,
            payload: scanner.payload(payload),
        }))
    }

    fn advance(&mut self) -> Result<Option<(Lsn, std::ops::Range<usize>)>> {
        loop {
            if self.next_lsn >= self.trusted_end && !self.extend_trust() {
                return Ok(None);
            }
            let Some(scanner) = &mut self.scanner else {
                if !self.locate()? {
                    return Ok(None);
                }
                continue;
            };
            match scanner.step(&*self.storage)? {
                Step::Frame { payload } => {
                    let lsn = scanner.next_lsn() - 1;
                    if lsn < self.next_lsn {
                        continue;
                    }
                    self.next_lsn = lsn + 1;
                    return Ok(Some((lsn, payload)));
                }
                Step::End => {
                    if !self.enter_next_segment()? {
                        return Ok(None);
                    }
                }
                Step::Broken { reason } => return self.judge(reason).map(|()| None),
            }
        }
    }

    /// Looks how far the writer has come since; false if there is nothing new.
    fn extend_trust(&mut self) -> bool {
        let Some(progress) = &self.progress else {
            return true;
        };
        let end = progress.written_end();
        if self.next_lsn >= end {
            return false;
        }
        self.trusted_end = end;
        if let Some(scanner) = &mut self.scanner {
            scanner.discard();
        }
        true
    }

    /// Opens the segment that has the next entry, or will have it; false if there is none yet.
    fn locate(&mut self) -> Result<bool> {
        // Twice, since segments may be released between being listed and being opened.
        for _ in 0..2 {
            let segments = list_segments(&*self.storage)?;
            let following = segments.partition_point(|&first_lsn| first_lsn <= self.next_lsn);
            if following == 0 {
                return match (segments.first(), &self.progress) {
                    (Some(&first_lsn), _) => Err(Error::Released {
                        lsn: self.next_lsn,
                        first_lsn,
                    }),
                    (None, None) => Ok(false),
                    (None, Some(_)) => Err(Error::Damaged {
                        segment: file_name(self.next_lsn),
                        offset: 0,
                        reason: "the journal's files are gone".to_owned(),
                    }),
                };
            }
            self.scanner = Scanner::open(&*self.storage, segments[following - 1])?;
            if self.scanner.is_some() {
                return Ok(true);
            }
        }
        Err(Error::Released {
            lsn: self.next_lsn,
            first_lsn: self.next_lsn.saturating_add(1),
        })
    }

    /// At the end of a segment's file: goes on to the next segment; false if there is none yet.
    fn enter_next_segment(&mut self) -> Result<bool> {
        let Some(scanner) = &mut self.scanner else {
            return Ok(false);
        };
        let follower = scanner.next_lsn();
        let has_frames = follower > scanner.header().first_lsn;
        if has_frames && let Some(next) = Scanner::open(&*self.storage, follower)? {
            let old = std::mem::replace(scanner, next);
            scanner.reuse(old);
            return Ok(true);
        }
        if self.progress.is_some() {
            let reason = format!("it ends before lsn {follower}, which was written");
            return Err(scanner.damaged(reason));
        }
        scanner.discard();
        if !has_frames {
            // A segment without entries may be replaced by one of a later epoch, which has the same name.
            self.scanner = None;
        }
        Ok(false)
    }

    /// At something that is not a sound frame: an error if it should have been one, otherwise the end for now.
    fn judge(&mut self, reason: &'static str) -> Result<()> {
        let Some(scanner) = &mut self.scanner else {
            return Ok(());
        };
        scanner.discard();
        if self.progress.is_some() {
            return Err(scanner.damaged(reason));
        }
        let later = list_segments(&*self.storage)?
            .last()
            .is_some_and(|&last| last > scanner.header().first_lsn);
        if later {
            // The writer may have completed the frame and gone on to another segment between the two looks.
            return match scanner.step(&*self.storage)? {
                Step::Broken { reason } => Err(scanner.damaged(reason)),
                _ => {
                    self.scanner = None;
                    Ok(())
                }
            };
        }
        match scanner.find_witness(&*self.storage)? {
            Some(_) if matches!(scanner.step(&*self.storage)?, Step::Broken { .. }) => {
                Err(scanner.damaged(reason))
            }
            Some(_) => {
                self.scanner = None;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for JournalReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("JournalReader")
            .field("next_lsn", &self.next_lsn)
            .finish_non_exhaustive()
    }
}
