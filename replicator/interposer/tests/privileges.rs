//! Programs that go where the lanes directory can't be reached. They start as root, as tests of this kind must.

mod common;

use common::Stand;

/// What the tests do after leaving: more than the rest of a segment holds, so that another one is needed.
const WRITING: &str = r#"
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
static char block[1000];
static int fd;
void write_much(int count) {
    memset(block, 'x', sizeof block);
    for (int n = 0; n < count; n++) CHECK(write(fd, block, sizeof block) == sizeof block);
}
void *in_thread(void *argument) { write_much(150); return NULL; }
"#;

/// Runs a body of `main` with a lanes directory that only root can use.
fn run(body: &str) -> Stand {
    let stand = Stand::new();
    set_mode(&stand.lanes(), 0o700);
    set_mode(&stand.data(), 0o777);
    set_mode(stand.root.path(), 0o755);
    stand.run(&format!("{WRITING} int main(void) {{ {body} return 0; }}"));
    stand
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn assert_written(stand: &Stand, file: &str, blocks: usize) {
    stand.assert_no_gaps();
    stand.assert_replays(file);
    assert_eq!(stand.replay(file).len(), blocks * 1000);
}

#[test]
fn a_program_that_gives_up_its_user_is_captured_before_and_after() {
    for leaving in [
        "setuid(65534)",
        "setreuid(65534, 65534)",
        "setresuid(65534, 65534, 65534)",
        "seteuid(65534)",
        "setgid(65534) || setuid(65534)",
        "syscall(SYS_setuid, 65534)",
    ] {
        // Nothing was captured before: there is no lane yet.
        let stand = run(&format!(
            r#"
            CHECK(({leaving}) == 0);
            fd = open("a", O_WRONLY | O_CREAT, 0644);
            CHECK(fd >= 0);
            write_much(300);
            "#
        ));
        assert_written(&stand, "a", 300);
        // The thread has a lane already, and others follow.
        let stand = run(&format!(
            r#"
            fd = open("a", O_WRONLY | O_CREAT, 0644);
            write_much(1);
            CHECK(({leaving}) == 0);
            write_much(300);
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
            "#
        ));
        assert_written(&stand, "a", 451);
    }
}

#[test]
fn a_child_that_gives_up_its_user_has_lanes_of_its_own() {
    let stand = run(r#"
        int child = fork(), status;
        if (child == 0) {
            CHECK(setgroups(0, NULL) == 0 && setuid(65534) == 0);
            fd = open("a", O_WRONLY | O_CREAT, 0644);
            write_much(300);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        "#);
    assert_written(&stand, "a", 300);
}

#[test]
fn where_nothing_is_captured_no_lanes_are_made() {
    let stand = Stand::new();
    stand.set_rules(&[]);
    let status = stand
        .command("setpriv")
        .args(["--reuid=65534", "--clear-groups", "true"])
        .status()
        .unwrap();
    assert!(status.success());
    let lanes = std::fs::read_dir(stand.lanes())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some())
        .count();
    assert_eq!(lanes, 0);
}

#[test]
fn in_another_root_paths_are_the_hosts() {
    let stand = run(r#"
        CHECK(mkdir("jail", 0755) == 0 && mkdir("jail/sub", 0755) == 0);
        int before = open("before", O_WRONLY | O_CREAT, 0644);
        fd = open("old", O_WRONLY | O_CREAT, 0644);
        CHECK(chroot("jail") == 0);
        // The working directory is outside still.
        int outside = open("outside", O_WRONLY | O_CREAT, 0644);
        CHECK(outside >= 0 && write(outside, "1", 1) == 1);
        CHECK(chdir("/") == 0);
        int inside = open("/inside", O_WRONLY | O_CREAT, 0644), above = open("../../above", O_WRONLY | O_CREAT, 0644);
        CHECK(inside >= 0 && above >= 0);
        CHECK(write(inside, "2", 1) == 1 && write(above, "3", 1) == 1);
        CHECK(write(before, "5", 1) == 1);
        CHECK(rename("/inside", "/sub/renamed") == 0 && link("/above", "/linked") == 0);
        CHECK(write(inside, "6", 1) == 1);
        CHECK(truncate("/sub/../above", 0) == 0);
        CHECK(chroot("/sub") == 0 && chdir("/") == 0);
        int deep = open("deep", O_WRONLY | O_CREAT, 0644);
        CHECK(deep >= 0 && write(deep, "7", 1) == 1);
        CHECK(unlink("/renamed") == 0);
        write_much(300);
        "#);
    let story: Vec<String> = stand
        .story()
        .into_iter()
        .filter(|line| !line.starts_with("old write"))
        .collect();
    let linked = format!("jail/linked link {}/jail/linked", stand.data().display());
    assert_eq!(
        story,
        [
            "before open 0 created",
            "old open 0 created",
            "outside open 0 created",
            "outside write 0 1",
            "jail/inside open 0 created",
            "jail/above open 0 created",
            "jail/inside write 0 2",
            "jail/above write 0 3",
            "before write 0 5",
            "jail/sub/renamed rename",
            linked.as_str(),
            "jail/sub/renamed write 1 6",
            "jail/above truncate 0",
            "jail/sub/deep open 0 created",
            "jail/sub/deep write 0 7",
            "jail/sub/renamed unlink",
        ]
    );
    assert_written(&stand, "old", 300);
}

#[test]
fn with_proc_in_another_root_links_are_read_rightly_too() {
    let stand = run(r#"
        CHECK(mkdir("jail", 0755) == 0 && mkdir("jail/proc", 0755) == 0 && mkdir("jail/real", 0755) == 0);
        CHECK(symlink("/real", "jail/link") == 0);
        fd = open("old", O_WRONLY | O_CREAT, 0644);
        // A namespace of its own, so that nothing is left mounted.
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        CHECK(mount("proc", "jail/proc", "proc", 0, NULL) == 0 || mount("/proc", "jail/proc", NULL, MS_BIND | MS_REC, NULL) == 0);
        CHECK(chroot("jail") == 0 && chdir("/") == 0);
        int file = open("/link/a", O_WRONLY | O_CREAT, 0644);
        CHECK(file >= 0 && write(file, "x", 1) == 1);
        write_much(300);
        "#);
    let story: Vec<String> = stand
        .story()
        .into_iter()
        .filter(|line| !line.starts_with("old"))
        .collect();
    assert_eq!(
        story,
        ["jail/real/a open 0 created", "jail/real/a write 0 x"]
    );
    assert_written(&stand, "old", 300);
}

#[test]
fn in_a_user_namespace_of_its_own_a_program_is_captured() {
    let stand = run(r#"
        fd = open("a", O_WRONLY | O_CREAT, 0644);
        CHECK(unshare(CLONE_NEWUSER) == 0 || errno == EPERM || errno == ENOSPC);
        write_much(300);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        "#);
    assert_written(&stand, "a", 450);
}

#[test]
fn errors_of_these_calls_are_the_same() {
    let stand = run(r#"
        CHECK(chroot("none") == -1 && errno == ENOENT);
        CHECK(chroot(NULL) == -1 && errno == EFAULT);
        CHECK(unshare(-1) == -1 && errno == EINVAL);
        CHECK(setns(999, 0) == -1 && errno == EBADF);
        CHECK(setuid(65534) == 0);
        CHECK(setuid(0) == -1 && errno == EPERM);
        CHECK(chroot("/") == -1 && errno == EPERM);
        fd = open("a", O_WRONLY | O_CREAT, 0644);
        write_much(1);
        "#);
    assert_eq!(stand.story()[0], "a open 0 created");
    assert_written(&stand, "a", 1);
}
