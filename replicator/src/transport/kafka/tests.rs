//! Both ends against a cluster in this process, which can be made to fail.

use super::publishing::{Known, NAME, Publishing};
use super::receiving::Receiving;
use crate::config::Config;
use crate::event::{Change, Event, Parcel};
use crate::progress::Progress;
use crate::transport::{Inlet, Outlet, channel};
use counterfoil_proto::Position;
use counterfoil_records::{Layout, Organization, RecordFormat};
use counterfoil_sinks::FileDescription;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const SINK: &str = "here";

struct Scene {
    config: Arc<Config>,
    directory: tempfile::TempDir,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

/// An end that runs in its thread.
struct Running {
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

impl Running {
    fn stop(self) {
        self.progress.stop();
        self.thread.join().expect("it doesn't panic");
    }
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < LIMIT, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn at(lsn: u64, index: u32) -> Position {
    let epoch = 1;
    Position { epoch, lsn, index }
}

/// A unit of a few records of `bytes` bytes each.
fn unit(lsn: u64, events: u32, bytes: usize) -> Vec<Event> {
    let file = Arc::new(FileDescription {
        path: b"/a.dat".to_vec(),
        group: "g".to_owned(),
        format: RecordFormat::new(Organization::Stream, Layout::Newline),
        table: None,
        tree: None,
        schema: None,
    });
    (0..events)
        .map(|index| Event {
            position: at(lsn, index),
            group: 0,
            file: Arc::clone(&file),
            size: 0,
            change: Change::Put {
                id: lsn * 1000 + u64::from(index),
                data: vec![lsn as u8; bytes],
                rest: Vec::new(),
            },
            captured_ns: 1,
            pid: 1,
            snapshot: false,
            before: None,
        })
        .collect()
}

fn units(lsns: std::ops::Range<u64>, bytes: usize) -> Vec<Event> {
    lsns.flat_map(|lsn| unit(lsn, 1 + (lsn % 3) as u32, bytes))
        .collect()
}

impl Scene {
    fn new() -> Scene {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster
            .create_topic("cf.hq.g", 1, 1)
            .expect("a topic with one partition");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("counterfoil.toml");
        let text = format!(
            "[site]\nname = 'hq'\nstate = 'state'\n\
             [[group]]\nname = 'g'\n[[group.file]]\npath = '/a.dat'\norganization = 'stream'\nlayout = 'newline'\n\
             [kafka]\ntopic_prefix = 'cf'\nroutes = [{{ name = 'mock', bootstrap = '{}' }}]\n\
             [kafka.client]\n'reconnect.backoff.ms' = 20\n",
            cluster.bootstrap_servers()
        );
        std::fs::write(&path, text).expect("writing the configuration");
        std::fs::create_dir(directory.path().join("state")).expect("the state directory");
        Scene {
            config: Arc::new(Config::load(&path).expect("a good configuration")),
            directory,
            cluster,
        }
    }

    fn kafka(&self) -> crate::config::Kafka {
        self.config.kafka.clone().expect("there is a [kafka]")
    }

    fn publish(&self, known: Known) -> (Outlet, Running) {
        let progress = Arc::new(Progress::default());
        let (outlet, mut inlets) = channel(1);
        let publishing = Publishing::new(
            Arc::clone(&self.config),
            self.kafka(),
            inlets.pop().expect("one"),
            vec![known],
            at(u64::MAX, 0),
            Arc::clone(&progress),
        );
        let thread = std::thread::spawn(move || publishing.run());
        (outlet, Running { progress, thread })
    }

