//! `counterfoil demo`: the whole way, shown on a small card switch that is killed in mid-work.
//!
//! It takes no privileges and no server: a C (or COBOL) compiler, and a directory that it fills and leaves behind. The
//! switch and the replicator are processes of their own, started as a user would start them; the demo only looks at what
//! any user can look at (the status file, the database, the files). Its children don't outlive it, however it ends.
//!
//! Exit code 0 means that every file is equal to its rows and identical to what was restored from them, and that the
//! books of the restored files balance. 1: something differs, and the table says what. 2: it could not be carried out.

mod children;
mod stage;
mod summary;
mod telling;
mod watch;

use anyhow::{Context as _, bail};
use children::{Child, Order, tail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use stage::Stage;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use summary::Summary;
use telling::Telling;
use watch::Watch;

/// Between two looks at everything.
const TICK: Duration = Duration::from_millis(50);
/// How long something may take to end that should end at once, on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(60);
/// As a shell reports an end by SIGINT.
const INTERRUPTED: u8 = 130;

/// Show the whole way: capture, kill, mirror, verify and restore a small card switch.
///
/// It takes no privileges and no server, only a C compiler. What it made is left for you to look into.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How long the card switch works, in seconds
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    seconds: u64,
    /// With the card switch in COBOL (takes GnuCOBOL's `cobc`)
    #[arg(long)]
    cobol: bool,
    /// Where to put everything: an empty directory, or one to be made [default: a fresh one below the system's
    /// directory for temporary files]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // A second signal ends the process at once, and the children with it.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupted))
            .context("handling signals")?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .context("handling signals")?;
    }
    let stage = Stage::set(args.keep.as_deref(), args.cobol)?;
    let mut play = Play {
        watch: Watch::new(&stage)?,
        telling: Telling::new(args.seconds),
        stage: &stage,
        interrupted: &interrupted,
        kills: Vec::new(),
    };
    match play.run(args.seconds) {
        Ok(summary) => {
            print!("{summary}");
            Ok(ExitCode::from(u8::from(!summary.is_identical())))
        }
        Err(_) if interrupted.load(Ordering::SeqCst) => {
            eprintln!("stopped; what was made is in {}", stage.root.display());
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => {
            for log in stage.logs() {
                eprint!("{}", tail(&log));
            }
            Err(error.context(format!(
                "the demo could not be carried out; what there is of it is in {}",
                stage.root.display()
            )))
        }
    }
}

struct Play<'s> {
    stage: &'s Stage,
    watch: Watch,
    telling: Telling,
    interrupted: &'s AtomicBool,
    kills: Vec<&'static str>,
}

