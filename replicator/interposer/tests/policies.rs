//! What a program does when it can't tell what it is about to do: as its group wants, and never more.

mod common;

use common::Stand;
use counterfoil_lane::board::{self, path_hash};
use counterfoil_lane::frame::Kind;
use counterfoil_lane::reader::Segment;
use counterfoil_lane::rules::{self, Policy, Rule, Unavailable};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const BLOCKS: Policy = Policy {
    waits_for_room: true,
    unavailable: Unavailable::Continue,
};

/// Announces rules as the replicator does: everything in the data directory, with this policy.
fn announce(stand: &Stand, policy: Policy) {
    let board = stand.board();
    let number = board.rules.load(Ordering::Acquire) + 1;
    let rule = Rule {
        group: 3,
        exclude: false,
        pattern: stand.data().join("**").as_os_str().as_bytes().to_vec(),
    };
    std::fs::write(
        stand.lanes().join(rules::file_name(number)),
        rules::encode_with(&[rule], |_| policy),
    )
    .unwrap();
    board.rules.store(number, Ordering::Release);
}

/// A lanes directory with a fresh board, as a replicator that is started makes it.
fn make_lanes(stand: &Stand) {
    let fresh = stand.root.path().join("lanes.new");
    std::fs::create_dir(&fresh).unwrap();
    let mut bytes = vec![0; board::BYTES];
    bytes[..24].copy_from_slice(&board::initial_header(stand.lane_bytes_max));
    std::fs::write(fresh.join(board::FILE_NAME), bytes).unwrap();
    std::fs::rename(&fresh, stand.lanes()).unwrap();
}

fn segments(lanes: &Path) -> Vec<std::sync::Arc<Segment>> {
    std::fs::read_dir(lanes)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "lane")
        })
        .filter_map(|path| Segment::open(&path).ok())
        .collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "waited for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes of data in a segment's write frames.
fn written_in(segment: &Segment) -> u64 {
    let (mut at, mut sum) = (0, 0);
    while at < segment.tail() {
        let (header, kind, _) = segment.frame(at, segment.tail()).unwrap();
        at += header.len as usize;
        if kind == Kind::Write {
            sum += u64::from(header.data_len);
        }
    }
    sum
}

fn succeeded(mut child: Child) {
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
}

/// Writes in many lengths, one of them several frames long, by four calls; then says so with a file.
const WRITES: &str = r#"
static char data[200000];
int main(void) {
    int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644), length[] = {100, 4000, 70000, 76000, 1};
    CHECK(fd >= 0);
    for (int round = 0; round < 40; round++) {
        int len = length[round % 5];
        struct iovec parts[3] = {{data, len}, {data, len / 2}, {data, 7}};
        CHECK(write(fd, data, len) == len);
        CHECK(pwrite(fd, data, len, round * 1000) == len);
        CHECK(writev(fd, parts, 3) == len + len / 2 + 7);
        struct iovec bad = {(void *)8, 4};
        CHECK(writev(fd, &bad, 1) == -1 && errno == EFAULT);
        CHECK(writev(fd, (void *)8, 2) == -1 && errno == EFAULT);
    }
    struct stat status;
    CHECK(fstat(fd, &status) == 0 && close(fd) == 0);
    return 0;
}
"#;

#[test]
fn a_program_whose_lane_is_full_waits_until_there_is_room_and_nothing_is_left_out() {
    // One segment, and several.
    for lane_bytes_max in [64 << 10, 3 << 20] {
        let stand = Stand::with_limit(lane_bytes_max);
        announce(&stand, BLOCKS);
        let program = stand.compile(WRITES);
        let mut child = stand.command(&program).spawn().unwrap();
        let lanes = stand.lanes();
        wait_until("the program to wait", || {
            segments(&lanes)
                .iter()
                .any(|segment| segment.waiting_since().is_some())
        });
        assert!(child.try_wait().unwrap().is_none());
        // The part of the sequencer: what is full is taken, and handed back.
        let mut sum = 0;
        wait_until("the program's end", || {
            let mut full: Vec<_> = segments(&lanes)
                .into_iter()
                .filter(|segment| segment.is_full())
                .collect();
            full.sort_by_key(|segment| segment.sequence());
            for segment in full {
                sum += written_in(&segment);
                segment.free();
            }
            child.try_wait().unwrap().is_some()
        });
        succeeded(child);
        let all = segments(&lanes);
        sum += all
            .iter()
            .filter(|segment| !segment.is_free())
            .map(|segment| written_in(segment))
            .sum::<u64>();
        assert!(all.iter().all(|segment| segment.waiting_since().is_none()));
        let expected: u64 = (0..40)
            .map(|round| [100, 4000, 70_000, 76_000, 1][round % 5])
            .map(|len: u64| 2 * len + len + len / 2 + 7)
            .sum();
        assert_eq!(sum, expected);
        stand.assert_no_gaps();
    }
}

