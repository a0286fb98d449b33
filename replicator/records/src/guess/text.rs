//! Newline text: the share of printable characters, and lines of a sensible length.

use super::{Confidence, Guess, Sample};
use crate::{LINE_LEN_MAX, Layout, Organization, RecordFormat};

/// Lines longer than this on average are no lines.
const LINE_LEN_AVERAGE_MAX: usize = 4096;

fn newline(confidence: Confidence, evidence: String) -> Guess {
    Guess {
        format: RecordFormat::new(Organization::Stream, Layout::Newline),
        confidence,
        evidence,
    }
}

/// What an empty file's name says.
pub(super) fn by_name(name: &str) -> Option<Guess> {
    let (_, extension) = name.rsplit_once('.')?;
    let known = [
        "txt", "log", "csv", "tsv", "json", "jsonl", "xml", "lst", "rpt", "out",
    ];
    known
        .iter()
        .any(|it| extension.eq_ignore_ascii_case(it))
        .then(|| {
            newline(
                Confidence::Possible,
                format!("the file is empty, but .{extension} is usual for text"),
            )
        })
}

/// Bytes that belong to text: printable ASCII, the usual controls, and whole UTF-8 characters.
fn printable(bytes: &[u8]) -> usize {
    bytes
        .utf8_chunks()
        .flat_map(|chunk| chunk.valid().chars())
        .filter(|&char| {
            !char.is_control() || matches!(char, '\n' | '\r' | '\t' | '\x0c' | '\x1b' | '\x08')
        })
        .map(char::len_utf8)
        .sum()
}

/// A guess if the bytes are text.
pub(super) fn guess(sample: &Sample<'_>) -> Option<Guess> {
    let head = sample.head;
    let share = printable(head) as f64 / head.len() as f64;
    if share < 0.9 {
        return None;
    }
    let mut lines: Vec<&[u8]> = head.split(|&byte| byte == b'\n').collect();
    let unterminated = lines.pop().map_or(0, <[u8]>::len);
    if lines.is_empty() {
        let evidence = format!("{:.0}% printable, but not one newline", share * 100.0);
        return Some(newline(Confidence::Possible, evidence));
    }
    let longest = lines
        .iter()
        .map(|line| line.len())
        .max()
        .unwrap_or(0)
        .max(unterminated);
    let crlf = lines.iter().filter(|line| line.ends_with(b"\r")).count();
    let ends = match crlf {
        0 => "LF".to_owned(),
        all if all == lines.len() => "CRLF".to_owned(),
        some => format!("{some} of them ended by CRLF, the others by LF"),
    };
    let evidence = format!(
        "{:.1}% printable; {} line{} ({ends}), the longest {longest} bytes{}{}",
        share * 100.0,
        lines.len(),
        if lines.len() == 1 { "" } else { "s" },
        if sample.is_whole() {
            ""
        } else {
            ", in the part looked at"
        },
        if sample.is_whole() && unterminated > 0 {
            "; the last one isn't ended"
        } else {
            ""
        },
    );
    let sensible = head.len() / lines.len() <= LINE_LEN_AVERAGE_MAX && longest < LINE_LEN_MAX;
    let confidence = match share {
        _ if !sensible => Confidence::Possible,
        share if share >= 0.995 && !head.contains(&0) => Confidence::Certain,
        _ => Confidence::Likely,
    };
    Some(newline(confidence, evidence))
}
