//! The wire form of events: to `counterfoil.v1.ChangeEvent` and back.
//!
//! Both ways are total. What is encoded is decoded to the same event; bytes that anybody may have put on a topic lead to
//! an event or to an error that says what is wrong with them, never to a panic.

use crate::capture::operation::{Attributes, FileKind};
use crate::digest::{self, Digest};
use crate::event::{Change, Checksum, Event, RecordImage};
use crate::typed::TypedSchemas;
use counterfoil_proto::{Position, path_text, v1};
use counterfoil_records::{LayoutWords, Organization, RecordFormat, VarseqFormat};
use counterfoil_sinks::{FileDescription, FileSchema};
use prost::Message as _;
use std::collections::HashMap;
use std::sync::Arc;

/// Files whose descriptions a decoder remembers, so that events of a file share one.
const FILES_REMEMBERED_MAX: usize = 4096;

/// Why a message is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct WireError {
    what: String,
}

fn wrong(what: impl Into<String>) -> WireError {
    WireError { what: what.into() }
}

/// Who sends: the same for all events of a session of one stream.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Name of the site.
    pub site: String,
    /// Name of the consistency group.
    pub group: String,
    /// Name of the production host.
    pub host: String,
    /// Number of the session; grows from run to run.
    pub session: u64,
    /// What makes columns of records; without it, images aren't typed.
    pub typed: Option<TypedSchemas>,
}

/// An event's place in its unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The unit.
    pub unit: u64,
    /// How many events the unit has; on its last event only.
    pub last_of: Option<u32>,
}

/// A message as an applier gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Site and group, as `site/group`.
    pub stream: String,
    /// Session of the publisher that sent it.
    pub session: u64,
    /// Where it stands.
    pub position: Position,
    /// Where the event before it stands, on whichever partition.
    pub previous: Option<Position>,
    /// Its place in a unit of several events.
    pub place: Option<Place>,
    /// What it says.
    pub content: Content,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Something happened to a file.
    Event(Event),
    /// A session begins. `fresh`: everything is read again from here on.
    Session {
        /// A target may begin here.
        fresh: bool,
    },
    /// Something that this version has nothing to do for.
    Other,
}

impl Received {
    /// Whether it is of the stream whose topic it stands on.
    ///
    /// # Errors
    /// It isn't, and what to do.
    pub fn check_stream(&self, stream: &str) -> Result<(), String> {
        if self.stream == stream {
            return Ok(());
        }
        Err(format!(
            "it is of the stream {}, not of {stream}; give one of them another topic_prefix",
            self.stream
        ))
    }
}

impl Sender {
    fn source(&self, pid: u32) -> v1::Source {
        v1::Source {
            site: self.site.clone(),
            group: self.group.clone(),
            host: self.host.clone(),
            program: String::new(),
            pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            session: self.session,
        }
    }

    /// An event's message. `opened_by` is what held its unit together.
    pub fn event(
        &self,
        event: &Event,
        place: Option<Place>,
        opened_by: v1::UnitKind,
    ) -> v1::ChangeEvent {
        let mut message = v1::ChangeEvent {
            source: Some(self.source(event.pid)),
            position: Some(event.position.into()),
            unit: place.map(|place| v1::UnitOfWork {
                id: place.unit,
                opened_by: opened_by.into(),
                last: place.last_of.is_some(),
                events: place.last_of.unwrap_or(0),
            }),
            file: Some(file(&event.file, event.size)),
            snapshot: event.snapshot,
            captured_at_ns: event.captured_ns,
            before: event
                .before
                .as_ref()
                .map(|before| self.image(&event.file, &before.data, &before.rest)),
            ..v1::ChangeEvent::default()
        };
        let op = match &event.change {
            Change::Created => v1::Op::Created,
            Change::Put { id, data, rest } => {
                message.record = *id;
                message.after = Some(self.image(&event.file, data, rest));
                v1::Op::Put
            }
            Change::Residue { id, bytes, reason } => {
                message.record = *id;
                message.after = Some(v1::Image {
                    data: bytes.clone(),
                    reason: reason.clone().into_owned(),
                    ..v1::Image::default()
                });
                v1::Op::Residue
            }
            Change::Absent { id } => {
                message.record = *id;
                v1::Op::Delete
            }
            Change::Cleared { from, to } => {
                let open = *to == u64::MAX;
                message.range = Some(v1::Range {
                    begin: *from,
                    end: (!open).then_some(*to),
                });
                if open {
                    v1::Op::Truncate
                } else {
                    v1::Op::ReplaceRange
                }
            }
            Change::Renamed { from } => {
                message.renamed_from = from.path.clone();
                v1::Op::Renamed
            }
            Change::Removed => v1::Op::Removed,
            Change::Attributes(attributes) => {
                if let Some(file) = &mut message.file {
                    file.attributes = Some(v1::Attributes {
                        mode: Some(attributes.mode),
                        uid: Some(attributes.uid),
                        gid: Some(attributes.gid),
                        modified_ns: (attributes.modified_ns != 0)
                            .then_some(attributes.modified_ns),
                        kind: match attributes.kind {
                            FileKind::Regular => v1::FileKind::Regular,
                            FileKind::Directory => v1::FileKind::Directory,
                            FileKind::Link => v1::FileKind::Link,
                        }
                        .into(),
                    });
                }
                v1::Op::Attributes
            }
            Change::Checksum(checksum) => {
                message.range = Some(v1::Range {
                    begin: checksum.from,
                    end: (checksum.to != u64::MAX).then_some(checksum.to),
                });
                message.checksum = Some(sum(checksum));
                v1::Op::Checksum
            }
        };
        message.op = op.into();
        message
    }

