//! Waiting for conditions.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long anything is waited for before the test fails: generous, because a loaded machine is slow.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits until `condition` gives a value. While it doesn't, it gives a status in words, and the error
/// carries the last one.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> Result<T> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(status) if begin.elapsed() > LIMIT => {
                bail!(
                    "waited {} s for {what}; last status: {status}",
                    LIMIT.as_secs()
                )
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
