//! The catalogue of a stream's files, and what is remembered of it between batches.
//!
//! What is remembered holds as long as the stored position is the one that this sink stored last: then
//! nobody else has applied anything. After an error it is forgotten.

use super::columns::Columns;
use super::config::MysqlConfig;
use super::entry::{self, Entry, SELECT_ENTRIES, read_shape};
use super::error::{Doing, NO_TABLE, is_code};
use super::history;
use super::policy;
use super::rows::{Rows, Stamp};
use super::schema::{limited, rows_table};
use super::session::{Session, column};
use super::structure::{Make, Structure};
use crate::naming::wanted_name;
use crate::plan::{Ddl, Mode, Shape};
use crate::sql::FormatWords;
use crate::sql::permanent;
use crate::{Attributes, FileDescription, FileKind, SinkError};
use counterfoil_proto::{Position, path_text};
use mysql_async::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// So many files of a stream are remembered; when there are more, all are forgotten and loaded anew as needed.
const FILES_MAX: usize = 20_000;

/// Files that are looked up with one statement, the largest number that fits first.
const LOOKED_UP: [usize; 3] = [128, 16, 1];

/// Names that a kept table may have for a file are looked up with one statement, so many at once.
const NAMES_LOOKED_UP: u32 = 64;

/// What is remembered of a stream.
#[derive(Default)]
pub(super) struct Known {
    /// The stored position that it is of.
    pub(super) position: Option<Position>,
    /// By path; `None` is known not to be there.
    files: HashMap<Vec<u8>, Option<File>>,
    /// By root.
    trees: HashMap<Vec<u8>, Tree>,
}

/// A file of the catalogue.
pub(super) struct File {
    pub(super) file_id: u64,
    pub(super) description: Arc<FileDescription>,
    /// The view.
    pub(super) table: String,
    pub(super) rows: Rows,
    pub(super) attributes: Attributes,
    /// `None` until it is asked for.
    pub(super) has_residue: Option<bool>,
    /// The highest identity that may have a row, if any has; `None` until it is asked for.
    pub(super) last: Option<Option<u64>>,
}

/// A table that has no file, and is kept for the next one of its name: made beforehand, or with a history in it.
pub(super) struct Kept {
    pub(super) number: u64,
    /// What it is kept for.
    pub(super) name: String,
    pub(super) shape: Shape,
}

/// A tree, whose files share a table.
#[derive(Clone)]
struct Tree {
    tree_id: u64,
    rows: u64,
    table: String,
    view: String,
    table_configured: Option<String>,
}

/// A batch at work: the transaction, what is known, and the structure once it is needed.
pub(super) struct Work<'a> {
    pub(super) session: &'a mut Session,
    pub(super) known: &'a mut Known,
    pub(super) structure: &'a mut Option<Structure>,
    pub(super) config: &'a MysqlConfig,
    pub(super) stream: &'a str,
    /// Of the batch.
    pub(super) position: Position,
    pub(super) now_ns: i64,
}

impl From<Entry> for File {
    fn from(entry: Entry) -> File {
        let is_shared = entry.description.tree.is_some();
        File {
            file_id: entry.file_id,
            rows: Rows {
                number: entry.rows,
                file_id: is_shared.then_some(entry.file_id),
                columns: Columns::new(entry.shape, None),
            },
            description: Arc::new(entry.description),
            table: entry.table,
            attributes: entry.attributes,
            has_residue: None,
            last: None,
        }
    }
}

impl Known {
    /// The file with this path, which is known no longer.
    pub(super) fn take(&mut self, path: &[u8]) -> Option<File> {
        self.files.insert(path.to_vec(), None).flatten()
    }

