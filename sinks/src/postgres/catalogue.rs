//! The catalogue of files, and what is remembered of it between batches.
//!
//! What a batch is about is loaded when it begins, changed in memory, and written when it ends. Tables are made, renamed and
//! dropped at once. A stream's memory is only as good as its position: who finds another position in the target than it
//! left there begins anew.

use super::adoption::{self, Keys, Wanted, clipped};
use super::entry::{self, Entry};
use super::error::Doing;
use super::evolution::{self, Source, cant_become, plan_of};
use super::history;
use super::names::{Choice, Names};
use super::rows::Moment;
use super::schema::{NAME_BYTES_MAX, create_view};
use super::session::Session;
use super::table::{Table, base_type, kind_of_type, sql_type};
use crate::naming::{numbered_within, wanted_name};
use crate::plan::{Ddl, Shape};
use crate::sql::{FormatWords, integer, permanent, quoted};
use crate::{Attributes, Batch, FileDescription, FileFate, FileKind, SinkError};
use counterfoil_proto::{Position, path_text};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_postgres::error::SqlState;

/// So many files are remembered; when there are more, all are forgotten and loaded anew as needed.
const FILES_MAX: usize = 20_000;

/// What is remembered of a stream.
#[derive(Default)]
pub(super) struct Memory {
    /// Where the stream was left.
    pub(super) position: Option<Position>,
    /// By path; `None`: there is none, for sure, as long as the batch lasts.
    files: HashMap<Vec<u8>, Option<File>>,
    /// By root, likewise.
    trees: HashMap<Vec<u8>, Option<Tree>>,
    /// Loaded when a batch makes a table.
    names: Option<Names>,
    /// Numbers for files and trees that nothing has yet.
    numbers: Vec<i64>,
    gone: Gone,
}

/// What goes when the batch ends.
#[derive(Default)]
struct Gone {
    entries: Vec<i64>,
    residue: Vec<i64>,
    /// Files of trees, by root.
    blocks: HashMap<Vec<u8>, Vec<i64>>,
    /// Tables that stay, empty, without their files.
    left: Vec<String>,
}

/// A file of the catalogue.
pub(super) struct File {
    pub(super) file_id: i64,
    pub(super) description: Arc<FileDescription>,
    pub(super) table: Arc<Table>,
    /// There is no record with a greater identity, if known; -1: there is none at all. Of a file in a tree never known.
    pub(super) last_id: Option<i64>,
    /// `false` is sure.
    pub(super) has_residue: bool,
    tree_id: Option<i64>,
    attributes: Attributes,
    unsaved: Unsaved,
    /// Its table was compared with what its description asks for.
    is_settled: bool,
}

/// What of a file isn't in the target's catalogue yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unsaved {
    Nothing,
    Attributes,
    Entry,
    /// There is no entry yet.
    New,
}

/// A table that was chosen for a file.
struct Chosen {
    table: Table,
    /// It need not be made.
    is_there: bool,
}

/// A tree, whose files share a table.
struct Tree {
    tree_id: i64,
    table: Arc<Table>,
    view: String,
    table_configured: Option<String>,
}

impl File {
    /// Takes over size and attributes.
    pub(super) fn set_attributes(&mut self, attributes: Attributes) {
        if self.attributes != attributes {
            self.attributes = attributes;
            self.unsaved = self.unsaved.max(Unsaved::Attributes);
        }
    }
}

impl Memory {
    /// Loads what the batch is about.
    pub(super) async fn prepare(
        &mut self,
        session: &mut Session,
        batch: &Batch,
    ) -> Result<(), SinkError> {
        if self.files.len() > FILES_MAX {
            self.files.clear();
        }
        let loading = || format!("loading the catalogue of {}", batch.stream);
        let mut paths: Vec<&[u8]> = Vec::new();
        let mut roots: Vec<Vec<u8>> = Vec::new();
        for changes in &batch.files {
            let from = changes.renamed_from.as_deref();
            for path in from.into_iter().chain([&*changes.file.path]) {
                if !self.files.contains_key(path) {
                    self.files.insert(path.to_vec(), None);
                    paths.push(path);
                }
            }
            roots.extend(changes.file.tree.clone());
        }
        let mut entries = Vec::new();
        if !paths.is_empty() {
            let select = format!(
                "{} JOIN unnest($2::bytea[]) AS p (path) ON sha256(f.path) = sha256(p.path) AND f.path = p.path
                 WHERE f.stream = $1",
                entry::select(session)
            );
            let rows = session
                .query(&select, &[&batch.stream, &paths])
                .await
                .doing(loading)?;
            for row in &rows {
                entries.push(entry::read(row)?);
            }
            if session.ddl != Ddl::None {
                check_columns(session, &mut entries).await?;
            }
        }
        roots.extend(entries.iter().filter_map(|e| e.description.tree.clone()));
        self.load_trees(session, &batch.stream, roots).await?;
        for entry in entries {
            let file = self.loaded(session, entry).await?;
            self.files.insert(file.description.path.clone(), Some(file));
        }
        let is_new = |path: &Vec<u8>| matches!(self.files.get(path), Some(None));
        let new = batch.files.iter().filter(|changes| {
            changes.fate == FileFate::Present
                && changes.renamed_from.is_none()
                && is_new(&changes.file.path)
        });
        let count = new.count().saturating_sub(self.numbers.len());
        if count > 0 {
            self.fetch_numbers(session, count).await?;
        }
        Ok(())
    }

