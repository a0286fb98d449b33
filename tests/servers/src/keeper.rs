//! A server's directory, and who clears up after it when nobody else can.

use anyhow::{Context as _, Result};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Waits until its standard input is closed, which is when the process that started it is gone, however it ended. Then it
/// ends every process whose working directory is in the directory, and removes that.
///
/// `QUIT` makes PostgreSQL give its shared memory back, `TERM` is for those that take no notice of `QUIT`, and `KILL` for
/// those that take none at all.
const REAPER: &str = r#"
dir=$1
each() {
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/cwd" 2>/dev/null)" in
            "$dir"|"$dir"/*) kill -s "$1" "${process#/proc/}" 2>/dev/null; found=1;;
        esac
    done
}
cd /
read -r _
for signal in QUIT TERM KILL KILL; do
    tries=20
    while [ $tries -gt 0 ]; do
        found=
        each "$signal"
        [ "$found" ] || break 2
        signal=0
        sleep 0.1
        tries=$((tries - 1))
    done
done
rm -rf -- "$dir"
"#;

/// A directory for a server. When the handle is dropped, or the process that has it is gone (even by SIGKILL), all
/// processes that work in the directory are ended, and it is removed.
///
/// A parent-death signal would not do: it comes when the *thread* ends that started the child, and each test has a thread.
#[derive(Debug)]
pub struct Keeper {
    directory: PathBuf,
    reaper: Child,
    /// Closed to say that it is over.
    end: Option<ChildStdin>,
}

impl Keeper {
    /// Makes a directory whose name begins with this. It is short, for paths of sockets are limited to some 100 bytes, and
    /// others may enter it: a server may run as another user.
    pub fn new(name: &str) -> Result<Keeper> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("cf-{name}-"))
            .tempdir_in("/tmp")
            .context("making a directory for a server")?
            .keep();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("opening {} to others", directory.display()))?;
        let mut reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "reaper"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What interrupts the tests from the terminal mustn't end it.
            .process_group(0)
            .spawn()
            .context("starting the shell that clears up")?;
        let end = reaper.stdin.take();
        Ok(Keeper {
            directory,
            reaper,
            end,
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.reaper.wait();
    }
}

/// A TCP port on the loopback address that nobody listens on just now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .context("finding a free port")?
        .port())
}
