//! `counterfoil init DIR`: looks at files, guesses what is in them, and writes a configuration.
//!
//! A guess is advice. What the bytes clearly show becomes a rule, with its evidence in a comment
//! and the alternatives below it; what they don't show well stays commented out for a person to
//! decide. The file that is written always loads. A wrong guess never costs bytes: every layout
//! keeps what doesn't fit it, and a restore is exact under any of them.

pub(super) mod beside;

use anyhow::{Context as _, bail};
use beside::{Beside, Fit};
use counterfoil::config::{Config, Pattern};
use counterfoil_records::{Confidence, Guess, RecordFormat, Sample, guess};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use walkdir::WalkDir;

/// Files looked into; the rest is left out with a note.
const FILES_MAX: usize = 1000;
/// Directory entries looked at, so that a huge tree of other things ends too.
const ENTRIES_MAX: usize = 200_000;
/// Levels below the directory that are looked at.
const DEPTH_MAX: usize = 8;
/// How much of a file is read; more makes guesses no better.
const SAMPLE_BYTES_MAX: u64 = 1 << 20;
/// Files that a comment names one by one.
const NAMES_MAX: usize = 5;
/// The state directory that is written into the configuration.
const STATE_NAME: &str = "counterfoil-state";

/// Look at the files in a directory, guess what is in them, and write a commented configuration.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The directory with the files to mirror
    dir: PathBuf,
    /// The file to write, instead of the one that --config names
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The name of this installation, instead of the host's name
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Replace the configuration if there is one
    #[arg(long)]
    force: bool,
}

/// Runs the command. `config` is where the configuration goes unless `--output` is given.
pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let output = args.output.as_deref().unwrap_or(config);
    if !args.force && output.symlink_metadata().is_ok() {
        bail!(
            "{} exists already: choose another with --output FILE, or replace it with --force",
            output.display()
        );
    }
    let site = args.site.clone().unwrap_or_else(site_name);
    let survey = Survey::of(&args.dir, output)?;
    print!("{}", survey.table());
    if survey.seen.iter().all(|seen| seen.guesses.is_empty()) {
        bail!(
            "no file to mirror was found below {}, so {} isn't written: name a directory with record files in it",
            args.dir.display(),
            output.display()
        );
    }
    write_checked(output, &survey.configuration(&site), args.force)?;
    println!("\nWrote {}. Next:", output.display());
    println!(
        "  1. read it: each rule says what it was guessed from, and unsure ones are commented out"
    );
    println!("  2. counterfoil check            what is still in the way");
    println!("  3. counterfoil exec -- COMMAND  run a program with its writes captured");
    println!("  4. counterfoil run              mirror them");
    Ok(ExitCode::SUCCESS)
}

/// What was found below a directory.
struct Survey {
    /// Files, in order of path.
    seen: Vec<Seen>,
    /// What wasn't looked at, and why: shown, and noted in the configuration.
    notes: Vec<String>,
}

/// A file that was looked into.
struct Seen {
    path: PathBuf,
    len: u64,
    /// The best first; empty when the file is left out.
    guesses: Vec<Guess>,
    /// Why it is left out, if it is.
    left_out: Option<String>,
    /// Nothing is in it yet.
    empty: bool,
    /// The copybook that lies beside it, if there is one.
    copybook: Option<Beside>,
}

impl Seen {
    fn extension(&self) -> Option<&str> {
        let extension = self.path.extension()?.to_str()?;
        let fits = extension.starts_with(|c: char| c.is_ascii_alphabetic());
        fits.then_some(extension)
    }

    /// How it goes with its copybook, if it does.
    fn fit(&self) -> Option<&Fit> {
        match &self.copybook {
            Some(Beside::Fits(fit)) => Some(fit),
            _ => None,
        }
    }

    /// Looks for its copybook. A guess that goes with one is a good guess.
    fn look_beside(&mut self, head: &[u8]) {
        let Some(copybook) = beside::find(&self.path) else {
            return;
        };
        let found = beside::fit(&copybook, &self.guesses, head, self.len);
        if let Beside::Fits(fit) = &found {
            let known = self.guesses.iter().position(|it| it.format == fit.format);
            let known = known.map(|at| self.guesses.remove(at));
            let seen = known.as_ref().map_or("", |known| known.evidence.as_str());
            let guess = Guess {
                format: fit.format.clone(),
                confidence: known.as_ref().map_or(Confidence::Likely, |known| {
                    known.confidence.max(Confidence::Likely)
                }),
                evidence: format!(
                    "{seen}{}by its copybook, {}",
                    if seen.is_empty() { "" } else { "; and " },
                    fit.evidence
                ),
            };
            self.guesses.insert(0, guess);
        }
        self.copybook = Some(found);
    }

