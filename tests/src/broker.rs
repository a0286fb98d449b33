//! A Kafka-protocol broker for a test: one of its own, or the cluster that `KAFKA_BOOTSTRAP` names.

use crate::site::Site;
use anyhow::{Context as _, Result, anyhow, bail};
use counterfoil_servers::Process;
use counterfoil_servers::wait_until;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
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
    /// Where clients are told to find it, if that isn't where it listens.
    advertised: Option<u16>,
    /// Further arguments.
    arguments: Vec<String>,
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

/// Waits for what the library does in its own threads.
pub fn wait<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
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
                advertised: None,
                arguments: Vec::new(),
                process: None,
            }),
        };
        broker.raise(site)?;
        Ok(broker)
    }

    /// Starts a broker of the test's own, whatever `KAFKA_BOOTSTRAP` says: a test of what only it can be made to do.
    pub fn own(site: &Site) -> Result<Broker> {
        let name = site.root().file_name().unwrap_or_default();
        let mut broker = Broker::beside(site, "broker.db")?;
        broker.prefix = name.to_string_lossy().replace('_', "-");
        Ok(broker)
    }

    /// Starts it anew with further arguments, and tells clients to find it at another port where one is given.
    pub fn change(
        &mut self,
        site: &Site,
        arguments: &[&str],
        advertised: Option<u16>,
    ) -> Result<()> {
        self.kill()?;
        if let Some(own) = &mut self.own {
            own.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
            own.advertised = advertised;
        }
        self.raise(site)
    }

    /// Makes a user for SCRAM-SHA-512. The broker has to take anybody yet.
    pub fn add_user(&self, site: &Site, name: &str, password: &str) -> Result<()> {
        let mut command = Command::new(program()?);
        command
            .args(["user", "create", "--broker"])
            .arg(format!("tcp://{}", self.bootstrap))
            .args([name, password]);
        site.start(command)?.finish()?.success()?;
        Ok(())
    }

    /// The port it listens on.
    pub fn port(&self) -> Option<u16> {
        self.own.as_ref().map(|own| own.port)
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

    /// Deletes a topic with all that is in it.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        let admin = self.admin()?;
        let results = wait(admin.delete_topics(&[topic], &AdminOptions::new()))?;
        for result in results {
            result.map_err(|(topic, error)| anyhow!("deleting the topic {topic}: {error}"))?;
        }
        Ok(())
    }

    /// Makes a topic with one partition.
    pub fn create_topic(&self, topic: &str) -> Result<()> {
        let admin = self.admin()?;
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let results = wait(admin.create_topics([&new], &AdminOptions::new()))?;
        for result in results {
            result.map_err(|(topic, error)| anyhow!("making the topic {topic}: {error}"))?;
        }
        Ok(())
    }

    /// Deletes all that is in a topic's first partition so far.
    pub fn truncate_topic(&self, topic: &str) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, 0, Offset::End)?;
        let results = wait(self.admin()?.delete_records(&offsets, &AdminOptions::new()))?;
        for element in results.elements() {
            element
                .error()
                .with_context(|| format!("deleting what is in the topic {topic}"))?;
        }
        Ok(())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.create().context("setting up a client")
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
        let advertised = own.advertised.unwrap_or(own.port);
        let advertised = format!("tcp://127.0.0.1:{advertised}");
        let mut command = Command::new(&own.program);
        command
            .args(["broker", "--cluster-id", "test", "--listener-url", &url])
            .args(["--advertised-listener-url", &advertised])
            .args(&own.arguments)
            .arg("--storage-engine")
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
