//! Killing whatever there is between a program and its rows, again and again, at random: nothing is lost, nothing is
//! repeated. All four organisations, with locks as units of work.
//!
//! `COUNTERFOIL_SOAK` makes it longer, `COUNTERFOIL_SEED` replays a run. With `KAFKA_BOOTSTRAP` the cluster is another's:
//! it isn't killed, nor is the way to it cut.

use anyhow::{Context as _, Result};
use counterfoil_tests::{
    Broker, Chance, Group, Process, Program, Proxy, Shape, Site, c, decode, rounds, wait_until,
};
use std::time::{Duration, Instant};

fn assert_equal(site: &Site) -> Result<()> {
    let verdict = site.verify()?;
    anyhow::ensure!(
        verdict.equal,
        "verify finds differences in {}: {:?}",
        site.root().display(),
        verdict.differences
    );
    site.restore_and_compare()?;
    // And by the harness's own decoder: what is in the tables is what is in the files, each record once.
    for (name, table, shape) in [
        ("cards.dat", "cards_dat", Shape::Relative { size: 150 }),
        ("accounts.dat", "accounts_dat", Shape::Fixed { size: 300 }),
        (
            "journal.dat",
            "journal_dat",
            Shape::Variable {
                size: 131,
                varseq_format: 0,
            },
        ),
        ("switch.log", "switch_log", Shape::Lines),
    ] {
        let expected = decode(shape, &std::fs::read(site.path(name))?);
        anyhow::ensure!(expected.certain_to.is_none(), "{name} is damaged");
        anyhow::ensure!(
            site.rows(table)? == expected.rows,
            "{name} isn't what its table has"
        );
    }
    Ok(())
}

/// Capture, apply and broker, each a process that may be killed at any moment.
struct Scene {
    site: Site,
    broker: Broker,
    way: Option<Proxy>,
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
    Way,
}

impl Scene {
    fn new(name: &str) -> Result<Scene> {
        let site = Site::new(name)?;
        let mut broker = Broker::start(&site)?;
        // Clients go by the address that brokers tell them, so it has to be the way's.
        let way = broker.port().map(Proxy::to).transpose()?;
        let config = match &way {
            Some(way) => {
                broker.change(&site, &[], Some(way.port()))?;
                broker.config_with(&[("lan", &format!("127.0.0.1:{}", way.port()))])
            }
            None => {
                println!("the cluster is another's: it isn't killed, nor the way to it cut");
                broker.config()
            }
        };
        site.configure_text(&(site.config_text(&[Group::card_switch()]) + &config))?;
        Ok(Scene {
            site,
            broker,
            way,
            switch: c("card_switch")?,
            chance: Chance::new(Chance::seed()),
            program: None,
            capture: None,
            apply: None,
        })
    }

    fn raise(&mut self) -> Result<()> {
        self.heal()?;
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

    fn heal(&mut self) -> Result<()> {
        if let Some(way) = &self.way {
            way.heal();
        }
        self.broker.raise(&self.site)
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
                Victim::Way => {
                    if let Some(way) = &self.way {
                        way.cut();
                    }
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
        self.heal()?;
        self.site.settle_apart()?;
        assert_equal(&self.site)
    }

    fn rounds(&mut self, count: usize, check_every: usize) -> Result<()> {
        let all = [
            Victim::Program,
            Victim::Capture,
            Victim::Apply,
            Victim::Broker,
            Victim::Way,
        ];
        for round in 1..=rounds(count) {
            let mut victims = vec![*self.chance.pick(&all)];
            if self.chance.percent(40) {
                victims.push(*self.chance.pick(&all));
            }
            if !self.broker.is_own() {
                victims.retain(|victim| !matches!(victim, Victim::Broker | Victim::Way));
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
fn killing_capture_apply_broker_and_the_way_to_it_in_any_mix_loses_and_repeats_nothing()
-> Result<()> {
    let mut scene = Scene::new("kafka-kills")?;
    scene.rounds(10, 5)?;
    scene.site.finish();
    Ok(())
}
