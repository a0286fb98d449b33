//! The change event: its schema, the types generated from it, and what orders events.
//!
//! [`v1`] holds the types generated from `counterfoil/v1/event.proto`, which is [`EVENT_SCHEMA`];
//! the crate's README says how a consumer uses it. [`Position`] is what the rest of Counterfoil
//! works with; it converts to and from the generated [`v1::Position`].

mod path_text;
mod position;

pub use path_text::path_text;
pub use position::Position;

/// The change events, generated from `counterfoil/v1/event.proto`, whose comments say what each
/// field means.
pub mod v1 {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::semicolon_if_nothing_returned,
        rustdoc::all,
        reason = "generated code"
    )]
    include!(concat!(env!("OUT_DIR"), "/counterfoil.v1.rs"));
}

/// The text of `counterfoil/v1/event.proto`, for schema registries and for consumers.
pub const EVENT_SCHEMA: &str = include_str!("../counterfoil/v1/event.proto");

#[cfg(test)]
mod tests {
    use super::{EVENT_SCHEMA, v1};
    use prost::Message;

    fn event() -> v1::ChangeEvent {
        v1::ChangeEvent {
            position: Some(
                super::Position {
                    epoch: 2,
                    lsn: 7,
                    index: 1,
                }
                .into(),
            ),
            op: v1::Op::Put.into(),
            record: 5,
            after: Some(v1::Image {
                data: vec![0, 255],
                rest: vec![13],
                ..v1::Image::default()
            }),
            ..v1::ChangeEvent::default()
        }
    }

    #[test]
    fn an_event_survives_the_wire() {
        let bytes = event().encode_to_vec();
        assert_eq!(v1::ChangeEvent::decode(&bytes[..]), Ok(event()));
    }

    /// The bytes of an event as they were first published. A change of a field's number or type
    /// shows here, and would be read wrongly by everybody who has the schema of today.
    #[test]
    fn the_wire_format_stays() {
        let bytes = [
            0x12, 6, 0x08, 2, 0x10, 7, 0x18, 1, // position
            0x28, 1, // op
            0x30, 5, // record
            0x42, 7, 0x0a, 2, 0, 255, 0x12, 1, 13, // after
        ];
        assert_eq!(event().encode_to_vec(), bytes);
    }

    /// A consumer's schema for one file: [`v1::Image`], but with the columns' message in place.
    #[derive(Clone, PartialEq, Message)]
    struct CardImage {
        #[prost(bytes = "vec", tag = "1")]
        data: Vec<u8>,
        #[prost(message, optional, tag = "3")]
        typed: Option<Card>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Card {
        #[prost(string, tag = "1")]
        number: String,
        #[prost(int64, tag = "2")]
        balance: i64,
    }

    #[test]
    fn generic_and_typed_consumers_read_the_same_bytes() {
        let card = Card {
            number: "4000 0012".into(),
            balance: -15,
        };
        let image = v1::Image {
            data: b"raw".to_vec(),
            typed: card.encode_to_vec(),
            ..v1::Image::default()
        };
        let read = CardImage::decode(&image.encode_to_vec()[..]);
        assert_eq!(
            read,
            Ok(CardImage {
                data: b"raw".to_vec(),
                typed: Some(card)
            })
        );
    }

    /// Confluent's wire format names a message by its index in the file.
    #[test]
    fn the_envelope_comes_first() {
        let first = EVENT_SCHEMA
            .lines()
            .find(|line| line.starts_with("message "));
        assert_eq!(first, Some("message ChangeEvent {"));
    }
}

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