    /// What is known of the file with this path from now on.
    pub(super) fn put_back(&mut self, path: &[u8], file: Option<File>) {
        self.files.insert(path.to_vec(), file);
    }

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

impl Work<'_> {
    /// Looks these paths up, so that they are known from now on, to be there or not.
    pub(super) async fn look_up(&mut self, paths: &[&[u8]]) -> Result<(), SinkError> {
        let looking = || "looking up files".to_owned();
        let mut unknown: Vec<&[u8]> = paths
            .iter()
            .copied()
            .filter(|path| !self.known.files.contains_key(*path))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        let mut unknown = &unknown[..];
        while let Some(count) = LOOKED_UP.into_iter().find(|&count| count <= unknown.len()) {
            let (now, later) = unknown.split_at(count);
            unknown = later;
            let hashes = vec!["UNHEX(SHA2(?, 256))"; count].join(",");
            let sql = format!("{SELECT_ENTRIES} WHERE f.stream = ? AND f.path_hash IN ({hashes})");
            let params: Vec<Value> = std::iter::once(Value::from(self.stream))
                .chain(now.iter().map(|&path| Value::from(path)))
                .collect();
            let rows = self.session.rows(&sql, params).await.doing(looking)?;
            for path in now {
                self.known.files.insert(path.to_vec(), None);
            }
            for row in &rows {
                let entry = entry::read(row)?;
                let path = entry.description.path.clone();
                self.known.files.insert(path, Some(entry.into()));
            }
        }
        Ok(())
    }

    /// The file with this path, if there is one.
    async fn find(&mut self, path: &[u8]) -> Result<Option<&mut File>, SinkError> {
        self.look_up(&[path]).await?;
        Ok(self.known.files.get_mut(path).and_then(Option::as_mut))
    }

    /// The file with this description: made if it isn't there, changed if it was described otherwise.
    pub(super) async fn ensure(
        &mut self,
        description: &Arc<FileDescription>,
        attributes: &Attributes,
    ) -> Result<(), SinkError> {
        let ddl = self.config.ddl;
        match self.find(&description.path).await? {
            None => self.create(description, attributes).await?,
            Some(file) if Arc::ptr_eq(&file.description, description) => {}
            // A table of raw images alone is as it has to be, unless a plan says otherwise, which isn't stored.
            Some(file) if *file.description == **description && file.rows.columns.is_none() => {
                file.description = Arc::clone(description);
                if ddl == Ddl::Check && description.tree.is_none() {
                    let number = file.rows.number;
                    let path = || path_text(&description.path);
                    policy::check_rows(self.session, number, &Shape::default(), path).await?;
                }
            }
            Some(_) => self.redescribe(&description.path, description).await?,
        }
        Ok(())
    }

