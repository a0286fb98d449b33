//! Both ends against a cluster in this process, which can be made to fail.

use super::publishing::{Known, NAME, Publishing};
use super::receiving::Receiving;
use crate::config::Config;
use crate::event::{Change, Event, Parcel};
use crate::progress::Progress;
use crate::transport::{Inlet, Outlet, channel, shared_channel};
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
        plan: None,
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

/// Takes what a sink would, which says where it stands when it is asked.
struct Taker {
    inlet: Inlet,
    stored: Option<Position>,
    events: Vec<Event>,
}

impl Taker {
    /// Takes what there is now.
    fn take(&mut self) {
        while let Some(parcel) = self.inlet.try_receive() {
            for ask in &parcel.asks {
                ask.answer.send(self.stored).expect("who asks waits");
            }
            for &(_, position) in &parcel.begins {
                self.stored = self.stored.max(Some(position));
            }
            for event in &parcel.events {
                if Some(event.position) > self.stored {
                    self.events.push(event.clone());
                }
            }
            self.stored = self
                .stored
                .max(self.events.last().map(|event| event.position));
        }
    }

    /// Takes events until the last is at `lsn`.
    fn take_until(&mut self, lsn: u64) -> Vec<Event> {
        wait_until("events", || {
            self.take();
            (self.events.last()?.position.lsn >= lsn).then_some(())
        });
        std::mem::take(&mut self.events)
    }
}

impl Scene {
    fn new() -> Scene {
        Scene::with(1, "")
    }

