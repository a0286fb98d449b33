//! Prints what the files named on the command line look like.

use counterfoil_records::{Sample, guess};
use std::io::Read;

fn main() -> std::io::Result<()> {
    for path in std::env::args().skip(1) {
        let file = std::fs::File::open(&path)?;
        let len = file.metadata()?.len();
        let mut head = Vec::new();
        file.take(1 << 20).read_to_end(&mut head)?;
        println!("{path} ({len} bytes)");
        for guess in guess(&path, &Sample { head: &head, len }) {
            println!(
                "  {}: {} ({})",
                guess.confidence, guess.format, guess.evidence
            );
        }
    }
    Ok(())
}
