//! File name patterns: made absolute, checked, and compared with each other.
//!
//! What a pattern *matches* is decided by [`counterfoil_lane::glob`] alone, which captured programs
//! use too. Here patterns are taken apart only to refuse malformed ones, to find where a directory
//! walk has to begin, and to tell whether two of them can ever match the same path.

use counterfoil_lane::glob;
use std::collections::{HashSet, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Combinations of states that [`common_path`] looks at before it gives up.
const STATES_MAX: usize = 20_000;

/// An absolute, well-formed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    bytes: Vec<u8>,
    tokens: Vec<Token>,
}

/// What a piece of a pattern stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// One byte of a set, which never holds `/`: `?` and `[...]`.
    One(Box<[bool; 256]>),
    /// Any bytes but `/`: `*`.
    Star,
    /// Any bytes: `**`.
    StarStar,
    /// Nothing, or any bytes that end in `/`: the `**/` of `/**/`.
    Directories,
}

impl Pattern {
    /// Makes `written` absolute (a relative one starts at `base`), takes `.`, `..` and doubled
    /// slashes out, and checks it. The error says what is wrong with it.
    pub(super) fn absolute(base: &Path, written: &str) -> Result<Pattern, String> {
        if written.is_empty() {
            return Err("an empty path".to_owned());
        }
        if written.ends_with('/') {
            return Err(format!(
                "\"{written}\" names a directory; write \"{written}*\" for the files in it or \
                 \"{written}**\" for those below it as well"
            ));
        }
        let mut parts: Vec<Vec<u8>> = Vec::new();
        if !written.starts_with('/') {
            parts.extend(
                base.as_os_str()
                    .as_bytes()
                    .split(|byte| *byte == b'/')
                    .filter(|part| !part.is_empty())
                    .map(escape),
            );
        }
        for part in written.split('/') {
            match part {
                "" | "." => {}
                ".." => match parts.pop() {
                    Some(part) if part_is_literal(&part) => {}
                    Some(_) => return Err("\"..\" after a wildcard".to_owned()),
                    None => return Err("\"..\" above the root directory".to_owned()),
                },
                part => parts.push(part.as_bytes().to_vec()),
            }
        }
        let mut bytes = Vec::new();
        for part in &parts {
            bytes.push(b'/');
            bytes.extend_from_slice(part);
        }
        if bytes.is_empty() {
            return Err(format!("\"{written}\" names the root directory, not files"));
        }
        Pattern::parse(bytes)
    }

    /// An `exclude` pattern: made absolute, as if written in the directory `base`, but one without a
    /// slash is a file name in any directory.
    ///
    /// # Errors
    /// It isn't a pattern, and why.
    pub fn exclusion(base: &Path, written: &str) -> Result<Pattern, String> {
        if written.is_empty() || written.contains('/') {
            return Pattern::absolute(base, written);
        }
        Pattern::parse([b"/**/", written.as_bytes()].concat())
    }

    /// The pattern that matches everything below what this one matches.
    pub(super) fn below(&self) -> Pattern {
        Pattern::escaped([self.bytes.as_slice(), b"/**"].concat())
    }

    /// The pattern that matches everything below a directory.
    pub(super) fn everything_below(directory: &Path) -> Pattern {
        let mut bytes = escape(directory.as_os_str().as_bytes());
        if bytes.ends_with(b"/") {
            bytes.pop();
        }
        bytes.extend_from_slice(b"/**");
        Pattern::escaped(bytes)
    }

    /// The pattern that matches this path only.
    pub(super) fn exactly(path: &Path) -> Pattern {
        Pattern::escaped(escape(path.as_os_str().as_bytes()))
    }

    fn escaped(bytes: Vec<u8>) -> Pattern {
        let tokens = tokens(&bytes).unwrap_or_default();
        Pattern { bytes, tokens }
    }

    fn parse(bytes: Vec<u8>) -> Result<Pattern, String> {
        let tokens = tokens(&bytes)?;
        Ok(Pattern { bytes, tokens })
    }

