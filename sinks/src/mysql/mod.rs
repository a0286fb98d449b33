//! The MySQL sink: a database of a MySQL or MariaDB server.
//!
//! Each mirrored file has a table with its rows, named by a number, and a view of it, named for the
//! file. Beside them are tables of Counterfoil's own: the position of each stream, the catalogue of
//! files, and the residue (on-disk bytes that are no record). `docs/mysql.md` shows them as people see
//! them, `docs/decisions/0027` says why they are so.
//!
//! # Promises
//! - A batch is one transaction, with its position in it. After any error nothing of it is visible;
//!   where the connection breaks at the commit, it is found out whether the batch was applied.
//! - A record replaces the row with its identity and never another one, whatever indexes the table has.
//! - Readers never wait for the writer nor it for them. A snapshot that is held for long keeps tables
//!   of files that are gone from being dropped meanwhile.
//! - A view shows its file as soon as the batch that changes the file's name is applied and its
//!   definition is made anew: a moment later, or, after a crash in between, with the next start.
//! - Nothing that comes from a file's name or a record is put into SQL unquoted, or shown in an error.
//!
//! # Limits
//! - A record has to fit into one packet of the server (`max_allowed_packet`).
//! - Memory is bounded by the batch, twice, and what is known of up to 20 000 files per stream.

mod apply;
mod catalogue;
mod columns;
mod config;
mod entry;
mod error;
mod evolve;
mod history;
#[cfg(test)]
mod plan_tests;
mod policy;
mod rows;
mod schema;
mod session;
mod snapshot;
mod structure;
#[cfg(test)]
mod tests;

pub use config::{MysqlConfig, Tls};
pub use policy::schema_sql;
pub use schema::SCHEMA_VERSION;

use crate::plan::Ddl;
use crate::sql::{now_ns, permanent};
use crate::{Batch, Sink, SinkError, Snapshot};
use apply::{Lock, applying};
use catalogue::{Known, Work};
use counterfoil_proto::Position;
use entry::{SELECT_ENTRIES, SELECT_FIRST_ENTRIES};
use error::{Doing, transient};
use session::{Session, column};
use snapshot::MysqlSnapshot;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use structure::{Left, Structure};
use tokio::runtime::Runtime;

/// How often dropping tables, and making views that couldn't be made, is tried again.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);

/// A database of a server as a target.
pub struct MysqlSink {
    place: String,
    runtime: Runtime,
    target: Target,
}

/// What [`MysqlSink::probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The server's version, in its own words.
    pub version: String,
    /// Whether something has been mirrored into the database.
    pub has_tables: bool,
    /// Whether `LOAD DATA LOCAL` is allowed.
    pub loads: bool,
    /// The largest record that the server takes, in bytes, about.
    pub packet_bytes_max: usize,
}

/// What happens within the runtime.
struct Target {
    config: MysqlConfig,
    access: Access,
    /// Whether the tables were looked at.
    is_prepared: bool,
    /// How the catalogue is read.
    select_entries: &'static str,
    /// `None` after it was lost: the next call connects anew.
    session: Option<Session>,
    known: HashMap<String, Known>,
    /// A connection that was lost, by the server's number. Its transaction may be open still.
    left_behind: Option<u32>,
    /// A batch that was being committed when the connection was lost.
    in_doubt: Option<(String, Position)>,
    /// When to look again after views and tables, if there is something left to do.
    upkeep: Option<Instant>,
}

/// What a batch that isn't committed yet has: its transaction, what is known within it, and the structure it took.
type Written = (Session, Known, Option<Structure>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    ReadOnly,
}

impl MysqlSink {
    /// Opens the database to apply batches to it, and makes the tables where there are none. The
    /// database itself has to be there.
    ///
    /// # Errors
    /// [`SinkError::Transient`] when the server isn't there, among others.
    pub fn open(config: &MysqlConfig) -> Result<Self, SinkError> {
        Self::with_access(config, Access::Write)
    }

