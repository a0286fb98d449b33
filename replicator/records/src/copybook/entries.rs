//! Data descriptions: a level number, a name and clauses, up to a period. What they mean together is for
//! [`super::tree`].
//!
//! Words that are reserved in COBOL are names as well here: whether `VALUE` is a name or begins a clause follows from
//! what stands behind it.

use super::diagnostic::Diagnostics;
use super::picture::{self, Picture};
use super::tokens::{Kind, Pos, Token};
use crate::schema::{Dialect, Literal};
use std::collections::HashMap;

/// One data description.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) level: u8,
    pub(super) name: Option<String>,
    /// Of its name, or else its level number.
    pub(super) at: Pos,
    pub(super) redefines: Option<(String, Pos)>,
    pub(super) picture: Option<(Picture, Pos)>,
    pub(super) usage: Option<(Usage, Pos)>,
    pub(super) sign: Option<SignClause>,
    pub(super) occurs: Option<(OccursClause, Pos)>,
    pub(super) sync: bool,
    pub(super) justified: Option<Pos>,
    pub(super) blank_when_zero: Option<Pos>,
    pub(super) values: Vec<(Literal, Option<Literal>)>,
    pub(super) renames: Option<(String, Option<String>)>,
}

/// What a USAGE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Display,
    Binary,
    /// COMP-5.
    Native,
    /// COMP-X; COMP-N in native byte order.
    CompX,
    CompN,
    Packed,
    /// COMP-6.
    PackedNoSign,
    Float4,
    Float8,
    /// BINARY-CHAR and its like: so many bytes, native, signed or not.
    Sized(u32, bool),
    Index,
    Pointer,
    /// So many bytes that mean nothing here.
    Opaque(u32),
    National,
    Dbcs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SignClause {
    pub(super) leading: bool,
    pub(super) separate: bool,
}

#[derive(Clone, Debug)]
pub(super) struct OccursClause {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) depending_on: Option<String>,
}

/// Words that begin a clause.
const CLAUSES: &[&str] = &[
    "PIC",
    "PICTURE",
    "USAGE",
    "REDEFINES",
    "OCCURS",
    "SIGN",
    "LEADING",
    "TRAILING",
    "SYNC",
    "SYNCHRONIZED",
    "JUST",
    "JUSTIFIED",
    "BLANK",
    "VALUE",
    "VALUES",
    "RENAMES",
    "GLOBAL",
    "EXTERNAL",
    "IS",
    "GROUP-USAGE",
    "DATE",
    "CONSTANT",
    "VOLATILE",
    "ANY",
    "TYPE",
    "TYPEDEF",
    "SAME",
    "BASED",
    "DYNAMIC",
    "INDEXED",
    "DEPENDING",
];

/// Usages that are one word.
const USAGES: &[(&str, Usage)] = &[
    ("DISPLAY", Usage::Display),
    ("BINARY", Usage::Binary),
    ("COMP", Usage::Binary),
    ("COMP-4", Usage::Binary),
    ("COMP-5", Usage::Native),
    ("COMP-X", Usage::CompX),
    ("COMP-N", Usage::CompN),
    ("COMP-1", Usage::Float4),
    ("COMP-2", Usage::Float8),
    ("COMP-3", Usage::Packed),
    ("COMP-6", Usage::PackedNoSign),
    ("PACKED-DECIMAL", Usage::Packed),
    ("BINARY-CHAR", Usage::Sized(1, true)),
    ("BINARY-SHORT", Usage::Sized(2, true)),
    ("BINARY-LONG", Usage::Sized(4, true)),
    ("BINARY-INT", Usage::Sized(4, true)),
    ("BINARY-DOUBLE", Usage::Sized(8, true)),
    ("BINARY-LONG-LONG", Usage::Sized(8, true)),
    ("SIGNED-SHORT", Usage::Sized(2, true)),
    ("SIGNED-INT", Usage::Sized(4, true)),
    ("SIGNED-LONG", Usage::Sized(8, true)),
    ("UNSIGNED-SHORT", Usage::Sized(2, false)),
    ("UNSIGNED-INT", Usage::Sized(4, false)),
    ("UNSIGNED-LONG", Usage::Sized(8, false)),
    ("FLOAT-SHORT", Usage::Float4),
    ("FLOAT-LONG", Usage::Float8),
    ("FLOAT-EXTENDED", Usage::Opaque(16)),
    ("FLOAT-DECIMAL-16", Usage::Opaque(8)),
    ("FLOAT-DECIMAL-34", Usage::Opaque(16)),
    ("INDEX", Usage::Index),
    ("POINTER", Usage::Pointer),
    ("PROCEDURE-POINTER", Usage::Pointer),
    ("FUNCTION-POINTER", Usage::Pointer),
    ("NATIONAL", Usage::National),
    ("DISPLAY-1", Usage::Dbcs),
];

