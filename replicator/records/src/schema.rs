//! What is in a record: the one model that copybooks and field lists are read into, and that everything which speaks
//! of columns is made from.
//!
//! A [`RecordSchema`] is a tree of [`Item`]s as a COBOL program sees them: groups, fields, tables, redefinitions. Where
//! each lies is worked out once, in [`RecordSchema::build`]; what comes behind a table of variable length lies
//! elsewhere in each record, and [`RecordSchema::walk`] says where.
//!
//! For databases and messages the tree is made flat: [`RecordSchema::columns`] are the columns of a record's row,
//! [`RecordSchema::tables`] the tables (OCCURS) whose occurrences are rows of their own. Names, order and
//! [`RecordSchema::schema_id`] depend on the schema alone.
//!
//! A record is read in one of two ways. Of a schema without variable tables every column has its place
//! ([`Column::offset`]). Of any schema `walk` goes through one record and tells the place of each value, and its column.
//!
//! No function here reads a record; the types of fields are only described ([`FieldType`]).

mod columns;
mod dialect;
mod field;
mod layout;
mod list;
mod notation;
mod rows;
mod walk;

pub use columns::{COLUMNS_MAX, ChoiceOf, Column, NAME_BYTES_MAX, Table};
pub use dialect::{BinarySizes, Dialect, DialectError, Family, NationalForm};
pub use field::{
    BinaryRange, CodePage, DIGITS_MAX, DateFormat, DateKind, DatePart, Decimal, Endian, FieldType,
    FloatFormat, NationalEncoding, ZonedSign, Zones,
};
pub use layout::{DEPTH_MAX, ITEMS_MAX, SchemaError};
pub use list::{DependingSpec, FieldSpec, ItemSpec, OccursSpec, WhenSpec};
pub use rows::{ROW_PREFIX_BYTES, row_record};
pub use walk::{Occurrence, Placed, WalkError};

use std::sync::Arc;

/// What is in a file's records.
#[derive(Clone, Debug)]
pub struct RecordSchema {
    name: String,
    dialect: Dialect,
    root: Item,
    renames: Vec<Rename>,
    /// Fields that a DEPENDING ON counts with.
    counters: Vec<ItemId>,
    tables: Vec<Table>,
    schema_id: String,
}

/// Identity of an item in its schema: its place in the order of the source, from 0 (the record itself).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u32);

/// A group or a field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its identity; those of what is in a group come behind the group's, without gaps. Set by [`RecordSchema::build`].
    pub id: ItemId,
    /// Its name as written; `None` of a FILLER and of what has no name.
    pub name: Option<String>,
    /// Its level number, 1 to 49, or 77; in a field list, how deep it is.
    pub level: u8,
    /// The table it is, if it occurs several times.
    pub occurs: Option<Occurs>,
    /// The item before it whose bytes it describes in another way.
    pub redefines: Option<ItemRef>,
    /// In which records it is what the bytes hold, if it is one of several ways to see them.
    pub when: Option<Choice>,
    /// What is in it.
    pub content: Content,
    /// SYNCHRONIZED was asked for, and the boundary this takes, in bytes (1: none).
    pub align: u32,
    /// Condition names (level 88), in order.
    pub conditions: Vec<Condition>,
    /// VALUE, as written.
    pub value: Option<Literal>,
    /// Where it was written.
    pub place: SourcePlace,

    /// Where its first occurrence begins in the record, in bytes; `None` behind a table of variable length. This and
    /// what follows is set by [`RecordSchema::build`].
    pub offset: Option<u32>,
    /// Where its first occurrence begins in an occurrence of the group it is in; `None` behind a table of variable
    /// length there.
    pub offset_in_group: Option<u32>,
    /// Where its first occurrence begins when all tables before it are at their longest.
    pub offset_max: u32,
    /// Bytes of one occurrence, with the tables in it at their longest, and padding at its end.
    pub len: u32,
    /// Bytes of one occurrence with the tables in it at their shortest; `len` if it has one length.
    pub len_min: u32,
    /// Slack bytes before it (SYNCHRONIZED). They are in no item.
    pub slack: u32,
    /// Slack bytes at the end of each occurrence; they are in `len`.
    pub padding: u32,
    /// Another item describes its bytes in another way, or it does so itself.
    pub is_variant: bool,
}

/// What is in an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Items; at least one.
    Group(Vec<Item>),
    /// A value.
    Field(FieldType),
}

/// How often an item occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurs {
    /// The fewest; equal to `max` without DEPENDING ON.
    pub min: u32,
    /// The most, at least 1.
    pub max: u32,
    /// The item, before this one in the record, that holds how many there are.
    pub depending_on: Option<ItemRef>,
}

/// Another item of the same schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRef {
    /// Its name as written, qualified with ` OF ` where that was needed.
    pub name: String,
    /// Which it is. [`RecordSchema::build`] finds it by the name.
    pub id: ItemId,
}

/// In which records a redefinition is what its bytes hold: where a field has one of some values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The field, before the item in the record or in it.
    pub field: ItemRef,
    /// Values, as text: of text without trailing spaces, of numbers in plain decimal notation.
    pub values: Vec<String>,
}

