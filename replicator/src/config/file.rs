//! The configuration file as written: what may stand where, before any of it is checked.
//!
//! Values whose place matters for a later message are [`Spanned`]. Every table refuses unknown
//! keys.

use counterfoil_records::schema::{FieldSpec, ItemSpec, UnsetWord};
use counterfoil_records::{LayoutWords, Organization};
use counterfoil_sinks::mysql::Tls;
use counterfoil_sinks::plan::{Ddl, Mode};
use counterfoil_sinks::postgres::SslMode;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) site: Option<SiteTable>,
    #[serde(default)]
    pub(super) journal: JournalTable,
    #[serde(default)]
    pub(super) apply: ApplyTable,
    #[serde(default)]
    pub(super) load: LoadTable,
    #[serde(default)]
    pub(super) verify: VerifyTable,
    #[serde(default)]
    pub(super) group: Vec<Spanned<GroupTable>>,
    pub(super) kafka: Option<KafkaTable>,
    #[serde(default)]
    pub(super) metrics: MetricsTable,
    #[serde(default)]
    pub(super) sink: Vec<Spanned<SinkTable>>,
    #[serde(default)]
    pub(super) sinks: SinksTable,
}

/// `[site]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteTable {
    pub(super) name: Spanned<String>,
    pub(super) state: Spanned<String>,
    pub(super) lanes: Option<Spanned<String>>,
    pub(super) lane_bytes_max: Option<Spanned<i64>>,
    pub(super) lanes_bytes_max: Option<Spanned<i64>>,
    pub(super) lanes_access: Option<Spanned<AccessWord>>,
}

/// `[kafka]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KafkaTable {
    pub(super) topic_prefix: Option<Spanned<String>>,
    pub(super) routes: Spanned<Vec<RouteTable>>,
    pub(super) ordering: Option<Spanned<OrderingWord>>,
    pub(super) partitions: Option<Spanned<i64>>,
    pub(super) instance: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) streams: Vec<Spanned<String>>,
    pub(super) message_bytes_max: Option<Spanned<i64>>,
    pub(super) create_topics: Option<bool>,
    pub(super) replication: Option<Spanned<i64>>,
    pub(super) retention_hours: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) topic: BTreeMap<String, Spanned<Setting>>,
    #[serde(default)]
    pub(super) client: BTreeMap<String, Spanned<Setting>>,
    pub(super) password_file: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) tombstones: bool,
    pub(super) wire_format: Option<Spanned<WireFormatWord>>,
    pub(super) registry: Option<Spanned<RegistryTable>>,
    pub(super) read_again_on_request: Option<bool>,
    pub(super) read_again_interval_minutes: Option<Spanned<i64>>,
}

/// `[kafka.registry]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistryTable {
    pub(super) url: Spanned<String>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) ca: Option<Spanned<String>>,
    pub(super) auto_register: Option<bool>,
    pub(super) subject_names: Option<SubjectNamesWord>,
}

/// The words of `wire_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WireFormatWord {
    Protobuf,
    Confluent,
}

/// The words of `subject_names`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SubjectNamesWord {
    Topic,
    Record,
}

/// `[[kafka.routes]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    pub(super) name: Spanned<String>,
    pub(super) bootstrap: Spanned<String>,
}

/// The words of `ordering`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OrderingWord {
    Group,
    File,
    Record,
}

/// A setting that is passed on as text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Setting {
    Text(String),
    Number(i64),
    Switch(bool),
}

/// `[journal]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JournalTable {
    pub(super) sync_interval_ms: Option<Spanned<i64>>,
    pub(super) segment_bytes: Option<Spanned<i64>>,
    pub(super) bytes_max: Option<Spanned<i64>>,
}

/// `[apply]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyTable {
    pub(super) batch_records_max: Option<Spanned<i64>>,
    pub(super) batch_delay_ms_max: Option<Spanned<i64>>,
    pub(super) spool_bytes_max: Option<Spanned<i64>>,
}

/// `[load]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadTable {
    pub(super) bytes_per_second: Option<Spanned<i64>>,
}

/// `[verify]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyTable {
    pub(super) bytes_per_second: Option<Spanned<i64>>,
    pub(super) interval_minutes: Option<Spanned<i64>>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricsTable {
    pub(super) enabled: Option<bool>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) listen_apply: Option<Spanned<String>>,
    pub(super) pending_ms_max: Option<Spanned<i64>>,
}

