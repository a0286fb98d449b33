//! Certificates for a test, made by the openssl program.

use crate::site::Site;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority, and what it signs: each a NAME.pem and a NAME.key in a directory.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes an authority `ca` in a directory of the site.
    pub fn new(site: &Site, directory: &str) -> Result<Certificates> {
        let directory = site.root().join(directory);
        std::fs::create_dir(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        let certificates = Certificates { directory };
        certificates.make(site, "ca", &[])?;
        Ok(certificates)
    }

    /// Has the authority sign a certificate for 127.0.0.1.
    pub fn sign(&self, site: &Site, name: &str) -> Result<()> {
        let (ca, key) = (self.certificate("ca"), self.key("ca"));
        let (ca, key) = (text(&ca)?, text(&key)?);
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
        let arguments = ["-CA", ca, "-CAkey", key, "-addext", names];
        self.make(site, name, &arguments)
    }

    fn make(&self, site: &Site, name: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", &format!("/CN=counterfoil test {name}")])
            .args(arguments)
            .arg("-out")
            .arg(self.certificate(name))
            .arg("-keyout")
            .arg(self.key(name));
        site.start(command)
            .context("running openssl (Debian: openssl)")?
            .finish()?
            .success()?;
        Ok(())
    }

    /// Where a certificate is.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// Where its key is.
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the site's path is text")
}
