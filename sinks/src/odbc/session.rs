//! A connection: how it is made, what is run through it, and what goes in and comes out.
//!
//! Whoever runs anything ends the transaction, but for what is made and dropped: that has one by itself.

use super::arrays::Arrays;
use super::config::OdbcConfig;
use super::dialect::{Dialect, Sql, Statement};
use super::error::{Doing, Fault};
use crate::SinkError;
use crate::sql::permanent;
use odbc_api::buffers::{BoxColumBufferRefMut, BufferDesc};
use odbc_api::handles::SqlResult;
use odbc_api::parameter::{InputParameter, VarBinaryBox, VarWCharBox, WithDataType};
use odbc_api::{
    BindParamDesc, Connection, ConnectionOptions, Cursor, CursorImpl, DataType, Error,
    InputParameterMapping, IntoParameter, environment, escape_attribute_value,
    handles::StatementImpl,
};
use std::borrow::Cow;
use std::num::NonZeroUsize;

/// Rows that are bound at once.
const ARRAY_ROWS_MAX: usize = 1000;

/// Bytes that are bound at once, unless one row has more.
const ARRAY_BYTES_MAX: usize = 4 << 20;

/// The longest text that is bound as `WVARCHAR`.
const WVARCHAR_LEN_MAX: usize = 4000;

/// What a value is, whichever way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Text,
    Bytes,
    /// Goes in only.
    Double,
    /// Text that stands for a value of this type. Goes in only.
    As(DataType),
}

