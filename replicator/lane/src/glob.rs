//! The one glob matcher: the interposer and the replicator must never disagree on what is captured.
//!
//! `*` and `?` match any bytes but `/`; `[abc]`, `[a-z]` and `[!a]` match one byte that isn't `/`; `**` matches
//! any bytes, `/` too (`/**/` also matches a single `/`); `\` takes the next byte as it is. Bytes, not
//! characters: paths need not be UTF-8. No allocation; time is bounded by pattern × path.

/// Whether `path` as a whole matches `pattern`.
pub fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let (mut p, mut s) = (0, 0);
    // Where to go on after a mismatch: one place for the last `*` and one for the last `**`.
    let mut star: Option<(usize, usize)> = None;
    let mut double_star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            if pattern.get(p + 1) == Some(&b'*') {
                p += 2;
                while pattern.get(p) == Some(&b'*') {
                    p += 1;
                }
                // `/**/` may also stand for one slash.
                if pattern.get(p) == Some(&b'/')
                    && p >= 3
                    && pattern[p - 3] == b'/'
                    && s > 0
                    && path[s - 1] == b'/'
                {
                    p += 1;
                    double_star = Some((p, s));
                    star = None;
                    continue;
                }
                double_star = Some((p, s));
                star = None;
            } else {
                p += 1;
                star = Some((p, s));
            }
            continue;
        }
        if s < path.len() {
            if let Some(taken) = match_one(pattern, p, path[s]) {
                p += taken;
                s += 1;
                continue;
            }
        } else if p == pattern.len() {
            return true;
        }
        // Mismatch: let the innermost star take one byte more.
        if let Some((after, from)) = star {
            if from < path.len() && path[from] != b'/' {
                star = Some((after, from + 1));
                (p, s) = (after, from + 1);
                continue;
            }
            star = None;
        }
        match double_star {
            Some((after, from)) if from < path.len() => {
                let mut next = from + 1;
                // After `/**/` the rest must begin a path component.
                if pattern[after - 1] == b'/' {
                    while path[next - 1] != b'/' {
                        if next == path.len() {
                            return false;
                        }
                        next += 1;
                    }
                }
                double_star = Some((after, next));
                (p, s) = (after, next);
            }
            _ => return false,
        }
    }
}

/// The leading bytes of `pattern` that every match begins with, up to the last `/` before a wildcard (or the
/// whole pattern when it has none and no escape).
pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
    match pattern
        .iter()
        .position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
    {
        None => pattern,
        Some(wild) => {
            let slash = pattern[..wild].iter().rposition(|&byte| byte == b'/');
            &pattern[..slash.map_or(0, |at| at + 1)]
        }
    }
}

/// Whether the pattern has wildcards or escapes.
pub fn is_literal(pattern: &[u8]) -> bool {
    literal_prefix(pattern).len() == pattern.len()
}

/// How many pattern bytes at `p` match one path byte, if they do.
fn match_one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => (byte != b'/').then_some(1),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(2),
        b'[' => match_class(&pattern[p..], byte),
        literal => (literal == byte).then_some(1),
    }
}

/// Matches `[...]` at the beginning of `class`; a class without `]` is a literal `[`.
fn match_class(class: &[u8], byte: u8) -> Option<usize> {
    let mut at = 1;
    let negated = matches!(class.get(at), Some(b'!' | b'^'));
    if negated {
        at += 1;
    }
    let first = at;
    let mut found = false;
    loop {
        match class.get(at) {
            None => return (byte == b'[').then_some(1),
            Some(b']') if at > first => break,
            Some(&low) => {
                if class.get(at + 1) == Some(&b'-')
                    && class.get(at + 2).is_some_and(|&high| high != b']')
                {
                    found |= (low..=class[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    found |= low == byte;
                    at += 1;
                }
            }
        }
    }
    (found != negated && byte != b'/').then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, path, expected) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("/a/*.dat", "/a/x.dat", true),
            ("/a/*.dat", "/a/.dat", true),
            ("/a/*.dat", "/a/b/x.dat", false),
            ("/a/*b*c", "/a/xbbcbc", true),
            ("/a/?", "/a/x", true),
            ("/a/?", "/a//", false),
            ("/a/[a-c]x", "/a/bx", true),
            ("/a/[!a-c]x", "/a/bx", false),
            ("/a/[!a-c]x", "/a/dx", true),
            ("/a/[]]", "/a/]", true),
            ("/a/[x", "/a/[x", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/b/a", false),
            ("/a/**/c.dat", "/a/c.dat", true),
            ("/a/**/c.dat", "/a/b/c.dat", true),
            ("/a/**/c.dat", "/a/b/d/c.dat", true),
            ("/a/**/c.dat", "/a/bc.dat", false),
            ("/a/**/*.dat", "/a/b/d/c.dat", true),
            ("/a/**/x/*.dat", "/a/b/x/d/x/c.dat", true),
            ("/a/\\*", "/a/*", true),
            ("/a/\\*", "/a/x", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), path.as_bytes()),
                expected,
                "{pattern} ~ {path}"
            );
        }
    }

    #[test]
    fn many_stars_end_in_time() {
        let pattern = b"/*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b";
        let mut path = vec![b'a'; 4096];
        path[0] = b'/';
        assert!(!matches(pattern, &path));
    }

    #[test]
    fn literal_prefixes_end_at_a_slash() {
        assert_eq!(literal_prefix(b"/srv/pay/*.dat"), b"/srv/pay/");
        assert_eq!(literal_prefix(b"/srv/pay/cards.dat"), b"/srv/pay/cards.dat");
        assert_eq!(literal_prefix(b"/srv/p*/x"), b"/srv/");
        assert!(is_literal(b"/srv/x") && !is_literal(b"/srv/\\x"));
    }
}
