//! The catalogue of files, and what is remembered of it between batches.
//!
//! Everything here is loaded when it is first asked for, and forgotten after an error or when
//! another connection has changed the database.

use super::apply::Moment;
use super::error::Doing;
use super::file::{File, Table};
use super::schema::{create_shared_table, create_table, create_view};
use super::{entry, evolution, history, structure};
use crate::naming::{Names, numbered, wanted_name};
use crate::plan::{Ddl, Evolution, Plan, Shape};
use crate::sql::{FormatWords, permanent, quoted};
use crate::{Attributes, FileDescription, SinkError};
use counterfoil_proto::path_text;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::sync::Arc;

/// So many files are remembered; when there are more, all are forgotten and loaded anew as needed.
const FILES_MAX: usize = 20_000;

/// What is remembered of a database.
pub(super) struct Catalogue {
    ddl: Ddl,
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
    /// Nothing is remembered yet.
    pub(super) fn new(ddl: Ddl) -> Self {
        Catalogue {
            ddl,
            data_version: None,
            streams: HashMap::new(),
            trees: HashMap::new(),
            names: None,
        }
    }

    /// Remembers nothing any more.
    pub(super) fn forget(&mut self) {
        *self = Catalogue::new(self.ddl);
    }

    /// Forgets everything if somebody else has changed the database. Called in a transaction.
    pub(super) fn refresh(&mut self, connection: &Connection) -> Result<(), SinkError> {
        let now: i64 = connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .doing(|| "looking for changes by others".into())?;
        let files: usize = self.streams.values().map(HashMap::len).sum();
        if self.data_version != Some(now) || files > FILES_MAX {
            self.forget();
            self.data_version = Some(now);
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
                    let shape = entry.shape.clone();
                    Arc::new(Table::own(entry.table.clone(), identity, shape))
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
            // (Of what was only just found, nobody has said what becomes of it.)
            Some(file)
                if *file.description == **description
                    && (description.plan.is_some() || file.table.shape == Shape::default()) =>
            {
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
        moment: Moment,
    ) -> Result<(), SinkError> {
        let path = &description.path;
        let replaced = self.find(connection, stream, path)?;
        let replaced = replaced.is_some_and(|file| file.table.is_history());
        let source = self.find(connection, stream, from)?;
        let source = source.map(|file| {
            let description = Arc::clone(&file.description);
            (file.file_id, Arc::clone(&file.table), description)
        });
        let moves_rows = match &source {
            Some((_, table, _)) if table.is_history() => true,
            // Where tables can't be renamed. (Both may want the same one.)
            Some((_, table, so_far)) => {
                self.ddl != Ddl::Manage
                    && !table.is_shared()
                    && wanted_name(so_far)? != wanted_name(description)?
            }
            None => false,
        };
        if description.tree.is_some() || !(replaced || moves_rows) {
            self.remove(connection, stream, path)?;
            if source.is_some() {
                self.redescribe(connection, stream, from, description)?;
            }
            return Ok(());
        }
        let Some((source_id, table, _)) = source else {
            return self.retire(connection, stream, path, moment);
        };
        evolution_to(&table.shape, description)?;
        if !(replaced && table.is_history()) {
            // (A history that a mirror comes to stays as it is, without its file.)
            self.remove(connection, stream, path)?;
        }
        let target = self.ensure(connection, stream, description, &Attributes::default())?;
        let (target_id, target_table) = (target.file_id, Arc::clone(&target.table));
        target.forget_residue();
        let moving = || {
            format!(
                "moving the rows of {} to {}",
                path_text(from),
                path_text(path)
            )
        };
        history::copy_current(connection, &table, &target_table, moment).doing(moving)?;
        if target_table.is_history() {
            history::delete_current(connection, &target_table, (0, i64::MAX), moment)
                .doing(moving)?;
        }
        if target_table.shape.raw
            && target_table.shape.fill != table.shape.fill
            && let Some(plan) = &description.plan
        {
            let position = target_table.is_history().then_some(moment.position);
            evolution::refill(connection, &target_table, plan, position)?;
        }
        for sql in [
            "DELETE FROM counterfoil_residue WHERE file_id = ?2 AND ?1 <> ?2",
            "UPDATE counterfoil_residue SET file_id = ?2 WHERE file_id = ?1",
        ] {
            connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.execute([source_id, target_id]))
                .doing(moving)?;
        }
        if table.is_history() {
            self.retire(connection, stream, from, moment)
        } else {
            self.remove(connection, stream, from)
        }
    }

    /// Drops a file's table (its rows, if it shares one; nothing of a history), its residue and its entry. No such file:
    /// nothing to do.
    pub(super) fn remove(
        &mut self,
        connection: &Connection,
        stream: &str,
        path: &[u8],
    ) -> Result<(), SinkError> {
        let ddl = self.ddl;
        let Some(file) = self.find(connection, stream, path)? else {
            return Ok(());
        };
        let removing = || format!("removing {}", path_text(path));
        if file.table.is_history() {
            let moment = Moment::of_batch(connection, stream)?;
            return self.retire(connection, stream, path, moment);
        }
        if file.table.is_shared() || ddl != Ddl::Manage {
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
        if let Some(table) = self.forget_file(connection, stream, path)?
            && !table.is_shared()
        {
            self.release(&table.name);
        }
        Ok(())
    }

    /// Ends a file that has a history: all that is current is deleted at that moment, and the table stays for the next file
    /// of that name. No such file: nothing to do.
    fn retire(
        &mut self,
        connection: &Connection,
        stream: &str,
        path: &[u8],
        moment: Moment,
    ) -> Result<(), SinkError> {
        let Some(file) = self.find(connection, stream, path)? else {
            return Ok(());
        };
        let table = Arc::clone(&file.table);
        history::delete_current(connection, &table, (0, i64::MAX), moment)
            .and_then(|()| {
                connection
                    .prepare_cached(
                        "INSERT INTO counterfoil_histories (stream, path, path_text, table_name, identity, shape)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![
                        stream,
                        path,
                        path_text(path),
                        table.name,
                        table.identity,
                        table.shape.text(),
                    ])
            })
            .doing(|| format!("removing {}", path_text(path)))?;
        self.forget_file(connection, stream, path).map(drop)
    }

    /// Deletes a file's residue and its entry; its table is returned.
    fn forget_file(
        &mut self,
        connection: &Connection,
        stream: &str,
        path: &[u8],
    ) -> Result<Option<Arc<Table>>, SinkError> {
        let Some(file) = self.find(connection, stream, path)? else {
            return Ok(None);
        };
        for sql in [
            "DELETE FROM counterfoil_residue WHERE file_id = ?1",
            "DELETE FROM counterfoil_files WHERE file_id = ?1",
        ] {
            connection
                .prepare_cached(sql)
                .and_then(|mut delete| delete.execute([file.file_id]))
                .doing(|| format!("removing {}", path_text(path)))?;
        }
        let files = self.streams.get_mut(stream);
        let file = files.and_then(|files| files.remove(path));
        Ok(file.map(|file| file.table))
    }

    /// The history that an earlier file of this name has left, as the plan wants it now.
    fn history_of(
        &mut self,
        connection: &Connection,
        stream: &str,
        description: &FileDescription,
    ) -> Result<Option<Table>, SinkError> {
        let path = &description.path;
        let looking = || format!("looking up the history of {}", path_text(path));
        let found = connection
            .prepare_cached(
                "DELETE FROM counterfoil_histories WHERE stream = ?1 AND path = ?2
                 RETURNING table_name, identity, shape",
            )
            .and_then(|mut delete| {
                delete
                    .query_row(params![stream, path], |row| {
                        Ok((
                            row.get::<_, String>(0)?,
                            row.get::<_, String>(1)?,
                            row.get::<_, String>(2)?,
                        ))
                    })
                    .optional()
            })
            .doing(looking)?;
        let Some((name, identity, shape)) = found else {
            return Ok(None);
        };
        let shape = entry::shape_of(Some(&shape), || path_text(path))?;
        let table = Table::own(name, &identity, shape);
        self.fit(connection, table, 0, description).map(Some)
    }

    /// Makes a table what a description wants: the name of its identity, and its columns.
    fn fit(
        &self,
        connection: &Connection,
        table: Table,
        file_id: i64,
        description: &FileDescription,
    ) -> Result<Table, SinkError> {
        let identity = description.format.identity_name();
        if identity != table.identity && self.ddl == Ddl::Manage {
            let rename = format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                quoted(&table.name),
                quoted(&table.identity),
                quoted(identity)
            );
            connection
                .execute(&rename, [])
                .doing(|| format!("renaming a column of table {}", table.name))?;
        }
        let table = Table::own(table.name, identity, table.shape);
        let mut evolution = evolution_to(&table.shape, description)?;
        let emptied = if self.ddl == Ddl::Manage {
            Vec::new()
        } else {
            structure::leave_to_others(
                connection,
                self.ddl,
                &table,
                (file_id, description),
                &mut evolution,
            )?
        };
        if !evolution.is_nothing() {
            let raw = Plan::raw();
            let plan = description.plan.as_deref().unwrap_or(&raw);
            evolution::evolve(connection, &table, file_id, plan, &evolution)?;
        }
        structure::empty(connection, &table.name, &emptied)?;
        Ok(Table::own(table.name, identity, evolution.shape))
    }

