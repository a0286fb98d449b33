//! Direct comparison: what a table holds against what a file's bytes mean, by the harness's own decoder.

use crate::decoded::decode;
use crate::operations::Shape;
use crate::site::Site;
use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::wait_until;

/// The files of the card switch, and how records lie in them.
pub const CARD_SWITCH: [(&str, Shape); 4] = [
    ("cards.dat", Shape::Relative { size: 150 }),
    ("accounts.dat", Shape::Fixed { size: 300 }),
    (
        "journal.dat",
        Shape::Variable {
            size: 131,
            varseq_format: 0,
        },
    ),
    ("switch.log", Shape::Lines),
];

/// Demands that the default sink's table of each file has the records that are in the file, and no others.
pub fn assert_rows(site: &Site, files: &[(&str, Shape)]) -> Result<()> {
    for &(name, shape) in files {
        let path = site.path(name);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut expected = decode(shape, &bytes);
        let mut rows = site.rows(&name.replace('.', "_"))?;
        if let Some(limit) = expected.certain_to {
            expected.rows.retain(|id, _| *id < limit);
            rows.retain(|id, _| *id < limit);
        }
        let differing = expected
            .rows
            .keys()
            .chain(rows.keys())
            .find(|id| expected.rows.get(id) != rows.get(id));
        if let Some(id) = differing {
            let text = |record: Option<&Vec<u8>>| {
                record.map(|record| String::from_utf8_lossy(record).into_owned())
            };
            anyhow::bail!(
                "{name}, record {id}: the file has {:?}, the row is {:?} ({} records, {} rows; {})",
                text(expected.rows.get(id)),
                text(rows.get(id)),
                expected.rows.len(),
                rows.len(),
                site.root().display()
            );
        }
    }
    Ok(())
}

/// Waits until that is so.
pub fn wait_for_rows(site: &Site, files: &[(&str, Shape)]) -> Result<()> {
    wait_until("tables to have what the files have", || {
        assert_rows(site, files).map_err(|error| format!("{error:#}"))
    })
}

/// Settles, and demands the same, and that what is restored is the files byte by byte.
pub fn assert_settled(site: &Site, files: &[(&str, Shape)]) -> Result<()> {
    site.settle()?;
    assert_rows(site, files)?;
    site.restore_and_compare()
}

/// The epoch of what the default sink has: it grows at every unclean start.
pub fn epoch(site: &Site) -> Result<u64> {
    let sql = "SELECT max(epoch) FROM counterfoil_position";
    let epoch: Option<i64> = site.sqlite()?.query_row(sql, [], |row| row.get(0))?;
    let epoch = epoch.context("the target has no position")?;
    ensure!(epoch > 0, "epoch {epoch}");
    Ok(epoch.cast_unsigned())
}
