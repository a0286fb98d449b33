//! Where a DBA makes the tables: what they are to be, and what differs from that.
//!
//! The tables are those that the sink would make itself, with numbers for names, each kept for the file that is to have the
//! view's name. So they can be made with `ddl = "manage"` as well, and nothing changes when that is turned on or off later.

use super::catalogue::content_view;
use super::columns::{Definition, definitions, storage_kind, stored_name};
use super::config::MysqlConfig;
use super::error::Doing;
use super::schema::{
    self, INDEX_NAME, SCHEMA_VERSION, TABLES, create_content_view, create_file_view, create_own,
    create_rows, create_shaped, create_tree_view, index_of, limited, quoted, rows_table,
};
use super::session::{Session, column};
use super::structure::Make;
use crate::naming::{Names, wanted_name};
use crate::plan::{ColumnKind, Mode, Shape};
use crate::sql::permanent;
use crate::{FileDescription, SinkError};
use std::collections::{BTreeMap, HashSet};

/// The statements that `ddl = "manage"` would run on an empty database for these files: Counterfoil's own tables first, then
/// what each file needs, in their order. It needs no server.
///
/// # Errors
/// A name in the configuration can't be a table's.
pub fn schema_sql(
    config: &MysqlConfig,
    files: &[FileDescription],
) -> Result<Vec<String>, SinkError> {
    let mut statements: Vec<String> = TABLES.iter().map(|table| create_own(table)).collect();
    statements.push(format!(
        "INSERT INTO counterfoil_version (version) VALUES ({SCHEMA_VERSION})"
    ));
    let mut names = Names::default();
    let mut trees = HashSet::new();
    let mut number = 0;
    for file in files {
        if let Some(root) = &file.tree
            && !trees.insert(root)
        {
            continue;
        }
        let place = || format!("in {}", config.place());
        let wanted = wanted_name(file).map_err(|error| error.at(&place()))?;
        let name = names.take(&wanted, limited);
        number += 1;
        let plan = file.plan.as_ref().filter(|_| file.tree.is_none());
        let shape = plan.map_or_else(Shape::default, |plan| plan.shape().clone());
        let kind = match &file.tree {
            Some(_) => Make::Shared.kind(),
            None if shape == Shape::default() => Make::Raw.kind(),
            None => Make::Shaped(&shape).kind(),
        };
        statements.push(create_table(number, file.tree.is_some(), &shape));
        statements.push(format!(
            "INSERT INTO counterfoil_tables (rows_table, stream, is_shared) VALUES ({number}, '', {kind})"
        ));
        let identity = file.format.identity_name();
        statements.push(format!(
            "INSERT INTO counterfoil_shapes (rows_table, shape, kept_for, identity) VALUES ({number}, {}, {}, {})",
            literal(&shape.text()),
            literal(&name),
            literal(identity)
        ));
        let mut views = vec![(
            name.clone(),
            create_file_view(&name, number, identity, &shape),
        )];
        if file.tree.is_some() {
            let content = names.take(&content_view(&name), limited);
            views = vec![
                (name.clone(), create_tree_view(&name, number)),
                (content.clone(), create_content_view(&content, number)),
            ];
        }
        for (view, sql) in views {
            statements.push(format!(
                "INSERT INTO counterfoil_views (name, stale) VALUES ({}, 0)",
                literal(&view)
            ));
            statements.push(sql);
        }
    }
    Ok(statements)
}

fn create_table(number: u64, is_shared: bool, shape: &Shape) -> String {
    if is_shared || *shape == Shape::default() {
        create_rows(number, is_shared)
    } else {
        create_shaped(number, shape)
    }
}

