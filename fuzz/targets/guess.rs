//! Any bytes are guessed to be something, by formats whose codecs can be built.
//!
//! The first byte says how much longer the file is than what is seen of it.
#![no_main]

use counterfoil_fuzz::Input;
use counterfoil_records::{Sample, guess};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let more = u64::from(input.byte());
    let name = input.one_of(&["cards.dat", "notes.txt", "rel", "x.csv", "é\n"]);
    let sample = Sample {
        head: input.0,
        len: input.0.len() as u64 + (more * more) * 1000,
    };
    let guesses = guess(name, &sample);
    assert!(!guesses.is_empty());
    for guess in guesses {
        let codec = guess.format.codec().expect("a guess is of a format");
        assert!(!guess.evidence.is_empty() && !guess.format.describe().is_empty());
        codec.decode(0, input.0, true, &mut |_| ());
    }
});
