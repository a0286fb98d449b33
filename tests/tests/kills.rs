//! SIGKILL to the program, to the replicator, or to both, at random moments, many times: in the end
//! everything is equal, and what is restored passes the program's own audit.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Chance, Group, Process, Program, Site, c, cobol, rounds, wait_until};
use std::time::{Duration, Instant};

/// What is killed in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Program,
    Replicator,
    Both,
}

struct Scene {
    site: Site,
    switch: Program,
    auditor: Program,
    chance: Chance,
    program: Option<Process>,
    replicator: Option<Process>,
}

impl Scene {
    fn new(name: &str, switch: Program) -> Result<Scene> {
        let chance = Chance::new(Chance::seed());
        let site = Site::with(name, &[Group::card_switch()])?;
        Ok(Scene {
            site,
            switch,
            auditor: c("card_switch")?,
            chance,
            program: None,
            replicator: None,
        })
    }

    /// Starts what isn't running. Either may come first.
    fn raise(&mut self) -> Result<()> {
        let program_first = self.chance.percent(50);
        for program in [program_first, !program_first] {
            if program && self.program.is_none() {
                let seed = (1 + self.chance.below(100_000)).to_string();
                let arguments = [".", "--cards", "60", "--rate", "2000", "--seed", &seed];
                self.program = Some(self.site.exec(&self.switch, &arguments)?);
            } else if !program && self.replicator.is_none() {
                self.replicator = Some(self.site.replicator()?);
            }
        }
        Ok(())
    }

    /// Lets things run for a random while (from nothing to a fifth of a second), then kills.
    fn strike(&mut self, victim: Victim) -> Result<()> {
        let moment = Instant::now() + Duration::from_micros(self.chance.below(200_000));
        wait_until("the moment to strike", || {
            if Instant::now() >= moment {
                Ok(())
            } else {
                Err("early".to_owned())
            }
        })?;
        for (hit, process) in [
            (victim != Victim::Replicator, &mut self.program),
            (victim != Victim::Program, &mut self.replicator),
        ] {
            if let Some(running) = process.as_mut() {
                anyhow::ensure!(
                    running.is_running()?,
                    "it had ended by itself: {}",
                    running.stderr()
                );
                if hit {
                    running.kill()?;
                    *process = None;
                }
            }
        }
        Ok(())
    }

    fn settle_and_check(&mut self) -> Result<()> {
        if let Some(mut program) = self.program.take() {
            program.kill()?;
        }
        if let Some(mut replicator) = self.replicator.take() {
            replicator.kill()?;
        }
        self.site.assert_mirrored()
    }

    /// The program comes up once more and ends by itself, so its files agree with each other again.
    fn audit(&mut self) -> Result<()> {
        self.site
            .exec_to_end(&self.switch, &[".", "--payments", "50"])?;
        self.site.assert_mirrored()?;
        let restored = self.site.restore()?;
        self.site
            .uncaptured(&self.auditor, &["--audit".as_ref(), restored.as_os_str()])
            .context("auditing the restored files")?;
        Ok(())
    }

    fn rounds(&mut self, count: usize, victims: &[Victim], check_every: usize) -> Result<()> {
        for round in 1..=rounds(count) {
            let victim = *self.chance.pick(victims);
            self.raise()?;
            self.strike(victim)
                .with_context(|| format!("round {round}: {victim:?}"))?;
            if round % check_every == 0 {
                self.settle_and_check()
                    .with_context(|| format!("after round {round}: {victim:?}"))?;
            }
        }
        self.settle_and_check()?;
        self.audit()
    }
}

#[test]
fn killing_the_program_again_and_again_loses_nothing() -> Result<()> {
    let mut scene = Scene::new("kill-program", c("card_switch")?)?;
    scene.rounds(20, &[Victim::Program], 5)?;
    scene.site.finish();
    Ok(())
}

#[test]
fn killing_the_replicator_again_and_again_loses_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::new("kill-replicator", c("card_switch")?)?;
    scene.rounds(20, &[Victim::Replicator], 5)?;
    scene.site.finish();
    Ok(())
}

#[test]
fn killing_program_and_replicator_in_any_mix_ends_in_equality() -> Result<()> {
    let mut scene = Scene::new("kill-both", c("card_switch")?)?;
    scene.rounds(30, &[Victim::Program, Victim::Replicator, Victim::Both], 6)?;
    scene.site.finish();
    Ok(())
}

#[test]
fn killing_a_cobol_program_and_the_replicator_ends_in_equality() -> Result<()> {
    let mut scene = Scene::new("kill-cobol", cobol("card_switch")?)?;
    scene.rounds(10, &[Victim::Program, Victim::Replicator, Victim::Both], 5)?;
    scene.site.finish();
    Ok(())
}

/// The program is stopped in the middle of its work, with whatever it had begun; the replicator goes on.
#[test]
fn a_stopped_program_holds_nobody_else_back() -> Result<()> {
    let switch = c("card_switch")?;
    let other = Group::new("other", "none")
        .file("other.dat", counterfoil_tests::Shape::Fixed { size: 100 });
    let site = Site::with("stopped", &[Group::card_switch(), other])?;
    let replicator = site.replicator()?;
    let program = site.exec(&switch, &[".", "--cards", "50"])?;
    wait_until("the first payments", || {
        match std::fs::metadata(site.path("journal.dat")) {
            Ok(metadata) if metadata.len() > 10_000 => Ok(()),
            Ok(metadata) => Err(format!("{} bytes", metadata.len())),
            Err(error) => Err(error.to_string()),
        }
    })?;
    // SAFETY: the id is that of a child that hasn't been waited for.
    unsafe { libc::kill(program.id().cast_signed(), libc::SIGSTOP) };
    site.exec_to_end(&c("record_writer")?, &["other.dat", "1000"])?;
    wait_until("the other program's rows", || {
        match site.rows("other_dat") {
            Ok(rows) if rows.len() == 1000 => Ok(()),
            Ok(rows) => Err(format!("{} rows", rows.len())),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    drop(program);
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
