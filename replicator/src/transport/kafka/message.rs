//! How an event becomes messages, and messages an event.
//!
//! The value is the encoded event, the key its record's ([`wire::key`]), and headers say what a consumer needs to choose
//! events without decoding them. An event that is larger than a message may be comes in parts: messages one after the
//! other, each with a `chunk` header, whose values put together are the event.

use super::registry::{self, SchemaNumbers};
use crate::transport::wire;
use counterfoil_proto::{Position, v1};
use prost::Message as _;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use std::collections::BTreeMap;

/// Bytes of key and headers beside the value, at most; longer paths are rare, and then the broker says so.
const OVERHEAD_BYTES: usize = 2048;
/// Bytes that the parts of one event may have together.
const EVENT_BYTES_MAX: usize = 256 << 20;

/// A message to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// It has no value at all, which tells compaction to drop its key.
    pub is_tombstone: bool,
    /// Its headers.
    pub headers: OwnedHeaders,
    /// Its time, milliseconds since 1970.
    pub at_ms: i64,
}

/// The name of an operation as headers and people have it: `put`, `replace-range`.
pub fn op_name(op: v1::Op) -> String {
    let name = op.as_str_name();
    let name = name.strip_prefix("OP_").unwrap_or(name);
    let letter = |letter: char| match letter {
        '_' => '-',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(letter).collect()
}

/// A position as headers have it.
pub fn position_text(position: Position) -> String {
    format!("{}/{}/{}", position.epoch, position.lsn, position.index)
}

/// Seconds and nanoseconds as RFC 3339 has them, in UTC.
pub fn time_text(ns: i64) -> String {
    let (days, in_day) = (
        ns.div_euclid(86_400_000_000_000),
        ns.rem_euclid(86_400_000_000_000),
    );
    // Days to a date: by eras of 400 years that begin in March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (seconds, nanos) = (in_day / 1_000_000_000, in_day % 1_000_000_000);
    // Nanoseconds in 64 bits are years of four digits.
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let numbers = [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, seconds / 3600),
        (14..16, seconds / 60 % 60),
        (17..19, seconds % 60),
        (20..26, nanos / 1000),
    ];
    for (place, mut number) in numbers {
        for digit in text[place].iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// How events become messages.
#[derive(Clone, Debug)]
pub struct Form {
    /// The largest message, in bytes.
    pub bytes_max: usize,
    /// An event after which a record isn't there any more is followed by a message without a value.
    pub tombstones: bool,
    /// Numbers of schemas, where messages carry them.
    pub schemas: Option<SchemaNumbers>,
}

impl Form {
    /// The messages of an event on a topic, none larger than may be.
    pub fn outgoing(&self, topic: &str, event: &v1::ChangeEvent) -> Vec<Outgoing> {
        let schema_id = event.file.as_ref().map_or("", |file| &file.schema_id);
        let number = self
            .schemas
            .as_ref()
            .and_then(|schemas| schemas.of(topic, schema_id));
        let mut messages = framed(event, self.bytes_max, number);
        // Residue is what a deletion leaves in a slot.
        let is_gone = matches!(event.op(), v1::Op::Delete | v1::Op::Residue);
        if self.tombstones && is_gone {
            let tombstone = messages.last().map(|last| Outgoing {
                key: last.key.clone(),
                value: Vec::new(),
                is_tombstone: true,
                headers: last.headers.clone(),
                at_ms: last.at_ms,
            });
            messages.extend(tombstone);
        }
        messages
    }
}

/// The messages of an event as plain protobuf, none larger than `bytes_max`.
pub fn outgoing(event: &v1::ChangeEvent, bytes_max: usize) -> Vec<Outgoing> {
    framed(event, bytes_max, None)
}

fn framed(event: &v1::ChangeEvent, bytes_max: usize, schema: Option<u32>) -> Vec<Outgoing> {
    let key = wire::key(event);
    let mut value = schema.map_or_else(Vec::new, |number| registry::frame(number).to_vec());
    value.reserve_exact(event.encoded_len());
    // It grows, and never refuses.
    let _ = event.encode(&mut value);
    let op = op_name(event.op());
    let (site, group, session) = event.source.as_ref().map_or(("", "", 0), |source| {
        (source.site.as_str(), source.group.as_str(), source.session)
    });
    let position: Position = event.position.unwrap_or_default().into();
    let position_text = position_text(position);
    let id = [site, "/", group, "/", &position_text].concat();
    let origin = ["counterfoil:", site, "/", group].concat();
    let kind = ["counterfoil.v1.", &op].concat();
    let time = time_text(event.captured_at_ns);
    let (path, schema) = event.file.as_ref().map_or(("", ""), |file| {
        (file.path_text.as_str(), file.schema_id.as_str())
    });
    let named = [
        ("op", op.as_str()),
        ("file", path),
        ("position", &position_text),
        ("schema", schema),
        ("content-type", "application/protobuf"),
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_source", &origin),
        ("ce_type", &kind),
        ("ce_time", &time),
    ];
    let at_ms = event.captured_at_ns / 1_000_000;
    let headers = |chunk: Option<String>| {
        let mut headers = OwnedHeaders::new_with_capacity(named.len() + 1);
        for (key, value) in named.iter().filter(|(_, value)| !value.is_empty()) {
            headers = headers.insert(Header {
                key,
                value: Some(*value),
            });
        }
        match chunk {
            Some(chunk) => headers.insert(Header {
                key: "chunk",
                value: Some(&chunk),
            }),
            None => headers,
        }
    };
    let room = bytes_max
        .saturating_sub(key.len() + 2 * path.len() + OVERHEAD_BYTES)
        .max(1024);
    if value.len() <= room {
        return vec![Outgoing {
            key,
            value,
            is_tombstone: false,
            headers: headers(None),
            at_ms,
        }];
    }
    let count = value.len().div_ceil(room);
    value
        .chunks(room)
        .zip(0..)
        .map(|(part, number)| Outgoing {
            key: key.clone(),
            value: part.to_vec(),
            is_tombstone: false,
            headers: headers(Some(format!("{session}/{position_text}/{number}/{count}"))),
            at_ms,
        })
        .collect()
}

/// Puts the parts of large events together.
#[derive(Debug, Default)]
pub struct Parts {
    /// By session: what a replaced publisher still sends may lie in between.
    open: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    name: String,
    next: u64,
    count: u64,
    bytes: Vec<u8>,
}

impl Parts {
    /// Whether an event has begun and hasn't ended.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What sessions before this one have begun is never completed, or void.
    pub fn forget_before(&mut self, session: u64) {
        if !self.open.is_empty() {
            self.open = self.open.split_off(&session);
        }
    }

    /// The bytes of a whole event, when this message is one or is the last part of one. `None` also for a part that
    /// doesn't follow the one before: it was not sent to its end, and is sent again.
    ///
    /// # Errors
    /// The header isn't what a part has, or the event is larger than any can be.
    pub fn take(&mut self, chunk: Option<&str>, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Some(chunk) = chunk else {
            return Ok(Some(value.to_vec()));
        };
        let bad = || format!("its header `chunk` is {chunk:?}");
        let mut words = chunk.rsplitn(3, '/');
        let count: u64 = words
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(bad)?;
        let number: u64 = words
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(bad)?;
        let name = words.next().ok_or_else(bad)?;
        let session: u64 = name
            .split('/')
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(bad)?;
        if number >= count {
            return Err(bad());
        }
        if number == 0 {
            // An earlier session has no more to say once its successor sends, or what it says is void.
            self.open = self.open.split_off(&session);
            self.open.insert(
                session,
                Part {
                    name: name.to_owned(),
                    next: 0,
                    count,
                    bytes: Vec::new(),
                },
            );
        }
        let Some(part) = self.open.get_mut(&session) else {
            return Ok(None);
        };
        if part.name != name || part.next != number || part.count != count {
            self.open.remove(&session);
            return Ok(None);
        }
        if part.bytes.len() + value.len() > EVENT_BYTES_MAX {
            return Err(format!("its parts are more than {EVENT_BYTES_MAX} bytes"));
        }
        part.bytes.extend_from_slice(value);
        part.next += 1;
        if part.next < part.count {
            return Ok(None);
        }
        Ok(self.open.remove(&session).map(|part| part.bytes))
    }
}

/// A header's text.
pub fn header<'m, H: Headers>(headers: Option<&'m H>, name: &str) -> Option<&'m str> {
    headers?
        .iter()
        .find(|header| header.key == name)
        .and_then(|header| std::str::from_utf8(header.value?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_write_them() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            time_text(951_782_400_123_456_789),
            "2000-02-29T00:00:00.123456Z"
        );
        assert_eq!(
            time_text(1_767_225_599_000_000_000),
            "2025-12-31T23:59:59.000000Z"
        );
        assert_eq!(time_text(-1_000_000_000), "1969-12-31T23:59:59.000000Z");
    }

    fn large(session: u64, len: usize) -> v1::ChangeEvent {
        v1::ChangeEvent {
            source: Some(v1::Source {
                session,
                ..v1::Source::default()
            }),
            op: v1::Op::Put.into(),
            after: Some(v1::Image {
                data: (0..len).map(|i| i as u8).collect(),
                ..v1::Image::default()
            }),
            ..v1::ChangeEvent::default()
        }
    }

    #[test]
    fn an_event_in_parts_is_put_together_beside_those_of_a_replaced_publisher() {
        let (old, new) = (large(1, 100_000), large(2, 90_000));
        let mut parts = Parts::default();
        let (old_parts, new_parts) = (outgoing(&old, 16_384), outgoing(&new, 16_384));
        assert!(old_parts.len() > 3 && new_parts.iter().all(|part| part.value.len() <= 16_384));
        let mut whole = Vec::new();
        for (old, new) in old_parts.iter().zip(&new_parts) {
            for part in [new, old] {
                let chunk = header(Some(&part.headers), "chunk");
                whole.extend(parts.take(chunk, &part.value).expect("good parts"));
            }
        }
        assert!(whole.contains(&new.encode_to_vec()));
        assert!(parts.take(Some("1/3/2"), b"").is_err());
        assert!(parts.take(Some("x"), b"").is_err());
        // A part without those before it leads to nothing.
        let mut parts = Parts::default();
        let chunk = header(Some(&new_parts[1].headers), "chunk");
        assert_eq!(parts.take(chunk, &new_parts[1].value), Ok(None));
    }

    #[test]
    fn a_tombstone_follows_what_is_gone_and_nothing_else() {
        let form = |tombstones| Form {
            bytes_max: 1 << 20,
            tombstones,
            schemas: None,
        };
        for (op, is_gone) in [
            (v1::Op::Delete, true),
            (v1::Op::Residue, true),
            (v1::Op::Put, false),
            (v1::Op::Truncate, false),
        ] {
            let event = v1::ChangeEvent {
                op: op.into(),
                record: 7,
                ..large(1, 10)
            };
            assert_eq!(form(false).outgoing("t", &event).len(), 1);
            let messages = form(true).outgoing("t", &event);
            assert_eq!(messages.len(), 1 + usize::from(is_gone), "{op:?}");
            assert!(!messages[0].is_tombstone && !messages[0].value.is_empty());
            if let Some(tombstone) = messages.get(1) {
                assert!(tombstone.is_tombstone && tombstone.value.is_empty());
                assert_eq!(tombstone.key, messages[0].key);
            }
        }
    }
}
