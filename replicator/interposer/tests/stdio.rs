//! stdio, whose calls go past every symbol.

mod common;

use common::Stand;

#[test]
fn stdio_is_seen_as_it_flushes() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            FILE *f = fopen("a", "w");
            CHECK(f);
            CHECK(fprintf(f, "%s\n", "hello") == 6);
            CHECK(fflush(f) == 0);
            CHECK(fputs("world\n", f) >= 0);
            CHECK(fclose(f) == 0);
            f = fopen("b", "w");
            CHECK(f);
            setvbuf(f, NULL, _IONBF, 0);
            CHECK(fputs("raw", f) >= 0);
            CHECK(freopen("c", "w", f) == f);
            CHECK(fputs("in c", f) >= 0);
            FILE *end = fopen("d", "a");
            CHECK(end);
            fputs("written at exit", end);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 truncated created",
            "a write 0 hello\n",
            "a write 6 world\n",
            "a close",
            "b open 0 truncated created",
            "b write 0 raw",
            "c open 0 truncated created",
            "b close",
            "d open 0 created",
            "d write 0 written at exit",
            "c write 0 in c",
        ]
    );
    for file in ["a", "b", "c", "d"] {
        stand.assert_replays(file);
    }
    stand.assert_no_gaps();
}

#[test]
fn a_redirected_standard_output_is_seen() {
    let stand = Stand::new();
    let status = stand
        .command("sh")
        .arg("-c")
        .arg("echo one > a; printf two >> a; (echo three; echo four) >> a; cat a > b; exec >> c; echo five")
        .status()
        .unwrap();
    assert!(status.success());
    for file in ["a", "b", "c"] {
        stand.assert_replays(file);
    }
    stand.assert_no_gaps();
}

#[test]
fn the_mode_is_told_and_can_be_forced() {
    let stand = Stand::new();
    let program = stand.compile_with(
        r#"
        #include <dlfcn.h>
        int main(void) {
            const char *(*mode)(void) = dlsym(RTLD_DEFAULT, "counterfoil_interposer_mode");
            CHECK(mode);
            puts(mode());
            int fd = open("a", O_WRONLY | O_CREAT, 0644);
            CHECK(write(fd, "plain", 5) == 5);
            FILE *f = fopen("b", "w");
            fputs("unseen", f);
            fclose(f);
            // stdio closes it unseen; its number is used again for something else.
            FILE *handle = fdopen(fd, "w");
            fclose(handle);
            int other = open("/dev/null", O_RDWR);
            CHECK(other == fd);
            CHECK(write(other, "not ours", 8) == 8);
            return 0;
        }"#,
        &["-ldl"],
    );
    let output = stand.command(&program).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "patched\n");
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a write 0 plain",
            "b open 0 truncated created",
            "b write 0 unseen",
            "b close",
            "a close",
        ]
    );

    let stand = Stand::new();
    let output = stand
        .command(&program)
        .env("COUNTERFOIL_PATCH", "0")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "symbols\n");
    assert_eq!(
        stand.story(),
        ["a open 0 created", "a write 0 plain", "a close"]
    );
}
