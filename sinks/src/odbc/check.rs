//! Where a DBA makes the tables: what differs from what is needed, column by column, as far as the driver tells.
//!
//! Drivers tell what columns a table has in terms of their own, so types are compared by what they hold, and leniently: what
//! can't be told is no difference. (The database refuses then what it can't take.)

use super::columns::Columns;
use super::dialect::{Dialect, Rows, Sql, Types, key};
use super::error::Doing;
use super::schema::is_there;
use super::session::{KeyColumn, Session, Shown};
use crate::SinkError;
use crate::plan::ColumnKind;
use crate::sql::permanent;

/// An identity that no record has.
const NOBODY: i64 = -1;

/// A text or bytes of such a length, or less, is one with a limit, whatever it is called.
const SHORT: i64 = 1000;

/// What a column has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Whole numbers of so many bits.
    Integer(u32),
    /// Numbers with so many digits before the point, and behind it.
    Decimal(i64, i64),
    Float {
        is_double: bool,
    },
    /// So many characters; `None`: any number.
    Text(Option<u32>),
    /// So many bytes.
    Bytes(Option<u32>),
    Date,
    Time,
    Timestamp,
}

/// A column that a table has to have.
#[derive(Clone, Debug)]
pub(super) struct Needed {
    /// As SQL wants it.
    pub(super) name: String,
    /// Its type, with `NOT NULL` where it is part of a key or has to be.
    pub(super) kind: String,
    pub(super) holds: Holds,
    /// Whether NULL is put into it.
    pub(super) takes_null: bool,
}

/// What the driver calls a type, as far as it is known here.
fn held(shown: &Shown) -> Option<Holds> {
    let size = u32::try_from(shown.size.unwrap_or_default()).ok();
    let size = size.filter(|&size| size > 0);
    Some(match shown.data_type {
        // BIT, TINYINT, SMALLINT, INTEGER, BIGINT
        -7 => Holds::Integer(1),
        -6 => Holds::Integer(8),
        5 => Holds::Integer(16),
        4 => Holds::Integer(32),
        -5 => Holds::Integer(64),
        // NUMERIC, DECIMAL
        2 | 3 => {
            let digits = shown.digits.unwrap_or_default().max(0);
            Holds::Decimal(shown.size? - digits, digits)
        }
        // FLOAT, DOUBLE; REAL
        6 | 8 => Holds::Float { is_double: true },
        7 => Holds::Float { is_double: false },
        // CHAR, VARCHAR, WCHAR, WVARCHAR; the long ones
        1 | 12 | -8 | -9 => Holds::Text(size),
        -1 | -10 => Holds::Text(None),
        // BINARY, VARBINARY; the long one
        -2 | -3 => Holds::Bytes(size),
        -4 => Holds::Bytes(None),
        // As of ODBC 2, and 3
        9 | 91 => Holds::Date,
        10 | 92 => Holds::Time,
        11 | 93 => Holds::Timestamp,
        _ => return None,
    })
}

/// Whether a column holds what it has to, as far as that can be told.
fn fits(dialect: Dialect, needed: &Needed, shown: &Shown) -> bool {
    if dialect == Dialect::Sqlite {
        // Its columns take values of every type.
        return true;
    }
    let Some(held) = held(shown) else {
        return true;
    };
    // A long one may be told to have a length all the same, and which are long isn't known of all databases.
    let is_alike = || word(&shown.type_name).eq_ignore_ascii_case(word(&needed.kind));
    let is_long_enough = |needed: Option<u32>, held: Option<u32>| match (needed, held) {
        (_, None) => true,
        (Some(needed), Some(held)) => held >= needed,
        (None, Some(held)) => i64::from(held) > SHORT || is_alike(),
    };
    match (needed.holds, held) {
        (Holds::Integer(needed), Holds::Integer(held)) => held >= needed,
        (Holds::Integer(bits), Holds::Decimal(whole, _)) => {
            let digits = match bits {
                ..=16 => 5,
                17..=32 => 10,
                _ => 19,
            };
            whole >= digits
        }
        (Holds::Decimal(whole, scale), Holds::Decimal(held_whole, held_scale)) => {
            held_whole >= whole && held_scale >= scale
        }
        (Holds::Float { is_double: needed }, Holds::Float { is_double: held }) => held || !needed,
        (Holds::Text(needed), Holds::Text(held)) | (Holds::Bytes(needed), Holds::Bytes(held)) => {
            is_long_enough(needed, held)
        }
        // There are databases whose days have a time.
        (Holds::Date, Holds::Timestamp) => true,
        (needed, held) => needed == held,
    }
}

/// The word that a type begins with.
fn word(kind: &str) -> &str {
    let end = kind.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    &kind[..end.unwrap_or(kind.len())]
}

