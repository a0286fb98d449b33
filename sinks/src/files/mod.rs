//! The files themselves as a target: the same files below a root directory, applied in place, byte for byte.
//!
//! A file stands at the root followed by its absolute path, as `restore --to` puts it. In `ROOT/.counterfoil/` are the
//! *catalogue* (which files there are, and how far each stream is), the *redo log* of the batch that is being applied, and a
//! lock. Their formats are in docs/files.md.
//!
//! A batch is applied so that it is there with its position or not at all, whenever the process or the machine stops:
//!
//! 1. What it does to files is written to `redo.new`, made durable, and named `redo`. From then on the batch is certain.
//! 2. What the log says is done to the files, which are made durable.
//! 3. The catalogue's changes and the position are appended to the catalogue and made durable.
//! 4. The log is removed.
//!
//! Whoever opens the mirror, or goes on with it, finishes a log that is there first, before anything is read or applied: doing
//! all of it once more leaves the same files. A `redo.new` is thrown away. (Why a log:
//! docs/decisions/0029-files-sink-redo-log.md.)
//!
//! What was never mirrored is never changed: a file that is in the way is an error.

mod catalogue;
mod disk;
mod error;
mod frame;
mod lock;
mod plan;
mod redo;
mod snapshot;
#[cfg(test)]
mod tests;

use crate::sql::permanent;
use crate::{Batch, Sink, SinkError, Snapshot};
use catalogue::Catalogue;
use disk::{Disk, Steps};
use error::{Doing, unreadable};
use plan::Plan;
use redo::{Log, Standing, Writer};
use serde::Deserialize;
use snapshot::FilesSnapshot;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Counterfoil's own directory in a root.
pub const OWN_DIRECTORY: &str = ".counterfoil";

/// Where the files go: a `[files]` table of a sink's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// A file stands at this directory followed by its absolute path. It is made when it isn't there; what it is in has to be.
    pub root: PathBuf,
    /// Whether owner, permissions and time are mirrored, as far as this process may set them.
    #[serde(default = "attributes_default")]
    pub attributes: bool,
    /// How long to wait, in milliseconds, for another process that reads or changes the mirror.
    #[serde(default = "lock_timeout_ms_default")]
    pub lock_timeout_ms: u64,
}

fn attributes_default() -> bool {
    true
}

fn lock_timeout_ms_default() -> u64 {
    5000
}

impl FilesConfig {
    /// The defaults, with this root.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        FilesConfig {
            root: root.into(),
            attributes: attributes_default(),
            lock_timeout_ms: lock_timeout_ms_default(),
        }
    }
}

/// Files as a target.
pub struct FilesSink {
    config: FilesConfig,
    place: String,
    own: PathBuf,
    is_read_only: bool,
    lock: Arc<File>,
    disk: Disk,
    state: Option<State>,
}

/// The catalogue as of a state of its file.
struct State {
    catalogue: Catalogue,
    file: File,
    inode: u64,
    len: u64,
    stale: u64,
}

impl FilesSink {
    /// Opens the root to apply batches to it; makes it, and `.counterfoil` in it, if they aren't there. A batch that was under
    /// way is finished.
    pub fn open(config: &FilesConfig) -> Result<Self, SinkError> {
        Self::with_access(config, false, None)
    }

    /// Opens a mirror to read it, while the writer goes on between two looks. [`Sink::apply`] is refused. (A batch that was
    /// under way when a writer died has to be finished even so, which takes the right to write.)
    pub fn open_read_only(config: &FilesConfig) -> Result<Self, SinkError> {
        Self::with_access(config, true, None)
    }

    fn with_access(
        config: &FilesConfig,
        is_read_only: bool,
        steps: Option<Steps>,
    ) -> Result<Self, SinkError> {
        let place = format!("in the files below {}", config.root.display());
        Self::try_open(config, is_read_only, steps, &place).map_err(|error| error.at(&place))
    }

