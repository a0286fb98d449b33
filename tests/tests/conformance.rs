//! Every way to change a file that programs have: nothing changes for the program, and everything is mirrored.
//!
//! Each case is a program and a way of writing. It runs three times: without capture; under capture with no replicator, so
//! that the lanes show what the interposer told; and under capture while a replicator runs. Exit status, standard output
//! and the files must be the same each time, and both mirrors must prove equal. By what each case is captured is an
//! expectation too: a way that falls from the interposer to the watcher, unnoticed, fails.
//!
//! The table is printed, and written to `target/debug/conformance.txt`. `COUNTERFOIL_CASES=text` runs the cases whose line
//! holds the text.

use anyhow::{Context as _, Result, bail};
use counterfoil_tests::{
    By, Evidence, Finished, Group, Image, Process, Program, Site, c, c_static, c_with, cobol, cxx,
    go, is_on_path, java, node, perl, python, report, tool, wait_until,
};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Cases that run at the same time.
const AT_ONCE: usize = 4;
/// A victim says that way it isn't possible here: by the kernel, the file system, or who runs it.
const NOT_HERE: i32 = 77;
/// Records of files whose records come in an order that nobody knows.
const SORTED_BYTES: usize = 32;

struct Case {
    program: &'static str,
    way: String,
    command: Program,
    words: Vec<OsString>,
    expected: Expected,
}

/// By what a case is to be captured.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// By exactly this. What is captured better than expected fails too, so that the table stays true.
    As(By),
    /// The interposer tells all; when calls overlap it may have to say where to read again instead.
    Unsteady,
}

use Expected::{As, Unsteady};

const INTERPOSER: Expected = As(By::Interposer);
const READ_AGAIN: Expected = As(By::ReadAgain);
const BOTH: Expected = As(By::Both);
const WATCHER: Expected = As(By::Watcher);

impl Expected {
    fn allows(self, by: Option<By>) -> bool {
        match self {
            As(expected) => by == Some(expected),
            Unsteady => by.is_some_and(|by| by <= By::ReadAgain),
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            As(by) => by.fmt(f),
            Unsteady => write!(f, "{} (or {})", By::Interposer, By::ReadAgain),
        }
    }
}

impl Case {
    fn is_chosen(&self) -> bool {
        match std::env::var("COUNTERFOIL_CASES") {
            Ok(text) => format!("{} {}", self.program, self.way).contains(&text),
            Err(_) => true,
        }
    }
}

/// One way a case: the word that the victim knows it by, and by what it is captured.
type Ways = &'static [(&'static str, Expected)];

/// The ways of `ways.c`.
const C: Ways = &[
    ("write", INTERPOSER),
    ("write_large", INTERPOSER),
    ("pwrite", INTERPOSER),
    ("writev", INTERPOSER),
    ("pwritev", INTERPOSER),
    ("pwritev2", INTERPOSER),
    ("rwf_append", INTERPOSER),
    ("direct", INTERPOSER),
    ("aio", INTERPOSER),
    ("append", INTERPOSER),
    ("threads", Unsteady),
    ("threads_one_offset", Unsteady),
    ("many_files", INTERPOSER),
    ("ftruncate", INTERPOSER),
    ("truncate", INTERPOSER),
    ("open_truncates", INTERPOSER),
    ("fallocate", READ_AGAIN),
    ("punch", READ_AGAIN),
    ("zero_range", READ_AGAIN),
    ("collapse", READ_AGAIN),
    ("sparse", INTERPOSER),
    ("copy_file_range", READ_AGAIN),
    ("sendfile", READ_AGAIN),
    ("splice", READ_AGAIN),
    ("clone", READ_AGAIN),
    ("mmap_msync", READ_AGAIN),
    ("mmap", READ_AGAIN),
    ("mmap_kept", READ_AGAIN),
    ("mremap", READ_AGAIN),
    ("mprotect", READ_AGAIN),
    ("stdio", INTERPOSER),
    ("stdio_update", INTERPOSER),
    ("stdio_unbuffered", INTERPOSER),
    ("stdio_lines", INTERPOSER),
    ("stdio_own_buffer", INTERPOSER),
    ("freopen", INTERPOSER),
    ("fdopen", INTERPOSER),
    ("vfprintf", INTERPOSER),
    ("stdio_exit", INTERPOSER),
    ("stdio__exit", INTERPOSER),
    ("stdio_abort", INTERPOSER),
    ("dup2_over", INTERPOSER),
    ("fork", INTERPOSER),
    ("fork_exec", INTERPOSER),
    ("vfork_exec", INTERPOSER),
    ("spawn", INTERPOSER),
    ("popen", INTERPOSER),
    ("passed", INTERPOSER),
    ("rename", INTERPOSER),
    ("rename_in", READ_AGAIN),
    ("rename_out", INTERPOSER),
    ("exchange", INTERPOSER),
    ("noreplace", INTERPOSER),
    ("hard_link", INTERPOSER),
    ("linked_in", READ_AGAIN),
    ("symlink", INTERPOSER),
    ("dangling_symlink", INTERPOSER),
    ("unlink_open", INTERPOSER),
    ("tmpfile", READ_AGAIN),
    ("mkstemp", INTERPOSER),
    ("rename_directory", INTERPOSER),
    ("setuid", INTERPOSER),
    ("chroot", INTERPOSER),
    ("clean_environment", WATCHER),
    ("syscall", INTERPOSER),
    ("bare_syscall", WATCHER),
    ("io_uring", BOTH),
];

