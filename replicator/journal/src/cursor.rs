//! How far each reader has come, durably.
//!
//! A cursor is a name and an lsn: its reader has passed everything before that lsn. It also keeps the epoch it was set
//! in: a reader may have acted on entries that were written but not durable, and if a power cut takes them, the same lsn
//! in a later epoch is another entry. Recovery sees that and winds the cursor back.
//!
//! Setting a cursor costs two syncs: set it every so often, not for every entry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Doing;
use crate::mark::Mark;
use crate::progress::Progress;
use crate::storage::Storage;
use crate::{Error, Lsn, Result};

const SUFFIX: &str = ".cursor";
const NAME_BYTES_MAX: usize = 64;

/// The durable cursors of a journal's readers; see [`Journal::cursors`](crate::Journal::cursors). Clones share them.
#[derive(Clone)]
pub struct Cursors {
    storage: Arc<dyn Storage>,
    progress: Arc<Progress>,
    marks: Arc<Mutex<BTreeMap<String, Mark>>>,
}

impl Cursors {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        progress: Arc<Progress>,
        marks: Vec<(String, Mark)>,
    ) -> Cursors {
        Cursors {
            storage,
            progress,
            marks: Arc::new(Mutex::new(marks.into_iter().collect())),
        }
    }

    /// Reads all cursor files.
    pub(crate) fn read_all(storage: &dyn Storage) -> Result<Vec<(String, Mark)>> {
        let mut marks = Vec::new();
        for file in storage.list().doing("list", "the directory")? {
            let Some(name) = file
                .strip_suffix(SUFFIX)
                .filter(|name| check_name(name).is_ok())
            else {
                continue;
            };
            if let Some(mark) = Mark::read(storage, &file)? {
                marks.push((name.to_owned(), mark));
            }
        }
        marks.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        Ok(marks)
    }

    /// Where a cursor stands: the first entry its reader has not passed. `None` if it was never set.
    pub fn get(&self, name: &str) -> Option<Lsn> {
        self.lock().get(name).map(|mark| mark.lsn)
    }

    /// All cursors, by name.
    pub fn all(&self) -> Vec<(String, Lsn)> {
        self.lock()
            .iter()
            .map(|(name, mark)| (name.clone(), mark.lsn))
            .collect()
    }

    /// Says, durably, that the reader `name` has passed everything before `lsn`. A cursor may go back, as far as there
    /// still are entries.
    ///
    /// A reader whose effects outlive a power cut should pass only what is durable; see
    /// [`Progress::durable_end`](crate::Progress::durable_end).
    ///
    /// # Errors
    /// The name is not 1 to 64 of `a-z 0-9 - _`; `lsn` is past the written end; the storage refuses (then the cursor
    /// stands where it stood, here; on disk it may be either).
    pub fn set(&self, name: &str, lsn: Lsn) -> Result<()> {
        check_name(name)?;
        let next_lsn = self.progress.written_end();
        if lsn > next_lsn {
            return Err(Error::BeyondEnd { lsn, next_lsn });
        }
        let mut marks = self.lock();
        let mark = Mark {
            epoch: self.progress.epoch(),
            lsn,
        };
        if marks.get(name) != Some(&mark) {
            mark.write(&*self.storage, &format!("{name}{SUFFIX}"))?;
            marks.insert(name.to_owned(), mark);
        }
        Ok(())
    }

    /// Forgets a cursor, so that its reader no longer holds entries back.
    ///
    /// # Errors
    /// The storage refuses.
    pub fn remove(&self, name: &str) -> Result<()> {
        let mut marks = self.lock();
        if marks.contains_key(name) {
            let file = format!("{name}{SUFFIX}");
            self.storage.remove(&file).doing("remove", &file)?;
            self.storage.sync_dir().doing("sync", "the directory")?;
            marks.remove(name);
        }
        Ok(())
    }

    /// What every reader has passed; `None` without any cursor.
    pub(crate) fn min(&self) -> Option<Lsn> {
        self.lock().values().map(|mark| mark.lsn).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Cursors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_map().entries(self.all()).finish()
    }
}

fn check_name(name: &str) -> Result<()> {
    let fine = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fine) {
        return Err(Error::CursorName {
            name: name.to_owned(),
        });
    }
    Ok(())
}
