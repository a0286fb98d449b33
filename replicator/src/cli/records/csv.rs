//! Records as CSV (RFC 4180): a header, then a line for each row. NULL is nothing, empty text is `""`.

use std::io::Write;

/// A field of a row: NULL, or a text.
pub(in crate::cli) fn line<'t>(out: &mut Vec<u8>, fields: impl Iterator<Item = Option<&'t str>>) {
    for (nth, field) in fields.enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        let Some(text) = field else { continue };
        let quoted = text.is_empty()
            || text.contains([',', '"', '\n', '\r'])
            || text.starts_with(' ')
            || text.ends_with(' ');
        // Writing to memory can't fail.
        let _ = if quoted {
            write!(out, "\"{}\"", text.replace('"', "\"\""))
        } else {
            write!(out, "{text}")
        };
    }
    out.extend_from_slice(b"\r\n");
}
