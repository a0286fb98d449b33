//! Each way to change a file gives the same results with and without the library, and is seen.

mod common;

use common::Stand;
use counterfoil_lane::frame::Kind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Content of all files of a directory.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().to_str().unwrap().to_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Runs a program without the library and with it, in this mode: both must do the same. Gives the stand of the latter.
fn same(mode: &str, compile: &dyn Fn(&Stand) -> PathBuf) -> Stand {
    let plain = Stand::new();
    let program = compile(&plain);
    let without = plain
        .command(&program)
        .env_remove("LD_PRELOAD")
        .output()
        .unwrap();
    let stand = Stand::new();
    let with = stand
        .command(&program)
        .env("COUNTERFOIL_PATCH", mode)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&with.stderr), text(&without.stderr), "mode {mode}");
    assert_eq!(text(&with.stdout), text(&without.stdout), "mode {mode}");
    assert_eq!(with.status, without.status, "mode {mode}");
    assert!(with.status.code() != Some(99), "{with:?}");
    let (with, without) = (contents(&stand.data()), contents(&plain.data()));
    assert!(with == without, "mode {mode}: {with:?} {without:?}");
    assert!(!with.is_empty());
    stand
}

/// All files were seen as they are.
fn assert_all_seen(stand: &Stand) {
    for name in contents(&stand.data()).keys() {
        if !name.ends_with(".skip") {
            stand.assert_replays(name);
        }
    }
    stand.assert_no_gaps();
}

/// Runs a C program in both modes; everything must be seen where libc's own calls are, and in the other mode too when
/// they aren't needed.
fn check_with(source: &str, flags: &[&str], needs_patching: bool) -> Stand {
    let compile = |stand: &Stand| stand.compile_with(source, flags);
    let symbols = same("0", &compile);
    if !needs_patching {
        assert_all_seen(&symbols);
    }
    let patched = same("1", &compile);
    assert_all_seen(&patched);
    patched
}

#[test]
fn stdio_in_all_its_forms() {
    check_with(
        r#"
        #include <stdarg.h>
        #include <stdio_ext.h>
        #include <wchar.h>
        #include <locale.h>
        static void say(FILE *f, const char *format, ...) {
            va_list list;
            va_start(list, format);
            CHECK(vfprintf(f, format, list) > 0);
            va_end(list);
        }
        int main(void) {
            char number[32] = "12";
            FILE *f = fopen("buffered", "w+");
            fprintf(f, "%s %d\n", number, 3);
            say(f, "%s-%d\n", number, 4);
            for (int n = 0; n < 10000; n++) fputc_unlocked('a' + n % 26, f);
            putc_unlocked('\n', f);
            fwrite_unlocked("unlocked", 1, 8, f);
            CHECK(fputs_unlocked("puts", f) >= 0 && fflush_unlocked(f) == 0);
            CHECK(fseek(f, 5, SEEK_SET) == 0 && fputc('X', f) == 'X' && fgetc(f) != EOF);
            CHECK(fseek(f, 0, SEEK_CUR) == 0 && fputs("after a read", f) >= 0);
            rewind(f);
            CHECK(fread(number, 1, 4, f) == 4 && fclose(f) == 0);

            f = fopen("unbuffered", "w");
            CHECK(setvbuf(f, NULL, _IONBF, 0) == 0);
            fprintf(f, "%05d", 7);
            fputs("raw", f);
            f = freopen("line", "w", f);
            CHECK(setvbuf(f, NULL, _IOLBF, 100) == 0);
            fputs("one\ntwo", f);
            fputs("three\n", f);
            f = freopen(NULL, "r+", f);
            CHECK(f && fputs("ONE", f) >= 0);

            int fd = open("descriptor", O_RDWR | O_CREAT, 0644);
            FILE *of = fdopen(fd, "a+");
            CHECK(of && fprintf(of, "appended %d", 1) > 0 && fflush(of) == 0 && ftruncate(fd, 4) == 0);
            CHECK(fputs("later", of) >= 0 && fsync(fileno(of)) == 0 && fclose(of) == 0);
            CHECK(write(fd, "x", 1) == -1 && errno == EBADF);

            of = fopen("big-buffer", "w");
            static char room[1 << 20];
            CHECK(setvbuf(of, room, _IOFBF, sizeof room) == 0);
            for (int n = 0; n < 300000; n++) fprintf(of, "%d,", n);
            CHECK(fclose(of) == 0);

            CHECK(setlocale(LC_ALL, "C.UTF-8"));
            of = fopen("wide", "w,ccs=UTF-8");
            CHECK(of && fputws(L"w\u00efde", of) >= 0 && fwprintf(of, L"%d", 5) == 1 && fclose(of) == 0);

            CHECK((fd = open("printed", O_WRONLY | O_CREAT, 0644)) >= 0 && dprintf(fd, "%s", "direct") == 6);
            size_t len;
            char *memory;
            of = open_memstream(&memory, &len);
            CHECK(of && fputs("only in memory", of) >= 0 && fclose(of) == 0 && len == 14);
            of = fmemopen(number, sizeof number, "w");
            CHECK(of && fputs("this too", of) >= 0 && fclose(of) == 0);

            // A captured descriptor is replaced below a FILE.
            of = fopen("below", "w");
            CHECK(fputs("to below", of) >= 0 && fflush(of) == 0);
            int other = open("instead", O_WRONLY | O_CREAT, 0644);
            CHECK(dup2(other, fileno(of)) == fileno(of) && close(other) == 0);
            CHECK(fputs("to instead", of) >= 0 && fclose(of) == 0);

            fputs(" at exit", f);
            of = fopen("left open", "w");
            fputs("flushed at exit", of);
            CHECK(freopen("stdout", "w", stdout) && puts("redirected") >= 0);
            return 0;
        }"#,
        &[],
        true,
    );
}

