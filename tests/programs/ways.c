/*
 * Changes files in every way that C programs have, one way a run.
 *
 *   ways WAY            does it, in the working directory; `ways` alone lists them
 *   ways --child WAY FD the second half of a way that executes another program
 *
 * What a way leaves behind depends on nothing but the way, so two runs can be compared: files whose
 * records come in an order that nobody knows (appending processes and threads) have records of 32
 * bytes, to be sorted. Files that are to be there before are made by the caller: `old.dat` of 10,000
 * bytes.
 *
 * Exit 0: done. Exit 1: a call failed; the line says which. Exit 77: this kernel or file system
 * doesn't have it. Ways that end otherwise say so below.
 */
#define _GNU_SOURCE
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *self;

static void failed(int line, const char *what) {
    dprintf(2, "ways.c, line %d: %s: %s\n", line, what, strerror(errno));
    _exit(errno == ENOSYS || errno == EOPNOTSUPP ? 77 : 1);
}
/* A call that has to succeed. */
#define DO(call)                                                                                                     \
    do {                                                                                                             \
        if (!(call)) failed(__LINE__, #call);                                                                        \
    } while (0)

enum { RECORD = 32, APPENDED = 200, THREADS = 64, MANY = 2000 };

static const char text[] = "The quick brown fox jumps over the lazy dog, and nobody was looking.\n";
enum { TEXT = sizeof text - 1 };

static int create(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    DO(fd >= 0);
    return fd;
}

static int reopen(const char *path) {
    int fd = open(path, O_RDWR);
    DO(fd >= 0);
    return fd;
}

static void put(int fd) { DO(write(fd, text, TEXT) == TEXT); }

/* A page of one letter. */
static char *page(char letter) {
    char *memory = NULL;
    DO(posix_memalign((void **)&memory, 4096, 4096) == 0);
    memset(memory, letter, 4096);
    return memory;
}

static void join(pid_t child) {
    int status = 0;
    DO(child > 0);
    DO(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        dprintf(2, "a child ended with status %#x\n", status);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
}

/* --- write and its kin --- */

static void way_write(void) {
    int fd = create("f.dat");
    for (int i = 0; i < 100; i++) put(fd);
    DO(lseek(fd, 1000, SEEK_SET) == 1000);
    put(fd);
    DO(lseek(fd, 20000, SEEK_SET) == 20000);
    put(fd);
    DO(close(fd) == 0);
}

static void way_write_large(void) {
    enum { BYTES = 3 * 1024 * 1024 + 17 };
    char *bytes = malloc(BYTES);
    DO(bytes != NULL);
    for (int i = 0; i < BYTES; i++) bytes[i] = (char)(i * 31 + i / 4096);
    int fd = create("f.dat");
    DO(write(fd, bytes, BYTES) == BYTES);
    DO(close(fd) == 0);
}

static void way_pwrite(void) {
    int fd = reopen("old.dat");
    DO(pwrite(fd, text, TEXT, 5) == TEXT);
    DO(pwrite64(fd, text, TEXT, 9990) == TEXT);
    DO(close(fd) == 0);
}

static struct iovec three[3] = {{"one,", 4}, {"", 0}, {"three;", 6}};

static void way_writev(void) {
    int fd = create("f.dat");
    for (int i = 0; i < 50; i++) DO(writev(fd, three, 3) == 10);
    DO(close(fd) == 0);
}

static void way_pwritev(void) {
    int fd = reopen("old.dat");
    DO(pwritev(fd, three, 3, 4093) == 10);
    DO(pwritev64(fd, three, 3, 9995) == 10);
    DO(close(fd) == 0);
}

static void way_pwritev2(void) {
    int fd = reopen("old.dat");
    DO(pwritev2(fd, three, 3, 100, RWF_DSYNC) == 10);
    DO(pwritev2(fd, three, 3, 200, RWF_SYNC) == 10);
    DO(lseek(fd, 300, SEEK_SET) == 300);
    DO(pwritev2(fd, three, 3, -1, 0) == 10);
    DO(pwritev2(fd, three, 3, -1, RWF_HIPRI) == 10);
    DO(lseek(fd, 0, SEEK_CUR) == 320);
    DO(close(fd) == 0);
}

static void way_rwf_append(void) {
    int fd = reopen("old.dat");
    DO(pwritev2(fd, three, 3, 100, RWF_APPEND) == 10);
    DO(pwritev2(fd, three, 3, -1, RWF_APPEND) == 10);
    DO(close(fd) == 0);
}

static void way_direct(void) {
    int fd = open("f.dat", O_RDWR | O_CREAT | O_DIRECT, 0644);
    if (fd < 0 && errno == EINVAL) exit(77);
    DO(fd >= 0);
    DO(write(fd, page('a'), 4096) == 4096);
    DO(pwrite(fd, page('b'), 4096, 8192) == 4096);
    DO(close(fd) == 0);
}

static void way_aio(void) {
    int fd = create("f.dat");
    struct aiocb one = {.aio_fildes = fd, .aio_buf = page('a'), .aio_nbytes = 4096, .aio_offset = 100};
    DO(aio_write(&one) == 0);
    const struct aiocb *list[] = {&one};
    while (aio_error(&one) == EINPROGRESS) aio_suspend(list, 1, NULL);
    DO(aio_return(&one) == 4096);
    struct aiocb two = {
        .aio_fildes = fd, .aio_buf = page('b'), .aio_nbytes = 10, .aio_offset = 9000, .aio_lio_opcode = LIO_WRITE};
    struct aiocb *many[] = {&two};
    DO(lio_listio(LIO_WAIT, many, 1, NULL) == 0);
    DO(close(fd) == 0);
}

/* --- appending --- */

static void append_records(const char *path, int who) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    DO(fd >= 0);
    for (int i = 0; i < APPENDED; i++) {
        char record[2 * RECORD];
        snprintf(record, sizeof record, "writer %5d, record %9d;\n", who, i);
        DO(write(fd, record, RECORD) == RECORD);
    }
    DO(close(fd) == 0);
}

static void way_append(void) {
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            append_records("sorted.dat", i);
            _exit(0);
        }
    }
    for (int i = 0; i < 2; i++) join(children[i]);
}

