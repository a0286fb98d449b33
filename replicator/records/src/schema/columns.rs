//! The flat form of a schema: columns and tables, with names that every database and protobuf take.

use super::{Absent, Content, FieldType, Item, ItemId, SchemaError, Test};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use twox_hash::XxHash3_128;

/// How many columns a row may have: what PostgreSQL takes, with room for a sink's own.
pub const COLUMNS_MAX: usize = 1500;

/// How long a column's name may be in bytes: the shortest of the limits of the databases that are targets.
pub const NAME_BYTES_MAX: usize = 63;

/// An OCCURS that would become more columns than this becomes a table.
const FLATTENED_MAX: usize = 250;

/// Names that sinks use for columns of their own.
const RESERVED: &[&str] = &[
    "record_number",
    "slot_number",
    "address",
    "block_number",
    "file_id",
    "data",
    "rest",
    "ordinal",
];

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// Its name: `a-z`, `0-9` and `_`, not beginning with a digit, at most [`NAME_BYTES_MAX`] bytes; unique in its table.
    pub name: String,
    /// The name of its item as written.
    pub cobol_name: String,
    /// Names as written of the groups it is in, the outermost first; not the record's own, and none of FILLERs.
    pub groups: Vec<String>,
    /// The field it is.
    pub item: ItemId,
    /// Its type.
    pub field: FieldType,
    /// Where it begins, in bytes, in the record (of a table's column: in the occurrence); `None` behind a table of
    /// variable length.
    pub offset: Option<u32>,
    /// How many bytes it takes.
    pub len: u32,
    /// Which occurrence it is, from 1, of each fixed OCCURS that it is in (of those within its table), the outermost
    /// first.
    pub occurrences: Vec<u32>,
    /// It has no value in some sound records: it is in one of several ways to see the same bytes, or behind what a
    /// short record ends with.
    pub nullable: bool,
    /// In which records it has a value; all of these hold. Empty: in all.
    pub when: Vec<ChoiceOf>,
    /// Which of its bytes are no value.
    pub absent: Absent,
}

/// [`super::Choice`] of a column: the field, and what it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChoiceOf {
    /// The field that decides.
    pub field: ItemId,
    /// What it has to be.
    pub test: Test,
}

/// Rows: of the records themselves, or of the occurrences of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, made like a column's; of the record's own row, made of the record's name.
    pub name: String,
    /// The item whose occurrences are rows.
    pub item: ItemId,
    /// Index of the table whose rows it belongs to; `None` for the record's own.
    pub parent: Option<usize>,
    /// Its columns in the order of the record. There may be none.
    pub columns: Vec<Column>,
}

impl Column {
    /// Whether a name in a configuration means this column: its own name, or the item's as written, in upper or lower
    /// case. An item that occurs several times has several columns of its name.
    pub fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || self.cobol_name.eq_ignore_ascii_case(name)
    }
}

/// Makes the tables of a record, the record's own first.
pub(super) fn tables(root: &Item) -> Result<Vec<Table>, SchemaError> {
    let mut flat = Flat {
        tables: vec![Table {
            name: sql_name(root.name_or_filler()),
            item: root.id,
            parent: None,
            columns: Vec::new(),
        }],
        table: 0,
        groups: Vec::new(),
        occurrences: Vec::new(),
        choices: Vec::new(),
        nullable: false,
    };
    match &root.content {
        Content::Group(items) => {
            for item in items {
                flat.item(item, item.offset)?;
            }
        }
        Content::Field(_) => flat.item(root, Some(0))?,
    }
    let mut names = HashSet::new();
    for table in &mut flat.tables {
        name_columns(&mut table.columns);
        table.name = free_name(&table.name, &mut names);
    }
    Ok(flat.tables)
}

/// Goes through the tree in the order in which [`super::RecordSchema::walk`] does.
struct Flat {
    tables: Vec<Table>,
    table: usize,
    groups: Vec<String>,
    occurrences: Vec<u32>,
    choices: Vec<ChoiceOf>,
    nullable: bool,
}

