//! A schema registry for tests: Confluent's HTTP interface over protobuf schemas, in memory.
//!
//! Faithful in what clients of ours and Confluent's see: subjects with versions, one number for one schema, lookup,
//! registration, compatibility (BACKWARD, as a registry has it unless told otherwise), a schema as the serialized descriptor
//! that Confluent's Python client asks for, error codes, passwords. What it isn't: durable, or fast.

use anyhow::{Context as _, Result};
use prost::Message as _;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const CONTENT: &str = "application/vnd.schemaregistry.v1+json";
/// The longest request that is read.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// A running registry; it ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stops: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    /// Schemas by number, from 1.
    schemas: Vec<Schema>,
    /// Versions of a subject, from 1, by the numbers of their schemas.
    subjects: BTreeMap<String, Vec<usize>>,
    /// What has to be in `Authorization`.
    authorization: Option<String>,
    /// What was asked: method and path.
    asked: Vec<String>,
}

#[derive(Debug)]
struct Schema {
    text: String,
    /// A serialized `FileDescriptorProto`.
    serialized: Vec<u8>,
    pool: DescriptorPool,
}

/// Status, the registry's own code of an error, and what goes with it.
type Refusal = (u16, u32, String);

impl Registry {
    /// Starts one on a free port. `authorization`: what requests have to bring, such as `Basic …`.
    pub fn start(authorization: Option<&str>) -> Result<Registry> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
        let address = listener.local_addr().context("asking for the port")?;
        let state = Arc::new(Mutex::new(State {
            authorization: authorization.map(str::to_owned),
            ..State::default()
        }));
        let stops = Arc::new(AtomicBool::new(false));
        let (of_thread, stop) = (Arc::clone(&state), Arc::clone(&stops));
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let state = Arc::clone(&of_thread);
                    if let Ok(stream) = stream {
                        // A client that goes away in the middle ends its own connection only.
                        std::thread::spawn(move || drop(serve(stream, &state)));
                    }
                }
            })
            .context("starting a thread")?;
        Ok(Registry {
            address,
            state,
            stops,
        })
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The subjects there are.
    pub fn subjects(&self) -> Vec<String> {
        self.state().subjects.keys().cloned().collect()
    }

    /// Registers a schema as somebody else would.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u64> {
        let registered = self.state().register(subject, schema);
        let registered = registered.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        Ok(registered as u64)
    }

    /// What was asked so far: method and path.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        // Wakes up the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// One connection: requests, one after the other.
fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let (mut length, mut authorization) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "authorization" => authorization = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        if length > REQUEST_BYTES_MAX {
            return writer.shutdown(Shutdown::Both);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = state.answer(&method, &target, authorization.as_deref(), &body);
        drop(state);
        let (status, answer) = match answer {
            Ok(answer) => (200, answer),
            Err((status, code, message)) => {
                (status, json!({ "error_code": code, "message": message }))
            }
        };
        let answer = answer.to_string();
        write!(
            writer,
            "HTTP/1.1 {status} -\r\nContent-Type: {CONTENT}\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
}

impl State {
    fn answer(
        &mut self,
        method: &str,
        target: &str,
        authorization: Option<&str>,
        body: &Value,
    ) -> Result<Value, Refusal> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.asked.push(format!("{method} {path}"));
        if self
            .authorization
            .as_deref()
            .is_some_and(|wanted| Some(wanted) != authorization)
        {
            return Err((401, 401, "Unauthorized".to_owned()));
        }
        let path: Vec<String> = path.trim_matches('/').split('/').map(unescaped).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let text = body["schema"].as_str().unwrap_or_default();
        match (method, path.as_slice()) {
            ("GET", ["subjects"]) => Ok(json!(self.subjects.keys().collect::<Vec<_>>())),
            ("POST", ["subjects", subject]) => self.look_up(subject, text),
            ("POST", ["subjects", subject, "versions"]) => {
                if body["schemaType"] != "PROTOBUF" {
                    return Err((422, 42201, "Invalid schema type".to_owned()));
                }
                let id = self.register(subject, text)?;
                Ok(json!({ "id": id }))
            }
            ("GET", ["subjects", subject, "versions", version]) => {
                let (version, id) = self.version(subject, version)?;
                let text = &self.schemas[id - 1].text;
                Ok(
                    json!({ "subject": subject, "version": version, "id": id, "schemaType": "PROTOBUF", "schema": text }),
                )
            }
            ("POST", ["compatibility", "subjects", subject, "versions", version]) => {
                let (_, id) = self.version(subject, version)?;
                let new = Schema::of(text)?;
                let messages = incompatibilities(&self.schemas[id - 1].pool, &new.pool);
                Ok(json!({ "is_compatible": messages.is_empty(), "messages": messages }))
            }
            ("GET", ["schemas", "ids", id]) => {
                let id: usize = id.parse().unwrap_or(0);
                let Some(schema) = id.checked_sub(1).and_then(|at| self.schemas.get(at)) else {
                    return Err((404, 40403, "Schema not found".to_owned()));
                };
                let shown = if query.split('&').any(|part| part == "format=serialized") {
                    base64(&schema.serialized)
                } else {
                    schema.text.clone()
                };
                Ok(json!({ "schemaType": "PROTOBUF", "schema": shown }))
            }
            _ => Err((404, 404, format!("HTTP 404 Not Found: {method} {target}"))),
        }
    }

    fn version(&self, subject: &str, version: &str) -> Result<(usize, usize), Refusal> {
        let Some(versions) = self.subjects.get(subject) else {
            return Err((404, 40401, format!("Subject '{subject}' not found.")));
        };
        let number = match version {
            "latest" => versions.len(),
            number => number.parse().unwrap_or(0),
        };
        let id = number.checked_sub(1).and_then(|at| versions.get(at));
        let id = id.ok_or((404, 40402, format!("Version {version} not found.")))?;
        Ok((number, *id))
    }

    fn look_up(&self, subject: &str, text: &str) -> Result<Value, Refusal> {
        self.version(subject, "latest")?;
        let known = (1..).zip(&self.subjects[subject]);
        let found = known
            .into_iter()
            .find(|(_, id)| self.schemas[**id - 1].text == text);
        let Some((version, id)) = found else {
            return Err((404, 40403, "Schema not found".to_owned()));
        };
        let version: usize = version;
        Ok(json!({ "subject": subject, "version": version, "id": id, "schema": text }))
    }

    fn register(&mut self, subject: &str, text: &str) -> Result<usize, Refusal> {
        let new = Schema::of(text)?;
        let versions = self.subjects.get(subject).cloned().unwrap_or_default();
        if let Some(known) = versions
            .iter()
            .find(|id| self.schemas[**id - 1].text == text)
        {
            return Ok(*known);
        }
        if let Some(latest) = versions.last() {
            let messages = incompatibilities(&self.schemas[latest - 1].pool, &new.pool);
            if !messages.is_empty() {
                let message = format!(
                    "Schema being registered is incompatible with an earlier schema for subject \"{subject}\", details: {messages:?}"
                );
                return Err((409, 409, message));
            }
        }
        let known = self.schemas.iter().position(|schema| schema.text == text);
        let id = known.unwrap_or_else(|| {
            self.schemas.push(new);
            self.schemas.len() - 1
        }) + 1;
        self.subjects
            .entry(subject.to_owned())
            .or_default()
            .push(id);
        Ok(id)
    }
}

impl Schema {
    fn of(text: &str) -> Result<Schema, Refusal> {
        let invalid = |why: String| (422, 42201, format!("Invalid schema: {why}"));
        let directory = tempfile::tempdir().map_err(|error| invalid(error.to_string()))?;
        let path = directory.path().join("schema.proto");
        std::fs::write(&path, text).map_err(|error| invalid(error.to_string()))?;
        let mut set = protox::compile([&path], [directory.path()])
            .map_err(|error| invalid(error.to_string()))?;
        for file in &mut set.file {
            file.source_code_info = None;
        }
        let serialized = set.file.last().map(|file| file.encode_to_vec());
        let pool = DescriptorPool::from_file_descriptor_set(set)
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Schema {
            text: text.to_owned(),
            serialized: serialized.unwrap_or_default(),
            pool,
        })
    }
}

/// What readers of the new schema couldn't read of what was written with the old one.
fn incompatibilities(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    for before in old.all_messages() {
        let Some(after) = new.get_message_by_name(before.full_name()) else {
            found.push(format!("MESSAGE_REMOVED: {}", before.full_name()));
            continue;
        };
        found.extend(in_message(&before, &after));
    }
    found
}

fn in_message(before: &MessageDescriptor, after: &MessageDescriptor) -> Vec<String> {
    let shape = |field: &FieldDescriptor| format!("{:?} {}", field.kind(), field.is_list());
    before
        .fields()
        .filter_map(|field| Some((after.get_field(field.number())?, field)))
        .filter(|(after, before)| shape(after) != shape(before))
        .map(|(_, field)| format!("FIELD_SCALAR_KIND_CHANGED: {}", field.full_name()))
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Base 64, as HTTP and JSON have it.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= three.len() {
                char::from(DIGITS[index])
            } else {
                '='
            });
        }
    }
    text
}
