//! The ODBC sink: whatever has an ODBC driver, and no sink of its own.
//!
//! Each mirrored file has a table with its rows, named by a number, and a view of it, named for the
//! file. Beside them are tables of Counterfoil's own: the position of each stream, the catalogue of
//! files, and the residue (on-disk bytes that are no record). `docs/odbc.md` shows them as people see
//! them, `docs/decisions/0028` says why they are so.
//!
//! # Promises
//! - A batch is one transaction, with its position in it, and has no statement in it that makes or drops
//!   anything. After any error nothing of it is visible; where the connection breaks at the commit, it is
//!   found out whether the batch was applied.
//! - A record replaces the row with its identity and never another one, whatever indexes the table has.
//! - A view shows its file as soon as the batch that changes the file's name is applied and its
//!   definition is made anew: a moment later, or, after a crash in between, with the next start.
//! - Nothing that comes from a file's name or a record is put into SQL unquoted, or shown in an error.
//!
//! # Limits
//! - Identities, sizes and positions are below 2^63.
//! - Memory is bounded by the batch, 4 MiB of bound arrays, and what is known of up to 20 000 files per
//!   stream. How much of a page of rows that is read a driver holds is up to the driver.

mod apply;
mod arrays;
mod catalogue;
mod check;
mod columns;
mod config;
mod dialect;
mod entry;
mod error;
mod history;
mod rows;
mod schema;
mod session;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;

pub use config::OdbcConfig;
pub use dialect::Dialect;
pub use schema::SCHEMA_VERSION;

use crate::plan::Ddl;
use crate::sql::{now_ns, permanent};
use crate::{Batch, FileDescription, Sink, SinkError, Snapshot};
use apply::applying;
use arrays::Arrays;
use catalogue::{Known, Work};
use counterfoil_proto::Position;
use dialect::{Rows, Sql};
use error::{Doing, transient};
use history::Stamp;
use session::Session;
use snapshot::OdbcSnapshot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tables::{Left, Structure};

/// How often making views that couldn't be made is tried again.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How often a batch is begun again because tables had to be made for it.
const ROUNDS_MAX: u32 = 64;

/// A data source as a target.
pub struct OdbcSink {
    place: String,
    target: Target,
}

/// What [`OdbcSink::probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// What the driver calls the database.
    pub database: String,
    /// What is spoken to it.
    pub dialect: Dialect,
    /// Whether Counterfoil's own tests run that dialect against a real database.
    pub was_tried: bool,
    /// Whether something has been mirrored into it.
    pub has_tables: bool,
}

struct Target {
    config: OdbcConfig,
    access: Access,
    /// Whether the tables were looked at.
    is_prepared: bool,
    /// What the driver may be given; known once something is to be written.
    arrays: Arrays,
    /// `None` after it was lost: the next call connects anew.
    session: Option<Session>,
    known: HashMap<String, Known>,
    /// The numbers of tables that were found to be what they have to be; `None`: nobody looks.
    checked: Option<Arc<HashSet<i64>>>,
    /// A batch that was being committed when the connection was lost.
    in_doubt: Option<(String, Position)>,
    /// When to look again after views, if there is something left to do.
    upkeep: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    ReadOnly,
}

/// The statements that `ddl = "manage"` would run on an empty database for these files, but for the views, which are of
/// tables whose numbers are known once the files are mirrored. The database is asked what it is, unless `dialect` says so.
///
/// # Errors
/// The database can't be reached, or what is configured for a file can't be.
pub fn schema_sql(
    config: &OdbcConfig,
    files: &[FileDescription],
) -> Result<Vec<String>, SinkError> {
    let statements = || match config.dialect {
        Some(dialect) => {
            let sql = Sql::new(dialect, config.schema.clone(), None, None);
            tables::statements(&sql, files)
        }
        None => tables::statements(&Session::open(config)?.sql, files),
    };
    statements().map_err(|error| error.at(&place(config)))
}