/// The same source, compiled so that libc's checking twins are called.
const C_FORTIFIED: Ways = &[
    ("write", INTERPOSER),
    ("pwrite", INTERPOSER),
    ("open_truncates", INTERPOSER),
    ("stdio", INTERPOSER),
    ("stdio_update", INTERPOSER),
    ("vfprintf", INTERPOSER),
    ("freopen", INTERPOSER),
];

/// The same source, with libc inside.
const C_STATIC: Ways = &[
    ("write", WATCHER),
    ("pwrite", WATCHER),
    ("threads", WATCHER),
    ("ftruncate", WATCHER),
    ("stdio", WATCHER),
    ("stdio_update", WATCHER),
    ("mmap", WATCHER),
    ("rename", WATCHER),
    ("exchange", WATCHER),
    ("unlink_open", WATCHER),
    ("copy_file_range", WATCHER),
];

const CXX: Ways = &[
    ("ofstream", INTERPOSER),
    ("flushed", INTERPOSER),
    ("append", INTERPOSER),
    ("update", INTERPOSER),
    ("unbuffered", INTERPOSER),
    ("large", INTERPOSER),
    ("redirected", INTERPOSER),
    ("thread", INTERPOSER),
    ("copy_file", READ_AGAIN),
    ("resize", INTERPOSER),
    ("rename_and_remove", READ_AGAIN),
    ("iterators", INTERPOSER),
];

const PYTHON: Ways = &[
    ("open_text", INTERPOSER),
    ("open_unbuffered", INTERPOSER),
    ("open_update", INTERPOSER),
    ("os_write", INTERPOSER),
    ("os_sendfile", READ_AGAIN),
    ("os_truncate", INTERPOSER),
    ("mapped", READ_AGAIN),
    ("mapped_resize", READ_AGAIN),
    ("copyfile", READ_AGAIN),
    ("copy2", READ_AGAIN),
    ("copyfileobj", INTERPOSER),
    ("move", INTERPOSER),
    ("replace", READ_AGAIN),
    ("path_write", INTERPOSER),
    ("threads", Unsteady),
    ("at_exit", INTERPOSER),
    ("child", INTERPOSER),
];

const PERL: Ways = &[
    ("print", INTERPOSER),
    ("autoflush", INTERPOSER),
    ("syswrite", INTERPOSER),
    ("update", INTERPOSER),
    ("truncate", INTERPOSER),
    ("names", READ_AGAIN),
    ("standard_output", INTERPOSER),
    ("piped", INTERPOSER),
];

const JAVA: Ways = &[
    ("FileOutputStream", INTERPOSER),
    ("FileWriter", INTERPOSER),
    ("RandomAccessFile", INTERPOSER),
    ("FileChannel", INTERPOSER),
    ("transferTo", READ_AGAIN),
    ("MappedByteBuffer", READ_AGAIN),
    ("AsynchronousFileChannel", INTERPOSER),
    ("Files.write", INTERPOSER),
    ("Files.move", READ_AGAIN),
    ("Files.copy", READ_AGAIN),
    ("threads", Unsteady),
];

