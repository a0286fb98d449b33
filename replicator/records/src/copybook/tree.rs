//! From data descriptions to records: the tree that level numbers make, and the types that PICTURE, USAGE and SIGN make
//! together.

use super::diagnostic::{Diagnostics, Sources};
use super::entries::{Entry, SignClause, Usage};
use super::picture::{Picture, PictureKind};
use super::tokens::Pos;
use crate::schema::{
    BinaryRange, BinarySizes, Condition, Decimal, Dialect, FieldType, Item, ItemRef,
    NationalEncoding, NationalForm, Occurs, RecordSchema, Rename, SourcePlace, ZonedSign,
};
use std::sync::Arc;

/// Makes the records of the data descriptions. `default_name` is that of a record without level 01.
pub(super) fn build(
    entries: &[Entry],
    dialect: &Dialect,
    default_name: &str,
    sources: &Sources,
    diagnostics: &mut Diagnostics,
) -> Vec<RecordSchema> {
    let mut tree = Tree {
        entries,
        at: 0,
        dialect,
        sources,
        diagnostics,
        renames: Vec::new(),
    };
    let mut records = Vec::new();
    // Items that no record is around.
    let mut loose: Vec<Item> = Vec::new();
    let mut loose_renames = Vec::new();
    while let Some(entry) = entries.get(tree.at) {
        let begin = entry.at;
        match entry.level {
            1 | 77 => {
                let mut item = tree.item(Inherited::default());
                // Records of a file that redefine each other are records of their own.
                item.redefines = None;
                let renames = tree.renames();
                records.push((item, renames, begin));
            }
            66 | 88 => {
                if entry.level == 66 && !loose.is_empty() {
                    loose_renames.extend(tree.renames());
                    continue;
                }
                let what = if entry.level == 66 { "record" } else { "item" };
                tree.diagnostics.error(
                    begin,
                    format!("level {} has to stand behind an {what}", entry.level),
                );
                tree.at += 1;
            }
            _ => loose.push(tree.item(Inherited::default())),
        }
    }
    if !loose.is_empty() {
        let begin = entries.first().map_or_else(Pos::default, |entry| entry.at);
        let single = match records.is_empty() {
            // One group is the record itself, unless it occurs more than once.
            true => loose.len() == 1 && loose[0].occurs.is_none() && !loose[0].items().is_empty(),
            false => {
                tree.diagnostics.error(
                    begin,
                    "these items stand before the first record: expected level 01",
                );
                return Vec::new();
            }
        };
        let record = match single {
            true => loose.remove(0),
            false => {
                let mut root = Item::group(1, Some(default_name.to_owned()), loose);
                root.place = tree.place(begin);
                root
            }
        };
        records.push((record, loose_renames, begin));
    }
    if tree.diagnostics.has_errors() {
        return Vec::new();
    }
    let mut schemas = Vec::new();
    for (root, renames, begin) in records {
        match RecordSchema::build(root, renames, dialect.clone()) {
            Ok(schema) => {
                note_longer(&schema, entries, sources, diagnostics);
                schemas.push(schema);
            }
            Err(error) => {
                let at = entry_at(entries, sources, &error.place).unwrap_or(begin);
                diagnostics.error(at, error.message);
            }
        }
    }
    schemas
}

/// What a group hands down to what is in it.
#[derive(Clone, Copy, Debug, Default)]
struct Inherited {
    usage: Option<Usage>,
    sign: Option<SignClause>,
    sync: bool,
}

struct Tree<'a> {
    entries: &'a [Entry],
    at: usize,
    dialect: &'a Dialect,
    sources: &'a Sources,
    diagnostics: &'a mut Diagnostics,
    /// RENAMES of the record that is being read.
    renames: Vec<Rename>,
}

