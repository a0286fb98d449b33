//! Any text is a copybook or an error that can be shown, whatever the dialect and format are; what a schema says of itself holds.
//!
//! The first bytes choose dialect, switches and format. Texts follow, each ended by a zero byte: the copybook, and what COPY
//! finds, by turns.
#![no_main]

use counterfoil_fuzz::Input;
use counterfoil_records::copybook::{Copybook, Library, Options, SourceFormat, Text};
use counterfoil_records::schema::{BinarySizes, Dialect, Endian, Family, FloatFormat};
use libfuzzer_sys::fuzz_target;

/// Texts by the first letter of the name.
struct Texts(Vec<String>);

impl Library for Texts {
    fn find(&self, name: &str, _: Option<&str>, _: &str) -> Result<Text, String> {
        let first = usize::from(name.bytes().next().unwrap_or_default());
        let which = first.checked_rem(self.0.len()).ok_or("no texts")?;
        Ok(Text {
            name: format!("{which}.cpy"),
            text: self.0[which].clone(),
        })
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let family = input.one_of(&[Family::Gnucobol, Family::Ibm, Family::Mf]);
    let switches = input.byte();
    let mut dialect = Dialect::of(family);
    if switches & 1 != 0 {
        dialect.odo_slides = !dialect.odo_slides;
    }
    if switches & 2 != 0 {
        dialect.decimal_comma = !dialect.decimal_comma;
    }
    if switches & 4 != 0 {
        dialect.binary_sizes = BinarySizes::Fewest;
    }
    if switches & 8 != 0 {
        dialect.binary_endian = Endian::Little;
        dialect.sync_word = !dialect.sync_word;
        dialect.float = FloatFormat::IbmHex;
    }
    let format = input.one_of(&[
        None,
        Some(SourceFormat::Fixed),
        Some(SourceFormat::Variable),
        Some(SourceFormat::Free),
    ]);
    let source = Text {
        name: "main.cpy".to_owned(),
        text: input.text(),
    };
    let mut texts = Vec::new();
    while !input.0.is_empty() {
        texts.push(input.text());
    }
    let options = Options { dialect, format };
    match Copybook::parse(&source, &options, &Texts(texts)) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(copybook) => {
            for warning in &copybook.warnings {
                assert!(!warning.to_string().is_empty());
            }
            for record in &copybook.records {
                check(record);
            }
        }
    }
});

/// Columns lie in the record, and what is found by its name is that.
fn check(schema: &counterfoil_records::schema::RecordSchema) {
    assert!(schema.len_min() <= schema.len_max());
    for (nth, table) in schema.tables().iter().enumerate() {
        for column in &table.columns {
            assert_eq!(column.len, column.field.len());
            let item = schema.item(column.item).expect("a column is of an item");
            assert_eq!(item.id, column.item);
            if let (0, Some(offset)) = (nth, column.offset) {
                assert!(u64::from(offset) + u64::from(column.len) <= u64::from(schema.len_max()));
            }
        }
    }
}
