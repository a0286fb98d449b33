//! How a table that is there becomes what is wanted, and how rows go from one table to another.
//!
//! All of it is in the batch's transaction. Rows come in chunks, so memory stays bounded however many there are.

use super::adoption::{self, Keys, Wanted, clipped};
use super::error::{Doing, detail, has_code};
use super::history::Micros;
use super::rows::{self, Moment, Writer};
use super::session::Session;
use super::table::{Table, base_type, names, sql_type};
use crate::plan::{ColumnKind, Ddl, Evolution, Plan, Shape, UNDECODED};
use crate::sql::{permanent, quoted};
use crate::{FileDescription, SinkError};
use std::sync::Arc;
use tokio_postgres::error::SqlState;

/// Rows that are fetched at a time: first few, then as many as stay within a few mebibytes.
const ROWS_FIRST: i64 = 32;
const ROWS_MAX: i64 = 8192;
const BYTES_MAX: usize = 4 << 20;

/// What a description asks for; without a plan that is a mirror of raw images.
pub(super) fn plan_of(description: &FileDescription) -> Arc<Plan> {
    match &description.plan {
        Some(plan) if description.tree.is_none() => Arc::clone(plan),
        _ => Arc::new(Plan::raw()),
    }
}

/// Why a table can't become what is wanted.
pub(super) fn cant_become(doing: String, problems: &[String]) -> SinkError {
    permanent(
        doing,
        problems.join("; "),
        "change the sink's configuration of this table",
    )
}

/// Does to a table what `evolution` says. Gives the table that it is then.
pub(super) async fn evolve(
    session: &mut Session,
    table: &Table,
    file_id: i64,
    plan: &Plan,
    evolution: &Evolution,
    doing: &str,
) -> Result<Table, SinkError> {
    let with = |shape: Shape| {
        let (place, name) = (table.place.clone(), &table.name);
        Table::own(place, name, &table.identity, shape, table.is_made).replacing(table.replaces)
    };
    let mut after = with(evolution.shape.clone());
    let may_change = table.is_made && session.ddl == Ddl::Manage;
    if may_change {
        if evolution.drop_index {
            drop_index(session, table, doing).await?;
        }
        alter(session, table, &changes(table, evolution), doing).await?;
    } else if session.ddl != Ddl::None {
        // Somebody else changes it.
        let wanted: Vec<Wanted> = after.columns().into_iter().map(Wanted::from).collect();
        let (keys, key) = (Keys::of(table), after.key());
        let mut found = adoption::look(session, &table.place, &wanted, &key, keys).await?;
        if session.ddl == Ddl::Check && found.differences.is_empty() {
            found
                .differences
                .extend(adoption::lacks_index(session, &after).await?);
        }
        if !found.differences.is_empty() {
            return Err(adoption::refusal(
                doing.to_owned(),
                &table.name,
                &found.differences,
                "or change the configuration back",
            ));
        }
        after = with(with_others(evolution.shape.clone(), &found));
    }
    let cleared = evolution.clear.iter();
    let mut has_raw = table.shape.raw;
    let raw: Vec<&str>;
    if may_change {
        let cleared: Vec<&str> = cleared.map(|column| &*column.name).collect();
        clear(session, table, &cleared, doing).await?;
        raw = Vec::new();
    } else {
        // What would be dropped is emptied, as far as nobody dropped it.
        let cleared = cleared.chain(&evolution.drop);
        let cleared = cleared.map(|column| clipped(&column.name));
        let there = may_be_emptied(session, table, cleared, doing).await?;
        clear(session, table, &there, doing).await?;
        if evolution.drop_raw {
            raw = may_be_emptied(session, table, ["data", "rest"], doing).await?;
            has_raw = raw.contains(&"data");
        } else {
            raw = Vec::new();
        }
    }
    if evolution.refill && has_raw {
        let with_raw = with(Shape {
            raw: true,
            ..after.shape.clone()
        });
        let from = if table.is_history() {
            Source::Changes(&with_raw)
        } else {
            Source::Current(&with_raw)
        };
        pour(session, from, &with_raw, plan, None, doing).await?;
    }
    if evolution.drop_raw {
        if may_change {
            let drops = ["DROP COLUMN data".into(), "DROP COLUMN rest".into()];
            alter(session, table, &drops, doing).await?;
        }
        clear(session, table, &raw, doing).await?;
        let residue = session.name("counterfoil_residue");
        let delete = format!("DELETE FROM {residue} WHERE file_id = $1");
        let deleted = session.execute(&delete, &[&file_id]).await;
        deleted.doing(|| doing.to_owned())?;
    }
    if evolution.make_index && may_change {
        make_index(session, &after, doing).await?;
    }
    Ok(after)
}