    fn try_open(
        config: &FilesConfig,
        is_read_only: bool,
        steps: Option<Steps>,
        place: &str,
    ) -> Result<Self, SinkError> {
        let root = std::path::absolute(&config.root)
            .doing(|| format!("making the path {:?} absolute", config.root))?;
        let own = root.join(OWN_DIRECTORY);
        if is_read_only && !own.is_dir() {
            return Err(permanent(
                format!("opening {}", own.display()),
                "there is no such directory: nothing has been mirrored yet",
                "`counterfoil run` does that",
            ));
        }
        if !is_read_only {
            make_directory(&root, 0o755)?;
            make_directory(&own, 0o700)?;
        }
        let opened =
            File::open(&root).doing(|| format!("opening the directory {}", root.display()))?;
        let mut disk = Disk::new(opened).doing(|| format!("opening {}", root.display()))?;
        disk.are_modes_usual = !config.attributes;
        disk.steps = steps;
        let path = own.join("lock");
        let mut options = OpenOptions::new();
        options.read(true);
        if !is_read_only {
            options.write(true).create(true).mode(0o600);
        }
        let lock = options
            .open(&path)
            .doing(|| format!("opening {}", path.display()))?;
        let mut sink = FilesSink {
            config: config.clone(),
            place: place.to_owned(),
            own,
            is_read_only,
            lock: Arc::new(lock),
            disk,
            state: None,
        };
        sink.settle()?;
        Ok(sink)
    }

    /// How long to wait for the lock.
    fn wait_max(&self) -> Duration {
        Duration::from_millis(self.config.lock_timeout_ms)
    }

    /// Has the mirror in order: the catalogue made, and no batch under way.
    fn settle(&mut self) -> Result<(), SinkError> {
        if self.is_read_only && self.own.join(catalogue::NAME).exists() && !self.has_log() {
            return Ok(());
        }
        let _held = lock::take(&self.lock, true, self.wait_max())?;
        self.recover()
    }

    fn has_log(&self) -> bool {
        self.own.join(redo::NAME).symlink_metadata().is_ok()
    }

    /// Brings the catalogue in memory up to date, and finishes what was under way. The lock is held for changing.
    fn recover(&mut self) -> Result<(), SinkError> {
        let path = self.own.join(catalogue::NAME);
        for leftover in [catalogue::NEW, redo::NEW] {
            remove(&self.own.join(leftover))?;
        }
        if !path.exists() {
            if self.has_log() {
                return Err(permanent(
                    format!("reading {}", path.display()),
                    "it isn't there, but a redo log is",
                    "put it back; or remove all that is mirrored there with the directory .counterfoil, and let \
                     everything be loaded again",
                ));
            }
            self.replace_catalogue(&Catalogue::default())?;
        }
        let log = self.own.join(redo::NAME);
        if !self.has_log() {
            return self.refresh(false);
        }
        self.state = None;
        self.refresh(true)?;
        let file = File::open(&log).doing(|| format!("opening {}", log.display()))?;
        let (frames, head) = Log::begin(&file, &log)?;
        frames.check()?;
        let standing = self
            .state
            .as_ref()
            .map(|state| head.standing(&state.catalogue));
        match standing {
            Some(Standing::Over) | None => {}
            Some(Standing::Due) => {
                tracing::info!(
                    "{}: finishing the batch up to {} of {}, which was under way",
                    self.place,
                    head.position,
                    head.stream
                );
                self.carry_out(&file, &log)?;
            }
            Some(Standing::Strange) => {
                return Err(permanent(
                    format!("finishing the batch in {}", log.display()),
                    format!(
                        "it is for {} at {}, but the catalogue has another position",
                        head.stream,
                        head.before
                            .map_or_else(|| "nothing".to_owned(), |position| position.to_string()),
                    ),
                    "somebody mixed the files of two mirrors: put back a copy of the whole root directory",
                ));
            }
        }
        remove(&log)
    }

