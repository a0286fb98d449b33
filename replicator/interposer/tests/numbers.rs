//! System calls that programs make by number.

mod common;

use common::Stand;

#[test]
fn calls_by_number_are_seen_as_those_by_name() {
    Stand::run_in_both_modes(
        r#"
        #include <linux/openat2.h>
        int main(void) {
            struct open_how how = {O_RDWR | O_CREAT | O_TRUNC, 0640, 0};
            int fd = syscall(SYS_openat2, AT_FDCWD, "a", &how, sizeof how);
            CHECK(fd >= 0);
            CHECK(syscall(SYS_write, fd, "one", 3) == 3);
            CHECK(syscall(SYS_pwrite64, fd, "two", 3, 10L) == 3);
            struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
            CHECK(syscall(SYS_writev, fd, parts, 2) == 5);
            CHECK(syscall(SYS_pwritev, fd, parts, 2, 20L, 0L) == 5);
            CHECK(syscall(SYS_pwritev2, fd, parts, 2, 30L, 0L, RWF_DSYNC) == 5);
            CHECK(syscall(SYS_pwritev2, fd, parts, 2, -1L, -1L, RWF_APPEND) == 5);
            CHECK(lseek(fd, 0, SEEK_CUR) == 40);
            long from = 0, to = 50;
            CHECK(syscall(SYS_copy_file_range, fd, &from, fd, &to, 5L, 0) == 5);
            CHECK(from == 5 && to == 55);
            CHECK(syscall(SYS_ftruncate, fd, 25L) == 0);
            CHECK(syscall(SYS_fsync, fd) == 0);
            CHECK(syscall(SYS_fcntl, fd, F_DUPFD, 50) == 50);
            CHECK(syscall(SYS_close, fd) == 0);
            CHECK(syscall(SYS_write, 50, "x", 1) == 1);
            CHECK(syscall(SYS_dup3, 50, 60, 0) == 60 && syscall(SYS_close_range, 50, 60, 0) == 0);
            CHECK(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE) == 0);
            CHECK(syscall(SYS_openat, AT_FDCWD, "b", O_WRONLY | O_APPEND) == fd);
            CHECK(syscall(SYS_write, fd, "end", 3) == 3);
            CHECK(syscall(SYS_unlinkat, AT_FDCWD, "b", 0) == 0);
            return 0;
        }"#,
        |stand, _| {
            assert_eq!(
                stand.story(),
                [
                    "a open 0 truncated created",
                    "a write 0 one",
                    "a write 10 two",
                    "a write 3 abcde",
                    "a write 20 abcde",
                    "a write 30 abcde",
                    "a write 35 abcde",
                    "a reread 50+5",
                    "a truncate 25",
                    "a sync",
                    "a write 40 x",
                    "a close",
                    "b rename",
                    "b open 41",
                    "b write 41 end",
                    "b unlink",
                ]
            );
            stand.assert_no_gaps();
        },
    );
}

#[test]
fn numbers_that_are_not_ours_work_as_they_do_in_libc() {
    let stand = Stand::new();
    stand.run(
        r#"
        #include <sched.h>
        #include <linux/futex.h>
        static volatile int seen;
        int body(void *argument) { seen = 7; return 3; }
        int main(void) {
            errno = 0;
            CHECK(syscall(SYS_getpid) == getpid() && errno == 0);
            CHECK(syscall(SYS_gettid) == getpid());
            CHECK(syscall(-1) == -1 && errno == ENOSYS);
            CHECK(syscall(511) == -1 && errno == ENOSYS);
            CHECK(syscall(1 << 20) == -1 && errno == ENOSYS);
            CHECK(syscall(SYS_close, 999) == -1 && errno == EBADF);
            CHECK(syscall(SYS_write, 999, "x", 1) == -1 && errno == EBADF);
            CHECK(syscall(SYS_fcntl, 999, F_GETFL) == -1 && errno == EBADF);
            CHECK(syscall(SYS_openat2, AT_FDCWD, "none", NULL, 24L) == -1 && errno == EFAULT);
            CHECK(syscall(SYS_openat2, AT_FDCWD, "none", NULL, 3L) == -1 && errno == EINVAL);
            // All six arguments arrive.
            void *at = (void *)syscall(SYS_mmap, NULL, 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
            CHECK(at != MAP_FAILED && (strcpy(at, "x"), 1));
            CHECK(syscall(SYS_futex, &seen, FUTEX_CMP_REQUEUE, 1, 1L, &seen, 5) == -1 && errno == EAGAIN);
            int status, child;
        #ifdef SYS_fork
            child = syscall(SYS_fork);
            if (child == 0) _exit(4);
            CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 4);
        #endif
            child = syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L);
            if (child == 0) _exit(5);
            CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
            return 0;
        }"#,
    );
    assert!(stand.frames().is_empty());
}

#[test]
fn a_process_made_by_number_shares_what_is_open() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644), status, ends[2];
            char byte;
            CHECK(pipe(ends) == 0);
            int child = syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L);
            if (child == 0) {
                for (int n = 0; n < 2000; n++) CHECK(write(fd, "c", 1) == 1);
                _exit(0);
            }
            for (int n = 0; n < 2000; n++) CHECK(write(fd, "p", 1) == 1);
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            CHECK(lseek(fd, 0, SEEK_CUR) == 4000);
            return 0;
        }"#,
    );
    stand.assert_replays("a");
    stand.assert_no_gaps();
}

#[test]
fn python_that_calls_by_number_is_captured() {
    // By its name libc is reached past every symbol.
    for libc in ["None", "'libc.so.6'"] {
        python(libc);
    }
}

fn python(libc: &str) {
    let stand = Stand::new();
    let status = stand
        .command("/usr/bin/python3")
        .arg("-c")
        .arg(format!(
            "import ctypes, os\n\
             libc = ctypes.CDLL({libc}, use_errno=True)\n\
             fd = os.open('a', os.O_WRONLY | os.O_CREAT)\n\
             number = {{'x86_64': 18, 'aarch64': 68}}[os.uname().machine]\n\
             assert libc.syscall(number, fd, b'abc', 3, ctypes.c_long(5)) == 3\n\
             assert libc.syscall(number, 999, b'abc', 3, ctypes.c_long(5)) == -1\n\
             assert ctypes.get_errno() == 9\n\
             assert libc.fchmod(fd, 0o600) == 0 and libc.link(b'a', b'b') == 0\n"
        ))
        .status()
        .unwrap();
    assert!(status.success());
    let link = format!("b link {}/b", stand.data().display());
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a write 5 abc",
            "a attributes",
            link.as_str()
        ]
    );
}
