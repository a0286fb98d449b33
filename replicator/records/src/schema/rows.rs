//! The rows of a table within a record, as records of their own.
//!
//! A row's record is where the row belongs, and after it the bytes of the occurrence: see [`RecordSchema::of_rows`]. What a
//! target has of records it then has of rows as well, tables within them included.

use super::{Content, Endian, FieldType, Item, RecordSchema};

/// What comes before the bytes of an occurrence.
pub const ROW_PREFIX_BYTES: usize = 16;

/// Bytes of the prefix that mean nothing: with them, what is aligned lies as in the record.
const FILLER_BYTES: u32 = 4;

/// Names of the fields in the prefix.
const PARENT: &str = "PARENT";
const ORDINAL: &str = "ORDINAL-OF-PARENT";

/// The record of a row: the identity of what it belongs to, which occurrence it is, from 1, and its bytes.
pub fn row_record(parent: u64, ordinal: u32, occurrence: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(ROW_PREFIX_BYTES + occurrence.len());
    record.extend_from_slice(&parent.to_be_bytes());
    record.extend_from_slice(&ordinal.to_be_bytes());
    record.extend_from_slice(&[0; FILLER_BYTES as usize]);
    record.extend_from_slice(occurrence);
    record
}

impl RecordSchema {
    /// What is in a [`row_record`] of a table of this schema (an index in [`RecordSchema::tables`], from 1). Its first two
    /// columns are the identity of what the row belongs to, and which occurrence it is; the others are the table's.
    ///
    /// # Errors
    /// In words, why a row can't stand by itself: what is in it depends on what is outside of it.
    pub fn of_rows(&self, table: usize) -> Result<RecordSchema, String> {
        let rows = self.tables().get(table).ok_or("there is no such table")?;
        let item = self.item(rows.item).ok_or("there is no such item")?;
        let mut occurrence = item.clone();
        occurrence.occurs = None;
        occurrence.redefines = None;
        occurrence.when = None;
        occurrence.align = 1;
        let prefix = |name: &str, bytes| {
            let field = FieldType::full_binary(bytes, true, Endian::Big);
            Item::field(item.level, Some(name.to_owned()), field)
        };
        let filler = Item::field(item.level, None, FieldType::Raw { len: FILLER_BYTES });
        let items = vec![prefix(PARENT, 8), prefix(ORDINAL, 4), filler, occurrence];
        let root = Item::group(1, Some(item.name_or_filler().to_owned()), items);
        let schema = RecordSchema::build(root, Vec::new(), self.dialect().clone())
            .map_err(|error| error.to_string())?;
        let there = schema.root().items().last();
        if !there.is_some_and(|there| is_laid_out_alike(item, there)) {
            return Err("slack bytes in it depend on where it lies in the record".to_owned());
        }
        Ok(schema)
    }
}

/// Whether everything in two groups lies at the same places.
fn is_laid_out_alike(one: &Item, other: &Item) -> bool {
    let same = (one.len, one.len_min, one.padding) == (other.len, other.len_min, other.padding);
    same && match (&one.content, &other.content) {
        (Content::Group(of_one), Content::Group(of_other)) => {
            let mut pairs = of_one.iter().zip(of_other);
            pairs.all(|(one, other)| {
                (one.offset_in_group, one.slack) == (other.offset_in_group, other.slack)
                    && is_laid_out_alike(one, other)
            })
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copybook::{Copybook, NoLibrary, Options, Text};
    use crate::schema::Dialect;
    use crate::{RecordDecoder, Room};
    use std::sync::Arc;

    fn schema(dialect: &str, items: &[&str]) -> RecordSchema {
        let lines = items.iter().map(|item| format!("       {item}.\n"));
        let source = Text {
            name: "order.cpy".into(),
            text: lines.collect(),
        };
        let options = Options {
            dialect: dialect.parse::<Dialect>().expect("a dialect"),
            format: None,
        };
        let read = Copybook::parse(&source, &options, &NoLibrary);
        let read = read.unwrap_or_else(|error| panic!("{error}"));
        read.records[0].clone()
    }

    /// The rows of a record, as cells, those of tables within them behind each.
    fn rows(schema: &RecordSchema, id: u64, record: &[u8]) -> Vec<String> {
        let schema = Arc::new(schema.clone());
        let decoder = RecordDecoder::new(Arc::clone(&schema));
        let mut found = Vec::new();
        let done = decoder.rows(record, &mut Room::default(), |table, ordinal, bytes| {
            found.push((table, row_record(id, ordinal, bytes)));
        });
        done.expect("all rows");
        let mut told = Vec::new();
        for (table, row) in found {
            let of_row = schema.of_rows(table).expect("it stands by itself");
            let mut cells = Vec::new();
            let shared = Arc::new(of_row.clone());
            RecordDecoder::new(shared).decode(&row, &mut Room::default(), |cell| {
                if cell.table == 0 {
                    let column = &of_row.columns()[cell.column];
                    let value = cell.value.map_or("?".to_owned(), |value| value.to_string());
                    cells.push(format!("{}={value}", column.name));
                }
            });
            told.push(cells.join(" "));
            told.extend(self::rows(&of_row, id * 100, &row));
        }
        told
    }

    #[test]
    fn rows_stand_by_themselves_with_the_tables_in_them() {
        let items = [
            "01 ORDER-RECORD",
            "05 ID PIC 99",
            "05 N PIC 9",
            "05 LINES-OF OCCURS 0 TO 3 DEPENDING ON N",
            "10 PARENT PIC X(2)",
            "10 M PIC 9",
            "10 LOT PIC X OCCURS 0 TO 4 DEPENDING ON M",
        ];
        // Where tables slide up, and where each takes its most.
        for (dialect, record) in [
            ("gnucobol,odo=slide", "072ab2xycd1z"),
            ("gnucobol", "072ab2xy..cd1z..      "),
        ] {
            let schema = schema(dialect, &items);
            assert_eq!(
                rows(&schema, 7, record.as_bytes()),
                [
                    "parent=7 ordinal_of_parent=1 lines_of_parent=ab m=2",
                    "parent=700 ordinal_of_parent=1 lot=x",
                    "parent=700 ordinal_of_parent=2 lot=y",
                    "parent=7 ordinal_of_parent=2 lines_of_parent=cd m=1",
                    "parent=700 ordinal_of_parent=1 lot=z",
                ],
                "{dialect}"
            );
        }
    }

    #[test]
    fn what_depends_on_what_is_outside_cant_stand_by_itself() {
        let outside = schema(
            "gnucobol",
            &[
                "01 R",
                "05 N PIC 9",
                "05 M PIC 9",
                "05 T OCCURS 0 TO 3 DEPENDING ON N",
                "10 U PIC X OCCURS 0 TO 2 DEPENDING ON M",
            ],
        );
        let why = outside.of_rows(1).expect_err("M is outside");
        assert!(why.contains('M'), "{why}");
        assert!(outside.of_rows(9).is_err());
    }

    #[test]
    fn a_record_that_ends_early_has_the_rows_that_are_in_it() {
        let items = [
            "01 R",
            "05 N PIC 9",
            "05 T PIC XX OCCURS 0 TO 5 DEPENDING ON N",
        ];
        let schema = schema("gnucobol", &items);
        let told = rows(&schema, 1, b"4aabbc");
        assert_eq!(
            told[..2],
            [
                "parent=1 ordinal_of_parent=1 t=aa",
                "parent=1 ordinal_of_parent=2 t=bb"
            ]
        );
        // Of the third there is a part, of the fourth nothing.
        assert_eq!(told[2..], ["parent=1 ordinal_of_parent=3 t=?"]);
    }
}