#[test]
fn a_program_that_waits_goes_on_at_once_when_its_group_may_grow_again() {
    let stand = Stand::with_limit(64 << 10);
    announce(&stand, BLOCKS);
    let program = stand.compile(WRITES);
    let child = stand.command(&program).spawn().unwrap();
    wait_until("the program to wait", || {
        segments(&stand.lanes())
            .iter()
            .any(|segment| segment.waiting_since().is_some())
    });
    announce(&stand, Policy::default());
    succeeded(child);
    let path = stand.data().join("f");
    assert_eq!(stand.gaps().0, [path_hash(path.as_os_str().as_bytes())]);
}

#[test]
fn a_waiting_program_takes_signals_and_can_be_killed() {
    let stand = Stand::with_limit(64 << 10);
    announce(&stand, BLOCKS);
    let program = stand.compile(
        r#"
static char data[50000];
static volatile int alarms;
static void on_alarm(int number) { if (++alarms == 5) _exit(7); }
int main(void) {
    struct itimerval timer = {{0, 50000}, {0, 50000}};
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &timer, NULL);
    int fd = open("f", O_WRONLY | O_CREAT, 0644);
    for (;;) CHECK(write(fd, data, sizeof data) == sizeof data);
}
"#,
    );
    let status = stand.command(program).status().unwrap();
    assert_eq!(status.code(), Some(7));
}

#[test]
fn what_never_fits_does_not_wait_for_ever() {
    let stand = Stand::with_limit(64 << 10);
    announce(&stand, BLOCKS);
    stand.run(
        r#"
int main(void) {
    int fd = open("f", O_WRONLY | O_CREAT, 0644);
    char *data = calloc(1, 3000000);
    CHECK(write(fd, data, 3000000) == 3000000);
    return 0;
}
"#,
    );
    let path = stand.data().join("f");
    assert_eq!(stand.gaps().0, [path_hash(path.as_os_str().as_bytes())]);
}

/// Says what each call gives, before, while and after the lanes directory is away; the test moves on with the program.
const AWAY: &str = r#"
static char data[70000];
static void step(const char *name) { int fd = creat(name, 0644); CHECK(fd >= 0); close(fd); }
static void await(const char *name) { while (access(name, F_OK)) usleep(2000); }
int main(void) {
    int fd = open("f", O_RDWR | O_CREAT, 0644);
    CHECK(write(fd, data, 10) == 10);
    step("../first");
    await("../away");
    // More than the first segment holds, so that the next one is missed.
    for (int i = 0; i < 20; i++) {
        ssize_t n = write(fd, data, sizeof data);
        if (n < 0) { dprintf(1, "write %s\n", strerror(errno)); break; }
    }
    dprintf(1, "ftruncate %d\n", ftruncate(fd, 100) ? errno : 0);
    dprintf(1, "rename %d\n", rename("f", "g") ? errno : 0);
    dprintf(1, "truncating %d\n", open("h", O_WRONLY | O_CREAT | O_TRUNC, 0644) < 0 ? errno : 0);
    dprintf(1, "uncaptured %d\n", open("../h", O_WRONLY | O_CREAT | O_TRUNC, 0644) < 0 ? errno : 0);
    dprintf(1, "close %d\n", close(fd) ? errno : 0);
    step("../second");
    return 0;
}
"#;

