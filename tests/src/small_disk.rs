//! A directory on a file system of its own that is soon full.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs mounted on a directory; it is gone with this value.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes the directory, and mounts so many KiB on it. `None` where this process may not mount.
    pub fn mount(on: &Path, kib: u32) -> Result<Option<SmallDisk>> {
        std::fs::create_dir_all(on)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(on)
            .output();
        Ok(mounted
            .is_ok_and(|output| output.status.success())
            .then_some(SmallDisk(on.to_owned())))
    }

    /// Makes room: half a GiB.
    pub fn grow(&self) -> Result<()> {
        let status = Command::new("mount")
            .args(["-o", "remount,size=512m"])
            .arg(&self.0)
            .status()?;
        ensure!(
            status.success(),
            "remounting {} ended with {status}",
            self.0.display()
        );
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
