use super::*;
use crate::schema::{FieldType, Item};
use std::collections::HashMap;

/// Texts by name.
struct Texts(HashMap<&'static str, &'static str>);

impl Library for Texts {
    fn find(&self, name: &str, _: Option<&str>, _: &str) -> Result<Text, String> {
        match self.0.get(name) {
            Some(text) => Ok(Text {
                name: name.to_owned(),
                text: (*text).to_owned(),
            }),
            None => Err("not found in \"lib\"".to_owned()),
        }
    }
}

fn parse_with(text: &str, dialect: &str, library: &dyn Library) -> Result<Copybook, CopybookError> {
    let options = Options {
        dialect: dialect.parse().unwrap(),
        format: None,
    };
    let text = Text {
        name: "test.cpy".to_owned(),
        text: text.to_owned(),
    };
    Copybook::parse(&text, &options, library)
}

fn parse(text: &str, dialect: &str) -> Copybook {
    parse_with(text, dialect, &NoLibrary).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> String {
    parse_with(text, "gnucobol", &NoLibrary)
        .expect_err("this has to be refused")
        .to_string()
}

/// Type of the only field of a description, and where it is.
fn field(clauses: &str, dialect: &str) -> String {
    let copybook = parse(&format!("       05 A {clauses}."), dialect);
    let schema = &copybook.records[0];
    let column = &schema.columns()[0];
    assert_eq!(schema.len_max(), column.len, "{clauses}");
    format!("{} {}", column.len, column.field)
}

/// Offset, length and name of every item, one a line.
fn listing(schema: &RecordSchema) -> String {
    let mut lines = Vec::new();
    schema.root().visit(&mut |item: &Item| {
        let times = item.occurs.as_ref().map_or_else(String::new, |occurs| {
            match occurs.min == occurs.max {
                true => format!(" x{}", occurs.max),
                false => format!(" x{}-{}", occurs.min, occurs.max),
            }
        });
        let kind = item
            .field_type()
            .map_or_else(String::new, |field| format!(" {field}"));
        let (offset, len) = (item.offset_max, item.len);
        let slides = if item.offset.is_none() { "+" } else { "" };
        lines.push(format!(
            "{offset}{slides} {len} {:02} {}{times}{kind}",
            item.level,
            item.name_or_filler()
        ));
    });
    lines.join("\n")
}

#[test]
fn every_picture_and_usage_has_its_type() {
    for (clauses, expected) in [
        ("PIC X", "1 text(1) latin-1"),
        ("PIC X(10)", "10 text(10) latin-1"),
        ("PIC XX(3)9AB", "7 edited(XXXX9AB) latin-1"),
        ("PIC A(3)X9(2)", "6 text(6) latin-1"),
        ("PIC X(5) JUSTIFIED RIGHT", "5 text(5) right latin-1"),
        ("PIC 9(5)", "5 zoned(5) ascii"),
        ("PIC S9(5)V99", "7 zoned(7,2) signed ascii"),
        (
            "PIC S9(3) SIGN IS LEADING",
            "3 zoned(3) signed leading ascii",
        ),
        (
            "PIC S9(3) SIGN TRAILING SEPARATE CHARACTER",
            "4 zoned(3) signed separate ascii",
        ),
        (
            "PIC S9(3) LEADING SEPARATE",
            "4 zoned(3) signed leading separate ascii",
        ),
        ("PIC S9(3)PPP", "3 zoned(3,-3) signed ascii"),
        ("PIC VPP999", "3 zoned(3,5) ascii"),
        ("PIC PP999", "3 zoned(3,5) ascii"),
        ("PIC V99", "2 zoned(2,2) ascii"),
        (
            "PIC 9(4) BLANK WHEN ZERO",
            "4 zoned(4) blank-when-zero ascii",
        ),
        ("PIC Z,ZZ9.99-", "9 edited(Z,ZZ9.99-) latin-1"),
        (
            "PIC $$,$$9.99CR BLANK ZERO",
            "11 edited($$,$$9.99CR) blank-when-zero latin-1",
        ),
        ("PIC 99/99/9999", "10 edited(99/99/9999) latin-1"),
        ("PIC ++9V99", "5 edited(++9V99) latin-1"),
        ("PIC S99 COMP", "1 int8(2) big"),
        ("PIC 9(4) COMP", "2 uint16(4) big"),
        ("PIC S9(9) BINARY", "4 int32(9) big"),
        ("PIC S9(9)V9(9) COMP-4", "8 int64(18,9) big"),
        ("PIC S9(19) COMPUTATIONAL", "16 int128(19) big"),
        ("PIC S9(4) COMP-5", "2 int16(4) little full"),
        ("PIC 9(6) COMP-X", "3 uint24(6) big full"),
        ("PIC X(2) COMP-X", "2 uint16(5) big full"),
        ("PIC S9(5)V99 COMP-3", "4 packed(7,2) signed"),
        ("PIC 9(4) PACKED-DECIMAL", "3 packed(4)"),
        ("PIC 9(5) USAGE IS COMPUTATIONAL-6", "3 packed(5) no-sign"),
        ("COMP-1", "4 float32 ieee little"),
        ("USAGE COMPUTATIONAL-2", "8 float64 ieee little"),
        ("BINARY-CHAR UNSIGNED", "1 uint8(3) little full"),
        ("USAGE BINARY-SHORT SIGNED", "2 int16(5) little full"),
        ("BINARY-LONG", "4 int32(10) little full"),
        ("BINARY-DOUBLE UNSIGNED", "8 uint64(20) little full"),
        ("USAGE INDEX", "4 int32(10) little full"),
        ("POINTER", "8 raw(8)"),
        ("PIC N(3)", "6 text(6) latin-1"),
        ("PIC G(3) DISPLAY-1", "6 national(3) dbcs"),
    ] {
        assert_eq!(field(clauses, "gnucobol"), expected, "{clauses}");
    }
    for (clauses, expected) in [
        ("PIC S99 COMP", "2 int16(2) big"),
        ("PIC S9(4) COMP-5", "2 int16(4) big full"),
        ("PIC S9(3)", "3 zoned(3) signed ebcdic"),
        ("PIC X(3)", "3 text(3) cp037"),
        ("COMP-2", "8 float64 hex big"),
        ("PIC N(3) NATIONAL", "6 national(3) utf-16be"),
        ("POINTER", "4 raw(4)"),
    ] {
        assert_eq!(field(clauses, "ibm"), expected, "{clauses}");
    }
    for (clauses, expected) in [
        ("PIC 9(6) COMP", "3 uint24(6) big"),
        ("PIC 9(10) COMP", "5 uint40(10) big"),
        ("PIC S9(12) COMP", "6 int48(12) big"),
    ] {
        assert_eq!(field(clauses, "mf"), expected, "{clauses}");
    }
    let comma = field("PIC Z.ZZ9,99", "gnucobol,decimal=comma");
    assert_eq!(comma, "8 edited(Z.ZZ9,99) latin-1");
    let currency = field("PIC €€9", "gnucobol,currency=€");
    assert_eq!(currency, "3 edited($$9) latin-1");
}

const ACCOUNT: &str = "\
000100*---------------------------------------------------------------- ACCT0001
000200* Account master of the branch system                             ACCT0002
000300 01  ACCOUNT-RECORD.                                              ACCT0003
000400     05  ACCT-KEY.                                                ACCT0004
000500         10  BRANCH            PIC 9(4).                          ACCT0005
000600         10  NUMBER            PIC 9(8)  COMP.                    ACCT0006
000700     05  ACCT-TYPE             PIC X.                             ACCT0007
000800         88  IS-SAVINGS        VALUE 'S'.                         ACCT0008
000900         88  IS-LOAN           VALUES ARE 'L' 'M' THRU            ACCT0009
001000                               'P'.                               ACCT0010
001100     05  DETAIL.                                                  ACCT0011
001200         10  FILLER            PIC X(20).                         ACCT0012
001300     05  SAVINGS REDEFINES DETAIL.                                ACCT0013
001400         10  RATE              PIC SV9(5) COMP-3.                 ACCT0014
001500         10  PIC X(2).                                            ACCT0015
001600         10  OPENED            PIC 9(8).                          ACCT0016
001700     05  LOAN REDEFINES DETAIL.                                   ACCT0017
001800         10  PRINCIPAL         PIC S9(11)V99 COMP-3.              ACCT0018
001900         10  TERM OCCURS 2 TIMES INDEXED BY T-IX PIC 9(3).        ACCT0019
002000     05  BALANCES OCCURS 3.                                       ACCT0020
002100         10  CURRENCY          PIC X(3) VALUE                     ACCT0021
002200-                                  'EUR'.                         ACCT0022
002300         10  AMOUNT            PIC S9(9)V99 SIGN TRAILING.        ACCT0023
002400     66  WHOLE-KEY RENAMES BRANCH THRU NUMBER.                    ACCT0024
";

#[test]
fn a_bank_record_lies_where_it_should() {
    let copybook = parse(ACCOUNT, "gnucobol");
    let schema = &copybook.records[0];
    assert_eq!(
        listing(schema),
        "\
0 71 01 ACCOUNT-RECORD
0 8 05 ACCT-KEY
0 4 10 BRANCH zoned(4) ascii
4 4 10 NUMBER uint32(8) big
8 1 05 ACCT-TYPE text(1) latin-1
9 20 05 DETAIL
9 20 10 FILLER text(20) latin-1
9 13 05 SAVINGS
9 3 10 RATE packed(5,5) signed
12 2 10 FILLER text(2) latin-1
14 8 10 OPENED zoned(8) ascii
9 13 05 LOAN
9 7 10 PRINCIPAL packed(13,2) signed
16 3 10 TERM x2 zoned(3) ascii
29 14 05 BALANCES x3
29 3 10 CURRENCY text(3) latin-1
32 11 10 AMOUNT zoned(11,2) signed ascii"
    );
    let columns: Vec<&str> = schema.columns().iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        columns,
        [
            "branch",
            "number",
            "acct_type",
            "rate",
            "opened",
            "principal",
            "term_1",
            "term_2",
            "currency_1",
            "amount_1",
            "currency_2",
            "amount_2",
            "currency_3",
            "amount_3"
        ]
    );
    let kind = &schema.root().items()[1];
    assert_eq!(kind.conditions.len(), 2);
    assert_eq!(kind.conditions[1].values.len(), 2);
    assert_eq!(schema.renames()[0].name, "WHOLE-KEY");
    assert!(copybook.warnings.is_empty());
}

