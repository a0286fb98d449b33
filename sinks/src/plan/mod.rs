//! What a file's table is in one target, as its DBA wants it, and what a record becomes there.
//!
//! A [`PlanSpec`] is what somebody wrote: which fields become columns, under which names and kinds, what is masked, which
//! constants stand beside, whether the record's own bytes do. With a file's schema it becomes a [`Plan`], which says what
//! columns there are ([`Plan::shape`]) and gives their values, record by record ([`Plan::cells`]). Neither knows of any
//! database: kinds of columns are [`ColumnKind`]s, and each sink has a type for each.
//!
//! Every column may be NULL: what the bytes of a field don't mean has no value, and the column [`UNDECODED`] says why.

mod kind;
mod mask;
pub mod rows;
mod shape;
#[cfg(test)]
mod tests;

pub use kind::ColumnKind;
pub use mask::{Mask, MaskKey};
pub use shape::{Ddl, Evolution, Mode, PlanColumn, Shape, UNDECODED};

use crate::FileSchema;
use counterfoil_records::schema::Column;
use counterfoil_records::value::{Number, Value};
use counterfoil_records::{RecordDecoder, RecordFormat, Room};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Columns of Counterfoil's own that may stand beside those of a plan.
const OWN_COLUMNS: &[&str] = &[
    "record_number",
    "slot_number",
    "address",
    "block_number",
    "file_id",
    "data",
    "rest",
    UNDECODED,
    "epoch",
    "lsn",
    "idx",
    "op",
    "captured_at",
];

/// Columns of a key, and characters of its texts together, in UTF-8 at most four bytes each: what every database has in an index.
const KEY_COLUMNS_MAX: usize = 16;
const KEY_CHARS_MAX: u32 = 600;

/// What [`UNDECODED`] says at most, in bytes.
const UNDECODED_BYTES_MAX: usize = 2000;

/// What a DBA wants of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSpec {
    /// What it keeps.
    pub mode: Mode,
    /// Whether it has the record's own bytes.
    pub raw: bool,
    /// Fields that become columns; `None`: all.
    pub columns: Option<Vec<String>>,
    /// Fields that don't.
    pub without: Vec<String>,
    /// Names of columns, by field.
    pub rename: BTreeMap<String, String>,
    /// Kinds of columns, by field, where they aren't those that follow from the fields.
    pub kinds: BTreeMap<String, ColumnKind>,
    /// Masks, by field.
    pub masks: BTreeMap<String, Mask>,
    /// Columns that are the same in every row, by name.
    pub constants: BTreeMap<String, Constant>,
    /// Columns that nothing fills any more may be dropped.
    pub may_drop: bool,
    /// Fields that records are looked up by: their columns get an index. Empty: there is none.
    pub key: Vec<String>,
}

impl Default for PlanSpec {
    /// All columns and the raw image, nothing masked.
    fn default() -> PlanSpec {
        PlanSpec {
            mode: Mode::Mirror,
            raw: true,
            columns: None,
            without: Vec::new(),
            rename: BTreeMap::new(),
            kinds: BTreeMap::new(),
            masks: BTreeMap::new(),
            constants: BTreeMap::new(),
            may_drop: false,
            key: Vec::new(),
        }
    }
}

/// What is in a column that is the same in every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constant {
    /// Text, in which `{site}`, `{group}`, `{path}` and `{file}` (the path's last part) stand for the file's own.
    Text(String),
    /// A whole number.
    Number(i64),
}

/// Whose table it is: what constants may name.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The site.
    pub site: &'a str,
    /// The consistency group.
    pub group: &'a str,
    /// The file's path, as text.
    pub path: &'a str,
}

/// What a file's records become in one target.
#[derive(Clone, Debug)]
pub struct Plan {
    shape: Shape,
    may_drop: bool,
    decoder: Option<RecordDecoder>,
    fields: Vec<FieldPlan>,
    /// By column of the schema: its place in `fields`.
    places: Vec<Option<usize>>,
    constants: Vec<Constant>,
}

/// How a field becomes a column.
#[derive(Clone, Debug)]
struct FieldPlan {
    kind: ColumnKind,
    mask: Option<Mask>,
    /// In the problem that [`UNDECODED`] tells.
    name: String,
}

/// Two are equal when they want the same table and fill it in the same way.
impl PartialEq for Plan {
    fn eq(&self, other: &Plan) -> bool {
        self.shape == other.shape && self.may_drop == other.may_drop
    }
}

impl Eq for Plan {}

/// What [`Plan::cells`] works in; its content means nothing. One for each thread.
#[derive(Clone, Debug, Default)]
pub struct CellRoom {
    record: Room,
    text: String,
    masked: String,
}

