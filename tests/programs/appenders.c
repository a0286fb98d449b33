/*
 * Many threads append, each to a file that all share and to one of its own, timed from within.
 *
 *   appenders DIRECTORY THREADS COUNT
 *
 * Each thread appends COUNT records of 100 bytes to DIRECTORY/shared.app and as many to its own file there. Files are
 * emptied first. Prints one number: nanoseconds per append, of all threads together.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 100 };

static const char *directory;
static long count;
static int shared;
static pthread_barrier_t begun;

static int open_empty(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
    if (fd < 0) {
        perror(path);
        exit(1);
    }
    return fd;
}

static void append(int fd, const char *record) {
    if (write(fd, record, SIZE) != SIZE) {
        perror("write");
        exit(1);
    }
}

static void *work(void *argument) {
    char record[SIZE], name[64];
    snprintf(name, sizeof name, "%03ld.app", (long)argument);
    memset(record, 'a' + (int)((long)argument % 26), sizeof record);
    int own = open_empty(name);
    /* The first of each makes what a thread needs once. */
    append(shared, record);
    append(own, record);
    pthread_barrier_wait(&begun);
    for (long i = 0; i < count; i++) {
        append(shared, record);
        append(own, record);
    }
    close(own);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: appenders DIRECTORY THREADS COUNT\n");
        return 2;
    }
    directory = argv[1];
    long threads = atol(argv[2]);
    count = atol(argv[3]);
    shared = open_empty("shared.app");
    pthread_barrier_init(&begun, NULL, (unsigned)threads + 1);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    for (long i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)i) != 0) {
            perror("pthread_create");
            return 1;
        }
    struct timespec begin, end;
    pthread_barrier_wait(&begun);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
    printf("%.1f\n", ns / (double)(2 * threads * count));
    return 0;
}