    /// A record, with its columns where they are known.
    fn image(&self, file: &FileDescription, data: &[u8], rest: &[u8]) -> v1::Image {
        let typed = self.typed.as_ref();
        let encoded = typed.and_then(|typed| typed.encode(file, data));
        let encoded = encoded.unwrap_or_default();
        v1::Image {
            data: data.to_vec(),
            rest: rest.to_vec(),
            typed: encoded.bytes,
            reason: encoded.reason,
        }
    }

    /// The message that begins the session.
    pub fn begin(&self, position: Position, fresh: bool, at_ns: i64) -> v1::ChangeEvent {
        v1::ChangeEvent {
            source: Some(self.source(std::process::id())),
            position: Some(position.into()),
            op: v1::Op::Heartbeat.into(),
            snapshot: fresh,
            captured_at_ns: at_ns,
            ..v1::ChangeEvent::default()
        }
    }
}

/// What a range amounts to, as a message.
fn sum(checksum: &Checksum) -> v1::Checksum {
    let mut sum = v1::Checksum {
        algorithm: digest::ALGORITHM.to_owned(),
        round: checksum.round,
        number: checksum.number,
        last: checksum.last,
        ..v1::Checksum::default()
    };
    if let Some(digest) = checksum.digest {
        sum.digest = digest.sum.to_be_bytes().to_vec();
        sum.records = digest.records;
        sum.residues = digest.residues;
    }
    sum
}

/// What a message says that a range amounts to. `None`: in a way that this version doesn't know.
fn checksum(range: v1::Range, sum: &v1::Checksum) -> Result<Option<Checksum>, WireError> {
    if sum.algorithm != digest::ALGORITHM {
        return Ok(None);
    }
    let digest = match <[u8; 16]>::try_from(sum.digest.as_slice()) {
        Ok(bytes) => Some(Digest {
            sum: u128::from_be_bytes(bytes),
            records: sum.records,
            residues: sum.residues,
        }),
        Err(_) if sum.digest.is_empty() => None,
        Err(_) => {
            return Err(wrong(format!(
                "its digest has {} bytes, and one of {} has 16",
                sum.digest.len(),
                digest::ALGORITHM
            )));
        }
    };
    let to = range.end.unwrap_or(u64::MAX);
    if range.begin > to {
        return Err(wrong(format!(
            "the range of its checksum ends at {to}, before it begins at {}",
            range.begin
        )));
    }
    Ok(Some(Checksum {
        from: range.begin,
        to,
        digest,
        round: sum.round,
        number: sum.number,
        last: sum.last,
    }))
}

/// A file as events speak of it.
pub(crate) fn file(file: &FileDescription, size: u64) -> v1::File {
    v1::File {
        path: file.path.clone(),
        path_text: path_text(&file.path),
        organization: organization(file.format.organization).into(),
        layout: file.format.layout_words().to_string(),
        record_size: file.format.record_size,
        varseq_format: file
            .format
            .varseq_format
            .map(|format| u32::from(u8::from(format))),
        schema_id: file
            .schema
            .as_ref()
            .map_or_else(String::new, |schema| schema.0.schema_id().to_owned()),
        size,
        attributes: None,
        table: file.table.clone().unwrap_or_default(),
        tree: file.tree.clone().unwrap_or_default(),
    }
}

