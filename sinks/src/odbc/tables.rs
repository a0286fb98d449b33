//! The tables that rows are in, and the views that people read them through.
//!
//! In some databases making or dropping a table ends the transaction that it is in, so a batch does
//! neither. It takes tables that are there: those are made beforehand, have numbers for names, and are
//! nobody's until a batch that takes them commits. A table whose file is gone is emptied within the
//! batch and is there for the stream's next file, so none is ever dropped, and whoever reads an older
//! state of the database finds it in the same tables.
//!
//! A batch notes in its transaction which views have changed. They are made anew after it, or, after a
//! crash, when the sink is opened the next time.

use super::catalogue::wanted_shape;
use super::columns::Columns;
use super::dialect::{Definition, Rows, Sql};
use super::error::{Doing, transient};
use super::schema::{is_there, types};
use super::session::{Kind, Session, Value};
use crate::naming::Names;
use crate::plan::Shape;
use crate::sql::permanent;
use crate::{FileDescription, SinkError};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How often a view is made anew because somebody else has made it meanwhile.
const ROUNDS_MAX: u32 = 8;

/// What a batch takes of tables and names, within its transaction.
#[derive(Default)]
pub(super) struct Structure {
    /// The numbers of tables that are nobody's, and what their columns are; `None` until asked for.
    spare: Option<Vec<(i64, String)>>,
    /// Tables that there are too few of. The batch can't be applied until they are made.
    pub(super) lacking: Vec<Arc<Columns>>,
    names: Option<Names>,
    is_locked: bool,
    /// Tables of files that aren't there any more: somebody dropped them.
    missing: HashSet<i64>,
    /// A table that may be one of those. Whether it is can be seen only outside of the transaction.
    pub(super) suspect: Option<i64>,
    /// Whether views have to be made anew after the batch.
    pub(super) has_stale_views: bool,
    /// The numbers of tables that are known to be what they have to be; `None`: nobody looks.
    checked: Option<Arc<HashSet<i64>>>,
    /// Those that aren't, and whose they are. The batch can't be applied until somebody has looked.
    pub(super) unchecked: Vec<(Rows, String)>,
}

/// Whose tables are that somebody made before there was a stream.
const ANYBODY: &str = "*";

/// The statements that an empty database gets for these files. Who is connected knows what the database is; else it has to
/// be configured.
pub(super) fn statements(sql: &Sql, files: &[FileDescription]) -> Result<Vec<String>, SinkError> {
    let mut statements = super::schema::statements(sql);
    let mut trees = HashSet::new();
    for (number, file) in (1..).zip(files.iter().filter(|file| match &file.tree {
        Some(root) => trees.insert(root),
        None => true,
    })) {
        let columns = match &file.tree {
            Some(_) => Columns::shared(),
            None => Columns::of(&wanted_shape(file), sql),
        };
        statements.push(sql.create_rows(number, &columns, sql.dialect.usual_types()));
        // A structure has braces of its own.
        let insert = sql
            .own("INSERT INTO {tables} (rows_table, stream, structure, is_made, is_used) VALUES ");
        statements.push(format!(
            "{insert}({number}, '{ANYBODY}', {}, 1, 0)",
            sql.literal(&columns.structure)
        ));
    }
    Ok(statements)
}

/// Notes a table that isn't there yet.
const NOTE_TABLE: &str =
    "INSERT INTO {tables} (rows_table, stream, structure, is_made, is_used) VALUES (?, ?, ?, 0, 0)";

/// What is left to do after [`refresh_views`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// Something is in the way.
    Something,
}

/// Notes that tables are lacking. Whoever began the batch makes them and begins it again.
pub(super) fn lacking() -> SinkError {
    transient(
        "taking tables",
        "there are too few, and more have to be made",
    )
}

impl Structure {
    /// Of a database in which some tables aren't there any more, and some are known to be what they have to be.
    pub(super) fn new(missing: &HashSet<i64>, checked: Option<Arc<HashSet<i64>>>) -> Structure {
        Structure {
            missing: missing.clone(),
            checked,
            ..Structure::default()
        }
    }