    /// The pattern text that matches just these bytes.
    pub fn escape(bytes: &[u8]) -> Vec<u8> {
        escape(bytes)
    }

    /// The pattern as the matcher takes it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether this path matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        glob::matches(&self.bytes, path)
    }

    /// The one path that matches, when there are no wildcards.
    pub fn literal(&self) -> Option<PathBuf> {
        let prefix = self.literal_bytes();
        (prefix.len() == self.tokens.len()).then(|| path_of(&prefix))
    }

    /// The directory that holds every match: where a walk begins.
    pub fn directory(&self) -> PathBuf {
        let prefix = self.literal_bytes();
        let end = prefix.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        path_of(&prefix[..end.max(1)])
    }

    /// How many levels below [`Pattern::directory`] a match can lie; `None` when there is no limit.
    pub(super) fn depth_max(&self) -> Option<usize> {
        if self
            .tokens
            .iter()
            .any(|t| matches!(t, Token::StarStar | Token::Directories))
        {
            return None;
        }
        let prefix = self.literal_bytes().len();
        let slashes = self.tokens[prefix..]
            .iter()
            .filter(|t| **t == Token::Byte(b'/'))
            .count();
        Some(slashes + 1)
    }

    /// The bytes that every match ends with, last first.
    fn literal_suffix(&self) -> impl Iterator<Item = u8> {
        self.tokens.iter().rev().map_while(|token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        })
    }

    fn literal_bytes(&self) -> Vec<u8> {
        self.tokens
            .iter()
            .map_while(|token| match token {
                Token::Byte(byte) => Some(*byte),
                _ => None,
            })
            .collect()
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(&self.bytes).fmt(f)
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Bytes as a pattern that matches just them.
fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if b"*?[\\".contains(byte) {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

fn part_is_literal(part: &[u8]) -> bool {
    tokens(part).is_ok_and(|tokens| tokens.iter().all(|t| matches!(t, Token::Byte(_))))
}

/// Takes a pattern apart; the error says what is malformed.
fn tokens(pattern: &[u8]) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            0 => return Err("a zero byte, which no path has".to_owned()),
            b'*' => {
                let follows_slash =
                    matches!(tokens.last(), Some(Token::Byte(b'/') | Token::Directories));
                let stars = 1 + rest.iter().take_while(|byte| **byte == b'*').count();
                rest = &rest[stars - 1..];
                tokens.push(match rest {
                    _ if stars == 1 => Token::Star,
                    [b'/', after @ ..] if stars == 2 && follows_slash => {
                        rest = after;
                        Token::Directories
                    }
                    _ => Token::StarStar,
                });
            }
            b'?' => {
                let mut set = Box::new([true; 256]);
                set[usize::from(b'/')] = false;
                tokens.push(Token::One(set));
            }
            b'[' => {
                let (set, after) = class(rest)?;
                rest = after;
                tokens.push(Token::One(set));
            }
            b'\\' => {
                let Some((byte, after)) = rest.split_first() else {
                    return Err("a backslash at the end, with nothing to escape".to_owned());
                };
                rest = after;
                tokens.push(Token::Byte(*byte));
            }
            byte => tokens.push(Token::Byte(*byte)),
        }
    }
    Ok(tokens)
}