/// `[[group]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupTable {
    pub(super) name: Spanned<String>,
    pub(super) unit_of_work: Option<Spanned<UnitWord>>,
    pub(super) unit_timeout_ms: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) before: bool,
    pub(super) on_backlog: Option<BacklogWord>,
    pub(super) on_unavailable: Option<UnavailableWord>,
    #[serde(default)]
    pub(super) file: Vec<Spanned<FileTable>>,
    #[serde(default)]
    pub(super) tree: Vec<Spanned<TreeTable>>,
}

/// The words of `lanes_access`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AccessWord {
    Owner,
    Group,
    All,
}

/// The words of `on_backlog`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BacklogWord {
    Grow,
    Block,
}

/// The words of `on_unavailable`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UnavailableWord {
    Continue,
    Block,
    Fail,
}

/// The words of `unit_of_work`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UnitWord {
    None,
    Fsync,
    Lock,
    Close,
    Api,
}

/// `[[group.file]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTable {
    pub(super) path: Spanned<String>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<String>>,
    pub(super) organization: Spanned<Organization>,
    pub(super) layout: Spanned<LayoutWords>,
    pub(super) record_size: Option<Spanned<i64>>,
    pub(super) varseq_format: Option<Spanned<i64>>,
    pub(super) table: Option<Spanned<String>>,
    pub(super) copybook: Option<Spanned<String>>,
    pub(super) copybook_format: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) copy_path: Vec<Spanned<String>>,
    pub(super) dialect: Option<Spanned<String>>,
    pub(super) record: Option<Spanned<String>>,
    pub(super) blank: Option<Spanned<UnsetWord>>,
    #[serde(default)]
    pub(super) field: Vec<Spanned<FieldSpec>>,
    #[serde(default)]
    pub(super) item: Vec<Spanned<ItemSpec>>,
}

/// `[[group.tree]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TreeTable {
    pub(super) path: Spanned<String>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<String>>,
    pub(super) table: Option<Spanned<String>>,
}

/// `[[sink]]`, and the whole of an included sink file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SinkTable {
    pub(super) name: Spanned<String>,
    pub(super) sqlite: Option<Spanned<SqliteTable>>,
    pub(super) postgres: Option<Spanned<PostgresTable>>,
    pub(super) mysql: Option<Spanned<MysqlTable>>,
    pub(super) odbc: Option<Spanned<OdbcTable>>,
    pub(super) files: Option<Spanned<FilesTable>>,
    #[serde(default)]
    pub(super) include: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<String>>,
    pub(super) ddl: Option<Ddl>,
    pub(super) mode: Option<Mode>,
    pub(super) raw: Option<bool>,
    pub(super) drop_columns: Option<bool>,
    pub(super) on_refused_row: Option<RefusedWord>,
    pub(super) mask_key_file: Option<Spanned<String>>,
    pub(super) batch_records_max: Option<Spanned<i64>>,
    pub(super) batch_delay_ms_max: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) table: BTreeMap<String, Spanned<TableTable>>,
}

/// `[table.NAME]` of a sink.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableTable {
    pub(super) file: Spanned<OneOrMany>,
    pub(super) mode: Option<Mode>,
    pub(super) raw: Option<bool>,
    pub(super) columns: Option<Vec<String>>,
    #[serde(default)]
    pub(super) exclude_columns: Vec<String>,
    #[serde(default)]
    pub(super) rename: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) types: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub(super) mask: BTreeMap<String, Spanned<MaskValue>>,
    #[serde(default)]
    pub(super) constants: BTreeMap<String, Spanned<Setting>>,
    pub(super) key: Option<Spanned<Vec<String>>>,
    pub(super) drop_columns: Option<bool>,
    pub(super) on_refused_row: Option<RefusedWord>,
    pub(super) copybook: Option<Spanned<String>>,
    pub(super) copybook_format: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) copy_path: Vec<Spanned<String>>,
    pub(super) dialect: Option<Spanned<String>>,
    pub(super) record: Option<Spanned<String>>,
    pub(super) blank: Option<Spanned<UnsetWord>>,
    #[serde(default)]
    pub(super) field: Vec<Spanned<FieldSpec>>,
    #[serde(default)]
    pub(super) item: Vec<Spanned<ItemSpec>>,
}

