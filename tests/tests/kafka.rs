//! Through a real Kafka-protocol broker: capture, Kafka, apply, in one process and in several, while any of them is killed.

use anyhow::{Context as _, Result};
use counterfoil_tests::{
    Broker, Chance, Group, Process, Program, Shape, Site, c, rounds, wait_until,
};
use std::time::{Duration, Instant};

/// A site that has Kafka between capture and apply.
fn site(name: &str, groups: &[Group]) -> Result<(Site, Broker)> {
    let site = Site::new(name)?;
    let broker = Broker::start(&site)?;
    site.configure_text(&(site.config_text(groups) + &broker.config()))?;
    Ok((site, broker))
}

/// The halves one after the other, each as a process of its own, until nothing is left to do.
fn settle_apart(site: &Site) -> Result<()> {
    site.run(&["capture", "--until-idle"])?.success()?;
    site.run(&["apply", "--until-idle"])?.success()?;
    Ok(())
}

fn assert_equal(site: &Site) -> Result<()> {
    let verdict = site.verify()?;
    anyhow::ensure!(
        verdict.equal,
        "verify finds differences in {}: {:?}",
        site.root().display(),
        verdict.differences
    );
    site.restore_and_compare()
}

#[test]
fn all_organisations_go_through_kafka() -> Result<()> {
    let blocks = Group::new("other", "none").file_as(
        "blocks.dat",
        "organization = \"stream\"\nlayout = \"blocks\"\nrecord_size = 512",
    );
    let (site, _broker) = site("kafka-all", &[Group::card_switch(), blocks])?;
    let switch = c("card_switch")?;
    site.exec_to_end(&switch, &[".", "--cards", "60", "--payments", "200"])?;
    std::fs::write(site.path("blocks.dat"), vec![7; 5000]).context("writing blocks.dat")?;
    settle_apart(&site)?;
    assert_equal(&site)?;
    // What happens while it all runs, and again while nothing does.
    let capture = site.start(site.counterfoil(&["capture"]))?;
    let apply = site.start(site.counterfoil(&["apply"]))?;
    site.exec_to_end(&switch, &[".", "--payments", "300", "--seed", "5"])?;
    for mut process in [capture, apply] {
        site.wait_until_halves_run()?;
        process.is_running()?;
        process.terminate();
        process.finish()?.success()?;
    }
    site.exec_to_end(&switch, &[".", "--payments", "100", "--seed", "6"])?;
    settle_apart(&site)?;
    assert_equal(&site)?;
    // And both in one process.
    site.exec_to_end(&switch, &[".", "--payments", "100", "--seed", "7"])?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// Capture, apply and broker, each a process that may be killed at any moment.
struct Scene {
    site: Site,
    broker: Broker,
    switch: Program,
    chance: Chance,
    program: Option<Process>,
    capture: Option<Process>,
    apply: Option<Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Program,
    Capture,
    Apply,
    Broker,
}

impl Scene {
    fn new(name: &str) -> Result<Scene> {
        let (site, broker) = site(name, &[Group::card_switch()])?;
        Ok(Scene {
            site,
            broker,
            switch: c("card_switch")?,
            chance: Chance::new(Chance::seed()),
            program: None,
            capture: None,
            apply: None,
        })
    }

    fn raise(&mut self) -> Result<()> {
        self.broker.raise(&self.site)?;
        if self.program.is_none() {
            let seed = (1 + self.chance.below(100_000)).to_string();
            let arguments = [".", "--cards", "60", "--rate", "400", "--seed", &seed];
            self.program = Some(self.site.exec(&self.switch, &arguments)?);
        }
        for (verb, process) in [("capture", &mut self.capture), ("apply", &mut self.apply)] {
            if process.is_none() {
                *process = Some(self.site.start(self.site.counterfoil(&[verb]))?);
            }
        }
        Ok(())
    }

    fn strike(&mut self, victims: &[Victim]) -> Result<()> {
        let moment = Instant::now() + Duration::from_micros(self.chance.below(1_500_000));
        wait_until("the moment to strike", || {
            if Instant::now() >= moment {
                Ok(())
            } else {
                Err("early".to_owned())
            }
        })?;
        for process in [&mut self.program, &mut self.capture, &mut self.apply]
            .into_iter()
            .flatten()
        {
            anyhow::ensure!(
                process.is_running()?,
                "it had ended by itself: {}",
                process.stderr()
            );
        }
        for victim in victims {
            let process = match victim {
                Victim::Program => &mut self.program,
                Victim::Capture => &mut self.capture,
                Victim::Apply => &mut self.apply,
                Victim::Broker => {
                    self.broker.kill()?;
                    continue;
                }
            };
            if let Some(mut process) = process.take() {
                process.kill()?;
            }
        }
        Ok(())
    }

    fn settle_and_check(&mut self) -> Result<()> {
        for process in [&mut self.program, &mut self.capture, &mut self.apply] {
            if let Some(mut process) = process.take() {
                process.kill()?;
            }
        }
        self.broker.raise(&self.site)?;
        settle_apart(&self.site)?;
        assert_equal(&self.site)
    }

    fn rounds(&mut self, count: usize, check_every: usize) -> Result<()> {
        let all = [
            Victim::Program,
            Victim::Capture,
            Victim::Apply,
            Victim::Broker,
        ];
        for round in 1..=rounds(count) {
            let mut victims = vec![*self.chance.pick(&all)];
            if self.chance.percent(40) {
                victims.push(*self.chance.pick(&all));
            }
            if !self.broker.is_own() {
                victims.retain(|victim| *victim != Victim::Broker);
            }
            self.raise()?;
            self.strike(&victims)
                .with_context(|| format!("round {round}: {victims:?}"))?;
            if round % check_every == 0 {
                self.settle_and_check()
                    .with_context(|| format!("after round {round}: {victims:?}"))?;
            }
        }
        self.settle_and_check()
    }
}

#[test]
fn killing_capture_apply_and_broker_in_any_mix_loses_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::new("kafka-kills")?;
    scene.rounds(24, 6)?;
    scene.site.finish();
    Ok(())
}

/// With no broker at all capture goes on; the journal keeps it until there is one.
#[test]
fn what_is_captured_without_a_broker_arrives_once_there_is_one() -> Result<()> {
    let (site, mut broker) = site(
        "kafka-away",
        &[Group::new("g", "none").file("a.dat", Shape::Fixed { size: 100 })],
    )?;
    if !broker.is_own() {
        return Ok(());
    }
    broker.kill()?;
    let writer = c("record_writer")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    site.exec_to_end(&writer, &["a.dat", "1000"])?;
    wait_until("capture to say that Kafka is away", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].to_string();
        if problems.contains("Kafka, route lan") && status["operations"].as_u64() > Some(0) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    // Not even a restart needs one.
    site.stop(replicator)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    broker.raise(&site)?;
    wait_until("all rows", || match site.rows("a_dat") {
        Ok(rows) if rows.len() == 1000 => Ok(()),
        Ok(rows) => Err(format!("{} rows", rows.len())),
        Err(error) => Err(format!("{error:#}; {}", replicator.stderr())),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
