//! Counterfoil's own tables, the shapes of the tables with the rows, and the views that people read.

use super::columns::{Definition, definitions, stored_name};
use super::error::{Doing, NO_TABLE, is_code};
use super::session::{Session, column};
use crate::SinkError;
use crate::naming::{numbered, numbered_within};
use crate::plan::{Evolution, Mode, Shape, UNDECODED};
use crate::sql::permanent;
use counterfoil_records::{LAYOUT_WORDS_MAX, STATIC_BLOCK_BYTES};

/// Version of the tables below; grows when they change. Version 1 had no `counterfoil_shapes`, and
/// up to version 2 `layout` had only room for a name, without settings.
pub const SCHEMA_VERSION: u32 = 3;

/// An identifier may have 64 characters, so it may have as many bytes.
const NAME_BYTES_MAX: usize = 64;

/// What every table is: transactional, and with text that is told apart byte by byte.
const KIND: &str =
    "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// An index takes 3072 bytes at most, and a path may be longer: so there is one of its hash.
pub(super) const TABLES: [&str; 9] = [
    "counterfoil_position (
        stream      VARCHAR(512) NOT NULL PRIMARY KEY,
        epoch       BIGINT UNSIGNED NOT NULL,
        lsn         BIGINT UNSIGNED NOT NULL,
        idx         INT UNSIGNED NOT NULL,
        captured_ns BIGINT NOT NULL,
        applied_ns  BIGINT NOT NULL
    )",
    "counterfoil_files (
        file_id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        stream           VARCHAR(512) NOT NULL,
        path             BLOB NOT NULL,
        path_hash        BINARY(32) NOT NULL COMMENT 'SHA-256 of path',
        path_text        MEDIUMTEXT NOT NULL,
        file_group       TEXT NOT NULL,
        organization     VARCHAR(32) NOT NULL,
        layout           VARCHAR(512) NOT NULL,
        record_size      BIGINT UNSIGNED,
        varseq_format    BIGINT UNSIGNED,
        identity         VARCHAR(32) NOT NULL COMMENT 'what id is called in the view',
        tree_id          BIGINT UNSIGNED,
        rows_table       BIGINT UNSIGNED NOT NULL COMMENT 'N of counterfoil_rows_N',
        table_name       VARCHAR(64) NOT NULL COMMENT 'the view',
        table_configured TEXT,
        kind             VARCHAR(16),
        size             BIGINT UNSIGNED NOT NULL,
        mode             INT UNSIGNED,
        uid              INT UNSIGNED,
        gid              INT UNSIGNED,
        modified_ns      BIGINT,
        UNIQUE KEY by_path (stream, path_hash),
        KEY by_rows (rows_table),
        KEY by_table (table_name),
        KEY by_tree (tree_id)
    )",
    "counterfoil_trees (
        tree_id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        stream           VARCHAR(512) NOT NULL,
        root             BLOB NOT NULL,
        root_hash        BINARY(32) NOT NULL COMMENT 'SHA-256 of root',
        root_text        MEDIUMTEXT NOT NULL,
        rows_table       BIGINT UNSIGNED NOT NULL,
        table_name       VARCHAR(64) NOT NULL,
        table_configured TEXT,
        view_name        VARCHAR(64) NOT NULL,
        UNIQUE KEY by_root (stream, root_hash),
        KEY by_rows (rows_table)
    )",
    "counterfoil_residue (
        file_id BIGINT UNSIGNED NOT NULL,
        id      BIGINT UNSIGNED NOT NULL,
        bytes   LONGBLOB NOT NULL,
        reason  TEXT NOT NULL,
        PRIMARY KEY (file_id, id)
    )",
    // Every table with rows, also one that no file has: spare ones are used again, released ones are dropped.
    "counterfoil_tables (
        rows_table  BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        stream      VARCHAR(512) NOT NULL,
        is_shared   TINYINT UNSIGNED NOT NULL COMMENT '0: raw images, 1: a tree, 2: see counterfoil_shapes',
        released_ns BIGINT,
        KEY by_release (released_ns)
    )",
    // What the tables with rows are that aren't just raw images. One that is kept for a name has no file, or had none
    // yet: it is the table of the next file of that name.
    "counterfoil_shapes (
        rows_table BIGINT UNSIGNED NOT NULL PRIMARY KEY,
        shape      LONGTEXT NOT NULL,
        kept_for   VARCHAR(64),
        identity   VARCHAR(32) COMMENT 'what id is called in the view, of one that is kept',
        KEY by_name (kept_for)
    )",
    // Every view; stale ones don't show yet what the catalogue says.
    "counterfoil_views (
        name  VARCHAR(64) NOT NULL PRIMARY KEY,
        stale BIGINT UNSIGNED NOT NULL,
        KEY by_stale (stale)
    )",
    // Empty for ever. Each reader has it open as long as it reads, so whoever can empty it is alone.
    "counterfoil_readers (nothing TINYINT)",
    "counterfoil_version (version INT UNSIGNED NOT NULL)",
];