/// A path, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A value of `mask`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum MaskValue {
    Word(String),
    Fixed { fixed: String },
}

/// The words of `on_refused_row`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RefusedWord {
    Retry,
    DeadLetter,
    Stop,
}

/// What says what is in a file's records, wherever it stands.
pub(super) struct SchemaKeys<'t> {
    pub(super) name: Option<&'t str>,
    pub(super) copybook: Option<&'t Spanned<String>>,
    pub(super) copybook_format: Option<&'t Spanned<String>>,
    pub(super) copy_path: &'t [Spanned<String>],
    pub(super) dialect: Option<&'t Spanned<String>>,
    pub(super) record: Option<&'t Spanned<String>>,
    pub(super) blank: Option<&'t Spanned<UnsetWord>>,
    pub(super) field: &'t [Spanned<FieldSpec>],
    pub(super) item: &'t [Spanned<ItemSpec>],
}

impl FileTable {
    pub(super) fn schema_keys(&self) -> SchemaKeys<'_> {
        SchemaKeys {
            name: self.table.as_ref().map(|name| name.get_ref().as_str()),
            copybook: self.copybook.as_ref(),
            copybook_format: self.copybook_format.as_ref(),
            copy_path: &self.copy_path,
            dialect: self.dialect.as_ref(),
            record: self.record.as_ref(),
            blank: self.blank.as_ref(),
            field: &self.field,
            item: &self.item,
        }
    }
}

impl TableTable {
    pub(super) fn schema_keys<'t>(&'t self, name: &'t str) -> SchemaKeys<'t> {
        SchemaKeys {
            name: Some(name),
            copybook: self.copybook.as_ref(),
            copybook_format: self.copybook_format.as_ref(),
            copy_path: &self.copy_path,
            dialect: self.dialect.as_ref(),
            record: self.record.as_ref(),
            blank: self.blank.as_ref(),
            field: &self.field,
            item: &self.item,
        }
    }
}

/// `[sink.sqlite]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SqliteTable {
    pub(super) path: Spanned<String>,
    pub(super) busy_timeout_ms: Option<Spanned<i64>>,
    pub(super) size_bytes_max: Option<Spanned<i64>>,
}

/// `[sink.files]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilesTable {
    pub(super) root: Spanned<String>,
    pub(super) attributes: Option<bool>,
    pub(super) lock_timeout_ms: Option<Spanned<i64>>,
}

/// `[sink.postgres]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PostgresTable {
    pub(super) url: Option<Spanned<String>>,
    pub(super) service: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) schema: Option<Spanned<String>>,
    pub(super) sslmode: Option<Spanned<SslMode>>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) application_name: Option<Spanned<String>>,
    pub(super) connect_timeout_ms: Option<Spanned<i64>>,
    pub(super) statement_timeout_ms: Option<Spanned<i64>>,
    pub(super) lock_timeout_ms: Option<Spanned<i64>>,
    pub(super) keepalive_s: Option<Spanned<i64>>,
}

/// `[sink.mysql]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MysqlTable {
    pub(super) url: Spanned<String>,
    pub(super) socket: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) tls: Option<Spanned<Tls>>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) connect_timeout_ms: Option<Spanned<i64>>,
    pub(super) statement_timeout_ms: Option<Spanned<i64>>,
    pub(super) lock_wait_timeout_s: Option<Spanned<i64>>,
    pub(super) load_data: Option<bool>,
}

/// `[sink.odbc]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(
    not(feature = "odbc"),
    expect(dead_code, reason = "it is refused, whatever is in it")
)]
pub(super) struct OdbcTable {
    pub(super) connection: Option<Spanned<String>>,
    pub(super) dsn: Option<Spanned<String>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) dialect: Option<Spanned<String>>,
    pub(super) schema: Option<Spanned<String>>,
    pub(super) connect_timeout_ms: Option<Spanned<i64>>,
    pub(super) statement_timeout_ms: Option<Spanned<i64>>,
    pub(super) lock_wait_timeout_ms: Option<Spanned<i64>>,
}

/// `[sinks]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SinksTable {
    #[serde(default)]
    pub(super) include: Vec<Spanned<String>>,
}