#[test]
fn slack_bytes_are_where_the_compiler_puts_them() {
    let text = "       01 R.
          05 A PIC X.
          05 B PIC S9(9) COMP SYNC.
          05 C PIC X.
          05 D COMP-2 SYNCHRONIZED RIGHT.
          05 E OCCURS 3.
             10 F PIC X.
             10 G PIC S9(4) COMP SYNC.
             10 H PIC X.
";
    let schema = &parse(text, "gnucobol").records[0];
    assert_eq!(
        listing(schema),
        "\
0 42 01 R
0 1 05 A text(1) latin-1
4 4 05 B int32(9) big
8 1 05 C text(1) latin-1
16 8 05 D float64 ieee little
24 6 05 E x3
24 1 10 F text(1) latin-1
26 2 10 G int16(4) big
29 1 10 H text(1) latin-1"
    );
    let packed = &parse(text, "mf").records[0];
    assert_eq!(packed.len_max(), 14 + 12);
}

#[test]
fn tables_of_variable_length_nest_and_follow_each_other() {
    let text = "       01 R.
          05 N PIC 9.
          05 M PIC 99 COMP.
          05 T OCCURS 1 TO 5 TIMES DEPENDING ON N.
             10 K PIC 9.
             10 U PIC XX OCCURS 0 TO 3 DEPENDING K OF T.
          05 V PIC X(4) OCCURS 2 DEPENDING ON M.
          05 W PIC X.
";
    let schema = &parse(text, "ibm").records[0];
    assert_eq!(
        listing(schema),
        "\
0 47 01 R
0 1 05 N zoned(1) ebcdic
1 2 05 M uint16(2) big
3 7 05 T x1-5
3 1 10 K zoned(1) ebcdic
4 2 10 U x0-3 text(2) cp037
38+ 4 05 V x1-2 text(4) cp037
46+ 1 05 W text(1) cp037"
    );
    assert_eq!(schema.len_min(), 3 + 1 + 4 + 1);
    assert_eq!(schema.tables().len(), 4);
}