/// Makes the tables where there are none, and what those of an earlier version have not.
pub(super) async fn prepare(session: &mut Session) -> Result<(), SinkError> {
    if check(session).await? == Some(SCHEMA_VERSION) {
        return Ok(());
    }
    let creating = || "creating Counterfoil's tables".to_owned();
    // Whoever is faster makes them all: each statement here can be run twice, and the version comes last.
    for table in TABLES {
        session.text(&create_own(table)).await.doing(creating)?;
    }
    let made = check(session).await?;
    if made.is_some() {
        let sql = format!(
            "ALTER TABLE counterfoil_files MODIFY COLUMN layout VARCHAR({LAYOUT_WORDS_MAX}) NOT NULL"
        );
        session.text(&sql).await.doing(creating)?;
    }
    let sql = match made {
        None => "INSERT INTO counterfoil_version (version) VALUES (?)",
        Some(_) => "UPDATE counterfoil_version SET version = ?",
    };
    session.run(sql, (SCHEMA_VERSION,)).await.doing(creating)?;
    Ok(())
}

/// Makes one of [`TABLES`].
pub(super) fn create_own(table: &str) -> String {
    format!("CREATE TABLE IF NOT EXISTS {table} {KIND}")
}

/// The version of the tables, which have to be there.
pub(super) async fn require(session: &mut Session) -> Result<u32, SinkError> {
    check(session).await?.ok_or_else(|| {
        permanent(
            "opening",
            "there are none of Counterfoil's tables",
            "check the name of the database, and whether anything has been mirrored into this sink yet",
        )
    })
}

/// Refuses tables of a newer version. `None`: there are none.
pub(super) async fn check(session: &mut Session) -> Result<Option<u32>, SinkError> {
    let looking = || "looking for Counterfoil's tables".to_owned();
    let row = match session
        .first("SELECT MAX(version) FROM counterfoil_version", ())
        .await
    {
        Err(error) if is_code(&error, &NO_TABLE) => return Ok(None),
        other => other.doing(looking)?,
    };
    let version: Option<u32> = match row {
        Some(row) => column(&row, 0).doing(looking)?,
        None => None,
    };
    match version {
        Some(version) if version > SCHEMA_VERSION => Err(permanent(
            looking(),
            format!(
                "a newer Counterfoil made them (schema version {version}; this one knows {SCHEMA_VERSION})"
            ),
            "use that version of Counterfoil, or give the sink another database",
        )),
        version => Ok(version),
    }
}

/// A name as SQL wants it, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The table with this number.
pub(super) fn rows_table(number: u64) -> String {
    format!("counterfoil_rows_{number}")
}

/// The `number`th choice for a name that is wanted, as far as the server takes it: no more than 64 characters, none beyond
/// the basic plane, no space at the end.
pub(super) fn limited(wanted: &str, number: u32) -> String {
    let name: String = wanted
        .chars()
        .map(|char| if char > '\u{ffff}' { '_' } else { char })
        .collect();
    match name.trim_end() {
        "" => numbered("file", number),
        name => numbered_within(name, number, NAME_BYTES_MAX),
    }
}

