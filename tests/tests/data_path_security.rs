//! Who may see and say what on the way from a program to its mirror: what is kept is its owner's only, nobody tells of files
//! that they may not write, links lead nowhere, and names are names, whatever bytes they are.

use anyhow::{Context as _, Result, ensure};
use counterfoil_lane::board;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::writer::{Lane, Name, Operation, Process, Target};
use counterfoil_tests::{Group, Program, Shape, Site, wait_until};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU32;

const RECORD: Shape = Shape::Fixed { size: 10 };
/// "nobody" of Debian.
const OTHER_USER: u32 = 65_534;

/// Runs a verb with nothing kept back by the umask.
fn with_open_umask(site: &Site, arguments: &[&str]) -> Result<()> {
    let verb = site.counterfoil(arguments);
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 0; exec \"$@\"", "sh"])
        .arg(verb.get_program())
        .args(verb.get_args())
        .current_dir(site.data());
    site.start(command)?.finish()?.success()?;
    Ok(())
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_until(what, || match is_so() {
        Ok(true) => Ok(()),
        Ok(false) => Err("it isn't so".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    })
}

/// Everything below a directory.
fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    Ok(all)
}

/// Nobody but their owner can read lanes, journal, images, digests, status, spool or the default target, even where the umask
/// would let everybody, and each of them says so itself: a state directory that was opened up gives nothing away.
#[test]
fn what_is_kept_is_its_owners_whatever_the_umask() -> Result<()> {
    let groups = [Group::new("group", "none")
        .file("*.dat", RECORD)
        .tree("tree", "")];
    let site = Site::with("modes", &groups)?;
    fs::create_dir_all(site.path("tree"))?;
    fs::write(site.path("tree/entry"), "content")?;
    let script = "printf 0123456789 > a.dat; printf 0123456789 >> a.dat; exec sleep 600";
    with_open_umask(
        &site,
        &["exec", "--", "sh", "-c", "printf 0123456789 > b.dat"],
    )?;
    let mut lasting = site.start(site.counterfoil(&["exec", "--", "sh", "-c", script]))?;
    until("a.dat is written", || {
        Ok(fs::metadata(site.path("a.dat")).is_ok_and(|there| there.len() == 20))
    })?;
    with_open_umask(&site, &["run", "--until-idle"])?;
    let mut names = Vec::new();
    for path in below(&site.state())? {
        let there = path.symlink_metadata()?;
        ensure!(
            there.mode() & 0o077 == 0,
            "{} has mode {:o}",
            path.display(),
            there.mode() & 0o7777
        );
        names.extend(
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    ensure!(fs::metadata(site.state())?.mode() & 0o077 == 0);
    // It was all there.
    for kind in [
        ".lane",
        "board",
        "status.json",
        "counterfoil.db",
        "static.db",
        ".journal",
    ] {
        ensure!(
            names.iter().any(|name| name.ends_with(kind)),
            "no {kind} in {names:?}"
        );
    }
    lasting.kill()?;
    site.finish();
    Ok(())
}

/// What a hostile program of another user writes into a lane by hand.
struct Forger {
    process: Process,
    lane: &'static mut Lane,
}

impl Forger {
    /// A lane that is the other user's, and says that it is of process `pid`.
    fn new(site: &Site, number: u64, pid: u32, pid_started: u64) -> Result<Forger> {
        let directory = site.root().join("lanes").into_os_string().into_vec();
        let board = board::join(&[&directory, b"\0".as_slice()].concat()).context("the board")?;
        let process = Process {
            directory: Vec::leak(directory),
            board,
            number,
            pid,
            uid: 0,
            pid_started,
            pid_namespace: 0,
            program: *b"honest\0\0\0\0\0\0\0\0\0\0",
            mode: AtomicU32::new(0),
            lanes: AtomicU32::new(0),
        };
        // SAFETY: it concerns the calling thread, and is taken back at once.
        unsafe { libc::setfsuid(OTHER_USER) };
        let lane = Lane::create(&process);
        // SAFETY: as above.
        unsafe { libc::setfsuid(0) };
        let lane = lane.map_err(|shortage| anyhow::anyhow!("no lane: {shortage:?}"))?;
        Ok(Forger { process, lane })
    }

    /// Tells of something that never happened to the file at `path`.
    fn tell(
        &mut self,
        path: &Path,
        number: u32,
        kind: Kind,
        flags: u16,
        data: &[u8],
    ) -> Result<()> {
        let there = fs::metadata(path)?;
        let name = Name {
            number,
            generation: 1,
            device: there.dev(),
            inode: there.ino(),
            path: path.as_os_str().as_bytes(),
        };
        let begin = self.lane.enter(&Target {
            device: there.dev(),
            inode: there.ino(),
            offset: 0,
            extent: 10,
            group: 0,
        });
        let operation = Operation {
            kind,
            flags,
            begin,
            end: begin + 1,
            offset: 0,
            extent: 0,
        };
        let part = libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        };
        let (lane, process) = (&mut self.lane, &self.process);
        // SAFETY: the part is the whole slice.
        let done = unsafe { lane.append(process, Some(&name), &operation, &[part], data.len()) };
        lane.leave();
        ensure!(done, "no room in the lane");
        Ok(())
    }
}

/// How many times something was compared instead of being believed.
fn count_unvouched(site: &Site) -> Result<u64> {
    let status = site.status()?;
    let rereads = &status["coverage"]["rereads"]["unvouched"];
    rereads
        .as_u64()
        .with_context(|| format!("no count in {status}"))
}

#[test]
fn nobody_tells_of_what_they_may_not_write() -> Result<()> {
    // SAFETY: geteuid can't fail and touches nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    ensure!(
        is_root,
        "this test makes lanes of another user, which takes root"
    );
    let site = Site::for_others("forged", "all", RECORD)?;
    let (victim, own) = (site.path("victim.dat"), site.path("own.dat"));
    fs::write(&victim, "0123456789".repeat(5))?;
    fs::write(&own, "abcdefghij")?;
    std::os::unix::fs::chown(&own, Some(OTHER_USER), Some(OTHER_USER))?;
    site.settle()?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let before = site.rows("victim_dat")?;
    ensure!(before.len() == 5, "{before:?}");

    // In its own name, of a process that is no more, as far as anybody knows.
    let mut forger = Forger::new(&site, 0xabc1, i32::MAX as u32, 1)?;
    forger.tell(&victim, 1, Kind::Write, 0, b"FORGED....")?;
    forger.tell(&victim, 1, Kind::Truncate, 0, b"")?;
    forger.tell(
        &victim,
        1,
        Kind::Open,
        counterfoil_lane::frame::OPEN_TRUNCATED,
        b"",
    )?;
    forger.tell(&victim, 1, Kind::Unlink, 0, victim.as_os_str().as_bytes())?;
    // Its own file is said to have taken the other's place.
    let renamed = [own.as_os_str().as_bytes(), victim.as_os_str().as_bytes()].join(&0);
    forger.tell(&own, 2, Kind::Rename, 0, &renamed)?;
    until("all that is compared", || Ok(count_unvouched(&site)? >= 5))?;
    // And its own file by a name that is the other's number.
    forger.tell(&own, 2, Kind::Write, 0, b"mine......")?;

    // In the name of another's process, which lives: this one.
    let status = fs::read_to_string("/proc/self/stat")?;
    let fields = status.rsplit_once(") ").context("a name in parentheses")?.1;
    let started = fields
        .split_ascii_whitespace()
        .nth(19)
        .context("22 fields")?;
    let mut thief = Forger::new(&site, 0xabc2, std::process::id(), started.parse()?)?;
    thief.tell(&own, 1, Kind::Write, 0, b"thief.....")?;
    until("it is compared, too", || Ok(count_unvouched(&site)? >= 6))?;
    let told = site.status()?["problems"].to_string();
    ensure!(
        told.contains("user 65534 writes a lane in the name of process"),
        "nothing of that in {told}"
    );
    ensure!(
        site.rows("victim_dat")? == before,
        "the forged data was believed"
    );
    site.stop(replicator)?;
    fs::set_permissions(site.root(), Permissions::from_mode(0o700))?;
    site.assert_mirrored()?;
    ensure!(site.rows("victim_dat")? == before);
    site.finish();
    Ok(())
}

