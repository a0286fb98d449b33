//! A way to a server that can be cut at the worst moment, closed for a while, or slow.

use anyhow::{Context as _, Result};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

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
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    cut: Mutex<Option<Cut>>,
    is_closed: AtomicBool,
    delay_ms: AtomicU64,
    /// Both ends of all connections, to break them.
    streams: Mutex<Vec<Weak<UnixStream>>>,
}

impl State {
    fn cut(&self) -> std::sync::MutexGuard<'_, Option<Cut>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let delay = self.delay_ms.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(delay));
    }

    fn keep(&self, ends: [&Arc<UnixStream>; 2]) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.extend(ends.map(Arc::downgrade));
        if self.is_closed.load(Ordering::SeqCst) {
            break_all(&mut streams);
        }
    }
}

fn break_all(streams: &mut Vec<Weak<UnixStream>>) {
    for stream in streams.drain(..).filter_map(|stream| stream.upgrade()) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Proxy {
    /// Listens on the socket `path`, and leads to the server that listens on `server`.
    pub fn start(path: &Path, server: &Path) -> Result<Proxy> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
        let state = Arc::new(State::default());
        let (server, shared) = (server.to_owned(), Arc::clone(&state));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.is_closed.load(Ordering::SeqCst) {
                    continue;
                }
                // A client whose server isn't there sees its connection closed.
                let Ok(server) = UnixStream::connect(&server) else {
                    continue;
                };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || forward(&Arc::new(client), &Arc::new(server), &shared));
            }
        });
        Ok(Proxy {
            path: path.to_owned(),
            state,
        })
    }

    /// Where clients connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts a connection at this moment, once.
    pub fn cut(&self, when: Cut) {
        *self.state.cut() = Some(when);
    }

    /// Whether a cut that was ordered is still to come.
    pub fn is_armed(&self) -> bool {
        self.state.cut().is_some()
    }

    /// Breaks all connections, and takes none.
    pub fn close(&self) {
        self.state.is_closed.store(true, Ordering::SeqCst);
        let mut streams = self
            .state
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        break_all(&mut streams);
    }

    /// Has everything take so much longer, each way.
    pub fn delay(&self, by: Duration) {
        let ms = by.as_millis() as u64;
        self.state.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// Takes connections again, delays nothing, and cuts none of them.
    pub fn heal(&self) {
        *self.state.cut() = None;
        self.delay(Duration::ZERO);
        self.state.is_closed.store(false, Ordering::SeqCst);
    }
}

/// Passes on what comes from the client, in this thread, and what comes from the server, in another.
fn forward(client: &Arc<UnixStream>, server: &Arc<UnixStream>, state: &Arc<State>) {
    state.keep([client, server]);
    let withheld = Arc::new(Mutex::new(false));
    let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else {
        return;
    };
    let is_withheld = Arc::clone(&withheld);
    let shared = Arc::clone(state);
    let back = std::thread::spawn(move || answers(&from_server, &to_client, &is_withheld, &shared));
    let mut seen = Vec::new();
    let mut buffer = [0; 1 << 16];
    loop {
        let read = match (&**client).read(&mut buffer) {
            Ok(read) if read > 0 => read,
            _ => break,
        };
        state.wait();
        seen.extend_from_slice(&buffer[..read]);
        let due = {
            let mut cut = state.cut();
            // What went through before the cut was ordered doesn't count.
            let is_due = |cut: &mut Cut| match cut {
                Cut::Request(bytes) | Cut::Answer(bytes) => {
                    let new = (read + bytes.len()).saturating_sub(1).min(seen.len());
                    contains(&seen[seen.len() - new..], bytes)
                }
            };
            cut.take_if(is_due)
        };
        seen.drain(..seen.len().saturating_sub(256));
        match due {
            Some(Cut::Request(_)) => break,
            Some(Cut::Answer(_)) => {
                *withheld.lock().unwrap_or_else(PoisonError::into_inner) = true;
                if (&**server).write_all(&buffer[..read]).is_ok() {
                    // The other thread cuts when the answer is there.
                    let _ = back.join();
                }
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            None => {
                if (&**server).write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    let _ = back.join();
}

fn answers(server: &UnixStream, client: &UnixStream, withheld: &Mutex<bool>, state: &State) {
    let mut buffer = [0; 1 << 16];
    while let Ok(read) = (&*server).read(&mut buffer)
        && read > 0
    {
        state.wait();
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