impl Flat {
    /// All occurrences of an item that begins at `begin` in the record or the table's occurrence.
    fn item(&mut self, item: &Item, begin: Option<u32>) -> Result<(), SchemaError> {
        let outer = (self.nullable, self.choices.len());
        self.nullable |= item.is_variant;
        self.nullable |= item.occurs.as_ref().is_some_and(|it| it.min < it.max);
        self.choices.extend(item.when.iter().map(|choice| ChoiceOf {
            field: choice.field.id,
            test: choice.test.clone(),
        }));
        let done = match &item.occurs {
            None => self.occurrence(item, begin),
            Some(_) if is_table(item) => self.rows(item),
            Some(occurs) => (0..occurs.max).try_for_each(|n| {
                // Behind an occurrence with a table of variable length in it, the next one slides.
                let begin = begin.filter(|_| n == 0 || item.len == item.len_min);
                self.occurrences.push(n + 1);
                let done = self.occurrence(item, begin.map(|begin| begin + n * item.len));
                self.occurrences.pop();
                done
            }),
        };
        self.nullable = outer.0;
        self.choices.truncate(outer.1);
        done
    }

    /// An item whose occurrences are rows.
    fn rows(&mut self, item: &Item) -> Result<(), SchemaError> {
        let name = match &item.name {
            Some(name) => sql_name(name),
            None => format!("{}_filler", self.tables[self.table].name),
        };
        self.tables.push(Table {
            name,
            item: item.id,
            parent: Some(self.table),
            columns: Vec::new(),
        });
        let table = self.tables.len() - 1;
        let outer = (
            std::mem::replace(&mut self.table, table),
            std::mem::take(&mut self.occurrences),
            std::mem::take(&mut self.nullable),
            std::mem::take(&mut self.choices),
        );
        let done = self.occurrence(item, Some(0));
        (self.table, self.occurrences, self.nullable, self.choices) = outer;
        done
    }

    fn occurrence(&mut self, item: &Item, begin: Option<u32>) -> Result<(), SchemaError> {
        let items = match &item.content {
            Content::Field(field) => return self.column(item, field, begin),
            Content::Group(items) => items,
        };
        self.groups.extend(item.name.clone());
        for child in items {
            let begin = begin.and_then(|begin| Some(begin + child.offset_in_group?));
            self.item(child, begin)?;
        }
        if item.name.is_some() {
            self.groups.pop();
        }
        Ok(())
    }

    fn column(
        &mut self,
        item: &Item,
        field: &FieldType,
        begin: Option<u32>,
    ) -> Result<(), SchemaError> {
        let Some(name) = &item.name else {
            return Ok(());
        };
        let table = &mut self.tables[self.table];
        if table.columns.len() == COLUMNS_MAX {
            return Err(SchemaError::new(
                item,
                format!("a row has at most {COLUMNS_MAX} columns, and {name} would be one more"),
            ));
        }
        table.columns.push(Column {
            name: String::new(),
            cobol_name: name.clone(),
            groups: self.groups.clone(),
            item: item.id,
            field: field.clone(),
            offset: begin,
            len: field.len(),
            occurrences: self.occurrences.clone(),
            nullable: self.nullable,
            when: self.choices.clone(),
            absent: item.absent.clone(),
        });
        Ok(())
    }
}

/// Whether the occurrences of an item are rows of their own.
pub(super) fn is_table(item: &Item) -> bool {
    item.occurs.as_ref().is_some_and(|occurs| {
        !item.as_columns
            && (occurs.depending_on.is_some()
                || width(item).saturating_mul(occurs.max as usize) > FLATTENED_MAX)
    })
}

/// How many columns one occurrence of an item has.
pub(super) fn width(item: &Item) -> usize {
    match &item.content {
        Content::Field(_) => usize::from(item.name.is_some()),
        Content::Group(items) => items.iter().fold(0, |sum: usize, child| {
            let times = match &child.occurs {
                _ if is_table(child) => 0,
                Some(occurs) => occurs.max as usize,
                None => 1,
            };
            sum.saturating_add(width(child).saturating_mul(times))
        }),
    }
}

