//! A way to a server that can be cut at the worst moment.

use anyhow::{Context as _, Result};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// When to cut the connection. Once it was cut, connections go through again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// When the client sends these bytes: the server never sees them.
    Request(Vec<u8>),
    /// When the server has answered to these bytes: the client never sees the answer.
    Answer(Vec<u8>),
}

/// A socket that leads to a server's socket. Ends with the process.
#[derive(Debug)]
pub struct Proxy {
    path: PathBuf,
    cut: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    /// Listens on the socket `path`, and leads to the server that listens on `server`.
    pub fn start(path: &Path, server: &Path) -> Result<Proxy> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
        let cut = Arc::new(Mutex::new(None));
        let (server, shared) = (server.to_owned(), Arc::clone(&cut));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client whose server isn't there sees its connection closed.
                let Ok(server) = UnixStream::connect(&server) else {
                    continue;
                };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || forward(&client, &server, &shared));
            }
        });
        Ok(Proxy {
            path: path.to_owned(),
            cut,
        })
    }

    /// Where clients connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts a connection at this moment, once.
    pub fn cut(&self, when: Cut) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(when);
    }

    /// Whether a cut that was ordered is still to come.
    pub fn is_armed(&self) -> bool {
        self.cut
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

/// Passes on what comes from the client, in this thread, and what comes from the server, in another.
fn forward(client: &UnixStream, server: &UnixStream, cut: &Mutex<Option<Cut>>) {
    let withheld = Arc::new(Mutex::new(false));
    let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else {
        return;
    };
    let is_withheld = Arc::clone(&withheld);
    let back = std::thread::spawn(move || answers(&from_server, &to_client, &is_withheld));
    let mut seen = Vec::new();
    let mut buffer = [0; 1 << 16];
    loop {
        let read = match (&*client).read(&mut buffer) {
            Ok(read) if read > 0 => read,
            _ => break,
        };
        seen.extend_from_slice(&buffer[..read]);
        let due = {
            let mut cut = cut.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = |cut: &mut Cut| match cut {
                Cut::Request(bytes) | Cut::Answer(bytes) => contains(&seen, bytes),
            };
            cut.take_if(is_due)
        };
        seen.drain(..seen.len().saturating_sub(256));
        match due {
            Some(Cut::Request(_)) => break,
            Some(Cut::Answer(_)) => {
                *withheld.lock().unwrap_or_else(PoisonError::into_inner) = true;
                if (&*server).write_all(&buffer[..read]).is_ok() {
                    // The other thread cuts when the answer is there.
                    let _ = back.join();
                }
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            None => {
                if (&*server).write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    let _ = back.join();
}

fn answers(server: &UnixStream, client: &UnixStream, withheld: &Mutex<bool>) {
    let mut buffer = [0; 1 << 16];
    while let Ok(read) = (&*server).read(&mut buffer)
        && read > 0
    {
        let is_withheld = *withheld.lock().unwrap_or_else(PoisonError::into_inner);
        if is_withheld || (&*client).write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len().max(1))
        .any(|window| window == needle)
}