fn usage(word: &str) -> Option<Usage> {
    let upper = word.to_ascii_uppercase();
    let short = match upper.strip_prefix("COMPUTATIONAL") {
        Some(rest) => format!("COMP{rest}"),
        None => upper,
    };
    USAGES
        .iter()
        .find(|(name, _)| *name == short)
        .map(|(_, usage)| *usage)
}

fn begins_clause(token: &Token) -> bool {
    token.word().is_some_and(|word| {
        CLAUSES
            .iter()
            .any(|clause| word.eq_ignore_ascii_case(clause))
            || usage(word).is_some()
    })
}

/// Words that a page or a listing is told with, without meaning for data.
const LISTING: &[&str] = &["EJECT", "SKIP1", "SKIP2", "SKIP3"];

/// Reads all data descriptions.
pub(super) fn read(
    words: &[Token],
    dialect: &Dialect,
    diagnostics: &mut Diagnostics,
) -> Vec<Entry> {
    let mut reader = Reader {
        words,
        at: 0,
        dialect: dialect.clone(),
        constants: HashMap::new(),
        diagnostics,
    };
    let mut entries = Vec::new();
    while let Some(word) = reader.peek() {
        if word.kind == Kind::Period || LISTING.iter().any(|listing| word.is(listing)) {
            reader.at += 1;
            continue;
        }
        if reader.skips_other() {
            continue;
        }
        if let Some(entry) = reader.entry() {
            entries.push(entry);
        }
    }
    entries
}

struct Reader<'a> {
    words: &'a [Token],
    at: usize,
    dialect: Dialect,
    /// Level 78 and CONSTANT.
    constants: HashMap<String, Literal>,
    diagnostics: &'a mut Diagnostics,
}

