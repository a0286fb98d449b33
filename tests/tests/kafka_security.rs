//! TLS, certificates of clients, and passwords: what works, what is said when something is wrong, and that no password is
//! ever told.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Broker, Certificates, Group, Shape, Site, c, wait_until};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

const PASSWORD: &str = "correct-horse-7e";
const WRONG: &str = "battery-staple-3b";

fn group() -> Group {
    Group::new("g", "none").file("a.dat", Shape::Fixed { size: 100 })
}

/// Writes the configuration with these settings of the client library.
fn configure(site: &Site, broker: &Broker, kafka: &str, client: &[(&str, &str)]) -> Result<()> {
    let client: Vec<String> = client
        .iter()
        .map(|(key, value)| format!("{key:?} = {value:?}"))
        .collect();
    let kafka = format!("{kafka}\n[kafka.client]\n{}\n", client.join("\n"));
    site.configure_text(&(site.config_text(&[group()]) + &broker.config() + &kafka))
}

/// What `check` says about the route, which must be an error.
fn refusal(site: &Site) -> Result<String> {
    let finished = site.run(&["check", "--json"])?.expect_code(1)?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).context("JSON")?;
    let findings = report["findings"].as_array().context("findings")?;
    let finding = findings
        .iter()
        .find(|finding| finding["level"] == "error" && finding["check"] == "kafka")
        .with_context(|| format!("no error in {report}"))?;
    Ok(format!(
        "{} {} {}",
        finding["subject"], finding["message"], finding["help"]
    ))
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} isn't in {text}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// No process of the site has written the words anywhere but to where they belong.
fn assert_never_told(site: &Site, words: &str, except: &Path) -> Result<()> {
    let mut directories = vec![site.root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path != except && !path.starts_with(site.root().join("broker.db")) {
                let content = std::fs::read(&path)?;
                let found = content
                    .windows(words.len())
                    .any(|window| window == words.as_bytes());
                assert!(!found, "{} has the password", path.display());
            }
        }
    }
    Ok(())
}

#[test]
fn tls_and_scram_work_and_what_is_wrong_with_them_is_said_and_mended_without_a_restart()
-> Result<()> {
    let site = Site::new("kafka-tls")?;
    let mut broker = Broker::own(&site)?;
    broker.add_user(&site, "mirror", PASSWORD)?;
    let certificates = Certificates::new(&site, "tls")?;
    certificates.sign(&site, "broker")?;
    let others = Certificates::new(&site, "others")?;
    let (certificate, key) = (
        certificates.certificate("broker"),
        certificates.key("broker"),
    );
    let arguments = [
        "--cert",
        path(&certificate),
        "--key",
        path(&key),
        "--authentication",
    ];
    broker.change(&site, &arguments, None)?;

    let password_file = site.root().join("password");
    std::fs::write(&password_file, format!("{PASSWORD}\n"))?;
    let kafka = format!("password_file = {password_file:?}");
    let (right, wrong) = (certificates.certificate("ca"), others.certificate("ca"));
    let missing = site.root().join("none.pem");
    let with_ca = |ca| {
        [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "mirror"),
            ("ssl.ca.location", ca),
        ]
    };
    configure(&site, &broker, &kafka, &with_ca(path(&wrong)))?;
    let said = refusal(&site)?;
    assert_says(
        &said,
        &["route lan", broker.bootstrap(), "certificate verify failed"],
    );
    assert_says(&said, &["ssl.ca.location", path(&wrong)]);
    configure(&site, &broker, &kafka, &with_ca(path(&missing)))?;
    assert_says(&refusal(&site)?, &["route lan", "none.pem"]);
    configure(&site, &broker, "", &[("security.protocol", "plaintext")])?;
    assert_says(&refusal(&site)?, &["route lan", "security.protocol"]);

    // A password that isn't right; once it is, everything goes on by itself.
    std::fs::write(&password_file, WRONG)?;
    configure(&site, &broker, &kafka, &with_ca(path(&right)))?;
    let said = refusal(&site)?;
    assert_says(
        &said,
        &[
            "route lan",
            "uthentication failed",
            "sasl.username is mirror",
        ],
    );
    assert_says(&said, &[path(&password_file)]);
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    site.exec_to_end(&c("record_writer")?, &["a.dat", "50"])?;
    wait_until("the status to say what is wrong", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].to_string();
        let is_said = ["route lan", "uthentication failed", "password_file"]
            .iter()
            .all(|words| problems.contains(words));
        if is_said { Ok(()) } else { Err(problems) }
    })?;
    std::fs::write(&password_file, format!("{PASSWORD}\n"))?;
    wait_until("50 rows", || match site.rows("a_dat") {
        Ok(rows) if rows.len() == 50 => Ok(()),
        Ok(rows) => Err(format!("{} rows", rows.len())),
        Err(error) => Err(format!("{error:#}; {}", replicator.stderr())),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    let check = site.run(&["check"])?.success()?;
    assert_says(&check.stdout, &["route lan", "answers"]);
    assert_never_told(&site, WRONG, &password_file)?;
    // The broker's own storage aside, which the test gave it to.
    broker.kill()?;
    assert_never_told(&site, PASSWORD, &password_file)?;
    site.finish();
    Ok(())
}

/// Brokers that ask clients for a certificate. The test's broker can't; something before it can.
#[test]
fn certificates_of_clients_are_shown_and_a_missing_one_is_said() -> Result<()> {
    let site = Site::new("kafka-mutual")?;
    let mut broker = Broker::own(&site)?;
    let certificates = Certificates::new(&site, "tls")?;
    certificates.sign(&site, "broker")?;
    certificates.sign(&site, "client")?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    broker.change(&site, &[], Some(port))?;
    let mut command = Command::new("socat");
    command
        .arg(format!(
            "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=1,cert={},key={},cafile={}",
            certificates.certificate("broker").display(),
            certificates.key("broker").display(),
            certificates.certificate("ca").display()
        ))
        .arg(format!(
            "TCP:127.0.0.1:{}",
            broker.port().context("it is the test's own")?
        ));
    let mut before = site
        .start(command)
        .context("running socat (Debian: socat)")?;
    wait_until("socat to listen", || {
        TcpStream::connect(("127.0.0.1", port))
            .map(drop)
            .map_err(|error| error.to_string())
    })?;
    let ca = certificates.certificate("ca");
    let (certificate, key) = (
        certificates.certificate("client"),
        certificates.key("client"),
    );
    let text = |broker: &Broker, client: &[(&str, &str)]| -> Result<()> {
        configure(&site, broker, "", client)?;
        let config = std::fs::read_to_string(site.config())?;
        let advertised = format!("127.0.0.1:{port}");
        site.configure_text(&config.replace(broker.bootstrap(), &advertised))
    };
    let without = [("security.protocol", "ssl"), ("ssl.ca.location", path(&ca))];
    text(&broker, &without)?;
    assert_says(
        &refusal(&site)?,
        &["route lan", "client certificate", "ssl.key.location"],
    );
    let mut with = without.to_vec();
    with.push(("ssl.certificate.location", path(&certificate)));
    with.push(("ssl.key.location", path(&key)));
    text(&broker, &with)?;
    site.exec_to_end(&c("record_writer")?, &["a.dat", "50"])?;
    site.assert_mirrored()?;
    assert_eq!(site.rows("a_dat")?.len(), 50);
    assert!(before.is_running()?);
    site.finish();
    Ok(())
}