const NODE: Ways = &[
    ("sync", INTERPOSER),
    ("promises", INTERPOSER),
    ("callbacks", INTERPOSER),
    ("streams", INTERPOSER),
    ("copyFile", READ_AGAIN),
    ("names", READ_AGAIN),
];

const GO: Ways = &[
    ("write", WATCHER),
    ("copies", WATCHER),
    ("mapped", WATCHER),
    ("names", WATCHER),
];

/// COBOL programs, their arguments, and what they show.
const COBOL: &[(&str, &str, &str, Expected)] = &[
    ("cobol_fixed", "20", "sequential, fixed", INTERPOSER),
    ("cobol_variable", "20", "sequential, variable", INTERPOSER),
    ("cobol_lines", "20", "line sequential", INTERPOSER),
    ("cobol_relative", "20", "relative", INTERPOSER),
    ("cobol_delete", "", "DELETE FILE", INTERPOSER),
];

/// Tools of the system: the program, its package, the way, and the command for a shell.
const TOOLS: &[(&str, &str, &str, &str, Expected)] = &[
    (
        "dash",
        "dash",
        "> and >>",
        "echo some > f.dat; echo more >> f.dat; : > old.dat",
        INTERPOSER,
    ),
    (
        "bash",
        "bash",
        "> and >>",
        "exec bash -c 'echo some > f.dat; printf %s more >> f.dat; exec 5<>old.dat; echo over >&5'",
        INTERPOSER,
    ),
    (
        "cp",
        "coreutils",
        "a new file",
        "cp old.dat f.dat",
        READ_AGAIN,
    ),
    (
        "cp",
        "coreutils",
        "over a file",
        "cp old.dat f.dat; echo other > g.txt; cp g.txt f.dat",
        READ_AGAIN,
    ),
    (
        "cp",
        "coreutils",
        "without clever calls",
        "cp --reflink=never --sparse=always old.dat f.dat",
        INTERPOSER,
    ),
    (
        "dd",
        "coreutils",
        "blocks",
        "dd if=old.dat of=f.dat bs=1000 status=none",
        INTERPOSER,
    ),
    (
        "dd",
        "coreutils",
        "conv=notrunc seek",
        "printf 12345 | dd of=old.dat bs=1 seek=5000 conv=notrunc status=none",
        INTERPOSER,
    ),
    (
        "dd",
        "coreutils",
        "oflag=append",
        "dd if=/bin/true of=old.dat bs=512 count=3 oflag=append conv=notrunc,fsync status=none",
        INTERPOSER,
    ),
    (
        "dd",
        "coreutils",
        "seek over a hole",
        "dd if=old.dat of=f.dat bs=1 count=10 seek=100000 conv=sparse status=none",
        INTERPOSER,
    ),
    (
        "truncate",
        "coreutils",
        "-s",
        "truncate -s 3000 old.dat; truncate -s +5000 old.dat; truncate -s 777 f.dat",
        INTERPOSER,
    ),
    ("sed", "sed", "-i", "sed -i s/a/b/ old.dat", READ_AGAIN),
    (
        "sed",
        "sed",
        "-i.dat",
        "sed -i.before.dat s/a/b/g old.dat",
        READ_AGAIN,
    ),
    ("sed", "sed", "w", "sed -n 'w f.dat' old.dat", INTERPOSER),
    (
        "awk",
        "mawk",
        "print >",
        "awk '{ print $1 > \"f.dat\"; print $2 >> \"g.dat\" }' old.dat",
        INTERPOSER,
    ),
    (
        "tar",
        "tar",
        "x",
        "mkdir from; cp old.dat from/f.dat; tar cf all.tar --mtime=@0 -C from .; rm -r from; tar xf all.tar",
        INTERPOSER,
    ),
    (
        "tar",
        "tar",
        "x over a file",
        "tar cf all.tar --mtime=@0 old.dat; echo changed > old.dat; tar xf all.tar",
        INTERPOSER,
    ),
    (
        "tar",
        "tar",
        "c",
        "tar cf f.dat --mtime=@0 --owner=root --group=root old.dat",
        INTERPOSER,
    ),
    (
        "gzip",
        "gzip",
        "d",
        "gzip -n old.dat; gzip -d old.dat.gz",
        INTERPOSER,
    ),
    (
        "rsync",
        "rsync",
        "through a temporary file",
        "mkdir to; rsync old.dat to/; echo changed >> old.dat; rsync -I old.dat to/",
        READ_AGAIN,
    ),
    (
        "rsync",
        "rsync",
        "--inplace",
        "cp old.dat f.dat; echo changed >> old.dat; rsync -I --inplace --no-whole-file old.dat f.dat",
        READ_AGAIN,
    ),
    (
        "rsync",
        "rsync",
        "--append and --sparse",
        "head -c 100 old.dat > f.dat; rsync --append old.dat f.dat; rsync --sparse old.dat g.dat",
        READ_AGAIN,
    ),
    (
        "mv",
        "coreutils",
        "within the files",
        "mv old.dat f.dat; echo x > g.dat; mv g.dat f.dat",
        INTERPOSER,
    ),
    (
        "mv",
        "coreutils",
        "in and out",
        "echo x > plain; mv plain f.dat; mv old.dat plain",
        READ_AGAIN,
    ),
    (
        "mv",
        "coreutils",
        "from another file system",
        "echo far > /dev/shm/$$.far; mv /dev/shm/$$.far f.dat",
        INTERPOSER,
    ),
    (
        "ln",
        "coreutils",
        "hard, and the first name goes",
        "ln old.dat f.dat; rm old.dat; echo more >> f.dat",
        INTERPOSER,
    ),
    (
        "ln",
        "coreutils",
        "-s, and written through",
        "ln -s old.dat alias; echo more >> alias",
        INTERPOSER,
    ),
    (
        "install",
        "coreutils",
        "-m",
        "install -m 600 old.dat f.dat",
        READ_AGAIN,
    ),
    (
        "tee",
        "coreutils",
        "and -a",
        "echo some | tee f.dat; echo more | tee -a f.dat old.dat",
        INTERPOSER,
    ),
    (
        "sort",
        "coreutils",
        "-o",
        "sort -o old.dat old.dat; sort -r -o f.dat old.dat",
        INTERPOSER,
    ),
    (
        "split",
        "coreutils",
        "-b",
        "split -b 3000 --additional-suffix=.dat old.dat part-",
        INTERPOSER,
    ),
    (
        "shred",
        "coreutils",
        "-n 0 -z",
        "shred -n 0 -z old.dat",
        INTERPOSER,
    ),
    (
        "rm",
        "coreutils",
        "",
        "rm old.dat; echo x > f.dat",
        INTERPOSER,
    ),
    (
        "touch",
        "coreutils",
        "a new file",
        "touch f.dat",
        INTERPOSER,
    ),
    (
        "perl",
        "perl-base",
        "-i",
        "perl -i -pe 's/o/0/' old.dat",
        READ_AGAIN,
    ),
    (
        "ed",
        "ed",
        "w",
        "printf '%s\\n' 1d 'a' 'one more line' . w q | ed -s old.dat",
        INTERPOSER,
    ),
    (
        "sqlite3",
        "sqlite3",
        "rollback journal",
        "sqlite3 t.db 'create table t(a, b)' 'begin; insert into t values(1, hex(zeroblob(9000))); commit' 'begin; delete from t; rollback' 'update t set a = 2' 'vacuum'",
        INTERPOSER,
    ),
    (
        "sqlite3",
        "sqlite3",
        "write-ahead log",
        "sqlite3 t.db 'pragma journal_mode = wal' 'create table t(a, b)' 'insert into t values(1, hex(zeroblob(9000)))' 'pragma wal_checkpoint' 'update t set a = 2'",
        INTERPOSER,
    ),
    (
        "sqlite3",
        "sqlite3",
        "pragma mmap_size",
        "sqlite3 t.db 'pragma mmap_size = 1000000' 'create table t(a)' 'insert into t values(1)' 'insert into t select a + 1 from t'",
        INTERPOSER,
    ),
];

