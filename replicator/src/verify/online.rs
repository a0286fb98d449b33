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
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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
    /// By file, as text for people: ranges that weren't as they were captured, and were read again.
    read_again: BTreeMap<String, u64>,
    /// By sink and file: what something was changing each time, so that it couldn't be compared at a position. (Where the last
    /// round found a difference all the same, that is none of these.)
    busy: BTreeSet<(String, Vec<u8>)>,
}

impl Proof {
    /// The round that found this file equal in this sink, if one did.
    pub fn of(&self, sink: &str, path: &[u8]) -> Option<&Tally> {
        self.equal.get(&(sink.to_owned(), path.to_vec()))
    }

    /// How many ranges of a file weren't as they were captured, and were read again.
    pub fn ranges_read_again(&self, path: &[u8]) -> u64 {
        self.read_again.get(&path_text(path)).copied().unwrap_or(0)
    }

    /// Whether something was changing a file each time, so that nothing is known of what this sink has of it.
    pub fn is_busy(&self, sink: &str, path: &[u8]) -> bool {
        self.busy.contains(&(sink.to_owned(), path.to_vec()))
    }
}

/// A file, and the sinks that are to have it.
struct Wanted {
    path: Vec<u8>,
    /// The stream it is in.
    stream: String,
    shown: String,
    sinks: Vec<String>,
}

/// Has a running replicator go through files (all of the configuration, or these), and says what it proved for these sinks.
///
/// # Errors
/// Nothing can be asked, or the answer can't be read.
pub fn prove(
    config: &Config,
    sinks: &[&str],
    only: Option<&BTreeSet<Vec<u8>>>,
) -> io::Result<Proof> {
    let mut proof = Proof::default();
    // Through Kafka, a target that is applied to elsewhere tells nobody here.
    if config.kafka.is_some() && applying(config).is_none() {
        return Ok(proof);
    }
    let mut wanted = wanted(config, sinks, only)?;
    let mended_before = found(config)?;
    for _ in 0..ROUNDS_MAX {
        if wanted.is_empty() {
            break;
        }
        // Greater than any before, whatever the clock says.
        let before = found(config)?.last_round();
        let round = u64::try_from(clock::wall()).unwrap_or(0).max(before + 1);
        let paths = wanted.iter().map(|file| file.path.clone()).collect();
        Request::Verify { round, paths }.post(&config.site.requests_path())?;
        let found = wait(config, &wanted, round)?;
        wanted.retain(|file| !proof.take(file, &found));
        proof.busy = wanted
            .iter()
            .filter(|file| file.is_through(&found))
            .flat_map(|file| file.without_difference(&found))
            .collect();
        // Whoever doesn't answer at all won't the next time.
        let has_answered = |file: &Wanted| file.tallies(&found).next().is_some();
        if !wanted.iter().any(has_answered) {
            break;
        }
    }
    let mended = found(config)?;
    for (path, tally) in &mended.files {
        let before = mended_before.files.get(path).map_or(0, |it| it.mended);
        if tally.mended > before {
            proof.read_again.insert(path.clone(), tally.mended - before);
        }
    }
    Ok(proof)
}

