//! Rules: which paths are captured, in a form that needs no parsing and no memory in the captured program.
//!
//! A rules file never changes once it has its name; a new set of rules is a new file, announced on the board. Layout,
//! little-endian: magic (8), version (4), number of entries (4), then per entry: group (2), flags (2: 1 = exclude),
//! length of the literal prefix (2), length of the pattern (2), pattern. Flags that a reader doesn't know mean nothing to it.
//! Beside exclusion, flags say what programs do about files of the group when they can't tell what they did: 2 = wait while
//! the lane is full; 4 = wait while there can be no lane, 8 = fail then. All entries of a group have the same of these.
//! Entries are in order, the first that matches decides.

use crate::{VERSION, glob};

/// First bytes of a rules file.
pub const MAGIC: [u8; 8] = *b"CFORULES";
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 8;
const FLAG_EXCLUDE: u16 = 1;
const FLAG_BACKLOG_BLOCK: u16 = 2;
const FLAG_UNAVAILABLE_BLOCK: u16 = 4;
const FLAG_UNAVAILABLE_FAIL: u16 = 8;

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

/// What a program does when it can't tell what it is about to do to files of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// It waits while its lane is full. Otherwise it goes on, and the file is marked to be read again.
    pub waits_for_room: bool,
    /// What it does while there can be no lane.
    pub unavailable: Unavailable,
}

/// What a program does while there can be no lane: the directory is gone, or the disk is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unavailable {
    /// Goes on; the file is marked to be read again.
    #[default]
    Continue,
    /// Waits before its call.
    Block,
    /// Its call fails with `EIO`, and changes nothing.
    Fail,
}

impl Policy {
    fn flags(self) -> u16 {
        let backlog = if self.waits_for_room {
            FLAG_BACKLOG_BLOCK
        } else {
            0
        };
        backlog
            | match self.unavailable {
                Unavailable::Continue => 0,
                Unavailable::Block => FLAG_UNAVAILABLE_BLOCK,
                Unavailable::Fail => FLAG_UNAVAILABLE_FAIL,
            }
    }

    fn of_flags(flags: u16) -> Policy {
        Policy {
            waits_for_room: flags & FLAG_BACKLOG_BLOCK != 0,
            unavailable: match flags & (FLAG_UNAVAILABLE_BLOCK | FLAG_UNAVAILABLE_FAIL) {
                0 => Unavailable::Continue,
                FLAG_UNAVAILABLE_BLOCK => Unavailable::Block,
                _ => Unavailable::Fail,
            },
        }
    }
}

/// The bytes of a rules file of groups without policies.
pub fn encode(rules: &[Rule]) -> Vec<u8> {
    encode_with(rules, |_| Policy::default())
}

/// The bytes of a rules file. Patterns over 65,535 bytes can't match a path and are left out.
pub fn encode_with(rules: &[Rule], policy_of: impl Fn(u16) -> Policy) -> Vec<u8> {
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
        let exclude = if rule.exclude { FLAG_EXCLUDE } else { 0 };
        bytes.extend((exclude | policy_of(rule.group).flags()).to_le_bytes());
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
    policy: Policy,
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

    /// What a group wants when a program can't tell what it is about to do.
    pub fn policy_of(&self, group: u16) -> Policy {
        self.iter()
            .find(|entry| entry.group == group)
            .map_or(Policy::default(), |entry| entry.policy)
    }

    /// Whether any group wants something else than to go on.
    pub fn has_policies(&self) -> bool {
        self.iter().any(|entry| entry.policy != Policy::default())
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
                policy: Policy::of_flags(field(2)),
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
    fn a_policy_is_the_groups_and_means_nothing_to_who_does_not_know_it() {
        let rule = |group, pattern: &[u8]| Rule {
            group,
            exclude: false,
            pattern: pattern.to_vec(),
        };
        let waits = Policy {
            waits_for_room: true,
            unavailable: Unavailable::Fail,
        };
        let rules = [rule(0, b"/a/*"), rule(1, b"/b/*"), rule(1, b"/c/*")];
        let bytes = encode_with(&rules, |group| match group {
            1 => waits,
            _ => Policy::default(),
        });
        let parsed = Rules::parse(&bytes).expect("own bytes");
        assert!(parsed.has_policies());
        assert_eq!(parsed.policy_of(0), Policy::default());
        assert_eq!(parsed.policy_of(1), waits);
        assert_eq!(parsed.policy_of(7), Policy::default());
        assert_eq!(parsed.group_of(b"/c/x"), Some(1));
        let plain = encode(&rules);
        assert!(!Rules::parse(&plain).expect("own bytes").has_policies());
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
