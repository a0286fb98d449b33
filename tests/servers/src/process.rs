//! Child processes that never outlive the test.

use crate::poll::{LIMIT, wait_until};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running child. It is its own process group; dropping the handle kills the whole group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

/// A child that has ended.
#[derive(Debug)]
pub struct Finished {
    /// What was run, for messages.
    pub what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Itself, where the exit code is `code`; else an error that shows what the program said.
    pub fn expect_code(self, code: i32) -> Result<Finished> {
        if self.status.code() != Some(code) {
            bail!(
                "`{}` ended with {}, not with exit code {code}\n--- stdout\n{}\n--- stderr\n{}",
                self.what,
                self.status,
                tail(&self.stdout),
                tail(&self.stderr)
            );
        }
        Ok(self)
    }

    /// Itself, where the exit code is 0.
    pub fn success(self) -> Result<Finished> {
        self.expect_code(0)
    }

    /// Itself, where it failed with an exit code (not by a signal) and every one of `words` is in what
    /// it wrote to standard error.
    pub fn refused_with(self, words: &[&str]) -> Result<Finished> {
        if self.status.success() || self.status.signal().is_some() {
            bail!(
                "`{}` ended with {}; a refusal was expected\n--- stderr\n{}",
                self.what,
                self.status,
                tail(&self.stderr)
            );
        }
        for word in words {
            if !self.stderr.contains(word) {
                bail!(
                    "`{}` doesn't say {word:?}\n--- stderr\n{}",
                    self.what,
                    tail(&self.stderr)
                );
            }
        }
        Ok(self)
    }
}

impl Process {
    /// Starts `command` with its output in files called after `what` in `logs`.
    pub fn start(
        mut command: Command,
        what: String,
        logs: &Path,
        number: usize,
    ) -> Result<Process> {
        let base = what
            .split_whitespace()
            .next()
            .unwrap_or("process")
            .rsplit('/')
            .next()
            .unwrap_or("process")
            .to_owned();
        let stdout = logs.join(format!("{number:03}-{base}.out"));
        let stderr = logs.join(format!("{number:03}-{base}.err"));
        let create =
            |path: &Path| File::create(path).with_context(|| format!("making {}", path.display()));
        command
            .stdin(Stdio::null())
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?)
            .process_group(0);
        // SAFETY: prctl is async-signal-safe, and the closure touches no memory of the parent's.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting `{what}`"))?;
        Ok(Process {
            child,
            what,
            stdout,
            stderr,
            ended: None,
        })
    }

    /// Process id. After `counterfoil exec` it is that of the program itself.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, to the process alone, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended.is_none() {
            self.child
                .kill()
                .with_context(|| format!("killing `{}`", self.what))?;
            self.ended = Some(
                self.child
                    .wait()
                    .with_context(|| format!("waiting for `{}`", self.what))?,
            );
        }
        Ok(())
    }

    /// SIGTERM; the process goes on until it chooses to end.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Sends a signal.
    pub fn signal(&self, number: i32) {
        // SAFETY: the child hasn't been waited for, so the id is its own still.
        unsafe { libc::kill(self.child.id().cast_signed(), number) };
    }

    /// Whether it hasn't ended yet.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .with_context(|| format!("looking at `{}`", self.what))?;
        }
        Ok(self.ended.is_none())
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read_text(&self.stderr)
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read_text(&self.stdout)
    }

    /// Waits for its end, within the limit.
    pub fn finish(mut self) -> Result<Finished> {
        let what = format!("the end of `{}` (limit {} s)", self.what, LIMIT.as_secs());
        let status = wait_until(&what, || match self.is_running() {
            Ok(false) => self.ended.ok_or_else(|| "no status".to_owned()),
            Ok(true) => Err(format!("still running; stderr: {}", tail(&self.stderr()))),
            Err(error) => Err(format!("{error:#}")),
        })?;
        Ok(Finished {
            what: self.what.clone(),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group first: children of a shell, say, which the kill below would leave behind.
        if self.ended.is_none() {
            // SAFETY: the child hasn't been waited for, so the group's id is its own still.
            unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
        }
        let _ = self.kill();
    }
}

fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The last part of a long output.
fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(4000);
    let from = (from..text.len())
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(text.len());
    &text[from..]
}
