//! The library in programs that are run by valgrind: it works there, and memcheck has nothing to say about it.

mod common;

use common::Stand;
use std::process::Command;

/// Goes through most of the hooks, in a parent, a child and threads.
const PROGRAM: &str = r#"
#include <dlfcn.h>
static int shared;
void *work(void *argument) {
    char line[32];
    for (int n = 0; n < 20; n++) CHECK(write(shared, line, sprintf(line, "%ld %d\n", (long)argument, n)) > 0);
    return NULL;
}
int main(void) {
    const char *(*mode)(void) = dlsym(RTLD_DEFAULT, "counterfoil_interposer_mode");
    CHECK(mode);
    FILE *f = fopen("stdio", "w");
    CHECK(f && fprintf(f, "%s %d\n", "hello", 5) == 8 && fflush(f) == 0 && fputs("more", f) >= 0 && fclose(f) == 0);
    int fd = open("a", O_RDWR | O_CREAT, 0644), status, ends[2];
    struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
    CHECK(write(fd, "one", 3) == 3 && pwrite(fd, "two", 3, 10) == 3 && writev(fd, parts, 2) == 5);
    CHECK(pwritev2(fd, parts, 2, 20, 0) == 5 && syscall(SYS_write, fd, "n", 1) == 1);
    CHECK(ftruncate(fd, 4096) == 0 && fsync(fd) == 0 && flock(fd, LOCK_EX) == 0 && flock(fd, LOCK_UN) == 0);
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    strcpy(at + 100, "mapped");
    CHECK(msync(at, 4096, MS_SYNC) == 0 && munmap(at, 4096) == 0);
    CHECK(fchmod(fd, 0600) == 0 && link("a", "b") == 0 && rename("b", "c") == 0 && unlink("c") == 0);
    CHECK(dup2(fd, 50) == 50 && close(fd) == 0 && close(50) == 0);
    shared = open("threads", O_WRONLY | O_CREAT | O_APPEND, 0644);
    pthread_t threads[4];
    for (long n = 0; n < 4; n++) CHECK(pthread_create(&threads[n], NULL, work, (void *)n) == 0);
    for (int n = 0; n < 4; n++) CHECK(pthread_join(threads[n], NULL) == 0);
    int child = fork();
    if (child == 0) { CHECK(write(shared, "child\n", 6) == 6); _exit(0); }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(system("exit 0") == 0);
    CHECK(setuid(65534) == 0 && write(shared, "left\n", 5) == 5);
    puts(mode());
    return 0;
}
"#;

/// What the program leaves, without its threads' lines, whose order is their own.
fn run(under: &[&str], mode: &str) -> (Vec<String>, Vec<u8>) {
    let stand = Stand::new();
    let program = stand.compile_with(PROGRAM, &["-g", "-ldl"]);
    let mut words = under.iter().copied().chain([program.to_str().unwrap()]);
    let mut command = stand.command(words.next().unwrap());
    let output = command
        .args(words)
        .env("COUNTERFOIL_PATCH", mode)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for file in ["a", "stdio", "threads"] {
        if mode == "1" || file != "stdio" {
            stand.assert_replays(file);
        }
    }
    stand.assert_no_gaps();
    let mut story = stand.story();
    story.retain(|line| !line.starts_with("threads "));
    for line in &mut story {
        *line = line.replace(&*stand.data().to_string_lossy(), "DATA");
    }
    (story, output.stdout)
}

#[test]
fn under_valgrind_a_program_is_captured_as_it_is_without() {
    let is_there = Command::new("valgrind").arg("--version").output();
    assert!(is_there.is_ok(), "install the Debian package valgrind");
    for mode in ["1", "0"] {
        let plain = run(&[], mode);
        let checked = run(&["valgrind", "--quiet", "--error-exitcode=9"], mode);
        assert_eq!(checked, plain, "mode {mode}");
        assert!(plain.0.len() > 15, "{:?}", plain.0);
    }
}
