//! A connection: how it is made, what is set in it, and what is run through it.

use super::config::{MysqlConfig, Tls};
use super::error::Doing;
use crate::SinkError;
use crate::sql::permanent;
use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, Error, IoError, OptsBuilder, Params, Row, SslOpts};
use std::future::Future;
use std::io;
use std::time::Duration;

/// Statements that the server keeps prepared for a connection: one per table and kind of change.
const STATEMENTS_MAX: usize = 256;

/// A reader of rows may take its time with them: restore writes files meanwhile.
const WRITE_TIMEOUT_S: u64 = 600;

/// How often a silent connection is looked after, so that a dead server is noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a packet has beside a record: the statement's header, and the other values.
pub(super) const PACKET_REST_BYTES: usize = 1 << 10;

/// A connection. After an error that makes it useless it says so.
pub(super) struct Session {
    conn: Conn,
    statement_timeout: Option<Duration>,
    is_broken: bool,
    /// The server's number for the connection.
    pub(super) id: u32,
    /// Bytes that a packet, and so a record, may have.
    pub(super) packet_bytes_max: usize,
    /// Whether `LOAD DATA LOCAL` may be tried.
    pub(super) may_load: bool,
}

impl Session {
    /// Connects, and sets all that must not depend on the server's configuration.
    pub(super) async fn open(config: &MysqlConfig) -> Result<Session, SinkError> {
        let connecting = || "connecting".to_owned();
        let opts = options(config)?;
        let limit = Duration::from_millis(config.connect_timeout_ms);
        let conn = within(Some(limit), "connect_timeout_ms", Conn::new(opts))
            .await
            .doing(connecting)?;
        let mut session = Session {
            id: conn.id(),
            conn,
            statement_timeout: (config.statement_timeout_ms > 0)
                .then(|| Duration::from_millis(config.statement_timeout_ms)),
            is_broken: false,
            packet_bytes_max: 0,
            may_load: false,
        };
        let lock_wait_s = config.lock_wait_timeout_s.max(1);
        session
            .text(&format!(
                "SET NAMES utf8mb4 COLLATE utf8mb4_bin, \
                 SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION', \
                 SESSION time_zone = '+00:00', SESSION autocommit = 1, SESSION unique_checks = 1, \
                 SESSION sql_safe_updates = 0, SESSION sql_select_limit = 18446744073709551615, \
                 SESSION innodb_lock_wait_timeout = {lock_wait_s}, SESSION lock_wait_timeout = {lock_wait_s}, \
                 SESSION net_write_timeout = {WRITE_TIMEOUT_S}"
            ))
            .await
            .doing(connecting)?;
        // A statement sees what is committed when it begins. Whatever else could change what a batch relies on is
        // locked: the stream's position, and the structure.
        session
            .text("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .await
            .doing(connecting)?;
        let row = session
            .first("SELECT @@max_allowed_packet, @@local_infile", ())
            .await
            .doing(connecting)?;
        if let Some(row) = row {
            session.packet_bytes_max =
                usize::try_from(column::<u64>(&row, 0).doing(connecting)?).unwrap_or(usize::MAX);
            session.may_load =
                config.load_data && column::<u64>(&row, 1).doing(connecting).unwrap_or(0) != 0;
        }
        Ok(session)
    }

    /// The server's version, in its own words.
    pub(super) async fn version(&mut self) -> Result<String, SinkError> {
        let asking = || "asking for the server's version".to_owned();
        match self.first("SELECT VERSION()", ()).await.doing(asking)? {
            Some(row) => column(&row, 0).doing(asking),
            None => Ok(String::new()),
        }
    }

    /// Whether nothing can be run any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Runs a statement that isn't prepared: definitions, `BEGIN`, `COMMIT`.
    pub(super) async fn text(&mut self, sql: &str) -> Result<(), Error> {
        let limit = self.statement_timeout;
        let done = within(limit, "statement_timeout_ms", self.conn.query_drop(sql)).await;
        self.noted(done)
    }

    /// Runs a statement that stays prepared. Returns the number of rows that it found.
    pub(super) async fn run(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
    ) -> Result<u64, Error> {
        let limit = self.statement_timeout;
        let done = within(
            limit,
            "statement_timeout_ms",
            self.conn.exec_drop(sql, params.into()),
        )
        .await;
        self.noted(done)?;
        Ok(self.conn.affected_rows())
    }

    /// The number that the last `INSERT` made.
    pub(super) fn inserted_id(&self) -> u64 {
        self.conn.last_insert_id().unwrap_or_default()
    }

    /// All rows of a query whose result is known to be small, or has to be held anyway.
    pub(super) async fn rows(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
    ) -> Result<Vec<Row>, Error> {
        let limit = self.statement_timeout;
        let done = within(
            limit,
            "statement_timeout_ms",
            self.conn.exec::<Row, _, _>(sql, params.into()),
        )
        .await;
        self.noted(done)
    }

    /// The first row of a query that has one at most.
    pub(super) async fn first(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
    ) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Calls `each` for every row of a query, none of which is held. Rows that `each` no longer wants (once it has
    /// returned `false`) are read and dropped, so let the query have a limit.
    pub(super) async fn walk<E>(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
        mut each: impl FnMut(Row) -> Result<bool, E>,
    ) -> Result<Result<bool, E>, Error> {
        let limit = self.statement_timeout;
        let walked = async {
            let mut result = self.conn.exec_iter(sql, params.into()).await?;
            let mut outcome = Ok(true);
            while let Some(row) = within(limit, "statement_timeout_ms", result.next()).await? {
                outcome = each(row);
                if !matches!(outcome, Ok(true)) {
                    break;
                }
            }
            result.drop_result().await?;
            Ok(outcome)
        }
        .await;
        self.noted(walked)
    }

    /// Runs a `LOAD DATA LOCAL` statement with these chunks as the file. Returns the number of rows loaded, and the
    /// server's first complaint if it has one (its number and text): it doesn't stop for one.
    pub(super) async fn load(
        &mut self,
        sql: &str,
        chunks: Vec<bytes::Bytes>,
    ) -> Result<(u64, Option<(u16, String)>), Error> {
        use futures_util::stream::{StreamExt as _, iter};
        self.conn
            .set_infile_handler(async move { Ok(iter(chunks.into_iter().map(Ok)).boxed()) });
        self.text(sql).await?;
        let loaded = self.conn.affected_rows();
        if self.conn.get_warnings() == 0 {
            return Ok((loaded, None));
        }
        let limit = self.statement_timeout;
        let rows = within(
            limit,
            "statement_timeout_ms",
            self.conn.query::<Row, _>("SHOW WARNINGS LIMIT 1"),
        )
        .await;
        let complaint = match self.noted(rows)?.first() {
            Some(row) => (column(row, 1)?, column(row, 2)?),
            None => (
                0,
                "the server has a warning that it doesn't show".to_owned(),
            ),
        };
        Ok((loaded, Some(complaint)))
    }

    /// Refuses what doesn't fit into a packet.
    pub(super) fn check_size(
        &self,
        bytes: usize,
        doing: impl Fn() -> String,
    ) -> Result<(), SinkError> {
        if bytes <= self.packet_bytes_max.saturating_sub(PACKET_REST_BYTES) {
            return Ok(());
        }
        Err(permanent(
            doing(),
            format!(
                "it has {bytes} bytes, and the server takes packets of {} bytes (max_allowed_packet)",
                self.packet_bytes_max
            ),
            "raise max_allowed_packet in the server's configuration, or leave the file out of this sink",
        ))
    }

    /// Says good-bye.
    pub(super) async fn close(self) -> Result<(), Error> {
        if self.is_broken {
            return Ok(());
        }
        within(
            self.statement_timeout,
            "statement_timeout_ms",
            self.conn.disconnect(),
        )
        .await
    }

    fn noted<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        // A server that goes says so in an error first: nothing comes after it.
        self.is_broken |= result.as_ref().is_err_and(|error| {
            error.is_fatal() || super::error::is_code(error, &[1053, 1079, 1927, 4031])
        });
        result
    }
}

/// A value of a row, or an error where it is none of that type: somebody may have changed a column.
pub(super) fn column<T: FromValue>(row: &Row, index: usize) -> Result<T, Error> {
    match row.get_opt::<T, usize>(index) {
        Some(Ok(value)) => Ok(value),
        _ => Err(Error::Driver(mysql_async::DriverError::FromRow {
            row: row.clone(),
        })),
    }
}

async fn within<T>(
    limit: Option<Duration>,
    setting: &str,
    doing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(limit) = limit else {
        return doing.await;
    };
    tokio::time::timeout(limit, doing)
        .await
        .unwrap_or_else(|_| {
            Err(Error::Io(IoError::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} ms ({setting})", limit.as_millis()),
            ))))
        })
}