#[test]
fn fortified_calls() {
    check_with(
        r#"
        #include <stdarg.h>
        #include <wchar.h>
        static void say(FILE *f, int fd, const char *format, ...) {
            va_list list, again;
            va_start(list, format);
            va_copy(again, list);
            CHECK(vfprintf(f, format, list) > 0 && vdprintf(fd, format, again) > 0);
        }
        int main(int count, char **arguments) {
            int flags = O_RDWR | (count == 1 ? 0 : O_APPEND);
            int made = open("a", O_WRONLY | O_CREAT, 0644);
            int fd = open("a", flags), at = openat(AT_FDCWD, "a", flags);
            CHECK(made >= 0 && fd >= 0 && at >= 0);
            FILE *f = fopen("b", "w");
            say(f, fd, "%s %d\n", arguments[0] ? "x" : "y", count);
            CHECK(fprintf(f, "%d", count) == 1 && dprintf(at, "%d", count) == 1 && fputs("z", f) >= 0);
            CHECK(pwrite(fd, arguments, 8, 100) == 8 && pwrite(fd, "12345678", 8, 100) == 8);
            return 0;
        }"#,
        &["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"],
        true,
    );
}

#[test]
fn endings_that_flush_and_endings_that_do_not() {
    for ending in [
        "exit(3)",
        "_exit(4)",
        "quick_exit(5)",
        "abort()",
        "raise(SIGKILL)",
        "raise(SIGTERM)",
        "pthread_exit(NULL)",
        "fclose(f), fcloseall(), _exit(6)",
        "fork() ? wait(NULL), exit(0) : exit(0)",
        "fork() ? wait(NULL), _exit(0) : abort()",
        "execl(\"/bin/sh\", \"sh\", \"-c\", \"echo executed >> unflushed\", NULL)",
    ] {
        check_with(
            &r#"
            static void at_exit(void) { int fd = open("handler", O_WRONLY | O_CREAT | O_APPEND, 0644); write(fd, "x", 1); }
            int main(void) {
                atexit(at_exit);
                int fd = open("written", O_WRONLY | O_CREAT, 0644);
                FILE *f = fopen("unflushed", "w"), *g = fopen("part", "w");
                CHECK(write(fd, "whole", 5) == 5 && fputs("some", f) >= 0);
                CHECK(fputs("first", g) >= 0 && fflush(g) == 0 && fputs("second", g) >= 0);
                ENDING;
                return 0;
            }"#
            .replace("ENDING", ending),
            &[],
            true,
        );
    }
}