    fn is_sure(&self) -> bool {
        self.guesses
            .first()
            .is_some_and(|best| best.confidence >= Confidence::Likely)
    }
}

impl Survey {
    fn of(dir: &Path, output: &Path) -> anyhow::Result<Survey> {
        let root = dir.canonicalize().with_context(|| {
            format!("looking for files in {}: is the name right?", dir.display())
        })?;
        if !root.is_dir() {
            bail!(
                "{} isn't a directory: name the directory that the file is in",
                dir.display()
            );
        }
        fs::read_dir(&root).with_context(|| {
            format!(
                "looking for files in {}: run this as a user that may read it",
                dir.display()
            )
        })?;
        let output = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
        let mut survey = Survey {
            seen: Vec::new(),
            notes: Vec::new(),
        };
        let mut skipped = Skipped::default();
        let mut entries = 0;
        let mut walk = WalkDir::new(&root)
            .max_depth(DEPTH_MAX)
            .sort_by_file_name()
            .into_iter();
        while let Some(entry) = walk.next() {
            entries += 1;
            if entries > ENTRIES_MAX || survey.seen.len() >= FILES_MAX {
                survey.notes.push(format!(
                    "stopped after {} files and {} directory entries; name a smaller directory to see the rest",
                    survey.seen.len(),
                    entries - 1
                ));
                break;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    survey
                        .notes
                        .push(format!("couldn't look into all of it: {error}"));
                    continue;
                }
            };
            let kind = entry.file_type();
            let hidden = entry.depth() > 0 && entry.file_name().as_bytes().starts_with(b".");
            if hidden {
                skipped.hidden += 1;
            }
            if kind.is_dir() {
                if hidden || (entry.depth() > 0 && is_state(entry.path())) {
                    walk.skip_current_dir();
                } else if entry.depth() == DEPTH_MAX {
                    skipped.deep += 1;
                }
            } else if hidden {
            } else if kind.is_symlink() {
                skipped.links += 1;
            } else if kind.is_fifo()
                || kind.is_socket()
                || kind.is_char_device()
                || kind.is_block_device()
            {
                skipped.special += 1;
            } else if !same_file(entry.path(), &output) {
                survey.seen.push(look(entry.into_path()));
            }
        }
        skipped.note(&mut survey.notes);
        survey.leave_out_copybooks();
        Ok(survey)
    }

    /// A copybook of one of the files is no data.
    fn leave_out_copybooks(&mut self) {
        let used: BTreeSet<PathBuf> = self
            .seen
            .iter()
            .filter_map(|seen| match seen.copybook.as_ref()? {
                Beside::Fits(fit) => Some(fit.copybook.clone()),
                Beside::Not { .. } => None,
            })
            .collect();
        for seen in &mut self.seen {
            if used.contains(&seen.path) {
                seen.guesses.clear();
                seen.left_out = Some("a copybook".to_owned());
            }
        }
    }

    /// Files as a table for people.
    fn table(&self) -> String {
        let mut rows = vec![
            [
                "FILE",
                "BYTES",
                "ORGANIZATION",
                "LAYOUT",
                "RECORD",
                "CONFIDENCE",
            ]
            .map(str::to_owned),
        ];
        for seen in &self.seen {
            let path = one_line(&seen.path.to_string_lossy());
            let bytes = seen.len.to_string();
            rows.push(match (seen.guesses.first(), &seen.left_out) {
                (
                    Some(Guess {
                        format, confidence, ..
                    }),
                    _,
                ) => [
                    path,
                    bytes,
                    format.organization.name().to_owned(),
                    layout_words(format),
                    format
                        .record_size
                        .map_or(String::new(), |size| size.to_string()),
                    confidence_word(*confidence).to_owned(),
                ],
                (None, why) => [
                    path,
                    bytes,
                    "-".to_owned(),
                    "-".to_owned(),
                    String::new(),
                    format!("left out: {}", why.as_deref().unwrap_or("no guess")),
                ],
            });
        }
        let mut table = columns(&rows, 1);
        for note in &self.notes {
            let _ = writeln!(table, "note: {note}");
        }
        table
    }

    /// The configuration's text.
    fn configuration(&self, site: &str) -> String {
        let mut text = String::new();
        let _ = write!(text, "{}", header(site));
        for note in &self.notes {
            let _ = writeln!(text, "# note: {}", one_line(note));
        }
        let (sets, alone) = self.sets();
        let any_sure = !sets.is_empty() || alone.iter().any(|seen| seen.is_sure());
        if !any_sure {
            text.push_str(
                "# Nothing below is sure. The rules are switched on all the same, as there would be nothing to mirror\n\
                 # otherwise; compare each with what the programs write.\n",
            );
        }
        for ((directory, extension), members) in &sets {
            let mut pattern = Pattern::escape(directory.as_os_str().as_bytes());
            pattern.extend_from_slice(b"/*.");
            pattern.extend_from_slice(extension.as_bytes());
            self.rule(&mut text, &pattern, members, false);
        }
        for seen in alone {
            let pattern = literal_pattern(&seen.path);
            match &seen.left_out {
                Some(why) => {
                    let path = one_line(&seen.path.to_string_lossy());
                    let _ = writeln!(text, "\n# Left out: {path}: {}", one_line(why));
                }
                None => self.rule(&mut text, &pattern, &[seen], any_sure && !seen.is_sure()),
            }
        }
        text
    }

    /// Files in one directory with one extension and one sure guess, which become a pattern; and all
    /// others. Files that are left out join a pattern that takes them in, if they are empty.
    fn sets(&self) -> (Sets<'_>, Vec<&Seen>) {
        let mut sets: Sets<'_> = BTreeMap::new();
        let mut alone = Vec::new();
        for seen in &self.seen {
            match (seen.path.parent(), seen.extension()) {
                (Some(directory), Some(extension)) if seen.fit().is_none() => {
                    sets.entry((directory.to_owned(), extension.to_owned()))
                        .or_default()
                        .push(seen);
                }
                _ => alone.push(seen),
            }
        }
        sets.retain(|_, members| {
            let mut formats = members
                .iter()
                .filter_map(|seen| seen.guesses.first())
                .map(|best| &best.format);
            let first = formats.next();
            let alike = first.is_some() && formats.all(|format| Some(format) == first);
            let all_sure = members.iter().all(|seen| seen.is_sure() || seen.empty);
            // One file says nothing about what the next of its name will hold.
            let several = members.iter().filter(|seen| !seen.empty).count() > 1;
            let keep = several && alike && all_sure;
            if !keep {
                alone.append(members);
            }
            keep
        });
        alone.sort_by(|a, b| a.path.cmp(&b.path));
        (sets, alone)
    }

    /// A rule, with its evidence above it and the alternatives below.
    fn rule(&self, text: &mut String, pattern: &[u8], members: &[&Seen], commented_out: bool) {
        let Some(typical) = members.iter().find(|seen| !seen.guesses.is_empty()) else {
            return;
        };
        let (best, others) = (&typical.guesses[0], &typical.guesses[1..]);
        text.push('\n');
        if let [seen] = members {
            let _ = writeln!(
                text,
                "# {} ({} bytes)",
                one_line(&seen.path.to_string_lossy()),
                seen.len
            );
        } else {
            let names: Vec<String> = members
                .iter()
                .take(NAMES_MAX)
                .filter_map(|seen| seen.path.file_name())
                .map(|name| one_line(&name.to_string_lossy()))
                .collect();
            let more = match members.len().saturating_sub(NAMES_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let _ = writeln!(
                text,
                "# {} files alike: {}{more}",
                members.len(),
                names.join(", ")
            );
            let empty = members.iter().filter(|seen| seen.empty).count();
            if empty > 0 {
                let _ = writeln!(text, "# ({empty} of them empty so far)");
            }
        }
        let evidence = one_line(&best.evidence);
        let _ = writeln!(text, "# {}: {evidence}", confidence_word(best.confidence));
        let fit = match members {
            [seen] => seen.fit(),
            _ => None,
        };
        for seen in members {
            if let Some(Beside::Not { copybook, why }) = &seen.copybook {
                let copybook = one_line(&copybook.to_string_lossy());
                let _ = writeln!(
                    text,
                    "# {copybook} has its name, but isn't used: {}",
                    one_line(why)
                );
            }
        }
        if commented_out {
            text.push_str(
                "# Not sure enough to be switched on: compare it with what the program writes, then take the \"#\" away.\n",
            );
        }
        let mark = if commented_out { "# " } else { "" };
        let _ = writeln!(text, "{mark}[[group.file]]");
        let _ = writeln!(text, "{mark}path = {}", quoted(pattern));
        let lines = match fit {
            Some(fit) => fit_lines(fit),
            None => format_lines(&best.format),
        };
        for line in lines {
            let _ = writeln!(text, "{mark}{line}");
        }
        for other in others {
            let _ = writeln!(
                text,
                "# or, {}: {} ({})",
                confidence_word(other.confidence),
                format_lines(&other.format).join(", "),
                one_line(&other.evidence)
            );
        }
    }
}

