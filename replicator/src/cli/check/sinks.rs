//! The sinks: whether they can be reached and written to.

use super::Finding;
use super::state::{FileSystem, allowed, file_system};
use counterfoil::config::{Config, SinkConfig, Target};
use counterfoil_sinks::{
    FilesConfig, FilesSink, MysqlConfig, MysqlSink, PostgresConfig, PostgresSink, SinkError,
    SqliteSink,
};
#[cfg(feature = "odbc")]
use counterfoil_sinks::{OdbcConfig, OdbcSink};
use rustix::fs::Access;
use std::path::Path;

/// A finding or more for every sink.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    config
        .sinks
        .iter()
        .flat_map(|sink| match &sink.target {
            Target::Sqlite(_) => sqlite(sink, &config.site.state),
            Target::Postgres(postgres_config) => postgres(sink, postgres_config),
            Target::Mysql(mysql_config) => vec![mysql(sink, mysql_config)],
            #[cfg(feature = "odbc")]
            Target::Odbc(odbc_config) => vec![odbc(sink, odbc_config)],
            Target::Files(files_config) => vec![files(sink, files_config)],
            // Kinds of target that come later bring their own check.
            _ => Vec::new(),
        })
        .collect()
}

/// A server that can't be reached, or not so.
fn unreachable(subject: String, error: SinkError) -> Finding {
    match error {
        SinkError::Permanent { doing, cause, next } => {
            Finding::error("sink", subject, format!("{doing}: {cause}"), next)
        }
        error => Finding::error(
            "sink",
            subject,
            error.to_string(),
            "start the server, or correct `url`; capturing goes on without it once it was reached for the first time",
        ),
    }
}

fn mysql(sink: &SinkConfig, config: &MysqlConfig) -> Finding {
    let subject = format!("{} ({})", sink.name, config.place());
    let reached = match MysqlSink::probe(config) {
        Ok(reached) => reached,
        Err(error) => return unreachable(subject, error),
    };
    let tables = if reached.has_tables {
        "mirrored into already"
    } else {
        "its tables will be made"
    };
    let ways = if reached.loads {
        "new rows are loaded"
    } else {
        "rows are inserted, for LOAD DATA LOCAL isn't allowed"
    };
    Finding::ok(
        "sink",
        subject,
        format!(
            "{}: {tables}; {ways}; records of up to {} bytes",
            reached.version, reached.packet_bytes_max
        ),
    )
}

#[cfg(feature = "odbc")]
fn odbc(sink: &SinkConfig, config: &OdbcConfig) -> Finding {
    let subject = format!("{} ({})", sink.name, config.place());
    let reached = match OdbcSink::probe(config) {
        Ok(reached) => reached,
        Err(error) => return unreachable(subject, error),
    };
    let tables = if reached.has_tables {
        "mirrored into already"
    } else {
        "its tables will be made"
    };
    let dialect = reached.dialect.name();
    if reached.was_tried {
        return Finding::ok(
            "sink",
            subject,
            format!("{}, dialect {dialect}: {tables}", reached.database),
        );
    }
    Finding::warning(
        "sink",
        subject,
        format!(
            "{}, dialect {dialect}: {tables}; this dialect was never tried on a real server",
            reached.database
        ),
        "try it with a copy first, and compare with `counterfoil verify`",
    )
}

fn files(sink: &SinkConfig, config: &FilesConfig) -> Finding {
    let root = &config.root;
    let subject = format!("{} ({})", sink.name, root.display());
    let is_there = root.is_dir();
    let directory = match root.parent() {
        Some(parent) if !is_there => parent,
        _ => root,
    };
    if !directory.is_dir() {
        return Finding::error(
            "sink",
            subject,
            format!("there is no directory {}", directory.display()),
            format!("mkdir -p {}", directory.display()),
        );
    }
    if let Err(error) = allowed(directory, Access::WRITE_OK | Access::EXEC_OK) {
        return Finding::error(
            "sink",
            subject,
            format!("this user can't write to {}: {error}", directory.display()),
            "run the replicator as a user that may, or configure another root",
        );
    }
    if !root.join(counterfoil_sinks::files::OWN_DIRECTORY).is_dir() {
        return Finding::ok("sink", subject, "files will be mirrored there");
    }
    match FilesSink::open_read_only(config) {
        Ok(_) => Finding::ok("sink", subject, "mirrored into already, and can be read"),
        Err(error) => unreachable(subject, error),
    }
}

fn postgres(sink: &SinkConfig, config: &PostgresConfig) -> Vec<Finding> {
    let subject = format!("{} ({})", sink.name, config.place());
    let reached = match PostgresSink::probe(config) {
        Ok(reached) => reached,
        Err(error) => return vec![unreachable(subject, error)],
    };
    if reached.missing.is_empty() {
        let version: Vec<&str> = reached.version.split(' ').take(2).collect();
        let tables = if reached.has_tables {
            "mirrored into already"
        } else {
            "its tables will be made"
        };
        return vec![Finding::ok(
            "sink",
            subject,
            format!("{}, schema {}: {tables}", version.join(" "), reached.schema),
        )];
    }
    let missing = reached.missing.into_iter();
    missing
        .map(|(found, sql)| Finding::error("sink", &subject, found, sql))
        .collect()
}

fn sqlite(sink: &SinkConfig, state: &Path) -> Vec<Finding> {
    let config = match &sink.target {
        Target::Sqlite(config) => config,
        // Kinds of target that come later bring their own check.
        _ => return Vec::new(),
    };
    let subject = format!("{} ({})", sink.name, config.path.display());
    let directory = config.path.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        // The state directory is made at the start; whether it can be is a finding of its own.
        if directory.starts_with(state) {
            return vec![Finding::ok(
                "sink",
                subject,
                "will be made in the state directory",
            )];
        }
        return vec![Finding::error(
            "sink",
            subject,
            format!("there is no directory {}", directory.display()),
            format!("mkdir -p {}", directory.display()),
        )];
    }
    let mut findings = Vec::new();
    if let Err(error) = allowed(directory, Access::WRITE_OK | Access::EXEC_OK) {
        findings.push(Finding::error(
            "sink",
            &subject,
            format!("this user can't write to {}, where SQLite keeps its log beside the database: {error}", directory.display()),
            "run the replicator as a user that may, or configure another path",
        ));
    }
    if file_system(directory) == Some(FileSystem::Network) {
        findings.push(Finding::error(
            "sink",
            &subject,
            "is on a network file system, where SQLite's write-ahead log doesn't work",
            "put it on a local disk",
        ));
    }
    if config.path.symlink_metadata().is_err() {
        if findings.is_empty() {
            findings.push(Finding::ok("sink", subject, "will be made"));
        }
        return findings;
    }
    if let Err(error) = allowed(&config.path, Access::READ_OK | Access::WRITE_OK) {
        findings.push(Finding::error(
            "sink",
            &subject,
            format!("this user can't read and write it: {error}"),
            "run the replicator as its owner, or `chown` it",
        ));
    } else if config
        .path
        .metadata()
        .is_ok_and(|metadata| metadata.len() == 0)
    {
        findings.push(Finding::ok("sink", &subject, "empty"));
    } else {
        match SqliteSink::open_read_only(config) {
            Ok(_) => findings.push(Finding::ok("sink", &subject, "there, and can be read")),
            Err(error) => findings.push(Finding::error(
                "sink",
                &subject,
                error.to_string(),
                "correct that, or configure another path",
            )),
        }
    }
    findings
}
