//! A way to a server that can be cut, slowed down and healed: bytes are passed on both ways, sooner or later, or nothing is.

use anyhow::{Context as _, Result};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Listens on a port of its own as long as the test runs.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: AtomicBool,
    delay_ms: AtomicU64,
    streams: Mutex<Vec<Weak<TcpStream>>>,
}

impl Proxy {
    /// Passes on to a port of this machine.
    pub fn to(port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
        let own = listener.local_addr().context("asking for the port")?.port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                // Whoever comes while it is cut is sent away, as by a machine where nobody listens.
                if !shared.is_cut.load(Ordering::SeqCst) {
                    let _ = shared.connect(&shared, incoming, port);
                }
            }
        });
        Ok(Proxy { port: own, state })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks all connections, and takes none.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        let mut streams = self.state.streams();
        for stream in streams.drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Has everything take so much longer, each way.
    pub fn delay(&self, by: Duration) {
        let ms = by.as_millis() as u64;
        self.state.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// Takes connections again, and delays nothing.
    pub fn heal(&self) {
        self.delay(Duration::ZERO);
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl State {
    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<Weak<TcpStream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, shared: &Arc<State>, incoming: TcpStream, port: u16) -> io::Result<()> {
        let outgoing = Arc::new(TcpStream::connect(("127.0.0.1", port))?);
        let incoming = Arc::new(incoming);
        for (from, to) in [(&incoming, &outgoing), (&outgoing, &incoming)] {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            let state = Arc::clone(shared);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = (&*from).read(&mut buffer) {
                    let delay = state.delay_ms.load(Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(delay));
                    if (&*to).write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        let mut streams = self.streams();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.extend([&incoming, &outgoing].map(Arc::downgrade));
        if self.is_cut.load(Ordering::SeqCst) {
            for stream in streams.drain(..).filter_map(|stream| stream.upgrade()) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }
}
