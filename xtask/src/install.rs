//! Installing: each file is written beside its place and renamed into it.
//!
//! A program that has the old library mapped keeps the old file; written over in place, it would die of SIGBUS or worse. So
//! an installation may be repeated, and an older version installed over a newer one, while captured programs run.

use crate::cargo::workspace;
use anyhow::{Context as _, Result};
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Documentation that goes along: what is named here, below `docs`.
const DOCS: &str = "docs";

/// Puts what was built in `built` below `prefix`.
pub(crate) fn install(built: &Path, prefix: &Path) -> Result<()> {
    let library = "libcounterfoil_interposer.so";
    // The library first: a new binary never finds an old one.
    place(
        &built.join(library),
        &prefix.join("lib/counterfoil").join(library),
        0o755,
    )?;
    place(
        &built.join("counterfoil"),
        &prefix.join("bin/counterfoil"),
        0o755,
    )?;
    let share = prefix.join("share/doc/counterfoil");
    for name in ["README.md", "CHANGELOG.md", "LICENSE"] {
        place(&workspace().join(name), &share.join(name), 0o644)?;
    }
    for page in files_in(&workspace().join(DOCS), "md")? {
        place(
            &page,
            &share.join(DOCS).join(page.file_name().unwrap_or_default()),
            0o644,
        )?;
    }
    for header in files_in(&workspace().join("replicator/interposer/include"), "h")? {
        place(
            &header,
            &prefix
                .join("include")
                .join(header.file_name().unwrap_or_default()),
            0o644,
        )?;
    }
    let unit = "counterfoil.service";
    let text = fs::read_to_string(workspace().join("packaging/systemd").join(unit))
        .context("reading the unit")?;
    let text = text.replace("/usr/local", &prefix.display().to_string());
    place_text(&text, &prefix.join("lib/systemd/system").join(unit))?;
    println!(
        "installed below {}; `{}/bin/counterfoil check` says whether all is well",
        prefix.display(),
        prefix.display()
    );
    Ok(())
}

/// Files of a kind in a directory, if there is one, by name.
fn files_in(directory: &Path, extension: &str) -> Result<Vec<std::path::PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("reading {}", directory.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", directory.display()))?
            .path();
        if path.extension().is_some_and(|there| there == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    put(&content, to, mode).with_context(|| format!("installing {}", to.display()))
}

fn place_text(text: &str, to: &Path) -> Result<()> {
    put(text.as_bytes(), to, 0o644).with_context(|| format!("installing {}", to.display()))
}

fn put(content: &[u8], to: &Path, mode: u32) -> std::io::Result<()> {
    println!("{}", to.display());
    let directory = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = directory.join(name);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, to)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