impl OdbcSink {
    /// Connects to apply batches, and makes the tables where there are none. The database and the schema have to be there.
    ///
    /// # Errors
    /// [`SinkError::Transient`] when the database can't be reached, among others.
    pub fn open(config: &OdbcConfig) -> Result<Self, SinkError> {
        Self::with_access(config, Access::Write)
    }

    /// Connects to read while a writer goes on. Nothing is made or changed, so the right to `SELECT` will do;
    /// [`Sink::apply`] is refused.
    ///
    /// # Errors
    /// As above.
    pub fn open_read_only(config: &OdbcConfig) -> Result<Self, SinkError> {
        Self::with_access(config, Access::ReadOnly)
    }

    /// A sink for applying that connects when it is first used, for a database that can't be reached yet.
    pub fn open_later(config: &OdbcConfig) -> Self {
        Self::unconnected(config, Access::Write)
    }

    /// Connects, and says what is there. Makes and changes nothing.
    ///
    /// # Errors
    /// As [`OdbcSink::open_read_only`], but for tables that aren't there.
    pub fn probe(config: &OdbcConfig) -> Result<Reached, SinkError> {
        let probe = || {
            let mut session = Session::open(config)?;
            Ok(Reached {
                database: session
                    .database()
                    .doing(|| "asking what the database is".into())?,
                dialect: session.sql.dialect,
                was_tried: session.sql.dialect.was_tried(),
                has_tables: schema::check(&mut session)?.is_ok(),
            })
        };
        probe().map_err(|error: SinkError| error.at(&place(config)))
    }

    fn with_access(config: &OdbcConfig, access: Access) -> Result<Self, SinkError> {
        let mut sink = Self::unconnected(config, access);
        match sink.target.begin() {
            Ok(()) => Ok(sink),
            Err(error) => Err(error.at(&sink.place)),
        }
    }

    fn unconnected(config: &OdbcConfig, access: Access) -> Self {
        OdbcSink {
            place: place(config),
            target: Target {
                config: config.clone(),
                access,
                is_prepared: false,
                arrays: Arrays::Never,
                session: None,
                known: HashMap::new(),
                checked: (config.ddl == Ddl::Check).then(Arc::default),
                in_doubt: None,
                upkeep: None,
            },
        }
    }
}

fn place(config: &OdbcConfig) -> String {
    format!("in {}", config.place())
}

