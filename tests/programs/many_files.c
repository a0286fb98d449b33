/*
 * Writes records to many open files in turn, timed from within.
 *
 *   many_files DIRECTORY FILES COUNT
 *
 * Opens FILES files in DIRECTORY (made if they aren't there) and does COUNT pwrites of 100 bytes, each to the next file;
 * COUNT / 10 go before those that count. Prints one number: nanoseconds per pwrite.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 100, RECORDS = 64 };

static void write_some(const int *fds, long files, long count, const char *record) {
    for (long i = 0; i < count; i++) {
        off_t at = i / files % RECORDS * SIZE;
        if (pwrite(fds[i % files], record, SIZE, at) != SIZE) {
            perror("pwrite");
            exit(1);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: many_files DIRECTORY FILES COUNT\n");
        return 2;
    }
    long files = atol(argv[2]), count = atol(argv[3]);
    int *fds = calloc((size_t)files, sizeof *fds);
    char record[SIZE], path[4096];
    memset(record, 'r', sizeof record);
    for (long i = 0; i < files; i++) {
        snprintf(path, sizeof path, "%s/%04ld.many", argv[1], i);
        fds[i] = open(path, O_RDWR | O_CREAT, 0644);
        if (fds[i] < 0) {
            perror(path);
            return 1;
        }
    }
    write_some(fds, files, count / 10, record);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    write_some(fds, files, count, record);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
    printf("%.1f\n", ns / (double)count);
    return 0;
}
