use super::*;

fn text(name: &str, len: u32) -> Item {
    let field = FieldType::Text {
        len,
        code_page: CodePage::Ascii,
        right: false,
    };
    Item::field(5, Some(name.to_owned()), field)
}

fn digits(name: &str, digits: u16) -> Item {
    let field = FieldType::Zoned {
        number: Decimal { digits, scale: 0 },
        sign: ZonedSign::Unsigned,
        zones: Zones::Ascii,
        blank_when_zero: false,
    };
    Item::field(5, Some(name.to_owned()), field)
}

fn group(name: &str, items: Vec<Item>) -> Item {
    Item::group(5, Some(name.to_owned()), items)
}

fn times(mut item: Item, min: u32, max: u32, counter: Option<&str>) -> Item {
    item.occurs = Some(Occurs {
        min,
        max,
        depending_on: counter.map(ItemRef::named),
    });
    item
}

fn build(items: Vec<Item>, slides: bool) -> RecordSchema {
    let dialect = Dialect {
        odo_slides: slides,
        ..Dialect::default()
    };
    RecordSchema::build(group("REC", items), Vec::new(), dialect).unwrap()
}

fn names(schema: &RecordSchema) -> Vec<&str> {
    schema.columns().iter().map(|it| it.name.as_str()).collect()
}

#[test]
fn columns_have_names_of_their_own_and_places() {
    let schema = build(
        vec![
            text("CARD-NUMBER", 16),
            times(
                group("LINE", vec![text("A", 1), times(text("B", 2), 2, 2, None)]),
                2,
                2,
                None,
            ),
            group("HOME", vec![text("STREET", 4)]),
            group(
                "WORK",
                vec![text("STREET", 4), text("DATA", 1), text("1ST", 1)],
            ),
        ],
        false,
    );
    assert_eq!(
        names(&schema),
        [
            "card_number",
            "a_1",
            "b_1_1",
            "b_1_2",
            "a_2",
            "b_2_1",
            "b_2_2",
            "home_street",
            "work_street",
            "data_field",
            "f1st"
        ]
    );
    let offsets: Vec<u32> = schema.columns().iter().filter_map(|it| it.offset).collect();
    assert_eq!(offsets, [0, 16, 17, 19, 21, 22, 24, 26, 30, 34, 35]);
    assert_eq!((schema.len_min(), schema.len_max()), (36, 36));
    assert!(schema.columns()[0].is_called("card-number"));
    assert!(schema.is_fixed());
}

/// Table, row, column and offset of a value.
type Seen = (usize, Vec<u32>, String, u32);

fn places(schema: &RecordSchema, counts: &[u64]) -> (u32, Vec<Seen>) {
    let mut counts = counts.iter();
    let mut seen = Vec::new();
    let end = schema
        .walk(&mut |_, _, _| Ok(*counts.next().unwrap()), &mut |at| {
            let column = &schema.tables()[at.table].columns[at.column];
            assert_eq!(column.item, at.item.id);
            seen.push((at.table, at.row.to_vec(), column.name.clone(), at.offset));
        })
        .unwrap();
    (end, seen)
}

#[test]
fn what_is_behind_a_table_slides_if_the_dialect_says_so() {
    let items = || {
        vec![
            digits("N", 1),
            times(
                group(
                    "ENTRY",
                    vec![
                        digits("M", 1),
                        times(text("X", 2), 0, 3, Some("M")),
                        text("Y", 1),
                    ],
                ),
                1,
                2,
                Some("N"),
            ),
            text("END", 1),
        ]
    };
    let row =
        |row: &[u32], table: usize, name: &str, at: u32| (table, row.to_vec(), name.to_owned(), at);
    let slides = build(items(), true);
    assert_eq!(
        (slides.len_min(), slides.len_max()),
        (1 + 2 + 1, 1 + 16 + 1)
    );
    assert_eq!(names(&slides), ["n", "end"]);
    assert_eq!(slides.columns()[1].offset, None);
    assert_eq!(slides.tables().len(), 3);
    assert_eq!(slides.tables()[2].parent, Some(1));
    assert_eq!(
        places(&slides, &[2, 1, 2]),
        (
            1 + 4 + 6 + 1,
            vec![
                row(&[], 0, "n", 0),
                row(&[1], 1, "m", 1),
                row(&[1, 1], 2, "x", 2),
                row(&[1], 1, "y", 4),
                row(&[2], 1, "m", 5),
                row(&[2, 1], 2, "x", 6),
                row(&[2, 2], 2, "x", 8),
                row(&[2], 1, "y", 10),
                row(&[], 0, "end", 11),
            ]
        )
    );
    let stays = build(items(), false);
    assert_eq!(stays.len_min(), 18);
    let (end, seen) = places(&stays, &[1, 0]);
    assert_eq!(end, 18);
    assert_eq!(seen.last().unwrap(), &row(&[], 0, "end", 17));
    // Out of bounds is an error, not a guess.
    let error = slides.walk(&mut |_, _, _| Ok(3), &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().contains("3 isn't within 1 and 2"),
        "{error}"
    );
}

