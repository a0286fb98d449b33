//! What is wrong with a copybook, where, and how that is shown: as `file:line:column: error: what`, the line, a caret.

use super::tokens::Pos;
use std::fmt;
use std::sync::Arc;

/// How many problems are kept.
const DIAGNOSTICS_MAX: usize = 50;

/// How many characters of a line are shown.
const LINE_CHARS_MAX: usize = 120;

/// A copybook that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopybookError {
    /// What is wrong, in the order of the text; warnings among it. At least one is an error.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for CopybookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for CopybookError {}

/// Whether a copybook can be read in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It can.
    Warning,
    /// It can't.
    Error,
}

/// One thing that is wrong or strange in a copybook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the copybook can be read in spite of it.
    pub severity: Severity,
    /// The text it is in.
    pub file: Arc<str>,
    /// Line, from 1; 0 if it is about the text as a whole.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line's text.
    source: String,
    /// How many characters the caret underlines.
    width: u32,
    /// Where the text was copied from, the innermost first.
    copied: Vec<(Arc<str>, u32)>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if self.line == 0 {
            return write!(f, "{}: {severity}: {}", self.file, self.message);
        }
        write!(
            f,
            "{}:{}:{}: {severity}: {}",
            self.file, self.line, self.column, self.message
        )?;
        let column = self.column as usize;
        // A long line is shown from a little before the column on.
        let skipped = column.saturating_sub(LINE_CHARS_MAX / 2);
        let shown: String = self
            .source
            .chars()
            .skip(skipped)
            .take(LINE_CHARS_MAX)
            // A tab or an escape sequence would put the caret under the wrong character, or worse.
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let before = column.saturating_sub(1 + skipped);
        let width = (self.width as usize)
            .min(shown.chars().count().saturating_sub(before))
            .max(1);
        let gutter = self.line.to_string().len();
        let caret = "^".repeat(width);
        write!(
            f,
            "\n{:gutter$} |\n{} | {}\n",
            "",
            self.line,
            shown.trim_end()
        )?;
        write!(f, "{:gutter$} | {:before$}{caret}", "", "")?;
        for (file, line) in &self.copied {
            write!(f, "\n  copied by {file}:{line}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// The texts that were read, to show lines of.
#[derive(Debug, Default)]
pub(super) struct Sources {
    texts: Vec<SourceText>,
}

#[derive(Debug)]
pub(super) struct SourceText {
    pub(super) name: Arc<str>,
    /// As they are in the file.
    pub(super) lines: Vec<String>,
    /// The place of the COPY that brought it in.
    pub(super) copied: Option<Pos>,
}

impl Sources {
    /// Keeps a text; returns its number.
    pub(super) fn add(&mut self, name: &str, text: &str, copied: Option<Pos>) -> u32 {
        self.texts.push(SourceText {
            name: Arc::from(name),
            lines: text.lines().map(str::to_owned).collect(),
            copied,
        });
        (self.texts.len() - 1) as u32
    }

    pub(super) fn get(&self, file: u32) -> Option<&SourceText> {
        self.texts.get(file as usize)
    }

    /// The COPYs that brought in a text, the innermost first.
    fn copied(&self, file: u32) -> Vec<(Arc<str>, u32)> {
        let mut chain = Vec::new();
        let mut next = self.get(file).and_then(|text| text.copied);
        while let Some(at) = next {
            let Some(text) = self.get(at.file) else { break };
            chain.push((text.name.clone(), at.line));
            next = text.copied;
        }
        chain
    }
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    found: Vec<Found>,
    errors: usize,
}

#[derive(Debug)]
struct Found {
    severity: Severity,
    at: Option<Pos>,
    message: String,
    help: Option<String>,
}

impl Diagnostics {
    pub(super) fn error(&mut self, at: Pos, message: impl Into<String>) {
        self.add(Severity::Error, Some(at), message.into(), None);
    }

    pub(super) fn error_help(
        &mut self,
        at: Pos,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(Severity::Error, Some(at), message.into(), Some(help.into()));
    }

    pub(super) fn error_in_all(&mut self, message: impl Into<String>) {
        self.add(Severity::Error, None, message.into(), None);
    }

    pub(super) fn warning(&mut self, at: Pos, message: impl Into<String>) {
        self.add(Severity::Warning, Some(at), message.into(), None);
    }

    fn add(&mut self, severity: Severity, at: Option<Pos>, message: String, help: Option<String>) {
        self.errors += usize::from(severity == Severity::Error);
        // An error is always kept if it is the first.
        if self.found.len() < DIAGNOSTICS_MAX || severity == Severity::Error && self.errors == 1 {
            self.found.push(Found {
                severity,
                at,
                message,
                help,
            });
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// For people: each with its line.
    pub(super) fn show(mut self, sources: &Sources, name: &str) -> Vec<Diagnostic> {
        self.found
            .sort_by_key(|found| found.at.map(|at| (at.file, at.line, at.column)));
        self.found
            .into_iter()
            .map(|found| {
                let at = found.at.unwrap_or_default();
                let text = found.at.and_then(|at| sources.get(at.file));
                let source = text
                    .and_then(|text| text.lines.get((at.line as usize).checked_sub(1)?).cloned())
                    .unwrap_or_default();
                Diagnostic {
                    severity: found.severity,
                    file: text.map_or_else(|| Arc::from(name), |text| text.name.clone()),
                    line: at.line,
                    column: at.column,
                    message: found.message,
                    help: found.help,
                    source,
                    width: at.width,
                    copied: found.at.map_or_else(Vec::new, |at| sources.copied(at.file)),
                }
            })
            .collect()
    }
}
