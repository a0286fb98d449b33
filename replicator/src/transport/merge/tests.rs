use super::*;
use proptest::prelude::*;

const fn at(epoch: u64, lsn: u64, index: u32) -> Position {
    Position { epoch, lsn, index }
}

fn announcement(session: u64, position: Position, fresh: bool) -> Message<Position> {
    Message {
        session,
        position,
        previous: None,
        place: None,
        kind: Kind::Session { fresh },
    }
}

/// The messages of the units after a position; unit n of an epoch is at lsn n and has the given number of events.
fn messages(session: u64, epoch: u64, units: &[u32], after: Position) -> Vec<Message<Position>> {
    let mut messages = Vec::new();
    let mut previous = after;
    for (lsn, &count) in (1..).zip(units) {
        for index in 0..count {
            let position = at(epoch, lsn, index);
            if position <= after {
                continue;
            }
            messages.push(Message {
                session,
                position,
                previous: Some(previous),
                place: (count > 1).then_some(Place {
                    unit: lsn,
                    last_of: (index + 1 == count).then_some(count),
                }),
                kind: Kind::Event(Some(position)),
            });
            previous = position;
        }
    }
    messages
}

/// What becomes of one run of a publisher.
#[derive(Clone, Debug)]
struct Run {
    /// Its state is new: it publishes everything under another epoch.
    fresh: bool,
    /// It doesn't get further than announcing itself, on some partitions.
    unannounced: bool,
    /// For each partition, how many of its messages arrive in time, and how many more arrive late.
    arrive: Vec<(usize, usize)>,
    /// For each partition, after how many messages of its successor the late ones arrive; 0: before its announcement.
    late: Vec<usize>,
    /// How much of what was acknowledged a checkpoint has.
    checkpoint: usize,
}

const PARTITIONS_MAX: usize = 4;

fn run() -> impl Strategy<Value = Run> {
    (
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.2),
        proptest::collection::vec((0..8usize, 0..4usize), PARTITIONS_MAX),
        proptest::collection::vec(0..6usize, PARTITIONS_MAX),
        0..40usize,
    )
        .prop_map(|(fresh, unannounced, arrive, late, checkpoint)| Run {
            fresh,
            unannounced,
            arrive,
            late,
            checkpoint,
        })
}

type Topic = Vec<Vec<Message<Position>>>;

/// What a start reads of each partition: as little as will do.
fn tails(topic: &Topic, known: &Known, window: usize) -> Vec<Vec<Message<()>>> {
    let mut windows = vec![window; topic.len()];
    loop {
        let tails: Vec<Vec<_>> = topic
            .iter()
            .zip(&windows)
            .map(|(partition, &window)| {
                let from = partition.len().saturating_sub(window);
                partition[from..].iter().map(Message::bare).collect()
            })
            .collect();
        let mut reaches = true;
        for (at, reach) in reach(&tails, known).into_iter().enumerate() {
            if !reach && windows[at] < topic[at].len() {
                windows[at] *= 2;
                reaches = false;
            }
        }
        if reaches {
            return tails;
        }
    }
}

