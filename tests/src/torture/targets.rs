//! What sinks have, read without Counterfoil: by plain SQL, or from the files of a files sink; and whether it is what the files
//! are.

use super::plan::Sink;
use super::tally::Tally;
use crate::decoded::decode;
use crate::operations::Shape;
use anyhow::{Context as _, Result, bail, ensure};
use counterfoil_servers::{Mariadb, Postgres, Proxy};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Epoch, lsn and index.
pub(super) type Position = (u64, u64, u64);

/// The database servers of a run, started when they are first needed. Each round has a database of its own.
#[derive(Debug, Default)]
pub(super) struct Servers {
    /// Whether this thread may mount file systems for itself.
    pub(super) has_own_mounts: bool,
    postgres: Option<Served<Postgres>>,
    mariadb: Option<Served<Mariadb>>,
    databases: u64,
}

/// A server with a way to it that can be cut.
#[derive(Debug)]
pub(super) struct Served<S> {
    pub(super) server: S,
    pub(super) way: Proxy,
    pub(super) is_up: bool,
}

impl Servers {
    /// The server of a sink that has one.
    pub(super) fn server(&mut self, sink: Sink) -> Option<&mut dyn Server> {
        match sink {
            Sink::Postgres => self
                .postgres
                .as_mut()
                .map(|served| served as &mut dyn Server),
            Sink::Mariadb => self
                .mariadb
                .as_mut()
                .map(|served| served as &mut dyn Server),
            Sink::Sqlite | Sink::Files => None,
        }
    }

    /// Prepares a target for a round. `state` is the round's state directory, `root` what a files sink may have.
    pub(super) fn target(&mut self, sink: Sink, state: &Path, root: &Path) -> Result<Target> {
        self.databases += 1;
        let database = format!("torture{}", self.databases);
        let place = match sink {
            Sink::Sqlite => Place::Sqlite(state.join("mirror.db")),
            Sink::Files => Place::Files(root.join("mirror")),
            Sink::Postgres => {
                if self.postgres.is_none() {
                    let server = Postgres::start("")?;
                    let directory = server.socket_dir().join("way");
                    std::fs::create_dir_all(&directory)
                        .context("making a directory for a socket")?;
                    let name = server.socket().file_name().unwrap_or_default().to_owned();
                    let way = Proxy::start(&directory.join(name), &server.socket())?;
                    self.postgres = Some(Served {
                        server,
                        way,
                        is_up: true,
                    });
                }
                if let Some(served) = &self.postgres {
                    served.server.create_database(&database)?;
                }
                Place::Postgres(database)
            }
            Sink::Mariadb => {
                if self.mariadb.is_none() {
                    let server = Mariadb::start(&[])?;
                    let way = Proxy::start(&server.directory().join("way"), &server.socket())?;
                    self.mariadb = Some(Served {
                        server,
                        way,
                        is_up: true,
                    });
                }
                if let Some(served) = &self.mariadb {
                    served
                        .server
                        .sql("", &format!("CREATE DATABASE {database}"))?;
                }
                Place::Mariadb(database)
            }
        };
        Ok(Target {
            place,
            is_history: false,
        })
    }

