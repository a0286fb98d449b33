//! Which partition an event goes to.
//!
//! The hash is the one that Kafka's own clients use for keys (murmur2, made positive), so that with `ordering = "record"` a
//! record's partition is the one that everybody expects from the message's key. Events of a whole file or of a range go
//! where the file's own key (the path and `#`) belongs. With `ordering = "file"` only the path counts.

use crate::config::Ordering;
use crate::transport::wire;
use counterfoil_proto::v1;

/// The partition of an event among `count`.
pub fn partition(ordering: Ordering, event: &v1::ChangeEvent, count: usize) -> i32 {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let path = || {
        event
            .file
            .as_ref()
            .map_or("", |file| file.path_text.as_str())
    };
    match ordering {
        _ if count <= 1 => 0,
        Ordering::Group => 0,
        Ordering::File => of_key(path().as_bytes(), count),
        Ordering::Record => match event.op() {
            v1::Op::Put | v1::Op::Delete | v1::Op::Residue => {
                of_key(wire::key(event).as_bytes(), count)
            }
            _ => of_key(format!("{}#", path()).as_bytes(), count),
        },
    }
}

/// The partition of a key, as Kafka's clients choose it.
pub fn of_key(key: &[u8], count: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff).cast_signed() % count.max(1)
}

/// MurmurHash2, 32 bits, with the seed of Kafka's `Utils.murmur2`.
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = word
            .iter()
            .rev()
            .fold(0, |k, &byte| k << 8 | u32::from(byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let k = rest
            .iter()
            .rev()
            .fold(0, |k, &byte| k << 8 | u32::from(byte));
        hash = (hash ^ k).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own test, `UtilsTest.testMurmur2`.
    #[test]
    fn the_hash_is_that_of_other_clients() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn a_file_or_a_record_stays_on_its_partition() {
        let event = |op: v1::Op, record| v1::ChangeEvent {
            op: op.into(),
            record,
            file: Some(v1::File {
                path_text: "/srv/a.dat".to_owned(),
                ..v1::File::default()
            }),
            range: matches!(op, v1::Op::Truncate).then(v1::Range::default),
            ..v1::ChangeEvent::default()
        };
        let of = |ordering, op, record| partition(ordering, &event(op, record), 12);
        let records = 1..200u64;
        let spread = |ordering| {
            let all: std::collections::BTreeSet<i32> = records
                .clone()
                .map(|record| of(ordering, v1::Op::Put, record))
                .collect();
            all.len()
        };
        assert_eq!(spread(Ordering::Group), 1);
        assert_eq!(spread(Ordering::File), 1);
        assert_eq!(spread(Ordering::Record), 12);
        for record in records {
            let put = of(Ordering::Record, v1::Op::Put, record);
            assert_eq!(put, of(Ordering::Record, v1::Op::Delete, record));
            assert_eq!(put, of_key(format!("/srv/a.dat#{record}").as_bytes(), 12));
        }
        let whole = of(Ordering::Record, v1::Op::Removed, 0);
        assert_eq!(whole, of(Ordering::Record, v1::Op::Truncate, 0));
    }
}