impl Dialect {
    /// What a column of this kind has to hold in this database.
    pub(super) fn holds(self, kind: ColumnKind) -> Holds {
        let text = |chars: u16| Holds::Text(Some(chars.into()));
        match kind {
            ColumnKind::SmallInt => Holds::Integer(16),
            ColumnKind::Integer => Holds::Integer(32),
            ColumnKind::BigInt => Holds::Integer(64),
            ColumnKind::Decimal { precision, scale } if self.holds_decimal(precision) => {
                Holds::Decimal(i64::from(precision) - i64::from(scale), scale.into())
            }
            ColumnKind::Decimal { precision, .. } => text(precision.saturating_add(3)),
            ColumnKind::Real => Holds::Float { is_double: false },
            ColumnKind::Double => Holds::Float { is_double: true },
            ColumnKind::Text { chars } => Holds::Text(chars),
            ColumnKind::Bytes { len } => Holds::Bytes(len),
            ColumnKind::Date if self == Dialect::Sqlite => text(10),
            ColumnKind::Date => Holds::Date,
            ColumnKind::Time { digits } if self.holds_time(digits) => Holds::Time,
            ColumnKind::Time { .. } => text(18),
            ColumnKind::Timestamp { digits } if self.holds_timestamp(digits) => Holds::Timestamp,
            ColumnKind::Timestamp { .. } => text(29),
        }
    }
}

impl Sql {
    /// Adds a column to a table.
    pub(super) fn add_column(&self, table: &str, column: &Needed) -> String {
        let Needed { name, kind, .. } = column;
        match self.dialect {
            Dialect::Oracle => format!("ALTER TABLE {table} ADD ({name} {kind})"),
            Dialect::SqlServer => format!("ALTER TABLE {table} ADD {name} {kind}"),
            _ => format!("ALTER TABLE {table} ADD COLUMN {name} {kind}"),
        }
    }

    /// Gives a column the type that it has to have.
    pub(super) fn change_type(&self, table: &str, column: &Needed) -> String {
        let Needed { name, kind, .. } = column;
        let bare = kind.trim_end_matches(" NOT NULL");
        match self.dialect {
            Dialect::Oracle => format!("ALTER TABLE {table} MODIFY ({name} {kind})"),
            Dialect::Mysql => format!("ALTER TABLE {table} MODIFY COLUMN {name} {kind}"),
            Dialect::SqlServer => format!("ALTER TABLE {table} ALTER COLUMN {name} {kind}"),
            Dialect::Postgresql => {
                format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {bare} USING {name}::{bare}")
            }
            Dialect::Sqlite => format!(
                "ALTER TABLE {table} DROP COLUMN {name}; {}",
                self.add_column(table, column)
            ),
            Dialect::Db2 | Dialect::Generic => {
                format!("ALTER TABLE {table} ALTER COLUMN {name} SET DATA TYPE {bare}")
            }
        }
    }

    /// Lets a column be NULL, which is of this type.
    pub(super) fn let_be_null(&self, table: &str, name: &str, kind: &str) -> String {
        match self.dialect {
            Dialect::Oracle => format!("ALTER TABLE {table} MODIFY ({name} NULL)"),
            Dialect::Mysql => format!("ALTER TABLE {table} MODIFY COLUMN {name} {kind} NULL"),
            Dialect::SqlServer => format!("ALTER TABLE {table} ALTER COLUMN {name} {kind} NULL"),
            // It has no words for it.
            Dialect::Sqlite => format!(
                "ALTER TABLE {table} DROP COLUMN {name}; ALTER TABLE {table} ADD COLUMN {name} {kind}"
            ),
            Dialect::Db2 | Dialect::Postgresql | Dialect::Generic => {
                format!("ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL")
            }
        }
    }

    /// Gives a table a key, which `create` makes it with.
    pub(super) fn add_key(&self, table: &str, columns: &str, create: &str) -> String {
        match self.dialect {
            // It has no words for it.
            Dialect::Sqlite => {
                format!("ALTER TABLE {table} RENAME TO without_key; {create}, and copy its rows")
            }
            _ => format!("ALTER TABLE {table} ADD PRIMARY KEY ({columns})"),
        }
    }

    /// A row of no record, with nothing but a key.
    fn insert_nobody(&self, table: &str, needed: &[Needed]) -> String {
        let of_key = needed
            .iter()
            .filter(|column| column.kind.ends_with(" NOT NULL"));
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for column in of_key {
            names.push(column.name.as_str());
            values.push(match column.holds {
                Holds::Text(_) => "'nobody'".to_owned(),
                Holds::Timestamp => self.moment("1970-01-01 00:00:00.000000"),
                _ => NOBODY.to_string(),
            });
        }
        format!(
            "INSERT INTO {table} ({}) VALUES ({})",
            names.join(", "),
            values.join(", ")
        )
    }
}