type Sets<'a> = BTreeMap<(PathBuf, String), Vec<&'a Seen>>;

/// How much was passed over, by kind.
#[derive(Default)]
struct Skipped {
    hidden: usize,
    links: usize,
    special: usize,
    deep: usize,
}

impl Skipped {
    fn note(&self, notes: &mut Vec<String>) {
        for (count, what) in [
            (self.hidden, "hidden files and directories were passed over"),
            (
                self.links,
                "symbolic links were passed over; a rule names the file itself",
            ),
            (self.special, "devices, pipes and sockets were passed over"),
            (
                self.deep,
                "directories lie too deep and weren't looked into; name them to see them",
            ),
        ] {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        }
    }
}

/// Looks into one file.
fn look(path: PathBuf) -> Seen {
    let mut seen = Seen {
        path,
        len: 0,
        guesses: Vec::new(),
        left_out: None,
        empty: false,
        copybook: None,
    };
    match sample(&seen.path) {
        Err(error) => seen.left_out = Some(format!("can't be read: {error}")),
        Ok((_, 0, _)) => {
            seen.empty = true;
            seen.left_out = Some("empty, so there is nothing to guess from".to_owned());
        }
        Ok((head, len, executable)) => {
            seen.len = len;
            match container(&head, executable) {
                Some(what) => seen.left_out = Some(what.to_owned()),
                None => {
                    let name = seen.path.file_name().unwrap_or_default().to_string_lossy();
                    seen.guesses = guess(&name, &Sample { head: &head, len });
                    seen.look_beside(&head);
                }
            }
        }
    }
    seen
}

