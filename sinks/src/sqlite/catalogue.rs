//! The catalogue of files, and what is remembered of it between batches.
//!
//! Everything here is loaded when it is first asked for, and forgotten after an error or when
//! another connection has changed the database.

use super::error::{Doing, permanent};
use super::schema::{create_table, integer, quoted};
use crate::naming::{numbered, wanted_name};
use crate::{Attributes, FileDescription, SinkError};
use counterfoil_proto::path_text;
use counterfoil_records::RecordFormat;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// So many files are remembered; when there are more, all are forgotten and loaded anew as needed.
pub(super) const FILES_MAX: usize = 20_000;

/// A file with no more pieces of residue than this has their identities remembered.
const RESIDUE_IDS_MAX: usize = 4096;

/// One more than are remembered, to see whether there are more.
const RESIDUE_IDS_LIMIT: i64 = RESIDUE_IDS_MAX as i64 + 1;

/// The columns that [`entry`] reads, in its order.
pub(super) const ENTRY_COLUMNS: &str = "file_id, path, file_group, organization, layout, record_size, varseq_format, \
     table_name, table_configured, size, mode, uid, gid, modified_ns";

/// What is remembered of a database.
#[derive(Default)]
pub(super) struct Catalogue {
    /// SQLite's counter of changes by other connections, when the rest was loaded.
    data_version: Option<i64>,
    streams: HashMap<String, HashMap<Vec<u8>, File>>,
    names: Option<Names>,
}

/// A file of the catalogue.
pub(super) struct File {
    pub(super) file_id: i64,
    pub(super) description: Arc<FileDescription>,
    pub(super) table: Table,
    pub(super) attributes: Attributes,
    /// `None` until it is asked for.
    residue: Option<ResidueIds>,
}

/// A file's table, and the statements that change it.
pub(super) struct Table {
    pub(super) name: String,
    pub(super) upsert: String,
    pub(super) delete: String,
    /// Both ends included.
    pub(super) delete_range: String,
    pub(super) delete_all: String,
}

/// Which identities of a file have residue, so that the others need no look-up.
enum ResidueIds {
    Few(BTreeSet<i64>),
    Many,
}

/// The names in use in the database (in lower case, for SQLite doesn't tell `A` from `a`).
struct Names {
    used: HashSet<String>,
    /// Where to go on looking for a free number for a name, so that a thousand files of one name
    /// don't take a million look-ups.
    next_numbers: HashMap<String, u32>,
}

impl Catalogue {
    /// Forgets everything if somebody else has changed the database. Called in a transaction.
    pub(super) fn refresh(&mut self, connection: &Connection) -> Result<(), SinkError> {
        let now: i64 = connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .doing(|| "looking for changes by others".into())?;
        let files: usize = self.streams.values().map(HashMap::len).sum();
        if self.data_version != Some(now) || files > FILES_MAX {
            *self = Catalogue {
                data_version: Some(now),
                ..Catalogue::default()
            };
        }
        Ok(())
    }

    /// The file with this path, if there is one.
    pub(super) fn find(
        &mut self,
        connection: &Connection,
        stream: &str,
        path: &[u8],
    ) -> Result<Option<&mut File>, SinkError> {
        let known = self
            .streams
            .get(stream)
            .is_some_and(|files| files.contains_key(path));
        if !known {
            let Some(file) = load(connection, stream, path)? else {
                return Ok(None);
            };
            self.remember(stream, path, file);
        }
        Ok(self
            .streams
            .get_mut(stream)
            .and_then(|files| files.get_mut(path)))
    }

    /// The file with this description: made if it isn't there, changed if it was described otherwise.
    pub(super) fn ensure(
        &mut self,
        connection: &Connection,
        stream: &str,
        description: &Arc<FileDescription>,
        attributes: &Attributes,
    ) -> Result<&mut File, SinkError> {
        match self.find(connection, stream, &description.path)? {
            None => {
                let file = self.create(connection, stream, description, attributes)?;
                self.remember(stream, &description.path, file);
            }
            Some(file) if Arc::ptr_eq(&file.description, description) => {}
            Some(file) if *file.description == **description => {
                file.description = Arc::clone(description);
            }
            Some(_) => self.redescribe(connection, stream, &description.path, description)?,
        }
        self.find(connection, stream, &description.path)?
            .ok_or_else(|| {
                permanent(
                    format!("looking up {}", path_text(&description.path)),
                    "its catalogue entry vanished",
                    "check whether something else changes the tables",
                )
            })
    }

    /// Moves a file to another path. What that path named before is gone.
    pub(super) fn rename(
        &mut self,
        connection: &Connection,
        stream: &str,
        from: &[u8],
        description: &Arc<FileDescription>,
    ) -> Result<(), SinkError> {
        self.remove(connection, stream, &description.path)?;
        if self.find(connection, stream, from)?.is_some() {
            self.redescribe(connection, stream, from, description)?;
        }
        Ok(())
    }

