//! COPY and REPLACE: texts brought in from the library, and words replaced by others.
//!
//! What is replaced is a run of words. A single word is also found inside of another one, where nothing that could
//! belong to its name adjoins: `:TAG:` in `:TAG:-NAME`, `LEN` in `X(LEN)`; with LEADING and TRAILING at the begin or the
//! end of any name. Replaced words aren't looked at again.

use super::diagnostic::{Diagnostics, Sources};
use super::tokens::{Kind, Pos, Token};
use super::{COPY_DEPTH_MAX, Library, Options, TEXT_BYTES_MAX, Text, WORDS_MAX, lines, tokens};

/// How long a word may get by replacing in it, in bytes.
const REPLACED_BYTES_MAX: usize = 4096;

/// How many replacements one statement may have.
const REPLACEMENTS_MAX: usize = 1000;

/// All words of a text and of what it copies.
pub(super) fn read(
    source: &Text,
    options: &Options,
    library: &dyn Library,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Vec<Token> {
    let mut copying = Copying {
        options,
        library,
        sources,
        diagnostics,
        names: Vec::new(),
        bytes: 0,
        words: 0,
    };
    let words = copying.text(source, None);
    copying.replaced_statements(words)
}

struct Copying<'a> {
    options: &'a Options,
    library: &'a dyn Library,
    sources: &'a mut Sources,
    diagnostics: &'a mut Diagnostics,
    /// Texts that are being read, the outermost first.
    names: Vec<String>,
    bytes: usize,
    words: usize,
}

/// One `operand BY operand`.
#[derive(Debug)]
struct Replacement {
    from: Vec<Token>,
    to: Vec<Token>,
    part: Part,
}

/// Which part of a word an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Leading,
    Trailing,
}

