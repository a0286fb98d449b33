//! Tables that somebody else made: whether they are what is needed, and if not, what would make them so.

use super::error::Doing;
use super::schema::NAME_BYTES_MAX;
use super::session::Session;
use super::table::{Column, Table, kind_of_type, names, sql_type};
use crate::SinkError;
use crate::plan::{ColumnKind, PlanColumn};
use crate::sql::{permanent, quoted};
use tokio_postgres::Row;

/// Why a table isn't what is needed.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) says: String,
    /// The statement that would mend it, if there is one.
    pub(super) mend: Option<String>,
}

/// What a column is to be.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) sql_type: String,
    /// Of columns that may hold more than is wanted: what they hold.
    pub(super) kind: Option<ColumnKind>,
    pub(super) may_be_null: bool,
}

impl From<Column> for Wanted {
    fn from(column: Column) -> Wanted {
        Wanted {
            sql_type: sql_type(column.kind),
            kind: Some(column.kind),
            name: column.name,
            may_be_null: column.may_be_null,
        }
    }
}

/// A table as it was found.
#[derive(Default)]
pub(super) struct Found {
    /// What doesn't fit. Empty: it can be used.
    pub(super) differences: Vec<Difference>,
    /// What wanted columns are called and hold, where that isn't what was wanted and yet fits: by wanted name.
    pub(super) others: Vec<(String, PlanColumn)>,
    /// The key has more columns than were wanted.
    pub(super) has_wider_key: bool,
    /// Its columns.
    pub(super) columns: Vec<(String, String)>,
    /// There are rows in it.
    pub(super) has_rows: bool,
}

/// Which tables may be found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// The key is just the one that is wanted.
    Exact,
    /// Or has more columns than that, as that of a partitioned table must when it is partitioned by others.
    OrWiderIfPartitioned,
}

impl Keys {
    /// Which may be found for this table. What is twice in one that is shared, or in a history, is known by its key alone; in
    /// others, the row that was there can be deleted first.
    pub(super) fn of(table: &Table) -> Keys {
        if table.is_shared || table.is_history() {
            Keys::Exact
        } else {
            Keys::OrWiderIfPartitioned
        }
    }
}

/// Looks at the table with this name in its schema, quoted.
pub(super) async fn look(
    session: &mut Session,
    place: &str,
    wanted: &[Wanted],
    key: &[String],
    keys: Keys,
) -> Result<Found, SinkError> {
    let looking = || format!("looking at the table {place}");
    let mut found = Found::default();
    let kind = session
        .query(
            "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)",
            &[&place],
        )
        .await
        .doing(looking)?;
    let kind: Option<String> = kind.first().map(|row| row.get(0));
    let says = match kind.as_deref() {
        Some("r" | "p") => None,
        Some(_) => Some("it is not a table"),
        None => Some("it is not there"),
    };
    if let Some(says) = says {
        found.differences.push(Difference {
            says: says.into(),
            mend: None,
        });
        return Ok(found);
    }
    let columns = session
        .query(
            "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull,
                 atthasdef OR attidentity <> '' OR attgenerated <> ''
             FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            &[&place],
        )
        .await
        .doing(looking)?;
    found.columns = columns.iter().map(|row| (row.get(0), row.get(1))).collect();
    let is_partitioned = kind.as_deref() == Some("p");
    let takes_wider = is_partitioned && keys == Keys::OrWiderIfPartitioned;
    find_key(session, place, key, takes_wider, &mut found).await?;
    let key_columns = key_columns(session, place, found.has_wider_key).await?;
    let mut known = Vec::new();
    for wanted in wanted {
        known.extend(compare(place, wanted, &columns, &key_columns, &mut found));
    }
    for row in &columns {
        let name: &str = row.get(0);
        let (is_not_null, has_default): (bool, bool) = (row.get(2), row.get(3));
        if !known.contains(&name) && is_not_null && !has_default {
            found.differences.push(Difference {
                says: format!(
                    "column {name} is NOT NULL without a default, and nothing would fill it"
                ),
                mend: Some(format!(
                    "ALTER TABLE {place} ALTER COLUMN {} DROP NOT NULL",
                    quoted(name)
                )),
            });
        }
    }
    let rows = session
        .query(&format!("SELECT EXISTS (SELECT 1 FROM {place})"), &[])
        .await
        .doing(looking)?;
    found.has_rows = rows.first().is_some_and(|row| row.get(0));
    Ok(found)
}

/// Compares a column that is wanted with those that are there. Gives the name of the one that it was compared with.
fn compare<'r>(
    place: &str,
    wanted: &Wanted,
    columns: &'r [Row],
    key_columns: &[String],
    found: &mut Found,
) -> Option<&'r str> {
    let name = clipped(&wanted.name);
    let named =
        |same: fn(&str, &str) -> bool| columns.iter().find(|row| same(row.get::<_, &str>(0), name));
    let row = named(|a, b| a == b).or_else(|| named(str::eq_ignore_ascii_case));
    let mut differs = |says: String, mend: String| {
        found.differences.push(Difference {
            says,
            mend: Some(format!("ALTER TABLE {place} {mend}")),
        });
    };
    let column = quoted(name);
    let kind = &wanted.sql_type;
    let Some(row) = row else {
        let condition = if wanted.may_be_null { "" } else { " NOT NULL" };
        differs(
            format!("column {name} is missing (it has to be {kind})"),
            format!("ADD COLUMN {column} {kind}{condition}"),
        );
        return None;
    };
    let there: &str = row.get(0);
    let type_found: &str = row.get(1);
    let bare = type_found.replace(" without time zone", "");
    let wider = wanted
        .kind
        .and_then(|wanted| kind_of_type(type_found).filter(|found| found.holds(wanted)));
    let fits = *kind == bare || wider.is_some();
    if !fits {
        differs(
            format!("column {there} is {type_found}, not {kind}"),
            format!(
                "ALTER COLUMN {0} TYPE {kind} USING {0}::{kind}",
                quoted(there)
            ),
        );
    } else if wanted.may_be_null && row.get(2) && !key_columns.iter().any(|key| key == there) {
        differs(
            format!("column {there} is NOT NULL, but may have nothing in it"),
            format!("ALTER COLUMN {} DROP NOT NULL", quoted(there)),
        );
    }
    if let Some(planned) = wanted.kind
        && (there != wanted.name || *kind != bare)
    {
        let column = PlanColumn {
            name: there.to_owned(),
            kind: wider.filter(|_| *kind != bare).unwrap_or(planned),
        };
        found.others.push((wanted.name.clone(), column));
    }
    Some(there)
}