impl Sink for OdbcSink {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.target
            .apply(batch)
            .map_err(|error| error.at(&self.place))
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.target
            .rehearse(batch)
            .map_err(|error| error.at(&self.place))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        let OdbcSink { place, target } = self;
        match target.reading() {
            Ok(session) => {
                let session = target.session.insert(session);
                Ok(Box::new(OdbcSnapshot::new(session, place)))
            }
            Err(error) => Err(error.at(place)),
        }
    }

    fn close(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

impl Target {
    /// Connects for the first time.
    fn begin(&mut self) -> Result<(), SinkError> {
        let session = self.connected()?;
        self.session = Some(session);
        self.keep_up();
        Ok(())
    }

    /// The connection, for the time of a call: after an error it is put back only if it is of use.
    fn connected(&mut self) -> Result<Session, SinkError> {
        if let Some(session) = self.session.take()
            && !session.is_broken()
        {
            return Ok(session);
        }
        let mut session = Session::open(&self.config)?;
        session.arrays = self.arrays;
        if !self.is_prepared {
            self.prepare(&mut session)?;
            self.is_prepared = true;
        }
        Ok(session)
    }

    fn prepare(&mut self, session: &mut Session) -> Result<(), SinkError> {
        if self.access == Access::Write {
            match self.config.ddl {
                Ddl::Manage => schema::prepare(session)?,
                Ddl::Check => schema::require(session)?,
                Ddl::None => {}
            }
            self.arrays = arrays::try_arrays(session)?;
            if self.config.ddl == Ddl::Manage && tables::has_stale_views(session)? {
                self.upkeep = Some(Instant::now());
            }
            return Ok(());
        }
        match schema::check(session)? {
            Ok(_) => Ok(()),
            Err(fault) => Err(permanent(
                "opening",
                match fault {
                    Some(fault) => format!(
                        "there are none of Counterfoil's tables: {}",
                        fault.at("looking for them".into())
                    ),
                    None => "there are none of Counterfoil's tables".into(),
                },
                "check the connection and `schema`, and whether anything has been mirrored into this sink yet",
            )),
        }
    }

    /// A connection in a read transaction. One that the server has closed meanwhile, as some do with those who are silent
    /// for long, is no failure.
    fn reading(&mut self) -> Result<Session, SinkError> {
        let mut may_be_closed = self.session.is_some();
        loop {
            let mut session = self.connected()?;
            match snapshot::begin(&mut session) {
                Ok(()) => return Ok(session),
                Err(_) if may_be_closed => may_be_closed = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// A connection in a transaction that has the stream's position locked, and that position.
    fn writing(&mut self, stream: &str) -> Result<(Session, Option<Position>), SinkError> {
        let mut may_be_closed = self.session.is_some();
        loop {
            let mut session = self.connected()?;
            match apply::locked_position(&mut session, stream) {
                Ok(stored) => return Ok((session, stored)),
                Err(_) if may_be_closed && session.is_broken() => may_be_closed = false,
                Err(error) => return Err(error),
            }
        }
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let (mut session, known, structure) = match self.written(batch) {
            Ok(written) => written,
            Err(error) => return self.refused(batch, error),
        };
        self.in_doubt = None;
        if let Err(fault) = session.commit() {
            // What the driver makes of it may be anything; the connection isn't used again.
            drop(session);
            self.in_doubt = Some((batch.stream.clone(), batch.position));
            return self.find_out(batch, &fault.at(applying(batch)));
        }
        self.session = Some(session);
        self.known.insert(batch.stream.clone(), known);
        if structure.has_stale_views && self.config.ddl == Ddl::Manage {
            self.upkeep = Some(Instant::now());
        }
        self.keep_up();
        Ok(())
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let (mut session, ..) = self.written(batch)?;
        session.rollback();
        self.session = Some(session);
        Ok(())
    }

    /// Does all of a batch in a transaction that isn't committed yet. After an error nothing of it stays, but tables that
    /// were made for it: they are nobody's, and are taken by what comes next.
    fn written(&mut self, batch: &Batch) -> Result<(Session, Known, Structure), SinkError> {
        if self.access == Access::ReadOnly {
            return Err(permanent(
                "applying a batch",
                "the database was opened for reading only",
                "apply through a sink that was opened for writing",
            ));
        }
        let mut missing = HashSet::new();
        let mut is_checked_again = false;
        for _ in 0..ROUNDS_MAX {
            let (mut session, stored) = self.writing(&batch.stream)?;
            let mut known = self.known.remove(&batch.stream).unwrap_or_default();
            let mut structure = Structure::new(&missing, self.checked.clone());
            let mut work = Work {
                session: &mut session,
                known: &mut known,
                structure: &mut structure,
                stream: &batch.stream,
                now_ns: now_ns(),
                end: Stamp::of(batch.position, batch.captured_ns)?,
            };
            let Err(error) = apply::apply(&mut work, batch, stored) else {
                return Ok((session, known, structure));
            };
            session.rollback();
            self.arrays = session.arrays;
            if let Some(number) = structure.suspect
                && !session.is_broken()
            {
                let table = session.sql.rows_table(number);
                if !schema::is_there(&mut session, &table)? && missing.insert(number) {
                    self.session = Some(session);
                    continue;
                }
            }
            if !structure.unchecked.is_empty() {
                let checked = self.check(&mut session, &structure.unchecked);
                if !session.is_broken() {
                    self.session = Some(session);
                }
                checked?;
                continue;
            }
            if structure.lacking.is_empty() {
                // Somebody may have changed a table since it was checked, and then it isn't the rows that are wrong.
                if let Some(checked) = &mut self.checked
                    && !checked.is_empty()
                    && !is_checked_again
                    && !matches!(error, SinkError::NotAfter { .. })
                {
                    *checked = Arc::default();
                    if !error.is_transient() {
                        is_checked_again = true;
                        continue;
                    }
                }
                // What the database refused may have left the connection in any state.
                if matches!(error, SinkError::NotAfter { .. }) {
                    self.session = Some(session);
                }
                return Err(error);
            }
            if self.config.ddl == Ddl::Manage {
                tables::make_tables(&mut session, &batch.stream, &structure.lacking)?;
            } else {
                tables::ask_for_tables(&mut session, &batch.stream, &structure.lacking)?;
            }
            self.session = Some(session);
        }
        Err(transient(
            applying(batch),
            "tables were made for it again and again, and somebody else took them",
        ))
    }

    /// Looks whether tables are what they have to be.
    fn check(
        &mut self,
        session: &mut Session,
        unchecked: &[(Rows, String)],
    ) -> Result<(), SinkError> {
        for (rows, whose) in unchecked {
            check::check_rows(session, rows, whose)?;
            if let Some(checked) = &mut self.checked {
                Arc::make_mut(checked).insert(rows.number);
            }
        }
        Ok(())
    }

    /// A batch that wasn't applied; or was it, before?
    fn refused(&mut self, batch: &Batch, error: SinkError) -> Result<(), SinkError> {
        let SinkError::NotAfter { stored, .. } = &error else {
            return Err(error);
        };
        let doubted = self.in_doubt.take();
        let was_applied = *stored == Some(batch.position)
            && doubted == Some((batch.stream.clone(), batch.position));
        if was_applied { Ok(()) } else { Err(error) }
    }

    /// The commit of a batch failed. Whether it was done: the stored position says so, once the database has done with the
    /// transaction that is lost, and has let go of its locks.
    fn find_out(&mut self, batch: &Batch, lost: &SinkError) -> Result<(), SinkError> {
        if batch.is_amendment() {
            // It leaves the position where it was, which tells nothing then. Done twice it does no harm.
            self.in_doubt = None;
            return Err(transient(
                applying(batch),
                format!("the commit failed, and whether it was done isn't known: {lost}"),
            ));
        }
        let unknown = |why: String| {
            transient(
                applying(batch),
                format!(
                    "the commit failed ({lost}), and it isn't known yet whether it was done: {why}"
                ),
            )
        };
        let mut session = self
            .connected()
            .map_err(|error| unknown(error.to_string()))?;
        let stored = apply::locked_position(&mut session, &batch.stream);
        session.rollback();
        let stored = stored.map_err(|error| unknown(error.to_string()))?;
        self.session = Some(session);
        self.in_doubt = None;
        if stored == Some(batch.position) {
            tracing::info!(
                "the commit of a batch up to {} of {} failed; it was applied",
                batch.position,
                batch.stream
            );
            return Ok(());
        }
        Err(transient(
            applying(batch),
            format!("the commit failed, and nothing was applied: {lost}"),
        ))
    }

    /// Makes views anew if that is due. The batch is applied whatever becomes of this.
    fn keep_up(&mut self) {
        if self.upkeep.is_none_or(|at| at > Instant::now()) {
            return;
        }
        let refreshed = self.connected().and_then(|mut session| {
            let refreshed = tables::refresh_views(&mut session);
            session.rollback();
            self.session = Some(session);
            refreshed
        });
        match refreshed {
            Ok(Left::Nothing) => self.upkeep = None,
            Ok(Left::Something) => self.upkeep = Some(Instant::now() + UPKEEP_INTERVAL),
            Err(error) => {
                tracing::warn!(
                    "views couldn't be made anew: {error}; the rows are up to date all the same"
                );
                self.upkeep = Some(Instant::now() + UPKEEP_INTERVAL);
            }
        }
    }
}