fn run_away(unavailable: Unavailable, while_away: impl FnOnce(&Stand)) -> (Stand, String) {
    let stand = Stand::new();
    announce(
        &stand,
        Policy {
            waits_for_room: false,
            unavailable,
        },
    );
    let program = stand.compile(AWAY);
    let mut command = stand.command(program);
    command.stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let root = stand.root.path().to_owned();
    wait_until("the first write", || root.join("first").exists());
    std::fs::remove_dir_all(stand.lanes()).unwrap();
    std::fs::write(root.join("away"), "").unwrap();
    while_away(&stand);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (stand, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn without_a_lanes_directory_a_program_goes_on() {
    let (stand, said) = run_away(Unavailable::Continue, |_| {});
    assert_eq!(
        said,
        "ftruncate 0\nrename 0\ntruncating 0\nuncaptured 0\nclose 0\n"
    );
    assert!(stand.data().join("g").exists());
}

#[test]
fn without_a_lanes_directory_a_call_fails_where_that_is_asked_for_and_changes_nothing() {
    let (stand, said) = run_away(Unavailable::Fail, |_| {});
    assert_eq!(
        said,
        format!(
            "write {}\nftruncate 5\nrename 5\ntruncating 5\nuncaptured 0\nclose 0\n",
            std::io::Error::from_raw_os_error(5)
                .to_string()
                .split(" (")
                .next()
                .unwrap()
        )
    );
    assert!(!stand.data().join("g").exists() && !stand.data().join("h").exists());
}

#[test]
fn without_a_lanes_directory_a_program_waits_where_that_is_asked_for() {
    let (stand, said) = run_away(Unavailable::Block, |stand| {
        let second = stand.root.path().join("second");
        // It can't get there: what it waits for isn't there.
        for _ in 0..50 {
            assert!(!second.exists());
            std::thread::sleep(Duration::from_millis(5));
        }
        make_lanes(stand);
        announce(stand, Policy::default());
    });
    assert_eq!(
        said,
        "ftruncate 0\nrename 0\ntruncating 0\nuncaptured 0\nclose 0\n"
    );
    // What was written while nobody knew is marked, the rest told.
    let path = stand.data().join("f");
    assert!(
        stand
            .gaps()
            .0
            .contains(&path_hash(path.as_os_str().as_bytes()))
    );
    assert!(stand.story().contains(&"f truncate 100".to_owned()));
}

/// Threads that write all the time while another board takes the place of theirs; each stops when told to.
const WRITES_ON: &str = r#"
static void *work(void *number) {
    char name[20], data[100] = "x";
    sprintf(name, "t%ld", (long)number);
    int fd = open(name, O_WRONLY | O_CREAT, 0644);
    CHECK(fd >= 0);
    for (long n = 0; access("../stop", F_OK); n++) {
        sprintf(data, "%ld", n);
        CHECK(pwrite(fd, data, sizeof data, 100 * (n % 1000)) == sizeof data);
        usleep(500);
    }
    CHECK(pwrite(fd, "last", 5, 100000) == 5);
    return NULL;
}
int main(void) {
    pthread_t threads[4];
    for (long n = 0; n < 4; n++) CHECK(pthread_create(&threads[n], NULL, work, (void *)n) == 0);
    for (int n = 0; n < 4; n++) pthread_join(threads[n], NULL);
    if (fork() == 0) {
        int fd = open("child", O_WRONLY | O_CREAT, 0644);
        CHECK(write(fd, "c", 1) == 1);
        _exit(0);
    }
    wait(NULL);
    return 0;
}
"#;

#[test]
fn running_threads_join_the_board_that_takes_the_place_of_theirs_and_mark_what_they_wrote_between()
{
    let stand = Stand::new();
    let program = stand.compile(WRITES_ON);
    let child = stand.command(program).spawn().unwrap();
    let data = stand.data();
    wait_until("all threads to write", || {
        (0..4).all(|n| {
            data.join(format!("t{n}"))
                .metadata()
                .is_ok_and(|m| m.len() > 0)
        })
    });
    for _ in 0..2 {
        std::fs::remove_dir_all(stand.lanes()).unwrap();
        make_lanes(&stand);
        announce(&stand, Policy::default());
        let mut marked = Vec::new();
        wait_until("every file to be marked on the new board", || {
            marked.extend(stand.gaps().0);
            (0..4).all(|n| {
                let path = data.join(format!("t{n}"));
                marked.contains(&path_hash(path.as_os_str().as_bytes()))
            })
        });
        wait_until("every thread to have a lane there", || {
            segments(&stand.lanes()).len() >= 4
        });
    }
    std::fs::write(stand.root.path().join("stop"), "").unwrap();
    succeeded(child);
    let story = stand.story();
    for n in 0..4 {
        assert!(story.contains(&format!("t{n} write 100000 last\0")), "{n}");
    }
    assert!(story.contains(&"child write 0 c".to_owned()));
}

#[test]
fn an_empty_name_of_a_directory_means_that_nothing_is_captured() {
    let stand = Stand::new();
    let program =
        stand.compile("int main(void) { return write(creat(\"f\", 0644), \"x\", 1) != 1; }");
    let status = stand
        .command(&program)
        .env("COUNTERFOIL_LANES", "")
        .status()
        .unwrap();
    assert!(status.success() && stand.frames().is_empty());
    assert!(stand.command(&program).status().unwrap().success());
    assert!(!stand.frames().is_empty());
}

/// A board of a layout that isn't known: nothing is captured, and the program is left alone.
#[test]
fn a_board_of_another_layout_means_that_nothing_is_captured() {
    let stand = Stand::new();
    let path: PathBuf = stand.lanes().join(board::FILE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] += 1;
    std::fs::write(&path, bytes).unwrap();
    stand.run("int main(void) { return write(creat(\"f\", 0644), \"x\", 1) != 1; }");
    assert!(segments(&stand.lanes()).is_empty());
    assert_eq!(std::fs::read(stand.data().join("f")).unwrap(), b"x");
}

/// While a program runs, a board of a layout it doesn't know takes the place of its own: it goes on, uncaptured.
#[test]
fn a_board_of_another_layout_in_the_place_of_a_known_one_is_not_joined() {
    let (stand, said) = run_away(Unavailable::Continue, |stand| {
        make_lanes(stand);
        let path = stand.lanes().join(board::FILE_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] += 1;
        std::fs::write(&path, bytes).unwrap();
    });
    assert!(said.ends_with("close 0\n"));
    assert!(segments(&stand.lanes()).is_empty());
}