fn cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut add = |program: &'static str, command: &Program, ways: Ways| {
        for (way, expected) in ways {
            cases.push(Case {
                program,
                way: (*way).to_owned(),
                command: command.clone(),
                words: vec![way.into()],
                expected: *expected,
            });
        }
    };
    add("C", &c("ways")?, C);
    let fortified = ["-D_FORTIFY_SOURCE=2"];
    add(
        "C, fortified",
        &c_with("ways", "ways-fortified", &fortified)?,
        C_FORTIFIED,
    );
    add("C, static", &c_static("ways")?, C_STATIC);
    add("C++", &cxx("ways")?, CXX);
    add("Python", &python("ways")?, PYTHON);
    add("Perl", &perl("ways")?, PERL);
    add("Java", &java("Ways")?, JAVA);
    add("Node", &node("ways")?, NODE);
    if is_on_path("go") {
        add("Go", &go("ways")?, GO);
    }
    for (name, argument, way, expected) in COBOL {
        cases.push(Case {
            program: "COBOL",
            way: (*way).to_owned(),
            command: cobol(name)?,
            words: argument.split_whitespace().map(Into::into).collect(),
            expected: *expected,
        });
    }
    for (name, package, way, script, expected) in TOOLS {
        tool(name, package)?;
        cases.push(Case {
            program: name,
            way: (*way).to_owned(),
            command: Program::named("sh"),
            words: vec!["-e".into(), "-c".into(), script.into()],
            expected: *expected,
        });
    }
    cases.retain(Case::is_chosen);
    Ok(cases)
}

