//! From text to words: COBOL's text words, literals, periods and the `==` of pseudo-text.
//!
//! A PICTURE is one word, and so is everything else without a space in it; what a word means depends on where it
//! stands, which only [`super::entries`] knows. Commas and semicolons before a space mean nothing, and are gone.

use super::diagnostic::Diagnostics;
use super::lines::Char;

/// A place in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pos {
    /// Number of the text.
    pub(super) file: u32,
    /// Line, from 1.
    pub(super) line: u32,
    /// Column in characters, from 1.
    pub(super) column: u32,
    /// How many characters it takes.
    pub(super) width: u32,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word, number or PICTURE, as written.
    Word(String),
    /// A literal without its quotes, and the letters before it (`X` of `X"00"`), upper case.
    Literal(String, String),
    /// A period before a space.
    Period,
    /// `==`
    Pseudo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: Pos,
}

impl Token {
    /// Whether it is this word, which is upper case.
    pub(super) fn is(&self, word: &str) -> bool {
        self.word()
            .is_some_and(|own| own.eq_ignore_ascii_case(word))
    }

    pub(super) fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        match &self.kind {
            Kind::Word(word) => format!("{:?}", word.chars().take(40).collect::<String>()),
            Kind::Literal(text, _) => {
                format!(
                    "the literal {:?}",
                    text.chars().take(40).collect::<String>()
                )
            }
            Kind::Period => "a period".to_owned(),
            Kind::Pseudo => "\"==\"".to_owned(),
        }
    }
}

/// Letters that may stand before a literal's quote.
const PREFIXES: &[&str] = &["X", "N", "NX", "Z", "H", "B", "BX", "G", "U", "UX"];

pub(super) fn split(file: u32, text: &[Char], diagnostics: &mut Diagnostics) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    let char_at = |at: usize| text.get(at).map_or('\n', |char| char.char);
    let place = |begin: usize, end: usize| {
        let first = text.get(begin).copied().unwrap_or(Char {
            char: '\n',
            line: 0,
            column: 1,
        });
        // A word that is continued is underlined as far as its first line goes.
        let width = text[begin..end.min(text.len())]
            .iter()
            .filter(|char| char.line == first.line)
            .count();
        Pos {
            file,
            line: first.line,
            column: first.column,
            width: width.max(1) as u32,
        }
    };
    while at < text.len() {
        let begin = at;
        let char = char_at(at);
        let ends = |at: usize| char_at(at).is_whitespace();
        if char.is_whitespace() {
            at += 1;
            continue;
        }
        if matches!(char, ',' | ';') && ends(at + 1) {
            at += 1;
            continue;
        }
        if char == '.' && ends(at + 1) {
            at += 1;
            tokens.push(Token {
                kind: Kind::Period,
                at: place(begin, at),
            });
            continue;
        }
        if char == '=' && char_at(at + 1) == '=' {
            at += 2;
            tokens.push(Token {
                kind: Kind::Pseudo,
                at: place(begin, at),
            });
            continue;
        }
        if char == '"' || char == '\'' {
            let mut prefix = String::new();
            // Letters right before the quote belong to it.
            if let Some(before) = tokens.last()
                && begin > 0
                && !char_at(begin - 1).is_whitespace()
                && let Some(word) = before.word()
                && PREFIXES
                    .iter()
                    .any(|known| word.eq_ignore_ascii_case(known))
            {
                prefix = word.to_ascii_uppercase();
                tokens.pop();
            }
            let mut content = String::new();
            at += 1;
            loop {
                match char_at(at) {
                    '\n' => {
                        diagnostics.error(
                            place(begin, at),
                            format!("expected {char} at the end of this literal"),
                        );
                        break;
                    }
                    found if found == char && char_at(at + 1) == char => {
                        content.push(char);
                        at += 2;
                    }
                    found if found == char => {
                        at += 1;
                        break;
                    }
                    found => {
                        content.push(found);
                        at += 1;
                    }
                }
            }
            tokens.push(Token {
                kind: Kind::Literal(content, prefix),
                at: place(begin, at),
            });
            continue;
        }
        let mut word = String::new();
        while at < text.len() {
            let char = char_at(at);
            if char.is_whitespace()
                || char == '"'
                || char == '\''
                || matches!(char, ',' | ';' | '.') && ends(at + 1)
                || char == '=' && char_at(at + 1) == '='
            {
                break;
            }
            word.push(char);
            at += 1;
        }
        tokens.push(Token {
            kind: Kind::Word(word),
            at: place(begin, at),
        });
    }
    tokens
}