impl Tree<'_> {
    fn place(&self, at: Pos) -> SourcePlace {
        place(self.sources, at)
    }

    /// The item that begins at `at`, with all that is in it. Level numbers grow on the way in, so it goes 49 deep at most.
    fn item(&mut self, inherited: Inherited) -> Item {
        let entry = &self.entries[self.at];
        self.at += 1;
        let own = Inherited {
            usage: entry.usage.map(|(usage, _)| usage).or(inherited.usage),
            sign: entry.sign.or(inherited.sign),
            sync: entry.sync || inherited.sync,
        };
        let mut conditions = Vec::new();
        let mut items: Vec<Item> = Vec::new();
        while let Some(next) = self.entries.get(self.at) {
            match next.level {
                88 => {
                    self.at += 1;
                    match &next.name {
                        Some(name) if !next.values.is_empty() => conditions.push(Condition {
                            name: name.clone(),
                            values: next.values.clone(),
                        }),
                        _ => self
                            .diagnostics
                            .error(next.at, "expected a name and VALUE behind level 88"),
                    }
                }
                66 if entry.level == 1 => {
                    let renames = self.renames();
                    self.renames.extend(renames);
                }
                66 | 77 => break,
                level if level > entry.level && entry.level != 77 => {
                    if let Some(first) = items.first()
                        && first.level != level
                    {
                        self.diagnostics.warning(
                            next.at,
                            format!(
                                "level {level:02} stands among items of level {:02}, and is taken as one of them",
                                first.level
                            ),
                        );
                    }
                    let item = self.item(own);
                    items.push(item);
                }
                _ => break,
            }
        }
        let name = entry.name.clone();
        let mut item = if items.is_empty() {
            let field = self.field(entry, own);
            let align = match own.sync {
                true => boundary(&field, own.usage, self.dialect),
                false => 1,
            };
            let mut item = Item::field(entry.level, name, field);
            item.align = align;
            item
        } else {
            self.check_group(entry);
            Item::group(entry.level, name, items)
        };
        item.conditions = conditions;
        item.place = self.place(entry.at);
        item.value = entry.values.first().map(|(value, _)| value.clone());
        if let Some((clause, _)) = &entry.occurs {
            item.occurs = Some(Occurs {
                min: clause.min,
                max: clause.max,
                depending_on: clause.depending_on.clone().map(ItemRef::named),
            });
        }
        item.redefines = entry
            .redefines
            .as_ref()
            .map(|(name, _)| ItemRef::named(name.clone()));
        item
    }

    /// RENAMES entries that come next, and those found within the record.
    fn renames(&mut self) -> Vec<Rename> {
        let mut found = std::mem::take(&mut self.renames);
        while let Some(entry) = self.entries.get(self.at)
            && entry.level == 66
        {
            self.at += 1;
            match (&entry.name, &entry.renames) {
                (Some(name), Some((first, last))) => found.push(Rename {
                    name: name.clone(),
                    first: ItemRef::named(first.clone()),
                    last: ItemRef::named(last.as_ref().unwrap_or(first).clone()),
                    place: self.place(entry.at),
                }),
                _ => self
                    .diagnostics
                    .error(entry.at, "expected a name and RENAMES behind level 66"),
            }
            // Condition names of it have no effect.
            while self
                .entries
                .get(self.at)
                .is_some_and(|entry| entry.level == 88)
            {
                self.at += 1;
            }
        }
        found
    }

    fn check_group(&mut self, entry: &Entry) {
        let name = entry.name.as_deref().unwrap_or("FILLER");
        if let Some((_, at)) = &entry.picture {
            self.diagnostics.error(
                *at,
                format!("{name} has a PICTURE, and items in it: it can have only one of both"),
            );
        }
        if let Some(at) = entry.justified {
            self.diagnostics
                .warning(at, format!("JUSTIFIED has no effect on the group {name}"));
        }
    }

    /// The type of a field.
    fn field(&mut self, entry: &Entry, own: Inherited) -> FieldType {
        let name = entry.name.as_deref().unwrap_or("FILLER");
        match self.typed(entry, own, name) {
            Ok(field) => {
                if let Some(at) = entry.justified
                    && !matches!(field, FieldType::Text { .. } | FieldType::National { .. })
                {
                    self.diagnostics.warning(
                        at,
                        format!("JUSTIFIED has no effect on {name}, which isn't text"),
                    );
                }
                if let Some(at) = entry.blank_when_zero
                    && !matches!(field, FieldType::Zoned { .. } | FieldType::Edited { .. })
                {
                    self.diagnostics.warning(
                        at,
                        format!(
                            "BLANK WHEN ZERO has no effect on {name}, which isn't a DISPLAY number"
                        ),
                    );
                }
                field
            }
            Err((at, message)) => {
                self.diagnostics.error(at, message);
                FieldType::Raw { len: 1 }
            }
        }
    }

    fn typed(
        &mut self,
        entry: &Entry,
        own: Inherited,
        name: &str,
    ) -> Result<FieldType, (Pos, String)> {
        let dialect = self.dialect;
        let usage = own.usage.unwrap_or(Usage::Display);
        let usage_at = entry.usage.map_or(entry.at, |(_, at)| at);
        let full = |bytes, signed| FieldType::full_binary(bytes, signed, dialect.native_endian);
        let float = |bytes| FieldType::Float {
            bytes,
            format: dialect.float,
            endian: dialect.native_endian,
        };
        let alone = match usage {
            Usage::Float4 => Some(float(4)),
            Usage::Float8 => Some(float(8)),
            Usage::Sized(bytes, signed) => Some(full(bytes, signed)),
            Usage::Index => Some(full(4, true)),
            Usage::Pointer => Some(FieldType::Raw {
                len: dialect.pointer_bytes,
            }),
            Usage::Opaque(len) => {
                self.diagnostics.warning(
                    usage_at,
                    format!("{name} is kept as bytes: what this usage holds isn't understood"),
                );
                Some(FieldType::Raw { len })
            }
            _ => None,
        };
        let Some((picture, at)) = &entry.picture else {
            return alone.ok_or_else(|| {
                (
                    entry.at,
                    format!("{name} has neither a PICTURE nor items in it: expected one of both"),
                )
            });
        };
        let at = *at;
        if let Some(field) = alone {
            self.diagnostics.warning(
                at,
                format!("the PICTURE of {name} has no effect: its USAGE takes none"),
            );
            return Ok(field);
        }
        let is_number = matches!(picture.kind, PictureKind::Number { .. });
        let by_usage = matches!(
            usage,
            Usage::Binary | Usage::Native | Usage::Packed | Usage::PackedNoSign
        );
        if by_usage && !is_number {
            return Err((
                at,
                format!("{name} is to be a number by its USAGE, but its PICTURE describes none"),
            ));
        }
        match picture.kind {
            PictureKind::Number { number, signed } => {
                self.number(entry, own, picture, number, signed, usage)
            }
            PictureKind::Text if matches!(usage, Usage::CompX | Usage::CompN) => {
                if picture.chars > 16 {
                    return Err((
                        at,
                        format!(
                            "{name} is a binary number of {} bytes; there are at most 16",
                            picture.chars
                        ),
                    ));
                }
                let mut field = full(picture.chars, false);
                if let (Usage::CompX, FieldType::Binary { endian, .. }) = (usage, &mut field) {
                    *endian = dialect.binary_endian;
                }
                Ok(field)
            }
            PictureKind::Text if usage == Usage::National => {
                Ok(self.national(picture.chars, entry))
            }
            PictureKind::Text => Ok(FieldType::Text {
                len: picture.chars,
                code_page: dialect.code_page,
                right: entry.justified.is_some(),
            }),
            PictureKind::National if usage == Usage::Dbcs => Ok(dbcs(picture.chars)),
            PictureKind::National => Ok(self.national(picture.chars, entry)),
            PictureKind::Dbcs => Ok(dbcs(picture.chars)),
            PictureKind::TextEdited | PictureKind::NumberEdited => {
                if usage == Usage::National {
                    return Ok(self.national(picture.chars, entry));
                }
                Ok(FieldType::Edited {
                    picture: picture.symbols.clone(),
                    len: picture.chars,
                    code_page: dialect.code_page,
                    blank_when_zero: entry.blank_when_zero.is_some(),
                })
            }
        }
    }

    fn national(&self, chars: u32, entry: &Entry) -> FieldType {
        let encoding = match self.dialect.national {
            NationalForm::Utf16Be => NationalEncoding::Utf16Be,
            NationalForm::Utf16Le => NationalEncoding::Utf16Le,
            NationalForm::Text => {
                return FieldType::Text {
                    len: chars.saturating_mul(2),
                    code_page: self.dialect.code_page,
                    right: entry.justified.is_some(),
                };
            }
        };
        FieldType::National { chars, encoding }
    }

    fn number(
        &mut self,
        entry: &Entry,
        own: Inherited,
        picture: &Picture,
        number: Decimal,
        signed: bool,
        usage: Usage,
    ) -> Result<FieldType, (Pos, String)> {
        let dialect = self.dialect;
        let (endian, range) = match usage {
            Usage::Native => (dialect.native_endian, BinaryRange::Full),
            Usage::CompN => (dialect.native_endian, BinaryRange::Full),
            Usage::CompX => (dialect.binary_endian, BinaryRange::Full),
            _ if dialect.truncated => (dialect.binary_endian, BinaryRange::Picture),
            _ => (dialect.binary_endian, BinaryRange::Full),
        };
        Ok(match usage {
            Usage::Binary | Usage::Native | Usage::CompX | Usage::CompN => {
                let sizes = match usage {
                    Usage::CompX | Usage::CompN => BinarySizes::Fewest,
                    _ => dialect.binary_sizes,
                };
                FieldType::Binary {
                    bytes: binary_bytes(number.digits, signed, sizes),
                    number,
                    signed,
                    endian,
                    range,
                }
            }
            Usage::Packed => FieldType::Packed {
                number,
                signed,
                sign_nibble: true,
            },
            Usage::PackedNoSign => FieldType::Packed {
                number,
                signed: false,
                sign_nibble: false,
            },
            Usage::National => {
                if let Some((_, at)) = entry.usage.filter(|_| signed) {
                    self.diagnostics
                        .warning(at, "a national number with a sign is kept as text");
                }
                self.national(picture.chars, entry)
            }
            _ => FieldType::Zoned {
                number,
                sign: match (signed, own.sign) {
                    (false, _) => ZonedSign::Unsigned,
                    (true, None) => ZonedSign::Trailing,
                    (true, Some(sign)) => match (sign.leading, sign.separate) {
                        (false, false) => ZonedSign::Trailing,
                        (true, false) => ZonedSign::Leading,
                        (false, true) => ZonedSign::TrailingSeparate,
                        (true, true) => ZonedSign::LeadingSeparate,
                    },
                },
                zones: dialect.zones,
                blank_when_zero: entry.blank_when_zero.is_some(),
            },
        })
    }
}

