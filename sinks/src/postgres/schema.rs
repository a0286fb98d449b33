//! Counterfoil's own tables.

use super::adoption::{self, Difference, Keys, Wanted};
use super::error::Doing;
use super::session::Session;
use super::table::{Table, names};
use crate::SinkError;
use crate::plan::Ddl;
use crate::sql::{permanent, quoted};
use counterfoil_records::STATIC_BLOCK_BYTES;
use tokio_postgres::error::SqlState;

/// Version of the tables below; grows when they change.
pub const SCHEMA_VERSION: i32 = 2;

/// The first version whose catalogue says what tables look like.
pub(super) const VERSION_WITH_SHAPES: i32 = 2;

/// The shortest name that PostgreSQL cuts is one byte longer.
pub(super) const NAME_BYTES_MAX: usize = 63;

const HISTORIES: &str = "counterfoil_histories";

/// A table of Counterfoil's own.
struct OwnTable {
    name: &'static str,
    /// Name and type; one that ends with `?` may be NULL.
    columns: &'static [(&'static str, &'static str)],
    key: &'static [&'static str],
    /// What else its definition says.
    more: &'static str,
    /// Its other indexes, with `{}` for the schema with its point.
    indexes: &'static [&'static str],
}

/// (A path may be longer than what an index takes, so its digest is in the index.)
const TABLES: &[OwnTable] = &[
    OwnTable {
        name: "counterfoil_position",
        columns: &[
            ("stream", "text"),
            ("epoch", "bigint"),
            ("lsn", "bigint"),
            ("idx", "bigint"),
            ("captured_ns", "bigint"),
            ("applied_ns", "bigint"),
        ],
        key: &["stream"],
        more: "",
        indexes: &[],
    },
    OwnTable {
        name: "counterfoil_residue",
        columns: &[
            ("file_id", "bigint"),
            ("id", "bigint"),
            ("bytes", "bytea"),
            ("reason", "text"),
        ],
        key: &["file_id", "id"],
        more: "",
        indexes: &[],
    },
    OwnTable {
        name: "counterfoil_trees",
        columns: &[
            ("tree_id", "bigint"),
            ("stream", "text"),
            ("root", "bytea"),
            ("root_text", "text"),
            ("table_name", "text"),
            ("table_configured", "text?"),
            ("table_made", "boolean"),
            ("view_name", "text"),
        ],
        key: &["tree_id"],
        more: ", UNIQUE (table_name)",
        indexes: &[
            "CREATE UNIQUE INDEX counterfoil_trees_root ON {}counterfoil_trees (stream, pg_catalog.sha256(root))",
        ],
    },
    OwnTable {
        name: "counterfoil_files",
        columns: &[
            ("file_id", "bigint"),
            ("stream", "text"),
            ("path", "bytea"),
            ("path_text", "text"),
            ("file_group", "text"),
            ("organization", "text"),
            ("layout", "text"),
            ("record_size", "bigint?"),
            ("varseq_format", "bigint?"),
            ("tree_id", "bigint?"),
            ("table_name", "text"),
            ("table_configured", "text?"),
            ("table_made", "boolean"),
            ("kind", "text?"),
            ("size", "bigint"),
            ("mode", "bigint?"),
            ("uid", "bigint?"),
            ("gid", "bigint?"),
            ("modified_ns", "bigint?"),
            ("shape", "text?"),
        ],
        key: &["file_id"],
        more: "",
        indexes: &[
            "CREATE UNIQUE INDEX counterfoil_files_path ON {}counterfoil_files (stream, pg_catalog.sha256(path))",
            "CREATE INDEX counterfoil_files_table ON {}counterfoil_files (table_name) WHERE tree_id IS NULL",
            "CREATE INDEX counterfoil_files_tree ON {}counterfoil_files (tree_id) WHERE tree_id IS NOT NULL",
        ],
    },
    // Histories whose file is gone: the next file of that path goes on with one.
    OwnTable {
        name: HISTORIES,
        columns: &[
            ("table_name", "text"),
            ("table_made", "boolean"),
            ("stream", "text"),
            ("path", "bytea"),
            ("path_text", "text"),
            ("identity", "text"),
            ("shape", "text"),
        ],
        key: &["table_name"],
        more: "",
        indexes: &[
            "CREATE UNIQUE INDEX counterfoil_histories_path ON {}counterfoil_histories (stream, pg_catalog.sha256(path))",
        ],
    },
    OwnTable {
        name: "counterfoil_schema",
        columns: &[("version", "integer")],
        key: &[],
        more: "",
        indexes: &[],
    },
];

