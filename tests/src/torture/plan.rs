//! What a round tries: its way, its groups and programs, and when which fault begins and ends.

use super::chance_of;
use crate::chance::Chance;
use crate::operations::Shape;
use std::fmt;
use std::time::Duration;

/// How events reach the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Transport {
    InProcess,
    Kafka,
}

/// Which sink the round is about. Beside it there may be a history in SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Sink {
    Sqlite,
    Files,
    Postgres,
    Mariadb,
}

/// A transport and a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// How events go.
    pub transport: Transport,
    /// Where to.
    pub sink: Sink,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.transport {
            Transport::InProcess => "in-process",
            Transport::Kafka => "Kafka",
        })?;
        f.write_str(match self.sink {
            Sink::Sqlite => " + SQLite",
            Sink::Files => " + files",
            Sink::Postgres => " + PostgreSQL",
            Sink::Mariadb => " + MariaDB",
        })
    }
}

const SINKS: [Sink; 4] = [Sink::Sqlite, Sink::Files, Sink::Postgres, Sink::Mariadb];

/// A process of Counterfoil's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    Run,
    Capture,
    Apply,
}

/// A file system that can be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// Journal, images, lanes, and the database of the SQLite sink.
    State,
    /// The root of the files sink.
    Target,
}

/// What is done to the world at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    KillProgram(usize),
    StopProgram(usize),
    ContinueProgram(usize),
    Kill(Half),
    Raise(Half),
    Stop(Half),
    Continue(Half),
    /// In order, and up again.
    Restart(Half),
    KillServer,
    ShutServerDown,
    RaiseServer,
    /// Breaks connections, and lets none through.
    Cut,
    /// Breaks a connection when something is committed: before the server hears of it, or after.
    CutAtCommit {
        answered: bool,
    },
    Delay(Duration),
    HealWay,
    Fill(Disk),
    Free(Disk),
    /// Every write to a file fails.
    FailWrites(Half),
    LetWrite(Half),
    /// Seconds, forwards or back.
    StepClock(i64),
}

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Anything at all, to files that nobody else touches.
    Own(Shape),
    /// Its part of the files that all such programs share.
    Shared { member: u64, members: u64 },
}

#[derive(Clone, Debug)]
pub(super) struct PlannedWorker {
    pub(super) role: Role,
    /// Index of its group.
    pub(super) group: usize,
    /// Operations of one script; there is one after the other.
    pub(super) operations: usize,
    /// Between operations.
    pub(super) pause_us: u64,
    /// Whether its clock can be stepped.
    pub(super) has_shifted_clock: bool,
}

/// What follows from the seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run's.
    pub seed: u64,
    /// Which round.
    pub number: u64,
    /// For how long faults begin.
    pub length: Duration,
    /// Transport and sink.
    pub way: Way,
    /// Whether there is a history beside the sink.
    pub has_history: bool,
    /// How many records a batch may hold, where that isn't left as it is: with few, one is folded while another is applied.
    pub batch_records_max: Option<u64>,
    /// How units of work are told, by group.
    pub groups: Vec<&'static str>,
    /// The group of the files that programs share.
    pub shared_group: usize,
    pub(super) workers: Vec<PlannedWorker>,
    pub(super) acts: Vec<(Duration, Act)>,
}

/// Size of the records of the shared file.
pub(super) const SHARED_SIZE: usize = 48;

