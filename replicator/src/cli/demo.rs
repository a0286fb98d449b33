//! `counterfoil demo`.
#[derive(clap::Args, Debug)]
/// Show the whole way.
pub(crate) struct Args {}
pub(crate) fn run(_: &Args) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not yet")
}