    async fn load_trees(
        &mut self,
        session: &mut Session,
        stream: &str,
        mut roots: Vec<Vec<u8>>,
    ) -> Result<(), SinkError> {
        roots.sort();
        roots.dedup();
        roots.retain(|root| !self.trees.contains_key(root));
        if roots.is_empty() {
            return Ok(());
        }
        let loading = || format!("loading the trees of {stream}");
        let select = format!(
            "SELECT root, tree_id, table_name, table_made, view_name, table_configured FROM {}
             WHERE stream = $1 AND root = ANY($2::bytea[])",
            session.name("counterfoil_trees")
        );
        let rows = session
            .query(&select, &[&stream, &roots])
            .await
            .doing(loading)?;
        for root in roots {
            self.trees.insert(root, None);
        }
        for row in rows {
            let name: String = row.try_get(2).doing(loading)?;
            let tree = Tree {
                tree_id: row.try_get(1).doing(loading)?,
                table: Arc::new(Table::shared(
                    session.name(&name),
                    &name,
                    row.try_get(3).doing(loading)?,
                )),
                view: row.try_get(4).doing(loading)?,
                table_configured: row.try_get(5).doing(loading)?,
            };
            let root = row.try_get(0).doing(loading)?;
            self.trees.insert(root, Some(tree));
        }
        Ok(())
    }

    async fn loaded(&self, session: &mut Session, entry: Entry) -> Result<File, SinkError> {
        let root = entry.description.tree.as_ref();
        let tree = root.and_then(|root| self.trees.get(root)?.as_ref());
        let place = session.name(&entry.table);
        // A plan isn't remembered; what came of it is.
        let is_settled = root.is_some() || entry.shape == Shape::default();
        let table = match (tree, root) {
            (Some(tree), _) => Arc::clone(&tree.table),
            (None, Some(_)) => Arc::new(Table::shared(place, &entry.table, entry.table_made)),
            (None, None) => {
                let identity = entry.description.format.identity_name();
                let (name, made) = (&entry.table, entry.table_made);
                let mut table = Table::own(place, name, identity, entry.shape, made);
                if !made {
                    table = adoption::keyed(session, table).await?;
                }
                Arc::new(table)
            }
        };
        Ok(File {
            file_id: entry.file_id,
            tree_id: tree.map(|tree| tree.tree_id),
            description: Arc::new(entry.description),
            table,
            last_id: None,
            has_residue: entry.has_residue,
            attributes: entry.attributes,
            unsaved: Unsaved::Nothing,
            is_settled,
        })
    }

