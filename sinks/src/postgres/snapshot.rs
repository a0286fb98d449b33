//! Reading: one transaction that sees one moment, whatever the writer does meanwhile.
//!
//! Rows and the catalogue are as of that moment, but a table's name in a statement always means what has it now. So a table
//! is found by the number it had at that moment, and read under the name that it has now.

use super::apply::read_position;
use super::entry::{self, Entry};
use super::error::Doing;
use super::session::{Parameters, Session, Statements};
use super::table::current;
use crate::plan::Mode;
use crate::sql::{permanent, quoted, readable};
use crate::{Image, SinkError, Snapshot, StoredFile, StoredPiece};
use counterfoil_proto::{Position, path_text};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use tokio::runtime::Runtime;
use tokio_postgres::{Error, Portal, Row, Statement, Transaction};

/// Rows that are fetched at a time: first few, then as many as stay within a mebibyte or so.
const ROWS_FIRST: i32 = 32;
const ROWS_MAX: i32 = 8192;
const BYTES_MAX: usize = 1 << 20;

/// So many times the connection gets its turn to send what is still to be sent. Once would do.
const TURNS: usize = 3;

/// A read transaction.
pub(super) struct PostgresSnapshot<'a> {
    runtime: &'a Runtime,
    transaction: Transaction<'a>,
    /// Comes after the transaction, which says that it is over when it is dropped.
    _farewell: Farewell<'a>,
    statements: &'a mut Statements,
    /// Tables that were read from: their names in statements. They can't change as long as the transaction lasts.
    tables: HashMap<String, String>,
    schema: String,
    select_entries: String,
    place: String,
}

impl<'a> PostgresSnapshot<'a> {
    pub(super) fn open(
        runtime: &'a Runtime,
        session: &'a mut Session,
        place: String,
    ) -> Result<Self, SinkError> {
        let opening = || "opening a snapshot".to_owned();
        let schema = session.schema.clone();
        let select_entries = entry::select(session);
        let select = format!(
            "SELECT count(*) FROM {}",
            session.name("counterfoil_position")
        );
        let Session {
            client, statements, ..
        } = session;
        let transaction = runtime.block_on(async {
            let statement = statements.get(client, &select).await?;
            let transaction = client
                .build_transaction()
                .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            // The view is of the moment of the first statement, so that has to be now.
            transaction.query(&statement, &[]).await?;
            Ok(transaction)
        });
        Ok(PostgresSnapshot {
            runtime,
            transaction: transaction.doing(opening)?,
            _farewell: Farewell(runtime),
            statements,
            tables: HashMap::new(),
            schema,
            select_entries,
            place,
        })
    }