    /// Drops a file's table, its residue and its entry. No such file: nothing to do.
    pub(super) fn remove(
        &mut self,
        connection: &Connection,
        stream: &str,
        path: &[u8],
    ) -> Result<(), SinkError> {
        let Some(file) = self.find(connection, stream, path)? else {
            return Ok(());
        };
        let removing = || format!("removing {}", path_text(path));
        connection
            .execute(
                &format!("DROP TABLE IF EXISTS {}", quoted(&file.table.name)),
                [],
            )
            .doing(removing)?;
        for sql in [
            "DELETE FROM counterfoil_residue WHERE file_id = ?1",
            "DELETE FROM counterfoil_files WHERE file_id = ?1",
        ] {
            connection
                .prepare_cached(sql)
                .and_then(|mut delete| delete.execute([file.file_id]))
                .doing(removing)?;
        }
        if let Some(file) = self
            .streams
            .get_mut(stream)
            .and_then(|files| files.remove(path))
        {
            self.release(&file.table.name);
        }
        Ok(())
    }

    fn create(
        &mut self,
        connection: &Connection,
        stream: &str,
        description: &Arc<FileDescription>,
        attributes: &Attributes,
    ) -> Result<File, SinkError> {
        let creating = || format!("making a table for {}", path_text(&description.path));
        let name = self.free_name(connection, description)?;
        let identity = description.format.identity_name();
        connection
            .execute(&create_table(&name, identity), [])
            .doing(creating)?;
        let format = format_columns(&description.format)?;
        connection
            .prepare_cached(
                "INSERT INTO counterfoil_files (stream, path, path_text, file_group, organization, layout, record_size,
                     varseq_format, table_name, table_configured, size)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    stream,
                    description.path,
                    path_text(&description.path),
                    description.group,
                    format.organization,
                    format.layout,
                    format.record_size,
                    format.varseq_format,
                    name,
                    description.table,
                ])
            })
            .doing(creating)?;
        let mut file = File {
            file_id: connection.last_insert_rowid(),
            description: Arc::clone(description),
            table: Table::new(name, identity),
            attributes: Attributes::default(),
            residue: Some(ResidueIds::Few(BTreeSet::new())),
        };
        file.set_attributes(connection, attributes)?;
        Ok(file)
    }

    /// Gives the file at `from` another description, and its table the name that follows from it.
    fn redescribe(
        &mut self,
        connection: &Connection,
        stream: &str,
        from: &[u8],
        description: &Arc<FileDescription>,
    ) -> Result<(), SinkError> {
        let Some(mut file) = self
            .streams
            .get_mut(stream)
            .and_then(|files| files.remove(from))
        else {
            return Ok(());
        };
        let changing = || {
            format!(
                "changing the entry of {} to {}",
                path_text(from),
                path_text(&description.path)
            )
        };
        let mut name = file.table.name.clone();
        if wanted_name(&file.description)? != wanted_name(description)? {
            self.release(&name);
            let free = self.free_name(connection, description)?;
            let rename = format!("ALTER TABLE {} RENAME TO {}", quoted(&name), quoted(&free));
            connection.execute(&rename, []).doing(changing)?;
            name = free;
        }
        let identity = description.format.identity_name();
        let identity_so_far = file.description.format.identity_name();
        if identity != identity_so_far {
            let rename = format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                quoted(&name),
                quoted(identity_so_far),
                quoted(identity)
            );
            connection.execute(&rename, []).doing(changing)?;
        }
        let format = format_columns(&description.format)?;
        connection
            .prepare_cached(
                "UPDATE counterfoil_files
                 SET path = ?2, path_text = ?3, file_group = ?4, organization = ?5, layout = ?6, record_size = ?7,
                     varseq_format = ?8, table_name = ?9, table_configured = ?10
                 WHERE file_id = ?1",
            )
            .and_then(|mut update| {
                update.execute(params![
                    file.file_id,
                    description.path,
                    path_text(&description.path),
                    description.group,
                    format.organization,
                    format.layout,
                    format.record_size,
                    format.varseq_format,
                    name,
                    description.table,
                ])
            })
            .doing(changing)?;
        file.table = Table::new(name, identity);
        file.description = Arc::clone(description);
        self.remember(stream, &description.path, file);
        Ok(())
    }

    fn remember(&mut self, stream: &str, path: &[u8], file: File) {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), HashMap::new());
        }
        if let Some(files) = self.streams.get_mut(stream) {
            files.insert(path.to_vec(), file);
        }
    }

    /// A name that nothing in the database has yet. It counts as used from now on.
    fn free_name(
        &mut self,
        connection: &Connection,
        description: &FileDescription,
    ) -> Result<String, SinkError> {
        let wanted = wanted_name(description)?;
        let names = match &mut self.names {
            Some(names) => names,
            None => self.names.insert(Names::load(connection)?),
        };
        let next_number = names
            .next_numbers
            .entry(wanted.to_ascii_lowercase())
            .or_insert(1);
        loop {
            let name = numbered(&wanted, *next_number);
            *next_number = next_number.saturating_add(1);
            if names.used.insert(name.to_ascii_lowercase()) {
                if description.table.is_some() && name != wanted {
                    tracing::warn!(
                        file = path_text(&description.path),
                        configured = wanted,
                        table = name,
                        "the configured table name is taken in this database; using another"
                    );
                }
                return Ok(name);
            }
        }
    }

    fn release(&mut self, name: &str) {
        if let Some(names) = &mut self.names {
            names.used.remove(&name.to_ascii_lowercase());
            names.next_numbers.clear();
        }
    }
}

