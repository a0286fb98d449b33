//! Table names made from file names.
//!
//! A name is made only of lower-case ASCII letters, digits and underscores, so that it needs no
//! quoting in most databases (a reserved word still does) and fits the shortest common limit for
//! identifiers with room for a suffix. It never begins like a table of Counterfoil's own.

use crate::{FileDescription, SinkError};
use counterfoil_proto::path_text;
use sha2::{Digest as _, Sha256};
#[cfg(any(
    feature = "files",
    feature = "mysql",
    feature = "odbc",
    feature = "sqlite"
))]
use std::collections::{HashMap, HashSet};

/// Tables with names like this are Counterfoil's own.
pub const OWN_PREFIX: &str = "counterfoil_";

/// PostgreSQL cuts identifiers at 63 bytes, MySQL at 64; the rest is room for a suffix.
const NAME_LEN_MAX: usize = 52;

/// With less room, since it is longer.
const JOINED_LEN_MAX: usize = 58;

/// The table name that a file asks for: the configured one, else one made from its path, or from the
/// root of its tree. It may be taken already: see [`numbered`].
/// A configured name that is empty or reserved is a [`SinkError::Permanent`].
pub fn wanted_name(file: &FileDescription) -> Result<String, SinkError> {
    let Some(name) = &file.table else {
        return Ok(name_of_path(file.named_for()));
    };
    let lower = name.to_ascii_lowercase();
    let cause = if name.is_empty() {
        "the configured name is empty"
    } else if name.contains('\0') {
        "the configured name has a NUL character in it"
    } else if lower.starts_with(OWN_PREFIX) || lower.starts_with("sqlite_") {
        "names that begin with counterfoil_ or sqlite_ are reserved"
    } else {
        return Ok(name.clone());
    };
    Err(SinkError::Permanent {
        doing: format!("naming the table {name:?} for {}", path_text(&file.path)),
        cause: cause.into(),
        next: "configure another table name for this file".into(),
    })
}

/// The file's base name with everything but letters, digits and underscores replaced.
fn name_of_path(path: &[u8]) -> String {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let mut name = String::with_capacity(NAME_LEN_MAX);
    for &byte in base {
        if name.len() == NAME_LEN_MAX {
            break;
        }
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            name.push(char::from(byte.to_ascii_lowercase()));
        } else if !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
    }
    name.truncate(name.trim_end_matches('_').len());
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    if name.is_empty() {
        "file".into()
    } else if !plain || name.starts_with(OWN_PREFIX) || name.starts_with("sqlite_") {
        format!("f_{name}")
    } else {
        name
    }
}

/// The name of a table in the records of another one's file. It is no longer than databases take, with room for a number.
pub fn joined(table: &str, part: &str) -> String {
    let name = format!("{table}_{part}");
    if name.len() <= JOINED_LEN_MAX {
        return name;
    }
    let digest = Sha256::digest(name.as_bytes());
    let hash: String = digest
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let room = JOINED_LEN_MAX - hash.len() - 1;
    let end = (0..=room).rev().find(|&end| name.is_char_boundary(end));
    format!("{}_{hash}", &name[..end.unwrap_or_default()])
}

/// The `number`th choice for a name that is wanted: itself, then `name_2`, `name_3` and so on.
pub fn numbered(wanted: &str, number: u32) -> String {
    if number <= 1 {
        wanted.to_owned()
    } else {
        format!("{wanted}_{number}")
    }
}

/// The names in use in a database. None is told from another by case alone, for not all databases do.
#[cfg(any(
    feature = "files",
    feature = "mysql",
    feature = "odbc",
    feature = "sqlite"
))]
#[derive(Default)]
pub(crate) struct Names {
    used: HashSet<String>,
    /// Where to go on looking for a free number for a name, so that a thousand files of one name
    /// don't take a million look-ups.
    next_numbers: HashMap<String, u32>,
}

#[cfg(any(
    feature = "files",
    feature = "mysql",
    feature = "odbc",
    feature = "sqlite"
))]
impl Names {
    /// This name is in use.
    pub(crate) fn add(&mut self, name: &str) {
        self.used.insert(name.to_lowercase());
    }

    /// A name like this one that isn't in use, and is from now on; `choice` makes the first, second, ... choice for it.
    pub(crate) fn take(&mut self, wanted: &str, choice: impl Fn(&str, u32) -> String) -> String {
        let next_number = self.next_numbers.entry(wanted.to_lowercase()).or_insert(1);
        loop {
            let name = choice(wanted, *next_number);
            *next_number = next_number.saturating_add(1);
            if self.used.insert(name.to_lowercase()) {
                return name;
            }
        }
    }

    /// This name is in use no longer.
    pub(crate) fn release(&mut self, name: &str) {
        self.used.remove(&name.to_lowercase());
        self.next_numbers.clear();
    }
}

/// The same, cut so that it has at most `bytes_max` bytes. A name that is too long itself keeps its beginning, and gets
/// eight digits that follow from all of it, so that two long names that begin alike stay two.
pub fn numbered_within(wanted: &str, number: u32, bytes_max: usize) -> String {
    let mut base = wanted.to_owned();
    if wanted.len() > bytes_max {
        // FNV-1a: it has only to differ where names do, and to be the same for ever.
        let digest = wanted.bytes().fold(0x811c_9dc5_u32, |digest, byte| {
            (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        base = format!("{}_{digest:08x}", cut(wanted, bytes_max.saturating_sub(9)));
    }
    let name = numbered(&base, number);
    if name.len() <= bytes_max {
        return name;
    }
    let suffix = name.len() - base.len();
    numbered(cut(&base, bytes_max.saturating_sub(suffix)), number)
}

/// The beginning of a text, at most so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        assert_eq!(numbered_within("cards", 1, 63), "cards");
        assert_eq!(numbered_within("cards", 2, 63), "cards_2");
        assert_eq!(numbered_within(&"x".repeat(63), 1, 63), "x".repeat(63));
        assert_eq!(
            numbered_within(&"x".repeat(63), 12, 63),
            format!("{}_12", "x".repeat(60))
        );
        let long = |end: &str| numbered_within(&format!("{}{end}", "\u{e9}".repeat(40)), 1, 63);
        assert_ne!(long("a"), long("b"));
        assert!(long("a").len() <= 63 && long("a").starts_with("\u{e9}\u{e9}"));
    }

    #[test]
    fn names_are_readable() {
        for (path, name) in [
            (&b"/srv/pay/cards.dat"[..], "cards_dat"),
            (b"/srv/pay/CARDS", "cards"),
            (b"/srv/2024.log", "f_2024_log"),
            (b"/srv/a  -  b", "a_b"),
            (b"/srv/.hidden", "hidden"),
            (b"/srv/\xff\xfe", "file"),
            (b"/srv/_x", "_x"),
            (b"/srv/___", "file"),
            (b"/srv/counterfoil_position", "f_counterfoil_position"),
            (b"/srv/SQLite_x", "f_sqlite_x"),
            (b"", "file"),
        ] {
            assert_eq!(name_of_path(path), name);
        }
    }

    proptest! {
        #[test]
        fn any_path_has_a_plain_name(path in proptest::collection::vec(any::<u8>(), 0..200)) {
            let name = name_of_path(&path);
            prop_assert!((1..=NAME_LEN_MAX + 2).contains(&name.len()));
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            prop_assert!(!name.starts_with(|first: char| first.is_ascii_digit()));
            prop_assert!(!name.starts_with(OWN_PREFIX) && !name.starts_with("sqlite_"));
        }
    }
}
