//! Verify: compare files with what a target has of them, piece by piece.
//!
//! Both sides are read as streams in order of identity, so memory stays bounded whatever the size. While a replicator
//! runs, it is asked to prove equality at a position first ([`online`]), and only what that leaves open is looked at. There,
//! a difference may only mean that a change is still on its way: what differs is looked at again until it no longer
//! does, or has stayed the same for [`Options::settle`]. A record that changes on both sides all the while is counted as
//! changing, not as different. Of what is in trees attributes are compared too (`entries`).

mod entries;
pub mod online;

use crate::config::Config;
use crate::verification::{NO_RAW, Tally};
use crate::words::hex;
use counterfoil_records::schema::Column;
use counterfoil_records::{Codec, PieceKind, Within};
use counterfoil_sinks::plan::rows::is_of_rows;
use counterfoil_sinks::{FileSchema, Image, Sink, SinkError, StoredFile};
use online::Proof;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Differences listed per file; all are counted.
pub const DIFFERENCES_MAX: usize = 100;
/// Ranges to mend that are told apart in a file; beyond that, all between the first and the last is told again.
const RANGES_MAX: usize = 10_000;
const READ_BYTES: usize = 1 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How to compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'o> {
    /// How long a difference must stay to count; zero when nothing is on its way.
    pub settle: Duration,
    /// What was proven already.
    pub proof: Option<&'o Proof>,
    /// Only these files.
    pub only: Option<&'o BTreeSet<Vec<u8>>>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything is equal.
    pub equal: bool,
    /// Each file of each sink.
    pub files: Vec<FileReport>,
}

/// What was found of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// The target.
    pub sink: String,
    /// The file, as text for people.
    pub path: String,
    /// The root directory of the tree it is in, if it is in one.
    pub tree: Option<String>,
    /// The table with its records.
    pub table: Option<String>,
    /// Records in the file.
    pub records: u64,
    /// Ranges that were compared at their position in the stream; 0: both sides were looked at instead.
    pub ranges: u64,
    /// Ranges of the file that weren't as they were captured, and were read again before.
    pub ranges_read_again: u64,
    /// Position of the target when it was read.
    pub position: Option<String>,
    /// File and target are the same.
    pub equal: bool,
    /// How many differences there are.
    pub different: u64,
    /// Records that changed on both sides all the while, so that nothing can be said of them.
    pub changing: u64,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// Why the file could not be compared, if it could not.
    pub error: Option<String>,
    /// Why there is nothing to compare it with, if there isn't. Such a file counts neither as equal nor as different.
    pub uncompared: Option<String>,
    /// The file's path as bytes, and the identities that the target is to be told again.
    #[serde(skip)]
    pub mend: (Vec<u8>, Vec<Range<u64>>),
}

/// How a record differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Identity of the record; `None` for the file itself.
    pub record: Option<u64>,
    /// What kind of difference.
    pub kind: Kind,
    /// First byte that differs, counted from the record's first byte on disk.
    pub first_difference: Option<u64>,
    /// The column that this byte belongs to, where the file's columns are known.
    pub column: Option<String>,
    /// Bytes of the file from there on, hexadecimal.
    pub file: String,
    /// Bytes of the target from there on, hexadecimal.
    pub target: String,
    /// All bytes that the file has of the record, hexadecimal, if it has any.
    pub file_image: Option<String>,
    /// All bytes that the target has of it.
    pub target_image: Option<String>,
}

/// Kinds of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Both sides have it, with other bytes.
    Differs,
    /// Only the file has it.
    MissingInTarget,
    /// Only the target has it.
    OnlyInTarget,
    /// The file's size is another than the target knows.
    Size,
    /// The target doesn't know the file.
    FileMissingInTarget,
    /// There is no such file (any more).
    FileMissing,
    /// What kind of file it is: a file, a directory or a link.
    FileKind,
    /// Its permissions.
    Mode,
    /// Its owner, or its group.
    Owner,
    /// Its time of modification.
    Modified,
}

