//! Any payload of a journal entry is an operation or an error, and an operation that was read is written as it was.
#![no_main]

use counterfoil::capture::operation::Operation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(operation) = Operation::decode(data) else {
        return;
    };
    let mut bytes = Vec::new();
    let rest = operation.encode_head(&mut bytes);
    bytes.extend_from_slice(rest);
    let again = Operation::decode(&bytes).expect("what was written is read");
    assert_eq!(again, operation);
});