impl Plan {
    /// What becomes of files with this schema and format.
    ///
    /// # Errors
    /// In words, each in a line: what of the specification doesn't go with the schema.
    pub fn new(
        spec: &PlanSpec,
        schema: Option<&FileSchema>,
        format: &RecordFormat,
        origin: Origin<'_>,
    ) -> Result<Plan, Vec<String>> {
        let columns = schema.map_or(&[][..], |schema| schema.0.columns());
        let mut problems = unknown_fields(spec, columns);
        let is_named =
            |names: &[String], column: &Column| names.iter().any(|n| column.is_called(n));
        let mut plan = Plan {
            shape: Shape {
                mode: spec.mode,
                raw: spec.raw,
                ..Shape::default()
            },
            may_drop: spec.may_drop,
            decoder: None,
            fields: Vec::new(),
            places: vec![None; columns.len()],
            constants: Vec::new(),
        };
        let is_masked = |column: &&Column| of_column(&spec.masks, column).is_some();
        let masked: Vec<&Column> = columns.iter().filter(is_masked).collect();
        for (at, column) in columns.iter().enumerate() {
            let mask = of_column(&spec.masks, column);
            let is_selected = spec
                .columns
                .as_ref()
                .is_none_or(|names| is_named(names, column));
            if !is_selected || is_named(&spec.without, column) || mask == Some(&Mask::Drop) {
                continue;
            }
            // Another way to see the same bytes would show what is hidden.
            let mut hidden = masked.iter().filter(|hidden| overlap(hidden, column));
            if let (None, Some(hidden)) = (mask, hidden.next()) {
                problems.push(format!(
                    "{} is masked, and {} has some of the same bytes: mask it too, or leave it out with `exclude_columns`",
                    hidden.name, column.name
                ));
            }
            let kind = of_column(&spec.kinds, column)
                .copied()
                .unwrap_or_else(|| ColumnKind::of_field(&column.field));
            let shown = mask
                .map_or(Some(kind), |mask| mask.kind(kind))
                .unwrap_or(kind);
            plan.places[at] = Some(plan.fields.len());
            plan.shape.columns.push(PlanColumn {
                name: column_name(spec, column),
                kind: shown,
            });
            plan.fields.push(FieldPlan {
                kind,
                mask: mask.cloned(),
                name: column.name.clone(),
            });
        }
        plan.shape.decoded = !plan.fields.is_empty();
        plan.take_key(spec, columns, &mut problems);
        for (name, constant) in &spec.constants {
            let (kind, constant) = match constant {
                Constant::Text(text) => {
                    let text = origin.fill(text);
                    (ColumnKind::Text { chars: None }, Constant::Text(text))
                }
                Constant::Number(number) => (ColumnKind::BigInt, Constant::Number(*number)),
            };
            plan.shape.columns.push(PlanColumn {
                name: name.clone(),
                kind,
            });
            plan.constants.push(constant);
        }
        // Not every database's text takes them, and what is the same in every row would have every row refused.
        let texts = spec
            .constants
            .iter()
            .filter_map(|(name, constant)| match constant {
                Constant::Text(text) => Some((name, text)),
                Constant::Number(_) => None,
            });
        let fixed = spec.masks.iter().filter_map(|(name, mask)| match mask {
            Mask::Fixed(text) => Some((name, text)),
            _ => None,
        });
        for (name, _) in texts.chain(fixed).filter(|(_, text)| text.contains('\0')) {
            problems.push(format!(
                "the text that {name} always has contains a character of code 0, which databases refuse"
            ));
        }
        if let Some(hidden) = spec.masks.keys().next()
            && spec.raw
        {
            problems.push(Plan::shows(hidden));
        }
        plan.check_names(&mut problems);
        if let Some(schema) = schema.filter(|_| plan.shape.decoded) {
            let decoder = RecordDecoder::new(Arc::clone(&schema.0));
            plan.decoder = Some(decoder.with_padding(format.padding()));
        }
        plan.shape.fill = plan.fill_id(schema, format);
        if problems.is_empty() {
            Ok(plan)
        } else {
            Err(problems)
        }
    }

    fn shows(hidden: &str) -> String {
        format!(
            "{hidden} is masked, but the record's own bytes beside it show what is in it: set `raw = false` (files can't be \
             restored from this table then), or leave the mask out"
        )
    }

    /// What becomes of a file that has no plan: a mirror of raw images.
    pub fn raw() -> Plan {
        Plan {
            shape: Shape::default(),
            may_drop: false,
            decoder: None,
            fields: Vec::new(),
            places: Vec::new(),
            constants: Vec::new(),
        }
    }

    /// What the table is. (`left` is empty.)
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The columns to fill, in order; where `shape().decoded`, [`UNDECODED`] comes behind them.
    pub fn columns(&self) -> &[PlanColumn] {
        &self.shape.columns
    }