impl Names {
    fn load(connection: &Connection) -> Result<Self, SinkError> {
        let used = connection
            .prepare("SELECT lower(name) FROM sqlite_schema")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .doing(|| "listing the tables".into())?;
        Ok(Names {
            used,
            next_numbers: HashMap::new(),
        })
    }
}

impl Table {
    fn new(name: String, identity: &str) -> Self {
        let (table, identity) = (quoted(&name), quoted(identity));
        Table {
            upsert: format!(
                "INSERT INTO {table} ({identity}, data, rest) VALUES (?1, ?2, ?3)
                 ON CONFLICT ({identity}) DO UPDATE SET data = excluded.data, rest = excluded.rest"
            ),
            delete: format!("DELETE FROM {table} WHERE {identity} = ?1"),
            delete_range: format!("DELETE FROM {table} WHERE {identity} BETWEEN ?1 AND ?2"),
            delete_all: format!("DELETE FROM {table}"),
            name,
        }
    }
}

impl File {
    /// Whether this identity may have residue: `false` is sure.
    pub(super) fn may_have_residue(
        &mut self,
        connection: &Connection,
        id: i64,
    ) -> Result<bool, SinkError> {
        Ok(match self.residue(connection)? {
            ResidueIds::Few(ids) => ids.contains(&id),
            ResidueIds::Many => true,
        })
    }

    /// Whether any identity may have residue: `false` is sure.
    pub(super) fn may_have_any_residue(
        &mut self,
        connection: &Connection,
    ) -> Result<bool, SinkError> {
        Ok(match self.residue(connection)? {
            ResidueIds::Few(ids) => !ids.is_empty(),
            ResidueIds::Many => true,
        })
    }

    /// Remembers that this identity has residue now.
    pub(super) fn note_residue(&mut self, id: i64) {
        match &mut self.residue {
            Some(ResidueIds::Few(ids)) if ids.len() < RESIDUE_IDS_MAX => {
                ids.insert(id);
            }
            Some(residue) => *residue = ResidueIds::Many,
            None => {}
        }
    }

    /// Remembers that identities from `begin` up to but not including `end` (all, if `None`) have
    /// no residue any more.
    pub(super) fn note_no_residue(&mut self, begin: i64, end: Option<i64>) {
        match &mut self.residue {
            Some(ResidueIds::Few(ids)) if end == Some(begin.saturating_add(1)) => {
                ids.remove(&begin);
            }
            Some(ResidueIds::Few(ids)) => {
                ids.retain(|&id| id < begin || end.is_some_and(|end| id >= end));
            }
            Some(residue @ ResidueIds::Many) if begin <= 0 && end.is_none() => {
                *residue = ResidueIds::Few(BTreeSet::new());
            }
            _ => {}
        }
    }

    fn residue(&mut self, connection: &Connection) -> Result<&ResidueIds, SinkError> {
        let residue = match self.residue.take() {
            Some(residue) => residue,
            None => load_residue(connection, self.file_id)?,
        };
        Ok(self.residue.insert(residue))
    }

    /// Stores size and attributes, if they differ from what is stored.
    pub(super) fn set_attributes(
        &mut self,
        connection: &Connection,
        attributes: &Attributes,
    ) -> Result<(), SinkError> {
        if self.attributes == *attributes {
            return Ok(());
        }
        let storing = || {
            format!(
                "storing the attributes of {}",
                path_text(&self.description.path)
            )
        };
        let size = integer(attributes.size, storing)?;
        connection
            .prepare_cached(
                "UPDATE counterfoil_files SET size = ?2, mode = ?3, uid = ?4, gid = ?5, modified_ns = ?6
                 WHERE file_id = ?1",
            )
            .and_then(|mut update| {
                update.execute(params![
                    self.file_id,
                    size,
                    attributes.mode,
                    attributes.uid,
                    attributes.gid,
                    attributes.modified_ns
                ])
            })
            .doing(storing)?;
        self.attributes = *attributes;
        Ok(())
    }
}

