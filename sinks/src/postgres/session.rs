//! A connection, set up, with the statements that were prepared on it.

use super::error::Doing;
use super::schema::SCHEMA_VERSION;
use super::settings::{PostgresConfig, Settings};
use super::tls;
use crate::SinkError;
use crate::plan::Ddl;
use crate::sql::{permanent, quoted};
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};

/// So many statements are kept prepared; when there are more, all are let go.
const STATEMENTS_MAX: usize = 400;

/// How long a farewell may take.
const CLOSE: Duration = Duration::from_secs(5);

/// Parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection.
pub(super) struct Session {
    pub(super) client: Client,
    driver: JoinHandle<()>,
    pub(super) statements: Statements,
    /// The schema with all tables.
    pub(super) schema: String,
    /// What may be done to its structure.
    pub(super) ddl: Ddl,
    /// The version of Counterfoil's tables, once that is known.
    pub(super) version: i32,
    /// Rows aren't copied, as there may be some in the way.
    pub(super) is_careful: bool,
    /// There was one in the way of a `COPY`.
    pub(super) has_collided: bool,
}

/// Statements that were prepared on a connection, by their text.
#[derive(Default)]
pub(super) struct Statements(HashMap<String, Statement>);

impl Statements {
    /// A statement, prepared once.
    pub(super) async fn get(
        &mut self,
        client: &Client,
        sql: &str,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.0.get(sql) {
            return Ok(statement.clone());
        }
        if self.0.len() >= STATEMENTS_MAX {
            self.0.clear();
        }
        let statement = client.prepare(sql).await?;
        self.0.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Session {
    /// Connects, and sets the session up.
    pub(super) async fn connect(config: &PostgresConfig) -> Result<Session, SinkError> {
        let settings = config.settings()?;
        let connecting = || "connecting".to_owned();
        let connected = tokio::time::timeout(settings.connect_timeout, connect(&settings)).await;
        let (client, driver) = connected.map_err(|_| SinkError::Transient {
            doing: connecting(),
            cause: format!(
                "no answer within {} ms",
                settings.connect_timeout.as_millis()
            ),
        })??;
        let mut session = Session {
            client,
            driver,
            statements: Statements::default(),
            schema: String::new(),
            ddl: config.ddl,
            version: SCHEMA_VERSION,
            is_careful: false,
            has_collided: false,
        };
        session.set_up(config).await?;
        Ok(session)
    }

    async fn set_up(&mut self, config: &PostgresConfig) -> Result<(), SinkError> {
        let setting_up = || "setting the connection up".to_owned();
        let row = self
            .client
            .query_one(
                "SELECT coalesce($1::text, current_schema()::text), current_setting('server_encoding'),
                     set_config('lock_timeout', $2, false), set_config('statement_timeout', $3, false),
                     set_config('synchronous_commit',
                         CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                             ELSE current_setting('synchronous_commit') END, false)",
                &[
                    &config.schema,
                    &config.lock_timeout_ms.to_string(),
                    &config.statement_timeout_ms.to_string(),
                ],
            )
            .await
            .doing(setting_up)?;
        let schema: Option<String> = row.try_get(0).doing(setting_up)?;
        let encoding: String = row.try_get(1).doing(setting_up)?;
        self.schema = schema.ok_or_else(|| {
            permanent(
                setting_up(),
                "the user's search path leads to no schema",
                "name one in `schema`",
            )
        })?;
        if encoding != "UTF8" {
            return Err(permanent(
                setting_up(),
                format!("the database is in {encoding}, which doesn't hold every path and name"),
                "make a database with ENCODING 'UTF8' (from template0) and configure that",
            ));
        }
        // From here on no name means something because of where it is looked for, and no time because of where it is read: a
        // table that others made may have a column with a time zone.
        self.client
            .batch_execute(
                "SET search_path = ''; SET client_min_messages = warning; SET TimeZone = 'UTC'",
            )
            .await
            .doing(setting_up)
    }

    /// A table's or view's name with its schema, quoted.
    pub(super) fn name(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(table))
    }

    /// What stands before the name of a table or view.
    pub(super) fn name_prefix(&self) -> String {
        format!("{}.", quoted(&self.schema))
    }

    /// Whether new rows may be copied. A binary `COPY` takes bytes for what its columns are, so somebody has to have looked
    /// that they are what is sent.
    pub(super) fn may_copy(&self) -> bool {
        !self.is_careful && self.ddl != Ddl::None
    }

    /// Whether it is known to be broken.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Forgets the statements: after an error, a table may be another one than when they were prepared.
    pub(super) fn forget(&mut self) {
        self.statements = Statements::default();
    }

    /// A statement, prepared once.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.statements.get(&self.client, sql).await
    }

    /// Runs a statement that gives rows, prepared once.
    pub(super) async fn query(
        &mut self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.client.query(&statement, parameters).await
    }

    /// Runs a statement that gives none, prepared once. Returns how many rows it touched.
    pub(super) async fn execute(
        &mut self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<u64, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.client.execute(&statement, parameters).await
    }

    /// Runs statements without parameters, which aren't worth preparing.
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(sql).await
    }

    /// Says farewell to the server.
    pub(super) async fn close(self) {
        drop(self.client);
        drop(self.statements);
        // The server would find out by itself, some time.
        let _ = tokio::time::timeout(CLOSE, self.driver).await;
    }
}

async fn connect(settings: &Settings) -> Result<(Client, JoinHandle<()>), SinkError> {
    let connecting = || "connecting".to_owned();
    // Errors of the connection are told to whoever waits for an answer through it.
    match tls::connector(settings.sslmode, settings.ca_file.as_deref())? {
        None => {
            let (client, connection) = settings.config.connect(NoTls).await.doing(connecting)?;
            let driver = tokio::spawn(async move {
                let _ = connection.await;
            });
            Ok((client, driver))
        }
        Some(tls) => {
            let (client, connection) = settings.config.connect(tls).await.doing(connecting)?;
            let driver = tokio::spawn(async move {
                let _ = connection.await;
            });
            Ok((client, driver))
        }
    }
}
