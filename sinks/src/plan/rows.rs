//! Tables within records: in a target, each is a table of its own, with a row for each occurrence.
//!
//! To a sink such a table is the mirror of one more file, which nobody has on a disk: its path is the record file's with
//! `//` and the table's name behind it, and its records are made of the file's ([`RowTables::rows`]). So whatever a sink does
//! with files it does with these. A row's identity is that of its record, times one more than
//! the most rows a record has, and which occurrence it is.

use super::{Mask, Origin, Plan, PlanSpec};
use crate::{FileDescription, FileSchema, naming};
use counterfoil_records::schema::{Column, RecordSchema, Table, row_record};
use counterfoil_records::{Layout, Organization, RecordDecoder, RecordFormat, Room};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Between the path of a file and the name of a table in its records. No file's path has it.
const MARK: &[u8] = b"//";

/// Columns of a row that say where it belongs: the identity of the record (or of the row that it is in), and which
/// occurrence it is, from 1.
const PREFIX: [&str; 2] = ["parent", "ordinal"];

/// A file as a target is to have it, and the tables in its records.
#[derive(Clone, Debug)]
pub struct Described {
    /// The file.
    pub file: FileDescription,
    /// Tables in its records.
    pub rows: Arc<RowTables>,
    /// Tables that the target doesn't get, and why.
    pub left_out: Vec<String>,
}

/// The tables in the records of a file, or in the rows of another one.
#[derive(Clone, Debug, Default)]
pub struct RowTables {
    decoder: Option<RecordDecoder>,
    tables: Vec<Rows>,
}

/// A table in the records of a file.
#[derive(Clone, Debug)]
pub struct Rows {
    /// As the target has it.
    pub file: Arc<FileDescription>,
    /// Tables in its rows.
    pub inner: RowTables,
    /// Its place in the schema of the records.
    table: usize,
    /// What the identity of a record is multiplied by; it is more than a record has rows.
    scale: u64,
}

/// The identity of a row, and its record.
pub type Row = (u64, Vec<u8>);

/// Whether this is the path of a table in the records of a file.
pub fn is_of_rows(path: &[u8]) -> bool {
    path.windows(MARK.len()).any(|bytes| bytes == MARK)
}

/// The path of the file that a path is about: the file's own, or that of a table in its records.
pub fn file_of(path: &[u8]) -> &[u8] {
    let mark = path.windows(MARK.len()).position(|bytes| bytes == MARK);
    &path[..mark.unwrap_or(path.len())]
}

impl Described {
    /// What becomes of a file that has no columns.
    pub fn plain(file: FileDescription) -> Described {
        Described {
            file,
            rows: Arc::default(),
            left_out: Vec::new(),
        }
    }

    /// What a specification makes of a file, whose schema is known.
    ///
    /// # Errors
    /// As of [`Plan::new`].
    pub fn new(
        spec: &PlanSpec,
        mut file: FileDescription,
        origin: Origin<'_>,
    ) -> Result<Described, Vec<String>> {
        let mut left_out = Vec::new();
        let (own, rows) = match &file.schema {
            Some(schema) if schema.0.tables().len() > 1 => {
                divided(spec, &file, schema, origin, &mut left_out)?
            }
            _ => (spec.clone(), RowTables::default()),
        };
        let plan = Plan::new(&own, file.schema.as_ref(), &file.format, origin)?;
        file.plan = Some(Arc::new(plan));
        Ok(Described {
            file,
            rows: Arc::new(rows),
            left_out,
        })
    }

    /// The file, and all tables in its records.
    pub fn all(&self) -> Vec<FileDescription> {
        let mut all = vec![self.file.clone()];
        self.rows.each(&mut |rows| all.push((*rows.file).clone()));
        all
    }
}

impl RowTables {
    /// The tables, without those in their rows.
    pub fn tables(&self) -> &[Rows] {
        &self.tables
    }

    /// The table of this path, however deep it is.
    pub fn find(&self, path: &[u8]) -> Option<Arc<FileDescription>> {
        let mut found = None;
        self.each(&mut |rows| {
            if rows.file.path == path {
                found = Some(Arc::clone(&rows.file));
            }
        });
        found
    }

