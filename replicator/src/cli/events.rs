//! `counterfoil events`: what is on a topic.

use anyhow::{Context as _, Result, bail};
use counterfoil::config::{Config, Pattern};
use counterfoil::transport::kafka;
use counterfoil::transport::kafka::message::{op_name, time_text};
use counterfoil::transport::kafka::topics::{self, Marks, Range};
use counterfoil::transport::wire;
use counterfoil::typed::{TypedSchema, TypedSchemas};
use counterfoil::words::hex;
use counterfoil_lane::clock;
use counterfoil_proto::{Position, path_text, v1};
use prost::Message as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Bytes of a record's content that fit a line.
const SHOWN_BYTES: usize = 60;

/// Print the events on a topic
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A group of this site, a stream as SITE/GROUP, or a topic
    #[arg(value_name = "GROUP|TOPIC")]
    topic: String,
    /// Only of files that match: a path, or a name in any directory, wildcards as in the configuration
    #[arg(long, value_name = "PATTERN")]
    file: Option<String>,
    /// Only of the record with this identity
    #[arg(long, value_name = "N")]
    record: Option<u64>,
    /// Only what was captured since: 2026-01-31T08:00:00Z, or 90s, 10m, 2h, 7d ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what was captured before
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the last N messages of the topic, of each of its partitions
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// Print JSON, one event a line
    #[arg(long)]
    json: bool,
}

struct Filter {
    file: Option<Pattern>,
    record: Option<u64>,
    since_ns: i64,
    until_ns: i64,
}

pub(crate) fn run(args: &Args, config: &Path) -> Result<ExitCode> {
    let config = super::load(config)?;
    let Some(settings) = &config.kafka else {
        bail!(
            "{}: there is no [kafka], so there are no topics",
            config.path.display()
        );
    };
    let topic = topic(&config, &args.topic);
    let filter = Filter::of(args)?;
    let mut failed = anyhow::anyhow!("there is no route");
    for route in &settings.routes {
        let group = format!("{}.events", settings.topic_prefix);
        let (reader, told) = kafka::reader(settings, route, &group)?;
        match topics::partitions(&reader, &topic) {
            Ok(Some(count)) => {
                show(&reader, &topic, count, args, &filter, &config)?;
                return Ok(ExitCode::SUCCESS);
            }
            Ok(None) => bail!("there is no topic {topic}; it is made once something is captured"),
            Err(error) => {
                let why = kafka::reason(&reader, &told).unwrap_or_default();
                failed = error.context(format!("Kafka, route {}: {why}", route.name));
            }
        }
    }
    Err(failed)
}

/// The topic that somebody means.
fn topic(config: &Config, name: &str) -> String {
    let stream = match config.groups.iter().position(|group| group.name == name) {
        Some(group) => config.stream(group),
        None if name.contains('/') => name.to_owned(),
        None => return name.to_owned(),
    };
    config
        .kafka
        .as_ref()
        .map_or_else(|| name.to_owned(), |kafka| kafka.topic(&stream))
}

fn show(
    reader: &kafka::Reader,
    topic: &str,
    partitions: usize,
    args: &Args,
    filter: &Filter,
    config: &Config,
) -> Result<()> {
    let columns = Columns::of(config);
    let mut ranges = Vec::new();
    let marks = topics::marks(reader, topic, partitions)?;
    for (Marks { low, high }, partition) in marks.into_iter().zip(topics::numbers(partitions)) {
        let mut from = low;
        if args.since.is_some() {
            from = offset_at(reader, topic, partition, filter.since_ns)?.unwrap_or(high);
        }
        if let Some(last) = args.last {
            from = from.max(high.saturating_sub_unsigned(last));
        }
        ranges.push(Range {
            partition,
            from,
            to: (!args.follow).then_some(high),
        });
    }
    let mut problem = None;
    topics::messages(reader, topic, &ranges, &mut |message| {
        let Some((partition, offset, bytes)) = message else {
            return Ok(true);
        };
        let place = if partitions == 1 {
            offset.to_string()
        } else {
            format!("{partition}:{offset}")
        };
        // What isn't an event is shown too: that is what somebody may be looking for.
        let event = match v1::ChangeEvent::decode(wire::unframed(bytes)) {
            Ok(event) if !filter.wants(&event) => return Ok(true),
            Ok(event) => event,
            Err(error) => {
                println!("{place}: no event ({error}): {}", path_text(bytes));
                return Ok(true);
            }
        };
        let line = if args.json {
            as_json(partition, offset, &event, &columns).to_string()
        } else {
            as_line(place, &event)
        };
        use std::io::Write as _;
        problem = writeln!(std::io::stdout(), "{line}").err();
        Ok(problem.is_none())
    })?;
    problem.map_or(Ok(()), |error| Err(error).context("printing"))
}

