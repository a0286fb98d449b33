//! What came of it: a table with a line per file, and where to look.

use super::stage::{FILES, Stage};
use super::watch::Watch;
use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use counterfoil::config::Config;
use rusqlite::{Connection, OpenFlags};
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const COMPARED_BYTES: usize = 1 << 16;

/// The outcome of the demo.
pub(super) struct Summary {
    lines: Vec<Line>,
    lag_ms: Option<(f64, f64)>,
    facts: String,
    books_balance: bool,
    top_cards: Table,
    hints: String,
}

/// The outcome for one file.
struct Line {
    path: String,
    organization: String,
    records: u64,
    rows: u64,
    /// What differs, if anything does.
    difference: Option<String>,
}

impl Summary {
    /// Compares the files with their rows (by what `verify --json` says) and with what was restored (byte for byte).
    pub(super) fn of(
        stage: &Stage,
        watch: &Watch,
        report: &serde_json::Value,
        kills: &[&str],
        (books_balance, audit): (bool, String),
    ) -> anyhow::Result<Summary> {
        let config = Config::load(&stage.config())?;
        let rows = watch.rows_by_file()?;
        let mut lines = Vec::new();
        for name in FILES {
            let path = stage.files().join(name);
            let bytes = path.as_os_str().as_bytes();
            let text = counterfoil_proto::path_text(bytes);
            let verified = report["files"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|file| file["path"] == text.as_str());
            let difference = match verified {
                None => Some("not known to verify".to_owned()),
                Some(file) if file["equal"] != true => Some(match file["error"].as_str() {
                    Some(error) => error.to_owned(),
                    None => format!("{} records differ from their rows", file["different"]),
                }),
                Some(_) => compare(&path, &stage.restored_files().join(name))?,
            };
            lines.push(Line {
                path: path
                    .strip_prefix(&stage.root)
                    .unwrap_or(&path)
                    .display()
                    .to_string(),
                organization: config
                    .rule_for(bytes)
                    .map(|(group, rule)| config.groups[group].files[rule].format.to_string())
                    .unwrap_or_default(),
                records: verified.map_or(0, |file| file["records"].as_u64().unwrap_or(0)),
                rows: rows.get(bytes).copied().unwrap_or(0),
                difference,
            });
        }
        Ok(Summary {
            lines,
            lag_ms: watch.lag_ms(),
            facts: format!(
                "captured: about {} operations, {} entries of the journal, {} records applied\n\
                 killed: {}; {} ranges of files were read again because what is in them was in doubt\n\
                 the switch's own audit of the restored files: {audit}\n",
                watch.operations(),
                watch.journal_entries(),
                watch.images(),
                kills.join(", "),
                watch.rereads(),
            ),
            books_balance,
            top_cards: top_cards(&stage.database())?,
            hints: hints(stage),
        })
    }

    /// Whether everything is as it should be.
    pub(super) fn is_identical(&self) -> bool {
        self.books_balance && self.lines.iter().all(|line| line.difference.is_none())
    }
}

/// The columns of a card that are shown, and which cards.
const TOP_CARDS: &str = "SELECT slot_number, card_number, card_holder, card_spent FROM cards_dat \
                         ORDER BY card_spent DESC LIMIT 3";

/// A look into the rows, as their reader has it: what the copybook calls a field is a column.
fn top_cards(database: &Path) -> anyhow::Result<Table> {
    let looking = || format!("looking at the cards in {}", database.display());
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(looking)?;
    let mut select = connection.prepare(TOP_CARDS).with_context(looking)?;
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(select.column_names());
    let mut rows = select.query([]).with_context(looking)?;
    while let Some(row) = rows.next().with_context(looking)? {
        let number = |at: usize| row.get::<_, Option<i64>>(at).with_context(looking);
        let shown = |number: Option<i64>| number.map_or_else(String::new, |n| n.to_string());
        let holder: Option<String> = row.get(2).with_context(looking)?;
        table.add_row([
            shown(number(0)?),
            shown(number(1)?),
            holder.unwrap_or_default(),
            shown(number(3)?),
        ]);
    }
    Ok(table)
}

fn hints(stage: &Stage) -> String {
    let root = stage.root.display();
    format!(
        "everything is left in {root}: files/ (the originals), state/counterfoil.db (the rows), restored/, logs/\n\
         look into the rows yourself: sqlite3 -box {} \"{TOP_CARDS}\"\n\
         when you have seen enough: rm -r {root}\n",
        stage.database().display()
    )
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([
            "file",
            "organisation",
            "records",
            "rows",
            "lag ms, median",
            "worst seen",
            "result",
        ]);
        for number in 2..=5 {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        // The files are of one group, so each batch brings all of them, and their lag is the same.
        let lag = |lag: Option<f64>| lag.map_or_else(|| "-".to_owned(), |lag| format!("{lag:.1}"));
        for line in &self.lines {
            table.add_row([
                line.path.clone(),
                line.organization.clone(),
                line.records.to_string(),
                line.rows.to_string(),
                lag(self.lag_ms.map(|lag| lag.0)),
                lag(self.lag_ms.map(|lag| lag.1)),
                line.difference
                    .clone()
                    .unwrap_or_else(|| "identical".to_owned()),
            ]);
        }
        writeln!(f, "\n{table}\n")?;
        writeln!(f, "{}", self.facts)?;
        writeln!(f, "the cards that paid most, by the columns of card.cpy:")?;
        write!(f, "{}\n\n{}", self.top_cards, self.hints)
    }
}

/// Where two files differ, if they do.
fn compare(original: &Path, restored: &Path) -> anyhow::Result<Option<String>> {
    let open = |path: &Path| {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        anyhow::Ok((
            file.metadata().map(|metadata| metadata.len()).unwrap_or(0),
            file,
        ))
    };
    if !restored.exists() {
        return Ok(Some("not restored".to_owned()));
    }
    let ((size, original_file), (restored_size, restored_file)) =
        (open(original)?, open(restored)?);
    if size != restored_size {
        return Ok(Some(format!(
            "restored with {restored_size} bytes instead of {size}"
        )));
    }
    let mut sides = [original_file, restored_file]
        .map(|file| BufReader::with_capacity(COMPARED_BYTES, file).bytes());
    for at in 0_u64.. {
        let [ours, theirs] = [sides[0].next(), sides[1].next()].map(Option::transpose);
        let (ours, theirs) = (
            ours.with_context(|| format!("reading {}", original.display()))?,
            theirs.with_context(|| format!("reading {}", restored.display()))?,
        );
        match (ours, theirs) {
            (None, None) => return Ok(None),
            (ours, theirs) if ours != theirs => {
                return Ok(Some(format!("restored with another byte at {at}")));
            }
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_compared_to_the_last_byte() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        let mut bytes = vec![7; 3 * COMPARED_BYTES + 5];
        std::fs::write(&a, &bytes)?;
        assert_eq!(compare(&a, &b)?.as_deref(), Some("not restored"));
        std::fs::write(&b, &bytes)?;
        assert_eq!(compare(&a, &b)?, None);
        let last = bytes.len() - 1;
        bytes[last] = 8;
        std::fs::write(&b, &bytes)?;
        assert_eq!(
            compare(&a, &b)?,
            Some(format!("restored with another byte at {last}"))
        );
        std::fs::write(&b, &bytes[..last])?;
        assert!(compare(&a, &b)?.is_some_and(|text| text.contains("instead of")));
        Ok(())
    }
}