#[test]
fn reserved_words_are_names_where_they_stand_as_names() {
    let text = "       01 RECORD.
          05 ID PIC X.
          05 GROUP.
             10 COUNT PIC 9.
             10 VALUE PIC 9 VALUE 1.
             10 USAGE USAGE COMP PIC 9.
          05 DATA PIC X.
          05 INDEX PIC 9(4).
          05 PIC PIC X.
          05 DISPLAY.
             10 SIGN PIC S9 SIGN LEADING.
             10 OCCURS PIC X OCCURS 2.
          05 DATE PIC X(8).
          05 COPY PIC X.
          05 COMP-3 PIC 9(3).
          05 REDEFINES DATE PIC 9(8).
          05 SYNC.
             88 VALUE VALUE 1.
             10 88-LEVEL PIC 9.
";
    // Level 88 of a group stands behind it.
    let schema = &parse(text, "gnucobol").records[0];
    let columns: Vec<&str> = schema
        .columns()
        .iter()
        .map(|it| it.cobol_name.as_str())
        .collect();
    assert_eq!(
        columns,
        [
            "ID", "COUNT", "VALUE", "USAGE", "DATA", "INDEX", "PIC", "SIGN", "OCCURS", "OCCURS",
            "DATE", "COPY", "88-LEVEL"
        ]
    );
    assert_eq!(schema.len_max(), 1 + 3 + 1 + 4 + 1 + 3 + 8 + 1 + 2 + 1);
}

