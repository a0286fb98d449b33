//! The catalogue of a stream's files, and what is remembered of it between batches.
//!
//! What is remembered holds as long as the stored position is the one that this sink stored last: then
//! nobody else has applied anything. After an error it is forgotten.

use super::config::MysqlConfig;
use super::entry::{self, Entry, SELECT_ENTRIES};
use super::error::Doing;
use super::rows::Rows;
use super::session::{Session, column};
use super::structure::Structure;
use crate::naming::wanted_name;
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
        match self.find(&description.path).await? {
            None => self.create(description, attributes).await?,
            Some(file) if Arc::ptr_eq(&file.description, description) => {}
            Some(file) if *file.description == **description => {
                file.description = Arc::clone(description);
            }
            Some(_) => self.redescribe(&description.path, description).await?,
        }
        Ok(())
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
    pub(super) async fn rename(
        &mut self,
        from: &[u8],
        description: &Arc<FileDescription>,
    ) -> Result<(), SinkError> {
        self.remove(&description.path).await?;
        if self.find(from).await?.is_some() {
            self.redescribe(from, description).await?;
        }
        Ok(())
    }

    /// Lets go of a file's table (of its rows, if it shares one), its residue and its entry. No such file: nothing to do.
    pub(super) async fn remove(&mut self, path: &[u8]) -> Result<(), SinkError> {
        if self.find(path).await?.is_none() {
            return Ok(());
        }
        let Some(file) = self.known.files.insert(path.to_vec(), None).flatten() else {
            return Ok(());
        };
        let removing = || format!("removing {}", path_text(path));
        if file.rows.file_id.is_some() {
            file.rows
                .clear(self.session, &(0..u64::MAX))
                .await
                .doing(removing)?;
        } else {
            self.structure().await?;
            self.release(&file.table).await?;
            self.session
                .run(
                    "UPDATE counterfoil_tables SET released_ns = ? WHERE rows_table = ?",
                    (self.now_ns, file.rows.number),
                )
                .await
                .doing(removing)?;
        }
        if file.has_residue != Some(false) {
            self.session
                .run(
                    "DELETE FROM counterfoil_residue WHERE file_id = ?",
                    (file.file_id,),
                )
                .await
                .doing(removing)?;
        }
        self.session
            .run(
                "DELETE FROM counterfoil_files WHERE file_id = ?",
                (file.file_id,),
            )
            .await
            .doing(removing)?;
        Ok(())
    }

    async fn create(
        &mut self,
        description: &Arc<FileDescription>,
        attributes: &Attributes,
    ) -> Result<(), SinkError> {
        let creating = || format!("making a table for {}", path_text(&description.path));
        let (tree_id, number, table) = match &description.tree {
            Some(root) => {
                let tree = self.tree(root, description).await?;
                (Some(tree.tree_id), tree.rows, tree.table)
            }
            None => {
                let table = self.take_name(description).await?;
                let number = self.new_rows(false).await?;
                (None, number, table)
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
            number.into(),
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
            rows: Rows {
                number,
                file_id: tree_id.map(|_| file_id),
            },
            attributes: *attributes,
            has_residue: Some(false),
            last: Some(None),
        };
        self.known
            .files
            .insert(description.path.clone(), Some(file));
        Ok(())
    }

    /// Gives the file at `from` another description, and its view the name that follows from it.
    async fn redescribe(
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
            self.remove(from).await?;
            return self.create(description, &Attributes::default()).await;
        }
        if let Some(root) = &tree {
            // The tree's table follows the configuration with the first of its files that does.
            self.tree(root, description).await?;
            self.find(from).await?;
        }
        let Some(mut file) = self.known.files.insert(from.to_vec(), None).flatten() else {
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
                self.list_names().await?;
                self.release(&file.table).await?;
                file.table = self.take_name(description).await?;
            } else if identity != file.description.format.identity_name() {
                self.structure().await?;
                self.mark_stale(&file.table).await?;
            }
        }
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
            identity.into(),
            file.table.as_str().into(),
            description.table.as_deref().into(),
            file.file_id.into(),
        ];
        self.session
            .run(
                "UPDATE counterfoil_files
                 SET path = ?, path_hash = UNHEX(SHA2(?, 256)), path_text = ?, file_group = ?, organization = ?,
                     layout = ?, record_size = ?, varseq_format = ?, identity = ?, table_name = ?, table_configured = ?
                 WHERE file_id = ?",
                params,
            )
            .await
            .doing(changing)?;
        file.description = Arc::clone(description);
        self.known
            .files
            .insert(description.path.clone(), Some(file));
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
                let table = self.take_name(description).await?;
                let view = self.take_view(&table).await?;
                let rows = self.new_rows(true).await?;
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
            Some(tree) if tree.table_configured != description.table => {
                self.rename_tree(tree, description).await?
            }
            Some(tree) => return Ok(tree),
        };
        self.known.trees.insert(root.to_vec(), tree.clone());
        Ok(tree)
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
    async fn structure(&mut self) -> Result<&mut Structure, SinkError> {
        let structure = match self.structure.take() {
            Some(structure) => structure,
            None => Structure::open(self.config).await?,
        };
        Ok(self.structure.insert(structure))
    }

    async fn new_rows(&mut self, is_shared: bool) -> Result<u64, SinkError> {
        self.structure().await?;
        match self.structure {
            Some(structure) => structure.table(self.session, self.stream, is_shared).await,
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
        self.take_name_like(&format!("{table}_files")).await
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
    async fn mark_stale(&mut self, name: &str) -> Result<(), SinkError> {
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

fn no_structure() -> SinkError {
    permanent(
        "changing tables",
        "the lock isn't held",
        "report this: it is a fault of Counterfoil",
    )
}
