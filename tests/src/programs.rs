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

/// A program of the system's, which has to be there; `package` is the Debian package that has it.
pub fn tool(name: &str, package: &str) -> Result<Program> {
    if !is_on_path(name) {
        bail!(
            "{name} isn't there; install the Debian package {package} (`cargo xtask test` does where it may)"
        );
    }
    Ok(Program::named(name))
}

/// Whether a program of this name is there.
pub fn is_on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).exists())
}

/// A C program, by the name of its source without `.c`.
pub fn c(name: &str) -> Result<Program> {
    c_with(name, name, &[])
}

/// A C program compiled with further flags; `output` tells it from others of the same source.
pub fn c_with(name: &str, output: &str, flags: &[&str]) -> Result<Program> {
    let source = source(&format!("{name}.c"))?;
    compile(&source, output, |output| {
        let mut command = Command::new("cc");
        command
            .args(["-O2", "-Wall", "-pthread", "-I"])
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../replicator/interposer/include"
            ))
            .args(flags)
            .arg("-o")
            .arg(output)
            .arg(&source);
        (command, "the Debian package gcc (with libc6-dev)")
    })
}

/// A C library to be preloaded, by the name of its source without `.c`.
pub fn c_library(name: &str) -> Result<PathBuf> {
    let library = c_with(name, &format!("lib{name}.so"), &["-shared", "-fPIC"])?;
    library
        .words
        .first()
        .map(PathBuf::from)
        .context("it has a path")
}

/// A C program linked statically, so that nothing can be preloaded into it.
pub fn c_static(name: &str) -> Result<Program> {
    c_with(name, &format!("{name}-static"), &["-static"])
}

/// A C++ program, by the name of its source without `.cpp`.
pub fn cxx(name: &str) -> Result<Program> {
    let source = source(&format!("{name}.cpp"))?;
    compile(&source, &format!("{name}-cpp"), |output| {
        let mut command = Command::new("c++");
        command
            .args(["-O2", "-Wall", "-pthread", "-o"])
            .arg(output)
            .arg(&source);
        (command, "the Debian package g++")
    })
}

/// A Java program of one class, by its name. What goes before its arguments asks for a quick start.
pub fn java(name: &str) -> Result<Program> {
    const PACKAGE: &str = "the Debian package default-jdk-headless";
    tool("javac", "default-jdk-headless")?;
    let source = source(&format!("{name}.java"))?;
    // The compiler names its output after the class.
    let classes = programs_dir()?;
    compile(&source, &format!("{name}.class"), |output| {
        let mut command = Command::new("sh");
        command
            .args([
                "-e",
                "-c",
                "javac -d \"$1.d\" \"$2\"; mv \"$1.d/$3.class\" \"$1\"; rmdir \"$1.d\"",
                "javac",
            ])
            .args([output.as_os_str(), source.as_os_str(), name.as_ref()]);
        (command, PACKAGE)
    })?;
    let mut program = tool("java", "default-jdk-headless")?;
    let options = ["-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp"];
    program.words.extend(options.map(OsString::from));
    program.words.extend([classes.into(), name.into()]);
    Ok(program)
}

/// A Node program, by the name of its source without `.js`.
pub fn node(name: &str) -> Result<Program> {
    let mut program = tool("node", "nodejs")?;
    program.words.push(source(&format!("{name}.js"))?.into());
    Ok(program)
}

/// A Go program, by the name of its source without `.go`; there has to be a compiler.
pub fn go(name: &str) -> Result<Program> {
    let source = source(&format!("{name}.go"))?;
    compile(&source, &format!("{name}-go"), |output| {
        let mut command = Command::new("go");
        command.args(["build", "-o"]).arg(output).arg(&source);
        (command, "the Debian package golang-go")
    })
}

/// A COBOL program, by the name of its source without `.cob`.
pub fn cobol(name: &str) -> Result<Program> {
    let source = source(&format!("{name}.cob"))?;
    compile(&source, &format!("{name}-cobol"), |output| {
        let mut command = Command::new("cobc");
        // Copybooks lie beside the programs.
        command
            .arg("-x")
            .arg("-I")
            .args(source.parent())
            .arg("-o")
            .arg(output)
            .arg(&source);
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