    /// The round is over.
    pub(super) fn drop_database(&self, target: &Target) -> Result<()> {
        match (&target.place, &self.postgres, &self.mariadb) {
            (Place::Postgres(name), Some(served), _) => {
                served
                    .server
                    .sql("postgres", &format!("DROP DATABASE {name}"))?;
            }
            (Place::Mariadb(name), _, Some(served)) => {
                served.server.sql("", &format!("DROP DATABASE {name}"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// What can be done to any of them.
pub(super) trait Server {
    fn kill(&mut self) -> Result<()>;
    fn shut_down(&mut self) -> Result<()>;
    fn raise(&mut self) -> Result<()>;
    fn way(&self) -> &Proxy;
    fn is_up(&self) -> bool;
}

macro_rules! server {
    ($server:ty) => {
        impl Server for Served<$server> {
            fn kill(&mut self) -> Result<()> {
                self.is_up = false;
                self.server.kill()
            }
            fn shut_down(&mut self) -> Result<()> {
                self.is_up = false;
                self.server.shut_down()
            }
            fn raise(&mut self) -> Result<()> {
                if !self.is_up {
                    self.server.raise()?;
                    self.is_up = true;
                }
                Ok(())
            }
            fn way(&self) -> &Proxy {
                &self.way
            }
            fn is_up(&self) -> bool {
                self.is_up
            }
        }
    };
}
server!(Postgres);
server!(Mariadb);

/// Where a sink has what it has.
#[derive(Clone, Debug)]
enum Place {
    Sqlite(PathBuf),
    Files(PathBuf),
    Postgres(String),
    Mariadb(String),
}

/// A sink of a round.
#[derive(Clone, Debug)]
pub(super) struct Target {
    place: Place,
    is_history: bool,
}

/// What a sink has of a file.
#[derive(Clone, Debug, Default)]
struct Mirrored {
    /// Content and what is beside it, by identity.
    rows: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    residue: BTreeMap<u64, Vec<u8>>,
    size: usize,
}

/// A captured file: its name below the data directory, and what is in it.
pub(super) type CapturedFiles = BTreeMap<String, (Shape, Vec<u8>)>;

impl Target {
    /// A history of everything.
    pub(super) fn history(state: &Path) -> Target {
        Target {
            place: Place::Sqlite(state.join("history.db")),
            is_history: true,
        }
    }

    /// For messages.
    pub(super) fn name(&self) -> &'static str {
        match self.place {
            _ if self.is_history => "the history",
            Place::Sqlite(_) => "SQLite",
            Place::Files(_) => "the files sink",
            Place::Postgres(_) => "PostgreSQL",
            Place::Mariadb(_) => "MariaDB",
        }
    }

    /// Its part of the configuration.
    pub(super) fn config(&self, servers: &Servers) -> Result<String> {
        let name = if self.is_history { "history" } else { "target" };
        let mode = if self.is_history {
            "mode = \"history\"\n"
        } else {
            ""
        };
        let table = match &self.place {
            Place::Sqlite(path) => format!("sqlite = {{ path = {path:?} }}"),
            Place::Files(root) => format!("files = {{ root = {root:?} }}"),
            Place::Postgres(database) => {
                let served = servers
                    .postgres
                    .as_ref()
                    .context("PostgreSQL was started")?;
                let directory = served
                    .way
                    .path()
                    .parent()
                    .context("a socket has a directory")?;
                let url = served.server.url_at(directory, "postgres", database);
                format!(
                    "postgres = {{ url = {url:?}, connect_timeout_ms = 2000, lock_timeout_ms = 2000 }}"
                )
            }
            Place::Mariadb(database) => {
                let served = servers.mariadb.as_ref().context("MariaDB was started")?;
                let socket = served.way.path();
                format!(
                    "mysql = {{ url = \"mysql://root@localhost/{database}\", socket = {socket:?}, lock_wait_timeout_s = 2 }}"
                )
            }
        };
        Ok(format!("\n[[sink]]\nname = {name:?}\n{mode}{table}\n"))
    }

    fn hex(&self, column: &str) -> String {
        match self.place {
            Place::Postgres(_) => format!("coalesce(encode({column}, 'hex'), '')"),
            _ => format!("coalesce(hex({column}), '')"),
        }
    }

    fn quoted(&self, name: &str) -> String {
        match self.place {
            Place::Mariadb(_) => format!("`{name}`"),
            _ => format!("\"{name}\""),
        }
    }

    /// The rows of all statements, in one transaction, as text.
    fn query(&self, servers: &Servers, statements: &[String]) -> Result<Vec<Vec<String>>> {
        let (printed, separator) = match &self.place {
            Place::Sqlite(path) => return query_sqlite(path, statements),
            Place::Files(_) => bail!("the files sink has no tables"),
            Place::Postgres(database) => {
                let served = servers
                    .postgres
                    .as_ref()
                    .context("PostgreSQL was started")?;
                let sql = format!(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ; {}; COMMIT",
                    statements.join("; ")
                );
                (served.server.sql(database, &sql)?, '|')
            }
            Place::Mariadb(database) => {
                let served = servers.mariadb.as_ref().context("MariaDB was started")?;
                let sql = format!(
                    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY; {}; COMMIT",
                    statements.join("; ")
                );
                (served.server.sql(database, &sql)?, '\t')
            }
        };
        Ok(printed
            .lines()
            .map(|line| line.split(separator).map(str::to_owned).collect())
            .collect())
    }

    /// How far it says it is, by stream.
    pub(super) fn positions(&self, servers: &Servers) -> Result<BTreeMap<String, Position>> {
        if let Place::Files(root) = &self.place {
            return catalogue_positions(&root.join(".counterfoil/catalogue"));
        }
        let mut positions = BTreeMap::new();
        for row in self.query(
            servers,
            &["SELECT stream, epoch, lsn, idx FROM counterfoil_position".to_owned()],
        )? {
            let [stream, epoch, lsn, index] = &row[..] else {
                bail!("a position is {row:?}")
            };
            positions.insert(
                stream.clone(),
                (epoch.parse()?, lsn.parse()?, index.parse()?),
            );
        }
        Ok(positions)
    }

    /// Compares everything that it has with the files; the error says what differs.
    pub(super) fn compare(
        &self,
        servers: &Servers,
        data: &Path,
        files: &CapturedFiles,
        tally: &mut Tally,
    ) -> Result<()> {
        let compared = match &self.place {
            Place::Files(root) => {
                compare_files(&root.join(data.strip_prefix("/").unwrap_or(data)), files)?
            }
            _ => self.compare_tables(servers, data, files)?,
        };
        tally.records_compared += compared;
        tally.bytes_compared += files
            .values()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum::<u64>();
        Ok(())
    }

    fn compare_tables(&self, servers: &Servers, data: &Path, files: &CapturedFiles) -> Result<u64> {
        let mirrored = self.read(servers, data, files)?;
        let (ours, theirs): (Vec<_>, Vec<_>) = (files.keys().collect(), mirrored.keys().collect());
        ensure!(
            ours == theirs,
            "there are the files {ours:?}, but {} has {theirs:?}",
            self.name()
        );
        let mut compared = 0;
        for (name, (shape, bytes)) in files {
            let mirrored = &mirrored[name];
            compared += mirrored.rows.len() as u64;
            compare_rows(*shape, bytes, mirrored).with_context(|| {
                format!(
                    "{name} ({shape:?}, {} bytes) isn't what {} has",
                    bytes.len(),
                    self.name()
                )
            })?;
        }
        Ok(compared)
    }

    fn read(
        &self,
        servers: &Servers,
        data: &Path,
        files: &CapturedFiles,
    ) -> Result<BTreeMap<String, Mirrored>> {
        let list = format!(
            "SELECT 'f', file_id, {}, table_name, size FROM counterfoil_files",
            self.hex("path")
        );
        let mut statements = vec![list.clone()];
        let mut names = BTreeMap::new();
        let first = self.query(servers, &[list])?;
        for row in &first {
            let [_, id, path, table, _] = &row[..] else {
                bail!("a file is {row:?}")
            };
            let path = PathBuf::from(std::ffi::OsString::from_vec(unhex(path)?));
            let name = path
                .strip_prefix(data)
                .unwrap_or(&path)
                .display()
                .to_string();
            let Some((shape, _)) = files.get(&name) else {
                bail!("there is no file {name}, but {} has one", self.name());
            };
            let identity = match shape {
                Shape::Fixed { .. } => "record_number",
                Shape::Relative { .. } => "slot_number",
                Shape::Variable { .. } | Shape::Lines => "address",
                Shape::Blocks { .. } => "block_number",
            };
            let (bytes, rest) = (self.hex("data"), self.hex("rest"));
            let table = self.quoted(table);
            statements.push(if self.is_history {
                format!("SELECT 'h', {id}, {identity}, {bytes}, {rest}, op FROM {table} ORDER BY {identity}, epoch, lsn, idx")
            } else {
                format!("SELECT 'd', {id}, {identity}, {bytes}, {rest} FROM {table}")
            });
            names.insert(id.clone(), name);
        }
        statements.push(format!(
            "SELECT 'r', file_id, id, {} FROM counterfoil_residue",
            self.hex("bytes")
        ));
        let mut mirrored: BTreeMap<String, Mirrored> = BTreeMap::new();
        let mut second = Vec::new();
        for row in self.query(servers, &statements)? {
            let name = names.get(row.get(1).map_or("", String::as_str));
            let name = name.context("the files changed while they were read")?;
            let file = mirrored.entry(name.clone()).or_default();
            let words: Vec<&str> = row.iter().map(String::as_str).collect();
            match words[..] {
                ["f", _, _, _, size] => {
                    file.size = size.parse()?;
                    second.push(row);
                }
                ["d", _, id, data, rest] | ["h", _, id, data, rest, "put"] => {
                    file.rows.insert(id.parse()?, (unhex(data)?, unhex(rest)?));
                }
                ["h", _, id, .., "delete"] => {
                    file.rows.remove(&id.parse()?);
                }
                ["r", _, id, bytes] => {
                    file.residue.insert(id.parse()?, unhex(bytes)?);
                }
                _ => bail!("a row is {row:?}"),
            }
        }
        ensure!(first == second, "the files changed while they were read");
        Ok(mirrored)
    }

    /// Where it is a history: which changes of shared files, all of which are different, are there twice in a row.
    pub(super) fn repetitions(&self) -> Result<Vec<String>> {
        let (true, Place::Sqlite(path)) = (self.is_history, &self.place) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for (table, identity) in [("shared_dat", "record_number"), ("shared_log", "address")] {
            let sql = format!(
                "SELECT '{table}', {identity}, epoch, lsn, idx FROM (SELECT *, \
                 lag(op) OVER w AS former_op, lag(data) OVER w AS former FROM {table} \
                 WINDOW w AS (PARTITION BY {identity} ORDER BY epoch, lsn, idx)) \
                 WHERE op = former_op AND data IS former"
            );
            let rows = query_sqlite(path, &[sql])?;
            found.extend(rows.iter().map(|row| row.join("/")));
        }
        Ok(found)
    }

    /// Everything that it has, as text, for whoever looks at a round that failed.
    pub(super) fn dump(&self, servers: &Servers, data: &Path, files: &CapturedFiles) -> String {
        match self.read(servers, data, files) {
            Ok(mirrored) => format!("{mirrored:#?}"),
            Err(error) => format!("{error:#}"),
        }
    }
}

fn query_sqlite(path: &Path, statements: &[String]) -> Result<Vec<Vec<String>>> {
    let reading = || format!("reading {}", path.display());
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .with_context(reading)?;
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .with_context(reading)?;
    let transaction = connection.transaction().with_context(reading)?;
    let mut rows = Vec::new();
    for sql in statements {
        let mut statement = transaction.prepare(sql).with_context(reading)?;
        let columns = statement.column_count();
        let mut found = statement.query([]).with_context(reading)?;
        while let Some(row) = found.next().with_context(reading)? {
            let field = |index| match row.get_ref(index) {
                Ok(rusqlite::types::ValueRef::Integer(number)) => Ok(number.to_string()),
                Ok(rusqlite::types::ValueRef::Text(text)) => {
                    Ok(String::from_utf8_lossy(text).into_owned())
                }
                other => bail!("a field is {other:?}"),
            };
            rows.push((0..columns).map(field).collect::<Result<_>>()?);
        }
    }
    Ok(rows)
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok();
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .with_context(|| format!("{text:?} isn't hexadecimal"))
        })
        .collect()
}

/// That rows are what a plain decoder finds in the file's bytes, and that rows, rests and residue give the bytes back.
fn compare_rows(shape: Shape, bytes: &[u8], mirrored: &Mirrored) -> Result<()> {
    let mut built = vec![0; mirrored.size];
    let mut put = |at: u64, parts: &[&[u8]]| -> Result<()> {
        let content = parts.concat();
        let from = at as usize;
        let place = built.get_mut(from..from + content.len());
        place
            .with_context(|| {
                format!(
                    "{} bytes at {at} aren't within the {} of the file",
                    content.len(),
                    mirrored.size
                )
            })?
            .copy_from_slice(&content);
        Ok(())
    };
    let place = |id: u64| match shape {
        Shape::Fixed { size } => id.saturating_sub(1) * size as u64,
        Shape::Relative { size } => id.saturating_sub(1) * (8 + size as u64),
        Shape::Variable { .. } | Shape::Lines => id,
        Shape::Blocks { size } => id * size as u64,
    };
    for (&id, (data, rest)) in &mirrored.rows {
        let length = data.len() as u64;
        let before: Vec<u8> = match shape {
            Shape::Relative { .. } => length.to_le_bytes().to_vec(),
            Shape::Variable {
                varseq_format: 0, ..
            } => [&length.to_be_bytes()[6..], &[0, 0]].concat(),
            Shape::Variable {
                varseq_format: 1, ..
            } => length.to_be_bytes()[4..].to_vec(),
            Shape::Variable {
                varseq_format: 2, ..
            } => length.to_le_bytes()[..4].to_vec(),
            Shape::Variable { .. } => length.to_be_bytes()[6..].to_vec(),
            _ => Vec::new(),
        };
        let after: &[u8] = if shape == Shape::Lines { b"\n" } else { b"" };
        put(place(id), &[&before, data, rest, after])?;
    }
    for (&id, content) in &mirrored.residue {
        put(place(id), &[content])?;
    }
    if built != bytes {
        let at = built
            .iter()
            .zip(bytes)
            .position(|(theirs, ours)| theirs != ours);
        bail!(
            "it has {} bytes, and they differ from byte {at:?} on",
            built.len()
        );
    }
    let expected = decode(shape, bytes);
    let is_certain = |id: &u64| expected.certain_to.is_none_or(|limit| *id < limit);
    let theirs = mirrored.rows.iter().filter(|(id, _)| is_certain(id));
    let theirs = theirs.map(|(id, (data, _))| (id, data));
    let ours = expected.rows.iter().filter(|(id, _)| is_certain(id));
    if let Some((theirs, ours)) = theirs
        .clone()
        .zip(ours.clone())
        .find(|(theirs, ours)| theirs != ours)
    {
        bail!("the row {theirs:?} isn't the record {ours:?}");
    }
    let (theirs, ours) = (theirs.count(), ours.count());
    ensure!(
        theirs == ours,
        "there are {theirs} rows, but {ours} records"
    );
    Ok(())
}

fn compare_files(mirror: &Path, files: &CapturedFiles) -> Result<u64> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(mirror) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    for entry in entries.with_context(|| format!("listing {}", mirror.display()))? {
        names.push(entry.file_name().display().to_string());
    }
    names.sort();
    ensure!(
        names.iter().eq(files.keys()),
        "the files are {:?}, but the mirror has {names:?}",
        files.keys()
    );
    for (name, (_, bytes)) in files {
        let path = mirror.join(name);
        let theirs = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if theirs != *bytes {
            let at = theirs
                .iter()
                .zip(bytes)
                .position(|(theirs, ours)| theirs != ours);
            bail!(
                "{name} has {} bytes, its mirror {}, and they differ from byte {at:?} on",
                bytes.len(),
                theirs.len()
            );
        }
    }
    Ok(files.len() as u64)
}

/// The positions that the catalogue of a files sink has, by its description in docs/files.md.
fn catalogue_positions(path: &Path) -> Result<BTreeMap<String, Position>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut positions = BTreeMap::new();
    let mut rest = bytes
        .strip_prefix(b"CFLFCAT")
        .and_then(|bytes| bytes.get(1..))
        .context("no catalogue")?;
    // What is half written at the end doesn't count.
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let (Some((kind, after)), true) = (after.split_first(), after.len() >= length + 5) else {
            break;
        };
        let (payload, after) = after.split_at(length);
        if *kind == 3 {
            let (length, payload) = payload.split_first_chunk().context("a mark is too short")?;
            let (stream, payload) = payload
                .split_at_checked(u32::from_le_bytes(*length) as usize)
                .context("a mark is too short")?;
            let number = |from: usize| -> Result<u64> {
                let bytes = payload.get(from..).and_then(|bytes| bytes.first_chunk());
                Ok(u64::from_le_bytes(*bytes.context("a mark is too short")?))
            };
            let index = payload.get(16..).and_then(|bytes| bytes.first_chunk());
            let index = u32::from_le_bytes(*index.context("a mark is too short")?);
            let stream = String::from_utf8_lossy(stream).into_owned();
            positions.insert(stream, (number(0)?, number(8)?, u64::from(index)));
        }
        rest = &after[4..];
    }
    Ok(positions)
}

