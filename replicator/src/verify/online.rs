//! Asking a running replicator for a round of verification, and waiting for what it finds.
//!
//! The round compares each range of a file at one position of the stream, so that neither side has to stand still. What it
//! can't prove (a range that was being changed each time, a target that doesn't answer) is left to a look at both sides.

use crate::config::Config;
use crate::requests::Request;
use crate::state::applying;
use crate::status::Status;
use crate::verification::{Tally, Verification};
use counterfoil_lane::clock;
use counterfoil_proto::path_text;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Rounds through a file that are asked for, when something was changing it each time.
const ROUNDS_MAX: usize = 6;
/// How long nothing may come before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// What was proven.
#[derive(Debug, Default)]
pub struct Proof {
    /// By sink and file: the round that found all of it equal.
    equal: BTreeMap<(String, Vec<u8>), Tally>,
    /// By file: ranges that weren't as they were captured, and were read again.
    read_again: BTreeMap<Vec<u8>, u64>,
}

impl Proof {
    /// The round that found this file equal in this sink, if one did.
    pub fn of(&self, sink: &str, path: &[u8]) -> Option<&Tally> {
        self.equal.get(&(sink.to_owned(), path.to_vec()))
    }

    /// How many ranges of a file weren't as they were captured, and were read again.
    pub fn ranges_read_again(&self, path: &[u8]) -> u64 {
        self.read_again.get(path).copied().unwrap_or(0)
    }
}

/// A file, and the sinks that are to have it.
struct Wanted {
    path: Vec<u8>,
    shown: String,
    sinks: Vec<String>,
}

/// Has a running replicator go through files (all of the configuration, or these), and says what it proved for these sinks.
///
/// # Errors
/// Nothing can be asked, or the answer can't be read.
pub fn prove(config: &Config, sinks: &[&str], only: Option<&[Vec<u8>]>) -> io::Result<Proof> {
    let mut proof = Proof::default();
    // Through Kafka, a target that is applied to elsewhere tells nobody here.
    if config.kafka.is_some() && applying(config).is_none() {
        return Ok(proof);
    }
    let mut wanted = wanted(config, sinks, only)?;
    for _ in 0..ROUNDS_MAX {
        if wanted.is_empty() {
            break;
        }
        let round = u64::try_from(clock::wall()).unwrap_or(0);
        let paths = wanted.iter().map(|file| file.path.clone()).collect();
        Request::Verify { round, paths }.post(&config.site.requests_path())?;
        let found = wait(config, &wanted, round)?;
        wanted.retain(|file| !proof.take(file, &found));
        // Whoever doesn't answer at all won't the next time.
        let has_answered = |file: &Wanted| file.tallies(&found).next().is_some();
        if !wanted.iter().any(has_answered) {
            break;
        }
    }
    Ok(proof)
}

fn wanted(config: &Config, sinks: &[&str], only: Option<&[Vec<u8>]>) -> io::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for found in config.scan() {
        let found = found.map_err(|error| io::Error::other(error.to_string()))?;
        let path = found.path.as_os_str().as_bytes();
        let is_asked = only.is_none_or(|only| only.iter().any(|one| one == path));
        if !is_asked || config.rule_for(path).is_none() || config.is_static(path) {
            continue;
        }
        let takes = config
            .sinks
            .iter()
            .filter(|sink| sinks.contains(&sink.name.as_str()) && sink.treatment.takes(path, None));
        wanted.push(Wanted {
            path: path.to_vec(),
            shown: path_text(path),
            sinks: takes.map(|sink| sink.name.clone()).collect(),
        });
    }
    wanted.retain(|file| !file.sinks.is_empty());
    Ok(wanted)
}

impl Wanted {
    /// What is known of the file, and of what each sink has of it.
    fn tallies<'v>(&'v self, found: &'v Verification) -> impl Iterator<Item = &'v Tally> {
        let targets = self.sinks.iter().filter_map(|sink| {
            let files = found.targets.get(sink)?;
            files.get(&self.shown)
        });
        found.files.get(&self.shown).into_iter().chain(targets)
    }

    /// Whether rounds that have ended are through with the file everywhere.
    fn is_through(&self, ended: &Verification) -> bool {
        self.tallies(ended).count() == 1 + self.sinks.len()
    }
}

impl Proof {
    /// Takes over what a round found of a file. False when it needs another.
    fn take(&mut self, file: &Wanted, found: &Verification) -> bool {
        if !file.is_through(found) {
            return false;
        }
        let own = found.files.get(&file.shown);
        let differed = own.map_or(0, |tally| tally.different);
        if differed > 0 {
            *self.read_again.entry(file.path.clone()).or_default() += differed;
        }
        let is_clean = |tally: &Tally| tally.outcome().is_some_and(|it| it.busy == 0);
        let is_equal = |tally: &Tally| is_clean(tally) && tally.different == 0;
        let mut is_settled = own.is_some_and(is_equal);
        for sink in &file.sinks {
            let Some(tally) = found.targets.get(sink).and_then(|it| it.get(&file.shown)) else {
                continue;
            };
            // What differs, or can't be compared, needs a look at both sides and no other round.
            let is_final = is_clean(tally) && (tally.different > 0 || tally.uncompared.is_some());
            is_settled &= is_equal(tally) || is_final;
            if is_equal(tally) && tally.uncompared.is_none() && own.is_some_and(is_equal) {
                let of = (sink.clone(), file.path.clone());
                self.equal.insert(of, tally.clone());
            }
        }
        is_settled
    }
}

/// Waits until a round is through with these files, or nothing comes any more; says what it found, or a later one, which
/// proves as much.
fn wait(config: &Config, wanted: &[Wanted], round: u64) -> io::Result<Verification> {
    let mut ended = Verification::default();
    let mut seen = None;
    let mut last_news = Instant::now();
    loop {
        let mut found = Verification::read(&config.site.verification_path())?;
        found.join(Verification::read(&config.site.apply_verification_path())?);
        // One that is behind comes to the checksums in time.
        let now = (found, positions(config)?);
        if seen.as_ref() != Some(&now) {
            ended.join(now.0.ended_since(round));
            seen = Some(now);
            last_news = Instant::now();
        }
        let is_through = wanted.iter().all(|file| file.is_through(&ended));
        if is_through || last_news.elapsed() > PATIENCE {
            return Ok(ended);
        }
        std::thread::sleep(LOOK);
    }
}

/// How far each target is.
fn positions(config: &Config) -> io::Result<Vec<BTreeMap<String, String>>> {
    let paths = [config.site.status_path(), config.site.apply_status_path()];
    let statuses = paths.iter().map(|path| Status::read(path));
    let statuses = statuses.collect::<io::Result<Vec<_>>>()?;
    let sinks = statuses.into_iter().flatten().flat_map(|it| it.sinks);
    Ok(sinks.map(|(_, sink)| sink.positions).collect())
}