    fn receive(&self, stored: Option<Position>) -> (Inlet, Running) {
        let progress = Arc::new(Progress::default());
        let (outlet, mut inlets) = channel(1);
        let receiving = Receiving::new(
            &self.config,
            self.kafka(),
            SINK,
            &[stored],
            outlet,
            Arc::clone(&progress),
        );
        let thread = std::thread::spawn(move || receiving.run());
        (inlets.pop().expect("one"), Running { progress, thread })
    }
}

fn send(outlet: &Outlet, events: Vec<Event>) {
    let end = events.last().map_or(0, |event| event.position.lsn + 1);
    let parcel = Parcel {
        events,
        end,
        ..Parcel::default()
    };
    outlet.send(parcel).expect("somebody takes parcels");
}

fn acknowledged(running: &Running, end: u64) {
    wait_until("acknowledgement", || {
        let sinks = running.progress.sinks();
        assert_eq!(running.progress.failure(), None);
        (sinks.get(NAME)?.applied_end >= end).then_some(())
    });
}

/// Takes events until the last is at `lsn`.
fn take_until(inlet: &Inlet, lsn: u64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    wait_until("events", || {
        while let Some(parcel) = inlet.try_receive() {
            events.extend(parcel.events.iter().cloned());
        }
        (events.last()?.position.lsn >= lsn).then_some(())
    });
    events
}

fn fresh() -> Known {
    Known {
        position: None,
        begin: Some(at(0, 0)),
        asked: true,
    }
}

#[test]
fn errors_of_brokers_lose_and_repeat_nothing() {
    let scene = Scene::new();
    let (outlet, publishing) = scene.publish(fresh());
    let (inlet, receiving) = scene.receive(None);
    let all = units(1..400, 100);
    for (number, some) in all
        .chunk_by(|a, b| a.position.lsn / 20 == b.position.lsn / 20)
        .enumerate()
    {
        use RDKafkaRespErr as E;
        match number % 4 {
            0 => scene.cluster.request_errors(
                RDKafkaApiKey::Produce,
                &[
                    E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                    E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                ],
            ),
            1 => scene.cluster.request_errors(
                RDKafkaApiKey::Fetch,
                &[E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
            ),
            // Permanent ones end the session.
            2 => scene.cluster.request_errors(
                RDKafkaApiKey::Produce,
                &[E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
            ),
            _ => {
                scene.cluster.broker_down(1).expect("a broker to take down");
                scene.cluster.broker_up(1).expect("a broker to bring up");
            }
        }
        send(&outlet, some.to_vec());
    }
    acknowledged(&publishing, 400);
    assert_eq!(take_until(&inlet, 399), all);
    drop(outlet);
    publishing.stop();
    receiving.stop();
}

#[test]
fn what_is_on_the_topic_is_not_sent_again_by_the_next_session() {
    let scene = Scene::new();
    let (outlet, publishing) = scene.publish(fresh());
    send(&outlet, units(1..50, 100));
    acknowledged(&publishing, 50);
    drop(outlet);
    publishing.stop();
    // It was killed before it could note how far it was.
    let known = Known {
        position: Some(at(20, u32::MAX)),
        begin: None,
        asked: true,
    };
    let (outlet, publishing) = scene.publish(known);
    send(&outlet, units(21..80, 100));
    acknowledged(&publishing, 80);
    let (inlet, receiving) = scene.receive(None);
    assert_eq!(take_until(&inlet, 79), units(1..80, 100));
    let messages = receiving.progress.journal_end.load(Ordering::SeqCst);
    assert_eq!(
        messages,
        2 + units(1..80, 100).len() as u64,
        "with two beginnings"
    );
    // What a sink has it isn't given again.
    let (other_inlet, other) = scene.receive(Some(at(60, u32::MAX)));
    assert_eq!(take_until(&other_inlet, 79), units(61..80, 100));
    drop(outlet);
    publishing.stop();
    receiving.stop();
    other.stop();
}

#[test]
fn a_publisher_that_was_replaced_stops() {
    let scene = Scene::new();
    let (first_outlet, first) = scene.publish(fresh());
    send(&first_outlet, units(1..10, 100));
    acknowledged(&first, 10);
    // The second one has a state directory of its own, so it knows nothing of the first one's session.
    let sessions = scene.directory.path().join("state/kafka-session");
    std::fs::remove_file(&sessions).expect("the first one's session");
    let (second_outlet, second) = scene.publish(Known {
        position: None,
        begin: Some(at(100, 0)),
        asked: true,
    });
    send(&second_outlet, units(101..110, 100));
    acknowledged(&second, 110);
    send(&first_outlet, units(10..20, 100));
    wait_until("the first one to stop", || {
        let failure = first.progress.failure()?;
        assert!(failure.contains("another publisher has sent"), "{failure}");
        Some(())
    });
    send(&second_outlet, units(110..120, 100));
    acknowledged(&second, 120);
    // What the first one sent meanwhile is void.
    let (inlet, receiving) = scene.receive(None);
    let expected: Vec<Event> = [units(1..10, 100), units(101..120, 100)].concat();
    assert_eq!(take_until(&inlet, 119), expected);
    drop((first_outlet, second_outlet));
    first.stop();
    second.stop();
    receiving.stop();
}

/// The mock cluster keeps a few megabytes of a partition, as retention would.
#[test]
fn nothing_is_applied_of_a_topic_that_has_lost_what_is_missing() {
    let scene = Scene::new();
    let (outlet, publishing) = scene.publish(fresh());
    for from in (1..300).step_by(30) {
        send(&outlet, units(from..from + 30, 20_000));
    }
    acknowledged(&publishing, 301);
    let (inlet, receiving) = scene.receive(Some(at(2, 9)));
    let complaint = |running: &Running| {
        wait_until("the gap to be told", || {
            let problems = running.progress.problems();
            problems
                .into_iter()
                .find(|problem| problem.contains("--read-again"))
        })
    };
    assert!(complaint(&receiving).contains("cf.hq.g"));
    assert!(
        inlet
            .try_receive()
            .is_none_or(|parcel| parcel.events.is_empty())
    );
    // One that has what is still there goes on.
    let (follower_inlet, follower) = scene.receive(Some(at(295, u32::MAX)));
    assert_eq!(take_until(&follower_inlet, 300), units(296..301, 20_000));
    drop(outlet);
    publishing.stop();
    // A session that publishes everything anew ends the wait.
    let (outlet, publishing) = scene.publish(Known {
        position: None,
        begin: Some(at(400, 0)),
        asked: true,
    });
    send(&outlet, units(401..410, 100));
    acknowledged(&publishing, 410);
    assert_eq!(take_until(&inlet, 409), units(401..410, 100));
    wait_until("the problem to be gone", || {
        receiving.progress.problems().is_empty().then_some(())
    });
    drop(outlet);
    publishing.stop();
    receiving.stop();
    follower.stop();
}

/// A broker that takes less than the configuration says gets the events in parts.
#[test]
fn events_too_large_for_the_broker_go_in_parts() {
    let scene = Scene::new();
    let (outlet, publishing) = scene.publish(fresh());
    scene.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    send(&outlet, unit(1, 2, 900_000));
    acknowledged(&publishing, 2);
    let (inlet, receiving) = scene.receive(None);
    assert_eq!(take_until(&inlet, 1), unit(1, 2, 900_000));
    assert!(receiving.progress.journal_end.load(Ordering::SeqCst) >= 5);
    drop(outlet);
    publishing.stop();
    receiving.stop();
}