/// A value that goes in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(Option<i64>),
    Text(Option<&'a str>),
    Bytes(Option<&'a [u8]>),
    Double(Option<f64>),
}

/// A row that came out.
pub(super) struct Row {
    values: Vec<Option<Cell>>,
    dialect: Dialect,
}

enum Cell {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Row {
    fn take(&mut self, index: usize) -> Option<Cell> {
        self.values.get_mut(index).and_then(Option::take)
    }

    /// A number that may be NULL.
    pub(super) fn number(&mut self, index: usize) -> Option<i64> {
        match self.take(index) {
            Some(Cell::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// A number that isn't NULL.
    pub(super) fn known_number(&mut self, index: usize) -> Result<i64, Fault> {
        let dialect = self.dialect;
        self.number(index)
            .ok_or_else(|| Fault::odd(format!("column {} is NULL", index + 1), dialect))
    }

    /// Text that may be NULL.
    pub(super) fn text(&mut self, index: usize) -> Option<String> {
        match self.take(index) {
            Some(Cell::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Bytes; NULL counts as none.
    pub(super) fn bytes(&mut self, index: usize) -> Vec<u8> {
        match self.take(index) {
            Some(Cell::Bytes(bytes)) => bytes,
            _ => Vec::new(),
        }
    }
}

/// A column of a table, as the driver has it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) name: String,
    /// ODBC's number for its type.
    pub(super) data_type: i64,
    /// The database's name for it.
    pub(super) type_name: String,
    /// Digits, characters or bytes.
    pub(super) size: Option<i64>,
    /// Digits behind the point.
    pub(super) digits: Option<i64>,
    /// It may not be NULL.
    pub(super) is_required: bool,
    pub(super) has_default: bool,
}

impl Shown {
    /// Its type for people.
    pub(super) fn kind(&self) -> String {
        let has_size = matches!(self.data_type, 1..=3 | 12 | -9..=-8 | -3..=-2);
        match (self.size, self.digits) {
            _ if !has_size || self.type_name.contains('(') => self.type_name.clone(),
            (Some(size), Some(digits)) if self.data_type == 2 || self.data_type == 3 => {
                format!("{}({size},{digits})", self.type_name)
            }
            (Some(size), _) => format!("{}({size})", self.type_name),
            (None, _) => self.type_name.clone(),
        }
    }
}

/// A column of a table's key, as the driver has it.
#[derive(Clone, Debug)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    pub(super) place: i64,
}

/// A connection. After a fault of the driver's or the database's it is to be thrown away.
pub(super) struct Session {
    /// `None` only while it is being dropped.
    connection: Option<Connection<'static>>,
    pub(super) sql: Sql,
    /// Seconds; `None`: no limit, or none that the driver knows of.
    timeout: Option<usize>,
    is_broken: bool,
    /// Whether each statement is a transaction.
    is_by_statement: bool,
    /// What the driver may be given.
    pub(super) arrays: Arrays,
}

impl Session {
    /// Connects, finds out what is there, and sets what must not depend on the database's configuration.
    pub(super) fn open(config: &OdbcConfig) -> Result<Session, SinkError> {
        let connecting = || "connecting".to_owned();
        let (mut text, password) = connection_string(config)?;
        let dialect = config.dialect.unwrap_or(Dialect::Generic);
        let fault = |error| Fault::new(error, dialect, password.as_deref());
        let environment = environment().map_err(fault).doing(connecting)?;
        let seconds = u32::try_from(config.connect_timeout_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        let options = ConnectionOptions {
            login_timeout_sec: Some(seconds.max(1)),
            packet_size: None,
        };
        let connected = environment.connect_with_connection_string(&text, options);
        text.clear();
        let connection = connected
            .map_err(|error| fault(error).at_first())
            .doing(connecting)?;
        let dialect = match config.dialect {
            Some(dialect) => dialect,
            None => {
                let name = connection.database_management_system_name();
                Dialect::of_database(&name.map_err(fault).doing(connecting)?)
            }
        };
        let quote = connection.identifier_quote_char().ok().flatten();
        let name_bytes_max = connection
            .max_table_name_len()
            .ok()
            .map(usize::from)
            .filter(|&max| max > 0);
        let mut session = Session {
            connection: Some(connection),
            sql: Sql::new(dialect, config.schema.clone(), quote, name_bytes_max),
            timeout: None,
            is_broken: false,
            is_by_statement: true,
            arrays: Arrays::Never,
        };
        if config.statement_timeout_ms > 0 {
            let seconds =
                usize::try_from(config.statement_timeout_ms.div_ceil(1000)).unwrap_or(usize::MAX);
            session.timeout = session.knows_timeout(seconds).then_some(seconds);
            if session.timeout.is_none() {
                tracing::debug!("the driver knows no limit for how long a statement may take");
            }
        }
        for statement in dialect.beginnings(config.lock_wait_timeout_ms) {
            session.change(&statement, &[]).doing(connecting)?;
        }
        session.set_by_statement(false).doing(connecting)?;
        session.isolate(dialect.writing()).doing(connecting)?;
        Ok(session)
    }

    fn knows_timeout(&self, seconds: usize) -> bool {
        let Some(connection) = &self.connection else {
            return false;
        };
        let Ok(mut statement) = connection.preallocate() else {
            return false;
        };
        statement.set_query_timeout_sec(seconds).is_ok()
    }

    /// What the database and its driver call themselves.
    pub(super) fn database(&self) -> Result<String, Fault> {
        self.link()?
            .database_management_system_name()
            .map_err(|error| Fault::new(error, self.sql.dialect, None))
    }

    /// Whether nothing can be run any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// The connection isn't to be used any more.
    pub(super) fn spoil(&mut self) {
        self.is_broken = true;
    }

    fn link(&self) -> Result<&Connection<'static>, Fault> {
        self.connection
            .as_ref()
            .filter(|_| !self.is_broken)
            .ok_or_else(|| Fault::odd("the connection is closed", self.sql.dialect))
    }

    fn noted<T>(&mut self, done: Result<T, Error>) -> Result<T, Fault> {
        done.map_err(|error| {
            let fault = Fault::new(error, self.sql.dialect, None);
            let is_dead = || {
                self.connection
                    .as_ref()
                    .is_none_or(|link| link.is_dead().unwrap_or(false))
            };
            if fault.is_of_connection() || is_dead() {
                self.is_broken = true;
            }
            fault
        })
    }

    /// Whether each statement is a transaction from here on. None is open.
    pub(super) fn set_by_statement(&mut self, is_by_statement: bool) -> Result<(), Fault> {
        let done = self.link()?.set_autocommit(is_by_statement);
        if done.is_err() {
            self.is_broken = true;
        }
        self.noted(done)?;
        self.is_by_statement = is_by_statement;
        Ok(())
    }

    /// Ends the transaction, for good.
    pub(super) fn commit(&mut self) -> Result<(), Fault> {
        if self.is_by_statement {
            return Ok(());
        }
        let done = self.link()?.commit();
        self.noted(done)
    }

    /// Ends the transaction, as if it had never been. If that can't be done, the connection is useless, and says so.
    pub(super) fn rollback(&mut self) {
        if self.is_by_statement {
            return;
        }
        let done = match self.link() {
            Ok(link) => link.rollback(),
            Err(_) => return,
        };
        if self.noted(done).is_err() {
            self.is_broken = true;
        }
    }

    /// Sets how the transactions that follow are isolated. Leaves none behind.
    pub(super) fn isolate(&mut self, statements: &[&str]) -> Result<(), Fault> {
        self.rollback();
        for statement in statements {
            match self.change(statement, &[]) {
                Ok(_) => self.commit()?,
                Err(fault) if self.sql.dialect.may_not_isolate() && !self.is_broken => {
                    tracing::debug!(
                        ?fault,
                        "the database doesn't know how to isolate transactions so"
                    );
                    self.rollback();
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Runs a statement that gives no rows (or whose rows are of no interest). How many it changed, if the driver knows.
    pub(super) fn change(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Option<usize>, Fault> {
        let parameters = self.parameters(values);
        let timeout = self.timeout;
        let link = self.link()?;
        let run = || {
            let mut statement = link.preallocate()?;
            if let Some(seconds) = timeout {
                statement.set_query_timeout_sec(seconds)?;
            }
            if let Some(rows) = statement.execute(sql, &parameters[..])? {
                // Dropped, it would be closed, and panic if that fails; the statement goes right away.
                let _ = rows.into_stmt();
                return Ok(None);
            }
            statement.row_count()
        };
        let done = run();
        self.noted(done)
    }

    /// Runs a statement outside of any transaction that was there before, and commits it.
    pub(super) fn define(&mut self, sql: &str) -> Result<(), Fault> {
        match self.change(sql, &[]) {
            Ok(_) => self.commit(),
            Err(fault) => {
                self.rollback();
                Err(fault)
            }
        }
    }

    /// Hands each row of a query to `each`, until it has seen enough (`false`).
    pub(super) fn walk(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        kinds: &[Kind],
        each: impl FnMut(Row) -> bool,
    ) -> Result<(), Fault> {
        let parameters = self.parameters(values);
        let dialect = self.sql.dialect;
        let walked = match self.link()?.execute(sql, &parameters[..], self.timeout) {
            Ok(Some(cursor)) => walk_rows(cursor, kinds, dialect, each),
            Ok(None) => Ok(()),
            Err(error) => Err(Failure::Odbc(error)),
        };
        match walked {
            Ok(()) => Ok(()),
            Err(Failure::Odbc(error)) => self.noted(Err(error)),
            Err(Failure::Odd(what)) => Err(Fault::odd(what, dialect)),
        }
    }

    /// All rows of a query whose result is known to be small, or has to be held anyway.
    pub(super) fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        kinds: &[Kind],
    ) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        self.walk(sql, values, kinds, |row| {
            rows.push(row);
            true
        })?;
        Ok(rows)
    }

    /// The first row of a query that has one at most.
    pub(super) fn first(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        kinds: &[Kind],
    ) -> Result<Option<Row>, Fault> {
        Ok(self.rows(sql, values, kinds)?.into_iter().next())
    }

    /// The names of all tables and views that the driver shows.
    pub(super) fn names_shown(&mut self) -> Result<Vec<String>, Fault> {
        let dialect = self.sql.dialect;
        let schema = self.sql.schema.clone().unwrap_or_else(|| "%".into());
        let link = self.link()?;
        let list = || {
            let catalog = link.current_catalog().unwrap_or_default();
            let catalog = if catalog.is_empty() {
                "%".into()
            } else {
                catalog
            };
            link.preallocate()?
                .into_tables_cursor(&catalog, &schema, "%", "")
        };
        let mut names = Vec::new();
        let listed = match list() {
            Ok(cursor) => walk_rows(
                cursor,
                &[Kind::Text, Kind::Text, Kind::Text],
                dialect,
                |mut row| {
                    names.extend(row.text(2));
                    true
                },
            ),
            Err(error) => Err(Failure::Odbc(error)),
        };
        match listed {
            Ok(()) => Ok(names),
            Err(Failure::Odbc(error)) => self.noted(Err(error)),
            Err(Failure::Odd(what)) => Err(Fault::odd(what, dialect)),
        }
    }

    /// The catalog and the schema that a table without a schema is in, as far as that is known.
    fn whereabouts(&mut self) -> Result<(String, Option<String>), Fault> {
        let schema = match (self.sql.schema.clone(), self.sql.current_schema()) {
            (Some(schema), _) => Some(schema),
            (None, Some(select)) => {
                let row = self.first(select, &[], &[Kind::Text])?;
                row.and_then(|mut row| row.text(0))
                    .map(|name| name.trim_end().to_owned())
            }
            (None, None) => None,
        };
        let catalog = self.link()?.current_catalog().unwrap_or_default();
        Ok((catalog, schema))
    }

    /// What the driver says of tables with this name, row by row. Where there are some in several schemas, and which of them
    /// is ours isn't known, it is nothing.
    fn told_of(
        &mut self,
        table: &str,
        columns: usize,
        ask: impl Fn(
            &Connection<'static>,
            &str,
            Option<&str>,
            &str,
            &mut dyn FnMut(Row),
        ) -> Result<(), Failure>,
    ) -> Result<Vec<Vec<Option<String>>>, Fault> {
        let dialect = self.sql.dialect;
        let (catalog, schema) = self.whereabouts()?;
        // Names that aren't quoted are upper case in some databases.
        for table in [table.to_owned(), table.to_uppercase()] {
            let mut found: Vec<Vec<Option<String>>> = Vec::new();
            let asked = ask(
                self.link()?,
                &catalog,
                schema.as_deref(),
                &table,
                &mut |mut row| {
                    found.push((0..columns).map(|at| row.text(at)).collect());
                },
            );
            match asked {
                Ok(()) => {}
                Err(Failure::Odbc(error)) => return self.noted(Err(error)),
                Err(Failure::Odd(what)) => return Err(Fault::odd(what, dialect)),
            }
            // The driver takes a name for a pattern.
            found.retain(|row| {
                let is = |at: usize, name: &str| {
                    let there = row[at].as_deref().unwrap_or_default();
                    there.is_empty() || there.eq_ignore_ascii_case(name)
                };
                is(2, &table) && schema.as_ref().is_none_or(|schema| is(1, schema))
            });
            if found.is_empty() {
                continue;
            }
            let is_ambiguous = found.iter().any(|row| row[1] != found[0][1]);
            return Ok(if is_ambiguous { Vec::new() } else { found });
        }
        Ok(Vec::new())
    }

    /// The columns of a table without its schema, as far as the driver says: none where it doesn't.
    pub(super) fn columns_shown(&mut self, table: &str) -> Result<Vec<Shown>, Fault> {
        let dialect = self.sql.dialect;
        let any = if dialect == Dialect::Mysql { "" } else { "%" };
        let found = self.told_of(table, 13, |link, catalog, schema, table, each| {
            let schema = schema.unwrap_or(any);
            let statement = link.preallocate()?;
            let cursor = statement.into_columns_cursor(catalog, schema, table, "%")?;
            walk_rows(cursor, &[Kind::Text; 13], dialect, |row| {
                each(row);
                true
            })
        })?;
        let columns = found.into_iter().map(|mut row| {
            let number = |at: usize| row[at].as_deref().and_then(|text| text.trim().parse().ok());
            Shown {
                data_type: number(4).unwrap_or_default(),
                size: number(6),
                digits: number(8),
                is_required: number(10) == Some(0),
                has_default: row[12].as_deref().is_some_and(|text| text != "NULL"),
                name: row[3].take().unwrap_or_default(),
                type_name: row[5].take().unwrap_or_default(),
            }
        });
        Ok(columns.collect())
    }

    /// The columns of a table's key, as far as the driver says.
    pub(super) fn key_shown(&mut self, table: &str) -> Result<Vec<KeyColumn>, Fault> {
        let dialect = self.sql.dialect;
        let found = self.told_of(table, 5, |link, catalog, schema, table, each| {
            let catalog = Some(catalog).filter(|catalog| !catalog.is_empty());
            let statement = link.preallocate()?;
            let cursor = statement.into_primary_keys_cursor(catalog, schema, table)?;
            walk_rows(cursor, &[Kind::Text; 5], dialect, |row| {
                each(row);
                true
            })
        })?;
        let columns = found.into_iter().map(|mut row| KeyColumn {
            place: row[4]
                .as_deref()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or_default(),
            name: row[3].take().unwrap_or_default(),
        });
        Ok(columns.collect())
    }

    /// Runs a statement once for each of `count` rows of values, an array of them at a time. `value` gives the value of a
    /// row for a column, whose kind is that of `kinds`. How many rows were changed, if the driver knows.
    pub(super) fn array<'v>(
        &mut self,
        statement: &Statement,
        kinds: &[Kind],
        count: usize,
        value: impl Fn(usize, usize) -> Value<'v>,
    ) -> Result<Option<usize>, Fault> {
        let dialect = self.sql.dialect;
        let timeout = self.timeout;
        let rows_max = match self.arrays {
            Arrays::Never => 1,
            Arrays::Trusted | Arrays::Counted => ARRAY_ROWS_MAX,
        };
        let link = self.link()?;
        let run = || -> Result<Option<usize>, Error> {
            let mut prepared = link.prepare(&statement.sql)?;
            if let Some(seconds) = timeout {
                prepared.set_query_timeout_sec(seconds)?;
            }
            let mut changed = Some(0);
            let mut from = 0;
            while from < count {
                let (rows, widths) = fitting(kinds, rows_max.min(count - from), |row, column| {
                    value(from + row, column)
                });
                let descriptions = kinds
                    .iter()
                    .zip(&widths)
                    .map(|(kind, &width)| described(*kind, width, dialect));
                let mapping = Order(&statement.order);
                let mut array =
                    prepared.column_inserter_with_mapping(rows, descriptions, mapping)?;
                array.set_num_rows(rows);
                for (column, &kind) in kinds.iter().enumerate() {
                    fill(array.column_mut(column), kind, rows, dialect, |row| {
                        value(from + row, column)
                    });
                }
                if let Some(unexpected) = array.execute()? {
                    let _ = unexpected.into_stmt();
                }
                drop(array);
                changed = prepared
                    .row_count()?
                    .zip(changed)
                    .map(|(now, before)| now + before);
                from += rows;
            }
            Ok(changed)
        };
        let done = run();
        self.noted(done)
    }

    fn parameters<'v>(&self, values: &[Value<'v>]) -> Vec<Box<dyn InputParameter>> {
        values
            .iter()
            .map(|&value| parameter(value, self.sql.dialect))
            .collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let _ = connection.rollback();
        // Dropped as it is, it would panic where it can't be closed any more, and a lost one often can't.
        let mut handle = connection.into_handle();
        if matches!(handle.disconnect(), SqlResult::Error { .. }) {
            tracing::debug!(
                "a connection couldn't be closed; what the driver holds for it is held until the process ends"
            );
            std::mem::forget(handle);
        }
    }
}

/// What the driver manager is told, and the password that is in it.
fn connection_string(config: &OdbcConfig) -> Result<(String, Option<String>), SinkError> {
    let mut text = config
        .connection
        .trim_end()
        .trim_end_matches(';')
        .to_owned();
    if let Some(username) = &config.username {
        text.push_str(";UID=");
        text.push_str(&escape_attribute_value(username));
    }
    let mut password = None;
    if let Some(path) = &config.password_file {
        let read = std::fs::read_to_string(path).map_err(|error| {
            permanent(
                "reading the password",
                format!("{}: {error}", path.display()),
                "make the file that `password_file` names readable for Counterfoil, and nobody else",
            )
        })?;
        let line = read.strip_suffix('\n').unwrap_or(&read);
        let secret = line.strip_suffix('\r').unwrap_or(line).to_owned();
        text.push_str(";PWD=");
        text.push_str(&escape_attribute_value(&secret));
        password = Some(secret);
    }
    text.push(';');
    Ok((text, password))
}

enum Failure {
    Odbc(Error),
    Odd(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Odbc(error)
    }
}

fn walk_rows(
    mut cursor: CursorImpl<StatementImpl<'_>>,
    kinds: &[Kind],
    dialect: Dialect,
    mut each: impl FnMut(Row) -> bool,
) -> Result<(), Failure> {
    // Used for all values, so that few take more than one call.
    let mut bytes = Vec::with_capacity(4096);
    let mut wide = Vec::with_capacity(512);
    while let Some(mut row) = cursor.next_row()? {
        let mut values = Vec::with_capacity(kinds.len());
        for (column, kind) in (1_u16..).zip(kinds) {
            values.push(match kind {
                Kind::Bytes => row
                    .get_binary(column, &mut bytes)?
                    .then(|| Cell::Bytes(bytes.clone())),
                Kind::Text | Kind::As(_) | Kind::Double => {
                    match row.get_wide_text(column, &mut wide)? {
                        true => Some(Cell::Text(String::from_utf16(&wide).map_err(|_| {
                            Failure::Odd(format!("the text in column {column} isn't Unicode"))
                        })?)),
                        false => None,
                    }
                }
                Kind::Number => match row.get_text(column, &mut bytes)? {
                    true => Some(Cell::Number(number(&bytes).ok_or_else(|| {
                        Failure::Odd(format!("what is in column {column} isn't a number"))
                    })?)),
                    false => None,
                },
            });
        }
        if bytes.capacity() > ARRAY_BYTES_MAX {
            bytes = Vec::with_capacity(4096);
        }
        if !each(Row { values, dialect }) {
            break;
        }
    }
    Ok(())
}

/// Digits, as drivers write them: Oracle's decimal numbers may end with a point.
fn number(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let whole = match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    whole.parse().ok()
}

/// How many rows fit into an array, one at least, and how wide its columns are: in bytes, or in UTF-16 units.
fn fitting<'v>(
    kinds: &[Kind],
    count: usize,
    value: impl Fn(usize, usize) -> Value<'v>,
) -> (usize, Vec<usize>) {
    let mut widths = vec![1; kinds.len()];
    let mut fitting = 0;
    while fitting < count {
        let mut wider = false;
        let mut next = Cow::Borrowed(&widths);
        for column in 0..kinds.len() {
            let width = match value(fitting, column) {
                Value::Bytes(Some(bytes)) => bytes.len(),
                Value::Text(Some(text)) => text.encode_utf16().count(),
                _ => 0,
            };
            if width > next[column] {
                next.to_mut()[column] = width;
                wider = true;
            }
        }
        let bytes_a_row: usize = kinds
            .iter()
            .zip(next.iter())
            .map(|(kind, &width)| match kind {
                Kind::Number | Kind::Double => 16,
                Kind::Text | Kind::As(_) => 2 * (width + 1) + 8,
                Kind::Bytes => width + 8,
            })
            .sum();
        if fitting > 0 && (fitting + 1) * bytes_a_row > ARRAY_BYTES_MAX {
            break;
        }
        if wider {
            widths = next.into_owned();
        }
        fitting += 1;
    }
    (fitting, widths)
}

fn described(kind: Kind, width: usize, dialect: Dialect) -> BindParamDesc {
    match kind {
        Kind::Number if dialect.binds_integers() => BindParamDesc::i64(true),
        Kind::Number => BindParamDesc {
            buffer_desc: BufferDesc::Text { max_str_len: 20 },
            data_type: DIGITS,
        },
        Kind::Text => BindParamDesc {
            buffer_desc: BufferDesc::WText { max_str_len: width },
            data_type: text_type(width),
        },
        Kind::Double => BindParamDesc::f64(true),
        Kind::As(data_type) => BindParamDesc {
            buffer_desc: BufferDesc::WText { max_str_len: width },
            data_type,
        },
        Kind::Bytes => BindParamDesc {
            buffer_desc: BufferDesc::Binary { max_bytes: width },
            data_type: bytes_type(width, dialect),
        },
    }
}

/// Writes a column of an array. A value of another kind counts as NULL.
fn fill<'v>(
    column: BoxColumBufferRefMut<'_>,
    kind: Kind,
    rows: usize,
    dialect: Dialect,
    value: impl Fn(usize) -> Value<'v>,
) {
    match kind {
        Kind::Bytes => {
            if let Some(mut column) = column.as_binary() {
                for row in 0..rows {
                    column.set_cell(
                        row,
                        match value(row) {
                            Value::Bytes(bytes) => bytes,
                            _ => None,
                        },
                    );
                }
            }
        }
        Kind::Text | Kind::As(_) => {
            if let Some(mut column) = column.as_wide_text() {
                let mut wide = Vec::new();
                for row in 0..rows {
                    let text = match value(row) {
                        Value::Text(text) => text,
                        _ => None,
                    };
                    wide.clear();
                    wide.extend(text.unwrap_or_default().encode_utf16());
                    column.set_cell(row, text.map(|_| &wide[..]));
                }
            }
        }
        Kind::Double => {
            if let Some(mut column) = column.as_nullable_slice::<f64>() {
                column.write((0..rows).map(|row| match value(row) {
                    Value::Double(number) => number,
                    _ => None,
                }));
            }
        }
        Kind::Number => {
            let number = |row| match value(row) {
                Value::Number(number) => number,
                _ => None,
            };
            if dialect.binds_integers() {
                if let Some(mut column) = column.as_nullable_slice::<i64>() {
                    column.write((0..rows).map(number));
                }
            } else if let Some(mut column) = column.as_text() {
                for row in 0..rows {
                    let digits = number(row).map(|number| number.to_string());
                    column.set_cell(row, digits.as_ref().map(String::as_bytes));
                }
            }
        }
    }
}

const DIGITS: DataType = DataType::Decimal {
    precision: 19,
    scale: 0,
};

fn text_type(len: usize) -> DataType {
    let length = NonZeroUsize::new(len.max(1));
    if len > WVARCHAR_LEN_MAX {
        DataType::WLongVarchar { length }
    } else {
        DataType::WVarchar { length }
    }
}

fn bytes_type(len: usize, dialect: Dialect) -> DataType {
    let length = NonZeroUsize::new(len.max(1));
    if len > dialect.varbinary_bytes_max() || dialect.varbinary_bytes_max() == 0 {
        DataType::LongVarbinary { length }
    } else {
        DataType::Varbinary { length }
    }
}

fn parameter(value: Value<'_>, dialect: Dialect) -> Box<dyn InputParameter> {
    match value {
        Value::Double(number) => Box::new(number.into_parameter()),
        Value::Number(number) if dialect.binds_integers() => Box::new(number.into_parameter()),
        Value::Number(number) => {
            let digits = number.map(|number| number.to_string());
            Box::new(WithDataType::new(text_box(digits.as_deref()), DIGITS))
        }
        Value::Text(text) => {
            let len = text.map_or(0, |text| text.encode_utf16().count());
            Box::new(WithDataType::new(text_box(text), text_type(len)))
        }
        Value::Bytes(bytes) => {
            let boxed = bytes.map_or_else(VarBinaryBox::null, |bytes| {
                VarBinaryBox::from_vec(bytes.to_vec())
            });
            Box::new(WithDataType::new(
                boxed,
                bytes_type(bytes.map_or(0, <[u8]>::len), dialect),
            ))
        }
    }
}

fn text_box(text: Option<&str>) -> VarWCharBox {
    text.map_or_else(VarWCharBox::null, VarWCharBox::from_str_slice)
}

/// Which of the columns each parameter of a statement takes.
struct Order<'a>(&'a [usize]);

impl InputParameterMapping for Order<'_> {
    fn parameter_index_to_column_index(&self, parameter: u16) -> usize {
        self.0
            .get(usize::from(parameter) - 1)
            .copied()
            .unwrap_or_default()
    }

    fn num_parameters(&self) -> usize {
        self.0.len()
    }
}