static void *appending_thread(void *who) {
    append_records("sorted.dat", (int)(intptr_t)who);
    return NULL;
}

static void way_threads(void) {
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++) DO(pthread_create(&threads[i], NULL, appending_thread, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) DO(pthread_join(threads[i], NULL) == 0);
}

static int shared_fd;

static void *sharing_thread(void *who) {
    for (int i = 0; i < APPENDED; i++) {
        char record[2 * RECORD];
        snprintf(record, sizeof record, "thread %5d, record %9d;\n", (int)(intptr_t)who, i);
        DO(write(shared_fd, record, RECORD) == RECORD);
    }
    return NULL;
}

/* One description and its offset, for all. */
static void way_threads_one_offset(void) {
    pthread_t threads[8];
    shared_fd = create("sorted.dat");
    for (intptr_t i = 0; i < 8; i++) DO(pthread_create(&threads[i], NULL, sharing_thread, (void *)i) == 0);
    for (int i = 0; i < 8; i++) DO(pthread_join(threads[i], NULL) == 0);
    DO(close(shared_fd) == 0);
}

static void way_many_files(void) {
    struct rlimit limit = {4096, 4096};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        getrlimit(RLIMIT_NOFILE, &limit);
        if (limit.rlim_max < MANY + 100) exit(77);
        limit.rlim_cur = limit.rlim_max;
        DO(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    static int fds[MANY];
    for (int i = 0; i < MANY; i++) {
        char name[32];
        snprintf(name, sizeof name, "many%04d.dat", i);
        fds[i] = create(name);
    }
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < MANY; i++) DO(dprintf(fds[i], "file %d, round %d\n", i, round) > 0);
    for (int i = 0; i < MANY; i++) DO(close(fds[i]) == 0);
}

/* --- size and space --- */

static void way_ftruncate(void) {
    int fd = reopen("old.dat");
    DO(ftruncate(fd, 5000) == 0);
    DO(ftruncate64(fd, 7000) == 0);
    DO(close(fd) == 0);
}

static void way_truncate(void) {
    DO(truncate("old.dat", 3) == 0);
    DO(truncate64("old.dat", 12000) == 0);
}