fn offset_at(reader: &kafka::Reader, topic: &str, partition: i32, ns: i64) -> Result<Option<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(ns.max(0) / 1_000_000))
        .context("naming partitions")?;
    let found = reader
        .offsets_for_times(list, kafka::ANSWER_WITHIN)
        .with_context(|| format!("asking the topic {topic} where that time is"))?;
    Ok(found
        .elements()
        .first()
        .and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
}

impl Filter {
    fn of(args: &Args) -> Result<Filter> {
        let time = |text: &Option<String>, default| {
            text.as_deref()
                .map_or(Ok(default), |text| parse_time(text, clock::wall()))
        };
        Ok(Filter {
            file: match &args.file {
                Some(file) => Some(
                    Pattern::exclusion(&std::env::current_dir().unwrap_or_default(), file)
                        .map_err(anyhow::Error::msg)?,
                ),
                None => None,
            },
            record: args.record,
            since_ns: time(&args.since, i64::MIN)?,
            until_ns: time(&args.until, i64::MAX)?,
        })
    }

    fn wants(&self, event: &v1::ChangeEvent) -> bool {
        let wants_file = |pattern: &Pattern| {
            event
                .file
                .as_ref()
                .is_some_and(|file| pattern.matches(&file.path))
        };
        let wants_record = |record: u64| match (event.op(), &event.range) {
            (v1::Op::Put | v1::Op::Delete | v1::Op::Residue, _) => event.record == record,
            (_, Some(range)) => record >= range.begin && range.end.is_none_or(|end| record < end),
            _ => false,
        };
        self.file.as_ref().is_none_or(wants_file)
            && self.record.is_none_or(wants_record)
            && (self.since_ns..self.until_ns).contains(&event.captured_at_ns)
    }
}

/// A time as people type it, in nanoseconds since 1970.
fn parse_time(text: &str, now_ns: i64) -> Result<i64> {
    let help = || {
        format!(
            "{text:?} isn't a time; write 2026-01-31T08:00:00Z, or 90s, 10m, 2h or 7d for so long ago"
        )
    };
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return parse_rfc3339(text).with_context(help),
    };
    let count: i64 = text[..text.len() - 1].parse().ok().with_context(help)?;
    let ago = count.checked_mul(unit * 1_000_000_000).with_context(help)?;
    Ok(now_ns.saturating_sub(ago))
}

/// `2026-01-31T08:00:00Z`, with or without parts of a second.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let mut parts = text.split(separator).map(|part| part.parse().ok());
        let three = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(three)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    if !(1..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || !(0..24).contains(&hour)
        || !(0..60).contains(&minute)
        || !(0..=60).contains(&second)
        || fraction.len() > 9
    {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    // Years begin in March, so that the leap day is the last.
    let (y, m) = (year - i64::from(month <= 2), (month + 9) % 12);
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day
            - 1
            - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000_000_000 + second * 1_000_000_000 + nanos)
}

fn position(event: &v1::ChangeEvent) -> Position {
    event.position.unwrap_or_default().into()
}

