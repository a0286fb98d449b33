//! A file of the catalogue as it is remembered: its table's statements, and where it has residue.

use super::columns::{self, Filler, place};
use super::entry::Entry;
use super::error::Doing;
use super::schema::integer;
use crate::plan::{Mode, Shape};
use crate::sql::quoted;
use crate::{Attributes, FileDescription, FileKind, SinkError};
use counterfoil_proto::path_text;
use rusqlite::{CachedStatement, Connection, Statement, params};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A file with no more pieces of residue than this has their identities remembered.
const RESIDUE_IDS_MAX: usize = 4096;

/// One more than are remembered, to see whether there are more.
const RESIDUE_IDS_LIMIT: i64 = RESIDUE_IDS_MAX as i64 + 1;

/// A file of the catalogue.
pub(super) struct File {
    pub(super) file_id: i64,
    pub(super) description: Arc<FileDescription>,
    pub(super) table: Arc<Table>,
    attributes: Attributes,
    /// `None` until it is asked for.
    residue: Option<ResidueIds>,
}

/// A file's table, and the statements that change what the file has in it.
pub(super) struct Table {
    pub(super) name: String,
    /// The name of the column with the identity.
    pub(super) identity: String,
    pub(super) shape: Shape,
    /// The table is a tree's: its rows say which file they are of.
    is_shared: bool,
    pub(super) upsert: String,
    pub(super) delete: String,
    /// Both ends included.
    delete_range: String,
    delete_all: String,
}

/// Which identities of a file have residue, so that the others need no look-up.
enum ResidueIds {
    Few(BTreeSet<i64>),
    Many,
}

