/*
 * A tight loop of random pwrites, timed from within.
 *
 *   pwrite_loop FILE COUNT [SEED [RECORDS [SIZE]]]
 *
 * The file is made first (RECORDS records of SIZE bytes; 10000 of 100 where not given), and COUNT / 10
 * writes go before those that count, so page cache and whatever sits in the write path are warm.
 * Prints one number: nanoseconds per pwrite.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;
static long records = 10000, size = 100;

static uint64_t random_next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void write_some(int fd, long count, char *record) {
    for (long i = 0; i < count; i++) {
        uint64_t random = random_next();
        memcpy(record, &random, sizeof random);
        if (pwrite(fd, record, (size_t)size, (off_t)(random % (uint64_t)records) * size) != size) {
            perror("pwrite");
            exit(1);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: pwrite_loop FILE COUNT [SEED [RECORDS [SIZE]]]\n");
        return 2;
    }
    long count = atol(argv[2]);
    state = (argc > 3 ? strtoull(argv[3], NULL, 10) : 1) * 2654435761u | 1;
    if (argc > 4) records = atol(argv[4]);
    if (argc > 5) size = atol(argv[5]);
    char *record = malloc((size_t)size + 8);
    int fd = open(argv[1], O_RDWR | O_CREAT, 0644);
    if (fd < 0 || !record || size < 8 || records < 1) {
        perror(argv[1]);
        return 1;
    }
    memset(record, 'r', (size_t)size);
    for (long i = 0; i < records; i++)
        if (pwrite(fd, record, (size_t)size, i * size) != size) {
            perror("pwrite");
            return 1;
        }
    write_some(fd, count / 10, record);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    write_some(fd, count, record);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double elapsed_ns = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
    printf("%.2f\n", elapsed_ns / (double)count);
    close(fd);
    return 0;
}