    /// Notes that a table is used, so that it is checked before, where that is wanted.
    pub(super) fn use_table(&mut self, rows: &Rows, whose: impl FnOnce() -> String) {
        let is_checked = match &self.checked {
            None => true,
            Some(checked) => checked.contains(&rows.number) || self.is_missing(rows.number),
        };
        if !is_checked
            && !self
                .unchecked
                .iter()
                .any(|(there, _)| there.number == rows.number)
        {
            self.unchecked.push((rows.clone(), whose()));
        }
    }

    /// Breaks the batch off where tables have to be checked before.
    pub(super) fn require_checks(&self) -> Result<(), SinkError> {
        if self.unchecked.is_empty() {
            Ok(())
        } else {
            Err(transient("taking tables", "some have to be checked before"))
        }
    }

    /// Makes sure that there are tables with these columns that are nobody's, one for each.
    pub(super) fn require(
        &mut self,
        session: &mut Session,
        stream: &str,
        wanted: Vec<Arc<Columns>>,
    ) -> Result<(), SinkError> {
        if wanted.is_empty() {
            return Ok(());
        }
        if self.checked.is_some() {
            let mut spare = self.spare(session, stream)?.clone();
            for columns in &wanted {
                let same = |(_, structure): &(i64, String)| *structure == columns.structure;
                if let Some(at) = spare.iter().rposition(same) {
                    let rows = Rows {
                        number: spare.remove(at).0,
                        file_id: None,
                        columns: Arc::clone(columns),
                    };
                    self.use_table(&rows, || stream.to_owned());
                }
            }
        }
        let mut there: HashMap<String, usize> = HashMap::new();
        for (_, structure) in self.spare(session, stream)?.iter() {
            *there.entry(structure.clone()).or_default() += 1;
        }
        let mut lacking_ones = wanted;
        lacking_ones.retain(|columns| match there.get_mut(&columns.structure) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        });
        if lacking_ones.is_empty() {
            return Ok(());
        }
        self.lacking = lacking_ones;
        Err(lacking())
    }

    fn spare(
        &mut self,
        session: &mut Session,
        stream: &str,
    ) -> Result<&mut Vec<(i64, String)>, SinkError> {
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => {
                let mut spare = list_spare(session, stream)?;
                if spare.iter().any(|(_, _, is_anybodys)| *is_anybodys) && !self.is_locked {
                    // From here on nobody else takes one.
                    self.lock(session)?;
                    spare = list_spare(session, stream)?;
                }
                let spare = spare.into_iter();
                spare
                    .map(|(number, structure, _)| (number, structure))
                    .collect()
            }
        };
        Ok(self.spare.insert(spare))
    }

    /// Takes an empty table with these columns that is nobody's.
    pub(super) fn take_table(
        &mut self,
        session: &mut Session,
        stream: &str,
        columns: &Arc<Columns>,
    ) -> Result<i64, SinkError> {
        let spare = self.spare(session, stream)?;
        let Some(at) = spare
            .iter()
            .rposition(|(_, structure)| *structure == columns.structure)
        else {
            self.lacking = vec![Arc::clone(columns)];
            return Err(lacking());
        };
        let (number, _) = spare.remove(at);
        let rows = Rows {
            number,
            file_id: None,
            columns: Arc::clone(columns),
        };
        self.use_table(&rows, || stream.to_owned());
        self.require_checks()?;
        let take = session
            .sql
            .own("UPDATE {tables} SET is_used = 1, stream = ? WHERE rows_table = ?");
        session
            .change(
                &take,
                &[Value::Text(Some(stream)), Value::Number(Some(number))],
            )
            .doing(|| format!("taking the table with number {number}"))?;
        Ok(number)
    }

    /// Empties a file's table, and gives it back. One that somebody dropped is forgotten.
    pub(super) fn empty_table(
        &mut self,
        session: &mut Session,
        rows: &Rows,
        doing: impl FnOnce() -> String,
    ) -> Result<(), SinkError> {
        if self.is_missing(rows.number) {
            return self.forget_table(session, rows);
        }
        let clear = session.sql.clear(rows, (0, i64::MAX));
        if let Err(fault) = session.change(&clear, &[]) {
            self.suspect = Some(rows.number);
            return Err(fault.at(doing()));
        }
        self.release_table(session, rows)
    }

    /// Whether somebody dropped the table with this number.
    pub(super) fn is_missing(&self, number: i64) -> bool {
        self.missing.contains(&number)
    }

    /// Forgets a table that somebody dropped.
    pub(super) fn forget_table(
        &mut self,
        session: &mut Session,
        rows: &Rows,
    ) -> Result<(), SinkError> {
        let forget = session.sql.own("DELETE FROM {tables} WHERE rows_table = ?");
        session
            .change(&forget, &[Value::Number(Some(rows.number))])
            .doing(|| format!("forgetting the table with number {}", rows.number))?;
        Ok(())
    }

    /// Gives a table back, which is empty.
    fn release_table(&mut self, session: &mut Session, rows: &Rows) -> Result<(), SinkError> {
        let release = session
            .sql
            .own("UPDATE {tables} SET is_used = 0 WHERE rows_table = ?");
        session
            .change(&release, &[Value::Number(Some(rows.number))])
            .doing(|| format!("releasing the table with number {}", rows.number))?;
        if let Some(spare) = &mut self.spare {
            spare.push((rows.number, rows.columns.structure.clone()));
        }
        Ok(())
    }

    /// A number that nothing has had yet, for a file or a tree.
    pub(super) fn next_number(&mut self, session: &mut Session) -> Result<i64, SinkError> {
        let number = next_number(session)?;
        self.is_locked = true;
        Ok(number)
    }

    /// From here on nobody else changes what names there are, until the transaction ends.
    fn lock(&mut self, session: &mut Session) -> Result<(), SinkError> {
        if !self.is_locked {
            let lock = session
                .sql
                .own("UPDATE {state} SET next_number = next_number WHERE only_row = 1");
            session
                .change(&lock, &[])
                .doing(|| "locking the names of tables".into())?;
            self.is_locked = true;
        }
        Ok(())
    }

    /// A name that nothing in the database has. It counts as used from now on.
    pub(super) fn take_name(
        &mut self,
        session: &mut Session,
        stream: &str,
        wanted: &str,
    ) -> Result<String, SinkError> {
        self.list_names(session)?;
        let sql = &session.sql;
        let name = self
            .names
            .get_or_insert_default()
            .take(wanted, |wanted, number| sql.limited(wanted, number));
        self.mark(session, stream, &name)?;
        Ok(name)
    }

    /// Finds out which names are in use, unless it is known.
    pub(super) fn list_names(&mut self, session: &mut Session) -> Result<(), SinkError> {
        if self.names.is_some() {
            return Ok(());
        }
        self.lock(session)?;
        let listing = || "listing the tables".to_owned();
        let mut names = Names::default();
        match session.sql.list_names() {
            Some(select) => {
                for mut row in session.rows(&select, &[], &[Kind::Text]).doing(listing)? {
                    names.add(&row.text(0).unwrap_or_default());
                }
            }
            None => match session.names_shown() {
                Ok(shown) => shown.iter().for_each(|name| names.add(name)),
                Err(fault) if session.is_broken() => return Err(fault.at(listing())),
                Err(fault) => {
                    tracing::debug!(?fault, "the driver doesn't say which tables there are");
                }
            },
        }
        let mut ours = Vec::new();
        for select in [
            "SELECT table_name FROM {files} WHERE tree_id IS NULL",
            "SELECT table_name FROM {histories}",
            "SELECT table_name FROM {trees}",
            "SELECT view_name FROM {trees}",
        ] {
            let select = session.sql.own(select);
            for mut row in session.rows(&select, &[], &[Kind::Text]).doing(listing)? {
                ours.push(row.text(0).unwrap_or_default());
            }
        }
        // A view that is to go with the catalogue's next state is no obstacle.
        let select = session.sql.own("SELECT name FROM {views}");
        for mut row in session.rows(&select, &[], &[Kind::Text]).doing(listing)? {
            names.release(&row.text(0).unwrap_or_default());
        }
        ours.iter().for_each(|name| names.add(name));
        self.names = Some(names);
        Ok(())
    }

    /// Gives a name up.
    pub(super) fn release_name(
        &mut self,
        session: &mut Session,
        stream: &str,
        name: &str,
    ) -> Result<(), SinkError> {
        if let Some(names) = &mut self.names {
            names.release(name);
        }
        self.mark(session, stream, name)
    }

    /// Has a view made anew, or dropped, after the batch.
    pub(super) fn mark(
        &mut self,
        session: &mut Session,
        stream: &str,
        name: &str,
    ) -> Result<(), SinkError> {
        let marking = || format!("marking the view {name:?}");
        self.lock(session)?;
        self.has_stale_views = true;
        let key = key(name);
        let key = Value::Text(Some(&key));
        let select = session
            .sql
            .own("SELECT wanted FROM {views} WHERE name_key = ?");
        let is_there = session
            .first(&select, &[key], &[Kind::Number])
            .doing(marking)?
            .is_some();
        let (name, stream) = (Value::Text(Some(name)), Value::Text(Some(stream)));
        let sql = session.sql.own(if is_there {
            "UPDATE {views} SET name = ?, stream = ?, wanted = wanted + 1 WHERE name_key = ?"
        } else {
            "INSERT INTO {views} (name, stream, name_key, wanted, made) VALUES (?, ?, ?, 1, 0)"
        });
        session.change(&sql, &[name, stream, key]).doing(marking)?;
        Ok(())
    }
}