/// A name as databases and protobuf take it: lower case, `_` for all that is no letter or digit, not too long.
fn sql_name(name: &str) -> String {
    let mut sql: String = name
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => c,
            _ => '_',
        })
        .collect();
    if !sql.starts_with(|c: char| c.is_ascii_alphabetic()) {
        sql.insert(0, 'f');
    }
    sql
}

/// Names of a table's columns: of the item, and where several items share it, of the groups around them as well, from
/// the inside out, as far as it takes; behind that, which occurrence.
fn name_columns(columns: &mut [Column]) {
    // How many groups the name of an item has before its own.
    let mut qualified: HashMap<ItemId, usize> = HashMap::new();
    loop {
        let mut by_name: HashMap<String, HashMap<ItemId, usize>> = HashMap::new();
        for column in &*columns {
            let groups = qualified.get(&column.item).copied().unwrap_or(0);
            by_name
                .entry(qualified_name(column, groups))
                .or_default()
                .insert(column.item, column.groups.len());
        }
        let mut more = false;
        for items in by_name.values().filter(|items| items.len() > 1) {
            for (item, depth) in items {
                let groups = qualified.entry(*item).or_default();
                if *groups < *depth {
                    *groups += 1;
                    more = true;
                }
            }
        }
        if !more {
            break;
        }
    }
    let mut used: HashSet<String> = HashSet::new();
    for column in columns {
        let groups = qualified.get(&column.item).copied().unwrap_or(0);
        let mut name = qualified_name(column, groups);
        for n in &column.occurrences {
            let _ = write!(name, "_{n}");
        }
        column.name = free_name(&name, &mut used);
    }
}

fn qualified_name(column: &Column, groups: usize) -> String {
    let own = sql_name(&column.cobol_name);
    let from = column.groups.len() - groups;
    match groups {
        0 => own,
        _ => format!("{}_{own}", sql_name(&column.groups[from..].join("-"))),
    }
}

/// A name that isn't taken yet and isn't too long, and takes it.
fn free_name(wanted: &str, used: &mut HashSet<String>) -> String {
    let mut name = wanted.to_owned();
    if RESERVED.contains(&wanted) {
        name.push_str("_field");
    }
    if name.len() > NAME_BYTES_MAX {
        let hash = XxHash3_128::oneshot(name.as_bytes()) as u32;
        // Names are ASCII.
        name.truncate(NAME_BYTES_MAX - 9);
        let _ = write!(name, "_{hash:08x}");
    }
    let mut free = name.clone();
    let mut n = 1;
    while !used.insert(free.clone()) {
        n += 1;
        let suffix = format!("_{n}");
        free = name.clone();
        free.truncate(NAME_BYTES_MAX - suffix.len());
        free.push_str(&suffix);
    }
    free
}

/// See [`super::RecordSchema::schema_id`]. What goes into it is a format: it may only change with what a column is.
pub(super) fn schema_id(tables: &[Table]) -> String {
    let mut text = String::new();
    for table in tables {
        let parent = table.parent.map_or(-1, |parent| parent as i64);
        let _ = writeln!(text, "table {} {parent}", table.name);
        for column in &table.columns {
            let offset = column.offset.map_or(-1, i64::from);
            let _ = write!(text, "{} {} ", column.name, column.field);
            let _ = write!(text, "{offset} {} {}", column.len, column.nullable);
            for choice in &column.when {
                // Items are numbered by the source; what isn't a column doesn't count here.
                let field = columns_of(tables, choice.field);
                let _ = write!(text, " when {field:?} {}", choice.test);
            }
            let _ = write!(text, "{}", column.absent);
            text.push('\n');
        }
    }
    format!("{:032x}", XxHash3_128::oneshot(text.as_bytes()))
}

fn columns_of(tables: &[Table], item: ItemId) -> Vec<&str> {
    let columns = tables.iter().flat_map(|table| &table.columns);
    columns
        .filter(|column| column.item == item)
        .map(|column| column.name.as_str())
        .collect()
}
