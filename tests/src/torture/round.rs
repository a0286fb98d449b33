//! A round: the processes of a site, what is done to them, and what has to be so in the end.

use super::full_disk::FullDisk;
use super::plan::{Act, Disk, Half, Plan, SHARED_SIZE, Transport, halves};
use super::tally::Tally;
use super::targets::{CapturedFiles, Position, Servers, Target, captured_files};
use super::topic;
use super::workers::{SHARED_LINES, SHARED_RECORDS, Shared, Worker};
use crate::broker::Broker;
use crate::operations::Shape;
use crate::programs::{Program, c, c_library};
use crate::proxy::Proxy;
use crate::site::{Group, Site};
use anyhow::{Context as _, Result, bail, ensure};
use counterfoil_servers::{Cut, Process, wait_until};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long after a disk was full a process of ours may still end because of it.
const AFTERMATH: Duration = Duration::from_secs(5);

/// A process of Counterfoil's, if it is there.
#[derive(Debug, Default)]
struct Running {
    process: Option<Process>,
    is_stopped: bool,
    /// It was asked to end, and comes up again when it has.
    is_ending: bool,
    /// As its status said last.
    rereads: u64,
}

/// Everything that is there in a round.
struct World<'a> {
    plan: &'a Plan,
    site: Site,
    servers: &'a mut Servers,
    tally: &'a mut Tally,
    exerciser: Program,
    clock: PathBuf,
    shifting: PathBuf,
    workers: Vec<Worker>,
    shared: Shared,
    halves: BTreeMap<Half, Running>,
    broker: Option<Broker>,
    way: Option<Proxy>,
    targets: Vec<Target>,
    positions: Vec<BTreeMap<String, Position>>,
    /// State, then target.
    disks: Vec<FullDisk>,
    disk_trouble: Option<Instant>,
    begin: Instant,
    /// How often a process of Counterfoil's was started.
    starts: usize,
    diary: std::fs::File,
}

/// Runs rounds.
pub(super) struct Round;

