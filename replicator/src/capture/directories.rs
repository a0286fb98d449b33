//! Which directory is on which device: so that a volume that isn't mounted is not taken for files that were removed.
//!
//! A file that is nowhere to be seen counts as removed only if its directory is there, and on the device on which its files
//! have been seen. Below the directory where its rule begins, directories may go with their files: what counts there is the
//! nearest one above. Else the mirror keeps what it has, and says so: on the day a volume is lost, that is what it is for.

use crate::publish::images::replace;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Devices by directory, kept in the state directory.
pub(super) struct Directories {
    file: PathBuf,
    devices: BTreeMap<String, u64>,
    changed: bool,
}

/// What became of a file that isn't seen any more.
pub(super) enum Fate {
    /// It is there after all.
    There,
    /// It was removed.
    Removed,
    /// Nobody can say; the reason is for people.
    Unknown(String),
}

impl Directories {
    /// What was known at the last stop. Without it, every device is taken for the right one.
    pub(super) fn open(state: &Path) -> Directories {
        let file = state.join("directories.json");
        let devices = std::fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        Directories {
            file,
            devices: devices.unwrap_or_default(),
            changed: false,
        }
    }

    /// A file was seen on a device.
    pub(super) fn note(&mut self, path: &[u8], device: u64) {
        let Some(directory) = directory_of(path) else {
            return;
        };
        let key = counterfoil_proto::path_text(directory.as_os_str().as_bytes());
        if self.devices.insert(key, device) != Some(device) {
            self.changed = true;
        }
    }

    /// Keeps what was noted.
    pub(super) fn save(&mut self) {
        if std::mem::take(&mut self.changed)
            && let Ok(text) = serde_json::to_vec_pretty(&self.devices)
            && let Err(error) = replace(&self.file, &text)
        {
            self.changed = true;
            tracing::debug!("writing {}: {error}", self.file.display());
        }
    }

    /// What became of the file at `path`, whose rule begins at `root`.
    pub(super) fn fate(&self, path: &[u8], root: Option<&Path>) -> Fate {
        let file = Path::new(OsStr::from_bytes(path));
        match std::fs::symlink_metadata(file) {
            Ok(_) => return Fate::There,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Fate::Unknown(error.to_string()),
        }
        let Some(directory) = directory_of(path) else {
            return Fate::Removed;
        };
        let mut nearest = directory;
        let there = loop {
            match std::fs::metadata(nearest) {
                Ok(there) => break there,
                Err(error) => {
                    let above = nearest.parent().filter(|above| {
                        error.kind() == std::io::ErrorKind::NotFound
                            && root.is_some_and(|root| above.starts_with(root))
                    });
                    let Some(above) = above else {
                        return Fate::Unknown(format!(
                            "its directory can't be looked at ({error})"
                        ));
                    };
                    nearest = above;
                }
            }
        };
        self.fate_on(directory, &there)
    }

    /// What became of the entry at `path`, where nothing is, of the tree with this root. With a directory of the tree goes
    /// what is below it, but not with the root itself.
    pub(super) fn fate_in_tree(&self, path: &[u8], root: &Path) -> Fate {
        let mut directory = Path::new(OsStr::from_bytes(path));
        while directory != root {
            let Some(parent) = directory.parent() else {
                break;
            };
            directory = parent;
            // What took a directory's place took away what was in it.
            if std::fs::symlink_metadata(directory).is_ok_and(|there| there.is_dir()) {
                break;
            }
        }
        match std::fs::metadata(directory) {
            Ok(there) => self.fate_on(directory, &there),
            Err(error) => Fate::Unknown(format!("its directory can't be looked at ({error})")),
        }
    }

    /// What became of something that isn't in, or below, a directory any more, of which this is there.
    fn fate_on(&self, directory: &Path, there: &std::fs::Metadata) -> Fate {
        let key = counterfoil_proto::path_text(directory.as_os_str().as_bytes());
        match self.devices.get(&key) {
            Some(&device) if device != there.dev() => Fate::Unknown(
                "its directory is on another device than before; is the volume mounted?".to_owned(),
            ),
            _ => Fate::Removed,
        }
    }
}

fn directory_of(path: &[u8]) -> Option<&Path> {
    Path::new(OsStr::from_bytes(path)).parent()
}