    async fn fetch_numbers(
        &mut self,
        session: &mut Session,
        count: usize,
    ) -> Result<(), SinkError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let sequence = session.name("counterfoil_ids");
        let rows = session
            .query(
                "SELECT nextval($1::text::regclass) FROM generate_series(1, $2::bigint)",
                &[&sequence, &count],
            )
            .await
            .doing(|| "numbering new files".into())?;
        // Taken from the end.
        self.numbers
            .extend(rows.iter().rev().map(|row| row.get::<_, i64>(0)));
        Ok(())
    }

    async fn number(&mut self, session: &mut Session) -> Result<i64, SinkError> {
        if self.numbers.is_empty() {
            self.fetch_numbers(session, 1).await?;
        }
        self.numbers.pop().ok_or_else(|| {
            permanent(
                "numbering new files",
                "the server gave no number",
                "check whether somebody changed the sequence counterfoil_ids",
            )
        })
    }

    fn find(&mut self, path: &[u8]) -> Option<&mut File> {
        self.files.get_mut(path)?.as_mut()
    }

    /// Whether a file's or its tree's table may get another name if it is described like this.
    pub(super) fn would_redescribe(&self, description: &FileDescription) -> bool {
        let file = self.files.get(&description.path).and_then(Option::as_ref);
        let tree = description
            .tree
            .as_ref()
            .and_then(|root| self.trees.get(root)?.as_ref());
        file.is_some_and(|file| !file.is_settled || *file.description != *description)
            || tree.is_some_and(|tree| tree.table_configured != description.table)
    }

    /// The file with this description: made if it isn't there, changed if it was described otherwise.
    pub(super) async fn ensure(
        &mut self,
        session: &mut Session,
        stream: &str,
        description: &Arc<FileDescription>,
        moment: Moment,
    ) -> Result<&mut File, SinkError> {
        match self.find(&description.path) {
            None => self.create(session, stream, description).await?,
            Some(file) if file.is_settled && Arc::ptr_eq(&file.description, description) => {}
            Some(file) if file.is_settled && *file.description == **description => {
                file.description = Arc::clone(description);
            }
            Some(_) => {
                self.redescribe(session, stream, &description.path, description, moment)
                    .await?;
            }
        }
        self.find(&description.path).ok_or_else(|| {
            permanent(
                format!("looking up {}", path_text(&description.path)),
                "its catalogue entry vanished",
                "report this: it is a fault of Counterfoil",
            )
        })
    }

    /// Moves a file to another path. What that path named before is gone.
    pub(super) async fn rename(
        &mut self,
        session: &mut Session,
        stream: &str,
        from: &[u8],
        description: &Arc<FileDescription>,
        moment: Moment,
    ) -> Result<(), SinkError> {
        self.remove(session, stream, &description.path, moment)
            .await?;
        if self.find(from).is_some() {
            self.redescribe(session, stream, from, description, moment)
                .await?;
        }
        Ok(())
    }

    /// Drops a file's table (its rows, if it shares one), its residue and its entry. A history stays, and says that all
    /// records are gone. No such file: nothing to do.
    pub(super) async fn remove(
        &mut self,
        session: &mut Session,
        stream: &str,
        path: &[u8],
        moment: Moment,
    ) -> Result<(), SinkError> {
        let Some(file) = self.files.get_mut(path).and_then(Option::take) else {
            return Ok(());
        };
        match &file.description.tree {
            Some(root) => {
                let gone = self.gone.blocks.entry(root.clone()).or_default();
                gone.push(file.file_id);
            }
            None if file.table.is_history() => {
                self.end_history(session, stream, &file, moment).await?;
            }
            None => self.drop_table(session, &file).await?,
        }
        if file.has_residue {
            self.gone.residue.push(file.file_id);
        }
        if file.unsaved != Unsaved::New {
            self.gone.entries.push(file.file_id);
        }
        Ok(())
    }

    /// Drops a file's own table. One that others depend on, or that others made, is emptied.
    async fn drop_table(&mut self, session: &mut Session, file: &File) -> Result<(), SinkError> {
        let (table, removing) = (&file.table, || format!("removing {}", file.place()));
        let empty = format!("DELETE FROM {}", table.place);
        if !table.is_made {
            session.run(&empty).await.doing(removing)?;
            self.leave(&table.name);
            return Ok(());
        }
        let drop = format!(
            "SAVEPOINT counterfoil; DROP TABLE IF EXISTS {}; RELEASE SAVEPOINT counterfoil",
            table.place
        );
        match session.run(&drop).await {
            Ok(()) => {
                if let Some(names) = &mut self.names {
                    names.release(&table.name);
                }
                Ok(())
            }
            Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                tracing::warn!(
                    table = table.name,
                    "views depend on the table of a file that is gone, so it was only emptied; \
                     the next file of that name gets it"
                );
                self.leave(&table.name);
                let back = format!("ROLLBACK TO SAVEPOINT counterfoil; {empty}");
                session.run(&back).await.doing(removing)
            }
            Err(error) => Err(error).doing(removing),
        }
    }

    /// Says in a file's history that all its records are gone. The table stays, for the next file of that path.
    async fn end_history(
        &mut self,
        session: &mut Session,
        stream: &str,
        file: &File,
        moment: Moment,
    ) -> Result<(), SinkError> {
        let removing = || format!("removing {}", file.place());
        let table = &file.table;
        history::end(session, table, i64::MIN, i64::MAX, moment, removing).await?;
        let path = &file.description.path;
        let histories = session.name("counterfoil_histories");
        let delete = format!(
            "DELETE FROM {histories} WHERE stream = $1 AND sha256(path) = sha256($2::bytea) AND path = $2"
        );
        let deleted = session.execute(&delete, &[&stream, path]).await;
        deleted.doing(removing)?;
        let insert = format!(
            "INSERT INTO {histories} (table_name, table_made, stream, path, path_text, identity, shape)
             VALUES ($1, $2, $3, $4, $5, $6, $7)"
        );
        session
            .execute(
                &insert,
                &[
                    &table.name,
                    &table.is_made,
                    &stream,
                    path,
                    &path_text(path),
                    &table.identity,
                    &table.shape.text(),
                ],
            )
            .await
            .doing(removing)?;
        Ok(())
    }

    /// The history that an earlier file of this path has left, as the plan wants it now.
    async fn history_of(
        &mut self,
        session: &mut Session,
        stream: &str,
        description: &FileDescription,
    ) -> Result<Option<Table>, SinkError> {
        let path = &description.path;
        let looking = || format!("looking up the history of {}", path_text(path));
        let schema = session.schema.clone();
        let delete = format!(
            "DELETE FROM {} AS h WHERE stream = $1 AND sha256(path) = sha256($2::bytea) AND path = $2
             RETURNING table_name, table_made, identity, shape,
                 EXISTS (SELECT 1 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                     WHERE n.nspname = $3 AND c.relname = h.table_name)",
            session.name("counterfoil_histories")
        );
        let rows = session.query(&delete, &[&stream, path, &schema]).await;
        let rows = rows.doing(looking)?;
        // One that somebody dropped is no more.
        let Some(row) = rows.first().filter(|row| row.get(4)) else {
            return Ok(None);
        };
        let name: String = row.try_get(0).doing(looking)?;
        let identity: String = row.try_get(2).doing(looking)?;
        let shape = Shape::parse(row.try_get(3).doing(looking)?).map_err(|cause| {
            permanent(
                looking(),
                cause,
                "use the version of Counterfoil that wrote it, or a later one",
            )
        })?;
        let making = making(description, &name);
        let is_made = row.try_get(1).doing(looking)?;
        let mut there = Table::own(session.name(&name), &name, &identity, shape, is_made);
        if !is_made {
            there = adoption::keyed(session, there).await?;
        }
        let wanted = description.format.identity_name();
        if identity != wanted {
            return Err(permanent(
                making,
                format!(
                    "an earlier file's history is there, of records by {identity}, not by {wanted}"
                ),
                format!(
                    "rename that table, and delete its row in {}",
                    session.name("counterfoil_histories")
                ),
            ));
        }
        if let Some(names) = &mut self.names {
            names.adopt(&name);
        }
        let plan = plan_of(description);
        let evolution = there.shape.evolve(&plan);
        let evolution = evolution.map_err(|problems| cant_become(making.clone(), &problems))?;
        if evolution.is_nothing() && evolution.shape == there.shape {
            return Ok(Some(there));
        }
        // There is no file yet whose residue it could have.
        let nobody = -1;
        let evolved = evolution::evolve(session, &there, nobody, &plan, &evolution, &making);
        evolved.await.map(Some)
    }

    fn leave(&mut self, table: &str) {
        if let Some(names) = &mut self.names {
            names.disown(table);
        }
        self.gone.left.push(table.to_owned());
    }

    async fn create(
        &mut self,
        session: &mut Session,
        stream: &str,
        description: &Arc<FileDescription>,
    ) -> Result<(), SinkError> {
        let (tree_id, table) = match &description.tree {
            Some(root) => {
                let tree = self.tree(session, stream, root, description).await?;
                (Some(tree.tree_id), Arc::clone(&tree.table))
            }
            None => (
                None,
                Arc::new(self.own_table(session, stream, description).await?),
            ),
        };
        // What is in a table that was there, nobody knows.
        let is_new = !table.is_shared && !table.is_history() && session.ddl != Ddl::None;
        let file = File {
            file_id: self.number(session).await?,
            tree_id,
            description: Arc::clone(description),
            last_id: is_new.then_some(-1),
            table,
            has_residue: false,
            attributes: Attributes::default(),
            unsaved: Unsaved::New,
            is_settled: true,
        };
        self.files.insert(description.path.clone(), Some(file));
        Ok(())
    }

    /// A table for a file: a new one, or one that somebody made for it.
    async fn own_table(
        &mut self,
        session: &mut Session,
        stream: &str,
        description: &FileDescription,
    ) -> Result<Table, SinkError> {
        if plan_of(description).is_history()
            && let Some(table) = self.history_of(session, stream, description).await?
        {
            return Ok(table);
        }
        let chosen = self.choose_table(session, description).await?;
        if !chosen.is_there {
            let number = self.number(session).await?;
            let key = format!("counterfoil_{number}");
            let create = chosen.table.create(Some(&key));
            let created = session.run(&create).await;
            created.doing(|| making(description, &chosen.table.name))?;
            let doing = making(description, &chosen.table.name);
            evolution::make_index(session, &chosen.table, &doing).await?;
        }
        Ok(chosen.table)
    }

    /// A table for a file or its tree, by the name that is wanted if that is free, or if what has it can be used.
    async fn choose_table(
        &mut self,
        session: &mut Session,
        description: &FileDescription,
    ) -> Result<Chosen, SinkError> {
        let wanted = wanted_name(description)?;
        let shape = plan_of(description).shape().clone();
        let with = |session: &Session, name: &str, shape: &Shape, is_made| {
            let place = session.name(name);
            match description.tree {
                Some(_) => Table::shared(place, name, is_made),
                None => {
                    let identity = description.format.identity_name();
                    Table::own(place, name, identity, shape.clone(), is_made)
                }
            }
        };
        let ddl = session.ddl;
        let names = self.names(session).await?;
        let choice = match ddl {
            Ddl::Manage => names.choose(&wanted),
            Ddl::Check | Ddl::None => Choice::Alien(names.not_ours(&wanted)),
        };
        let name = match choice {
            Choice::Free(name) => name,
            Choice::Alien(name) => {
                let mut table = with(session, &name, &shape, false);
                if ddl == Ddl::None {
                    let table = adoption::keyed(session, table).await?;
                    self.names(session).await?.adopt(&name);
                    return Ok(Chosen {
                        table,
                        is_there: true,
                    });
                }
                let columns: Vec<Wanted> = table.columns().into_iter().map(Wanted::from).collect();
                let (keys, place, key) = (Keys::of(&table), table.place.clone(), table.key());
                let mut found = adoption::look(session, &place, &columns, &key, keys).await?;
                if found.columns.is_empty() && ddl == Ddl::Check {
                    found.differences = vec![adoption::Difference {
                        says: "it is not there".into(),
                        mend: Some(table.create_with_index()),
                    }];
                }
                if ddl == Ddl::Check && found.differences.is_empty() {
                    found
                        .differences
                        .extend(adoption::lacks_index(session, &table).await?);
                }
                if found.has_rows {
                    found.differences.push(adoption::Difference {
                        says: "there are rows in it that Counterfoil didn't put there".into(),
                        mend: None,
                    });
                }
                if found.differences.is_empty() {
                    let shape = evolution::with_others(shape, &found);
                    table = with(session, &name, &shape, false);
                    if !table.is_shared {
                        table = table.replacing(found.has_wider_key);
                    }
                    self.names(session).await?.adopt(&name);
                    return Ok(Chosen {
                        table,
                        is_there: true,
                    });
                }
                if description.table.is_some() || ddl == Ddl::Check {
                    return Err(adoption::refusal(
                        making(description, &name),
                        &name,
                        &found.differences,
                        "or configure another name",
                    ));
                }
                self.names(session).await?.free(&wanted)
            }
        };
        if description.table.is_some() && name != wanted {
            tracing::warn!(
                file = path_text(description.named_for()),
                configured = wanted,
                table = name,
                "the configured table name is taken by another file; using another"
            );
        }
        Ok(Chosen {
            table: with(session, &name, &shape, true),
            is_there: false,
        })
    }

    async fn names(&mut self, session: &mut Session) -> Result<&mut Names, SinkError> {
        let names = match self.names.take() {
            Some(names) => names,
            None => {
                let mut names = Names::load(session).await?;
                // What this batch has done so far is in the database, but not all in its catalogue.
                for table in &self.gone.left {
                    names.disown(table);
                }
                for file in self.files.values().flatten() {
                    names.adopt(&file.table.name);
                }
                names
            }
        };
        Ok(self.names.insert(names))
    }

    /// Gives the file at `from` another description, and its table the name and the columns that follow from it.
    async fn redescribe(
        &mut self,
        session: &mut Session,
        stream: &str,
        from: &[u8],
        description: &Arc<FileDescription>,
        moment: Moment,
    ) -> Result<(), SinkError> {
        let Some(tree) = self.find(from).map(|file| file.description.tree.clone()) else {
            return Ok(());
        };
        if tree != description.tree {
            // What its rows are is something else from now on.
            self.remove(session, stream, from, moment).await?;
            return self.create(session, stream, description).await;
        }
        if let Some(root) = &tree {
            // The tree's table follows the configuration with the first of its files that does.
            self.tree(session, stream, root, description).await?;
        }
        let Some(mut file) = self.files.get_mut(from).and_then(Option::take) else {
            return Ok(());
        };
        if !has_same_entry(&file.description, description) {
            file.unsaved = file.unsaved.max(Unsaved::Entry);
        }
        if tree.is_none() {
            let before = Arc::clone(&file.table);
            file.table = self
                .follow(session, stream, &file, description, moment)
                .await?;
            if before.name != file.table.name || before.shape != file.table.shape {
                file.unsaved = file.unsaved.max(Unsaved::Entry);
            }
            if !file.table.shape.raw {
                file.has_residue = false;
            }
        }
        file.description = Arc::clone(description);
        file.is_settled = true;
        self.files.insert(description.path.clone(), Some(file));
        Ok(())
    }

    /// The table of a file that is described otherwise now: renamed, with other columns, or another one with its rows.
    async fn follow(
        &mut self,
        session: &mut Session,
        stream: &str,
        file: &File,
        description: &Arc<FileDescription>,
        moment: Moment,
    ) -> Result<Arc<Table>, SinkError> {
        let changing = || {
            format!(
                "changing the table {} of {} to that of {}",
                file.table.name,
                path_text(&file.description.path),
                path_text(&description.path)
            )
        };
        let old = &file.table;
        let identity = description.format.identity_name();
        let plan = plan_of(description);
        let evolution = old.shape.evolve(&plan);
        let mut name = old.name.clone();
        // A history keeps its name as long as its file does.
        let is_path_kept = file.description.path == description.path;
        let keeps_name = is_path_kept && old.is_history() && plan.is_history();
        if !keeps_name && wanted_name(&file.description)? != wanted_name(description)? {
            let stays = old.is_history() || plan.is_history();
            // A table of raw images becomes whatever is wanted, if it isn't by what is done to it.
            if stays || evolution.is_err() || session.ddl != Ddl::Manage {
                return self
                    .change_table(session, stream, file, description, moment)
                    .await;
            }
            self.names(session).await?.release(&old.name);
            let chosen = self.choose_table(session, description).await?;
            if chosen.is_there {
                return self
                    .move_rows(session, stream, file, description, chosen.table, moment)
                    .await;
            }
            if chosen.table.name != name {
                let rename = format!(
                    "ALTER TABLE {} RENAME TO {}",
                    old.place,
                    quoted(&chosen.table.name)
                );
                session.run(&rename).await.doing(changing)?;
                name = chosen.table.name;
            }
        }
        let (place, shape) = (session.name(&name), old.shape.clone());
        let table = Table::own(place, &name, identity, shape, old.is_made).replacing(old.replaces);
        if identity != old.identity {
            let rename = format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                table.place,
                quoted(&old.identity),
                quoted(identity)
            );
            if old.is_made && session.ddl == Ddl::Manage {
                session.run(&rename).await.doing(changing)?;
            } else if session.ddl != Ddl::None && !has_column(session, &table, identity).await? {
                return Err(permanent(
                    changing(),
                    format!("the table {name} has no column {identity}"),
                    format!("run `{rename};` as its owner"),
                ));
            }
        }
        let evolution = evolution.map_err(|problems| cant_become(changing(), &problems))?;
        if evolution.is_nothing() && evolution.shape == table.shape {
            return Ok(Arc::new(table));
        }
        let file_id = file.file_id;
        let table =
            evolution::evolve(session, &table, file_id, &plan, &evolution, &changing()).await?;
        Ok(Arc::new(table))
    }

    /// Puts a file's rows into another table, one that is there or is made.
    async fn change_table(
        &mut self,
        session: &mut Session,
        stream: &str,
        file: &File,
        description: &Arc<FileDescription>,
        moment: Moment,
    ) -> Result<Arc<Table>, SinkError> {
        let table = self.own_table(session, stream, description).await?;
        self.move_rows(session, stream, file, description, table, moment)
            .await
    }

    async fn move_rows(
        &mut self,
        session: &mut Session,
        stream: &str,
        file: &File,
        description: &Arc<FileDescription>,
        table: Table,
        moment: Moment,
    ) -> Result<Arc<Table>, SinkError> {
        let old = &file.table;
        let moving = format!(
            "moving the rows of {} to the table {} of {}",
            file.place(),
            table.name,
            path_text(&description.path)
        );
        if table.shape.raw && !old.shape.raw {
            return Err(permanent(
                moving,
                "the raw image is wanted there, and the table that they are in has none",
                "set `raw = false` for the new table too, or leave the file out of this sink",
            ));
        }
        let plan = plan_of(description);
        if old.shape.raw && (!table.shape.columns.is_empty() || table.replaces) {
            let from = Source::Current(old);
            evolution::pour(session, from, &table, &plan, Some(moment), &moving).await?;
        } else {
            evolution::carry(session, old, &table, moment, &moving).await?;
        }
        if !table.shape.raw && file.has_residue {
            self.gone.residue.push(file.file_id);
        }
        if old.is_history() {
            self.end_history(session, stream, file, moment).await?;
        } else {
            self.drop_table(session, file).await?;
        }
        Ok(Arc::new(table))
    }

    /// The tree that a file is described to belong to: made if it isn't there, with its table renamed if the configuration
    /// asks for another.
    async fn tree(
        &mut self,
        session: &mut Session,
        stream: &str,
        root: &[u8],
        description: &FileDescription,
    ) -> Result<&Tree, SinkError> {
        let known = self.trees.get_mut(root).and_then(Option::take);
        let tree = match known {
            None => self.make_tree(session, stream, root, description).await?,
            Some(tree) if tree.table_configured != description.table => {
                self.rename_tree(session, stream, tree, root, description)
                    .await?
            }
            Some(tree) => tree,
        };
        let place = self.trees.entry(root.to_vec()).or_insert(None);
        Ok(place.insert(tree))
    }

    async fn make_tree(
        &mut self,
        session: &mut Session,
        stream: &str,
        root: &[u8],
        description: &FileDescription,
    ) -> Result<Tree, SinkError> {
        let table = self.own_table(session, stream, description).await?;
        let view = self.view_name(session, &table).await?;
        let tree_id = self.number(session).await?;
        let making = || making(description, &table.name);
        if session.ddl == Ddl::Manage {
            let create = create_view(&session.name_prefix(), &view, &table);
            session.run(&create).await.doing(making)?;
        }
        let insert = format!(
            "INSERT INTO {} (tree_id, stream, root, root_text, table_name, table_configured, table_made, view_name)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            session.name("counterfoil_trees")
        );
        session
            .execute(
                &insert,
                &[
                    &tree_id,
                    &stream,
                    &root,
                    &path_text(root),
                    &table.name,
                    &description.table,
                    &table.is_made,
                    &view,
                ],
            )
            .await
            .doing(making)?;
        Ok(Tree {
            tree_id,
            table: Arc::new(table),
            view,
            table_configured: description.table.clone(),
        })
    }

    /// The name of the view that goes with a tree's table. (Who may make nothing takes what is there.)
    async fn view_name(
        &mut self,
        session: &mut Session,
        table: &Table,
    ) -> Result<String, SinkError> {
        let wanted = format!("{}_files", table.name);
        Ok(if session.ddl == Ddl::Manage {
            self.names(session).await?.free(&wanted)
        } else {
            numbered_within(&wanted, 1, NAME_BYTES_MAX)
        })
    }

    /// Gives a tree's table, and the view that goes with it, the names that follow from a description.
    async fn rename_tree(
        &mut self,
        session: &mut Session,
        stream: &str,
        tree: Tree,
        root: &[u8],
        description: &FileDescription,
    ) -> Result<Tree, SinkError> {
        let old = &tree.table;
        let renaming = || format!("renaming the table {} of a tree", old.name);
        let (table, view);
        if session.ddl == Ddl::Manage {
            let names = self.names(session).await?;
            names.release(&old.name);
            names.release(&tree.view);
            let wanted = wanted_name(description)?;
            let name = names.free(&wanted);
            view = names.free(&format!("{name}_files"));
            session
                .run(&format!("DROP VIEW IF EXISTS {}", session.name(&tree.view)))
                .await
                .doing(renaming)?;
            if name != old.name {
                let rename = format!("ALTER TABLE {} RENAME TO {}", old.place, quoted(&name));
                session.run(&rename).await.doing(renaming)?;
            }
            table = Arc::new(Table::shared(session.name(&name), &name, old.is_made));
            let create = create_view(&session.name_prefix(), &view, &table);
            session.run(&create).await.doing(renaming)?;
        } else {
            // The other table is there.
            let other = self.own_table(session, stream, description).await?;
            view = self.view_name(session, &other).await?;
            let moved = format!(
                "INSERT INTO {} (file_id, block_number, data) SELECT file_id, block_number, data FROM {old}; DELETE FROM {old}",
                other.place,
                old = old.place
            );
            session.run(&moved).await.doing(renaming)?;
            table = Arc::new(other);
        }
        let name = table.name.clone();
        let update = format!(
            "UPDATE {} SET table_name = $2, table_configured = $3, view_name = $4 WHERE tree_id = $1",
            session.name("counterfoil_trees")
        );
        session
            .execute(&update, &[&tree.tree_id, &name, &description.table, &view])
            .await
            .doing(renaming)?;
        let update = format!(
            "UPDATE {} SET table_name = $2 WHERE tree_id = $1",
            session.name("counterfoil_files")
        );
        session
            .execute(&update, &[&tree.tree_id, &name])
            .await
            .doing(renaming)?;
        for file in self.files.values_mut().flatten() {
            if file.description.tree.as_deref() == Some(root) {
                file.table = Arc::clone(&table);
                file.description = Arc::new(FileDescription {
                    table: description.table.clone(),
                    ..(*file.description).clone()
                });
            }
        }
        Ok(Tree {
            tree_id: tree.tree_id,
            table,
            view,
            table_configured: description.table.clone(),
        })
    }

    /// Writes what has changed, and forgets what is only good for one batch.
    pub(super) async fn flush(
        &mut self,
        session: &mut Session,
        stream: &str,
    ) -> Result<(), SinkError> {
        let gone = std::mem::take(&mut self.gone);
        let removing = || format!("removing files of {stream}");
        for (root, file_ids) in gone.blocks {
            if let Some(tree) = self.trees.get(&root).and_then(Option::as_ref) {
                let delete = format!(
                    "DELETE FROM {} WHERE file_id = ANY($1::bigint[])",
                    tree.table.place
                );
                session
                    .execute(&delete, &[&file_ids])
                    .await
                    .doing(removing)?;
            }
        }
        let mut entries = gone.entries;
        let (mut whole, mut attributes) = (Vec::new(), Vec::new());
        for file in self.files.values().flatten() {
            match file.unsaved {
                Unsaved::Nothing => {}
                Unsaved::Attributes => attributes.push(file),
                Unsaved::Entry => {
                    entries.push(file.file_id);
                    whole.push(file);
                }
                Unsaved::New => whole.push(file),
            }
        }
        // Files that change places would be in each other's way if their entries were changed: so they are made anew.
        for (table, file_ids) in [
            ("counterfoil_residue", gone.residue),
            ("counterfoil_files", entries),
        ] {
            if !file_ids.is_empty() {
                let delete = format!(
                    "DELETE FROM {} WHERE file_id = ANY($1::bigint[])",
                    session.name(table)
                );
                session
                    .execute(&delete, &[&file_ids])
                    .await
                    .doing(removing)?;
            }
        }
        if !whole.is_empty() {
            insert_entries(session, stream, &whole).await?;
        }
        if !attributes.is_empty() {
            update_attributes(session, stream, &attributes).await?;
        }
        self.files.retain(|_, file| file.is_some());
        self.trees.retain(|_, tree| tree.is_some());
        for file in self.files.values_mut().flatten() {
            file.unsaved = Unsaved::Nothing;
        }
        self.names = None;
        Ok(())
    }
}

