//! From the lines of a file to the text in them: columns, comments, continuation.
//!
//! The result is the text alone, character by character, each with its place in the file, a line end as `\n`.

use super::SourceFormat;
use super::diagnostic::Diagnostics;
use super::tokens::Pos;

/// A tab goes to the next column behind a multiple of this.
const TAB_COLUMNS: usize = 8;

/// A character of the text, and where it is in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Char {
    pub(super) char: char,
    pub(super) line: u32,
    /// In characters of the line as it is in the file, from 1.
    pub(super) column: u32,
}

/// The text of a source.
pub(super) fn read(
    file: u32,
    text: &str,
    format: Option<SourceFormat>,
    diagnostics: &mut Diagnostics,
) -> Vec<Char> {
    let mut format = format.unwrap_or_else(|| detect(text));
    let mut out: Vec<Char> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = number as u32 + 1;
        // What mainframes and DOS leave at the end of a text.
        let line = line.trim_end_matches(['\u{1a}', '\r', '\0']);
        if let Some(switched) = directive(line, format) {
            format = switched.unwrap_or(format);
            continue;
        }
        let mut chars = columns(line, number);
        if format == SourceFormat::Free {
            cut_comment(&mut chars, 0);
            out.extend(chars.into_iter().map(|(_, char)| char));
            end_line(&mut out, number);
            continue;
        }
        if format == SourceFormat::Fixed {
            chars.retain(|(column, _)| *column <= 72);
        }
        let indicator = chars
            .iter()
            .find(|(column, _)| *column == 7)
            .map_or(' ', |(_, char)| char.char);
        chars.retain(|(column, _)| *column > 7);
        match indicator {
            '*' | '/' | 'd' | 'D' | '$' => {}
            '-' => {
                cut_comment(&mut chars, 0);
                continue_line(&mut out, &chars, format, file, number, diagnostics);
                continue;
            }
            _ => {
                if indicator != ' ' {
                    let at = Pos {
                        file,
                        line: number,
                        column: 7,
                        width: 1,
                    };
                    diagnostics.error_help(
                        at,
                        format!(
                            "expected an indicator in column 7 (a space, *, /, - or D), found {indicator:?}"
                        ),
                        "if this isn't a text in fixed form, say so: format = \"free\"",
                    );
                }
                cut_comment(&mut chars, 0);
                out.extend(chars.into_iter().map(|(_, char)| char));
            }
        }
        end_line(&mut out, number);
    }
    out
}

fn end_line(out: &mut Vec<Char>, line: u32) {
    out.push(Char {
        char: '\n',
        line,
        column: 0,
    });
}

/// The characters of a line with the columns they are in, tabs expanded.
fn columns(line: &str, number: u32) -> Vec<(usize, Char)> {
    let mut column = 0;
    let mut chars = Vec::new();
    for (at, char) in line.chars().enumerate() {
        let place = |char| Char {
            char,
            line: number,
            column: at as u32 + 1,
        };
        if char == '\t' {
            let next = (column / TAB_COLUMNS + 1) * TAB_COLUMNS;
            while column < next {
                column += 1;
                chars.push((column, place(' ')));
            }
            continue;
        }
        column += 1;
        chars.push((column, place(char)));
    }
    chars
}

/// Takes out a comment that begins within a line (`*>`), unless that is in a literal.
fn cut_comment(chars: &mut Vec<(usize, Char)>, from: usize) {
    let mut quote = None;
    for at in from..chars.len() {
        let char = chars[at].1.char;
        match quote {
            Some(open) if open == char => quote = None,
            Some(_) => {}
            None if char == '"' || char == '\'' => quote = Some(char),
            None if char == '*' && chars.get(at + 1).is_some_and(|next| next.1.char == '>') => {
                chars.truncate(at);
                return;
            }
            None => {}
        }
    }
}

/// The quote of a literal that the last line of `out` leaves open.
fn open_quote(out: &[Char]) -> Option<char> {
    let mut quote = None;
    for char in out {
        match (quote, char.char) {
            (_, '\n') => quote = None,
            (Some(open), char) if open == char => quote = None,
            (None, char @ ('"' | '\'')) => quote = Some(char),
            _ => {}
        }
    }
    quote
}

