//! A file's table: its columns, and the statements that fill it.

use crate::plan::{ColumnKind, Shape, UNDECODED};
use crate::sql::quoted;
use tokio_postgres::types::Type;

/// More digits of a second's fraction than these, PostgreSQL's times don't have.
const FRACTION_DIGITS_MAX: u8 = 6;

/// More digits than these can't be declared.
const PRECISION_MAX: u16 = 1000;

/// A row's change is a `put` or a `delete`, in a history.
pub(super) const PUT: &str = "put";
pub(super) const DELETE: &str = "delete";

/// A column of a file's table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: ColumnKind,
    pub(super) may_be_null: bool,
}

impl Column {
    fn new(name: &str, kind: ColumnKind, may_be_null: bool) -> Column {
        Column {
            name: name.to_owned(),
            kind,
            may_be_null,
        }
    }

    /// Name and type, as a table is made with them.
    pub(super) fn definition(&self) -> String {
        let condition = if self.may_be_null { "" } else { " NOT NULL" };
        format!("{} {}{condition}", quoted(&self.name), sql_type(self.kind))
    }
}

const NUMBER: ColumnKind = ColumnKind::BigInt;
const BYTES: ColumnKind = ColumnKind::Bytes { len: None };
const TEXT: ColumnKind = ColumnKind::Text { chars: None };

/// The type of a column. Text has no limit: PostgreSQL stores `varchar(n)` in just the same way, and a record whose text is
/// longer than was thought would only be refused for it.
pub(super) fn sql_type(kind: ColumnKind) -> String {
    match kind {
        ColumnKind::Decimal { precision, scale } if precision <= PRECISION_MAX => {
            format!("numeric({precision},{scale})")
        }
        kind => base_type(kind).to_owned(),
    }
}

/// The type without its limits.
pub(super) fn base_type(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::SmallInt => "smallint",
        ColumnKind::Integer => "integer",
        ColumnKind::BigInt => "bigint",
        ColumnKind::Decimal { .. } => "numeric",
        ColumnKind::Real => "real",
        ColumnKind::Double => "double precision",
        ColumnKind::Bytes { .. } => "bytea",
        ColumnKind::Date => "date",
        ColumnKind::Time { digits } if digits <= FRACTION_DIGITS_MAX => "time",
        ColumnKind::Timestamp { digits } if digits <= FRACTION_DIGITS_MAX => "timestamp",
        ColumnKind::Text { .. } | ColumnKind::Time { .. } | ColumnKind::Timestamp { .. } => "text",
    }
}

/// The same, as the protocol knows it.
pub(super) fn wire_type(kind: ColumnKind) -> Type {
    match base_type(kind) {
        "smallint" => Type::INT2,
        "integer" => Type::INT4,
        "bigint" => Type::INT8,
        "numeric" => Type::NUMERIC,
        "real" => Type::FLOAT4,
        "double precision" => Type::FLOAT8,
        "bytea" => Type::BYTEA,
        "date" => Type::DATE,
        "time" => Type::TIME,
        "timestamp" => Type::TIMESTAMP,
        _ => Type::TEXT,
    }
}

/// What a column of this type, as the server calls it, holds; `None`: nothing that this sink writes.
pub(super) fn kind_of_type(name: &str) -> Option<ColumnKind> {
    let name = name.replace(" without time zone", "");
    Some(match name.as_str() {
        "numeric" => ColumnKind::Decimal {
            precision: PRECISION_MAX,
            scale: PRECISION_MAX / 2,
        },
        "time" => ColumnKind::Time {
            digits: FRACTION_DIGITS_MAX,
        },
        "timestamp" => ColumnKind::Timestamp {
            digits: FRACTION_DIGITS_MAX,
        },
        "double precision" => ColumnKind::Double,
        "bytea" => BYTES,
        "text" | "character varying" => TEXT,
        name => match name.strip_prefix("character varying(") {
            Some(chars) => ColumnKind::Text {
                chars: Some(chars.strip_suffix(')')?.parse().ok()?),
            },
            // Types that pad or that know time zones aren't among the names that a kind is read from here.
            None if ["smallint", "integer", "bigint", "real", "date"].contains(&name)
                || ["numeric(", "time(", "timestamp("]
                    .iter()
                    .any(|start| name.starts_with(start)) =>
            {
                name.parse().ok()?
            }
            None => return None,
        },
    })
}