    /// Whether the table of the file with this path, if it is there, is a history.
    pub(super) fn is_history(&self, path: &[u8]) -> bool {
        let file = self.known.files.get(path).and_then(Option::as_ref);
        file.is_some_and(|file| file.rows.is_history())
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

    /// Moves a file to another path. What that path named before is gone. `stamp` is for histories.
    pub(super) async fn rename(
        &mut self,
        from: &[u8],
        description: &Arc<FileDescription>,
        stamp: Stamp,
    ) -> Result<(), SinkError> {
        let is_history = match self.find(from).await? {
            None => {
                return self.remove(&description.path, stamp).await;
            }
            Some(file) => file.rows.is_history(),
        };
        if is_history {
            return self.rename_history(from, description, stamp).await;
        }
        self.remove(&description.path, stamp).await?;
        self.redescribe(from, description).await
    }

    /// Lets go of a file's table (of its rows, if it shares one), its residue and its entry. No such file: nothing to do.
    /// A history stays, and says that all is gone.
    pub(super) async fn remove(&mut self, path: &[u8], stamp: Stamp) -> Result<(), SinkError> {
        if self.find(path).await?.is_none() {
            return Ok(());
        }
        let Some(file) = self.known.take(path) else {
            return Ok(());
        };
        let removing = || format!("removing {}", path_text(path));
        if file.rows.is_history() {
            history::clear(self.session, &file.rows, &(0..u64::MAX), stamp)
                .await
                .doing(removing)?;
            self.keep(&file).await?;
        } else if file.rows.file_id.is_some() || !self.may_define() {
            file.rows
                .clear(self.session, &(0..u64::MAX))
                .await
                .doing(removing)?;
            if file.rows.file_id.is_none() {
                self.keep(&file).await?;
            }
        } else {
            self.structure().await?;
            self.release(&file.table).await?;
            self.release_rows(file.rows.number).await.doing(removing)?;
        }
        self.forget(&file).await.doing(removing)
    }

    /// Deletes a file's residue and entry.
    pub(super) async fn forget(&mut self, file: &File) -> Result<(), mysql_async::Error> {
        if file.has_residue != Some(false) {
            self.delete_residue(file.file_id).await?;
        }
        let sql = "DELETE FROM counterfoil_files WHERE file_id = ?";
        self.session.run(sql, (file.file_id,)).await?;
        Ok(())
    }

    /// Deletes all of a file's residue.
    pub(super) async fn delete_residue(&mut self, file_id: u64) -> Result<(), mysql_async::Error> {
        let sql = "DELETE FROM counterfoil_residue WHERE file_id = ?";
        self.session.run(sql, (file_id,)).await?;
        Ok(())
    }

    /// Has a table dropped when nobody reads it any more.
    pub(super) async fn release_rows(&mut self, number: u64) -> Result<(), mysql_async::Error> {
        let sql = "UPDATE counterfoil_tables SET released_ns = ? WHERE rows_table = ?";
        self.session.run(sql, (self.now_ns, number)).await?;
        let sql = "DELETE FROM counterfoil_shapes WHERE rows_table = ?";
        self.session.run(sql, (number,)).await?;
        Ok(())
    }

    /// Whether tables and views may be made and changed.
    pub(super) fn may_define(&self) -> bool {
        self.config.ddl == Ddl::Manage
    }

    /// Stores what a table is.
    pub(super) async fn set_shape(&mut self, number: u64, shape: &Shape) -> Result<(), SinkError> {
        let storing = || format!("storing the shape of {}", rows_table(number));
        if *shape == Shape::default() {
            let sql = "DELETE FROM counterfoil_shapes WHERE rows_table = ?";
            self.session.run(sql, (number,)).await.doing(storing)?;
            return Ok(());
        }
        self.session
            .run(
                "INSERT INTO counterfoil_shapes (rows_table, shape) VALUES (?, ?)
                 ON DUPLICATE KEY UPDATE shape = VALUES(shape), kept_for = NULL, identity = NULL",
                (number, shape.text()),
            )
            .await
            .doing(storing)?;
        Ok(())
    }

    /// Keeps a file's table for the next file of its name.
    pub(super) async fn keep(&mut self, file: &File) -> Result<(), SinkError> {
        self.session
            .run(
                "INSERT INTO counterfoil_shapes (rows_table, shape, kept_for, identity) VALUES (?, ?, ?, ?)
                 ON DUPLICATE KEY UPDATE kept_for = VALUES(kept_for), identity = VALUES(identity)",
                (
                    file.rows.number,
                    file.rows.shape().text(),
                    &file.table,
                    file.description.format.identity_name(),
                ),
            )
            .await
            .doing(|| format!("keeping the table {}", file.table))?;
        Ok(())
    }

    /// The table that is kept for files of this name, if there is one: for the name itself, or the second, third, ... choice
    /// for it. Of several it is the first of this shape, else the first of its mode.
    pub(super) async fn find_kept(
        &mut self,
        wanted: &str,
        is_shared: bool,
        shape: &Shape,
    ) -> Result<Option<Kept>, SinkError> {
        let looking = || format!("looking for a table that is kept for {wanted:?}");
        let mut first = 1_u32;
        loop {
            let numbers = first..first.saturating_add(NAMES_LOOKED_UP);
            let names: Vec<String> = numbers.map(|number| limited(wanted, number)).collect();
            let any_of = vec!["?"; names.len()].join(",");
            let sql = format!(
                "SELECT s.rows_table, s.kept_for, s.shape FROM counterfoil_shapes AS s
                 JOIN counterfoil_tables AS n ON n.rows_table = s.rows_table
                 WHERE s.kept_for IN ({any_of}) AND n.released_ns IS NULL AND (n.stream = ? OR n.stream = '')
                     AND (n.is_shared = 1) = ?"
            );
            let mut params: Vec<Value> = names.iter().map(Value::from).collect();
            params.extend([self.stream.into(), is_shared.into()]);
            let rows = self.session.rows(&sql, params).await.doing(looking)?;
            let mut found = Vec::new();
            for row in &rows {
                let text: String = column(row, 2).doing(looking)?;
                let kept = Kept {
                    number: column(row, 0).doing(looking)?,
                    name: column(row, 1).doing(looking)?,
                    shape: read_shape(Some(&text), looking)?,
                };
                if kept.shape.mode == shape.mode {
                    found.push(kept);
                }
            }
            let choice = |kept: &Kept| names.iter().position(|name| *name == kept.name);
            let first_of_all = found
                .into_iter()
                .min_by_key(|kept| (kept.shape != *shape, choice(kept)));
            if first_of_all.is_some() {
                return Ok(first_of_all);
            }
            // Names are given in order, so there are no more behind one that nothing has.
            let sql = format!("SELECT COUNT(*) FROM counterfoil_views WHERE name IN ({any_of})");
            let params: Vec<Value> = names.iter().map(Value::from).collect();
            let count: usize = match self.session.first(&sql, params).await.doing(looking)? {
                Some(row) => column(&row, 0).doing(looking)?,
                None => 0,
            };
            if count < names.len() {
                return Ok(None);
            }
            first = first.saturating_add(NAMES_LOOKED_UP);
        }
    }

    /// Refuses a kept table that has rows: nobody knows of what.
    async fn check_empty(&mut self, kept: &Kept) -> Result<(), SinkError> {
        if kept.shape.mode == Mode::History {
            return Ok(());
        }
        let table = rows_table(kept.number);
        let taking = || {
            format!(
                "taking the table {table}, which is kept for {:?}",
                kept.name
            )
        };
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table})");
        let has_rows = match self.session.first(&sql, ()).await {
            // Whoever looks at it, or writes to it, says so.
            Err(error) if is_code(&error, &NO_TABLE) => false,
            found => match found.doing(taking)? {
                Some(row) => column::<u8>(&row, 0).doing(taking)? != 0,
                None => false,
            },
        };
        if !has_rows {
            return Ok(());
        }
        Err(permanent(
            taking(),
            "it has rows already, which Counterfoil didn't write",
            format!("save the rows if they are wanted, and delete them all: DELETE FROM {table}"),
        ))
    }

    /// A table for a file, empty or with a history in it, and its view's name: one that is kept, or a new one.
    pub(super) async fn take_table(
        &mut self,
        description: &FileDescription,
    ) -> Result<(Rows, String), SinkError> {
        let plan = description.plan.as_ref();
        let shape = plan.map_or_else(Shape::default, |plan| plan.shape().clone());
        let wanted = wanted_name(description)?;
        if let Some(kept) = self.find_kept(&wanted, false, &shape).await? {
            self.check_empty(&kept).await?;
            let wanted = kept.name;
            let sql = "UPDATE counterfoil_shapes SET kept_for = NULL, identity = NULL WHERE rows_table = ?";
            self.session
                .run(sql, (kept.number,))
                .await
                .doing(|| format!("taking the table {wanted:?}"))?;
            let rows = Rows {
                number: kept.number,
                file_id: None,
                columns: Columns::new(kept.shape, None),
            };
            if self.may_define() {
                self.structure().await?;
                self.mark_stale(&wanted).await?;
            }
            let rows = self.fit(rows, description).await?;
            return Ok((rows, wanted));
        }
        if !self.may_define() {
            return Err(self.not_prepared(description, &limited(&wanted, 1)));
        }
        let table = self.take_name(description).await?;
        let columns = Columns::new(shape, plan.cloned());
        let number = match &columns {
            None => self.new_rows(Make::Raw).await?,
            Some(columns) => {
                let number = self.new_rows(Make::Shaped(&columns.shape)).await?;
                self.set_shape(number, &columns.shape).await?;
                number
            }
        };
        let rows = Rows {
            number,
            file_id: None,
            columns,
        };
        Ok((rows, table))
    }

    /// The error where a table should have been made beforehand.
    fn not_prepared(&self, description: &FileDescription, name: &str) -> SinkError {
        permanent(
            format!("looking for the table of {}", path_text(&description.path)),
            format!(
                "there is no table that is kept for the name {name:?}, and none may be made (`ddl`)"
            ),
            "run what `counterfoil schema sql` prints for this file, or let the tables be made with `ddl = \"manage\"`",
        )
    }

    async fn create(
        &mut self,
        description: &Arc<FileDescription>,
        attributes: &Attributes,
    ) -> Result<(), SinkError> {
        let creating = || format!("making a table for {}", path_text(&description.path));
        let (tree_id, rows, table) = match &description.tree {
            Some(root) => {
                let tree = self.tree(root, description).await?;
                let rows = Rows {
                    number: tree.rows,
                    file_id: None,
                    columns: None,
                };
                (Some(tree.tree_id), rows, tree.table)
            }
            None => {
                let (rows, table) = self.take_table(description).await?;
                (None, rows, table)
            }
        };
        let format = FormatWords::of(&description.format)?;
        let params: Vec<Value> = vec![
            self.stream.into(),
            description.path.as_slice().into(),
            description.path.as_slice().into(),
            path_text(&description.path).into(),
            description.group.as_str().into(),
            format.organization.into(),
            format.layout.into(),
            format.record_size.into(),
            format.varseq_format.into(),
            description.format.identity_name().into(),
            tree_id.into(),
            rows.number.into(),
            table.as_str().into(),
            description.table.as_deref().into(),
            attributes.size.into(),
            attributes.mode.into(),
            attributes.uid.into(),
            attributes.gid.into(),
            attributes.modified_ns.into(),
            attributes.kind.map(FileKind::name).into(),
        ];
        self.session
            .run(
                "INSERT INTO counterfoil_files (stream, path, path_hash, path_text, file_group, organization, layout,
                     record_size, varseq_format, identity, tree_id, rows_table, table_name, table_configured,
                     size, mode, uid, gid, modified_ns, kind)
                 VALUES (?, ?, UNHEX(SHA2(?, 256)), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params,
            )
            .await
            .doing(creating)?;
        let file_id = self.session.inserted_id();
        let file = File {
            file_id,
            description: Arc::clone(description),
            table,
            // What is in a history isn't known.
            last: (!rows.is_history()).then_some(None),
            rows: Rows {
                file_id: tree_id.map(|_| file_id),
                ..rows
            },
            attributes: *attributes,
            has_residue: Some(false),
        };
        self.known.put_back(&description.path, Some(file));
        Ok(())
    }

    /// Gives the file at `from` another description, and its view the name that follows from it.
    pub(super) async fn redescribe(
        &mut self,
        from: &[u8],
        description: &Arc<FileDescription>,
    ) -> Result<(), SinkError> {
        let Some(known) = self.find(from).await? else {
            return Ok(());
        };
        let tree = known.description.tree.clone();
        if tree != description.tree {
            // What its rows are is something else from now on.
            let stamp = Stamp {
                position: self.position,
                captured_ns: self.now_ns,
                is_delete: true,
            };
            self.remove(from, stamp).await?;
            return self.create(description, &Attributes::default()).await;
        }
        if let Some(root) = &tree {
            // The tree's table follows the configuration with the first of its files that does.
            self.tree(root, description).await?;
            self.find(from).await?;
        }
        let Some(mut file) = self.known.take(from) else {
            return Ok(());
        };
        let changing = || {
            format!(
                "changing the entry of {} to {}",
                path_text(from),
                path_text(&description.path)
            )
        };
        let identity = description.format.identity_name();
        if tree.is_none() {
            if wanted_name(&file.description)? != wanted_name(description)? {
                if self.may_define() {
                    self.list_names().await?;
                    self.release(&file.table).await?;
                    // A table that is kept for the new name is empty, and makes way.
                    let wanted = wanted_name(description)?;
                    let mirror = Shape::default();
                    if let Some(kept) = self.find_kept(&wanted, false, &mirror).await? {
                        self.check_empty(&kept).await?;
                        self.release_rows(kept.number).await.doing(changing)?;
                        self.release(&kept.name).await?;
                    }
                    file.table = self.take_name(description).await?;
                } else if file.rows.is_history() {
                    return Err(permanent(
                        changing(),
                        format!(
                            "its history is in the table {}, and none may be renamed (`ddl`)",
                            file.table
                        ),
                        "leave the table its name, or let it be changed with `ddl = \"manage\"`",
                    ));
                } else {
                    self.move_rows(&mut file, description).await?;
                }
            } else if identity != file.description.format.identity_name() && self.may_define() {
                self.structure().await?;
                self.mark_stale(&file.table).await?;
            }
            let before = file.rows.clone();
            file.rows = self.fit(before.clone(), description).await?;
            if file.rows.has_raw() != before.has_raw() {
                self.delete_residue(file.file_id).await.doing(changing)?;
                file.has_residue = Some(false);
            }
            if !same_columns(&file.rows, &before) && self.may_define() {
                self.structure().await?;
                self.mark_stale(&file.table).await?;
            }
        }
        file.description = Arc::clone(description);
        self.store_entry(&file).await?;
        self.known.put_back(&description.path, Some(file));
        Ok(())
    }

    /// Stores a file's entry anew, but for its attributes.
    pub(super) async fn store_entry(&mut self, file: &File) -> Result<(), SinkError> {
        let description = &file.description;
        let format = FormatWords::of(&description.format)?;
        let params: Vec<Value> = vec![
            description.path.as_slice().into(),
            description.path.as_slice().into(),
            path_text(&description.path).into(),
            description.group.as_str().into(),
            format.organization.into(),
            format.layout.into(),
            format.record_size.into(),
            format.varseq_format.into(),
            description.format.identity_name().into(),
            file.rows.number.into(),
            file.table.as_str().into(),
            description.table.as_deref().into(),
            file.file_id.into(),
        ];
        self.session
            .run(
                "UPDATE counterfoil_files
                 SET path = ?, path_hash = UNHEX(SHA2(?, 256)), path_text = ?, file_group = ?, organization = ?,
                     layout = ?, record_size = ?, varseq_format = ?, identity = ?, rows_table = ?, table_name = ?,
                     table_configured = ?
                 WHERE file_id = ?",
                params,
            )
            .await
            .doing(|| format!("changing the entry of {}", path_text(&description.path)))?;
        Ok(())
    }

    /// The tree that a file is described to belong to: made if it isn't there, with its view renamed if the
    /// configuration asks for another.
    async fn tree(
        &mut self,
        root: &[u8],
        description: &FileDescription,
    ) -> Result<Tree, SinkError> {
        let making = || format!("making a table for the tree {}", path_text(root));
        if !self.known.trees.contains_key(root)
            && let Some(tree) = self.find_tree(root).await?
        {
            self.known.trees.insert(root.to_vec(), tree);
        }
        let tree = match self.known.trees.get(root).cloned() {
            None => {
                let (table, view, rows) = self.take_tree_table(description).await?;
                let params: Vec<Value> = vec![
                    self.stream.into(),
                    root.into(),
                    root.into(),
                    path_text(root).into(),
                    rows.into(),
                    table.as_str().into(),
                    description.table.as_deref().into(),
                    view.as_str().into(),
                ];
                self.session
                    .run(
                        "INSERT INTO counterfoil_trees (stream, root, root_hash, root_text, rows_table, table_name,
                             table_configured, view_name)
                         VALUES (?, ?, UNHEX(SHA2(?, 256)), ?, ?, ?, ?, ?)",
                        params,
                    )
                    .await
                    .doing(making)?;
                Tree {
                    tree_id: self.session.inserted_id(),
                    rows,
                    table,
                    view,
                    table_configured: description.table.clone(),
                }
            }
            Some(tree) if tree.table_configured != description.table && self.may_define() => {
                self.rename_tree(tree, description).await?
            }
            Some(tree) => return Ok(tree),
        };
        self.known.trees.insert(root.to_vec(), tree.clone());
        Ok(tree)
    }

    /// The names of a new tree's views, and the number of its table.
    async fn take_tree_table(
        &mut self,
        description: &FileDescription,
    ) -> Result<(String, String, u64), SinkError> {
        let wanted = wanted_name(description)?;
        if let Some(kept) = self.find_kept(&wanted, true, &Shape::default()).await? {
            self.check_empty(&kept).await?;
            let wanted = kept.name;
            self.set_shape(kept.number, &Shape::default()).await?;
            let view = limited(&content_view(&wanted), 1);
            if self.may_define() {
                self.structure().await?;
                self.mark_stale(&wanted).await?;
                self.mark_stale(&view).await?;
            }
            return Ok((wanted, view, kept.number));
        }
        if !self.may_define() {
            return Err(self.not_prepared(description, &limited(&wanted, 1)));
        }
        let table = self.take_name(description).await?;
        let view = self.take_view(&table).await?;
        let rows = self.new_rows(Make::Shared).await?;
        Ok((table, view, rows))
    }

    async fn find_tree(&mut self, root: &[u8]) -> Result<Option<Tree>, SinkError> {
        let looking = || format!("looking up the tree {}", path_text(root));
        let row = self
            .session
            .first(
                "SELECT tree_id, rows_table, table_name, view_name, table_configured FROM counterfoil_trees
                 WHERE stream = ? AND root_hash = UNHEX(SHA2(?, 256))",
                (self.stream, root),
            )
            .await
            .doing(looking)?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some(Tree {
            tree_id: column(&row, 0).doing(looking)?,
            rows: column(&row, 1).doing(looking)?,
            table: column(&row, 2).doing(looking)?,
            view: column(&row, 3).doing(looking)?,
            table_configured: column(&row, 4).doing(looking)?,
        }))
    }

    /// Gives the views of a tree the names that follow from a description.
    async fn rename_tree(
        &mut self,
        tree: Tree,
        description: &FileDescription,
    ) -> Result<Tree, SinkError> {
        let renaming = || format!("renaming the table {} of a tree", tree.table);
        self.list_names().await?;
        self.release(&tree.table).await?;
        self.release(&tree.view).await?;
        let table = self.take_name(description).await?;
        let view = self.take_view(&table).await?;
        self.session
            .run(
                "UPDATE counterfoil_trees SET table_name = ?, table_configured = ?, view_name = ? WHERE tree_id = ?",
                (&table, &description.table, &view, tree.tree_id),
            )
            .await
            .doing(renaming)?;
        self.session
            .run(
                "UPDATE counterfoil_files SET table_name = ? WHERE tree_id = ?",
                (&table, tree.tree_id),
            )
            .await
            .doing(renaming)?;
        // All that is remembered of its files speaks of the table as it was.
        self.known.files.clear();
        Ok(Tree {
            table,
            view,
            table_configured: description.table.clone(),
            ..tree
        })
    }

    /// The lock for changes of tables, and the connection for them.
    pub(super) async fn structure(&mut self) -> Result<&mut Structure, SinkError> {
        let structure = match self.structure.take() {
            Some(structure) => structure,
            None => Structure::open(self.config).await?,
        };
        Ok(self.structure.insert(structure))
    }

    pub(super) async fn new_rows(&mut self, make: Make<'_>) -> Result<u64, SinkError> {
        self.structure().await?;
        match self.structure {
            Some(structure) => structure.table(self.session, self.stream, make).await,
            None => Err(no_structure()),
        }
    }

    /// A name for the view of a file, or a tree, that nothing in the database has yet.
    async fn take_name(&mut self, description: &FileDescription) -> Result<String, SinkError> {
        let wanted = wanted_name(description)?;
        let name = self.take_name_like(&wanted).await?;
        if description.table.is_some() && name != wanted {
            tracing::warn!(
                file = path_text(description.named_for()),
                configured = wanted,
                table = name,
                "the configured table name is taken in this database, or the server doesn't take it; using another"
            );
        }
        Ok(name)
    }

    async fn take_view(&mut self, table: &str) -> Result<String, SinkError> {
        self.take_name_like(&content_view(table)).await
    }

    async fn take_name_like(&mut self, wanted: &str) -> Result<String, SinkError> {
        self.structure().await?;
        let name = match self.structure {
            Some(structure) => structure.free_name(self.session, wanted).await?,
            None => return Err(no_structure()),
        };
        self.mark_stale(&name).await?;
        Ok(name)
    }

    /// Has the names in use listed before one is given up that the catalogue still has.
    async fn list_names(&mut self) -> Result<(), SinkError> {
        self.structure().await?;
        match self.structure {
            Some(structure) => structure.list_names(self.session).await,
            None => Err(no_structure()),
        }
    }

    /// Gives a name up.
    async fn release(&mut self, name: &str) -> Result<(), SinkError> {
        if let Some(structure) = self.structure {
            structure.release_name(name);
        }
        self.mark_stale(name).await
    }

    /// Has a view made anew, or dropped, after the batch.
    pub(super) async fn mark_stale(&mut self, name: &str) -> Result<(), SinkError> {
        self.session
            .run(
                "INSERT INTO counterfoil_views (name, stale) VALUES (?, 1) ON DUPLICATE KEY UPDATE stale = stale + 1",
                (name,),
            )
            .await
            .doing(|| format!("marking the view {name:?}"))?;
        Ok(())
    }
}

/// What the view of a tree's content is called.
pub(super) fn content_view(table: &str) -> String {
    format!("{table}_files")
}

/// Whether the view of one shows the other as well.
fn same_columns(a: &Rows, b: &Rows) -> bool {
    let shown = |shape: &Shape| {
        let names = shape.columns.iter().map(|column| column.name.clone());
        (shape.raw, shape.decoded, names.collect::<Vec<_>>())
    };
    a.number == b.number && shown(&a.shape()) == shown(&b.shape())
}

fn no_structure() -> SinkError {
    permanent(
        "changing tables",
        "the lock isn't held",
        "report this: it is a fault of Counterfoil",
    )
}
