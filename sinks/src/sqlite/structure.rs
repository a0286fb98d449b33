//! Tables that others make: what they have to look like, and how that differs from what they do.

use super::SqliteConfig;
use super::error::Doing;
use super::file::Table;
use super::schema::{SCHEMA_VERSION, create_shared_table, create_table, create_view, own_tables};
use crate::naming::{Names, numbered, wanted_name};
use crate::plan::{Ddl, Evolution, Shape};
use crate::sql::{permanent, quoted};
use crate::{FileDescription, SinkError};
use counterfoil_proto::path_text;
use rusqlite::Connection;
use std::collections::HashSet;

const NEXT: &str = "have it changed so (`counterfoil schema sql` prints all statements), or let Counterfoil do it with \
                    ddl = \"manage\"";

/// A column as SQLite describes it.
struct Column {
    name: String,
    declared: String,
    is_needed: bool,
    has_default: bool,
    /// Its place in the key, from 1; 0 if it isn't of it.
    key: i64,
}

/// The statements that make all tables for these files in an empty database: Counterfoil's own first, then the files', in
/// order, named as they would be. They take no server and no database.
///
/// # Errors
/// [`SinkError::Permanent`]: a configured name is none, or there are too many columns.
pub fn schema_sql(
    config: &SqliteConfig,
    files: &[FileDescription],
) -> Result<Vec<String>, SinkError> {
    // All databases of SQLite's look the same.
    let _ = config;
    let mut statements = own_tables();
    let mut names = Names::default();
    let own = in_memory(&statements)?;
    for name in table_names(&own)? {
        names.add(&name);
    }
    let mut roots = HashSet::new();
    for file in files {
        if let Some(root) = &file.tree {
            if roots.insert(root) {
                let name = names.take(&wanted_name(file)?, numbered);
                let view = names.take(&format!("{name}_files"), numbered);
                statements.push(create_shared_table(&name));
                statements.push(create_view(&view, &name));
            }
            continue;
        }
        let name = names.take(&wanted_name(file)?, numbered);
        let shape = file.plan.as_ref().map(|plan| plan.shape().clone());
        let shape = shape.unwrap_or_default();
        statements.push(create_table(&name, file.format.identity_name(), &shape)?);
        statements.extend(create_index(&format!("{name}_key"), &name, &shape.key));
    }
    Ok(statements)
}

/// Explains how Counterfoil's own tables differ from what they have to be; `version` is what the database says.
pub(super) fn check_own_tables(connection: &Connection, version: i32) -> Result<(), SinkError> {
    let checking = || "checking Counterfoil's own tables".to_owned();
    if version != SCHEMA_VERSION {
        let cause = match version {
            0 => "there are none".to_owned(),
            version => {
                format!("they are of version {version}, and {SCHEMA_VERSION} is needed")
            }
        };
        return Err(permanent(checking(), cause, NEXT));
    }
    let expected = in_memory(&own_tables())?;
    let mut lines = Vec::new();
    for table in table_names(&expected)? {
        let create: String = expected
            .query_row(
                "SELECT sql FROM sqlite_schema WHERE name = ?1",
                [&table],
                |row| row.get(0),
            )
            .doing(checking)?;
        lines.extend(differences(connection, &table, &create)?);
    }
    if lines.is_empty() {
        Ok(())
    } else {
        Err(permanent(checking(), lines.join("; "), NEXT))
    }
}