/// One group; records where programs have records, blocks and lines where they have not.
fn groups() -> Vec<Group> {
    let stream = |layout| format!("organization = \"stream\"\nlayout = \"{layout}\"");
    let cobol = |organization, size| {
        format!("organization = \"{organization}\"\nlayout = \"gnucobol\"\nrecord_size = {size}")
    };
    vec![
        Group::new("cases", "none")
            .file_as("*/fixed.dat", &cobol("fixed", 60))
            .file_as("*/relative.dat", &cobol("relative", 80))
            .file_as("*/variable.dat", &cobol("sequential", 200))
            .file_as(
                "*/lines.txt",
                "organization = \"sequential\"\nlayout = \"line-sequential\"",
            )
            .file_as("**/*.txt", &stream("newline"))
            .file_as("**/*.db", &stream("blocks"))
            .file_as("**/*.dat", &stream("blocks")),
    ]
}

fn is_captured(name: &Path) -> bool {
    name.extension()
        .is_some_and(|extension| ["dat", "txt", "db"].iter().any(|known| extension == *known))
}

/// What a run came to: how it ended, what it said, and what lies in its directory.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: std::process::ExitStatus,
    stdout: String,
    files: BTreeMap<PathBuf, Found>,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Directory,
    Link(PathBuf),
    File { mode: u32, image: Image },
}

impl Outcome {
    fn of(finished: &Finished, dir: &Path) -> Result<Outcome> {
        let mut files = BTreeMap::new();
        look(dir, dir, &mut files)?;
        Ok(Outcome {
            status: finished.status,
            stdout: finished.stdout.clone(),
            files,
        })
    }

    /// What is different, in words.
    fn against(&self, plain: &Outcome) -> Option<String> {
        if self == plain {
            return None;
        }
        if self.status != plain.status {
            return Some(format!(
                "it ends with {}, not with {}",
                self.status, plain.status
            ));
        }
        if self.stdout != plain.stdout {
            return Some(format!(
                "it prints {:?}, not {:?}",
                self.stdout, plain.stdout
            ));
        }
        let names: std::collections::BTreeSet<_> =
            self.files.keys().chain(plain.files.keys()).collect();
        for name in names {
            let what = match (self.files.get(name), plain.files.get(name)) {
                (Some(ours), Some(theirs)) if ours == theirs => continue,
                (None, _) => "isn't there".to_owned(),
                (_, None) => "is there".to_owned(),
                (
                    Some(Found::File { image: ours, mode }),
                    Some(Found::File { image, mode: other }),
                ) => match ours.first_difference(image) {
                    Some(at) => format!("differs at byte {at}"),
                    None => format!("has mode {mode:o}, not {other:o}"),
                },
                _ => "is of another kind".to_owned(),
            };
            return Some(format!("{} {what}", name.display()));
        }
        None
    }
}

fn look(dir: &Path, base: &Path, files: &mut BTreeMap<PathBuf, Found>) -> Result<()> {
    let listing = || format!("listing {}", dir.display());
    for entry in std::fs::read_dir(dir).with_context(listing)? {
        let path = entry.with_context(listing)?.path();
        let metadata = path.symlink_metadata().with_context(listing)?;
        let name = path.strip_prefix(base).unwrap_or(&path).to_owned();
        let found = if metadata.is_dir() {
            look(&path, base, files)?;
            Found::Directory
        } else if metadata.is_symlink() {
            Found::Link(std::fs::read_link(&path).with_context(listing)?)
        } else {
            let image = Image::read(&path)?;
            let is_sorted = name.to_string_lossy().starts_with("sorted");
            Found::File {
                mode: metadata.permissions().mode() & 0o7777,
                image: if is_sorted {
                    image.sorted(SORTED_BYTES)
                } else {
                    image
                },
            }
        };
        files.insert(name, found);
    }
    Ok(())
}

