//! The catalogue of a stream's files, and what is remembered of it between batches.
//!
//! What is remembered holds as long as the stored position is the one that this sink stored last: then
//! nobody else has applied anything. After an error it is forgotten.

use super::apply::delete_all_residue;
use super::columns::Columns;
use super::dialect::{Rows, Sql};
use super::entry::{self, Entry, hash};
use super::error::Doing;
use super::history::Stamp;
use super::rows;
use super::session::{Kind, Session, Value};
use super::tables::Structure;
use crate::naming::wanted_name;
use crate::plan::{Mode, Plan, Shape};
use crate::sql::{FormatWords, integer, permanent};
use crate::{Attributes, FileChanges, FileDescription, FileFate, FileKind, SinkError};
use counterfoil_proto::{Position, path_text};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// So many files of a stream are remembered; when there are more, all are forgotten and loaded anew as needed.
const FILES_MAX: usize = 20_000;

/// Files that are looked up with one statement.
const LOOKED_UP_MAX: usize = 100;

/// What is remembered of a stream.
#[derive(Default)]
pub(super) struct Known {
    /// The stored position that it is of.
    pub(super) position: Option<Position>,
    /// By path; `None` is known not to be there.
    files: HashMap<Vec<u8>, Option<File>>,
    /// By root; `None` is known not to be there.
    trees: HashMap<Vec<u8>, Option<Tree>>,
}

/// A file of the catalogue.
pub(super) struct File {
    pub(super) file_id: i64,
    pub(super) description: Arc<FileDescription>,
    /// The view.
    pub(super) table: String,
    pub(super) rows: Rows,
    pub(super) shape: Shape,
    pub(super) attributes: Attributes,
    /// `None` until it is asked for.
    pub(super) has_residue: Option<bool>,
    /// The highest identity that may have a row, if any has; `None` until it is asked for.
    pub(super) last: Option<Option<i64>>,
}

/// A tree, whose files share a table.
#[derive(Clone)]
struct Tree {
    tree_id: i64,
    number: i64,
    table: String,
    view: String,
    table_configured: Option<String>,
}

/// A batch at work: the transaction, what is known, and what it takes of tables and names.
pub(super) struct Work<'a> {
    pub(super) session: &'a mut Session,
    pub(super) known: &'a mut Known,
    pub(super) structure: &'a mut Structure,
    pub(super) stream: &'a str,
    pub(super) now_ns: i64,
    /// Of the batch's last change.
    pub(super) end: Stamp,
}

/// A table that has what a plan wants.
pub(super) struct Fitted {
    pub(super) rows: Rows,
    pub(super) shape: Shape,
    drops_raw: bool,
}

impl File {
    fn of(entry: Entry, sql: &Sql) -> File {
        File {
            file_id: entry.file_id,
            rows: entry.rows(sql),
            shape: entry.shape,
            description: Arc::new(entry.description),
            table: entry.table,
            attributes: entry.attributes,
            has_residue: None,
            last: None,
        }
    }

    /// Whether its table keeps every change.
    pub(super) fn is_history(&self) -> bool {
        self.rows.columns.is_history()
    }
}

impl Known {
    /// Forgets everything if the stored position is another one than that of which it is.
    pub(super) fn refresh(&mut self, stored: Option<Position>) {
        if self.position != stored || self.files.len() > FILES_MAX {
            *self = Known {
                position: stored,
                ..Known::default()
            };
        }
    }
}

/// The shape of a new table for a file.
pub(super) fn wanted_shape(description: &FileDescription) -> Shape {
    let plan = description.plan.as_ref();
    let plan = plan.filter(|_| description.tree.is_none());
    plan.map_or_else(Shape::default, |plan| plan.shape().clone())
}

/// Whether the table of a file keeps every change.
fn wants_history(description: &FileDescription) -> bool {
    wanted_shape(description).mode == Mode::History
}

/// A number of the catalogue's; all of them are below what databases hold.
fn small(number: u64, what: &str) -> Result<i64, SinkError> {
    integer(number, "the database", || format!("storing {what}"))
}