/// Whether the catalogue has the same of both.
fn has_same_entry(one: &FileDescription, other: &FileDescription) -> bool {
    one.path == other.path
        && one.group == other.group
        && one.format == other.format
        && one.table == other.table
        && one.tree == other.tree
}

async fn has_column(session: &mut Session, table: &Table, column: &str) -> Result<bool, SinkError> {
    let rows = session
        .query(
            "SELECT EXISTS (SELECT 1 FROM pg_attribute
                 WHERE attrelid = to_regclass($1) AND attname = $2 AND attnum > 0 AND NOT attisdropped)",
            &[&table.place, &column],
        )
        .await
        .doing(|| format!("looking at the table {}", table.name))?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Looks whether columns still hold what they did: PostgreSQL would write bytes into a column of text as well, as something
/// else. A column that somebody made wider is taken as it is.
async fn check_columns(session: &mut Session, entries: &mut [Entry]) -> Result<(), SinkError> {
    let mut tables: Vec<&str> = entries.iter().map(|entry| &*entry.table).collect();
    tables.sort_unstable();
    tables.dedup();
    if tables.is_empty() {
        return Ok(());
    }
    let with_columns = entries.iter().filter(|e| !e.shape.columns.is_empty());
    let with_columns: Vec<&str> = with_columns.map(|entry| &*entry.table).collect();
    let looking = || "looking at the tables".to_owned();
    let schema = session.schema.clone();
    let found = session
        .query(
            "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 JOIN pg_attribute AS a ON a.attrelid = c.oid
             WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND a.attnum > 0 AND NOT a.attisdropped AND
                 (c.relname = ANY($3::text[]) OR (a.attname IN ('data', 'rest') AND a.atttypid <> 'bytea'::regtype))",
            &[&schema, &tables, &with_columns],
        )
        .await
        .doing(looking)?;
    let mut types: HashMap<(String, String), String> = HashMap::new();
    for row in &found {
        types.insert((row.get(0), row.get(1)), row.get(2));
    }
    for entry in entries {
        let table = &entry.table;
        let found = |column: &str| types.get(&(table.clone(), clipped(column).to_owned()));
        let changed = |column: &str, found: &str, wanted: &str| {
            permanent(
                format!("looking at the table {table}"),
                format!("column {column} is {found}, not {wanted}: somebody changed it"),
                "change it back",
            )
        };
        for column in ["data", "rest"] {
            if let Some(found) = found(column).filter(|found| *found != "bytea") {
                return Err(changed(column, found, "bytea"));
            }
        }
        for column in &mut entry.shape.columns {
            let Some(found) = found(&column.name) else {
                continue;
            };
            match kind_of_type(found) {
                Some(kind) if base_type(kind) == base_type(column.kind) => {}
                Some(kind) if kind.holds(column.kind) => column.kind = kind,
                _ => return Err(changed(&column.name, found, &sql_type(column.kind))),
            }
        }
    }
    Ok(())
}