/// What the names of indexes begin with that Counterfoil makes. A table keeps them when it gets another name.
const INDEX_PREFIX: &str = "counterfoil_key_";

/// Makes the index on a table's key, if it has one.
pub(super) async fn make_index(
    session: &mut Session,
    table: &Table,
    doing: &str,
) -> Result<(), SinkError> {
    if table.shape.key.is_empty() {
        return Ok(());
    }
    let doing = || doing.to_owned();
    // No other table has this number.
    let rows = session
        .query("SELECT to_regclass($1)::oid::bigint", &[&table.place])
        .await
        .doing(doing)?;
    let number: i64 = match rows.first() {
        Some(row) => row.try_get(0).doing(doing)?,
        None => return Ok(()),
    };
    match table.create_index(Some(&format!("{INDEX_PREFIX}{number}"))) {
        Some(create) => session.run(&create).await.doing(doing),
        None => Ok(()),
    }
}

/// Drops the indexes on a table's key that Counterfoil made.
async fn drop_index(session: &mut Session, table: &Table, doing: &str) -> Result<(), SinkError> {
    let doing = || doing.to_owned();
    let rows = session
        .query(
            "SELECT c.relname::text FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
             WHERE i.indrelid = to_regclass($1) AND starts_with(c.relname::text, $2)",
            &[&table.place, &INDEX_PREFIX],
        )
        .await
        .doing(doing)?;
    for row in &rows {
        let index: &str = row.try_get(0).doing(doing)?;
        let drop = format!("DROP INDEX {}", session.name(index));
        session.run(&drop).await.doing(doing)?;
    }
    Ok(())
}

/// Which of these columns a table has, that others changed or will.
///
/// # Errors
/// [`SinkError::Permanent`]: one can't be emptied.
async fn may_be_emptied<'n>(
    session: &mut Session,
    table: &Table,
    names: impl IntoIterator<Item = &'n str>,
    doing: &str,
) -> Result<Vec<&'n str>, SinkError> {
    let rows = session
        .query(
            "SELECT attname::text, attnotnull FROM pg_attribute
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
            &[&table.place],
        )
        .await
        .doing(|| doing.to_owned())?;
    let mut there = Vec::new();
    for name in names {
        let Some(row) = rows.iter().find(|row| row.get::<_, &str>(0) == name) else {
            continue;
        };
        if row.get(1) {
            return Err(permanent(
                doing,
                format!(
                    "column {name} of table {} is NOT NULL, and is to be emptied",
                    table.name
                ),
                format!(
                    "run `ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL;` as its owner, or change the configuration back",
                    table.place,
                    quoted(name)
                ),
            ));
        }
        there.push(name);
    }
    Ok(there)
}

/// Empties these columns.
async fn clear(
    session: &mut Session,
    table: &Table,
    names: &[&str],
    doing: &str,
) -> Result<(), SinkError> {
    if names.is_empty() {
        return Ok(());
    }
    let each = |what: &str, between: &str| {
        let each = names.iter().map(|name| format!("{} {what}", quoted(name)));
        each.collect::<Vec<_>>().join(between)
    };
    let clear = format!(
        "UPDATE {} SET {} WHERE {}",
        table.place,
        each("= NULL", ", "),
        each("IS NOT NULL", " OR ")
    );
    session.run(&clear).await.doing(|| doing.to_owned())
}

