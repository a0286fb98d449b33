//! A program must never notice: the same results with and without, and whatever is wrong with the lanes.

mod common;

use common::Stand;
use counterfoil_lane::board::path_hash;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

/// Prints the result and `errno` of many calls, good and bad.
const RESULTS: &str = r#"
#include <sys/ioctl.h>
#define SAY(what) do { errno = 77; long r = (long)(what); printf("%d: %ld %d\n", __LINE__, r, errno); } while (0)
int main(void) {
    char buffer[16] = "0123456789";
    struct iovec parts[2] = {{buffer, 4}, {buffer + 4, 4}}, bad[1] = {{(void *)8, 4}};
    SAY(open("a", O_RDWR | O_CREAT | O_EXCL, 0640));
    SAY(open("a", O_RDWR | O_CREAT | O_EXCL, 0640));
    SAY(open("none", O_WRONLY));
    SAY(open("none/none", O_WRONLY | O_CREAT | O_TRUNC, 0644));
    SAY(open("", O_WRONLY));
    SAY(open(NULL, O_WRONLY));
    SAY(open(NULL, O_WRONLY | O_TRUNC));
    SAY(open(".", O_WRONLY));
    SAY(open(".", O_RDWR | O_TMPFILE, 0600));
    SAY(openat(999, "a", O_WRONLY));
    SAY(openat(3, "a", O_WRONLY | O_CREAT, 0600));
    SAY(write(3, buffer, 10));
    SAY(write(3, buffer, 0));
    SAY(write(3, (void *)8, 4));
    SAY(write(999, buffer, 4));
    SAY(write(-1, buffer, 4));
    SAY(pwrite(3, buffer, 4, -1));
    SAY(pwrite(3, buffer, 4, 100));
    SAY(writev(3, parts, 2));
    SAY(writev(3, parts, -1));
    SAY(writev(3, bad, 1));
    SAY(writev(3, NULL, 1));
    SAY(pwritev(3, parts, 2, 5));
    SAY(pwritev(3, parts, 2, -1));
    SAY(pwritev2(3, parts, 2, -1, 0));
    SAY(pwritev2(3, parts, 2, 0, 0x4000));
    SAY(lseek(3, 0, SEEK_CUR));
    SAY(ftruncate(3, -1));
    SAY(ftruncate(3, 50));
    SAY(ftruncate(999, 50));
    SAY(truncate("a", 40));
    SAY(truncate("none", 40));
    SAY(truncate(NULL, 40));
    SAY(fcntl(3, F_GETFL) & (O_APPEND | O_ACCMODE));
    SAY(fcntl(3, F_SETFL, O_APPEND));
    SAY(fcntl(3, F_GETFL) & (O_APPEND | O_ACCMODE));
    SAY(write(3, buffer, 5));
    SAY(lseek(3, 0, SEEK_CUR));
    SAY(fcntl(3, F_GETOWN));
    SAY(fcntl(3, F_SETOWN, -getpgrp()));
    SAY(fcntl(3, F_GETOWN) == -getpgrp());
    // A process group's low number looks like an error.
    SAY(fcntl(3, F_SETOWN, -1));
    SAY(fcntl(3, F_GETOWN));
    SAY(fcntl(999, F_GETOWN));
    SAY(fcntl(3, F_DUPFD, -1));
    SAY(fcntl(3, F_SETLK, NULL));
    SAY(fcntl(3, 12345));
    SAY(dup2(3, 50));
    SAY(dup2(3, 3));
    SAY(dup2(999, 999));
    SAY(dup3(3, 3, 0));
    SAY(dup2(3, -1));
    SAY(dup(999));
    SAY(close(50));
    SAY(close(50));
    SAY(close(-1));
    SAY(close_range(5, 3, 0));
    SAY(close_range(60, 70, 12345));
    SAY(close_range(60, 70, 0));
    SAY(fsync(3));
    SAY(fsync(999));
    SAY(fdatasync(3));
    SAY(flock(3, 12345));
    SAY(flock(3, LOCK_EX));
    SAY(rename("a", "b"));
    SAY(rename("a", "b"));
    SAY(rename("b", "none/b"));
    SAY(rename(NULL, "b"));
    SAY(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 77));
    SAY(unlink("b"));
    SAY(unlink("b"));
    SAY(unlink("."));
    SAY(unlink(NULL));
    SAY(remove("none"));
    SAY(write(3, buffer, 5));
    SAY(open("ro", O_RDONLY | O_CREAT, 0444));
    SAY(write(4, buffer, 5));
    SAY(open("ro", O_RDONLY | O_TRUNC));
    SAY(mkfifo("fifo", 0600));
    SAY(open("fifo", O_WRONLY | O_NONBLOCK | O_TRUNC));
    SAY(open("fifo", O_RDWR | O_TRUNC));
    SAY(write(6, buffer, 5));
    SAY(creat("new", 0600));
    SAY(chmod("new", 0));
    SAY(mmap(NULL, 0, PROT_READ, MAP_SHARED, 7, 0) == MAP_FAILED);
    SAY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 7, 0) == MAP_FAILED);
    SAY(mmap(NULL, 4096, PROT_READ, MAP_SHARED, 999, 0) == MAP_FAILED);
    SAY(mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3, 1) == MAP_FAILED);
    SAY(mmap(NULL, 4096, PROT_READ, 0, 3, 0) == MAP_FAILED);
    char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
    SAY(at != MAP_FAILED);
    SAY(mprotect(at + 1, 4096, PROT_READ));
    SAY(mprotect(at, 4096, 0x12345));
    SAY(mprotect(at, 4096, PROT_READ));
    SAY(msync(at + 1, 4096, MS_SYNC));
    SAY(msync(at, 8192, MS_SYNC | MS_ASYNC));
    SAY(msync(at, 8192, MS_SYNC));
    SAY(mremap(at + 1, 4096, 4096, 0) == MAP_FAILED);
    SAY(mremap(at, 4096, 4096, 12345) == MAP_FAILED);
    SAY(munmap(at + 1, 4096));
    SAY(munmap(at, 0));
    SAY(munmap(at, 8192));
    SAY(msync(at, 8192, MS_SYNC));
    SAY(link("new", "linked"));
    SAY(link("new", "linked"));
    SAY(link("none", "x"));
    SAY(link(".", "x"));
    SAY(linkat(3, "", AT_FDCWD, "again", AT_EMPTY_PATH));
    SAY(linkat(999, "x", AT_FDCWD, "x", 0));
    SAY(symlink("new", "symbolic"));
    SAY(symlink("new", "symbolic"));
    SAY(symlink(NULL, "x"));
    SAY(symlinkat("new", 999, "x"));
    SAY(open("symbolic", O_WRONLY | O_NOFOLLOW));
    SAY(chmod("none", 0600));
    SAY(chmod(NULL, 0600));
    SAY(fchmodat(AT_FDCWD, "new", 0600, 77));
    SAY(fchmod(999, 0600));
    SAY(chown("new", -1, -1));
    SAY(lchown("symbolic", -1, -1));
    SAY(fchownat(3, "", -1, -1, AT_EMPTY_PATH));
    SAY(fchownat(3, "", -1, -1, 0));
    SAY(utimensat(AT_FDCWD, "new", NULL, 77));
    SAY(utimensat(AT_FDCWD, NULL, NULL, 0));
    SAY(futimens(-1, NULL));
    SAY(syscall(SYS_utimensat, 3, NULL, NULL, 0));
    SAY(syscall(SYS_write, 3, (void *)8, 4));
    SAY(syscall(SYS_openat, AT_FDCWD, "none", O_WRONLY));
    SAY(syscall(SYS_openat2, AT_FDCWD, "new", buffer, 1));
    SAY(syscall(SYS_fcntl, 3, 12345));
    SAY(syscall(-5, 1, 2, 3));
    SAY(recvmsg(3, NULL, 0));
    SAY(sendmsg(3, NULL, 0));
    SAY(recvmsg(999, NULL, 0));
    SAY(chroot("none"));
    SAY(fallocate(3, 0x7777, 0, 1));
    SAY(fallocate(3, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, -1, 1));
    SAY(posix_fallocate(3, 0, 0));
    SAY(pwritev2(3, parts, 2, 0, RWF_APPEND));
    SAY(copy_file_range(3, NULL, 3, NULL, 1, 77));
    SAY(ioctl(3, 0x40049409, 999));
    SAY(sync_file_range(3, 0, 0, 77));
    FILE *f = fopen("stdio", "a+");
    SAY(fileno(f));
    SAY(fprintf(f, "%d\n", 12));
    SAY(fseek(f, 0, SEEK_SET));
    SAY(fgetc(f));
    SAY(fseek(f, 0, SEEK_CUR));
    SAY(fputs("x", f));
    SAY(ftell(f));
    SAY(fclose(f));
    SAY(system("exit 3"));
    return 0;
}
"#;

