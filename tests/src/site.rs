//! A site of its own for a test: directory, configuration, processes, and questions to the mirror.

use crate::binaries;
use crate::image::Image;
use crate::operations::Shape;
use crate::programs::Program;
use crate::tree::{assert_same_trees, tree};
use anyhow::{Context as _, Result, bail};
use counterfoil_servers::wait_until;
use counterfoil_servers::{Finished, Process};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A temporary directory with `counterfoil.toml`, `data` (the files), `state` and `logs`.
///
/// It is kept, and its path printed, unless [`Site::finish`] was reached.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    counterfoil: PathBuf,
    processes: Cell<usize>,
    finished: Cell<bool>,
}

/// A consistency group of the configuration.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// `none`, `fsync`, `lock` or `close`.
    pub unit_of_work: String,
    /// Its files.
    pub files: Vec<File>,
    /// Its trees: their root directories as `path`, and the other lines of their tables.
    pub trees: Vec<File>,
}

/// A file, or a glob, of the configuration.
#[derive(Clone, Debug)]
pub struct File {
    /// Relative to the site's data directory.
    pub path: String,
    /// The lines of its table, without the path.
    pub config: String,
}

impl Group {
    /// A group without files.
    pub fn new(name: &str, unit_of_work: &str) -> Group {
        Group {
            name: name.to_owned(),
            unit_of_work: unit_of_work.to_owned(),
            files: Vec::new(),
            trees: Vec::new(),
        }
    }

    /// With a tree of static files.
    pub fn tree(mut self, path: &str, config: &str) -> Group {
        self.trees.push(File {
            path: path.to_owned(),
            config: format!("{config}\n"),
        });
        self
    }

    /// With one more file.
    pub fn file(mut self, path: &str, shape: Shape) -> Group {
        self.files.push(File {
            path: path.to_owned(),
            config: shape.config(),
        });
        self
    }

    /// With one more file, described by lines of configuration.
    pub fn file_as(mut self, path: &str, config: &str) -> Group {
        self.files.push(File {
            path: path.to_owned(),
            config: format!("{config}\n"),
        });
        self
    }

    /// The four files of the card switch, with its locks as units of work.
    pub fn card_switch() -> Group {
        Group::new("payments", "lock")
            .file("cards.dat", Shape::Relative { size: 150 })
            .file("accounts.dat", Shape::Fixed { size: 300 })
            .file(
                "journal.dat",
                Shape::Variable {
                    size: 131,
                    varseq_format: 0,
                },
            )
            .file("switch.log", Shape::Lines)
    }
}

/// What `counterfoil verify --json` says.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whether every file equals its mirror.
    pub equal: bool,
    /// The differences, in order of file.
    pub differences: Vec<Difference>,
    /// The files that were compared.
    pub paths: Vec<String>,
}

/// A record that isn't the same in file and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The file.
    pub path: String,
    /// The record's identity; none when the file itself differs.
    pub record: Option<u64>,
    /// What kind of difference.
    pub kind: String,
}

impl Site {
    /// A new site. `name` is part of its directory's name.
    pub fn new(name: &str) -> Result<Site> {
        let counterfoil = binaries::counterfoil()?;
        binaries::interposer()?;
        let root = tempfile::Builder::new()
            .prefix(&format!("counterfoil-{name}-"))
            .tempdir()
            .context("making a temporary directory")?
            .keep();
        for dir in ["data", "logs"] {
            std::fs::create_dir(root.join(dir))
                .with_context(|| format!("making {dir} in {}", root.display()))?;
        }
        Ok(Site {
            root,
            counterfoil,
            processes: Cell::new(0),
            finished: Cell::new(false),
        })
    }

    /// A new site with its configuration.
    pub fn with(name: &str, groups: &[Group]) -> Result<Site> {
        let site = Site::new(name)?;
        site.configure(groups)?;
        Ok(site)
    }

    /// The site's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where its files are; the working directory of captured programs.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The state directory of the configuration.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// A file in [`Site::data`].
    pub fn path(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.root.join("counterfoil.toml")
    }

    /// Writes the configuration.
    pub fn configure(&self, groups: &[Group]) -> Result<()> {
        self.configure_text(&self.config_text(groups))
    }