/// Text as it stands in SQL, whatever the session thinks of backslashes.
fn literal(text: &str) -> String {
    if text.contains('\\') {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        return format!("_utf8mb4 x'{hex}'");
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Refuses Counterfoil's own tables if they aren't what they should be.
pub(super) async fn check_own(session: &mut Session) -> Result<(), SinkError> {
    let version = schema::require(session).await?;
    let mut older = Vec::new();
    if version != SCHEMA_VERSION {
        older.push(format!(
            "they are of version {version}, and this Counterfoil needs {SCHEMA_VERSION}: \
             UPDATE counterfoil_version SET version = {SCHEMA_VERSION}"
        ));
    }
    for table in TABLES {
        let name = table.split_whitespace().next().unwrap_or_default();
        let found = columns_of(session, name).await?;
        let mut problems = Vec::new();
        if found.is_empty() {
            problems.push(format!("there is no table {name}: {}", create_own(table)));
        }
        for (column, kind) in own_columns(table) {
            match found.iter().find(|there| there.is(&column)) {
                _ if found.is_empty() => {}
                Some(there) if there.kind == plain(&kind) => {}
                Some(there) => problems.push(format!(
                    "column {column} is {}, and should be {kind}: ALTER TABLE {name} MODIFY COLUMN {column} {kind}",
                    there.kind
                )),
                None => problems.push(format!(
                    "there is no column {column}: ALTER TABLE {name} ADD COLUMN {column} {kind}"
                )),
            }
        }
        refuse(&format!("checking the table {name}"), &problems)?;
    }
    refuse("checking Counterfoil's tables", &older)
}

/// Names and types of the columns in a definition of [`TABLES`].
fn own_columns(table: &str) -> Vec<(String, String)> {
    let Some((_, columns)) = table.split_once('(') else {
        return Vec::new();
    };
    let lines = columns.lines().map(str::trim).filter(|line| {
        !line.is_empty()
            && !["PRIMARY", "UNIQUE", "KEY", ")"]
                .iter()
                .any(|word| line.starts_with(word))
    });
    let columns = lines.filter_map(|line| {
        let mut words = line.trim_end_matches(')').split_whitespace();
        let (name, kind) = (words.next()?, words.next()?.trim_end_matches(','));
        // The length's bracket is the type's own.
        let kind = match (kind.contains('('), kind.ends_with(')')) {
            (true, false) => format!("{kind})"),
            _ => kind.to_owned(),
        };
        let is_unsigned = words
            .next()
            .is_some_and(|word| word.starts_with("UNSIGNED"));
        let unsigned = if is_unsigned { " UNSIGNED" } else { "" };
        Some((name.to_owned(), format!("{kind}{unsigned}")))
    });
    columns.collect()
}

/// Refuses a table for rows if it isn't what a file of this shape needs: says of each column what it is, what it should be, and
/// what mends it.
pub(super) async fn check_rows(
    session: &mut Session,
    number: u64,
    shape: &Shape,
    path: impl Fn() -> String,
) -> Result<(), SinkError> {
    let table = rows_table(number);
    let checking = || format!("checking the table {table} of {}", path());
    let found = columns_of(session, &table).await?;
    if found.is_empty() {
        let missing = format!(
            "there is no such table: {}",
            create_table(number, false, shape)
        );
        return refuse(&checking(), &[missing]);
    }
    let mut problems = Vec::new();
    let mut needed: Vec<String> = Vec::new();
    let mut differs = |name: &str, is: Option<&Found>, wanted: &str, fits: bool| {
        needed.push(name.to_owned());
        let sql = format!("{} {wanted}", quoted(name));
        match is {
            None => problems.push(format!(
                "there is no column {name}: ALTER TABLE {table} ADD COLUMN {sql}"
            )),
            Some(is) if !fits => problems.push(format!(
                "column {name} is {}{}, and should be {wanted}: ALTER TABLE {table} MODIFY COLUMN {sql}",
                is.kind,
                if is.is_null { "" } else { " NOT NULL" }
            )),
            Some(_) => {}
        }
    };
    for (name, wanted) in fixed_columns(shape) {
        let is = found.iter().find(|there| there.is(name));
        let kind = wanted.trim_end_matches(" NOT NULL");
        let fits = is.is_some_and(|is| is.kind == plain(kind) && (is.is_null || kind != wanted));
        differs(name, is, wanted, fits);
    }
    let kinds = shape.columns.iter().map(|column| storage_kind(column.kind));
    let undecoded = ColumnKind::Text { chars: Some(2000) };
    let without_left = Shape {
        left: Vec::new(),
        ..shape.clone()
    };
    for (Definition { name, kind }, holds) in definitions(&without_left)
        .iter()
        .zip(kinds.chain([undecoded]))
    {
        let is = found.iter().find(|there| there.is(name));
        let fits = is.is_some_and(|is| {
            is.is_null && is.is_utf8 && kind_of(&is.kind).is_some_and(|kind| kind.holds(holds))
        });
        differs(name, is, &format!("{kind} NULL"), fits);
    }
    for other in &found {
        let is_needed = needed.iter().any(|name| other.is(name));
        if !is_needed && !other.is_null && !other.has_default {
            problems.push(format!(
                "column {0} is nothing that Counterfoil fills, but may not be NULL and has no default: \
                 ALTER TABLE {table} MODIFY COLUMN {1} {2} NULL",
                other.name,
                quoted(&other.name),
                other.kind
            ));
        }
    }
    let key = key_of(session, &table).await?;
    let wanted = match shape.mode {
        Mode::Mirror => "id",
        Mode::History => "id, epoch, lsn, idx",
    };
    if key != wanted {
        let dropping = if key.is_empty() {
            ""
        } else {
            "DROP PRIMARY KEY, "
        };
        problems.push(format!(
            "the primary key is ({key}), and should be ({wanted}): ALTER TABLE {table} {dropping}ADD PRIMARY KEY ({wanted})"
        ));
    }
    if let Some(index) = index_of(shape) {
        let wanted: Vec<String> = shape
            .key
            .iter()
            .map(|name| stored_name(name).to_lowercase())
            .collect();
        if !has_index(session, &table, &wanted).await? {
            problems.push(format!(
                "no index begins with its key ({}): ALTER TABLE {table} ADD KEY {INDEX_NAME} ({index})",
                wanted.join(", ")
            ));
        }
    }
    refuse(&checking(), &problems)
}

/// Whether an index begins with these columns.
async fn has_index(
    session: &mut Session,
    table: &str,
    wanted: &[String],
) -> Result<bool, SinkError> {
    let looking = || format!("looking at the indexes of {table}");
    let rows = session
        .rows(
            "SELECT index_name, LOWER(column_name) FROM information_schema.statistics
             WHERE table_schema = DATABASE() AND table_name = ? AND column_name IS NOT NULL
             ORDER BY index_name, seq_in_index",
            (table,),
        )
        .await
        .doing(looking)?;
    let mut indexes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &rows {
        let columns = indexes.entry(column(row, 0).doing(looking)?).or_default();
        columns.push(column(row, 1).doing(looking)?);
    }
    Ok(indexes.values().any(|columns| columns.starts_with(wanted)))
}

/// The columns that every table of this shape has, and their types.
fn fixed_columns(shape: &Shape) -> Vec<(&'static str, &'static str)> {
    let mut columns = vec![("id", "BIGINT UNSIGNED NOT NULL")];
    if shape.mode == Mode::History {
        columns.extend([
            ("epoch", "BIGINT UNSIGNED NOT NULL"),
            ("lsn", "BIGINT UNSIGNED NOT NULL"),
            ("idx", "INT UNSIGNED NOT NULL"),
            ("op", "VARCHAR(6) NOT NULL"),
            ("captured_at", "DATETIME(6) NOT NULL"),
        ]);
    }
    match (shape.raw, shape.mode) {
        (false, _) => {}
        (true, Mode::Mirror) => {
            columns.extend([("data", "LONGBLOB NOT NULL"), ("rest", "LONGBLOB")]);
        }
        (true, Mode::History) => columns.extend([("data", "LONGBLOB"), ("rest", "LONGBLOB")]),
    }
    columns
}

fn refuse(doing: &str, problems: &[String]) -> Result<(), SinkError> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(permanent(
        doing,
        problems.join("; "),
        "run these statements, or let it be done with `ddl = \"manage\"`",
    ))
}

/// A column that is there.
struct Found {
    name: String,
    /// As [`plain`] makes it.
    kind: String,
    is_null: bool,
    has_default: bool,
    /// It holds any text, or it is no text.
    is_utf8: bool,
}

impl Found {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

async fn columns_of(session: &mut Session, table: &str) -> Result<Vec<Found>, SinkError> {
    let looking = || format!("looking at the columns of {table}");
    let rows = session
        .rows(
            "SELECT column_name, column_type, is_nullable = 'YES',
                 column_default IS NOT NULL OR extra <> '' OR COALESCE(generation_expression, '') <> '',
                 COALESCE(character_set_name, 'utf8mb4') = 'utf8mb4'
             FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position",
            (table,),
        )
        .await
        .doing(looking)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let kind: Vec<u8> = column(row, 1).doing(looking)?;
        found.push(Found {
            name: column(row, 0).doing(looking)?,
            kind: plain(&String::from_utf8_lossy(&kind)),
            is_null: column::<u8>(row, 2).doing(looking)? != 0,
            has_default: column::<u8>(row, 3).doing(looking)? != 0,
            is_utf8: column::<u8>(row, 4).doing(looking)? != 0,
        });
    }
    Ok(found)
}

async fn key_of(session: &mut Session, table: &str) -> Result<String, SinkError> {
    let looking = || format!("looking at the key of {table}");
    let rows = session
        .rows(
            "SELECT LOWER(column_name) FROM information_schema.statistics
             WHERE table_schema = DATABASE() AND table_name = ? AND index_name = 'PRIMARY' ORDER BY seq_in_index",
            (table,),
        )
        .await
        .doing(looking)?;
    let names: Result<Vec<String>, SinkError> = rows
        .iter()
        .map(|row| column(row, 0).doing(looking))
        .collect();
    Ok(names?.join(", "))
}

/// A type without what servers say of it in different ways: capitals, and how wide a whole number is shown.
fn plain(kind: &str) -> String {
    let lower = kind.trim().to_lowercase();
    match lower.split_once('(') {
        Some((name, rest)) if name.ends_with("int") => {
            let (_, behind) = rest.split_once(')').unwrap_or_default();
            format!("{name}{behind}")
        }
        _ => lower,
    }
}

/// What a column of a type holds; `None` for types that nothing is written to.
fn kind_of(plain: &str) -> Option<ColumnKind> {
    let (name, numbers) = match plain.split_once('(') {
        Some((name, rest)) => (name, rest.trim_end_matches(')')),
        None => (plain, ""),
    };
    let text = |chars| Some(ColumnKind::Text { chars });
    let bytes = |len| Some(ColumnKind::Bytes { len });
    let digits = || numbers.parse().unwrap_or(0);
    match name {
        "smallint" => Some(ColumnKind::SmallInt),
        "mediumint" => Some(ColumnKind::SmallInt),
        "int" => Some(ColumnKind::Integer),
        "bigint" => Some(ColumnKind::BigInt),
        "decimal" => format!("decimal({numbers})").parse().ok(),
        "float" => Some(ColumnKind::Real),
        "double" => Some(ColumnKind::Double),
        "varchar" => text(Some(numbers.parse().ok()?)),
        "tinytext" => text(Some(63)),
        "text" => text(Some(16_383)),
        "mediumtext" => text(Some(4_194_303)),
        "longtext" => text(None),
        "varbinary" => bytes(Some(numbers.parse().ok()?)),
        "tinyblob" => bytes(Some(255)),
        "blob" => bytes(Some(65_535)),
        "mediumblob" => bytes(Some(16_777_215)),
        "longblob" => bytes(None),
        "date" => Some(ColumnKind::Date),
        "time" => Some(ColumnKind::Time { digits: digits() }),
        "datetime" => Some(ColumnKind::Timestamp { digits: digits() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_own_tables_are_read_from_their_definitions() {
        for table in TABLES {
            assert!(!own_columns(table).is_empty(), "{table}");
        }
        let of = |name: &str| {
            let table = TABLES.iter().find(|table| table.starts_with(name));
            own_columns(table.expect("a table"))
        };
        let column = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        assert_eq!(of("counterfoil_readers"), [column("nothing", "TINYINT")]);
        assert_eq!(
            of("counterfoil_views"),
            [
                column("name", "VARCHAR(64)"),
                column("stale", "BIGINT UNSIGNED")
            ]
        );
        assert_eq!(plain("bigint(20) UNSIGNED"), "bigint unsigned");
        assert_eq!(plain("VARCHAR(64)"), "varchar(64)");
    }

    #[test]
    fn text_in_a_statement_is_what_it_is() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b"), "_utf8mb4 x'615c62'");
    }
}
