//! The configuration: `counterfoil.toml`, read, checked and made absolute.
//!
//! [`Config::load`] either returns a configuration that can be used as it is, or a [`ConfigError`]
//! that shows every problem with its line and says what to write instead. Unknown keys are
//! problems, and so are keys this version knows but can't honour: nothing written in the file is
//! ever ignored. Loading reads the configuration, the sink files it includes and the copybooks it names, and
//! touches nothing else; whether the files it speaks of are there and fit is what `counterfoil check` tells.
//!
//! Which files are captured is decided by [`Config::rule_for`]; captured programs decide with the
//! same patterns and the same matcher (`counterfoil_lane::glob`), so both sides always agree.

mod error;
mod file;
mod pattern;
mod resolve;
mod scan;
mod schema;
mod sources;
mod treatment;

pub use error::{ConfigError, Place, Problem};
pub use pattern::Pattern;
pub use scan::{FoundFile, Scan, ScanError};
pub use sources::{Fingerprint, Sources};
pub use treatment::{OnRefused, TableRule, Treatment};

use crate::typed::{TypedSchema, TypedSchemas};
pub use counterfoil_lane::rules::{Policy, Unavailable};
use counterfoil_records::RecordFormat;
#[cfg(feature = "odbc")]
use counterfoil_sinks::OdbcConfig;
use counterfoil_sinks::plan::Ddl;
use counterfoil_sinks::{
    FileDescription, FileSchema, FilesConfig, MysqlConfig, PostgresConfig, SqliteConfig,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A checked configuration. All paths are absolute.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// This installation.
    pub site: Site,
    /// The durable log.
    pub journal: Journal,
    /// How changes are put into batches.
    pub apply: Apply,
    /// How files are read that nothing is known of.
    pub load: Load,
    /// Rounds of verification that nobody asks for.
    pub verify: Verify,
    /// Consistency groups, in the order of the file, each with at least one rule; at least one, unless only streams of
    /// other sites are applied.
    pub groups: Vec<Group>,
    /// Targets; at least one.
    pub sinks: Vec<SinkConfig>,
    /// Kafka between capture and apply; without it they are one process.
    pub kafka: Option<Kafka>,
    /// What each process serves of itself over HTTP.
    pub metrics: Metrics,
    /// What it was read from.
    pub sources: Sources,
}

/// `[metrics]`: what each process serves of itself over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Whether it does.
    pub enabled: bool,
    /// Where `run` and `capture` do.
    pub listen: Listen,
    /// Where `apply` does.
    pub listen_apply: Listen,
    /// How long something captured may wait to be applied before a process isn't ready.
    pub pending_max: Duration,
}

/// An address to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; with port 0 any that is free.
    pub address: SocketAddr,
    /// It was written down. Otherwise another port will do when this one is taken.
    pub is_asked: bool,
}

/// `[site]`: this installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The state directory.
    pub state: PathBuf,
    /// Where lanes are: `<state>/lanes` unless put elsewhere.
    pub lanes: PathBuf,
    /// How long one thread's lane may get, in bytes.
    pub lane_bytes_max: u64,
    /// How long all lanes together may get, in bytes.
    pub lanes_bytes_max: u64,
    /// Whose programs may have lanes.
    pub lanes_access: LanesAccess,
}

/// Whose programs may have lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LanesAccess {
    /// Those of the replicator's own user.
    #[default]
    Owner,
    /// Those of users in the lanes directory's group too.
    Group,
    /// Everybody's.
    All,
}

impl LanesAccess {
    /// The word used in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            LanesAccess::Owner => "owner",
            LanesAccess::Group => "group",
            LanesAccess::All => "all",
        }
    }
}

impl Site {
    /// The journal's directory.
    pub fn journal_dir(&self) -> PathBuf {
        self.state.join("journal")
    }

    /// The directory with the images of captured files.
    pub fn images_dir(&self) -> PathBuf {
        self.state.join("images")
    }

