//! Generates the event types from their schema, without a `protoc` on the machine.

use std::error::Error;

const SCHEMA: &str = "counterfoil/v1/event.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    let descriptors = protox::compile([SCHEMA], ["."])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