#[test]
fn copied_texts_are_replaced_and_copy_others() {
    let texts = Texts(HashMap::from([
        (
            "PARTY",
            "       05 :TAG:-NAME PIC X(:LEN:).\n       COPY ADDR REPLACING LEADING ==A== BY ==:TAG:-ADDR==.\n",
        ),
        (
            "ADDR",
            "       05 A-STREET PIC X(LEN).\n       05 A-ZIP-OLD PIC 9(5).\n",
        ),
        ("LOOP", "       COPY LOOP."),
    ]));
    let text = "       01 R.
           COPY PARTY REPLACING ==:TAG:== BY ==BUYER==
               ==:LEN:== BY ==9== LEN BY 30 TRAILING ==-OLD== BY ====.
           COPY PARTY OF BOOKS REPLACING ==:TAG:== BY ==SELLER==,
               ==:LEN:== BY ==7== LEN BY 20
               ==PIC 9(5)== BY ==PIC 9(5) COMP-3==.
";
    let copybook = parse_with(text, "gnucobol", &texts).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        listing(&copybook.records[0]),
        "\
0 74 01 R
0 9 05 BUYER-NAME text(9) latin-1
9 30 05 BUYER-ADDR-STREET text(30) latin-1
39 5 05 BUYER-ADDR-ZIP zoned(5) ascii
44 7 05 SELLER-NAME text(7) latin-1
51 20 05 SELLER-ADDR-STREET text(20) latin-1
71 3 05 SELLER-ADDR-ZIP-OLD packed(5)"
    );
    let shown = parse_with("       01 R.\n           COPY LOOP.\n", "gnucobol", &texts)
        .unwrap_err()
        .to_string();
    assert!(shown.contains("LOOP copies itself here"), "{shown}");
    assert!(shown.contains("copied by test.cpy:2"), "{shown}");
    let shown = parse_with("       01 R. COPY NOBODY.\n", "gnucobol", &texts).unwrap_err();
    assert!(
        shown
            .to_string()
            .contains("COPY NOBODY: not found in \"lib\""),
        "{shown}"
    );
}

#[test]
fn replace_statements_hold_until_they_are_off() {
    let text = "       REPLACE ==(P)== BY ==BIG==
               ==AMT-TYPE== BY ==PIC S9(7)V99 COMP-3==.
       01 R.
          05 A-(P) AMT-TYPE.
       REPLACE OFF.
          05 B PIC X.
";
    let columns = parse(text, "gnucobol").records[0].columns().to_vec();
    assert_eq!(columns[0].cobol_name, "A-BIG");
    assert_eq!(columns[0].field.to_string(), "packed(9,2) signed");
}

#[test]
fn forms_are_told_apart() {
    let free = "*> free form\n01 rec.\n  05 name-of-it pic x(10). *> behind it\n  05 b\n    pic 9(3)\n    comp-3.\n";
    assert_eq!(parse(free, "gnucobol").records[0].len_max(), 12);
    let switched = "      >>SOURCE FORMAT IS FREE\n01 rec. 05 a pic x(3).\n";
    assert_eq!(parse(switched, "gnucobol").records[0].len_max(), 3);
    let tabs = "\t01 REC.\n\t   05 A\tPIC X(3).\r\n\x1a";
    assert_eq!(parse(tabs, "gnucobol").records[0].len_max(), 3);
    // Without a level 01 the file gives the name, unless one group has all of it.
    let several = parse("       05 A PIC X.\n       05 B PIC X.\n", "gnucobol");
    assert_eq!(several.records[0].name(), "TEST");
    assert_eq!(several.records[0].len_max(), 2);
}