/// The name of the table that others have made for a file, or a tree: the first of those that it could have that is as it
/// has to be, and nobody else's. `create` is the statement that makes a table of that name.
pub(super) fn take_table(
    connection: &Connection,
    ddl: Ddl,
    description: &FileDescription,
    key: &[String],
    create: &dyn Fn(&str) -> Result<String, SinkError>,
) -> Result<String, SinkError> {
    let wanted = wanted_name(description)?;
    let taking = || {
        format!(
            "looking for the table of {}",
            path_text(description.named_for())
        )
    };
    let mut problems = Vec::new();
    for number in 1.. {
        let name = numbered(&wanted, number);
        let is_taken = connection
            .prepare_cached(
                "SELECT 1 FROM counterfoil_files WHERE table_name = ?1
                 UNION SELECT 1 FROM counterfoil_trees WHERE table_name = ?1
                 UNION SELECT 1 FROM counterfoil_histories WHERE table_name = ?1",
            )
            .and_then(|mut select| select.exists([&name]))
            .doing(taking)?;
        if is_taken {
            continue;
        }
        if ddl == Ddl::None {
            return Ok(name);
        }
        let is_there = !columns(connection, &name)?.is_empty();
        if !is_there && !problems.is_empty() {
            break;
        }
        let mut lines = differences(connection, &name, &create(&name)?)?;
        if is_there {
            lines.extend(lacks_index(connection, &name, key)?);
        }
        if lines.is_empty() {
            if !has_rows(connection, &name)? {
                return Ok(name);
            }
            lines.push(format!(
                "table {name} has rows already, and nothing says whose they are: DELETE FROM {}",
                quoted(&name)
            ));
        }
        problems.extend(lines);
        if !is_there {
            break;
        }
    }
    Err(permanent(taking(), problems.join("; "), NEXT))
}

/// Takes what others have to do out of an evolution: with [`Ddl::Check`] they have to have done it. What may not be dropped is
/// emptied instead: columns by the evolution, and those of the raw image, which are returned, when it is done.
pub(super) fn leave_to_others(
    connection: &Connection,
    ddl: Ddl,
    table: &Table,
    (file_id, description): (i64, &FileDescription),
    evolution: &mut Evolution,
) -> Result<Vec<&'static str>, SinkError> {
    let checking = || format!("checking table {}", table.name);
    let there = columns(connection, &table.name)?;
    let find = |name: &str| {
        let mut same = there.iter();
        same.find(|there| there.name.eq_ignore_ascii_case(name))
    };
    let mut raw = Vec::new();
    if evolution.drop_raw {
        raw.extend(
            ["data", "rest"]
                .into_iter()
                .filter(|name| find(name).is_some()),
        );
        evolution.refill &= has_rows(connection, &table.name)?;
    }
    let refills = evolution.refill;
    let mut emptied: Vec<&str> = evolution.drop.iter().map(|c| c.name.as_str()).collect();
    emptied.extend(evolution.clear.iter().map(|c| c.name.as_str()));
    emptied.extend(&raw);
    let mut lines: Vec<String> = emptied
        .into_iter()
        .filter(|name| find(name).is_some_and(|there| there.is_needed))
        .map(|name| takes_no_null(&table.name, name, refills && name == "data"))
        .collect();
    if evolution.drop_raw && refills && !raw.contains(&"data") {
        lines.push(format!(
            "table {table} has rows that are to be filled anew, and no column data to fill them from: put that back, or \
             empty the table (DELETE FROM {}) and have all of it read again with `counterfoil run --read-again`",
            quoted(&table.name),
            table = table.name
        ));
    }
    if !lines.is_empty() {
        let doing = format!("{} for {}", checking(), path_text(&description.path));
        return Err(permanent(doing, lines.join("; "), NEXT));
    }
    if ddl == Ddl::Check {
        let identity = description.format.identity_name();
        let create = create_table(&table.name, identity, &evolution.shape)?;
        let mut lines = differences(connection, &table.name, &create)?;
        lines.extend(lacks_index(connection, &table.name, &evolution.shape.key)?);
        if !lines.is_empty() {
            let doing = format!("{} for {}", checking(), path_text(&description.path));
            return Err(permanent(doing, lines.join("; "), NEXT));
        }
    }
    let dropped = std::mem::take(&mut evolution.drop);
    evolution.clear.extend(dropped);
    evolution
        .clear
        .retain(|column| find(&column.name).is_some());
    evolution.add.clear();
    evolution.widen.clear();
    evolution.add_undecoded = false;
    evolution.drop_index = false;
    evolution.make_index = false;
    if evolution.drop_raw {
        evolution.drop_raw = false;
        connection
            .execute(
                "DELETE FROM counterfoil_residue WHERE file_id = ?1",
                [file_id],
            )
            .doing(checking)?;
    }
    Ok(raw)
}

/// What the names of indexes begin with that Counterfoil makes. A table keeps them when it gets another name.
const INDEX_PREFIX: &str = "counterfoil_key_";