fn results(stand: &Stand, program: &Path, change: impl Fn(&mut Command)) -> Output {
    std::fs::remove_dir_all(stand.data()).unwrap();
    std::fs::create_dir(stand.data()).unwrap();
    let mut command = stand.command(program);
    change(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn assert_same(stand: &Stand, program: &Path, what: &str, change: impl Fn(&mut Command)) {
    let plain = results(stand, program, |command| {
        command.env_remove("LD_PRELOAD");
    });
    let with = results(stand, program, change);
    let lines = |output: &Output| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for (plain, with) in lines(&plain).into_iter().zip(lines(&with)) {
        assert_eq!(with, plain, "{what}: line: result errno");
    }
    assert_eq!(lines(&with).len(), lines(&plain).len(), "{what}");
    assert!(!lines(&plain).is_empty());
    assert_eq!(
        String::from_utf8_lossy(&with.stderr),
        String::from_utf8_lossy(&plain.stderr)
    );
}

#[test]
fn results_and_errno_are_the_same() {
    let stand = Stand::new();
    let program = stand.compile(RESULTS);
    assert_same(&stand, &program, "patched", |_| {});
    assert_same(&stand, &program, "by symbol", |command| {
        command.env("COUNTERFOIL_PATCH", "0");
    });
    assert_same(&stand, &program, "passive", |command| {
        command.env_remove("COUNTERFOIL_LANES");
    });
    assert_same(&stand, &program, "no lanes directory", |command| {
        command.env("COUNTERFOIL_LANES", "/nonexistent");
    });
    assert_same(&stand, &program, "a relative directory", |command| {
        command.env("COUNTERFOIL_LANES", "lanes");
    });
    assert!(!stand.frames().is_empty());
}

#[test]
fn results_are_the_same_with_threads_about() {
    let stand = Stand::new();
    let program = stand.compile(&RESULTS.replace(
        "int main(void) {",
        "void *idle(void *argument) { pause(); return NULL; }
         int main(void) { pthread_t thread; CHECK(pthread_create(&thread, NULL, idle, NULL) == 0);",
    ));
    assert_same(&stand, &program, "threads", |_| {});
}

#[test]
fn an_unknown_board_is_left_alone() {
    let stand = Stand::new();
    let program = stand.compile(RESULTS);
    let board = stand.lanes().join("board");
    let mut bytes = std::fs::read(&board).unwrap();
    bytes[8] = 99;
    std::fs::write(&board, &bytes).unwrap();
    assert_same(&stand, &program, "unknown version", |_| {});
    std::fs::write(&board, b"short").unwrap();
    assert_same(&stand, &program, "short board", |_| {});
    assert!(stand.frames().is_empty());
}

fn gap_of(stand: &Stand, file: &str) -> u64 {
    path_hash(stand.data().join(file).as_os_str().as_bytes())
}

#[test]
fn without_room_for_lanes_gaps_are_marked_and_the_program_goes_on() {
    let stand = Stand::new();
    let program = stand.compile(
        r#"
        #include <sys/resource.h>
        int main(int count, char **arguments) {
            // A limit that the lane would break; SIGXFSZ would kill.
            struct rlimit limit = {100000, 100000};
            CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
            int fd = open("a", O_WRONLY | O_CREAT | O_TRUNC, 0644);
            for (int n = 0; n < 100; n++) CHECK(write(fd, "x", 1) == 1);
            CHECK(ftruncate(fd, 50) == 0 && rename("a", "b") == 0 && unlink("b") == 0);
            return 0;
        }"#,
    );
    assert!(stand.command(&program).status().unwrap().success());
    assert!(stand.frames().is_empty());
    let (gaps, _) = stand.gaps();
    assert!(gaps.contains(&gap_of(&stand, "a")) && gaps.contains(&gap_of(&stand, "b")));
}

#[test]
fn a_lane_at_its_limit_marks_a_gap() {
    let stand = Stand::with_limit(300 * 1024);
    stand.run(
        r#"
        int main(void) {
            char buffer[1000] = {1};
            int fd = open("a", O_WRONLY | O_CREAT | O_TRUNC, 0644);
            for (int n = 0; n < 1000; n++) CHECK(write(fd, buffer, 1000) == 1000);
            return 0;
        }"#,
    );
    let writes = stand.frames().len();
    assert!((200..300).contains(&writes), "{writes}");
    assert_eq!(stand.gaps(), (vec![gap_of(&stand, "a")], false));
}

#[test]
fn a_static_program_is_not_disturbed() {
    let stand = Stand::new();
    let program = stand.compile_with(
        r#"int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            CHECK(write(fd, "x", 1) == 1);
            return 0;
        }"#,
        &["-static"],
    );
    assert!(stand.command(&program).status().unwrap().success());
    assert!(stand.frames().is_empty());
}