#[test]
fn iostreams() {
    let source = r#"
        #include <fstream>
        #include <iostream>
        #include <sstream>
        #include <string>
        int main() {
            std::ofstream plain("plain");
            plain << "one " << 2 << ' ' << 3.5 << std::endl << "unflushed";
            std::ofstream raw;
            raw.rdbuf()->pubsetbuf(nullptr, 0);
            raw.open("raw", std::ios::binary);
            raw << "a" << "bc";
            std::fstream both("both", std::ios::in | std::ios::out | std::ios::trunc);
            for (int n = 0; n < 20000; n++) both << n << '\n';
            both.seekp(10);
            both << "here";
            both.seekg(0);
            std::string word;
            both >> word;
            both.seekp(0, std::ios::end);
            both << word << std::string(100000, 'z');
            std::ofstream more("plain", std::ios::app);
            plain.close();
            more << "appended";
            more.close();
            std::ofstream("plain", std::ios::ate | std::ios::in | std::ios::out) << "at end";
            std::ofstream moved(std::move(raw));
            moved << "moved" << std::flush;
            std::cout << word << std::endl;
            static std::ofstream left("left open");
            left << "flushed at exit";
            return 0;
        }"#;
    let compile = |stand: &Stand| {
        let file = stand.root.path().join("streams.cc");
        std::fs::write(&file, source).unwrap();
        let program = stand.root.path().join("streams");
        let status = std::process::Command::new("g++")
            .args(["-O1", "-o"])
            .args([&program, &file])
            .status()
            .unwrap_or_else(|error| {
                panic!("running g++ failed ({error}): install the package g++")
            });
        assert!(status.success());
        program
    };
    same("0", &compile);
    assert_all_seen(&same("1", &compile));
}

#[test]
fn asynchronous_writes() {
    let stand = check_with(
        r#"
        #include <aio.h>
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            struct aiocb one = {.aio_fildes = fd, .aio_buf = "one", .aio_nbytes = 3, .aio_offset = 10};
            struct aiocb two = {.aio_fildes = fd, .aio_buf = "two", .aio_nbytes = 3, .aio_offset = 20, .aio_lio_opcode = LIO_WRITE};
            const struct aiocb *first[1] = {&one};
            struct aiocb *list[1] = {&two};
            CHECK(aio_write(&one) == 0);
            while (aio_error(&one) == EINPROGRESS) CHECK(aio_suspend(first, 1, NULL) == 0 || errno == EINTR);
            CHECK(aio_return(&one) == 3 && lio_listio(LIO_WAIT, list, 1, NULL) == 0 && aio_return(&two) == 3);
            CHECK(aio_fsync(O_SYNC, &one) == 0);
            while (aio_error(&one) == EINPROGRESS) CHECK(aio_suspend(first, 1, NULL) == 0 || errno == EINTR);
            CHECK(aio_return(&one) == 0);
            return 0;
        }"#,
        &["-lrt"],
        true,
    );
    assert!(stand.story().contains(&"a sync".to_owned()));
}

#[test]
fn temporary_files_and_names_that_libc_makes_up() {
    let program = r#"
        int main(void) {
            char a[] = "aXXXXXX", b[] = "bXXXXXX.end", c[] = "cXXXXXX", d[] = "dXXXXXX.end";
            int fds[4] = {mkstemp(a), mkstemps(b, 4), mkostemp(c, O_APPEND), mkostemps(d, 4, O_SYNC)};
            for (int n = 0; n < 4; n++) CHECK(fds[n] >= 0 && write(fds[n], "some", 4) == 4 && pwrite(fds[n], "M", 1, 2) == 1);
            FILE *f = tmpfile();
            CHECK(f && fputs("nameless", f) >= 0 && fclose(f) == 0);
            CHECK(rename(a, "named") == 0);
            return 0;
        }"#;
    // Names differ from run to run, so runs can't be compared by content.
    let stand = Stand::new();
    stand.run(program);
    for name in contents(&stand.data())
        .keys()
        .filter(|name| *name != "named")
    {
        stand.assert_replays(name);
    }
    stand.assert_no_gaps();
    assert_eq!(contents(&stand.data()).len(), 4);
    let renames = stand
        .frames()
        .iter()
        .filter(|frame| frame.kind == Kind::Rename)
        .count();
    assert_eq!(renames, 1);
}

