//! Two scans that decide the speed of decoding: for a byte, and for anything but zero.
//!
//! Both go in chunks whose tests have no early exit, which the compiler turns into vector
//! instructions.

const CHUNK: usize = 32;

/// Where `needle` first is in `bytes`.
pub(crate) fn position(bytes: &[u8], needle: u8) -> Option<usize> {
    let (chunks, tail) = bytes.as_chunks::<CHUNK>();
    for (n, chunk) in chunks.iter().enumerate() {
        if chunk
            .iter()
            .fold(false, |found, &byte| found | (byte == needle))
        {
            return chunk
                .iter()
                .position(|&byte| byte == needle)
                .map(|at| n * CHUNK + at);
        }
    }
    tail.iter()
        .position(|&byte| byte == needle)
        .map(|at| chunks.len() * CHUNK + at)
}

/// Whether all bytes are zero. Cheap for bytes that begin with something else, as records do.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    if let Some(word) = bytes.first_chunk::<8>()
        && u64::from_le_bytes(*word) != 0
    {
        return false;
    }
    let (chunks, tail) = bytes.as_chunks::<CHUNK>();
    chunks
        .iter()
        .all(|chunk| chunk.iter().fold(0, |seen, &byte| seen | byte) == 0)
        && tail.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn position_is_that_of_the_plain_search(bytes in prop::collection::vec(0u8..40, 0..200), needle in 0u8..40) {
            prop_assert_eq!(position(&bytes, needle), bytes.iter().position(|&byte| byte == needle));
        }

        #[test]
        fn all_zero_is_that_of_the_plain_test(len in 0usize..200, set in prop::option::of((0usize..200, 1u8..))) {
            let mut bytes = vec![0; len];
            if let Some((at, value)) = set && at < len {
                bytes[at] = value;
            }
            prop_assert_eq!(all_zero(&bytes), bytes.iter().all(|&byte| byte == 0));
        }
    }
}