/// The captured files below a directory.
fn captured_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    look(dir, dir, &mut files)?;
    let regular = files
        .into_iter()
        .filter(|(name, found)| is_captured(name) && matches!(found, Found::File { .. }));
    Ok(regular.map(|(name, _)| dir.join(name)).collect())
}

/// The directory of a case.
fn place(site: &Site, number: usize, case: &Case) -> PathBuf {
    let name: String = format!("{} {}", case.program, case.way)
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    site.path(&format!("{number:03}-{name}"))
}

/// Lines of text, 10,000 bytes.
fn old_content() -> Vec<u8> {
    let lines = (0..)
        .flat_map(|number| format!("{number} was here before anything else was\n").into_bytes());
    lines.take(10_000).collect()
}

/// Makes the directories of all cases. As long as the files it gives are open, no other file gets the inode of one of them:
/// a file that isn't captured, with an inode that was a captured file's, is captured all the same, until somebody looks.
fn prepare(site: &Site, cases: &[Case]) -> Result<Vec<std::fs::File>> {
    let mut files = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let dir = place(site, number, case);
        std::fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let old = dir.join("old.dat");
        std::fs::write(&old, old_content()).context("writing old.dat")?;
        files.push(std::fs::File::open(&old).context("opening old.dat")?);
    }
    Ok(files)
}

/// Runs every case, some at a time, and gives their outcomes.
fn run(site: &Site, cases: &[Case], is_captured: bool) -> Result<Vec<Outcome>> {
    let mut running: VecDeque<(PathBuf, Process)> = VecDeque::new();
    let mut outcomes = Vec::new();
    let mut collect = |running: &mut VecDeque<(PathBuf, Process)>| -> Result<()> {
        if let Some((dir, process)) = running.pop_front() {
            outcomes.push(Outcome::of(&process.finish()?, &dir)?);
        }
        Ok(())
    };
    for (number, case) in cases.iter().enumerate() {
        let dir = place(site, number, case);
        let mut command = if is_captured {
            site.captured(&case.command, &case.words)
        } else {
            let (first, rest) = case
                .command
                .words
                .split_first()
                .context("a program has a name")?;
            let mut command = std::process::Command::new(first);
            command.args(rest).args(&case.words);
            command
        };
        command
            .current_dir(&dir)
            .env("LC_ALL", "C")
            .env_remove("COB_VARSEQ_FORMAT");
        running.push_back((dir, site.start(command)?));
        if running.len() == AT_ONCE {
            collect(&mut running)?;
        }
    }
    while !running.is_empty() {
        collect(&mut running)?;
    }
    Ok(outcomes)
}