/// The captured files that there are.
pub(super) fn captured_files(
    data: &Path,
    shape_of: &dyn Fn(&str) -> Option<Shape>,
) -> Result<CapturedFiles> {
    let mut files = CapturedFiles::new();
    for entry in std::fs::read_dir(data).with_context(|| format!("listing {}", data.display()))? {
        let entry = entry.with_context(|| format!("listing {}", data.display()))?;
        let name = String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned();
        if let Some(shape) = shape_of(&name) {
            let content = std::fs::read(entry.path()).with_context(|| format!("reading {name}"))?;
            files.insert(name, (shape, content));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The comparison sees a row that is wrong, missing, or too many, residue that is, and a size.
    #[test]
    fn differences_are_seen() {
        let bytes = b"one\ntwo\r\nthr";
        let right = Mirrored {
            rows: BTreeMap::from([
                (0, (b"one".to_vec(), Vec::new())),
                (4, (b"two".to_vec(), b"\r".to_vec())),
            ]),
            residue: BTreeMap::from([(9, b"thr".to_vec())]),
            size: 12,
        };
        let equal = |mirrored: &Mirrored| compare_rows(Shape::Lines, bytes, mirrored).is_ok();
        assert!(equal(&right));
        let changes: [fn(&mut Mirrored); 6] = [
            |it| it.size = 13,
            |it| it.residue.clear(),
            |it| drop(it.rows.remove(&4)),
            |it| drop(it.rows.insert(0, (b"0ne".to_vec(), Vec::new()))),
            |it| drop(it.rows.insert(4, (b"two\r".to_vec(), Vec::new()))),
            |it| {
                it.residue.clear();
                it.rows.insert(9, (b"th".to_vec(), Vec::new()));
            },
        ];
        for change in changes {
            let mut wrong = right.clone();
            change(&mut wrong);
            assert!(!equal(&wrong), "{wrong:?}");
        }
    }
}
