//! Forks, children, threads, signals and cancellation.

mod common;

use common::Stand;
use counterfoil_lane::board::path_hash;
use counterfoil_lane::frame::Kind;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;

#[test]
fn a_forked_child_writes_into_a_lane_of_its_own() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            CHECK(write(fd, "parent", 6) == 6);
            pid_t child = fork();
            if (child == 0) {
                CHECK(write(fd, "child", 5) == 5);
                CHECK(close(fd) == 0);
                _exit(0);
            }
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            CHECK(write(fd, "again", 5) == 5);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a write 0 parent",
            "a write 6 child",
            "a close",
            "a write 11 again",
        ]
    );
    let frames = stand.frames();
    let processes: HashSet<u64> = frames.iter().map(|frame| frame.process).collect();
    let pids: HashSet<u32> = frames.iter().map(|frame| frame.pid).collect();
    assert_eq!((processes.len(), pids.len()), (2, 2));
    assert_ne!(frames[1].pid, frames[2].pid);
    stand.assert_replays("a");
}

#[test]
fn a_child_made_past_libc_is_recognised() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            CHECK(write(fd, "parent", 6) == 6);
            pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
            if (child == 0) {
                CHECK(write(fd, "child", 5) == 5);
                _exit(0);
            }
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            return 0;
        }"#,
    );
    stand.assert_replays("a");
    let pids: HashSet<u32> = stand.frames().iter().map(|frame| frame.pid).collect();
    assert_eq!(pids.len(), 2);
}

#[test]
fn writers_that_share_an_offset_cover_every_byte() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            for (int child = 0; child < 4; child++) {
                if (fork() == 0) {
                    char text[32];
                    for (int n = 0; n < 500; n++) {
                        int len = sprintf(text, "%d:%d\n", child, n);
                        CHECK(write(fd, text, len) == len);
                    }
                    _exit(0);
                }
            }
            int status;
            for (int child = 0; child < 4; child++) { CHECK(wait(&status) > 0 && status == 0); }
            return 0;
        }"#,
    );
    stand.assert_replays("a");
    stand.assert_no_gaps();
}

#[test]
fn an_executed_program_inherits_what_is_captured() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT | O_APPEND, 0644);
            CHECK(write(fd, "parent\n", 7) == 7);
            CHECK(dup2(fd, 1) == 1);
            close(fd);
            execlp("sh", "sh", "-c", "echo child; echo grandchild | cat", NULL);
            return 1;
        }"#,
    );
    stand.assert_replays("a");
    assert!(
        stand
            .story()
            .iter()
            .any(|line| line.starts_with("a write 7 child"))
    );
    stand.assert_no_gaps();
}

#[test]
fn children_in_the_parents_memory_leave_its_table_alone() {
    let stand = Stand::new();
    stand.run(
        r#"
        volatile int seen;
        int main(void) {
            int a = open("a", O_WRONLY | O_CREAT, 0644);
            int b = open("b", O_WRONLY | O_CREAT, 0644);
            posix_spawn_file_actions_t actions;
            posix_spawn_file_actions_init(&actions);
            posix_spawn_file_actions_addclose(&actions, a);
            posix_spawn_file_actions_adddup2(&actions, b, 1);
            posix_spawn_file_actions_addopen(&actions, 9, "c", O_WRONLY | O_CREAT | O_TRUNC, 0644);
            char *arguments[] = {"sh", "-c", "echo spawned; echo nine >&9", NULL};
            pid_t child;
            CHECK(posix_spawnp(&child, "sh", &actions, NULL, arguments, environ) == 0);
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            child = vfork();
            if (child == 0) { close(a); dup2(b, a); seen = 1; _exit(0); }
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            CHECK(seen == 1);
            CHECK(write(a, "into a", 6) == 6);
            CHECK(write(b, "into b", 6) == 6);
            CHECK(system("echo system >> d") == 0);
            FILE *pipe = popen("cat >> e", "w");
            fputs("popen", pipe);
            CHECK(pclose(pipe) == 0);
            return 0;
        }"#,
    );
    let story = stand.story();
    assert!(story.contains(&"a write 0 into a".to_owned()), "{story:?}");
    assert!(story.contains(&"b write 8 into b".to_owned()), "{story:?}");
    for file in ["a", "b", "c", "d", "e"] {
        stand.assert_replays(file);
    }
    stand.assert_no_gaps();
}

