//! What a process says over HTTP, asked as a scraper and a probe ask.

use crate::site::Site;
use crate::wait_until;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Where a process serves metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    base: String,
}

/// Metrics by name and labels: `name{a="b"}`, as they are written.
pub type Metrics = BTreeMap<String, f64>;

impl Console {
    /// At an address that is known.
    pub fn at(address: &str) -> Console {
        Console {
            base: format!("http://{address}"),
        }
    }

    /// As a status file says (`status.json`, `apply-status.json`), once it says so.
    pub fn of(site: &Site, status: &str) -> Result<Console> {
        let path = site.state().join(status);
        let base = wait_until("a process to serve metrics", || {
            let text = std::fs::read(&path).map_err(|error| error.to_string())?;
            let status: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            let url = status["metrics"][0].as_str();
            match url.and_then(|url| url.strip_suffix("/metrics")) {
                Some(url) if status["stopped"] == false => Ok(url.to_owned()),
                _ => Err(status.to_string()),
            }
        })?;
        Ok(Console { base })
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// Status code, content type and body.
    pub fn get(&self, path: &str) -> Result<(u16, String, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_WITHIN))
            .build()
            .into();
        let url = format!("{}{path}", self.base);
        let mut answer = agent
            .get(&url)
            .call()
            .with_context(|| format!("asking {url}"))?;
        let kind = answer.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.to_owned();
        let body = answer
            .body_mut()
            .read_to_string()
            .with_context(|| format!("reading what {url} answers"))?;
        Ok((answer.status().as_u16(), kind, body))
    }

    /// `/readyz` or `/healthz`: whether it is 200, and what it says.
    pub fn judgement(&self, path: &str) -> Result<(bool, Value)> {
        let (code, _, body) = self.get(path)?;
        ensure!(matches!(code, 200 | 503), "{path} answers {code}: {body}");
        let json = serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))?;
        Ok((code == 200, json))
    }

    /// Waits until `/readyz` says that it is ready, or that it isn't for this reason.
    pub fn wait_for(&self, reason: Option<&str>) -> Result<()> {
        wait_until(&format!("readiness to be {reason:?}"), || {
            let (ready, json) = self
                .judgement("/readyz")
                .map_err(|error| format!("{error:#}"))?;
            let reasons = json["reasons"].as_array().cloned().unwrap_or_default();
            let is_so = match reason {
                None => ready && reasons.is_empty() && json["ready"] == true,
                Some(reason) => !ready && reasons.iter().any(|there| there["reason"] == reason),
            };
            if is_so { Ok(()) } else { Err(json.to_string()) }
        })
    }

    /// Reads `/metrics`, which has to be OpenMetrics text: every sample belongs to a family that was announced with its
    /// type, and fits it; the end is marked; nothing is there twice.
    pub fn metrics(&self) -> Result<Metrics> {
        let (code, kind, body) = self.get("/metrics")?;
        ensure!(code == 200, "/metrics answers {code}: {body}");
        ensure!(
            kind.starts_with("application/openmetrics-text; version=1.0.0"),
            "{kind}"
        );
        parse(&body)
    }
}

fn parse(body: &str) -> Result<Metrics> {
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut metrics = Metrics::new();
    let Some(lines) = body.strip_suffix("# EOF\n") else {
        bail!("the end isn't marked: {body}");
    };
    let mut family = ("", "");
    for line in lines.lines() {
        if let Some(told) = line.strip_prefix("# ") {
            let mut words = told.splitn(3, ' ');
            let (what, name) = (words.next(), words.next().unwrap_or_default());
            let rest = words.next().unwrap_or_default();
            match what {
                Some("TYPE") => {
                    ensure!(families.insert(name, rest).is_none(), "{name} twice");
                    family = (name, rest);
                }
                Some("HELP" | "UNIT") => ensure!(!rest.is_empty(), "{line}"),
                _ => bail!("{line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').context("a sample")?;
        let suffix = match family.1 {
            "counter" => "_total",
            "info" => "_info",
            "gauge" => "",
            other => bail!("{other}: {line}"),
        };
        let bare = name.split('{').next().unwrap_or_default();
        ensure!(
            bare.strip_suffix(suffix) == Some(family.0),
            "{line} isn't of {family:?}"
        );
        let value: f64 = value.parse().with_context(|| line.to_owned())?;
        ensure!(
            metrics.insert(name.to_owned(), value).is_none(),
            "{name} twice"
        );
    }
    Ok(metrics)
}
