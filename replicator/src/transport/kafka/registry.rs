//! Confluent's wire format: events that carry the number of their schema in a schema registry.
//!
//! A value is a zero byte, the schema's number in four bytes (big-endian), the index of the message in its schema, and the
//! event. The envelope is the first message of every schema, whose index is written as a single zero byte.
//!
//! Events of a file whose records have columns carry the number of the file's own schema, all others that of the generic one.
//! Both read the same bytes. By default the generic one has the subject `TOPIC-value` (TopicNameStrategy), and a file's own
//! `TOPIC-PACKAGE.ChangeEvent` (TopicRecordNameStrategy, as topics with events of several kinds have it).

use crate::config::{Config, Registry, SubjectNames};
use crate::typed::{TypedSchema, TypedSchemas};
use anyhow::{Context as _, Result, anyhow, bail};
use counterfoil_proto::EVENT_SCHEMA;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// How long a registry may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const CONTENT: &str = "application/vnd.schemaregistry.v1+json";
/// The full name of the generic envelope.
const ENVELOPE: &str = "counterfoil.v1.ChangeEvent";

/// Numbers of schemas by topic and [`counterfoil_proto::v1::File::schema_id`]; that of the generic one by an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaNumbers(BTreeMap<String, HashMap<String, u32>>);

impl SchemaNumbers {
    /// The number that events of a file carry.
    pub fn of(&self, topic: &str, schema_id: &str) -> Option<u32> {
        let topic = self.0.get(topic)?;
        topic.get(schema_id).or_else(|| topic.get("")).copied()
    }
}

/// What comes before an event of the schema with this number.
pub fn frame(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0, a, b, c, d, 0]
}

/// Looks up the schemas of all groups' topics, and registers those that aren't there where that is wanted.
///
/// # Errors
/// The registry doesn't answer, or refuses a schema; with what to do.
pub fn numbers(config: &Config, registry: &Registry, topics: &[String]) -> Result<SchemaNumbers> {
    let client = Client::new(registry)?;
    let typed = TypedSchemas::default();
    let mut numbers = SchemaNumbers::default();
    for (group, topic) in config.groups.iter().zip(topics) {
        let mut of_topic = HashMap::new();
        let subject = match registry.subject_names {
            SubjectNames::Topic => format!("{topic}-value"),
            SubjectNames::Record => ENVELOPE.to_owned(),
        };
        of_topic.insert(String::new(), client.number(&subject, EVENT_SCHEMA)?);
        for schema in group.files.iter().filter_map(|rule| rule.typed(&typed)) {
            if of_topic.contains_key(schema.schema_id()) {
                continue;
            }
            let subject = match registry.subject_names {
                SubjectNames::Topic => format!("{topic}-{}", record_name(&schema)),
                SubjectNames::Record => record_name(&schema),
            };
            let number = client.number(&subject, &schema.proto())?;
            of_topic.insert(schema.schema_id().to_owned(), number);
        }
        numbers.0.insert(topic.clone(), of_topic);
    }
    Ok(numbers)
}

fn record_name(schema: &Arc<TypedSchema>) -> String {
    format!("{}.ChangeEvent", schema.package())
}

struct Client<'r> {
    registry: &'r Registry,
    agent: Agent,
    authorization: Option<String>,
}

/// What a registry says: the status and the body.
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    fn message(&self) -> String {
        let message = self.body["message"].as_str().unwrap_or("it says nothing");
        format!("{} ({})", message, self.status)
    }
}