    /// The file that a running replicator holds a lock on.
    pub fn lock_path(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// The file in which a running replicator says how it is doing.
    pub fn status_path(&self) -> PathBuf {
        self.state.join("status.json")
    }

    /// Where others put what they ask of a running replicator.
    pub fn requests_path(&self) -> PathBuf {
        self.state.join("requests")
    }

    /// The same, of what is asked of targets.
    pub fn apply_requests_path(&self) -> PathBuf {
        self.state.join("apply-requests")
    }

    /// What rounds of verification have found, as far as the capturing half knows.
    pub fn verification_path(&self) -> PathBuf {
        self.state.join("verification.json")
    }

    /// The same, as far as the applying halves know, where they are processes of their own.
    pub fn apply_verification_path(&self) -> PathBuf {
        self.state.join("apply-verification.json")
    }

    /// A file that is there as long as somebody wants every file to be read and published again.
    pub fn read_again_path(&self) -> PathBuf {
        self.state.join("read-again")
    }

    /// There once another replicator was found to write to a target of this one.
    pub fn replaced_path(&self) -> PathBuf {
        self.state.join("replaced")
    }

    /// Which files each sink had at the last start.
    pub fn selections_path(&self) -> PathBuf {
        self.state.join("selections.json")
    }

    /// What [`Site::lock_path`] is for capture, for apply from Kafka.
    pub fn apply_lock_path(&self) -> PathBuf {
        self.state.join("apply.lock")
    }

    /// What [`Site::status_path`] is for capture, for apply from Kafka.
    pub fn apply_status_path(&self) -> PathBuf {
        self.state.join("apply-status.json")
    }
}

/// `[kafka]`: the cluster between capture and apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kafka {
    /// What the names of topics begin with.
    pub topic_prefix: String,
    /// Ways to the one cluster, the preferred first; at least one.
    pub routes: Vec<Route>,
    /// What apply takes, as `site/group`; empty: this site's own groups.
    pub streams: Vec<String>,
    /// What has an order on a topic.
    pub ordering: Ordering,
    /// How many partitions topics have; none: those that are made get [`Kafka::partitions_made`], others may have any number.
    pub partitions: Option<u16>,
    /// The name by which brokers know this process again when it comes back; none: one made from host and state directory.
    pub instance: Option<String>,
    /// Largest message in bytes; a larger event is sent in parts.
    pub message_bytes_max: usize,
    /// Topics that aren't there are made.
    pub create: bool,
    /// Copies of a topic that is made; none: the broker's default.
    pub replication: Option<u16>,
    /// Settings of a topic that is made.
    pub topic: BTreeMap<String, String>,
    /// Settings of the client library.
    pub client: BTreeMap<String, String>,
    /// File with the SASL password.
    pub password_file: Option<PathBuf>,
    /// A delete is followed by a message without a value.
    pub tombstones: bool,
    /// The registry whose numbers of schemas are in messages; without it, messages are plain protobuf.
    pub registry: Option<Registry>,
    /// An applying end that has lost events asks for every file to be read again, and a capturing end does it.
    pub read_again_on_request: bool,
    /// The shortest time between two times that a capturing end does it.
    pub read_again_interval: Duration,
}

/// `[kafka.registry]`: a schema registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Where it is: `http://` or `https://`.
    pub url: String,
    /// Who asks, if it has to be told.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// File with the certificates (PEM) that it has to be vouched for by; none: those that web browsers take.
    pub ca: Option<PathBuf>,
    /// Schemas that aren't there are registered.
    pub auto_register: bool,
    /// What schemas are called.
    pub subject_names: SubjectNames,
}

/// How subjects of schemas are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubjectNames {
    /// By topic.
    #[default]
    Topic,
    /// By the message's full name.
    Record,
}

/// No group's name where there is Kafka: the topic that a group of this name would have is that of requests.
pub const REQUESTS: &str = "requests";

/// `[[kafka.routes]]`: a way to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name, for people.
    pub name: String,
    /// Brokers to ask first, as `host:port`, with commas between.
    pub bootstrap: String,
}

/// `ordering`: what has an order on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// All events of a group; one partition.
    Group,
    /// The events of each file.
    File,
    /// The events of each record.
    Record,
}

impl Kafka {
    /// How many partitions a topic gets that is made. Twelve can be divided evenly in many ways.
    pub fn partitions_made(&self) -> u16 {
        match self.ordering {
            Ordering::Group => 1,
            Ordering::File | Ordering::Record => self.partitions.unwrap_or(12),
        }
    }

    /// The topic of a stream (`site/group`).
    pub fn topic(&self, stream: &str) -> String {
        format!("{}.{}", self.topic_prefix, stream.replace('/', "."))
    }
}

/// `[journal]`: the durable log of captured operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// How long appended operations may wait to be synchronised to disk; zero: not at all.
    pub sync_interval: Duration,
    /// Size at which a new segment is begun, in bytes.
    pub segment_bytes: u64,
    /// How long the whole journal may get, in bytes: the backlog limit.
    pub bytes_max: u64,
}

