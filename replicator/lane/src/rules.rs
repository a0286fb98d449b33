//! Rules: which paths are captured, in a form that needs no parsing and no memory in the captured program.
//!
//! A rules file never changes once it has its name; a new set of rules is a new file, announced on the board. Layout,
//! little-endian: magic (8), version (4), number of entries (4), then per entry: group (2), flags (2: 1 = exclude),
//! length of the literal prefix (2), length of the pattern (2), pattern. Flags that a reader doesn't know mean nothing to it.
//! Entries are in order, the first that matches decides.

use crate::{VERSION, glob};

/// First bytes of a rules file.
pub const MAGIC: [u8; 8] = *b"CFORULES";
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 8;
const FLAG_EXCLUDE: u16 = 1;

/// Name of the rules file with this number.
pub fn file_name(number: u64) -> String {
    format!("rules-{number}")
}

/// A rule to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Number of the consistency group.
    pub group: u16,
    /// Paths that match are not captured.
    pub exclude: bool,
    /// Absolute glob, at most 65,535 bytes.
    pub pattern: Vec<u8>,
}

/// The bytes of a rules file. Patterns over 65,535 bytes can't match a path and are left out.
pub fn encode(rules: &[Rule]) -> Vec<u8> {
    let usable = || {
        rules
            .iter()
            .filter(|rule| rule.pattern.len() <= usize::from(u16::MAX))
    };
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((usable().count() as u32).to_le_bytes());
    for rule in usable() {
        bytes.extend(rule.group.to_le_bytes());
        bytes.extend(if rule.exclude { FLAG_EXCLUDE } else { 0 }.to_le_bytes());
        bytes.extend((glob::literal_prefix(&rule.pattern).len() as u16).to_le_bytes());
        bytes.extend((rule.pattern.len() as u16).to_le_bytes());
        bytes.extend(&rule.pattern);
    }
    bytes
}

/// Rules to match against: a view of a rules file's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    entries: &'a [u8],
}

struct Entry<'a> {
    group: u16,
    exclude: bool,
    prefix: &'a [u8],
    pattern: &'a [u8],
}

impl<'a> Rules<'a> {
    /// No rules: nothing is captured.
    pub const NONE: Rules<'static> = Rules { entries: &[] };

    /// Checks the header. `None` when these aren't rules of a known version.
    pub fn parse(bytes: &'a [u8]) -> Option<Rules<'a>> {
        let known = bytes.len() >= HEADER_BYTES
            && bytes[..8] == MAGIC
            && bytes[8..12] == VERSION.to_le_bytes();
        known.then(|| Rules {
            entries: &bytes[HEADER_BYTES..],
        })
    }

    /// Whether nothing is captured.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether a path that begins like this may be captured: a quick test by literal prefixes.
    #[inline]
    pub fn may_match(&self, path: &[u8]) -> bool {
        self.iter()
            .any(|entry| !entry.exclude && path.starts_with(entry.prefix))
    }

    /// The group of the first rule that matches, unless that rule excludes.
    pub fn group_of(&self, path: &[u8]) -> Option<u16> {
        let entry = self
            .iter()
            .find(|entry| path.starts_with(entry.prefix) && glob::matches(entry.pattern, path))?;
        (!entry.exclude).then_some(entry.group)
    }

    fn iter(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut rest = self.entries;
        core::iter::from_fn(move || {
            let header = rest.get(..ENTRY_BYTES)?;
            let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
            let (prefix_len, pattern_len) = (usize::from(field(4)), usize::from(field(6)));
            let pattern = rest.get(ENTRY_BYTES..ENTRY_BYTES + pattern_len)?;
            let prefix = pattern.get(..prefix_len)?;
            rest = &rest[ENTRY_BYTES + pattern_len..];
            Some(Entry {
                group: field(0),
                exclude: field(2) & FLAG_EXCLUDE != 0,
                prefix,
                pattern,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let bytes = encode(&[
            Rule {
                group: 0,
                exclude: true,
                pattern: b"/d/*.tmp".to_vec(),
            },
            Rule {
                group: 3,
                exclude: false,
                pattern: b"/d/*".to_vec(),
            },
        ]);
        let rules = Rules::parse(&bytes).expect("own bytes");
        assert_eq!(rules.group_of(b"/d/x"), Some(3));
        assert_eq!(rules.group_of(b"/d/x.tmp"), None);
        assert!(rules.may_match(b"/d/anything") && !rules.may_match(b"/e"));
        assert!(!rules.is_empty() && Rules::NONE.is_empty());
    }

    #[test]
    fn damaged_rules_capture_nothing_and_never_panic() {
        let bytes = encode(&[Rule {
            group: 0,
            exclude: false,
            pattern: b"/d/*".to_vec(),
        }]);
        for len in 0..bytes.len() {
            if let Some(rules) = Rules::parse(&bytes[..len]) {
                assert_eq!(rules.group_of(b"/d/x"), None);
            }
        }
        assert!(Rules::parse(b"CFORULES\xff\0\0\0\0\0\0\0").is_none());
    }
}
