//! Thousands of threads and of open files.

mod common;

use common::Stand;
use counterfoil_lane::frame::Kind;

#[test]
fn five_thousand_threads_append_at_once() {
    let stand = Stand::new();
    let output = stand.run(
        r#"
        enum { THREADS = 5000 };
        static int fd;
        static pthread_barrier_t all;
        void *work(void *number) {
            char line[16];
            sprintf(line, "%07d\n", (int)(long)number);
            CHECK(write(fd, line, 8) == 8);
            // All are there at the same time, each with a lane.
            pthread_barrier_wait(&all);
            CHECK(write(fd, line, 8) == 8);
            return NULL;
        }
        int main(void) {
            fd = open("a", O_WRONLY | O_CREAT | O_APPEND, 0644);
            pthread_attr_t small;
            pthread_attr_init(&small);
            pthread_attr_setstacksize(&small, 64 * 1024);
            static pthread_t threads[THREADS];
            for (int round = 0; round < 2; round++) {
                pthread_barrier_init(&all, NULL, THREADS);
                for (long n = 0; n < THREADS; n++) {
                    int error = pthread_create(&threads[n], &small, work, (void *)n);
                    if (error) { fprintf(stderr, "thread %ld: %s\n", n, strerror(error)); return 1; }
                }
                for (int n = 0; n < THREADS; n++) CHECK(pthread_join(threads[n], NULL) == 0);
            }
            char line[256];
            FILE *status = fopen("/proc/self/status", "r");
            while (fgets(line, sizeof line, status)) if (strncmp(line, "VmRSS:", 6) == 0) fputs(line + 6, stdout);
            return 0;
        }"#,
    );
    let data = std::fs::read(stand.data().join("a")).unwrap();
    assert_eq!(data.len(), 2 * 2 * 5000 * 8);
    stand.assert_replays("a");
    stand.assert_no_gaps();
    // Threads that come later use the lanes of those that ended.
    let lanes: std::collections::HashSet<u32> =
        stand.frames().iter().map(|frame| frame.lane).collect();
    assert!((5000..5100).contains(&lanes.len()), "{} lanes", lanes.len());
    let text = String::from_utf8_lossy(&output.stdout);
    let resident_kib: u64 = text
        .split_ascii_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap();
    // 96 KiB of lane each, and what the program has itself.
    assert!(resident_kib < 5000 * 160, "{resident_kib} KiB");
}

#[test]
fn five_thousand_open_files_are_told_apart() {
    let stand = Stand::new();
    stand.run(
        r#"
        #include <sys/resource.h>
        enum { FILES = 5000 };
        int main(void) {
            struct rlimit limit = {FILES + 100, FILES + 100};
            CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
            static int fds[FILES];
            char name[32];
            for (int n = 0; n < FILES; n++) {
                sprintf(name, "f%d", n);
                fds[n] = open(name, O_WRONLY | O_CREAT, 0644);
                CHECK(fds[n] >= 0);
            }
            for (int n = 0; n < FILES; n++) CHECK(write(fds[n], "x", 1) == 1);
            for (int n = FILES - 1; n >= 0; n--) CHECK(pwrite(fds[n], "y", 1, 1) == 1 && close(fds[n]) == 0);
            return 0;
        }"#,
    );
    let frames = stand.frames();
    for kind in [Kind::Open, Kind::Close] {
        let files: std::collections::HashSet<_> = frames
            .iter()
            .filter(|frame| frame.kind == kind)
            .map(|frame| &frame.file)
            .collect();
        assert_eq!(files.len(), 5000, "{kind:?}");
    }
    let writes = frames.iter().filter(|frame| frame.kind == Kind::Write);
    assert_eq!(writes.count(), 10_000);
    stand.assert_no_gaps();
}