/// `[apply]`: how changes are put into batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// Record images in a batch after which it is cut at the next end of a unit of work.
    pub batch_records_max: usize,
    /// How long a change may wait for more to join its batch.
    pub batch_delay_max: Duration,
    /// What may wait on disk for one sink while others are further on, in bytes.
    pub spool_bytes_max: u64,
}

/// `[load]`: how files are read that nothing is known of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Bytes per second of all such files together, at most; 0: as fast as targets take them.
    pub bytes_per_second: u64,
}

/// `[verify]`: rounds of verification that nobody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// Bytes of files that are read per second at most; 0: there are no such rounds.
    pub bytes_per_second: u64,
    /// From the beginning of a round to that of the next, at least.
    pub interval: Duration,
}

/// `[[group]]`: files whose changes have one order.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name: letters, digits, `.`, `_` and `-`; unique.
    pub name: String,
    /// What makes up a unit of work.
    pub unit_of_work: UnitOfWork,
    /// How long a unit may stay open before it is cut.
    pub unit_timeout: Duration,
    /// Events have the record as it was before, too.
    pub before: bool,
    /// What programs do when they can't tell what they are about to do to files of the group.
    pub policy: Policy,
    /// Which files, and what is in them. The first rule that matches a file is its rule; trees come last.
    pub files: Vec<FileRule>,
}

/// What makes the changes of a group visible in the target together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnitOfWork {
    /// Every operation is a unit.
    #[default]
    None,
    /// A process's operations up to its `fsync` or `fdatasync` of a file of the group.
    Fsync,
    /// A process's operations while it holds a lock on a file of the group.
    Lock,
    /// A process's operations up to the close of its last file of the group.
    Close,
    /// A process's operations between the marks it sets itself.
    Api,
}

impl UnitOfWork {
    /// The word used in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            UnitOfWork::None => "none",
            UnitOfWork::Fsync => "fsync",
            UnitOfWork::Lock => "lock",
            UnitOfWork::Close => "close",
            UnitOfWork::Api => "api",
        }
    }
}

/// `[[group.file]]`: a file, or a pattern for files, and what is in them; or `[[group.tree]]`: a directory with all that is
/// below it.
#[derive(Clone, Debug)]
pub struct FileRule {
    /// Which files.
    pub pattern: Pattern,
    /// The directory, when this is a tree's rule. The pattern matches what is below it, and it belongs to the tree itself.
    pub tree: Option<PathBuf>,
    /// Files that aren't meant although the pattern matches them. Of a tree, also everything below an excluded directory.
    pub exclude: Vec<Pattern>,
    /// How their records lie on disk; its codec exists.
    pub format: RecordFormat,
    /// The table for the records, when the pattern has no wildcards and one is asked for.
    pub table: Option<String>,
    /// What is in their records, where a copybook or a field list says that.
    pub schema: Option<FileSchema>,
    /// The line of the configuration it is on, from 1.
    pub line: usize,
}

impl FileRule {
    /// What its records are in events, where they have columns.
    pub fn typed(&self, known: &TypedSchemas) -> Option<Arc<TypedSchema>> {
        Some(known.of_records(self.schema.as_ref()?, &self.format))
    }

    /// Whether the rule is for this path (absolute, as bytes).
    pub fn matches(&self, path: &[u8]) -> bool {
        let root = self
            .tree
            .as_ref()
            .is_some_and(|root| *path == *root.as_os_str().as_bytes());
        root || self.pattern.matches(path)
            && !self.exclude.iter().any(|exclude| exclude.matches(path))
    }
}

/// `[[sink]]`: a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Its name: letters, digits, `.`, `_` and `-`; unique.
    pub name: String,
    /// What kind of target, and where.
    pub target: Target,
    /// What its DBA decided about files and tables.
    pub treatment: Treatment,
}

/// The kinds of target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A SQLite database, made when it isn't there.
    Sqlite(SqliteConfig),
    /// A schema of a PostgreSQL database, made when it isn't there.
    Postgres(PostgresConfig),
    /// A database of a MySQL or MariaDB server.
    Mysql(MysqlConfig),
    /// Whatever has an ODBC driver.
    #[cfg(feature = "odbc")]
    Odbc(OdbcConfig),
    /// The files themselves, below a directory.
    Files(FilesConfig),
}

