/*
 * Many writers on one file at once: processes, threads in each, and a signal handler that writes too.
 *
 *   concurrent_writer FILE PROCESSES THREADS COUNT [SEED]
 *
 * Records have 64 bytes. Each writer overwrites records of its own, now and then one of sixteen that
 * all fight for (with writes that overlap in part), appends through a descriptor of its own with O_APPEND,
 * and a timer interrupts the first thread of each process every millisecond with a handler that writes.
 * Nothing coordinates them: what the file holds at the end is what the kernel made of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RECORD = 64, SHARED = 16, OWN = 32 };

struct writer {
    const char *path;
    long number, count;
    uint64_t random;
};

static volatile sig_atomic_t handler_fd = -1, handler_record, ticks;

static void on_timer(int signal_number) {
    int saved = errno;
    char record[RECORD];
    (void)signal_number;
    memset(record, 'a' + (ticks = (ticks + 1) % 26), sizeof record);
    if (handler_fd >= 0 && pwrite(handler_fd, record, sizeof record, (off_t)handler_record * RECORD) != RECORD) _exit(3);
    errno = saved;
}

static void put(int fd, const char *record, size_t length, off_t offset) {
    ssize_t done = offset < 0 ? write(fd, record, length) : pwrite(fd, record, length, offset);
    if (done != (ssize_t)length) {
        perror("write");
        exit(1);
    }
}

static void *work(void *argument) {
    struct writer *me = argument;
    char record[2 * RECORD];
    int fd = open(me->path, O_RDWR | O_CREAT, 0644), end = open(me->path, O_WRONLY | O_APPEND);
    if (fd < 0 || end < 0) {
        perror(me->path);
        exit(1);
    }
    for (long i = 0; i < me->count; i++) {
        me->random = me->random * 6364136223846793005u + 1442695040888963407u;
        unsigned choice = (unsigned)(me->random >> 33);
        memset(record, ' ', sizeof record);
        snprintf(record, sizeof record, "writer %ld turn %ld", me->number, i);
        switch (choice % 8) {
        case 0: put(fd, record, RECORD, (off_t)(choice / 8 % SHARED) * RECORD); break;
        case 1: put(fd, record, 1 + choice / 8 % (2 * RECORD - 1), choice / 1024 % (SHARED * RECORD)); break;
        case 2: put(end, record, RECORD, -1); break;
        default: put(fd, record, RECORD, (off_t)(SHARED + me->number * OWN + choice / 8 % OWN) * RECORD); break;
        }
    }
    close(fd);
    close(end);
    return NULL;
}

static int process(const char *path, long number, long threads, long count, uint64_t seed) {
    struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    struct sigaction action;
    pthread_t *thread = calloc((size_t)threads, sizeof *thread);
    struct writer *writer = calloc((size_t)threads, sizeof *writer);
    sigset_t timer_only;
    if (!thread || !writer) return 1;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_timer;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    handler_record = (sig_atomic_t)(number % SHARED);
    handler_fd = fd;
    sigemptyset(&timer_only);
    sigaddset(&timer_only, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &timer_only, NULL);
    for (long i = 0; i < threads; i++) {
        writer[i] = (struct writer){path, number * threads + i, count, seed * 1000003u + (uint64_t)(number * threads + i)};
        if (i > 0 && pthread_create(&thread[i], NULL, work, &writer[i]) != 0) return 1;
    }
    pthread_sigmask(SIG_UNBLOCK, &timer_only, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    work(&writer[0]);
    setitimer(ITIMER_REAL, &never, NULL);
    for (long i = 1; i < threads; i++) pthread_join(thread[i], NULL);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: concurrent_writer FILE PROCESSES THREADS COUNT [SEED]\n");
        return 2;
    }
    long processes = atol(argv[2]), threads = atol(argv[3]), count = atol(argv[4]);
    uint64_t seed = argc > 5 ? strtoull(argv[5], NULL, 10) : 1;
    for (long number = 1; number < processes; number++) {
        pid_t child = fork();
        if (child < 0) {
            perror("fork");
            return 1;
        }
        if (child == 0) _exit(process(argv[1], number, threads, count, seed));
    }
    int failed = process(argv[1], 0, threads, count, seed), status;
    while (wait(&status) > 0)
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) failed = 1;
    return failed;
}
