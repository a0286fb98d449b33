//! Files whose records need more than a length: blocks, a file header, quotes. They grow and are rewritten in place while
//! they are mirrored.

use anyhow::{Context as _, Result};
use counterfoil_records::{PieceKind, RecordFormat};
use counterfoil_tests::{Group, Site, python};
use std::collections::BTreeMap;

const FILES: [(&str, &str, &str); 3] = [
    ("blocked.dat", "sequential", "layout = \"ibm-vb\""),
    (
        "micro.dat",
        "sequential",
        "layout = \"micro-focus-variable\"\nrecord_size = 100",
    ),
    ("quoted.csv", "stream", "layout = \"csv,header=record\""),
];

fn rows_of_file(organization: &str, layout: &str, bytes: &[u8]) -> Result<BTreeMap<u64, Vec<u8>>> {
    let format: RecordFormat =
        toml::from_str(&format!("organization = \"{organization}\"\n{layout}"))
            .context("reading the format")?;
    let mut rows = BTreeMap::new();
    format.codec()?.decode(0, bytes, true, &mut |piece| {
        if let PieceKind::Record { data, .. } = piece.kind {
            rows.insert(piece.id, data.to_vec());
        }
    });
    Ok(rows)
}

#[test]
fn blocks_file_headers_and_quotes_are_mirrored() -> Result<()> {
    let mut group = Group::new("layouts", "none");
    for (file, organization, layout) in FILES {
        group = group.file_as(
            file,
            &format!("organization = \"{organization}\"\n{layout}"),
        );
    }
    let site = Site::with("layouts", &[group])?;
    let program = python("layouts")?;
    for _ in 0..2 {
        site.exec_to_end(&program, &[".", "300"])?;
        site.assert_mirrored()?;
        for (file, organization, layout) in FILES {
            let bytes =
                std::fs::read(site.path(file)).with_context(|| format!("reading {file}"))?;
            let expected = rows_of_file(organization, layout, &bytes)?;
            assert!(expected.len() >= 300, "{file}: {} records", expected.len());
            let rows = site.rows(&file.replace('.', "_"))?;
            assert!(rows == expected, "rows of {file}");
        }
    }
    let blocked = site.rows("blocked_dat")?;
    assert!(blocked[&0].starts_with(b"REWRITE"), "{:?}", blocked[&0]);
    let restored = site.restore()?;
    for (file, ..) in FILES {
        let (kept, back) = (site.path(file), restored.join(file));
        assert!(
            std::fs::read(&kept)? == std::fs::read(&back).with_context(|| format!("{back:?}"))?,
            "{file} was restored as it is"
        );
    }
    site.finish();
    Ok(())
}
