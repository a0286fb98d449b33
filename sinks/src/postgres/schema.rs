//! Counterfoil's own tables, and the shape of a file's table.

use super::error::Doing;
use super::session::Session;
use crate::SinkError;
use crate::sql::{permanent, quoted};
use counterfoil_records::STATIC_BLOCK_BYTES;
use tokio_postgres::error::SqlState;

/// Version of the tables below; grows when they change.
pub const SCHEMA_VERSION: i32 = 1;

/// The shortest name that PostgreSQL cuts is one byte longer.
pub(super) const NAME_BYTES_MAX: usize = 63;

/// With `{}` for the schema. (A path may be longer than what an index takes, so its digest is in the index.)
const TABLES: &str = "
CREATE SEQUENCE {}.counterfoil_ids;
CREATE TABLE {}.counterfoil_position (
    stream      text PRIMARY KEY,
    epoch       bigint NOT NULL,
    lsn         bigint NOT NULL,
    idx         bigint NOT NULL,
    captured_ns bigint NOT NULL,
    applied_ns  bigint NOT NULL
);
CREATE TABLE {}.counterfoil_residue (
    file_id bigint NOT NULL,
    id      bigint NOT NULL,
    bytes   bytea NOT NULL,
    reason  text NOT NULL,
    PRIMARY KEY (file_id, id)
);
CREATE TABLE {}.counterfoil_trees (
    tree_id          bigint PRIMARY KEY,
    stream           text NOT NULL,
    root             bytea NOT NULL,
    root_text        text NOT NULL,
    table_name       text NOT NULL UNIQUE,
    table_configured text,
    table_made       boolean NOT NULL,
    view_name        text NOT NULL
);
CREATE UNIQUE INDEX counterfoil_trees_root ON {}.counterfoil_trees (stream, pg_catalog.sha256(root));
CREATE TABLE {}.counterfoil_files (
    file_id          bigint PRIMARY KEY,
    stream           text NOT NULL,
    path             bytea NOT NULL,
    path_text        text NOT NULL,
    file_group       text NOT NULL,
    organization     text NOT NULL,
    layout           text NOT NULL,
    record_size      bigint,
    varseq_format    bigint,
    tree_id          bigint,
    table_name       text NOT NULL,
    table_configured text,
    table_made       boolean NOT NULL,
    kind             text,
    size             bigint NOT NULL,
    mode             bigint,
    uid              bigint,
    gid              bigint,
    modified_ns      bigint
);
CREATE UNIQUE INDEX counterfoil_files_path ON {}.counterfoil_files (stream, pg_catalog.sha256(path));
CREATE INDEX counterfoil_files_table ON {}.counterfoil_files (table_name) WHERE tree_id IS NULL;
CREATE INDEX counterfoil_files_tree ON {}.counterfoil_files (tree_id) WHERE tree_id IS NOT NULL;
CREATE TABLE {}.counterfoil_schema (version integer NOT NULL);
";

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
    if version != SCHEMA_VERSION {
        return Err(permanent(
            looking(),
            format!(
                "another version of Counterfoil made them (schema version {version}; this one knows {SCHEMA_VERSION})"
            ),
            "use that version of Counterfoil, or configure another schema",
        ));
    }
    Ok(Some(version))
}

/// Makes the schema and the tables where there are none.
pub(super) async fn ensure(session: &mut Session) -> Result<(), SinkError> {
    if version(session).await?.is_some() {
        return Ok(());
    }
    let Err(error) = create(session).await else {
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
    session.run(&TABLES.replace("{}", &schema)).await?;
    session
        .run(&format!(
            "INSERT INTO {schema}.counterfoil_schema VALUES ({SCHEMA_VERSION}); COMMIT"
        ))
        .await
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
    pub(super) upsert: String,
    pub(super) copy: String,
    pub(super) delete: String,
    pub(super) delete_range: String,
    pub(super) max: String,
}

impl Table {
    /// A table of one file.
    pub(super) fn own(session: &Session, name: &str, identity: &str, is_made: bool) -> Table {
        let place = session.name(name);
        let id = quoted(identity);
        Table {
            upsert: format!(
                "INSERT INTO {place} ({id}, data, rest)
                 SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])
                 ON CONFLICT ({id}) DO UPDATE SET data = excluded.data, rest = excluded.rest"
            ),
            copy: format!("COPY {place} ({id}, data, rest) FROM STDIN (FORMAT binary)"),
            delete: format!("DELETE FROM {place} WHERE {id} = ANY($1::bigint[])"),
            delete_range: format!("DELETE FROM {place} WHERE {id} BETWEEN $1 AND $2"),
            max: format!("SELECT coalesce(max({id}), -1) FROM {place}"),
            name: name.to_owned(),
            place,
            identity: identity.to_owned(),
            is_shared: false,
            is_made,
        }
    }

    /// A table of all files of a tree.
    pub(super) fn shared(session: &Session, name: &str, is_made: bool) -> Table {
        let place = session.name(name);
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
        }
    }

    /// Its columns: name, type, and whether it may be NULL.
    pub(super) fn columns(&self) -> [(&str, &'static str, bool); 3] {
        if self.is_shared {
            [
                ("file_id", "bigint", false),
                ("block_number", "bigint", false),
                ("data", "bytea", false),
            ]
        } else {
            [
                (&self.identity, "bigint", false),
                ("data", "bytea", false),
                ("rest", "bytea", true),
            ]
        }
    }

    /// The columns of its key.
    pub(super) fn key(&self) -> Vec<String> {
        if self.is_shared {
            vec!["block_number".into(), "file_id".into()]
        } else {
            vec![self.identity.clone()]
        }
    }

    /// The statement that makes it. The key's index has a name that no table ever asks for.
    pub(super) fn create(&self, number: i64) -> String {
        let columns: Vec<String> = self
            .columns()
            .iter()
            .map(|(name, kind, may_be_null)| {
                let condition = if *may_be_null { "" } else { " NOT NULL" };
                format!("{} {kind}{condition}", quoted(name))
            })
            .collect();
        let key = if self.is_shared {
            "file_id, block_number".to_owned()
        } else {
            quoted(&self.identity)
        };
        format!(
            "CREATE TABLE {} ({}, CONSTRAINT counterfoil_{number} PRIMARY KEY ({key}))",
            self.place,
            columns.join(", ")
        )
    }
}

/// A view of a tree's files for people: what each is, and its content where that is one block.
pub(super) fn create_view(session: &Session, view: &str, table: &Table, tree_id: i64) -> String {
    let block = STATIC_BLOCK_BYTES;
    format!(
        "CREATE VIEW {view} AS
         SELECT file_id, path_text, kind,
             ((mode >> 9) & 7)::text || ((mode >> 6) & 7)::text || ((mode >> 3) & 7)::text || (mode & 7)::text AS mode,
             uid, gid, modified_ns, size,
             CASE WHEN kind = 'directory' OR size > {block} THEN NULL
                  WHEN size = 0 THEN ''::bytea
                  ELSE coalesce((SELECT data FROM {table} AS t WHERE t.file_id = f.file_id AND block_number = 0),
                           decode(repeat('00', size::integer), 'hex'))
             END AS content
         FROM {files} AS f WHERE tree_id = {tree_id}",
        view = session.name(view),
        table = table.place,
        files = session.name("counterfoil_files"),
    )
}