    /// The text that [`Site::configure`] writes.
    pub fn config_text(&self, groups: &[Group]) -> String {
        let mut text = format!("[site]\nname = \"test\"\nstate = {:?}\n", self.state());
        for group in groups {
            let _ = write!(
                text,
                "\n[[group]]\nname = {:?}\nunit_of_work = {:?}\n",
                group.name, group.unit_of_work
            );
            for file in &group.files {
                let _ = write!(
                    text,
                    "\n[[group.file]]\npath = {:?}\n{}",
                    self.path(&file.path),
                    file.config
                );
            }
            for tree in &group.trees {
                let _ = write!(
                    text,
                    "\n[[group.tree]]\npath = {:?}\n{}",
                    self.path(&tree.path),
                    tree.config
                );
            }
        }
        text
    }

    /// A site that other users may enter, with lanes beside the state directory for those that `access` names (`owner`, `all`);
    /// they may read its data, a file `*.dat` of records of such a shape.
    pub fn for_others(name: &str, access: &str, shape: Shape) -> Result<Site> {
        let site = Site::new(name)?;
        let lanes = site.root().join("lanes");
        let text = site
            .config_text(&[Group::new("group", "none").file("*.dat", shape)])
            .replacen(
                "\n[[group]]\n",
                &format!("lanes = {lanes:?}\nlanes_access = {access:?}\n\n[[group]]\n"),
                1,
            );
        site.configure_text(&text)?;
        for directory in [site.root(), &site.data()] {
            std::fs::set_permissions(directory, Permissions::from_mode(0o755))
                .with_context(|| format!("letting others into {}", directory.display()))?;
        }
        Ok(site)
    }

    /// A configuration of these groups whose default sink is an SQLite database in another place.
    pub fn config_text_with_target(&self, groups: &[Group], database: &Path) -> String {
        self.config_text(groups)
            + &format!("\n[[sink]]\nname = \"default\"\nsqlite = {{ path = {database:?} }}\n")
    }

    /// Writes a configuration given as text.
    pub fn configure_text(&self, text: &str) -> Result<()> {
        std::fs::write(self.config(), text)
            .with_context(|| format!("writing {}", self.config().display()))
    }