    /// Brings the catalogue in memory up to date with its file. `is_under_way`: a batch is, so that what is behind the last
    /// mark is of it, and is thrown away.
    fn refresh(&mut self, is_under_way: bool) -> Result<(), SinkError> {
        let path = self.own.join(catalogue::NAME);
        let doing = || format!("reading {}", path.display());
        let there = path.metadata().doing(doing)?;
        if self
            .state
            .as_ref()
            .is_some_and(|state| (state.inode, state.len) == (there.ino(), there.len()))
        {
            return Ok(());
        }
        self.state = None;
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .append(!self.is_read_only || is_under_way)
            .open(&path)
            .doing(doing)?;
        let (catalogue, extent) = Catalogue::read(&file, &path)?;
        if let Some(damage) = extent.damage {
            if !is_under_way {
                return Err(unreadable(damage, &path));
            }
            file.set_len(extent.end).doing(doing)?;
        }
        self.state = Some(State {
            catalogue,
            inode: file.metadata().doing(doing)?.ino(),
            file,
            len: extent.end,
            stale: extent.stale,
        });
        Ok(())
    }

    /// Makes this catalogue the one that counts.
    fn replace_catalogue(&mut self, catalogue: &Catalogue) -> Result<(), SinkError> {
        let (path, new) = (
            self.own.join(catalogue::NAME),
            self.own.join(catalogue::NEW),
        );
        self.step("catalogue create")?;
        let file = create(&new)?;
        self.step("catalogue write")?;
        catalogue.write(&file, &new)?;
        self.step("catalogue rename")?;
        std::fs::rename(&new, &path).doing(|| format!("naming {}", path.display()))?;
        self.sync_own()
    }

    /// Tests end the world here.
    fn step(&mut self, doing: &'static str) -> Result<(), SinkError> {
        self.disk.step(doing).doing(|| doing.to_owned())
    }

    fn sync_own(&mut self) -> Result<(), SinkError> {
        self.step("own fsync")?;
        File::open(&self.own)
            .and_then(|directory| directory.sync_all())
            .doing(|| format!("synchronising {}", self.own.display()))
    }

    /// Does what a complete log says, from its beginning, and has the catalogue say so.
    fn carry_out(&mut self, log: &File, path: &Path) -> Result<(), SinkError> {
        let (frames, head) = Log::begin(log, path)?;
        let entries = frames.repeat(&head, &mut self.disk)?;
        let mut frames = Vec::new();
        let doing = || "writing .counterfoil/catalogue".to_owned();
        for (kind, payload) in &entries {
            frame::write_frame(&mut frames, *kind, payload).doing(doing)?;
        }
        let Some(state) = &mut self.state else {
            return Ok(());
        };
        if let Err(error) = self.disk.step("catalogue append") {
            let _ = state.file.write_all(&frames[..frames.len() / 2]);
            return Err(error).doing(doing);
        }
        state.file.write_all(&frames).doing(doing)?;
        self.disk.step("catalogue fsync").doing(doing)?;
        state.file.sync_data().doing(doing)?;
        state.len += frames.len() as u64;
        for (kind, payload) in &entries {
            state.stale += state.catalogue.take(*kind, payload).unwrap_or_default();
        }
        Ok(())
    }

    /// Looks whether a batch may be applied now, and has the mirror in order for it. The lock is held while the result is.
    fn prepare(&mut self, batch: &Batch) -> Result<lock::Held, SinkError> {
        if self.is_read_only {
            return Err(permanent(
                "applying a batch",
                "the files were opened for reading only",
                "apply through a sink that was opened for writing",
            ));
        }
        let held = lock::take(&self.lock, true, self.wait_max())?;
        self.recover()?;
        let stored = self.state.as_ref();
        let stored = stored.and_then(|state| state.catalogue.position(&batch.stream));
        batch.check_follows(stored)?;
        Ok(held)
    }

