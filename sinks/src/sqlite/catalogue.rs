//! The catalogue of files, and what is remembered of it between batches.
//!
//! Everything here is loaded when it is first asked for, and forgotten after an error or when
//! another connection has changed the database.

use super::entry::{self, format_columns};
use super::error::{Doing, permanent};
use super::file::{File, Table};
use super::schema::{create_table, quoted};
use crate::naming::{numbered, wanted_name};
use crate::{Attributes, FileDescription, SinkError};
use counterfoil_proto::path_text;
use rusqlite::{Connection, params};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// So many files are remembered; when there are more, all are forgotten and loaded anew as needed.
const FILES_MAX: usize = 20_000;

/// What is remembered of a database.
#[derive(Default)]
pub(super) struct Catalogue {
    /// SQLite's counter of changes by other connections, when the rest was loaded.
    data_version: Option<i64>,
    streams: HashMap<String, HashMap<Vec<u8>, File>>,
    names: Option<Names>,
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
            let Some(entry) = entry::find(connection, stream, path)? else {
                return Ok(None);
            };
            self.remember(stream, path, File::found(entry));
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
        let table = Table::new(name, identity);
        let mut file = File::made(connection.last_insert_rowid(), description, table);
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
