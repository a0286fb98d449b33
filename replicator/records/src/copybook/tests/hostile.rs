//! Whatever the text is: schemas or an error, quickly, and never a panic.

use super::{ACCOUNT, NoLibrary, parse_with};
use crate::schema::RecordSchema;
use proptest::prelude::*;

/// What every schema that is given out promises.
fn sound(schema: &RecordSchema) {
    assert!(schema.len_min() <= schema.len_max());
    for table in schema.tables() {
        let mut names: Vec<&str> = table.columns.iter().map(|it| it.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), table.columns.len());
        for column in &table.columns {
            let end = column.offset.map(|offset| offset + column.len);
            assert!(end.is_none_or(|end| end <= schema.len_max()));
        }
    }
    // A walk ends where the record does, with the longest tables and with the shortest.
    let bound = |longest: bool| {
        let mut bounds = Vec::new();
        schema.root().visit(&mut |item| {
            if let Some(occurs) = &item.occurs
                && let Some(counter) = &occurs.depending_on
            {
                bounds.push((counter.id, if longest { occurs.max } else { occurs.min }));
            }
        });
        let mut ambiguous = false;
        for (at, (id, times)) in bounds.iter().enumerate() {
            ambiguous |= bounds[..at]
                .iter()
                .any(|(other, n)| other == id && n != times);
        }
        (!ambiguous).then_some(bounds)
    };
    if schema.len_max() > 100_000 {
        return;
    }
    for longest in [true, false] {
        let Some(bounds) = bound(longest) else { return };
        let mut columns_seen = 0;
        let end = schema
            .walk(
                &mut |item, _, _| {
                    let found = bounds.iter().find(|(id, _)| *id == item.id);
                    Ok(found.map_or(0, |(_, times)| u64::from(*times)))
                },
                &mut |placed| {
                    let column = &schema.tables()[placed.table].columns[placed.column];
                    assert_eq!(column.item, placed.item.id);
                    if placed.table == 0 {
                        columns_seen += 1;
                        assert!(column.offset.is_none_or(|offset| offset == placed.offset));
                    }
                },
            )
            .unwrap();
        assert_eq!(columns_seen, schema.columns().len());
        if longest {
            assert_eq!(end, schema.len_max());
        } else if schema.dialect().odo_slides {
            assert_eq!(end, schema.len_min());
        }
    }
}

fn read(text: &str) {
    for dialect in ["gnucobol", "ibm", "mf"] {
        match parse_with(text, dialect, &NoLibrary) {
            Ok(copybook) => copybook.records.iter().for_each(sound),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

const WORDS: &[&str] = &[
    "01",
    "05",
    "05",
    "10",
    "15",
    "66",
    "77",
    "78",
    "88",
    "A",
    "B",
    "C",
    "N",
    "FILLER",
    "PIC",
    "PIC X",
    "PIC 9(3)",
    "PIC S9(5)V99",
    "PIC Z9.9",
    "COMP",
    "COMP-3",
    "COMP-1",
    "SYNC",
    "OCCURS",
    "OCCURS 3",
    "OCCURS 0 TO 4 DEPENDING ON N",
    "DEPENDING",
    "ON",
    "REDEFINES A",
    "REDEFINES",
    "RENAMES A THRU B",
    "VALUE",
    "VALUE 1",
    "'text'",
    "'",
    "ZERO",
    "THRU",
    "IS",
    "SIGN LEADING",
    "SEPARATE",
    "JUST",
    "BLANK ZERO",
    "USAGE",
    "COPY X",
    "COPY",
    "REPLACING",
    "REPLACE",
    "==",
    "== A ==",
    "BY",
    "OFF",
    ".",
    ".",
    ".",
    ".\n       ",
    ".\n      -",
    "(",
    ")",
    "X(",
    "(5)",
    ",",
    "ALL",
    "EXEC",
    "END-EXEC",
    "CONSTANT",
    "TO",
    "TIMES",
    "\n",
    "\t",
    "*>",
    "é",
];

proptest! {
    #[test]
    fn garbage_is_refused(text in "\\PC{0,200}") {
        read(&text);
    }

    #[test]
    fn words_in_any_order_are_read_or_refused(words in prop::collection::vec(prop::sample::select(WORDS), 0..60)) {
        read(&format!("       {}", words.join(" ")));
    }

    #[test]
    fn a_copybook_that_was_damaged_is_read_or_refused(
        edits in prop::collection::vec((0usize..ACCOUNT.len(), 0usize..30, prop::sample::select(WORDS)), 1..6)
    ) {
        let mut text = ACCOUNT.to_owned();
        for (at, cut, word) in edits {
            let floor = |at: usize| {
                let mut at = at.min(text.len());
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let (from, to) = (floor(at), floor(at + cut));
            text.replace_range(from..to, word);
        }
        read(&text);
    }

    #[test]
    fn descriptions_that_fit_together_are_sound(
        items in prop::collection::vec((0usize..4, 0usize..8, 0usize..6), 1..25)
    ) {
        let mut text = String::from("       01 R.\n          05 N PIC 9.\n");
        for (number, (depth, kind, extra)) in items.iter().enumerate() {
            let level = 5 + depth * 5;
            let kind = ["", "PIC X(3)", "PIC 9(4) COMP SYNC", "PIC S9(7) COMP-3", "COMP-2 SYNC", "PIC XX", "PIC 9", "PIC X"][*kind];
            let extra = ["", "", "OCCURS 3", "OCCURS 0 TO 4 DEPENDING ON N", "OCCURS 1 TO 2 DEPENDING N", ""][*extra];
            text.push_str(&format!("          {level:02} I-{number} {kind} {extra}.\n"));
        }
        read(&text);
    }
}

#[test]
fn texts_that_grow_are_stopped() {
    use super::super::{Copybook, Library, Options, Text};
    struct Doubling;
    impl Library for Doubling {
        fn find(&self, name: &str, _: Option<&str>, _: &str) -> Result<Text, String> {
            let depth: usize = name[1..].parse().unwrap();
            let next = format!("COPY D{} REPLACING ==:A:== BY ==:A::A:==.\n", depth + 1);
            Ok(Text {
                name: name.to_owned(),
                text: match depth {
                    28.. => "05 X:A: PIC X.\n".to_owned(),
                    _ => format!("{next}{next}"),
                },
            })
        }
    }
    let text = Text {
        name: "t".to_owned(),
        text: "01 R.\nCOPY D0.\n".to_owned(),
    };
    let error = Copybook::parse(&text, &Options::default(), &Doubling).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
    let deep = format!("       05 A PIC X VALUE {}.", "ALL ".repeat(200_000));
    read(&deep);
}