/// Refuses Counterfoil's own tables if they aren't what they have to be. No transaction is open.
pub(super) fn check_own(session: &mut Session) -> Result<(), SinkError> {
    let types = session.sql.dialect.usual_types();
    let made = session.sql.create_own(types);
    let tables = session.sql.own_columns(types);
    for ((table, statements), (name, needed, key)) in made.iter().zip(&tables) {
        let checked = Checked {
            table,
            name,
            needed,
            key,
            create: &statements.join("; "),
        };
        checked.check(session, || format!("checking the table {name}"))?;
    }
    Ok(())
}

/// Refuses a table for rows if it isn't what it has to be. No transaction is open.
pub(super) fn check_rows(session: &mut Session, rows: &Rows, whose: &str) -> Result<(), SinkError> {
    let sql = &session.sql;
    let types = sql.dialect.usual_types();
    let table = sql.rows_table(rows.number);
    let name = Sql::rows_name(rows.number);
    let create = sql.create_rows(rows.number, &rows.columns, types);
    let needed = needed(sql, &rows.columns, types);
    let checked = Checked {
        table: &table,
        name: &name,
        needed: &needed,
        key: key(&rows.columns),
        create: &create,
    };
    checked.check(session, || format!("checking the table {name} of {whose}"))
}

fn needed(sql: &Sql, columns: &Columns, types: Types) -> Vec<Needed> {
    let mut needed = sql.key_columns(columns, types);
    needed.extend(columns.needed(sql.dialect, types));
    needed
}

/// A table, and what it has to be.
struct Checked<'a> {
    /// As SQL wants it.
    table: &'a str,
    /// Its name alone.
    name: &'a str,
    needed: &'a [Needed],
    key: &'a str,
    /// What makes it.
    create: &'a str,
}

impl Checked<'_> {
    fn check(&self, session: &mut Session, doing: impl Fn() -> String) -> Result<(), SinkError> {
        let found = session.columns_shown(self.name);
        session.rollback();
        let found = match found {
            Ok(found) => found,
            Err(fault) if session.is_broken() => return Err(fault.at(doing())),
            Err(fault) => {
                tracing::debug!(?fault, "the driver doesn't say which columns there are");
                Vec::new()
            }
        };
        let mut problems = Vec::new();
        if found.is_empty() {
            if !is_there(session, self.table)? {
                problems.push(format!("there is no such table: {}", self.create));
            }
            return refuse(doing, &problems);
        }
        let sql = &session.sql;
        let table = self.table;
        let mut is_known = vec![false; found.len()];
        for needed in self.needed {
            let bare = sql.bare(&needed.name);
            let is = |shown: &Shown| shown.name.eq_ignore_ascii_case(&bare);
            let Some(at) = found.iter().position(is) else {
                problems.push(format!(
                    "there is no column {bare}: {}",
                    sql.add_column(table, needed)
                ));
                continue;
            };
            is_known[at] = true;
            let shown = &found[at];
            if !fits(sql.dialect, needed, shown) {
                problems.push(format!(
                    "column {bare} is {}, and should be {}: {}",
                    shown.kind(),
                    needed.kind,
                    sql.change_type(table, needed)
                ));
            } else if needed.takes_null && shown.is_required {
                problems.push(format!(
                    "column {bare} is NOT NULL, and has no value in some rows: {}",
                    sql.let_be_null(table, &needed.name, &needed.kind)
                ));
            }
        }
        let others: Vec<&Shown> = found
            .iter()
            .zip(is_known)
            .filter(|(shown, is_known)| !is_known && shown.is_required && !shown.has_default)
            .map(|(shown, _)| shown)
            .collect();
        if problems.is_empty() && !others.is_empty() {
            // Not all drivers say of a column that it fills itself.
            let insert = sql.insert_nobody(table, self.needed);
            let inserted = session.change(&insert, &[]);
            session.rollback();
            if let Err(fault) = inserted {
                if session.is_broken() {
                    return Err(fault.at(doing()));
                }
                for other in others {
                    problems.push(format!(
                        "column {} is nothing that Counterfoil fills, but may not be NULL and has no default: {}",
                        other.name,
                        session.sql.let_be_null(
                            table,
                            &session.sql.quoted(&other.name),
                            &other.kind()
                        )
                    ));
                }
            }
        }
        self.check_key(session, &mut problems, &doing)?;
        refuse(doing, &problems)
    }

    fn check_key(
        &self,
        session: &mut Session,
        problems: &mut Vec<String>,
        doing: impl Fn() -> String,
    ) -> Result<(), SinkError> {
        let key = key_of(session, self.name, &doing)?;
        // A driver that knows no key of any table can't tell.
        let knows = |session: &mut Session| {
            let known = key_of(session, "counterfoil_state", &doing)?;
            Ok(known.is_some_and(|known| !known.is_empty()))
        };
        let found = match key {
            None => return Ok(()),
            Some(found) if found.is_empty() && !knows(session)? => return Ok(()),
            Some(found) => found,
        };
        let mut wanted: Vec<&str> = self.key.split(", ").collect();
        let mut there: Vec<String> = found.iter().map(|name| name.to_lowercase()).collect();
        wanted.sort_unstable();
        there.sort_unstable();
        if there != wanted {
            let add = session.sql.add_key(self.table, self.key, self.create);
            problems.push(if found.is_empty() {
                format!("there is no primary key: {add}")
            } else {
                format!(
                    "the primary key is ({}), and should be ({}): drop it, and {add}",
                    found.join(", "),
                    self.key
                )
            });
        }
        Ok(())
    }
}

