//! GnuCOBOL as the oracle: where its compiler puts each item of random copybooks is where we say it is.
//!
//! One program per dialect holds many records. It prints the address of every item's first occurrence less that of the
//! record, and its length. `COUNTERFOIL_SEED` repeats a run.

use counterfoil_records::copybook::{Copybook, NoLibrary, Options, Text};
use counterfoil_records::schema::{Content, Item};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const RECORDS: usize = 40;

/// xorshift64*
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn seed() -> u64 {
    let given = std::env::var("COUNTERFOIL_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64 | 1)
    });
    println!("COUNTERFOIL_SEED={seed}");
    seed
}

/// What a dialect's records are made of.
struct Dialect {
    ours: &'static str,
    cobc: &'static [&'static str],
    sync: bool,
}

fn elementary(chance: &mut Chance, sync: bool) -> String {
    let digits = 1 + chance.below(18);
    let places = chance.below(4);
    let signed = chance.pick(&["", "S"]);
    let number = match places {
        0 | 1 => format!("{signed}9({digits})"),
        2 if digits > 2 => format!("{signed}9({})V99", digits - 2),
        _ => format!("{signed}9({digits})P(2)"),
    };
    let sync = if sync {
        chance.pick(&["", "", " SYNC"])
    } else {
        ""
    };
    match chance.below(16) {
        0 | 1 => format!("PIC X({})", 1 + chance.below(30)),
        2 => format!("PIC {number}"),
        3 if signed == "S" => {
            let place = chance.pick(&[
                "LEADING",
                "TRAILING",
                "LEADING SEPARATE",
                "TRAILING SEPARATE",
            ]);
            format!("PIC {number} SIGN IS {place}")
        }
        3..=5 => format!("PIC {number} COMP{sync}"),
        6 => format!("PIC {number} COMP-5{sync}"),
        7 | 8 => format!("PIC {number} COMP-3"),
        9 => format!("PIC 9({digits}) COMP-6"),
        10 => format!("COMP-1{sync}"),
        11 => format!("COMP-2{sync}"),
        12 => {
            let usage = chance.pick(&[
                "BINARY-CHAR",
                "BINARY-SHORT",
                "BINARY-LONG",
                "BINARY-DOUBLE",
            ]);
            format!(
                "{usage}{}{sync}",
                chance.pick(&["", " UNSIGNED", " SIGNED"])
            )
        }
        13 => chance.pick(&["INDEX", "POINTER"]).to_owned(),
        14 => format!("PIC 9({digits}) COMP-X"),
        _ => {
            let picture = chance.pick(&[
                "Z(5)9.99-",
                "$$,$$9.99CR",
                "99/99/9999",
                "+9(4)",
                "X(3)BX(2)",
                "***9DB",
                "-(4)9V9",
                "9(3)BLANK",
                "A(5)",
                "X(2)A9",
            ]);
            match picture {
                "9(3)BLANK" => "PIC 9(3) BLANK WHEN ZERO".to_owned(),
                picture => format!("PIC {picture}"),
            }
        }
    }
}

/// Lines of a record, and the names of the items in it, with the subscripts that their first occurrence takes.
struct Record {
    text: String,
    items: Vec<(String, usize)>,
    next: usize,
}