static void way_open_truncates(void) {
    int fd = open("old.dat", O_WRONLY | O_TRUNC);
    DO(fd >= 0);
    DO(close(fd) == 0);
    fd = creat("creat.dat", 0600);
    DO(fd >= 0);
    put(fd);
    DO(close(fd) == 0);
    fd = openat(AT_FDCWD, "openat.dat", O_CREAT | O_EXCL | O_WRONLY, 0640);
    DO(fd >= 0);
    put(fd);
    DO(close(fd) == 0);
}

static void way_fallocate(void) {
    int fd = reopen("old.dat");
    DO(fallocate(fd, 0, 9000, 5000) == 0);
    DO(posix_fallocate(fd, 20000, 100) == 0);
    DO(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 100000) == 0);
    DO(close(fd) == 0);
}

static void way_punch(void) {
    int fd = reopen("old.dat");
    DO(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 8000) == 0);
    DO(close(fd) == 0);
}

static void way_zero_range(void) {
    int fd = reopen("old.dat");
    DO(fallocate(fd, FALLOC_FL_ZERO_RANGE, 9000, 3000) == 0);
    DO(close(fd) == 0);
}

static void way_collapse(void) {
    int fd = create("f.dat");
    for (char c = 'a'; c < 'i'; c++) DO(write(fd, page(c), 4096) == 4096);
    DO(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 4096, 8192) == 0);
    DO(fallocate(fd, FALLOC_FL_INSERT_RANGE, 4096, 4096) == 0);
    DO(close(fd) == 0);
}

static void way_sparse(void) {
    int fd = create("f.dat");
    DO(pwrite(fd, text, TEXT, 0) == TEXT);
    DO(ftruncate64(fd, (4LL << 30) + 100000) == 0);
    DO(pwrite64(fd, text, TEXT, (4LL << 30) - 10) == TEXT);
    DO(lseek64(fd, -7, SEEK_END) > 0);
    put(fd);
    DO(close(fd) == 0);
}

/* --- filled by the kernel --- */

static void way_copy_file_range(void) {
    int from = reopen("old.dat"), to = create("f.dat");
    off64_t in = 10, out = 5000;
    DO(copy_file_range(from, &in, to, &out, 3000, 0) == 3000);
    DO(copy_file_range(from, &in, to, NULL, 100, 0) == 100);
    DO(close(to) == 0 && close(from) == 0);
}

static void way_sendfile(void) {
    int from = reopen("old.dat"), to = create("f.dat");
    DO(sendfile(to, from, NULL, 4000) == 4000);
    off64_t in = 10;
    DO(sendfile64(to, from, &in, 4000) == 4000);
    DO(close(to) == 0 && close(from) == 0);
}

static void way_splice(void) {
    int to = create("f.dat"), ends[2];
    DO(pipe(ends) == 0);
    put(ends[1]);
    put(ends[1]);
    off64_t out = 4000;
    DO(splice(ends[0], NULL, to, NULL, TEXT, 0) == TEXT);
    DO(splice(ends[0], NULL, to, &out, TEXT, 0) == TEXT);
    DO(close(to) == 0);
}

static void way_clone(void) {
    int from = reopen("old.dat"), to = create("f.dat");
    /* FICLONE, which few file systems have; then the copy that programs make instead. */
    if (ioctl(to, _IOW(0x94, 9, int), from) != 0) DO(sendfile(to, from, NULL, 10000) == 10000);
    DO(close(to) == 0 && close(from) == 0);
}

/* --- mappings --- */

static char *map(const char *path, int close_it) {
    int fd = reopen(path);
    char *memory = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    DO(memory != MAP_FAILED);
    if (close_it) DO(close(fd) == 0);
    return memory;
}

static void way_mmap_msync(void) {
    char *memory = map("old.dat", 0);
    memcpy(memory + 4000, text, TEXT);
    DO(msync(memory, 10000, MS_SYNC) == 0);
    DO(munmap(memory, 10000) == 0);
}

static void way_mmap(void) {
    char *memory = map("old.dat", 1);
    memcpy(memory + 4000, text, TEXT);
    DO(munmap(memory, 10000) == 0);
}

/* It ends with the program. */
static void way_mmap_kept(void) {
    char *memory = map("old.dat", 1);
    memcpy(memory + 9000, text, TEXT);
}