impl Kind {
    /// What differs is no bytes of the file.
    fn is_told_in_words(self) -> bool {
        matches!(
            self,
            Kind::Size | Kind::FileKind | Kind::Mode | Kind::Owner | Kind::Modified
        )
    }
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The target can't be read.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The directories can't be looked through.
    #[error(transparent)]
    Scan(#[from] crate::config::ScanError),
}

/// Compares all files of the configuration with one target.
pub fn verify(
    config: &Config,
    name: &str,
    sink: &mut dyn Sink,
    options: Options<'_>,
    each: &mut dyn FnMut(&FileReport),
) -> Result<Vec<FileReport>, VerifyError> {
    let mut reports = Vec::new();
    let mut sinks = config.sinks.iter();
    let treatment = sinks.find(|sink| sink.name == name);
    let treatment = treatment.map(|sink| &sink.treatment);
    let is_meant = |path: &[u8]| {
        let tree = config.rule(path).and_then(|rule| rule.tree.as_ref());
        let tree = tree.map(|root| root.as_os_str().as_bytes());
        treatment.is_none_or(|treatment| treatment.takes(path, tree))
    };
    for group in 0..config.groups.len() {
        let stream = config.stream(group);
        let mut paths: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
        for found in config.scan() {
            let found = found?;
            let path = found.path.as_os_str().as_bytes();
            if config.rule_for(path).is_some_and(|(of, _)| of == group) && is_meant(path) {
                paths.insert(path.to_vec(), ());
            }
        }
        let mut tables = BTreeMap::new();
        for file in sink.files(&stream)? {
            // Tables in records are made of what is compared.
            if !is_of_rows(&file.description.path) {
                paths.insert(file.description.path.clone(), ());
                tables.insert(file.description.path, file.table);
            }
        }
        if let Some(only) = options.only {
            paths.retain(|path, ()| only.contains(path));
        }
        let mut unsettled = Vec::new();
        let mut keep = |mut report: FileReport| {
            report.sink = name.to_owned();
            each(&report);
            reports.push(report);
        };
        for path in paths.into_keys() {
            if config.is_static(&path) {
                let report = entries::compare(config, &stream, &path, sink)?;
                if report.equal || options.settle.is_zero() {
                    keep(report);
                } else {
                    unsettled.push((path, report));
                }
                continue;
            }
            let proof = options.proof;
            let read_again = proof.map_or(0, |proof| proof.ranges_read_again(&path));
            let report = match proof.and_then(|proof| proof.of(name, &path)) {
                Some(tally) => proven(&path, tables.remove(&path), tally),
                None => settled(config, &stream, &path, sink, options)?,
            };
            let is_busy = proof.is_some_and(|proof| proof.is_busy(name, &path));
            let report = match is_busy && report.different > 0 && report.error.is_none() {
                true => in_a_unit(report),
                false => report,
            };
            keep(FileReport {
                ranges_read_again: read_again,
                ..report
            });
        }
        entries::settle(config, &stream, unsettled, sink, options, &mut keep)?;
    }
    Ok(reports)
}

/// A file of which each round found that something was changing it: what differs may only not be complete.
fn in_a_unit(report: FileReport) -> FileReport {
    FileReport {
        error: Some(format!(
            "{} records are other than in the target, and each time something was changing the file: a unit of work that isn't \
             complete (`counterfoil status` shows those that last long); verify it again once it is",
            report.different
        )),
        changing: report.different,
        different: 0,
        differences: Vec::new(),
        mend: (report.mend.0, Vec::new()),
        ..report
    }
}

/// What there is to say of a file that a round found equal.
fn proven(path: &[u8], table: Option<String>, tally: &Tally) -> FileReport {
    FileReport {
        path: counterfoil_proto::path_text(path),
        table,
        records: tally.records,
        ranges: tally.ranges,
        position: Some(tally.position.clone()),
        equal: true,
        ..FileReport::default()
    }
}

/// A side's bytes of each record that differs.
type Sides = BTreeMap<Option<u64>, (Kind, Vec<u8>, Vec<u8>)>;

/// Compares a file until what differs has stayed the same.
fn settled(
    config: &Config,
    stream: &str,
    path: &[u8],
    sink: &mut dyn Sink,
    options: Options<'_>,
) -> Result<FileReport, VerifyError> {
    let (mut report, mut sides) = compare(config, stream, path, sink)?;
    let begun = Instant::now();
    let mut changing: BTreeMap<Option<u64>, bool> = BTreeMap::new();
    let is_settled =
        |report: &FileReport| report.equal || report.error.is_some() || report.uncompared.is_some();
    while !is_settled(&report) && begun.elapsed() < options.settle {
        std::thread::sleep(LOOK_AGAIN);
        let (again, sides_again) = compare(config, stream, path, sink)?;
        changing = sides_again
            .iter()
            .map(|(record, (_, file, target))| {
                let before = sides.get(record);
                let moved = before.is_none_or(|(_, file_before, target_before)| {
                    file_before != file || target_before != target
                });
                (
                    *record,
                    moved || before.is_some() && changing.get(record).copied().unwrap_or(false),
                )
            })
            .collect();
        (report, sides) = (again, sides_again);
    }
    let moving = |record: &Option<u64>| changing.get(record).copied().unwrap_or(false);
    report.changing = sides.keys().filter(|record| moving(record)).count() as u64;
    report.different -= report.changing.min(report.different);
    report
        .differences
        .retain(|difference| !moving(&difference.record));
    report.equal = report.different == 0 && report.error.is_none() && report.uncompared.is_none();
    Ok(report)
}

fn compare(
    config: &Config,
    stream: &str,
    path: &[u8],
    sink: &mut dyn Sink,
) -> Result<(FileReport, Sides), VerifyError> {
    let mut snapshot = sink.snapshot()?;
    let stored = snapshot.file(stream, path)?;
    let mut comparison = Comparison {
        schema: config.rule(path).and_then(|rule| rule.schema.clone()),
        report: FileReport {
            mend: (path.to_vec(), Vec::new()),
            path: counterfoil_proto::path_text(path),
            table: stored.as_ref().map(|file| file.table.clone()),
            position: snapshot
                .position(stream)?
                .map(|position| format!("{}/{}", position.epoch, position.lsn)),
            ..FileReport::default()
        },
        sides: Sides::new(),
    };
    let os_path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
    let codec = config
        .rule_for(path)
        .and_then(|(group, rule)| config.groups[group].files[rule].format.codec().ok());
    let (file, codec) = match (Pieces::open(&os_path, codec.as_deref()), codec.is_some()) {
        (Ok(file), true) => (file, ()),
        (Err(error), true) if error.kind() != io::ErrorKind::NotFound => {
            comparison.report.error = Some(format!("reading {}: {error}", os_path.display()));
            return Ok((comparison.report, comparison.sides));
        }
        _ => {
            comparison.differs(None, Kind::FileMissing, b"", b"");
            return Ok((comparison.report, comparison.sides));
        }
    };
    let () = codec;
    let Some(stored) = stored else {
        comparison.differs(None, Kind::FileMissingInTarget, b"", b"");
        return Ok((comparison.report, comparison.sides));
    };
    if !stored.shape.raw {
        comparison.report.uncompared = Some(NO_RAW.to_owned());
        return Ok((comparison.report, comparison.sides));
    }
    let mut file = file;
    let size = file.size;
    if let Err(error) = pieces(
        &mut comparison,
        &mut file,
        snapshot.as_mut(),
        stream,
        &stored,
    )? {
        comparison.report.error = Some(format!("reading {}: {error}", os_path.display()));
    } else if size != stored.attributes.size {
        let text = |size: u64| format!("{size} bytes").into_bytes();
        comparison.differs(None, Kind::Size, &text(size), &text(stored.attributes.size));
    }
    comparison.report.equal = comparison.report.different == 0 && comparison.report.error.is_none();
    Ok((comparison.report, comparison.sides))
}

/// Walks both sides in order of identity.
fn pieces(
    comparison: &mut Comparison,
    file: &mut Pieces<'_>,
    snapshot: &mut dyn counterfoil_sinks::Snapshot,
    stream: &str,
    stored: &StoredFile,
) -> Result<io::Result<()>, SinkError> {
    let mut failed = Ok(());
    snapshot.pieces(stream, &stored.description.path, &mut |there| {
        let target = on_disk(&there.image);
        loop {
            match file.peek() {
                Ok(Some(piece)) if piece.id < there.id => {
                    comparison.differs(Some(piece.id), Kind::MissingInTarget, &piece.bytes(), b"");
                    comparison.count(piece);
                    file.skip();
                }
                Ok(Some(piece)) if piece.id == there.id => {
                    if !piece.equals(&there.image) {
                        comparison.differs(Some(piece.id), Kind::Differs, &piece.bytes(), &target);
                    }
                    comparison.count(piece);
                    file.skip();
                    return true;
                }
                Ok(_) => {
                    comparison.differs(Some(there.id), Kind::OnlyInTarget, b"", &target);
                    return true;
                }
                Err(error) => {
                    failed = Err(error);
                    return false;
                }
            }
        }
    })?;
    while failed.is_ok() {
        match file.peek() {
            Ok(Some(piece)) => {
                comparison.differs(Some(piece.id), Kind::MissingInTarget, &piece.bytes(), b"");
                comparison.count(piece);
                file.skip();
            }
            Ok(None) => break,
            Err(error) => failed = Err(error),
        }
    }
    Ok(failed)
}

struct Comparison {
    schema: Option<FileSchema>,
    report: FileReport,
    sides: Sides,
}

impl Comparison {
    fn count(&mut self, piece: &Owned) {
        self.report.records += u64::from(piece.is_record);
    }

