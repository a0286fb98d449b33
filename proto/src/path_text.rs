//! Paths for people: a path is bytes, a screen and a text column want text.

use std::fmt::Write;

/// The path as text, for people and for text columns; never for finding the file again.
///
/// UTF-8 stays as it is. A backslash is doubled; a control character and a byte that isn't UTF-8
/// are escaped (`\n`, `\u{7f}`, `\xff`). So the text is one line, and two paths never have the same.
pub fn path_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' || character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a `String` can't fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::path_text;

    #[test]
    fn plain_paths_stay_as_they_are() {
        assert_eq!(path_text(b"/srv/pay/cards.dat"), "/srv/pay/cards.dat");
        assert_eq!(
            path_text("/srv/Zürich/\u{5e33}\u{7c3f}".as_bytes()),
            "/srv/Zürich/\u{5e33}\u{7c3f}"
        );
    }

    #[test]
    fn what_would_mislead_is_escaped() {
        assert_eq!(path_text(b"/a\nb"), r"/a\nb");
        assert_eq!(path_text(b"/a\\nb"), r"/a\\nb");
        assert_eq!(path_text(b"/a\xff\x1b"), r"/a\xff\u{1b}");
    }
}