impl Copying<'_> {
    fn text(&mut self, source: &Text, copied: Option<Pos>) -> Vec<Token> {
        self.bytes = self.bytes.saturating_add(source.text.len());
        let file = self.sources.add(&source.name, &source.text, copied);
        let begin = Pos {
            file,
            line: 1,
            column: 1,
            width: 1,
        };
        if self.bytes > TEXT_BYTES_MAX {
            self.diagnostics.error(
                copied.unwrap_or(begin),
                format!("with this the text is longer than {TEXT_BYTES_MAX} bytes"),
            );
            return Vec::new();
        }
        let text = lines::read(file, &source.text, self.options.format, self.diagnostics);
        let words = tokens::split(file, &text, self.diagnostics);
        drop(text);
        self.words = self.words.saturating_add(words.len());
        if self.words > WORDS_MAX {
            self.diagnostics.error(
                copied.unwrap_or(begin),
                format!("with this the text has more than {WORDS_MAX} words"),
            );
            return Vec::new();
        }
        self.names.push(source.name.clone());
        let expanded = self.expand(words, &source.name);
        self.names.pop();
        expanded
    }

    /// Puts copied texts in place of COPY statements.
    fn expand(&mut self, words: Vec<Token>, name: &str) -> Vec<Token> {
        if !words
            .iter()
            .any(|word| word.is("COPY") || word.is("++INCLUDE"))
        {
            return words;
        }
        let mut out = Vec::with_capacity(words.len());
        let mut at = 0;
        while at < words.len() {
            let word = &words[at];
            let is_copy = (word.is("COPY") && !is_name(&words, at)) || word.is("++INCLUDE");
            if !is_copy {
                out.push(word.clone());
                at += 1;
                continue;
            }
            let statement = at;
            at += 1;
            if let Some(copied) = self.copy(&words, &mut at, name, words[statement].at) {
                out.extend(copied);
            }
            if self.words > WORDS_MAX {
                break;
            }
        }
        out
    }

    /// A COPY statement from behind its first word on; leaves `at` behind it.
    fn copy(
        &mut self,
        words: &[Token],
        at: &mut usize,
        from: &str,
        statement: Pos,
    ) -> Option<Vec<Token>> {
        let name = match words.get(*at).map(|word| (&word.kind, word.at)) {
            Some((Kind::Word(name) | Kind::Literal(name, _), _)) => name.clone(),
            found => {
                self.diagnostics.error(
                    found.map_or(statement, |(_, at)| at),
                    "expected the name of a text behind COPY",
                );
                skip_statement(words, at);
                return None;
            }
        };
        let place = words[*at].at;
        *at += 1;
        let mut library = None;
        if words
            .get(*at)
            .is_some_and(|word| word.is("OF") || word.is("IN"))
        {
            *at += 1;
            match words.get(*at).map(|word| &word.kind) {
                Some(Kind::Word(name) | Kind::Literal(name, _)) => library = Some(name.clone()),
                _ => self
                    .diagnostics
                    .error(place, "expected the name of a library behind OF"),
            }
            *at += 1;
        }
        for word in ["SUPPRESS", "PRINTING"] {
            *at += usize::from(words.get(*at).is_some_and(|found| found.is(word)));
        }
        let mut replacements = Vec::new();
        if words.get(*at).is_some_and(|word| word.is("REPLACING")) {
            *at += 1;
            replacements = self.replacements(words, at);
        }
        match words.get(*at) {
            Some(word) if word.kind == Kind::Period => *at += 1,
            Some(word) => {
                self.diagnostics.error(
                    word.at,
                    format!(
                        "expected a period at the end of COPY, found {}",
                        word.shown()
                    ),
                );
                skip_statement(words, at);
            }
            // The last statement of a text gets along without.
            None => {}
        }
        if self.names.len() >= COPY_DEPTH_MAX {
            self.diagnostics.error(
                place,
                format!("texts copy each other more than {COPY_DEPTH_MAX} deep here"),
            );
            return None;
        }
        let text = match self.library.find(&name, library.as_deref(), from) {
            Ok(text) => text,
            Err(reason) => {
                self.diagnostics
                    .error(place, format!("COPY {name}: {reason}"));
                return None;
            }
        };
        if self.names.contains(&text.name) {
            self.diagnostics.error(
                place,
                format!("COPY {name}: {} copies itself here", text.name),
            );
            return None;
        }
        let copied = self.text(&text, Some(statement));
        Some(self.replace(copied, &replacements))
    }

    /// `operand BY operand ...`, up to a word that is none.
    fn replacements(&mut self, words: &[Token], at: &mut usize) -> Vec<Replacement> {
        let mut replacements = Vec::new();
        while let Some(word) = words.get(*at) {
            if word.kind == Kind::Period {
                break;
            }
            let begin = word.at;
            let part = if word.is("LEADING") {
                Part::Leading
            } else if word.is("TRAILING") {
                Part::Trailing
            } else {
                Part::Whole
            };
            *at += usize::from(part != Part::Whole);
            let Some(from) = self.operand(words, at) else {
                break;
            };
            if !words.get(*at).is_some_and(|word| word.is("BY")) {
                let found = words.get(*at).map_or("the end".to_owned(), Token::shown);
                let place = words.get(*at).map_or(begin, |word| word.at);
                self.diagnostics
                    .error(place, format!("expected BY, found {found}"));
                skip_to_period(words, at);
                break;
            }
            *at += 1;
            let Some(to) = self.operand(words, at) else {
                break;
            };
            if from.is_empty() {
                self.diagnostics
                    .error(begin, "nothing (== ==) can't be replaced");
                continue;
            }
            if part != Part::Whole && (from.len() != 1 || to.len() > 1) {
                self.diagnostics.error(
                    begin,
                    "LEADING and TRAILING replace a part of a word by a part of a word",
                );
                continue;
            }
            if replacements.len() == REPLACEMENTS_MAX {
                self.diagnostics.error(
                    begin,
                    format!("a statement replaces at most {REPLACEMENTS_MAX} things"),
                );
                skip_to_period(words, at);
                break;
            }
            replacements.push(Replacement { from, to, part });
        }
        replacements
    }

    /// A word, a literal or pseudo-text.
    fn operand(&mut self, words: &[Token], at: &mut usize) -> Option<Vec<Token>> {
        let word = words.get(*at)?;
        *at += 1;
        match &word.kind {
            Kind::Pseudo => {
                let begin = *at;
                let Some(len) = words[begin..].iter().position(|it| it.kind == Kind::Pseudo) else {
                    self.diagnostics
                        .error(word.at, "expected == at the end of this pseudo-text");
                    *at = words.len();
                    return None;
                };
                *at = begin + len + 1;
                Some(words[begin..begin + len].to_vec())
            }
            Kind::Period => {
                *at -= 1;
                self.diagnostics.error(
                    word.at,
                    "expected a word, a literal or ==text==, found a period",
                );
                None
            }
            _ => Some(vec![word.clone()]),
        }
    }

    fn replace(&mut self, words: Vec<Token>, replacements: &[Replacement]) -> Vec<Token> {
        if replacements.is_empty() {
            return words;
        }
        let mut out = Vec::with_capacity(words.len());
        let mut at = 0;
        'words: while at < words.len() {
            for replacement in replacements {
                let len = replacement.from.len();
                if replacement.part == Part::Whole
                    && words.len() - at >= len
                    && words[at..at + len]
                        .iter()
                        .zip(&replacement.from)
                        .all(|(a, b)| same(a, b))
                {
                    // Problems are shown where the text is, not where it was replaced.
                    let place = words[at].at;
                    out.extend(replacement.to.iter().map(|word| Token {
                        kind: word.kind.clone(),
                        at: place,
                    }));
                    at += len;
                    if !self.has_room(&out, place) {
                        break 'words;
                    }
                    continue 'words;
                }
            }
            let mut word = words[at].clone();
            if let Kind::Word(text) = &mut word.kind
                && let Some(changed) = replaced_within(text, replacements)
            {
                if changed.len() > REPLACED_BYTES_MAX {
                    self.diagnostics.error(
                        word.at,
                        format!("this becomes a word of more than {REPLACED_BYTES_MAX} bytes"),
                    );
                    break;
                }
                *text = changed;
            }
            at += 1;
            // A word of which nothing is left.
            if word.word() != Some("") {
                let place = word.at;
                out.push(word);
                if !self.has_room(&out, place) {
                    break;
                }
            }
        }
        self.words = self
            .words
            .saturating_sub(words.len())
            .saturating_add(out.len());
        out
    }

    fn has_room(&mut self, out: &[Token], at: Pos) -> bool {
        if out.len() <= WORDS_MAX {
            return true;
        }
        self.diagnostics.error(
            at,
            format!("with what is replaced the text has more than {WORDS_MAX} words"),
        );
        false
    }

    /// Carries out REPLACE statements.
    fn replaced_statements(&mut self, words: Vec<Token>) -> Vec<Token> {
        let begins = |at: usize| at == 0 || words[at - 1].kind == Kind::Period;
        let is_statement = |at: usize| {
            words[at].is("REPLACE")
                && begins(at)
                && words.get(at + 1).is_some_and(|next| {
                    next.kind == Kind::Pseudo
                        || ["OFF", "ALSO", "LEADING", "TRAILING", "LAST"]
                            .iter()
                            .any(|word| next.is(word))
                })
        };
        if !(0..words.len()).any(is_statement) {
            return words;
        }
        let mut out = Vec::new();
        let mut active: Vec<Replacement> = Vec::new();
        let (mut at, mut begin) = (0, 0);
        loop {
            if at < words.len() && !is_statement(at) {
                at += 1;
                continue;
            }
            out.extend(self.replace(words[begin..at].to_vec(), &active));
            if at >= words.len() {
                return out;
            }
            at += 1;
            at += usize::from(words.get(at).is_some_and(|word| word.is("LAST")));
            if words.get(at).is_some_and(|word| word.is("OFF")) {
                active.clear();
                at += 1;
            } else {
                at += usize::from(words.get(at).is_some_and(|word| word.is("ALSO")));
                active = self.replacements(&words, &mut at);
            }
            skip_statement(&words, &mut at);
            begin = at;
        }
    }
}