/// A clause can't be read; it was said.
struct Failed;

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.words.get(self.at)
    }

    fn peek_is(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.is(word))
    }

    /// Takes a word if it is this one.
    fn take(&mut self, word: &str) -> bool {
        let is = self.peek_is(word);
        self.at += usize::from(is);
        is
    }

    fn take_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.take(word))
    }

    /// The place of what comes next, or of the last word.
    fn here(&self) -> Pos {
        self.peek()
            .or(self.words.last())
            .map_or_else(Pos::default, |token| token.at)
    }

    fn found(&self) -> String {
        self.peek()
            .map_or_else(|| "the end of the text".to_owned(), Token::shown)
    }

    fn expected(&mut self, what: &str) -> Failed {
        let message = format!("expected {what}, found {}", self.found());
        self.diagnostics.error(self.here(), message);
        Failed
    }

    fn skip_entry(&mut self) {
        while let Some(word) = self.peek() {
            self.at += 1;
            if word.kind == Kind::Period {
                return;
            }
        }
    }

    /// Goes over what isn't a data description but may be found between some. True if there was any.
    fn skips_other(&mut self) -> bool {
        let Some(first) = self.peek() else {
            return false;
        };
        let next_is = |word: &str| {
            self.words
                .get(self.at + 1)
                .is_some_and(|next| next.is(word))
        };
        if first.is("EXEC") {
            self.diagnostics.warning(
                first.at,
                "EXEC ... END-EXEC is passed over: what it stands for isn't part of the record here",
            );
            while self.peek().is_some() && !self.take("END-EXEC") {
                self.at += 1;
            }
            return true;
        }
        let header = ["SECTION", "DIVISION"].iter().any(|word| next_is(word));
        let file = ["FD", "SD"].iter().any(|word| first.is(word));
        if first.is("PROCEDURE") && next_is("DIVISION") {
            self.at = self.words.len();
            return true;
        }
        if first.is("DECIMAL-POINT") {
            self.at += 1;
            self.take("IS");
            if self.take("COMMA") {
                self.dialect.decimal_comma = true;
            }
            return true;
        }
        if header || file || first.is("TITLE") {
            self.skip_entry();
            return true;
        }
        false
    }

    fn entry(&mut self) -> Option<Entry> {
        let first = self.peek()?;
        let level = first
            .word()
            .filter(|word| word.len() <= 2)
            .and_then(|word| word.parse::<u8>().ok())
            .filter(|level| matches!(level, 1..=49 | 66 | 77 | 78 | 88));
        let Some(level) = level else {
            let number = first.word().is_some_and(|word| {
                word.len() <= 4 && word.bytes().all(|byte| byte.is_ascii_digit())
            });
            let what = match number {
                true => "a level number (01 to 49, 66, 77, 78 or 88)",
                false => "a level number",
            };
            self.expected(what);
            self.skip_entry();
            return None;
        };
        self.at += 1;
        let mut entry = Entry {
            level,
            name: None,
            at: first.at,
            redefines: None,
            picture: None,
            usage: None,
            sign: None,
            occurs: None,
            sync: false,
            justified: None,
            blank_when_zero: None,
            values: Vec::new(),
            renames: None,
        };
        self.name(&mut entry);
        // The last period of a text is often forgotten, and nothing can follow.
        while let Some(word) = self.peek() {
            if word.kind == Kind::Period {
                self.at += 1;
                break;
            }
            if self.begins_entry() {
                self.diagnostics.error(
                    word.at,
                    format!(
                        "expected a period at the end of {} before this level number",
                        entry.name.as_deref().unwrap_or("FILLER")
                    ),
                );
                break;
            }
            if self.clause(&mut entry).is_err() {
                self.skip_entry();
                break;
            }
        }
        if level == 78 || entry.level == 0 {
            return self.constant(entry);
        }
        Some(entry)
    }

    /// Whether what comes next looks like a level number and a name on a line of their own: a period was forgotten.
    fn begins_entry(&self) -> bool {
        let Some(word) = self.peek() else {
            return false;
        };
        let before = &self.words[self.at.saturating_sub(1)];
        let level = word.word().is_some_and(|text| {
            text.len() == 2
                && text
                    .parse::<u8>()
                    .is_ok_and(|level| matches!(level, 1..=49 | 66 | 77 | 88))
        });
        let next = self.words.get(self.at + 1).and_then(Token::word);
        level
            && (before.at.file, before.at.line) != (word.at.file, word.at.line)
            && next.is_some_and(|next| next.starts_with(|c: char| c.is_ascii_alphabetic()))
            && !["THRU", "THROUGH", "TO", "TIMES"]
                .iter()
                .any(|word| next.is_some_and(|next| next.eq_ignore_ascii_case(word)))
    }

    fn name(&mut self, entry: &mut Entry) {
        let Some(word) = self.peek() else { return };
        let Some(text) = word.word() else { return };
        if begins_clause(word) && !self.is_name(entry.level) {
            return;
        }
        self.at += 1;
        entry.at = word.at;
        if word.is("FILLER") {
            return;
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_$#@".contains(c) || !c.is_ascii();
        if !text.chars().all(fits) || text.len() > 100 {
            let message = format!("{} can't be the name of an item", word.shown());
            let help = match text.contains(':') {
                true => {
                    "a text with such names is to be copied with REPLACING, as in COPY x REPLACING ==:TAG:== BY ==NAME=="
                }
                false => "names are letters, digits, - and _, at most 100",
            };
            self.diagnostics.error_help(word.at, message, help);
        }
        entry.name = Some(text.to_owned());
    }

    /// Whether a word that could begin a clause is a name: another clause, or the end, comes behind it.
    fn is_name(&self, level: u8) -> bool {
        let (Some(word), Some(next)) = (self.peek(), self.words.get(self.at + 1)) else {
            return true;
        };
        if next.kind == Kind::Period {
            return true;
        }
        if level == 88 {
            return next.is("VALUE") || next.is("VALUES");
        }
        if word.is("REDEFINES") && begins_clause(next) {
            // What is redefined may have such a name, too.
            let behind = self.words.get(self.at + 2);
            return behind.is_some_and(|it| it.kind != Kind::Period && !begins_clause(it));
        }
        let is_usage = |token: &Token| token.word().is_some_and(|word| usage(word).is_some());
        let continues = next.is("IS")
            || word.is("IS")
            || word.is("USAGE") && (is_usage(next) || next.is("OBJECT"))
            || word.is("SIGN") && (next.is("LEADING") || next.is("TRAILING"));
        // Nobody calls an item COMP-3; an item without a name may begin with that.
        let only_usage = is_usage(word)
            && word.word().is_some_and(|word| {
                word.contains('-') || word.to_ascii_uppercase().starts_with("COMP")
            });
        begins_clause(next) && !continues && !only_usage
    }

    fn clause(&mut self, entry: &mut Entry) -> Result<(), Failed> {
        let Some(word) = self.peek() else {
            return Ok(());
        };
        let at = word.at;
        let Some(text) = word.word() else {
            return Err(self.expected("a clause or a period"));
        };
        let upper = text.to_ascii_uppercase();
        if let Some(usage) = usage(text) {
            self.at += 1;
            self.usage(entry, usage, at);
            return Ok(());
        }
        self.at += 1;
        match upper.as_str() {
            "PIC" | "PICTURE" => {
                self.take("IS");
                let Some((word, text)) = self.peek().and_then(|it| Some((it, it.word()?))) else {
                    return Err(self.expected("a PICTURE string"));
                };
                self.at += 1;
                let dialect = &self.dialect;
                let constant = |name: &str| match self.constants.get(&name.to_ascii_uppercase()) {
                    Some(Literal::Number(number)) => number.parse().ok(),
                    _ => None,
                };
                match picture::parse(text, dialect.decimal_comma, dialect.currency, &constant) {
                    Ok(_) if entry.picture.is_some() => {
                        self.diagnostics
                            .error(at, "this is the second PICTURE of one item");
                    }
                    Ok(picture) => entry.picture = Some((picture, word.at)),
                    Err(message) => self.diagnostics.error(word.at, message),
                }
            }
            "USAGE" => {
                self.take("IS");
                let found = self.peek();
                if let Some(usage) = found.and_then(Token::word).and_then(usage) {
                    let at = found.map_or(at, |token| token.at);
                    self.at += 1;
                    self.usage(entry, usage, at);
                } else if self.take("OBJECT") {
                    self.take("REFERENCE");
                    while self
                        .peek()
                        .is_some_and(|it| it.kind != Kind::Period && !begins_clause(it))
                    {
                        self.at += 1;
                    }
                    self.usage(entry, Usage::Pointer, at);
                } else {
                    return Err(self.expected(
                        "a usage (DISPLAY, COMP, COMP-1 to COMP-6, COMP-X, BINARY-LONG, PACKED-DECIMAL, INDEX, ...)",
                    ));
                }
            }
            "SIGN" | "LEADING" | "TRAILING" => {
                if upper == "SIGN" {
                    self.take("IS");
                    if !self.peek_is("LEADING") && !self.peek_is("TRAILING") {
                        return Err(self.expected("LEADING or TRAILING"));
                    }
                } else {
                    self.at -= 1;
                }
                let leading = self.take("LEADING") || !self.take("TRAILING");
                let separate = self.take("SEPARATE");
                self.take("CHARACTER");
                entry.sign = Some(SignClause { leading, separate });
            }
            "OCCURS" => {
                let clause = self.occurs()?;
                entry.occurs = Some((clause, at));
            }
            "REDEFINES" => {
                let Some((word, name)) = self.peek().and_then(|it| Some((it, it.word()?))) else {
                    return Err(self.expected("the name of the item that is redefined"));
                };
                self.at += 1;
                entry.redefines = Some((name.to_owned(), word.at));
            }
            "RENAMES" => {
                let first = self.qualified("the name of the item that is renamed")?;
                let last = match self.take_any(&["THRU", "THROUGH"]) {
                    true => Some(self.qualified("the name of the last item")?),
                    false => None,
                };
                entry.renames = Some((first, last));
            }
            "SYNC" | "SYNCHRONIZED" => {
                self.take_any(&["LEFT", "RIGHT"]);
                entry.sync = true;
            }
            "JUST" | "JUSTIFIED" => {
                self.take_any(&["RIGHT", "LEFT"]);
                entry.justified = Some(at);
            }
            "BLANK" => {
                self.take("WHEN");
                if !self.take_any(&["ZERO", "ZEROS", "ZEROES"]) {
                    return Err(self.expected("ZERO"));
                }
                entry.blank_when_zero = Some(at);
            }
            "VALUE" | "VALUES" => self.values(entry)?,
            "IS" => {
                // IS GLOBAL, IS EXTERNAL; the clause itself comes next.
            }
            "GLOBAL" | "EXTERNAL" | "VOLATILE" | "BASED" => {
                if self.take("AS") {
                    self.at += 1;
                }
            }
            "GROUP-USAGE" => {
                self.take("IS");
                if !self.take("NATIONAL") {
                    return Err(self.expected("NATIONAL"));
                }
                self.usage(entry, Usage::National, at);
            }
            "DATE" => {
                self.take("FORMAT");
                self.take("IS");
                self.diagnostics.warning(
                    at,
                    "DATE FORMAT has no effect here; a date is declared in the configuration",
                );
                self.at += 1;
            }
            "CONSTANT" => {
                self.take("IS");
                self.take("GLOBAL");
                self.take("AS");
                let value = self.literal()?;
                entry.values.push((value, None));
                // Marked, to be kept as a constant.
                entry.level = 0;
            }
            "ANY" | "TYPE" | "TYPEDEF" | "SAME" | "DYNAMIC" => {
                self.diagnostics.error(
                    at,
                    format!("{upper} isn't understood: the length of such an item isn't in its description"),
                );
                return Err(Failed);
            }
            _ => {
                self.at -= 1;
                return Err(
                    self.expected("a clause (PICTURE, USAGE, OCCURS, VALUE, ...) or a period")
                );
            }
        }
        Ok(())
    }

    fn usage(&mut self, entry: &mut Entry, mut usage: Usage, at: Pos) {
        if let Usage::Sized(bytes, _) = usage {
            if self.take("UNSIGNED") {
                usage = Usage::Sized(bytes, false);
            } else {
                self.take("SIGNED");
            }
        }
        // PACKED-DECIMAL WITH NO SIGN
        let begin = self.at;
        if usage == Usage::Packed {
            self.take("WITH");
            if self.take("NO") && self.take("SIGN") {
                usage = Usage::PackedNoSign;
            } else {
                self.at = begin;
            }
        }
        if entry.usage.is_some_and(|(before, _)| before != usage) {
            self.diagnostics
                .error(at, "this is the second USAGE of one item");
        }
        entry.usage = Some((usage, at));
    }

    /// A whole number, or the name of a constant that is one.
    fn number(&mut self, what: &str) -> Result<u32, Failed> {
        let word = self.peek().and_then(Token::word);
        let number = word.and_then(
            |word| match self.constants.get(&word.to_ascii_uppercase()) {
                Some(Literal::Number(number)) => number.parse::<u32>().ok(),
                Some(_) => None,
                None => word.parse::<u32>().ok(),
            },
        );
        match number {
            Some(number) => {
                self.at += 1;
                Ok(number)
            }
            None => Err(self.expected(what)),
        }
    }

    fn occurs(&mut self) -> Result<OccursClause, Failed> {
        let at = self.here();
        let first = self.number("how often the item occurs")?;
        let mut last = first;
        if self.take("TO") {
            if self.peek_is("UNBOUNDED") {
                self.diagnostics.error_help(
                    self.here(),
                    "a table without a bound isn't understood",
                    "write the most occurrences that there are",
                );
                return Err(Failed);
            }
            last = self.number("the most times that the item occurs")?;
        }
        self.take("TIMES");
        let mut depending_on = None;
        loop {
            if self.take("DEPENDING") {
                self.take("ON");
                depending_on = Some(self.qualified("the name of the item that it depends on")?);
            } else if self.take_any(&["ASCENDING", "DESCENDING"]) {
                self.take("KEY");
                self.take("IS");
                self.names();
            } else if self.take("INDEXED") {
                self.take("BY");
                self.names();
            } else {
                break;
            }
        }
        let min = match (&depending_on, first == last) {
            // OCCURS 5 DEPENDING ON means 1 to 5.
            (Some(_), true) => first.min(1),
            (Some(_), false) => first,
            (None, true) => first,
            (None, false) => {
                self.diagnostics.error(
                    at,
                    format!("expected DEPENDING ON for a table of {first} to {last} occurrences"),
                );
                return Err(Failed);
            }
        };
        if last == 0 || min > last {
            self.diagnostics
                .error(at, format!("an item can't occur {min} to {last} times"));
            return Err(Failed);
        }
        Ok(OccursClause {
            min,
            max: last,
            depending_on,
        })
    }

    /// Names of keys and indexes, of which nothing depends here.
    fn names(&mut self) {
        while let Some(word) = self.peek() {
            let name = word
                .word()
                .is_some_and(|text| text.starts_with(|c: char| c.is_ascii_alphanumeric()));
            let clause = begins_clause(word)
                || ["ASCENDING", "DESCENDING"]
                    .iter()
                    .any(|other| word.is(other));
            if !name || clause || self.begins_entry() {
                return;
            }
            self.at += 1;
        }
    }

    /// A name, maybe with OF and the names of groups.
    fn qualified(&mut self, what: &str) -> Result<String, Failed> {
        let Some(word) = self.peek().and_then(Token::word) else {
            return Err(self.expected(what));
        };
        let mut name = word.to_owned();
        self.at += 1;
        while self.peek_is("OF") || self.peek_is("IN") {
            self.at += 1;
            match self.peek().and_then(Token::word) {
                Some(group) => {
                    name.push_str(" OF ");
                    name.push_str(group);
                    self.at += 1;
                }
                None => return Err(self.expected("the name of a group")),
            }
        }
        Ok(name)
    }

    fn values(&mut self, entry: &mut Entry) -> Result<(), Failed> {
        self.take_any(&["IS", "ARE"]);
        loop {
            let value = self.literal()?;
            let through = match self.take_any(&["THRU", "THROUGH"]) {
                true => Some(self.literal()?),
                false => None,
            };
            entry.values.push((value, through));
            // More of them may follow, but a number may also be the level of the next entry.
            let Some(word) = self.peek() else { break };
            if self.begins_entry() || word.kind == Kind::Period || begins_clause(word) {
                break;
            }
            // WHEN SET TO FALSE IS
            if self.take("WHEN") || self.peek_is("FALSE") {
                self.take("SET");
                self.take("TO");
                self.take("FALSE");
                self.take("IS");
                self.literal()?;
                break;
            }
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<Literal, Failed> {
        let mut all = false;
        while self.take("ALL") {
            all = true;
        }
        let Some(token) = self.peek() else {
            return Err(self.expected("a value"));
        };
        let mut literal = match &token.kind {
            Kind::Literal(text, prefix) => match prefix.as_str() {
                "X" | "H" => match hex(text) {
                    Some(bytes) => Literal::Bytes(bytes),
                    None => return Err(self.expected("an even number of hexadecimal digits")),
                },
                _ => Literal::Text(text.clone()),
            },
            Kind::Word(word) => {
                let upper = word.to_ascii_uppercase();
                let figurative = match upper.as_str() {
                    "SPACE" | "SPACES" => Some("SPACES"),
                    "ZERO" | "ZEROS" | "ZEROES" => Some("ZEROS"),
                    "HIGH-VALUE" | "HIGH-VALUES" => Some("HIGH-VALUES"),
                    "LOW-VALUE" | "LOW-VALUES" => Some("LOW-VALUES"),
                    "QUOTE" | "QUOTES" => Some("QUOTES"),
                    "NULL" | "NULLS" => Some("NULLS"),
                    _ => None,
                };
                if let Some(figurative) = figurative {
                    Literal::Figurative(figurative)
                } else if is_number(word) {
                    Literal::Number(word.clone())
                } else if let Some(constant) = self.constants.get(&upper) {
                    constant.clone()
                } else {
                    return Err(self.expected("a value (a literal, a number, SPACES, ...)"));
                }
            }
            _ => return Err(self.expected("a value (a literal, a number, SPACES, ...)")),
        };
        self.at += 1;
        // Literals joined with &.
        while self.take("&") {
            match (&mut literal, self.peek().map(|token| &token.kind)) {
                (Literal::Text(text), Some(Kind::Literal(more, _))) => text.push_str(more),
                _ => return Err(self.expected("a literal behind &")),
            }
            self.at += 1;
        }
        if let (true, Literal::Text(text)) = (all, &literal) {
            return Ok(Literal::All(text.clone()));
        }
        Ok(literal)
    }

    /// Keeps a constant; it is no item.
    fn constant(&mut self, entry: Entry) -> Option<Entry> {
        match (entry.name, entry.values.into_iter().next()) {
            (Some(name), Some((value, _))) => {
                self.constants.insert(name.to_ascii_uppercase(), value);
            }
            _ => self
                .diagnostics
                .error(entry.at, "expected a name and a value of a constant"),
        }
        None
    }
}

fn is_number(word: &str) -> bool {
    let digits = word.trim_start_matches(['+', '-']);
    digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b".,eE+-".contains(&byte))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|char| char.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