    /// Whether these are the same tables, of another file.
    pub fn is_like(&self, other: &RowTables) -> bool {
        let is_same = |one: &Rows, other: &Rows| {
            let same = (one.name(), one.scale, &one.file.schema)
                == (other.name(), other.scale, &other.file.schema);
            same && one.file.plan == other.file.plan && one.inner.is_like(&other.inner)
        };
        let mut pairs = self.tables.iter().zip(&other.tables);
        self.tables.len() == other.tables.len() && pairs.all(|(one, other)| is_same(one, other))
    }

    fn each(&self, each: &mut dyn FnMut(&Rows)) {
        for rows in &self.tables {
            each(rows);
            rows.inner.each(each);
        }
    }

    /// The rows in a record of this identity: for each of [`RowTables::tables`] its rows, in order, each with its identity and
    /// its record. Where it can't be told how many there are, there are none; why, stands beside the record's own columns.
    ///
    /// # Errors
    /// In words: an identity would be too large.
    pub fn rows(&self, id: u64, record: &[u8]) -> Result<Vec<Vec<Row>>, String> {
        let mut found = vec![Vec::new(); self.tables.len()];
        let Some(decoder) = &self.decoder else {
            return Ok(found);
        };
        let mut too_large = None;
        let _ = decoder.rows(record, &mut Room::default(), |table, ordinal, bytes| {
            let Some(at) = self.tables.iter().position(|rows| rows.table == table) else {
                return;
            };
            match self.tables[at].identity(id, ordinal) {
                Some(row) => found[at].push((row, row_record(id, ordinal, bytes))),
                None => too_large = Some(&self.tables[at]),
            }
        });
        match too_large {
            None => Ok(found),
            Some(rows) => Err(format!(
                "record {id} lies so far behind that rows of {} have no number: leave that table out with `exclude_columns`",
                rows.name()
            )),
        }
    }
}

impl Rows {
    /// The table's name in the schema.
    pub fn name(&self) -> &str {
        let path = &self.file.path;
        let begin = path.windows(MARK.len()).rposition(|bytes| bytes == MARK);
        let name = &path[begin.map_or(0, |begin| begin + MARK.len())..];
        // It was made of ASCII.
        std::str::from_utf8(name).unwrap_or_default()
    }

    fn identity(&self, record: u64, ordinal: u32) -> Option<u64> {
        let row = record
            .checked_mul(self.scale)?
            .checked_add(u64::from(ordinal))?;
        (row <= i64::MAX as u64).then_some(row)
    }

    /// The identities that rows of records from `from` on to before `to` have; [`u64::MAX`] stands for all that follow.
    pub fn identities(&self, from: u64, to: u64) -> (u64, u64) {
        (
            from.saturating_mul(self.scale),
            to.saturating_mul(self.scale),
        )
    }
}

