//! Marks of units of work: `counterfoil_begin`, `counterfoil_commit`, `counterfoil_abort`.

mod common;

use common::{Frame, Stand};
use counterfoil_lane::REVISION;
use counterfoil_lane::frame::{CLOSE_KEEPS_LOCKS, Kind, MARK_RESUMED};
use std::process::Command;

/// The header as it is shipped.
fn header() -> String {
    format!(
        "#include \"{}/include/counterfoil.h\"\n",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// Kind and depth of all marks, and `-` for everything else, in order.
fn marks(frames: &[Frame]) -> Vec<String> {
    frames
        .iter()
        .map(|frame| match frame.kind {
            Kind::Begin | Kind::Commit | Kind::Abort => {
                assert_eq!(frame.offset, u64::MAX, "for all groups");
                format!("{} {}", frame.line(), frame.extent)
            }
            _ => "-".to_owned(),
        })
        .collect()
}

#[test]
fn marks_lie_between_the_writes_and_change_nothing() {
    let stand = Stand::new();
    stand.run(
        &(header()
            + r#"
int main(void) {
    int fd = open("a", O_CREAT | O_WRONLY, 0600);
    errno = 77;
    CHECK(counterfoil_begin() == 0 && errno == 77);
    CHECK(write(fd, "1", 1) == 1);
    CHECK(counterfoil_begin() == 0);
    CHECK(counterfoil_abort() == 0);
    CHECK(counterfoil_commit() == 0);
    CHECK(write(fd, "2", 1) == 1);
    CHECK(counterfoil_commit() == 0 && counterfoil_abort() == 0 && errno == 77);
    return 0;
}"#),
    );
    let frames = stand.frames();
    assert_eq!(
        marks(&frames),
        ["-", "begin 1", "-", "begin 2", "abort 1", "commit 0", "-",],
        "{:#?}",
        stand.story()
    );
    assert!(
        frames
            .iter()
            .all(|frame| frame.flags & MARK_RESUMED == 0 || frame.kind == Kind::Open)
    );
}

#[test]
fn whatever_the_program_is_compiled_to() {
    let stand = Stand::new();
    let source = header()
        + r#"
int main(void) {
    counterfoil_begin();
    counterfoil_commit();
    return 0;
}"#;
    for flags in [
        &["-O0"][..],
        &["-O2"],
        &["-O2", "-fno-pic", "-no-pie"],
        &["-O0", "-fno-pic", "-no-pie"],
        &["-O2", "-fno-plt"],
        &["-O2", "-std=c99", "-flto"],
    ] {
        let before = stand.frames().len();
        let program = stand.compile_with(&source, flags);
        let alone = Command::new(&program).status().unwrap();
        assert!(alone.success(), "without the library, {flags:?}");
        let captured = stand.command(&program).status().unwrap();
        assert!(captured.success(), "{flags:?}");
        assert_eq!(stand.frames().len(), before + 2, "{flags:?}");
    }
    let program = stand.compile_with(&source, &["-static"]);
    assert!(stand.command(program).status().unwrap().success());
}

#[test]
fn a_child_has_nothing_open_of_its_parents() {
    let stand = Stand::new();
    stand.run(
        &(header()
            + r#"
int main(void) {
    int status;
    int fd = open("a", O_CREAT | O_WRONLY | O_APPEND, 0600);
    CHECK(counterfoil_begin() == 0);
    pid_t child = fork();
    if (child == 0) {
        counterfoil_commit(); // the end of nothing
        CHECK(write(fd, "c", 1) == 1);
        counterfoil_begin();
        counterfoil_commit();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    child = vfork();
    if (child == 0) {
        counterfoil_commit(); // in its parent's memory
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(write(fd, "p", 1) == 1);
    CHECK(counterfoil_commit() == 0);
    return 0;
}"#),
    );
    let frames = stand.frames();
    let parent = frames[0].process;
    let (own, childs): (Vec<Frame>, Vec<Frame>) = frames
        .into_iter()
        .partition(|frame| frame.process == parent);
    assert_eq!(marks(&own), ["-", "begin 1", "-", "commit 0"]);
    assert_eq!(marks(&childs), ["-", "begin 1", "commit 0"]);
}

#[test]
fn threads_and_signal_handlers_count_together() {
    let stand = Stand::new();
    stand.run(
        &(header()
            + r#"
enum { THREADS = 8, TURNS = 200 };
static int fd;
static void handler(int number) {
    int before = errno;
    counterfoil_begin();
    CHECK(write(fd, "s", 1) == 1);
    counterfoil_commit();
    errno = before;
}
static void *work(void *argument) {
    for (int turn = 0; turn < TURNS; turn++) {
        counterfoil_begin();
        CHECK(write(fd, "t", 1) == 1);
        counterfoil_commit();
    }
    return 0;
}
int main(void) {
    pthread_t threads[THREADS];
    fd = open("a", O_CREAT | O_WRONLY | O_APPEND, 0600);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], 0, work, 0) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], 0) == 0);
    setitimer(ITIMER_REAL, &never, 0);
    counterfoil_begin();
    counterfoil_commit();
    return 0;
}"#),
    );
    let frames = stand.frames();
    let count = |kind| frames.iter().filter(|frame| frame.kind == kind).count();
    assert_eq!(count(Kind::Begin), count(Kind::Commit));
    assert!(count(Kind::Begin) > 8 * 200);
    let last: Vec<String> = marks(&frames).split_off(frames.len() - 2);
    assert_eq!(last, ["begin 1", "commit 0"], "nothing stayed open");
    stand.assert_replays("a");
    stand.assert_no_gaps();
}

#[test]
fn a_replicator_that_does_not_know_marks_is_told_none_and_the_next_one_what_is_open() {
    let stand = Stand::new();
    stand.set_revision(0);
    let program = stand.compile(
        &(header()
            + r#"
int main(void) {
    char go;
    counterfoil_begin();
    counterfoil_begin();
    CHECK(write(1, "x", 1) == 1 && read(0, &go, 1) == 1);
    counterfoil_commit();
    counterfoil_commit();
    return 0;
}"#),
    );
    let mut child = stand
        .command(program)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::{Read, Write};
    let mut said = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(stand.frames(), []);
    stand.set_revision(REVISION);
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    assert!(child.wait().unwrap().success());
    let frames = stand.frames();
    assert_eq!(marks(&frames), ["commit 1", "commit 0"]);
    assert_eq!(frames[0].flags, MARK_RESUMED);
    assert_eq!(frames[1].flags, 0);
}

#[test]
fn locks_that_go_with_another_descriptor_are_told() {
    let stand = Stand::new();
    stand.run(
        r#"
static void lock(int fd, int command, short type, off_t start) {
    struct flock region = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 10};
    CHECK(fcntl(fd, command, &region) == 0);
}
int main(void) {
    int status;
    int fd = open("a", O_CREAT | O_RDWR, 0600);
    lock(fd, F_SETLK, F_WRLCK, 0);
    CHECK(close(open("/dev/null", O_RDONLY)) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(open("a", O_RDONLY)); // has no lock to lose
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(close(open("a", O_RDONLY)) == 0); // gives it up
    CHECK(close(open("a", O_RDONLY)) == 0); // nothing any more
    lock(fd, F_OFD_SETLK, F_WRLCK, 20);
    int other = open("a", O_RDWR);
    CHECK(pwrite(other, "x", 1, 0) == 1);
    CHECK(close(other) == 0); // keeps it
    CHECK(close(fd) == 0); // gives it up
    return 0;
}"#,
    );
    let story = stand.story();
    assert_eq!(
        story,
        [
            "a open 0 created",
            "a lock 0+10",
            "a unlock 0+-1",
            "a lock 20+10",
            "a open 0",
            "a write 0 x",
            "a close",
            "a close",
        ]
    );
    let closes = stand.frames();
    let closes = closes.iter().filter(|frame| frame.kind == Kind::Close);
    let keeps: Vec<u16> = closes.map(|frame| frame.flags).collect();
    assert_eq!(keeps, [CLOSE_KEEPS_LOCKS, 0]);
}

#[test]
fn the_samples_run_alone_and_mark_their_unit_when_captured() {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples");
    let include = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let built = tempfile::tempdir().unwrap();
    let compile = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| {
            panic!("{command:?}: {error}; install the packages gcc and gnucobol3")
        });
        assert!(output.status.success(), "{output:?}");
    };
    let (c, cobol) = (
        built.path().join("units-c"),
        built.path().join("units-cobol"),
    );
    compile(
        Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-I"])
            .arg(include)
            .arg("-o")
            .arg(&c)
            .arg(samples.join("units.c")),
    );
    compile(
        Command::new("cobc")
            .args(["-x", "-o"])
            .arg(&cobol)
            .arg(samples.join("units.cob")),
    );
    for words in [
        vec![c],
        vec![cobol],
        vec!["/usr/bin/python3".into(), samples.join("units.py")],
    ] {
        let stand = Stand::new();
        let mut alone = Command::new(&words[0]);
        alone.args(&words[1..]).current_dir(stand.data());
        let output = alone.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        let output = stand.command(&words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        for file in ["debits.txt", "credits.txt"] {
            let text = std::fs::read_to_string(stand.data().join(file)).unwrap();
            assert_eq!(text.lines().count(), 2, "{words:?}: {text:?}");
        }
        let frames = stand.frames();
        let marks = marks(&frames);
        assert_eq!(
            marks.first().map(String::as_str),
            Some("begin 1"),
            "{words:?}"
        );
        assert_eq!(
            marks.last().map(String::as_str),
            Some("commit 0"),
            "{words:?}"
        );
        let writes = frames.iter().filter(|frame| frame.kind == Kind::Write);
        assert_eq!(writes.count(), 2, "{words:?}: {:?}", stand.story());
    }
}
