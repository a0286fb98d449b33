//! Where the binaries under test are: in the directory that the test itself was built into.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// The `counterfoil` binary. The error says how to build it.
pub fn counterfoil() -> Result<PathBuf> {
    built("counterfoil")
}

/// The interposer that goes with it.
pub fn interposer() -> Result<PathBuf> {
    built("libcounterfoil_interposer.so")
}

/// A build directory of this workspace's own for programs compiled by the harness.
pub(crate) fn programs_dir() -> Result<PathBuf> {
    let dir = profile_dir()?.join("test-programs");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// Where a report of this name is put, to be read after the tests: beside the binaries.
pub fn report(name: &str) -> Result<PathBuf> {
    Ok(profile_dir()?.join(name))
}

fn built(name: &str) -> Result<PathBuf> {
    let path = profile_dir()?.join(name);
    if !path.exists() {
        bail!(
            "{} isn't built; run `cargo xtask test`, which builds it before the tests",
            path.display()
        );
    }
    Ok(path)
}

/// `target/debug` (or whichever): where this program is, or above it where that is a test, which lies in `deps`.
fn profile_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the program's own path")?;
    let mut dir = own.parent();
    if dir.is_some_and(|dir| dir.ends_with("deps")) {
        dir = dir.and_then(Path::parent);
    }
    Ok(dir
        .with_context(|| format!("{} lies in no target directory", own.display()))?
        .to_owned())
}
