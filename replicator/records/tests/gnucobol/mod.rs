//! Compiling and running COBOL programs of random values, as oracles.

use counterfoil_records::copybook::{Copybook, NoLibrary, Options, Text};
use counterfoil_records::{RecordDecoder, RecordEncoder};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A small generator: tests take no random numbers from elsewhere.
pub(crate) struct Chance(u64);

impl Chance {
    /// With the seed in `COUNTERFOIL_SEED`, or another one each time; it is printed.
    pub(crate) fn seeded() -> Chance {
        let seed = match std::env::var("COUNTERFOIL_SEED") {
            Ok(seed) => seed.parse().expect("COUNTERFOIL_SEED is a number"),
            Err(_) => std::process::id().into(),
        };
        println!("COUNTERFOIL_SEED={seed}");
        Chance(seed)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below this.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Compiles a program and its copybook, and runs it: what is in the file that it writes, and what it displays.
pub(crate) fn compiled_and_run(
    dir: &Path,
    flags: &[&str],
    copybook: &str,
    program: &str,
) -> (Vec<u8>, String) {
    std::fs::write(dir.join("rec.cpy"), copybook).expect("the copybook is written");
    std::fs::write(dir.join("oracle.cob"), program).expect("the program is written");
    let built = Command::new("cobc")
        .args(["-x", "-O0", "-o", "oracle"])
        .args(flags)
        .arg("oracle.cob")
        .current_dir(dir)
        .output()
        .expect("cobc is there (Debian: gnucobol3)");
    let told = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "cobc: {told}");
    let ran = Command::new(dir.join("oracle"))
        .current_dir(dir)
        .output()
        .expect("the program runs");
    assert!(ran.status.success(), "the program ends well");
    let file = std::fs::read(dir.join("oracle.dat")).expect("it wrote its file");
    (file, String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// What reads and writes the records of a copybook.
pub(crate) fn coders(copybook: &str, dialect: &str) -> (RecordDecoder, RecordEncoder) {
    let source = Text {
        name: "rec.cpy".to_owned(),
        text: copybook.to_owned(),
    };
    let options = Options {
        dialect: dialect.parse().expect("a dialect"),
        format: None,
    };
    let copybook = Copybook::parse(&source, &options, &NoLibrary).expect("a copybook");
    let schema = Arc::new(copybook.record(None).expect("one record").clone());
    let decoder = RecordDecoder::new(schema);
    (decoder.clone(), RecordEncoder::new(decoder))
}