/// Looks for a unique index on just the wanted columns, or on more.
async fn find_key(
    session: &mut Session,
    place: &str,
    key: &[String],
    takes_wider: bool,
    found: &mut Found,
) -> Result<(), SinkError> {
    let looking = || format!("looking at the table {place}");
    let indexes = session
        .query(
            "SELECT a.names = $2::text[]
             FROM pg_index AS i
                 CROSS JOIN LATERAL (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") AS names
                     FROM pg_attribute AS a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)) AS a
             WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND
                 i.indexprs IS NULL AND a.names @> $2::text[]
             ORDER BY 1 DESC, i.indisprimary DESC",
            &[&place, &sorted(key)],
        )
        .await
        .doing(looking)?;
    let best = indexes.first();
    let is_exact = best.is_some_and(|row| row.get(0));
    if is_exact || (best.is_some() && takes_wider) {
        found.has_wider_key = !is_exact;
        return Ok(());
    }
    let columns = key.join(", ");
    found.differences.push(Difference {
        says: format!("there is no primary key on ({columns})"),
        mend: Some(format!(
            "ALTER TABLE {place} ADD PRIMARY KEY ({})",
            names(key.iter().map(String::as_str))
        )),
    });
    Ok(())
}

/// What is wrong with a table without an index that begins with its key's columns, if it has a key and no such index.
pub(super) async fn lacks_index(
    session: &mut Session,
    table: &Table,
) -> Result<Option<Difference>, SinkError> {
    let Some(create) = table.create_index(None) else {
        return Ok(None);
    };
    let key: Vec<&str> = table.shape.key.iter().map(|name| clipped(name)).collect();
    let found = session
        .query(
            "SELECT 1 FROM pg_index AS i
                 CROSS JOIN LATERAL (SELECT array_agg(a.attname::text ORDER BY k.at) AS names
                     FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, at)
                         JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number) AS a
             WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND
                 a.names[1:cardinality($2::text[])] = $2::text[]",
            &[&table.place, &key],
        )
        .await
        .doing(|| format!("looking at the indexes of {}", table.place))?;
    Ok(found.is_empty().then(|| Difference {
        says: format!("no index begins with its key ({})", key.join(", ")),
        mend: Some(create),
    }))
}

/// The columns of the primary key, where that has more of them than were wanted: they can't be NULL.
async fn key_columns(
    session: &mut Session,
    place: &str,
    has_wider_key: bool,
) -> Result<Vec<String>, SinkError> {
    if !has_wider_key {
        return Ok(Vec::new());
    }
    let rows = session
        .query(
            "SELECT a.attname::text FROM pg_index AS i
                 JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = to_regclass($1) AND i.indisprimary",
            &[&place],
        )
        .await
        .doing(|| format!("looking at the table {place}"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn sorted(key: &[String]) -> Vec<String> {
    let mut key = key.to_vec();
    key.sort();
    key
}

/// A table that others made and that is in use, with what follows from its key: where that has more columns than rows are
/// told apart by, rows are replaced by deleting them first.
///
/// # Errors
/// [`SinkError::Permanent`]: it has more columns, and that may not be ([`Keys::of`]).
pub(super) async fn keyed(session: &mut Session, table: Table) -> Result<Table, SinkError> {
    let mut found = Found::default();
    let key = table.key();
    find_key(session, &table.place, &key, true, &mut found).await?;
    if !found.has_wider_key {
        return Ok(table);
    }
    if Keys::of(&table) == Keys::OrWiderIfPartitioned {
        return Ok(table.replacing(true));
    }
    let what = if table.is_shared {
        "a table of static files"
    } else {
        "a history"
    };
    let columns = key.join(", ");
    Err(permanent(
        format!("looking at the table {}", table.place),
        format!("its key has more columns than {columns}, by which {what} tells its rows apart"),
        format!(
            "give it a primary key or a unique index on ({columns}) alone; if it is partitioned, then by one of these"
        ),
    ))
}

/// A name as the server cuts it.
pub(super) fn clipped(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// An error that says what differs, and what to do about it. `else_do`: what else could be done.
pub(super) fn refusal(
    doing: String,
    table: &str,
    differences: &[Difference],
    else_do: &str,
) -> SinkError {
    let says: Vec<&str> = differences.iter().map(|d| d.says.as_str()).collect();
    let mend: Vec<&str> = differences
        .iter()
        .filter_map(|d| d.mend.as_deref())
        .collect();
    let next = match mend.as_slice() {
        [] => format!("change that table, {else_do}"),
        mend => format!("run `{};` as its owner, {else_do}", mend.join("; ")),
    };
    permanent(
        doing,
        format!(
            "the table {table} is not what is needed: {}",
            says.join("; ")
        ),
        next,
    )
}