/// Whether COPY is the name of a data item here: a level number is before it.
fn is_name(words: &[Token], at: usize) -> bool {
    let begins = |at: usize| at == 0 || words[at - 1].kind == Kind::Period;
    at > 0
        && begins(at - 1)
        && words[at - 1]
            .word()
            .is_some_and(|word| word.parse::<u8>().is_ok())
        && words.get(at + 1).is_some_and(|next| {
            next.kind == Kind::Period
                || ["PIC", "PICTURE", "USAGE", "OCCURS", "REDEFINES"]
                    .iter()
                    .any(|clause| next.is(clause))
        })
}

fn skip_to_period(words: &[Token], at: &mut usize) {
    while words.get(*at).is_some_and(|word| word.kind != Kind::Period) {
        *at += 1;
    }
}

fn skip_statement(words: &[Token], at: &mut usize) {
    skip_to_period(words, at);
    *at = (*at + 1).min(words.len());
}

fn same(a: &Token, b: &Token) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Word(a), Kind::Word(b)) => a.eq_ignore_ascii_case(b),
        (a, b) => a == b,
    }
}

fn is_name_char(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '-' || char == '_' || !char.is_ascii()
}

/// A word in which a part was replaced.
fn replaced_within(word: &str, replacements: &[Replacement]) -> Option<String> {
    let mut changed = None;
    for replacement in replacements {
        let text: &str = changed.as_deref().unwrap_or(word);
        let Some(from) = replacement.from.first().and_then(Token::word) else {
            continue;
        };
        let to = match replacement.to.as_slice() {
            [] => "",
            [
                Token {
                    kind: Kind::Word(to),
                    ..
                },
            ] => to,
            _ => continue,
        };
        if replacement.from.len() != 1 || from.is_empty() {
            continue;
        }
        let same = |part: Option<&str>| part.is_some_and(|part| part.eq_ignore_ascii_case(from));
        let next = match replacement.part {
            Part::Leading if same(text.get(..from.len())) => {
                Some(format!("{to}{}", &text[from.len()..]))
            }
            Part::Trailing
                if same(
                    text.len()
                        .checked_sub(from.len())
                        .and_then(|at| text.get(at..)),
                ) =>
            {
                Some(format!("{}{to}", &text[..text.len() - from.len()]))
            }
            Part::Whole => within(text, from, to),
            _ => None,
        };
        changed = next.or(changed);
    }
    changed
}

/// Replaces `from` in `text` wherever no character that could belong to a name with it adjoins.
fn within(text: &str, from: &str, to: &str) -> Option<String> {
    let first_is_name = from.starts_with(is_name_char);
    let last_is_name = from.ends_with(is_name_char);
    let mut out = String::new();
    let mut found = false;
    let mut at = 0;
    while at < text.len() {
        let matches = text
            .get(at..at + from.len())
            .is_some_and(|part| part.eq_ignore_ascii_case(from))
            && !(first_is_name && text[..at].ends_with(is_name_char))
            && !(last_is_name && text[at + from.len()..].starts_with(is_name_char));
        if matches {
            out.push_str(to);
            at += from.len();
            found = true;
            continue;
        }
        let Some(char) = text[at..].chars().next() else {
            break;
        };
        out.push(char);
        at += char.len_utf8();
    }
    found.then_some(out)
}