fn load_residue(connection: &Connection, file_id: i64) -> Result<ResidueIds, SinkError> {
    let ids: BTreeSet<i64> = connection
        .prepare_cached("SELECT id FROM counterfoil_residue WHERE file_id = ?1 LIMIT ?2")
        .and_then(|mut select| {
            select
                .query_map([file_id, RESIDUE_IDS_LIMIT], |row| row.get(0))?
                .collect()
        })
        .doing(|| "looking up residue".into())?;
    Ok(if ids.len() > RESIDUE_IDS_MAX {
        ResidueIds::Many
    } else {
        ResidueIds::Few(ids)
    })
}

fn load(connection: &Connection, stream: &str, path: &[u8]) -> Result<Option<File>, SinkError> {
    let loaded = connection
        .prepare_cached(&format!(
            "SELECT {ENTRY_COLUMNS} FROM counterfoil_files WHERE stream = ?1 AND path = ?2"
        ))
        .and_then(|mut select| {
            select
                .query_row(params![stream, path], |row| Ok(entry(row)))
                .optional()
        })
        .doing(|| format!("looking up {}", path_text(path)))?;
    let Some(entry) = loaded.transpose()? else {
        return Ok(None);
    };
    let identity = entry.description.format.identity_name();
    Ok(Some(File {
        file_id: entry.file_id,
        description: Arc::new(entry.description),
        table: Table::new(entry.table, identity),
        attributes: entry.attributes,
        residue: None,
    }))
}

/// A row of the catalogue.
pub(super) struct Entry {
    pub(super) file_id: i64,
    pub(super) description: FileDescription,
    pub(super) table: String,
    pub(super) attributes: Attributes,
}

/// Reads a row of [`ENTRY_COLUMNS`].
pub(super) fn entry(row: &Row<'_>) -> Result<Entry, SinkError> {
    let reading = || "reading the catalogue of files".to_owned();
    let path: Vec<u8> = row.get(1).doing(reading)?;
    let mut format = Map::new();
    for (column, key) in [
        (3, "organization"),
        (4, "layout"),
        (5, "record_size"),
        (6, "varseq_format"),
    ] {
        match row.get_ref(column).doing(reading)? {
            ValueRef::Text(text) => {
                format.insert(
                    key.into(),
                    Value::String(String::from_utf8_lossy(text).into_owned()),
                );
            }
            ValueRef::Integer(number) => {
                format.insert(key.into(), Value::from(number));
            }
            _ => {}
        }
    }
    let format: RecordFormat = serde_json::from_value(Value::Object(format)).map_err(|error| {
        permanent(
            format!("reading the catalogue entry of {}", path_text(&path)),
            format!("the format in it is not one that this version knows: {error}"),
            "use the version of Counterfoil that wrote it",
        )
    })?;
    let size: i64 = row.get(9).doing(reading)?;
    Ok(Entry {
        file_id: row.get(0).doing(reading)?,
        description: FileDescription {
            path,
            group: row.get(2).doing(reading)?,
            format,
            table: row.get(8).doing(reading)?,
        },
        table: row.get(7).doing(reading)?,
        attributes: Attributes {
            size: u64::try_from(size).unwrap_or_default(),
            mode: row.get(10).doing(reading)?,
            uid: row.get(11).doing(reading)?,
            gid: row.get(12).doing(reading)?,
            modified_ns: row.get(13).doing(reading)?,
        },
    })
}

/// A format as the catalogue has it: the words that a configuration uses.
struct FormatColumns {
    organization: Box<dyn ToSql>,
    layout: Box<dyn ToSql>,
    record_size: Box<dyn ToSql>,
    varseq_format: Box<dyn ToSql>,
}

fn format_columns(format: &RecordFormat) -> Result<FormatColumns, SinkError> {
    let describing = || "describing a record format".to_owned();
    let value = serde_json::to_value(format).map_err(|error| {
        permanent(
            describing(),
            error.to_string(),
            "report this: it is a fault of Counterfoil",
        )
    })?;
    let column = |key: &str| -> Result<Box<dyn ToSql>, SinkError> {
        Ok(match value.get(key) {
            Some(Value::String(text)) => Box::new(text.clone()),
            Some(Value::Number(number)) => {
                Box::new(integer(number.as_u64().unwrap_or_default(), describing)?)
            }
            _ => Box::new(None::<i64>),
        })
    };
    Ok(FormatColumns {
        organization: column("organization")?,
        layout: column("layout")?,
        record_size: column("record_size")?,
        varseq_format: column("varseq_format")?,
    })
}