/// Lets publishers run, each as it is said, and a last one to its end.
fn publish(units: &[u32], runs: &[Run], partitions: usize, spread: &[usize]) -> (Topic, u64) {
    let mut topic: Topic = vec![Vec::new(); partitions];
    let mut late: Topic = vec![Vec::new(); partitions];
    let mut late_at = vec![0; partitions];
    let mut epoch = 0;
    let mut known = Known::default();
    let mut begins = false;
    let last = Run {
        fresh: false,
        unannounced: false,
        arrive: vec![(usize::MAX, 0); PARTITIONS_MAX],
        late: vec![0; PARTITIONS_MAX],
        checkpoint: 0,
    };
    for (session, run) in (1..).zip(runs.iter().chain([&last])) {
        if run.fresh {
            known = Known::default();
        }
        let tail = whole_on(tails(&topic, &known, 1), &known);
        // As the capturing half does: without knowing what is whole, everything is published anew.
        let is_fresh = run.fresh || begins || tail.whole.is_none() || tail.whole < known.position;
        if is_fresh {
            epoch = epoch.max(tail.seen.map_or(0, |seen| seen.epoch)) + 1;
        }
        let begin = if is_fresh {
            at(epoch, 0, 0)
        } else {
            tail.whole.unwrap_or_default()
        };
        known.last = session;
        if is_fresh {
            known.position = None;
        }
        let mut sent: Topic = vec![Vec::new(); partitions];
        for partition in &mut sent {
            partition.push(announcement(session, begin, is_fresh));
        }
        let mut acknowledged = known.position.max(Some(begin));
        if !run.unannounced {
            known.begun = session;
            let mut all_there = true;
            for message in messages(session, epoch, units, begin) {
                let (lsn, index) = (
                    message.position.lsn as usize,
                    message.position.index as usize,
                );
                let to = spread[(lsn * 7 + index * 3) % spread.len()] % partitions;
                sent[to].push(message.clone());
                all_there &= sent[to].len() <= run.arrive[to].0.saturating_add(1);
                let is_end = message.place.is_none_or(|place| place.last_of.is_some());
                if all_there && is_end {
                    acknowledged = Some(message.position);
                }
            }
            // Somewhere between what was known before and what is acknowledged now, at the end of a unit.
            let ends: Vec<Position> = messages(session, epoch, units, begin)
                .iter()
                .filter(|message| message.place.is_none_or(|place| place.last_of.is_some()))
                .map(|message| message.position)
                .filter(|&end| Some(end) <= acknowledged)
                .chain([begin])
                .collect();
            known.position = known.position.max(Some(ends[run.checkpoint % ends.len()]));
        }
        for (to, sent) in sent.into_iter().enumerate() {
            let (in_time, more) = run.arrive[to];
            let in_time = if run.unannounced {
                in_time % 2
            } else {
                in_time.saturating_add(1)
            };
            let (arrived, rest) = sent.split_at(in_time.min(sent.len()));
            let read = topic[to].len();
            topic[to].extend_from_slice(arrived);
            let place = read + late_at[to].min(arrived.len());
            topic[to].splice(place..place, late[to].drain(..));
            // A publisher whose announcements weren't all acknowledged sends nothing else.
            late[to] = rest[..more.min(rest.len())].to_vec();
            late_at[to] = run.late[to];
        }
        // What tries again begins anew again.
        begins = is_fresh && run.unannounced;
        if begins {
            known.position = None;
        }
    }
    (topic, epoch)
}

/// Where an applier may go on.
#[derive(Clone)]
struct Committed {
    offsets: Vec<i64>,
    whole: Option<Position>,
}

