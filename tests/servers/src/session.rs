//! A session of somebody else's with a server, which holds what it has taken until it is dropped.

use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

/// What comes behind a statement's rows.
const END: &str = "-- done --";

/// A client program of the database's own, which is told one statement after the other.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    errors: ChildStderr,
}

impl Session {
    /// Starts a client that reads statements from its input and ends at the first one that fails.
    pub fn start(mut command: Command) -> Result<Session> {
        let starting = || format!("starting {command:?}");
        let text = starting();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| text.clone())?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("{text}: it has no pipes");
        };
        Ok(Session {
            child,
            input,
            output: BufReader::new(output),
            errors,
        })
    }

    /// Runs statements, and waits until they are done. Gives their rows.
    pub fn run(&mut self, sql: &str) -> Result<String> {
        let running = || format!("running {sql} in a session of its own");
        writeln!(self.input, "{sql};\nSELECT '{END}';").with_context(running)?;
        let mut rows = String::new();
        loop {
            let before = rows.len();
            if self.output.read_line(&mut rows).with_context(running)? == 0 {
                let mut errors = String::new();
                self.errors
                    .read_to_string(&mut errors)
                    .with_context(running)?;
                bail!("{}: the session ended: {errors}", running());
            }
            if rows[before..].trim_end() == END {
                rows.truncate(before);
                return Ok(rows);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What it holds is free when this returns, where the server is there still.
        let _ = self.run("ROLLBACK");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