    /// A new table of one file.
    fn make_table(
        &mut self,
        connection: &Connection,
        description: &FileDescription,
    ) -> Result<Table, SinkError> {
        let creating = || format!("making a table for {}", path_text(&description.path));
        let identity = description.format.identity_name();
        let plan = description.plan.as_deref();
        let shape = plan.map_or_else(Shape::default, |plan| plan.shape().clone());
        let create = |name: &str| create_table(name, identity, &shape);
        let name = if self.ddl == Ddl::Manage {
            let name = self.free_name(connection, description)?;
            connection.execute(&create(&name)?, []).doing(creating)?;
            structure::make_index(connection, &name, &shape)?;
            name
        } else {
            structure::take_table(connection, self.ddl, description, &shape.key, &create)?
        };
        Ok(Table::own(name, identity, shape))
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
                let wants_history = description.plan.as_ref().is_some_and(|p| p.is_history());
                let there = if wants_history {
                    self.history_of(connection, stream, description)?
                } else {
                    None
                };
                let table = match there {
                    Some(table) => table,
                    None => self.make_table(connection, description)?,
                };
                (None, Arc::new(table))
            }
        };
        let format = FormatWords::of(&description.format)?;
        connection
            .prepare_cached(
                "INSERT INTO counterfoil_files (stream, path, path_text, file_group, organization, layout, record_size,
                     varseq_format, table_name, table_configured, tree_id, shape, size)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 0)",
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
                    entry::shape_text(&table.shape),
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
        if tree.is_none() {
            let mut table = Table::own(
                file.table.name.clone(),
                &file.table.identity,
                file.table.shape.clone(),
            );
            // (A history keeps its name.)
            if !table.is_history() && wanted_name(&file.description)? != wanted_name(description)? {
                table.name = self.rename_table(connection, &table, description)?;
            }
            file.table = Arc::new(self.fit(connection, table, file.file_id, description)?);
        }
        let format = FormatWords::of(&description.format)?;
        connection
            .prepare_cached(
                "UPDATE counterfoil_files
                 SET path = ?2, path_text = ?3, file_group = ?4, organization = ?5, layout = ?6, record_size = ?7,
                     varseq_format = ?8, table_name = ?9, table_configured = ?10, shape = ?11
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
                    file.table.name,
                    description.table,
                    entry::shape_text(&file.table.shape),
                ])
            })
            .doing(changing)?;
        if !file.table.shape.raw {
            file.forget_residue();
        }
        file.description = Arc::clone(description);
        self.remember(stream, &description.path, file);
        Ok(())
    }

    /// Gives a table the name that follows from a description; or, where tables are others' affair, its rows to the table of
    /// that name.
    fn rename_table(
        &mut self,
        connection: &Connection,
        table: &Table,
        description: &FileDescription,
    ) -> Result<String, SinkError> {
        let renaming = || format!("renaming table {}", table.name);
        if self.ddl == Ddl::Manage {
            self.release(&table.name);
            let free = self.free_name(connection, description)?;
            let rename = format!(
                "ALTER TABLE {} RENAME TO {}",
                quoted(&table.name),
                quoted(&free)
            );
            connection.execute(&rename, []).doing(renaming)?;
            return Ok(free);
        }
        let create = |name: &str| create_table(name, &table.identity, &table.shape);
        let name =
            structure::take_table(connection, self.ddl, description, &table.shape.key, &create)?;
        let to = Table::own(name, &table.identity, table.shape.clone());
        let nowhen = Moment::default();
        history::copy_current(connection, table, &to, nowhen)
            .and_then(|()| table.clear_all(connection, 0))
            .doing(renaming)?;
        Ok(to.name)
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
        let manages = self.ddl == Ddl::Manage;
        match self.find_tree(connection, stream, root)? {
            None => {
                let (name, view) = if manages {
                    let name = self.free_name(connection, description)?;
                    let view = self.free_view(connection, &name)?;
                    connection
                        .execute(&create_shared_table(&name), [])
                        .doing(making)?;
                    (name, view)
                } else {
                    let create = |name: &str| Ok(create_shared_table(name));
                    let name =
                        structure::take_table(connection, self.ddl, description, &[], &create)?;
                    let view = format!("{name}_files");
                    (name, view)
                };
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
                if manages {
                    connection
                        .execute(&create_view(&view, &name), [])
                        .doing(making)?;
                }
            }
            // (Where tables are others' affair, the tree's keeps its name.)
            Some(_) if !manages => {}
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
            .execute(&create_view(&new_view, &new_name), [])
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

/// How a table comes to be what a description wants.
fn evolution_to(shape: &Shape, description: &FileDescription) -> Result<Evolution, SinkError> {
    let raw = Plan::raw();
    let plan = description.plan.as_deref().unwrap_or(&raw);
    shape.evolve(plan).map_err(|problems| {
        permanent(
            format!("changing the table of {}", path_text(&description.path)),
            problems.join("; "),
            "change what is wanted in the sink's configuration",
        )
    })
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
