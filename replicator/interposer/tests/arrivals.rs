//! Descriptors that come from other processes, and by handle.

mod common;

use common::Stand;

/// Sends and receives a descriptor over a socket pair.
const PASSING: &str = r#"
void put(int socket, int fd, int other) {
    char room[CMSG_SPACE(2 * sizeof(int))] = {0}, byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(header), (int[]){fd, other}, 2 * sizeof(int));
    CHECK(sendmsg(socket, &message, 0) == 1);
}
int take(int socket, int many) {
    char room[CMSG_SPACE(2 * sizeof(int)) + 40], byte;
    struct iovec part = {&byte, 1};
    struct mmsghdr messages[1] = {{{.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room}}};
    if (many) CHECK(recvmmsg(socket, messages, 1, 0, NULL) == 1);
    else CHECK(recvmsg(socket, &messages[0].msg_hdr, 0) == 1);
    int fds[2];
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&messages[0].msg_hdr)), sizeof fds);
    close(fds[0]);
    return fds[1];
}
"#;

#[test]
fn a_descriptor_received_over_a_socket_is_captured() {
    for many in ["0", "1"] {
        Stand::run_in_both_modes(
            &format!(
                r#"{PASSING}
                int main(void) {{
                    int ends[2];
                    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
                    int child = fork();
                    if (child == 0) {{
                        int fd = take(ends[1], {many});
                        CHECK(write(fd, "child ", 6) == 6);
                        CHECK(close(fd) == 0);
                        _exit(0);
                    }}
                    int fd = open("a", O_WRONLY | O_CREAT, 0644);
                    CHECK(write(fd, "parent ", 7) == 7);
                    put(ends[0], 0, fd);
                    int status;
                    CHECK(waitpid(child, &status, 0) == child && status == 0);
                    // The offset is shared, and the child has moved it.
                    CHECK(write(fd, "again", 5) == 5);
                    return 0;
                }}"#
            ),
            |stand, _| {
                assert_eq!(
                    stand.story(),
                    [
                        "a open 0 created",
                        "a write 0 parent ",
                        "a write 7 child ",
                        "a close",
                        "a write 13 again",
                    ]
                );
                stand.assert_replays("a");
            },
        );
    }
}

#[test]
fn messages_without_descriptors_and_bad_ones_give_the_same_results() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int ends[2];
            CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
            char byte = 'x', room[64];
            struct iovec part = {&byte, 1};
            struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
            CHECK(sendmsg(ends[0], &message, 0) == 1 && recvmsg(ends[1], &message, 0) == 1);
            message.msg_control = room, message.msg_controllen = sizeof room;
            CHECK(recvmsg(ends[1], &message, MSG_DONTWAIT) == -1 && errno == EAGAIN);
            CHECK(sendmsg(ends[0], &message, 12345) == -1);
            CHECK(sendmsg(ends[0], NULL, 0) == -1 && errno == EFAULT);
            CHECK(recvmsg(ends[0], NULL, MSG_DONTWAIT) == -1 && (errno == EFAULT || errno == EAGAIN));
            CHECK(recvmsg(999, &message, 0) == -1 && errno == EBADF);
            struct mmsghdr two[2] = {{{.msg_iov = &part, .msg_iovlen = 1}}, {{.msg_iov = &part, .msg_iovlen = 1}}};
            CHECK(sendmmsg(ends[0], two, 2, 0) == 2 && recvmmsg(ends[1], two, 2, 0, NULL) == 2);
            return 0;
        }"#,
    );
    assert!(stand.frames().is_empty());
}

#[test]
fn a_descriptor_fetched_from_another_process_is_captured() {
    let stand = Stand::new();
    stand.run(
        r#"
        #include <sys/prctl.h>
        int main(void) {
            int ends[2];
            char byte;
            CHECK(pipe(ends) == 0);
            int child = fork();
            if (child == 0) {
                // It ends with its parent, whatever becomes of that.
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                int fd = open("a", O_WRONLY | O_CREAT, 0644);
                CHECK(fd == 5 && write(fd, "child ", 6) == 6 && write(ends[1], "x", 1) == 1);
                pause();
            }
            CHECK(read(ends[0], &byte, 1) == 1);
            int process = syscall(SYS_pidfd_open, child, 0);
            int fd = syscall(SYS_pidfd_getfd, process, 5, 0);
            CHECK(fd >= 0);
            CHECK(write(fd, "parent", 6) == 6);
            kill(child, SIGKILL);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        ["a open 0 created", "a write 0 child ", "a write 6 parent"]
    );
}

#[test]
fn a_file_opened_by_handle_is_captured() {
    let stand = Stand::new();
    std::fs::write(stand.data().join("a"), "0123456789").unwrap();
    let output = stand.run(
        r#"
        int main(void) {
            struct { struct file_handle head; char room[128]; } handle = {{.handle_bytes = 128}};
            int mount;
            if (name_to_handle_at(AT_FDCWD, "a", &handle.head, &mount, 0) != 0) {
                CHECK(errno == EOPNOTSUPP);
                puts("no handles here");
                return 0;
            }
            int directory = open(".", O_RDONLY | O_DIRECTORY);
            int fd = open_by_handle_at(directory, &handle.head, O_WRONLY);
            CHECK(fd >= 0);
            CHECK(pwrite(fd, "XY", 2, 4) == 2);
            CHECK(close(fd) == 0);
            CHECK(open_by_handle_at(999, &handle.head, O_WRONLY) == -1 && errno == EBADF);
            return 0;
        }"#,
    );
    // Not every file system has handles (overlayfs in a container, say).
    if output.stdout.is_empty() {
        assert_eq!(stand.story(), ["a open 10", "a write 4 XY", "a close"]);
        stand.assert_no_gaps();
    }
}
