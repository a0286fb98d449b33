//! Confluent's own Python client, in an environment that `cargo xtask test` makes once a machine.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `cargo xtask test` puts it; the same name is in `xtask/src/packages.rs`.
const ENVIRONMENT: &str = ".cache/counterfoil-test/python-confluent-kafka-2.16.0";

/// The Python that has it.
pub fn python_client() -> Result<PathBuf> {
    let root = match std::env::var_os("COUNTERFOIL_PYTHON_CLIENT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&std::env::var_os("HOME").context("HOME isn't set")?).join(ENVIRONMENT),
    };
    let python = root.join("bin/python");
    if !python.exists() {
        bail!(
            "there is no Python with confluent-kafka in {}; run `cargo xtask test`, which makes it",
            root.display()
        );
    }
    Ok(python)
}

/// Makes `NAME_pb2.py` of a schema, with Google's own compiler, as `NAME.proto` in the directory.
pub fn compile_schema(directory: &Path, name: &str, schema: &str) -> Result<()> {
    let file = directory.join(format!("{name}.proto"));
    std::fs::write(&file, schema).with_context(|| format!("writing {}", file.display()))?;
    let output = Command::new(python_client()?)
        .args(["-m", "grpc_tools.protoc", "-I.", "--python_out=."])
        .arg(format!("{name}.proto"))
        .current_dir(directory)
        .output()
        .context("running protoc")?;
    if !output.status.success() {
        bail!(
            "protoc refuses {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// The example consumer that is shipped for users.
pub fn example_consumer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/consumer.py")
}