fn as_line(place: String, event: &v1::ChangeEvent) -> String {
    let mut words = vec![
        place,
        time_text(event.captured_at_ns),
        position(event).to_string(),
        op_name(event.op()),
    ];
    if let Some(file) = &event.file {
        words.push(file.path_text.clone());
    }
    match (event.op(), &event.range) {
        (v1::Op::Put | v1::Op::Delete | v1::Op::Residue, _) => {
            words.push(format!("#{}", event.record));
        }
        (_, Some(range)) => words.push(format!(
            "#{}..{}",
            range.begin,
            range.end.map(|end| end.to_string()).unwrap_or_default()
        )),
        _ => {}
    }
    if !event.renamed_from.is_empty() {
        words.push(format!("from {}", path_text(&event.renamed_from)));
    }
    if let Some(image) = &event.after {
        let shown = &image.data[..image.data.len().min(SHOWN_BYTES)];
        let more = if shown.len() < image.data.len() {
            "…"
        } else {
            ""
        };
        words.push(format!(
            "{} bytes \"{}{more}\"",
            image.data.len(),
            path_text(shown)
        ));
    }
    if let Some(unit) = &event.unit {
        words.push(if unit.last {
            format!("[unit {}: {} events]", unit.id, unit.events)
        } else {
            format!("[unit {}]", unit.id)
        });
    }
    if event.snapshot {
        words.push("[read from the file]".to_owned());
    }
    words.join(" ")
}

fn bytes(data: &[u8]) -> Value {
    match std::str::from_utf8(data) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "hex": hex(data) }),
    }
}

/// The columns of files that this site's configuration has copybooks for.
struct Columns(Vec<Arc<TypedSchema>>);

impl Columns {
    fn of(config: &Config) -> Columns {
        let known = TypedSchemas::default();
        let rules = config.groups.iter().flat_map(|group| &group.files);
        Columns(rules.filter_map(|rule| rule.typed(&known)).collect())
    }

    /// A record's columns by name; those of an unknown schema as bytes.
    fn json(&self, schema_id: &str, typed: &[u8]) -> Value {
        let mut known = self.0.iter();
        known
            .find(|known| known.schema_id() == schema_id)
            .and_then(|known| known.read(typed).ok())
            .unwrap_or_else(|| bytes(typed))
    }
}

fn as_json(partition: i32, offset: i64, event: &v1::ChangeEvent, columns: &Columns) -> Value {
    let at = position(event);
    let source = event.source.clone().unwrap_or_default();
    let schema_id = event.file.as_ref().map_or("", |file| &file.schema_id);
    let image = |image: &Option<v1::Image>| {
        image.as_ref().map(|image| {
            json!({
                "columns": (!schema_id.is_empty()).then(|| columns.json(schema_id, &image.typed)),
                "data": bytes(&image.data),
                "rest": (!image.rest.is_empty()).then(|| bytes(&image.rest)),
                "reason": (!image.reason.is_empty()).then_some(&image.reason),
            })
        })
    };
    json!({
        "partition": partition,
        "offset": offset,
        "site": source.site,
        "group": source.group,
        "host": source.host,
        "pid": source.pid,
        "session": source.session,
        "position": { "epoch": at.epoch, "lsn": at.lsn, "index": at.index },
        "previous": event.previous.map(|previous| {
            json!({ "epoch": previous.epoch, "lsn": previous.lsn, "index": previous.index })
        }),
        "unit": event.unit.as_ref().map(|unit| {
            json!({ "id": unit.id, "last": unit.last, "events": unit.events })
        }),
        "op": op_name(event.op()),
        "file": event.file.as_ref().map(|file| file.path_text.clone()),
        "schema_id": (!schema_id.is_empty()).then_some(schema_id),
        "size": event.file.as_ref().map(|file| file.size),
        "record": matches!(event.op(), v1::Op::Put | v1::Op::Delete | v1::Op::Residue)
            .then_some(event.record),
        "range": event.range.as_ref().map(|range| json!({ "begin": range.begin, "end": range.end })),
        "renamed_from": (!event.renamed_from.is_empty()).then(|| path_text(&event.renamed_from)),
        "before": image(&event.before),
        "after": image(&event.after),
        "snapshot": event.snapshot,
        "captured_at": time_text(event.captured_at_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for ns in [0, 951_782_400_123_456_000, 1_767_225_599_000_000_000] {
            assert_eq!(parse_time(&time_text(ns), 0).expect("our own form"), ns);
        }
        assert_eq!(
            parse_time("10m", 700_000_000_000).expect("ten minutes"),
            100_000_000_000
        );
        assert!(parse_rfc3339("2026-02-03T04:05:06Z").is_some());
        for text in [
            "",
            "yesterday",
            "xm",
            "2026-13-01T00:00:00Z",
            "2026-01-31",
            "9223372036854775807d",
        ] {
            assert!(parse_time(text, 0).is_err(), "{text}");
        }
    }
}