/// The set of `[...]`, after its bracket, and what follows it.
fn class(after: &[u8]) -> Result<(Box<[bool; 256]>, &[u8]), String> {
    const UNCLOSED: &str = "\"[\" without \"]\" (for the character itself, write \"\\[\")";
    let (negated, mut rest) = match after {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, after),
    };
    let mut set = Box::new([false; 256]);
    let mut first = true;
    loop {
        let (low, high);
        (low, high, rest) = match rest {
            [] => return Err(UNCLOSED.to_owned()),
            [b']', after @ ..] if !first => {
                rest = after;
                break;
            }
            [low, b'-', high, after @ ..] if *high != b']' => (*low, *high, after),
            [one, after @ ..] => (*one, *one, after),
        };
        first = false;
        if low == b'/' || high == b'/' {
            return Err("a \"/\" within \"[...]\", which never matches one".to_owned());
        }
        if !low.is_ascii() || !high.is_ascii() {
            return Err(
                "a character within \"[...]\" that isn't ASCII: a set matches one byte, and \
                        this is several"
                    .to_owned(),
            );
        }
        if low > high {
            let (low, high) = (char::from(low), char::from(high));
            return Err(format!("the range \"{low}-{high}\" goes backwards"));
        }
        set[usize::from(low)..=usize::from(high)].fill(true);
    }
    if negated {
        for member in set.iter_mut() {
            *member = !*member;
        }
    }
    set[usize::from(b'/')] = false;
    Ok((set, rest))
}

/// Whether a path can match two patterns at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Common {
    /// No path matches both.
    None,
    /// This path does, for one.
    Path(Vec<u8>),
    /// Too intricate to tell.
    Unknown,
}

/// Looks for a path that matches `a` and `b` and none of `excluded`.
///
/// Walks the patterns side by side, byte by byte, as the automata they are; breadth first, so that
/// the example is as short as can be.
pub(super) fn common_path(a: &Pattern, b: &Pattern, excluded: &[&Pattern]) -> Common {
    let prefixes = (a.literal_bytes(), b.literal_bytes());
    if prefixes.0.iter().zip(&prefixes.1).any(|(a, b)| a != b) {
        return Common::None;
    }
    let suffixes = (a.literal_suffix(), b.literal_suffix());
    if suffixes.0.zip(suffixes.1).any(|(a, b)| a != b) {
        return Common::None;
    }
    let patterns: Vec<&Pattern> = [a, b].into_iter().chain(excluded.iter().copied()).collect();
    let alphabet = alphabet(&patterns);
    let start: Vec<States> = patterns
        .iter()
        .map(|pattern| States::start(&pattern.tokens))
        .collect();
    let mut came_from: Vec<(usize, u8)> = vec![(0, 0)];
    let mut seen: HashSet<Vec<States>> = HashSet::from([start.clone()]);
    let mut queue = VecDeque::from([(0, start)]);
    while let Some((index, states)) = queue.pop_front() {
        let accepts = |which: usize| states[which].contains(patterns[which].tokens.len());
        if accepts(0) && accepts(1) && !(2..patterns.len()).any(accepts) {
            let mut path = Vec::new();
            let mut at = index;
            while at != 0 {
                path.push(came_from[at].1);
                at = came_from[at].0;
            }
            path.reverse();
            return Common::Path(path);
        }
        for byte in &alphabet {
            let mut next: Vec<States> = Vec::with_capacity(patterns.len());
            for (which, pattern) in patterns.iter().enumerate() {
                next.push(states[which].after(&pattern.tokens, *byte));
                // Most bytes are a dead end of the first pattern already.
                if which < 2 && next[which].is_empty() {
                    break;
                }
            }
            if next.len() < patterns.len() || next[1].is_empty() || seen.contains(&next) {
                continue;
            }
            if seen.len() >= STATES_MAX {
                return Common::Unknown;
            }
            seen.insert(next.clone());
            came_from.push((index, *byte));
            queue.push_back((came_from.len() - 1, next));
        }
    }
    Common::None
}

/// Positions in a pattern that the bytes so far can have led to, one bit each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct States(Vec<u64>);

impl States {
    fn none(tokens: &[Token]) -> States {
        States(vec![0; tokens.len() / 64 + 1])
    }

    fn start(tokens: &[Token]) -> States {
        let mut states = States::none(tokens);
        states.add(tokens, 0);
        states
    }

    fn contains(&self, position: usize) -> bool {
        self.0[position / 64] >> (position % 64) & 1 == 1
    }

