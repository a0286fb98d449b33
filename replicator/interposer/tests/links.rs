//! Files that get another name.

mod common;

use common::Stand;

#[test]
fn a_file_linked_to_a_captured_name_is_captured_from_then_on() {
    Stand::run_in_both_modes(
        r#"
        int main(void) {
            int fd = open("../outside", O_WRONLY | O_CREAT, 0644);
            int duplicate = dup(fd), reader = open("../outside", O_RDONLY);
            CHECK(write(fd, "before ", 7) == 7);
            CHECK(link("../outside", "a") == 0);
            CHECK(write(fd, "after", 5) == 5);
            CHECK(pwrite(duplicate, "B", 1, 0) == 1);
            CHECK(close(fd) == 0 && close(duplicate) == 0 && close(reader) == 0);
            CHECK(link("../outside", "a") == -1 && errno == EEXIST);
            CHECK(link("../none", "b") == -1 && errno == ENOENT);
            CHECK(link("../outside", NULL) == -1 && errno == EFAULT);
            CHECK(link("../outside", "none/b") == -1 && errno == ENOENT);
            CHECK(linkat(AT_FDCWD, "../outside", AT_FDCWD, "b", 12345) == -1 && errno == EINVAL);
            CHECK(link("../outside", "b.skip") == 0 && link("../outside", "../other") == 0);
            return 0;
        }"#,
        |stand, _| {
            assert_eq!(
                stand.story(),
                // Which of the two duplicates belong together nobody can tell.
                [
                    "a link a",
                    "a write 7 after",
                    "a write 0 B",
                    "a close",
                    "a close"
                ]
                .map(|line| line.replace("link a", &format!("link {}/a", stand.data().display())))
            );
            stand.assert_no_gaps();
        },
    );
}

#[test]
fn a_file_without_a_name_is_captured_when_it_gets_one() {
    for how in [
        r#"linkat(fd, "", AT_FDCWD, "a", AT_EMPTY_PATH)"#,
        r#"(sprintf(path, "/proc/self/fd/%d", fd), linkat(AT_FDCWD, path, AT_FDCWD, "a", AT_SYMLINK_FOLLOW))"#,
        r#"syscall(SYS_linkat, fd, "", AT_FDCWD, "a", AT_EMPTY_PATH)"#,
    ] {
        Stand::run_in_both_modes(
            &r#"
            int main(void) {
                char path[64];
                int fd = open(".", O_TMPFILE | O_RDWR, 0644);
                CHECK(fd >= 0);
                CHECK(write(fd, "whole", 5) == 5);
                CHECK(HOW == 0);
                CHECK(write(fd, " and more", 9) == 9);
                return 0;
            }"#
            .replace("HOW", how),
            |stand, _| {
                let link = format!("a link {}/a", stand.data().display());
                assert_eq!(stand.story(), [link.as_str(), "a write 5  and more"]);
                assert_eq!(
                    std::fs::read_to_string(stand.data().join("a")).unwrap(),
                    "whole and more"
                );
            },
        );
    }
}

#[test]
fn a_symbolic_link_makes_its_file_captured() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("../outside", O_WRONLY | O_CREAT, 0644);
            CHECK(symlink("../outside", "a") == 0);
            CHECK(write(fd, "seen", 4) == 4);
            CHECK(symlink("nowhere", "b") == 0);
            CHECK(symlinkat(".", AT_FDCWD, "c") == 0);
            CHECK(symlink("x", "a") == -1 && errno == EEXIST);
            CHECK(symlink("", "d") == -1 && errno == ENOENT);
            return 0;
        }"#,
    );
    let link = format!("a link {}/a", stand.data().display());
    assert_eq!(stand.story(), [link.as_str(), "a write 0 seen"]);
}