impl Client<'_> {
    fn new(registry: &Registry) -> Result<Client<'_>> {
        let mut config = Agent::config_builder()
            .timeout_global(Some(ANSWER_WITHIN))
            .http_status_as_error(false);
        if let Some(path) = &registry.ca {
            let pem = std::fs::read(path)
                .with_context(|| format!("reading the certificates in {}", path.display()))?;
            let roots: Vec<Certificate<'static>> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if roots.is_empty() {
                bail!("{} has no certificate in PEM", path.display());
            }
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&roots))
                .build();
            config = config.tls_config(tls);
        }
        let authorization = match &registry.username {
            None => None,
            Some(username) => {
                let password = match &registry.password_file {
                    None => String::new(),
                    Some(path) => std::fs::read_to_string(path)
                        .with_context(|| format!("reading the password in {}", path.display()))?,
                };
                let password = password.trim_end_matches(['\r', '\n']);
                let both = base64(format!("{username}:{password}").as_bytes());
                Some(format!("Basic {both}"))
            }
        };
        Ok(Client {
            registry,
            agent: config.build().into(),
            authorization,
        })
    }

    fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        let url = format!("{}{path}", self.registry.url.trim_end_matches('/'));
        let mut request = self
            .agent
            .post(&url)
            .header("Accept", CONTENT)
            .header("Content-Type", CONTENT);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let at = || format!("the schema registry at {}", self.registry.url);
        let mut response = request.send(body.to_string()).with_context(at)?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .with_context(at)?;
        if status == 401 || status == 403 {
            bail!(
                "{} doesn't let us in ({status}); look at `username` and `password_file` in [kafka.registry]",
                at()
            );
        }
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status >= 500 || body.is_null() {
            bail!("{} answers {status}: {}", at(), text.trim());
        }
        Ok(Answer { status, body })
    }

    /// The number of a schema under a subject.
    fn number(&self, subject: &str, schema: &str) -> Result<u32> {
        let body = json!({ "schemaType": "PROTOBUF", "schema": schema });
        let path = format!("/subjects/{}", escaped(subject));
        let found = self.post(&path, &body)?;
        if found.status == 200 {
            return number_in(&found).with_context(|| self.about(subject));
        }
        if found.status != 404 {
            bail!("{}: {}", self.about(subject), found.message());
        }
        if !self.registry.auto_register {
            bail!(
                "{}: this schema isn't registered there, and auto_register is false; register it (`counterfoil schema proto` prints it)",
                self.about(subject)
            );
        }
        let latest = format!(
            "/compatibility/subjects/{}/versions/latest?verbose=true",
            escaped(subject)
        );
        let compatible = self.post(&latest, &body)?;
        if compatible.status == 200 && compatible.body["is_compatible"] == json!(false) {
            return Err(self.incompatible(subject, &compatible.body["messages"]));
        }
        let registered = self.post(&format!("{path}/versions"), &body)?;
        match registered.status {
            200 => number_in(&registered).with_context(|| self.about(subject)),
            409 => Err(self.incompatible(subject, &registered.body["message"])),
            _ => bail!("{}: {}", self.about(subject), registered.message()),
        }
    }

    fn about(&self, subject: &str) -> String {
        format!(
            "the schema registry at {}, subject {subject}",
            self.registry.url
        )
    }

    fn incompatible(&self, subject: &str, why: &Value) -> anyhow::Error {
        anyhow!(
            "{}: the schema isn't compatible with the one that is registered ({why}); consumers that have it couldn't read what would be published: change the subject's compatibility if they are ready for it, or undo the change of the copybook",
            self.about(subject)
        )
    }
}

fn number_in(answer: &Answer) -> Result<u32> {
    let number = answer.body["id"].as_u64();
    number
        .and_then(|number| u32::try_from(number).ok())
        .context("it answers without a schema's number")
}

/// A subject as part of a path.
fn escaped(subject: &str) -> String {
    let mut text = String::new();
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                text.push(char::from(byte));
            }
            // Writing to a `String` can't fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            if digit <= three.len() {
                let index = bits >> (18 - 6 * digit) & 63;
                text.push(char::from(DIGITS[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_confluents_serializer_writes_them() {
        assert_eq!(frame(0x0102_0304), [0, 1, 2, 3, 4, 0]);
    }

    #[test]
    fn subjects_and_passwords_are_escaped() {
        assert_eq!(escaped("cf.hq.g-value"), "cf.hq.g-value");
        assert_eq!(escaped("a/b ü"), "a%2Fb%20%C3%BC");
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }
}