    /// Plans a batch and writes its log, up to where it would become certain, and throws that away.
    fn try_rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let _held = self.prepare(batch)?;
        let written = self.write_new_log(batch, true);
        self.state = None;
        let removed = remove(&self.own.join(redo::NEW));
        let tightened = self
            .disk
            .tighten()
            .doing(|| "giving back permissions".to_owned());
        written.map(drop).and(removed).and(tightened)
    }

    fn try_apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let _held = self.prepare(batch)?;
        let written = self.write_log(batch);
        // Planning has changed the catalogue in memory to what it will be: from the log it becomes so again.
        if written.is_err() {
            self.state = None;
            let _ = remove(&self.own.join(redo::NEW));
        }
        let log = written?;
        let path = self.own.join(redo::NAME);
        if let Err(error) = self.carry_out(&log, &path) {
            self.state = None;
            return Err(error);
        }
        // If this fails, the log is found to be over by whoever comes next.
        self.step("redo remove")?;
        let _ = remove(&path);
        self.renew()
    }

    /// Writes a batch's redo log; when this returns it is durable.
    fn write_log(&mut self, batch: &Batch) -> Result<File, SinkError> {
        let (path, new) = (self.own.join(redo::NAME), self.own.join(redo::NEW));
        let file = self.write_new_log(batch, false)?;
        self.step("redo fsync")?;
        file.sync_all()
            .doing(|| format!("writing {}", new.display()))?;
        self.step("redo rename")?;
        std::fs::rename(&new, &path).doing(|| format!("naming {}", path.display()))?;
        self.sync_own()?;
        Ok(file)
    }

    /// Writes all of it, but it counts for nothing yet. The catalogue in memory is good for nothing then.
    fn write_new_log(&mut self, batch: &Batch, is_rehearsal: bool) -> Result<File, SinkError> {
        let new = self.own.join(redo::NEW);
        let doing = || format!("writing {}", new.display());
        self.step("redo create")?;
        let file = create(&new)?;
        let Some(state) = &mut self.state else {
            return Ok(file);
        };
        let mut plan = Plan::make(
            batch,
            &mut state.catalogue,
            &mut self.disk,
            self.config.attributes,
            is_rehearsal,
        )?;
        let mut writer = Writer::begin(&file, &plan.head()).doing(doing)?;
        plan.write(&mut writer)?;
        writer.end().doing(doing)?;
        Ok(file)
    }

    /// Writes the catalogue anew when most of it is out of date.
    fn renew(&mut self) -> Result<(), SinkError> {
        let Some(state) = self
            .state
            .take_if(|state| Catalogue::is_stale(state.len, state.stale))
        else {
            return Ok(());
        };
        // The batch is there: if this fails, the next one tries again.
        if let Err(error) = self.replace_catalogue(&state.catalogue) {
            tracing::warn!("{}: {error}", self.place);
        }
        Ok(())
    }

    fn try_snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        let held = loop {
            let held = lock::take(&self.lock, false, self.wait_max())?;
            if !self.has_log() {
                break held;
            }
            // Whoever was in the middle of a batch is gone, or failed: it is finished before anything is read.
            drop(held);
            self.settle()?;
        };
        self.refresh(false)?;
        self.disk.forget();
        match &self.state {
            Some(state) => Ok(Box::new(FilesSnapshot {
                catalogue: &state.catalogue,
                disk: &mut self.disk,
                place: &self.place,
                _lock: held,
            })),
            None => Err(permanent(
                "reading the catalogue",
                "it was just read and isn't there",
                "report this: it is a fault of Counterfoil",
            )),
        }
    }
}

impl Sink for FilesSink {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.try_apply(batch).map_err(|error| error.at(&self.place))
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.try_rehearse(batch)
            .map_err(|error| error.at(&self.place))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        let place = self.place.clone();
        self.try_snapshot().map_err(|error| error.at(&place))
    }

    fn close(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), SinkError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.doing(|| format!("making the directory {}", path.display())),
    }
}

/// A new file, in the place of what an interrupted attempt left.
fn create(path: &Path) -> Result<File, SinkError> {
    remove(path)?;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .doing(|| format!("making {}", path.display()))
}

fn remove(path: &Path) -> Result<(), SinkError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.doing(|| format!("removing {}", path.display())),
    }
}