    /// Opens the database to read it while a writer goes on. Nothing is made or changed, so the right
    /// to `SELECT` will do; [`Sink::apply`] is refused.
    ///
    /// # Errors
    /// As above.
    pub fn open_read_only(config: &MysqlConfig) -> Result<Self, SinkError> {
        Self::with_access(config, Access::ReadOnly)
    }

    /// A sink for applying that connects when it is first used, for a server that can't be reached yet.
    ///
    /// # Errors
    /// When the operating system doesn't give what connecting takes.
    pub fn open_later(config: &MysqlConfig) -> Result<Self, SinkError> {
        Self::unconnected(config, Access::Write)
    }

    /// Connects, and says what is there. Makes and changes nothing.
    ///
    /// # Errors
    /// As [`MysqlSink::open_read_only`], but for tables that aren't there.
    pub fn probe(config: &MysqlConfig) -> Result<Reached, SinkError> {
        let mut sink = Self::unconnected(config, Access::ReadOnly)?;
        let reached = sink.runtime.block_on(async {
            let mut session = Session::open(&sink.target.config).await?;
            let reached = Reached {
                version: session.version().await?,
                has_tables: schema::check(&mut session).await?.is_some(),
                loads: session.may_load,
                packet_bytes_max: session.packet_bytes_max,
            };
            sink.target.session = Some(session);
            Ok(reached)
        });
        reached.map_err(|error: SinkError| error.at(&sink.place))
    }

    fn with_access(config: &MysqlConfig, access: Access) -> Result<Self, SinkError> {
        let mut sink = Self::unconnected(config, access)?;
        match sink.runtime.block_on(sink.target.begin()) {
            Ok(()) => Ok(sink),
            Err(error) => Err(error.at(&sink.place)),
        }
    }

    fn unconnected(config: &MysqlConfig, access: Access) -> Result<Self, SinkError> {
        let place = format!("in {}", config.place());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| transient("starting", error.to_string()).at(&place))?;
        Ok(MysqlSink {
            place,
            runtime,
            target: Target {
                config: config.clone(),
                access,
                is_prepared: false,
                select_entries: SELECT_ENTRIES,
                session: None,
                known: HashMap::new(),
                left_behind: None,
                in_doubt: None,
                upkeep: None,
            },
        })
    }
}

impl Drop for MysqlSink {
    fn drop(&mut self) {
        // A connection says good-bye within a runtime only.
        let _within = self.runtime.enter();
        self.target.session = None;
    }
}

impl Sink for MysqlSink {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.runtime
            .block_on(self.target.apply(batch))
            .map_err(|error| error.at(&self.place))
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.runtime
            .block_on(self.target.rehearse(batch))
            .map_err(|error| error.at(&self.place))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        let MysqlSink {
            place,
            runtime,
            target,
        } = self;
        match runtime.block_on(target.begun(true)) {
            Ok(session) => {
                let session = target.session.insert(session);
                let select_entries = target.select_entries;
                Ok(Box::new(MysqlSnapshot::new(
                    runtime,
                    session,
                    select_entries,
                    place,
                )))
            }
            Err(error) => Err(error.at(place)),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), SinkError> {
        match self.target.session.take() {
            Some(session) => self
                .runtime
                .block_on(session.close())
                .doing(|| "closing".into())
                .map_err(|error| error.at(&self.place)),
            None => Ok(()),
        }
    }
}

impl Target {
    /// Connects for the first time.
    async fn begin(&mut self) -> Result<(), SinkError> {
        let session = self.connected().await?;
        self.session = Some(session);
        self.keep_up().await;
        Ok(())
    }

    /// The connection, for the time of a call: after an error it is put back only if it is of use.
    async fn connected(&mut self) -> Result<Session, SinkError> {
        if let Some(session) = self.session.take()
            && !session.is_broken()
        {
            return Ok(session);
        }
        let mut session = Session::open(&self.config).await?;
        if let Some(id) = self.left_behind {
            end_connection(&mut session, id).await?;
            self.left_behind = None;
        }
        if !self.is_prepared {
            self.prepare(&mut session).await?;
            self.is_prepared = true;
        }
        Ok(session)
    }