fn wanted(
    config: &Config,
    sinks: &[&str],
    only: Option<&BTreeSet<Vec<u8>>>,
) -> io::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for found in config.scan() {
        let found = found.map_err(|error| io::Error::other(error.to_string()))?;
        let path = found.path.as_os_str().as_bytes();
        let is_asked = only.is_none_or(|only| only.contains(path));
        let Some((group, _)) = config.rule_for(path).filter(|_| is_asked) else {
            continue;
        };
        if config.is_static(path) {
            continue;
        }
        let takes = config
            .sinks
            .iter()
            .filter(|sink| sinks.contains(&sink.name.as_str()) && sink.treatment.takes(path, None));
        wanted.push(Wanted {
            path: path.to_vec(),
            stream: config.stream(group),
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

    /// The file with each sink in which rounds that have ended found nothing else than what was captured.
    fn without_difference(&self, ended: &Verification) -> impl Iterator<Item = (String, Vec<u8>)> {
        let differs = |sink: &String| {
            let tally = ended.targets.get(sink).and_then(|it| it.get(&self.shown));
            tally.is_some_and(|tally| tally.different > 0)
        };
        let sinks = self.sinks.iter().filter(move |sink| !differs(sink));
        sinks.map(|sink| (sink.clone(), self.path.clone()))
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

/// Waits until a round is through with these files, or nothing comes of them any more; says what it found, or a later one,
/// which proves as much.
fn wait(config: &Config, wanted: &[Wanted], round: u64) -> io::Result<Verification> {
    let mut patience = Patience::new();
    let mut ended = Verification::default();
    loop {
        let found = found(config)?;
        let reached = positions(config)?;
        ended.join(found.ended_since(round));
        patience.look(wanted, &found, &reached, round);
        let waits =
            |file: &Wanted| !file.is_through(&ended) && patience.lasts(file, &ended, &reached);
        if !wanted.iter().any(waits) {
            return Ok(ended);
        }
        std::thread::sleep(LOOK);
    }
}

/// What the processes of this site know.
fn found(config: &Config) -> io::Result<Verification> {
    let mut found = Verification::read(&config.site.verification_path())?;
    found.join(Verification::read(&config.site.apply_verification_path())?);
    Ok(found)
}

/// How far streams are: epoch and lsn.
type Streams = BTreeMap<String, (u64, u64)>;

/// How far each sink is in each stream.
type Reached = BTreeMap<String, Streams>;

/// For how long it makes sense to wait. Files are read one after the other, so as long as any of them comes on, the others may
/// come. A target that is behind comes to the checksums in time, as long as it comes on.
struct Patience {
    /// What the capturing half said of the files, when it last said something else.
    read: (Vec<Tally>, Instant),
    /// By sink: how far it was, and what it said of the files, when that last changed.
    targets: BTreeMap<String, (Vec<Tally>, Streams, Instant)>,
}

impl Patience {
    fn new() -> Patience {
        Patience {
            read: (Vec::new(), Instant::now()),
            targets: BTreeMap::new(),
        }
    }

    fn look(&mut self, wanted: &[Wanted], found: &Verification, reached: &Reached, round: u64) {
        let of = |files: Option<&BTreeMap<String, Tally>>| -> Vec<Tally> {
            let tallies = wanted
                .iter()
                .filter_map(|file| files?.get(&file.shown))
                .filter(|tally| tally.round >= round);
            tallies.cloned().collect()
        };
        let read = of(Some(&found.files));
        if read != self.read.0 {
            self.read = (read, Instant::now());
        }
        for sink in wanted.iter().flat_map(|file| &file.sinks) {
            let told = of(found.targets.get(sink));
            let at = reached.get(sink).cloned().unwrap_or_default();
            match self.targets.get(sink) {
                Some((before, was, _)) if *before == told && *was == at => {}
                _ => {
                    let now = (told, at, Instant::now());
                    self.targets.insert(sink.clone(), now);
                }
            }
        }
    }

    fn lasts(&self, file: &Wanted, ended: &Verification, reached: &Reached) -> bool {
        let Some(own) = ended.files.get(&file.shown) else {
            let is_there = Path::new(std::ffi::OsStr::from_bytes(&file.path)).exists();
            return is_there && self.read.1.elapsed() < PATIENCE;
        };
        let missing = file.sinks.iter().filter(|sink| {
            let files = ended.targets.get(*sink);
            files.is_none_or(|files| !files.contains_key(&file.shown))
        });
        missing.into_iter().any(|sink| {
            let at = reached.get(sink).and_then(|it| it.get(&file.stream));
            let is_behind = at.copied() < position(&own.position);
            let is_new = clock::wall() - own.ended_ns < PATIENCE.as_nanos() as i64;
            let moves = self
                .targets
                .get(sink)
                .is_some_and(|(_, _, at)| at.elapsed() < PATIENCE);
            is_new || is_behind && moves
        })
    }
}

fn position(text: &str) -> Option<(u64, u64)> {
    let (epoch, lsn) = text.split_once('/')?;
    Some((epoch.parse().ok()?, lsn.parse().ok()?))
}

/// How far each target is.
fn positions(config: &Config) -> io::Result<Reached> {
    let mut reached = Reached::new();
    for path in [config.site.status_path(), config.site.apply_status_path()] {
        for (name, sink) in Status::read(&path)?.into_iter().flat_map(|it| it.sinks) {
            let streams = sink.positions.iter();
            let at = streams.filter_map(|(stream, at)| Some((stream.clone(), position(at)?)));
            reached.entry(name).or_default().extend(at);
        }
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(different: u64, busy: u64) -> Tally {
        Tally {
            round: 1,
            ranges: 2,
            different,
            busy,
            ended_ns: 1,
            ..Tally::default()
        }
    }

    /// Writers at one end of a file don't hide what differs at the other.
    #[test]
    fn a_difference_is_no_excuse_of_a_busy_file() {
        let file = Wanted {
            path: b"/srv/cards.dat".to_vec(),
            stream: "bank/cards".to_owned(),
            shown: "/srv/cards.dat".to_owned(),
            sinks: vec!["near".to_owned(), "far".to_owned()],
        };
        let tallies = |tally: Tally| BTreeMap::from([(file.shown.clone(), tally)]);
        let found = Verification {
            files: tallies(through(0, 1)),
            targets: BTreeMap::from([
                ("near".to_owned(), tallies(through(1, 1))),
                ("far".to_owned(), tallies(through(0, 1))),
            ]),
        };
        let mut proof = Proof::default();
        assert!(
            !proof.take(&file, &found),
            "a busy file takes another round"
        );
        proof.busy = file.without_difference(&found).collect();
        assert!(!proof.is_busy("near", &file.path));
        assert!(proof.is_busy("far", &file.path));
    }
}