fn making(description: &FileDescription, table: &str) -> String {
    format!(
        "making the table {table} for {}",
        path_text(description.named_for())
    )
}

/// Attributes of files, column by column.
struct Columns {
    kind: Vec<Option<&'static str>>,
    size: Vec<i64>,
    mode: Vec<Option<i64>>,
    uid: Vec<Option<i64>>,
    gid: Vec<Option<i64>>,
    modified_ns: Vec<Option<i64>>,
}

impl Columns {
    fn of(files: &[&File]) -> Result<Columns, SinkError> {
        let each = |get: fn(&Attributes) -> Option<u32>| {
            let numbers = files
                .iter()
                .map(|file| get(&file.attributes).map(i64::from));
            numbers.collect()
        };
        let mut size = Vec::with_capacity(files.len());
        for file in files {
            size.push(integer(file.attributes.size, "PostgreSQL", || {
                format!("storing the size of {}", path_text(&file.description.path))
            })?);
        }
        Ok(Columns {
            kind: files
                .iter()
                .map(|file| file.attributes.kind.map(FileKind::name))
                .collect(),
            size,
            mode: each(|attributes| attributes.mode),
            uid: each(|attributes| attributes.uid),
            gid: each(|attributes| attributes.gid),
            modified_ns: files
                .iter()
                .map(|file| file.attributes.modified_ns)
                .collect(),
        })
    }
}

