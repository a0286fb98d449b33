//! What DBAs want of tables: whether it goes with the files that there are.

use super::Finding;
use counterfoil::config::{Config, SinkConfig};
use counterfoil_sinks::plan::rows::Described;
use counterfoil_sinks::plan::{Mode, Plan};
use std::os::unix::ffi::OsStrExt as _;

/// A finding for every `[table.NAME]` of every sink.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let sinks = config.sinks.iter();
    sinks.flat_map(|sink| of_sink(config, sink)).collect()
}

fn of_sink(config: &Config, sink: &SinkConfig) -> Vec<Finding> {
    let rules = &sink.treatment.tables;
    // Where only others' streams are applied, their files aren't known here. What can't be looked through, `file` says.
    if rules.is_empty() || config.groups.is_empty() {
        return Vec::new();
    }
    let Ok(paths) = config.known_paths() else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for rule in rules {
        let subject = format!("{} (sink {})", rule.name, sink.name);
        let is_its = |path: &&std::path::PathBuf| {
            let of = sink.treatment.rule(path.as_os_str().as_bytes());
            of.is_some_and(|of| std::ptr::eq(of, rule))
        };
        let mut files = paths.iter().filter(is_its).peekable();
        if files.peek().is_none() {
            findings.push(Finding::warning(
                "table",
                &subject,
                "no file that the configuration names or finds is this table's",
                "correct `file` of the table if there should be one; it is a pattern, and relative to the sink's own file",
            ));
        }
        for path in files {
            let bytes = path.as_os_str().as_bytes();
            let Some((_, file)) = config.describe(bytes) else {
                continue;
            };
            let shown = path.display();
            findings.push(if !sink.treatment.takes(bytes, file.tree.as_deref()) {
                Finding::warning(
                    "table",
                    &subject,
                    format!("{shown} isn't among the sink's files"),
                    "take it into `include`, or out of `exclude`, or leave the table out",
                )
            } else if file.tree.is_some() {
                Finding::warning(
                    "table",
                    &subject,
                    format!("{shown} is a tree, whose table is always the same"),
                    "leave the table out",
                )
            } else {
                match sink.treatment.describe(&config.site.name, &file, None) {
                    Ok(described) if !described.left_out.is_empty() => Finding::warning(
                        "table",
                        &subject,
                        format!("{shown}: {}", described.left_out.join("; ")),
                        "the record's own bytes have it all the same; leave the table out with `exclude_columns`, or describe it apart",
                    ),
                    Ok(described) => Finding::ok(
                        "table",
                        &subject,
                        format!("{shown}: {}", told(&described)),
                    ),
                    Err(problems) => Finding::error(
                        "table",
                        &subject,
                        format!("{shown}: {}", problems.join("; ")),
                        "`counterfoil schema show` lists the fields and columns of a copybook",
                    ),
                }
            });
        }
    }
    findings
}

fn told(described: &Described) -> String {
    let mut text = in_words(described.file.plan.as_deref());
    for table in &described.all()[1..] {
        let columns = table.plan.as_ref().map_or(0, |plan| plan.columns().len());
        let name = table.table.as_deref().unwrap_or_default();
        text.push_str(&format!(
            "; {name}, a row for each occurrence, {columns} columns"
        ));
    }
    text
}

fn in_words(plan: Option<&Plan>) -> String {
    let raw = Plan::raw();
    let plan = plan.unwrap_or(&raw);
    let shape = plan.shape();
    let rows = match shape.mode {
        Mode::Mirror => "a row for each record",
        Mode::History => "a row for each change",
    };
    let columns = match plan.columns().len() {
        0 => "no columns".to_owned(),
        1 => "1 column".to_owned(),
        count => format!("{count} columns"),
    };
    let raw = if shape.raw {
        "the raw image beside them"
    } else {
        "no raw image, so it can't be restored or verified from there"
    };
    format!("{rows}, {columns}, {raw}")
}