/// A shape with the columns as they were found, which may hold more than is wanted.
pub(super) fn with_others(mut shape: Shape, found: &adoption::Found) -> Shape {
    for column in &mut shape.columns {
        let other = found.others.iter().find(|(name, _)| *name == column.name);
        if let Some((_, other)) = other {
            column.clone_from(other);
        }
    }
    shape
}

/// What is to be done to a table before its rows are filled anew, as `ALTER TABLE` has it.
fn changes(table: &Table, evolution: &Evolution) -> Vec<String> {
    let mut changes = Vec::new();
    for column in &evolution.drop {
        changes.push(format!("DROP COLUMN {}", quoted(&column.name)));
    }
    for column in &evolution.add {
        let kind = sql_type(column.kind);
        changes.push(format!("ADD COLUMN {} {kind}", quoted(&column.name)));
    }
    if evolution.add_undecoded {
        changes.push(format!("ADD COLUMN {UNDECODED} text"));
    }
    for column in &evolution.widen {
        let shape = &table.shape;
        let mut before = shape.columns.iter().chain(&shape.left);
        let before = before.find(|before| before.name == column.name);
        let Some(before) = before else { continue };
        let (old, new) = (sql_type(before.kind), sql_type(column.kind));
        if old == new {
            continue;
        }
        let name = quoted(&column.name);
        let using = match (before.kind, base_type(column.kind)) {
            // As values that come later are written.
            (ColumnKind::Time { .. }, "text") => {
                format!("rtrim(rtrim(to_char({name}, 'HH24:MI:SS.US'), '0'), '.')")
            }
            (ColumnKind::Timestamp { .. }, "text") => {
                format!("rtrim(rtrim(to_char({name}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '0'), '.')")
            }
            _ => format!("{name}::{new}"),
        };
        changes.push(format!("ALTER COLUMN {name} TYPE {new} USING {using}"));
    }
    changes
}

async fn alter(
    session: &mut Session,
    table: &Table,
    changes: &[String],
    doing: &str,
) -> Result<(), SinkError> {
    if changes.is_empty() {
        return Ok(());
    }
    let alter = format!("ALTER TABLE {} {}", table.place, changes.join(", "));
    let Err(error) = session.run(&alter).await else {
        return Ok(());
    };
    let is_in_the_way = [
        SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
        SqlState::FEATURE_NOT_SUPPORTED,
    ]
    .iter()
    .any(|code| has_code(&error, code));
    if is_in_the_way {
        let said = error.as_db_error().map_or("", |said| said.message());
        return Err(permanent(
            doing,
            format!("{said}{}", detail(&error)),
            format!(
                "drop what depends on the column (a view, say), and make it again when this was done: `{alter}`"
            ),
        ));
    }
    Err(error).doing(|| doing.to_owned())
}

/// Where rows come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'t> {
    /// The records that are there now.
    Current(&'t Table),
    /// Every image in a history.
    Changes(&'t Table),
}

impl Source<'_> {
    /// Takes four numbers, behind which it begins, and how many rows it may give.
    fn select(self) -> String {
        match self {
            Source::Current(table) => {
                let id = quoted(&table.identity);
                let current = table.current(&format!("{id}, data, rest"));
                format!(
                    "SELECT {id}, $2::bigint, $3::bigint, $4::bigint, 0::bigint, data, rest
                     FROM ({current}) AS s WHERE {id} > $1 ORDER BY {id} LIMIT $5"
                )
            }
            Source::Changes(table) => {
                let key = names(table.key().iter().map(String::as_str));
                let captured =
                    "(extract(epoch FROM captured_at - timestamp '2000-01-01') * 1000000)::bigint";
                format!(
                    "SELECT {key}, {captured}, data, rest FROM {}
                     WHERE data IS NOT NULL AND ({key}) > ($1, $2, $3, $4) ORDER BY {key} LIMIT $5",
                    table.place
                )
            }
        }
    }
}