fn begin(topic: &Topic, from: &Committed) -> Merge<Position> {
    // As a start does: by the last message before each offset.
    let last = |(partition, &offset): (&Vec<Message<Position>>, &i64)| {
        let before = &partition[..offset as usize];
        before.last().map_or(0, |message| message.session)
    };
    let session = topic.iter().zip(&from.offsets).map(last).max();
    Merge::after(from.whole, session.unwrap_or(0), &from.offsets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Publishers are killed anywhere, what was on the wire arrives late, anywhere, partitions are read at any pace, and who
    /// reads starts again from what it committed: every unit comes out whole, in order, and once.
    #[test]
    fn units_come_out_whole_in_order_and_once(
        units in proptest::collection::vec(1..5u32, 1..12),
        runs in proptest::collection::vec(run(), 0..6),
        partitions in 1..=PARTITIONS_MAX,
        spread in proptest::collection::vec(0..PARTITIONS_MAX, 1..12),
        pace in proptest::collection::vec((0..PARTITIONS_MAX, 0..3usize), 1..60),
        restarts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let (topic, last_epoch) = publish(&units, &runs, partitions, &spread);
        let mut committed = vec![Committed { offsets: vec![0; partitions], whole: None }];
        let mut applied: Option<Position> = None;
        let mut restarts = restarts.into_iter();
        let mut steps = 0;
        loop {
            // The sink has at least what it had when the offsets were committed.
            let restart = restarts.next();
            let at_restart = restart.as_ref().map_or(committed.len() - 1, |index| index.index(committed.len()));
            let mut from = committed[at_restart].clone();
            from.whole = applied;
            let mut merge = begin(&topic, &from);
            let mut next = from.offsets;
            let stop_after = restart.map_or(usize::MAX, |index| index.index(40));
            let mut read = 0;
            while read < stop_after {
                let all_read = next.iter().zip(&topic).all(|(&next, of)| next as usize == of.len());
                if all_read {
                    for partition in 0..partitions {
                        merge.is_at_end(partition);
                    }
                } else {
                    // Somebody's turn; at the end of its partition another one's.
                    let (turn, count) = pace[steps % pace.len()];
                    steps += 1;
                    let turn = (0..partitions).map(|by| (turn + by) % partitions)
                        .find(|&turn| (next[turn] as usize) < topic[turn].len()).expect("not all is read");
                    for _ in 0..=count {
                        if let Some(message) = topic[turn].get(next[turn] as usize) {
                            next[turn] += 1;
                            read += 1;
                            merge.put(turn, message.clone(), next[turn], 1);
                        }
                    }
                }
                while let Some(next) = merge.next().expect("what came is good") {
                    match next {
                        Next::Unit { position, events } => {
                            let count = units[position.lsn as usize - 1];
                            prop_assert_eq!(events.len() as u32, count);
                            prop_assert!(events.windows(2).all(|pair| pair[0] < pair[1]));
                            let follows = applied.is_some_and(|applied| {
                                applied.epoch == position.epoch && applied.lsn + 1 == position.lsn
                            });
                            prop_assert!(follows, "{} after {:?}", position, applied);
                            applied = Some(position);
                        }
                        Next::Anew(position) => {
                            prop_assert!(Some(position) > applied);
                            applied = Some(position);
                        }
                    }
                    prop_assert_eq!(applied, merge.whole());
                }
                if merge.is_between_units() && merge.gap().is_none() {
                    let offsets = (0..partitions).map(|partition| merge.done(partition)).collect();
                    committed.push(Committed { offsets, whole: merge.whole() });
                }
                if all_read {
                    break;
                }
            }
            if stop_after == usize::MAX {
                prop_assert_eq!(merge.gap(), None);
                break;
            }
        }
        let last = units.len();
        prop_assert_eq!(applied, Some(at(last_epoch, last as u64, units[last - 1] - 1)));
    }
}

/// What was lost is told with both positions, at once on a single partition.
#[test]
fn a_gap_is_told_and_a_fresh_session_ends_it() {
    let mut merge = Merge::after(Some(at(1, 2, 0)), 0, &[0]);
    let put = |merge: &mut Merge<Position>, message| {
        merge.put(0, message, 0, 1);
        merge.next().expect("what came is good")
    };
    let all = messages(1, 1, &[1; 9], at(1, 0, 0));
    assert_eq!(put(&mut merge, all[4].clone()), None);
    let gap = Gap {
        taken: Some(at(1, 2, 0)),
        needed: at(1, 4, 0),
    };
    assert_eq!(merge.gap(), Some(gap));
    assert_eq!(put(&mut merge, all[5].clone()), None);
    // A session that goes on after something that isn't there is a gap too.
    assert_eq!(put(&mut merge, announcement(2, at(1, 6, 0), false)), None);
    assert_eq!(merge.gap().map(|gap| gap.needed), Some(at(1, 6, 0)));
    assert_eq!(
        put(&mut merge, announcement(3, at(2, 0, 0), true)),
        Some(Next::Anew(at(2, 0, 0)))
    );
    assert_eq!(merge.gap(), None);
}

/// What the missing event would be on another partition may still come.
#[test]
fn what_may_still_come_is_waited_for() {
    let all = messages(1, 1, &[1, 1, 1], at(1, 0, 0));
    let mut merge = Merge::after(Some(at(1, 0, 0)), 1, &[0, 0]);
    merge.put(0, all[1].clone(), 1, 10);
    assert_eq!(merge.next(), Ok(None));
    assert_eq!((merge.gap(), merge.bytes(0)), (None, 10));
    assert_eq!(merge.missing().map(|gap| gap.needed), Some(at(1, 1, 0)));
    merge.put(1, all[0].clone(), 1, 10);
    for expected in &all[..2] {
        let next = merge.next().expect("what came is good");
        assert!(matches!(next, Some(Next::Unit { position, .. }) if position == expected.position));
    }
    assert_eq!((merge.bytes(0), merge.bytes(1)), (0, 0));
}

#[test]
fn a_unit_that_contradicts_itself_is_an_error() {
    let mut all = messages(1, 1, &[3], at(1, 0, 0));
    all[2].place = Some(Place {
        unit: 1,
        last_of: Some(2),
    });
    let mut merge = Merge::after(Some(at(1, 0, 0)), 1, &[0]);
    for message in all {
        merge.put(0, message, 0, 1);
    }
    let error = merge.next().expect_err("three aren't two");
    assert!(error.contains("2 events"), "{error}");
}
