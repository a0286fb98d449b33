//! A small file system, to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

/// In memory, at a directory, until it is dropped.
pub(crate) struct Room(PathBuf);

impl Room {
    /// Why there can be none.
    pub(crate) fn cannot() -> Option<&'static str> {
        let user = counterfoil_servers::ServerUser::find(&[]).expect("a user");
        let reason = "only root can make a small file system to fill";
        (!user.is_another()).then_some(reason)
    }

    /// So many MiB, at a new directory with this path.
    pub(crate) fn make(path: PathBuf, mib: u32) -> Room {
        std::fs::create_dir(&path).expect("a directory");
        let room = Room(path);
        room.mount(&[
            "-t",
            "tmpfs",
            "-o",
            &format!("size={mib}m,mode=0777"),
            "tmpfs",
        ]);
        room
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// So many MiB from here on.
    pub(crate) fn resize(&self, mib: u32) {
        self.mount(&["-o", &format!("remount,size={mib}m")]);
    }

    fn mount(&self, arguments: &[&str]) {
        let mut command = Command::new("mount");
        let status = command.args(arguments).arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "mounting");
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        let _ = command.arg("--lazy").arg(&self.0).status();
    }
}