impl OwnTable {
    /// Its columns: name, type, and whether it may be NULL.
    fn columns(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        self.columns.iter().map(|&(name, kind)| {
            let bare = kind.strip_suffix('?');
            (name, bare.unwrap_or(kind), bare.is_some())
        })
    }

    /// The statements that make it and its indexes.
    fn creation(&self, prefix: &str) -> Vec<String> {
        let indexes = self.indexes.iter();
        let indexes = indexes.map(|index| index.replace("{}", prefix));
        [self.create(prefix)].into_iter().chain(indexes).collect()
    }

    fn create(&self, prefix: &str) -> String {
        let columns: Vec<String> = self
            .columns()
            .map(|(name, kind, may_be_null)| {
                let condition = if may_be_null { "" } else { " NOT NULL" };
                format!("{name} {kind}{condition}")
            })
            .collect();
        let key = match self.key {
            [] => String::new(),
            key => format!(", PRIMARY KEY ({})", key.join(", ")),
        };
        let (name, more) = (self.name, self.more);
        format!(
            "CREATE TABLE {prefix}{name} ({}{key}{more})",
            columns.join(", ")
        )
    }
}

/// The statements that make Counterfoil's tables in a schema whose name, quoted and with its point, goes before theirs.
pub(super) fn creation(prefix: &str) -> Vec<String> {
    let mut statements = vec![format!("CREATE SEQUENCE {prefix}counterfoil_ids")];
    statements.extend(TABLES.iter().flat_map(|table| table.creation(prefix)));
    statements.push(format!(
        "INSERT INTO {prefix}counterfoil_schema VALUES ({SCHEMA_VERSION})"
    ));
    statements
}