fn options(config: &MysqlConfig) -> Result<OptsBuilder, SinkError> {
    let target = config
        .target()
        .map_err(|cause| permanent("reading `url`", cause, "correct it"))?;
    let mut options = OptsBuilder::default()
        .user(Some(target.user))
        .pass(password(config)?)
        .db_name(Some(target.database))
        .prefer_socket(Some(false))
        .tcp_keepalive(Some(KEEPALIVE))
        .stmt_cache_size(Some(STATEMENTS_MAX))
        // What an update found counts, be it changed or not.
        .client_found_rows(true);
    if let Some(socket) = &config.socket {
        let socket = socket.to_str().ok_or_else(|| {
            permanent(
                "connecting",
                format!("the path of the socket, {socket:?}, isn't text"),
                "configure another socket",
            )
        })?;
        return Ok(options.socket(Some(socket)));
    }
    options = options.ip_or_hostname(target.host).tcp_port(target.port);
    if config.tls == Tls::Off {
        return Ok(options);
    }
    let mut tls = SslOpts::default();
    if let Some(file) = &config.ca_file {
        tls = tls
            .with_root_certs(vec![file.clone().into()])
            .with_disable_built_in_roots(true);
    }
    if config.tls == Tls::Unverified {
        tls = tls
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true);
    }
    Ok(options.ssl_opts(Some(tls)))
}

/// Read each time a connection is made, so that a changed password is taken up without a restart.
fn password(config: &MysqlConfig) -> Result<Option<String>, SinkError> {
    let Some(file) = &config.password_file else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        permanent(
            format!("reading the password from {}", file.display()),
            error.to_string(),
            "let the user that runs Counterfoil read that file, which holds nothing but the password",
        )
    })?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
