//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How many characters of the offending line are shown.
const LINE_CHARS_MAX: usize = 120;

/// A configuration that can't be used: one or more [`Problem`]s.
///
/// `Display` shows each as `file:line:column: what`, the line with a caret, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, in the order it was found. Never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in: the configuration itself or an included sink.
    pub file: PathBuf,
    /// Where in the file, unless it is about the file as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text.
    text: String,
    /// How many characters the caret underlines; at least 1.
    width: usize,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> ConfigError {
        ConfigError {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(place) = &self.place {
            place.fmt(f)?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A long line is shown from a little before the column on.
        let skipped = self.column.saturating_sub(LINE_CHARS_MAX / 2);
        let shown: String = self
            .text
            .chars()
            .skip(skipped)
            .take(LINE_CHARS_MAX)
            // A tab or an escape sequence would put the caret under the wrong character, or worse.
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let before = self.column - 1 - skipped;
        let width = self
            .width
            .min(shown.chars().count().saturating_sub(before))
            .max(1);
        let gutter = self.line.to_string().len();
        write!(
            f,
            "\n{:gutter$} |\n{} | {}\n",
            "",
            self.line,
            shown.trim_end()
        )?;
        write!(f, "{:gutter$} | {:before$}{}", "", "", "^".repeat(width))
    }
}

/// A configuration file's name and text, to say where a problem is.
#[derive(Debug)]
pub(super) struct Source {
    /// Absolute path.
    pub(super) path: PathBuf,
    /// The directory that relative paths in it start from.
    pub(super) base: PathBuf,
    /// Everything in it.
    pub(super) text: String,
}

impl Source {
    /// A problem with the bytes at `span`.
    pub(super) fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem {
            file: self.path.clone(),
            place: Some(place(&self.text, &span)),
            message: message.into(),
            help: None,
        }
    }

    /// A problem with the file as a whole.
    pub(super) fn problem_here(&self, message: impl Into<String>) -> Problem {
        file_problem(&self.path, message)
    }

    /// Reads the text as `T`; an error says where, and which keys or values there are instead.
    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        toml::from_str(&self.text).map_err(|error| {
            let (message, help) = explain(error.message());
            let mut problem = match error.span() {
                Some(span) => self.problem(span, message),
                None => self.problem_here(message),
            };
            problem.help = help;
            problem
        })
    }
}

impl Problem {
    /// Adds what to do.
    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

/// A problem with a file that has no place in it.
pub(super) fn file_problem(file: &Path, message: impl Into<String>) -> Problem {
    Problem {
        file: file.to_owned(),
        place: None,
        message: message.into(),
        help: None,
    }
}

/// Line and column of a span of bytes. A span outside the text is taken to its end.
fn place(text: &str, span: &Range<usize>) -> Place {
    let start = floor_char_boundary(text, span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let end = floor_char_boundary(text, span.end.min(line_end)).max(start);
    Place {
        line: text[..start].matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        text: text[line_start..line_end].to_owned(),
        width: text[start..end].chars().count().max(1),
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Turns a parser's message into one in the words of the documentation, and what to do about it.
fn explain(message: &str) -> (String, Option<String>) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let kind = if message.starts_with("unknown field") {
        "key"
    } else if message.starts_with("unknown variant") {
        "value"
    } else if message.starts_with("missing field") {
        let key = quoted.next().unwrap_or("?");
        return (
            format!("the key `{key}` is missing"),
            Some(format!("add `{key} = ...` here")),
        );
    } else {
        return (message.trim_end().to_owned(), None);
    };
    let unknown = quoted.next().unwrap_or("?");
    let known: Vec<&str> = quoted.collect();
    let mut help = String::new();
    if let Some(near) = nearest(unknown, &known) {
        help = format!("did you mean `{near}`? ");
    }
    help.push_str(&format!("known here: {}", known.join(", ")));
    (format!("unknown {kind} `{unknown}`"), Some(help))
}

/// The known word that is closest to what was written, if any is close.
fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .iter()
        .map(|word| (edit_distance(&written, word), *word))
        .filter(|(distance, word)| *distance <= 1.max(word.chars().count() / 3))
        .min()
        .map(|(_, word)| word)
}

/// How many characters must be inserted, deleted or replaced to make `a` out of `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_character_changes() {
        assert_eq!(edit_distance("organisation", "organization"), 1);
        assert_eq!(edit_distance("", "name"), 4);
        assert_eq!(edit_distance("nmae", "name"), 2);
        assert_eq!(edit_distance("same", "same"), 0);
    }

    #[test]
    fn a_caret_stays_under_its_character_in_long_and_tabbed_lines() {
        let text = format!("\t{} = 1", "é".repeat(200));
        let at = text.find('=').unwrap();
        let source = Source {
            path: "c.toml".into(),
            base: "/".into(),
            text,
        };
        let shown = source.problem(at..at + 1, "no").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "c.toml:1:203: no");
        let equals = lines[2].chars().position(|c| c == '=').unwrap();
        assert_eq!(lines[3].chars().position(|c| c == '^').unwrap(), equals);
    }

    #[test]
    fn a_span_outside_the_text_is_not_a_panic() {
        let source = Source {
            path: "c.toml".into(),
            base: "/".into(),
            text: "a = 'ö'".into(),
        };
        for start in 0..12 {
            for end in 0..12 {
                let _ = source.problem(start..end, "no").to_string();
            }
        }
    }
}
