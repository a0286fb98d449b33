/*
 * Many threads of many processes do to a few files whatever can be done to files, without any agreement.
 *
 *   chaos SEED OPERATIONS PROCESSES THREADS [WITHOUT]
 *
 * The files are a0.dat to a3.dat, b0.dat to b3.dat and c0.dat to c3.dat in the working directory, none longer than
 * 256 KiB; names that begin otherwise are for the time being. Each thread chooses its operations from the seed, its
 * process and its own number; what comes of them depends on the others too, and nobody can know it. WITHOUT is a list of
 * operations to leave out, such as "mmap,tmpfile". The first process prints a line for each tenth of its operations.
 *
 * A file never has two names of those that are kept at once, by links; by any other way all is allowed. Calls may
 * fail; what counts is that afterwards the mirror is what the files are.
 *
 * Exit 0: all operations were tried. Exit 1: a process died, or couldn't be made.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILE_BYTES_MAX = 256 * 1024, WRITE_BYTES_MAX = 3000, OWN = 4, SHARED = 6, MAPPED = 16 * 1024 };

static uint64_t seed;
static long operations;
static const char *without = "";
static int process_number;
/* Descriptors of the whole process; threads use and replace them without asking. */
static int shared[SHARED];

struct worker {
    uint64_t state;
    int number;
    long operations;
    int own[OWN];
    unsigned char bytes[WRITE_BYTES_MAX];
};

static uint64_t number(struct worker *worker) {
    uint64_t z = (worker->state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static long below(struct worker *worker, long limit) { return (long)(number(worker) % (uint64_t)limit); }

static void name_of(struct worker *worker, char name[16]) {
    snprintf(name, 16, "%c%ld.dat", (char)('a' + below(worker, 3)), below(worker, 4));
}

/* Text with lines in it, and zeros now and then: other bytes each time. */
static long fill(struct worker *worker) {
    long length = below(worker, 4) == 0 ? 1 + below(worker, WRITE_BYTES_MAX) : 1 + below(worker, 100);
    for (long i = 0; i < length; i++) {
        long byte = below(worker, 70);
        worker->bytes[i] = (unsigned char)(byte == 0 ? '\n' : byte == 1 ? 0 : ' ' + byte);
    }
    return length;
}

static int *slot(struct worker *worker) {
    return below(worker, 3) == 0 ? &shared[below(worker, SHARED)] : &worker->own[below(worker, OWN)];
}

static void reopen(struct worker *worker, int *fd) {
    char name[16];
    name_of(worker, name);
    int flags = O_RDWR | O_CREAT | O_CLOEXEC;
    if (below(worker, 8) == 0) flags |= O_TRUNC;
    if (below(worker, 4) == 0) flags |= O_APPEND;
    int fresh = open(name, flags, 0644);
    /* What it was before is closed by the dup2, so that no number is free for a moment only. */
    if (*fd < 0) *fd = fresh;
    else if (fresh >= 0) {
        dup2(fresh, *fd);
        close(fresh);
    }
}

static void write_some(struct worker *worker, int fd) {
    long length = fill(worker);
    long offset = below(worker, FILE_BYTES_MAX - WRITE_BYTES_MAX);
    struct iovec parts[2] = {{worker->bytes, (size_t)length / 2},
                             {worker->bytes + length / 2, (size_t)(length - length / 2)}};
    struct stat status;
    switch (below(worker, 6)) {
    case 0:
    case 1:
        if (pwrite(fd, worker->bytes, (size_t)length, offset) < 0) return;
        break;
    case 2:
        if (pwritev(fd, parts, 2, offset) < 0) return;
        break;
    case 3:
        if (pwritev2(fd, parts, 2, offset, RWF_APPEND) < 0) return;
        break;
    case 4:
        lseek(fd, offset, SEEK_SET);
        /* fall through */
    default:
        if (write(fd, worker->bytes, (size_t)length) < 0) return;
    }
    if (fstat(fd, &status) == 0 && status.st_size > FILE_BYTES_MAX && ftruncate(fd, offset) != 0) return;
}

static void resize(struct worker *worker, int fd) {
    char name[16];
    name_of(worker, name);
    long size = below(worker, FILE_BYTES_MAX / 2);
    switch (below(worker, 5)) {
    case 0:
        if (truncate(name, size) != 0) return;
        break;
    case 1:
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, size, 1 + below(worker, 20000));
        break;
    case 2:
        fallocate(fd, 0, size, 1 + below(worker, 20000));
        break;
    case 3:
        fallocate(fd, FALLOC_FL_ZERO_RANGE, size, 1 + below(worker, 20000));
        break;
    default:
        if (ftruncate(fd, size) != 0) return;
    }
}

static void copy(struct worker *worker, int fd) {
    int from = *slot(worker);
    loff_t in = below(worker, FILE_BYTES_MAX / 2), out = below(worker, FILE_BYTES_MAX / 2);
    if (copy_file_range(from, &in, fd, &out, (size_t)below(worker, 20000), 0) < 0) return;
}

static void rename_some(struct worker *worker) {
    char from[16], to[16], aside[32];
    name_of(worker, from);
    name_of(worker, to);
    snprintf(aside, sizeof aside, "aside-%d-%d", process_number, worker->number);
    switch (below(worker, 4)) {
    case 0:
        renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE);
        break;
    case 1:
        /* Out of sight, and in again under another name. */
        if (rename(from, aside) == 0) rename(aside, to);
        break;
    case 2:
        renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
        break;
    default:
        rename(from, to);
    }
}