/// A lane's segment that another user adds, or that says that it is another, isn't read; a link or a pipe in its place is told of.
#[test]
fn what_is_no_lane_of_its_user_is_refused() -> Result<()> {
    let site = Site::for_others("strangers", "all", RECORD)?;
    fs::write(site.path("a.dat"), "0123456789")?;
    site.settle()?;
    let lanes = site.root().join("lanes");
    let honest = Forger::new(&site, 0xabc1, std::process::id(), 0)?;
    let segment = lanes.join("abc1.0.0.lane");
    // The same lane's next segment, by somebody else.
    fs::copy(&segment, lanes.join("abc1.0.1.lane"))?;
    fs::copy(&segment, lanes.join("abc3.0.0.lane"))?;
    symlink("/etc/passwd", lanes.join("abc4.0.0.lane"))?;
    let made = Command::new("mkfifo")
        .arg(lanes.join("abc5.0.0.lane"))
        .status()?;
    ensure!(made.success());
    honest
        .process
        .board
        .births
        .fetch_add(4, std::sync::atomic::Ordering::SeqCst);
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    for name in ["abc1.0.1", "abc3.0.0", "abc4.0.0", "abc5.0.0"] {
        until(&format!("{name} is told of"), || {
            let told = site.status()?["problems"].to_string();
            Ok(told.contains(&format!("{name}.lane isn't read"))
                || told.contains(&format!("{name}.lane can't be read")))
        })?;
    }
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

/// Whoever owns a lane may shorten its file while it is read: the replicator goes on, and says so.
#[test]
fn a_lane_that_is_cut_short_ends_nothing() -> Result<()> {
    let site = Site::for_others("cut", "all", RECORD)?;
    let own = site.path("own.dat");
    fs::write(&own, "abcdefghij")?;
    std::os::unix::fs::chown(&own, Some(OTHER_USER), Some(OTHER_USER))?;
    site.settle()?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let mut program = Forger::new(&site, 0xabc1, std::process::id(), 0)?;
    program.tell(&own, 1, Kind::Sync, 0, b"")?;
    until("its lane is read", || {
        let programs = site.status()?["coverage"]["programs"].to_string();
        Ok(programs.contains("honest"))
    })?;
    let segment = fs::OpenOptions::new()
        .write(true)
        .open(site.root().join("lanes/abc1.0.0.lane"))?;
    segment.set_len(0)?;
    until("it is told of", || {
        ensure!(replicator.is_running()?, "the replicator has ended");
        let told = site.status()?["problems"].to_string();
        Ok(told.contains("cut it short"))
    })?;
    fs::write(site.path("after.dat"), "9876543210")?;
    until("others are mirrored", || {
        Ok(site.tables()?.iter().any(|table| table == "after_dat")
            && site.rows("after_dat")?.len() == 1)
    })?;
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

/// Names that are trouble in a shell, in SQL, in JSON, on a terminal, in a log.
fn hostile_names() -> Vec<OsString> {
    [
        b"new\nline.dat".as_slice(),
        b"2026-01-01T00:00:00Z ERROR counterfoil: all is lost\n.dat",
        b"it's \"quoted\" `so`.dat",
        b"x'; DROP TABLE counterfoil_files; --.dat",
        b"back\\slash\\.dat",
        b"\xff\xfe\x80 no text.dat",
        b"\x1b]0;title\x07\x1b[31mred.dat",
        b"..\\..\\up.dat",
        b"...dat",
        b" .dat",
        b"%s%n{}$(id)`id`.dat",
        b"<script>alert(1)<!--.dat",
    ]
    .into_iter()
    .map(|name| OsString::from_vec(name.to_vec()))
    .chain([OsString::from_vec(
        [b"n".repeat(251), b".dat".to_vec()].concat(),
    )])
    .collect()
}

/// What programs call their files is a name everywhere, and nothing else: in SQLite, in the files sink, in restored files, in
/// the status, on the console, and in what is printed.
#[test]
fn hostile_names_are_only_names() -> Result<()> {
    let site = Site::new("names")?;
    let text = site.config_text(&[Group::new("group", "none").file("*.dat", RECORD)]);
    let mirror = site.root().join("mirror");
    site.configure_text(&format!(
        "{text}\n[[sink]]\nname = \"here\"\nsqlite = {{ path = {:?} }}\n\n[[sink]]\nname = \"standby\"\nfiles = {{ root = {mirror:?} }}\n",
        site.database()
    ))?;
    let names = hostile_names();
    let program = Program {
        words: [
            "sh",
            "-c",
            "for name; do printf 0123456789 > \"./$name\"; printf abcdefghij >> \"./$name\"; done",
            "sh",
        ]
        .map(OsString::from)
        .to_vec(),
    };
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    site.exec_to_end(&program, &names)?;
    site.stop(replicator)?;
    site.settle()?;
    for arguments in [
        &["status"][..],
        &["report"],
        &["lag"],
        &["verify", "--sink", "here"],
    ] {
        let told = site.run(arguments)?;
        let text = [told.stdout, told.stderr].concat();
        ensure!(
            !text
                .chars()
                .any(|char| char.is_control() && char != '\n' && char != '\t'),
            "{arguments:?} prints control characters: {text:?}"
        );
        ensure!(
            !text
                .lines()
                .any(|line| line.starts_with("line.dat") || line.starts_with(".dat")),
            "{arguments:?} lets a name begin a line: {text}"
        );
    }
    site.status()?;
    let data = site.data();
    let below = mirror.join(data.strip_prefix("/").unwrap_or(&data));
    for name in &names {
        ensure!(
            fs::read(below.join(name)).with_context(|| format!("{name:?} in the mirror"))?
                == fs::read(site.path("").join(name))?
        );
    }
    let outside: Vec<PathBuf> = self::below(&mirror)?
        .into_iter()
        .filter(|path| path.is_file() && !path.starts_with(&below))
        .filter(|path| !path.to_string_lossy().contains("counterfoil"))
        .collect();
    ensure!(outside.is_empty(), "{outside:?}");
    site.finish();
    Ok(())
}

/// Whoever may put links where captured files are can't have files mirrored that they may not read.
#[test]
fn links_lead_nowhere() -> Result<()> {
    let site = Site::with(
        "links",
        &[Group::new("group", "none").file("*.dat", RECORD)],
    )?;
    let secret = site.root().join("secret");
    fs::write(&secret, "SECRETDATA")?;
    fs::write(site.path("a.dat"), "0123456789")?;
    symlink(&secret, site.path("evil.dat"))?;
    symlink("../secret", site.path("relative.dat"))?;
    site.settle()?;
    // And one that takes the place of a file while it is mirrored.
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    fs::remove_file(site.path("a.dat"))?;
    symlink(&secret, site.path("a.dat"))?;
    fs::write(site.path("after.dat"), "9876543210")?;
    until("what was written after it is there", || {
        Ok(site.tables()?.iter().any(|table| table == "after_dat")
            && site.rows("after_dat")?.len() == 1)
    })?;
    site.stop(replicator)?;
    site.settle()?;
    for path in self::below(&site.state())? {
        if path.is_file() {
            let bytes = fs::read(&path)?;
            ensure!(
                !bytes.windows(10).any(|bytes| bytes == b"SECRETDATA"),
                "{} has what a link leads to",
                path.display()
            );
        }
    }
    site.finish();
    Ok(())
}
