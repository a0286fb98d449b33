//! Running cargo and other commands, shown as they are run.

use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// How the binaries are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build: for tests.
    Dev,
    /// As shipped: for the demo and for measurements.
    Release,
}

/// What the binary is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    /// All that is shipped. Takes more than a C compiler: see [`crate::packages::require_to_build`].
    Everything,
    /// ODBC as well, which nothing that is shipped has, since it takes a driver manager. This is what is tested.
    Odbc,
    /// What takes nothing but Rust and a C compiler: no Kafka.
    CompilerOnly,
}

/// The workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Cargo's target directory: the one that this program itself lies in (`target/debug/xtask`).
pub(crate) fn target_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding xtask's own path")?;
    let dir = own.parent().and_then(Path::parent);
    Ok(dir
        .with_context(|| format!("{} lies in no target directory", own.display()))?
        .to_owned())
}

/// Builds the binary and the interposer, and gives the directory that both are in.
pub(crate) fn build(profile: Profile, with: With) -> Result<PathBuf> {
    let mut arguments = vec![
        "build",
        "--package",
        "counterfoil",
        "--package",
        "counterfoil-interposer",
    ];
    match with {
        With::Everything => crate::packages::require_to_build()?,
        With::Odbc => {
            crate::packages::require_to_build()?;
            crate::packages::require_driver_manager()?;
            arguments.extend(["--features", "counterfoil/odbc"]);
        }
        With::CompilerOnly => {
            crate::packages::require_compiler()?;
            arguments.push("--no-default-features");
        }
    }
    if profile == Profile::Release {
        arguments.push("--release");
    }
    run(&arguments, &[])?;
    Ok(target_dir()?.join(if profile == Profile::Release {
        "release"
    } else {
        "debug"
    }))
}

/// Runs cargo in the workspace, with further environment variables. A failure is an error.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let status = shown(&mut command(arguments, environment)?)?;
    succeeded(arguments, status)
}

/// The same, and gives away what it prints to standard output, as it comes. It is printed all the same.
pub(crate) fn run_watched(
    arguments: &[&str],
    environment: &[(&str, &str)],
    watch: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    let mut command = command(arguments, environment)?;
    let text = text(&command);
    println!("$ {text}");
    let running = || format!("running `{text}`");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(running)?;
    let mut output = child.stdout.take().with_context(running)?;
    let mut buffer = [0; 1 << 14];
    loop {
        let len = output.read(&mut buffer).with_context(running)?;
        if len == 0 {
            break;
        }
        watch(&buffer[..len]);
        let mut stdout = std::io::stdout();
        stdout
            .write_all(&buffer[..len])
            .and_then(|()| stdout.flush())
            .context("printing")?;
    }
    succeeded(arguments, child.wait().with_context(running)?)
}

fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(workspace());
    // Where cargo was told of another target directory by argument, what it builds goes there too.
    command.env("CARGO_TARGET_DIR", target_dir()?);
    Ok(command)
}

fn succeeded(arguments: &[&str], status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`cargo {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// A command as people would give it.
fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Prints a command and runs it to its end.
pub(crate) fn shown(command: &mut Command) -> Result<ExitStatus> {
    let text = text(command);
    println!("$ {text}");
    command
        .status()
        .with_context(|| format!("running `{text}`"))
}
