//! From the file as written to a [`Config`]: defaults, absolute paths, and every check that needs
//! more than one value.

use super::error::{ConfigError, Problem, Source, file_problem};
use super::file::{
    AccessWord, ApplyTable, BacklogWord, File, FileTable, FilesTable, GroupTable, JournalTable,
    KafkaTable, MetricsTable, MysqlTable, OdbcTable, OrderingWord, PostgresTable, Setting,
    SinkTable, SinksTable, SiteTable, SqliteTable, SubjectNamesWord, TreeTable, UnavailableWord,
    UnitWord, VerifyTable, WireFormatWord,
};
use super::pattern::{Common, Pattern, common_path};
use super::sources;
use super::{
    Apply, Config, FileRule, Group, Journal, Kafka, LanesAccess, Listen, Load, Metrics, Ordering,
    Policy, Registry, Route, SinkConfig, Site, Sources, SubjectNames, Target, Treatment,
    Unavailable, UnitOfWork, Verify,
};
use counterfoil_records::schema::RecordSchema;
use counterfoil_records::{Organization, RECORD_SIZE_MAX, RecordFormat, VarseqFormat};
use counterfoil_sinks::mysql::Tls;
#[cfg(feature = "odbc")]
use counterfoil_sinks::odbc::{Dialect, OdbcConfig};
use counterfoil_sinks::{FileSchema, FilesConfig, MysqlConfig, PostgresConfig, SqliteConfig};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// A configuration file larger than this is a mix-up.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// An `include` that finds more files than this is a mix-up.
const INCLUDED_FILES_MAX: usize = 1000;
/// Names become parts of topic names, which Kafka limits to 249 characters.
const NAME_CHARS_MAX: usize = 100;
/// The shortest of the identifier limits of the databases that are targets (PostgreSQL's).
const TABLE_BYTES_MAX: usize = 63;
const PROBLEMS_MAX: usize = 20;
/// Where `run` and `capture` serve metrics: the port that OpenTelemetry's exporters for Prometheus have.
const METRICS_PORT: u16 = 9464;
/// Where `apply` does, which may be on the same host.
const METRICS_PORT_APPLY: u16 = 9465;

/// Settings of the client library that decide whether anything is lost or repeated, and secrets.
const CLIENT_RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "brokers are named in `routes`"),
    ("metadata.broker.list", "brokers are named in `routes`"),
    ("enable.idempotence", EXACTLY_ONCE),
    ("acks", EXACTLY_ONCE),
    ("request.required.acks", EXACTLY_ONCE),
    ("message.timeout.ms", EXACTLY_ONCE),
    ("delivery.timeout.ms", EXACTLY_ONCE),
    ("message.max.bytes", "write message_bytes_max in [kafka]"),
    ("transactional.id", EXACTLY_ONCE),
    ("enable.auto.commit", EXACTLY_ONCE),
    ("enable.auto.offset.store", EXACTLY_ONCE),
    ("auto.offset.reset", EXACTLY_ONCE),
    ("group.id", "it is made from topic_prefix, site and sink"),
    ("group.instance.id", "write `instance` in [kafka]"),
    ("group.protocol", APPLIERS),
    ("partition.assignment.strategy", APPLIERS),
    ("partitioner", "write `ordering` in [kafka]"),
    ("sasl.password", SECRET),
    (
        "ssl.key.password",
        "use a key file without a password that only this user may read",
    ),
    ("ssl.key.pem", "name a file in \"ssl.key.location\""),
];
const EXACTLY_ONCE: &str = "leave it out: that nothing is lost or repeated depends on it";
const APPLIERS: &str = "leave it out: how several appliers share streams depends on it";
const SECRET: &str =
    "secrets don't belong in here: put it into a file and name that in password_file";

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let source = read(path).map_err(|problem| match path.try_exists() {
        Ok(false) => problem.help(
            "`counterfoil init DIR` looks at the files in a directory and writes one; `--config FILE` names another",
        ),
        _ => problem,
    })?;
    let file: File = source.parse()?;
    let mut resolver = Resolver {
        source: &source,
        problems: Vec::new(),
        read: Sources::of(source.path.clone()),
    };
    let config = resolver.config(&file);
    let mut problems = resolver.problems;
    problems.truncate(PROBLEMS_MAX);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ if problems.is_empty() => Err(source.problem_here("not usable").into()),
        _ => Err(ConfigError { problems }),
    }
}

/// Reads a configuration file. Relative paths in it will start at its real directory.
fn read(path: &Path) -> Result<Source, Problem> {
    let failed =
        |error: std::io::Error| file_problem(path, format!("reading the configuration: {error}"));
    let absolute = std::path::absolute(path).map_err(failed)?;
    let mut text = Vec::new();
    std::fs::File::open(&absolute)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(file_problem(
            path,
            format!("larger than {FILE_BYTES_MAX} bytes: is this the configuration?"),
        ));
    }
    let text = String::from_utf8(text).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        file_problem(
            path,
            format!("line {line} isn't UTF-8: is this the configuration?"),
        )
    })?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    let base = directory.canonicalize().map_err(failed)?;
    let path = base.join(absolute.file_name().unwrap_or(OsStr::new("")));
    Ok(Source { path, base, text })
}

/// What the checks of one file share.
pub(super) struct Resolver<'a> {
    pub(super) source: &'a Source,
    pub(super) problems: Vec<Problem>,
    /// Files and directories that decided what the configuration is.
    pub(super) read: Sources,
}

/// Where a rule was written, to speak of it later.
struct RulePlace<'a> {
    group: usize,
    file: usize,
    path: &'a Spanned<String>,
}