static void way_mremap(void) {
    char *memory = map("old.dat", 1);
    DO(truncate("old.dat", 40000) == 0);
    memory = mremap(memory, 10000, 40000, MREMAP_MAYMOVE);
    DO(memory != MAP_FAILED);
    memcpy(memory + 39000, text, TEXT);
    DO(munmap(memory, 40000) == 0);
}

static void way_mprotect(void) {
    int fd = reopen("old.dat");
    char *memory = mmap(NULL, 10000, PROT_READ, MAP_SHARED, fd, 0);
    DO(memory != MAP_FAILED);
    DO(mprotect(memory, 10000, PROT_READ | PROT_WRITE) == 0);
    memcpy(memory + 300, text, TEXT);
    DO(munmap(memory, 10000) == 0 && close(fd) == 0);
}

/* --- stdio --- */

static void print_some(FILE *file) {
    for (int i = 0; i < 400; i++) {
        DO(fprintf(file, "line %d of a file\n", i) > 0);
        DO(fputs("fputs\n", file) >= 0);
        DO(fputc_unlocked('u', file) == 'u' && putc('\n', file) == '\n');
    }
}

static FILE *stream(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    DO(file != NULL);
    return file;
}

static void way_stdio(void) {
    FILE *file = stream("f.dat", "w");
    print_some(file);
    DO(fseek(file, 100, SEEK_SET) == 0);
    DO(fwrite(text, 1, TEXT, file) == TEXT);
    DO(fclose(file) == 0);
}

static void way_stdio_update(void) {
    FILE *file = stream("old.dat", "r+");
    char some[10];
    DO(fread(some, 1, 10, file) == 10);
    DO(fseeko(file, 0, SEEK_CUR) == 0);
    DO(fwrite_unlocked(text, 1, TEXT, file) == TEXT);
    DO(fclose(file) == 0);
    file = fopen64("old.dat", "a");
    DO(file != NULL);
    DO(putw(12345, file) == 0);
    DO(fclose(file) == 0);
}

static void way_stdio_unbuffered(void) {
    FILE *file = stream("f.dat", "w");
    setbuf(file, NULL);
    print_some(file);
    DO(fclose(file) == 0);
}

static void way_stdio_lines(void) {
    FILE *file = stream("f.dat", "w");
    setlinebuf(file);
    print_some(file);
    DO(fclose(file) == 0);
}

static void way_stdio_own_buffer(void) {
    static char buffer[137];
    FILE *file = stream("f.dat", "w");
    DO(setvbuf(file, buffer, _IOFBF, sizeof buffer) == 0);
    print_some(file);
    DO(fflush(NULL) == 0);
    print_some(file);
    DO(fclose(file) == 0);
}

static void way_freopen(void) {
    DO(freopen("f.dat", "w", stdout) == stdout);
    for (int i = 0; i < 300; i++) printf("to what was standard output: %d\n", i);
    DO(freopen("g.dat", "a", stdout) == stdout);
    puts("and to another file");
    DO(fclose(stdout) == 0);
}

static void way_fdopen(void) {
    FILE *file = fdopen(create("f.dat"), "w");
    DO(file != NULL);
    print_some(file);
    DO(fclose(file) == 0);
}

__attribute__((format(printf, 2, 3))) static void say(FILE *file, const char *format, ...) {
    va_list list;
    va_start(list, format);
    DO(vfprintf(file, format, list) > 0);
    va_end(list);
}

static void way_vfprintf(void) {
    FILE *file = stream("f.dat", "w");
    for (int i = 0; i < 500; i++) say(file, "%s number %d\n", "record", i);
    DO(fflush(file) == 0);
    DO(vdprintf != NULL && dprintf(fileno(file), "past the stream\n") > 0);
    DO(fclose(file) == 0);
}

static void way_stdio_exit(void) { print_some(stream("f.dat", "w")); }

/* What is in the buffer is lost, with us as without us. */
static void way_stdio__exit(void) {
    print_some(stream("f.dat", "w"));
    _exit(0);
}

/* Ends with SIGABRT. */
static void way_stdio_abort(void) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    print_some(stream("f.dat", "w"));
    abort();
}

/* --- descriptors --- */