fn dbcs(chars: u32) -> FieldType {
    FieldType::National {
        chars,
        encoding: NationalEncoding::Dbcs,
    }
}

/// The boundary that SYNCHRONIZED moves a field to.
fn boundary(field: &FieldType, usage: Option<Usage>, dialect: &Dialect) -> u32 {
    match (field, usage) {
        (FieldType::Binary { bytes: 8, .. }, _) if dialect.sync_word => 4,
        (FieldType::Binary { bytes, .. } | FieldType::Float { bytes, .. }, _) => match bytes {
            2 | 4 | 8 => *bytes,
            _ => 1,
        },
        (_, Some(Usage::Pointer)) => dialect.pointer_bytes,
        _ => 1,
    }
}

/// How many bytes a binary item of so many digits takes.
fn binary_bytes(digits: u16, signed: bool, sizes: BinarySizes) -> u32 {
    match (sizes, digits) {
        (BinarySizes::OneTwoFourEight, ..=2) => 1,
        (BinarySizes::OneTwoFourEight | BinarySizes::TwoFourEight, ..=4) => 2,
        (BinarySizes::OneTwoFourEight | BinarySizes::TwoFourEight, ..=9) => 4,
        (BinarySizes::OneTwoFourEight | BinarySizes::TwoFourEight, ..=18) => 8,
        (BinarySizes::OneTwoFourEight | BinarySizes::TwoFourEight, _) => 16,
        (BinarySizes::Fewest, digits) => fewest_bytes(digits, signed),
    }
}