/// The tables that are nobody's: their numbers, what their columns are, and whether any stream may have them.
fn list_spare(session: &mut Session, stream: &str) -> Result<Vec<(i64, String, bool)>, SinkError> {
    let listing = || "listing the tables that are nobody's".to_owned();
    let select = session.sql.own(
        "SELECT rows_table, structure, stream FROM {tables}
         WHERE (stream = ? OR stream = ?) AND is_made = 1 AND is_used = 0 ORDER BY rows_table DESC",
    );
    let rows = session
        .rows(
            &select,
            &[Value::Text(Some(stream)), Value::Text(Some(ANYBODY))],
            &[Kind::Number, Kind::Text, Kind::Text],
        )
        .doing(listing)?;
    let mut spare = Vec::with_capacity(rows.len());
    for mut row in rows {
        spare.push((
            row.known_number(0).doing(listing)?,
            row.text(1).unwrap_or_default(),
            row.text(2).as_deref() == Some(ANYBODY),
        ));
    }
    Ok(spare)
}

/// What a view is found by: names that differ by case alone are one in many databases.
fn key(name: &str) -> String {
    name.to_lowercase()
}

/// The number that the next table gets. Of two writers that make tables at the same time one is refused when it notes them.
fn next_table(session: &mut Session) -> Result<i64, SinkError> {
    let numbering = || "numbering tables".to_owned();
    let select = session.sql.own("SELECT MAX(rows_table) FROM {tables}");
    let row = session
        .first(&select, &[], &[Kind::Number])
        .doing(numbering)?;
    Ok(row.and_then(|mut row| row.number(0)).unwrap_or_default() + 1)
}