static void way_dup2_over(void) {
    int a = create("a.dat"), b = create("b.dat");
    put(a);
    DO(dup2(b, a) == a);
    put(a);
    put(b);
    DO(close(b) == 0);
    put(a);
    int c = dup(a), d = fcntl(a, F_DUPFD_CLOEXEC, 50);
    DO(c >= 0 && d >= 50);
    put(c);
    put(d);
    DO(dup3(create("c.dat"), a, O_CLOEXEC) == a);
    put(a);
    put(c);
}

static void way_fork(void) {
    int fd = create("f.dat");
    put(fd);
    pid_t child = fork();
    if (child == 0) {
        put(fd);
        int own = create("g.dat");
        put(own);
        _exit(0);
    }
    join(child);
    put(fd);
    DO(close(fd) == 0);
}

static void way_fork_exec(void) {
    int fd = create("f.dat");
    put(fd);
    char number[16];
    snprintf(number, sizeof number, "%d", fd);
    pid_t child = fork();
    if (child == 0) {
        execl(self, self, "--child", "inherited", number, NULL);
        _exit(127);
    }
    join(child);
    put(fd);
}

static void way_vfork_exec(void) {
    int fd = create("f.dat");
    put(fd);
    char number[16];
    snprintf(number, sizeof number, "%d", fd);
    pid_t child = vfork();
    if (child == 0) {
        execl(self, self, "--child", "inherited", number, NULL);
        _exit(127);
    }
    join(child);
    put(fd);
}

static void way_spawn(void) {
    int fd = create("f.dat");
    put(fd);
    posix_spawn_file_actions_t actions;
    DO(posix_spawn_file_actions_init(&actions) == 0);
    DO(posix_spawn_file_actions_addopen(&actions, 1, "g.dat", O_WRONLY | O_CREAT, 0644) == 0);
    DO(posix_spawn_file_actions_adddup2(&actions, fd, 60) == 0);
    pid_t child;
    char *words[] = {self, "--child", "inherited", "60", NULL};
    DO(posix_spawn(&child, self, &actions, NULL, words, environ) == 0);
    join(child);
    put(fd);
}

static void way_popen(void) {
    FILE *pipe = popen("cat > f.dat", "w");
    DO(pipe != NULL);
    print_some(pipe);
    DO(pclose(pipe) == 0);
    DO(system("echo more >> f.dat") == 0);
}

/* The receiver isn't a child of the sender's opening: it was made before. */
static void way_passed(void) {
    int ends[2];
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    pid_t child = fork();
    char byte = 0, room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    if (child == 0) {
        DO(recvmsg(ends[1], &message, 0) == 1);
        int fd;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        put(fd);
        DO(pwrite(fd, "received", 8, 500) == 8);
        _exit(0);
    }
    int fd = create("f.dat");
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(control), &fd, sizeof fd);
    DO(sendmsg(ends[0], &message, 0) == 1);
    DO(close(fd) == 0);
    join(child);
}

/* --- names --- */

static void way_rename(void) {
    int fd = create("new.dat");
    put(fd);
    DO(rename("new.dat", "old.dat") == 0);
    put(fd);
    DO(close(fd) == 0);
}

/* From a name that isn't captured, as editors do. */
static void way_rename_in(void) {
    int fd = create("old.tmp");
    put(fd);
    DO(fsync(fd) == 0 && close(fd) == 0);
    DO(rename("old.tmp", "old.dat") == 0);
}

static void way_rename_out(void) {
    DO(renameat(AT_FDCWD, "old.dat", AT_FDCWD, "old.dat.gone") == 0);
    put(create("f.dat"));
}

static void way_exchange(void) {
    int a = create("a.dat"), b = create("b.dat");
    put(a);
    DO(write(b, three[2].iov_base, 6) == 6);
    DO(renameat2(AT_FDCWD, "a.dat", AT_FDCWD, "b.dat", RENAME_EXCHANGE) == 0);
    put(a);
    DO(write(b, three[2].iov_base, 6) == 6);
}

static void way_noreplace(void) {
    int a = create("a.dat");
    put(a);
    DO(renameat2(AT_FDCWD, "a.dat", AT_FDCWD, "b.dat", RENAME_NOREPLACE) == 0);
    DO(renameat2(AT_FDCWD, "b.dat", AT_FDCWD, "old.dat", RENAME_NOREPLACE) == -1 && errno == EEXIST);
    put(a);
}

