//! Going through one record: where each value lies, tables of variable length included.

use super::{Content, FieldType, Item, ItemId, RecordSchema};

/// A value of one record, at its place there.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// The field it is a value of.
    pub item: &'a Item,
    /// Its type.
    pub field: &'a FieldType,
    /// Where it begins in the record, in bytes. It takes [`FieldType::len`] bytes; the record may be shorter.
    pub offset: u32,
    /// Index of its table in [`RecordSchema::tables`]; 0 is the record's own row.
    pub table: usize,
    /// Which row of the table: the occurrence, from 1, of each table around it, the outermost first. Empty for 0.
    pub row: &'a [u32],
    /// Index of its column in [`super::Table::columns`].
    pub column: usize,
}

/// An occurrence of a table, at its place in one record.
#[derive(Clone, Copy, Debug)]
pub struct Occurrence<'a> {
    /// Index of the table in [`RecordSchema::tables`].
    pub table: usize,
    /// Which row of the table, as in [`Placed::row`].
    pub row: &'a [u32],
    /// Where it begins in the record, in bytes.
    pub begin: u32,
    /// Where it ends. The record may be shorter.
    pub end: u32,
}

/// A record whose tables can't be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("how often {item} occurs is in {counter}, and {reason}")]
pub struct WalkError {
    /// Name of the table.
    pub item: String,
    /// Name of the field that counts.
    pub counter: String,
    /// What is wrong with it.
    pub reason: String,
}

impl RecordSchema {
    /// Goes through a record: calls `visit` for each value in the order of the record, and returns where the record
    /// ends, in bytes.
    ///
    /// `count` reads the field of a DEPENDING ON (an item and its type) at an offset in the record; what it says is
    /// wrong becomes the reason of the error. Fields without a name (FILLER) aren't visited. All redefinitions of the
    /// same bytes are; [`Item::when`] may say which is meant.
    ///
    /// # Errors
    /// A table whose length can't be read or is out of bounds. What comes before it was visited.
    pub fn walk(
        &self,
        count: &mut dyn FnMut(&Item, &FieldType, u32) -> Result<u64, String>,
        visit: &mut dyn FnMut(Placed<'_>),
    ) -> Result<u32, WalkError> {
        self.walk_rows(count, visit, &mut |_| {})
    }

    /// The same, and calls `each_row` for each occurrence of a table, behind the values in it.
    ///
    /// # Errors
    /// As of [`RecordSchema::walk`].
    pub fn walk_rows(
        &self,
        count: &mut dyn FnMut(&Item, &FieldType, u32) -> Result<u64, String>,
        visit: &mut dyn FnMut(Placed<'_>),
        each_row: &mut dyn FnMut(Occurrence<'_>),
    ) -> Result<u32, WalkError> {
        let mut walk = Walk {
            schema: self,
            count,
            visit,
            each_row,
            counters: self.counters.iter().map(|id| (*id, 0)).collect(),
            row: Vec::new(),
            table: 0,
            column: 0,
        };
        walk.item(self.root(), 0)
    }
}

struct Walk<'s, 'f> {
    schema: &'s RecordSchema,
    count: &'f mut dyn FnMut(&Item, &FieldType, u32) -> Result<u64, String>,
    visit: &'f mut dyn FnMut(Placed<'_>),
    each_row: &'f mut dyn FnMut(Occurrence<'_>),
    /// Fields that count, and where the last one of them was.
    counters: Vec<(ItemId, u32)>,
    row: Vec<u32>,
    /// The table whose row this is, and its next column.
    table: usize,
    column: usize,
}

impl Walk<'_, '_> {
    /// All occurrences of an item that begins at `begin`; returns where they end.
    fn item(&mut self, item: &Item, begin: u32) -> Result<u32, WalkError> {
        let Some(occurs) = &item.occurs else {
            return self.occurrence(item, begin);
        };
        let times = match &occurs.depending_on {
            None => occurs.max,
            Some(counter) => self.times(item, counter.id, occurs.min, occurs.max)?,
        };
        let table = self
            .schema
            .tables()
            .iter()
            .position(|table| table.item == item.id);
        let mut at = begin;
        match table {
            None => {
                for _ in 0..times {
                    at = self.occurrence(item, at)?;
                }
            }
            Some(table) => {
                let outer = (self.table, self.column);
                for row in 1..=times {
                    (self.table, self.column) = (table, 0);
                    self.row.push(row);
                    let end = self.occurrence(item, at);
                    if let Ok(end) = end {
                        (self.each_row)(Occurrence {
                            table,
                            row: &self.row,
                            begin: at,
                            end,
                        });
                    }
                    self.row.pop();
                    at = end?;
                }
                (self.table, self.column) = outer;
            }
        }
        if self.schema.dialect().odo_slides {
            return Ok(at);
        }
        Ok(begin.saturating_add(item.len_occurrences()))
    }

    /// One occurrence; returns where it ends.
    fn occurrence(&mut self, item: &Item, begin: u32) -> Result<u32, WalkError> {
        let items = match &item.content {
            Content::Field(field) => {
                if let Some(counter) = self.counters.iter_mut().find(|(id, _)| *id == item.id) {
                    counter.1 = begin;
                }
                if item.name.is_some() {
                    (self.visit)(Placed {
                        item,
                        field,
                        offset: begin,
                        table: self.table,
                        row: &self.row,
                        column: self.column,
                    });
                    self.column += 1;
                }
                return Ok(begin.saturating_add(field.len()));
            }
            Content::Group(items) => items,
        };
        let mut end = begin;
        // Where the items that others redefine begin.
        let mut begins: Vec<(ItemId, u32)> = Vec::new();
        for child in items {
            let at = match &child.redefines {
                Some(target) => begins
                    .iter()
                    .find(|(id, _)| *id == target.id)
                    .map_or(begin, |(_, at)| *at),
                None => end.saturating_add(child.slack),
            };
            if child.is_variant {
                begins.push((child.id, at));
            }
            end = end.max(self.item(child, at)?);
        }
        Ok(end.saturating_add(item.padding))
    }

    fn times(
        &mut self,
        item: &Item,
        counter: ItemId,
        min: u32,
        max: u32,
    ) -> Result<u32, WalkError> {
        let at = self
            .counters
            .iter()
            .find(|(id, _)| *id == counter)
            .map_or(0, |(_, at)| *at);
        let field = self.schema.item(counter);
        let failed = |reason: String| WalkError {
            item: item.name_or_filler().to_owned(),
            counter: field.map_or("?", Item::name_or_filler).to_owned(),
            reason,
        };
        let Some((field, field_type)) = field.and_then(|item| Some((item, item.field_type()?)))
        else {
            return Err(failed("that isn't a field".to_owned()));
        };
        let times = (self.count)(field, field_type, at).map_err(failed)?;
        u32::try_from(times)
            .ok()
            .filter(|times| (min..=max).contains(times))
            .ok_or_else(|| failed(format!("its value {times} isn't within {min} and {max}")))
    }
}