    fn name(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(table))
    }

    /// The transaction, and a statement for it, prepared once.
    async fn prepare(&mut self, sql: &str) -> Result<(&Transaction<'a>, Statement), Error> {
        let transaction = &self.transaction;
        let statement = self.statements.get(transaction.client(), sql).await?;
        Ok((transaction, statement))
    }

    async fn rows(&mut self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        let (transaction, statement) = self.prepare(sql).await?;
        transaction.query(&statement, parameters).await
    }

    fn query(
        &mut self,
        sql: &str,
        parameters: Parameters<'_>,
        doing: impl FnOnce() -> String,
    ) -> Result<Vec<Row>, SinkError> {
        let runtime = self.runtime;
        runtime
            .block_on(self.rows(sql, parameters))
            .doing(doing)
            .map_err(|error| error.at(&self.place))
    }

    fn find(&mut self, stream: &str, path: &[u8]) -> Result<Option<Entry>, SinkError> {
        let sql = format!(
            "{} WHERE f.stream = $1 AND sha256(f.path) = sha256($2::bytea) AND f.path = $2",
            self.select_entries
        );
        let rows = self.query(&sql, &[&stream, &path], || {
            format!("looking up {}", path_text(path))
        })?;
        rows.first()
            .map(entry::read)
            .transpose()
            .map_err(|error| error.at(&self.place))
    }

    /// What a table is called now; `None`: it is no more.
    async fn name_now(&mut self, oid: u32) -> Result<Option<String>, Error> {
        let rows = self.rows("SELECT $1::oid::regclass::text", &[&oid]).await?;
        let name: Option<String> = rows.first().map(|row| row.try_get(0)).transpose()?;
        // A table that is no more has only its number.
        Ok(name.filter(|name| !name.bytes().all(|byte| byte.is_ascii_digit())))
    }

    async fn run(&mut self, sql: &str) -> Result<(), Error> {
        self.transaction.batch_execute(sql).await
    }

    /// `parameters`: the file's number, the first identity and the last.
    async fn bind(&mut self, sql: &str, parameters: [i64; 3]) -> Result<Portal, Error> {
        let (transaction, statement) = self.prepare(sql).await?;
        let [file_id, first, last] = &parameters;
        transaction.bind(&statement, &[file_id, first, last]).await
    }

    /// A file's records, from its table under whatever name that has now.
    async fn records(
        &mut self,
        entry: &Entry,
        parameters: [i64; 3],
        place: &str,
    ) -> Result<Portal, SinkError> {
        let reading = || format!("reading {place}");
        let changed = || SinkError::Transient {
            doing: reading(),
            cause: "the file was removed while it was to be read".into(),
        };
        if let Some(table) = self.tables.get(&entry.table) {
            let sql = select(entry, table);
            return self.bind(&sql, parameters).await.doing(reading);
        }
        let schema = self.schema.clone();
        let found = self
            .rows(
                "SELECT c.oid, c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = $2",
                &[&schema, &entry.table],
            )
            .await
            .doing(reading)?;
        let Some(row) = found.first() else {
            return Err(permanent(
                reading(),
                "its table is gone",
                "somebody dropped it: have the file read again",
            ));
        };
        let oid: u32 = row.try_get(0).doing(reading)?;
        let mut table: String = row.try_get(1).doing(reading)?;
        loop {
            // Somebody may rename it just now, and a statement that fails must not end the transaction.
            self.run("SAVEPOINT reading").await.doing(reading)?;
            let sql = select(entry, &table);
            let bound = self.bind(&sql, parameters).await;
            if bound.is_err() {
                let back = "ROLLBACK TO SAVEPOINT reading; RELEASE SAVEPOINT reading";
                self.run(back).await.doing(reading)?;
                let now = self.name_now(oid).await.doing(reading)?;
                let now = now.ok_or_else(changed)?;
                if now != table {
                    table = now;
                    continue;
                }
            }
            let portal = bound.doing(reading)?;
            self.run("RELEASE SAVEPOINT reading").await.doing(reading)?;
            // From here on nobody can rename it; but in between somebody may have, and made another of that name.
            let now = self
                .name_now(oid)
                .await
                .doing(reading)?
                .ok_or_else(changed)?;
            if now == table {
                self.tables.insert(entry.table.clone(), table);
                return Ok(portal);
            }
            table = now;
        }
    }

    async fn walk(
        &mut self,
        entry: &Entry,
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        let Some((first, last)) = readable(&ids).filter(|_| entry.shape.raw) else {
            return Ok(());
        };
        let parameters = [entry.file_id, first, last];
        let place = format!(
            "{} (table {})",
            path_text(&entry.description.path),
            entry.table
        );
        let portal = self.records(entry, parameters, &place).await?;
        let mut records = Pieces::new(Some(portal), record, &place);
        let portal = if entry.has_residue {
            let sql = format!(
                "SELECT id, bytes, reason FROM {} WHERE file_id = $1 AND id BETWEEN $2 AND $3 ORDER BY id",
                self.name("counterfoil_residue")
            );
            let bound = self.bind(&sql, parameters).await;
            Some(bound.doing(|| format!("reading {place}"))?)
        } else {
            None
        };
        let mut residue = Pieces::new(portal, residue_of, &place);
        let transaction = &self.transaction;
        let mut next_record = records.next(transaction).await?;
        let mut next_residue = residue.next(transaction).await?;
        loop {
            let take_record = match (&next_record, &next_residue) {
                (None, None) => return Ok(()),
                (Some(record), Some(residue)) => record.id <= residue.id,
                (record, _) => record.is_some(),
            };
            let piece = if take_record {
                std::mem::replace(&mut next_record, records.next(transaction).await?)
            } else {
                std::mem::replace(&mut next_residue, residue.next(transaction).await?)
            };
            if let Some(piece) = piece
                && !each(piece)
            {
                return Ok(());
            }
        }
    }
}

/// Sends what is still to be sent: as long as the transaction is open, the server keeps old rows for it.
struct Farewell<'a>(&'a Runtime);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.0.block_on(async {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
    }
}

