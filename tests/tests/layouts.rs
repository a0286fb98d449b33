//! Files whose records need more than a length: blocks, a file header, quotes. They grow and are rewritten in place while
//! they are mirrored.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Group, Site, python};
use std::collections::BTreeMap;

type Rows = BTreeMap<u64, Vec<u8>>;

/// A big-endian number of two bytes.
fn short(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at + 2)?;
    Some(usize::from(word[0]) << 8 | usize::from(word[1]))
}

/// The rows of a file of blocks; one that is cut off counts as far as it goes.
fn blocked(bytes: &[u8]) -> Rows {
    let mut rows = Rows::new();
    let mut block = 0;
    while let Some(size) = short(bytes, block).filter(|&size| size > 4) {
        let (mut at, mut id) = (block + 4, block);
        while at < block + size {
            let len = short(bytes, at).unwrap_or(usize::MAX / 2);
            let Some(data) = bytes.get(at + 4..at + len) else {
                return rows;
            };
            rows.insert(id as u64, data.to_vec());
            at += len;
            id = at;
        }
        block += size;
    }
    rows
}

/// The rows of a file of records with types behind 128 bytes.
fn micro_focus(bytes: &[u8]) -> Rows {
    let mut rows = Rows::new();
    let mut at = 128;
    while let Some(word) = short(bytes, at) {
        let len = word & 0xfff;
        if word >> 12 == 4 {
            rows.insert(at as u64, bytes[at + 2..at + 2 + len].to_vec());
        }
        at += (2 + len).next_multiple_of(4).max(8);
    }
    rows
}

/// The rows of a file with quotes behind its first line: a newline ends one if the quotes before it are even.
fn quoted(bytes: &[u8]) -> Rows {
    let mut rows = Rows::new();
    let (mut begin, mut quotes) = (0, 0);
    for (at, byte) in bytes.iter().enumerate() {
        quotes += usize::from(*byte == b'"');
        if *byte == b'\n' && quotes % 2 == 0 {
            if begin > 0 {
                rows.insert(begin as u64, bytes[begin..at].to_vec());
            }
            begin = at + 1;
        }
    }
    rows
}

#[test]
fn blocks_file_headers_and_quotes_are_mirrored() -> Result<()> {
    type Decode = fn(&[u8]) -> Rows;
    const FILES: [(&str, &str, Decode); 3] = [
        (
            "blocked.dat",
            "organization = \"sequential\"\nlayout = \"ibm-vb\"",
            blocked,
        ),
        (
            "micro.dat",
            "organization = \"sequential\"\nlayout = \"micro-focus-variable\"\nrecord_size = 100",
            micro_focus,
        ),
        (
            "quoted.csv",
            "organization = \"stream\"\nlayout = \"csv,header=record\"",
            quoted,
        ),
    ];
    let mut group = Group::new("layouts", "none");
    for (file, config, _) in FILES {
        group = group.file_as(file, config);
    }
    let site = Site::with("layouts", &[group])?;
    let program = python("layouts")?;
    for run in 1..=2 {
        site.exec_to_end(&program, &[".", "300"])?;
        site.assert_mirrored()?;
        for (file, _, decode) in FILES {
            let bytes =
                std::fs::read(site.path(file)).with_context(|| format!("reading {file}"))?;
            let expected = decode(&bytes);
            assert!(
                expected.len() >= 299 * run,
                "{file}: {} records",
                expected.len()
            );
            let rows = site.rows(&file.replace('.', "_"))?;
            assert_eq!(rows.len(), expected.len(), "rows of {file}");
            for (id, data) in expected {
                assert!(
                    rows.get(&id) == Some(&data),
                    "{file}, record {id}: {:?} isn't {data:?}",
                    rows.get(&id)
                );
            }
        }
    }
    site.restore_and_compare()?;
    site.finish();
    Ok(())
}
