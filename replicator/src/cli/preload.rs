//! `counterfoil preload`: capture in every program of the system, through `/etc/ld.so.preload`.
//!
//! What is written there is loaded into everything that starts from then on, so nothing is written before a copy of each of
//! several ordinary programs has shown, in a child and with the library, what it shows without. Files are replaced at once,
//! and what others wrote into them stays.

use anyhow::{Context, Result, bail};
use counterfoil::config::LanesAccess;
use counterfoil::state::{self, For, prepare_lanes};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

const PRELOAD: &str = "etc/ld.so.preload";
const SETTINGS: &str = "etc/counterfoil";
const LIBRARY: &str = "libcounterfoil_interposer.so";

/// What is in `/etc/counterfoil/except` until somebody writes something else: programs that start, watch or let in others.
const EXCEPTIONS: &str = "\
# Programs that `counterfoil preload` never captures, one in a line, by the name that `ps -o comm` shows. A * at the end
# stands for whatever follows. The system's first process and counterfoil itself are never captured anyway.
systemd*
(systemd*
init
udevd
dbus-daemon
dbus-broker*
sshd*
login
agetty
getty
su
sudo*
cron
crond
dockerd
containerd*
runc*
dpkg*
apt*
rpm
ldconfig*
";

/// Directories that are another file system's, or anybody's, on many systems: not there yet when the first programs start.
const NOT_FOR_LIBRARIES: &[&str] = &[
    "/home", "/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys", "/mnt", "/media", "/root",
];

/// Capture in every program that starts, through /etc/ld.so.preload.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Try the library on ordinary programs, then name it in /etc/ld.so.preload and the lanes in /etc/counterfoil/lanes
    Enable {
        #[command(flatten)]
        place: Place,
        /// The library, instead of the one that was installed with this program
        #[arg(long, value_name = "FILE")]
        library: Option<PathBuf>,
    },
    /// Take the library out of /etc/ld.so.preload; programs that run keep it until they end
    Disable {
        #[command(flatten)]
        place: Place,
    },
    /// Say how things are: exit code 0 when it is enabled and whole, 1 otherwise
    Status {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args, Debug)]