/// The columns of a table's key, as the driver has them; `None`: it doesn't say.
fn key_of(
    session: &mut Session,
    name: &str,
    doing: impl Fn() -> String,
) -> Result<Option<Vec<String>>, SinkError> {
    let found = session.key_shown(name);
    session.rollback();
    match found {
        Ok(mut found) => {
            found.sort_by_key(|column: &KeyColumn| column.place);
            Ok(Some(found.into_iter().map(|column| column.name).collect()))
        }
        Err(fault) if session.is_broken() => Err(fault).doing(doing),
        Err(fault) => {
            tracing::debug!(?fault, "the driver doesn't say which keys there are");
            Ok(None)
        }
    }
}

fn refuse(doing: impl Fn() -> String, problems: &[String]) -> Result<(), SinkError> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(permanent(
        doing(),
        problems.join("; "),
        "`ddl` says that nothing is to be made or changed, so have these statements run",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cant_be_told_is_no_difference() {
        let shown = |data_type: i64, type_name: &str, size: i64, digits: i64| Shown {
            name: "c".into(),
            data_type,
            type_name: type_name.into(),
            size: (size > 0).then_some(size),
            digits: (digits >= 0).then_some(digits),
            is_required: false,
            has_default: false,
        };
        let check = |dialect: Dialect, kind: &str, shown: &Shown| {
            let kind: ColumnKind = kind.parse().expect("a kind");
            let needed = Needed {
                name: "c".into(),
                kind: dialect.type_of(kind, dialect.usual_types()),
                holds: dialect.holds(kind),
                takes_null: true,
            };
            fits(dialect, &needed, shown)
        };
        use Dialect::{Db2, Generic, Mysql, Oracle, Postgresql, SqlServer, Sqlite};
        for (dialect, kind, shown, expected) in [
            (Oracle, "bigint", shown(3, "NUMBER", 19, 0), true),
            (Oracle, "bigint", shown(3, "NUMBER", 10, 0), false),
            (Oracle, "date", shown(93, "DATE", 19, 0), true),
            (Oracle, "double", shown(-151, "BINARY_DOUBLE", 0, 0), true),
            (Oracle, "text", shown(-10, "NCLOB", 0, -1), true),
            (Oracle, "text", shown(-9, "NVARCHAR2", 200, -1), false),
            (Db2, "bytes", shown(-98, "BLOB", 2_147_483_647, -1), true),
            (Db2, "decimal(12,2)", shown(3, "DECIMAL", 12, 2), true),
            (Db2, "decimal(12,2)", shown(3, "DECIMAL", 12, 1), false),
            (Db2, "decimal(12,2)", shown(3, "DECIMAL", 11, 2), false),
            (SqlServer, "time(7)", shown(-154, "time", 16, 7), true),
            (SqlServer, "integer", shown(5, "smallint", 5, 0), false),
            (Postgresql, "text", shown(-1, "text", 8190, -1), true),
            (Postgresql, "text", shown(12, "text", 255, -1), true),
            (Postgresql, "text", shown(12, "varchar", 255, -1), false),
            (
                Postgresql,
                "text(300)",
                shown(12, "varchar", 255, -1),
                false,
            ),
            (Postgresql, "bytes", shown(4, "int4", 10, 0), false),
            (Mysql, "double", shown(7, "FLOAT", 12, -1), false),
            (Mysql, "real", shown(7, "FLOAT", 12, -1), true),
            (Sqlite, "bytes", shown(4, "INTEGER", 9, 0), true),
            (Generic, "bytes", shown(-3, "BYTEA", 255, -1), false),
            (Generic, "timestamp(0)", shown(91, "DATE", 10, -1), false),
        ] {
            let found = check(dialect, kind, &shown);
            assert_eq!(found, expected, "{dialect:?} {kind} {shown:?}");
        }
    }
}