    async fn prepare(&mut self, session: &mut Session) -> Result<(), SinkError> {
        if self.access == Access::ReadOnly {
            if schema::require(session).await? == 1 {
                self.select_entries = SELECT_FIRST_ENTRIES;
            }
            return Ok(());
        }
        match self.config.ddl {
            Ddl::Manage => {
                schema::prepare(session).await?;
                if structure::is_pending(session).await? {
                    self.upkeep = Some(Instant::now());
                }
                Ok(())
            }
            Ddl::Check => policy::check_own(session).await,
            Ddl::None => Ok(()),
        }
    }

    /// A connection in a transaction. One that the server has closed meanwhile, as it does with those who are silent for
    /// long, is no failure.
    async fn begun(&mut self, reading: bool) -> Result<Session, SinkError> {
        let mut may_be_closed = self.session.is_some();
        loop {
            let mut session = self.connected().await?;
            let begun = if reading {
                snapshot::begin(&mut session).await
            } else {
                let begun = session.text("BEGIN").await;
                begun.doing(|| "beginning a transaction".into())
            };
            match begun {
                Ok(()) => return Ok(session),
                Err(_) if session.is_broken() && may_be_closed => may_be_closed = false,
                Err(error) => {
                    self.abandon(session).await;
                    return Err(error);
                }
            }
        }
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let (mut session, known, structure) = match self.written(batch).await {
            Ok(written) => written,
            Err((error, structure)) => {
                if let Some(structure) = structure {
                    structure.abandon().await;
                }
                let SinkError::NotAfter { stored, .. } = &error else {
                    return Err(error);
                };
                let doubted = self.in_doubt.take();
                let was_applied = *stored == Some(batch.position)
                    && doubted == Some((batch.stream.clone(), batch.position));
                return if was_applied { Ok(()) } else { Err(error) };
            }
        };
        self.in_doubt = None;
        let committed = match session.text("COMMIT").await {
            Ok(()) => {
                self.session = Some(session);
                self.known.insert(batch.stream.clone(), known);
                Ok(())
            }
            Err(error) => {
                let is_lost = session.is_broken();
                self.abandon(session).await;
                if is_lost {
                    self.in_doubt = Some((batch.stream.clone(), batch.position));
                    self.find_out(batch, &error).await
                } else {
                    Err(error).doing(|| applying(batch))
                }
            }
        };
        if let Err(error) = committed {
            if let Some(structure) = structure {
                structure.abandon().await;
            }
            return Err(error);
        }
        if let Some(structure) = structure {
            self.settle(structure).await;
        } else {
            self.keep_up().await;
        }
        Ok(())
    }