fn organization(organization: Organization) -> v1::Organization {
    match organization {
        Organization::Fixed => v1::Organization::Fixed,
        Organization::Relative => v1::Organization::Relative,
        Organization::Sequential => v1::Organization::Sequential,
        Organization::Stream => v1::Organization::Stream,
        Organization::Static => v1::Organization::Static,
    }
}

/// The key of a message: the file's path as text for people, `#`, and the record's identity in decimal. Events of a whole
/// file have nothing after the `#`, those of a range its first identity and `+` (checksums: `=`), those of the stream no file either.
/// It never changes for a record, so it decides what compaction keeps and how others spread records.
pub fn key(message: &v1::ChangeEvent) -> String {
    let path = message
        .file
        .as_ref()
        .map_or("", |file| file.path_text.as_str());
    match (message.op(), &message.range) {
        (v1::Op::Put | v1::Op::Delete | v1::Op::Residue, _) => {
            format!("{path}#{}", message.record)
        }
        // It changes nothing, so it takes the place of nothing that does.
        (v1::Op::Checksum, Some(range)) => format!("{path}#{}=", range.begin),
        (_, Some(range)) => format!("{path}#{}+", range.begin),
        _ => format!("{path}#"),
    }
}

/// An event's bytes without what Confluent's wire format has before them, if it has. No event begins with a zero byte.
pub fn unframed(bytes: &[u8]) -> &[u8] {
    match bytes {
        // The index of the first message: no list at all, or a list of one that is zero.
        [0, _, _, _, _, 0, event @ ..] | [0, _, _, _, _, 2, 0, event @ ..] => event,
        other => other,
    }
}

/// Turns messages back into events.
#[derive(Debug, Default)]
pub struct Decoder {
    files: HashMap<Vec<u8>, Arc<FileDescription>>,
    /// What is in records, by the identity that events have of it.
    schemas: HashMap<String, FileSchema>,
}

impl Decoder {
    /// Files whose records have this schema are described with it from now on.
    pub fn learn(&mut self, schema: &FileSchema) {
        let id = schema.0.schema_id();
        if !self.schemas.contains_key(id) {
            self.schemas.insert(id.to_owned(), schema.clone());
        }
    }

    /// The event that a message's bytes are. `stream` is the index of its stream in the events to be.
    ///
    /// # Errors
    /// The bytes are no event, or one that can't be.
    pub fn decode(&mut self, bytes: &[u8], stream: u16) -> Result<Received, WireError> {
        let message = v1::ChangeEvent::decode(unframed(bytes))
            .map_err(|error| wrong(format!("it is no ChangeEvent: {error}")))?;
        self.receive(message, stream)
    }