/// Writes rows of a table with raw images into one that is there (the same one: fills it anew), with columns as the plan
/// says; in a history as of `at`, or as of when they were.
pub(super) async fn pour(
    session: &mut Session,
    from: Source<'_>,
    into: &Table,
    plan: &Plan,
    at: Option<Moment>,
    doing: &str,
) -> Result<(), SinkError> {
    let select = from.select();
    let doing = || doing.to_owned();
    let mut writer = Writer::new(into, Some(plan));
    let mut behind = [-1_i64; 4];
    let mut count = ROWS_FIRST;
    loop {
        let [id, epoch, lsn, index] = &behind;
        let found = session
            .query(&select, &[id, epoch, lsn, index, &count])
            .await
            .doing(doing)?;
        let mut chunk = Vec::with_capacity(found.len());
        for row in &found {
            for (column, number) in behind.iter_mut().enumerate() {
                *number = row.try_get(column).doing(doing)?;
            }
            let [id, epoch, lsn, index] = behind;
            let change = Moment {
                epoch,
                lsn,
                index,
                captured_us: row.try_get(4).doing(doing)?,
            };
            chunk.push(rows::Row {
                id,
                data: row.try_get(5).doing(doing)?,
                rest: row.try_get(6).doing(doing)?,
                change: at.unwrap_or(change),
            });
        }
        rows::replace(session, &mut writer, &chunk, &into.name).await?;
        if chunk.len() < usize::try_from(count).unwrap_or_default() {
            return Ok(());
        }
        let bytes: usize = found.iter().map(tokio_postgres::Row::raw_size_bytes).sum();
        if bytes > BYTES_MAX {
            count = (count / 2).max(1);
        } else if bytes < BYTES_MAX / 4 {
            count = (count * 2).min(ROWS_MAX);
        }
    }
}

/// Moves the current rows of one table into another within the server: what columns both have.
pub(super) async fn carry(
    session: &mut Session,
    from: &Table,
    into: &Table,
    at: Moment,
    doing: &str,
) -> Result<(), SinkError> {
    let theirs = from.columns();
    let common: Vec<String> = into
        .columns()
        .iter()
        .skip(1)
        .filter(|column| theirs.iter().skip(1).any(|other| other.name == column.name))
        .map(|column| column.name.clone())
        .filter(|name| !OF_A_CHANGE.contains(&name.as_str()))
        .collect();
    let (id, old_id) = (quoted(&into.identity), quoted(&from.identity));
    let common = common.iter().map(|name| quoted(name));
    let columns: String = common.map(|name| format!(", {name}")).collect();
    let current = from.current("*");
    let doing = || doing.to_owned();
    if !into.is_history() {
        let insert = format!(
            "INSERT INTO {} ({id}{columns}) SELECT {old_id}{columns} FROM ({current}) AS s",
            into.place
        );
        return session.run(&insert).await.doing(doing);
    }
    let insert = format!(
        "INSERT INTO {} ({id}, epoch, lsn, idx, op, captured_at{columns})
         SELECT {old_id}, $1::bigint, $2::bigint, $3::bigint, 'put', $4::timestamp{columns} FROM ({current}) AS s
         {}",
        into.place,
        super::history::on_conflict(into)
    );
    let captured = Micros(at.captured_us);
    session
        .execute(&insert, &[&at.epoch, &at.lsn, &at.index, &captured])
        .await
        .doing(doing)?;
    Ok(())
}

/// Columns of a history that aren't a record's.
const OF_A_CHANGE: [&str; 5] = ["epoch", "lsn", "idx", "op", "captured_at"];