    /// Whether the table has the record's own bytes.
    pub fn has_raw(&self) -> bool {
        self.shape.raw
    }

    /// Whether it keeps every change.
    pub fn is_history(&self) -> bool {
        self.shape.mode == Mode::History
    }

    /// Columns that nothing fills any more may be dropped.
    pub fn may_drop(&self) -> bool {
        self.may_drop
    }

    /// The values of a record's columns: `each` is called once for each of [`Plan::columns`], in their order, with a value
    /// of exactly its kind (whole numbers of scale 0, decimals of the column's scale) or NULL. `takes_nul` says whether the
    /// target's text may have characters of code 0 in it; where not, such a text is NULL.
    ///
    /// What is returned is for the column [`UNDECODED`]: why fields have no value, if some don't.
    pub fn cells(
        &self,
        data: &[u8],
        takes_nul: bool,
        room: &mut CellRoom,
        each: &mut dyn FnMut(Value<'_>),
    ) -> Option<String> {
        let mut problem = String::new();
        let mut next = 0;
        if let Some(decoder) = &self.decoder {
            let CellRoom {
                record,
                text,
                masked,
            } = room;
            let read = decoder.decode(data, record, |cell| {
                if cell.table != 0 {
                    return;
                }
                let Some(place) = self.places.get(cell.column).copied().flatten() else {
                    return;
                };
                // They come in order; one that didn't come has no value.
                while next < place {
                    each(Value::Null);
                    next += 1;
                }
                if next > place {
                    return;
                }
                next += 1;
                let field = &self.fields[place];
                let value = match cell.value {
                    Ok(value) => field.kind.fit(value, text),
                    // Of what is masked, not even why it is wrong is told: that may show some of it.
                    Err(_) if field.mask.is_some() => Err("it can't be decoded".into()),
                    Err(error) => Err(match error.offset {
                        Some(offset) => format!("{} (offset {offset})", error.reason),
                        None => error.reason.to_string(),
                    }),
                };
                let value = value.and_then(|value| match value {
                    Value::Text(text) if !takes_nul && text.contains('\0') => {
                        Err("it has a character of code 0 in it".into())
                    }
                    value => Ok(value),
                });
                let value = value.unwrap_or_else(|why| {
                    let why = match &field.mask {
                        Some(_) => "it has no value",
                        None => why.as_str(),
                    };
                    note(&mut problem, &field.name, why);
                    Value::Null
                });
                match &field.mask {
                    Some(mask) => each(mask.apply(&value, masked)),
                    None => each(value),
                }
            });
            if let Some(wrong) = read.problem {
                note(&mut problem, "record", &wrong.to_string());
            }
        }
        for _ in next..self.fields.len() {
            each(Value::Null);
        }
        for constant in &self.constants {
            each(match constant {
                Constant::Text(text) => Value::Text(text),
                Constant::Number(number) => Value::Number(Number::integer(*number)),
            });
        }
        (!problem.is_empty()).then_some(problem)
    }

    /// Finds the columns of the key.
    fn take_key(&mut self, spec: &PlanSpec, columns: &[Column], problems: &mut Vec<String>) {
        let mut chars = 0_u32;
        for name in &spec.key {
            let mut called = columns
                .iter()
                .enumerate()
                .filter(|(_, c)| c.name.eq_ignore_ascii_case(name));
            let found = called.next().or_else(|| {
                let mut called = columns
                    .iter()
                    .enumerate()
                    .filter(|(_, c)| c.is_called(name));
                called.next()
            });
            // A name that is no field's is told with all others.
            let Some((at, _)) = found else { continue };
            let Some(place) = self.places[at] else {
                problems.push(format!(
                    "{name} is to be in the key, but it is no column: take it out of `key`, or leave it among the columns"
                ));
                continue;
            };
            let column = &self.shape.columns[place];
            let own = match column.kind {
                ColumnKind::Text { chars } | ColumnKind::Bytes { len: chars } => {
                    chars.unwrap_or(u32::MAX)
                }
                _ => 0,
            };
            chars = chars.saturating_add(own);
            if chars > KEY_CHARS_MAX {
                problems.push(format!(
                    "the texts of the key have more than {KEY_CHARS_MAX} characters with {name}, which databases don't have in an \
                     index: take it out of `key`"
                ));
                return;
            }
            if !self.shape.key.contains(&column.name) {
                self.shape.key.push(column.name.clone());
            }
        }
        if self.shape.key.len() > KEY_COLUMNS_MAX {
            problems.push(format!("a key has at most {KEY_COLUMNS_MAX} columns"));
        }
    }

    fn check_names(&self, problems: &mut Vec<String>) {
        let mut names: Vec<String> = Vec::new();
        for column in &self.shape.columns {
            let name = &column.name;
            let lower = name.to_lowercase();
            if name.is_empty() || name.chars().any(char::is_control) {
                problems.push(format!("{name:?} can't be the name of a column"));
            } else if OWN_COLUMNS.contains(&lower.as_str()) {
                problems.push(format!(
                    "{name} is the name of a column of Counterfoil's own: choose another"
                ));
            } else if names.contains(&lower) {
                problems.push(format!(
                    "there would be two columns named {name}: give one of them another name with `rename`"
                ));
            }
            names.push(lower);
        }
    }

    /// What tells this way to fill columns from others.
    fn fill_id(&self, schema: Option<&FileSchema>, format: &RecordFormat) -> String {
        if self.shape.columns.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        if self.shape.decoded {
            let id = schema.map_or("", |schema| schema.0.schema_id());
            let _ = writeln!(text, "{id} {:?}", format.padding());
        }
        let (of_fields, of_constants) = self.shape.columns.split_at(self.fields.len());
        for (field, column) in self.fields.iter().zip(of_fields) {
            let mask = field.mask.as_ref().map(Mask::id);
            let _ = writeln!(
                text,
                "{} {} {} {mask:?}",
                column.name, field.name, field.kind
            );
        }
        for (constant, column) in self.constants.iter().zip(of_constants) {
            let _ = writeln!(text, "{} {constant:?}", column.name);
        }
        let digest = Sha256::digest(text.as_bytes());
        digest.iter().take(16).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl Origin<'_> {
    fn fill(self, text: &str) -> String {
        let file = self.path.rsplit('/').next().unwrap_or_default();
        let mut filled = String::new();
        let mut rest = text;
        while let Some(begin) = rest.find('{') {
            filled.push_str(&rest[..begin]);
            rest = &rest[begin..];
            let known = [
                ("{site}", self.site),
                ("{group}", self.group),
                ("{path}", self.path),
                ("{file}", file),
            ];
            let found = known.iter().find(|(word, _)| rest.starts_with(word));
            let (word, value) = found.copied().unwrap_or(("{", "{"));
            filled.push_str(value);
            rest = &rest[word.len()..];
        }
        filled + rest
    }
}

/// Whether two columns have bytes in common, or may have: what slides in its record could lie anywhere.
fn overlap(a: &Column, b: &Column) -> bool {
    match (a.offset, b.offset) {
        (Some(of_a), Some(of_b)) => of_a < of_b + b.len && of_b < of_a + a.len,
        // One of several ways to see the same bytes can have such bytes in common; what is in none can't.
        _ => a.nullable && b.nullable && a.item != b.item,
    }
}

/// What a map says of a column, by the column's name or the field's.
fn of_column<'m, T>(map: &'m BTreeMap<String, T>, column: &Column) -> Option<&'m T> {
    let exact = map
        .iter()
        .find(|(name, _)| column.name.eq_ignore_ascii_case(name));
    exact
        .or_else(|| map.iter().find(|(name, _)| column.is_called(name)))
        .map(|(_, value)| value)
}