    /// The column that a byte of a record belongs to. Where several ways to see it have it, one that always holds.
    fn column_at(&self, at: usize) -> Option<String> {
        let schema = &self.schema.as_ref()?.0;
        let has = |column: &&Column| {
            let begin = column.offset.map_or(usize::MAX, |offset| offset as usize);
            begin <= at && at < begin.saturating_add(column.len as usize)
        };
        let of = |column: &Column| column.name.clone();
        let mut columns = schema.columns().iter().filter(has).peekable();
        let first = columns.peek().map(|column| of(column));
        columns
            .find(|column| column.when.is_empty())
            .map(of)
            .or(first)
    }

    fn differs(&mut self, record: Option<u64>, kind: Kind, file: &[u8], target: &[u8]) {
        self.report.equal = false;
        self.report.different += 1;
        // What isn't about a record is settled by telling all of it.
        let ids = record.map_or(0..u64::MAX, |record| record..record.saturating_add(1));
        add_range(&mut self.report.mend.1, ids);
        if self.report.differences.len() < DIFFERENCES_MAX {
            let first = file
                .iter()
                .zip(target)
                .position(|(a, b)| a != b)
                .unwrap_or(file.len().min(target.len()));
            let text =
                |bytes: &[u8]| hex(&bytes[first.min(bytes.len())..bytes.len().min(first + 16)]);
            let whole = |bytes: &[u8]| (record.is_some() && !bytes.is_empty()).then(|| hex(bytes));
            self.report.differences.push(Difference {
                record,
                kind,
                first_difference: (kind == Kind::Differs).then_some(first as u64),
                column: (kind == Kind::Differs)
                    .then(|| self.column_at(first))
                    .flatten(),
                file: if kind.is_told_in_words() {
                    String::from_utf8_lossy(file).into_owned()
                } else {
                    text(file)
                },
                target: if kind.is_told_in_words() {
                    String::from_utf8_lossy(target).into_owned()
                } else {
                    text(target)
                },
                file_image: whole(file),
                target_image: whole(target),
            });
            self.sides
                .insert(record, (kind, file.to_vec(), target.to_vec()));
        }
    }
}

/// Adds a range behind the others, where that can be together with the last one; what is too much becomes one long range.
fn add_range(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end >= range.start && last.start <= range.start => {
            last.end = last.end.max(range.end);
        }
        _ => ranges.push(range),
    }
    if ranges.len() > RANGES_MAX
        && let Some(last) = ranges.pop()
    {
        ranges.truncate(1);
        ranges[0].end = last.end;
    }
}