#[test]
fn a_record_that_ends_with_its_table_is_shorter_where_nothing_slides() {
    let schema = build(
        vec![digits("N", 2), times(text("X", 3), 0, 20, Some("N"))],
        false,
    );
    assert_eq!((schema.len_min(), schema.len_max()), (2, 62));
}

#[test]
fn redefinitions_share_their_begin_and_the_longest_decides() {
    let mut b = text("B", 6);
    b.redefines = Some(ItemRef::named("A"));
    let schema = build(vec![text("K", 1), text("A", 4), b, text("C", 1)], true);
    let offsets: Vec<_> = schema
        .columns()
        .iter()
        .map(|it| it.offset.unwrap())
        .collect();
    assert_eq!(offsets, [0, 1, 1, 7]);
    let nullable: Vec<_> = schema.columns().iter().map(|it| it.nullable).collect();
    assert_eq!(nullable, [false, true, true, false]);
    assert_eq!(places(&schema, &[]).0, 8);
}

#[test]
fn the_identity_changes_with_the_columns_and_nothing_else() {
    let id = |items| build(items, false).schema_id().to_owned();
    let base = id(vec![text("A", 4), text("B", 4)]);
    assert_eq!(base, id(vec![text("a", 4), text("B", 4)]));
    let grouped = id(vec![group("G", vec![text("A", 4), text("B", 4)])]);
    assert_eq!(base, grouped);
    let mut others = vec![
        id(vec![text("A", 4), text("B", 5)]),
        id(vec![text("B", 4), text("A", 4)]),
        id(vec![text("A", 4), digits("B", 4)]),
        id(vec![text("A", 4), text("C", 4)]),
        id(vec![text("A", 4), text("B", 4), text("C", 1)]),
    ];
    others.push(base);
    others.sort();
    others.dedup();
    assert_eq!(others.len(), 6);
}

#[test]
fn long_names_are_cut_and_stay_different() {
    let long = |end: &str| text(&format!("{}{end}", "LONG-".repeat(20)), 1);
    let schema = build(
        vec![
            long("A"),
            long("B"),
            text("X-1", 1),
            times(text("X", 1), 2, 2, None),
        ],
        false,
    );
    let names = names(&schema);
    assert!(names.iter().all(|name| name.len() <= NAME_BYTES_MAX));
    assert_ne!(names[0], names[1]);
    assert_eq!(names[2..], ["x_1", "x_1_2", "x_2"]);
}

#[test]
fn dates_say_what_they_are() {
    let kind = |pattern: &str| {
        pattern
            .parse::<DateFormat>()
            .map(|it| (it.kind(), it.chars()))
    };
    assert_eq!(kind("YYYYMMDD"), Ok((DateKind::Date, 8)));
    assert_eq!(kind("yyddd"), Ok((DateKind::Date, 5)));
    assert_eq!(kind("CYYMMDD"), Ok((DateKind::Date, 7)));
    assert_eq!(kind("HHMMSS"), Ok((DateKind::Time, 6)));
    assert_eq!(
        kind("YYYY-MM-DD-HH.MM.SS.FFFFFF"),
        Ok((DateKind::Timestamp, 26))
    );
    for bad in [
        "",
        "YYYY",
        "MMDD",
        "YYYYMMDDYYYY",
        "HH",
        "Q",
        "YYYYMM",
        "HHMIFF",
        "ä",
    ] {
        assert!(kind(bad).is_err(), "{bad}");
    }
}

#[test]
fn dialects_are_read_as_they_are_written() {
    for text in [
        "gnucobol",
        "ibm",
        "mf,sync=on",
        "gnucobol,binary=2-4-8,trunc=off,sign=overpunch,odo=slide,code-page=cp037,decimal=comma,currency=€",
    ] {
        let dialect: Dialect = text.parse().unwrap();
        assert_eq!(dialect.to_string().parse::<Dialect>().unwrap(), dialect);
    }
    let error = "ibm,sign=no".parse::<Dialect>().unwrap_err().to_string();
    assert_eq!(
        error,
        "`sign` of a dialect is ascii, overpunch or ebcdic, not \"no\""
    );
    assert!("cobol".parse::<Dialect>().is_err());
}

