//! How a table comes to be what a plan wants.
//!
//! Where its columns change, it is made anew beside the old one, under another number, and filled from it in the batch's
//! transaction; the catalogue's entry switches to it. Whatever dies when, the file has the old table as it was, or the new one
//! with all that belongs to it. What others have added to the old one, columns and indexes, the new one has as well.
//!
//! Where none may be made (`ddl`), the table has to have its columns already, and only what is in them changes.

use super::catalogue::{File, Work};
use super::columns::{Columns, definitions, stored_name};
use super::error::Doing;
use super::policy;
use super::rows::{Record, Rows, Stamp};
use super::schema::{quoted, rows_table};
use super::session::{Session, column};
use super::structure::Make;
use crate::plan::{Ddl, Evolution, Mode, Plan, PlanColumn, Shape, UNDECODED};
use crate::sql::permanent;
use crate::{FileDescription, SinkError};
use counterfoil_proto::{Position, path_text};
use mysql_async::{Error, Row, Value};

/// Identities whose rows are copied, or emptied, by one statement.
const COPIED_ROWS: u64 = 20_000;

/// Rows, and bytes of them, that are held at once while columns are filled: as many as fit, going by those before.
const PAGE_ROWS_MAX: usize = 2000;
const PAGE_ROWS_FIRST: usize = 16;
const PAGE_BYTES: usize = 4 << 20;

/// A row of a table, as it is read to be written anew.
pub(super) struct StoredRow {
    pub(super) id: u64,
    pub(super) data: Vec<u8>,
    pub(super) rest: Vec<u8>,
    pub(super) stamp: Option<Stamp>,
}

impl StoredRow {
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            id: self.id,
            data: &self.data,
            rest: &self.rest,
            stamp: self.stamp,
        }
    }
}

impl Work<'_> {
    /// The rows of a file as its plan wants them.
    pub(super) async fn fit(
        &mut self,
        rows: Rows,
        description: &FileDescription,
    ) -> Result<Rows, SinkError> {
        if description.tree.is_some() {
            return Ok(rows);
        }
        let plan = description.plan.as_ref();
        let before = rows.shape();
        let raw = Plan::raw();
        let path = || path_text(&description.path);
        let evolution = before
            .evolve(plan.map_or(&raw, AsRef::as_ref))
            .map_err(|problems| {
                permanent(
                    format!("changing the table of {}", path()),
                    problems.join("; "),
                    "change what this sink's configuration says of the file",
                )
            })?;
        if self.config.ddl == Ddl::Check {
            policy::check_rows(self.session, rows.number, &evolution.shape, path).await?;
        }
        let columns = Columns::new(evolution.shape.clone(), plan.cloned());
        if evolution.is_nothing() && evolution.shape == before {
            return Ok(Rows { columns, ..rows });
        }
        let changing = || format!("changing the table of {}", path());
        let is_made = changes_columns(&evolution) && self.may_define();
        let number = if is_made {
            let make = Make::Like {
                number: rows.number,
                before: &before,
                evolution: &evolution,
            };
            self.new_rows(make).await?
        } else {
            rows.number
        };
        let after = Rows {
            number,
            columns,
            ..rows.clone()
        };
        // Without the bytes, what is there stays as it is.
        let is_filled = evolution.refill && before.raw;
        let there = columns_of(self.session, number).await?;
        if is_made {
            let others = others_columns(&there, &before, &evolution.shape);
            let is_copied = !is_filled || !others.is_empty();
            if is_copied {
                let copied = copied_columns(&before, &evolution, others);
                copy(self.session, &rows, number, &copied)
                    .await
                    .doing(changing)?;
            }
            if is_filled {
                fill(self.session, &rows, &after, !is_copied, &changing).await?;
            }
            self.release_rows(rows.number).await.doing(changing)?;
        } else {
            // Nothing is dropped: what would be is emptied, the bytes once the columns are filled from them.
            let gone = evolution.clear.iter().chain(&evolution.drop);
            let gone: Vec<String> = gone.map(|column| stored_name(&column.name)).collect();
            let raw = ["data".to_owned(), "rest".to_owned()];
            let has_raw = raw.iter().all(|name| contains(&there, name));
            let is_there = |name: &&String| contains(&there, name);
            let gone: Vec<&String> = gone.iter().filter(is_there).collect();
            let mut bytes: Vec<&String> = raw.iter().filter(is_there).collect();
            if !evolution.drop_raw {
                bytes.clear();
            }
            let all = [&gone[..], &bytes].concat();
            check_nullable(self.session, number, &all, &changing).await?;
            empty(self.session, &rows, &gone).await.doing(changing)?;
            if is_filled && has_raw {
                fill(self.session, &rows, &after, false, &changing).await?;
            }
            empty(self.session, &rows, &bytes).await.doing(changing)?;
        }
        self.set_shape(number, &evolution.shape).await?;
        Ok(after)
    }

    /// Moves a file's rows to the table that is kept for the name it is to have, where no name can be changed.
    pub(super) async fn move_rows(
        &mut self,
        file: &mut File,
        description: &FileDescription,
    ) -> Result<(), SinkError> {
        let moving = || format!("moving the rows of {}", path_text(&description.path));
        let (rows, table) = self.take_table(description).await?;
        let before = file.rows.shape();
        let same = |column: &&PlanColumn| rows.shape().columns.contains(column);
        let common: Vec<&PlanColumn> = before.columns.iter().filter(same).collect();
        if before.raw {
            fill(self.session, &file.rows, &rows, false, &moving).await?;
        } else {
            let names = common.iter().map(|c| stored_name(&c.name));
            let undecoded = (before.decoded && rows.shape().decoded).then(|| UNDECODED.to_owned());
            let mut copied = vec!["id".to_owned()];
            copied.extend(names.chain(undecoded));
            copy(self.session, &file.rows, rows.number, &copied)
                .await
                .doing(moving)?;
        }
        file.rows
            .clear(self.session, &(0..u64::MAX))
            .await
            .doing(moving)?;
        self.keep(file).await?;
        file.rows = rows;
        file.table = table;
        Ok(())
    }
}