/// A number that nothing has had yet. Whoever takes one locks the others out until the transaction ends.
fn next_number(session: &mut Session) -> Result<i64, SinkError> {
    let numbering = || "taking a number".to_owned();
    let update = session
        .sql
        .own("UPDATE {state} SET next_number = next_number + 1 WHERE only_row = 1");
    session.change(&update, &[]).doing(numbering)?;
    let select = session
        .sql
        .own("SELECT next_number FROM {state} WHERE only_row = 1");
    let row = session
        .first(&select, &[], &[Kind::Number])
        .doing(numbering)?;
    let mut row = row.ok_or_else(|| {
        permanent(
            numbering(),
            "counterfoil_state is empty",
            "something other than Counterfoil changed it: mirror into an empty schema",
        )
    })?;
    row.known_number(0).doing(numbering)
}

/// Makes tables that are nobody's. No transaction is open.
pub(super) fn make_tables(
    session: &mut Session,
    stream: &str,
    wanted: &[Arc<Columns>],
) -> Result<(), SinkError> {
    let making = || "making tables for rows".to_owned();
    session.set_by_statement(true).doing(making)?;
    make_noted(session, stream, wanted)?;
    session.set_by_statement(false).doing(making)
}

/// Tables are noted first, then made, then noted to be there.
fn make_noted(
    session: &mut Session,
    stream: &str,
    wanted: &[Arc<Columns>],
) -> Result<(), SinkError> {
    let making = || "making tables for rows".to_owned();
    let types = types(session)?;
    drop_half_made(session, stream)?;
    let first = next_table(session)?;
    let note = session.sql.own(NOTE_TABLE);
    let tables: Vec<(i64, &Arc<Columns>)> = (first..).zip(wanted).collect();
    for &(number, columns) in &tables {
        let values = [
            Value::Number(Some(number)),
            Value::Text(Some(stream)),
            Value::Text(Some(&columns.structure)),
        ];
        session
            .change(&note, &values)
            .map_err(|fault| match fault.is_duplicate() {
                true => transient(making(), "another writer makes tables at the same time"),
                false => fault.at(making()),
            })?;
    }
    let mut made = Vec::with_capacity(tables.len());
    let mut done = Ok(());
    for (number, columns) in tables {
        let create = session.sql.create_rows(number, columns, types);
        done = session
            .define(&create)
            .doing(|| format!("making the table {}", session.sql.rows_table(number)));
        if done.is_err() {
            break;
        }
        made.push(number);
    }
    if session.is_broken() {
        return done;
    }
    let note = session
        .sql
        .own("UPDATE {tables} SET is_made = 1 WHERE rows_table = ?");
    for number in made {
        session
            .change(&note, &[Value::Number(Some(number))])
            .doing(making)?;
    }
    session.commit().doing(making)?;
    done
}

