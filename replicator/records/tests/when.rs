//! What a configuration says of items: in which records they are there, and which bytes are no value.

use counterfoil_records::copybook::{Copybook, Library, Options, Text};
use counterfoil_records::schema::{FieldSpec, ItemSpec, RecordSchema};
use counterfoil_records::value::Value;
use counterfoil_records::{RecordDecoder, RecordEncoder, Room};
use std::collections::BTreeMap;
use std::sync::Arc;

struct NoLibrary;

impl Library for NoLibrary {
    fn find(&self, name: &str, _: Option<&str>, _: &str) -> Result<Text, String> {
        Err(format!("there is no {name}"))
    }
}

fn copybook(text: &str, dialect: &str) -> RecordSchema {
    let options = Options {
        dialect: dialect.parse().expect("a dialect"),
        format: None,
    };
    let text = Text {
        name: "test.cpy".into(),
        text: text.into(),
    };
    let parsed = Copybook::parse(&text, &options, &NoLibrary).expect("it is a copybook");
    parsed.record(None).expect("one record").clone()
}

fn item(toml: &str) -> ItemSpec {
    toml::from_str(toml).expect("an item")
}

fn with(schema: &RecordSchema, items: &[&str]) -> RecordSchema {
    items.iter().fold(schema.clone(), |schema, text| {
        schema
            .with_item(&item(text))
            .expect("it goes with the copybook")
    })
}

/// Values by column (of tables: with the row), as text; `NULL`, or `! reason`.
fn read(schema: &RecordSchema, record: &[u8]) -> BTreeMap<String, String> {
    let decoder = RecordDecoder::new(Arc::new(schema.clone()));
    let mut cells = BTreeMap::new();
    let read = decoder.decode(record, &mut Room::default(), |cell| {
        let column = &schema.tables()[cell.table].columns[cell.column];
        let name = match cell.row {
            [] => column.name.clone(),
            row => format!("{} {row:?}", column.name),
        };
        let shown = match &cell.value {
            Ok(Value::Null) => "NULL".to_owned(),
            Ok(value) => value.to_string(),
            Err(error) => format!("! {}", error.reason),
        };
        assert!(cells.insert(name, shown).is_none(), "a column comes once");
    });
    if let Some(problem) = read.problem {
        cells.insert("problem".into(), problem.to_string());
    }
    cells
}

fn is(cells: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(
            cells.get(*name).map(String::as_str),
            Some(*value),
            "{name} of {cells:?}"
        );
    }
}

/// Encoded again, from its former bytes and from nothing, a record is what it was.
fn comes_back(schema: &RecordSchema, record: &[u8]) {
    let decoder = RecordDecoder::new(Arc::new(schema.clone()));
    let mut cells = BTreeMap::new();
    decoder.decode(record, &mut Room::default(), |cell| {
        let key = (cell.table, cell.row.to_vec(), cell.column);
        let value = match cell.value {
            Ok(Value::Text(text)) => Owned::Text(text.to_owned()),
            Ok(value) => Owned::Other(
                value.to_string(),
                matches!(value, Value::Null),
                cell_number(&value),
            ),
            Err(_) => Owned::Other(String::new(), true, None),
        };
        cells.insert(key, value);
    });
    let encoder = RecordEncoder::new(decoder);
    for former in [Some(record), None] {
        let mut out = Vec::new();
        encoder
            .encode(
                former,
                &mut |wanted| {
                    let key = (wanted.table, wanted.row.to_vec(), wanted.column);
                    cells.get(&key).map(Owned::value)
                },
                &mut out,
            )
            .expect("it came from there");
        assert_eq!(out, record, "with former bytes: {}", former.is_some());
    }
}