/// A table for a file's records, or, shared, for the content of a tree's files.
pub(super) fn create_rows(number: u64, is_shared: bool) -> String {
    let table = rows_table(number);
    let columns = if is_shared {
        "file_id BIGINT UNSIGNED NOT NULL, id BIGINT UNSIGNED NOT NULL, data LONGBLOB NOT NULL, PRIMARY KEY (file_id, id)"
    } else {
        "id BIGINT UNSIGNED NOT NULL PRIMARY KEY, data LONGBLOB NOT NULL, rest LONGBLOB"
    };
    format!("CREATE TABLE IF NOT EXISTS {table} ({columns}) {KIND}")
}

/// The name of the index on a table's key.
pub(super) const INDEX_NAME: &str = "counterfoil_key";

/// The columns of the index on a table's key, as a definition has them; `None`: there is none.
pub(super) fn index_of(shape: &Shape) -> Option<String> {
    let definitions = definitions(shape);
    let columns = shape.key.iter().map(|name| {
        let stored = stored_name(name);
        let mut all = definitions.iter();
        let definition = all.find(|it| it.name.eq_ignore_ascii_case(&stored));
        let kind = definition.map_or("", |it| it.kind.as_str());
        // Of what is kept beside its row, an index has the beginning.
        let begin = if kind.contains("TEXT") || kind.contains("BLOB") {
            "(100)"
        } else {
            ""
        };
        format!("{}{begin}", quoted(&stored))
    });
    let columns: Vec<String> = columns.collect();
    (!columns.is_empty()).then(|| columns.join(", "))
}

/// A table for a file's records that has more than their images.
pub(super) fn create_shaped(number: u64, shape: &Shape) -> String {
    let mut columns = vec!["id BIGINT UNSIGNED NOT NULL".to_owned()];
    let mut key = "id";
    if shape.mode == Mode::History {
        key = "id, epoch, lsn, idx";
        columns.push(
            "epoch BIGINT UNSIGNED NOT NULL, lsn BIGINT UNSIGNED NOT NULL, idx INT UNSIGNED NOT NULL, \
             op VARCHAR(6) NOT NULL, captured_at DATETIME(6) NOT NULL"
                .into(),
        );
    }
    if shape.raw {
        columns.push(match shape.mode {
            Mode::Mirror => "data LONGBLOB NOT NULL, rest LONGBLOB".into(),
            // A row that says that a record is gone has none.
            Mode::History => "data LONGBLOB, rest LONGBLOB".into(),
        });
    }
    columns.extend(definitions(shape).iter().map(Definition::sql));
    columns.extend(index_of(shape).map(|index| format!("KEY {INDEX_NAME} ({index})")));
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({key})) {KIND}",
        rows_table(number),
        columns.join(", ")
    )
}

/// What makes a table like another, with all that others have added to it, one of the shape that it evolves to.
/// `has_index`: it has an index on its key that Counterfoil made.
pub(super) fn alter_shape(
    number: u64,
    before: &Shape,
    evolution: &Evolution,
    has_index: bool,
) -> Option<String> {
    let mut changes = Vec::new();
    let dropped = evolution.drop.iter();
    for column in dropped {
        changes.push(format!(
            "DROP COLUMN {}",
            quoted(&stored_name(&column.name))
        ));
    }
    if evolution.drop_raw {
        changes.push("DROP COLUMN data, DROP COLUMN rest".into());
    }
    let is_dropped = |name: &str| {
        let mut dropped = evolution.drop.iter();
        dropped.any(|column| stored_name(&column.name).eq_ignore_ascii_case(name))
    };
    let old = definitions(before);
    for wanted in definitions(&evolution.shape) {
        let same = |old: &&Definition| old.name.eq_ignore_ascii_case(&wanted.name);
        match old.iter().find(same) {
            Some(old) if !is_dropped(&old.name) => {
                if old.kind != wanted.kind {
                    changes.push(format!("MODIFY COLUMN {}", wanted.sql()));
                }
            }
            _ => changes.push(format!("ADD COLUMN {}", wanted.sql())),
        }
    }
    // Made anew with any change, since columns may be kept in another way then.
    let index = index_of(&evolution.shape);
    if has_index && (!changes.is_empty() || evolution.drop_index || index.is_none()) {
        changes.push(format!("DROP KEY {INDEX_NAME}"));
    }
    let is_kept = has_index && changes.is_empty();
    if let Some(index) = index.filter(|_| !is_kept) {
        changes.push(format!("ADD KEY {INDEX_NAME} ({index})"));
    }
    (!changes.is_empty())
        .then(|| format!("ALTER TABLE {} {}", rows_table(number), changes.join(", ")))
}