/// Where somebody else makes tables: takes those that were made since they were asked for, and asks for what is lacking
/// still. No transaction is open.
pub(super) fn ask_for_tables(
    session: &mut Session,
    stream: &str,
    wanted: &[Arc<Columns>],
) -> Result<(), SinkError> {
    let asking = || "looking for tables that somebody makes".to_owned();
    let select = session.sql.own(
        "SELECT rows_table, structure FROM {tables} WHERE stream = ? AND is_made = 0 ORDER BY rows_table",
    );
    let kinds = [Kind::Number, Kind::Text];
    let rows = session
        .rows(&select, &[Value::Text(Some(stream))], &kinds)
        .doing(asking)?;
    session.rollback();
    let mut asked = Vec::with_capacity(rows.len());
    for mut row in rows {
        asked.push((
            row.known_number(0).doing(asking)?,
            row.text(1).unwrap_or_default(),
        ));
    }
    let types = session.sql.dialect.usual_types();
    let mut statements = Vec::new();
    for columns in wanted {
        let at = asked
            .iter()
            .position(|(_, structure)| *structure == columns.structure);
        let number = match at {
            Some(at) => asked.remove(at).0,
            None => {
                let number = next_table(session)?;
                let note = session.sql.own(NOTE_TABLE);
                let values = [
                    Value::Number(Some(number)),
                    Value::Text(Some(stream)),
                    Value::Text(Some(&columns.structure)),
                ];
                session.change(&note, &values).doing(asking)?;
                session.commit().doing(asking)?;
                number
            }
        };
        let table = session.sql.rows_table(number);
        if is_there(session, &table)? {
            let made = session
                .sql
                .own("UPDATE {tables} SET is_made = 1 WHERE rows_table = ?");
            session
                .change(&made, &[Value::Number(Some(number))])
                .doing(asking)?;
            session.commit().doing(asking)?;
        } else {
            statements.push(session.sql.create_rows(number, columns, types));
        }
    }
    if statements.is_empty() {
        return Ok(());
    }
    Err(permanent(
        asking(),
        format!(
            "{} aren't there, and `ddl` says that they aren't to be made",
            statements.len()
        ),
        format!("have them made: {}", statements.join("; ")),
    ))
}

