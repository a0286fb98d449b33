/*
 * Writes records to files of its own, steadily, until it is told to stop.
 *
 *   steady_writer DIRECTORY STOP THREADS [PAUSE_US]
 *
 * Each thread changes records of 100 bytes in DIRECTORY/steady-N.dat, appends some, cuts some off, and writes a small file
 * anew now and then, until there is a file STOP. Between two changes it pauses, 500 microseconds where not said otherwise.
 * A call that fails ends it with 1. At the end it reads its file, compares it with what it wrote, and prints how many
 * records it changed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD = 100, RECORDS_MAX = 2000 };

static const char *directory, *stop;
static useconds_t pause_us = 500;

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void *work(void *argument) {
    long number = (long)argument, records = 0, changed = 0;
    uint64_t random = (uint64_t)number * 2654435761u + 1;
    static __thread char model[RECORDS_MAX][RECORD], content[RECORDS_MAX][RECORD];
    char path[4096], small[4096];
    snprintf(path, sizeof path, "%s/steady-%ld.dat", directory, number);
    snprintf(small, sizeof small, "%s/small-%ld.dat", directory, number);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(fd >= 0, path);
    while (access(stop, F_OK)) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if (random % 211 == 0 && records > 100) {
            records -= 50;
            check(ftruncate(fd, records * RECORD) == 0, "ftruncate");
        }
        long record = random % 4 == 0 && records < RECORDS_MAX ? records++ : (long)(random >> 8) % (records ? records : (records = 1));
        snprintf(model[record], RECORD, "%ld %ld %llu", number, changed++, (unsigned long long)random);
        check(pwrite(fd, model[record], RECORD, record * RECORD) == RECORD, "pwrite");
        if (random % 97 == 0) {
            int other = open(small, O_WRONLY | O_CREAT | O_TRUNC, 0644);
            check(other >= 0, small);
            check(write(other, model[record], RECORD) == RECORD, "write");
            check(close(other) == 0, "close");
        }
        usleep(pause_us);
    }
    check(pread(fd, content, sizeof content, 0) == records * RECORD, "pread");
    check(memcmp(content, model, (size_t)records * RECORD) == 0, "comparing");
    check(close(fd) == 0, "close");
    return (void *)changed;
}

int main(int argc, char **argv) {
    pthread_t threads[64];
    if (argc < 4 || atoi(argv[3]) < 1 || atoi(argv[3]) > 64) {
        fprintf(stderr, "usage: steady_writer DIRECTORY STOP THREADS [PAUSE_US]\n");
        return 2;
    }
    directory = argv[1];
    stop = argv[2];
    if (argc > 4) pause_us = (useconds_t)atoi(argv[4]);
    long count = atol(argv[3]), changed = 0;
    for (long n = 0; n < count; n++) check(pthread_create(&threads[n], NULL, work, (void *)n) == 0, "pthread_create");
    for (long n = 0; n < count; n++) {
        void *result;
        check(pthread_join(threads[n], &result) == 0, "pthread_join");
        changed += (long)result;
    }
    printf("%ld\n", changed);
    return 0;
}