/// The statement that makes an index on these columns, if there are any.
fn create_index(index: &str, table: &str, key: &[String]) -> Option<String> {
    let columns: Vec<String> = key.iter().map(|name| quoted(name)).collect();
    (!key.is_empty()).then(|| {
        format!(
            "CREATE INDEX {} ON {} ({})",
            quoted(index),
            quoted(table),
            columns.join(", ")
        )
    })
}

/// Makes the index on a table's key, if it has one, by a name that nothing has.
pub(super) fn make_index(
    connection: &Connection,
    table: &str,
    shape: &Shape,
) -> Result<(), SinkError> {
    let making = || format!("making an index of table {table}");
    let used: i64 = connection
        .query_row(
            "SELECT COALESCE(MAX(CAST(SUBSTR(name, ?1) AS INTEGER)), 0) FROM sqlite_schema
             WHERE type = 'index' AND name GLOB ?2",
            rusqlite::params![INDEX_PREFIX.len() as i64 + 1, format!("{INDEX_PREFIX}*")],
            |row| row.get(0),
        )
        .doing(making)?;
    let index = format!("{INDEX_PREFIX}{}", used.saturating_add(1));
    match create_index(&index, table, &shape.key) {
        Some(create) => connection.execute(&create, []).map(drop).doing(making),
        None => Ok(()),
    }
}

/// The indexes of a table that Counterfoil made.
pub(super) fn own_indexes(connection: &Connection, table: &str) -> Result<Vec<String>, SinkError> {
    connection
        .prepare("SELECT name FROM pragma_index_list(?1) WHERE name GLOB ?2")
        .and_then(|mut select| {
            select
                .query_map([table, &format!("{INDEX_PREFIX}*")], |row| row.get(0))?
                .collect()
        })
        .doing(|| format!("looking at the indexes of table {table}"))
}

/// A line that says that no index begins with the columns of a key, with the statement that makes one.
fn lacks_index(
    connection: &Connection,
    table: &str,
    key: &[String],
) -> Result<Option<String>, SinkError> {
    let Some(create) = create_index(&format!("{table}_key"), table, key) else {
        return Ok(None);
    };
    let indexes: Vec<String> = connection
        .prepare(
            "SELECT (SELECT group_concat(lower(c.name), char(0)) FROM
                 (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno) AS c)
             FROM pragma_index_list(?1) AS i WHERE i.partial = 0",
        )
        .and_then(|mut select| {
            select
                .query_map([table], |row| {
                    Ok(row.get::<_, Option<String>>(0)?.unwrap_or_default())
                })?
                .collect()
        })
        .doing(|| format!("looking at the indexes of table {table}"))?;
    let wanted: Vec<String> = key.iter().map(|name| name.to_lowercase()).collect();
    let is_there = indexes.iter().any(|columns| {
        let columns: Vec<&str> = columns.split('\0').collect();
        columns.len() >= wanted.len() && columns.iter().zip(&wanted).all(|(a, b)| a == b)
    });
    Ok((!is_there).then(|| {
        format!(
            "no index of table {table} begins with its key ({}): {create}",
            key.join(", ")
        )
    }))
}

/// Sets these columns of all rows to NULL.
pub(super) fn empty(
    connection: &Connection,
    table: &str,
    columns: &[&str],
) -> Result<(), SinkError> {
    if columns.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE {} SET {} = NULL",
        quoted(table),
        columns.join(" = NULL, ")
    );
    connection
        .execute(&sql, [])
        .map(drop)
        .doing(|| format!("emptying {} of table {table}", columns.join(" and ")))
}

/// What to do with a column that is to be emptied and takes no NULL. SQLite can't change that; what is in it is kept where it
/// is needed still.
fn takes_no_null(table: &str, column: &str, is_kept: bool) -> String {
    let (name, old) = (quoted(table), quoted(column));
    if is_kept {
        let kept = quoted(&format!("{column} kept"));
        format!(
            "column {table}.{column} is NOT NULL, and is to be emptied once columns are filled anew from it: \
             ALTER TABLE {name} ADD COLUMN {kept} BLOB; UPDATE {name} SET {kept} = {old}; \
             ALTER TABLE {name} DROP COLUMN {old}; ALTER TABLE {name} RENAME COLUMN {kept} TO {old}"
        )
    } else {
        format!(
            "column {table}.{column} is NOT NULL, and nothing fills it any more: ALTER TABLE {name} DROP COLUMN {old}"
        )
    }
}