#[test]
fn types_are_read_as_they_are_written() {
    let dialect = Dialect::default();
    for text in [
        "text(10) cp037",
        "text(3) right utf-8",
        "national(4) utf-16le",
        "edited(ZZ9.99-) blank-when-zero latin-1",
        "zoned(9,2) signed leading separate ebcdic",
        "zoned(3,-3) signed overpunch",
        "zoned(5) blank-when-zero ascii",
        "packed(9,2) signed",
        "packed(4) no-sign",
        "int32(9) big",
        "uint24(8) little full",
        "int64(18,2) big full",
        "float32 hex big",
        "float64 ieee little",
        "raw(8)",
        "zoned(8) ascii as YYYYMMDD",
        "text(26) latin-1 as YYYY-MM-DD-HH.MM.SS.FFFFFF",
    ] {
        let field = FieldType::parse(text, &dialect).unwrap();
        assert_eq!(field.to_string(), text);
    }
    let of = |text: &str| FieldType::parse(text, &dialect);
    assert_eq!(of("uint16").unwrap().to_string(), "uint16(5) little full");
    assert_eq!(
        of("edited(Z(3)9)").unwrap().to_string(),
        "edited(ZZZ9) latin-1"
    );
    for (bad, part) in [
        ("char(3)", "there is no type \"char\""),
        ("text", "text takes a length"),
        ("text(0)", "text takes a length"),
        ("text(3) signed", "\"signed\" doesn't go with text"),
        ("packed(39)", "1 to 38"),
        ("int12", "there is no type"),
        ("float32 as YYYYMMDD", "can't hold a date"),
        ("zoned(6) as YYYYMMDD", "takes 8 characters"),
        ("zoned(10) as YYYY-MM-DD", "signs between digits"),
        ("edited(99)", "edits nothing"),
        ("text(3", "closing parenthesis"),
    ] {
        let error = of(bad).unwrap_err();
        assert!(error.contains(part), "{bad}: {error}");
    }
}

fn spec(name: &str, kind: &str) -> FieldSpec {
    FieldSpec {
        name: Some(name.to_owned()),
        kind: Some(kind.to_owned()),
        ..FieldSpec::default()
    }
}

#[test]
fn a_field_list_is_a_schema() {
    let fields = [
        spec("kind", "text(1)"),
        FieldSpec {
            name: None,
            ..spec("", "raw(3)")
        },
        spec("amount", "packed(9,2) signed"),
        FieldSpec {
            redefines: Some("amount".to_owned()),
            when: Some(WhenSpec::is("kind", vec!["B".to_owned()]).into()),
            ..spec("code", "text(5)")
        },
        FieldSpec {
            name: Some("line".to_owned()),
            fields: vec![spec("n", "uint16 big"), spec("t", "text(2)")],
            occurs: Some(OccursSpec::Times(2)),
            ..FieldSpec::default()
        },
    ];
    let schema = RecordSchema::of_fields("rec", &fields, &Dialect::default()).unwrap();
    assert_eq!(schema.len_max(), 1 + 3 + 5 + 8);
    assert_eq!(
        names(&schema),
        ["kind", "amount", "code", "n_1", "t_1", "n_2", "t_2"]
    );
    assert_eq!(schema.columns()[2].when[0].test.values, ["B"]);
    for (field, part) in [
        (
            FieldSpec {
                kind: None,
                ..spec("a", "")
            },
            "a has neither",
        ),
        (spec("a b", "raw(1)"), "can't be the name"),
        (spec("a", "raw"), "a: raw takes a length"),
        (
            FieldSpec {
                redefines: Some("z".to_owned()),
                ..spec("a", "raw(1)")
            },
            "a redefines z",
        ),
        (
            FieldSpec {
                occurs: Some(OccursSpec::Times(0)),
                ..spec("a", "raw(1)")
            },
            "0 to 0 times",
        ),
    ] {
        let error = RecordSchema::of_fields("rec", &[field], &Dialect::default()).unwrap_err();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn what_a_copybook_cannot_say_is_added() {
    let schema = build(
        vec![
            group("A", vec![digits("DAY", 8)]),
            group("B", vec![digits("DAY", 8), text("C", 2)]),
        ],
        false,
    );
    let item = |name: &str| ItemSpec {
        name: name.to_owned(),
        ..ItemSpec::default()
    };
    let dated = schema
        .with_item(&ItemSpec {
            date: Some("YYYYMMDD".to_owned()),
            ..item("DAY of B")
        })
        .unwrap();
    assert_eq!(dated.columns()[0].field, schema.columns()[0].field);
    assert_eq!(
        dated.columns()[1].field.to_string(),
        "zoned(8) ascii as YYYYMMDD"
    );
    assert_ne!(dated.schema_id(), schema.schema_id());
    let typed = schema
        .with_item(&ItemSpec {
            kind: Some("uint16 big".to_owned()),
            ..item("c")
        })
        .unwrap();
    assert_eq!(typed.columns()[2].field.to_string(), "uint16(5) big full");
    for (spec, part) in [
        (item("DAY"), "2 items of REC are called"),
        (item("X"), "no item \"X\""),
        (
            ItemSpec {
                kind: Some("raw(3)".to_owned()),
                ..item("C")
            },
            "takes 3 bytes",
        ),
        (
            ItemSpec {
                date: Some("YYYYMMDD".to_owned()),
                ..item("C")
            },
            "takes 8 characters",
        ),
        (
            ItemSpec {
                date: Some("YYYYMMDD".to_owned()),
                ..item("A")
            },
            "is a group",
        ),
    ] {
        let error = schema.with_item(&spec).unwrap_err();
        assert!(error.contains(part), "{part}: {error}");
    }
}
