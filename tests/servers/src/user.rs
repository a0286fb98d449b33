//! Whom a server runs as: database servers refuse to run as root.

use anyhow::{Context as _, Result, bail};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

/// The user that servers run as: another one when this process is root's, else its own.
#[derive(Clone, Copy, Debug)]
pub struct ServerUser {
    other: Option<(u32, u32)>,
}

impl ServerUser {
    /// The first of these users that there is, if this process is root's.
    pub fn find(names: &[&str]) -> Result<ServerUser> {
        // SAFETY: it takes nothing and can't fail.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(ServerUser { other: None });
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        for name in names.iter().chain(&["nobody"]) {
            for line in passwd.lines() {
                let fields: Vec<&str> = line.split(':').collect();
                if let [user, _, uid, gid, ..] = fields[..]
                    && user == *name
                {
                    return Ok(ServerUser {
                        other: Some((uid.parse()?, gid.parse()?)),
                    });
                }
            }
        }
        bail!(
            "no server runs as root, and there is none of the users {names:?}, nor nobody; install the package that has them"
        )
    }

    /// Gives a directory with all that is in it to the user.
    pub fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.other else {
            return Ok(());
        };
        let owning = || format!("giving {} to the server", path.display());
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).with_context(owning)?;
        if path.is_dir() && !path.is_symlink() {
            for entry in std::fs::read_dir(path).with_context(owning)? {
                self.own(&entry.with_context(owning)?.path())?;
            }
        } else {
            chown(path, Some(uid), Some(gid)).with_context(owning)?;
        }
        Ok(())
    }

    /// Whether it is another one than this process is.
    pub fn is_another(&self) -> bool {
        self.other.is_some()
    }

    /// A command that runs a program as the user.
    pub fn command(&self, program: &Path) -> Command {
        let Some((uid, gid)) = self.other else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .args(["--clear-groups", "--"])
            .arg(program);
        command
    }
}

/// While it is there, this thread may do with files what anybody may, also where the process is root's.
///
/// The kernel keeps that by thread; other threads go on as they were.
#[derive(Debug)]
pub struct AsNobody {
    former: u32,
    /// The thread's that made it: not to be sent to another.
    _thread: std::marker::PhantomData<*const ()>,
}

impl AsNobody {
    /// From here on.
    pub fn begin() -> AsNobody {
        const NOBODY: u32 = 65534;
        // SAFETY: it takes a number and touches no memory.
        let former = unsafe { libc::geteuid() };
        if former == 0 {
            // SAFETY: as above.
            unsafe { libc::setfsuid(NOBODY) };
        }
        AsNobody {
            former,
            _thread: std::marker::PhantomData,
        }
    }
}

impl Drop for AsNobody {
    fn drop(&mut self) {
        // SAFETY: it takes a number and touches no memory.
        unsafe { libc::setfsuid(self.former) };
    }
}