/// Whether the table has to have other columns than it has.
fn changes_columns(evolution: &Evolution) -> bool {
    !(evolution.drop.is_empty() && evolution.add.is_empty() && evolution.widen.is_empty())
        || evolution.drop_raw
        || evolution.add_undecoded
        || evolution.drop_index
        || evolution.make_index
}

fn contains(names: &[String], name: &str) -> bool {
    names.iter().any(|there| there.eq_ignore_ascii_case(name))
}

/// The columns of a table that can be written.
async fn columns_of(session: &mut Session, number: u64) -> Result<Vec<String>, SinkError> {
    let looking = || format!("looking at the columns of {}", rows_table(number));
    let rows = session
        .rows(
            "SELECT column_name FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name = ? AND COALESCE(generation_expression, '') = ''
             ORDER BY ordinal_position",
            (rows_table(number),),
        )
        .await
        .doing(looking)?;
    rows.iter()
        .map(|row| column::<String>(row, 0).doing(looking))
        .collect()
}

/// Refuses to empty columns that may not be empty, and says how they come to be.
async fn check_nullable(
    session: &mut Session,
    number: u64,
    columns: &[&String],
    doing: &impl Fn() -> String,
) -> Result<(), SinkError> {
    if columns.is_empty() {
        return Ok(());
    }
    let table = rows_table(number);
    let any_of = vec!["?"; columns.len()].join(",");
    let sql = format!(
        "SELECT column_name, column_type FROM information_schema.columns
         WHERE table_schema = DATABASE() AND table_name = ? AND is_nullable = 'NO' AND column_name IN ({any_of})
         ORDER BY ordinal_position"
    );
    let mut params = vec![Value::from(&table)];
    params.extend(columns.iter().map(Value::from));
    let rows = session.rows(&sql, params).await.doing(doing)?;
    let mut changes = Vec::with_capacity(rows.len());
    for row in &rows {
        let name: String = column(row, 0).doing(doing)?;
        let kind: Vec<u8> = column(row, 1).doing(doing)?;
        let kind = String::from_utf8_lossy(&kind).into_owned();
        changes.push(format!("MODIFY COLUMN {} {kind} NULL", quoted(&name)));
    }
    if changes.is_empty() {
        return Ok(());
    }
    Err(permanent(
        doing(),
        format!(
            "what is in some columns of {table} is wanted no longer and is to become NULL, which they don't take"
        ),
        format!(
            "let them be NULL: ALTER TABLE {table} {}",
            changes.join(", ")
        ),
    ))
}