    /// `counterfoil --config ... ARGUMENTS`, to be changed further and given to [`Site::start`].
    pub fn counterfoil(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.counterfoil);
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .current_dir(self.data());
        command
    }

    /// Starts a command with its output in the site's logs.
    pub fn start(&self, command: Command) -> Result<Process> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let what = words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let number = self.processes.get();
        self.processes.set(number + 1);
        Process::start(command, what, &self.root.join("logs"), number)
    }

    /// Runs a verb to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        self.start(self.counterfoil(arguments))?.finish()
    }

    /// The command that runs a program under capture, in the data directory.
    pub fn captured<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &Program,
        arguments: &[S],
    ) -> Command {
        let mut command = self.counterfoil(&["exec", "--"]);
        command.args(&program.words).args(arguments);
        command
    }

    /// Starts a program under capture. The process id is the program's own.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &Program,
        arguments: &[S],
    ) -> Result<Process> {
        self.start(self.captured(program, arguments))
    }

    /// Runs a program under capture to its end, which must be exit code 0.
    pub fn exec_to_end<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &Program,
        arguments: &[S],
    ) -> Result<Finished> {
        self.exec(program, arguments)?.finish()?.success()
    }

    /// Runs a program without capture to its end, which must be exit code 0.
    pub fn uncaptured<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &Program,
        arguments: &[S],
    ) -> Result<Finished> {
        let (first, rest) = program
            .words
            .split_first()
            .context("a program has a name")?;
        let mut command = Command::new(first);
        command.args(rest).args(arguments).current_dir(self.data());
        self.start(command)?.finish()?.success()
    }

    /// Starts `counterfoil run`.
    pub fn replicator(&self) -> Result<Process> {
        self.start(self.counterfoil(&["run"]))
    }

    /// Waits until a replicator that was started says in its status that it runs.
    pub fn wait_until_up(&self, replicator: &mut Process) -> Result<()> {
        wait_until("the replicator to be up", || {
            if !replicator
                .is_running()
                .map_err(|error| format!("{error:#}"))?
            {
                return Err(format!("it ended: {}", replicator.stderr()));
            }
            match self.status() {
                Ok(status) if status["running"] == true && status["pid"] == replicator.id() => {
                    Ok(())
                }
                Ok(status) => Err(status.to_string()),
                Err(error) => Err(format!("{error:#}")),
            }
        })
    }

    /// Waits until capture and apply, as processes of their own, have both said how they are.
    pub fn wait_until_halves_run(&self) -> Result<()> {
        wait_until("capture and apply to be up", || {
            let there = |name: &str| self.state().join(name).exists();
            if there("status.json") && there("apply-status.json") {
                Ok(())
            } else {
                Err("one hasn't written its status".to_owned())
            }
        })
    }

    /// Stops a replicator with SIGTERM, once it is up; it must end by itself, with exit code 0.
    pub fn stop(&self, mut replicator: Process) -> Result<()> {
        self.wait_until_up(&mut replicator)?;
        replicator.terminate();
        replicator.finish()?.success()?;
        Ok(())
    }

    /// Applies all that was captured: `counterfoil run --until-idle`.
    pub fn settle(&self) -> Result<()> {
        self.run(&["run", "--until-idle"])?.success()?;
        Ok(())
    }

    /// The same by the halves one after the other, each as a process of its own, with Kafka between them.
    pub fn settle_apart(&self) -> Result<()> {
        self.run(&["capture", "--until-idle"])?.success()?;
        self.run(&["apply", "--until-idle"])?.success()?;
        Ok(())
    }

    /// Settles, and demands that everything is equal in every way there is.
    pub fn assert_mirrored(&self) -> Result<()> {
        self.settle()?;
        let verdict = self.verify()?;
        if !verdict.equal {
            bail!(
                "verify finds differences in {}: {:?}",
                self.root.display(),
                verdict.differences
            );
        }
        self.restore_and_compare()
    }

    /// `counterfoil verify --json`. The exit code must agree with what it says.
    pub fn verify(&self) -> Result<Verdict> {
        let finished = self.run(&["verify", "--json"])?;
        let json: Value = serde_json::from_str(&finished.stdout).with_context(|| {
            format!(
                "`verify --json` printed {:?}; {}\n{}",
                finished.stdout, finished.status, finished.stderr
            )
        })?;
        let equal = json["equal"]
            .as_bool()
            .with_context(|| format!("no `equal` in {json}"))?;
        finished.expect_code(if equal { 0 } else { 1 })?;
        let mut verdict = Verdict {
            equal,
            differences: Vec::new(),
            paths: Vec::new(),
        };
        for file in json["files"]
            .as_array()
            .with_context(|| format!("no `files` in {json}"))?
        {
            let path = file["path"]
                .as_str()
                .with_context(|| format!("no `path` in {file}"))?;
            verdict.paths.push(path.to_owned());
            for difference in file["differences"].as_array().into_iter().flatten() {
                verdict.differences.push(Difference {
                    path: path.to_owned(),
                    record: difference["record"].as_u64(),
                    kind: difference["kind"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(verdict)
    }

    /// `counterfoil status --json`. Its exit code says how good things are; here only what it prints counts.
    pub fn status(&self) -> Result<Value> {
        let finished = self.run(&["status", "--json"])?;
        serde_json::from_str(&finished.stdout)
            .with_context(|| format!("`status --json` printed {:?}", finished.stdout))
    }

    /// Restores to a fresh directory and gives the place of the data directory in it.
    pub fn restore(&self) -> Result<PathBuf> {
        let number = self.processes.get();
        let to = self.root.join(format!("restored-{number}"));
        let text = to.to_str().context("the site's path is text")?;
        self.run(&["restore", "--to", text])?.success()?;
        let data = self.data();
        Ok(to.join(data.strip_prefix("/").unwrap_or(&data)))
    }

    /// Restores, and compares every file that the configuration names, byte by byte, both ways. This is
    /// a comparison of the harness's own: it reads the configuration only for the paths.
    pub fn restore_and_compare(&self) -> Result<()> {
        let restored = self.restore()?;
        let patterns = self.configured_paths()?;
        let originals = files_below(&self.data(), &self.data())?;
        let copies = files_below(&restored, &restored)?;
        let mut compared = 0;
        for (name, path) in &originals {
            if !patterns
                .iter()
                .any(|pattern| matches(pattern, path.as_os_str().as_bytes()))
            {
                continue;
            }
            let Some(copy) = copies.get(name) else {
                bail!(
                    "{} wasn't restored (see {})",
                    path.display(),
                    self.root.display()
                );
            };
            let (ours, theirs) = (Image::read(path)?, Image::read(copy)?);
            if let Some(at) = ours.first_difference(&theirs) {
                bail!(
                    "{} ({} bytes) and {} ({} bytes) differ from byte {at} on",
                    path.display(),
                    ours.size(),
                    copy.display(),
                    theirs.size()
                );
            }
            compared += 1;
        }
        for (name, copy) in &copies {
            if !originals.contains_key(name) {
                bail!("{} was restored, but there is no such file", copy.display());
            }
        }
        if compared != copies.len() {
            bail!(
                "{compared} files are configured, but {} were restored",
                copies.len()
            );
        }
        Ok(())
    }

    /// Settles, and demands that `verify` finds nothing and that what is restored of a tree is the tree, entry by entry.
    /// The comparison is the harness's own.
    pub fn assert_tree_mirrored(&self, name: &str, excluded: &dyn Fn(&str) -> bool) -> Result<()> {
        self.settle()?;
        let verdict = self.verify()?;
        if !verdict.equal {
            bail!(
                "verify finds differences in {}: {:?}",
                self.root.display(),
                verdict.differences
            );
        }
        let restored = self.restore()?.join(name);
        let ours = tree(&self.path(name), excluded)?;
        assert_same_trees(&ours, &tree(&restored, &|_| false)?)
            .with_context(|| format!("comparing {name} with {}", restored.display()))
    }

    fn configured_paths(&self) -> Result<Vec<Vec<u8>>> {
        let text = std::fs::read_to_string(self.config()).context("reading the configuration")?;
        let paths = text.lines().filter_map(|line| line.strip_prefix("path = "));
        Ok(paths
            .map(|quoted| quoted.trim_matches(['"', '\'']).as_bytes().to_vec())
            .collect())
    }

    /// The default sink's database.
    pub fn database(&self) -> PathBuf {
        self.state().join("counterfoil.db")
    }

    /// A connection to the default sink's database, as anybody may open it.
    pub fn sqlite(&self) -> Result<rusqlite::Connection> {
        let path = self.database();
        let connection = rusqlite::Connection::open_with_flags(
            &path,
            rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
        )
        .with_context(|| format!("opening {}", path.display()))?;
        connection
            .busy_timeout(crate::LIMIT)
            .context("setting the busy timeout")?;
        Ok(connection)
    }

    /// The rows of a file's table: content by identity.
    pub fn rows(&self, table: &str) -> Result<BTreeMap<u64, Vec<u8>>> {
        let connection = self.sqlite()?;
        let identity = self.identity_column(table)?;
        let sql = format!("SELECT \"{identity}\", data FROM \"{table}\"");
        let mut statement = connection
            .prepare(&sql)
            .with_context(|| format!("preparing {sql}"))?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
        })?;
        rows.collect::<Result<_, _>>()
            .with_context(|| format!("reading {table}"))
    }

    /// The name of a table's first column.
    pub fn identity_column(&self, table: &str) -> Result<String> {
        let connection = self.sqlite()?;
        let sql = format!("SELECT name FROM pragma_table_info('{table}') WHERE cid = 0");
        connection
            .query_row(&sql, [], |row| row.get(0))
            .with_context(|| format!("there is no table {table} in {}", self.database().display()))
    }

    /// The names of the tables that hold records.
    pub fn tables(&self) -> Result<Vec<String>> {
        let connection = self.sqlite()?;
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' \
                   AND name NOT LIKE 'counterfoil\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
        let mut statement = connection.prepare(sql)?;
        let names = statement.query_map([], |row| row.get(0))?;
        names.collect::<Result<_, _>>().context("listing tables")
    }

    /// The test came to its end: the directory may go.
    pub fn finish(self) {
        self.finished.set(true);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.finished.get() {
            let _ = std::fs::remove_dir_all(&self.root);
        } else {
            eprintln!("the site is kept in {}", self.root.display());
        }
    }
}

/// Regular files below a directory, by path relative to `base`. A directory that isn't there has none.
fn files_below(dir: &Path, base: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut files = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        entries => entries.with_context(|| format!("listing {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("listing {}", dir.display()))?
            .path();
        if path.is_dir() {
            files.append(&mut files_below(&path, base)?);
        } else {
            files.insert(path.strip_prefix(base).unwrap_or(&path).to_owned(), path);
        }
    }
    Ok(files)
}

/// Glob match as simple as can be: `*` is any bytes but `/`, `**` any bytes, `?` one byte.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|at| matches(rest, &path[at..])),
        [b'*', rest @ ..] => (0..=path.len())
            .take_while(|&at| !path[..at].contains(&b'/'))
            .any(|at| matches(rest, &path[at..])),
        [b'?', rest @ ..] => path
            .split_first()
            .is_some_and(|(_, path)| matches(rest, path)),
        [byte, rest @ ..] => path
            .split_first()
            .is_some_and(|(first, path)| first == byte && matches(rest, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_shells_do() {
        for (pattern, path, expected) in [
            ("/a/*.dat", "/a/b.dat", true),
            ("/a/*.dat", "/a/b/c.dat", false),
            ("/a/**/c.dat", "/a/b/x/c.dat", true),
            ("/a/?.dat", "/a/bb.dat", false),
            ("/a/b.dat", "/a/b.dat", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), path.as_bytes()),
                expected,
                "{pattern} {path}"
            );
        }
    }
}
