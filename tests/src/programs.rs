//! The victim programs of `tests/programs`, compiled once per version of their source.

use crate::binaries::programs_dir;
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program ready to be run: what goes before its own arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// The words of the command line up to the program's arguments.
    pub words: Vec<OsString>,
}

impl Program {
    /// A program of the system's, by name.
    pub fn named(name: &str) -> Program {
        Program {
            words: vec![name.into()],
        }
    }
}

/// A C program, by the name of its source without `.c`.
pub fn c(name: &str) -> Result<Program> {
    let source = source(&format!("{name}.c"))?;
    compile(&source, name, |output| {
        let mut command = Command::new("cc");
        command
            .args(["-O2", "-Wall", "-pthread", "-o"])
            .arg(output)
            .arg(&source);
        (command, "the Debian package gcc (with libc6-dev)")
    })
}

/// A C program linked statically, so that nothing can be preloaded into it.
pub fn static_c(name: &str) -> Result<Program> {
    let source = source(&format!("{name}.c"))?;
    compile(&source, &format!("{name}-static"), |output| {
        let mut command = Command::new("cc");
        command
            .args(["-O2", "-Wall", "-pthread", "-static", "-o"])
            .arg(output)
            .arg(&source);
        (command, "the Debian package gcc (with libc6-dev)")
    })
}

/// A COBOL program, by the name of its source without `.cob`.
pub fn cobol(name: &str) -> Result<Program> {
    let source = source(&format!("{name}.cob"))?;
    compile(&source, &format!("{name}-cobol"), |output| {
        let mut command = Command::new("cobc");
        command.args(["-x", "-o"]).arg(output).arg(&source);
        (
            command,
            "the Debian package gnucobol3 (`cargo xtask test` installs it where it may)",
        )
    })
}

/// A Python program, by the name of its source without `.py`.
pub fn python(name: &str) -> Result<Program> {
    interpreted("/usr/bin/python3", &format!("{name}.py"), "python3")
}

/// A Perl program, by the name of its source without `.pl`.
pub fn perl(name: &str) -> Result<Program> {
    interpreted("/usr/bin/perl", &format!("{name}.pl"), "perl")
}

/// A shell program, by the name of its source without `.sh`.
pub fn shell(name: &str) -> Result<Program> {
    interpreted("/bin/sh", &format!("{name}.sh"), "dash")
}

fn interpreted(interpreter: &str, file: &str, package: &str) -> Result<Program> {
    if !Path::new(interpreter).exists() {
        bail!("{interpreter} isn't there; install the Debian package {package}");
    }
    Ok(Program {
        words: vec![interpreter.into(), source(file)?.into()],
    })
}

fn source(file: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(file);
    if !path.exists() {
        bail!("{} is missing", path.display());
    }
    Ok(path)
}

/// Compiles where the last output is older than the source. Tests do this at the same time, in
/// several processes: each compiles to a name of its own, and the rename decides.
fn compile(
    source: &Path,
    name: &str,
    how: impl Fn(&Path) -> (Command, &'static str),
) -> Result<Program> {
    let output = programs_dir()?.join(name);
    let modified = |path: &Path| {
        path.metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
    };
    if modified(&output).is_none_or(|built| modified(source).is_none_or(|changed| changed >= built))
    {
        static COMPILATION: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COMPILATION.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let fresh = output.with_extension(format!("{}-{number}", std::process::id()));
        let (mut command, package) = how(&fresh);
        let compiler = command.get_program().to_string_lossy().into_owned();
        let result = match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("{compiler} isn't there; install {package}")
            }
            result => result.with_context(|| format!("running {compiler}"))?,
        };
        if !result.status.success() {
            bail!(
                "{compiler} refuses {}:\n{}",
                source.display(),
                String::from_utf8_lossy(&result.stderr)
            );
        }
        std::fs::rename(&fresh, &output)
            .with_context(|| format!("renaming {}", fresh.display()))?;
    }
    Ok(Program {
        words: vec![output.into()],
    })
}