/// Columns of a history that say what each row is.
const STAMP_COLUMNS: [&str; 5] = ["epoch", "lsn", "idx", "op", "captured_at"];

/// Those of these columns that others have added.
fn others_columns(there: &[String], before: &Shape, after: &Shape) -> Vec<String> {
    let mut own = vec!["id".to_owned(), "data".into(), "rest".into()];
    own.extend(STAMP_COLUMNS.map(str::to_owned));
    own.extend(definitions(before).into_iter().map(|it| it.name));
    own.extend(definitions(after).into_iter().map(|it| it.name));
    let others = there.iter().filter(|name| !contains(&own, name));
    others.cloned().collect()
}

/// What goes over to a table that is made anew as it is.
fn copied_columns(before: &Shape, evolution: &Evolution, others: Vec<String>) -> Vec<String> {
    let after = &evolution.shape;
    let mut copied = vec!["id".to_owned()];
    if before.mode == Mode::History {
        copied.extend(STAMP_COLUMNS.map(str::to_owned));
    }
    if before.raw && after.raw {
        copied.extend(["data".to_owned(), "rest".into()]);
    }
    let stays = |column: &&PlanColumn| {
        let is = |other: &PlanColumn| other.name.eq_ignore_ascii_case(&column.name);
        before.columns.iter().any(is)
            && !evolution.add.iter().any(is)
            && !evolution.clear.iter().any(is)
    };
    let staying = after.columns.iter().filter(stays);
    copied.extend(staying.map(|column| stored_name(&column.name)));
    if before.decoded && after.decoded {
        copied.push(UNDECODED.into());
    }
    copied.extend(others);
    copied
}

/// The highest of so many identities from this one on, and whether any follow it.
async fn chunk(session: &mut Session, rows: &Rows, from: u64) -> Result<Option<u64>, Error> {
    let sql = format!(
        "SELECT id FROM {} WHERE id >= ? ORDER BY id LIMIT 1 OFFSET {COPIED_ROWS}",
        rows.table()
    );
    match session.first(&sql, (from,)).await? {
        Some(row) => Ok(Some(column(&row, 0)?)),
        None => Ok(None),
    }
}

/// Copies these columns of all rows.
async fn copy(
    session: &mut Session,
    from: &Rows,
    to: u64,
    columns: &[String],
) -> Result<(), Error> {
    let columns: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
    let columns = columns.join(", ");
    let mut begin = Some(0);
    while let Some(first) = begin {
        let last = chunk(session, from, first).await?;
        let until = last.map_or(String::new(), |last| format!(" AND id <= {last}"));
        let sql = format!(
            "INSERT INTO {} ({columns}) SELECT {columns} FROM {} WHERE id >= {first}{until}",
            rows_table(to),
            from.table()
        );
        session.text(&sql).await?;
        begin = last.and_then(|last| last.checked_add(1));
    }
    Ok(())
}

/// Sets these columns of all rows to NULL.
async fn empty(session: &mut Session, rows: &Rows, columns: &[&String]) -> Result<(), Error> {
    if columns.is_empty() {
        return Ok(());
    }
    let sets = columns
        .iter()
        .map(|name| format!("{} = NULL", quoted(name)));
    let sets = sets.collect::<Vec<_>>().join(", ");
    let mut begin = Some(0);
    while let Some(first) = begin {
        let last = chunk(session, rows, first).await?;
        let until = last.map_or(String::new(), |last| format!(" AND id <= {last}"));
        let sql = format!(
            "UPDATE {} SET {sets} WHERE id >= {first}{until}",
            rows.table()
        );
        session.text(&sql).await?;
        begin = last.and_then(|last| last.checked_add(1));
    }
    Ok(())
}