impl Work<'_> {
    /// Looks these paths up, so that they are known from now on, to be there or not.
    pub(super) fn look_up(&mut self, paths: &[&[u8]]) -> Result<(), SinkError> {
        let mut unknown: Vec<&[u8]> = paths
            .iter()
            .copied()
            .filter(|path| !self.known.files.contains_key(*path))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        for paths in unknown.chunks(LOOKED_UP_MAX) {
            let entries = entry::find(self.session, self.stream, paths)?;
            for path in paths {
                self.known.files.insert(path.to_vec(), None);
            }
            for entry in entries {
                let path = entry.description.path.clone();
                let file = File::of(entry, &self.session.sql);
                self.known.files.insert(path, Some(file));
            }
        }
        Ok(())
    }

    /// Makes sure that there are as many tables as the files of the batch will take, about.
    pub(super) fn require_tables(&mut self, files: &[FileChanges]) -> Result<(), SinkError> {
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        for changes in files {
            let is_there = |path: &[u8]| self.known.files.get(path).is_some_and(Option::is_some);
            let from = changes.renamed_from.as_deref();
            if wants_history(&changes.file) {
                // It keeps its table when its file goes or is renamed away, so each name has one of its own.
                // (One that is configured for both names goes with the file.)
                let configured = &changes.file.table;
                let goes_with_it = from.is_some_and(|from| {
                    let from = self.known.files.get(from).and_then(Option::as_ref);
                    configured.is_some()
                        && from.is_some_and(|it| it.description.table == *configured)
                });
                let is_needed = changes.fate == FileFate::Present || changes.logs_records();
                if is_needed
                    && !goes_with_it
                    && !is_there(&changes.file.path)
                    && seen.insert((false, changes.file.path.as_slice()))
                    && self.find_kept(&changes.file)?.is_none()
                {
                    let shape = wanted_shape(&changes.file);
                    wanted.push(Arc::new(Columns::of(&shape, &self.session.sql)));
                }
                continue;
            }
            if changes.fate == FileFate::Removed
                || is_there(&changes.file.path)
                || from.is_some_and(is_there)
            {
                continue;
            }
            match &changes.file.tree {
                Some(root) => {
                    if self.find_tree(root)?.is_none() && seen.insert((true, root.as_slice())) {
                        wanted.push(Arc::new(Columns::shared()));
                    }
                }
                None => {
                    if seen.insert((false, changes.file.path.as_slice())) {
                        let shape = wanted_shape(&changes.file);
                        wanted.push(Arc::new(Columns::of(&shape, &self.session.sql)));
                    }
                }
            }
        }
        self.structure.require(self.session, self.stream, wanted)?;
        for changes in files {
            let from = changes.renamed_from.as_deref();
            let paths = from.into_iter().chain([changes.file.path.as_slice()]);
            for path in paths {
                let file = self.known.files.get(path).and_then(Option::as_ref);
                if let Some(file) = file
                    && (changes.fate == FileFate::Present || file.is_history())
                {
                    self.structure
                        .use_table(&file.rows, || path_text(&file.description.path));
                }
            }
        }
        self.structure.require_checks()
    }

    /// The file with this path, if there is one.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<&mut File>, SinkError> {
        self.look_up(&[path])?;
        Ok(self.known.files.get_mut(path).and_then(Option::as_mut))
    }

    /// Whether the table of the file with this path keeps every change, if there is such a file.
    pub(super) fn is_history(&mut self, path: &[u8]) -> Result<Option<bool>, SinkError> {
        Ok(self.find(path)?.map(|file| file.is_history()))
    }

    /// What is known of a file, which is known not to be there from now on.
    pub(super) fn take_known(&mut self, path: &[u8]) -> Option<File> {
        self.known.files.insert(path.to_vec(), None).flatten()
    }

    /// The file with this description: made if it isn't there, changed if it was described otherwise.
    pub(super) fn ensure(
        &mut self,
        description: &Arc<FileDescription>,
        attributes: &Attributes,
    ) -> Result<(), SinkError> {
        match self.find(&description.path)? {
            None => self.create(description, attributes)?,
            Some(file) if Arc::ptr_eq(&file.description, description) => {}
            // (Of what was only just found, nobody has said what becomes of it.)
            Some(file)
                if *file.description == **description
                    && (description.plan.is_some() || file.shape == Shape::default()) =>
            {
                file.description = Arc::clone(description);
            }
            Some(_) => {
                self.redescribe(&description.path, description)?;
                self.reshape(description)?;
            }
        }
        Ok(())
    }

    /// Makes a file's table what its plan wants.
    pub(super) fn reshape(&mut self, description: &Arc<FileDescription>) -> Result<(), SinkError> {
        let path = &description.path;
        let Some(file) = self.find(path)? else {
            return Ok(());
        };
        let file_id = file.file_id;
        let (rows, shape, table) = (file.rows.clone(), file.shape.clone(), file.table.clone());
        let Some(fitted) = self.fit(&rows, &shape, &table, description)? else {
            return Ok(());
        };
        let changing = || format!("changing the table of {}", path_text(path));
        if fitted.drops_raw {
            delete_all_residue(self.session, file_id).doing(changing)?;
        }
        let text = fitted.shape.text();
        let update = self
            .session
            .sql
            .own("UPDATE {files} SET shape = ?, rows_table = ? WHERE file_id = ?");
        let values = [
            Value::Text(Some(&text)),
            Value::Number(Some(fitted.rows.number)),
            Value::Number(Some(file_id)),
        ];
        self.session.change(&update, &values).doing(changing)?;
        if let Some(file) = self.find(path)? {
            if fitted.drops_raw {
                file.has_residue = Some(false);
            }
            file.rows = fitted.rows;
            file.shape = fitted.shape;
        }
        Ok(())
    }

    /// A table that has what a file's plan wants, with the rows of this one, which is shown as `table`; `None`: it is this
    /// one. One with other columns is another table, and the rows go there: so it is part of the batch's transaction, and takes
    /// no word that only some databases have.
    pub(super) fn fit(
        &mut self,
        old: &Rows,
        shape: &Shape,
        table: &str,
        description: &Arc<FileDescription>,
    ) -> Result<Option<Fitted>, SinkError> {
        if description.tree.is_some() {
            return Ok(None);
        }
        let raw = Plan::raw();
        let plan = description.plan.as_deref().unwrap_or(&raw);
        let path = &description.path;
        let changing = || format!("changing the table of {}", path_text(path));
        let evolution = shape.evolve(plan).map_err(|problems| {
            permanent(
                changing(),
                problems.join("; "),
                "correct what the sink's configuration says of this file",
            )
        })?;
        if evolution.is_nothing() && evolution.shape == *shape {
            return Ok(None);
        }
        let refill = evolution.refill && shape.raw;
        let columns = Arc::new(Columns::of(&evolution.shape, &self.session.sql));
        let mut rows = old.clone();
        if refill || columns.structure != old.columns.structure {
            let number = self
                .structure
                .take_table(self.session, self.stream, &columns)?;
            rows = Rows {
                number,
                file_id: None,
                columns,
            };
            let target = rows::Target {
                rows: &rows,
                shape: &evolution.shape,
                plan: Some(plan),
            };
            match refill {
                true if old.columns.is_history() => {
                    rows::fill_history(self.session, old, target, changing)?;
                }
                true => rows::fill(self.session, old, target, None, changing)?,
                false => {
                    let copy = self.session.sql.copy(old, &rows);
                    self.session.change(&copy, &[]).doing(changing)?;
                }
            }
            self.structure.empty_table(self.session, old, changing)?;
            self.structure.mark(self.session, self.stream, table)?;
        }
        Ok(Some(Fitted {
            rows,
            shape: evolution.shape,
            drops_raw: evolution.drop_raw,
        }))
    }

    /// The file with this path, which was looked up before, and the connection.
    pub(super) fn at(&mut self, path: &[u8]) -> Result<(&mut Session, &mut File), SinkError> {
        let file = self.known.files.get_mut(path).and_then(Option::as_mut);
        let file = file.ok_or_else(|| {
            permanent(
                format!("looking up {}", path_text(path)),
                "its catalogue entry vanished",
                "check whether something else changes the tables",
            )
        })?;
        Ok((self.session, file))
    }

    /// Moves a file to another path. What that path named before is gone.
    pub(super) fn rename(
        &mut self,
        from: &[u8],
        description: &Arc<FileDescription>,
        at: &Stamp,
    ) -> Result<(), SinkError> {
        if self.is_history(from)? == Some(true) {
            return self.rename_history(from, description, at);
        }
        self.remove(&description.path, at)?;
        if self.find(from)?.is_some() {
            self.redescribe(from, description)?;
            self.reshape(description)?;
        }
        Ok(())
    }

    /// Empties a file's table and lets go of it, and deletes its residue and its entry. A history is kept, and its records
    /// are deleted at that moment. No such file: nothing to do.
    pub(super) fn remove(&mut self, path: &[u8], at: &Stamp) -> Result<(), SinkError> {
        if self.find(path)?.is_none() {
            return Ok(());
        }
        let Some(file) = self.take_known(path) else {
            return Ok(());
        };
        let removing = || format!("removing {}", path_text(path));
        if file.is_history() {
            self.end_history(&file, at)?;
        } else if file.rows.file_id.is_some() {
            let clear = self.session.sql.clear(&file.rows, (0, i64::MAX));
            self.session.change(&clear, &[]).doing(removing)?;
        } else {
            self.structure
                .release_name(self.session, self.stream, &file.table)?;
            self.structure
                .empty_table(self.session, &file.rows, removing)?;
        }
        self.forget(&file)
    }

    /// Deletes the residue and the entry of a file, and leaves its table alone.
    pub(super) fn forget(&mut self, file: &File) -> Result<(), SinkError> {
        let removing = || format!("removing {}", path_text(&file.description.path));
        if file.has_residue != Some(false) {
            delete_all_residue(self.session, file.file_id).doing(removing)?;
        }
        let delete = self
            .session
            .sql
            .own("DELETE FROM {files} WHERE file_id = ?");
        self.session
            .change(&delete, &[Value::Number(Some(file.file_id))])
            .doing(removing)?;
        Ok(())
    }

    fn create(
        &mut self,
        description: &Arc<FileDescription>,
        attributes: &Attributes,
    ) -> Result<(), SinkError> {
        let creating = || format!("making the entry of {}", path_text(&description.path));
        let mut shape = wanted_shape(description);
        let kept = match wants_history(description) {
            true => self.take_kept(description)?,
            false => None,
        };
        let is_kept = kept.is_some();
        let (tree_id, number, table, columns) = match &description.tree {
            Some(root) => {
                let tree = self.tree(root, description)?;
                (
                    Some(tree.tree_id),
                    tree.number,
                    tree.table,
                    Arc::new(Columns::shared()),
                )
            }
            None if is_kept => {
                let (number, table, columns);
                (number, table, columns, shape) = match kept {
                    Some(kept) => (kept.rows.number, kept.table, kept.rows.columns, kept.shape),
                    None => return Ok(()),
                };
                (None, number, table, columns)
            }
            None => {
                let table = self.take_name(description)?;
                let columns = Arc::new(Columns::of(&shape, &self.session.sql));
                let number = self
                    .structure
                    .take_table(self.session, self.stream, &columns)?;
                (None, number, table, columns)
            }
        };
        let file_id = self.structure.next_number(self.session)?;
        let format = FormatWords::of(&description.format)?;
        let path = &description.path;
        let path_hash = hash(path);
        let path_text = path_text(path);
        let shape_text = shape.text();
        let values = [
            Value::Number(Some(file_id)),
            Value::Text(Some(self.stream)),
            Value::Text(Some(&path_hash)),
            Value::Bytes(Some(path)),
            Value::Text(Some(&path_text)),
            Value::Text(Some(&description.group)),
            Value::Text(Some(&format.organization)),
            Value::Text(Some(&format.layout)),
            Value::Number(format.record_size),
            Value::Number(format.varseq_format),
            Value::Text(Some(description.format.identity_name())),
            Value::Number(tree_id),
            Value::Number(Some(number)),
            Value::Text(Some(&table)),
            Value::Text(description.table.as_deref()),
            Value::Text(Some(&shape_text)),
            Value::Text(attributes.kind.map(FileKind::name)),
            Value::Number(Some(small(attributes.size, "the size of a file")?)),
            Value::Number(attributes.mode.map(i64::from)),
            Value::Number(attributes.uid.map(i64::from)),
            Value::Number(attributes.gid.map(i64::from)),
            Value::Number(attributes.modified_ns),
        ];
        let insert = self.session.sql.own(
            "INSERT INTO {files} (file_id, stream, path_hash, path, path_text, file_group, organization, layout, record_size,
                 varseq_format, identity_name, tree_id, rows_table, table_name, table_configured, shape, file_kind, file_size,
                 file_mode, owner_uid, owner_gid, modified_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        );
        self.session.change(&insert, &values).doing(creating)?;
        let file = File {
            file_id,
            description: Arc::clone(description),
            table,
            rows: Rows {
                number,
                file_id: tree_id.map(|_| file_id),
                columns,
            },
            shape,
            attributes: *attributes,
            has_residue: Some(false),
            last: (!is_kept).then_some(None),
        };
        self.known
            .files
            .insert(description.path.clone(), Some(file));
        if is_kept {
            self.reshape(description)?;
        }
        Ok(())
    }

    /// Gives the file at `from` another description, and its view the name that follows from it.
    pub(super) fn redescribe(
        &mut self,
        from: &[u8],
        description: &Arc<FileDescription>,
    ) -> Result<(), SinkError> {
        let Some(known) = self.find(from)? else {
            return Ok(());
        };
        let tree = known.description.tree.clone();
        if tree != description.tree {
            // What its rows are is something else from now on.
            let end = self.end.clone();
            self.remove(from, &end)?;
            return self.create(description, &Attributes::default());
        }
        if let Some(root) = &tree {
            // The tree's table follows the configuration with the first of its files that does.
            self.tree(root, description)?;
            self.find(from)?;
        }
        let Some(mut file) = self.known.files.insert(from.to_vec(), None).flatten() else {
            return Ok(());
        };
        let identity = description.format.identity_name();
        if tree.is_none() {
            if wanted_name(&file.description)? != wanted_name(description)? {
                self.structure.list_names(self.session)?;
                self.structure
                    .release_name(self.session, self.stream, &file.table)?;
                file.table = self.take_name(description)?;
            } else if identity != file.description.format.identity_name() {
                self.structure
                    .mark(self.session, self.stream, &file.table)?;
            }
        }
        self.store(file, description)
    }

    /// Gives a file that was taken from what is known this description, and stores where its rows are and what they are.
    pub(super) fn store(
        &mut self,
        mut file: File,
        description: &Arc<FileDescription>,
    ) -> Result<(), SinkError> {
        let changing = || {
            format!(
                "changing the entry of {} to {}",
                path_text(&file.description.path),
                path_text(&description.path)
            )
        };
        let shape = file.shape.text();
        let identity = description.format.identity_name();
        let format = FormatWords::of(&description.format)?;
        let path_hash = hash(&description.path);
        let path_text = path_text(&description.path);
        let values = [
            Value::Text(Some(&path_hash)),
            Value::Bytes(Some(&description.path)),
            Value::Text(Some(&path_text)),
            Value::Text(Some(&description.group)),
            Value::Text(Some(&format.organization)),
            Value::Text(Some(&format.layout)),
            Value::Number(format.record_size),
            Value::Number(format.varseq_format),
            Value::Text(Some(identity)),
            Value::Text(Some(&file.table)),
            Value::Text(description.table.as_deref()),
            Value::Number(Some(file.rows.number)),
            Value::Text(Some(&shape)),
            Value::Number(Some(file.file_id)),
        ];
        let update = self.session.sql.own(
            "UPDATE {files} SET path_hash = ?, path = ?, path_text = ?, file_group = ?, organization = ?, layout = ?,
                 record_size = ?, varseq_format = ?, identity_name = ?, table_name = ?, table_configured = ?, rows_table = ?,
                 shape = ? WHERE file_id = ?",
        );
        self.session.change(&update, &values).doing(changing)?;
        file.description = Arc::clone(description);
        self.known
            .files
            .insert(description.path.clone(), Some(file));
        Ok(())
    }

    /// The tree that a file is described to belong to: made if it isn't there, with its view renamed if the
    /// configuration asks for another.
    fn tree(&mut self, root: &[u8], description: &FileDescription) -> Result<Tree, SinkError> {
        let making = || format!("making the entry of the tree {}", path_text(root));
        let tree = match self.find_tree(root)?.cloned() {
            None => {
                let table = self.take_name(description)?;
                let view = self.take_view(&table)?;
                let number = self.structure.take_table(
                    self.session,
                    self.stream,
                    &Arc::new(Columns::shared()),
                )?;
                let tree_id = self.structure.next_number(self.session)?;
                let root_text = path_text(root);
                let values = [
                    Value::Number(Some(tree_id)),
                    Value::Text(Some(self.stream)),
                    Value::Bytes(Some(root)),
                    Value::Text(Some(&root_text)),
                    Value::Number(Some(number)),
                    Value::Text(Some(&table)),
                    Value::Text(description.table.as_deref()),
                    Value::Text(Some(&view)),
                ];
                let insert = self.session.sql.own(
                    "INSERT INTO {trees} (tree_id, stream, root, root_text, rows_table, table_name, table_configured, view_name)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                );
                self.session.change(&insert, &values).doing(making)?;
                Tree {
                    tree_id,
                    number,
                    table,
                    view,
                    table_configured: description.table.clone(),
                }
            }
            Some(tree) if tree.table_configured != description.table => {
                self.rename_tree(&tree, description)?
            }
            Some(tree) => return Ok(tree),
        };
        self.known.trees.insert(root.to_vec(), Some(tree.clone()));
        Ok(tree)
    }

    fn find_tree(&mut self, root: &[u8]) -> Result<Option<&Tree>, SinkError> {
        if !self.known.trees.contains_key(root) {
            let looking = || format!("looking up the tree {}", path_text(root));
            let select = self.session.sql.own(
                "SELECT root, tree_id, rows_table, table_name, view_name, table_configured FROM {trees} WHERE stream = ?",
            );
            let kinds = [
                Kind::Bytes,
                Kind::Number,
                Kind::Number,
                Kind::Text,
                Kind::Text,
                Kind::Text,
            ];
            // There are few, and not all databases compare bytes of any length.
            let rows = self
                .session
                .rows(&select, &[Value::Text(Some(self.stream))], &kinds)
                .doing(looking)?;
            for mut row in rows {
                let found = row.bytes(0);
                let tree = Tree {
                    tree_id: row.known_number(1).doing(looking)?,
                    number: row.known_number(2).doing(looking)?,
                    table: row.text(3).unwrap_or_default(),
                    view: row.text(4).unwrap_or_default(),
                    table_configured: row.text(5),
                };
                self.known.trees.insert(found, Some(tree));
            }
            self.known.trees.entry(root.to_vec()).or_insert(None);
        }
        Ok(self.known.trees.get(root).and_then(Option::as_ref))
    }

    /// Gives the views of a tree the names that follow from a description.
    fn rename_tree(
        &mut self,
        tree: &Tree,
        description: &FileDescription,
    ) -> Result<Tree, SinkError> {
        let renaming = || format!("renaming the table {} of a tree", tree.table);
        self.structure.list_names(self.session)?;
        self.structure
            .release_name(self.session, self.stream, &tree.table)?;
        self.structure
            .release_name(self.session, self.stream, &tree.view)?;
        let table = self.take_name(description)?;
        let view = self.take_view(&table)?;
        let values = [
            Value::Text(Some(&table)),
            Value::Text(description.table.as_deref()),
            Value::Text(Some(&view)),
            Value::Number(Some(tree.tree_id)),
        ];
        let update = self
            .session
            .sql
            .own("UPDATE {trees} SET table_name = ?, table_configured = ?, view_name = ? WHERE tree_id = ?");
        self.session.change(&update, &values).doing(renaming)?;
        // All that is remembered of its files speaks of the table as it was.
        self.known.files.clear();
        Ok(Tree {
            table,
            view,
            table_configured: description.table.clone(),
            ..*tree
        })
    }

    /// A name for the view of a file, or a tree, that nothing in the database has yet.
    pub(super) fn take_name(&mut self, description: &FileDescription) -> Result<String, SinkError> {
        let wanted = wanted_name(description)?;
        let name = self
            .structure
            .take_name(self.session, self.stream, &wanted)?;
        if description.table.is_some() && !name.eq_ignore_ascii_case(&wanted) {
            tracing::warn!(
                file = path_text(description.named_for()),
                configured = wanted,
                table = name,
                "the configured table name is taken in this database, or isn't one; using another"
            );
        }
        Ok(name)
    }

    fn take_view(&mut self, table: &str) -> Result<String, SinkError> {
        self.structure
            .take_name(self.session, self.stream, &format!("{table}_files"))
    }
}