/// Drops what a crash left of tables that were being made for a stream, and forgets them.
fn drop_half_made(session: &mut Session, stream: &str) -> Result<(), SinkError> {
    let looking = || "looking for tables that were being made".to_owned();
    let select = session
        .sql
        .own("SELECT rows_table FROM {tables} WHERE stream = ? AND is_made = 0");
    let rows = session
        .rows(&select, &[Value::Text(Some(stream))], &[Kind::Number])
        .doing(looking)?;
    session.rollback();
    for mut row in rows {
        let number = row.known_number(0).doing(looking)?;
        let drop = session.sql.drop_rows(number);
        if let Err(fault) = session.define(&drop) {
            if session.is_broken() {
                return Err(fault.at(looking()));
            }
            tracing::debug!(?fault, number, "a table that was being made isn't there");
        }
        let forget = session
            .sql
            .own("DELETE FROM {tables} WHERE rows_table = ? AND is_made = 0");
        session
            .change(&forget, &[Value::Number(Some(number))])
            .doing(looking)?;
        session.commit().doing(looking)?;
    }
    Ok(())
}

/// Whether views have to be made anew.
pub(super) fn has_stale_views(session: &mut Session) -> Result<bool, SinkError> {
    let looking = || "looking for views to make anew".to_owned();
    let select = session
        .sql
        .own("SELECT COUNT(*) FROM {views} WHERE made < wanted");
    let row = session
        .first(&select, &[], &[Kind::Number])
        .doing(looking)?;
    session.rollback();
    match row {
        Some(mut row) => Ok(row.known_number(0).doing(looking)? > 0),
        None => Ok(false),
    }
}

/// Makes the views as the catalogue has them. No transaction is open.
pub(super) fn refresh_views(session: &mut Session) -> Result<Left, SinkError> {
    let noting = || "noting which views are made".to_owned();
    let mut stale = views(
        session,
        "SELECT name, wanted FROM {views} WHERE made < wanted",
    )?;
    for _ in 0..ROUNDS_MAX {
        if stale.is_empty() {
            return Ok(Left::Nothing);
        }
        let mut queries = queries(session, &stale)?;
        let mut left = Left::Nothing;
        // Drops first: names may differ by case alone.
        let (mut changed, gone): (Vec<_>, Vec<_>) = stale
            .into_iter()
            .partition(|(name, _)| queries.contains_key(name));
        for (name, _) in &gone {
            // It may never have been made.
            let drop = session.sql.drop_view(name);
            if session.define(&drop).is_err() && session.is_broken() {
                return Err(transient(noting(), "the connection was lost"));
            }
        }
        let mut failed = Vec::new();
        for (name, _) in &changed {
            let query = queries.remove(name).unwrap_or_default();
            if !define(session, name, &query)? {
                left = Left::Something;
                failed.push(name.clone());
            }
        }
        changed.retain(|(name, _)| !failed.contains(name));
        for (views, sql) in [
            (
                &gone,
                "DELETE FROM {views} WHERE name_key = ? AND wanted = ?",
            ),
            (
                &changed,
                "UPDATE {views} SET made = wanted WHERE name_key = ? AND wanted = ?",
            ),
        ] {
            let sql = session.sql.own(sql);
            for (name, wanted) in views {
                let key = key(name);
                session
                    .change(
                        &sql,
                        &[Value::Text(Some(&key)), Value::Number(Some(*wanted))],
                    )
                    .doing(noting)?;
            }
        }
        session.commit().doing(noting)?;
        if left == Left::Something {
            return Ok(left);
        }
        // If another batch has changed one meanwhile, what was made here may be older than what somebody else has made
        // since.
        let done: HashMap<String, i64> = gone.into_iter().chain(changed).collect();
        stale = views(session, "SELECT name, wanted FROM {views}")?;
        stale.retain(|(name, wanted)| done.get(name).is_some_and(|done| done != wanted));
    }
    Ok(Left::Something)
}