fn has_rows(connection: &Connection, table: &str) -> Result<bool, SinkError> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", quoted(table));
    connection
        .query_row(&sql, [], |row| row.get(0))
        .doing(|| format!("looking for rows of table {table}"))
}

/// How a table differs from what `create` makes of that name: a line each, with the statement that would mend it.
fn differences(
    connection: &Connection,
    table: &str,
    create: &str,
) -> Result<Vec<String>, SinkError> {
    let found = columns(connection, table)?;
    if found.is_empty() {
        return Ok(vec![format!("there is no table {table}: {create}")]);
    }
    let expected = columns(&in_memory(&[create.to_owned()])?, table)?;
    let name = quoted(table);
    let mut lines = Vec::new();
    for column in &expected {
        let same = |there: &&Column| there.name.eq_ignore_ascii_case(&column.name);
        let (quoted, declared) = (quoted(&column.name), &column.declared);
        match found.iter().find(same) {
            None => lines.push(format!(
                "column {table}.{} is missing: ALTER TABLE {name} ADD COLUMN {quoted} {declared}",
                column.name
            )),
            Some(there) if affinity(&there.declared) != affinity(declared) => lines.push(format!(
                "column {table}.{} is {}, and should be {declared}: ALTER TABLE {name} DROP COLUMN {quoted}; \
                 ALTER TABLE {name} ADD COLUMN {quoted} {declared}",
                column.name, there.declared
            )),
            Some(there) if there.is_needed && !column.is_needed && there.key == 0 => lines.push(format!(
                "column {table}.{} is NOT NULL, and has to take NULL: ALTER TABLE {name} DROP COLUMN {quoted}; \
                 ALTER TABLE {name} ADD COLUMN {quoted} {declared}",
                column.name
            )),
            Some(_) => {}
        }
    }
    for column in &found {
        let same = |wanted: &Column| wanted.name.eq_ignore_ascii_case(&column.name);
        if column.is_needed && !column.has_default && !expected.iter().any(same) {
            lines.push(format!(
                "column {table}.{} is NOT NULL without a default, and nothing fills it: ALTER TABLE {name} DROP COLUMN {}",
                column.name,
                quoted(&column.name)
            ));
        }
    }
    let key = |columns: &[Column]| {
        let mut key: Vec<(i64, String)> = columns
            .iter()
            .filter(|column| column.key > 0)
            .map(|column| (column.key, column.name.to_lowercase()))
            .collect();
        key.sort();
        key.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    let (is, should) = (key(&found), key(&expected));
    if is != should {
        let is = if is.is_empty() {
            "nothing".to_owned()
        } else {
            is.join(", ")
        };
        lines.push(format!(
            "the primary key of table {table} is {is}, and should be {}: DROP TABLE {name}; {create}",
            should.join(", ")
        ));
    }
    Ok(lines)
}

/// Which of SQLite's five affinities a declared type has: the rules of <https://sqlite.org/datatype3.html>, 3.1.
fn affinity(declared: &str) -> &'static str {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if has(&["INT"]) {
        "INTEGER"
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        "TEXT"
    } else if declared.is_empty() || has(&["BLOB"]) {
        "BLOB"
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        "REAL"
    } else {
        "NUMERIC"
    }
}

/// A table's columns, in order; none: there is no such table.
fn columns(connection: &Connection, table: &str) -> Result<Vec<Column>, SinkError> {
    connection
        .prepare(
            "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk FROM pragma_table_info(?1)",
        )
        .and_then(|mut select| {
            select
                .query_map([table], |row| {
                    Ok(Column {
                        name: row.get(0)?,
                        declared: row.get(1)?,
                        is_needed: row.get(2)?,
                        has_default: row.get(3)?,
                        key: row.get(4)?,
                    })
                })?
                .collect()
        })
        .doing(|| format!("looking at table {table}"))
}

fn table_names(connection: &Connection) -> Result<Vec<String>, SinkError> {
    connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect())
        .doing(|| "listing the tables".into())
}

/// A database of nothing but what these statements make.
fn in_memory(statements: &[String]) -> Result<Connection, SinkError> {
    let making = || "making tables in memory".to_owned();
    let connection = Connection::open_in_memory().doing(making)?;
    for statement in statements {
        connection.execute_batch(statement).doing(making)?;
    }
    Ok(connection)
}