    /// [`Decoder::decode`], of a message that is decoded as far as protobuf goes.
    pub fn receive(
        &mut self,
        mut message: v1::ChangeEvent,
        stream: u16,
    ) -> Result<Received, WireError> {
        let position: Position = message
            .position
            .ok_or_else(|| wrong("it has no position"))?
            .into();
        let source = message
            .source
            .take()
            .ok_or_else(|| wrong("it has no source"))?;
        let place = match message.unit {
            None => None,
            Some(v1::UnitOfWork {
                last: true,
                events: 0,
                ..
            }) => {
                return Err(wrong(
                    "it is the last event of a unit of work, but doesn't say of how many",
                ));
            }
            Some(unit) => Some(Place {
                unit: unit.id,
                last_of: unit.last.then_some(unit.events),
            }),
        };
        let received = |content| Received {
            stream: format!("{}/{}", source.site, source.group),
            session: source.session,
            position,
            previous: message.previous.map(Position::from),
            place,
            content,
        };
        let Ok(op) = v1::Op::try_from(message.op) else {
            return Ok(received(Content::Other));
        };
        let after = message.after.take();
        let image = || after.ok_or_else(|| wrong("it has no image"));
        let range = || message.range.ok_or_else(|| wrong("it has no range"));
        let change = match op {
            v1::Op::Unspecified => return Err(wrong("it doesn't say what happened")),
            v1::Op::Put => {
                let image = image()?;
                Change::Put {
                    id: message.record,
                    data: image.data,
                    rest: image.rest,
                }
            }
            v1::Op::Residue => {
                let image = image()?;
                Change::Residue {
                    id: message.record,
                    bytes: image.data,
                    reason: image.reason.into(),
                }
            }
            v1::Op::Delete => Change::Absent { id: message.record },
            v1::Op::Truncate => Change::Cleared {
                from: range()?.begin,
                to: u64::MAX,
            },
            v1::Op::ReplaceRange => {
                let range = range()?;
                Change::Cleared {
                    from: range.begin,
                    to: range.end.unwrap_or(u64::MAX),
                }
            }
            v1::Op::Created => Change::Created,
            v1::Op::Opened => Change::Cleared {
                from: 0,
                to: u64::MAX,
            },
            v1::Op::Removed => Change::Removed,
            v1::Op::Renamed => {
                let to = self.file(&message, &source.group)?;
                if message.renamed_from.is_empty() {
                    return Err(wrong("it doesn't say from what the file was renamed"));
                }
                Change::Renamed {
                    from: Arc::new(FileDescription {
                        path: message.renamed_from.clone(),
                        table: None,
                        ..(*to).clone()
                    }),
                }
            }
            v1::Op::Attributes => {
                let attributes = message.file.as_ref().and_then(|file| file.attributes);
                match attributes {
                    Some(v1::Attributes {
                        mode: Some(mode),
                        uid: Some(uid),
                        gid: Some(gid),
                        modified_ns,
                        kind,
                    }) => Change::Attributes(Attributes {
                        kind: match v1::FileKind::try_from(kind) {
                            Ok(v1::FileKind::Unspecified | v1::FileKind::Regular) => {
                                FileKind::Regular
                            }
                            Ok(v1::FileKind::Directory) => FileKind::Directory,
                            Ok(v1::FileKind::Link) => FileKind::Link,
                            Err(_) => {
                                return Err(wrong(format!(
                                    "its file is of the kind {kind}, which this version doesn't know"
                                )));
                            }
                        },
                        mode,
                        uid,
                        gid,
                        modified_ns: modified_ns.unwrap_or(0),
                    }),
                    _ => Change::Created,
                }
            }
            v1::Op::Checksum => {
                let sum = message.checksum.take();
                let sum = sum.ok_or_else(|| wrong("it has no checksum"))?;
                match checksum(range()?, &sum)? {
                    Some(checksum) => Change::Checksum(checksum),
                    None => return Ok(received(Content::Other)),
                }
            }
            v1::Op::Heartbeat => {
                return Ok(received(Content::Session {
                    fresh: message.snapshot,
                }));
            }
            v1::Op::UnitBegin
            | v1::Op::UnitCommit
            | v1::Op::UnitAbort
            | v1::Op::SnapshotBegin
            | v1::Op::SnapshotEnd => return Ok(received(Content::Other)),
        };
        let event = Event {
            position,
            group: stream,
            file: self.file(&message, &source.group)?,
            size: message.file.as_ref().map_or(0, |file| file.size),
            change,
            captured_ns: message.captured_at_ns,
            pid: source.pid,
            snapshot: message.snapshot,
            before: message.before.take().map(|image| RecordImage {
                data: image.data,
                rest: image.rest,
            }),
        };
        Ok(received(Content::Event(event)))
    }

