//! Each call of the C library, and the frames it leaves.

mod common;

use common::Stand;

#[test]
fn plain_calls_leave_their_frames() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT | O_TRUNC, 0644);
            CHECK(fd >= 0);
            CHECK(write(fd, "one", 3) == 3);
            CHECK(pwrite(fd, "two", 3, 10) == 3);
            CHECK(write(fd, "three", 5) == 5);
            CHECK(lseek(fd, 1, SEEK_SET) == 1);
            CHECK(write(fd, "X", 1) == 1);
            struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
            CHECK(writev(fd, parts, 2) == 5);
            CHECK(pwritev(fd, parts, 2, 20) == 5);
            CHECK(pwritev2(fd, parts, 2, 30, 0) == 5);
            CHECK(pwritev2(fd, parts, 2, -1, 0) == 5);
            CHECK(ftruncate(fd, 25) == 0);
            CHECK(fsync(fd) == 0 && fdatasync(fd) == 0);
            CHECK(close(fd) == 0);
            CHECK(truncate("a", 24) == 0);
            fd = open("skipped.skip", O_WRONLY | O_CREAT, 0644);
            CHECK(write(fd, "no", 2) == 2);
            CHECK(close(fd) == 0);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 truncated created",
            "a write 0 one",
            "a write 10 two",
            "a write 3 three",
            "a write 1 X",
            "a write 2 abcde",
            "a write 20 abcde",
            "a write 30 abcde",
            "a write 7 abcde",
            "a truncate 25",
            "a sync",
            "a sync",
            "a close",
            "a truncate 24",
        ]
    );
    stand.assert_replays("a");
    stand.assert_no_gaps();
}