/// A table, and the statements that change what a file has in it.
pub(super) struct Table {
    /// Its bare name.
    pub(super) name: String,
    /// Its name in its schema, quoted.
    pub(super) place: String,
    /// The identity's column.
    pub(super) identity: String,
    /// The table is a tree's: its rows say which file they are of.
    pub(super) is_shared: bool,
    /// Counterfoil made it, and may drop it.
    pub(super) is_made: bool,
    /// What it looks like.
    pub(super) shape: Shape,
    /// Its key has more columns than the identity, so that a row is replaced by deleting it first.
    pub(super) replaces: bool,
    /// Takes an array for each of its columns.
    pub(super) upsert: String,
    pub(super) copy: String,
    pub(super) delete: String,
    pub(super) delete_range: String,
    pub(super) max: String,
}

impl Table {
    /// A table of one file; `place` is its name in its schema, quoted.
    pub(super) fn own(
        place: String,
        name: &str,
        identity: &str,
        shape: Shape,
        is_made: bool,
    ) -> Table {
        let id = quoted(identity);
        let mut table = Table {
            copy: String::new(),
            upsert: String::new(),
            delete: format!("DELETE FROM {place} WHERE {id} = ANY($1::bigint[])"),
            delete_range: format!("DELETE FROM {place} WHERE {id} BETWEEN $1 AND $2"),
            max: format!("SELECT coalesce(max({id}), -1) FROM {place}"),
            name: name.to_owned(),
            place,
            identity: identity.to_owned(),
            is_shared: false,
            is_made,
            shape,
            replaces: false,
        };
        table.write_statements();
        table
    }

    /// The same, if rows are replaced by deleting them first.
    pub(super) fn replacing(mut self, replaces: bool) -> Table {
        self.replaces = replaces;
        self.write_statements();
        self
    }

    /// A table of all files of a tree.
    pub(super) fn shared(place: String, name: &str, is_made: bool) -> Table {
        Table {
            upsert: format!(
                "INSERT INTO {place} (file_id, block_number, data)
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])
                 ON CONFLICT (file_id, block_number) DO UPDATE SET data = excluded.data"
            ),
            copy: String::new(),
            delete: format!(
                "DELETE FROM {place} WHERE block_number = ANY($1::bigint[]) AND file_id = $2"
            ),
            delete_range: format!(
                "DELETE FROM {place} WHERE block_number BETWEEN $1 AND $2 AND file_id = $3"
            ),
            max: String::new(),
            name: name.to_owned(),
            place,
            identity: "block_number".into(),
            is_shared: true,
            is_made,
            shape: Shape::default(),
            replaces: false,
        }
    }

    fn write_statements(&mut self) {
        let (columns, key) = (self.columns(), self.key());
        let names = names(columns.iter().map(|column| &*column.name));
        // Side by side in the list, arrays of one length give rows as they go; behind FROM, all of them are put aside first,
        // which takes a third longer for 20 columns.
        let arrays: Vec<String> = columns
            .iter()
            .zip(1..)
            .map(|(column, number)| format!("unnest(${number}::{}[])", base_type(column.kind)))
            .collect();
        let sets: Vec<String> = columns
            .iter()
            .filter(|column| !key.contains(&column.name))
            .map(|column| format!("{0} = excluded.{0}", quoted(&column.name)))
            .collect();
        let otherwise = match sets.as_slice() {
            [] => "NOTHING".to_owned(),
            sets => format!("UPDATE SET {}", sets.join(", ")),
        };
        let conflict = if self.replaces {
            String::new()
        } else {
            let key = self::names(key.iter().map(String::as_str));
            format!(" ON CONFLICT ({key}) DO {otherwise}")
        };
        let place = &self.place;
        self.upsert = format!(
            "INSERT INTO {place} ({names}) SELECT {}{conflict}",
            arrays.join(", ")
        );
        self.copy = format!("COPY {place} ({names}) FROM STDIN (FORMAT binary)");
    }

    pub(super) fn is_history(&self) -> bool {
        self.shape.mode == crate::plan::Mode::History
    }

    /// The columns that are filled, in the order in which they are.
    pub(super) fn columns(&self) -> Vec<Column> {
        if self.is_shared {
            return vec![
                Column::new("file_id", NUMBER, false),
                Column::new("block_number", NUMBER, false),
                Column::new("data", BYTES, false),
            ];
        }
        let is_history = self.is_history();
        let mut columns = vec![Column::new(&self.identity, NUMBER, false)];
        if is_history {
            columns.extend([
                Column::new("epoch", NUMBER, false),
                Column::new("lsn", NUMBER, false),
                Column::new("idx", NUMBER, false),
                Column::new("op", TEXT, false),
                Column::new(
                    "captured_at",
                    ColumnKind::Timestamp {
                        digits: FRACTION_DIGITS_MAX,
                    },
                    false,
                ),
            ]);
        }
        if self.shape.raw {
            // A row of a history that says that a record is gone has none.
            columns.push(Column::new("data", BYTES, is_history));
            columns.push(Column::new("rest", BYTES, true));
        }
        let planned = self.shape.columns.iter();
        columns.extend(planned.map(|column| Column::new(&column.name, column.kind, true)));
        if self.shape.decoded {
            columns.push(Column::new(UNDECODED, TEXT, true));
        }
        columns
    }

    /// The columns of its key.
    pub(super) fn key(&self) -> Vec<String> {
        let own: &[&str] = match self.is_shared {
            true => &["file_id", "block_number"],
            false if self.is_history() => &[&self.identity, "epoch", "lsn", "idx"],
            false => &[&self.identity],
        };
        own.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The statement that makes it, with a name for its key's index if that is to have one of its own.
    pub(super) fn create(&self, key_name: Option<&str>) -> String {
        let columns: Vec<String> = self.columns().iter().map(Column::definition).collect();
        let named = key_name.map_or(String::new(), |name| format!("CONSTRAINT {name} "));
        format!(
            "CREATE TABLE {} ({}, {named}PRIMARY KEY ({}))",
            self.place,
            columns.join(", "),
            names(self.key().iter().map(String::as_str))
        )
    }

    /// The statements that make it and its index, for somebody else to run.
    pub(super) fn create_with_index(&self) -> String {
        let index = self.create_index(None);
        let index = index.map_or(String::new(), |index| format!("; {index}"));
        format!("{}{index}", self.create(None))
    }

    /// The statement that makes the index on its key ([`Shape::key`]), if it has one; without a name the server gives it one.
    pub(super) fn create_index(&self, index: Option<&str>) -> Option<String> {
        let name = index.map_or(String::new(), |index| format!("{} ", quoted(index)));
        let columns = names(self.shape.key.iter().map(String::as_str));
        (!self.shape.key.is_empty())
            .then(|| format!("CREATE INDEX {name}ON {} ({columns})", self.place))
    }

    /// A query for the records that are there now: identity and the rest of `what`, of tables of either mode, in no order.
    pub(super) fn current(&self, what: &str) -> String {
        current(&self.place, &self.identity, self.is_history(), what)
    }
}