/// Names of views, and as of which change they are wanted.
fn views(session: &mut Session, select: &str) -> Result<Vec<(String, i64)>, SinkError> {
    let looking = || "looking for views to make anew".to_owned();
    let select = session.sql.own(select);
    let rows = session
        .rows(&select, &[], &[Kind::Text, Kind::Number])
        .doing(looking)?;
    session.rollback();
    let mut views = Vec::with_capacity(rows.len());
    for mut row in rows {
        views.push((
            row.text(0).unwrap_or_default(),
            row.known_number(1).doing(looking)?,
        ));
    }
    Ok(views)
}

/// What the views with these names have to show; a view that isn't in it is to be none.
fn queries(
    session: &mut Session,
    views: &[(String, i64)],
) -> Result<HashMap<String, String>, SinkError> {
    let looking = || "looking up what views are of".to_owned();
    let wanted: HashSet<&str> = views.iter().map(|(name, _)| name.as_str()).collect();
    let mut found = Vec::new();
    // Names are text of any length, which not all databases compare.
    for (n, select) in [
        "SELECT rows_table, tree_id, table_name, identity_name, shape FROM {files} WHERE tree_id IS NULL",
        "SELECT rows_table, rows_table, table_name, identity_name, shape FROM {histories}",
        "SELECT rows_table, tree_id, table_name FROM {trees}",
        "SELECT rows_table, tree_id, view_name FROM {trees}",
    ]
    .into_iter()
    .enumerate()
    {
        let select = session.sql.own(select);
        let kinds = [Kind::Number, Kind::Number, Kind::Text, Kind::Text, Kind::Text];
        let kinds = if n < 2 { &kinds[..] } else { &kinds[..3] };
        session
            .walk(&select, &[], kinds, |mut row| {
                if let (Some(number), tree_id, Some(name)) =
                    (row.number(0), row.number(1), row.text(2))
                    && wanted.contains(name.as_str())
                {
                    found.push((
                        n,
                        name,
                        number,
                        tree_id.unwrap_or_default(),
                        row.text(3).unwrap_or_default(),
                        row.text(4),
                    ));
                }
                true
            })
            .doing(looking)?;
    }
    session.rollback();
    let sql = &session.sql;
    let queries = found
        .into_iter()
        .map(|(n, name, number, tree_id, identity, shape)| {
            let query = match n {
                // A shape that can't be read is told of where the file is looked up.
                0 | 1 => {
                    let shape = Shape::parse(shape.as_deref()).unwrap_or_default();
                    sql.file_view(number, &identity, &Columns::of(&shape, sql))
                }
                2 => sql.tree_view(number),
                _ => sql.content_view(number, tree_id),
            };
            (name, query)
        });
    Ok(queries.collect())
}

fn define(session: &mut Session, name: &str, query: &str) -> Result<bool, SinkError> {
    let making = || format!("making the view {name:?}");
    let mut last = None;
    for definition in session.sql.define_view(name, query) {
        let done = match definition {
            Definition::One(statement) => session.define(&statement),
            Definition::DropAndCreate(drop, create) => {
                let _ = session.define(&drop);
                session.define(&create)
            }
        };
        match done {
            Ok(()) => return Ok(true),
            Err(fault) if session.is_broken() => return Err(fault.at(making())),
            Err(fault) => last = Some(fault),
        }
    }
    if let Some(fault) = last {
        let problem = fault.at(making());
        tracing::warn!("{problem}; the rows are up to date all the same");
    }
    Ok(false)
}