#[test]
fn threads_that_append_cover_every_byte() {
    let stand = Stand::new();
    stand.run(
        r#"
        int shared;
        void *run(void *argument) {
            int own = open("own", O_WRONLY | O_CREAT | O_APPEND, 0644);
            char text[32];
            for (int n = 0; n < 100; n++) {
                int len = sprintf(text, "%ld:%d\n", (long)argument, n);
                CHECK(write(own, text, len) == len);
                CHECK(write(shared, text, len) == len);
            }
            close(own);
            return NULL;
        }
        int main(void) {
            shared = open("shared", O_WRONLY | O_CREAT | O_APPEND, 0644);
            pthread_t threads[64];
            for (long n = 0; n < 64; n++) CHECK(pthread_create(&threads[n], NULL, run, (void *)n) == 0);
            for (int n = 0; n < 64; n++) CHECK(pthread_join(threads[n], NULL) == 0);
            return 0;
        }"#,
    );
    stand.assert_replays("own");
    stand.assert_replays("shared");
    stand.assert_no_gaps();
}

#[test]
fn lanes_of_ended_threads_are_used_again() {
    let stand = Stand::new();
    stand.run(
        r#"
        void *run(void *argument) {
            int fd = open("a", O_WRONLY | O_CREAT | O_APPEND, 0644);
            CHECK(write(fd, "x", 1) == 1);
            close(fd);
            return NULL;
        }
        int main(void) {
            for (int n = 0; n < 200; n++) {
                pthread_t thread;
                CHECK(pthread_create(&thread, NULL, run, NULL) == 0);
                CHECK(pthread_join(thread, NULL) == 0);
            }
            return 0;
        }"#,
    );
    let lanes: HashSet<u32> = stand.frames().iter().map(|frame| frame.lane).collect();
    assert_eq!(lanes.len(), 1);
    stand.assert_replays("a");
}

#[test]
fn a_signal_handler_may_write_at_any_time() {
    let stand = Stand::new();
    stand.run(
        r#"
        int log_fd;
        volatile int count;
        void handler(int number) { if (count < 3000) { count++; CHECK(write(log_fd, "tick\n", 5) == 5); } }
        int main(void) {
            log_fd = open("log", O_WRONLY | O_CREAT | O_APPEND, 0644);
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
            sigaction(SIGALRM, &action, NULL);
            struct itimerval often = {{0, 50}, {0, 50}};
            setitimer(ITIMER_REAL, &often, NULL);
            for (int n = 0; n < 200000 && count < 3000; n++) CHECK(pwrite(fd, &n, sizeof n, (n % 1000) * sizeof n) == sizeof n);
            signal(SIGALRM, SIG_IGN);
            CHECK(write(fd, "end", 3) == 3);
            return 0;
        }"#,
    );
    stand.assert_replays("a");
    stand.assert_replays("log");
    stand.assert_no_gaps();
    let lanes: HashSet<u32> = stand.frames().iter().map(|frame| frame.lane).collect();
    assert!(lanes.len() <= 2, "{lanes:?}");
}