    /// Applies a batch, and takes it back, with all that was made for it.
    async fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let (outcome, structure) = match self.written(batch).await {
            Ok((session, _, structure)) => {
                self.abandon(session).await;
                (Ok(()), structure)
            }
            Err((error, structure)) => (Err(error), structure),
        };
        if let Some(structure) = structure {
            // What can't be dropped is spare, and the stream's next batch takes it.
            if let Err(error) = structure.take_back().await {
                tracing::warn!("{error}; the next batch makes use of them");
            }
        }
        outcome
    }

    /// Does all of a batch in a transaction that isn't committed yet. After an error nothing of it stays.
    async fn written(&mut self, batch: &Batch) -> Result<Written, (SinkError, Option<Structure>)> {
        if self.access == Access::ReadOnly {
            let error = permanent(
                "applying a batch",
                "the database was opened for reading only",
                "apply through a sink that was opened for writing",
            );
            return Err((error, None));
        }
        let mut session = self.begun(false).await.map_err(|error| (error, None))?;
        let mut known = self.known.remove(&batch.stream).unwrap_or_default();
        let mut structure = None;
        let mut work = Work {
            session: &mut session,
            known: &mut known,
            structure: &mut structure,
            config: &self.config,
            stream: &batch.stream,
            position: batch.position,
            now_ns: now_ns(),
        };
        match apply::apply(&mut work, batch).await {
            Ok(()) => Ok((session, known, structure)),
            Err(error) => {
                self.abandon(session).await;
                Err((error, structure))
            }
        }
    }

    /// Nothing of the transaction stays.
    async fn abandon(&mut self, mut session: Session) {
        if !session.is_broken() && session.text("ROLLBACK").await.is_ok() {
            self.session = Some(session);
        } else {
            self.left_behind = Some(session.id);
        }
    }

    /// The connection was lost while a batch was being committed. Whether it was: the stored position says so, once the
    /// server has done with the connection that is lost.
    async fn find_out(
        &mut self,
        batch: &Batch,
        lost: &mysql_async::Error,
    ) -> Result<(), SinkError> {
        if batch.is_amendment() {
            // It leaves the position where it was, which tells nothing then. Done twice it does no harm.
            self.in_doubt = None;
            return Err(transient(
                applying(batch),
                format!(
                    "the connection was lost at the commit, and whether it was done isn't known: {lost}"
                ),
            ));
        }
        let unknown = |why: String| {
            transient(
                applying(batch),
                format!(
                    "the connection was lost at the commit ({lost}), and it isn't known yet whether it was done: {why}"
                ),
            )
        };
        let mut session = self
            .begun(false)
            .await
            .map_err(|error| unknown(error.to_string()))?;
        let stored = apply::position(&mut session, &batch.stream, Lock::Row).await;
        self.abandon(session).await;
        let stored = stored.map_err(|error| unknown(error.to_string()))?;
        self.in_doubt = None;
        if stored == Some(batch.position) {
            tracing::info!(
                "the connection was lost at the commit of a batch up to {} of {}; it was applied",
                batch.position,
                batch.stream
            );
            return Ok(());
        }
        Err(transient(
            applying(batch),
            format!("the connection was lost at the commit, and nothing was applied: {lost}"),
        ))
    }

    /// Makes views and drops tables if that is due.
    async fn keep_up(&mut self) {
        if self.upkeep.is_none_or(|at| at > Instant::now()) {
            return;
        }
        match Structure::open(&self.config).await {
            Ok(structure) => self.settle(structure).await,
            Err(error) => self.not_settled(&error),
        }
    }

    /// What comes after a batch, which is applied whatever becomes of this.
    async fn settle(&mut self, structure: Structure) {
        match structure.settle().await {
            Ok(Left::Nothing) => self.upkeep = None,
            Ok(Left::Something) => self.upkeep = Some(Instant::now() + UPKEEP_INTERVAL),
            Err(error) => self.not_settled(&error),
        }
    }

    fn not_settled(&mut self, error: &SinkError) {
        tracing::warn!(
            "{error}; rows are up to date, but not all views are, or tables of files that are gone stay for now"
        );
        self.upkeep = Some(Instant::now() + UPKEEP_INTERVAL);
    }
}

/// Ends a connection of ours that was lost: the server may not have noticed, and keeps its transaction, with its locks.
async fn end_connection(session: &mut Session, id: u32) -> Result<(), SinkError> {
    let ending = || "ending a connection that was lost".to_owned();
    // After a restart of the server the number may be somebody else's, or this connection's: never end those.
    let found = session
        .first(
            "SELECT COUNT(*) FROM information_schema.processlist
             WHERE id = ? AND id <> CONNECTION_ID() AND user = SUBSTRING_INDEX(USER(), '@', 1) AND db = DATABASE()",
            (id,),
        )
        .await
        .doing(ending)?;
    let is_there = match found {
        Some(row) => column::<u64>(&row, 0).doing(ending)? > 0,
        None => false,
    };
    if is_there {
        match session.text(&format!("KILL {id}")).await {
            // No such connection: it is gone by itself.
            Err(error) if !error::is_code(&error, &[1094]) => return Err(error).doing(ending),
            _ => {}
        }
    }
    Ok(())
}