/* A second name, outside, through which it is written. */
static void link_some(struct worker *worker) {
    char name[16], alias[32];
    name_of(worker, name);
    snprintf(alias, sizeof alias, "alias-%d-%d", process_number, worker->number);
    int made = below(worker, 2) ? link(name, alias) : symlink(name, alias);
    if (made != 0) return;
    int fd = open(alias, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        write_some(worker, fd);
        close(fd);
    }
    unlink(alias);
}

/* Written without a name, then given one. */
static void tmpfile_some(struct worker *worker) {
    char name[16], path[64];
    name_of(worker, name);
    int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0) return;
    write_some(worker, fd);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    unlink(name);
    if (linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0) write_some(worker, fd);
    close(fd);
}

static __thread sigjmp_buf *beyond_the_end;

/* Says which of the mappings it was, for whoever has to find out why. */
static void on_bus_error(int signal, siginfo_t *information, void *context) {
    (void)context;
    if (beyond_the_end) siglongjmp(*beyond_the_end, 1);
    unsigned long at = (unsigned long)information->si_addr, from, to;
    dprintf(2, "bus error (code %d) at %lx\n", information->si_code, at);
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from <= at && at < to) dprintf(2, "in %s", line);
    _exit(128 + signal);
}

static void map_some(struct worker *worker, int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0 || status.st_size < MAPPED) return;
    long page = below(worker, (status.st_size - MAPPED) / 4096 + 1);
    char *memory = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED, fd, page * 4096);
    if (memory == MAP_FAILED) return;
    /* Another may cut the file meanwhile: then it ends here. */
    sigjmp_buf place;
    if (sigsetjmp(place, 1) == 0) {
        beyond_the_end = &place;
        for (long i = 1 + below(worker, 4); i > 0; i--) {
            long length = fill(worker);
            memcpy(memory + below(worker, MAPPED - length), worker->bytes, (size_t)length);
        }
        if (below(worker, 3) == 0) msync(memory, MAPPED, MS_SYNC);
    }
    beyond_the_end = NULL;
    munmap(memory, MAPPED);
}

static int is_on(const char *what) { return strstr(without, what) == NULL; }

static void operate(struct worker *worker, int depth);