static void way_hard_link(void) {
    DO(link("old.dat", "alias") == 0);
    int fd = reopen("alias");
    put(fd);
    DO(close(fd) == 0);
    DO(unlink("alias") == 0);
}

/* The captured name is the second one. */
static void way_linked_in(void) {
    int fd = create("plain");
    put(fd);
    DO(linkat(AT_FDCWD, "plain", AT_FDCWD, "f.dat", 0) == 0);
    put(fd);
    DO(unlink("plain") == 0);
    put(fd);
}

static void way_symlink(void) {
    DO(symlink("old.dat", "alias") == 0);
    int fd = reopen("alias");
    put(fd);
    DO(close(fd) == 0);
    DO(truncate("alias", 9000) == 0);
    DO(unlink("alias") == 0);
}

/* Through a link to a file that isn't there yet. */
static void way_dangling_symlink(void) {
    DO(symlink("f.dat", "alias") == 0);
    int fd = create("alias");
    put(fd);
}

static void way_unlink_open(void) {
    int fd = reopen("old.dat");
    put(fd);
    DO(unlink("old.dat") == 0);
    put(fd);
    int again = create("old.dat");
    DO(write(again, "another", 7) == 7);
    put(fd);
    DO(remove("old.dat") == 0);
    put(create("f.dat"));
}

static void way_tmpfile(void) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0644);
    DO(fd >= 0);
    put(fd);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DO(linkat(AT_FDCWD, path, AT_FDCWD, "f.dat", AT_SYMLINK_FOLLOW) == 0);
    put(fd);
    DO(close(fd) == 0);
}

static void way_mkstemp(void) {
    char name[] = "f.XXXXXX.dat";
    int fd = mkstemps(name, 4);
    DO(fd >= 0);
    put(fd);
    DO(rename(name, "f.dat") == 0);
    put(fd);
}

/* A directory is renamed, and with it what is in it. */
static void way_rename_directory(void) {
    DO(mkdir("before", 0755) == 0);
    int fd = create("before/f.dat");
    put(fd);
    DO(rename("before", "after") == 0);
    put(fd);
    DO(close(fd) == 0);
    put(create("after/g.dat"));
}

/* --- who it is, and where --- */

static void way_setuid(void) {
    if (geteuid() != 0) exit(77);
    DO(chmod(".", 0777) == 0);
    int fd = create("f.dat");
    put(fd);
    DO(setgid(65534) == 0 && setuid(65534) == 0);
    put(fd);
    int own = create("g.dat");
    put(own);
    pthread_t thread;
    shared_fd = create("h.dat");
    DO(pthread_create(&thread, NULL, sharing_thread, NULL) == 0);
    DO(pthread_join(thread, NULL) == 0);
    put(fd);
}

static void way_chroot(void) {
    if (geteuid() != 0) exit(77);
    int fd = create("f.dat");
    put(fd);
    DO(chroot(".") == 0);
    put(fd);
    int own = create("/g.dat");
    put(own);
    put(fd);
}

static void way_clean_environment(void) {
    clearenv();
    pid_t child = fork();
    if (child == 0) {
        char *words[] = {self, "write", NULL}, *nothing[] = {NULL};
        execve(self, words, nothing);
        _exit(127);
    }
    join(child);
}

/* --- past libc --- */

static void way_syscall(void) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "f.dat", O_RDWR | O_CREAT, 0644);
    DO(fd >= 0);
    DO(syscall(SYS_write, fd, text, (size_t)TEXT) == TEXT);
    DO(syscall(SYS_pwrite64, fd, text, (size_t)TEXT, 1000L) == TEXT);
    DO(syscall(SYS_ftruncate, fd, 2000L) == 0);
    DO(syscall(SYS_close, fd) == 0);
}

static long bare(long number, long a, long b, long c, long d) {
#if defined(__x86_64__)
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                      x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#else
#error "say how a system call is made here"
#endif
}

static void way_bare_syscall(void) {
    long fd = bare(SYS_openat, AT_FDCWD, (long)"f.dat", O_RDWR | O_CREAT, 0644);
    DO(fd >= 0);
    DO(bare(SYS_write, fd, (long)text, TEXT, 0) == TEXT);
    DO(bare(SYS_pwrite64, fd, (long)text, TEXT, 1000) == TEXT);
    DO(bare(SYS_close, fd, 0, 0, 0) == 0);
}