#[test]
fn spawned_programs_and_children_that_borrow() {
    check_with(
        r#"
        int main(void) {
            posix_spawn_file_actions_t actions;
            posix_spawn_file_actions_init(&actions);
            posix_spawn_file_actions_addopen(&actions, 1, "opened", O_WRONLY | O_CREAT | O_APPEND, 0644);
            int fd = open("inherited", O_WRONLY | O_CREAT, 0644), status;
            posix_spawn_file_actions_adddup2(&actions, fd, 9);
            posix_spawn_file_actions_addclose(&actions, fd);
            char *words[] = {"sh", "-c", "echo out; echo nine >&9; echo more >> other", NULL};
            pid_t child;
            CHECK(write(fd, "before ", 7) == 7);
            CHECK(posix_spawn(&child, "/bin/sh", &actions, NULL, words, environ) == 0);
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            CHECK(write(fd, "after ", 6) == 6);
            CHECK(posix_spawnp(&child, "sh", &actions, NULL, words, environ) == 0);
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            child = vfork();
            if (child == 0) {
                write(fd, "borrowed", 8);
                close(fd);
                dup2(2, fd);
                execl("/bin/sh", "sh", "-c", "echo vforked >> other", NULL);
                _exit(1);
            }
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            CHECK(write(fd, " still mine", 11) == 11);
            FILE *pipe = popen("cat >> other", "w");
            CHECK(pipe && fputs("through a pipe", pipe) >= 0 && pclose(pipe) == 0);
            return 0;
        }"#,
        &[],
        false,
    );
}

#[test]
fn what_the_kernel_moves_from_file_to_file() {
    let stand = check_with(
        r#"
        #include <sys/sendfile.h>
        #include <sys/ioctl.h>
        #include <linux/fs.h>
        int main(void) {
            int from = open("from.skip", O_RDWR | O_CREAT, 0644), to = open("to", O_RDWR | O_CREAT, 0644), ends[2], more[2];
            char data[8000];
            memset(data, 'd', sizeof data);
            CHECK(write(from, data, sizeof data) == sizeof data && lseek(from, 0, SEEK_SET) == 0);
            off_t at = 100;
            CHECK(sendfile(to, from, &at, 1000) == 1000 && at == 1100);
            CHECK(sendfile(to, from, NULL, 500) == 500);
            loff_t in = 0, out = 9000;
            CHECK(copy_file_range(from, &in, to, &out, 700, 0) == 700 && out == 9700);
            CHECK(pipe(ends) == 0 && pipe(more) == 0);
            struct iovec part = {"vmspliced", 9};
            CHECK(vmsplice(ends[1], &part, 1, 0) == 9 && tee(ends[0], more[1], 9, 0) == 9);
            CHECK(splice(ends[0], NULL, to, NULL, 9, 0) == 9);
            out = 20000;
            CHECK(splice(more[0], NULL, to, &out, 9, SPLICE_F_MOVE) == 9 && out == 20009);
            CHECK(lseek(to, 0, SEEK_CUR) == 1509);
            long r = ioctl(to, FICLONE, from);
            printf("%ld %d\n", r, r ? errno : 0);
            struct file_clone_range range = {from, 0, 4096, 4096};
            r = ioctl(to, FICLONERANGE, &range);
            printf("%ld %d\n", r, r ? errno : 0);
            CHECK(ioctl(to, FIONREAD, &r) == 0);
            CHECK(sendfile(to, 999, NULL, 5) == -1 && errno == EBADF);
            CHECK(copy_file_range(999, NULL, to, NULL, 5, 0) == -1 && errno == EBADF);
            CHECK(splice(ends[0], NULL, to, (loff_t *)8, 9, SPLICE_F_NONBLOCK) == -1);
            return 0;
        }"#,
        &[],
        false,
    );
    assert!(stand.story().contains(&"to reread 20000+9".to_owned()));
}