impl Round {
    /// Runs one.
    pub(super) fn run(plan: &Plan, servers: &mut Servers, tally: &mut Tally) -> Result<()> {
        let mut world = World::new(plan, servers, tally)?;
        let result = world.run();
        world.end(result)
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, servers: &'a mut Servers, tally: &'a mut Tally) -> Result<World<'a>> {
        let exerciser = c("file_exerciser")?;
        let shifting = c_library("clock_step")?;
        let site = Site::new("torture")?;
        std::fs::write(site.root().join("plan.txt"), format!("{plan:#?}\n"))
            .context("writing the plan")?;
        std::fs::create_dir(site.root().join("scripts"))
            .context("making a directory for scripts")?;
        let diary = site.root().join("diary.txt");
        let diary = std::fs::File::create(&diary).context("making the diary")?;
        let clock = site.root().join("clock");
        std::fs::write(&clock, 0_i64.to_le_bytes()).context("writing the clock")?;
        let target_root = site.root().join("target");
        let mut disks = Vec::new();
        if servers.has_own_mounts {
            disks.push(FullDisk::mount(&site.state())?);
            disks.push(FullDisk::mount(&target_root)?);
        } else {
            std::fs::create_dir(&target_root).context("making a directory for the target")?;
        }
        let mut targets = vec![servers.target(plan.way.sink, &site.state(), &target_root)?];
        if plan.has_history {
            targets.push(Target::history(&site.state()));
        }
        let workers: Vec<Worker> = (0..plan.workers.len())
            .map(|number| Worker::new(plan, number))
            .collect();
        let mut config = config(plan, &site, &workers);
        for target in &targets {
            config.push_str(&target.config(servers)?);
        }
        let (mut broker, mut way) = (None, None);
        if plan.way.transport == Transport::Kafka {
            // Clients go by the address that brokers tell them, so it has to be the way's.
            let mut own = Broker::own(&site)?;
            let to = Proxy::to(own.port().context("the broker is the test's own")?)?;
            own.change(&site, &[], Some(to.port()))?;
            config.push_str(&own.config_with(&[("lan", &format!("127.0.0.1:{}", to.port()))]));
            (broker, way) = (Some(own), Some(to));
        }
        site.configure_text(&config)?;
        let positions = vec![BTreeMap::new(); targets.len()];
        let halves = halves(plan.way.transport)
            .iter()
            .map(|&half| (half, Running::default()))
            .collect();
        Ok(World {
            plan,
            site,
            servers,
            tally,
            exerciser,
            clock,
            shifting,
            workers,
            shared: Shared::default(),
            halves,
            broker,
            way,
            targets,
            positions,
            disks,
            disk_trouble: None,
            begin: Instant::now(),
            starts: 0,
            diary,
        })
    }

    fn run(&mut self) -> Result<()> {
        // They are loaded while there is nothing in them: what is loaded while it is written is told twice.
        for name in [SHARED_RECORDS, SHARED_LINES] {
            std::fs::write(self.site.path(name), "").with_context(|| format!("making {name}"))?;
        }
        for half in self.halves.keys().copied().collect::<Vec<_>>() {
            self.raise(half)?;
        }
        self.wait_until_begun()?;
        self.begin = Instant::now();
        let plan = self.plan;
        for (at, act) in &plan.acts {
            self.wait_for(*at)?;
            self.act(*act)
                .with_context(|| format!("at {at:?}: {act:?}"))?;
            self.look_at_positions()?;
        }
        self.heal()?;
        // A start tells again what has been since the last checkpoint, and so would hide what got lost before.
        self.wait_for(self.begin.elapsed() + self.plan.length / 2)?;
        for number in 0..self.workers.len() {
            let worker = &mut self.workers[number];
            // Half of them may end what they are at.
            if (self.plan.number as usize + number).is_multiple_of(2) {
                worker.finish(&self.site, &mut self.shared, self.tally)?;
            } else if worker.kill(&self.site, &mut self.shared, self.tally)? {
                self.tally.fault(KILLED_PROGRAM);
            }
        }
        self.note("all programs have ended");
        self.shared.check(&self.site, self.tally)?;
        self.wait_until_equal()?;
        self.note("everything is equal");
        self.look_at_positions()?;
        for half in self.halves.keys().copied().collect::<Vec<_>>() {
            self.end_half(half)?;
        }
        let files = self.files()?;
        for target in &self.targets {
            target
                .compare(self.servers, &self.site.data(), &files, self.tally)
                .with_context(|| {
                    format!(
                        "{} was equal, and isn't after an orderly stop",
                        target.name()
                    )
                })?;
            let repeated = target.repetitions()?;
            // A start tells again what the last operations before it, and units that were open, may have changed.
            if self.starts > self.halves.len() {
                self.tally.told_again += repeated.len() as u64;
                continue;
            }
            self.tally.duplicates += repeated.len() as u64;
            ensure!(
                repeated.is_empty(),
                "{} has changes twice, at {repeated:?}",
                target.name()
            );
        }
        if let Some(broker) = &self.broker {
            for group in used_groups(self.plan, &self.workers) {
                topic::check(
                    broker.bootstrap(),
                    &broker.topic(&group_name(group)),
                    self.tally,
                )?;
            }
        }
        *self.tally.rounds.entry(self.plan.way).or_default() += 1;
        Ok(())
    }

    /// Leaves nothing behind after a good end, and everything that may explain a bad one.
    fn end(mut self, result: Result<()>) -> Result<()> {
        let healed = if result.is_err() {
            // What it waited for may be there only as long as nobody is killed.
            let files = self.files().unwrap_or_default();
            for target in &self.targets {
                let dump = target.dump(self.servers, &self.site.data(), &files);
                let name = format!("has-{}.txt", target.name().replace(' ', "-"));
                let _ = std::fs::write(self.site.root().join(name), dump);
            }
            let _ = std::fs::copy(
                self.site.state().join("status.json"),
                self.site.root().join("status-at-failure.json"),
            );
            self.workers.clear();
            self.halves.clear();
            let kept: Result<()> = self.disks.iter().try_for_each(FullDisk::keep);
            self.heal_server().and(kept)
        } else {
            self.halves.clear();
            self.heal_server()
        };
        let dropped = self.servers.drop_database(&self.targets[0]);
        self.disks.clear();
        self.broker = None;
        match result {
            Ok(()) => {
                self.site.finish();
                healed.and(dropped)
            }
            Err(error) => Err(error.context(format!(
                "evidence is kept in {}",
                self.site.root().display()
            ))),
        }
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(
            self.diary,
            "{:8.3} {what}",
            self.begin.elapsed().as_secs_f64()
        );
    }

    fn files(&self) -> Result<CapturedFiles> {
        let own: Vec<(usize, Shape)> = (0..)
            .zip(&self.workers)
            .filter_map(|(number, worker)| worker.own_files().map(|(_, shape)| (number, shape)))
            .collect();
        captured_files(&self.site.data(), &|name| match name {
            SHARED_RECORDS => Some(Shape::Fixed { size: SHARED_SIZE }),
            SHARED_LINES => Some(Shape::Lines),
            _ if name.ends_with(".dat") => {
                let of = |number: usize| name.starts_with(&format!("w{number}-"));
                own.iter()
                    .find(|(number, _)| of(*number))
                    .map(|(_, shape)| *shape)
            }
            _ => None,
        })
    }

    /// Waits until so long after the begin, and keeps everything going that is to go.
    fn wait_for(&mut self, at: Duration) -> Result<()> {
        let moment = self.begin + at;
        wait_until("the moment to go on", || {
            if let Err(error) = self.tend_programs().and_then(|()| self.tend_halves()) {
                return Ok(Err(error));
            }
            if Instant::now() >= moment {
                Ok(Ok(()))
            } else {
                Err("early".to_owned())
            }
        })?
    }

    /// A program that has ended well is followed by the next one.
    fn tend_programs(&mut self) -> Result<()> {
        for number in 0..self.workers.len() {
            let worker = &mut self.workers[number];
            if worker.is_stopped || worker.is_running()? {
                continue;
            }
            if worker.is_started() {
                worker.finish(&self.site, &mut self.shared, self.tally)?;
            }
            let environment = [
                ("LD_PRELOAD", self.shifting.as_path()),
                (CLOCK, self.clock.as_path()),
            ];
            worker.start(&self.site, &self.exerciser, &environment)?;
        }
        Ok(())
    }

    /// Counterfoil's own processes don't end by themselves, unless a disk is in the way.
    fn tend_halves(&mut self) -> Result<()> {
        let mut again = Vec::new();
        for (half, running) in &mut self.halves {
            running.look(&self.site, *half);
            let Some(process) = &mut running.process else {
                continue;
            };
            if process.is_running()? {
                continue;
            }
            let said = process.stderr();
            let Some(ended) = running.process.take() else {
                continue;
            };
            let status = ended.finish()?.status;
            self.tally.rereads += std::mem::take(&mut running.rereads);
            let excuse = self
                .disk_trouble
                .is_some_and(|since| since.elapsed() < AFTERMATH);
            let is_asked = std::mem::take(&mut running.is_ending);
            if is_asked {
                again.push(*half);
            }
            if is_asked && is_good_end(status) {
                continue;
            }
            ensure!(
                excuse && status.code().is_some_and(|code| code != PANIC),
                "{half:?} ended {} ({status}): {}",
                if is_asked {
                    "as it was asked to"
                } else {
                    "by itself"
                },
                last_lines(&said)
            );
            self.tally.fault(ENDED_FOR_DISK);
            let now = self.begin.elapsed().as_secs_f64();
            let _ = writeln!(
                self.diary,
                "{now:8.3} {half:?} has ended ({status}): {}",
                last_lines(&said)
            );
            running.is_stopped = false;
        }
        again.into_iter().try_for_each(|half| self.raise(half))
    }

    fn raise(&mut self, half: Half) -> Result<()> {
        let running = self.halves.entry(half).or_default();
        if running.process.is_some() {
            return Ok(());
        }
        let verb = match half {
            Half::Run => "run",
            Half::Capture => "capture",
            Half::Apply => "apply",
        };
        let mut command = self.site.counterfoil(&[verb]);
        // librdkafka waits until a time on the wall, by the clock of the kernel, which isn't stepped: it would wait for days.
        if self.plan.way.transport == Transport::InProcess {
            command
                .env("LD_PRELOAD", &self.shifting)
                .env(CLOCK, &self.clock);
        }
        // SAFETY: signal is async-signal-safe, and the closure touches no memory of the parent's.
        unsafe {
            // A write that fails because of a limit is to be an error, not a death.
            command.pre_exec(|| {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                Ok(())
            });
        }
        running.process = Some(self.site.start(command)?);
        running.is_stopped = false;
        running.is_ending = false;
        self.starts += 1;
        Ok(())
    }

    /// Asks it to end, which it has to do in good order.
    fn end_half(&mut self, half: Half) -> Result<()> {
        let running = self.halves.entry(half).or_default();
        let Some(mut process) = running.process.take() else {
            return Ok(());
        };
        running.look(&self.site, half);
        self.tally.rereads += std::mem::take(&mut running.rereads);
        if running.is_stopped {
            process.signal(libc::SIGCONT);
            running.is_stopped = false;
        }
        if !process.is_running()? {
            running.process = Some(process);
            return self.tend_halves();
        }
        process.terminate();
        let finished = process.finish()?;
        let excuse = self
            .disk_trouble
            .is_some_and(|since| since.elapsed() < AFTERMATH);
        let is_good = is_good_end(finished.status)
            || excuse && finished.status.code().is_some_and(|code| code != PANIC);
        ensure!(
            is_good,
            "{half:?} was asked to end, and ended with {}: {}",
            finished.status,
            last_lines(&finished.stderr)
        );
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<()> {
        let now = self.begin.elapsed().as_secs_f64();
        let done = self.try_act(act)?;
        let _ = writeln!(
            self.diary,
            "{now:8.3} {act:?}{}",
            if done { "" } else { ": not now" }
        );
        Ok(())
    }

    /// Says whether there was anything to do it to.
    fn try_act(&mut self, act: Act) -> Result<bool> {
        Ok(match act {
            Act::KillProgram(number) => {
                let killed = self.workers[number].kill(&self.site, &mut self.shared, self.tally)?;
                if killed {
                    self.tally.fault(KILLED_PROGRAM);
                }
                killed
            }
            Act::StopProgram(number) => {
                let worker = &mut self.workers[number];
                let stopped = worker.is_running()? && worker.signal(libc::SIGSTOP);
                worker.is_stopped = stopped;
                if stopped {
                    self.tally.fault("programs stopped, continued");
                }
                stopped
            }
            Act::ContinueProgram(number) => {
                let worker = &mut self.workers[number];
                worker.is_stopped = false;
                worker.signal(libc::SIGCONT)
            }
            Act::Kill(half) => {
                let running = self.halves.entry(half).or_default();
                running.look(&self.site, half);
                self.tally.rereads += std::mem::take(&mut running.rereads);
                let Some(mut process) = running.process.take() else {
                    return Ok(false);
                };
                ensure!(
                    process.is_running()? || self.disk_trouble.is_some(),
                    "it had ended by itself: {}",
                    last_lines(&process.stderr())
                );
                process.kill()?;
                self.tally.fault("kills: replicators");
                true
            }
            Act::Raise(half) => {
                self.raise(half)?;
                true
            }
            Act::Stop(half) => {
                let running = self.halves.entry(half).or_default();
                let Some(process) = &running.process else {
                    return Ok(false);
                };
                process.signal(libc::SIGSTOP);
                running.is_stopped = true;
                self.tally.fault("replicators stopped, continued");
                true
            }
            Act::Continue(half) => {
                let running = self.halves.entry(half).or_default();
                running.is_stopped = false;
                if let Some(process) = &running.process {
                    process.signal(libc::SIGCONT);
                }
                true
            }
            Act::Restart(half) => {
                if self.halves.entry(half).or_default().process.is_none() {
                    return Ok(false);
                }
                let running = self.halves.entry(half).or_default();
                if let Some(process) = &running.process {
                    process.signal(libc::SIGCONT);
                    process.terminate();
                }
                running.is_stopped = false;
                running.is_ending = true;
                self.tally.fault("restarts in order");
                true
            }
            Act::Fill(disk) => {
                let Some(full) = self.disks.get(disk as usize) else {
                    return Ok(false);
                };
                full.fill()?;
                self.disk_trouble = Some(Instant::now());
                self.tally.fault("disks full");
                true
            }
            Act::Free(disk) => {
                if let Some(full) = self.disks.get(disk as usize) {
                    full.free()?;
                    self.disk_trouble = Some(Instant::now());
                }
                self.raise_all()?;
                true
            }
            Act::FailWrites(half) => {
                let running = self.halves.entry(half).or_default();
                let Some(process) = &running.process else {
                    return Ok(false);
                };
                limit_writes(process, 0)?;
                self.disk_trouble = Some(Instant::now());
                self.tally.fault("disk errors");
                true
            }
            Act::LetWrite(half) => {
                if let Some(process) = &self.halves.entry(half).or_default().process {
                    limit_writes(process, libc::RLIM_INFINITY)?;
                    self.disk_trouble = Some(Instant::now());
                }
                self.raise_all()?;
                true
            }
            Act::StepClock(seconds) => {
                let file = std::fs::File::options()
                    .read(true)
                    .write(true)
                    .open(&self.clock);
                let file = file.context("opening the clock")?;
                let mut shift = [0; 8];
                file.read_exact_at(&mut shift, 0)
                    .context("reading the clock")?;
                let shift = i64::from_le_bytes(shift) + seconds;
                file.write_all_at(&shift.to_le_bytes(), 0)
                    .context("stepping the clock")?;
                self.tally.fault("clock steps");
                true
            }
            Act::KillServer | Act::ShutServerDown | Act::RaiseServer => self.act_on_server(act)?,
            Act::Cut | Act::CutAtCommit { .. } | Act::Delay(_) | Act::HealWay => {
                self.act_on_way(act)?
            }
        })
    }

    fn act_on_server(&mut self, act: Act) -> Result<bool> {
        if act == Act::RaiseServer {
            self.heal_server()?;
            return Ok(true);
        }
        // With a broker and a database server it is one or the other.
        let name = if let Some(broker) = &mut self.broker
            && self.tally.faults.values().sum::<u64>() % 2 == 0
        {
            broker.kill()?;
            "kills: brokers"
        } else {
            match self.servers.server(self.plan.way.sink) {
                Some(server) if !server.is_up() => return Ok(false),
                Some(server) if act == Act::KillServer => {
                    server.kill()?;
                    "kills: database servers"
                }
                Some(server) => {
                    server.shut_down()?;
                    "restarts of database servers"
                }
                None => return Ok(false),
            }
        };
        self.tally.fault(name);
        Ok(true)
    }

    fn heal_server(&mut self) -> Result<()> {
        if let Some(broker) = &mut self.broker {
            broker.raise(&self.site)?;
        }
        if let Some(server) = self.servers.server(self.plan.way.sink) {
            server.raise()?;
        }
        Ok(())
    }

    fn act_on_way(&mut self, act: Act) -> Result<bool> {
        let to_broker = self.way.as_ref();
        let to_server = self.servers.server(self.plan.way.sink);
        let to_server = to_server.map(|server| server.way());
        if to_broker.is_none() && to_server.is_none() {
            return Ok(false);
        }
        match act {
            Act::Cut => {
                if let Some(way) = to_broker {
                    way.cut();
                }
                if let Some(way) = to_server {
                    way.close();
                }
                self.tally.fault("cuts");
            }
            Act::CutAtCommit { answered } => {
                let Some(way) = to_server else {
                    return Ok(false);
                };
                let commit = b"COMMIT".to_vec();
                way.cut(if answered {
                    Cut::Answer(commit)
                } else {
                    Cut::Request(commit)
                });
                self.tally.fault("cuts at commit");
            }
            Act::Delay(by) => {
                if let Some(way) = to_broker {
                    way.delay(by);
                }
                if let Some(way) = to_server {
                    way.delay(by);
                }
                self.tally.fault("delays");
            }
            _ => {
                if let Some(way) = to_broker {
                    way.heal();
                }
                if let Some(way) = to_server {
                    way.heal();
                }
            }
        }
        Ok(true)
    }

    fn raise_all(&mut self) -> Result<()> {
        // Those that were killed come up again when the plan says so; this is for those that ended by themselves.
        self.tend_halves()?;
        for half in self.halves.keys().copied().collect::<Vec<_>>() {
            self.raise(half)?;
        }
        Ok(())
    }

    /// The first start needs every target, until a checkpoint says what each has. Faults begin behind that.
    fn wait_until_begun(&mut self) -> Result<()> {
        let shared = format!("test/{}", group_name(self.plan.shared_group));
        wait_until("every sink to have the files that programs share", || {
            if let Err(error) = self.tend_halves() {
                return Ok(Err(error));
            }
            let has_them = self.targets.iter().all(|target| {
                let positions = target.positions(self.servers);
                positions.is_ok_and(|positions| positions.contains_key(&shared))
            });
            has_them
                .then_some(Ok(()))
                .ok_or_else(|| "not yet".to_owned())
        })??;
        let groups = used_groups(self.plan, &self.workers).len();
        wait_until("every sink to have something of each group", || {
            if let Err(error) = self.tend_programs().and_then(|()| self.tend_halves()) {
                return Ok(Err(error));
            }
            for target in &self.targets {
                let positions = target
                    .positions(self.servers)
                    .map_err(|error| format!("{error:#}"))?;
                if positions.len() < groups {
                    return Err(format!("{} has {positions:?}", target.name()));
                }
            }
            Ok(Ok(()))
        })??;
        if self.broker.is_none() && self.servers.server(self.plan.way.sink).is_none() {
            return Ok(());
        }
        for half in self.halves.keys().copied().collect::<Vec<_>>() {
            self.end_half(half)?;
            self.raise(half)?;
        }
        Ok(())
    }

    /// Ends every fault.
    fn heal(&mut self) -> Result<()> {
        for number in 0..self.workers.len() {
            self.try_act(Act::ContinueProgram(number))?;
        }
        for half in self.halves.keys().copied().collect::<Vec<_>>() {
            self.try_act(Act::Continue(half))?;
            self.try_act(Act::LetWrite(half))?;
        }
        for disk in [Disk::State, Disk::Target] {
            self.try_act(Act::Free(disk))?;
        }
        self.act_on_way(Act::HealWay)?;
        self.heal_server()?;
        self.raise_all()?;
        self.note("everything is healed");
        Ok(())
    }

    /// A sink's position never goes back. Where it can't be read just now, it is looked at the next time.
    fn look_at_positions(&mut self) -> Result<()> {
        for (target, known) in self.targets.iter().zip(&mut self.positions) {
            let Ok(positions) = target.positions(self.servers) else {
                continue;
            };
            for (stream, position) in &positions {
                let former = known.get(stream);
                if former.is_some_and(|former| former > position) {
                    self.tally.duplicates += 1;
                    bail!(
                        "the position of {stream} in {} went back from {former:?} to {position:?}",
                        target.name()
                    );
                }
            }
            known.extend(positions);
        }
        Ok(())
    }

    /// By the replicator that runs: one that starts compares every file, and would hide what was missed.
    fn wait_until_equal(&mut self) -> Result<()> {
        let files = self.files()?;
        let equal = wait_until("every sink to have what the files are", || {
            if let Err(error) = self.tend_halves().and_then(|()| self.raise_all()) {
                return Ok(Err(error));
            }
            for target in &self.targets {
                // What was compared on the way isn't counted.
                let mut aside = Tally::default();
                target
                    .compare(self.servers, &self.site.data(), &files, &mut aside)
                    .map_err(|error| format!("{error:#}"))?;
            }
            Ok(Ok(()))
        });
        if equal.is_err() {
            self.tally.lost += 1;
        }
        equal?
    }
}

