//! The catalogue of files, and what is remembered of it between batches.
//!
//! Everything here is loaded when it is first asked for, and forgotten after an error or when
//! another connection has changed the database.

use super::entry;
use super::error::Doing;
use super::file::{File, Table};
use super::schema::{create_shared_table, create_table, create_view};
use crate::naming::{Names, numbered, wanted_name};
use crate::sql::{FormatWords, permanent, quoted};
use crate::{Attributes, FileDescription, SinkError};
use counterfoil_proto::path_text;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::sync::Arc;

/// So many files are remembered; when there are more, all are forgotten and loaded anew as needed.
const FILES_MAX: usize = 20_000;

/// What is remembered of a database.
#[derive(Default)]
pub(super) struct Catalogue {
    /// SQLite's counter of changes by other connections, when the rest was loaded.
    data_version: Option<i64>,
    streams: HashMap<String, HashMap<Vec<u8>, File>>,
    /// Trees by stream and root.
    trees: HashMap<(String, Vec<u8>), Tree>,
    names: Option<Names>,
}

/// A tree, whose files share a table.
struct Tree {
    tree_id: i64,
    table: Arc<Table>,
    view: String,
    table_configured: Option<String>,
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
            let table = match &entry.description.tree {
                Some(root) => match self.find_tree(connection, stream, root)? {
                    Some(tree) => Arc::clone(&tree.table),
                    None => Arc::new(Table::shared(entry.table.clone())),
                },
                None => {
                    let identity = entry.description.format.identity_name();
                    Arc::new(Table::own(entry.table.clone(), identity))
                }
            };
            self.remember(stream, path, File::found(entry, table));
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