/// Joins a continuation line with what it continues.
fn continue_line(
    out: &mut Vec<Char>,
    chars: &[(usize, Char)],
    format: SourceFormat,
    file: u32,
    number: u32,
    diagnostics: &mut Diagnostics,
) {
    let Some(first) = chars.iter().position(|(_, char)| char.char != ' ') else {
        end_line(out, number);
        return;
    };
    // Comment lines and empty ones may lie between.
    while out.last().is_some_and(|char| char.char == '\n') {
        out.pop();
    }
    let begin = out
        .iter()
        .rposition(|char| char.char == '\n')
        .map_or(0, |at| at + 1);
    let mut rest = &chars[first..];
    match open_quote(&out[begin..]) {
        Some(quote) => {
            let (_, found) = rest[0];
            if found.char == quote {
                rest = &rest[1..];
            } else {
                let at = Pos {
                    file,
                    line: number,
                    column: found.column,
                    width: 1,
                };
                diagnostics.error(
                    at,
                    format!("expected {quote}, with which a literal is continued"),
                );
            }
            // A literal goes on to column 72 of its line. How wide the line is here is known of its last character.
            if format == SourceFormat::Fixed
                && let Some(last) = out.last().copied()
            {
                for column in last.column..72 {
                    out.push(Char {
                        char: ' ',
                        column: column + 1,
                        ..last
                    });
                }
            }
        }
        None => {
            while out.len() > begin && out.last().is_some_and(|char| char.char == ' ') {
                out.pop();
            }
        }
    }
    out.extend(rest.iter().map(|(_, char)| *char));
    end_line(out, number);
}

/// `>>SOURCE FORMAT` and other compiler directives: `Some` of what is the format from here on, if it says so.
fn directive(line: &str, format: SourceFormat) -> Option<Option<SourceFormat>> {
    let text = match format {
        SourceFormat::Free => line,
        // A directive may begin in any column from 8 on; ">>" is nothing else in those before.
        _ => line.get(6..).unwrap_or(line),
    };
    let text = text.trim_start();
    let text = match text.strip_prefix(">>") {
        Some(rest) => rest,
        None => text.strip_prefix('$').filter(|rest| {
            rest.trim_start()
                .get(..3)
                .is_some_and(|word| word.eq_ignore_ascii_case("SET"))
        })?,
    };
    let upper = text.to_ascii_uppercase();
    let words: Vec<&str> = upper
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .collect();
    let says = |word: &str| words.contains(&word);
    if !says("SOURCE") && !says("SOURCEFORMAT") && !says("FORMAT") {
        return Some(None);
    }
    Some(if says("FREE") {
        Some(SourceFormat::Free)
    } else if says("FIXED") {
        Some(SourceFormat::Fixed)
    } else if says("VARIABLE") {
        Some(SourceFormat::Variable)
    } else {
        None
    })
}

/// Whether a text is in fixed or in free form, by what is in the first seven columns of its lines.
fn detect(text: &str) -> SourceFormat {
    let (mut fixed, mut free) = (0usize, 0usize);
    for line in text.lines() {
        let mut first = [' '; 7];
        for (column, char) in columns(line.trim_end(), 1).into_iter().take(7) {
            first[column - 1] = char.char;
        }
        let (sequence, indicator) = (&first[..6], first[6]);
        let blank = sequence.iter().all(|char| *char == ' ');
        let numbered = sequence.iter().all(|char| char.is_ascii_alphanumeric());
        let is_indicator = " *-/Dd$".contains(indicator);
        match (blank, numbered, indicator) {
            (true, _, ' ') => {}
            (true, _, '*' | '-' | '/' | '$') => fixed += 1,
            (true, _, _) => free += 1,
            (false, true, _) if is_indicator => fixed += 1,
            // A comment from the first column on, in a text that is careless about it, tells nothing.
            _ if first[0] == '*' => {}
            // A number of fewer digits, right or left.
            _ if is_indicator
                && sequence
                    .iter()
                    .all(|char| char.is_ascii_digit() || *char == ' ')
                && sequence.iter().filter(|char| char.is_ascii_digit()).count() > 2 =>
            {
                fixed += 1;
            }
            _ => free += 1,
        }
    }
    if free > fixed {
        SourceFormat::Free
    } else {
        SourceFormat::Fixed
    }
}