impl Target {
    /// Says what the sink may do to the structure of its database. False: it has none.
    fn set_ddl(&mut self, ddl: Ddl) -> bool {
        match self {
            Target::Sqlite(config) => config.ddl = ddl,
            Target::Postgres(config) => config.ddl = ddl,
            Target::Mysql(config) => config.ddl = ddl,
            #[cfg(feature = "odbc")]
            Target::Odbc(config) => config.ddl = ddl,
            Target::Files(_) => return false,
        }
        true
    }

    /// The same text for the same place, as far as the configuration tells.
    fn place(&self) -> String {
        match self {
            Target::Sqlite(config) => config.path.display().to_string(),
            Target::Mysql(config) => config.place(),
            #[cfg(feature = "odbc")]
            Target::Odbc(config) => config.place(),
            Target::Files(config) => config.root.display().to_string(),
            Target::Postgres(config) => format!("{:?} {}", config.service, config.place()),
        }
    }
}

impl Config {
    /// Reads and checks a configuration file and the sink files it includes.
    ///
    /// # Errors
    /// All problems that were found, each with its place and what to do.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        resolve::load(path)
    }

    /// The group and the rule in it, as indices, that an absolute path belongs to: the first that
    /// matches.
    pub fn rule_for(&self, path: &[u8]) -> Option<(usize, usize)> {
        self.groups.iter().enumerate().find_map(|(group, rules)| {
            rules
                .files
                .iter()
                .position(|rule| rule.matches(path))
                .map(|file| (group, file))
        })
    }

    /// The rule of an absolute path.
    pub fn rule(&self, path: &[u8]) -> Option<&FileRule> {
        let (group, rule) = self.rule_for(path)?;
        Some(&self.groups[group].files[rule])
    }

    /// The file at an absolute path, as events speak of it, and the index of its group.
    pub fn describe(&self, path: &[u8]) -> Option<(usize, FileDescription)> {
        let (group, rule) = self.rule_for(path)?;
        let rule = &self.groups[group].files[rule];
        let tree = rule.tree.as_ref();
        let description = FileDescription {
            path: path.to_vec(),
            group: self.groups[group].name.clone(),
            format: rule.format.clone(),
            table: rule.table.clone(),
            tree: tree.map(|root| root.as_os_str().as_bytes().to_vec()),
            schema: rule.schema.clone(),
            plan: None,
        };
        Some((group, description))
    }

    /// Whether a path belongs to a tree of static files.
    pub fn is_static(&self, path: &[u8]) -> bool {
        self.rule(path).is_some_and(|rule| rule.tree.is_some())
    }

    /// The name under which a target keeps the position of a group: `site/group`.
    pub fn stream(&self, group: usize) -> String {
        format!("{}/{}", self.site.name, self.groups[group].name)
    }

    /// The streams of this site's own groups, in their order.
    pub fn own_streams(&self) -> Vec<String> {
        (0..self.groups.len())
            .map(|group| self.stream(group))
            .collect()
    }

    /// The streams that are applied to this configuration's targets.
    pub fn applied_streams(&self) -> Vec<String> {
        match &self.kafka {
            Some(kafka) if !kafka.streams.is_empty() => kafka.streams.clone(),
            _ => self.own_streams(),
        }
    }

    /// Walks the directories of all rules and yields the regular files that exist and match, each
    /// once; of trees, directories (before what is in them) and symbolic links as well. Symbolic links
    /// below a rule's directory aren't followed.
    pub fn scan(&self) -> Scan<'_> {
        Scan::new(self)
    }

    /// The record files that rules name, those that are there now for patterns, and the roots of trees.
    ///
    /// # Errors
    /// The directories can't be looked through.
    pub fn known_paths(&self) -> Result<BTreeSet<PathBuf>, ScanError> {
        let mut paths = BTreeSet::new();
        for (group, of) in self.groups.iter().enumerate() {
            for (at, rule) in of.files.iter().enumerate() {
                if let Some(root) = &rule.tree {
                    paths.insert(root.clone());
                } else if let Some(path) = rule.pattern.literal() {
                    paths.insert(path);
                } else {
                    for found in self.scan_rule(group, at) {
                        paths.insert(found?.path);
                    }
                }
            }
        }
        Ok(paths)
    }

    /// Like [`Config::scan`], for one rule: the files that are its, not those that an earlier rule
    /// takes.
    pub fn scan_rule(&self, group: usize, file: usize) -> Scan<'_> {
        Scan::of_rule(self, group, file)
    }
}

#[cfg(test)]
mod tests;