fn cell_number(value: &Value<'_>) -> Option<Value<'static>> {
    match value {
        Value::Number(number) => Some(Value::Number(*number)),
        Value::Date(date) => Some(Value::Date(*date)),
        _ => None,
    }
}

enum Owned {
    Text(String),
    Other(String, bool, Option<Value<'static>>),
}

impl Owned {
    fn value(&self) -> Value<'_> {
        match self {
            Owned::Text(text) => Value::Text(text),
            Owned::Other(_, true, _) => Value::Null,
            Owned::Other(_, false, Some(value)) => *value,
            Owned::Other(text, false, None) => panic!("{text} is of no type that this test has"),
        }
    }
}

const SEGMENTS: &str = "
       01 REC.
          05 KIND PIC 9(3).
             88 IS-PERSON VALUE 1 THRU 99.
             88 IS-FIRM   VALUE 100 200 THRU 299.
          05 PERSON.
             10 NAME PIC X(6).
          05 FIRM REDEFINES PERSON.
             10 SHARES PIC 9(4)V99.
          05 OTHER REDEFINES PERSON PIC X(6).
";

#[test]
fn condition_names_ranges_and_negations_choose() {
    let schema = with(
        &copybook(SEGMENTS, "gnucobol"),
        &[
            "name = 'PERSON'\nwhen = { condition = 'IS-PERSON' }",
            "name = 'FIRM'\nwhen = { condition = 'is-firm' }",
            "name = 'OTHER'\nwhen = [{ field = 'KIND', is_not = [100] }, { field = 'KIND', between = [300, 999] }]",
        ],
    );
    for (record, name, shares, other) in [
        ("001ANNA  ", "ANNA", "NULL", "NULL"),
        ("099ANNA  ", "ANNA", "NULL", "NULL"),
        ("100001234", "NULL", "12.34", "NULL"),
        ("250001234", "NULL", "12.34", "NULL"),
        ("300001234", "NULL", "NULL", "001234"),
        ("150001234", "NULL", "NULL", "NULL"),
    ] {
        let cells = read(&schema, record.as_bytes());
        is(
            &cells,
            &[("name", name), ("shares", shares), ("other", other)],
        );
        if record != "150001234" {
            comes_back(&schema, record.as_bytes());
        }
    }
    // Letters in a number that isn't there are no error; in one that is there they are.
    let cells = read(&schema, b"001ANNA  ");
    assert!(
        !cells.values().any(|value| value.starts_with('!')),
        "{cells:?}"
    );
    let cells = read(&schema, b"200ANNA  ");
    assert!(cells["shares"].starts_with('!'), "{cells:?}");
    // A discriminator that can't be decoded is reported itself, and says nothing.
    let cells = read(&schema, b"x00ANNA  ");
    assert!(cells["kind"].starts_with('!'), "{cells:?}");
    is(
        &cells,
        &[("name", "NULL"), ("shares", "NULL"), ("other", "NULL")],
    );
}

#[test]
fn a_when_that_makes_no_sense_says_why() {
    let schema = copybook(SEGMENTS, "gnucobol");
    for (spec, says) in [
        (
            "name = 'FIRM'\nwhen = { condition = 'NOPE' }",
            "there is no condition name (level 88) \"NOPE\"",
        ),
        ("name = 'FIRM'\nwhen = { is = 'A' }", "names a `field`"),
        (
            "name = 'FIRM'\nwhen = { field = 'KIND' }",
            "doesn't say what KIND",
        ),
        (
            "name = 'FIRM'\nwhen = { field = 'KIND', between = [1] }",
            "takes two values",
        ),
        (
            "name = 'FIRM'\nwhen = { field = 'PERSON', is = 'A' }",
            "isn't a field",
        ),
        ("name = 'FIRM'\nnull_if = 'A'", "this is a group"),
        ("name = 'SHARES'\nnull_if = ['A']", "is no value of"),
        ("name = 'SHARES'\noccurs = 'columns'", "occurs once"),
    ] {
        let error = schema.with_item(&item(spec)).expect_err(spec);
        assert!(error.contains(says), "{error}");
    }
    let error = toml::from_str::<ItemSpec>("name = 'FIRM'\nwhen = { field = 'KIND', iz = 'A' }")
        .expect_err("a typo");
    assert!(error.to_string().contains("iz"), "{error}");
}

const COUNTED: &str = "
       01 REC.
          05 KIND PIC X.
          05 BODY PIC X(10).
          05 LINES-PART REDEFINES BODY.
             10 HOW-MANY PIC 9.
             10 LINE-ENTRY OCCURS 1 TO 3 TIMES DEPENDING ON HOW-MANY.
                15 AMOUNT PIC 9(3).
";

#[test]
fn a_counted_table_is_counted_only_where_it_is() {
    for dialect in ["gnucobol", "gnucobol,odo=slide"] {
        let plain = copybook(COUNTED, dialect);
        // Without a discriminator, text is taken for a count.
        assert!(read(&plain, b"Thello     ").contains_key("problem"));
        let schema = with(
            &plain,
            &[
                "name = 'LINES-PART'\nwhen = { field = 'KIND', is = 'L' }",
                "name = 'BODY'\nwhen = { field = 'KIND', is_not = ['L'] }",
            ],
        );
        let cells = read(&schema, b"Thello     ");
        is(&cells, &[("body", "hello"), ("how_many", "NULL")]);
        assert_eq!(cells.len(), 3, "no rows, and no problem: {cells:?}");
        comes_back(&schema, b"Thello     ");
        let cells = read(&schema, b"L2001002   ");
        is(
            &cells,
            &[
                ("body", "NULL"),
                ("how_many", "2"),
                ("amount [1]", "1"),
                ("amount [2]", "2"),
            ],
        );
        assert_eq!(cells.len(), 5, "{cells:?}");
    }
}

#[test]
fn occurrences_can_be_columns() {
    let text = "
       01 REC.
          05 HOW-MANY PIC 9.
          05 ENTRY-LINE OCCURS 0 TO 3 TIMES DEPENDING ON HOW-MANY.
             10 AMOUNT PIC 9(2).
             10 NOTE PIC X.
          05 BEHIND PIC X(2).
";
    for (dialect, record) in [
        ("gnucobol", &b"201a02bxxxZZ"[..]),
        ("ibm,code-page=latin-1,sign=ascii", &b"201a02bZZ"[..]),
    ] {
        let schema = with(
            &copybook(text, dialect),
            &["name = 'ENTRY-LINE'\noccurs = 'columns'"],
        );
        assert_eq!(schema.tables().len(), 1);
        let cells = read(&schema, record);
        is(
            &cells,
            &[
                ("amount_1", "1"),
                ("note_2", "b"),
                ("amount_3", "NULL"),
                ("note_3", "NULL"),
                ("behind", "ZZ"),
            ],
        );
        assert_eq!(cells.len(), 8, "{cells:?}");
        // Every column once and in order.
        let mut order = Vec::new();
        RecordDecoder::new(Arc::new(schema.clone()))
            .decode(record, &mut Room::default(), |cell| order.push(cell.column));
        assert_eq!(order, (0..8).collect::<Vec<_>>());
        // What counts can't be read: nothing behind it can.
        let cells = read(&schema, b"x01a02bxxxZZ");
        assert!(cells.contains_key("problem"));
        assert_eq!(cells.len(), 9, "{cells:?}");
    }
}

#[test]
fn bytes_without_a_value_are_what_is_said() {
    let schema = copybook(
        "
       01 REC.
          05 N PIC 9(3).
          05 D PIC 9(8).
          05 T PIC X(2).
          05 B PIC S9(4) COMP.
",
        "gnucobol",
    );
    let usual = with(&schema, &["name = 'D'\ndate = 'YYYYMMDD'"]);
    let cells = read(&usual, b"   00000000  \0\0");
    is(
        &cells,
        &[("n", "NULL"), ("d", "NULL"), ("t", ""), ("b", "0")],
    );
    let cells = read(&usual, b"a1 20231301xx\0\0");
    assert!(
        cells["n"].starts_with('!') && cells["d"].starts_with('!'),
        "{cells:?}"
    );
    let cells = read(&usual, b"00099991231xx\0\0");
    is(&cells, &[("d", "9999-12-31")]);

    let strict = usual
        .with_blank(counterfoil_records::value::Unset::Error)
        .expect("it can");
    let cells = read(&strict, b"   00000000  \0\0");
    assert!(
        cells["n"].starts_with('!') && cells["d"].starts_with('!'),
        "{cells:?}"
    );
    assert_ne!(
        strict.schema_id(),
        usual.schema_id(),
        "what it says of bytes is another"
    );

    let lenient = with(
        &usual,
        &[
            "name = 'D'\nnull_if = ['99991231', '18991399']",
            "name = 'N'\ninvalid = 'null'",
            "name = 'T'\nnull_if = ['', 'NA']",
            "name = 'B'\nnull_if = [-1]",
        ],
    );
    for (record, n, d, t, b) in [
        (
            &b"a1 99991231NA\xFF\xFF"[..],
            "NULL",
            "NULL",
            "NULL",
            "NULL",
        ),
        (b"007189913990 \0\x01", "7", "NULL", "0", "1"),
    ] {
        is(
            &read(&lenient, record),
            &[("n", n), ("d", d), ("t", t), ("b", b)],
        );
    }
    // From nothing, NULL is written as the first placeholder; former bytes stay as they are.
    comes_back(&lenient, b"00799991231  \xFF\xFF");
    let cells = read(&lenient, b"0072023130199\0\x01");
    assert!(
        cells["d"].starts_with('!'),
        "any other date that doesn't exist is still wrong: {cells:?}"
    );
}

#[test]
fn a_field_list_says_the_same() {
    #[derive(serde::Deserialize)]
    struct Fields {
        field: Vec<FieldSpec>,
    }
    let text = r#"
[[field]]
name = "kind"
type = "text(1)"
[[field]]
name = "day"
type = "zoned(6) as YYMMDD from 1940"
null_if = "999999"
invalid = "null"
[[field]]
name = "code"
type = "zoned(6)"
redefines = "day"
when = { field = "kind", is_not = "D" }
[[field]]
name = "n"
type = "zoned(1)"
[[field]]
name = "x"
type = "text(1)"
occurs = { max = 2, depending_on = "n", as = "columns" }
"#;
    let fields: Fields = toml::from_str(text).expect("fields");
    let schema = RecordSchema::of_fields("r", &fields.field, &"gnucobol".parse().expect("it is"))
        .expect("a schema");
    is(
        &read(&schema, b"D3912311a "),
        &[
            ("day", "2039-12-31"),
            ("code", "NULL"),
            ("x_1", "a"),
            ("x_2", "NULL"),
        ],
    );
    is(&read(&schema, b"D4001011a "), &[("day", "1940-01-01")]);
    is(
        &read(&schema, b"C0000010  "),
        &[("code", "1"), ("x_1", "NULL")],
    );
}

#[test]
fn a_value_for_what_isn_t_there_is_refused() {
    let schema = with(
        &copybook(SEGMENTS, "gnucobol"),
        &[
            "name = 'PERSON'\nwhen = { field = 'KIND', is = '1' }",
            "name = 'FIRM'\nwhen = { field = 'KIND', is = '2' }",
            "name = 'OTHER'\nwhen = { field = 'KIND', is = '3' }",
        ],
    );
    let encoder = RecordEncoder::new(RecordDecoder::new(Arc::new(schema.clone())));
    let encode = |former: Option<&[u8]>| {
        let mut out = Vec::new();
        let mut value = |wanted: counterfoil_records::Wanted<'_>| match schema.columns()
            [wanted.column]
            .name
            .as_str()
        {
            "kind" => Some(Value::Number("1".parse().expect("a number"))),
            "name" => Some(Value::Text("ANNA")),
            "shares" => Some(Value::Number("2.5".parse().expect("a number"))),
            _ => None,
        };
        let encoded = encoder.encode(former, &mut value, &mut out);
        (encoded.map_err(|error| error.to_string()), out)
    };
    for former in [None, Some(&b"001ANNA  "[..])] {
        let (encoded, out) = encode(former);
        let error = encoded.expect_err("shares aren't there");
        assert!(
            error.contains("shares has a value, but by its `when`"),
            "{error}"
        );
        assert!(out.is_empty());
    }
}

/// A file with several level 01 has them all at one place.
#[test]
fn several_records_of_a_file_are_ways_to_see_it() {
    let text = Text {
        name: "dir/party.cpy".into(),
        text: "
       01 HEADER-REC.
          05 KIND PIC X.
             88 IS-HEADER VALUE 'H'.
          05 RUN-DAY PIC 9(8).
       01 DETAIL-REC.
          05 KIND PIC X.
          05 AMOUNT PIC S9(5)V99 COMP-3.
          05 HOW-MANY PIC 9.
          05 NOTE PIC X(2) OCCURS 1 TO 3 TIMES DEPENDING ON HOW-MANY.
       01 TRAILER-REC PIC X(4).
"
        .into(),
    };
    let copybook = Copybook::parse(&text, &Options::default(), &NoLibrary).expect("a copybook");
    let error = copybook.records_named(None).expect_err("there are three");
    assert!(
        error.contains("HEADER-REC, DETAIL-REC, TRAILER-REC"),
        "{error}"
    );
    assert!(copybook.records_named(Some("HEADER-REC, NOPE")).is_err());
    assert_eq!(
        copybook
            .records_named(Some("trailer-rec"))
            .expect("one")
            .len_max(),
        4
    );
    let two = copybook
        .records_named(Some("HEADER-REC,TRAILER-REC"))
        .expect("two");
    assert_eq!((two.len_min(), two.len_max()), (9, 9));
    let all = copybook.records_named(Some("*")).expect("all");
    assert_eq!(all.name(), "PARTY");
    let schema = with(
        &all,
        &[
            "name = 'HEADER-REC'\nwhen = { condition = 'IS-HEADER' }",
            "name = 'DETAIL-REC'\nwhen = { field = 'KIND OF DETAIL-REC', is = 'D' }",
            "name = 'TRAILER-REC'\nwhen = { field = 'KIND OF HEADER-REC', is_not = ['H', 'D'] }",
        ],
    );
    is(
        &read(&schema, b"H20260131      "),
        &[
            ("header_rec_kind", "H"),
            ("run_day", "20260131"),
            ("amount", "NULL"),
            ("trailer_rec", "NULL"),
        ],
    );
    let cells = read(&schema, b"D\0\x12\x34\x5d2aabb");
    is(
        &cells,
        &[
            ("detail_rec_kind", "D"),
            ("amount", "-123.45"),
            ("note [2]", "bb"),
            ("run_day", "NULL"),
        ],
    );
    let cells = read(&schema, b"END.");
    is(
        &cells,
        &[
            ("trailer_rec", "END."),
            ("amount", "NULL"),
            ("how_many", "NULL"),
        ],
    );
    assert!(!cells.contains_key("problem"), "{cells:?}");
}