    fn with(partitions: i32, lines: &str) -> Scene {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster
            .create_topic("cf.hq.g", partitions, 1)
            .expect("a topic");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("counterfoil.toml");
        let text = format!(
            "[site]\nname = 'hq'\nstate = 'state'\n\
             [[group]]\nname = 'g'\n[[group.file]]\npath = '/a.dat'\norganization = 'stream'\nlayout = 'newline'\n\
             [kafka]\ntopic_prefix = 'cf'\nroutes = [{{ name = 'mock', bootstrap = '{}' }}]\n{lines}\n\
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

    fn receive(&self, stored: Option<Position>) -> (Taker, Running) {
        self.receive_for(SINK, stored)
    }

    fn receive_for(&self, sink: &str, stored: Option<Position>) -> (Taker, Running) {
        let progress = Arc::new(Progress::default());
        let (outlet, inlet, refusals) = shared_channel();
        let receiving = Receiving::new(
            &self.config,
            self.kafka(),
            sink,
            outlet,
            refusals,
            Arc::clone(&progress),
        );
        let thread = std::thread::spawn(move || receiving.run());
        let taker = Taker {
            inlet,
            stored,
            events: Vec::new(),
        };
        (taker, Running { progress, thread })
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

fn fresh() -> Known {
    Known {
        position: None,
        begin: Some(at(0, 0)),
        asked: true,
    }
}

#[test]
fn errors_of_brokers_lose_and_repeat_nothing() {
    stand_errors_of_brokers(&Scene::new());
}

#[test]
fn several_partitions_are_one_stream_again_whatever_fails() {
    let scene = Scene::with(5, "ordering = 'record'\npartitions = 5");
    stand_errors_of_brokers(&scene);
    // The records of a unit did go to several partitions, and so did all that begins sessions.
    let route = &scene.kafka().routes[0];
    let (reader, _) = super::reader(&scene.kafka(), route, "test").expect("a reader");
    let marks = super::topics::marks(&reader, "cf.hq.g", 5).expect("where partitions end");
    assert!(marks.iter().all(|marks| marks.high > 50), "{marks:?}");
}

fn stand_errors_of_brokers(scene: &Scene) {
    let (outlet, publishing) = scene.publish(fresh());
    let (mut taker, receiving) = scene.receive(None);
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
    assert_eq!(taker.take_until(399), all);
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
    let (mut taker, receiving) = scene.receive(None);
    assert_eq!(taker.take_until(79), units(1..80, 100));
    let messages = receiving.progress.journal_end.load(Ordering::SeqCst);
    assert_eq!(
        messages,
        2 + units(1..80, 100).len() as u64,
        "with two beginnings"
    );
    // What a sink has it isn't given again.
    let (mut other_taker, other) = scene.receive_for("there", Some(at(60, u32::MAX)));
    assert_eq!(other_taker.take_until(79), units(61..80, 100));
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
    let (mut taker, receiving) = scene.receive(None);
    let expected: Vec<Event> = [units(1..10, 100), units(101..120, 100)].concat();
    assert_eq!(taker.take_until(119), expected);
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
    let (mut taker, receiving) = scene.receive(Some(at(2, 9)));
    let complaint = wait_until("the gap to be told", || {
        taker.take();
        let problems = receiving.progress.problems();
        let is_gap = |problem: &String| problem.contains("--read-again");
        problems.into_iter().find(is_gap)
    });
    assert!(complaint.contains("cf.hq.g"), "{complaint}");
    assert!(complaint.contains("(1/2+9)"), "{complaint}");
    assert!(taker.events.is_empty());
    // One that has what is still there goes on.
    let (mut follower_taker, follower) = scene.receive_for("there", Some(at(295, u32::MAX)));
    assert_eq!(follower_taker.take_until(300), units(296..301, 20_000));
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
    assert_eq!(taker.take_until(409), units(401..410, 100));
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
    // What comes after it and is small enough must wait for it.
    let expected = [unit(1, 2, 900_000), units(2..500, 100)].concat();
    send(&outlet, expected.clone());
    acknowledged(&publishing, 500);
    let (mut taker, receiving) = scene.receive(None);
    assert_eq!(taker.take_until(499), expected);
    assert!(receiving.progress.journal_end.load(Ordering::SeqCst) >= 5);
    drop(outlet);
    publishing.stop();
    receiving.stop();
}

/// With no broker, what waits for it in memory is bounded by its bytes, not only by how many events it is.
#[test]
fn what_waits_in_memory_is_bounded() {
    let scene = Scene::new();
    let (outlet, publishing) = scene.publish(fresh());
    send(&outlet, unit(1, 1, 100));
    acknowledged(&publishing, 2);
    scene.cluster.broker_down(1).expect("there is one");
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let sender = std::thread::spawn(move || {
        for lsn in 2..=201 {
            send(&outlet, unit(lsn, 1, 1 << 20));
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    // As much as may wait, what the channel holds, and one that is on its way.
    let most = 64 + 8 + 1;
    wait_until("the sender to be held up", || {
        (sent.load(Ordering::SeqCst) >= 64).then_some(())
    });
    assert!(sent.load(Ordering::SeqCst) <= most);
    scene.cluster.broker_up(1).expect("there is one");
    acknowledged(&publishing, 202);
    sender.join().expect("it doesn't panic");
    publishing.stop();
    assert_eq!(sent.load(Ordering::SeqCst), 200);
}

/// Another process has applied something: what was under way is forgotten, and the sink's own position is what counts.
#[test]
fn what_a_sink_refuses_is_begun_with_anew() {
    let scene = Scene::with(3, "ordering = 'record'\npartitions = 3");
    let (outlet, publishing) = scene.publish(fresh());
    send(&outlet, units(1..50, 100));
    acknowledged(&publishing, 50);
    let (mut taker, receiving) = scene.receive(None);
    assert_eq!(taker.take_until(49), units(1..50, 100));
    for stored in [20, 35] {
        taker.stored = Some(at(stored, u32::MAX));
        assert!(taker.inlet.refuse(0));
        assert_eq!(taker.take_until(49), units(stored + 1..50, 100));
    }
    send(&outlet, units(50..60, 100));
    assert_eq!(taker.take_until(59), units(50..60, 100));
    assert!(receiving.progress.problems().is_empty());
    drop(outlet);
    publishing.stop();
    receiving.stop();
}

/// A topic that is not what the configuration says is told, and nothing is sent to it.
#[test]
fn another_number_of_partitions_is_told() {
    let scene = Scene::with(3, "ordering = 'file'\npartitions = 2");
    let (outlet, publishing) = scene.publish(fresh());
    send(&outlet, units(1..5, 100));
    wait_until("the problem to be told", || {
        let problems = publishing.progress.problems();
        let is_it = |problem: &String| problem.contains("write partitions = 3");
        problems.iter().any(is_it).then_some(())
    });
    let (reader, _) =
        super::reader(&scene.kafka(), &scene.kafka().routes[0], "test").expect("a reader");
    let marks = super::topics::marks(&reader, "cf.hq.g", 3).expect("where partitions end");
    assert!(marks.iter().all(|marks| marks.high == 0), "{marks:?}");
    publishing.progress.stop();
    drop(outlet);
    publishing.stop();
}
