//! A way to a server that can be cut and healed: bytes are passed on both ways, or nothing is.

use anyhow::{Context as _, Result};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Listens on a port of its own as long as the test runs.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
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
                    let _ = shared.connect(incoming, port);
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
        for stream in self.state.streams().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again.
    pub fn heal(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl State {
    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, incoming: TcpStream, port: u16) -> io::Result<()> {
        let outgoing = TcpStream::connect(("127.0.0.1", port))?;
        for (mut from, mut to) in [
            (incoming.try_clone()?, outgoing.try_clone()?),
            (outgoing.try_clone()?, incoming.try_clone()?),
        ] {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        let mut streams = self.streams();
        streams.push(incoming);
        streams.push(outgoing);
        if self.is_cut.load(Ordering::SeqCst) {
            for stream in streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }
}