impl Record {
    fn add(&mut self, chance: &mut Chance, prefix: &str, level: usize, tables: usize, sync: bool) {
        let is_group = level < 20 && chance.below(4) == 0;
        let name = format!("{prefix}-{}", self.next);
        self.next += 1;
        let occurs = match chance.below(5) {
            0 if tables < 3 => format!(" OCCURS {} TIMES", 1 + chance.below(4)),
            _ => String::new(),
        };
        let tables = tables + usize::from(!occurs.is_empty());
        // A name that is never asked for.
        if !is_group && chance.below(12) == 0 {
            let _ = writeln!(
                self.text,
                "       {level:02} FILLER{occurs} {}.",
                elementary(chance, sync)
            );
            return;
        }
        self.items.push((name.clone(), tables));
        if !is_group {
            let _ = writeln!(self.text, "       {level:02} {name}{occurs}");
            let _ = writeln!(self.text, "           {}.", elementary(chance, sync));
            return;
        }
        let usage = chance.pick(&["", "", "", " DISPLAY"]);
        let _ = writeln!(self.text, "       {level:02} {name}{occurs}{usage}.");
        for _ in 0..1 + chance.below(4) {
            self.add(chance, prefix, level + 5, tables, sync && usage.is_empty());
        }
        // An occurrence that ends with a table of its own is padded by the compiler so that items overlap.
        if tables > 0 {
            let _ = writeln!(
                self.text,
                "       {:02} {prefix}-{} PIC X.",
                level + 5,
                self.next
            );
            self.items.push((format!("{prefix}-{}", self.next), tables));
            self.next += 1;
        }
    }
}

fn record(chance: &mut Chance, number: usize, sync: bool) -> Record {
    let prefix = format!("R{number}");
    let mut record = Record {
        text: format!("       01 {prefix}.\n"),
        items: Vec::new(),
        next: 0,
    };
    for _ in 0..2 + chance.below(6) {
        record.add(chance, &prefix, 5, 0, sync);
        // A group that sees the same bytes in another way: as long as need be, never longer.
        if chance.below(5) == 0
            && let Some((name, 0)) = record
                .items
                .iter()
                .rfind(|(name, _)| {
                    record.text.contains(&format!("       05 {name}."))
                        || record.text.contains(&format!("       05 {name}\n"))
                })
                .cloned()
        {
            let next = format!("{prefix}-{}", record.next);
            record.next += 1;
            let last = record.text.rsplit("       05 ").next().unwrap_or_default();
            if last.split(['.', '\n', ' ']).next() == Some(&name) {
                let _ = writeln!(record.text, "       05 {next} REDEFINES {name} PIC X.");
                record.items.push((next, 0));
            }
        }
    }
    record
}

fn program(records: &[Record]) -> String {
    let mut text = String::from(
        "       IDENTIFICATION DIVISION.\n       PROGRAM-ID. ORACLE.\n       DATA DIVISION.\n       WORKING-STORAGE SECTION.\n",
    );
    text.push_str(
        "       01 Z-BASE USAGE POINTER.\n       01 Z-BASE-N REDEFINES Z-BASE PIC S9(18) COMP-5.\n       01 Z-AT USAGE POINTER.\n       01 Z-AT-N REDEFINES Z-AT PIC S9(18) COMP-5.\n       01 Z-OFF PIC 9(9).\n       01 Z-LEN PIC 9(9).\n",
    );
    for record in records {
        text.push_str(&record.text);
    }
    text.push_str("       PROCEDURE DIVISION.\n");
    for (number, _) in records.iter().enumerate() {
        let _ = writeln!(text, "           PERFORM P{number}.");
    }
    text.push_str("           STOP RUN.\n");
    for (number, record) in records.iter().enumerate() {
        let _ = writeln!(text, "       P{number}.");
        let _ = writeln!(text, "           SET Z-BASE TO ADDRESS OF R{number}.");
        let all = (format!("R{number}"), 0);
        for (name, tables) in std::iter::once(&all).chain(&record.items) {
            let subscripts = match tables {
                0 => String::new(),
                n => format!("({})", vec!["1"; *n].join(" ")),
            };
            let _ = writeln!(
                text,
                "           SET Z-AT TO ADDRESS OF {name}{subscripts}."
            );
            let _ = writeln!(text, "           COMPUTE Z-OFF = Z-AT-N - Z-BASE-N.");
            let _ = writeln!(
                text,
                "           MOVE LENGTH OF {name}{subscripts}\n             TO Z-LEN."
            );
            let _ = writeln!(text, "           DISPLAY \"{name} \" Z-OFF \" \" Z-LEN.");
        }
    }
    text
}