/// A condition name (level 88): a name for some values of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its name as written.
    pub name: String,
    /// Values, or ranges from a value to another one (inclusive).
    pub values: Vec<(Literal, Option<Literal>)>,
}

/// A constant as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// Text, without its quotes.
    Text(String),
    /// A number as written.
    Number(String),
    /// Bytes (`X"0D0A"`).
    Bytes(Vec<u8>),
    /// SPACES, ZEROS, HIGH-VALUES and the like, upper case, in the plural.
    Figurative(&'static str),
    /// `ALL` and a text that is repeated.
    All(String),
}

/// RENAMES (level 66): another name for the bytes from one item to another. It has no columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Its name as written.
    pub name: String,
    /// The item it begins with.
    pub first: ItemRef,
    /// The item it ends with; the first if there is no THROUGH.
    pub last: ItemRef,
    /// Where it was written.
    pub place: SourcePlace,
}

/// A line in a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePlace {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line, from 1; 0 if none is known.
    pub line: u32,
}

impl SourcePlace {
    /// A place that isn't known.
    pub fn unknown() -> SourcePlace {
        SourcePlace {
            file: Arc::from(""),
            line: 0,
        }
    }
}

impl ItemRef {
    /// A reference by name, which [`RecordSchema::build`] looks up.
    pub fn named(name: impl Into<String>) -> ItemRef {
        ItemRef {
            name: name.into(),
            id: ItemId::default(),
        }
    }
}

impl Item {
    fn new(level: u8, name: Option<String>, content: Content) -> Item {
        Item {
            id: ItemId::default(),
            name,
            level,
            occurs: None,
            redefines: None,
            when: None,
            content,
            align: 1,
            conditions: Vec::new(),
            value: None,
            place: SourcePlace::unknown(),
            offset: None,
            offset_in_group: None,
            offset_max: 0,
            len: 0,
            len_min: 0,
            slack: 0,
            padding: 0,
            is_variant: false,
        }
    }

    /// A group, to be put into a schema.
    pub fn group(level: u8, name: Option<String>, items: Vec<Item>) -> Item {
        Item::new(level, name, Content::Group(items))
    }

    /// A field, to be put into a schema.
    pub fn field(level: u8, name: Option<String>, field: FieldType) -> Item {
        Item::new(level, name, Content::Field(field))
    }

    /// What is in it: nothing of a field.
    pub fn items(&self) -> &[Item] {
        match &self.content {
            Content::Group(items) => items,
            Content::Field(_) => &[],
        }
    }

    /// Its type, if it is a field.
    pub fn field_type(&self) -> Option<&FieldType> {
        match &self.content {
            Content::Group(_) => None,
            Content::Field(field) => Some(field),
        }
    }

    /// Its name, or `FILLER`.
    pub fn name_or_filler(&self) -> &str {
        self.name.as_deref().unwrap_or("FILLER")
    }

    /// The most bytes that all its occurrences take together.
    pub fn len_occurrences(&self) -> u32 {
        self.len
            .saturating_mul(self.occurs.as_ref().map_or(1, |occurs| occurs.max))
    }

    /// Goes through it and everything in it, in the order of the source.
    pub fn visit<'i>(&'i self, visit: &mut dyn FnMut(&'i Item)) {
        visit(self);
        for item in self.items() {
            item.visit(visit);
        }
    }
}

impl RecordSchema {
    /// The record's name as written.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was assumed of the compiler.
    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// The record itself (level 01): a group, or a single field.
    pub fn root(&self) -> &Item {
        &self.root
    }

    /// The item with this identity.
    pub fn item(&self, id: ItemId) -> Option<&Item> {
        let mut item = &self.root;
        while item.id != id {
            item = item.items().iter().rev().find(|child| child.id <= id)?;
        }
        Some(item)
    }

    /// RENAMES items (level 66).
    pub fn renames(&self) -> &[Rename] {
        &self.renames
    }

    /// Length of the longest record, in bytes.
    pub fn len_max(&self) -> u32 {
        self.root.len
    }

    /// Length of the shortest record, in bytes.
    pub fn len_min(&self) -> u32 {
        self.root.len_min
    }

    /// Whether everything in the record has one place: there is no OCCURS DEPENDING ON with something behind it that
    /// slides, and no row of another table.
    pub fn is_fixed(&self) -> bool {
        self.tables.len() == 1
            && self.tables[0]
                .columns
                .iter()
                .all(|column| column.offset.is_some())
    }

    /// The columns of a record's row, in the order of the record.
    pub fn columns(&self) -> &[Column] {
        &self.tables[0].columns
    }

    /// All tables: first the record's own row (the columns are [`RecordSchema::columns`]), then those of items that
    /// occur so often, or so variably, that each occurrence is a row. A table comes behind the one it is in.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Identity of the columns: 32 hexadecimal digits that change exactly when a column or table does (name, order,
    /// type, place), and stay the same through all versions otherwise.
    pub fn schema_id(&self) -> &str {
        &self.schema_id
    }
}

#[cfg(test)]
mod tests;