    /// The positions, in order.
    fn positions(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                // With no bit left there is nothing to clear, and the count is 64.
                left = left.checked_sub(1)? & left;
                Some(index * 64 + bit as usize)
            })
        })
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Adds a position, and those behind wildcards that can stand for nothing.
    fn add(&mut self, tokens: &[Token], mut position: usize) {
        loop {
            self.0[position / 64] |= 1 << (position % 64);
            match tokens.get(position) {
                Some(Token::Star | Token::StarStar | Token::Directories) => position += 1,
                _ => return,
            }
        }
    }

    fn after(&self, tokens: &[Token], byte: u8) -> States {
        let mut next = States::none(tokens);
        for position in self.positions() {
            let Some(token) = tokens.get(position) else {
                break;
            };
            match token {
                Token::Byte(expected) if *expected == byte => next.add(tokens, position + 1),
                Token::One(set) if set[usize::from(byte)] => next.add(tokens, position + 1),
                Token::Star if byte != b'/' => next.add(tokens, position),
                Token::StarStar => next.add(tokens, position),
                Token::Directories => {
                    // Once it stands for something, only a slash ends it.
                    next.0[position / 64] |= 1 << (position % 64);
                    if byte == b'/' {
                        next.add(tokens, position + 1);
                    }
                }
                _ => {}
            }
        }
        next
    }
}

