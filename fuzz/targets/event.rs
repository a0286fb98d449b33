//! Any message from a topic is an event or an error; and so is the message of a record's columns in it.
#![no_main]

use counterfoil::transport::wire::{Decoder, key, unframed};
use counterfoil::typed::TypedSchema;
use counterfoil_fuzz::Input;
use counterfoil_proto::v1::ChangeEvent;
use counterfoil_records::copybook::{Copybook, NoLibrary, Options, SourceFormat, Text};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use std::sync::{Arc, LazyLock};

static TYPED: LazyLock<TypedSchema> = LazyLock::new(|| {
    let source = Text {
        name: "r.cpy".to_owned(),
        text: "01 r.\n 05 n pic 9.\n 05 a pic x(4).\n 05 d comp-2.\n 05 f comp-1.\n 05 b pic s9(7)v99 comp-3.\n 05 t occurs 0 to 9 \
               times depending on n.\n 10 m pic 9.\n 10 u occurs 0 to 3 times depending on m pic s9(3) comp-3.\n"
            .to_owned(),
    };
    let options = Options {
        format: Some(SourceFormat::Free),
        ..Options::default()
    };
    let book = Copybook::parse(&source, &options, &NoLibrary).expect("a copybook");
    TypedSchema::of(&Arc::new(book.records[0].clone()), None)
});

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    if input.byte() & 1 == 1 {
        let _ = TYPED.read(input.0);
        return;
    }
    let mut decoder = Decoder::default();
    match decoder.decode(input.0, 0) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(received) => {
            // What is remembered of files makes no difference.
            assert_eq!(decoder.decode(input.0, 0), Ok(received.clone()));
            let _ = received.check_stream("site/group");
        }
    }
    if let Ok(message) = ChangeEvent::decode(unframed(input.0)) {
        let _ = key(&message);
    }
});
