//! `counterfoil check`: what is fit, what isn't, and what to do about it.
//!
//! Looks at the configuration, the state directory, the interposer, running programs, the files of every rule and
//! the sinks. It only looks: nothing is made, changed or locked for longer than the look takes, so
//! it may be run at any time, also while a replicator runs.
//!
//! # Exit codes
//! 0: no error-level finding (warnings don't count); 1: at least one.

mod coverage;
mod files;
#[cfg(feature = "kafka")]
mod kafka;
mod sinks;
mod state;
mod tables;

use counterfoil::config::Config;
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Check the configuration, permissions, files and sinks, and say what to do.
///
/// Exits with 0 unless there is an error; warnings don't count.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, but perhaps not as expected.
    Warning,
    /// Will not work, or nearly certainly is a mistake.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        })
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What was checked: `configuration`, `state`, `lanes`, `replicator`, `journal`, `platform`,
    /// `interposer`, `coverage`, `rule`, `file`, `table`, `sink` or `kafka`.
    check: &'static str,
    /// The directory, file, pattern or name it is about.
    subject: String,
    message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Finding {
    fn new(
        level: Level,
        check: &'static str,
        subject: impl fmt::Display,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            level,
            check,
            subject: subject.to_string(),
            message: message.into(),
            help: None,
        }
    }

    fn ok(check: &'static str, subject: impl fmt::Display, message: impl Into<String>) -> Finding {
        Finding::new(Level::Ok, check, subject, message)
    }

    fn warning(
        check: &'static str,
        subject: impl fmt::Display,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Finding {
        Finding {
            help: Some(help.into()),
            ..Finding::new(Level::Warning, check, subject, message)
        }
    }

    fn error(
        check: &'static str,
        subject: impl fmt::Display,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Finding {
        Finding {
            help: Some(help.into()),
            ..Finding::new(Level::Error, check, subject, message)
        }
    }
}

/// The findings with their sum, as `--json` prints them.
#[derive(Serialize)]
struct Report<'a> {
    config: String,
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

/// Runs the command on the configuration file `config`.
pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let findings = check(config, crate::interposer_library());
    let text = if args.json {
        json(config, &findings)?
    } else {
        text(&findings)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(exit_code(&findings))
}

fn exit_code(findings: &[Finding]) -> ExitCode {
    if count(findings, Level::Error) > 0 {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    }
}

/// Everything there is to say about a configuration file.
fn check(path: &Path, interposer: anyhow::Result<PathBuf>) -> Vec<Finding> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            return vec![Finding::error(
                "configuration",
                path.display(),
                format!("can't be used:\n{error}"),
                "correct it and check again; docs/configuration.md has every key",
            )];
        }
    };
    let rules: usize = config.groups.iter().map(|group| group.files.len()).sum();
    let mut findings = vec![Finding::ok(
        "configuration",
        config.path.display(),
        format!(
            "site {:?}, {}, {}, {}",
            config.site.name,
            counted(config.groups.len(), "group"),
            counted(rules, "rule"),
            counted(config.sinks.len(), "sink")
        ),
    )];
    findings.extend(state::findings(&config));
    findings.push(platform());
    findings.push(match interposer {
        Ok(library) => Finding::ok("interposer", library.display(), "found"),
        Err(error) => Finding::error(
            "interposer",
            "the library that captures writes",
            format!("{error:#}"),
            "without it `counterfoil exec` captures nothing: install it beside the counterfoil binary",
        ),
    });
    findings.extend(coverage::findings(&config));
    findings.extend(files::findings(&config));
    findings.extend(tables::findings(&config));
    findings.extend(sinks::findings(&config));
    #[cfg(feature = "kafka")]
    findings.extend(kafka::findings(&config));
    findings
}

/// Whether the interposer can capture everything here.
fn platform() -> Finding {
    let here = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    match libc_version() {
        Some(version) if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) => Finding::ok(
            "platform",
            here,
            format!("glibc {version}: all of libc's calls are captured"),
        ),
        _ => Finding::warning(
            "platform",
            here,
            "not glibc on x86-64 or aarch64: calls by symbol are captured, but not what stdio (fprintf, fclose, \
             COBOL's LINE SEQUENTIAL) flushes from within libc",
            "run the programs on a glibc system of one of these kinds, or rely on re-reading for files written by stdio",
        ),
    }
}

#[cfg(target_env = "gnu")]
fn libc_version() -> Option<String> {
    // SAFETY: takes nothing, and returns a string constant.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    Some(version.to_string_lossy().into_owned())
}

#[cfg(not(target_env = "gnu"))]
fn libc_version() -> Option<String> {
    None
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings
        .iter()
        .filter(|finding| finding.level == level)
        .count()
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn json(config: &Path, findings: &[Finding]) -> anyhow::Result<String> {
    let report = Report {
        config: config.display().to_string(),
        errors: count(findings, Level::Error),
        warnings: count(findings, Level::Warning),
        findings,
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

fn text(findings: &[Finding]) -> String {
    const INDENT: usize = 9 + 15;
    let mut text = String::new();
    for Finding {
        level,
        check,
        subject,
        message,
        help,
    } in findings
    {
        // Names of files are shown too, and may hold anything.
        let shown = format!("{subject}: {message}");
        let shown: String = shown
            .chars()
            .map(|c| {
                if c.is_control() && c != '\n' {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        let shown = shown.replace('\n', &format!("\n{:INDENT$}", ""));
        text.push_str(&format!("{level:<9}{check:<15}{shown}\n"));
        if let Some(help) = help {
            text.push_str(&format!("{:INDENT$}-> {help}\n", ""));
        }
    }
    let (errors, warnings) = (
        count(findings, Level::Error),
        count(findings, Level::Warning),
    );
    text.push_str(&format!(
        "\n{}, {}\n",
        counted(errors, "error"),
        counted(warnings, "warning")
    ));
    text
}

#[cfg(test)]
mod tests;