fn ours(text: &str, dialect: &str) -> HashMap<String, (u32, u32)> {
    let options = Options {
        dialect: dialect.parse().unwrap(),
        format: None,
    };
    let source = Text {
        name: "oracle.cpy".to_owned(),
        text: text.to_owned(),
    };
    let copybook = Copybook::parse(&source, &options, &NoLibrary)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut found = HashMap::new();
    for schema in &copybook.records {
        schema.root().visit(&mut |item: &Item| {
            if let Some(name) = &item.name {
                let offset = item.offset.expect("no table here is of variable length");
                found.insert(name.clone(), (offset, item.len));
            }
            if let Content::Group(items) = &item.content {
                assert!(!items.is_empty());
            }
        });
    }
    found
}

fn check(dialect: &Dialect, seed: u64) {
    let mut chance = Chance(seed);
    let records: Vec<Record> = (0..RECORDS)
        .map(|number| record(&mut chance, number, dialect.sync))
        .collect();
    let directory = std::env::temp_dir().join(format!(
        "cobol-oracle-{}-{seed}-{}",
        std::process::id(),
        dialect.ours
    ));
    std::fs::create_dir_all(&directory).unwrap();
    let program_file = directory.join("oracle.cob");
    std::fs::write(&program_file, program(&records)).unwrap();
    let printed = run(&directory, dialect, seed);
    let text: String = records.iter().map(|record| record.text.as_str()).collect();
    let ours = ours(&text, dialect.ours);
    let mut compared = 0;
    let mut wrong = Vec::new();
    for line in printed.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(offset), Some(len)) = (words.next(), words.next(), words.next())
        else {
            panic!("{line:?} isn't what the program prints");
        };
        let theirs: (u32, u32) = (offset.parse().unwrap(), len.parse().unwrap());
        compared += 1;
        if ours[name] != theirs {
            wrong.push(format!(
                "{name}: {:?}, by the compiler {theirs:?}",
                ours[name]
            ));
        }
    }
    let expected: usize = records.iter().map(|record| record.items.len() + 1).sum();
    assert_eq!(compared, expected);
    assert!(compared > 200, "only {compared} items");
    let first = wrong
        .first()
        .and_then(|line| line[1..].split(['-', ':']).next()?.parse::<usize>().ok());
    assert!(
        wrong.is_empty(),
        "seed {seed}, {}: {} of {compared} items lie elsewhere (offset, length):\n{}\n{}",
        dialect.ours,
        wrong.len(),
        wrong.join("\n"),
        first.map_or("", |number| &records[number].text)
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Compiles and runs the program in a directory; returns what it prints.
fn run(directory: &Path, dialect: &Dialect, seed: u64) -> String {
    let compiled = Command::new("cobc")
        .args(["-x", "-o", "oracle"])
        .args(dialect.cobc)
        .arg("oracle.cob")
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| {
            panic!("running cobc: {error}: install the Debian package gnucobol")
        });
    assert!(
        compiled.status.success(),
        "seed {seed}: cobc {:?} in {}:\n{}",
        dialect.cobc,
        directory.display(),
        String::from_utf8_lossy(&compiled.stderr)
    );
    let ran = Command::new(directory.join("oracle")).output().unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn gnucobol_puts_items_where_we_say() {
    let dialect = Dialect {
        ours: "gnucobol",
        cobc: &["-std=default"],
        sync: true,
    };
    check(&dialect, seed());
}

#[test]
fn other_binary_sizes_are_those_of_the_compiler() {
    let seed = seed();
    for (ours, size) in [
        ("gnucobol,binary=2-4-8", "2-4-8"),
        ("gnucobol,binary=fewest", "1--8"),
    ] {
        let flag = format!("-fbinary-size={size}");
        let flags: [&'static str; 1] = [Box::leak(flag.into_boxed_str())];
        check(
            &Dialect {
                ours,
                cobc: Box::leak(Box::new(flags)),
                sync: true,
            },
            seed,
        );
    }
}