    /// Drops a file's table (its rows, if it shares one), its residue and its entry. No such file: nothing to do.
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
        if file.table.is_shared() {
            file.table
                .clear_all(connection, file.file_id)
                .doing(removing)?;
        } else {
            connection
                .execute(
                    &format!("DROP TABLE IF EXISTS {}", quoted(&file.table.name)),
                    [],
                )
                .doing(removing)?;
        }
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
            && !file.table.is_shared()
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
        let (tree_id, table) = match &description.tree {
            Some(root) => {
                let tree = self.tree(connection, stream, root, description)?;
                (Some(tree.tree_id), Arc::clone(&tree.table))
            }
            None => {
                let name = self.free_name(connection, description)?;
                let identity = description.format.identity_name();
                connection
                    .execute(&create_table(&name, identity), [])
                    .doing(creating)?;
                (None, Arc::new(Table::own(name, identity)))
            }
        };
        let format = FormatWords::of(&description.format)?;
        connection
            .prepare_cached(
                "INSERT INTO counterfoil_files (stream, path, path_text, file_group, organization, layout, record_size,
                     varseq_format, table_name, table_configured, tree_id, size)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0)",
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
                    table.name,
                    description.table,
                    tree_id,
                ])
            })
            .doing(creating)?;
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
        let known = self.find(connection, stream, from)?;
        let Some(tree) = known.map(|file| file.description.tree.clone()) else {
            return Ok(());
        };
        if tree != description.tree {
            // What its rows are is something else from now on.
            self.remove(connection, stream, from)?;
            let file = self.create(connection, stream, description, &Attributes::default())?;
            self.remember(stream, &description.path, file);
            return Ok(());
        }
        if let Some(root) = &tree {
            // The tree's table follows the configuration with the first of its files that does.
            self.tree(connection, stream, root, description)?;
            self.find(connection, stream, from)?;
        }
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
        if tree.is_none() && wanted_name(&file.description)? != wanted_name(description)? {
            self.release(&name);
            let free = self.free_name(connection, description)?;
            let rename = format!("ALTER TABLE {} RENAME TO {}", quoted(&name), quoted(&free));
            connection.execute(&rename, []).doing(changing)?;
            name = free;
        }
        let identity = description.format.identity_name();
        let identity_so_far = file.description.format.identity_name();
        if tree.is_none() && identity != identity_so_far {
            let rename = format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                quoted(&name),
                quoted(identity_so_far),
                quoted(identity)
            );
            connection.execute(&rename, []).doing(changing)?;
        }
        let format = FormatWords::of(&description.format)?;
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
        if tree.is_none() {
            file.table = Arc::new(Table::own(name, identity));
        }
        file.description = Arc::clone(description);
        self.remember(stream, &description.path, file);
        Ok(())
    }

    /// The tree with this root, if there is one.
    fn find_tree(
        &mut self,
        connection: &Connection,
        stream: &str,
        root: &[u8],
    ) -> Result<Option<&Tree>, SinkError> {
        let key = (stream.to_owned(), root.to_vec());
        if !self.trees.contains_key(&key) {
            let found = connection
                .prepare_cached(
                    "SELECT tree_id, table_name, view_name, table_configured FROM counterfoil_trees
                     WHERE stream = ?1 AND root = ?2",
                )
                .and_then(|mut select| {
                    select
                        .query_row(params![stream, root], |row| {
                            Ok(Tree {
                                tree_id: row.get(0)?,
                                table: Arc::new(Table::shared(row.get(1)?)),
                                view: row.get(2)?,
                                table_configured: row.get(3)?,
                            })
                        })
                        .optional()
                })
                .doing(|| format!("looking up the tree {}", path_text(root)))?;
            let Some(tree) = found else {
                return Ok(None);
            };
            self.trees.insert(key.clone(), tree);
        }
        Ok(self.trees.get(&key))
    }

    /// The tree that a file is described to belong to: made if it isn't there, with its table renamed if the configuration
    /// asks for another.
    fn tree(
        &mut self,
        connection: &Connection,
        stream: &str,
        root: &[u8],
        description: &FileDescription,
    ) -> Result<&Tree, SinkError> {
        let making = || format!("making a table for the tree {}", path_text(root));
        match self.find_tree(connection, stream, root)? {
            None => {
                let name = self.free_name(connection, description)?;
                let view = self.free_view(connection, &name)?;
                connection
                    .execute(&create_shared_table(&name), [])
                    .doing(making)?;
                connection
                    .prepare_cached(
                        "INSERT INTO counterfoil_trees (stream, root, root_text, table_name, table_configured, view_name)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )
                    .and_then(|mut insert| {
                        insert.execute(params![
                            stream,
                            root,
                            path_text(root),
                            name,
                            description.table,
                            view
                        ])
                    })
                    .doing(making)?;
                let tree_id = connection.last_insert_rowid();
                connection
                    .execute(&create_view(&view, &name, tree_id), [])
                    .doing(making)?;
            }
            Some(tree) if tree.table_configured != description.table => {
                let (tree_id, name, view) =
                    (tree.tree_id, tree.table.name.clone(), tree.view.clone());
                self.rename_tree(connection, tree_id, (&name, &view), description)?;
            }
            Some(_) => {}
        }
        self.find_tree(connection, stream, root)?.ok_or_else(|| {
            permanent(
                making(),
                "its catalogue entry vanished",
                "check whether something else changes the tables",
            )
        })
    }

    /// Gives a tree's table, and the view that goes with it, the names that follow from a description.
    fn rename_tree(
        &mut self,
        connection: &Connection,
        tree_id: i64,
        (name, view): (&str, &str),
        description: &FileDescription,
    ) -> Result<(), SinkError> {
        let renaming = || format!("renaming the table {name} of a tree");
        self.release(name);
        self.release(view);
        let new_name = self.free_name(connection, description)?;
        let new_view = self.free_view(connection, &new_name)?;
        connection
            .execute(&format!("DROP VIEW IF EXISTS {}", quoted(view)), [])
            .doing(renaming)?;
        if new_name != name {
            let rename = format!(
                "ALTER TABLE {} RENAME TO {}",
                quoted(name),
                quoted(&new_name)
            );
            connection.execute(&rename, []).doing(renaming)?;
        }
        connection
            .execute(&create_view(&new_view, &new_name, tree_id), [])
            .doing(renaming)?;
        connection
            .execute(
                "UPDATE counterfoil_trees SET table_name = ?2, table_configured = ?3, view_name = ?4 WHERE tree_id = ?1",
                params![tree_id, new_name, description.table, new_view],
            )
            .doing(renaming)?;
        connection
            .execute(
                "UPDATE counterfoil_files SET table_name = ?2 WHERE tree_id = ?1",
                params![tree_id, new_name],
            )
            .doing(renaming)?;
        // All that is remembered of its files speaks of the table as it was.
        self.trees.clear();
        self.streams.clear();
        Ok(())
    }

    fn free_view(&mut self, connection: &Connection, table: &str) -> Result<String, SinkError> {
        self.free_name_like(connection, &format!("{table}_files"))
    }

    fn remember(&mut self, stream: &str, path: &[u8], file: File) {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), HashMap::new());
        }
        if let Some(files) = self.streams.get_mut(stream) {
            files.insert(path.to_vec(), file);
        }
    }

    /// A table name for a file that nothing in the database has yet. It counts as used from now on.
    fn free_name(
        &mut self,
        connection: &Connection,
        description: &FileDescription,
    ) -> Result<String, SinkError> {
        let wanted = wanted_name(description)?;
        let name = self.free_name_like(connection, &wanted)?;
        if description.table.is_some() && name != wanted {
            tracing::warn!(
                file = path_text(description.named_for()),
                configured = wanted,
                table = name,
                "the configured table name is taken in this database; using another"
            );
        }
        Ok(name)
    }

    /// A name that nothing in the database has yet, like this one. It counts as used from now on.
    fn free_name_like(
        &mut self,
        connection: &Connection,
        wanted: &str,
    ) -> Result<String, SinkError> {
        let names = match &mut self.names {
            Some(names) => names,
            None => self.names.insert(list_names(connection)?),
        };
        Ok(names.take(wanted, numbered))
    }

    fn release(&mut self, name: &str) {
        if let Some(names) = &mut self.names {
            names.release(name);
        }
    }
}

/// The names of everything in the database.
fn list_names(connection: &Connection) -> Result<Names, SinkError> {
    let used: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .doing(|| "listing the tables".into())?;
    let mut names = Names::default();
    for name in &used {
        names.add(name);
    }
    Ok(names)
}