/// One byte for every class of bytes that none of the patterns tells apart; letters where possible.
fn alphabet(patterns: &[&Pattern]) -> Vec<u8> {
    let mut literal = [false; 256];
    literal[usize::from(b'/')] = true;
    let mut sets: Vec<&[bool; 256]> = Vec::new();
    for token in patterns.iter().flat_map(|pattern| &pattern.tokens) {
        match token {
            Token::Byte(byte) => literal[usize::from(*byte)] = true,
            Token::One(set) if !sets.contains(&&**set) => sets.push(set),
            Token::One(_) | Token::Star | Token::StarStar | Token::Directories => {}
        }
    }
    // A literal byte is a class of its own; the others differ by the sets they are in.
    let mut seen: HashSet<Vec<bool>> = HashSet::new();
    let readable = (b'a'..=b'z')
        .chain(b'0'..=b'9')
        .chain(b'A'..=b'Z')
        .chain(b' '..=b'~');
    let others: Vec<u8> = readable
        .chain(1..=255)
        .filter(|byte| !literal[usize::from(*byte)])
        .filter(|byte| seen.insert(sets.iter().map(|set| set[usize::from(*byte)]).collect()))
        .collect();
    let mut alphabet: Vec<u8> = (1..=255)
        .filter(|byte| literal[usize::from(*byte)])
        .collect();
    alphabet.extend(others);
    alphabet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(written: &str) -> Pattern {
        Pattern::absolute(Path::new("/srv/a[1]"), written).unwrap()
    }

    #[test]
    fn patterns_become_absolute_and_normal() {
        for (written, expected) in [
            ("cards.dat", "/srv/a\\[1]/cards.dat"),
            ("./x/../*.dat", "/srv/a\\[1]/*.dat"),
            ("../*.dat", "/srv/*.dat"),
            ("/pay//./x", "/pay/x"),
        ] {
            assert_eq!(pattern(written).to_string(), expected);
        }
        assert!(pattern("cards.dat").matches(b"/srv/a[1]/cards.dat"));
        assert_eq!(
            pattern("cards.dat").literal(),
            Some("/srv/a[1]/cards.dat".into())
        );
        assert_eq!(pattern("*/x").directory(), Path::new("/srv/a[1]"));
        assert_eq!(pattern("/*.dat").directory(), Path::new("/"));
        assert_eq!(pattern("/x").directory(), Path::new("/"));
        assert_eq!(pattern("/a/*/b?/c").depth_max(), Some(3));
        assert_eq!(pattern("/a/**/c").depth_max(), None);
    }

    #[test]
    fn malformed_patterns_are_refused_with_a_reason() {
        for (written, reason) in [
            ("", "empty"),
            ("/", "directory"),
            ("/a/", "directory"),
            ("/a/..", "root directory"),
            ("/../a", "above the root"),
            ("/a*/../b", "after a wildcard"),
            ("/a[b", "without"),
            ("/a[b/c]", "\"/\" within"),
            ("/a[z-a]", "backwards"),
            ("/a[ä]", "ASCII"),
            ("/a\\", "backslash"),
            ("/a\0", "zero byte"),
        ] {
            let error = Pattern::absolute(Path::new("/b"), written).unwrap_err();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }

    #[test]
    fn common_paths_are_found_and_exclusions_respected() {
        let (a, b) = (pattern("/p/*.dat"), pattern("/p/cards.*"));
        assert_eq!(
            common_path(&a, &b, &[]),
            Common::Path(b"/p/cards.dat".to_vec())
        );
        let exclusion = Pattern::exclusion(Path::new("/"), "cards*").unwrap();
        assert_eq!(common_path(&a, &b, &[&exclusion]), Common::None);
        assert_eq!(common_path(&a, &pattern("/p/**/x"), &[]), Common::None);
        assert_eq!(common_path(&a, &pattern("/q/**"), &[]), Common::None);
        assert_eq!(
            common_path(&pattern("/a/*"), &pattern("/a/*/b"), &[]),
            Common::None
        );
        assert_eq!(
            common_path(&pattern("/p/[a-c]"), &pattern("/p/[!a-b]"), &[]),
            Common::Path(b"/p/c".to_vec())
        );
    }

    #[test]
    fn hopelessly_intricate_patterns_end_in_time() {
        let a = pattern(&format!("/{}", "*a?".repeat(40)));
        let b = pattern(&format!("/{}x", "*?b".repeat(40)));
        assert_ne!(common_path(&a, &b, &[]), Common::Path(Vec::new()));
    }

    fn some_pattern() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => Just("a"), 4 => Just("b"), 4 => Just("/"), 3 => Just("*"), 2 => Just("**"), 2 => Just("/**/"),
            2 => Just("?"), 1 => Just("[ab]"), 1 => Just("[!a]"), 1 => Just("[a-]"), 1 => Just("\\*"),
        ];
        proptest::collection::vec(part, 1..8).prop_map(|parts| format!("/{}", parts.concat()))
    }

    proptest! {
        /// The matcher is the judge: an example must match both patterns, and where there is said
        /// to be none, no path of a small alphabet may.
        #[test]
        fn common_paths_agree_with_the_matcher(
            a in some_pattern(),
            b in some_pattern(),
            exclusion in some_pattern(),
            paths in proptest::collection::vec("/[ab/*]{0,6}", 100),
        ) {
            let parse = |text: &str| Pattern::parse(text.as_bytes().to_vec()).unwrap();
            let (a, b, exclusion) = (parse(&a), parse(&b), parse(&exclusion));
            let fits = |path: &[u8]| a.matches(path) && b.matches(path) && !exclusion.matches(path);
            match common_path(&a, &b, &[&exclusion]) {
                Common::Path(path) => prop_assert!(fits(&path), "{}", String::from_utf8_lossy(&path)),
                Common::None => for path in paths {
                    prop_assert!(!fits(path.as_bytes()), "{}", path);
                },
                Common::Unknown => {}
            }
        }

        #[test]
        fn an_escaped_path_matches_itself_only(path in "/[a-c*?\\[\\]\\\\/]{1,12}", other in "/[a-c*?\\[\\]\\\\/]{1,12}") {
            let pattern = Pattern::exactly(Path::new(&path));
            prop_assert!(pattern.matches(path.as_bytes()));
            prop_assert_eq!(pattern.matches(other.as_bytes()), path == other);
            prop_assert_eq!(pattern.literal(), Some(PathBuf::from(path)));
        }
    }
}