impl Definition {
    /// As it stands in a definition of a table.
    pub(super) fn sql(&self) -> String {
        format!("{} {} NULL", quoted(&self.name), self.kind)
    }
}

/// The view of a file's table, which has the name that follows from the file's.
pub(super) fn create_file_view(view: &str, number: u64, identity: &str, shape: &Shape) -> String {
    let mut columns = vec![format!("id AS {}", quoted(identity))];
    if shape.mode == Mode::History {
        columns.push("epoch, lsn, idx, op, captured_at".into());
    }
    if shape.raw {
        columns.push("data, rest".into());
    }
    columns.extend(shape.columns.iter().map(|column| {
        let (stored, shown) = (stored_name(&column.name), limited(&column.name, 1));
        if stored == shown {
            quoted(&stored)
        } else {
            format!("{} AS {}", quoted(&stored), quoted(&shown))
        }
    }));
    if shape.decoded {
        columns.push(UNDECODED.into());
    }
    format!(
        "CREATE OR REPLACE VIEW {} AS SELECT {} FROM {}",
        quoted(view),
        columns.join(", "),
        rows_table(number)
    )
}

/// The view of a tree's table.
pub(super) fn create_tree_view(view: &str, number: u64) -> String {
    format!(
        "CREATE OR REPLACE VIEW {} AS SELECT file_id, id AS block_number, data FROM {}",
        quoted(view),
        rows_table(number)
    )
}

/// A view of a tree's files for people: what each is, and its content where that is one block.
pub(super) fn create_content_view(view: &str, number: u64) -> String {
    let block = STATIC_BLOCK_BYTES;
    format!(
        "CREATE OR REPLACE VIEW {view} AS
         SELECT f.file_id, f.path_text, f.kind,
             LPAD(CONV(f.mode, 10, 8), GREATEST(4, LENGTH(CONV(f.mode, 10, 8))), '0') AS mode,
             f.uid, f.gid, f.modified_ns, f.size,
             CASE WHEN f.kind = 'directory' OR f.size > {block} THEN NULL
                  ELSE COALESCE(r.data, CAST(REPEAT(CHAR(0), f.size) AS BINARY))
             END AS content
         FROM counterfoil_files AS f LEFT JOIN {rows} AS r ON r.file_id = f.file_id AND r.id = 0
         WHERE f.tree_id = (SELECT t.tree_id FROM counterfoil_trees AS t WHERE t.rows_table = {number})",
        view = quoted(view),
        rows = rows_table(number),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit() {
        let long = "\u{e4}".repeat(70);
        assert_eq!(limited("cards", 1), "cards");
        assert_eq!(limited("cards", 12), "cards_12");
        assert!(limited(&long, 1).len() <= 64);
        assert!(limited(&long, 1000).len() <= 64);
        assert!(limited(&long, 1000).ends_with("_1000"));
        assert_eq!(limited("a\u{1f4b3}b  ", 1), "a_b");
        assert_eq!(limited("  ", 2), "file_2");
        assert_eq!(quoted("a`b"), "`a``b`");
    }
}
