//! The PostgreSQL sink.
//!
//! One schema holds a table per mirrored file, and tables of Counterfoil's own: the position of each stream, the catalogue
//! of files and trees, and the residue (on-disk bytes that are no record). `docs/sinks.md` shows them as people see them.
//!
//! # Promises
//! - A batch is one transaction, with its position in it; the position's row is locked first, so that two writers of a
//!   stream take turns. After any error nothing of it is visible, unless the connection broke while it was committed:
//!   asking for the position tells.
//! - What is remembered is forgotten after an error, on a new connection, and when another has written to the stream.
//! - Readers never wait for the writer, but where a table is made, renamed or dropped: that waits for those who read it.
//! - Nothing that comes from a file's name is put into SQL unquoted.
//!
//! # How rows get there
//! New rows, which is those beyond the last identity in the table, by `COPY`; others by one statement for thousands of
//! rows, which takes an array for each column: so nothing goes through a staging table. A field is the same bytes in both,
//! so there is one way to write it. The catalogue's changes are written at the end of a batch, whatever the number of
//! files, by two statements.
//!
//! A table is brought to the columns that a plan wants, and filled anew, in the transaction of the batch that asks for
//! it first. The catalogue remembers what each table looks like.
//!
//! # Limits
//! - Numbers above 2⁶³-1 don't fit a `bigint`: such an identity is refused, never wrapped.
//! - A record has at most 1 000 000 000 bytes; PostgreSQL holds no more than a gibibyte in a value.
//! - Memory is bounded by the batch, what is known of up to 20 000 files, and the names of all tables while one is made.
//!
//! Calls block; each drives the sink's own single-threaded runtime. So they can't be made on a thread of another one.

mod adoption;
mod apply;
mod catalogue;
mod cells;
mod entry;
mod error;
mod evolution;
mod history;
mod names;
mod rows;
mod schema;
mod session;
mod settings;
mod snapshot;
mod statements;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_plans;
mod tls;

pub use schema::SCHEMA_VERSION;
pub use settings::{PostgresConfig, SslMode};
pub use statements::schema_sql;

use crate::plan::Ddl;
use crate::sql::permanent;
use crate::{Batch, Sink, SinkError, Snapshot};
use apply::Ending;
use catalogue::Memory;
use error::Doing;
use session::Session;
use std::collections::HashMap;
use tokio::runtime::Runtime;

/// A PostgreSQL database as a target.
pub struct PostgresSink {
    config: PostgresConfig,
    place: String,
    access: Access,
    /// `None` after the connection broke, and before there was one.
    session: Option<Session>,
    /// What is remembered of each stream.
    memories: HashMap<String, Memory>,
    runtime: Runtime,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    ReadOnly,
}

/// What was found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// What it says it is: `PostgreSQL 15.8 on ...`.
    pub version: String,
    /// The schema that tables are in, or would be.
    pub schema: String,
    /// Whether Counterfoil's tables are there.
    pub has_tables: bool,
    /// What the user may not do that a sink does, and the SQL that lets it; empty when all is well.
    pub missing: Vec<(String, String)>,
}

impl PostgresSink {
    /// Connects to apply batches; makes the schema and Counterfoil's tables where there are none.
    pub fn open(config: &PostgresConfig) -> Result<Self, SinkError> {
        Self::connected_as(config, Access::Write)
    }

    /// Connects to read what is there, while the writer goes on; [`Sink::apply`] is refused.
    pub fn open_read_only(config: &PostgresConfig) -> Result<Self, SinkError> {
        Self::connected_as(config, Access::ReadOnly)
    }

    /// A sink for applying that connects when it is first used: for a server that can't be reached just now.
    pub fn open_later(config: &PostgresConfig) -> Result<Self, SinkError> {
        Self::with_access(config, Access::Write)
    }

    /// Looks at a server and at what its user may do there; changes nothing.
    pub fn probe(config: &PostgresConfig) -> Result<Reached, SinkError> {
        let sink = Self::with_access(config, Access::ReadOnly)?;
        let place = &sink.place;
        sink.runtime.block_on(async {
            let probed = async {
                let mut session = Session::connect(&sink.config).await?;
                let reached = probe(&mut session).await?;
                session.close().await;
                Ok(reached)
            };
            probed.await.map_err(|error: SinkError| error.at(place))
        })
    }

    fn connected_as(config: &PostgresConfig, access: Access) -> Result<Self, SinkError> {
        let mut sink = Self::with_access(config, access)?;
        match sink.connect() {
            Ok(()) => Ok(sink),
            Err(error) => Err(error.at(&sink.place)),
        }
    }

    fn with_access(config: &PostgresConfig, access: Access) -> Result<Self, SinkError> {
        let place = config.place();
        if config.url.is_none() && config.service.is_none() {
            return Err(permanent(
                "looking where the database is",
                "there is neither a URL nor a service",
                "configure `url` or `service`",
            )
            .at(&place));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SinkError::Transient {
                doing: "starting to use the network".into(),
                cause: error.to_string(),
            })?;
        Ok(PostgresSink {
            config: config.clone(),
            place,
            access,
            session: None,
            memories: HashMap::new(),
            runtime,
        })
    }

    /// Sees to it that there is a connection that isn't known to be broken.
    fn connect(&mut self) -> Result<(), SinkError> {
        if self.session.as_ref().is_some_and(|s| !s.is_closed()) {
            return Ok(());
        }
        self.session = None;
        self.memories.clear();
        let (config, access) = (&self.config, self.access);
        self.session = Some(
            self.runtime
                .block_on(async {
                    let mut session = Session::connect(config).await?;
                    if access == Access::Write {
                        schema::ensure(&mut session).await?;
                    } else if schema::version(&mut session).await?.is_none() {
                        return Err(permanent(
                            "looking for Counterfoil's tables",
                            format!("there are none in schema {}", session.schema),
                            "nothing has been mirrored into this sink yet",
                        ));
                    }
                    Ok(session)
                })
                .map_err(of_no_row)?,
        );
        Ok(())
    }