impl Running {
    /// Takes note of what its status says.
    fn look(&mut self, site: &Site, half: Half) {
        let (Some(process), true) = (&self.process, half != Half::Apply) else {
            return;
        };
        let status = std::fs::read(site.state().join("status.json")).unwrap_or_default();
        if let Ok(status) = serde_json::from_slice::<serde_json::Value>(&status)
            && status["pid"] == process.id()
        {
            self.rereads = status["rereads"].as_u64().unwrap_or(self.rereads);
        }
    }
}

const CLOCK: &str = "CLOCK_STEP";
const KILLED_PROGRAM: &str = "kills: programs";
const ENDED_FOR_DISK: &str = "replicators ended by disks";
/// What Rust programs exit with when they panic.
const PANIC: i32 = 101;

/// One that has only just begun may not know yet what the signal means.
fn is_good_end(status: std::process::ExitStatus) -> bool {
    status.success() || status.signal() == Some(libc::SIGTERM)
}

/// No file of the process is written beyond so many bytes; what tries is told that the file is too large.
fn limit_writes(process: &Process, bytes: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    let id = process.id().cast_signed();
    // SAFETY: the limit is ours and lives until the call is over; nothing is written back.
    if unsafe {
        libc::prlimit(
            id,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    } != 0
    {
        let error = std::io::Error::last_os_error();
        ensure!(
            error.raw_os_error() == Some(libc::ESRCH),
            "limiting what a process may write: {error}"
        );
    }
    Ok(())
}

fn group_name(number: usize) -> String {
    format!("g{number}")
}

/// Those that have files.
fn used_groups(plan: &Plan, workers: &[Worker]) -> Vec<usize> {
    let is_used = |number: &usize| {
        *number == plan.shared_group || workers.iter().any(|worker| worker.group() == *number)
    };
    (0..plan.groups.len()).filter(is_used).collect()
}

fn config(plan: &Plan, site: &Site, workers: &[Worker]) -> String {
    let mut groups = Vec::new();
    for number in used_groups(plan, workers) {
        let mut group = Group::new(&group_name(number), plan.groups[number]);
        if number == plan.shared_group {
            group = group
                .file(SHARED_RECORDS, Shape::Fixed { size: SHARED_SIZE })
                .file(SHARED_LINES, Shape::Lines);
        }
        for worker in workers.iter().filter(|worker| worker.group() == number) {
            if let Some((pattern, shape)) = worker.own_files() {
                group = group.file(&pattern, shape);
            }
        }
        groups.push(group);
    }
    let batches = plan
        .batch_records_max
        .map(|most| format!("[apply]\nbatch_records_max = {most}\nbatch_delay_ms_max = 0\n"));
    site.config_text(&groups)
        + "\n[journal]\nsegment_bytes = 1048576\n"
        + &batches.unwrap_or_default()
}

/// The end of what a process said.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