/// What of a specification is about the records themselves, and the tables in them.
fn divided(
    spec: &PlanSpec,
    file: &FileDescription,
    schema: &FileSchema,
    origin: Origin<'_>,
    left_out: &mut Vec<String>,
) -> Result<(PlanSpec, RowTables), Vec<String>> {
    let own_columns = schema.0.columns();
    let is_own = |name: &str| own_columns.iter().any(|column| column.is_called(name));
    let is_of_table = |name: &str| {
        let mut tables = schema.0.tables()[1..].iter();
        tables.any(|table| is_called(table, name) || has(&table.columns, name))
    };
    // What nobody knows stays, to be told.
    let own = part(spec, &|name| is_own(name) || !is_of_table(name));
    let hidden = spec
        .masks
        .keys()
        .find(|name| !is_own(name) && is_of_table(name));
    if let (Some(hidden), true) = (hidden, spec.raw) {
        return Err(vec![Plan::shows(hidden)]);
    }
    let mut tables = Vec::new();
    for (at, table) in schema.0.tables().iter().enumerate() {
        if table.parent != Some(0) {
            continue;
        }
        let named = |names: &[String]| names.iter().any(|name| is_called(table, name));
        if named(&spec.without) {
            continue;
        }
        let rows = match schema.0.of_rows(at) {
            Ok(rows) => rows,
            Err(why) => {
                left_out.push(format!("{} has no table: {why}", table.name));
                continue;
            }
        };
        let knows = |name: &str| !is_own(name) && knows(&rows, name);
        let mut of_rows = part(spec, &knows);
        if let Some(columns) = &spec.columns {
            let is_whole = named(columns);
            if !is_whole && of_rows.columns.as_ref().is_none_or(Vec::is_empty) {
                continue;
            }
            of_rows.columns = if is_whole { None } else { of_rows.columns };
        }
        // The first two are ours: whatever is chosen, they stay.
        let prefix: Vec<String> = rows.columns()[..PREFIX.len()]
            .iter()
            .map(|column| column.name.clone())
            .collect();
        if let Some(columns) = &mut of_rows.columns {
            columns.extend(prefix.iter().cloned());
        }
        for (name, shown) in prefix.iter().zip(PREFIX) {
            of_rows.rename.insert(name.clone(), shown.to_owned());
        }
        // It is what rows are joined by.
        if of_rows.key.is_empty() {
            of_rows.key = prefix[..1].to_vec();
        }
        of_rows.raw = false;
        let item = schema.0.item(table.item);
        let most = item.and_then(|item| item.occurs.as_ref());
        let name = naming::wanted_name(file).unwrap_or_default();
        let described = FileDescription {
            path: [&file.path, MARK, table.name.as_bytes()].concat(),
            group: file.group.clone(),
            format: RecordFormat::new(Organization::Fixed, Layout::Plain)
                .with_record_size(u64::from(rows.len_max())),
            table: Some(naming::joined(&name, &table.name)),
            tree: None,
            schema: Some(FileSchema(Arc::new(rows))),
            plan: None,
        };
        let mut described = Described::new(&of_rows, described, origin)?;
        left_out.append(&mut described.left_out);
        tables.push(Rows {
            file: Arc::new(described.file),
            inner: Arc::unwrap_or_clone(described.rows),
            table: at,
            scale: u64::from(most.map_or(0, |occurs| occurs.max)) + 1,
        });
    }
    let decoder = || RecordDecoder::new(Arc::clone(&schema.0)).with_padding(file.format.padding());
    let rows = RowTables {
        decoder: (!tables.is_empty()).then(decoder),
        tables,
    };
    Ok((own, rows))
}

fn is_called(table: &Table, name: &str) -> bool {
    table.name.eq_ignore_ascii_case(name)
        || table.name.eq_ignore_ascii_case(&name.replace('-', "_"))
}

fn has(columns: &[Column], name: &str) -> bool {
    columns.iter().any(|column| column.is_called(name))
}

/// Whether a schema has a column or a table within it of this name.
fn knows(schema: &RecordSchema, name: &str) -> bool {
    let tables = schema.tables();
    has(&tables[0].columns[PREFIX.len()..], name)
        || tables[1..]
            .iter()
            .any(|table| is_called(table, name) || has(&table.columns, name))
}

/// What of a specification is about some names.
fn part(spec: &PlanSpec, is_meant: &dyn Fn(&str) -> bool) -> PlanSpec {
    fn of_map<T: Clone>(
        map: &BTreeMap<String, T>,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> BTreeMap<String, T> {
        let meant = map.iter().filter(|(name, _)| is_meant(name));
        meant.map(|(name, it)| (name.clone(), it.clone())).collect()
    }
    let of_list = |names: &[String]| -> Vec<String> {
        names
            .iter()
            .filter(|name| is_meant(name))
            .cloned()
            .collect()
    };
    let masks: BTreeMap<String, Mask> = of_map(&spec.masks, is_meant);
    PlanSpec {
        columns: spec.columns.as_deref().map(of_list),
        without: of_list(&spec.without),
        rename: of_map(&spec.rename, is_meant),
        kinds: of_map(&spec.kinds, is_meant),
        masks,
        key: of_list(&spec.key),
        ..spec.clone()
    }
}