/// The fewest bytes that hold every number of so many digits.
fn fewest_bytes(digits: u16, signed: bool) -> u32 {
    // The largest of them; 38 digits are less than 2^127.
    let largest = 10u128
        .checked_pow(digits.into())
        .map_or(u128::MAX, |power| power - 1);
    let bits = 128 - largest.leading_zeros() + u32::from(signed);
    bits.div_ceil(8).min(16)
}

fn place(sources: &Sources, at: Pos) -> SourcePlace {
    SourcePlace {
        file: sources
            .get(at.file)
            .map_or_else(|| Arc::from(""), |text| text.name.clone()),
        line: at.line,
    }
}

/// The description that an item was made from.
fn entry_at(entries: &[Entry], sources: &Sources, wanted: &SourcePlace) -> Option<Pos> {
    entries
        .iter()
        .map(|entry| entry.at)
        .find(|at| place(sources, *at) == *wanted)
}

/// Warns of redefinitions that are longer than what they redefine.
fn note_longer(
    schema: &RecordSchema,
    entries: &[Entry],
    sources: &Sources,
    diagnostics: &mut Diagnostics,
) {
    schema.root().visit(&mut |item| {
        let Some(target) = item.redefines.as_ref().and_then(|it| schema.item(it.id)) else {
            return;
        };
        if item.len_occurrences() > target.len_occurrences()
            && let Some(at) = entry_at(entries, sources, &item.place)
        {
            diagnostics.warning(
                at,
                format!(
                    "{} takes {} bytes, more than the {} of {}, which it redefines; what follows begins behind the longer",
                    item.name_or_filler(),
                    item.len_occurrences(),
                    target.len_occurrences(),
                    target.name_or_filler()
                ),
            );
        }
    });
}