/* A child that works on, and ends or is ended. */
static void fork_some(struct worker *worker, int depth) {
    int is_killed = below(worker, 2) == 0;
    struct worker seeds = *worker;
    seeds.state = number(worker);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (long i = is_killed ? 1000000 : below(&seeds, 20); i > 0; i--) operate(&seeds, depth + 1);
        _exit(0);
    }
    if (child < 0) return;
    if (is_killed) {
        usleep((useconds_t)below(worker, 3000));
        kill(child, SIGKILL);
    }
    waitpid(child, NULL, 0);
}

static void *short_thread(void *argument) {
    struct worker *worker = argument;
    for (int i = 0; i < 5; i++) operate(worker, 1);
    return NULL;
}

static void thread_some(struct worker *worker) {
    struct worker *other = malloc(sizeof *other);
    if (!other) return;
    *other = *worker;
    other->state = number(worker);
    /* A number of its own, for names of its own. */
    other->number += 100;
    pthread_t thread;
    if (pthread_create(&thread, NULL, short_thread, other) == 0) pthread_join(thread, NULL);
    free(other);
}

static void operate(struct worker *worker, int depth) {
    int *fd = slot(worker);
    long what = below(worker, 100);
    char name[16];
    if (*fd < 0 || what < 8) reopen(worker, fd);
    else if (what < 60) write_some(worker, *fd);
    else if (what < 68) resize(worker, *fd);
    else if (what < 72) copy(worker, *fd);
    else if (what < 76) rename_some(worker);
    else if (what < 78) link_some(worker);
    else if (what < 80) {
        name_of(worker, name);
        unlink(name);
    } else if (what < 84) {
        if (is_on("mmap")) map_some(worker, *fd);
    } else if (what < 86) {
        if (is_on("tmpfile")) tmpfile_some(worker);
    } else if (what < 90) dup2(*fd, *slot(worker));
    else if (what < 92) {
        /* Closed by the fork of a slot's owner only: others may be about to write to it. */
        close(worker->own[0]);
        worker->own[0] = -1;
    } else if (what < 94) fdatasync(*fd);
    else if (what < 96) {
        flock(*fd, LOCK_EX | LOCK_NB);
        write_some(worker, *fd);
        flock(*fd, LOCK_UN);
    } else if (what < 98) {
        if (depth == 0) fork_some(worker, depth);
    } else if (depth == 0) thread_some(worker);
}

static void *work(void *argument) {
    struct worker *worker = argument;
    for (long i = 0; i < worker->operations; i++) {
        operate(worker, 0);
        if (process_number == 0 && worker->number == 0 && (i + 1) % (worker->operations / 10) == 0)
            dprintf(1, "%ld tenths\n", (i + 1) / (worker->operations / 10));
    }
    return NULL;
}

static int run_process(int threads, int processes) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_NODEFER | SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    pthread_t *handles = calloc((size_t)threads, sizeof *handles);
    if (!workers || !handles) return 1;
    for (int i = 0; i < SHARED; i++) shared[i] = -1;
    for (int i = 0; i < threads; i++) {
        struct worker *worker = &workers[i];
        worker->number = i;
        worker->state = seed * 1000003 + (uint64_t)(process_number * 1009 + i);
        worker->operations = operations / processes / threads;
        if (worker->operations < 10) worker->operations = 10;
        for (int j = 0; j < OWN; j++) worker->own[j] = -1;
        if (pthread_create(&handles[i], NULL, work, worker) != 0) return 1;
    }
    for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    seed = strtoull(argv[1], NULL, 10);
    operations = atol(argv[2]);
    int processes = atoi(argv[3]), threads = atoi(argv[4]);
    if (argc > 5) without = argv[5];
    pid_t *children = calloc((size_t)processes, sizeof *children);
    if (!children) return 1;
    for (int i = 0; i < processes; i++) {
        children[i] = fork();
        if (children[i] < 0) return 1;
        if (children[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            process_number = i;
            _exit(run_process(threads, processes));
        }
    }
    int failed = 0;
    for (int i = 0; i < processes; i++) {
        int status = 0;
        waitpid(children[i], &status, 0);
        if (status != 0) {
            dprintf(2, "process %d ended with status %#x\n", i, status);
            failed = 1;
        }
    }
    return failed;
}