struct Place {
    /// The root directory of the system meant, such as that of an image being made
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(crate) fn run(args: &Args, config: &Path) -> Result<ExitCode> {
    match &args.what {
        What::Enable { place, library } => enable(config, &place.root, library.as_deref()),
        What::Disable { place } => disable(&place.root),
        What::Status { place } => status(&place.root),
    }
}

fn enable(config: &Path, root: &Path, library: Option<&Path>) -> Result<ExitCode> {
    let config = super::load(config)?;
    let library = match library {
        Some(library) => library.to_owned(),
        // Below the same root where there is one: that is where it will be looked for.
        None => crate::interposer_library()?,
    };
    let named = named_library(root, &library)?;
    fit(root, &library)?;
    if state::is_anothers(&config.site.lanes) {
        state::join_lanes(&config.site.lanes)?;
    } else {
        prepare_lanes(&config, For::Programs)?;
    }
    prove(&library, &config.site.lanes)?;
    println!(
        "tried on {} ordinary programs: they show what they show without it",
        TRIALS.len()
    );
    let settings = root.join(SETTINGS);
    fs::create_dir_all(&settings).with_context(|| format!("making {}", settings.display()))?;
    let mut lanes = config.site.lanes.as_os_str().as_bytes().to_vec();
    lanes.push(b'\n');
    put(&settings.join("lanes"), &lanes)?;
    let except = settings.join("except");
    if !except.exists() {
        put(&except, EXCEPTIONS.as_bytes())?;
    }
    let path = root.join(PRELOAD);
    let before = read(&path)?;
    let mut after = without_ours(&before);
    if !after.is_empty() && !after.ends_with(b"\n") {
        after.push(b'\n');
    }
    after.extend_from_slice(named.as_os_str().as_bytes());
    after.push(b'\n');
    if after != before {
        put(&path, &after)?;
    }
    println!(
        "{}: {} is loaded into every program that starts from now on",
        path.display(),
        named.display()
    );
    println!("{}: programs that must not be captured", except.display());
    if config.site.lanes_access == LanesAccess::Owner {
        println!(
            "note: site.lanes_access is \"owner\": only programs of user {} (and root's) can have lanes; \"group\" or \"all\" lets others",
            fs::metadata(&config.site.lanes).map_or(0, |there| there.uid())
        );
    }
    println!(
        "to undo: counterfoil preload disable; from a rescue system: rm ROOT/{PRELOAD} (or take the line out)"
    );
    Ok(ExitCode::SUCCESS)
}

fn disable(root: &Path) -> Result<ExitCode> {
    let path = root.join(PRELOAD);
    let before = read(&path)?;
    let after = without_ours(&before);
    if after == before {
        println!(
            "{}: names no library of Counterfoil; nothing was changed",
            path.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    if after.trim_ascii().is_empty() {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    } else {
        put(&path, &after)?;
    }
    println!(
        "{}: taken out; programs that run keep the library until they end, so leave its file where it is until then",
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn status(root: &Path) -> Result<ExitCode> {
    let path = root.join(PRELOAD);
    let text = read(&path)?;
    let ours: Vec<PathBuf> = entries(&text)
        .filter(|entry| is_ours(entry))
        .map(|entry| PathBuf::from(OsStr::from_bytes(entry)))
        .collect();
    let [library] = ours.as_slice() else {
        println!(
            "{}: {}",
            path.display(),
            if ours.is_empty() {
                "names no library of Counterfoil"
            } else {
                "names several libraries of Counterfoil; disable and enable again"
            }
        );
        return Ok(ExitCode::FAILURE);
    };
    println!("{}: names {}", path.display(), library.display());
    let inside = below(root, library);
    if let Err(error) = fit(root, &inside) {
        println!("{}: {error:#}", inside.display());
        return Ok(ExitCode::FAILURE);
    }
    let lanes = root.join(SETTINGS).join("lanes");
    let text = read(&lanes)?;
    if let Err(error) = trusted(&lanes) {
        println!(
            "{}: {error:#}: nothing is captured without it",
            lanes.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "{}: {}",
        lanes.display(),
        String::from_utf8_lossy(text.trim_ascii())
    );
    Ok(ExitCode::SUCCESS)
}

/// The library's path as programs of the system below `root` see it.
fn named_library(root: &Path, library: &Path) -> Result<PathBuf> {
    if !library.is_absolute() {
        bail!(
            "{} isn't an absolute path: programs would look for it wherever they are",
            library.display()
        );
    }
    let real = library
        .canonicalize()
        .with_context(|| format!("looking at {}", library.display()))?;
    let root = root
        .canonicalize()
        .with_context(|| format!("looking at {}", root.display()))?;
    let Ok(inside) = real.strip_prefix(&root) else {
        bail!(
            "{} isn't below {}: install it there",
            real.display(),
            root.display()
        );
    };
    let named = Path::new("/").join(inside);
    if named
        .as_os_str()
        .as_bytes()
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || *byte == b':' || *byte == b'#')
    {
        bail!(
            "{} holds a space, a colon or a #, which {PRELOAD} can't name",
            named.display()
        );
    }
    Ok(named)
}

/// Whether everybody may trust the library, and it is there as early as programs are.
fn fit(root: &Path, library: &Path) -> Result<()> {
    let real = library
        .canonicalize()
        .with_context(|| format!("looking at {}", library.display()))?;
    let inside = Path::new("/").join(real.strip_prefix(root.canonicalize()?).unwrap_or(&real));
    if let Some(place) = NOT_FOR_LIBRARIES
        .iter()
        .find(|place| inside.starts_with(place))
    {
        bail!(
            "{} is below {place}, which others may write to, or which isn't there when the first programs start; install it below /usr/local or /usr (`cargo xtask install`)",
            inside.display()
        );
    }
    for part in real.ancestors().take_while(|part| part.starts_with(root)) {
        trusted(part)?;
    }
    let device = |path: &Path| fs::metadata(path).map(|there| there.dev()).ok();
    if device(&real) != device(root) {
        println!(
            "warning: {} is on another file system than {}: programs that start before it is mounted say so on standard error, and aren't captured",
            inside.display(),
            root.display()
        );
    }
    Ok(())
}

/// Whether only root can have made this what it is.
fn trusted(path: &Path) -> Result<()> {
    let there =
        fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    if there.uid() != 0 {
        bail!(
            "{} belongs to user {}: what every program loads must be root's",
            path.display(),
            there.uid()
        );
    }
    if !there.is_symlink() && there.mode() & 0o022 != 0 {
        bail!(
            "{} may be written to by others than root (mode {:04o})",
            path.display(),
            there.mode() & 0o7777
        );
    }
    Ok(())
}

/// Ordinary programs, and what they are asked. The directory they work in is their own.
const TRIALS: &[(&str, &[&str])] = &[
    ("/bin/true", &[]),
    ("/bin/false", &[]),
    ("/bin/ls", &["-l", "/"]),
    ("/bin/cat", &["/etc/passwd"]),
    ("/bin/sh", &["-c", "echo out; echo err >&2; exit 3"]),
    (
        "/bin/sh",
        &[
            "-c",
            "echo one > file && cat file && cp file copy && mv copy moved && cat moved && rm file moved && ls",
        ],
    ),
    (
        "/bin/sh",
        &["-c", "(sleep 0; echo child) & wait; kill -9 $$"],
    ),
];

/// Runs the trials with and without the library, and once more to see that it really was loaded.
fn prove(library: &Path, lanes: &Path) -> Result<()> {
    for (program, arguments) in TRIALS {
        let bare = trial(program, arguments, None)?;
        let loaded = trial(program, arguments, Some((library, lanes)))?;
        if bare.status != loaded.status
            || bare.stdout != loaded.stdout
            || bare.stderr != loaded.stderr
        {
            bail!(
                "nothing was changed: `{program} {}` does something else with {}: {} instead of {}; it says {:?}{:?} instead of {:?}{:?}",
                arguments.join(" "),
                library.display(),
                loaded.status,
                bare.status,
                String::from_utf8_lossy(&loaded.stdout),
                String::from_utf8_lossy(&loaded.stderr),
                String::from_utf8_lossy(&bare.stdout),
                String::from_utf8_lossy(&bare.stderr),
            );
        }
    }
    let maps = trial("/bin/cat", &["/proc/self/maps"], Some((library, lanes)))?;
    let name = library.as_os_str().as_bytes();
    if !maps.stdout.windows(name.len()).any(|window| window == name) {
        bail!(
            "nothing was changed: the loader doesn't load {}",
            library.display()
        );
    }
    Ok(())
}

fn trial(program: &str, arguments: &[&str], with: Option<(&Path, &Path)>) -> Result<Output> {
    let directory = Scratch::new()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&directory.0)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .env_remove("LD_PRELOAD")
        .env("COUNTERFOIL_LANES", "");
    if let Some((library, lanes)) = with {
        command
            .env("LD_PRELOAD", library)
            .env("COUNTERFOIL_LANES", lanes);
    }
    command
        .output()
        .with_context(|| format!("trying {program}"))
}

/// A directory of a trial's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let base = std::env::temp_dir();
        for number in 0..1000 {
            let path = base.join(format!("counterfoil-trial-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("making {}", path.display()));
                }
            }
        }
        bail!("{} is full of trials", base.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A path of the system below `root`, as this process sees it.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn is_ours(entry: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(entry)).file_name() == Some(OsStr::new(LIBRARY))
}

/// The libraries that the loader finds named: separated by white space or colons, up to a # in each line.
fn entries(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
        .flat_map(|line| {
            let end = line.iter().position(|&byte| byte == b'#');
            line[..end.unwrap_or(line.len())]
                .split(|byte| byte.is_ascii_whitespace() || *byte == b':')
        })
        .filter(|entry| !entry.is_empty())
}

/// The text without our library; lines that don't name it stay as they are.
fn without_ours(text: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if !entries(line).any(is_ours) {
            kept.extend_from_slice(line);
            continue;
        }
        let others: Vec<&[u8]> = entries(line).filter(|entry| !is_ours(entry)).collect();
        let comment = line.iter().position(|&byte| byte == b'#');
        let comment = comment.map_or(&[][..], |at| line[at..].trim_ascii_end());
        let rest = [others.join(&b' '), comment.to_vec()];
        let rest: Vec<&[u8]> = rest
            .iter()
            .map(Vec::as_slice)
            .filter(|part| !part.is_empty())
            .collect();
        if !rest.is_empty() {
            kept.extend_from_slice(&rest.join(&b' '));
            kept.push(b'\n');
        }
    }
    kept
}

fn read(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.with_context(|| format!("reading {}", path.display())),
    }
}

/// Puts a file that everybody may read in place at once.
fn put(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".counterfoil-new");
    let beside = path.with_file_name(name);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_entries_are_taken_out() {
        let ours = "/usr/lib/counterfoil/libcounterfoil_interposer.so";
        for (before, after) in [
            (String::new(), ""),
            (format!("{ours}\n"), ""),
            (
                format!("# a word\n/lib/a.so\n{ours}\n"),
                "# a word\n/lib/a.so\n",
            ),
            (
                format!("/lib/a.so:{ours} /lib/b.so # why\n/lib/c.so"),
                "/lib/a.so /lib/b.so # why\n/lib/c.so",
            ),
            (
                format!("# {ours}\n"),
                "# /usr/lib/counterfoil/libcounterfoil_interposer.so\n",
            ),
            ("/lib/a.so /lib/b.so".to_owned(), "/lib/a.so /lib/b.so"),
        ] {
            assert_eq!(
                String::from_utf8(without_ours(before.as_bytes())).unwrap(),
                after,
                "{before}"
            );
        }
    }
}