/// Writes all rows of one table, which has the bytes of records, to another, or to itself, as the columns are there.
async fn fill(
    session: &mut Session,
    from: &Rows,
    to: &Rows,
    is_new: bool,
    doing: &impl Fn() -> String,
) -> Result<(), SinkError> {
    let mut pages = Pages::of(from, "");
    while let Some(page) = pages.next(session).await.doing(doing)? {
        let records: Vec<Record<'_>> = page.iter().map(StoredRow::record).collect();
        let writing = |id: u64| format!("{}, record {id}", doing());
        if is_new {
            to.append(session, &records, &writing).await?;
        } else {
            to.put(session, &records, &writing).await?;
        }
    }
    Ok(())
}

/// The rows of a table in pages, in order.
pub(super) struct Pages {
    first: String,
    following: String,
    is_history: bool,
    /// The last row that was seen; `None` after the last of all.
    after: Option<(u64, Position)>,
    is_begun: bool,
    /// Rows of the next page.
    limit: usize,
}

impl Pages {
    /// All rows of a table that has the bytes of records; `condition` begins with AND, and calls the table h.
    pub(super) fn of(rows: &Rows, condition: &str) -> Pages {
        let is_history = rows.is_history();
        let (columns, order, after) = if is_history {
            (
                "h.id, h.data, h.rest, h.epoch, h.lsn, h.idx, h.op, \
                 TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', h.captured_at)",
                "h.id, h.epoch, h.lsn, h.idx",
                " AND (h.id > ? OR h.epoch > ? OR (h.epoch = ? AND (h.lsn > ? OR (h.lsn = ? AND h.idx > ?))))",
            )
        } else {
            ("h.id, h.data, h.rest", "h.id", " AND h.id > ?")
        };
        let select = |after: &str| {
            let table = rows.table();
            format!(
                "SELECT {columns} FROM {table} AS h WHERE h.id >= ?{after}{condition} ORDER BY {order} LIMIT ?"
            )
        };
        Pages {
            first: select(""),
            following: select(after),
            is_history,
            after: Some((0, Position::default())),
            is_begun: false,
            limit: PAGE_ROWS_FIRST,
        }
    }

    /// The next page; `None` when there is none.
    pub(super) async fn next(
        &mut self,
        session: &mut Session,
    ) -> Result<Option<Vec<StoredRow>>, Error> {
        let Some((id, position)) = self.after else {
            return Ok(None);
        };
        let mut params = vec![Value::from(id)];
        let sql = if self.is_begun {
            params.push(id.into());
            if self.is_history {
                params.extend([
                    Value::from(position.epoch),
                    position.epoch.into(),
                    position.lsn.into(),
                    position.lsn.into(),
                    position.index.into(),
                ]);
            }
            &self.following
        } else {
            &self.first
        };
        self.is_begun = true;
        params.push((self.limit as u64).into());
        let mut page = Vec::new();
        let mut bytes = 0;
        let walked = session
            .walk(sql, params, |row| -> Result<bool, Error> {
                let row = read_row(&row, self.is_history)?;
                bytes += row.data.len() + row.rest.len();
                page.push(row);
                Ok(bytes < PAGE_BYTES)
            })
            .await?;
        let is_whole = walked?;
        self.after = match page.last() {
            Some(last) if !is_whole || page.len() == self.limit => {
                let position = last.stamp.map(|stamp| stamp.position);
                Some((last.id, position.unwrap_or_default()))
            }
            _ => None,
        };
        let fitting = PAGE_BYTES * page.len() / bytes.max(1);
        self.limit = fitting.clamp(1, PAGE_ROWS_MAX);
        Ok((!page.is_empty()).then_some(page))
    }
}

fn read_row(row: &Row, is_history: bool) -> Result<StoredRow, Error> {
    let bytes = |index| column::<Option<Vec<u8>>>(row, index).map(Option::unwrap_or_default);
    let stamp = if is_history {
        Some(Stamp {
            position: Position {
                epoch: column(row, 3)?,
                lsn: column(row, 4)?,
                index: column(row, 5)?,
            },
            is_delete: column::<String>(row, 6)? == "delete",
            captured_ns: column::<i64>(row, 7)?.saturating_mul(1000),
        })
    } else {
        None
    };
    Ok(StoredRow {
        id: column(row, 0)?,
        data: bytes(1)?,
        rest: bytes(2)?,
        stamp,
    })
}