impl Snapshot for PostgresSnapshot<'_> {
    fn streams(&mut self) -> Result<Vec<String>, SinkError> {
        let sql = format!(
            "SELECT stream FROM {} ORDER BY stream COLLATE \"C\"",
            self.name("counterfoil_position")
        );
        let rows = self.query(&sql, &[], || "listing the streams".into())?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        let sql = format!(
            "SELECT epoch, lsn, idx FROM {} WHERE stream = $1",
            self.name("counterfoil_position")
        );
        let reading = || format!("reading the position of {stream}");
        let rows = self.query(&sql, &[&stream], reading)?;
        rows.first()
            .map(read_position)
            .transpose()
            .doing(reading)
            .map_err(|error| error.at(&self.place))
    }

    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        let sql = format!(
            "{} WHERE f.stream = $1 ORDER BY f.path",
            self.select_entries
        );
        let rows = self.query(&sql, &[&stream], || {
            format!("listing the files of {stream}")
        })?;
        let entries = rows
            .iter()
            .map(|row| entry::read(row).map(StoredFile::from));
        entries
            .collect::<Result<_, _>>()
            .map_err(|error| error.at(&self.place))
    }

    fn file(&mut self, stream: &str, path: &[u8]) -> Result<Option<StoredFile>, SinkError> {
        Ok(self.find(stream, path)?.map(StoredFile::from))
    }

    fn pieces_in(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        let Some(entry) = self.find(stream, path)? else {
            return Ok(());
        };
        let runtime = self.runtime;
        runtime
            .block_on(self.walk(&entry, ids, each))
            .map_err(|error| error.at(&self.place))
    }
}

impl From<Entry> for StoredFile {
    fn from(entry: Entry) -> StoredFile {
        StoredFile {
            description: entry.description,
            table: entry.table,
            attributes: entry.attributes,
            shape: entry.shape,
        }
    }
}

/// The statement that reads a file's records: the parameters are the file's number, the first identity and the last.
fn select(entry: &Entry, table: &str) -> String {
    let identity = quoted(entry.description.format.identity_name());
    if entry.description.tree.is_some() {
        format!(
            "SELECT {identity}, data, NULL::bytea FROM {table} WHERE file_id = $1 AND {identity} BETWEEN $2 AND $3 ORDER BY {identity}"
        )
    } else {
        let name = entry.description.format.identity_name();
        let what = format!("{identity}, data, rest");
        let current = current(table, name, entry.shape.mode == Mode::History, &what);
        format!(
            "SELECT * FROM ({current}) AS r WHERE $1::bigint IS NOT NULL AND {identity} BETWEEN $2 AND $3 ORDER BY {identity}"
        )
    }
}

/// Rows in order of identity, turned into pieces one at a time, fetched some at a time.
struct Pieces<'p> {
    portal: Option<Portal>,
    read: fn(&Row) -> Result<Image, Error>,
    place: &'p str,
    fetched: VecDeque<Row>,
    rows: i32,
    /// The server has no more.
    is_over: bool,
}

impl<'p> Pieces<'p> {
    fn new(portal: Option<Portal>, read: fn(&Row) -> Result<Image, Error>, place: &'p str) -> Self {
        Pieces {
            read,
            place,
            fetched: VecDeque::new(),
            rows: ROWS_FIRST,
            is_over: portal.is_none(),
            portal,
        }
    }

    async fn next(
        &mut self,
        transaction: &Transaction<'_>,
    ) -> Result<Option<StoredPiece>, SinkError> {
        let reading = || format!("reading {}", self.place);
        if let Some(portal) = &self.portal
            && self.fetched.is_empty()
            && !self.is_over
        {
            let rows = transaction
                .query_portal(portal, self.rows)
                .await
                .doing(reading)?;
            self.is_over = rows.len() < usize::try_from(self.rows).unwrap_or_default();
            let bytes: usize = rows.iter().map(Row::raw_size_bytes).sum();
            if bytes > BYTES_MAX {
                self.rows = (self.rows / 2).max(1);
            } else if bytes < BYTES_MAX / 4 {
                self.rows = (self.rows * 2).min(ROWS_MAX);
            }
            self.fetched = rows.into();
        }
        let Some(row) = self.fetched.pop_front() else {
            return Ok(None);
        };
        let id: i64 = row.try_get(0).doing(reading)?;
        let image = (self.read)(&row).doing(|| format!("reading record {id} of {}", self.place))?;
        let id = u64::try_from(id).map_err(|_| {
            permanent(
                format!("reading record {id} of {}", self.place),
                "its identity is negative",
                "something other than Counterfoil changed that row: delete it, then have the file read again",
            )
        })?;
        Ok(Some(StoredPiece { id, image }))
    }
}

fn record(row: &Row) -> Result<Image, Error> {
    let rest: Option<Vec<u8>> = row.try_get(2)?;
    Ok(Image::Record {
        data: row.try_get(1)?,
        rest: rest.unwrap_or_default(),
    })
}

fn residue_of(row: &Row) -> Result<Image, Error> {
    Ok(Image::Residue {
        bytes: row.try_get(1)?,
        reason: row.try_get(2)?,
    })
}
