//! Paths, links, renames, removals, rules that change, descriptors that are duplicated and used again.

mod common;

use common::Stand;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::rules::Rule;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

#[test]
fn duplicated_descriptors_are_followed_and_reused_numbers_are_not_mistaken() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            int second = dup(fd);
            CHECK(dup2(fd, 100) == 100 && dup2(fd, fd) == fd);
            CHECK(dup3(fd, 101, O_CLOEXEC) == 101);
            int fifth = fcntl(fd, F_DUPFD, 200), sixth = fcntl(fd, F_DUPFD_CLOEXEC, 300);
            CHECK(fifth == 200 && sixth == 300);
            int all[] = {fd, second, 100, 101, 200, 300};
            for (int n = 0; n < 6; n++) CHECK(write(all[n], "abcdef" + n, 1) == 1);
            for (int n = 0; n < 4; n++) CHECK(close(all[n]) == 0);
            CHECK(write(200, "g", 1) == 1);
            int ends[2];
            CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
            CHECK(ends[0] == fd && write(ends[0], "socket", 6) == 6);
            CHECK(dup2(ends[0], 200) == 200 && write(200, "socket", 6) == 6);
            CHECK(close_range(300, ~0U, 0) == 0);
            CHECK(write(300, "bad", 3) == -1 && errno == EBADF);
            int b = open("b", O_WRONLY | O_CREAT, 0644);
            closefrom(b);
            CHECK(pipe(ends) == 0 && ends[0] == b && ends[1] > b);
            CHECK(write(ends[1], "pipe", 4) == 4);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a write 0 a",
            "a write 1 b",
            "a write 2 c",
            "a write 3 d",
            "a write 4 e",
            "a write 5 f",
            "a write 6 g",
            "a close",
            "b open 0 created",
            "b close",
        ]
    );
}

#[test]
fn appending_is_reported_where_it_went() {
    let stand = Stand::new();
    std::fs::write(stand.data().join("a"), "0123456789").unwrap();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_APPEND), other = open("a", O_WRONLY);
            CHECK(write(fd, "one", 3) == 3);
            CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, "two", 3) == 3);
            CHECK(pwrite(other, "gap", 3, 20) == 3);
            CHECK(write(fd, "three", 5) == 5);
            // Linux appends whatever the position says, and leaves the offset where it was.
            CHECK(pwrite(fd, "four", 4, 0) == 4);
            CHECK(lseek(fd, 0, SEEK_CUR) == 28);
            CHECK(fcntl(fd, F_SETFL, 0) == 0);
            CHECK(write(fd, "5", 1) == 1);
            CHECK(pwrite(fd, "6", 1, 0) == 1);
            CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0);
            struct iovec part = {"7", 1};
            CHECK(pwritev(fd, &part, 1, 3) == 1);
            CHECK(pwritev2(other, &part, 1, 3, 0x10) == 1);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story()[2..],
        [
            "a write 10 one",
            "a write 13 two",
            "a write 20 gap",
            "a write 23 three",
            "a write 28 four",
            "a write 28 5",
            "a write 0 6",
            "a write 32 7",
            "a write 33 7",
        ]
    );
}

#[test]
fn every_way_to_say_a_path_finds_the_file() {
    let stand = Stand::new();
    let outside = stand.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(stand.data().join("sub")).unwrap();
    std::os::unix::fs::symlink(stand.data(), outside.join("link")).unwrap();
    std::os::unix::fs::symlink(&outside, stand.data().join("away")).unwrap();
    std::fs::write(stand.data().join("known"), "").unwrap();
    std::fs::hard_link(stand.data().join("known"), outside.join("hard")).unwrap();
    let status = std::fs::metadata(stand.data().join("known")).unwrap();
    assert!(stand.board().add_inode(status.dev(), status.ino()));
    stand.run(
        r#"
        void put(int fd) { CHECK(fd >= 0); CHECK(write(fd, "x", 1) == 1); CHECK(close(fd) == 0); }
        int main(void) {
            put(open("./sub/../a1", O_WRONLY | O_CREAT, 0644));
            int sub = open("sub", O_RDONLY | O_DIRECTORY);
            put(openat(sub, "a2", O_WRONLY | O_CREAT, 0644));
            put(openat(sub, "..//a3", O_WRONLY | O_CREAT, 0644));
            CHECK(chdir("sub") == 0);
            put(creat("a4", 0644));
            CHECK(chdir("/") == 0 && fchdir(sub) == 0);
            put(open64("a5", O_WRONLY | O_CREAT, 0644));
            CHECK(chdir("../../outside") == 0);
            put(open("link/a6", O_WRONLY | O_CREAT, 0644));
            put(open("hard", O_WRONLY));
            put(open("uncaptured", O_WRONLY | O_CREAT, 0644));
            return 0;
        }"#,
    );
    let opened: Vec<String> = stand
        .frames()
        .into_iter()
        .filter(|frame| frame.kind == Kind::Write)
        .map(|frame| frame.file)
        .collect();
    let hard = outside.canonicalize().unwrap().join("hard");
    assert_eq!(
        opened,
        [
            "a1",
            "sub/a2",
            "a3",
            "sub/a4",
            "sub/a5",
            "a6",
            hard.to_str().unwrap()
        ]
    );
}