#[test]
fn every_way_of_every_program_is_captured_and_changes_nothing_for_it() -> Result<()> {
    let cases = cases()?;
    let began = std::time::Instant::now();
    let plain_site = Site::with("plain", &groups())?;
    let _open = prepare(&plain_site, &cases)?;
    let plain = run(&plain_site, &cases, false)?;
    println!("without capture: {:.0?}", began.elapsed());

    // With nobody to take anything out of the lanes.
    let told_site = Site::with("told", &groups())?;
    let _open = prepare(&told_site, &cases)?;
    told_site.settle()?;
    let before: Result<Vec<_>> = cases
        .iter()
        .enumerate()
        .map(|(number, case)| captured_below(&place(&told_site, number, case)))
        .collect();
    let mut evidence = Evidence::before(&before?.concat())?;
    let told = run(&told_site, &cases, true)?;
    evidence.read(&told_site.state().join("lanes"))?;
    println!("told: {:.0?}", began.elapsed());

    // And as it is meant to be.
    let live_site = Site::with("live", &groups())?;
    let _open = prepare(&live_site, &cases)?;
    let mut replicator = live_site.replicator()?;
    live_site.wait_until_up(&mut replicator)?;
    let live = run(&live_site, &cases, true)?;
    println!("live: {:.0?}", began.elapsed());

    let mut lines = Vec::new();
    let mut failures = String::new();
    for (number, case) in cases.iter().enumerate() {
        let (plain, told, live) = (&plain[number], &told[number], &live[number]);
        let dir = place(&told_site, number, case);
        let by = evidence.judge(&dir, &captured_below(&dir)?)?;
        let is_here = plain.status.code() != Some(NOT_HERE);
        let mut wrong: Vec<String> = Vec::new();
        wrong.extend(told.against(plain).map(|what| format!("captured: {what}")));
        wrong.extend(
            live.against(plain)
                .map(|what| format!("beside a replicator: {what}")),
        );
        if is_here && !case.expected.allows(by) {
            let found = by.map_or("nothing".to_owned(), |by| by.to_string());
            wrong.push(format!("captured by {found}, not by {}", case.expected));
        }
        if is_here && plain.status.code().is_some_and(|code| code != 0) {
            wrong.push(format!("without capture it ends with {}", plain.status));
        }
        let result = match (wrong.is_empty(), is_here) {
            (false, _) => "WRONG",
            (true, true) => "same, mirrored",
            (true, false) => "not possible here",
        };
        for what in &wrong {
            let _ = writeln!(
                failures,
                "{} {} ({}): {what}",
                case.program,
                case.way,
                dir.display()
            );
        }
        lines.push([
            case.program.to_owned(),
            case.way.clone(),
            by.map_or("-".to_owned(), |by| by.to_string()),
            result.to_owned(),
        ]);
    }
    if !is_on_path("go") {
        let line = [
            "Go",
            "-",
            "-",
            "not run: there is no compiler; C, static, stands for it",
        ];
        lines.push(line.map(str::to_owned));
    }
    let table = table(&lines);
    println!("{table}\n{failures}");
    let path = report("conformance.txt")?;
    std::fs::write(&path, &table).with_context(|| format!("writing {}", path.display()))?;

    // By this replicator: the next one compares every file when it starts, and would hide what was missed.
    wait_until("everything to be mirrored", || match live_site.verify() {
        Ok(verdict) if verdict.equal => Ok(()),
        Ok(verdict) => Err(format!(
            "verify finds differences: {:?}",
            verdict.differences
        )),
        Err(error) => Err(format!("{error:#}")),
    })?;
    println!("mirrored: {:.0?}", began.elapsed());
    live_site.stop(replicator)?;
    live_site.assert_mirrored()?;
    println!("restored: {:.0?}", began.elapsed());
    told_site.assert_mirrored()?;
    println!("all: {:.0?}", began.elapsed());
    if !failures.is_empty() {
        bail!("{failures}");
    }
    for site in [plain_site, told_site, live_site] {
        site.finish();
    }
    Ok(())
}

fn table(lines: &[[String; 4]]) -> String {
    let head = ["program", "way of writing", "captured by", "result"].map(str::to_owned);
    let mut widths = [0; 4];
    for line in lines.iter().chain([&head]) {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    let mut put = |cells: &[String; 4]| {
        let mut line = String::from("|");
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(line, " {cell:width$} |");
        }
        let _ = writeln!(text, "{line}");
    };
    put(&head);
    put(&widths.map(|width| "-".repeat(width)));
    lines.iter().for_each(put);
    text
}

/// A file that a program had open before any rule named it: from the moment the rules do, its writes are captured.
#[test]
fn a_file_opened_before_a_rule_named_it_is_captured_from_then_on() -> Result<()> {
    let stream = "organization = \"stream\"\nlayout = \"blocks\"";
    let site = Site::with(
        "rules",
        &[Group::new("group", "none").file_as("other.dat", stream)],
    )?;
    let replicator = site.replicator()?;
    let program = site.exec(&c("ways")?, &["wait_and_write"])?;
    wait_until("the program to be ready", || {
        site.path("ready")
            .exists()
            .then_some(())
            .ok_or_else(|| program.stderr())
    })?;
    site.stop(replicator)?;
    site.configure(&[Group::new("group", "none").file_as("*.dat", stream)])?;
    // It takes the rules over, and loads what the file holds already.
    site.settle()?;
    let mut evidence = Evidence::before(&[site.path("f.dat")])?;
    std::fs::write(site.path("go"), "")?;
    program.finish()?.success()?;
    evidence.read(&site.state().join("lanes"))?;
    let by = evidence.judge(&site.data(), &[site.path("f.dat")])?;
    assert_eq!(by, Some(By::Interposer), "captured by");
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