/// A handler interrupts a captured call, forks, and returns in both: the child goes on inside a call that its parent began,
/// with a lane that isn't there any more. It must live, and neither tell of that call nor hide what it did itself.
#[test]
fn a_child_that_a_handler_forks_inside_a_call_lives_on_and_each_tells_its_own() {
    for (mode, fork) in [
        ("1", "fork()"),
        ("1", "_Fork()"),
        ("1", "syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)"),
        ("0", "fork()"),
    ] {
        let stand = Stand::new();
        let program = stand.compile(&format!(
            "#define FORK() {fork}\n{}",
            r#"
        volatile int forks, is_child, at_call, inside;
        int own;
        void handler(int number) {
            if (is_child || forks >= 300) return;
            int before = errno;
            pid_t child = FORK();
            CHECK(child >= 0);
            forks++;
            if (child == 0) { is_child = 1; inside = at_call; }
            errno = before;
        }
        void one(int fd, int stream, int n) {
            at_call = 1;
            CHECK(pwrite(fd, &n, sizeof n, (n % 1000) * sizeof n) == sizeof n);
            CHECK(write(stream, "0123456789", 10) == 10);
            at_call = 0;
        }
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            int stream = open("b", O_WRONLY | O_CREAT | O_TRUNC, 0644);
            own = open("own", O_WRONLY | O_CREAT | O_APPEND, 0644);
            struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
            sigaction(SIGALRM, &action, NULL);
            struct itimerval often = {{0, 700}, {0, 700}}, never = {};
            struct timespec begun, now;
            clock_gettime(CLOCK_MONOTONIC, &begun);
            setitimer(ITIMER_REAL, &often, NULL);
            int waited = 0, were_inside = 0, status;
            for (int n = 0; !is_child && forks < 300; n++) {
                one(fd, stream, n);
                if (n % 64 == 0 && !is_child) {
                    clock_gettime(CLOCK_MONOTONIC, &now);
                    if (now.tv_sec - begun.tv_sec >= 5) break;
                    while (waitpid(-1, &status, WNOHANG) > 0) {
                        CHECK(WIFEXITED(status) && WEXITSTATUS(status) < 2);
                        were_inside += WEXITSTATUS(status);
                        waited++;
                    }
                }
            }
            if (is_child) {
                setitimer(ITIMER_REAL, &never, NULL);
                CHECK(write(own, "child\n", 6) == 6);
                _exit(inside);
            }
            setitimer(ITIMER_REAL, &never, NULL);
            signal(SIGALRM, SIG_IGN);
            while (waited < forks) {
                CHECK(waitpid(-1, &status, 0) > 0);
                CHECK(WIFEXITED(status) && WEXITSTATUS(status) < 2);
                were_inside += WEXITSTATUS(status);
                waited++;
            }
            struct stat there;
            CHECK(fstat(own, &there) == 0 && there.st_size == 6 * forks);
            printf("%d %d\n", forks, were_inside);
            return 0;
        }"#
        ));
        let output = stand
            .command(program)
            .env("COUNTERFOIL_PATCH", mode)
            .output()
            .unwrap();
        assert!(output.status.success(), "{fork}: {output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<u32> = said
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        // Otherwise nothing was tried.
        assert!(numbers[0] > 20 && numbers[1] > 5, "{fork}: {said}");
        // What a child may have made itself of its parent's call it can only mark; everything else is told, and rightly.
        let (marked, everything) = stand.gaps();
        assert!(!everything);
        let is_marked = |file: &str| {
            let path = stand.data().join(file);
            marked.contains(&path_hash(path.as_os_str().as_bytes()))
        };
        assert!(!is_marked("own"), "{fork}");
        for file in ["a", "b"] {
            if !is_marked(file) {
                stand.assert_replays(file);
            }
        }
        let told = stand.replay("b");
        let untold = told.iter().filter(|&&byte| byte == 0).count();
        assert!(untold <= 10 * numbers[1] as usize, "{fork}: {untold}");
        assert!(
            told.iter()
                .zip(b"0123456789".iter().cycle())
                .all(|(&told, &right)| told == right || told == 0)
        );
        let pids = |file: &str| -> HashSet<u32> {
            let frames = stand.frames().into_iter();
            frames
                .filter(|frame| {
                    frame.file == file && matches!(frame.kind, Kind::Write | Kind::Reread)
                })
                .map(|frame| frame.pid)
                .collect()
        };
        assert_eq!(pids("own").len(), numbers[0] as usize, "{fork}");
        stand.assert_replays("own");
    }
}