/// A file's beginning, its length, and whether it may be executed.
fn sample(path: &Path) -> io::Result<(Vec<u8>, u64, bool)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut head = Vec::new();
    file.take(SAMPLE_BYTES_MAX).read_to_end(&mut head)?;
    // It may have grown since.
    let len = metadata.len().max(head.len() as u64);
    Ok((head, len, metadata.permissions().mode() & 0o111 != 0))
}

/// What a file is when it certainly isn't a record file that a rule could describe.
fn container(head: &[u8], executable: bool) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    let known: &[(usize, &[u8], &str)] = &[
        (0, b"\x7fELF", "a program or a library"),
        (
            0,
            b"SQLite format 3\0",
            "a SQLite database, which has no records of its own",
        ),
        (
            12,
            b"\x62\x31\x05\x00",
            "a Berkeley DB file (GnuCOBOL INDEXED): this version can't mirror those",
        ),
        (
            12,
            b"\x00\x05\x31\x62",
            "a Berkeley DB file (GnuCOBOL INDEXED): this version can't mirror those",
        ),
        (0, b"\x1f\x8b", "compressed"),
        (0, b"PK\x03\x04", "an archive"),
        (0, b"BZh", "compressed"),
        (0, b"\xfd7zXZ\0", "compressed"),
        (0, b"\x28\xb5\x2f\xfd", "compressed"),
    ];
    if executable && at(0, b"#!") {
        return Some("a script");
    }
    known
        .iter()
        .find(|(offset, magic, _)| at(*offset, magic))
        .map(|(_, _, what)| *what)
}

/// Whether a directory is a replicator's state.
fn is_state(directory: &Path) -> bool {
    directory.ends_with(STATE_NAME)
        || (directory.join("journal").is_dir() && directory.join("lanes").is_dir())
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The host's name, as far as it can be a site's.
fn site_name() -> String {
    let host = rustix::system::uname();
    let name: String = host
        .nodename()
        .to_string_lossy()
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                c
            } else {
                '-'
            }
        })
        .take(100)
        .collect();
    if name.is_empty() {
        "site".to_owned()
    } else {
        name
    }
}