/// The version of the tables in the schema, or `None` where there are none.
pub(super) async fn version(session: &mut Session) -> Result<Option<i32>, SinkError> {
    let looking = || "looking for Counterfoil's tables".to_owned();
    let table = session.name("counterfoil_schema");
    let there = session
        .query("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[&table])
        .await
        .doing(looking)?;
    if !there.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let rows = session
        .query(&format!("SELECT version FROM {table}"), &[])
        .await
        .doing(looking)?;
    let version = match rows.first() {
        Some(row) => row.try_get(0).doing(looking)?,
        None => 0,
    };
    if !(1..=SCHEMA_VERSION).contains(&version) {
        return Err(permanent(
            looking(),
            format!(
                "another version of Counterfoil made them (schema version {version}; this one knows {SCHEMA_VERSION})"
            ),
            "use that version of Counterfoil, or configure another schema",
        ));
    }
    session.version = version;
    Ok(Some(version))
}

/// Sees to it that the tables are there, as far as that is the sink's affair.
pub(super) async fn ensure(session: &mut Session) -> Result<(), SinkError> {
    match session.ddl {
        Ddl::Manage => manage(session).await,
        Ddl::Check => check(session).await,
        Ddl::None => Ok(()),
    }
}

/// Makes the schema and the tables where there are none, and those of an older version new.
async fn manage(session: &mut Session) -> Result<(), SinkError> {
    match version(session).await? {
        Some(SCHEMA_VERSION) => return Ok(()),
        Some(_) => return upgrade(session).await,
        None => {}
    }
    let Err(error) = create(session).await else {
        session.version = SCHEMA_VERSION;
        return Ok(());
    };
    let _ = session.run("ROLLBACK").await;
    // Another process may have been faster; it makes all or nothing.
    if version(session).await?.is_some() {
        return Ok(());
    }
    let creating = || format!("creating Counterfoil's tables in schema {}", session.schema);
    if matches!(
        error.code(),
        Some(code) if *code == SqlState::DUPLICATE_TABLE || *code == SqlState::DUPLICATE_OBJECT
    ) {
        return Err(permanent(
            creating(),
            "tables with such names are there, but not the one that says whose they are",
            "configure another schema",
        ));
    }
    Err(error).doing(creating)
}

async fn create(session: &mut Session) -> Result<(), tokio_postgres::Error> {
    let schema = quoted(&session.schema);
    session.run("BEGIN").await?;
    let there = session
        .client
        .query_one(
            "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = $1",
            &[&session.schema],
        )
        .await?;
    // `IF NOT EXISTS` would ask for a permission that isn't needed where it is there.
    if there.get::<_, i64>(0) == 0 {
        session.run(&format!("CREATE SCHEMA {schema}")).await?;
    }
    let statements = creation(&format!("{schema}."));
    session
        .run(&format!("{}; COMMIT", statements.join("; ")))
        .await
}

/// The statements that make the tables of this version out of those of the first.
fn upgrades(prefix: &str) -> Vec<String> {
    let mut statements = vec![format!(
        "ALTER TABLE {prefix}counterfoil_files ADD COLUMN shape text"
    )];
    for table in TABLES.iter().filter(|table| table.name == HISTORIES) {
        statements.extend(table.creation(prefix));
    }
    statements.push(format!(
        "UPDATE {prefix}counterfoil_schema SET version = {SCHEMA_VERSION}"
    ));
    statements
}

async fn upgrade(session: &mut Session) -> Result<(), SinkError> {
    let upgrading = || {
        format!(
            "bringing Counterfoil's tables from version {} to {SCHEMA_VERSION}",
            session.version
        )
    };
    let upgrading = upgrading();
    let prefix = format!("{}.", quoted(&session.schema));
    let lock = format!("BEGIN; LOCK TABLE {prefix}counterfoil_schema IN EXCLUSIVE MODE");
    session.run(&lock).await.doing(|| upgrading.clone())?;
    // Another process may have been faster.
    let done = async {
        if let Some(version) = version(session).await?
            && version < SCHEMA_VERSION
        {
            let statements = upgrades(&prefix).join("; ");
            session.run(&statements).await.doing(|| upgrading.clone())?;
        }
        session.run("COMMIT").await.doing(|| upgrading.clone())
    }
    .await;
    if done.is_err() {
        let _ = session.run("ROLLBACK").await;
    }
    session.forget();
    session.version = SCHEMA_VERSION;
    done
}

/// Compares the tables with what is needed.
async fn check(session: &mut Session) -> Result<(), SinkError> {
    let looking = || {
        format!(
            "looking for Counterfoil's tables in schema {}",
            session.schema
        )
    };
    let looking = looking();
    let prefix = format!("{}.", quoted(&session.schema));
    match version(session).await? {
        None => {
            return Err(permanent(
                looking,
                "they are not there, and with `ddl = \"check\"` nothing is made",
                "have the DBA run what `counterfoil schema sql` prints",
            ));
        }
        Some(SCHEMA_VERSION) => {}
        Some(version) => {
            return Err(permanent(
                looking,
                format!("they are of version {version}, and version {SCHEMA_VERSION} is needed"),
                format!("run `{};` as their owner", upgrades(&prefix).join("; ")),
            ));
        }
    }
    for table in TABLES {
        let place = session.name(table.name);
        let wanted: Vec<Wanted> = table
            .columns()
            .map(|(name, kind, may_be_null)| Wanted {
                name: name.into(),
                sql_type: kind.into(),
                kind: None,
                may_be_null,
            })
            .collect();
        let key: Vec<String> = table.key.iter().map(|name| (*name).into()).collect();
        let mut found = adoption::look(session, &place, &wanted, &key, Keys::Exact).await?;
        if table.key.is_empty() {
            found
                .differences
                .retain(|d| !d.says.starts_with("there is no primary key"));
        }
        if found.columns.is_empty() {
            found.differences = vec![Difference {
                says: "it is not there".into(),
                mend: Some(table.creation(&prefix).join("; ")),
            }];
        }
        if !found.differences.is_empty() {
            return Err(adoption::refusal(
                looking,
                table.name,
                &found.differences,
                "or set `ddl = \"manage\"`",
            ));
        }
    }
    Ok(())
}

/// A view of a tree's files for people: what each is, and its content where that is one block. (`prefix` goes before names
/// of tables and views.)
pub(super) fn create_view(prefix: &str, view: &str, table: &Table) -> String {
    let block = STATIC_BLOCK_BYTES;
    format!(
        "CREATE VIEW {prefix}{view} AS
         SELECT file_id, path_text, kind,
             ((mode >> 9) & 7)::text || ((mode >> 6) & 7)::text || ((mode >> 3) & 7)::text || (mode & 7)::text AS mode,
             uid, gid, modified_ns, size,
             CASE WHEN kind = 'directory' OR size > {block} THEN NULL
                  WHEN size = 0 THEN ''::bytea
                  ELSE coalesce((SELECT data FROM {table} AS t WHERE t.file_id = f.file_id AND block_number = 0),
                           decode(repeat('00', size::integer), 'hex'))
             END AS content
         FROM {prefix}counterfoil_files AS f
         WHERE tree_id = (SELECT tree_id FROM {prefix}counterfoil_trees WHERE table_name = {name})",
        view = names([view].into_iter()),
        table = table.place,
        name = literal(&table.name),
    )
}

/// Text in a statement.
fn literal(text: &str) -> String {
    let quotes = text.replace('\'', "''");
    if quotes.contains('\\') {
        format!("E'{}'", quotes.replace('\\', "\\\\"))
    } else {
        format!("'{quotes}'")
    }
}