/* One write through a ring, opened by libc: the interposer knows the file, and sees no write. */
static void way_io_uring(void) {
    int fd = create("f.dat");
    struct io_uring_params parameters = {0};
    int ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
    if (ring < 0 && (errno == EPERM || errno == ENOSYS)) exit(77);
    DO(ring >= 0);
    char *submissions = mmap(NULL, parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned),
                             PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *completions = mmap(NULL, parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe),
                             PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, parameters.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE,
                                        MAP_SHARED, ring, IORING_OFF_SQES);
    DO(submissions != MAP_FAILED && completions != MAP_FAILED && entries != MAP_FAILED);
    entries[0] = (struct io_uring_sqe){
        .opcode = IORING_OP_WRITE, .fd = fd, .addr = (uintptr_t)text, .len = TEXT, .off = 100};
    *(unsigned *)(submissions + parameters.sq_off.array) = 0;
    atomic_store((_Atomic unsigned *)(submissions + parameters.sq_off.tail), 1);
    DO(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
    struct io_uring_cqe *done = (struct io_uring_cqe *)(completions + parameters.cq_off.cqes);
    errno = -done->res;
    DO(done->res == TEXT);
    DO(close(fd) == 0);
}

/* --- waits for the file `go`, with a file open since before: `ready` says that it is --- */

static void way_wait_and_write(void) {
    int fd = create("f.dat");
    put(fd);
    DO(close(open("ready", O_WRONLY | O_CREAT, 0644)) == 0);
    while (access("go", F_OK) != 0) usleep(1000);
    put(fd);
    DO(close(fd) == 0);
}

static void child_inherited(int fd) {
    put(fd);
    DO(pwrite(fd, "from a child", 12, 1000) == 12);
    DO(dprintf(1, "a child's standard output\n") > 0);
}

#define WAY(name) {#name, way_##name}
static const struct {
    const char *name;
    void (*run)(void);
} ways[] = {
    WAY(write), WAY(write_large), WAY(pwrite), WAY(writev), WAY(pwritev), WAY(pwritev2), WAY(rwf_append), WAY(direct),
    WAY(aio), WAY(append), WAY(threads), WAY(threads_one_offset), WAY(many_files), WAY(ftruncate), WAY(truncate),
    WAY(open_truncates), WAY(fallocate), WAY(punch), WAY(zero_range), WAY(collapse), WAY(sparse),
    WAY(copy_file_range), WAY(sendfile), WAY(splice), WAY(clone), WAY(mmap_msync), WAY(mmap), WAY(mmap_kept),
    WAY(mremap), WAY(mprotect), WAY(stdio), WAY(stdio_update), WAY(stdio_unbuffered), WAY(stdio_lines),
    WAY(stdio_own_buffer), WAY(freopen), WAY(fdopen), WAY(vfprintf), WAY(stdio_exit), WAY(stdio__exit),
    WAY(stdio_abort), WAY(dup2_over), WAY(fork), WAY(fork_exec), WAY(vfork_exec), WAY(spawn), WAY(popen), WAY(passed),
    WAY(rename), WAY(rename_in), WAY(rename_out), WAY(exchange), WAY(noreplace), WAY(hard_link), WAY(linked_in),
    WAY(symlink), WAY(dangling_symlink), WAY(unlink_open), WAY(tmpfile), WAY(mkstemp), WAY(rename_directory),
    WAY(setuid), WAY(chroot), WAY(clean_environment), WAY(syscall), WAY(bare_syscall), WAY(io_uring),
    WAY(wait_and_write),
};

int main(int argc, char **argv) {
    /* By its own path, so that a way may change the directory or the environment. */
    static char path[PATH_MAX];
    DO(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    self = path;
    if (argc == 4 && strcmp(argv[1], "--child") == 0) {
        child_inherited(atoi(argv[3]));
        return 0;
    }
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (argc == 1) puts(ways[i].name);
        else if (strcmp(ways[i].name, argv[1]) == 0) {
            ways[i].run();
            return 0;
        }
    }
    return argc == 1 ? 0 : 2;
}