impl Resolver<'_> {
    pub(super) fn problem(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.source.problem(span, message).help(help);
        self.problems.push(problem);
    }

    fn line_of(&self, at: usize) -> usize {
        self.source
            .problem(at..at, "")
            .place
            .map_or(1, |place| place.line)
    }

    /// Goes through everything, so that all problems are shown at once; `None` when something
    /// without a default is missing.
    fn config(&mut self, file: &File) -> Option<Config> {
        let kafka = file.kafka.as_ref().map(|table| self.kafka(table));
        let journal = self.journal(&file.journal);
        let apply = self.apply(&file.apply, kafka.is_some());
        let load = Load {
            bytes_per_second: self.number(
                "bytes_per_second",
                &file.load.bytes_per_second,
                0,
                0..=(1 << 40),
            ),
        };
        let verify = self.verify(&file.verify);
        let metrics = self.metrics(&file.metrics);
        let site = match &file.site {
            Some(site) => self.site(site),
            None => {
                let problem = self.source.problem_here("there is no [site]");
                self.problems.push(problem.help(
                    "add a [site] with `name = \"...\"` and `state = \"DIRECTORY\"`; `counterfoil init` writes one",
                ));
                None
            }
        };
        if file.group.is_empty() && kafka.as_ref().is_none_or(|kafka| kafka.streams.is_empty()) {
            let problem = self
                .source
                .problem_here("there is no [[group]], so no file would be captured");
            self.problems.push(problem.help(
                "add a [[group]] with a [[group.file]], or let `counterfoil init DIR` write them",
            ));
        }
        let (groups, places) = self.groups(&file.group);
        if kafka.is_some() {
            let requests = file.group.iter().map(|table| &table.get_ref().name);
            for name in requests.filter(|name| name.get_ref() == super::REQUESTS) {
                self.problem(
                    name.span(),
                    "with [kafka] no group can have this name",
                    "its topic would be the one on which sinks ask for files to be read again; choose another name",
                );
            }
        }
        let mut sinks = self.sinks(&file.sink, &file.sinks);
        let site = site?;
        if file.sink.is_empty() && file.sinks.include.is_empty() {
            let path = site.state.join("counterfoil.db");
            sinks.push(SinkConfig {
                name: "default".to_owned(),
                target: Target::Sqlite(SqliteConfig::new(path)),
                treatment: Treatment::default(),
            });
        } else if sinks.is_empty() && self.problems.is_empty() {
            let span = file.sinks.include.first().map_or(0..0, Spanned::span);
            self.problem(
                span,
                "no file matches, and there is no [[sink]]",
                "put a sink file there, or leave [sinks] out for the default SQLite sink",
            );
        }
        self.between_groups(&groups, &places);
        self.plans(&site, &sinks, &groups);
        self.own_files(&site, &sinks, &groups, &places);
        Some(Config {
            path: self.source.path.clone(),
            site,
            journal,
            apply,
            load,
            verify,
            groups,
            sinks,
            kafka,
            metrics,
            sources: std::mem::take(&mut self.read),
        })
    }

    fn metrics(&mut self, table: &MetricsTable) -> Metrics {
        Metrics {
            enabled: table.enabled.unwrap_or(true),
            listen: self.listen(&table.listen, METRICS_PORT),
            listen_apply: self.listen(&table.listen_apply, METRICS_PORT_APPLY),
            pending_max: Duration::from_millis(self.number(
                "pending_ms_max",
                &table.pending_ms_max,
                60_000,
                1_000..=86_400_000,
            )),
        }
    }

    fn listen(&mut self, text: &Option<Spanned<String>>, port: u16) -> Listen {
        let address = text.as_ref().and_then(|text| {
            let parsed = text.get_ref().parse();
            if parsed.is_err() {
                self.problem(
                    text.span(),
                    format!("{:?} isn't an address to listen at", text.get_ref()),
                    "write an IP address and a port, as in \"127.0.0.1:9464\"; port 0 takes any that is free",
                );
            }
            parsed.ok()
        });
        Listen {
            address: address.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            is_asked: text.is_some(),
        }
    }

    fn kafka(&mut self, table: &KafkaTable) -> Kafka {
        if let Some(prefix) = &table.topic_prefix {
            self.name("topic prefix", prefix);
        }
        if table.routes.get_ref().is_empty() {
            self.problem(
                table.routes.span(),
                "there is no route to the cluster",
                "write one, as in routes = [{ name = \"lan\", bootstrap = \"kafka:9092\" }]",
            );
        }
        let mut names = HashMap::new();
        for route in table.routes.get_ref() {
            self.name("route", &route.name);
            self.unique("route", &route.name, &mut names);
            let bootstrap = &route.bootstrap;
            let named = |broker: &str| {
                let (host, port) = broker.trim().rsplit_once(':').unwrap_or_default();
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
            };
            if !bootstrap.get_ref().split(',').all(named) {
                self.problem(
                    bootstrap.span(),
                    format!("{:?} doesn't name brokers", bootstrap.get_ref()),
                    "write host:port, several with commas between",
                );
            }
        }
        let ordering = match table.ordering.as_ref().map(|word| *word.get_ref()) {
            None | Some(OrderingWord::Group) => Ordering::Group,
            Some(OrderingWord::File) => Ordering::File,
            Some(OrderingWord::Record) => Ordering::Record,
        };
        let partitions = table.partitions.as_ref().map(|partitions| {
            let count = self.number("partitions", &table.partitions, 1, 1..=256);
            if ordering == Ordering::Group && count != 1 {
                self.problem(
                    partitions.span(),
                    format!("partitions is {count}, but one order for all files of a group takes one partition"),
                    "leave it out, or write ordering = \"file\" or ordering = \"record\" as well",
                );
            }
            u16::try_from(count).unwrap_or(u16::MAX)
        });
        if let Some(instance) = &table.instance {
            self.name("instance", instance);
        }
        for stream in &table.streams {
            let parts: Vec<&str> = stream.get_ref().split('/').collect();
            if parts.len() != 2 || parts.iter().any(|part| part.is_empty()) {
                self.problem(
                    stream.span(),
                    format!("{:?} isn't a stream", stream.get_ref()),
                    "write SITE/GROUP, by the names that the capturing site's configuration gives them",
                );
            }
        }
        let message_bytes_max = self.number(
            "message_bytes_max",
            &table.message_bytes_max,
            1_000_000,
            16_384..=100_000_000,
        );
        let replication = table.replication.as_ref().map(|_| {
            let copies = self.number("replication", &table.replication, 3, 1..=1000);
            u16::try_from(copies).unwrap_or(u16::MAX)
        });
        let read_again_minutes = self.number(
            "read_again_interval_minutes",
            &table.read_again_interval_minutes,
            60,
            0..=1_000_000,
        );
        let mut topic = self.settings(&table.topic, &[]);
        let hours = self.number(
            "retention_hours",
            &table.retention_hours,
            7 * 24,
            1..=1_000_000,
        );
        // A cluster's default may be to compact.
        topic
            .entry("cleanup.policy".to_owned())
            .or_insert_with(|| "delete".to_owned());
        topic
            .entry("retention.ms".to_owned())
            .or_insert_with(|| (hours * 3_600_000).to_string());
        Kafka {
            topic_prefix: table
                .topic_prefix
                .as_ref()
                .map_or("counterfoil", |prefix| prefix.get_ref())
                .to_owned(),
            routes: table
                .routes
                .get_ref()
                .iter()
                .map(|route| Route {
                    name: route.name.get_ref().clone(),
                    bootstrap: route.bootstrap.get_ref().clone(),
                })
                .collect(),
            streams: table
                .streams
                .iter()
                .map(|stream| stream.get_ref().clone())
                .collect(),
            ordering,
            partitions,
            instance: table
                .instance
                .as_ref()
                .map(|instance| instance.get_ref().clone()),
            message_bytes_max: usize::try_from(message_bytes_max).unwrap_or(usize::MAX),
            create: table.create_topics.unwrap_or(true),
            replication,
            topic,
            client: self.settings(&table.client, CLIENT_RESERVED),
            password_file: table
                .password_file
                .as_ref()
                .and_then(|file| self.path(file)),
            tombstones: table.tombstones,
            registry: self.registry(table),
            read_again_on_request: table.read_again_on_request.unwrap_or(true),
            read_again_interval: Duration::from_secs(read_again_minutes * 60),
        }
    }

    fn registry(&mut self, kafka: &KafkaTable) -> Option<Registry> {
        let wanted = kafka.wire_format.as_ref();
        let is_wanted = wanted.is_some_and(|word| *word.get_ref() == WireFormatWord::Confluent);
        let table = match (&kafka.registry, wanted) {
            (Some(table), _) if is_wanted => table.get_ref(),
            (Some(table), _) => {
                self.problem(
                    table.span(),
                    "[kafka.registry] without wire_format = \"confluent\"",
                    "plain protobuf takes no registry: leave it out, or write wire_format = \"confluent\" in [kafka]",
                );
                return None;
            }
            (None, Some(word)) if is_wanted => {
                self.problem(
                    word.span(),
                    "the wire format \"confluent\" takes a schema registry",
                    "name it: registry = { url = \"https://registry:8081\" }",
                );
                return None;
            }
            (None, _) => return None,
        };
        let url = table.url.get_ref();
        let host = ["http://", "https://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.contains(['@', ' ', '?', '#'])) {
            self.problem(
                table.url.span(),
                format!("{url:?} isn't the address of a registry"),
                "write http://host:port or https://host:port; name and password have keys of their own",
            );
        }
        Some(Registry {
            url: url.clone(),
            username: table.username.clone(),
            password_file: table.password_file.as_ref().and_then(|it| self.path(it)),
            ca: table.ca.as_ref().and_then(|it| self.path(it)),
            auto_register: table.auto_register.unwrap_or(true),
            subject_names: match table.subject_names {
                None | Some(SubjectNamesWord::Topic) => SubjectNames::Topic,
                Some(SubjectNamesWord::Record) => SubjectNames::Record,
            },
        })
    }

    fn settings(
        &mut self,
        table: &BTreeMap<String, Spanned<Setting>>,
        reserved: &[(&str, &str)],
    ) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        for (key, value) in table {
            if let Some((_, help)) = reserved.iter().find(|(name, _)| name == key) {
                self.problem(value.span(), format!("{key:?} can't be set here"), *help);
            }
            let text = match value.get_ref() {
                Setting::Text(text) => text.clone(),
                Setting::Number(number) => number.to_string(),
                Setting::Switch(switch) => switch.to_string(),
            };
            settings.insert(key.clone(), text);
        }
        settings
    }

    fn site(&mut self, table: &SiteTable) -> Option<Site> {
        self.name("site", &table.name);
        let state = self.path(&table.state);
        let lanes = match &table.lanes {
            Some(lanes) => self.path(lanes),
            None => state.as_ref().map(|state| state.join("lanes")),
        };
        let lane_bytes_max = self.number(
            "lane_bytes_max",
            &table.lane_bytes_max,
            64 << 20,
            (64 << 10)..=(1 << 40),
        );
        let lanes_bytes_max = self.number(
            "lanes_bytes_max",
            &table.lanes_bytes_max,
            2 << 30,
            (1 << 20)..=(1 << 40),
        );
        let access = match table.lanes_access.as_ref().map(Spanned::get_ref) {
            None | Some(AccessWord::Owner) => LanesAccess::Owner,
            Some(AccessWord::Group) => LanesAccess::Group,
            Some(AccessWord::All) => LanesAccess::All,
        };
        if let (Some(word), Some(state), Some(lanes)) = (&table.lanes_access, &state, &lanes)
            && access != LanesAccess::Owner
            && lanes.starts_with(state)
        {
            self.problem(
                word.span(),
                format!(
                    "lanes_access = {:?} needs lanes outside of the state directory, which nobody but its owner may enter",
                    access.as_str()
                ),
                "add `lanes`, a directory of its own, such as \"/var/lib/counterfoil-lanes\"",
            );
        }
        Some(Site {
            name: table.name.get_ref().clone(),
            state: state?,
            lanes: lanes?,
            lane_bytes_max,
            lanes_bytes_max,
            lanes_access: access,
        })
    }

    fn journal(&mut self, table: &JournalTable) -> Journal {
        let sync = self.number(
            "sync_interval_ms",
            &table.sync_interval_ms,
            1000,
            0..=60_000,
        );
        let segment_bytes = self.number(
            "segment_bytes",
            &table.segment_bytes,
            64 << 20,
            (64 << 10)..=(16 << 30),
        );
        let bytes_max = self.number(
            "bytes_max",
            &table.bytes_max,
            4 << 30,
            (128 << 10)..=(1 << 50),
        );
        if bytes_max < segment_bytes * 2 {
            let span = table
                .bytes_max
                .as_ref()
                .or(table.segment_bytes.as_ref())
                .map_or(0..0, Spanned::span);
            self.problem(
                span,
                format!("bytes_max ({bytes_max}) has no room for two segments of segment_bytes ({segment_bytes})"),
                "a journal is deleted by whole segments: raise bytes_max or lower segment_bytes",
            );
        }
        Journal {
            sync_interval: Duration::from_millis(sync),
            segment_bytes,
            bytes_max,
        }
    }

    fn apply(&mut self, table: &ApplyTable, by_kafka: bool) -> Apply {
        let records = self.number(
            "batch_records_max",
            &table.batch_records_max,
            20_000,
            1..=1_000_000,
        );
        let delay = self.number(
            "batch_delay_ms_max",
            &table.batch_delay_ms_max,
            // Through topics batches are no work beside the programs, and what comes by them has waited already.
            if by_kafka { 0 } else { 100 },
            0..=60_000,
        );
        let spool_bytes_max = self.number(
            "spool_bytes_max",
            &table.spool_bytes_max,
            1 << 30,
            (1 << 20)..=(1 << 50),
        );
        Apply {
            spool_bytes_max,
            batch_records_max: usize::try_from(records).unwrap_or(usize::MAX),
            batch_delay_max: Duration::from_millis(delay),
        }
    }

    fn verify(&mut self, table: &VerifyTable) -> Verify {
        let bytes_per_second = self.number(
            "bytes_per_second",
            &table.bytes_per_second,
            1 << 20,
            0..=(1 << 40),
        );
        let minutes = self.number("interval_minutes", &table.interval_minutes, 60, 0..=525_600);
        Verify {
            bytes_per_second,
            interval: Duration::from_secs(60 * minutes),
        }
    }

    fn groups<'a>(
        &mut self,
        tables: &'a [Spanned<GroupTable>],
    ) -> (Vec<Group>, Vec<RulePlace<'a>>) {
        let mut groups = Vec::new();
        let mut places = Vec::new();
        let mut names = HashMap::new();
        for spanned in tables {
            let table = spanned.get_ref();
            self.name("group", &table.name);
            self.unique("group", &table.name, &mut names);
            let unit_of_work = match table.unit_of_work.as_ref() {
                None => UnitOfWork::None,
                Some(word) => match word.get_ref() {
                    UnitWord::None => UnitOfWork::None,
                    UnitWord::Fsync => UnitOfWork::Fsync,
                    UnitWord::Lock => UnitOfWork::Lock,
                    UnitWord::Close => UnitOfWork::Close,
                    UnitWord::Api => UnitOfWork::Api,
                },
            };
            let timeout = self.number(
                "unit_timeout_ms",
                &table.unit_timeout_ms,
                30_000,
                1..=86_400_000,
            );
            if table.file.is_empty() && table.tree.is_empty() {
                self.problem(
                    table.name.span(),
                    format!(
                        "group {:?} has no [[group.file]] and no [[group.tree]]",
                        table.name.get_ref()
                    ),
                    "add one below it that says which files belong to it and what is in them",
                );
            }
            let mut files = Vec::new();
            for file in &table.file {
                if let Some(rule) = self.rule(file.get_ref()) {
                    places.push(RulePlace {
                        group: groups.len(),
                        file: files.len(),
                        path: &file.get_ref().path,
                    });
                    files.push(rule);
                }
            }
            // Behind the files: what is in a tree and is a record file is a record file.
            for tree in &table.tree {
                if let Some(rule) = self.tree(tree.get_ref()) {
                    places.push(RulePlace {
                        group: groups.len(),
                        file: files.len(),
                        path: &tree.get_ref().path,
                    });
                    files.push(rule);
                }
            }
            groups.push(Group {
                name: table.name.get_ref().clone(),
                unit_of_work,
                unit_timeout: Duration::from_millis(timeout),
                before: table.before,
                policy: Policy {
                    waits_for_room: matches!(table.on_backlog, Some(BacklogWord::Block)),
                    unavailable: match table.on_unavailable {
                        None | Some(UnavailableWord::Continue) => Unavailable::Continue,
                        Some(UnavailableWord::Block) => Unavailable::Block,
                        Some(UnavailableWord::Fail) => Unavailable::Fail,
                    },
                },
                files,
            });
        }
        self.tables_unique(tables);
        (groups, places)
    }

    fn rule(&mut self, table: &FileTable) -> Option<FileRule> {
        let pattern = self.pattern(&table.path, Pattern::absolute);
        let exclude: Vec<Option<Pattern>> = table
            .exclude
            .iter()
            .map(|written| self.pattern(written, Pattern::exclusion))
            .collect();
        if *table.organization.get_ref() == Organization::Static {
            self.problem(
                table.organization.span(),
                "static files have no organization of records",
                "write a [[group.tree]] with the `path` of their directory instead",
            );
            return None;
        }
        let schema = self.schema(&table.schema_keys());
        // Without what the schema says of the record's length, there would be a second problem of the same cause.
        let format = match &schema {
            Ok(schema) => self.format(table, schema.as_deref()),
            Err(_) => None,
        };
        if let (Some(name), Some(pattern)) = (&table.table, &pattern) {
            self.table_name(name);
            if pattern.literal().is_none() {
                self.problem(
                    name.span(),
                    "`table` on a path with wildcards: all its files would share one table",
                    "leave it out (a table is named after each file), or write a rule per file",
                );
            }
        }
        Some(FileRule {
            pattern: pattern?,
            tree: None,
            exclude: exclude.into_iter().collect::<Option<_>>()?,
            format: format?,
            schema: schema.ok()?.map(FileSchema),
            table: table.table.as_ref().map(|table| table.get_ref().clone()),
            line: self.line_of(table.path.span().start),
        })
    }

    fn tree(&mut self, table: &TreeTable) -> Option<FileRule> {
        let root = self.path(&table.path);
        let exclude: Vec<Option<Pattern>> = table
            .exclude
            .iter()
            .map(|written| self.pattern(written, Pattern::exclusion))
            .collect();
        if let Some(name) = &table.table {
            self.table_name(name);
        }
        if table.path.get_ref().contains(['*', '?']) {
            self.problem(
                table.path.span(),
                "a tree is one directory with all that is below it, not a pattern",
                "name the directory; `exclude` leaves out what isn't meant",
            );
            return None;
        }
        let root = root?;
        if root == Path::new("/") {
            self.problem(
                table.path.span(),
                "the root directory has everything in it, this system's own files too",
                "name the directory that is meant",
            );
            return None;
        }
        let exclude: Vec<Pattern> = exclude.into_iter().collect::<Option<_>>()?;
        Some(FileRule {
            pattern: Pattern::everything_below(&root),
            tree: Some(root),
            // With a directory, what is below it.
            exclude: exclude
                .into_iter()
                .flat_map(|pattern| [pattern.below(), pattern])
                .collect(),
            format: RecordFormat::STATIC,
            table: table.table.as_ref().map(|table| table.get_ref().clone()),
            schema: None,
            line: self.line_of(table.path.span().start),
        })
    }

    fn format(&mut self, table: &FileTable, schema: Option<&RecordSchema>) -> Option<RecordFormat> {
        let varseq_format = match &table.varseq_format {
            None => None,
            Some(number) => {
                let known = u8::try_from(*number.get_ref())
                    .ok()
                    .and_then(|n| VarseqFormat::try_from(n).ok());
                if known.is_none() {
                    self.problem(
                        number.span(),
                        format!("varseq_format {} doesn't exist", number.get_ref()),
                        "it is 0, 1, 2 or 3, as COB_VARSEQ_FORMAT was when the file was written (0 unless set)",
                    );
                    return None;
                }
                known
            }
        };
        let record_size = table
            .record_size
            .as_ref()
            .map(|_| self.number("record_size", &table.record_size, 0, 1..=RECORD_SIZE_MAX));
        let of_schema = self.size_of_schema(table, record_size, schema);
        let format = RecordFormat {
            organization: *table.organization.get_ref(),
            layout: table.layout.get_ref().layout,
            settings: table.layout.get_ref().settings.clone(),
            record_size: record_size.filter(|size| *size > 0).or(of_schema),
            varseq_format,
        };
        match format.codec() {
            Ok(_) => Some(format),
            // The size itself was refused already.
            Err(_) if record_size == Some(0) => None,
            Err(error) => {
                let message = error.to_string();
                let span = match (&table.record_size, &table.varseq_format) {
                    (Some(size), _) if message.starts_with("record_size") => size.span(),
                    (_, Some(prefix)) if message.starts_with("varseq_format") => prefix.span(),
                    _ => table.layout.span(),
                };
                let problem = self.source.problem(span, message);
                self.problems.push(problem);
                None
            }
        }
    }

    fn sinks(&mut self, tables: &[Spanned<SinkTable>], included: &SinksTable) -> Vec<SinkConfig> {
        let mut sinks: Vec<(SinkConfig, Problem)> = Vec::new();
        for table in tables {
            sinks.extend(self.sink(table.get_ref()));
        }
        for include in &included.include {
            for path in self.included(include) {
                let source = match read(&path) {
                    Ok(source) => source,
                    Err(problem) => {
                        self.problems.push(problem);
                        continue;
                    }
                };
                match source.parse::<SinkTable>() {
                    Ok(table) => {
                        let mut resolver = Resolver {
                            source: &source,
                            problems: Vec::new(),
                            read: Sources::of(path),
                        };
                        sinks.extend(resolver.sink(&table));
                        self.read.append(resolver.read);
                        self.problems.append(&mut resolver.problems);
                    }
                    Err(problem) => self.problems.push(problem),
                }
            }
        }
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut targets: BTreeMap<String, String> = BTreeMap::new();
        for (sink, place) in &sinks {
            let here = place
                .place
                .as_ref()
                .map_or(String::new(), |at| format!(":{}", at.line));
            let here = format!("{}{here}", place.file.display());
            if let Some(there) = names.insert(sink.name.clone(), here.clone()) {
                let mut problem = place.clone();
                problem.message = format!(
                    "a second sink named {:?}; the first is in {there}",
                    sink.name
                );
                self.problems
                    .push(problem.help("give each sink a name of its own"));
            }
            if let Some(there) = targets.insert(sink.target.place(), here) {
                let mut problem = place.clone();
                problem.message = format!(
                    "sink {:?} writes to the same database as the one in {there}",
                    sink.name
                );
                self.problems
                    .push(problem.help("give each sink a database or a schema of its own"));
            }
        }
        sinks.into_iter().map(|(sink, _)| sink).collect()
    }

    /// A sink, and a problem (with no text yet) that points at its name.
    fn sink(&mut self, table: &SinkTable) -> Option<(SinkConfig, Problem)> {
        self.name("sink", &table.name);
        let before = self.problems.len();
        let mut targets = Vec::new();
        if let Some(sqlite) = &table.sqlite {
            targets.push((sqlite.span(), self.sqlite(sqlite.get_ref())));
        }
        if let Some(postgres) = &table.postgres {
            targets.push((postgres.span(), self.postgres(postgres)));
        }
        if let Some(mysql) = &table.mysql {
            targets.push((mysql.span(), self.mysql(mysql.get_ref())));
        }
        if let Some(odbc) = &table.odbc {
            targets.push((odbc.span(), self.odbc(odbc)));
        }
        if let Some(files) = &table.files {
            targets.push((files.span(), self.files(files, table)));
        }
        if let Some((span, _)) = targets.get(1) {
            self.problem(
                span.clone(),
                format!(
                    "sink {:?} says twice where to write to",
                    table.name.get_ref()
                ),
                "write a sink of its own for each target",
            );
        }
        let Some((span, target)) = targets.into_iter().next() else {
            if self.problems.len() == before {
                self.problem(
                    table.name.span(),
                    format!(
                        "sink {:?} doesn't say where to write to",
                        table.name.get_ref()
                    ),
                    "add `sqlite = { path = \"FILE\" }`, `postgres = { url = \"postgres://USER@HOST/DATABASE\" }`, `mysql = { url = \"mysql://USER@HOST/DATABASE\" }` or `files = { root = \"DIRECTORY\" }` to it; for other databases there is `odbc`",
                );
            }
            return None;
        };
        let (mut target, treatment) = (target?, self.treatment(table)?);
        if !target.set_ddl(treatment.ddl) && treatment != Treatment::default().selecting(&treatment)
        {
            self.problem(
                span,
                format!(
                    "sink {:?} writes files, which have no tables and no columns",
                    table.name.get_ref()
                ),
                "leave out `ddl`, `mode`, `raw`, `drop_columns`, `on_refused_row` and `table`",
            );
            return None;
        }
        let sink = SinkConfig {
            name: table.name.get_ref().clone(),
            target,
            treatment,
        };
        Some((sink, self.source.problem(table.name.span(), "")))
    }

    fn sqlite(&mut self, table: &SqliteTable) -> Option<Target> {
        let mut config = SqliteConfig::new(self.path(&table.path)?);
        config.busy_timeout_ms = self.number(
            "busy_timeout_ms",
            &table.busy_timeout_ms,
            config.busy_timeout_ms,
            0..=3_600_000,
        );
        if table.size_bytes_max.is_some() {
            let limit = self.number(
                "size_bytes_max",
                &table.size_bytes_max,
                0,
                (1 << 20)..=(1 << 47),
            );
            config.size_max_bytes = Some(limit);
        }
        Some(Target::Sqlite(config))
    }

    fn files(&mut self, files: &Spanned<FilesTable>, sink: &SinkTable) -> Option<Target> {
        let table = files.get_ref();
        let decides_on_rows = sink.ddl.is_some()
            || sink.mode.is_some()
            || sink.raw.is_some()
            || sink.drop_columns.is_some()
            || sink.mask_key_file.is_some()
            || !sink.table.is_empty();
        if decides_on_rows {
            self.problem(
                files.span(),
                format!(
                    "sink {:?} writes to files, which have no tables and columns",
                    sink.name.get_ref()
                ),
                "leave out `mode`, `raw`, `ddl`, `drop_columns`, `mask_key_file` and [table.*]; which files it has, `include` \
                 and `exclude` say",
            );
        }
        let mut config = FilesConfig::new(self.path(&table.root)?);
        config.attributes = table.attributes.unwrap_or(config.attributes);
        config.lock_timeout_ms = self.number(
            "lock_timeout_ms",
            &table.lock_timeout_ms,
            config.lock_timeout_ms,
            1..=3_600_000,
        );
        Some(Target::Files(config))
    }

    fn postgres(&mut self, written: &Spanned<PostgresTable>) -> Option<Target> {
        let table = written.get_ref();
        let text = |value: &Option<Spanned<String>>| value.as_ref().map(|v| v.get_ref().clone());
        let mut config = PostgresConfig::new("");
        config.url = text(&table.url);
        config.service = text(&table.service);
        config.schema = text(&table.schema);
        config.sslmode = table.sslmode.as_ref().map(|mode| *mode.get_ref());
        if let Some(url) = &table.url
            && let Err(wrong) = PostgresConfig::check_url(url.get_ref())
        {
            // The line itself isn't shown: it may have the password in it.
            let mut problem = self.source.problem_here(format!(
                "line {}: the `url` of [postgres] can't be used: {wrong}",
                self.line_of(url.span().start)
            ));
            problem = problem.help(
                "write postgres://USER@HOST:PORT/DATABASE; a password goes into a file that `password_file` names",
            );
            self.problems.push(problem);
        }
        if config.url.is_none() && config.service.is_none() {
            self.problem(
                written.span(),
                "[postgres] doesn't say where the database is",
                "add `url = \"postgres://USER@HOST/DATABASE\"`, or `service`, a name from pg_service.conf",
            );
        }
        for name in [&table.schema, &table.service, &table.application_name]
            .into_iter()
            .flatten()
        {
            let value = name.get_ref();
            if value.is_empty()
                || value.len() > TABLE_BYTES_MAX
                || value.chars().any(char::is_control)
            {
                self.problem(
                    name.span(),
                    format!("{value:?} can't be a name in PostgreSQL"),
                    format!("1 to {TABLE_BYTES_MAX} bytes without control characters"),
                );
            }
        }
        if let Some(schema) = &table.schema
            && schema.get_ref().starts_with("pg_")
        {
            self.problem(
                schema.span(),
                "names of schemas that begin with \"pg_\" are PostgreSQL's own",
                "choose another",
            );
        }
        config.password_file = table.password_file.as_ref().and_then(|f| self.path(f));
        config.ca_file = table.ca_file.as_ref().and_then(|f| self.path(f));
        if let Some(name) = text(&table.application_name) {
            config.application_name = name;
        }
        for (key, value, field) in [
            (
                "connect_timeout_ms",
                &table.connect_timeout_ms,
                &mut config.connect_timeout_ms,
            ),
            (
                "statement_timeout_ms",
                &table.statement_timeout_ms,
                &mut config.statement_timeout_ms,
            ),
            (
                "lock_timeout_ms",
                &table.lock_timeout_ms,
                &mut config.lock_timeout_ms,
            ),
            ("keepalive_s", &table.keepalive_s, &mut config.keepalive_s),
        ] {
            *field = self.number(key, value, *field, 0..=3_600_000);
        }
        Some(Target::Postgres(config))
    }

    fn mysql(&mut self, table: &MysqlTable) -> Option<Target> {
        let mut config = match MysqlConfig::new(table.url.get_ref()) {
            Ok(config) => config,
            Err(wrong) => {
                // The line itself isn't shown: it may have the password in it.
                let mut problem = self.source.problem_here(format!(
                    "line {}: the `url` of [mysql] can't be used: {wrong}",
                    self.line_of(table.url.span().start)
                ));
                problem = problem.help(
                    "write mysql://USER@HOST:PORT/DATABASE; a password goes into a file that `password_file` names",
                );
                self.problems.push(problem);
                return None;
            }
        };
        config.socket = table.socket.as_ref().and_then(|file| self.path(file));
        config.password_file = table
            .password_file
            .as_ref()
            .and_then(|file| self.path(file));
        config.ca_file = table.ca_file.as_ref().and_then(|file| self.path(file));
        if let Some(tls) = &table.tls {
            config.tls = *tls.get_ref();
        } else if config.ca_file.is_some() {
            config.tls = Tls::Verify;
        }
        config.connect_timeout_ms = self.number(
            "connect_timeout_ms",
            &table.connect_timeout_ms,
            config.connect_timeout_ms,
            1..=3_600_000,
        );
        config.statement_timeout_ms = self.number(
            "statement_timeout_ms",
            &table.statement_timeout_ms,
            config.statement_timeout_ms,
            0..=86_400_000,
        );
        config.lock_wait_timeout_s = self.number(
            "lock_wait_timeout_s",
            &table.lock_wait_timeout_s,
            config.lock_wait_timeout_s,
            1..=86_400,
        );
        config.load_data = table.load_data.unwrap_or(config.load_data);
        Some(Target::Mysql(config))
    }

    #[cfg(not(feature = "odbc"))]
    fn odbc(&mut self, written: &Spanned<OdbcTable>) -> Option<Target> {
        self.problem(
            written.span(),
            "this counterfoil was built without ODBC",
            "build it with `cargo xtask install --odbc`; that takes Debian's unixodbc-dev, and running it a driver \
             manager (unixodbc). See docs/odbc.md",
        );
        None
    }

    #[cfg(feature = "odbc")]
    fn odbc(&mut self, written: &Spanned<OdbcTable>) -> Option<Target> {
        let table = written.get_ref();
        let made = match (&table.connection, &table.dsn) {
            (Some(connection), None) => (OdbcConfig::new(connection.get_ref()), connection),
            (None, Some(dsn)) => (OdbcConfig::with_dsn(dsn.get_ref()), dsn),
            _ => {
                self.problem(
                    written.span(),
                    "[odbc] has to say where the database is, once",
                    "add `dsn`, a name from odbc.ini, or `connection = \"Driver=...;Server=...;Database=...\"`",
                );
                return None;
            }
        };
        let mut config = match made {
            (Ok(config), _) => config,
            (Err(wrong), key) => {
                // The line itself isn't shown: it may have the password in it.
                let mut problem = self.source.problem_here(format!(
                    "line {}: [odbc] can't be used: {wrong}",
                    self.line_of(key.span().start)
                ));
                problem = problem.help(
                    "write `Driver=...;Server=...;Database=...` as the driver's documentation has it; the user goes into \
                     `username`, and the password into a file that `password_file` names",
                );
                self.problems.push(problem);
                return None;
            }
        };
        for name in [&table.username, &table.schema].into_iter().flatten() {
            let value = name.get_ref();
            if value.is_empty() || value.len() > 255 || value.chars().any(char::is_control) {
                self.problem(
                    name.span(),
                    format!("{value:?} can't be a name in a database"),
                    "1 to 255 bytes without control characters",
                );
            }
        }
        config.username = table.username.as_ref().map(|name| name.get_ref().clone());
        config.schema = table.schema.as_ref().map(|name| name.get_ref().clone());
        config.password_file = table.password_file.as_ref().and_then(|f| self.path(f));
        if let Some(word) = &table.dialect
            && word.get_ref() != "auto"
        {
            config.dialect = Dialect::named(word.get_ref());
            if config.dialect.is_none() {
                let names: Vec<&str> = Dialect::ALL.iter().map(|dialect| dialect.name()).collect();
                self.problem(
                    word.span(),
                    format!("{:?} is no dialect", word.get_ref()),
                    format!("there are auto, {}", names.join(", ")),
                );
            }
        }
        for (key, value, field, least) in [
            (
                "connect_timeout_ms",
                &table.connect_timeout_ms,
                &mut config.connect_timeout_ms,
                1,
            ),
            (
                "statement_timeout_ms",
                &table.statement_timeout_ms,
                &mut config.statement_timeout_ms,
                0,
            ),
            (
                "lock_wait_timeout_ms",
                &table.lock_wait_timeout_ms,
                &mut config.lock_wait_timeout_ms,
                1,
            ),
        ] {
            *field = self.number(key, value, *field, least..=86_400_000);
        }
        Some(Target::Odbc(config))
    }

    /// The files that an `include` finds, in order of name.
    fn included(&mut self, include: &Spanned<String>) -> Vec<PathBuf> {
        let Some(pattern) = self.pattern(include, Pattern::absolute) else {
            return Vec::new();
        };
        if let Some(path) = pattern.literal() {
            return vec![path];
        }
        let mut found = Vec::new();
        for file in sources::found(&pattern) {
            match file {
                Ok(file) => found.push(file),
                Err(error) => self.problem(
                    include.span(),
                    format!("looking for sink files: {error}"),
                    "give the user that runs this leave to read the directory",
                ),
            }
            if found.len() > INCLUDED_FILES_MAX {
                self.problem(
                    include.span(),
                    format!("more than {INCLUDED_FILES_MAX} files match"),
                    "name the directory that holds the sink files only, as in \"sinks.d/*.toml\"",
                );
                return Vec::new();
            }
        }
        self.read.add_pattern(pattern);
        found
    }

    /// A file belongs to one group: two groups have no order between them.
    fn between_groups(&mut self, groups: &[Group], places: &[RulePlace<'_>]) {
        let rule = |place: &RulePlace<'_>| &groups[place.group].files[place.file];
        for (index, later) in places.iter().enumerate() {
            for earlier in &places[..index] {
                let (a, b) = (rule(earlier), rule(later));
                if earlier.group == later.group {
                    if a.tree.is_some() && b.tree.is_some() && self.trees_overlap(a, later.path, b)
                    {
                        break;
                    }
                    continue;
                }
                let excluded: Vec<&Pattern> = a.exclude.iter().chain(&b.exclude).collect();
                let example = match common_path(&a.pattern, &b.pattern, &excluded) {
                    Common::None => continue,
                    Common::Path(path) => format!("{:?}", String::from_utf8_lossy(&path)),
                    Common::Unknown => "some path".to_owned(),
                };
                self.problem(
                    later.path.span(),
                    format!(
                        "{example} would belong to group {:?} here and to group {:?} by line {}",
                        groups[later.group].name, groups[earlier.group].name, a.line
                    ),
                    "a file has one order and so one group: narrow one of the patterns, add an `exclude` to it, or \
                     move both rules into one group",
                );
                break;
            }
        }
    }

    /// A file of two trees would have two tables. True when that was said.
    fn trees_overlap(&mut self, a: &FileRule, path: &Spanned<String>, b: &FileRule) -> bool {
        let excluded: Vec<&Pattern> = a.exclude.iter().chain(&b.exclude).collect();
        let same = a.tree == b.tree;
        if !same && common_path(&a.pattern, &b.pattern, &excluded) == Common::None {
            return false;
        }
        self.problem(
            path.span(),
            format!(
                "this tree and the one on line {} have files in common",
                a.line
            ),
            "leave one of them out, or add an `exclude` to the one that has the other in it",
        );
        true
    }

    /// Capturing what the replicator itself writes would never come to an end.
    fn own_files(
        &mut self,
        site: &Site,
        sinks: &[SinkConfig],
        groups: &[Group],
        places: &[RulePlace<'_>],
    ) {
        let mut own = vec![
            (
                Pattern::everything_below(&site.state),
                "the state directory",
                site.state.clone(),
            ),
            (
                Pattern::everything_below(&site.lanes),
                "the lanes",
                site.lanes.clone(),
            ),
        ];
        for sink in sinks {
            if let Target::Files(FilesConfig { root, .. }) = &sink.target {
                own.push((
                    Pattern::everything_below(root),
                    "what a sink mirrors files to",
                    root.clone(),
                ));
            }
            let Target::Sqlite(SqliteConfig { path, .. }) = &sink.target else {
                continue;
            };
            for suffix in ["", "-wal", "-shm", "-journal"] {
                let mut file = path.clone().into_os_string();
                file.push(suffix);
                own.push((
                    Pattern::exactly(Path::new(&file)),
                    "a sink's database",
                    PathBuf::from(file),
                ));
            }
        }
        for place in places {
            let rule = &groups[place.group].files[place.file];
            let excluded: Vec<&Pattern> = rule.exclude.iter().collect();
            for (pattern, what, path) in &own {
                if common_path(&rule.pattern, pattern, &excluded) == Common::None {
                    continue;
                }
                self.problem(
                    place.path.span(),
                    format!("the pattern takes in {what}, {}", path.display()),
                    "Counterfoil would capture its own work without end: narrow the pattern, add an `exclude`, or \
                     move what is in the way",
                );
                break;
            }
        }
    }

    pub(super) fn number(
        &mut self,
        key: &str,
        written: &Option<Spanned<i64>>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(written) = written else {
            return default;
        };
        match u64::try_from(*written.get_ref()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (min, max) = range.into_inner();
                self.problem(
                    written.span(),
                    format!("{key} is {}", written.get_ref()),
                    format!("it can be {min} to {max}"),
                );
                default
            }
        }
    }

    fn name(&mut self, what: &str, written: &Spanned<String>) {
        let name = written.get_ref();
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty()
            || name.len() > NAME_CHARS_MAX
            || !name.chars().all(fits)
            || name == "."
            || name == ".."
        {
            self.problem(
                written.span(),
                format!("{name:?} can't be the name of a {what}"),
                format!(
                    "names become parts of topic and stream names: 1 to {NAME_CHARS_MAX} letters (a-z, A-Z), \
                     digits, \".\", \"_\" and \"-\""
                ),
            );
        }
    }

    fn unique(&mut self, what: &str, written: &Spanned<String>, seen: &mut HashMap<String, usize>) {
        let line = self.line_of(written.span().start);
        if let Some(first) = seen.insert(written.get_ref().clone(), line) {
            self.problem(
                written.span(),
                format!(
                    "a second {what} named {:?}; the first is on line {first}",
                    written.get_ref()
                ),
                format!("give each {what} a name of its own, or put the files of both into one"),
            );
        }
    }

    pub(super) fn table_name(&mut self, written: &Spanned<String>) {
        let name = written.get_ref();
        let lower = name.to_lowercase();
        let reserved = ["counterfoil_", "sqlite_"]
            .iter()
            .any(|prefix| lower.starts_with(prefix));
        if name.is_empty()
            || name.len() > TABLE_BYTES_MAX
            || name.chars().any(char::is_control)
            || reserved
        {
            self.problem(
                written.span(),
                format!("{name:?} can't be the name of a table"),
                format!(
                    "1 to {TABLE_BYTES_MAX} bytes without control characters, and not beginning with \
                     \"counterfoil_\" or \"sqlite_\", which are taken"
                ),
            );
        }
    }

    fn tables_unique(&mut self, groups: &[Spanned<GroupTable>]) {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for group in groups {
            let group = group.get_ref();
            let files = group.file.iter().map(|file| &file.get_ref().table);
            let trees = group.tree.iter().map(|tree| &tree.get_ref().table);
            for table in files.chain(trees).flatten() {
                let line = self.line_of(table.span().start);
                // Databases differ in whether case counts; two names that differ in nothing else are trouble.
                if let Some(first) = seen.insert(table.get_ref().to_lowercase(), line) {
                    self.problem(
                        table.span(),
                        format!(
                            "the table {:?} is taken by the file on line {first}",
                            table.get_ref()
                        ),
                        "give each file a table of its own",
                    );
                }
            }
        }
    }

    pub(super) fn pattern(
        &mut self,
        written: &Spanned<String>,
        parse: impl Fn(&Path, &str) -> Result<Pattern, String>,
    ) -> Option<Pattern> {
        match parse(&self.source.base, written.get_ref()) {
            Ok(pattern) => Some(pattern),
            Err(reason) => {
                self.problem(
                    written.span(),
                    format!("not a usable path: {reason}"),
                    "a path is absolute or starts at this file's directory, and may have *, ?, [a-z], [!a-z] \
                     (within a directory) and ** (across directories)",
                );
                None
            }
        }
    }

    /// A path without wildcards, made absolute, with `.` and `..` taken out.
    pub(super) fn path(&mut self, written: &Spanned<String>) -> Option<PathBuf> {
        let text = written.get_ref();
        if text.is_empty() || text.contains('\0') {
            self.problem(
                written.span(),
                format!("{text:?} isn't a path"),
                "write an absolute path, or one that starts at this file's directory",
            );
            return None;
        }
        Some(normal(&self.source.base.join(text)))
    }
}

/// Takes `.` and `..` out, by the text alone.
fn normal(path: &Path) -> PathBuf {
    let mut parts: Vec<&OsStr> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::ParentDir => {
                parts.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let mut bytes = Vec::new();
    for part in parts {
        bytes.push(b'/');
        bytes.extend_from_slice(part.as_bytes());
    }
    if bytes.is_empty() {
        bytes.push(b'/');
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}