/// See [`Table::current`].
pub(super) fn current(place: &str, identity: &str, is_history: bool, what: &str) -> String {
    let id = quoted(identity);
    if is_history {
        format!(
            "SELECT {what} FROM (SELECT DISTINCT ON ({id}) * FROM {place}
                 ORDER BY {id}, epoch DESC, lsn DESC, idx DESC) AS last WHERE op = '{PUT}'"
        )
    } else {
        format!("SELECT {what} FROM {place}")
    }
}

/// Names of columns, quoted, with commas between.
pub(super) fn names<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(quoted).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_a_table_is_made_with_is_known_again() {
        for text in [
            "smallint",
            "integer",
            "bigint",
            "decimal(9,2)",
            "real",
            "double",
            "text(10)",
            "bytes(3)",
            "date",
            "time(3)",
            "timestamp(6)",
        ] {
            let kind: ColumnKind = text.parse().expect(text);
            let found = kind_of_type(&sql_type(kind)).expect(text);
            assert!(found.holds(kind), "{text} came back as {found}");
            assert_eq!(sql_type(found), sql_type(kind));
        }
        for text in ["time(9)", "timestamp(7)"] {
            let kind: ColumnKind = text.parse().expect(text);
            assert_eq!(sql_type(kind), "text");
        }
        for text in [
            "character(10)",
            "timestamp with time zone",
            "time(3) with time zone",
            "money",
            "integer[]",
        ] {
            assert_eq!(kind_of_type(text), None, "{text}");
        }
        assert_eq!(
            kind_of_type("character varying(30)"),
            Some(ColumnKind::Text { chars: Some(30) })
        );
        let whole: ColumnKind = "decimal(38,10)".parse().expect("a kind");
        assert!(kind_of_type("numeric").expect("known").holds(whole));
    }
}