#[test]
fn renames_and_removals_name_both_paths() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("new.skip", O_WRONLY | O_CREAT, 0644);
            CHECK(write(fd, "unseen", 6) == 6);
            CHECK(rename("new.skip", "a") == 0);
            CHECK(write(fd, "seen", 4) == 4);
            CHECK(renameat(AT_FDCWD, "a", AT_FDCWD, "b") == 0);
            CHECK(write(fd, "again", 5) == 5);
            CHECK(close(open("c", O_WRONLY | O_CREAT, 0644)) == 0);
            CHECK(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 2) == 0);
            CHECK(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 1) == -1 && errno == EEXIST);
            CHECK(unlink("b") == 0);
            CHECK(remove("c") == 0);
            CHECK(mkdir("dir", 0755) == 0 && remove("dir") == 0);
            CHECK(unlink("none") == -1 && errno == ENOENT);
            CHECK(rename("none", "other") == -1 && errno == ENOENT);
            return 0;
        }"#,
    );
    let frames = stand.frames();
    let paths = |frame: &common::Frame| {
        let text = String::from_utf8(frame.data.clone()).unwrap();
        text.replace(&format!("{}/", stand.data().display()), "")
            .replace('\0', ">")
    };
    let story: Vec<String> = frames
        .iter()
        .map(|frame| match frame.kind {
            Kind::Rename | Kind::Unlink => format!("{} {}", frame.line(), paths(frame)),
            _ => frame.line(),
        })
        .collect();
    assert_eq!(
        story,
        [
            "a rename new.skip>a",
            "a write 6 seen",
            "b rename a>b",
            "b write 10 again",
            "c open 0 created",
            "c close",
            "c rename b>c",
            "b rename c>b",
            "b unlink b",
            "c unlink c",
        ]
    );
}

#[test]
fn locks_are_told_as_absolute_ranges() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(write(fd, "0123456789", 10) == 10);
            struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
            CHECK(fcntl(fd, F_SETLK, &lock) == 0);
            lock = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_CUR, .l_start = -4, .l_len = 2};
            CHECK(fcntl(fd, F_SETLKW, &lock) == 0);
            lock = (struct flock){.l_type = F_UNLCK, .l_whence = SEEK_END, .l_start = 0, .l_len = -10};
            CHECK(fcntl(fd, F_SETLK, &lock) == 0);
            lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
            CHECK(fcntl(fd, F_OFD_SETLK, &lock) == 0);
            CHECK(fcntl(fd, F_GETLK, &lock) == 0);
            CHECK(flock(fd, LOCK_EX | LOCK_NB) == 0 && flock(fd, LOCK_UN) == 0);
            CHECK(lseek(fd, 4, SEEK_SET) == 4);
            lock = (struct flock){.l_type = F_UNLCK, .l_whence = SEEK_SET};
            CHECK(fcntl(fd, F_OFD_SETLK, &lock) == 0);
            CHECK(lockf(fd, F_LOCK, 2) == 0 && lockf(fd, F_TEST, 2) == 0 && lockf(fd, F_ULOCK, 2) == 0);
            CHECK(lockf(fd, 77, 2) == -1 && errno == EINVAL);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story()[2..],
        [
            "a lock 2+3",
            "a lock 6+2",
            "a unlock 0+10",
            "a lock 0+-1",
            "a lock 0+-1",
            "a unlock 0+-1",
            "a unlock 0+-1",
            "a lock 4+2",
            "a unlock 4+2",
        ]
    );
}

#[test]
fn what_the_kernel_copies_is_to_be_read_again() {
    let stand = Stand::new();
    std::fs::write(stand.root.path().join("from"), "0123456789").unwrap();
    stand.run(
        r#"
        #include <sys/sendfile.h>
        int main(void) {
            int from = open("../from", O_RDONLY), fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(copy_file_range(from, NULL, fd, NULL, 4, 0) == 4);
            loff_t at = 20;
            CHECK(copy_file_range(from, NULL, fd, &at, 3, 0) == 3 && at == 23);
            CHECK(sendfile(fd, from, NULL, 100) == 3);
            int ends[2];
            CHECK(pipe(ends) == 0 && write(ends[1], "pipe", 4) == 4);
            CHECK(splice(ends[0], NULL, fd, NULL, 4, 0) == 4);
            CHECK(fallocate(fd, 0, 30, 10) == 0);
            CHECK(posix_fallocate(fd, 35, 10) == 0);
            CHECK(posix_fallocate(fd, -1, 10) == EINVAL);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a reread 0+4",
            "a reread 20+3",
            "a reread 4+3",
            "a reread 7+4",
            "a reread 30+10",
            "a reread 35+10",
        ]
    );
    stand.assert_replays("a");
}

#[test]
fn new_rules_reach_a_running_program_and_what_it_has_open() {
    let stand = Stand::new();
    let pattern = |text: &str| Rule {
        group: 1,
        exclude: false,
        pattern: stand.data().join(text).as_os_str().as_bytes().to_vec(),
    };
    stand.set_rules(&[pattern("other")]);
    let program = stand.compile(
        r#"
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            CHECK(write(fd, "before", 6) == 6);
            CHECK(write(1, "ready\n", 6) == 6);
            char byte;
            CHECK(read(0, &byte, 1) == 1);
            CHECK(write(fd, "after", 5) == 5);
            return 0;
        }"#,
    );
    let mut child = stand
        .command(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    stand.set_rules(&[pattern("*")]);
    child.stdin.take().unwrap().write_all(b"x").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(stand.story(), ["a write 6 after"]);
}
