//! What others ask of a running replicator: a file each, in `requests/` in the state directory.
//!
//! That needs no port and no permission but to write there, and what is asked while nothing runs is done at the next start.
//! A request is gone from its place once it is on its way; whoever waits for what comes of it looks at that.

use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A request that is longer is a mix-up.
const BYTES_MAX: u64 = 64 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A round of verification through these files (their paths as bytes); through all when there are none.
    Verify {
        /// Its number: greater than that of every earlier one.
        round: u64,
        /// Which files.
        paths: Vec<Vec<u8>>,
    },
    /// These files are to be read and compared with what is known of them.
    Sync {
        /// Which files.
        paths: Vec<Vec<u8>>,
    },
    /// Targets are to be told again what is in these records.
    Restate {
        /// The file.
        path: Vec<u8>,
        /// Ranges of identities; `u64::MAX` as end: all that follow.
        ids: Vec<(u64, u64)>,
    },
    /// A target is to forget a file that isn't there.
    Orphan {
        /// The sink.
        sink: String,
        /// The file.
        path: Vec<u8>,
    },
}

impl Request {
    /// Ranges of a file that targets are to be told again.
    pub fn restate(path: &[u8], ids: &[Range<u64>]) -> Request {
        Request::Restate {
            path: path.to_vec(),
            ids: ids.iter().map(|range| (range.start, range.end)).collect(),
        }
    }

    /// Puts it where a replicator finds it. The answer is its place, where it is until it is heeded.
    ///
    /// # Errors
    /// The directory can't be written.
    pub fn post(&self, directory: &Path) -> io::Result<PathBuf> {
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let name = format!(
            "{:020}-{}",
            counterfoil_lane::clock::wall(),
            std::process::id()
        );
        let path = directory.join(format!("{name}.json"));
        let text = serde_json::to_vec(self).map_err(io::Error::from)?;
        crate::status::replace(&path, &text)?;
        Ok(path)
    }
}

/// Where requests are looked for, now and then.
pub(crate) struct Requests {
    directory: PathBuf,
    looked: Option<Instant>,
}

/// How often they are looked for.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

impl Requests {
    pub(crate) fn at(directory: PathBuf) -> Requests {
        Requests {
            directory,
            looked: None,
        }
    }

    /// What is asked at present, the oldest first; nothing when that was looked for just now.
    pub(crate) fn look(&mut self) -> Vec<(PathBuf, Request)> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Vec::new();
        }
        self.looked = Some(Instant::now());
        waiting(&self.directory)
    }
}

/// A request is on its way. Only now it goes from its place, so that nobody finds neither it nor what comes of it.
pub(crate) fn heeded(place: &Path) {
    if let Err(error) = std::fs::remove_file(place) {
        tracing::warn!("removing the request {}: {error}", place.display());
    }
}

/// What is asked at present, the oldest first. What can't be read is put aside, and told.
fn waiting(directory: &Path) -> Vec<(PathBuf, Request)> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort();
    let mut requests = Vec::new();
    for path in paths {
        match read(&path) {
            Ok(request) => requests.push((path, request)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let aside = path.with_extension("refused");
                tracing::warn!(
                    "the request {} can't be read: {error}; it is put aside as {}",
                    path.display(),
                    aside.display()
                );
                let _ = std::fs::rename(&path, &aside);
            }
        }
    }
    requests
}

fn read(path: &Path) -> io::Result<Request> {
    if std::fs::metadata(path)?.len() > BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is longer than {BYTES_MAX} bytes"
        )));
    }
    serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_their_order_and_what_is_none_is_put_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("requests");
        assert!(waiting(&place).is_empty());
        let first = Request::restate(b"/a\xff", &[3..4, 9..u64::MAX]);
        let second = Request::Verify {
            round: 7,
            paths: Vec::new(),
        };
        let at = first.post(&place).expect("posting");
        second.post(&place).expect("posting");
        std::fs::write(place.join("0.json"), "{\"sync\":{\"paths\":[],\"more\":1}}")
            .expect("writing");
        let found: Vec<Request> = waiting(&place).into_iter().map(|(_, it)| it).collect();
        assert_eq!(found, [first, second]);
        assert!(place.join("0.refused").exists() && at.exists());
    }
}
