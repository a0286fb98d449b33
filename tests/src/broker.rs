//! A Kafka-protocol broker for a test: one of its own, or the cluster that `KAFKA_BOOTSTRAP` names.

use crate::site::Site;
use anyhow::{Context as _, Result, bail};
use counterfoil_servers::Process;
use counterfoil_servers::wait_until;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A broker of the test's own keeps what it has in a file, and can be killed and started again.
#[derive(Debug)]
pub struct Broker {
    prefix: String,
    own: Option<Own>,
    bootstrap: String,
}

#[derive(Debug)]
struct Own {
    program: PathBuf,
    /// Relative to the site: the broker takes no absolute path.
    storage: String,
    port: u16,
    process: Option<Process>,
}

/// Where `cargo xtask test` installs the broker, outside of any checkout.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("COUNTERFOIL_NISSHI") {
        return Ok(PathBuf::from(path));
    }
    let home = std::env::var_os("HOME").context("HOME isn't set")?;
    let path = Path::new(&home).join(".cache/counterfoil-test/nisshi-0.8.1/bin/nisshi");
    if !path.exists() {
        bail!(
            "there is no broker in {}; run `cargo xtask test`, which installs it, or name a cluster in KAFKA_BOOTSTRAP",
            path.display()
        );
    }
    Ok(path)
}

impl Broker {
    /// Starts a broker for a site.
    pub fn start(site: &Site) -> Result<Broker> {
        let name = site.root().file_name().unwrap_or_default();
        let prefix = name.to_string_lossy().replace('_', "-");
        if let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP") {
            return Ok(Broker {
                prefix,
                own: None,
                bootstrap,
            });
        }
        let mut broker = Broker::beside(site, "broker.db")?;
        broker.prefix = prefix;
        Ok(broker)
    }

    /// A further broker that shares what it has with the first: another way to the same cluster.
    pub fn beside(site: &Site, storage: &str) -> Result<Broker> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .context("finding a free port")?
            .port();
        let mut broker = Broker {
            prefix: String::new(),
            bootstrap: format!("127.0.0.1:{port}"),
            own: Some(Own {
                program: program()?,
                storage: storage.to_owned(),
                port,
                process: None,
            }),
        };
        broker.raise(site)?;
        Ok(broker)
    }

    /// Whether it is the test's own, so that it can be killed.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Where clients find it.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The lines of a configuration that use it.
    pub fn config(&self) -> String {
        self.config_with(&[("lan", self.bootstrap())])
    }

    /// The same with these routes.
    pub fn config_with(&self, routes: &[(&str, &str)]) -> String {
        let routes: Vec<String> = routes
            .iter()
            .map(|(name, bootstrap)| format!("{{ name = {name:?}, bootstrap = {bootstrap:?} }}"))
            .collect();
        format!(
            "\n[kafka]\ntopic_prefix = {:?}\nreplication = 1\nroutes = [{}]\n",
            self.prefix,
            routes.join(", ")
        )
    }

    /// The topic of a group of the site.
    pub fn topic(&self, group: &str) -> String {
        format!("{}.test.{group}", self.prefix)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        match self.own.as_mut().and_then(|own| own.process.take()) {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts it, if it isn't running.
    pub fn raise(&mut self, site: &Site) -> Result<()> {
        let Some(own) = &mut self.own else {
            return Ok(());
        };
        if own.process.is_some() {
            return Ok(());
        }
        let url = format!("tcp://127.0.0.1:{}", own.port);
        let mut command = Command::new(&own.program);
        command
            .args(["broker", "--cluster-id", "test", "--listener-url", &url])
            .args(["--advertised-listener-url", &url, "--storage-engine"])
            .arg(format!("sqlite://{}?maintenance_interval=5s", own.storage))
            .env("RUST_LOG", "warn")
            .current_dir(site.root());
        let mut process = site.start(command)?;
        let port = own.port;
        wait_until("the broker to listen", || {
            if !process.is_running().map_err(|error| format!("{error:#}"))? {
                return Err(format!("it ended: {}", process.stderr()));
            }
            TcpStream::connect(("127.0.0.1", port))
                .map(drop)
                .map_err(|error| error.to_string())
        })?;
        own.process = Some(process);
        Ok(())
    }
}