impl Play<'_> {
    fn run(&mut self, seconds: u64) -> anyhow::Result<Summary> {
        let stage = self.stage;
        self.telling.say(&format!(
            "everything is in {}\nthe switch works on 4 files in {}, and knows nothing of Counterfoil",
            stage.root.display(),
            stage.files().display()
        ));
        let begun = Instant::now();
        let at = |part: f64| begun + Duration::from_secs_f64(seconds as f64 * part);
        let (end, away) = (at(1.0), Duration::from_secs_f64(seconds as f64 / 20.0));

        let mut replicator = Child::start(stage.replicator(&[]))?;
        let mut switch = Child::start(stage.switch(seconds, 1))?;
        self.telling.say(&format!(
            "`counterfoil run` mirrors (process {}), `counterfoil exec -- {}` works (process {})",
            replicator.id(),
            stage.program_name(),
            switch.id()
        ));

        self.look_on(at(1.0 / 3.0), &mut [&mut replicator, &mut switch])?;
        switch.kill()?;
        self.kills.push("the switch");
        self.tell_of_kill("the switch in the middle of its work");
        self.look_on(
            Instant::now() + away.min(Duration::from_millis(500)),
            &mut [&mut replicator],
        )?;
        let left = end.saturating_duration_since(Instant::now());
        switch = Child::start(stage.switch(whole_seconds(left), 2))?;
        self.telling.say(&format!(
            "the switch is started again (process {}), and takes its files up",
            switch.id()
        ));

        self.look_on(at(0.5), &mut [&mut replicator, &mut switch])?;
        replicator.kill()?;
        self.kills.push("the replicator");
        self.tell_of_kill(
            "the replicator in the middle of its work; the switch goes on, into its lanes",
        );
        self.watch.set_away(true);
        self.look_on(Instant::now() + away, &mut [&mut switch])?;
        replicator = Child::start(stage.replicator(&[]))?;
        self.watch.set_away(false);
        self.telling.say(&format!(
            "the replicator is started again (process {}), and catches up",
            replicator.id()
        ));

        self.look_on(end, &mut [&mut replicator])?;
        self.end(&mut switch)?;
        self.telling
            .say("the switch has ended; the replicator is stopped, and what is left is applied");
        replicator.terminate()?;
        self.end(&mut replicator)?;
        let mut rest = Child::start(stage.replicator(&["--until-idle"]))?;
        self.end(&mut rest)?;
        self.watch.look();
        self.telling.finish();

        self.telling.say("`counterfoil verify` compares files and rows, `counterfoil restore` gives the files back");
        let report = self.verify()?;
        self.restore()?;
        let audit = self.audit()?;
        Summary::of(stage, &self.watch, &report, &self.kills, audit)
    }

    fn tell_of_kill(&self, what: &str) {
        self.telling.say(&format!("SIGKILL to {what}"));
    }

    /// Shows the counters until a moment, as long as all that should run does.
    fn look_on(&mut self, until: Instant, running: &mut [&mut Child]) -> anyhow::Result<()> {
        while Instant::now() < until {
            self.tick()?;
            for child in &mut *running {
                if let Some(status) = child.ended()? {
                    bail!("{} ended by itself: {status}", child.what());
                }
            }
        }
        Ok(())
    }

    /// Waits for a child that should end by itself, with success.
    fn end(&mut self, child: &mut Child) -> anyhow::Result<()> {
        let limit = Instant::now() + END_LIMIT;
        loop {
            match child.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} failed: {status}", child.what()),
                None if Instant::now() >= limit => {
                    bail!(
                        "{} did not end within {} s",
                        child.what(),
                        END_LIMIT.as_secs()
                    );
                }
                None => self.tick()?,
            }
        }
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        std::thread::sleep(TICK);
        self.heed_signals()?;
        self.watch.look();
        self.telling.show(&self.watch.line());
        Ok(())
    }

    /// Runs something to its end; its exit code and what it wrote to standard output.
    fn finished(&mut self, order: Order) -> anyhow::Result<(Option<i32>, String)> {
        let stdout = order.stdout.clone();
        let mut child = Child::start(order)?;
        let status = loop {
            if let Some(status) = child.ended()? {
                break status;
            }
            std::thread::sleep(TICK);
            self.heed_signals()?;
        };
        let text =
            std::fs::read(&stdout).with_context(|| format!("reading {}", stdout.display()))?;
        Ok((status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// What `verify --json` says, whether equal or not.
    fn verify(&mut self) -> anyhow::Result<serde_json::Value> {
        let order = self.stage.verify();
        let errors = order.stderr.clone();
        let (code, json) = self.finished(order)?;
        // 2 is for files that can't be read, which are in the report, or for no report at all.
        serde_json::from_str(&json).with_context(|| {
            format!(
                "`counterfoil verify` ended with {code:?}, and printed no report\n{}",
                tail(&errors)
            )
        })
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        let (code, _) = self.finished(self.stage.restore())?;
        if code != Some(0) {
            bail!(
                "`counterfoil restore` ended with {code:?}\n{}",
                tail(&self.stage.restore().stderr)
            );
        }
        Ok(())
    }

    /// Whether the switch's own audit is content with the restored files, and what it says.
    fn audit(&mut self) -> anyhow::Result<(bool, String)> {
        let (code, text) = self.finished(self.stage.audit())?;
        let text = text.trim_end();
        let text = text.strip_prefix("audit: ").unwrap_or(text);
        Ok((code == Some(0), text.to_owned()))
    }

    fn heed_signals(&self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::SeqCst) {
            bail!("stopped by a signal");
        }
        Ok(())
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs_f64().round().max(1.0) as u64
}