async fn insert_entries(
    session: &mut Session,
    stream: &str,
    files: &[&File],
) -> Result<(), SinkError> {
    let mut words = Vec::with_capacity(files.len());
    for file in files {
        words.push(FormatWords::of(&file.description.format)?);
    }
    let file_ids: Vec<i64> = files.iter().map(|file| file.file_id).collect();
    let paths: Vec<&[u8]> = files.iter().map(|f| &*f.description.path).collect();
    let texts: Vec<String> = paths.iter().map(|path| path_text(path)).collect();
    let groups: Vec<&str> = files.iter().map(|f| &*f.description.group).collect();
    let organizations: Vec<&str> = words.iter().map(|words| &*words.organization).collect();
    let layouts: Vec<&str> = words.iter().map(|words| &*words.layout).collect();
    let record_sizes: Vec<Option<i64>> = words.iter().map(|words| words.record_size).collect();
    let varseq: Vec<Option<i64>> = words.iter().map(|words| words.varseq_format).collect();
    let tree_ids: Vec<Option<i64>> = files.iter().map(|file| file.tree_id).collect();
    let tables: Vec<&str> = files.iter().map(|file| &*file.table.name).collect();
    let configured: Vec<Option<&str>> = files
        .iter()
        .map(|file| file.description.table.as_deref())
        .collect();
    let made: Vec<bool> = files.iter().map(|file| file.table.is_made).collect();
    let standard = Shape::default();
    let shapes: Vec<Option<String>> = files
        .iter()
        .map(|file| &file.table.shape)
        .map(|shape| (*shape != standard).then(|| shape.text()))
        .collect();
    let columns = Columns::of(files)?;
    let insert = format!(
        "INSERT INTO {} (stream, file_id, path, path_text, file_group, organization, layout, record_size, varseq_format,
             tree_id, table_name, table_configured, table_made, kind, size, mode, uid, gid, modified_ns, shape)
         SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
             $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::boolean[], $14::text[], $15::bigint[],
             $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::text[])",
        session.name("counterfoil_files")
    );
    session
        .execute(
            &insert,
            &[
                &stream,
                &file_ids,
                &paths,
                &texts,
                &groups,
                &organizations,
                &layouts,
                &record_sizes,
                &varseq,
                &tree_ids,
                &tables,
                &configured,
                &made,
                &columns.kind,
                &columns.size,
                &columns.mode,
                &columns.uid,
                &columns.gid,
                &columns.modified_ns,
                &shapes,
            ],
        )
        .await
        .doing(|| format!("storing the catalogue of {stream}"))?;
    Ok(())
}

async fn update_attributes(
    session: &mut Session,
    stream: &str,
    files: &[&File],
) -> Result<(), SinkError> {
    let file_ids: Vec<i64> = files.iter().map(|file| file.file_id).collect();
    let columns = Columns::of(files)?;
    let update = format!(
        "UPDATE {} AS f SET kind = a.kind, size = a.size, mode = a.mode, uid = a.uid, gid = a.gid,
             modified_ns = a.modified_ns
         FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
             AS a (file_id, kind, size, mode, uid, gid, modified_ns)
         WHERE f.file_id = a.file_id",
        session.name("counterfoil_files")
    );
    session
        .execute(
            &update,
            &[
                &file_ids,
                &columns.kind,
                &columns.size,
                &columns.mode,
                &columns.uid,
                &columns.gid,
                &columns.modified_ns,
            ],
        )
        .await
        .doing(|| format!("storing the attributes of files of {stream}"))?;
    Ok(())
}
