//! Child processes that don't outlive the demo, however it ends.

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Lines shown of a log when something failed.
const TAIL_LINES: usize = 20;

/// What to run, and the files that its output is added to.
pub(super) struct Order {
    pub(super) what: String,
    pub(super) command: Command,
    pub(super) stdout: PathBuf,
    pub(super) stderr: PathBuf,
}

/// A running child, in a process group of its own, so that Ctrl-C reaches it through the demo only. Dropping the handle
/// kills the group; the end of the demo's main thread, which has to be the one that starts it, kills the child.
pub(super) struct Child {
    what: String,
    child: std::process::Child,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts it.
    pub(super) fn start(order: Order) -> anyhow::Result<Child> {
        let Order {
            what,
            mut command,
            stdout,
            stderr,
        } = order;
        let parent = std::process::id();
        command
            .stdin(Stdio::null())
            .stdout(appended(&stdout)?)
            .stderr(appended(&stderr)?)
            .process_group(0);
        // SAFETY: between fork and exec it makes two system calls, and nothing that takes a lock or allocates.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have gone before that call: nobody would be told any more.
                let there = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
                if there == Some(parent.cast_signed()) {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::Interrupted.into())
                }
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting {what} ({})", command.get_program().display()))?;
        Ok(Child {
            what,
            child,
            ended: None,
        })
    }

    /// What it is, for messages.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its messages go.
    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .with_context(|| format!("waiting for {}", self.what))?;
        }
        Ok(self.ended)
    }

    /// SIGKILL, and waits for the end.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        let status = (self.child.kill())
            .and_then(|()| self.child.wait())
            .with_context(|| format!("killing {}", self.what))?;
        self.ended = Some(status);
        Ok(())
    }

    /// SIGTERM.
    pub(super) fn terminate(&mut self) -> anyhow::Result<()> {
        if self.ended()?.is_none() {
            rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)
                .with_context(|| format!("stopping {}", self.what))?;
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // While it hasn't been waited for, its number is nobody else's.
        if self.ended.is_none() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn appended(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// The last lines of a log, under its name; nothing if it is empty.
pub(super) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let mut shown = String::new();
    if !lines.is_empty() {
        let _ = writeln!(shown, "--- {}", log.display());
    }
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        let _ = writeln!(shown, "{line}");
    }
    shown
}