fn on_disk(image: &Image) -> Vec<u8> {
    match image {
        Image::Record { data, rest } => [data.as_slice(), rest].concat(),
        Image::Residue { bytes, .. } => bytes.clone(),
        Image::Absent => Vec::new(),
    }
}

/// A piece with bytes of its own.
struct Owned {
    id: u64,
    is_record: bool,
    data: Vec<u8>,
    rest: Vec<u8>,
}

impl Owned {
    fn bytes(&self) -> Vec<u8> {
        [self.data.as_slice(), &self.rest].concat()
    }

    fn equals(&self, image: &Image) -> bool {
        match image {
            Image::Record { data, rest } => {
                self.is_record && *data == self.data && *rest == self.rest
            }
            Image::Residue { bytes, .. } => !self.is_record && *bytes == self.data,
            Image::Absent => false,
        }
    }
}

/// The pieces of a file, in order, without holes.
struct Pieces<'c> {
    file: File,
    codec: Option<&'c dyn Codec>,
    size: u64,
    /// Where the next byte to read lies, and what was read and not decoded.
    at: u64,
    buffer: Vec<u8>,
    /// What goes with where that begins.
    within: Within,
    ready: VecDeque<Owned>,
}

impl<'c> Pieces<'c> {
    fn open(path: &Path, codec: Option<&'c dyn Codec>) -> io::Result<Pieces<'c>> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Pieces::of(file, codec, size))
    }

    fn of(file: File, codec: Option<&'c dyn Codec>, size: u64) -> Pieces<'c> {
        Pieces {
            file,
            codec,
            size,
            at: 0,
            buffer: Vec::new(),
            within: Within::default(),
            ready: VecDeque::new(),
        }
    }

    fn peek(&mut self) -> io::Result<Option<&Owned>> {
        while self.ready.is_empty() && (self.at < self.size || !self.buffer.is_empty()) {
            self.fill()?;
        }
        Ok(self.ready.front())
    }

    fn skip(&mut self) {
        self.ready.pop_front();
    }

    fn fill(&mut self) -> io::Result<()> {
        let Some(codec) = self.codec else {
            self.at = self.size;
            self.buffer.clear();
            return Ok(());
        };
        let kept = self.buffer.len();
        let wanted = (self.size - self.at).min((READ_BYTES.max(kept)) as u64) as usize;
        // Into spare room: filling it with zeros first would take as long as reading it.
        let taken = (&self.file)
            .take(wanted as u64)
            .read_to_end(&mut self.buffer)?;
        let start = self.at - kept as u64;
        self.at += taken as u64;
        if taken < wanted {
            // It has become shorter meanwhile.
            self.size = self.at;
        }
        let ready = &mut self.ready;
        let behind = &mut self.within;
        let used = codec.decode_within(
            *behind,
            start,
            &self.buffer,
            self.at == self.size,
            &mut |piece| {
                *behind = piece.behind;
                match piece.kind {
                    PieceKind::Record { data, rest } => {
                        ready.push_back(Owned {
                            id: piece.id,
                            is_record: true,
                            data: data.to_vec(),
                            rest: rest.to_vec(),
                        });
                    }
                    PieceKind::Residue { bytes, .. } => {
                        ready.push_back(Owned {
                            id: piece.id,
                            is_record: false,
                            data: bytes.to_vec(),
                            rest: Vec::new(),
                        });
                    }
                    PieceKind::Empty => {}
                }
            },
        );
        self.buffer.drain(..used);
        Ok(())
    }
}
