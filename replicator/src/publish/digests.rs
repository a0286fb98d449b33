//! Digests: what is known of the files of trees, as of a journal position.
//!
//! Of a static file no image is kept, only what it is and a checksum of each block: enough to tell what differs. They are in
//! a SQLite database beside the images, which holds them exactly *as of its cursor*: what later operations changed is in
//! memory until a checkpoint's cursor has passed them. So operations before the cursor need not be repeated, and those
//! after it give the same events again.

use super::images::ImagesError;
use crate::capture::operation::{Attributes, FileKind};
use counterfoil_records::STATIC_BLOCK_BYTES;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "static.db";
const VERSION: i64 = 1;
const TABLES: &str = "
CREATE TABLE entries (
    path        BLOB PRIMARY KEY NOT NULL,
    kind        INTEGER,
    mode        INTEGER,
    uid         INTEGER,
    gid         INTEGER,
    modified_ns INTEGER,
    size        INTEGER NOT NULL,
    digests     BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE cursor (lsn INTEGER NOT NULL);
INSERT INTO cursor VALUES (0);
PRAGMA user_version = 1;
";

/// What is known of an entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it is; `None` while sinks don't have all of its content.
    pub attributes: Option<Attributes>,
    /// Size in bytes.
    pub size: u64,
    /// Checksum of each block.
    pub digests: Vec<u128>,
}

/// A change: its lsn, the path, and what is known then.
type Change = (u64, Arc<[u8]>, Option<Arc<Known>>);

/// What is known of paths, and since which lsn.
type Latest = HashMap<Arc<[u8]>, (u64, Option<Arc<Known>>)>;

/// Everything that is known of entries.
pub struct Digests {
    path: PathBuf,
    /// `None` until there is something to keep.
    database: Option<Connection>,
    /// First lsn whose operation may be missing in the database.
    cursor: u64,
    /// What changed since, by lsn.
    changes: Vec<Change>,
    /// The last change of each path.
    latest: Latest,
}

impl Digests {
    /// Opens what there is in a directory.
    pub(super) fn open(directory: &Path) -> Result<Digests, ImagesError> {
        let mut digests = Digests {
            path: directory.join(FILE),
            database: None,
            cursor: 0,
            changes: Vec::new(),
            latest: HashMap::new(),
        };
        if digests.path.exists() {
            let database = digests.connect()?;
            let cursor: i64 = database
                .query_row("SELECT lsn FROM cursor", [], |row| row.get(0))
                .map_err(digests.failed("reading"))?;
            digests.cursor = cursor.cast_unsigned();
            digests.database = Some(database);
        }
        Ok(digests)
    }

    /// Removes everything.
    pub(super) fn wipe(directory: &Path) -> Result<(), ImagesError> {
        for suffix in ["-wal", "-shm", ""] {
            let path = directory.join(format!("{FILE}{suffix}"));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ImagesError::Io {
                        doing: "removing",
                        path,
                        source: error,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> ImagesError {
        let path = self.path.clone();
        move |source| ImagesError::Digests {
            doing,
            path,
            source,
        }
    }

    fn connect(&self) -> Result<Connection, ImagesError> {
        // For its owner only; SQLite gives the files beside it the same permissions.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(|source| ImagesError::Io {
                doing: "making",
                path: self.path.clone(),
                source,
            })?;
        let connect = || {
            let database = Connection::open(&self.path)?;
            database.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            database.execute_batch("PRAGMA synchronous = FULL")?;
            let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if version == 0 {
                database.execute_batch(&format!("BEGIN; {TABLES} COMMIT;"))?;
            }
            Ok((database, version))
        };
        let (database, version) = connect().map_err(self.failed("opening"))?;
        if version != 0 && version != VERSION {
            return Err(ImagesError::Catalogue {
                path: self.path.clone(),
                reason: format!("it has version {version}, this counterfoil knows {VERSION}"),
            });
        }
        Ok(database)
    }

    /// First lsn whose operation isn't in what is kept.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// All paths as of the cursor.
    pub(super) fn paths(&self) -> Result<Vec<Arc<[u8]>>, ImagesError> {
        let Some(database) = &self.database else {
            return Ok(Vec::new());
        };
        let list = || {
            database
                .prepare("SELECT path FROM entries")?
                .query_map([], |row| Ok(Arc::from(row.get_ref(0)?.as_blob()?)))?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        list().map_err(self.failed("listing the files in"))
    }

    /// Bytes of all files below a directory, as of the cursor.
    pub(super) fn total_size(&self, root: &[u8]) -> Result<u64, ImagesError> {
        let Some(database) = &self.database else {
            return Ok(0);
        };
        // Between "/" and the character that follows it.
        let (from, to) = ([root, b"/"].concat(), [root, b"0"].concat());
        database
            .query_row(
                "SELECT coalesce(sum(size), 0) FROM entries WHERE path > ?1 AND path < ?2",
                params![from, to],
                |row| row.get::<_, i64>(0),
            )
            .map(i64::cast_unsigned)
            .map_err(self.failed("adding up the sizes in"))
    }

    /// What is known of an entry.
    pub(super) fn get(&self, path: &[u8]) -> Result<Option<Arc<Known>>, ImagesError> {
        if let Some((_, known)) = self.latest.get(path) {
            return Ok(known.clone());
        }
        let Some(database) = &self.database else {
            return Ok(None);
        };
        let look_up = || {
            database
                .prepare_cached(
                    "SELECT kind, mode, uid, gid, modified_ns, size, digests FROM entries WHERE path = ?1",
                )?
                .query_row([path], known)
                .optional()
        };
        Ok(look_up()
            .map_err(self.failed("looking a file up in"))?
            .map(Arc::new))
    }

    /// From this lsn on this is known of an entry.
    pub(super) fn set(&mut self, lsn: u64, path: &Arc<[u8]>, known: Option<Arc<Known>>) {
        self.changes.push((lsn, Arc::clone(path), known.clone()));
        self.latest.insert(Arc::clone(path), (lsn, known));
    }

    /// Entries that something was learned of since the cursor, and that are there.
    pub(super) fn recent(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        self.latest
            .iter()
            .filter(|(_, (_, known))| known.is_some())
            .map(|(path, _)| path)
    }

    /// Makes what operations before `cursor` changed durable.
    pub(super) fn checkpoint(&mut self, cursor: u64) -> Result<(), ImagesError> {
        let due = self.changes.partition_point(|(lsn, ..)| *lsn < cursor);
        if due == 0 {
            return Ok(());
        }
        if self.database.is_none() {
            self.database = Some(self.connect()?);
        }
        if let Some(database) = &mut self.database {
            keep(database, cursor, &self.changes[..due])
                .map_err(self.failed("keeping checksums in"))?;
        }
        self.changes.drain(..due);
        self.latest.retain(|_, (lsn, _)| *lsn >= cursor);
        self.cursor = cursor;
        Ok(())
    }
}

fn keep(database: &mut Connection, cursor: u64, changes: &[Change]) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT OR REPLACE INTO entries (path, kind, mode, uid, gid, modified_ns, size, digests)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut delete = transaction.prepare_cached("DELETE FROM entries WHERE path = ?1")?;
        for (_, path, known) in changes {
            let Some(known) = known else {
                delete.execute([&**path])?;
                continue;
            };
            let digests: Vec<u8> = known
                .digests
                .iter()
                .flat_map(|digest| digest.to_le_bytes())
                .collect();
            let attributes = known.attributes;
            insert.execute(params![
                &**path,
                attributes.map(|attributes| attributes.kind as u8),
                attributes.map(|attributes| attributes.mode),
                attributes.map(|attributes| attributes.uid),
                attributes.map(|attributes| attributes.gid),
                attributes.map(|attributes| attributes.modified_ns),
                known.size.cast_signed(),
                digests
            ])?;
        }
        transaction.execute("UPDATE cursor SET lsn = ?1", [cursor.cast_signed()])?;
    }
    transaction.commit()
}