fn header(site: &str) -> String {
    format!(
        r#"# What Counterfoil mirrors, and where to. Written by `counterfoil init` from the files it found; every rule
# says what it was guessed from. All keys: docs/configuration.md.
#
# Next steps:
#   counterfoil check             checks this file, permissions and record lengths, and says what to do
#   counterfoil exec -- COMMAND   runs a program with its writes captured
#   counterfoil run               mirrors them, until it is stopped
#   counterfoil verify            proves that files and tables are equal

[site]
name = {site}
# Journal and images; on a local disk, and not among the files below. Relative to this file.
state = "{STATE_NAME}"

# Without a [[sink]], rows go to the SQLite database counterfoil.db in the state directory. To choose another file:
# [[sink]]
# name = "here"
# sqlite = {{ path = "/var/lib/counterfoil/mirror.db" }}

# Files whose changes keep one order among them.
[[group]]
name = "main"
# What becomes visible in the target together: "none" (each operation), "fsync" (up to each fsync or fdatasync),
# "lock" (while a lock is held), "close" (up to the close) or "api" (what the program marks; docs/units-of-work.md).
unit_of_work = "none"
"#,
        site = toml_string(site)
    )
}

/// A pattern for one file. TOML holds UTF-8 only, so another byte becomes `?`, which matches it.
fn literal_pattern(path: &Path) -> Vec<u8> {
    let mut pattern = Vec::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        pattern.extend(Pattern::escape(chunk.valid().as_bytes()));
        pattern.extend(chunk.invalid().iter().map(|_| b'?'));
    }
    pattern
}

fn quoted(pattern: &[u8]) -> String {
    let text: String = pattern
        .utf8_chunks()
        .flat_map(|chunk| [chunk.valid().to_owned(), "?".repeat(chunk.invalid().len())])
        .collect();
    toml_string(&text)
}

fn toml_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Text for a comment or a table: no line breaks or other control characters.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// A format as lines of TOML.
fn format_lines(format: &RecordFormat) -> Vec<String> {
    let mut lines = vec![
        format!("organization = \"{}\"", format.organization.name()),
        format!(
            "layout = {}",
            toml_string(&format.layout_words().to_string())
        ),
    ];
    lines.extend(
        format
            .record_size
            .map(|size| format!("record_size = {size}")),
    );
    lines.extend(
        format
            .varseq_format
            .map(|prefix| format!("varseq_format = {}", u8::from(prefix))),
    );
    lines
}

/// The same of a file whose copybook says how long its records are.
fn fit_lines(fit: &Fit) -> Vec<String> {
    let follows = |line: &String| {
        let decides = fit.format.organization != counterfoil_records::Organization::Sequential
            || fit.format.layout == counterfoil_records::Layout::Plain;
        decides && line.starts_with("record_size")
    };
    let mut lines = format_lines(&fit.format);
    lines.retain(|line| !follows(line));
    lines.push(format!("copybook = {}", quoted_path(&fit.copybook)));
    if fit.dialect != "gnucobol" {
        lines.push(format!("dialect = {}", toml_string(fit.dialect)));
    }
    lines
}

fn quoted_path(path: &Path) -> String {
    toml_string(&path.to_string_lossy())
}

fn layout_words(format: &RecordFormat) -> String {
    let words = format.layout_words();
    match format.varseq_format {
        Some(prefix) => format!("{words} ({})", u8::from(prefix)),
        None => words.to_string(),
    }
}

fn confidence_word(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "certain",
        Confidence::Likely => "likely",
        Confidence::Possible => "unsure",
    }
}

/// Aligns cells in columns; `right` is the one column with numbers.
fn columns<const N: usize>(rows: &[[String; N]], right: usize) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == right {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:width$}  ")
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Writes the configuration and makes sure that it loads. Whatever fails, what was there before
/// stays as it was.
fn write_checked(output: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let mut beside = output.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let result = create_new(&beside, text)
        .with_context(|| {
            format!("writing {}: is there a directory for it that this user may write to?", output.display())
        })
        .and_then(|()| {
            Config::load(&beside)
                .context("the configuration made from these files can't be used; choose another --output or --site")
        })
        .and_then(|_| {
            let placed = if force { fs::rename(&beside, output) } else { create_new(output, text) };
            placed.with_context(|| format!("writing {}", output.display()))
        });
    if beside.exists() {
        let _ = fs::remove_file(&beside);
    }
    result
}

fn create_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