fn column_name(spec: &PlanSpec, column: &Column) -> String {
    if let Some(name) = of_column(&spec.rename, column) {
        return name.clone();
    }
    if OWN_COLUMNS.contains(&column.name.as_str()) {
        return format!("{}_field", column.name);
    }
    column.name.clone()
}

/// Names in a specification that are no field's.
fn unknown_fields(spec: &PlanSpec, columns: &[Column]) -> Vec<String> {
    let selected = spec.columns.iter().flatten().chain(&spec.without);
    let names = selected
        .chain(spec.rename.keys())
        .chain(spec.kinds.keys())
        .chain(spec.masks.keys())
        .chain(&spec.key);
    let unknown = names.filter(|name| !columns.iter().any(|column| column.is_called(name)));
    let mut problems: Vec<String> = unknown
        .map(|name| {
            if columns.is_empty() {
                return format!(
                    "there is no field {name}: nothing says what is in the file's records; name their copybook, or \
                     their fields"
                );
            }
            let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let shown = known.len().min(40);
            let more = if known.len() > shown { ", ..." } else { "" };
            format!("there is no field {name}; there are {}{more}", known[..shown].join(", "))
        })
        .collect();
    problems.dedup();
    problems
}

/// Notes why a field has no value.
fn note(problem: &mut String, name: &str, why: &str) {
    if problem.len() >= UNDECODED_BYTES_MAX {
        return;
    }
    if !problem.is_empty() {
        problem.push_str("; ");
    }
    let _ = write!(problem, "{name}: {why}");
    if problem.len() > UNDECODED_BYTES_MAX {
        let mut end = UNDECODED_BYTES_MAX;
        while !problem.is_char_boundary(end) {
            end -= 1;
        }
        problem.truncate(end);
    }
}