#[test]
fn holes_and_files_over_4_gib() {
    let stand = Stand::new();
    stand.run(
        r#"
        #define FAR (5LL << 30)
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(pwrite(fd, "far", 3, FAR) == 3);
            CHECK(lseek(fd, FAR + 10, SEEK_SET) == FAR + 10 && write(fd, "on", 2) == 2);
            CHECK(lseek(fd, 0, SEEK_END) == FAR + 12 && write(fd, "end", 3) == 3);
            CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FAR, 4096) == 0 || errno == EOPNOTSUPP);
            CHECK(fallocate(fd, 0, FAR + 4096, 4096) == 0 || errno == EOPNOTSUPP);
            CHECK(posix_fallocate(fd, FAR + 8192, 4096) == 0);
            CHECK(fallocate(fd, 12345, 0, 1) == -1 && posix_fallocate(fd, -1, 1) == EINVAL && posix_fallocate(999, 0, 1) == EBADF);
            CHECK(ftruncate(fd, FAR - 1) == 0 && truncate("a", FAR + 1) == 0);
            int appending = open("a", O_WRONLY | O_APPEND);
            CHECK(write(appending, "x", 1) == 1 && pwrite(appending, "y", 1, 0) == 1);
            CHECK(sync_file_range(fd, FAR, 4096, SYNC_FILE_RANGE_WRITE) == 0 && syncfs(fd) == 0);
            char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, FAR);
            CHECK(at != MAP_FAILED && munmap(at, 4096) == 0);
            return 0;
        }"#,
    );
    let far = 5u64 << 30;
    let story = stand.story();
    let has = |line: String| assert!(story.contains(&line), "{line}: {story:#?}");
    has(format!("a write {far} far"));
    has(format!("a write {} on", far + 10));
    has(format!("a write {} end", far + 12));
    has(format!("a reread {}+4096", far + 8192));
    has(format!("a truncate {}", far - 1));
    has(format!("a truncate {}", far + 1));
    has(format!("a write {} x", far + 1));
    has(format!("a write {} y", far + 2));
    has(format!("a unmap {far}+4096"));
    assert!(!story.contains(&"a sync".to_owned()));
    stand.assert_no_gaps();
}

#[test]
fn flags_of_positioned_writes_and_direct_ones() {
    check_with(
        r#"
        #ifndef RWF_NOAPPEND
        #define RWF_NOAPPEND 0x20
        #endif
        #define SAY(what) do { errno = 0; long r = (long)(what); printf("%d: %ld %d\n", __LINE__, r, errno); } while (0)
        int main(void) {
            struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
            int fd = open("a", O_RDWR | O_CREAT, 0644), appending = open("a", O_WRONLY | O_APPEND);
            SAY(pwritev2(fd, parts, 2, 5, 0));
            SAY(pwritev2(fd, parts, 2, 0, RWF_APPEND));
            SAY(pwritev2(fd, parts, 2, -1, RWF_APPEND));
            SAY(lseek(fd, 0, SEEK_CUR));
            SAY(pwritev2(fd, parts, 2, -1, RWF_DSYNC));
            SAY(pwritev2(fd, parts, 2, 3, RWF_SYNC));
            SAY(pwritev2(fd, parts, 2, 7, RWF_HIPRI));
            SAY(pwritev2(appending, parts, 2, 1, 0));
            SAY(pwritev2(appending, parts, 2, 1, RWF_NOAPPEND));
            SAY(pwritev2(appending, parts, 2, -1, RWF_NOAPPEND));
            SAY(lseek(appending, 0, SEEK_CUR));
            SAY(pwritev2(appending, parts, 2, -1, 0));
            SAY(pwritev2(fd, parts, 2, -2, 0));
            SAY(pwritev2(fd, parts, 2, 0, 0x40000000));
            int direct = open("direct", O_WRONLY | O_CREAT | O_DIRECT, 0644);
            void *block;
            CHECK(posix_memalign(&block, 4096, 8192) == 0);
            memset(block, 'b', 8192);
            if (direct >= 0) {
                SAY(write(direct, block, 8192));
                SAY(pwrite(direct, block, 4096, 8192));
                SAY(write(direct, block + 1, 100));
            }
            int synchronous = open("synchronous", O_WRONLY | O_CREAT | O_SYNC, 0644);
            SAY(write(synchronous, "s", 1));
            return 0;
        }"#,
        &[],
        false,
    );
}