#[test]
fn continued_literals_and_words_are_one() {
    let first = "       01 R. 05 A PIC X(20) VALUE 'A LONG TEXT THAT GOES PAST COLUMN";
    let text =
        format!("{first:<72}SEQ00001\n      -    '72 OF IT'. 05 LONG-\n      -    NAME PIC X.\n");
    let schema = &parse(&text, "gnucobol").records[0];
    assert_eq!(schema.columns()[1].cobol_name, "LONG-NAME");
    match &schema.root().items()[0].value {
        Some(crate::schema::Literal::Text(value)) => {
            assert_eq!(*value, "A LONG TEXT THAT GOES PAST COLUMN    72 OF IT");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn constants_count() {
    let text = "       78 LINES-MAX VALUE 4.
       01 WIDTH CONSTANT AS 12.
       01 R.
          05 A OCCURS LINES-MAX TIMES PIC X(WIDTH).
";
    assert_eq!(parse(text, "gnucobol").records[0].len_max(), 48);
}

#[test]
fn errors_show_the_place_and_what_was_expected() {
    let text = "       01 R.\n          05 A PIC X(3).\n          05 B PIC 9(3)Q.\n          05 C OCCURS X TIMES PIC X.\n";
    assert_eq!(
        error(text),
        "\
test.cpy:3:20: error: 'Q' isn't a symbol of a PICTURE (9(3)Q)
  |
3 |           05 B PIC 9(3)Q.
  |                    ^^^^^

test.cpy:4:23: error: expected how often the item occurs, found \"X\"
  |
4 |           05 C OCCURS X TIMES PIC X.
  |                       ^"
    );
    for (text, part) in [
        (
            "       05 A PIC X\n       05 B PIC X.",
            "expected a period at the end of A",
        ),
        (
            "       05 A.\n       05 B PIC X.",
            "A has neither a PICTURE nor items",
        ),
        (
            "       05 A PIC X.\n          10 B PIC X.",
            "A has a PICTURE, and items in it",
        ),
        (
            "       05 A REDEFINES Z PIC X.",
            "A redefines Z, but no item before it",
        ),
        ("       05 A PIC X OCCURS 1 TO 3.", "expected DEPENDING ON"),
        (
            "       05 A PIC X OCCURS 3 DEPENDING ON Q.",
            "Q, which isn't in the record",
        ),
        ("       05 A PIC X COMP-3.", "its PICTURE describes none"),
        ("       05 A PIC 9(39).", "39 digits"),
        ("       05 A PIC X(99999999).", "more than 16777216"),
        (
            "       05 A PIC X(9999999) OCCURS 10.",
            "longer than 16777216",
        ),
        (
            "       05 A PIC X VALUE 'abc.",
            "expected ' at the end of this literal",
        ),
        ("       05 :TAG:-A PIC X.", "COPY x REPLACING"),
        ("       50 A PIC X.", "expected a level number (01 to 49"),
        ("       05 A PIC X TYPO 3.", "expected a clause"),
        ("", "no data description"),
        ("       01 A PIC X OCCURS 2.", "a record itself can't occur"),
        ("       05 A PIC X(0).", "isn't how often"),
        ("       05 A PIC 9V9V9.", "V comes once"),
    ] {
        let shown = error(text);
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn a_longer_redefinition_is_taken_with_a_warning() {
    let text = "       05 A PIC X. 05 B REDEFINES A PIC XX. 05 C PIC 9(3)";
    let copybook = parse(text, "gnucobol");
    assert_eq!(copybook.records[0].len_max(), 5);
    let warning = copybook.warnings[0].to_string();
    assert!(
        warning.contains("warning: B takes 2 bytes, more than the 1 of A"),
        "{warning}"
    );
}

#[test]
fn records_are_chosen_by_name() {
    let copybook = parse(
        "       01 A PIC X.\n       01 B REDEFINES A.\n          05 C PIC XX.\n       77 D PIC 9.",
        "gnucobol",
    );
    assert_eq!(copybook.record(Some("b")).unwrap().len_max(), 2);
    assert_eq!(
        copybook.record(None).unwrap_err(),
        "there are several records; name one of: A, B, D (or several with commas between, or \"*\" for all)"
    );
    assert!(copybook.record(Some("X")).is_err());
    let FieldType::Text { len: 1, .. } = copybook.records[0].columns()[0].field else {
        panic!("{:?}", copybook.records[0].columns());
    };
}

mod hostile;