/// An entry as it is kept. What makes no sense in it is as if nothing were known: the file is read again.
fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let kind = match row.get::<_, Option<u8>>(0)? {
        Some(0) => Some(FileKind::Regular),
        Some(1) => Some(FileKind::Directory),
        Some(2) => Some(FileKind::Link),
        _ => None,
    };
    let attributes = match kind {
        Some(kind) => Some(Attributes {
            kind,
            mode: row.get(1)?,
            uid: row.get(2)?,
            gid: row.get(3)?,
            modified_ns: row.get(4)?,
        }),
        None => None,
    };
    let (digests, _) = row.get_ref(6)?.as_blob()?.as_chunks::<16>();
    Ok(Known {
        attributes,
        size: row.get::<_, i64>(5)?.cast_unsigned(),
        digests: digests
            .iter()
            .map(|bytes| u128::from_le_bytes(*bytes))
            .collect(),
    })
}

/// How many blocks a file of this size has.
pub(super) fn block_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(STATIC_BLOCK_BYTES)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(size: u64) -> Arc<Known> {
        Arc::new(Known {
            attributes: (size != 7).then_some(Attributes {
                kind: FileKind::Link,
                mode: 0o777,
                uid: 1,
                gid: u32::MAX,
                modified_ns: -5,
            }),
            size,
            digests: vec![u128::MAX - 1, u128::from(size)],
        })
    }

    #[test]
    fn what_is_kept_is_as_of_the_cursor() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b]: [Arc<[u8]>; 2] = [Arc::from(&b"/t/a"[..]), Arc::from(&b"/t/\xff"[..])];
        let mut digests = Digests::open(directory.path()).unwrap();
        digests.checkpoint(1).unwrap();
        assert!(!directory.path().join(FILE).exists(), "nothing to keep");
        digests.set(3, &a, Some(some(1)));
        digests.set(5, &b, Some(some(7)));
        digests.set(8, &a, Some(some(2)));
        digests.set(9, &b, None);
        digests.checkpoint(8).unwrap();
        assert_eq!(digests.get(&a).unwrap(), Some(some(2)));
        assert_eq!(digests.get(&b).unwrap(), None);

        let mut again = Digests::open(directory.path()).unwrap();
        assert_eq!(again.cursor(), 8);
        assert_eq!(again.get(&a).unwrap(), Some(some(1)));
        assert_eq!(again.get(&b).unwrap(), Some(some(7)));
        assert_eq!(again.total_size(b"/t").unwrap(), 8);
        assert_eq!(again.total_size(b"/").unwrap(), 0);
        again.set(8, &a, None);
        again.checkpoint(9).unwrap();
        assert_eq!(again.paths().unwrap(), [b]);

        drop(again);
        Digests::wipe(directory.path()).unwrap();
        assert_eq!(Digests::open(directory.path()).unwrap().cursor(), 0);
    }
}
