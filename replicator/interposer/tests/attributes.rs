//! Permissions, owner and times.

mod common;

use common::Stand;

#[test]
fn every_way_to_change_attributes_leaves_a_frame() {
    Stand::run_in_both_modes(
        r#"
        #include <utime.h>
        int main(void) {
            int fd = open("a", O_WRONLY | O_CREAT, 0644), here = open(".", O_RDONLY), n = 0;
            struct timespec times[2] = {{1, 2}, {3, 4}};
            struct timeval old[2] = {{1, 2}, {3, 4}};
            struct utimbuf oldest = {1, 2};
            struct stat s;
            CHECK(chmod("a", 0600) == 0 && fchmod(fd, 0601) == 0 && fchmodat(here, "a", 0602, 0) == 0);
            CHECK(fchmodat(AT_FDCWD, "a", 0604, AT_SYMLINK_NOFOLLOW) == 0 || errno == EOPNOTSUPP && ++n);
            CHECK(n != 0 || stat("a", &s) == 0 && (s.st_mode & 0777) == 0604);
            if (n) CHECK(chmod("a", 0604) == 0);
            CHECK(chown("a", -1, getgid()) == 0 && lchown("a", -1, -1) == 0 && fchown(fd, -1, -1) == 0);
            CHECK(fchownat(AT_FDCWD, "a", -1, -1, 0) == 0 && fchownat(fd, "", -1, -1, AT_EMPTY_PATH) == 0);
            CHECK(utime("a", &oldest) == 0 && utimes("a", old) == 0 && lutimes("a", old) == 0);
            CHECK(futimes(fd, old) == 0 && futimesat(here, "a", old) == 0);
            CHECK(futimens(fd, times) == 0 && utimensat(AT_FDCWD, "a", times, 0) == 0);
            CHECK(stat("a", &s) == 0 && s.st_mtim.tv_sec == 3 && s.st_mtim.tv_nsec == 4);
            CHECK(syscall(SYS_fchmod, fd, 0640) == 0 && syscall(SYS_utimensat, fd, NULL, times, 0) == 0);

            // None of these changes a captured file.
            CHECK(chmod("none", 0600) == -1 && errno == ENOENT);
            CHECK(fchmod(999, 0600) == -1 && errno == EBADF);
            CHECK(utimensat(AT_FDCWD, NULL, times, 0) == -1 && errno == EINVAL);
            old[0].tv_usec = 1000000;
            CHECK(utimes("a", old) == -1 && errno == EINVAL);
            CHECK(futimens(fd, (struct timespec[]){{0, -1}, {0, 0}}) == -1 && errno == EINVAL);
            CHECK(fchmodat(AT_FDCWD, "a", 0600, 12345) == -1 && errno == EINVAL);
            int skipped = open("b.skip", O_WRONLY | O_CREAT, 0644);
            CHECK(chmod("b.skip", 0600) == 0 && fchmod(skipped, 0600) == 0 && utime("b.skip", NULL) == 0);
            CHECK(chmod(".", 0755) == 0 && fchown(here, -1, -1) == 0);
            return 0;
        }"#,
        |stand, mode| {
            let story = stand.story();
            assert_eq!(story[0], "a open 0 created");
            assert_eq!(story[1..], ["a attributes"; 18], "mode {mode}");
            stand.assert_no_gaps();
        },
    );
}