/// A handler that writes to the very file whose write it interrupts: where that one went can't be told from the file offset
/// alone.
#[test]
fn a_handler_that_writes_through_the_descriptor_it_interrupts_is_told_at_its_place() {
    let stand = Stand::new();
    stand.run(
        r#"
        int fd;
        volatile int count;
        void handler(int number) { if (count < 2000) { count++; CHECK(write(fd, "tick\n", 5) == 5); } }
        int main(void) {
            fd = open("a", O_WRONLY | O_CREAT, 0644);
            struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
            sigaction(SIGALRM, &action, NULL);
            struct itimerval often = {{0, 100}, {0, 100}};
            setitimer(ITIMER_REAL, &often, NULL);
            char text[32];
            for (int n = 0; n < 200000 && count < 2000; n++) {
                int len = sprintf(text, "%d\n", n);
                CHECK(write(fd, text, len) == len);
            }
            signal(SIGALRM, SIG_IGN);
            return 0;
        }"#,
    );
    stand.assert_replays("a");
    stand.assert_no_gaps();
}

#[test]
fn a_thread_that_waits_in_a_write_can_be_cancelled() {
    for mode in ["1", "0"] {
        let stand = Stand::new();
        let program = stand.compile(
            r#"
            int ends[2], captured;
            volatile int cleaned, begun;
            void cleanup(void *argument) { cleaned = 1; }
            void *block(void *argument) {
                pthread_cleanup_push(cleanup, NULL);
                static char many[1 << 20];
                begun = 1;
                write(ends[1], many, sizeof many);
                pthread_cleanup_pop(0);
                return NULL;
            }
            void *pending(void *argument) {
                pthread_cleanup_push(cleanup, NULL);
                pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
                begun = 1;
                while (begun == 1) ;
                CHECK(write(captured, "kept", 4) == 4);
                pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
                write(captured, "never", 5);
                pthread_cleanup_pop(0);
                return NULL;
            }
            int main(void) {
                CHECK(pipe(ends) == 0);
                captured = open("a", O_WRONLY | O_CREAT, 0644);
                pthread_t thread;
                void *result;
                CHECK(pthread_create(&thread, NULL, block, NULL) == 0);
                while (!begun) ;
                CHECK(pthread_cancel(thread) == 0);
                CHECK(pthread_join(thread, &result) == 0);
                CHECK(result == PTHREAD_CANCELED && cleaned);
                cleaned = begun = 0;
                CHECK(pthread_create(&thread, NULL, pending, NULL) == 0);
                while (!begun) ;
                CHECK(pthread_cancel(thread) == 0);
                begun = 2;
                CHECK(pthread_join(thread, &result) == 0);
                CHECK(result == PTHREAD_CANCELED && cleaned);
                CHECK(write(captured, "after", 5) == 5);
                return 0;
            }"#,
        );
        let status = stand
            .command(program)
            .env("COUNTERFOIL_PATCH", mode)
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(
            stand.story(),
            ["a open 0 created", "a write 0 kept", "a write 4 after"]
        );
    }
}

#[test]
fn a_killed_program_leaves_its_call_published() {
    let stand = Stand::new();
    // The kernel kills it inside the call: a file size limit with SIGXFSZ left at its default.
    let program = stand.compile(
        r#"
        #include <sys/resource.h>
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            struct rlimit limit = {4096, 4096};
            CHECK(write(fd, "before", 6) == 6);
            CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
            pwrite(fd, "beyond", 6, 10000);
            return 0;
        }"#,
    );
    let status = stand.command(program).status().unwrap();
    assert!(status.signal().is_some(), "{status:?}");
    let in_flight: Vec<_> = std::fs::read_dir(stand.lanes())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "lane"))
        .filter_map(|path| {
            counterfoil_lane::reader::Segment::open(&path)
                .unwrap()
                .in_flight()
        })
        .collect();
    assert_eq!(in_flight.len(), 1);
    assert_eq!((in_flight[0].offset, in_flight[0].group), (10000, 3));
    assert!(
        stand
            .frames()
            .iter()
            .all(|frame| frame.kind != Kind::Write || frame.offset == 0)
    );
}