    fn file(
        &mut self,
        message: &v1::ChangeEvent,
        group: &str,
    ) -> Result<Arc<FileDescription>, WireError> {
        let file = message
            .file
            .as_ref()
            .ok_or_else(|| wrong("it has no file"))?;
        if file.path.is_empty() {
            return Err(wrong("its file has no path"));
        }
        let of = |error: counterfoil_records::LayoutError| {
            wrong(format!(
                "its file {}: {error} (was it published by a newer version?)",
                path_text(&file.path)
            ))
        };
        let organization = match v1::Organization::try_from(file.organization) {
            Ok(v1::Organization::Fixed) => Organization::Fixed,
            Ok(v1::Organization::Relative) => Organization::Relative,
            Ok(v1::Organization::Sequential) => Organization::Sequential,
            Ok(v1::Organization::Stream) => Organization::Stream,
            Ok(v1::Organization::Static) => Organization::Static,
            Ok(v1::Organization::Unspecified) | Err(_) => {
                return Err(wrong(format!(
                    "its file {} has the organization {}, which this version doesn't know",
                    path_text(&file.path),
                    file.organization
                )));
            }
        };
        let words: LayoutWords = file.layout.parse().map_err(of)?;
        let format = RecordFormat {
            organization,
            layout: words.layout,
            settings: words.settings,
            record_size: file.record_size,
            varseq_format: match file.varseq_format {
                None => None,
                Some(number) => Some(
                    VarseqFormat::try_from(u8::try_from(number).unwrap_or(u8::MAX)).map_err(of)?,
                ),
            },
        };
        let table = (!file.table.is_empty()).then_some(file.table.as_str());
        let tree = (!file.tree.is_empty()).then_some(&file.tree);
        let schema = self.schemas.get(&file.schema_id);
        if let Some(known) = self.files.get(&file.path)
            && known.format == format
            && known.group == group
            && known.table.as_deref() == table
            && known.tree.as_ref() == tree
            && known.schema.as_ref() == schema
        {
            return Ok(Arc::clone(known));
        }
        format.codec().map_err(of)?;
        let description = Arc::new(FileDescription {
            path: file.path.clone(),
            group: group.to_owned(),
            format,
            table: table.map(str::to_owned),
            tree: tree.cloned(),
            schema: schema.cloned(),
            plan: None,
        });
        if self.files.len() >= FILES_REMEMBERED_MAX {
            self.files.clear();
        }
        self.files
            .insert(file.path.clone(), Arc::clone(&description));
        Ok(description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use counterfoil_records::Layout;
    use proptest::prelude::*;

    fn sender() -> Sender {
        Sender {
            site: "hq".to_owned(),
            group: "payments".to_owned(),
            host: "h".to_owned(),
            session: 9,
            typed: Some(TypedSchemas::default()),
        }
    }

    fn format() -> impl Strategy<Value = RecordFormat> {
        prop_oneof![
            (1..5000u64)
                .prop_map(|size| RecordFormat::new(Organization::Fixed, Layout::Plain)
                    .with_record_size(size)),
            (1..5000u64).prop_map(|size| RecordFormat::new(
                Organization::Relative,
                Layout::Gnucobol
            )
            .with_record_size(size)),
            (0..4u8).prop_map(|number| RecordFormat::new(
                Organization::Sequential,
                Layout::Gnucobol
            )
            .with_varseq_format(VarseqFormat::try_from(number).expect("0 to 3 exist"))),
            Just(RecordFormat::new(Organization::Stream, Layout::Newline)),
            Just(RecordFormat::STATIC),
            prop::sample::select(
                &["csv,quote=',header=record", "csv,delimiter=tab,skip=x'2c'"][..]
            )
            .prop_map(|words| {
                let words: LayoutWords = words.parse().expect("layout words");
                RecordFormat::new(Organization::Stream, words.layout).with_settings(words.settings)
            }),
        ]
    }

    fn description() -> impl Strategy<Value = FileDescription> {
        let path = proptest::collection::vec(any::<u8>(), 1..20);
        let table = proptest::option::of("[a-z]{1,8}");
        let tree = proptest::option::of(proptest::collection::vec(any::<u8>(), 1..9));
        (path, format(), table, tree).prop_map(|(path, format, table, tree)| FileDescription {
            path,
            group: "payments".to_owned(),
            format,
            table,
            tree,
            schema: None,
            plan: None,
        })
    }

    fn kind() -> impl Strategy<Value = FileKind> {
        prop_oneof![
            Just(FileKind::Regular),
            Just(FileKind::Directory),
            Just(FileKind::Link)
        ]
    }

    fn change(file: FileDescription) -> impl Strategy<Value = Change> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let from = proptest::collection::vec(any::<u8>(), 1..20);
        prop_oneof![
            Just(Change::Created),
            Just(Change::Removed),
            (any::<u64>(), bytes(), bytes()).prop_map(|(id, data, rest)| Change::Put {
                id,
                data,
                rest
            }),
            (any::<u64>(), bytes(), "[a-z ]{0,20}").prop_map(|(id, bytes, reason)| {
                Change::Residue {
                    id,
                    bytes,
                    reason: reason.into(),
                }
            }),
            any::<u64>().prop_map(|id| Change::Absent { id }),
            (any::<u64>(), any::<u64>()).prop_map(|(from, to)| Change::Cleared { from, to }),
            any::<u64>().prop_map(|from| Change::Cleared { from, to: u64::MAX }),
            from.prop_map(move |path| Change::Renamed {
                from: Arc::new(FileDescription {
                    path,
                    table: None,
                    ..file.clone()
                })
            }),
            (kind(), any::<[u32; 3]>(), any::<i64>()).prop_map(
                |(kind, [mode, uid, gid], modified_ns)| Change::Attributes(Attributes {
                    kind,
                    mode,
                    uid,
                    gid,
                    modified_ns
                })
            ),
            (
                any::<(u64, u64)>(),
                proptest::option::of(any::<(u128, u64, u64)>()),
                any::<(u64, u32, bool)>()
            )
                .prop_map(|((from, to), digest, (round, number, last))| {
                    let (from, to) = (from.min(to), from.max(to));
                    let digest = digest.map(|(sum, records, residues)| Digest {
                        sum,
                        records,
                        residues,
                    });
                    Change::Checksum(Checksum {
                        from,
                        to,
                        digest,
                        round,
                        number,
                        last,
                    })
                }),
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        description().prop_flat_map(|file| {
            let numbers = (
                any::<(u64, u64, u32)>(),
                any::<u64>(),
                any::<i64>(),
                any::<u32>(),
            );
            let before = proptest::option::of(
                any::<(Vec<u8>, Vec<u8>)>().prop_map(|(data, rest)| RecordImage { data, rest }),
            );
            (change(file.clone()), numbers, any::<bool>(), before).prop_map(
                move |(change, ((epoch, lsn, index), size, captured_ns, pid), snapshot, before)| {
                    Event {
                        position: Position { epoch, lsn, index },
                        group: 3,
                        file: Arc::new(file.clone()),
                        size,
                        change,
                        captured_ns,
                        pid,
                        snapshot,
                        before,
                    }
                },
            )
        })
    }

    fn place() -> impl Strategy<Value = Option<Place>> {
        proptest::option::of(
            (any::<u64>(), proptest::option::of(1..u32::MAX))
                .prop_map(|(unit, last_of)| Place { unit, last_of }),
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            event in event(),
            place in place(),
            previous in proptest::option::of(any::<(u64, u64, u32)>()),
        ) {
            let previous = previous.map(|(epoch, lsn, index)| Position { epoch, lsn, index });
            let message = v1::ChangeEvent {
                previous: previous.map(Into::into),
                ..sender().event(&event, place, v1::UnitKind::Lock)
            };
            let bytes = message.encode_to_vec();
            let received = Decoder::default().decode(&bytes, 3).expect("our own event");
            prop_assert_eq!(received, Received {
                stream: "hq/payments".to_owned(),
                session: 9,
                position: event.position,
                previous,
                place,
                content: Content::Event(event),
            });
        }

        /// Whatever stands on a topic: an answer, and no panic.
        #[test]
        fn any_bytes_get_an_answer(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            event in event(),
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut decoder = Decoder::default();
            let _ = decoder.decode(&bytes, 0);
            let mut damaged = sender().event(&event, None, v1::UnitKind::None).encode_to_vec();
            for (at, byte) in flips {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            let _ = decoder.decode(&damaged, 0);
        }

        /// A record's key is its own: no other record of any file has it.
        #[test]
        fn keys_tell_records_apart(
            a in description(), b in description(), records in any::<(u64, u64)>(),
        ) {
            let key_of = |file: &FileDescription, id| {
                let event = Event {
                    position: Position::default(), group: 0, file: Arc::new(file.clone()), size: 0,
                    change: Change::Absent { id }, captured_ns: 0, pid: 0, snapshot: false, before: None,
                };
                key(&sender().event(&event, None, v1::UnitKind::None))
            };
            prop_assert_eq!(
                key_of(&a, records.0) == key_of(&b, records.1),
                (&a.path, records.0) == (&b.path, records.1)
            );
            prop_assert_eq!(key_of(&a, records.0), key_of(&a, records.0));
        }
    }

    #[test]
    fn what_an_event_lacks_is_said() {
        let said = |message: v1::ChangeEvent| {
            let error = Decoder::default().receive(message, 0);
            error.expect_err("it lacks something").to_string()
        };
        let source = Some(sender().source(0));
        let position = Some(Position::default().into());
        assert_eq!(said(v1::ChangeEvent::default()), "it has no position");
        let bare = v1::ChangeEvent {
            source,
            position,
            op: v1::Op::Put.into(),
            ..v1::ChangeEvent::default()
        };
        assert_eq!(said(bare.clone()), "it has no image");
        let with_image = v1::ChangeEvent {
            after: Some(v1::Image::default()),
            ..bare
        };
        assert_eq!(said(with_image.clone()), "it has no file");
        let strange = v1::File {
            path: b"/a".to_vec(),
            organization: v1::Organization::Fixed.into(),
            layout: "spiral".to_owned(),
            ..v1::File::default()
        };
        let error = said(v1::ChangeEvent {
            file: Some(strange),
            ..with_image
        });
        assert!(error.contains("/a") && error.contains("spiral"), "{error}");
    }
}