    fn try_apply(&mut self, batch: &Batch, ending: Ending) -> Result<(), SinkError> {
        if self.access == Access::ReadOnly {
            return Err(permanent(
                "applying a batch",
                "the database was opened for reading only",
                "apply through a sink that was opened for writing",
            ));
        }
        let applied = self.run_batch(batch, ending, Rows::Copied);
        let has_collided = self.session.as_mut().is_some_and(|session| {
            let has_collided = session.has_collided;
            session.has_collided = false;
            has_collided
        });
        match applied {
            // Something was in the way of a `COPY`. What is in the way of an upsert as well is refused.
            Err(_) if has_collided => self.run_batch(batch, ending, Rows::Replaced),
            applied => applied,
        }
    }

    /// Runs a batch's transaction.
    fn run_batch(&mut self, batch: &Batch, ending: Ending, rows: Rows) -> Result<(), SinkError> {
        self.connect()?;
        let Some(session) = self.session.as_mut() else {
            return Ok(());
        };
        session.is_careful = rows == Rows::Replaced;
        // It comes back only if all goes well.
        let memory = self.memories.remove(&batch.stream).unwrap_or_default();
        let applied = self.runtime.block_on(async {
            let applied = apply::apply(session, memory, batch, ending).await;
            if applied.is_err() {
                session.forget();
                if session.run("ROLLBACK").await.is_err() {
                    return (applied, false);
                }
            }
            (applied, true)
        });
        let (applied, is_usable) = applied;
        if !is_usable {
            self.session = None;
        }
        let memory = applied?;
        if ending == Ending::Commit {
            self.memories.insert(batch.stream.clone(), memory);
        }
        Ok(())
    }
}

/// How new rows are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    Copied,
    /// As rows that may be there are.
    Replaced,
}

impl Sink for PostgresSink {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.try_apply(batch, Ending::Commit)
            .map_err(|error| error.at(&self.place))
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.try_apply(batch, Ending::TakeBack)
            .map_err(|error| error.at(&self.place))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        let place = self.place.clone();
        if let Err(error) = self.connect() {
            return Err(error.at(&place));
        }
        match (&self.runtime, &mut self.session) {
            (runtime, Some(session)) => {
                let opened = snapshot::PostgresSnapshot::open(runtime, session, place.clone());
                match opened {
                    Ok(snapshot) => Ok(Box::new(snapshot)),
                    Err(error) => Err(error.at(&place)),
                }
            }
            (_, None) => Err(SinkError::Transient {
                doing: "opening a snapshot".into(),
                cause: "there is no connection".into(),
            }
            .at(&place)),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), SinkError> {
        if let Some(session) = self.session.take() {
            self.runtime.block_on(session.close());
        }
        Ok(())
    }
}

/// Before there is a batch, no row can be refused: what the server doesn't take then is of the configuration.
fn of_no_row(error: SinkError) -> SinkError {
    match error {
        SinkError::Refused { doing, cause } => {
            permanent(doing, cause, "check the sink's configuration")
        }
        other => other,
    }
}

async fn probe(session: &mut Session) -> Result<Reached, SinkError> {
    let probing = || "looking at the server".to_owned();
    let row = session
        .client
        .query_one(
            "SELECT pg_catalog.version(), current_user::text, current_database()::text, n.oid IS NOT NULL,
                 coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
                 has_database_privilege(current_database(), 'CREATE')
             FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = $1",
            &[&session.schema],
        )
        .await
        .doing(probing)?;
    let (user, database): (String, String) = (row.get(1), row.get(2));
    let [there, usage, create, create_schema]: [bool; 4] =
        [row.get(3), row.get(4), row.get(5), row.get(6)];
    let [user, database] = [user, database].map(|name| crate::sql::quoted(&name));
    let schema = crate::sql::quoted(&session.schema);
    let mut missing = Vec::new();
    let makes = session.ddl == Ddl::Manage;
    if !there && !create_schema && makes {
        missing.push((
            format!(
                "there is no schema {}, and the user may not make one",
                session.schema
            ),
            format!("CREATE SCHEMA {schema} AUTHORIZATION {user}; -- in database {database}"),
        ));
    }
    if there && !(usage && (create || !makes)) {
        missing.push((
            format!("the user may not make tables in schema {}", session.schema),
            format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {user};"),
        ));
    }
    let has_tables = there && usage && schema::version(session).await?.is_some();
    if has_tables {
        let mut tables = vec!["position", "files", "trees", "residue"];
        if session.version >= schema::VERSION_WITH_SHAPES {
            tables.push("histories");
        }
        for table in tables {
            let table = session.name(&format!("counterfoil_{table}"));
            let may = session
                .client
                .query_one(
                    "SELECT bool_and(has_table_privilege($1, p)) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p",
                    &[&table],
                )
                .await
                .doing(probing)?;
            if !may.get::<_, bool>(0) {
                missing.push((
                    format!("the user may not change {table}, which another user made"),
                    format!("ALTER TABLE {table} OWNER TO {user}; -- and likewise every other table in the schema"),
                ));
            }
        }
    }
    Ok(Reached {
        version: row.get(0),
        schema: session.schema.clone(),
        has_tables,
        missing,
    })
}