impl Table {
    /// A table of one file.
    pub(super) fn own(name: String, identity: &str, shape: Shape) -> Self {
        let columns: Vec<String> = columns::of_table(identity, &shape)
            .map(|column| quoted(column.name))
            .collect();
        let table = quoted(&name);
        let places: Vec<String> = (1..=columns.len()).map(|n| place(n, &shape)).collect();
        let mut upsert = format!(
            "INSERT INTO {table} ({}) VALUES ({})",
            columns.join(", "),
            places.join(", ")
        );
        let key = quoted(identity);
        // (In a history too: an amendment may come twice.)
        let (whole_key, others) = columns.split_at(match shape.mode {
            Mode::Mirror => 1,
            Mode::History => 4,
        });
        let set: Vec<String> = others
            .iter()
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        let update = if set.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", set.join(", "))
        };
        upsert.push_str(&format!(
            " ON CONFLICT ({}) DO {update}",
            whole_key.join(", ")
        ));
        Table {
            upsert,
            delete: format!("DELETE FROM {table} WHERE {key} = ?1"),
            delete_range: format!("DELETE FROM {table} WHERE {key} BETWEEN ?1 AND ?2"),
            // Without a condition SQLite empties the table at once, rather than row by row.
            delete_all: format!("DELETE FROM {table}"),
            is_shared: false,
            identity: identity.to_owned(),
            shape,
            name,
        }
    }

    /// A table of all files of a tree.
    pub(super) fn shared(name: String) -> Self {
        let table = quoted(&name);
        Table {
            upsert: format!(
                "INSERT INTO {table} (block_number, data, file_id) VALUES (?1, ?2, ?3)
                 ON CONFLICT (file_id, block_number) DO UPDATE SET data = excluded.data"
            ),
            delete: format!("DELETE FROM {table} WHERE block_number = ?1 AND file_id = ?2"),
            delete_range: format!(
                "DELETE FROM {table} WHERE block_number BETWEEN ?1 AND ?2 AND file_id = ?3"
            ),
            delete_all: format!("DELETE FROM {table} WHERE file_id = ?1"),
            is_shared: true,
            identity: "block_number".to_owned(),
            shape: Shape::default(),
            name,
        }
    }

    /// Whether other files have rows in it too.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether it keeps every change.
    pub(super) fn is_history(&self) -> bool {
        self.shape.mode == Mode::History
    }

    /// Whether there is nothing in it but bytes.
    fn is_plain(&self) -> bool {
        self.shape.raw && self.shape.columns.is_empty() && !self.shape.decoded && !self.is_history()
    }

    /// Writes a record; `upsert` is that statement of this table, prepared.
    pub(super) fn put(
        &self,
        upsert: &mut CachedStatement<'_>,
        (file_id, id): (i64, i64),
        (data, rest): (&[u8], &[u8]),
        filler: &mut Filler<'_>,
    ) -> rusqlite::Result<()> {
        let rest = (!rest.is_empty()).then_some(rest);
        if self.is_shared {
            upsert.execute(params![id, data, file_id])?;
        } else if self.is_plain() {
            upsert.execute(params![id, data, rest])?;
        } else {
            upsert.raw_bind_parameter(1, id)?;
            self.bind_content(upsert, 2, (data, rest), filler)?;
            upsert.raw_execute()?;
        }
        Ok(())
    }

    /// Gives a statement what a record is, from this parameter on: its bytes if the table has them, and its columns.
    pub(super) fn bind_content(
        &self,
        statement: &mut Statement<'_>,
        mut at: usize,
        (data, rest): (&[u8], Option<&[u8]>),
        filler: &mut Filler<'_>,
    ) -> rusqlite::Result<()> {
        if self.shape.raw {
            statement.raw_bind_parameter(at, data)?;
            statement.raw_bind_parameter(at + 1, rest)?;
            at += 2;
        }
        filler.bind(statement, at, &self.shape, data)
    }

    /// Deletes a record; `delete` is that statement of this table, prepared.
    pub(super) fn remove(
        &self,
        delete: &mut CachedStatement<'_>,
        (file_id, id): (i64, i64),
    ) -> rusqlite::Result<()> {
        if self.is_shared {
            delete.execute([id, file_id])?;
        } else {
            delete.execute([id])?;
        }
        Ok(())
    }

    /// Deletes a file's records from `begin` up to and including `last`.
    pub(super) fn clear(
        &self,
        connection: &Connection,
        file_id: i64,
        (begin, last): (i64, i64),
    ) -> rusqlite::Result<()> {
        let mut delete = connection.prepare_cached(&self.delete_range)?;
        if self.is_shared {
            delete.execute([begin, last, file_id])?;
        } else {
            delete.execute([begin, last])?;
        }
        Ok(())
    }

    /// Deletes all records of a file.
    pub(super) fn clear_all(&self, connection: &Connection, file_id: i64) -> rusqlite::Result<()> {
        let mut delete = connection.prepare_cached(&self.delete_all)?;
        if self.is_shared {
            delete.execute([file_id])?;
        } else {
            delete.execute([])?;
        }
        Ok(())
    }
}

impl File {
    /// A file that was just made: it has neither attributes nor residue yet.
    pub(super) fn made(
        file_id: i64,
        description: &Arc<FileDescription>,
        table: Arc<Table>,
    ) -> Self {
        File {
            file_id,
            description: Arc::clone(description),
            table,
            attributes: Attributes::default(),
            residue: Some(ResidueIds::Few(BTreeSet::new())),
        }
    }

    /// A file that was there before.
    pub(super) fn found(entry: Entry, table: Arc<Table>) -> Self {
        File {
            file_id: entry.file_id,
            description: Arc::new(entry.description),
            table,
            attributes: entry.attributes,
            residue: None,
        }
    }

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

    /// Forgets where it has residue: that was changed otherwise.
    pub(super) fn forget_residue(&mut self) {
        self.residue = None;
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
                "UPDATE counterfoil_files SET size = ?2, mode = ?3, uid = ?4, gid = ?5, modified_ns = ?6, kind = ?7
                 WHERE file_id = ?1",
            )
            .and_then(|mut update| {
                update.execute(params![
                    self.file_id,
                    size,
                    attributes.mode,
                    attributes.uid,
                    attributes.gid,
                    attributes.modified_ns,
                    attributes.kind.map(FileKind::name)
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
