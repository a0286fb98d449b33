//! Disks that can be full: small file systems in memory, mounted where only this process and its children see them.

use crate::small_disk::SmallDisk;
use anyhow::{Context as _, Result};
use counterfoil_servers::wait_until;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Room on each of them. It takes memory only as it is used, and images of files that are made anew all the time use much.
const BYTES: u64 = 4 << 30;

/// A mounted file system; it is gone when this is dropped, and with the process.
#[derive(Debug)]
pub(super) struct FullDisk {
    directory: PathBuf,
    _disk: SmallDisk,
}

/// Gives this thread, and whatever it starts, mounts of their own. `false`: it may not.
pub(super) fn have_own_mounts() -> bool {
    // SAFETY: unshare touches no memory of ours.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return false;
    }
    // SAFETY: all pointers are null or literals that end with a zero byte.
    unsafe {
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        ) == 0
    }
}

impl FullDisk {
    /// Makes the directory, and a file system there.
    pub(super) fn mount(directory: &Path) -> Result<FullDisk> {
        let kib = u32::try_from(BYTES >> 10).context("the room is some GiB")?;
        let disk = SmallDisk::mount(directory, kib)?;
        Ok(FullDisk {
            directory: directory.to_owned(),
            _disk: disk
                .with_context(|| format!("mounting a file system on {}", directory.display()))?,
        })
    }

    /// Leaves no room beyond what is taken.
    pub(super) fn fill(&self) -> Result<()> {
        // What is taken may grow meanwhile; then it is refused, and tried again.
        wait_until("a disk to be full", || {
            let taken = self.taken().map_err(|error| error.to_string())?;
            self.resize(taken).map_err(|error| error.to_string())
        })
    }

    /// Gives the room back.
    pub(super) fn free(&self) -> Result<()> {
        self.resize(BYTES)
            .with_context(|| format!("making room in {}", self.directory.display()))
    }

    fn taken(&self) -> io::Result<u64> {
        let path = CString::new(self.directory.as_os_str().as_bytes())?;
        // SAFETY: zeros are a value of it; the call fills it.
        let mut room: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the string ends with a zero byte, and `room` is ours.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut room) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((room.f_blocks - room.f_bfree) * room.f_frsize)
    }

    fn resize(&self, bytes: u64) -> io::Result<()> {
        let path = CString::new(self.directory.as_os_str().as_bytes())?;
        let options = CString::new(format!("size={bytes}"))?;
        // SAFETY: all pointers are null or to strings that end with a zero byte and live until the call is over.
        let result = unsafe {
            let options = options.as_ptr().cast();
            libc::mount(
                std::ptr::null(),
                path.as_ptr(),
                std::ptr::null(),
                libc::MS_REMOUNT,
                options,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Copies what is there to where it stays.
    pub(super) fn keep(&self) -> Result<()> {
        self.free()?;
        let mut to = self.directory.clone().into_os_string();
        to.push("-kept");
        let status = std::process::Command::new("cp")
            .args(["-a", "--sparse=always"])
            .arg(&self.directory)
            .arg(&to)
            .status()
            .context("running cp")?;
        anyhow::ensure!(
            status.success(),
            "copying {} failed",
            self.directory.display()
        );
        Ok(())
    }
}