impl Plan {
    /// The plan of a round, whose faults begin within `length`.
    pub fn new(seed: u64, number: u64, length: Duration) -> Plan {
        let mut chance = chance_of(seed, &[number]);
        let way = match number % 5 {
            4 => Way {
                transport: Transport::Kafka,
                sink: SINKS[(number / 5 + seed) as usize % 4],
            },
            sink => Way {
                transport: Transport::InProcess,
                sink: SINKS[sink as usize],
            },
        };
        let groups = vec!["none", "lock", *chance.pick(&["fsync", "close"])];
        let shared_group = chance.below(2) as usize;
        let members = 2 + chance.below(2);
        let mut roles: Vec<(Role, usize)> = (0..members)
            .map(|member| (Role::Shared { member, members }, shared_group))
            .collect();
        let shapes = [
            Shape::Fixed { size: 40 },
            Shape::Relative { size: 50 },
            Shape::Variable {
                size: 200,
                varseq_format: chance.below(4) as u8,
            },
            Shape::Lines,
            Shape::Blocks { size: 64 },
        ];
        // All five come up within a few rounds.
        let first = (number + number / 5) as usize;
        for index in 0..3 {
            let group = chance.below(groups.len() as u64) as usize;
            roles.push((Role::Own(shapes[(first + 2 * index) % 5]), group));
        }
        // The broker of tests takes a few thousand events a second.
        let slowness = match way.transport {
            Transport::InProcess => 1,
            Transport::Kafka => 6,
        };
        let workers: Vec<PlannedWorker> = roles
            .into_iter()
            .map(|(role, group)| PlannedWorker {
                role,
                group,
                operations: (100 + chance.below(600) as usize) / slowness as usize,
                pause_us: slowness * *chance.pick(&[500, 1000, 3000]),
                has_shifted_clock: chance.percent(30),
            })
            .collect();
        let acts = timetable(way, workers.len(), length, &mut chance);
        let has_history = way.sink == Sink::Sqlite || chance.percent(40);
        let batch_records_max = chance.percent(50).then(|| 1 + chance.below(20));
        Plan {
            seed,
            number,
            length,
            way,
            has_history,
            batch_records_max,
            groups,
            shared_group,
            workers,
            acts,
        }
    }
}

/// The processes of a transport.
pub(super) fn halves(transport: Transport) -> &'static [Half] {
    match transport {
        Transport::InProcess => &[Half::Run],
        Transport::Kafka => &[Half::Capture, Half::Apply],
    }
}

/// Between two faults, on average.
const FAULT_EVERY: Duration = Duration::from_millis(220);

/// Faults with their begins and ends; several may last at a time.
fn timetable(
    way: Way,
    workers: usize,
    length: Duration,
    chance: &mut Chance,
) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        let most = 2 * FAULT_EVERY.as_micros() as u64;
        at += Duration::from_micros(chance.below(most));
        if at >= length {
            break;
        }
        let worker = chance.below(workers as u64) as usize;
        let half = *chance.pick(halves(way.transport));
        let until = |chance: &mut Chance, limit_ms: u64| {
            at + Duration::from_micros(chance.below(limit_ms * 1000))
        };
        let with_server =
            way.transport == Transport::Kafka || matches!(way.sink, Sink::Postgres | Sink::Mariadb);
        match chance.below(if with_server { 120 } else { 84 }) {
            0..=19 => acts.push((at, Act::KillProgram(worker))),
            20..=29 => {
                acts.push((at, Act::StopProgram(worker)));
                acts.push((until(chance, 1600), Act::ContinueProgram(worker)));
            }
            30..=45 => {
                acts.push((at, Act::Kill(half)));
                acts.push((until(chance, 400), Act::Raise(half)));
            }
            46..=53 => {
                acts.push((at, Act::Stop(half)));
                acts.push((until(chance, 1200), Act::Continue(half)));
            }
            54..=61 => acts.push((at, Act::Restart(half))),
            62..=69 => {
                let disk = if way.sink == Sink::Files {
                    *chance.pick(&[Disk::State, Disk::Target])
                } else {
                    Disk::State
                };
                acts.push((at, Act::Fill(disk)));
                acts.push((until(chance, 900), Act::Free(disk)));
            }
            70..=74 => {
                acts.push((at, Act::FailWrites(half)));
                acts.push((until(chance, 400), Act::LetWrite(half)));
            }
            75..=83 => {
                let most = *chance.pick(&[2, 5000, 1_000_000]);
                let seconds = chance.below(2 * most + 1) as i64 - most as i64;
                acts.push((at, Act::StepClock(seconds)));
            }
            84..=91 => {
                acts.push((at, Act::KillServer));
                acts.push((until(chance, 700), Act::RaiseServer));
            }
            92..=94 => {
                acts.push((at, Act::ShutServerDown));
                acts.push((until(chance, 700), Act::RaiseServer));
            }
            95..=103 => {
                acts.push((at, Act::Cut));
                acts.push((until(chance, 900), Act::HealWay));
            }
            104..=111 => {
                let answered = chance.percent(50);
                acts.push((at, Act::CutAtCommit { answered }));
            }
            _ => {
                let by = Duration::from_millis(1 + chance.below(60));
                acts.push((at, Act::Delay(by)));
                acts.push((until(chance, 1200), Act::HealWay));
            }
        }
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}
